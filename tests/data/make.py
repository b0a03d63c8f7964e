"""Writes the cases of this folder: python make.py [NAME…]

    <case>/model.pt2      a program
    <case>/io.npz         in0, in1, …: one call's inputs; out0, out1, …: eager PyTorch's outputs
    <case>/case.json      its operators and the version that wrote it; "error": importing fails with these words (no io.npz then)

Needs tests/conformance/requirements.txt. Stack traces and sample inputs are left out of the programs, to keep them small.
"""

import copy
import json
import pathlib
import shutil
import sys
import warnings

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim

HERE = pathlib.Path(__file__).resolve().parent
CASES = {}


def randn(*shape, seed=0, scale=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def case(*inputs, traced=None, dynamic=None, core=False, error=None):
    """`traced`: inputs to export with, when they are other than those of io.npz; `core`: also after run_decompositions()."""

    def add(cls):
        CASES[cls.__name__] = (cls, inputs, traced or inputs, dynamic, core, error)
        return cls

    return add


# ---- convolutional ----


@case(randn(1, 3, 12, 12), core=True)
class conv_bn_relu(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 6, 3, stride=2), nn.BatchNorm2d(6)

    def forward(self, x):
        return self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))


@case(randn(1, 8, 9, 9))
class mobile_block(nn.Module):
    """Inverted residual with squeeze and excitation."""

    def __init__(self):
        super().__init__()
        self.grow, self.deep, self.back = nn.Conv2d(8, 16, 1), nn.Conv2d(16, 16, 5, 1, 2, groups=16), nn.Conv2d(16, 8, 1)
        self.bn, self.less, self.more = nn.BatchNorm2d(16), nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)

    def forward(self, x):
        y = F.hardswish(self.bn(self.deep(F.relu6(self.grow(x)))))
        y = y * F.hardsigmoid(self.more(F.relu(self.less(F.adaptive_avg_pool2d(y, 1)))))
        return x + self.back(y)


@case(randn(1, 3, 15, 15), core=True)
class detector_head(nn.Module):
    """PReLU, a ceil-mode pool, permute into a flatten, two outputs."""

    def __init__(self):
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 8, 3), nn.PReLU(8)
        self.score, self.box = nn.Linear(8 * 36, 2), nn.Linear(8 * 36, 4)

    def forward(self, x):
        x = F.max_pool2d(self.act(self.conv(x)), 3, 2, ceil_mode=True)
        x = x.permute(0, 3, 2, 1).contiguous().view(x.shape[0], -1)
        return F.softmax(self.score(x), 1), self.box(x)


@case(randn(2, 6, 20), randn(1, 4, 5, 5, seed=1))
class transposed_and_1d(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.up = nn.Conv1d(6, 8, 3, dilation=2, groups=2), nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1, groups=2)
        self.pool = nn.AvgPool1d(2)

    def forward(self, x, y):
        return self.pool(F.elu(self.conv(x))), torch.sigmoid(self.up(y))


# ---- dense, recurrent, attention ----


@case(randn(4, 10), core=True)
class linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(10, 16), nn.Linear(16, 16, bias=False), nn.Linear(16, 3)

    def forward(self, x):
        return F.log_softmax(self.c(torch.tanh(self.b(F.gelu(self.a(x))))), -1)


@case(randn(5, 3, 8, 8), traced=(randn(2, 3, 8, 8),), dynamic=({0: Dim("batch", min=1, max=32)},))
class dynamic_batch(nn.Module):
    """Exported with a batch of two, called with five."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.head = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Linear(54, 4)

    def forward(self, x):
        y = F.max_pool2d(F.relu(self.bn(self.conv(x))), 2)
        return self.head(y.reshape(x.shape[0], -1)), y.mean((2, 3)) / x.shape[0]


@case(randn(1, 7, 5), core=True)
class lstm(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.LSTM(5, 6, num_layers=2, batch_first=True, bidirectional=True), nn.Linear(12, 3)

    def forward(self, x):
        y, (h, c) = self.rnn(x)
        return self.head(y[:, -1]), h, c


@case(randn(2, 4, 6), torch.tensor([0.3]))
class gru(nn.Module):
    """With an initial state made from an input."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(6, 5)

    def forward(self, x, level):
        y, h = self.rnn(x, (level * 2).expand(1, x.shape[1], 5).contiguous())
        return y, h


