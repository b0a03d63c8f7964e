"""Programs with expected outputs: import, run, lower, quantize, and run both files in the ExecuTorch runtime.

Cases are folders with model.pt2, io.npz (in0…, out0…) and case.json: those of tests/data, and of the folder LOWBIT_CASES.
"""

import json
import math
import os
import pathlib

import numpy as np
import pytest

import kit

FOLDERS = [kit.REPOSITORY / "tests" / "data"]
if os.environ.get("LOWBIT_CASES"):
    FOLDERS.append(pathlib.Path(os.environ["LOWBIT_CASES"]))
CASES = {path.parent.name: path.parent for folder in FOLDERS for path in sorted(folder.glob("*/io.npz"))}
# What is known not to work, by case: the stage, and words of the error that lowbit gives.
UNSUPPORTED = json.loads((kit.HERE / "unsupported.json").read_text())
# Eager PyTorch against other implementations of the same operators, as ExecuTorch's own suite compares them.
RTOL, ATOL = 1e-4, 1e-5


@pytest.fixture(params=sorted(CASES))
def case(request):
    return CASES[request.param]


def unsupported(case, stage, error):
    """Whether the failure is the one listed for this case."""
    words = UNSUPPORTED.get(case.name, {}).get(stage)
    return words is not None and words in str(error)


def must_fail(case, stage):
    assert stage not in UNSUPPORTED.get(case.name, {}), f"{stage} works now: take {case.name} out of unsupported.json"


def stage(case, name, action):
    """The action's result; skips when it fails as listed, fails when it works though listed."""
    try:
        result = action()
    except kit.Failed as error:
        if unsupported(case, name, error):
            pytest.skip(str(error).strip().splitlines()[-1])
        raise
    must_fail(case, name)
    return result


def test_runs_as_pytorch(case, folder):
    got = stage(case, "run", lambda: kit.run(case / "model.pt2", case / "io.npz", folder / "out.npz"))
    difference = kit.differences(got, kit.outputs(case / "io.npz"), RTOL, ATOL)
    assert difference is None, difference


def test_lowers(case, folder, runtime):
    pte = stage(case, "lower", lambda: kit.lower(case / "model.pt2", folder / "m.pte"))
    difference = kit.differences(runtime.run(pte, case / "io.npz"), kit.outputs(case / "io.npz"), RTOL, ATOL)
    assert difference is None, difference


def test_quantizes(case, folder, runtime):
    """The quantized file runs, and is as close to the float program as lowbit's own evaluation says."""
    data = folder / "data.npz"  # inputs only: lowbit takes an array of integers for labels
    np.savez(data, **{f"in{i}": x for i, x in enumerate(kit.numbered(case / "io.npz", "in"))})
    report = stage(case, "quantize", lambda: kit.quantize(case / "model.pt2", folder / "q.pte", data, data))
    expected = kit.outputs(case / "io.npz")
    got = runtime.run(folder / "q.pte", case / "io.npz")
    assert [(x.shape, x.dtype) for x in got] == [(x.shape, x.dtype) for x in expected]
    for said, x, y in zip(report["outputs"], expected, got):
        if kit.is_float(x) and x.size and np.isfinite(x).all():
            check_sqnr(said, x, y)


def check_sqnr(said, expected, got):
    """lowbit's evaluation against the device. Below 60 dB noise is that of quantization; above, of float rounding."""
    device, predicted = kit.sqnr(expected, got), said["sqnr_db"]
    predicted = math.inf if predicted is None else predicted
    assert min(device, 60) == pytest.approx(min(predicted, 60), abs=2), f"device {device:.2f} dB, lowbit said {predicted:.2f}"
