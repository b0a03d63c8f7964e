"""Writes intx.json, intx.npz and intx.pt2: weights and embeddings of few bits as torchao quantizes them.

Needs torch, torchao and executorch (numbers as of torch 2.13, torchao 0.18, executorch 1.4). Run in any folder: `python intx.py`.

intx.json: `tensors` lists {name, bits, group: elements or null (a row), symmetric}; arrays NAME.int, NAME.scale, NAME.zero are
what `IntxUnpackedToInt8Tensor.from_hp` makes of array `w`; NAME.table is the table as ExecuTorch's embedding kernels take it
and NAME.rows are the rows of array `indices`, as its operators dequantize them.

`networks` lists {name, recipe, options} for the program intx.pt2, whose embedding and output layer share a parameter: arrays
NAME.out are outputs for array `tokens` after `quantize_`, and NAME.PATH.int, NAME.PATH.scale what became of each module's weight.
"""

import copy
import json
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

warnings.simplefilter("ignore")

from executorch.exir.passes._quant_patterns_and_replacements import (  # noqa: E402  registers the operators
    _pack_embedding_weight,
)
from torchao.quantization import (  # noqa: E402
    Int8DynamicActivationIntxWeightConfig,
    IntxUnpackedToInt8Tensor,
    IntxWeightOnlyConfig,
    MappingType,
    quantize_,
)
from torchao.quantization.granularity import PerAxis, PerGroup  # noqa: E402

HERE = Path(__file__).parent
ARRAYS = {}


def weight():
    w = torch.randn(6, 64, generator=torch.Generator().manual_seed(0))
    w[0, 5] = 9.0  # an outlier
    w[1] = w[1].abs() + 0.5  # one side only
    w[2, 32:] = 0.0  # a group of zeros
    w[3] *= 1e-6
    w[4] = -w[4].abs()
    return w


def tensors():
    w, indices = weight(), torch.tensor([[5, 0], [2, 2]])
    ARRAYS.update(w=w, indices=indices)
    cases = []
    for bits in (8, 4, 2):
        for group in (None, 32, 8):
            for symmetric in (True, False):
                name = f"int{bits}.{group or 'row'}.{'symmetric' if symmetric else 'asymmetric'}"
                mapping = MappingType.SYMMETRIC if symmetric else MappingType.ASYMMETRIC
                dtype = getattr(torch, f"int{bits}")
                q = IntxUnpackedToInt8Tensor.from_hp(w, (1, group or 64), dtype, mapping_type=mapping)
                table = q.qdata if bits == 8 else _pack_embedding_weight(q.qdata, bits)
                operator = getattr(torch.ops.quantized_decomposed, f"embedding_{'byte' if bits == 8 else f'{bits}bit'}")
                zeros = q.zero_point.float() if q.zero_point.any() else None
                low = -(1 << (bits - 1))
                rows = operator.default(table, q.scale, zeros, low, -low - 1, indices)
                found = {"int": q.qdata, "scale": q.scale, "zero": q.zero_point, "table": table, "rows": rows}
                ARRAYS.update({f"{name}.{key}": value for key, value in found.items()})
                cases.append({"name": name, "bits": bits, "group": group, "symmetric": symmetric})
    return cases


class Net(nn.Module):
    """A language model of sorts; the weight of its last layer is that of its embedding."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(24, 64)
        self.up, self.gate, self.down = nn.Linear(64, 96), nn.Linear(64, 96, bias=False), nn.Linear(96, 64)
        self.head = nn.Linear(64, 24, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        x = self.embedding(tokens)
        return self.head(x + self.down(nn.functional.silu(self.gate(x)) * self.up(x)))


def networks():
    torch.manual_seed(0)
    net, tokens = Net().eval(), torch.tensor([[1, 7, 23, 0, 7], [4, 4, 19, 2, 11]])
    torch.export.save(torch.export.export(net, (tokens,)), HERE / "intx.pt2")
    ARRAYS["tokens"] = tokens
    cases = []
    for name, group, bits, row in [("groups", 32, 4, None), ("embedding_groups", 32, 8, 16), ("two_bits", 32, 2, 32)]:
        quantized = copy.deepcopy(net)
        config = Int8DynamicActivationIntxWeightConfig(weight_dtype=torch.int4, weight_granularity=PerGroup(group))
        quantize_(quantized, config)
        granularity = PerGroup(row) if row else PerAxis(0)
        config = IntxWeightOnlyConfig(weight_dtype=getattr(torch, f"int{bits}"), granularity=granularity)
        quantize_(quantized, config, lambda module, _: isinstance(module, nn.Embedding))
        with torch.no_grad():
            ARRAYS[f"{name}.out"] = quantized(tokens)
        for path, module in quantized.named_modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                ARRAYS[f"{name}.{path}.int"] = module.weight.qdata
                ARRAYS[f"{name}.{path}.scale"] = module.weight.scale
        options = {"embedding": f"int{bits}", "group-size": str(group)}
        options |= {"embedding-group-size": str(row)} if row else {}
        cases.append({"name": name, "recipe": "int8-dynamic-int4-per-group", "options": options})
    return cases


def main():
    cases = {"tensors": tensors(), "networks": networks()}
    (HERE / "intx.json").write_text(json.dumps(cases, indent=1) + "\n")
    np.savez_compressed(HERE / "intx.npz", **{name: x.detach().numpy() for name, x in ARRAYS.items()})


if __name__ == "__main__":
    main()
