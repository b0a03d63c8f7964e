"""Programs that lowbit writes, in PyTorch and in ExecuTorch's own lowering: Q.pt2 of `quantize --save-quantized`, and copies
of float programs."""

import json
import logging
import pathlib
import subprocess
import warnings
import zipfile

import numpy as np
import pytest

import kit

ZOO = kit.CACHE / "zoo"
NETS = """alexnet bert cells conv_lstm convnextv2_atto deit_resized detector_head distilbert edgenext_xx_small ghostnet_100 gpt2
gru hf_mobilevit llama lraspp lstm mixer mobilenet_v2_dynamic_batch mobilenet_v3_small mobilenetv4_conv_small recommender
rnn_tanh shufflenet_v2_x0_5 squeezenet1_1 superresolution swin t5 tcn_glu unet vit wav2vec2""".split()
LOWERED = "bert conv_lstm mobilenet_v3_small resnet_dynamic_batch squeezenet1_1 vit".split()
# Not gru: ExecuTorch runs the product with its inputs outside delegates, with one range for all rows.
LOWERED_ONCE = """alexnet deit_resized distilbert edgenext_xx_small ghostnet_100 gpt2 llama lraspp mixer mobilenetv4_conv_small
shufflenet_v2_x0_5 superresolution tcn_glu unet wav2vec2""".split()
EVALUATED = "bert conv_lstm lstm mobilenet_v3_small swin unet".split()
COPIED = "bert cells gpt2 lstm mobilenet_v2_dynamic_batch raft ssdlite_heads t5 unet whisper_encoder".split()
TORCHAO = "deit_resized lstm resnet18 squeezenet1_1".split()
RECIPES = [kit.DEFAULT, kit.DYNAMIC]
COPY = pathlib.Path(kit.LOWBIT).parent / "examples" / "copy"


@pytest.fixture(scope="module")
def torch():
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    import torch
    import torch.ao.quantization.fx._decomposed  # noqa: F401  (operators of quantized_decomposed)
    import executorch.kernels.quantized  # noqa: F401  (kernels of quantized_decomposed, for what stays outside delegates)
    import torchao  # noqa: F401  (operators of torchao)

    torch.set_num_threads(1)
    return torch


def first_call(net, folder):
    """The inputs of the first call, as a file."""
    calls = json.loads((net / "meta.json").read_text())["calls"]
    inputs = kit.numbered(net / "data.npz", "in")
    inputs = [x[0] for x in inputs] if calls else inputs
    np.savez(folder / "one.npz", **{f"in{i}": x for i, x in enumerate(inputs)})
    return folder / "one.npz"


def module_outputs(torch, exported, data):
    """What `.module()` gives, tensors only, in order."""
    module = exported.module()
    inputs = [torch.from_numpy(np.array(x)) for x in kit.numbered(data, "in")]
    arguments, keywords = torch.utils._pytree.tree_unflatten(inputs, module._in_spec)
    with torch.no_grad():
        results = torch.utils._pytree.tree_leaves(module(*arguments, **keywords))
    return [x.numpy() for x in results if isinstance(x, torch.Tensor)]


def first_expected(net):
    """PyTorch's outputs of the float program for the first call."""
    calls = json.loads((net / "meta.json").read_text())["calls"]
    return [x[0] if calls else x for x in kit.outputs(net / "expected.npz")]


def quantized(net, recipe, folder, evaluate=None):
    """Quantizes; the .pt2, the .pte and the report."""
    calibrate = None if recipe == kit.DYNAMIC else net / "calib.npz"
    pt2, pte = folder / "q.pt2", folder / "q.pte"
    report = kit.quantize(net / "model.pt2", pte, calibrate, evaluate, recipe, extra=["--save-quantized", pt2])
    return pt2, pte, report


def decibels(expected, got):
    """SQNR of each float output; above 60 dB it is rounding of floats that is measured."""
    return [min(kit.sqnr(x, y), 60.0) for x, y in zip(expected, got) if kit.is_float(x)]


def agree(a, b, within=1.5):
    return len(a) == len(b) and all(abs(x - y) <= within for x, y in zip(a, b))


def edited(pt2, out, edit):
    """A copy of an archive, its program changed by `edit(graph, signature, call)`, which may return something."""
    with zipfile.ZipFile(pt2) as read, zipfile.ZipFile(out, "w") as write:
        for name in read.namelist():
            content = read.read(name)
            if name.endswith("models/model.json"):
                program = json.loads(content)
                module = program["graph_module"]
                result = edit(module["graph"], module["signature"], module["module_call_graph"][0]["signature"])
                content = json.dumps(program).encode()
            write.writestr(name, content)
    return result


LEAF = {"type": None, "context": None, "children_spec": []}


