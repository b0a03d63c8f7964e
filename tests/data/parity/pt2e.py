"""Writes the cases of pt2e/: rounds of torchao's prepare_pt2e, calibration and convert_pt2e.

    pt2e/<model>.pt2                the programs; pt2e/<model>.npz: in0[i] is call i of the calibration
    pt2e/<case>/case.json           see below; its `model` and `calibration` name the files above
    pt2e/<case>/io.npz              in_<i> of the last call, out_<i> of the converted program
    pt2e/<case>/constants.npz       attributes of the converted graph: folded weights, scales of channels, …

case.json: `recipe` (the quantizer's class and settings), and as torchao had them, with nodes by their names and attributes as
{"attr": name}: `fused_graph` (before observers), `annotations` (specs of each node's inputs and output), `groups` (node or edge:
number of its observer), `converted_graph`. Needs tests/conformance/requirements.txt. `python pt2e.py` in any folder.

Left out, because lowbit means to differ: relu6, which hands on quantization parameters like hardtanh in lowbit alone, and
F.adaptive_avg_pool2d, which the XNNPACK quantizer recognises only as a module or in a strict export.
"""

import json
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import XNNPACKQuantizer, get_symmetric_quantization_config
from torch import nn
from torchao.quantization.pt2e import observer as ao
from torchao.quantization.pt2e import prepare
from torchao.quantization.pt2e.fake_quantize import FakeQuantize
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import (
    DerivedQuantizationSpec,
    FixedQParamsQuantizationSpec,
    QuantizationAnnotation,
    QuantizationSpec,
    Quantizer,
    SharedQuantizationSpec,
)

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from make import lively, randn, save  # noqa: E402

OUT = HERE / "pt2e"
CALLS = 4
MODELS, CASES = {}, {}


def model(*shapes):
    def add(cls):
        MODELS[cls.__name__] = (cls, shapes)
        return cls

    return add


@model((1, 3, 16, 16))
class residual_cnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.BatchNorm2d(8)
        self.conv3, self.pool, self.head = nn.Conv2d(8, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Linear(8, 5)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(x + self.bn2(self.conv2(F.hardtanh(self.conv3(x), 0.0, 6.0))))
        return self.head(torch.flatten(self.pool(x), 1))


@model((1, 20))
class mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(20, 32), nn.Linear(32, 32), nn.Linear(32, 4)

    def forward(self, x):
        return self.c(torch.sigmoid(self.b(F.relu(self.a(x)))) * 2 + 0.5)


@model((1, 6, 16))
class transformer_block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.qkv, self.out, self.mix = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x):
        q, k, v = (t.view(1, 6, 4, 4).transpose(1, 2) for t in self.qkv(self.norm(x)).chunk(3, -1))
        y = F.softmax(q @ k.transpose(-1, -2) * 0.5, -1) @ v
        x = x + self.out(y.transpose(1, 2).reshape(1, 6, 16))
        return torch.cat([x, self.mix(x)], -1)


@model((1, 2, 6, 6), (1, 2, 6, 6))
class two_convs(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 4, 3), nn.Conv2d(2, 4, 3)

    def forward(self, x, y):
        z = torch.cat([self.a(x), self.b(y)], 1)
        return z + z, torch.sigmoid(z)


# ---- quantizers of our own ----


def observed(dtype, low, high, qscheme, cls, ch_axis=None, **args):
    return QuantizationSpec(
        dtype=dtype, quant_min=low, quant_max=high, qscheme=qscheme, ch_axis=ch_axis, observer_or_fake_quant_ctr=cls.with_args(**args)
    )


U8 = observed(torch.uint8, 0, 255, torch.per_tensor_affine, ao.MinMaxObserver, eps=2**-12)
MOVING = observed(torch.int8, -128, 127, torch.per_tensor_affine, ao.MovingAverageMinMaxObserver, averaging_constant=0.1)
I16 = observed(torch.int16, -32768, 32767, torch.per_tensor_symmetric, ao.HistogramObserver, eps=2**-12)
WEIGHT = observed(torch.int8, -127, 127, torch.per_channel_symmetric, ao.PerChannelMinMaxObserver, ch_axis=0)
TENSOR = observed(torch.int8, -127, 127, torch.per_tensor_symmetric, ao.MinMaxObserver, eps=2**-12)


def product(sources):
    """A bias: scale of the input times scale of the weight."""
    (s0, _), (s1, _) = (o.calculate_qparams() for o in sources)
    return s0 * s1, torch.zeros_like(s0 * s1, dtype=torch.int64)


