"""Architectures with random weights: run as PyTorch, quantize, lower, run in the ExecuTorch runtime, with equal SQNR."""

import json
import math

import numpy as np
import pytest

import kit

FOLDER = kit.CACHE / "zoo"
NAMES = sorted(path.name for path in FOLDER.glob("[!.]*") if path.is_dir())
WITH_CORE = [name for name in NAMES if (FOLDER / name / "model_core.pt2").exists()]
WITH_BATCH = [name for name in NAMES if (FOLDER / name / "batch_data.npz").exists()]
RTOL = 1e-3


def tolerance(expected):
    """Small numbers beside large ones carry the rounding of the large ones."""
    return 1e-4 * max([float(np.abs(x).max()) for x in expected if kit.is_float(x) and x.size] + [0.0])


def close(got, expected):
    difference = kit.differences(got, expected, RTOL, tolerance(expected))
    assert difference is None, difference


def test_there_are_enough():
    failed = [name for name in NAMES if not (FOLDER / name / "meta.json").exists()]
    assert not failed, f"not exported: {failed}"
    assert len(NAMES) >= 45 and len(WITH_CORE) >= 10, "python export_zoo.py makes them"


@pytest.fixture(params=NAMES)
def net(request):
    return FOLDER / request.param


@pytest.mark.parametrize("form", ["model", "model_core"])
def test_runs_as_pytorch(net, form, folder):
    if not (net / f"{form}.pt2").exists():
        pytest.skip("not exported in this form")
    close(kit.run(net / f"{form}.pt2", net / "data.npz", folder / "out.npz"), kit.outputs(net / "expected.npz"))


@pytest.mark.parametrize("name", WITH_BATCH)
def test_runs_at_another_batch_size(name, folder):
    net = FOLDER / name
    close(kit.run(net / "model.pt2", net / "batch_data.npz", folder / "out.npz"), kit.outputs(net / "batch_expected.npz"))


def test_lowers(net, folder, runtime):
    pte = kit.lower(net / "model.pt2", folder / "m.pte")
    close(runtime.run(pte, net / "data.npz", calls(net)), kit.outputs(net / "expected.npz"))


@pytest.mark.parametrize("name", WITH_BATCH)
def test_lowers_for_every_batch_size(name, folder, runtime):
    net = FOLDER / name
    pte = kit.lower(net / "model.pt2", folder / "m.pte")
    close(runtime.run(pte, net / "batch_data.npz"), kit.outputs(net / "batch_expected.npz"))


def calls(net):
    return json.loads((net / "meta.json").read_text())["calls"]


@pytest.mark.parametrize("recipe", [kit.DEFAULT, kit.STATIC, kit.DYNAMIC])
def test_quantizes(net, recipe, folder, runtime):
    expected = kit.outputs(net / "expected.npz")
    said, device, report = quantize(net, "model", recipe, folder, runtime)
    row = {"recipe": recipe, "lowbit_db": said, "device_db": device}
    row["quantized"] = f"{sum(n['quantized'] for n in report['nodes'])}/{len(report['nodes'])}"
    row["delegated"] = sum(n["delegate"] is not None for n in report["nodes"])
    if (net / "model_core.pt2").exists():
        row["core_lowbit_db"], row["core_device_db"], _ = quantize(net, "model_core", recipe, folder, runtime)
    kit.record("architectures", f"{net.name}.{recipe}", **row)
    for a, b in zip(said, device):
        assert agree(a, b, 1.5), f"lowbit says {said} dB, the runtime gives {device}"
    if "core_lowbit_db" in row:
        pairs = list(zip(said, row["core_lowbit_db"])) + list(zip(device, row["core_device_db"]))
        assert all(agree(a, b, 0.1) for a, b in pairs), f"another SQNR after run_decompositions(): {pairs}"
    assert len(said) == sum(map(kit.is_float, expected))


def quantize(net, form, recipe, folder, runtime):
    """SQNR in dB of each float output: as lowbit evaluates it, and as the runtime's outputs have it; the report."""
    pte = folder / f"{form}.{recipe}.pte"
    calibrate = None if recipe == kit.DYNAMIC else net / "calib.npz"
    report = kit.quantize(net / f"{form}.pt2", pte, calibrate, net / "data.npz", recipe)
    expected, got = kit.outputs(net / "expected.npz"), runtime.run(pte, net / "data.npz", calls(net))
    device = [kit.sqnr(x, y) for x, y in zip(expected, got) if kit.is_float(x)]
    said = [o["sqnr_db"] for o, x in zip(report["outputs"], expected) if kit.is_float(x)]
    return [math.inf if s is None else s for s in said], device, report


def agree(a, b, within):
    """Above 60 dB it is rounding of floats that is measured."""
    return abs(min(a, 60) - min(b, 60)) <= within
