"""Core ML from lowbit: packages and delegates by Apple's definitions, their numbers, their bits, and beside ExecuTorch's own.

Core ML itself is not needed, and not tested: coreml/macos.py does that, on a Mac. LOWBIT_COREML=all takes every network of the
zoo instead of NETS; LOWBIT_MODELS adds its folder.
"""

import dataclasses
import json
import os
import pathlib

import numpy as np
import pytest

import kit

if "coreml" not in kit.lowbit("backends"):
    pytest.skip("this lowbit has no backend coreml", allow_module_level=True)

from coreml import check, evaluate, macos, mutate, package, payload, reference
from test_pt2 import edited, return_integers

BACKEND = "coreml"
ZOO = kit.CACHE / "zoo"
NETS = """bert detector_head gpt2 lstm mobilenetv4_conv_small resnet_dynamic_batch shufflenet_v2_x0_5 squeezenet1_1 superresolution
tcn_glu unet vit""".split()
WHOLE = set(NETS)  # of which nothing stays outside of the delegate
if os.environ.get("LOWBIT_COREML") == "all":
    NETS = sorted(path.name for path in ZOO.glob("[!.]*") if path.is_dir())
FOLDERS = {name: ZOO / name for name in NETS}
if os.environ.get("LOWBIT_MODELS"):
    FOLDERS |= {path.parent.name: path.parent for path in sorted(pathlib.Path(os.environ["LOWBIT_MODELS"]).glob("*/meta.json"))}

STATIC, INT8, INT4, TABLES = "int8-static", "int8-weight-only", "int4-weight-only-per-group", "lut4"
RECIPES = {STATIC: ["ios17", "ios18"], INT8: ["ios17", "ios18"], INT4: ["ios18"], TABLES: ["ios17", "ios18"]}
PRECISIONS = ["float32", "float16"]
CASES = [(name, recipe, target) for name in FOLDERS for recipe, targets in RECIPES.items() for target in targets]
CALLS = 2
# Small weights too: the networks here have few that coremltools would think worth while.
ALL_WEIGHTS = ["--option", "weight-threshold=0"]
LAYERS = {"conv", "conv_transpose", "linear"}


@dataclasses.dataclass
class Quantized:
    pt2: pathlib.Path
    report: dict
    data: pathlib.Path  # the inputs of CALLS calls
    outputs: list  # of lowbit's executor; axis 0 is the call


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("coreml"), {}

    def get(name, recipe):
        if (name, recipe) not in made:
            made[name, recipe] = quantize(FOLDERS[name], recipe, folder / name / recipe)
        return made[name, recipe]

    return get


def quantize(net, recipe, folder):
    folder.mkdir(parents=True)
    data = folder / "data.npz"
    inputs = kit.numbered(net / ("data.npz" if (net / "data.npz").exists() else "eval.npz"), "in")
    np.savez(data, **{f"in{i}": x[:CALLS] for i, x in enumerate(inputs)})
    arguments = ["quantize", net / "model.pt2", "--backend", BACKEND, "--recipe", recipe, "--save-quantized", folder / "q.pt2"]
    arguments += ["--report", folder / "report.json", "--evaluate", data]
    arguments += ["--calibrate", net / "calib.npz"] if recipe == STATIC else ALL_WEIGHTS
    kit.lowbit(*arguments)
    report = json.loads((folder / "report.json").read_text())
    return Quantized(folder / "q.pt2", report, data, kit.run(folder / "q.pt2", data, folder / "out.npz"))


def lower(pt2, out, target, precision="float32", extra=(), env=None):
    options = ["--target", target, "--option", f"precision={precision}", *extra]
    kit.lowbit("lower", pt2, "--backend", BACKEND, *options, "--out", out, env=env)
    return out


def calls(data):
    return list(zip(*kit.numbered(data, "in")))


def relative(got, expected):
    """The largest difference, in parts of the largest number that is expected."""
    scale = max(float(np.abs(expected).max(initial=0)), 1e-30)
    return float(np.abs(got.astype(np.float64) - expected).max(initial=0)) / scale


