"""Writes weights.npz and weights.json: what torchao's quantize_() makes of weights.

weights.json: `quantized` lists {config, …settings, weight, qdata, scale, zero_point} and, where inputs are quantized as well or what
comes out is of interest, {input, output} of a linear layer. `hqq` lists {bits, group, weight, qdata, scale, zero_point} of the search
for zero points (compute_dtype float32). `tinygemm` lists {group, weight, qdata, values} of Int4WeightOnlyConfig's arithmetic, in integers from
0 up, without its packing. `codebooks` lists {bits, block_size, weight, codes, codebook, values, error}: the tables that
scikit-learn's k-means finds, what they stand for, and the sum of squared errors. Values are names of arrays; bf16 arrays are stored
as f32 and named in `bf16`.

Left out, because lowbit means to differ: scales of half weights that torchao computes in the weight's type and stores in a wider one
(Int8WeightOnlyConfig), and affine parameters of half weights, which it rounds at every step. Here they are computed in f32.

Needs tests/conformance/requirements.txt, coremltools and scikit-learn. `python weights.py` in any folder.
"""

import itertools
import json
import warnings
from pathlib import Path

import numpy as np
import torch
from torchao.prototype.quantization.codebook_coreml import choose_qparams_and_quantize_codebook_coreml, dequantize_codebook
from torchao.quantization import (
    Int8DynamicActivationIntxWeightConfig,
    Int8WeightOnlyConfig,
    IntxWeightOnlyConfig,
    MappingType,
    PerAxis,
    PerGroup,
    quantize_,
)
from torchao.quantization.quant_primitives import (
    _choose_qparams_affine_tinygemm,
    _choose_qparams_and_quantize_affine_hqq,
    _dequantize_affine_tinygemm,
    _quantize_affine_tinygemm,
)

HERE = Path(__file__).resolve().parent
ARRAYS, NAMES, BF16 = {}, {}, []


def stored(tensor):
    """The name of an array with these very bits."""
    half = tensor.dtype == torch.bfloat16
    a = tensor.detach().contiguous().to(torch.float32 if half else tensor.dtype).numpy()
    key = (str(tensor.dtype), a.shape, a.tobytes())
    if key not in NAMES:
        NAMES[key] = f"a{len(NAMES)}"
        ARRAYS[NAMES[key]] = a
        if half:
            BF16.append(NAMES[key])
    return NAMES[key]


def random(*shape, seed):
    """Numbers like those of a trained layer: rows of different spread, a few outliers."""
    g = torch.Generator().manual_seed(seed)
    spread = torch.rand(shape[0], *[1] * (len(shape) - 1), generator=g) + 0.1
    x = torch.randn(shape, generator=g) * spread * 0.2
    x[0].flatten()[:3] = torch.tensor([1.5, -2.0, 0.0])
    x[1] = x[1].abs()
    x[2] = 0.0
    return x


WEIGHTS = {"f32": random(6, 64, seed=0), "conv": random(5, 8, 3, 3, seed=1)}
WEIGHTS |= {"f16": WEIGHTS["f32"].half(), "bf16": WEIGHTS["f32"].bfloat16()}
INPUT = torch.randn(3, 64, generator=torch.Generator().manual_seed(2))


def layer(weight):
    if weight.dim() == 4:
        m = torch.nn.Conv2d(weight.shape[1], weight.shape[0], 3)
    else:
        m = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    m.weight = torch.nn.Parameter(weight.clone())
    return m


