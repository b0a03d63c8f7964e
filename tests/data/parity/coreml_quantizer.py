"""Writes the cases of coreml/: rounds of prepare_pt2e, calibration and convert_pt2e with ExecuTorch's CoreMLQuantizer, on each
of its patterns. The files are those of pt2e/ (see pt2e.py); `recipe.config` is what LinearQuantizerConfig.from_dict took.

Programs are exported strictly: the quantizer finds pools, and types of modules, by the functions that operators came from,
which other exports do not name. Needs tests/conformance/requirements.txt and coremltools 9.0. `python coreml_quantizer.py` in
any folder.
"""

import copy
import functools
import json
import shutil
import warnings

import executorch.backends.apple.coreml.quantizer._coreml_quantizer_utils as patterns
import numpy as np
import torch
import torch.nn.functional as F
from coremltools.optimize.torch.quantization import LinearQuantizerConfig
from executorch.backends.apple.coreml.quantizer import CoreMLQuantizer
from pt2e import HERE, lively, randn, record, save, text
from torch import nn
from torchao.quantization.pt2e.fake_quantize import disable_fake_quant

OUT = HERE / "coreml"
CALLS = 3
MODELS = {}

WITH_PLACE = [F.relu, F.relu6, F.leaky_relu, F.silu, F.elu, F.celu, F.selu, F.mish, F.hardtanh, F.hardswish, F.hardsigmoid]
WITHOUT_PLACE = [F.gelu, torch.sigmoid, F.logsigmoid, torch.tanh]


def activations(in_place):
    """All of them, and none."""
    with_place = [functools.partial(f, inplace=True) if in_place else f for f in WITH_PLACE]
    return [*with_place, *WITHOUT_PLACE, lambda x: x]


class Layers(nn.Module):
    """A layer with each activation."""

    def __init__(self, make, in_place=False):
        super().__init__()
        self.activations = activations(in_place)
        self.layers = nn.ModuleList(make() for _ in self.activations)

    def forward(self, x):
        return [act(layer(x)) for layer, act in zip(self.layers, self.activations)]


class Binaries(nn.Module):
    """An operator of two tensors with each activation."""

    def __init__(self, op, in_place=False):
        super().__init__()
        self.op, self.activations = op, activations(in_place)

    def forward(self, x, y):
        return [act(self.op(x, y)) for act in self.activations]


def model(name, *shapes):
    def add(make):
        MODELS[name] = (make, shapes)
        return make

    return add


model("conv1d", (1, 2, 5))(lambda: Layers(lambda: nn.Conv1d(2, 3, 2, bias=False), in_place=True))
model("conv2d", (1, 2, 4, 4))(lambda: Layers(lambda: nn.Conv2d(2, 3, 2)))
model("conv3d", (1, 2, 3, 3, 3))(lambda: Layers(lambda: nn.Conv3d(2, 2, 2, bias=False)))
model("linear", (2, 4))(lambda: Layers(lambda: nn.Linear(4, 3), in_place=True))
model("add", (2, 4), (2, 4))(lambda: Binaries(torch.add))
model("mul", (2, 4), (2, 4))(lambda: Binaries(torch.mul, in_place=True))
model("matmul", (4, 4), (4, 4))(lambda: Binaries(torch.matmul))


@model("normed", (2, 4, 6))
class normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.an = nn.Conv1d(4, 4, 1), nn.BatchNorm1d(4)
        self.b, self.bn = nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4)
        self.c, self.cn = nn.Conv3d(4, 4, 1), nn.BatchNorm3d(4)
        self.d, self.dn = nn.Linear(6, 4), nn.BatchNorm1d(4)
        self.e, self.en = nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x):
        y = self.an(self.a(x))
        y = F.silu(self.bn(self.b(y.unsqueeze(-1))))
        y = F.leaky_relu(self.cn(self.c(y.unsqueeze(-1))))
        y = torch.sigmoid(self.dn(self.d(y.squeeze(-1).squeeze(-1)).mean(1)))
        return self.en(self.e(y))