# Deep networks of random weights double the rounding of their first layers again and again. In ExecuTorch's float16 lowering of
# the float program the first two have 40.6 and 33.0 dB, lowbit's the same; PyTorch's own half floats give the third 39.9.
DEEP = {"mobilenetv4_conv_small": 36, "shufflenet_v2_x0_5": 29, "mobilevitv2_050": 37}
# PyTorch's own half floats leave nothing of its result (-5.7 dB): float32 alone is compared.
LOST = {"hf_mobilevit"}


def alike(got, expected, precision, least_db=40):
    """Fails unless float outputs are equal but for rounding, and others equal."""
    assert [x.shape for x in got] == [x.shape for x in expected]
    for i, (a, b) in enumerate(zip(got, expected)):
        if not kit.is_float(b):
            assert (a == b).all(), f"out{i}: {int((a != b).sum())} of {b.size} differ"
        elif precision == "float32":
            assert relative(a, b) <= 1e-5, f"out{i}: {relative(a, b):.1e} of the largest"
        else:
            assert kit.sqnr(b, a) >= least_db, f"out{i}: {kit.sqnr(b, a):.1f} dB"


# ---- packages ----


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name, recipe, target", CASES)
def test_package(name, recipe, target, precision, quantized, folder):
    one = quantized(name, recipe)
    path = lower(one.pt2, folder / "m.mlpackage", target, precision)
    check.check(path)
    widths(path, one.report, recipe, target)
    if precision == "float16" and name in LOST:
        return
    if recipe == STATIC:
        got = with_integers(path, one.pt2, calls(one.data)[0], precision, folder)
    else:
        evaluator = evaluate.Evaluator(path, NATIVE[precision])
        got = [np.stack(column) for column in zip(*(evaluator.call(*call) for call in calls(one.data)))]
    row = {"target": target, "bytes": size(path)}
    expected = [x[0] if recipe == STATIC else x for x in one.outputs]
    row["db"] = [min(kit.sqnr(x, y), 999.0) for x, y in zip(expected, got) if kit.is_float(x)]
    kit.record(f"Core ML, {precision}", f"{name}.{recipe}.{target}", **row)
    alike(got, expected, precision, DEEP.get(name, 40))


def size(path):
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


NATIVE = {"float32": "double", "float16": "native"}


def with_integers(path, pt2, given, precision, folder):
    """What a package's program gives for one call, each quantized value being lowbit's, where the package's is a step away.

    A float's last bit may decide between two integers, and all that follows changes. In float32 that is only right where a value
    is half between them; half floats are now and then on the other side.
    """
    np.savez(folder / "one.npz", **{f"in{i}": x for i, x in enumerate(given)})
    made = edited(pt2, folder / "probe.pt2", return_integers)
    results = kit.run(folder / "probe.pt2", folder / "one.npz", folder / "probe.npz")
    integers = results[len(results) - len(made) :]
    left, wrong, steps = list(integers), [], []

    def replaced(operation, outputs, value):
        if operation.op_type != "quantize":
            return None
        assert left, "the package quantizes more than the program"
        theirs, ours = left.pop(0).astype(np.int64), outputs[0].astype(np.int64)
        if outputs[0].dtype == np.int8 and integers[len(steps)].dtype == np.uint8:
            theirs -= 128  # unsigned around 128 in PyTorch, signed around 0 in Core ML
        apart = np.abs(ours - theirs)
        steps.append(apart.ravel())
        exact = value(operation.input).astype(np.float64) / np.float64(operation.scale.val)
        off_half = np.abs(exact - np.floor(exact) - 0.5)
        wrong.append(((apart == 1) & (off_half > 1e-4)) | (apart > 1))
        return [theirs.astype(outputs[0].dtype)]

    evaluator = evaluate.Evaluator(path, NATIVE[precision])
    evaluator.observer = replaced
    found = evaluator.call(*given)
    assert not left, f"{len(left)} values are not quantized"
    apart = np.concatenate(steps)
    if precision == "float32":
        count = sum(int(w.sum()) for w in wrong)
        assert not count, f"{count} of {apart.size} integers are another, and not half between two"
    else:
        assert (apart > 1).sum() == 0 and (apart == 1).sum() <= apart.size / 20, f"{int((apart > 0).sum())} of {apart.size} integers"
    return found