def quantized():
    def case(name, config, settings, output=False):
        m = layer(WEIGHTS[name])
        quantize_(m, config, filter_fn=lambda *_: True)
        w = m.weight
        out = {"weight": stored(WEIGHTS[name]), "qdata": stored(w.qdata), "scale": stored(w.scale), "zero_point": stored(w.zero_point)}
        if output:
            out |= {"input": stored(INPUT), "output": stored(m(INPUT))}
        return {"config": type(config).__name__, **settings, **out}

    yield case("f32", Int8WeightOnlyConfig(), {}, output=True)
    mappings = [MappingType.SYMMETRIC, MappingType.SYMMETRIC_NO_CLIPPING_ERR, MappingType.ASYMMETRIC]
    half = {None: None, torch.bfloat16: "bf16", torch.float16: "f16"}
    every = itertools.product(["f32", "f16", "bf16", "conv"], range(1, 9), [None, 4, 32], mappings, half)
    for name, bits, group, mapping, scale in every:
        if name == "conv" and group == 32 or scale and (bits != 4 or name != "f32") or bits in (3, 5, 6, 7) and group == 32:
            continue
        if bits == 1 and mapping == MappingType.SYMMETRIC_NO_CLIPPING_ERR or "f16" in name and mapping == MappingType.ASYMMETRIC:
            continue
        granularity = PerGroup(group) if group else PerAxis(0)
        settings = {"bits": bits, "group": group, "mapping": mapping.name, "scale_dtype": half[scale], "search": False}
        config = IntxWeightOnlyConfig(getattr(torch, f"int{bits}"), granularity, mapping, scale)
        yield case(name, config, settings)
        if name == "f32" and bits in (4, 8) and mapping == MappingType.SYMMETRIC:
            config = Int8DynamicActivationIntxWeightConfig(getattr(torch, f"int{bits}"), granularity, mapping, scale)
            yield case(name, config, settings, output=True)
    for bits, group in itertools.product([2, 4, 8], [None, 32]):
        settings = {"bits": bits, "group": group, "mapping": "SYMMETRIC", "scale_dtype": None, "search": True}
        granularity = PerGroup(group) if group else PerAxis(0)
        algorithm = {"intx_choose_qparams_algorithm": "hqq_scale_only"}
        yield case("f32", IntxWeightOnlyConfig(getattr(torch, f"int{bits}"), granularity, **algorithm), settings)


def hqq():
    # Rows without any spread have no scale in lowbit, and the largest one there.
    weight = torch.cat([WEIGHTS["f32"][:2], WEIGHTS["f32"][3:]])
    for bits, group in itertools.product([2, 4, 8], [16, 64]):
        q, scale, zero, _ = _choose_qparams_and_quantize_affine_hqq(
            weight, bits, group, compute_dtype=torch.float32, device="cpu", raw_output=True
        )
        named = {"weight": stored(weight), "qdata": stored(q), "scale": stored(scale), "zero_point": stored(zero)}
        yield {"bits": bits, "group": group, **named}


def tinygemm():
    weight = WEIGHTS["f32"]
    for group in (32, 64):
        block, bounds = (1, group), (torch.int32, 0, 15)
        scale, zero = _choose_qparams_affine_tinygemm(weight, MappingType.ASYMMETRIC, block, *bounds)
        q = _quantize_affine_tinygemm(weight, block, scale, zero, *bounds)
        values = _dequantize_affine_tinygemm(q, block, scale, zero, *bounds)
        yield {"group": group, "weight": stored(weight), "qdata": stored(q), "values": stored(values)}


def codebooks():
    weight = WEIGHTS["f32"]
    for bits, block in itertools.product([1, 2, 4, 6], [[-1, -1], [-1, 16], [2, -1]]):
        codebook, codes = choose_qparams_and_quantize_codebook_coreml(weight, getattr(torch, f"uint{bits}"), block)
        values = dequantize_codebook(codes.to(torch.int32), codebook, bits, block)
        named = {"weight": stored(weight), "codes": stored(codes), "codebook": stored(codebook), "values": stored(values)}
        error = float(((weight.double() - values.double()) ** 2).sum())
        yield {"bits": bits, "block_size": block, **named, "error": error}


def main():
    warnings.simplefilter("ignore")
    parts = {"quantized": quantized, "hqq": hqq, "tinygemm": tinygemm, "codebooks": codebooks}
    tables = {name: list(part()) for name, part in parts.items()}
    lines = [f'"{k}": [\n' + ",\n".join(json.dumps(row) for row in rows) + "\n]" for k, rows in tables.items()]
    lines.append(f'"bf16": {json.dumps(BF16)}')
    (HERE / "weights.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    np.savez_compressed(HERE / "weights.npz", **ARRAYS)
    print({k: len(v) for k, v in tables.items()}, len(ARRAYS), "arrays")


if __name__ == "__main__":
    main()
