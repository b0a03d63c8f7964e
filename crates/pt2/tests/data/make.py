"""Writes the .pt2 files of this folder: python make.py (PyTorch 2.13). The .ir files beside them are what lowbit makes of
them: UPDATE_EXPECT=1 cargo test -p lowbit-pt2. Stack traces and sample inputs are left out, to keep the files small."""

import pathlib
import zipfile

import torch
from torch import nn
from torch.export import Dim, export, save

HERE = pathlib.Path(__file__).parent
CASES = {}


def case(*inputs, dynamic=None, core=False):
    """`core`: also the form that run_decompositions() leaves."""

    def add(cls):
        CASES[cls.__name__] = (cls, inputs, dynamic, core)
        return cls

    return add




@case(torch.zeros(4, 6), core=True)
class view_writes(nn.Module):
    """Writes through views reach the base, siblings and views of views."""

    def forward(self, x):
        y = x * 1
        flat, turned, row = y.view(2, 12), y.t(), y[1]
        turned.mul_(3)
        row.zero_()
        flat[:, ::3].add_(7.0)
        return flat, turned, row, y


@case(torch.zeros(4, 6))
class reshape_copies(nn.Module):
    """A reshape is a view or a copy, depending on strides."""

    def forward(self, x):
        y = x + 0
        copy = y.t().reshape(24)
        copy.add_(1)
        view = y.reshape(24)
        view.mul_(2)
        return y, copy, view


@case(torch.zeros(4, 6))
class pieces(nn.Module):
    """Writes into the results of multi-output operators."""

    def forward(self, x):
        y = x + 0
        a, b = y.chunk(2, 1)
        _, d, _ = y.split([1, 2, 3], 1)
        u = y.unbind(0)
        a.add_(1)
        d.mul_(2)
        u[3].zero_()
        return y, b, u[3]


@case(torch.zeros(3, 4), core=True)
class buffers(nn.Module):
    """Buffers keep what is written into them; one is not persistent."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(1, dtype=torch.long))
        self.register_buffer("cache", torch.zeros(3, 4))
        self.register_buffer("last", torch.ones(4), persistent=False)

    def forward(self, x):
        self.count.add_(1)
        self.cache[0] = x[1]
        self.last.copy_(x.sum(0))
        return x + self.cache


@case(torch.zeros(3, 4), torch.zeros(3, 4), core=True)
class input_writes(nn.Module):
    """The caller's tensors are overwritten."""

    def forward(self, x, y):
        x[:, 1].add_(3)
        y.mul_(x)
        return x - y, x


@case(torch.zeros(3, 4))
class shape_in_place(nn.Module):
    """In-place operators that change the shape only."""

    def forward(self, x):
        y = x + 0
        y.unsqueeze_(0)
        y.transpose_(1, 2)
        y.squeeze_(0)
        y.add_(1)
        return y


@case(torch.zeros(3, 4, dtype=torch.float16))
class numbers(nn.Module):
    """Python numbers where schemas say Tensor; an in-place operator keeps its operand's type."""

    def forward(self, x):
        y = x + 0.5
        y.add_(torch.ones(3, 4))
        return y, 1 / y, y**2, y.to(torch.int32) // 2, torch.where(y > 0, y, 0.0), torch.maximum(y, y * 3)


@case(torch.zeros(6, 4), dynamic=({0: Dim("batch", min=2, max=64)},), core=True)
class dynamic(nn.Module):
    """Sizes that follow from the batch."""

    def __init__(self):
        super().__init__()
        self.l = nn.Linear(4, 5)

    def forward(self, x):
        n = x.shape[0]
        y = self.l(x)
        return y.reshape(n * 5), torch.cat([y, y]), x.new_zeros(n + 1, 2 * n - 1), y.view(n, -1, 1).expand(n, 5, 2), n


@case(torch.zeros(4, 6), dynamic=({0: 2 * Dim("half", max=100)},))
class derived(nn.Module):
    """An input size that is a formula."""

    def forward(self, x):
        return x[::2] + x[1::2]


@case(torch.zeros(4, 6))
class regions(nn.Module):
    """Regions under a setting become part of the graph; writes reach across their border."""

    def forward(self, x):
        with torch.no_grad():
            y = x * 2
            y.add_(1)
        with torch.autocast("cpu", enabled=False):
            z = y @ x.t()
        y[0].mul_(2)
        return y, z


@case(torch.zeros(2, 4))
class weights(nn.Module):
    """Views of one storage, every element type, a literal, a tied pair, an empty one."""

    def __init__(self):
        super().__init__()
        base = torch.arange(48.0).reshape(8, 6)
        self.cut = nn.Parameter(base[2:6, 1:5].detach())
        self.turned = nn.Parameter(base.t()[:4].detach())
        self.one = nn.Linear(4, 4, bias=False)
        self.two = nn.Linear(4, 4, bias=False)
        nn.init.eye_(self.one.weight)
        self.two.weight = self.one.weight
        self.register_buffer("wide", torch.arange(4.0).reshape(4, 1).expand(4, 3))
        self.register_buffer("f16", torch.arange(4).half())
        self.register_buffer("bf16", torch.arange(4).bfloat16())
        self.register_buffer("f64", torch.arange(4).double())
        self.register_buffer("i8", torch.arange(4).to(torch.int8))
        self.register_buffer("mask", torch.tensor([True, False, True, False]))
        self.register_buffer("none", torch.zeros(0, 4))

    def forward(self, x):
        y = self.two(self.one(x)) @ self.cut + torch.tensor([1.0, 2.0, 3.0, 4.0])
        y = (y * self.f16 * self.bf16 * self.i8).where(self.mask, y)
        return y @ self.turned, y @ self.wide, y * self.f64, torch.cat([y, self.none])


@case(torch.zeros(2, 4), 3, None, "mode")
class borders(nn.Module):
    """Inputs that are no tensors; outputs that repeat, are inputs, are numbers or nothing."""

    def forward(self, x, n, z, mode):
        y = x * n
        return {"y": y, "again": y, "x": x, "z": z, "n": n, "view": y.view(8), "parts": list(y.unbind(0))}


@case(torch.zeros(1, 5, 4))
class recurrent(nn.Module):
    """Operators with several results and lists of operands."""

    def __init__(self):
        super().__init__()
        self.l = nn.LSTM(4, 3, batch_first=True)

    def forward(self, x):
        y, (h, _) = self.l(x)
        values, _ = y.topk(2)
        return values, h


def strip(path):
    with zipfile.ZipFile(path) as z:
        entries = [(i, z.read(i)) for i in z.infolist() if "sample_inputs" not in i.filename]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as z:
        for info, data in entries:
            z.writestr(zipfile.ZipInfo(info.filename), data)


def main():
    for name, (cls, inputs, dynamic, core) in CASES.items():
        torch.manual_seed(0)
        program = export(cls().eval(), inputs, dynamic_shapes=dynamic, strict=False)
        forms = {name: program}
        if core:
            forms[name + "_core"] = program.run_decompositions()
        for file, form in forms.items():
            for module in form.graph_module.modules():
                for node in getattr(module, "graph", form.graph).nodes:
                    for key in ("stack_trace", "from_node", "torch_fn", "source_fn_stack"):
                        node.meta.pop(key, None)
            path = HERE / f"{file}.pt2"
            save(form, path)
            strip(path)


main()