@model("residual", (1, 3, 8, 8))
class residual(nn.Module):
    """Sums between convolutions, numbers beside tensors, activations in an order other than the quantizer's."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, 1, 1, groups=4, bias=False), nn.BatchNorm2d(4)
        self.conv3, self.conv4, self.conv5 = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(4, 5)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(x + self.bn2(self.conv2(F.hardtanh(self.conv3(x), 0.0, 6.0))))
        x = torch.sigmoid(self.conv4(x)) * x
        x = F.relu6(self.conv5(torch.tanh(x * 0.5 + x)) + 1)
        return self.head(torch.flatten(self.pool(x), 1))


@model("pools", (2, 2, 8), (2, 2, 8, 8), (2, 2, 4, 4, 4))
class pools(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv1d(2, 2, 1), nn.Conv2d(2, 2, 1), nn.Conv3d(2, 2, 1)
        self.m1, self.m2, self.m3 = nn.MaxPool1d(2, 2), nn.MaxPool2d(2, 2), nn.MaxPool3d(2, 2)
        self.p1, self.p2, self.p3 = nn.AvgPool1d(2), nn.AvgPool2d(2), nn.AvgPool3d(2)
        self.a1, self.a2, self.a3 = nn.AdaptiveAvgPool1d(2), nn.AdaptiveAvgPool2d(2), nn.AdaptiveAvgPool3d(2)
        self.flat, self.head = nn.Flatten(), nn.Linear(4, 3)

    def forward(self, x, y, z):
        raw = self.m1(x)
        x, y, z = F.relu(self.a(x)), self.b(y), torch.sigmoid(self.c(z))
        one = self.p1(F.adaptive_avg_pool1d(F.max_pool1d(x, 2, 2), 4)), self.a1(self.m1(x)), torch.mean(x, 2), F.avg_pool1d(x, 2)
        two = self.p2(F.adaptive_avg_pool2d(F.max_pool2d(y, 2, 2), 4)), self.a2(self.m2(y)), torch.mean(y, (2, 3)), F.avg_pool2d(y, 2)
        three = self.p3(self.a3(F.max_pool3d(z, 2, 2))), F.adaptive_avg_pool3d(self.m3(z), 1), torch.mean(z, 1), F.avg_pool3d(z, 2)
        return raw, one, two, three, self.head(self.flat(one[1])), torch.flatten(three[0], 1)


@model("mlp", (2, 6))
class mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.act = nn.Linear(6, 8), nn.Linear(8, 6), nn.Linear(6, 4), nn.ReLU()

    def forward(self, x):
        return self.c(self.b(self.act(self.a(x))) + x)


@model("others", (1, 2, 8, 8))
class others(nn.Module):
    """What lowbit means to do in another way."""

    def __init__(self):
        super().__init__()
        self.padded, self.twice = nn.Conv2d(2, 2, 3, padding="same"), nn.Conv2d(2, 2, 1)

    def forward(self, x):
        x = self.padded(F.relu(self.twice(x)))
        y = F.max_pool2d(F.avg_pool2d(F.gelu(self.twice(x)), 2), 2, 2)
        return y, x.mean((2, 3))


# ---- configurations ----

PLAIN = {"quantization_scheme": "symmetric"}
WEIGHTS = PLAIN | {"activation_dtype": "float32"}
UNSIGNED = PLAIN | {"weight_dtype": "quint8", "weight_per_channel": False}


def cases():
    for name in MODELS:
        yield name, name, {"global_config": PLAIN}
    yield "residual_affine", "residual", {"global_config": {"quantization_scheme": "affine"}}
    yield "residual_simulated", "residual", {"global_config": PLAIN}
    for case, config in {
        "per_tensor": PLAIN | {"weight_per_channel": False},
        "weights": WEIGHTS,
        "min_max": PLAIN | {"weight_observer": "min_max", "activation_observer": "min_max"},
        "uint8": UNSIGNED,
        "int4": PLAIN | {"weight_dtype": "qint4"},
        "float": PLAIN | {"weight_dtype": "float32"},
    }.items():
        yield f"mlp_{case}", "mlp", {"global_config": config}
    yield "mlp_type_float", "mlp", {"global_config": PLAIN, "module_type_configs": {"Linear": None}}
    yield "mlp_type_weights", "mlp", {"global_config": PLAIN, "module_type_configs": {"Linear": WEIGHTS}}
    yield "mlp_type_only", "mlp", {"module_type_configs": {"Linear": UNSIGNED}}
    yield "mlp_name_float", "mlp", {"global_config": PLAIN, "module_name_configs": {"b": None}}
    yield "mlp_name_before_type", "mlp", {"module_type_configs": {"Linear": PLAIN}, "module_name_configs": {"a": None}}
    yield "mlp_name_weights", "mlp", {"global_config": PLAIN, "module_name_configs": {"b": WEIGHTS}}


def remember_patterns():
    """The quantizer exports some 400 patterns at each call: they are kept, and copied, since matching changes them."""
    for name in ("get_conv_pattern", "get_conv_bn_pattern", "get_linear_pattern", "get_linear_bn_pattern", "get_binary_op_act_pattern"):
        made = functools.lru_cache(None)(getattr(patterns, name))
        setattr(patterns, name, lambda *args, made=made, **kwargs: copy.deepcopy(made(*args, **kwargs)))


def shorten(file):
    """Leaves out what says nothing: constants have no place in a graph, and specs of nothing are none."""
    case = json.loads(file.read_text())
    for graph in ("fused_graph", "converted_graph"):
        case[graph] = [{k: v for k, v in n.items() if v != {}} for n in case[graph] if n["op"] != "get_attr"]
    for a in case["annotations"]:
        a["inputs"] = [i for i in a["inputs"] if i["spec"]]
        a.pop("allow_implicit_sharing", None)
        for spec in (a["output"], *(i["spec"] for i in a["inputs"])):
            if spec:
                spec.pop("is_dynamic", None)
                spec.get("observer", {}).pop("args", None)
    case["annotations"] = [a for a in case["annotations"] if a["inputs"] or a["output"]]
    file.write_text(text(case, separators=(",", ":")))


def export(name):
    make, shapes = MODELS[name]
    torch.manual_seed(0)
    calls = [[randn(*s, seed=10 * k + i, scale=0.5 + 0.25 * k) for i, s in enumerate(shapes)] for k in range(CALLS)]
    return torch.export.export(lively(make()), tuple(calls[0]), strict=True), calls


def main():
    warnings.simplefilter("ignore")
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    remember_patterns()
    for name in MODELS:
        exported, calls = export(name)
        if isinstance(MODELS[name][0](), (Layers, Binaries)):  # no configuration asks for their modules
            for node in exported.graph.nodes:
                node.meta.pop("nn_module_stack", None)
        save(exported, OUT / f"{name}.pt2")
        np.savez_compressed(OUT / f"{name}.npz", **{f"in{i}": torch.stack(x).numpy() for i, x in enumerate(zip(*calls))})
    for case, name, config in cases():
        exported, calls = export(name)
        quantizer = CoreMLQuantizer(LinearQuantizerConfig.from_dict(copy.deepcopy(config)))
        # Observers here watch values that are rounded already, layer by layer, unless that is turned off.
        ready = (lambda gm: None) if case == "residual_simulated" else (lambda gm: gm.apply(disable_fake_quant))
        recipe = {"class": "CoreMLQuantizer", "config": config}
        record(OUT / case, name, exported.module(), calls, quantizer, recipe, ready)
        shorten(OUT / case / "case.json")
        print(case, flush=True)


if __name__ == "__main__":
    main()
