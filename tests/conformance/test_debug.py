"""`lowbit debug` on programs that torchao quantized, against the same measures taken with PyTorch, node by node."""

import json
import os
import pathlib
import warnings

import numpy as np
import pytest

import kit

NETS = ["demo", "detector_head", "mobilenet_v2"]
SAMPLES = 8
SILERO = pathlib.Path(os.environ.get("LOWBIT_MODELS", "")) / "silero_vad"
CLAMPS = ("aten.relu.default", "aten.hardtanh.default", "aten.clamp.default", "aten.relu6.default")


def paths(net):
    folders = {"demo": kit.REPOSITORY / "crates" / "cli" / "demo", "silero_vad": SILERO}
    folder = folders.get(net, kit.CACHE / "zoo" / net)
    return folder / "model.pt2", folder / "calib.npz"


def quantized(net, folder, samples=SAMPLES):
    """Float module and quantized module, each as torch.export gives it, the calls, and the files for lowbit."""
    import torch
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import XNNPACKQuantizer, get_symmetric_quantization_config
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    warnings.filterwarnings("ignore")
    model, data = paths(net)
    program = torch.export.load(str(model))
    with np.load(data) as arrays:
        count = len(program.graph_signature.user_inputs)
        inputs = [torch.from_numpy(arrays[f"in{i}"].astype(np.float32)) for i in range(count)]
    shapes = [tuple(v.meta["val"].shape) for v in program.graph.nodes if v.op == "placeholder" and v.name in program.graph_signature.user_inputs]
    calls = [tuple(x[i].reshape(s) for x, s in zip(inputs, shapes)) for i in range(samples)]
    prepared = prepare_pt2e(program.module(), XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True)))
    for call in calls:
        prepared(*call)
    converted = torch.export.export(convert_pt2e(prepared), calls[0])
    torch.export.save(converted, str(folder / "q.pt2"))
    np.savez(folder / "data.npz", **{f"in{i}": np.stack([c[i].numpy() for c in calls]) for i in range(count)})
    return torch.export.load(str(model)).module(), converted.module(), calls


def is_quantize(node, prefix=""):
    return node.op == "call_function" and f"quantized_decomposed.{prefix}" in str(node.target)


def behind(node):
    """The nodes behind this one whose result its readers get: a clamp, quantize, dequantize."""
    found, last = [], node
    if len(last.users) == 1 and str(next(iter(last.users)).target) in CLAMPS:
        last = next(iter(last.users))
        found.append(last)
    users = list(last.users)
    if users and all(is_quantize(u, "quantize") and u.args[1:] == users[0].args[1:] for u in users):
        found += [users[0], next(iter(users[0].users))]
    return found


def measures(float_module, quantized_module, calls):
    """By node: own and free-running SQNR in dB, of the nodes that both programs have under one name."""
    import torch
    from torch.fx import Interpreter

    def copy(value):
        """Operators that work in place, such as relu_, would write into what is kept."""
        return value.clone() if torch.is_tensor(value) else value

    class Recorder(Interpreter):
        """Keeps every result; `forced` values take the place of those that nodes make."""

        def start(self, call, forced=None):
            self.forced, self.values, self.made = forced or {}, {}, {}
            self.run(*call)
            return self

        def run_node(self, n):
            value = super().run_node(n)
            self.made[n.name] = copy(value)
            if n.name in self.forced and n.op == "call_function":
                value = copy(self.forced[n.name])
            self.values[n.name] = copy(value)
            return value

    float_graph, graph = Recorder(float_module), Recorder(quantized_module)
    names = {n.name: n for n in quantized_module.graph.nodes if n.op == "call_function" and not is_quantize(n)}
    # A batch norm that is folded is what the layer before it stands for.
    stands_for = {}
    for n in float_module.graph.nodes:
        users = list(n.users)
        folded = len(users) == 1 and "batch_norm" in str(users[0].target) and users[0].name not in names
        stands_for[n.name] = users[0].name if folded else n.name
    sums = {}
    for call in calls:
        with torch.no_grad():
            exact = float_graph.start(call).values
            pairs = {k: exact[stands_for[k]] for k in names if k in stands_for and torch.is_tensor(exact.get(stands_for[k]))}
            pairs = {k: v for k, v in pairs.items() if v.is_floating_point()}
            free, forced = graph.start(call).values, graph.start(call, pairs).made
            for name, node in names.items():
                if name not in pairs:
                    continue
                own, run, target = forced[name], free[name], pairs[name]
                for after in behind(node):
                    own = after.target(own, *after.args[1:], **after.kwargs)
                    run = free[after.name]
                    target = pairs.get(after.name, target)
                for kind, got in (("own", own), ("run", run)):
                    signal, noise = sums.get((name, kind), (0.0, 0.0))
                    x, y = target.double(), got.double()
                    sums[name, kind] = signal + float((x * x).sum()), noise + float(((x - y) ** 2).sum())
    db = lambda signal, noise: float("inf") if noise == 0 else 10 * np.log10(signal / noise)
    return {name: {kind: db(*sums[name, kind]) for kind in ("own", "run")} for name in names if (name, "own") in sums}


@pytest.mark.parametrize("net", NETS)
def test_same_errors_as_pytorch(net, folder):
    float_module, quantized_module, calls = quantized(net, folder)
    expected = measures(float_module, quantized_module, calls)
    found = json.loads(kit.lowbit("debug", paths(net)[0], folder / "q.pt2", "--data", folder / "data.npz", "--json"))
    assert found["samples"] == SAMPLES
    nodes = {n["value"]: n for n in found["nodes"]}
    assert len(nodes) > 10 and set(nodes) <= set(expected), set(nodes) - set(expected)
    # Constants alone are compared there, not here.
    assert len(nodes) >= 0.9 * len(expected), set(expected) - set(nodes)
    own = [n["own"]["sqnr_db"] for n in found["nodes"]]
    assert own == sorted(own)
    worst = 0.0
    for name, node in nodes.items():
        for kind in ("own", "run"):
            a, b = node[kind]["sqnr_db"], expected[name][kind]
            # Where nothing is rounded, the two compute floats in another order.
            if a > 90 and b > 90:
                continue
            worst = max(worst, abs(a - b))
            assert abs(a - b) < 0.2, f"{name}: {kind} {a:.2f} dB, PyTorch has {b:.2f}"
    kit.record("debug", net, nodes=len(nodes), worst_db=worst)


def test_another_model_is_refused(folder):
    float_module, quantized_module, calls = quantized("demo", folder)
    other = kit.CACHE / "zoo" / "detector_head"
    done = kit.call("debug", other / "model.pt2", folder / "q.pt2", "--data", other / "data.npz")
    assert done.returncode == 1 and "not made of the same model" in done.stderr, done.stderr


@pytest.mark.skipif(not SILERO.exists(), reason="LOWBIT_MODELS has no silero_vad")
def test_names_the_front_end_of_silero_vad(folder):
    """docs/finding-the-culprit.md: from the transform's convolution to the root of the sum of squares, and who reads that."""
    quantized("silero_vad", folder, samples=100)
    found = json.loads(kit.lowbit("debug", SILERO / "model.pt2", folder / "q.pt2", "--data", folder / "data.npz", "--top", 7, "--json"))
    front = {"conv1d", "slice_1", "slice_2", "pow_1", "pow_2", "add", "sqrt", "conv1d_1"}
    assert {n["value"] for n in found["nodes"]} <= front
    assert found["nodes"][0]["value"] == "sqrt"
