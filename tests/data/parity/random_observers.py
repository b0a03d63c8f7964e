"""Writes what torchao's observers compute for random sequences of tensors: `random_observers.{json,npz}`.

Needs torch and torchao (numbers as of torch 2.13, torchao 0.18). `python random_observers.py` writes the small sample beside this
file; `python random_observers.py FOLDER 10000` writes 10,000 sequences, for `LOWBIT_OBSERVERS=FOLDER cargo test random_observers`.
In the environment, `FIRST` starts at another sequence and `ONLY` is a regular expression for
`HistogramObserver torch.int8` and the like.

The tensors are not stored: `tests/it/random_observers.rs` makes the same ones from the number of the sequence, by integer
arithmetic and single f32 operations. A sequence has 1 to 4 batches of up to 100,000 elements, of magnitudes from 1e-30 to 1e30:
two-sided, positive, negative, constant, half zero, with infinities, with an outlier, or growing.

random_observers.json: `first`, `count` and `configs`. The arrays `scale` (f32) and `zero` (f64) have a row for each sequence and the
columns of one configuration, as many as it has `parts`, after those of another; NaN where nothing was observed, and for the zero
points of `preserve_zero=False` observers, which have another meaning there. `counts` (f64) has a checksum of each sequence's
histogram, from every bit of it.

PyTorch's min-max observers get a copy of their block's first element (always finite) in place of infinities: there the scale would
become infinite, lowbit leaves such elements out, as both do in histograms.

PyTorch's own histograms depend on the processor where a range grows: without AVX2 (or with ATEN_CPU_CAPABILITY=default) its
`linspace` rounds differently, and an element may fall into the bin next to it.
"""

import itertools
import json
import os
import re
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from torchao.quantization import granularity as g
from torchao.quantization.pt2e import MappingType
from torchao.quantization.pt2e import _affine_quantization as affine
from torchao.quantization.pt2e import observer as ao
from torchao.quantization.pt2e.observer import ZeroPointDomain

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
I8, U8, I16, U16, I32 = torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32


def words(seed, start, count):
    """Random 64-bit words (splitmix64)."""
    z = np.uint64(seed) + (np.arange(start, start + count, dtype=np.uint64) + np.uint64(1)) * np.uint64(GOLDEN)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def sequence(k):
    """Batches as [4, 4 q] tensors, with the number of elements that observers of whole tensors see, and whether all have one shape."""
    head = [int(w) for w in words((k << 40) & MASK, 0, 16)]
    kind, batches, exponent, same = head[0] % 8, head[1] % 4 + 1, head[2] % 201 - 100, head[3] % 2 == 1
    mantissa = np.float32(1 + (head[4] >> 41) / 2**23)
    out = []
    for b in range(batches):
        w = head[8] if same else head[8 + b]
        q = min((w >> 8) % (1 << (w % 14)), 6250)
        size = 16 * q - (w >> 40) % 16 if q else 0
        w = words(((k << 40) + ((b + 1) << 32)) & MASK, 0, 16 * q)
        field = lambda i: ((w >> np.uint64(21 * i)) & np.uint64((1 << 21) - 1)).astype(np.int64)
        x = (field(0) + field(1) + field(2) - 3 * (1 << 20)).astype(np.float32) * np.float32(2.0**-20)
        if kind == 1:
            x = np.abs(x) + np.float32(0.5)
        elif kind == 2:
            x = -(np.abs(x) + np.float32(0.5))
        elif kind == 3:
            x = np.full_like(x, -1 if head[5] % 2 else 1)
        elif kind == 6:
            x = np.maximum(x, np.float32(0))
        elif kind == 7 and q:
            x[head[6] % (16 * q)] *= np.float32(64)
        x = x * mantissa
        x = x * np.float32(2.0 ** (exponent + (2 * b if kind == 5 else 0)))
        if kind == 4:
            at = (w % np.uint64(97) == 0) & (np.arange(16 * q) % max(q, 1) != 0)
            x[at] = np.where(w[at] >> np.uint64(63), np.float32(np.inf), np.float32(-np.inf))
        out.append((torch.from_numpy(x.reshape(4, 4 * q)), size))
    return out, same