def widths(path, report, recipe, target):
    """Weights take as many bits as the recipe says, and all that the report counts as quantized are compressed."""
    opened = package.Package(path)
    table = package.records(opened.weights)
    makers = {o.outputs[0].name: o for _, o in opened.operations() if o.outputs}
    kinds, layers = {}, 0
    for _, operation in opened.operations():
        if operation.type in LAYERS:
            maker = makers.get(operation.inputs["weight"].arguments[0].name)
            layers += maker is not None and maker.type in reference.INTEGERS
        if operation.type not in reference.INTEGERS:
            continue
        values = dict(operation.attributes)
        values |= {k: a.arguments[0].value for k, a in operation.inputs.items() if a.arguments[0].WhichOneof("binding") == "value"}
        value = values[reference.INTEGERS[operation.type][0]]
        dtype, count = package.DTYPES[value.type.tensorType.dataType], int(np.prod(package.dims(operation.outputs[0].type.tensorType)))
        bits = dtype.bits
        if operation.type == "constexpr_lut_to_dense" and "shape" in operation.attributes:  # before iOS 18: packed into bytes
            bits = int(np.log2(package.elements(values["lut"].type.tensorType)))
        if value.WhichOneof("value") == "blobFileValue":
            assert table[value.blobFileValue.offset].size == -(-count * bits // 8), f"{count} weights of {bits} bits"
        kinds.setdefault((operation.type, bits), 0)
        kinds[operation.type, bits] += count
    affine = "constexpr_affine_dequantize" if target == "ios17" else "constexpr_blockwise_shift_scale"
    table_of = {
        STATIC: {("constexpr_affine_dequantize", 8), ("constexpr_blockwise_shift_scale", 8)},
        INT8: {(affine, 8)},
        INT4: {(affine, 4), (affine, 8)},
        TABLES: {("constexpr_lut_to_dense", 4)},
    }
    assert kinds and set(kinds) <= table_of[recipe], kinds
    if recipe == INT4 and any(n["quantized"] and is_layer(n["op"]) and "remark" not in n for n in report["nodes"]):
        assert (affine, 4) in kinds, kinds
    counted = sum(n["quantized"] and is_layer(n["op"]) for n in report["nodes"])
    assert layers >= counted, f"{layers} layers have integers for weights, {counted} are quantized"


def is_layer(op):
    return any(word in op for word in ("aten.conv", "aten.linear"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_any_batch_of_a_range(recipe, quantized, folder):
    one, net = quantized("resnet_dynamic_batch", recipe), ZOO / "resnet_dynamic_batch"
    path = lower(one.pt2, folder / "m.mlpackage", "ios18")
    check.check(path)
    (array,) = [f.type.multiArrayType for f in package.Package(path).descriptions()["main"].input]
    assert [(r.lowerBound, r.upperBound) for r in array.shapeRange.sizeRanges][0] == (1, 16)
    expected, given = kit.run(one.pt2, net / "batch_data.npz", folder / "out.npz"), kit.numbered(net / "batch_data.npz", "in")
    assert len(given[0]) == 16
    got = with_integers(path, one.pt2, given, "float32", folder) if recipe == STATIC else evaluate.Evaluator(path).call(*given)
    alike(got, expected, "float32")


def test_listed_shapes(quantized, folder):
    one, net = quantized("resnet_dynamic_batch", INT8), ZOO / "resnet_dynamic_batch"
    given = kit.numbered(net / "batch_data.npz", "in")
    shape, name = list(given[0].shape), package_input(one.pt2, folder)
    listed = ",".join("x".join(map(str, [batch, *shape[1:]])) for batch in (4, 16))
    path = lower(one.pt2, folder / "m.mlpackage", "ios17", extra=["--option", f"shapes:{name}={listed}"])
    check.check(path)
    (array,) = [f.type.multiArrayType for f in package.Package(path).descriptions()["main"].input]
    assert [list(s.shape) for s in array.enumeratedShapes.shapes] == [[batch, *shape[1:]] for batch in (4, 16)]
    expected = kit.run(one.pt2, net / "batch_data.npz", folder / "out.npz")
    alike(evaluate.Evaluator(path).call(*given), expected, "float32")
    bad = ["--backend", BACKEND, "--option", f"shapes:{name}=999x3x8x8", "--out", folder / "bad.mlpackage"]
    done = kit.call("lower", one.pt2, *bad)
    assert done.returncode == 1 and f"shapes:{name}" in done.stderr, done.stderr


def package_input(pt2, folder):
    path = lower(pt2, folder / "names.mlpackage", "ios18")
    return package.Package(path).descriptions()["main"].input[0].name


@pytest.mark.parametrize("recipe, target", [(INT8, "ios16"), (INT8, "ios18"), (INT4, "ios18"), (TABLES, "ios16"), (TABLES, "ios18")])
def test_zeros_take_a_bit(recipe, target, folder):
    """Pruned weights: by Apple's definitions, with the numbers of the quantized program, in less room."""
    net, sizes = ZOO / "vit", []
    data = folder / "data.npz"
    np.savez(data, **{f"in{i}": x[:CALLS] for i, x in enumerate(kit.numbered(net / "data.npz", "in"))})
    for name, extra in (("all", []), ("half", ["--option", "sparsity=0.8"])):
        pt2, path = folder / f"{name}.pt2", folder / f"{name}.mlpackage"
        options = ["--recipe", recipe, "--target", target, "--option", "precision=float32", *extra]
        kit.lowbit("quantize", net / "model.pt2", "--backend", BACKEND, *options, "--save-quantized", pt2, "--out", path)
        check.check(path)
        sizes.append((path / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size)
    expected = kit.run(pt2, data, folder / "out.npz")
    calls = zip(*kit.numbered(data, "in"))
    got = [np.stack(x) for x in zip(*(evaluate.Evaluator(path).call(*call) for call in calls))]
    alike(got, expected, "float32")
    if target == "ios18":
        assert sizes[1] < sizes[0], sizes


# ---- delegates ----


@pytest.mark.parametrize("name, recipe, target", CASES)
def test_delegate(name, recipe, target, quantized, folder):
    """The same program in a .pte: a payload that ExecuTorch's reader takes, and in it a package that conforms."""
    one, precision = quantized(name, recipe), "float16" if target == "ios17" else "float32"
    pte = lower(one.pt2, folder / "m.pte", target, precision)
    found = payload.delegates(pte)
    assert found, "nothing is delegated"
    for delegate in found:
        payload.check_delegate(delegate, target, precision)
    kernels, count = kit.operators(pte)
    assert count == len(found)
    kit.record("Core ML delegates", f"{name}.{recipe}.{target}", delegates=count, kernels=sorted(kernels))
    if name in WHOLE:
        assert count == 1 and not kernels, f"{count} delegates, and outside of them {sorted(kernels)}"
    if not kernels and count == 1:
        whole = reference.summary(lower(one.pt2, folder / "m.mlpackage", target, precision))
        assert not reference.differences(reference.summaries(pte), whole)


# ---- reproducible ----


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", ["squeezenet1_1", "vit"])
def test_the_same_bytes_each_time(name, recipe, quantized, folder):
    """Whatever the number of threads, and whether in one command or in two."""
    one, net = quantized(name, recipe), FOLDERS[name]
    for kind in ("mlpackage", "pte"):
        found = []
        for number, threads in enumerate(["1", "3"]):
            out = lower(one.pt2, folder / f"{number}.{kind}", "ios18", env={"LOWBIT_THREADS": threads})
            found.append(contents(out))
        arguments = ["quantize", net / "model.pt2", "--backend", BACKEND, "--recipe", recipe, "--target", "ios18"]
        arguments += ["--option", "precision=float32", "--out", folder / f"q.{kind}"]
        arguments += ["--calibrate", net / "calib.npz"] if recipe == STATIC else ALL_WEIGHTS
        kit.lowbit(*arguments)
        found.append(contents(folder / f"q.{kind}"))
        assert found[0] == found[1], "other bytes with more threads"
        assert found[0] == found[2], "`quantize` writes other bytes than `lower` of what it saved"


def contents(path):
    return {"": path.read_bytes()} if path.is_file() else payload.files_of(path)


# ---- the check bites on lowbit's packages too ----


@pytest.mark.parametrize(
    "recipe, target, least", [(STATIC, "ios17", 90), (STATIC, "ios18", 90), (INT4, "ios18", 80), (TABLES, "ios17", 80), (TABLES, "ios18", 80)]
)
def test_faults_are_found(recipe, target, least, quantized, folder):
    path = lower(quantized("vit", recipe).pt2, folder / "m.mlpackage", target)
    found = list(mutate.verdicts(path))
    missed = [f"{m.name}: not by {m.step}, but {list(map(str, f))}" for m, f in found if not any(x.step == m.step for x in f)]
    assert not missed, "\n".join(missed)
    assert len(found) >= least, f"only {len(found)} faults could be made"


# ---- state ----


def test_buffers_are_states(folder):
    import torch

    class Sum(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("total", torch.zeros(2, 3))

        def forward(self, x):
            self.total.add_(x)
            return self.total * 2

    x = torch.arange(6.0).reshape(2, 3) / 4
    torch.export.save(torch.export.export(Sum(), (x,)), folder / "sum.pt2")
    path = lower(folder / "sum.pt2", folder / "sum.mlpackage", "ios18")
    check.check(path)
    evaluator = evaluate.Evaluator(path)
    states = evaluator.initial_states()
    (name,), (output,) = evaluator.inputs(), evaluator.outputs()
    for count in (1, 2, 3):
        assert np.allclose(evaluator.run({name: x.numpy()}, states=states)[output], 2 * count * x.numpy())
    done = kit.call("lower", folder / "sum.pt2", "--backend", BACKEND, "--target", "ios17", "--out", folder / "no.mlpackage")
    assert done.returncode == 1 and "ios18" in done.stderr and not (folder / "no.mlpackage").exists(), done.stderr


# ---- fixtures for a Mac ----


def test_fixtures_for_a_mac(folder, capsys):
    """What `macos.py` would have Core ML predict, predicted by the evaluator; and numbers that are wrong are seen."""

    def predict(path):
        precision = json.loads((path.parent / "case.json").read_text())["precision"]
        return evaluate.Evaluator(path, NATIVE[precision]).call

    names = ["float16", "static-convolutions", "int4-groups", "tables-packed", "any-batch"]
    macos.make(folder, names)
    assert macos.run(folder, {"evaluator": predict}, compiler=None) == 0, capsys.readouterr().out
    assert capsys.readouterr().out.count("good") == len(names)
    assert macos.run(folder, {}, compiler=lambda path: "no") == len(names)
    for name in names:
        wrong = [x + 0.1 * np.abs(x).max() for x in kit.outputs(folder / name / "out.npz")]
        np.savez(folder / name / "out.npz", **{f"out{i}": x for i, x in enumerate(wrong)})
    assert macos.run(folder, {"evaluator": predict}, compiler=None) == len(names)


# ---- beside ExecuTorch's lowering ----


def convolutions():
    """A network of convolutions, (module, inputs)."""
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
            self.deep = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.BatchNorm2d(16), nn.ReLU6())
            self.head = nn.Linear(16, 10)

        def forward(self, x):
            x = self.first(x)
            x = nn.functional.max_pool2d(x + self.deep(x), 2, 2)
            return self.head(x.mean((2, 3)))

    torch.manual_seed(0)
    return Net().eval(), torch.randn(9, 1, 3, 16, 16)


def transformer():
    """A transformer's block."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norms = nn.ModuleList([nn.LayerNorm(64), nn.LayerNorm(64)])
            self.qkv, self.out = nn.Linear(64, 192), nn.Linear(64, 64)
            self.up, self.down = nn.Linear(64, 128), nn.Linear(128, 64)

        def forward(self, x):
            q, k, v = self.qkv(self.norms[0](x)).unflatten(-1, (3, 4, 16)).permute(2, 0, 3, 1, 4)
            y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            x = x + self.out(y)
            return x + self.down(nn.functional.gelu(self.up(self.norms[1](x))))

    torch.manual_seed(0)
    return Block().eval(), torch.randn(9, 1, 12, 64)


@pytest.mark.parametrize(
    "build, recipe, target, precision",
    [
        (convolutions, STATIC, "ios17", "float32"),
        (convolutions, STATIC, "ios18", "float16"),
        (transformer, STATIC, "ios17", "float32"),
        (transformer, INT8, "ios18", "float32"),
        (transformer, INT4, "ios18", "float16"),
        (transformer, TABLES, "ios18", "float32"),
    ],
)
def test_executorch_lowers_it_alike(build, recipe, target, precision, folder):
    import torch

    net, x = build()
    torch.export.save(torch.export.export(net, (x[0],)), folder / "model.pt2")
    np.savez(folder / "data.npz", in0=x.numpy())
    arguments = ["quantize", folder / "model.pt2", "--backend", BACKEND, "--recipe", recipe, "--save-quantized", folder / "q.pt2"]
    kit.lowbit(*arguments, *(["--calibrate", folder / "data.npz"] if recipe == STATIC else ALL_WEIGHTS))
    ours = lower(folder / "q.pt2", folder / "ours.pte", target, precision)
    theirs = reference.lower(folder / "q.pt2", folder / "theirs.pte", target, precision)
    found = reference.differences(
        reference.summaries(ours), reference.summaries(theirs), 1e-6 if precision == "float32" else 2e-3
    )
    assert not found, "\n".join(found)
    # And the same numbers.
    results = []
    for pte in (ours, theirs):
        (path,) = reference.packages(pte, folder / pte.stem)
        results.append(evaluate.Evaluator(path).call(x[0].numpy())[0])
    assert kit.sqnr(results[1], results[0]) > (100 if recipe != STATIC and precision == "float32" else 30)


# ---- errors ----


@pytest.mark.parametrize(
    "recipe, options, words",
    [
        (INT4, ["--target", "ios17"], ["ios17", "4-bit", "ios18"]),
        ("int8-weight-only-per-group", ["--target", "ios17"], ["ios17", "groups", "ios18"]),
        ("lut3", ["--target", "ios17"], ["ios17", "3 bits", "ios18"]),
        (STATIC, ["--target", "ios16"], ["ios16", "activations", "ios17"]),
        (STATIC, ["--target", "ios12"], ["ios12", "ios16", "ios17", "ios18"]),
        ("lut5", [], ["lut4", "lut6"]),
        ("lut7", [], ["lut6", "lut8"]),
        ("int3-weight-only", [], ["int3-weight-only", INT8]),
        (STATIC, ["--option", "precision=float64"], ["float64", "float16", "float32"]),
        (STATIC, ["--option", "speed=fast"], ["speed", "precision"]),
    ],
)
@pytest.mark.parametrize("kind", ["mlpackage", "pte"])
def test_what_there_is_not(recipe, options, words, kind, folder):
    net, out = ZOO / "squeezenet1_1", folder / f"m.{kind}"
    arguments = ["quantize", net / "model.pt2", "--backend", BACKEND, "--recipe", recipe, *options, "--out", out]
    done = kit.call(*arguments, *(["--calibrate", net / "calib.npz"] if recipe == STATIC else []))
    assert done.returncode in (1, 2), done.stderr
    for word in words:
        assert word in done.stderr, f"{word!r} is not in: {done.stderr}"
    assert not out.exists()


def unsupported(folder):
    """A program with an operator that Core ML lacks."""
    import torch

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)

        def forward(self, x):
            return self.b(torch.fmod(self.a(x), 0.7))

    torch.export.save(torch.export.export(Net().eval(), (torch.randn(2, 8),)), folder / "net.pt2")
    return folder / "net.pt2"


def test_an_operator_that_core_ml_lacks(folder):
    model, start = unsupported(folder), ["--backend", BACKEND, "--target", "ios18"]
    lower(model, folder / "parts.pte", "ios18")
    kernels, count = kit.operators(folder / "parts.pte")
    assert count == 2 and len(kernels) == 1, (kernels, count)
    for delegate in payload.delegates(folder / "parts.pte"):
        payload.check_delegate(delegate, "ios18", "float32")
    for out, extra in ((folder / "m.mlpackage", []), (folder / "m.pte", ["--option", "whole=true"])):
        done = kit.call("lower", model, *start, *extra, "--out", out)
        assert done.returncode == 1 and "fmod" in done.stderr, done.stderr
        assert not out.exists()
