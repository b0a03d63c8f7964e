"""QNN from lowbit: operators on the library's emulation against exact integers, programs in ExecuTorch's runtime, networks by
SQNR, and what goes wrong. Qualcomm's library comes from the wheel onnxruntime-qnn, or from QNN_LIB_DIR.

LOWBIT_MODELS adds its folder of networks. ExecuTorch's runtime reaches the library through qnn/adapter.c, which a C compiler makes:
1.4.1 tells the library the chip in another place than newer ones look.
"""

import importlib.util
import json
import os
import pathlib
import struct

import numpy as np
import pytest
import torch
from torch import nn

import kit

if "qnn" not in kit.lowbit("backends"):
    pytest.skip("this lowbit has no backend qnn", allow_module_level=True)

from qnn import adapter, reference

BACKEND = "qnn"


def library():
    """The folder of Qualcomm's library."""
    if os.environ.get("QNN_LIB_DIR"):
        return pathlib.Path(os.environ["QNN_LIB_DIR"])
    spec = importlib.util.find_spec("onnxruntime_qnn")
    return pathlib.Path(spec.submodule_search_locations[0]) if spec else None


LIBRARY = library()
needs_library = pytest.mark.skipif(LIBRARY is None, reason="Qualcomm's library is not installed: pip install --no-deps onnxruntime-qnn==2.7.0")
needs_compiler = pytest.mark.skipif(not adapter.COMPILER, reason="there is no C compiler for what stands before the library")
HERE = {"QNN_LIB_DIR": str(LIBRARY)}
NOWHERE = {"QNN_LIB_DIR": "", "QNN_SDK_ROOT": "", "VIRTUAL_ENV": "", "PATH": "/nonexistent", "HOME": "/nonexistent"}
NETWORKS = {}
if os.environ.get("LOWBIT_MODELS"):
    NETWORKS = {path.parent.name: path.parent for path in sorted(pathlib.Path(os.environ["LOWBIT_MODELS"]).glob("*/meta.json"))}
RECIPES = ["8a8w", "8a4w", "16a8w", "16a4w", "16a4w-block", "16a2w", "16a16w"]


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *x):
        return self.function(*x)


PICTURE, LINE, ROWS = (1, 16, 8, 8), (1, 16, 20), (64, 32)
GRID = (1, 7, 6, 2)
F = nn.functional
torch.manual_seed(0)
# Each: the module, and the shapes of its inputs.
OPERATORS = {
    "conv": (nn.Conv2d(16, 8, 3, padding=1), [PICTURE]),
    "conv_relu": (nn.Sequential(nn.Conv2d(16, 8, 3, stride=2, padding=1), nn.ReLU()), [PICTURE]),
    "conv_pointwise": (nn.Conv2d(64, 16, 1), [(1, 64, 6, 6)]),
    "conv_line": (nn.Conv1d(16, 8, 3, padding=1), [LINE]),
    "conv_grouped": (nn.Conv2d(16, 16, 3, padding=1, groups=4), [PICTURE]),
    "conv_dilated": (nn.Conv2d(16, 8, 3, dilation=2), [PICTURE]),
    "depthwise": (nn.Conv2d(16, 16, 3, padding=1, groups=16), [PICTURE]),
    "transposed": (nn.ConvTranspose2d(16, 8, 3, stride=2, padding=1, output_padding=1), [PICTURE]),
    "linear": (nn.Linear(32, 16), [ROWS]),
    "linear_narrow": (nn.Linear(20, 16), [(4, 20)]),
    "linear_wide": (nn.Linear(256, 32), [(3, 256)]),
    "matmul": (Function(torch.matmul), [(2, 8, 16), (2, 16, 8)]),
    "add": (Function(torch.add), [PICTURE, PICTURE]),
    "mul": (Function(torch.mul), [PICTURE, PICTURE]),
    "cat": (Function(lambda x, y: torch.cat([x, y], 1)), [PICTURE, PICTURE]),
    "softmax": (nn.Softmax(-1), [ROWS]),
    "log_softmax": (nn.LogSoftmax(-1), [ROWS]),
    "layer_norm": (nn.LayerNorm(32), [ROWS]),
    "gelu": (nn.GELU(), [ROWS]),
    "sigmoid": (nn.Sigmoid(), [ROWS]),
    "tanh": (nn.Tanh(), [ROWS]),
    "max_pool": (nn.MaxPool2d(2), [PICTURE]),
    "avg_pool": (nn.AvgPool2d(2), [PICTURE]),
    "global_pool": (nn.AdaptiveAvgPool2d(1), [PICTURE]),
    "nearest": (nn.Upsample(scale_factor=2), [PICTURE]),
    "bilinear": (nn.Upsample(scale_factor=2, mode="bilinear"), [PICTURE]),
    "grid_sample": (Function(lambda x, at: F.grid_sample(x, at, align_corners=False)), [PICTURE, GRID]),
    "grid_sample_border": (Function(lambda x, at: F.grid_sample(x, at, padding_mode="border", align_corners=True)), [PICTURE, GRID]),
    "grid_sample_nearest": (Function(lambda x, at: F.grid_sample(x, at, mode="nearest", padding_mode="reflection", align_corners=False)), [PICTURE, GRID]),
    "reshape": (Function(lambda x: x.permute(0, 2, 1, 3).reshape(8, 16, 8).transpose(1, 2)), [PICTURE]),
}
# Operators one behind another, whose errors add up.
CHAINS = {"conv_gelu": (nn.Sequential(nn.Conv2d(16, 8, 3, padding=1), nn.GELU()), [PICTURE])}
# What becomes of random inputs: rows of a network's residual stream differ much, and a grid lies within the picture. In 8 bits
# the nearest of two pixels is uncertain near the middle between them, so that grid has points next to pixels.
SHAPED = {
    "layer_norm": lambda x: x * np.linspace(0.05, 1, 64)[:, None],
    "grid_sample": lambda x: 0.6 * x,
    "grid_sample_border": lambda x: 0.6 * x,
    "grid_sample_nearest": lambda x: np.clip(np.floor(4 * x) / 4 + 0.125, -1.125, 1.125),
}
# What the library refuses, and the words of the report.
REFUSED = {}


