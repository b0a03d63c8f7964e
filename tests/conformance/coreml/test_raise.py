"""lowbit's evaluation of packages, `lowbit run M.mlpackage`, against PyTorch and the evaluator: each operator in a package
that coremltools writes, compressed weights of every kind, and half floats."""

import numpy as np
import pytest
import torch

import kit
from . import evaluate, samples
from .test_evaluate import CASES, close, floats, make
from coremltools.converters.mil import Builder as mb

# What lowbit refuses, and a word of why. Everything else must run.
REFUSED = {
    "slice_by_size dynamic": "argument begin is computed",
    "range_1d": "argument end is computed",
    "non_zero": "depends on the contents",
    "scatter max": "mode is .max.",
    "scatter min": "mode is .min.",
    "scatter mul": "mode is .mul.",
    "scatter_along_axis max": "mode is .max.",
    "scatter_along_axis min": "mode is .min.",
    "scatter_along_axis mul": "mode is .mul.",
    "resample bilinear symmetric False": "which PyTorch has not",
    "resample nearest symmetric False": "which PyTorch has not",
    "crop_resize": "PyTorch has no such operator",
    "crop_resize iOS 16": "PyTorch has no such operator",
    "gru": "reset_after is false",
}


def run(path, folder, inputs):
    names = evaluate.Evaluator(path).inputs()
    np.savez(folder / "in.npz", **dict(zip(names, inputs, strict=True)))
    return kit.run(path, folder / "in.npz", folder / "out.npz")


@pytest.mark.parametrize("name", CASES)
def test_operator(name, folder):
    build, reference, inputs, target = CASES[name]
    path = make(build, inputs, target, folder / "m.mlpackage")
    if name in REFUSED:
        with pytest.raises(kit.Failed, match=REFUSED[name]):
            run(path, folder, inputs)
        return
    expected = reference(*(torch.from_numpy(x) for x in inputs))
    expected = [expected] if isinstance(expected, torch.Tensor) else list(expected)
    close(run(path, folder, inputs), expected)


# Its functions are called decode and prefill.
@pytest.mark.parametrize("name", [name for name in samples.SAMPLES if name != "functions"])
def test_sample(name, folder):
    """Whole programs, weights compressed in every way: as Apple's code decompresses them."""
    path = samples.SAMPLES[name](folder)
    evaluator = evaluate.Evaluator(path)
    inputs = []
    for feature in evaluator.descriptions[evaluator.default].input:
        array = feature.type.multiArrayType
        dtype = {65568: np.float32, 65552: np.float16, 131104: np.int32}[array.dataType]
        x = floats(*array.shape) if dtype != np.int32 else np.zeros(list(array.shape))
        inputs.append(x.astype(dtype))
    close(run(path, folder, inputs), evaluate.Evaluator(path, "native").call(*inputs), 1e-3)


def test_half_floats_are_rounded_after_each_operator(folder):
    x, y = floats(64).astype(np.float16), floats(64, seed=1).astype(np.float16)
    path = make(lambda x, y: mb.exp(x=mb.mul(x=x, y=y)), [x, y], "ios18", folder / "m.mlpackage")
    (native,) = evaluate.Evaluator(path, "native").call(x, y)
    (got,) = run(path, folder, [x, y])
    assert got.dtype == np.float32 and np.array_equal(got, native)
