"""Trained models with data: metric, SQNR and size of lowbit's .pte against those of the same flow in Python.

Models are folders with model.pt2, calib.npz, eval.npz (in0[i]… is call i; other arrays are labels), meta.json ("metric"), and,
when they were measured, ref_static.json and ref_dynamic.json: lowbit's own demo model, and those of the folder LOWBIT_MODELS.
"""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import kit
from metrics import METRICS

MODELS = [kit.REPOSITORY / "crates" / "cli" / "demo"]
if os.environ.get("LOWBIT_MODELS"):
    MODELS += sorted(path.parent for path in pathlib.Path(os.environ["LOWBIT_MODELS"]).glob("*/meta.json"))
# Kernels for what the Python flow leaves outside in another form: it pads by indices that it computes at run time.
ALIKE = {"aten.reflection_pad1d.out": "aten.index.Tensor_out"}
# lowbit's own recipe is held against the same flow as the one with that flow's places.
RECIPES = {"default": kit.DEFAULT, "static": kit.STATIC, "dynamic": kit.DYNAMIC}
FLOWS = {"default": "static", "static": "static", "dynamic": "dynamic"}
# Modes without a measured reference are measured for the first folder only: each takes the Python flow half a minute.
TASKS = [(m, mode) for m in MODELS for mode in RECIPES if m == MODELS[0] or (m / f"ref_{FLOWS[mode]}.json").exists()]


def reference(model, flow, runtime, folder):
    """{"metric": {}, "sqnr": [], "bytes": n, "kernels": [] or None} of the Python flow's .pte."""
    measured = model / f"ref_{flow}.json"
    if measured.exists():
        read = json.loads(measured.read_text())
        kernels = {name for name in read["pte_nondelegated_ops"] if not name.startswith("<")}
        return {"metric": read["pte_metric"], "sqnr": read["pte_sqnr_vs_float_db"], "bytes": read["pte_bytes"], "kernels": kernels}
    pte = kit.CACHE / "reference" / f"{model.name}.{flow}.pte"
    if not pte.exists():
        pte.parent.mkdir(parents=True, exist_ok=True)
        making = pte.with_suffix(f".{os.getpid()}")
        command = [sys.executable, kit.HERE / "reference.py", model / "model.pt2", model / "calib.npz", making]
        subprocess.run(command + ["--dynamic"] * (flow == "dynamic"), check=True, capture_output=True)
        making.rename(pte)
    metric, ratios = measure(model, pte, kit.run(model / "model.pt2", model / "eval.npz", folder / "float.npz"), runtime)
    return {"metric": metric, "sqnr": ratios, "bytes": pte.stat().st_size, "kernels": kit.operators(pte)[0]}


def measure(model, pte, float_outputs, runtime):
    data, labels = model / "eval.npz", labels_of(model)
    with np.load(data) as arrays:
        count = len(arrays["in0"])
    got = runtime.run(pte, data, count, timeout=1800)
    kind = json.loads((model / "meta.json").read_text())["metric"]
    return METRICS[kind](got, labels), [kit.sqnr(x, y) for x, y in zip(float_outputs, got)]


def labels_of(model):
    with np.load(model / "eval.npz") as arrays:
        return {name: arrays[name] for name in arrays.files if not name.startswith("in")}


@pytest.mark.parametrize("model, mode", TASKS, ids=[f"{m.name}-{mode}" for m, mode in TASKS])
def test_is_as_good_as_the_python_flow(model, mode, folder, runtime):
    expected = reference(model, FLOWS[mode], runtime, folder)
    calibrate = None if mode == "dynamic" else model / "calib.npz"
    report = kit.quantize(model / "model.pt2", folder / "q.pte", calibrate, model / "eval.npz", RECIPES[mode])
    exact = kit.run(model / "model.pt2", model / "eval.npz", folder / "float.npz")
    metric, ratios = measure(model, folder / "q.pte", exact, runtime)
    kernels, delegates = kit.operators(folder / "q.pte")
    size = (folder / "q.pte").stat().st_size
    said = [o["sqnr_db"] for o in report["outputs"]]
    kit.record(
        "models", f"{model.name}-{mode}", metric=[f"{k}={v:.3f}" for k, v in metric.items()],
        reference_metric=[f"{v:.3f}" for v in expected["metric"].values()], sqnr_db=ratios, predicted_db=said,
        reference_db=expected["sqnr"], bytes=size, reference_bytes=expected["bytes"], delegates=delegates,
        kernels=len(kernels), reference_kernels=len(expected["kernels"]),
    )
    for name, value in expected["metric"].items():
        assert metric[name] >= value - 0.005, f"{name} {metric[name]:.4f}, the Python flow has {value:.4f}"
    for ours, theirs in zip(ratios, expected["sqnr"]):
        assert ours >= theirs - 1, f"SQNR {ratios} dB, the Python flow has {expected['sqnr']}"
    for ours, predicted in zip(ratios, said):
        assert abs(ours - predicted) <= 1, f"SQNR {ratios} dB in the runtime, lowbit said {said}"
    assert size <= 1.05 * expected["bytes"], f"{size} bytes, the Python flow's file has {expected['bytes']}"
    more = sorted(k for k in kernels - expected["kernels"] if ALIKE.get(k) not in expected["kernels"])
    assert not more, f"outside of delegates, where the Python flow has none: {more}"


@pytest.mark.parametrize("model", MODELS, ids=[m.name for m in MODELS])
def test_float_file_equals_the_program(model, folder, runtime):
    pte = kit.lower(model / "model.pt2", folder / "m.pte")
    with np.load(model / "eval.npz") as arrays:
        few = {name: arrays[name][:64] for name in arrays.files if name.startswith("in")}
    np.savez(folder / "few.npz", **few)
    exact = kit.run(model / "model.pt2", folder / "few.npz", folder / "float.npz")
    difference = kit.differences(runtime.run(pte, folder / "few.npz", len(few["in0"])), exact, 1e-3, 1e-4)
    assert difference is None, difference


def test_detector_head(folder, runtime):
    """PReLU, ceil-mode pooling, permute and view, two outputs: quantized, all but the reordering in delegates."""
    net = kit.CACHE / "zoo" / "detector_head"
    report = kit.quantize(net / "model.pt2", folder / "q.pte", net / "calib.npz", net / "data.npz")
    got, expected = runtime.run(folder / "q.pte", net / "data.npz", 8), kit.outputs(net / "expected.npz")
    assert all(kit.sqnr(x, y) > 20 for x, y in zip(expected, got))
    assert all(n["quantized"] for n in report["nodes"] if "conv2d" in n["op"] or "linear" in n["op"])