def model(name, folder):
    """An operator as a .pt2, with calibration and evaluation data."""
    module, shapes = {**OPERATORS, **CHAINS}[name]
    random = np.random.default_rng(0)
    shaped = SHAPED.get(name, lambda x: x)
    data = lambda n: {f"in{i}": shaped(random.standard_normal((n, *s))).astype(np.float32) for i, s in enumerate(shapes)}
    np.savez(folder / "calib.npz", **data(8))
    one = {k: v[0] for k, v in data(1).items()}
    np.savez(folder / "one.npz", **one)
    example = tuple(torch.from_numpy(x) for x in one.values())
    torch.export.save(torch.export.export(module.eval(), example), folder / "model.pt2")
    return list(one.values())


def quantize(folder, recipe, *extra):
    arguments = ["quantize", folder / "model.pt2", "--backend", BACKEND, "--recipe", recipe, "--calibrate", folder / "calib.npz"]
    kit.lowbit(*arguments, "--save-quantized", folder / "q.pt2", *extra, env=HERE)
    return folder / "q.pt2"


def steps_apart(got, expected, steps):
    apart = [np.abs(a.astype(np.float64) - b) / step for a, b, step in zip(got, expected, steps) if step]
    assert len(got) == len(expected) == len(apart), steps
    return float(max(x.max(initial=0) for x in apart))


def limit(recipe):
    """Steps that the emulation may be from exact integers, but for kernels that lowbit's report calls imprecise."""
    return 4.01 if recipe.startswith("16") else 2.01


@needs_library
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", OPERATORS)
def test_operator(name, recipe, folder):
    inputs = model(name, folder)
    q = quantize(folder, recipe)
    report = folder / "report.json"
    done = kit.call("lower", q, "--backend", BACKEND, "--option", "strict=true", "--out", folder / "m.bin", "--report", report, env=HERE)
    words = REFUSED.get((name, recipe)) or REFUSED.get((name, recipe.split("a")[0]))
    if words:
        assert done.returncode == 1 and words in done.stderr, done.stderr
        kit.record("QNN operators", f"{name}.{recipe}", refused=words)
        return
    assert done.returncode == 0, done.stderr
    kit.lowbit("run", q, "--on", BACKEND, "--data", folder / "one.npz", "--out", folder / "out.npz", env=HERE)
    expected, steps = reference.run(q, inputs)
    apart = steps_apart(kit.outputs(folder / "out.npz"), expected, steps)
    report = json.loads(report.read_text())
    assert 0 < report["seconds"]["lower_in_tool"] < report["seconds"]["lower"]
    nodes = [n for n in report["nodes"] if n.get("becomes")]
    said = max((n["imprecise"]["steps"] for n in nodes if "imprecise" in n), default=0)
    kit.record("QNN operators", f"{name}.{recipe}", steps=apart, said=said)
    assert apart <= max(limit(recipe), said + 0.01), f"{apart:.2f} steps, and the report says {said}"
    assert not said or apart > limit(recipe), f"{apart:.2f} steps only, and the report says {said}"
    assert nodes and all("Qualcomm's library" in n["becomes"] for n in nodes)
    if said:
        exact_or_refused(q, name, recipe, expected, steps, folder)