def return_integers(graph, signature, call):
    """The program returns what its quantize nodes make, too: their names."""
    made = [node["outputs"][0] for node in graph["nodes"] if ".quantize_" in node["target"]]
    graph["outputs"] += made
    signature["output_specs"] += [{"user_output": {"arg": x}} for x in made]
    version, spec = json.loads(call["out_spec"])
    results = {"type": "builtins.tuple", "context": "null", "children_spec": [spec, *[LEAF for _ in made]]}
    call["out_spec"] = json.dumps([version, results])
    return [x["as_tensor"]["name"] for x in made]


def take_integers(graph, signature, call):
    """Whoever reads what a quantize node makes reads an input instead: every operator is on its own."""
    made = {node["outputs"][0]["as_tensor"]["name"] for node in graph["nodes"] if ".quantize_" in node["target"]}

    def redirected(x):
        if isinstance(x, list):
            return [redirected(y) for y in x]
        if not isinstance(x, dict):
            return x
        if set(x) == {"name"} and x["name"] in made:
            return {"name": "given_" + x["name"]}
        return {key: redirected(value) for key, value in x.items()}

    for node in graph["nodes"]:
        node["inputs"] = redirected(node["inputs"])
    names = [x for x in graph["tensor_values"] if x in made]
    names.sort(key=[node["name"] for node in graph["nodes"]].index)
    for name in names:
        given = {"as_tensor": {"name": "given_" + name}}
        graph["tensor_values"]["given_" + name] = graph["tensor_values"][name]
        graph["inputs"].append(given)
        signature["input_specs"].append({"user_input": {"arg": given}})


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", NETS)
def test_quantized_program_in_pytorch(name, recipe, folder, torch):
    """`.module()` gives lowbit's outputs. A rounding that falls the other way can change all that follows in a deep network
    of random weights, so integers are compared operator by operator: lowbit gets PyTorch's integers as inputs."""
    net, data = ZOO / name, first_call(ZOO / name, folder)
    pt2, _, _ = quantized(net, recipe, folder)
    plain = module_outputs(torch, torch.export.load(str(pt2)), data)
    free = kit.run(pt2, data, folder / "out.npz")
    edited(pt2, folder / "probe.pt2", return_integers)
    expected = module_outputs(torch, torch.export.load(str(folder / "probe.pt2")), data)
    assert kit.differences(plain, expected[: len(plain)], 0, 0) is None
    edited(folder / "probe.pt2", folder / "given.pt2", take_integers)
    inputs = kit.numbered(data, "in") + expected[len(plain) :]
    np.savez(folder / "given.npz", **{f"in{i}": x for i, x in enumerate(inputs)})
    got = kit.run(folder / "given.pt2", folder / "given.npz", folder / "out.npz")

    pairs = [(a.astype(int), b.astype(int)) for a, b in zip(got[len(plain) :], expected[len(plain) :])]
    steps = np.concatenate([np.abs(a - b).ravel() for a, b in pairs] or [np.zeros(1, int)])
    one, more = int((steps == 1).sum()), int((steps > 1).sum())
    row = {"recipe": recipe, "integers": steps.size, "one_step": one, "more": more}
    alike = [min(kit.sqnr(b, a), 999.0) for a, b in zip(got, expected[: len(plain)]) if kit.is_float(b)]
    running = [min(kit.sqnr(b, a), 999.0) for a, b in zip(free, plain) if kit.is_float(b)]
    kit.record("quantized programs in PyTorch", f"{name}.{recipe}", **row, outputs_db=alike, free_running_db=running)
    assert len(got) == len(expected) and all(a.dtype == b.dtype and a.shape == b.shape for a, b in zip(got, expected))
    assert more == 0 and one <= steps.size / 1000, f"{one} of {steps.size} integers are a step apart, {more} are more"
    assert all(db > 80 for db in alike), alike
    assert all(a.tolist() == b.tolist() for a, b in zip(got, expected[: len(plain)]) if not kit.is_float(b))


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", NETS)
def test_lowers_to_the_same_file(name, recipe, folder):
    pt2, pte, _ = quantized(ZOO / name, recipe, folder)
    kit.lower(pt2, folder / "again.pte")
    assert (folder / "again.pte").read_bytes() == pte.read_bytes()


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", EVALUATED)
def test_evaluates_as_quantize_does(name, recipe, folder):
    net = ZOO / name
    pt2, _, report = quantized(net, recipe, folder, evaluate=net / "data.npz")
    said = json.loads(kit.lowbit("evaluate", net / "model.pt2", pt2, "--data", net / "data.npz", "--json"))
    assert said["outputs"] == report["outputs"] and said["metrics"] == report["metrics"]
    nodes = {n["name"]: n["sqnr_db"] for n in report["nodes"] if n.get("sqnr_db") is not None}
    again = {n["name"]: n["sqnr_db"] for n in said["nodes"] if n.get("sqnr_db") is not None}
    same = [name for name in again if name in nodes]
    assert same and all(abs(again[n] - nodes[n]) < 0.1 for n in same)