class Own(Quantizer):
    """Calls `rules` with each node; it returns input specs by position, the output spec and whether inputs may be shared."""

    def __init__(self, rules):
        self.rules = rules

    def annotate(self, gm):
        for node in gm.graph.nodes:
            if node.op != "call_function" or (found := self.rules(node)) is None:
                continue
            inputs, output, sharing = found
            flat = torch.utils._pytree.tree_leaves(node.args)
            flat = [a for a in flat if isinstance(a, torch.fx.Node)]
            inputs = {flat[i]: spec for i, spec in inputs.items()}
            annotation = QuantizationAnnotation(inputs, output, _annotated=True, allow_implicit_sharing=sharing)
            node.meta["quantization_annotation"] = annotation

    def validate(self, gm):
        pass


def conv(node, activation, weight, output, sharing=True):
    x, w = node.args[:2]
    bias = DerivedQuantizationSpec(
        derived_from=[(x, node), (w, node)],
        derive_qparams_fn=product,
        dtype=torch.int32,
        quant_min=-(2**31),
        quant_max=2**31 - 1,
        qscheme=torch.per_tensor_symmetric,
    )
    return {0: activation, 1: weight, **({2: bias} if weight is TENSOR else {})}, output, sharing


def shared_cat(node):
    """Everything around the concatenation has the parameters of its first operand; sums do not share implicitly."""
    name = str(node.target)
    if "conv2d" in name:
        return conv(node, U8, WEIGHT, U8)
    if "cat" in name:
        shared = SharedQuantizationSpec((node.args[0][0], node))
        return {0: U8, 1: shared}, shared, True
    return ({0: MOVING}, MOVING, False) if "add" in name else None


def derived_and_fixed(node):
    name = str(node.target)
    if "conv2d" in name:
        return conv(node, MOVING, TENSOR, MOVING)
    fixed = FixedQParamsQuantizationSpec(torch.uint8, 0.0039, 0, 0, 255, torch.per_tensor_affine)
    return ({0: I16}, fixed, True) if "sigmoid" in name else None


def xnnpack(**args):
    config = get_symmetric_quantization_config(**args)
    recipe = {"class": "XNNPACKQuantizer", "operator_type": {}, "module_type": {}, "module_name": {}, "has_filter": False}
    fields = ("input_activation", "output_activation", "weight", "bias")
    recipe["global"] = {f: spec(getattr(config, f)) for f in fields}
    return XNNPACKQuantizer().set_global(config), recipe


def cases():
    for name in ("residual_cnn", "mlp", "transformer_block"):
        yield f"{name}_static", name, *xnnpack(is_per_channel=True)
        yield f"{name}_dynamic", name, *xnnpack(is_per_channel=True, is_dynamic=True)
    yield "residual_cnn_per_tensor", "residual_cnn", *xnnpack(is_per_channel=False)
    yield "mlp_four_bits", "mlp", *xnnpack(is_per_channel=True, weight_qmin=-8, weight_qmax=7)
    yield "two_convs_shared", "two_convs", Own(shared_cat), {"class": "Own"}
    yield "two_convs_derived", "two_convs", Own(derived_and_fixed), {"class": "Own"}


# ---- writing ----


def place(v):
    """A node or an edge."""
    if isinstance(v, tuple):
        return {"edge": [arg(v[0]), arg(v[1])]}
    return {"node": arg(v)}


def spec(s):
    if s is None:
        return None
    rest = {k: getattr(s, k, None) for k in ("quant_min", "quant_max", "ch_axis", "scale", "zero_point")}
    rest = {k: v for k, v in rest.items() if v is not None}
    if isinstance(s, SharedQuantizationSpec):
        return {"kind": "shared", "with": place(s.edge_or_node)}
    rest |= {"dtype": str(s.dtype), "qscheme": str(s.qscheme), "is_dynamic": s.is_dynamic}
    if isinstance(s, DerivedQuantizationSpec):
        return {"kind": "derived", "from": [place(p) for p in s.derived_from], **rest}
    if isinstance(s, FixedQParamsQuantizationSpec):
        return {"kind": "fixed", **rest}
    made = s.observer_or_fake_quant_ctr.p
    observer, args = made.func, made.keywords
    if issubclass(observer, FakeQuantize):  # what it watches with; its other arguments repeat the spec
        observer, args = args["observer"], {}
    return {"kind": "observed", "observer": {"class": observer.__name__, "args": args}, **rest}