def exact_or_refused(q, name, recipe, expected, steps, folder):
    """What the report calls imprecise is exact on demand, or refused in words."""
    demand = ["--option", "exact=true", "--option", "strict=true"]
    done = kit.call("lower", q, "--backend", BACKEND, *demand, "--out", folder / "exact.bin", env=HERE)
    if done.returncode:
        _, words, reason = done.stderr.partition("by exact=true: the chip's")
        assert words and not (folder / "exact.bin").exists(), done.stderr
        kit.record("QNN operators", f"{name}.{recipe}.exact", refused=(words + reason).splitlines()[0])
        return
    kit.lowbit("run", q, "--on", BACKEND, *demand, "--data", folder / "one.npz", "--out", folder / "exact.npz", env=HERE)
    apart = steps_apart(kit.outputs(folder / "exact.npz"), expected, steps)
    kit.record("QNN operators", f"{name}.{recipe}.exact", steps=apart)
    assert apart <= limit(recipe), f"{apart:.2f} steps with exact=true"


@needs_library
def test_the_same_bytes_each_time(folder):
    model("conv_relu", folder)
    q = quantize(folder, "8a8w")
    for kind in ("pte", "bin", "dlc"):
        found = []
        for number, threads in enumerate(["1", "3"]):
            out = folder / f"{number}.{kind}"
            kit.lowbit("lower", q, "--backend", BACKEND, "--out", out, env={**HERE, "LOWBIT_THREADS": threads})
            found.append(out.read_bytes())
        assert found[0] == found[1], kind


# ---- networks ----


@needs_library
@pytest.mark.parametrize("recipe", ["8a8w", "16a8w"])
@pytest.mark.parametrize("name", NETWORKS)
def test_network(name, recipe, folder):
    """On the emulation as close to the float network as lowbit's executor says, but for rounding here and there."""
    net = NETWORKS[name]
    inputs = kit.numbered(net / "eval.npz", "in")
    np.savez(folder / "data.npz", **{f"in{i}": x[:8] for i, x in enumerate(inputs)})
    q = folder / "q.pt2"
    arguments = ["quantize", net / "model.pt2", "--backend", BACKEND, "--recipe", recipe, "--calibrate", net / "calib.npz"]
    kit.lowbit(*arguments, "--save-quantized", q, env=HERE)
    float_outputs = kit.run(net / "model.pt2", folder / "data.npz", folder / "float.npz")
    predicted = kit.run(q, folder / "data.npz", folder / "cpu.npz")
    kit.lowbit("run", q, "--on", BACKEND, "--data", folder / "data.npz", "--out", folder / "chip.npz", env=HERE)
    got = kit.outputs(folder / "chip.npz")
    db = [[kit.sqnr(x, y) for x, y in zip(float_outputs, side)] for side in (predicted, got)]
    kit.record("QNN networks", f"{name}.{recipe}", predicted=db[0], chip=db[1])
    # What quantization has destroyed is noise either way.
    assert all(b >= a - 2 or a < 10 for a, b in zip(*db)), db


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    """ExecuTorch's runtime with Qualcomm's library."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in adapter.environment(LIBRARY, tmp_path_factory.mktemp("libraries")).items():
            patch.setenv(name, value)
        started = kit.Runtime()
        yield started
        started.stop()


@needs_library
@needs_compiler
@pytest.mark.parametrize("name", ["conv_relu", "linear", "softmax", "cat", "reshape", "layer_norm", "matmul"])
def test_executorch_runs_it(name, folder, runtime):
    """The .pte in ExecuTorch's runtime gives what the emulation gives, bit by bit: it is the same binary."""
    model(name, folder)
    q = quantize(folder, "8a8w", "--out", folder / "m.pte")
    kit.lowbit("run", q, "--on", BACKEND, "--data", folder / "one.npz", "--out", folder / "out.npz", env=HERE)
    got = runtime.run(folder / "m.pte", folder / "one.npz")
    assert kit.differences(got, kit.outputs(folder / "out.npz"), 0, 0) is None