def test_quantizes_without_lowering(folder):
    net, q = ZOO / "bert", folder / "q.pt2"
    kit.lowbit("quantize", net / "model.pt2", "--backend", kit.BACKEND, "--recipe", kit.DYNAMIC, "--save-quantized", q)
    assert [path.name for path in folder.iterdir()] == ["q.pt2"]
    done = kit.call("quantize", net / "model.pt2", "--backend", kit.BACKEND, "--recipe", kit.DYNAMIC)
    assert done.returncode == 2 and "--save-quantized" in done.stderr + done.stdout


@pytest.mark.parametrize(
    "name, recipe", [(n, r) for n in LOWERED for r in RECIPES] + [(n, kit.DEFAULT) for n in LOWERED_ONCE]
)
def test_executorch_lowers_it(name, recipe, folder, runtime, torch):
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    net, data = ZOO / name, first_call(ZOO / name, folder)
    pt2, pte, _ = quantized(net, recipe, folder)
    edge = to_edge_transform_and_lower(torch.export.load(str(pt2)), partitioner=[XnnpackPartitioner()])
    (folder / "theirs.pte").write_bytes(edge.to_executorch().buffer)
    theirs, ours = runtime.run(folder / "theirs.pte", data), runtime.run(pte, data)
    float_outputs, delegates = first_expected(net), [kit.operators(f)[1] for f in (folder / "theirs.pte", pte)]
    theirs_db, ours_db = decibels(float_outputs, theirs), decibels(float_outputs, ours)
    row = {"recipe": recipe, "delegates": delegates, "theirs_db": theirs_db, "lowbit_db": ours_db}
    kit.record("quantized programs in ExecuTorch", f"{name}.{recipe}", **row)
    assert delegates[0] > 0 and agree(theirs_db, ours_db), row


@pytest.mark.parametrize("recipe", [kit.STATIC, kit.DYNAMIC])
@pytest.mark.parametrize("name", TORCHAO)
def test_torchaos_program(name, recipe, folder, runtime, torch):
    """What torchao quantized and PyTorch saved is read, runs, and lowers."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    net, data = ZOO / name, first_call(ZOO / name, folder)
    config = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=recipe == kit.DYNAMIC)
    inputs = tuple(torch.from_numpy(np.array(x)) for x in kit.numbered(data, "in"))
    prepared = prepare_pt2e(torch.export.load(net / "model.pt2").module(), XNNPACKQuantizer().set_global(config))
    with torch.no_grad():
        prepared(*inputs)
    exported = torch.export.export(convert_pt2e(prepared), inputs)
    torch.export.save(exported, folder / "theirs.pt2")
    expected = module_outputs(torch, exported, data)
    got = kit.run(folder / "theirs.pt2", data, folder / "out.npz")
    device = runtime.run(kit.lower(folder / "theirs.pt2", folder / "theirs.pte"), data)
    said = json.loads(kit.lowbit("evaluate", net / "model.pt2", folder / "theirs.pt2", "--data", data, "--json"))
    float_outputs = first_expected(net)
    theirs_db, run_db, device_db = (decibels(float_outputs, x) for x in (expected, got, device))
    said_db = [min(o["sqnr_db"], 60.0) for o, x in zip(said["outputs"], float_outputs) if kit.is_float(x)]
    delegates = kit.operators(folder / "theirs.pte")[1]
    row = {"pytorch_db": theirs_db, "run_db": run_db, "evaluate_db": said_db, "device_db": device_db}
    kit.record("programs of torchao", f"{name}.{recipe}", recipe=recipe, delegates=delegates, **row)
    assert delegates > 0 and agree(run_db, theirs_db) and agree(said_db, device_db), row


@pytest.mark.parametrize("form", ["model", "model_core"])
@pytest.mark.parametrize("name", COPIED)
def test_float_program_in_pytorch(name, form, folder, torch):
    net = ZOO / name
    if not (net / f"{form}.pt2").exists():
        pytest.skip("not exported in this form")
    subprocess.run([COPY, net / f"{form}.pt2", folder / "copy.pt2"], check=True)
    data = first_call(net, folder)
    copy, original = torch.export.load(str(folder / "copy.pt2")), torch.export.load(str(net / f"{form}.pt2"))
    difference = kit.differences(module_outputs(torch, copy, data), module_outputs(torch, original, data), 1e-5, 1e-6)
    assert difference is None, difference