def arg(a):
    if isinstance(a, torch.fx.Node):
        return {"attr": a.target} if a.op == "get_attr" else {"node": a.name}
    if isinstance(a, (list, tuple)):
        return [arg(x) for x in a]
    return a if a is None or isinstance(a, (bool, int, float, str)) else str(a)


def target(node):
    return node.target if isinstance(node.target, str) else "getitem" if "getitem" in str(node.target) else str(node.target)


def graph(gm):
    return [
        {"name": n.name, "op": n.op, "target": target(n), "args": arg(n.args), "kwargs": {k: arg(v) for k, v in n.kwargs.items()}}
        for n in gm.graph.nodes
        if "_guards_fn" not in str(n.target)
    ]


def annotations(gm):
    for n in gm.graph.nodes:
        if (a := n.meta.get("quantization_annotation")) is not None:
            inputs = [{"from": arg(k), "spec": spec(s)} for k, s in a.input_qspec_map.items()]
            sharing = a.allow_implicit_sharing
            yield {"node": n.name, "inputs": inputs, "output": spec(a.output_qspec), "allow_implicit_sharing": sharing}


class Recorder(Quantizer):
    """Another quantizer, with a look at the graph after its annotations."""

    def __init__(self, inner, case):
        self.inner, self.case = inner, case

    def transform_for_annotation(self, gm):
        return self.inner.transform_for_annotation(gm)

    def annotate(self, gm):
        return self.inner.annotate(gm)

    def validate(self, gm):
        self.inner.validate(gm)
        groups = prepare._get_edge_or_node_to_group_id(prepare._get_edge_or_node_to_qspec(gm))
        self.case["fused_graph"] = graph(gm)
        self.case["annotations"] = list(annotations(gm))
        self.case["groups"] = [{**place(k), "group": g} for k, g in groups.items()]


def attribute(gm, name):
    for part in name.split("."):
        gm = getattr(gm, part)
    return gm.detach().numpy()


def write(whole, case, name, quantizer, recipe):
    # From a file, so that names are those that lowbit reads; with the functions that operators came from, which torchao needs.
    module = torch.export.load(whole / f"{name}.pt2").module()
    record(OUT / case, name, module, calibration(name), quantizer, recipe)


def record(folder, name, module, calls, quantizer, recipe, ready=lambda gm: None):
    """A case of an exported module; `ready` sees it prepared, before calibration."""
    folder.mkdir()
    files = f"{folder.parent.name}/{name}"
    description = {"recipe": recipe, "model": f"{files}.pt2", "calibration": f"{files}.npz", "convert_kwargs": {}}
    gm = prepare_pt2e(module, Recorder(quantizer, description))
    ready(gm)
    with torch.no_grad():
        for call in calls:
            gm(*call)
        converted = convert_pt2e(gm)
        out = torch.utils._pytree.tree_leaves(converted(*calls[-1]))
    description["converted_graph"] = graph(converted)
    attributes = {n.target: attribute(converted, n.target) for n in converted.graph.nodes if n.op == "get_attr"}
    io = {f"in_{i}": x.numpy() for i, x in enumerate(calls[-1])} | {f"out_{i}": x.numpy() for i, x in enumerate(out)}
    np.savez_compressed(folder / "io.npz", **io)
    np.savez_compressed(folder / "constants.npz", **attributes)
    (folder / "case.json").write_text(text(description))


def text(description, **style):
    rows = [f"{json.dumps(k)}: {lines(v, **style) if isinstance(v, list) else json.dumps(v, **style)}" for k, v in description.items()]
    return "{" + ",\n".join(rows) + "}\n"


def lines(rows, **style):
    return "[\n" + ",\n".join(json.dumps(r, **style) for r in rows) + "\n]"


def calibration(name):
    shapes = MODELS[name][1]
    return [[randn(*s, seed=10 * k + i, scale=0.5 + 0.25 * k) for i, s in enumerate(shapes)] for k in range(CALLS)]


def main():
    warnings.simplefilter("ignore")
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    with tempfile.TemporaryDirectory() as whole:
        for name, (cls, _) in MODELS.items():
            torch.manual_seed(0)
            calls = calibration(name)
            exported = torch.export.export(lively(cls()), tuple(calls[0]), strict=False)
            torch.export.save(exported, Path(whole) / f"{name}.pt2")
            save(exported, OUT / f"{name}.pt2")
            np.savez_compressed(OUT / f"{name}.npz", **{f"in{i}": torch.stack(x).numpy() for i, x in enumerate(zip(*calls))})
        for case in cases():
            write(Path(whole), *case)
            print(case[0], flush=True)


if __name__ == "__main__":
    main()