@needs_library
@needs_compiler
@pytest.mark.parametrize("name, recipe, delegates", [("softmax", "16a8w", 0), ("conv_gelu", "16a4w", 1)])
def test_exact_in_executorch(name, recipe, delegates, folder, runtime):
    """What the chip computes less exactly runs in the runtime's own kernels, around the delegate."""
    inputs = model(name, folder)
    q = quantize(folder, recipe, "--option", "exact=true", "--out", folder / "m.pte")
    assert kit.operators(folder / "m.pte")[1] == delegates
    expected, steps = reference.run(q, inputs)
    got = runtime.run(folder / "m.pte", folder / "one.npz")
    assert steps_apart(got, expected, steps) <= limit(recipe)


@needs_library
@needs_compiler
@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18", "transformer_encoder"])
def test_executorch_runs_networks(name, folder, runtime):
    """Whole networks in one delegate: the .pte is as close to the float network as lowbit says, and computes what the emulation does."""
    net, q = kit.CACHE / "zoo" / name, folder / "q.pt2"
    inputs = kit.numbered(net / "data.npz", "in")
    np.savez(folder / "data.npz", **{f"in{i}": x[:4] for i, x in enumerate(inputs)})
    np.savez(folder / "one.npz", **{f"in{i}": x[0] for i, x in enumerate(inputs)})
    arguments = ["quantize", net / "model.pt2", "--backend", BACKEND, "--calibrate", net / "calib.npz", "--save-quantized", q]
    kit.lowbit(*arguments, "--out", folder / "m.pte", env=HERE)
    kernels, count = kit.operators(folder / "m.pte")
    assert count == 1 and not kernels, f"{count} delegates, and outside of them {sorted(kernels)}"
    got = runtime.run(folder / "m.pte", folder / "data.npz", calls=4)
    float_outputs = kit.run(net / "model.pt2", folder / "data.npz", folder / "float.npz")
    predicted = kit.run(q, folder / "data.npz", folder / "cpu.npz")
    db = [[kit.sqnr(x, y) for x, y in zip(float_outputs, side)] for side in (predicted, got)]
    kit.record("QNN in ExecuTorch's runtime", name, predicted=db[0], runtime=db[1])
    assert all(b >= a - 2 for a, b in zip(*db)), db
    kit.lowbit("run", q, "--on", BACKEND, "--data", folder / "one.npz", "--out", folder / "chip.npz", env=HERE)
    assert kit.differences([x[0] for x in got], kit.outputs(folder / "chip.npz"), 0, 0) is None


# ---- what goes wrong ----


def test_library_missing(folder):
    model("linear", folder)
    arguments = ["quantize", folder / "model.pt2", "--backend", BACKEND, "--calibrate", folder / "calib.npz"]
    kit.lowbit(*arguments, "--save-quantized", folder / "q.pt2", env=NOWHERE)
    done = kit.call("lower", folder / "q.pt2", "--backend", BACKEND, "--out", folder / "m.pte", env=NOWHERE)
    assert done.returncode == 1 and "pip install --no-deps onnxruntime-qnn" in done.stderr, done.stderr
    done = kit.call("run", folder / "q.pt2", "--on", BACKEND, "--data", folder / "one.npz", "--out", folder / "out.npz", env=NOWHERE)
    assert done.returncode == 1 and "pip install" in done.stderr, done.stderr
    assert not (folder / "m.pte").exists() and not (folder / "out.npz").exists()


def test_folder_without_library(folder):
    model("linear", folder)
    done = kit.call("lower", folder / "model.pt2", "--backend", BACKEND, "--option", f"qnn-lib={folder}", "--option", "float=half", "--out", folder / "m.pte")
    assert done.returncode == 1 and str(folder) in done.stderr and "libQnnHtp.so" in done.stderr, done.stderr


def test_what_is_no_library(folder):
    model("linear", folder)
    (folder / "libQnnHtp.so").write_bytes(b"no library")
    done = kit.call("lower", folder / "model.pt2", "--backend", BACKEND, "--option", f"qnn-lib={folder}", "--option", "float=half", "--out", folder / "m.pte")
    assert done.returncode == 1 and "cannot be loaded" in done.stderr, done.stderr
    assert not (folder / "m.pte").exists()


# Functions of the library by their place in its table; each fails when it is first called.
CALLS = {
    "backendCreate": 1,
    "contextCreate": 9,
    "contextGetBinarySize": 11,
    "contextGetBinary": 12,
    "graphCreate": 15,
    "graphAddNode": 18,
    "graphFinalize": 19,
    "tensorCreateGraphTensor": 24,
    "logCreate": 25,
    "deviceCreate": 40,
}