TENSOR = ("per_tensor_affine", "per_tensor_symmetric")
CHANNEL = ("per_channel_affine", "per_channel_symmetric")
RANGES = [
    *((I8, -128, 127), (I8, -127, 127), (I8, -64, 63), (I8, -8, 7), (I8, -2, 1)),
    *((U8, 0, 255), (U8, 0, 127), (U8, 0, 15), (U8, 0, 3)),
    *((I16, -32768, 32767), (U16, 0, 65535), (I32, -(2**31), 2**31 - 1), (I32, -(2**20), 2**20)),
]
EPS = (2.0**-12, 2.0**-126)


def classic(cls, ranges, schemes, **more):
    for i, (r, qscheme) in enumerate(itertools.product(ranges, schemes)):
        yield {"observer": cls, "range": r, "qscheme": qscheme, "eps": EPS[i // 2 % 2], **more}


def configs():
    yield from classic("MinMaxObserver", RANGES, TENSOR)
    yield from classic("MovingAverageMinMaxObserver", RANGES[:6], TENSOR, averaging_constant=0.01)
    yield from classic("MovingAverageMinMaxObserver", RANGES[9:12], TENSOR, averaging_constant=0.3)
    yield from classic("PerChannelMinMaxObserver", RANGES, CHANNEL)
    yield from classic("PerChannelMinMaxObserver", [RANGES[5], RANGES[7]], ["per_channel_affine_float_qparams"])
    yield from classic("MovingAveragePerChannelMinMaxObserver", RANGES[:6], CHANNEL, averaging_constant=0.01)
    for bits in ((I8, -128, 127), (I8, -127, 127), (U8, 0, 255), (I16, -32768, 32767), (U16, 0, 65535), RANGES[11]):
        yield from classic("HistogramObserver", [bits], TENSOR, bins=2048)
    # "4": as many groups in a row, or blocks of two rows and a quarter of the columns.
    ranges = [r for r in RANGES if r[0] != U16 and r[1:] != (-64, 63)]
    for cls, blocks in [
        *(("AffineQuantizedMinMaxObserver", b) for b in ("PerTensor", "PerAxis", "PerRow", "PerToken", "PerGroup", "PerBlock")),
        *(("AffineQuantizedMovingAverageMinMaxObserver", b) for b in ("PerTensor", "PerToken")),
    ]:
        for r, mapping in itertools.product(ranges, ("SYMMETRIC", "SYMMETRIC_NO_CLIPPING_ERR", "ASYMMETRIC", "FLOAT")):
            # Without negative integers nothing negative can be left unclipped.
            if mapping == "SYMMETRIC_NO_CLIPPING_ERR" and r[1] == 0 or mapping == "FLOAT" and blocks not in ("PerAxis", "PerGroup"):
                continue
            yield {"observer": cls, "range": r, "mapping": mapping, "blocks": blocks, "eps": EPS[1]}


def parts(config):
    return {"PerGroup": 16, "PerBlock": 8}.get(config.get("blocks"), 4 if whole(config) is False else 1)


def whole(config):
    return "Channel" not in config["observer"] and config.get("blocks", "PerTensor") == "PerTensor"


def make(config, columns):
    dtype, low, high = config["range"]
    more = {k: config[k] for k in ("averaging_constant", "bins") if k in config}
    if "blocks" not in config:
        if (low, high) == (torch.iinfo(dtype).min, torch.iinfo(dtype).max):
            # Lowbit takes a whole range as one that was not asked for: the middle of uint8 is 128, not 127.
            low = high = None
        return getattr(ao, config["observer"])(
            dtype=dtype, quant_min=low, quant_max=high, qscheme=getattr(torch, config["qscheme"]), eps=config["eps"], **more
        )
    granularity = {
        "PerTensor": g.PerTensor,
        "PerAxis": lambda: g.PerAxis(0),
        "PerRow": lambda: g.PerRow(1),
        "PerToken": g.PerToken,
        "PerGroup": lambda: g.PerGroup(columns // 4),
        "PerBlock": lambda: g.PerBlock((2, columns // 4)),
    }[config["blocks"]]()
    fractional = config["mapping"] == "FLOAT"
    mapping = MappingType.ASYMMETRIC if fractional else MappingType[config["mapping"]]
    domain = {"preserve_zero": False, "zero_point_domain": ZeroPointDomain.FLOAT} if fractional else {}
    names = {"mapping_type": mapping, "target_dtype": dtype, "granularity": granularity, "quant_min": low, "quant_max": high}
    return getattr(affine, config["observer"])(**names, eps=config["eps"], averaging_constant=0.01, **domain)


def kind(config):
    """Observers that see the same ranges."""
    return (config["observer"], config.get("blocks"), config.get("averaging_constant"), config.get("bins") and config["range"][0].itemsize)


def search(o):
    """`_non_linear_param_search` with the cumulative counts in a NumPy array, whose elements compare as a tensor's do, but faster."""
    cumsum = torch.cumsum
    torch.cumsum = lambda x, dim: cumsum(x, dim=dim).numpy()
    try:
        return o._non_linear_param_search()
    finally:
        torch.cumsum = cumsum


def checksum(counts):
    bits = counts.numpy().view(np.uint32).astype(np.uint64)
    return float(int((bits * words(0, 0, bits.size)).sum(dtype=np.uint64)) >> 16)


def row(config, tensors, same, seen):
    """Scales and zero points of one sequence; `seen` remembers what observers of a kind have seen."""
    key = kind(config)
    columns = tensors[0][0].shape[1]
    o = make(config, columns)
    if key not in seen:
        grouped = config.get("blocks") in ("PerGroup", "PerBlock")
        calls = tensors if same or not grouped else tensors[:1]
        # `amin` over no dimension is one over all of them: not what blocks of one element mean.
        calls = [] if grouped and columns == 4 and config["blocks"] == "PerGroup" else calls
        for x, size in calls:
            if "bins" not in config and x.numel():
                quarters = x.reshape(16, -1)
                x = torch.where(quarters.isfinite(), quarters, quarters[:, :1]).reshape(x.shape)
            x = x.reshape(-1)[:size] if whole(config) else x
            if x.numel():
                o(x)
        if not any(x.numel() for x, _ in calls):
            seen[key] = None
        elif "bins" in config:
            seen[key] = search(o)
            seen["counts"] = checksum(o.histogram)
        else:
            seen[key] = (o.min_val, o.max_val)
    if seen[key] is None:
        return None
    if "bins" in config:
        scale, zero = o._calculate_qparams(*(v.clone() for v in seen[key]))
    else:
        o.min_val, o.max_val = (v.clone() for v in seen[key])
        scale, zero = o.calculate_qparams()
    zero = torch.full_like(scale, float("nan")) if config.get("mapping") == "FLOAT" else zero
    return scale.reshape(-1).float().numpy(), zero.reshape(-1).double().numpy()


def main():
    warnings.simplefilter("ignore")
    np.seterr(over="ignore")
    torch.set_num_threads(1)
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 16
    first = int(os.environ.get("FIRST", 0))
    listed = [c for c in configs() if re.search(os.environ.get("ONLY", ""), f"{c['observer']} {c['range'][0]}")]
    for c in listed:
        c["parts"] = parts(c)
    ends = np.cumsum([c["parts"] for c in listed])
    arrays = {n: np.full((count, ends[-1]), np.nan, t) for n, t in (("scale", np.float32), ("zero", np.float64))}
    arrays["counts"] = np.full(count, np.nan)
    for k in range(count):
        (tensors, same), seen = sequence(first + k), {}
        for i, c in enumerate(listed):
            if (result := row(c, tensors, same, seen)) is not None:
                at = slice(ends[i] - c["parts"], ends[i])
                arrays["scale"][k, at], arrays["zero"][k, at] = result
        arrays["counts"][k] = seen.get("counts", np.nan)
        if k % 100 == 99:
            print(k + 1, flush=True)
    for c in listed:
        c["range"] = [str(c["range"][0]).removeprefix("torch."), *c["range"][1:]]
    text = ",\n".join(json.dumps(c) for c in listed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "random_observers.json").write_text(f'{{"first": {first}, "count": {count}, "configs": [\n{text}\n]}}\n')
    np.savez_compressed(folder / "random_observers.npz", **arrays)
    print(count, "sequences,", len(listed), "configurations")


if __name__ == "__main__":
    main()