@case(randn(1, 6, 16), torch.tensor([[True, True, True, True, False, False]]), core=True)
class attention(nn.Module):
    """A transformer block: layer norm, masked scaled-dot-product attention, gated feed-forward."""

    def __init__(self):
        super().__init__()
        self.norm1, self.qkv, self.out = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.norm2, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 64), nn.Linear(32, 16)

    def forward(self, x, mask):
        q, k, v = (t.view(1, 6, 4, 4).transpose(1, 2) for t in self.qkv(self.norm1(x)).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        x = x + self.out(y.transpose(1, 2).reshape(1, 6, 16))
        gate, value = self.up(self.norm2(x)).split(32, -1)
        return x + self.down(F.silu(gate) * value)


@case(torch.tensor([[3, 1, 4, 1, 5]]))
class tokens(nn.Module):
    """Integers in, integers out."""

    def __init__(self):
        super().__init__()
        self.words, self.places, self.head = nn.Embedding(9, 8), nn.Embedding(5, 8), nn.Linear(8, 9)

    def forward(self, ids):
        x = self.words(ids) + self.places(torch.arange(ids.shape[1]))
        logits = self.head(torch.where((ids == 1)[..., None], x * 0.5, x))
        return logits, logits.argmax(-1), ids.cumsum(-1) // 2


# ---- state, aliasing, many results ----


@case(randn(1, 3, 4), core=True)
class buffer_mutation(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(1, dtype=torch.long))
        self.register_buffer("mean", torch.ones(3, 4))
        self.register_buffer("window", torch.zeros(1, 5, 4))
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        self.count += 1
        self.mean.mul_(0.9).add_(0.1 * x[0])
        self.window.copy_(torch.cat([self.window[:, 3:], x], 1))
        return self.linear(self.window) + self.mean.sum(), self.count * 2


@case(randn(3, 4), randn(4, 6, seed=1), core=True)
class in_place_views(nn.Module):
    """Writes through views: a column, a reshaped view, rows of an unbind, a transposed one; none reaches the inputs."""

    def forward(self, x, y):
        x = x * 1
        x[:, 0].add_(10)
        flat = x.view(2, 6)
        flat.relu_()
        z = y.clone()
        a, b = z.chunk(2, 1)
        a.t().mul_(2)
        z.unbind(0)[3].zero_()
        b[1:3, ::2] = -1.0
        return x, flat, z, a


@case(randn(2, 6, 5))
class many_results(nn.Module):
    def forward(self, x):
        a, b, c = x.split([1, 2, 3], 1)
        first, second = x.chunk(2, 0)
        largest, where = x.topk(2, -1)
        best, index = x.max(1)
        least, _ = x.min(2, keepdim=True)
        order = x[0, 0].sort(descending=True)
        return [a + first, b, c, second, *x.unbind(2), largest, where, best, index, least, order.values, order.indices]


@case(randn(3, 3))
class borders(nn.Module):
    """An output that repeats, one that is a constant, one that is a view of another."""

    def __init__(self):
        super().__init__()
        self.register_buffer("fixed", torch.arange(4.0))

    def forward(self, x):
        y = x + 1
        return y, y, y.t(), self.fixed


# ---- weights ----


@case(randn(2, 8))
class tied_weights(nn.Module):
    """One weight under two names, and transposed in a third place."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
        self.b.weight = self.a.weight

    def forward(self, x):
        return F.relu(self.b(F.relu(self.a(x)))) @ self.a.weight


@case(randn(2, 8))
class half_weights(nn.Module):
    """float16 and bfloat16 weights that are widened where they are used."""

    def __init__(self):
        super().__init__()
        self.f16 = nn.Parameter(randn(8, 8, scale=0.3).half())
        self.bf16 = nn.Parameter(randn(8, 6, seed=1, scale=0.3).bfloat16())
        self.register_buffer("shift", randn(6, seed=2).double())

    def forward(self, x):
        return torch.relu(x @ self.f16.float()) @ self.bf16.to(torch.float32) + self.shift.float()


@case(randn(2, 8))
class integer_weights(nn.Module):
    def __init__(self):
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.register_buffer("i8", torch.randint(-128, 128, (4, 8), dtype=torch.int8, generator=g))
        self.register_buffer("u8", torch.randint(0, 256, (4,), dtype=torch.uint8, generator=g))
        self.register_buffer("i16", torch.randint(-300, 300, (4,), dtype=torch.int16, generator=g))
        self.register_buffer("i32", torch.randint(-300, 300, (4,), dtype=torch.int32, generator=g))
        self.register_buffer("order", torch.tensor([3, 0, 1, 2]))
        self.register_buffer("keep", torch.tensor([True, False, True, True]))

    def forward(self, x):
        y = F.linear(x, (self.i8.float() - 3) * 0.02)
        y = y * self.u8 + self.i16 - self.i32 / 7
        return torch.where(self.keep, y, 0.0)[:, self.order], self.i32 + self.i16, ~self.keep


@case(randn(2, 4))
class lifted_constants(nn.Module):
    """Tensors written in forward: literals, numbers, a scalar, an integer list."""

    def forward(self, x):
        table = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.5, 0.25, 0.0, -1.0]])
        picked = x[:, torch.tensor([2, 0, 3])]
        return x * table + torch.tensor(0.125), picked - 1.5, torch.pow(2.0, picked), x.clamp(-0.5, 0.5) / 3


# ---- refused ----


@case(randn(4, 4), error="aten.linalg_svd.default")
class unknown_operator(nn.Module):
    """Two unknown operators, in named modules: one error names both."""

    def __init__(self):
        super().__init__()
        self.before = nn.Linear(4, 4)
        self.decompose = Svd()

    def forward(self, x):
        return self.decompose(self.before(x)) + torch.linalg.det(x)


class Svd(nn.Module):
    def forward(self, x):
        return torch.linalg.svd(x)[1]


# ---- writing ----


def lively(net):
    """Batch norms with statistics that are not those of a new network."""
    for i, norm in enumerate(m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)):
        n = norm.num_features
        norm.running_mean.copy_(randn(n, seed=i, scale=0.3))
        norm.running_var.copy_(0.5 + torch.rand(n, generator=torch.Generator().manual_seed(i)))
        with torch.no_grad():
            norm.weight.copy_(1 + randn(n, seed=i + 100, scale=0.2))
            norm.bias.copy_(randn(n, seed=i + 200, scale=0.2))
    return net.eval()


def save(exported, path):
    for graph in exported.graph_module.modules():
        for node in getattr(graph, "graph", exported.graph).nodes:
            for key in ("stack_trace", "from_node", "torch_fn", "source_fn_stack"):
                node.meta.pop(key, None)
    exported._example_inputs = None
    torch.export.save(exported, path)


def npz(path, **arrays):
    np.savez_compressed(path, **arrays)


def operators(graph):
    return sorted({str(n.target) for n in graph.nodes if n.op == "call_function"})


def fresh(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def write_case(name):
    cls, inputs, traced, dynamic, core, error = CASES[name]
    torch.manual_seed(0)
    net = lively(cls())
    exported = torch.export.export(net, traced, dynamic_shapes=dynamic, strict=False)
    forms = {name: exported} | ({f"{name}_core": exported.run_decompositions()} if core else {})
    arrays = {f"in{i}": x.numpy() for i, x in enumerate(inputs)}
    with torch.no_grad():  # of a copy: the exported program shares the buffers
        results = torch.utils._pytree.tree_leaves(copy.deepcopy(net)(*[x.clone() for x in inputs]))
    arrays |= {f"out{i}": x.numpy() for i, x in enumerate(results)}
    for form, program in forms.items():
        folder = fresh(HERE / form)
        description = {"name": form, "ops": operators(program.graph), "torch": version()}
        if error:
            description["error"] = error
        else:
            npz(folder / "io.npz", **arrays)
        (folder / "case.json").write_text(json.dumps(description, indent=1) + "\n")
        save(program, folder / "model.pt2")


def version():
    return torch.__version__.split("+")[0]


def main():
    warnings.simplefilter("ignore")
    for name in sys.argv[1:] or CASES:
        write_case(name)
        print(name, flush=True)


if __name__ == "__main__":
    main()