def lower_with_fault(folder, fault, out):
    model("conv_relu", folder)
    q = quantize(folder, "8a8w")
    (folder / "library").mkdir()
    fault = adapter.faulty(LIBRARY, folder / "library", fault)
    done = kit.call("lower", q, "--backend", BACKEND, "--option", "strict=true", "--out", folder / out, env={**HERE, **fault})
    assert done.returncode == 1 and not (folder / out).exists() and "panicked" not in done.stderr, done.stderr
    return done.stderr


@needs_library
@needs_compiler
@pytest.mark.parametrize("call", CALLS)
def test_a_failing_call(call, folder):
    """Whatever call fails on the way, the error names it, and no file is left."""
    said = lower_with_fault(folder, str(CALLS[call]), "m.pte")
    assert f"the library's {call} gave error 6999" in said, said


@needs_library
@needs_compiler
@pytest.mark.parametrize("call", ["contextCreate", "graphCreate", "graphFinalize"])
def test_a_failing_call_without_pte(call, folder):
    said = lower_with_fault(folder, str(CALLS[call]), "m.bin")
    assert f"the library's {call} gave error 6999" in said, said


@needs_library
@needs_compiler
def test_an_old_library(folder):
    said = lower_with_fault(folder, "version", "m.pte")
    assert "interface 2.3.0" in said and "pip install" in said, said


@needs_library
@needs_compiler
def test_a_graph_beyond_memory(folder):
    said = lower_with_fault(folder, "size", "m.pte")
    assert "contextGetBinarySize" in said and "bytes" in said, said


def test_unknown_chip(folder):
    model("linear", folder)
    done = kit.call("lower", folder / "model.pt2", "--backend", BACKEND, "--target", "SM1", "--out", folder / "m.pte")
    assert done.returncode == 2 and "SM8650" in done.stderr, done.stderr


@pytest.mark.parametrize("recipe, chip, words", [("16a16w", "SM8450", "SM8550"), ("16a4w-block", "SM8350", "SM8450")])
def test_what_a_chip_lacks(recipe, chip, words, folder):
    model("linear", folder)
    arguments = ["quantize", folder / "model.pt2", "--backend", BACKEND, "--recipe", recipe, "--target", chip]
    done = kit.call(*arguments, "--calibrate", folder / "calib.npz", "--save-quantized", folder / "q.pt2")
    assert done.returncode == 2 and words in done.stderr, done.stderr


@needs_library
def test_refused_where_it_is_not_quantized_for_the_chip(folder):
    """Quantized for a new chip, lowered for an old one: the library refuses, in words, and nothing is written."""
    model("matmul", folder)
    q = quantize(folder, "16a16w")
    done = kit.call("lower", q, "--backend", BACKEND, "--target", "SM8350", "--option", "strict=true", "--out", folder / "m.pte", env=HERE)
    assert done.returncode == 1 and "MatMul" in done.stderr and "SM8350" in done.stderr, done.stderr
    assert not (folder / "m.pte").exists()


# ---- files ----


@needs_library
def test_payload(folder, monkeypatch):
    """What the runtime reads of a delegate: the header, the options, the names."""
    # ExecuTorch's package of the back end fetches an SDK when it is imported, unless told of one, which is not used.
    monkeypatch.setenv("QNN_SDK_ROOT", str(folder))
    from executorch.exir._serialize._program import deserialize_pte_binary

    model("conv_relu", folder)
    pte = folder / "m.pte"
    kit.lowbit("lower", quantize(folder, "8a8w"), "--backend", BACKEND, "--out", pte, env=HERE)
    kernels, delegates = kit.operators(pte)
    assert (kernels, delegates) == (set(), 1)
    read = deserialize_pte_binary(pte.read_bytes())
    program = getattr(read, "program", read)
    (delegate,) = program.execution_plan[0].delegates
    assert delegate.id == "QnnBackend"
    (spec,) = delegate.compile_specs
    assert spec.key == "qnn_compile_spec"
    data = bytes(program.backend_delegate_data[delegate.processed.index].data)
    magic, signature, size = struct.unpack_from("<IqQ", data)
    assert magic == 0x5678ABCD and signature > 0 and size == len(data) - 256
    assert b"input_0_" in data and b"output_0_" in data and b"forward" in data
    options_of(bytes(spec.value))


def options_of(value):
    """ExecuTorch reads the options as its own."""
    from executorch.backends.qualcomm.serialization.qc_schema_serialize import flatbuffer_to_option

    options = flatbuffer_to_option(value)
    assert options.soc_info.soc_model == 57 and options.soc_info.htp_info.htp_arch == 75
    assert options.backend_options.backend_type.value == 2 and options.backend_options.htp_options.use_fold_relu
