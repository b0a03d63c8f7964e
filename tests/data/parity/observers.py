"""Writes observers.npz and observers.json: what torchao's observers and PyTorch's q/dq operators compute for given tensors.

Needs torch and torchao (numbers as of torch 2.13, torchao 0.18). Run in any folder: `python observers.py`.

observers.json: `observers` lists {observer, args, axis, calls: [names of arrays], scale, zero_point, seen}. `seen` is false where
nothing was observed. Scales are the bits of f32, so that infinities have a spelling. `operators` lists {op, args, outputs}: an
argument is a number, null, a list, {"array": name} or {"dtype": name}; outputs are names of arrays. Float outputs are f32 or f64.

Left out, because lowbit means to differ: infinities and NaN in min-max observers (there the scale becomes infinite or NaN, here
such elements are skipped, as both do in histograms).
"""

import itertools
import json
import warnings
from pathlib import Path

import numpy as np
import torch
import torchao
from torch.ao.quantization.fx import _decomposed  # noqa: F401  registers the operators
from torchao.quantization.pt2e import observer as ao

HERE = Path(__file__).parent
ARRAYS, STORED = {}, {}


def array(name, tensor):
    ARRAYS[name] = tensor.detach().numpy()
    return name


def stored(tensor):
    """The name of an array with these very bits."""
    a = tensor.detach().contiguous().numpy()
    key = (str(a.dtype), a.shape, a.tobytes())
    if key not in STORED:
        STORED[key] = array(f"q{len(STORED)}", tensor)
    return STORED[key]


def random(*shape, seed, scale=1.0, shift=0.0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale + shift


def pool():
    """Tensors to be observed."""
    inf = float("inf")
    normal = random(2, 3, 11, 7, seed=0)
    outlier = random(2, 3, 11, 7, seed=1)
    outlier[1, 2, 3, 4] = 40.0
    infinite = random(2, 3, 11, 7, seed=2)
    infinite[0, 0, 0, :3] = torch.tensor([inf, -inf, inf])
    silent = random(2, 3, 11, 7, seed=3)
    silent[:, 1] = 0.0
    tensors = {
        "normal": normal,
        "wide": random(2, 3, 11, 7, seed=4, scale=3.0, shift=0.5),
        "narrow": random(2, 3, 11, 7, seed=5, scale=0.01),
        "outlier": outlier,
        "relu": normal.relu(),
        "softmax": random(2, 3, 11, 7, seed=6, scale=4.0).softmax(-1),
        "positive": normal.abs() + 0.5,
        "negative": -normal.abs() - 0.5,
        "steps": torch.arange(462.0).reshape(2, 3, 11, 7) / 16 - 9,
        "silent": silent,
        "constant": torch.full((2, 3, 11, 7), 1.7),
        "minus": torch.full((2, 3, 11, 7), -0.3),
        "zeros": torch.zeros(2, 3, 11, 7),
        "one": torch.full((1, 3, 1, 1), 0.25),
        "tiny": normal * 1e-30,
        "subnormal": normal * 1e-41,
        "huge": normal * 3e37,
        "extreme": normal.sign() * 3.4e38,
        "infinite": infinite,
        "all_infinite": torch.full((1, 3, 2, 2), inf),
        "empty": torch.zeros(0, 3, 11, 7),
        "many": random(4, 3, 32, 32, seed=7),
    }
    for name, tensor in tensors.items():
        array(name, tensor)
    return tensors


# Which calls, in order.
CALLS = [
    *(["normal"], ["wide"], ["narrow"], ["outlier"], ["relu"], ["softmax"], ["positive"], ["negative"], ["steps"]),
    *(["silent"], ["constant"], ["minus"], ["zeros"], ["one"], ["tiny"], ["subnormal"], ["huge"], ["many"]),
    ["normal", "normal"],
    ["normal", "wide", "outlier", "narrow", "relu"],
    ["outlier", "normal", "wide"],
    ["narrow", "normal", "wide", "outlier", "huge"],
    ["constant", "constant"],
    ["constant", "normal", "constant"],
    ["zeros", "zeros", "normal"],
    ["zeros", "relu", "softmax"],
    ["one", "minus", "steps"],
    ["positive", "negative"],
    ["negative", "positive", "wide"],
    ["softmax", "relu", "steps", "many"],
    ["empty", "normal", "empty", "wide"],
    ["empty"],
    ["tiny", "normal"],
]

I8, U8, I16, U16, I32 = torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32
# (dtype, quant_min, quant_max); no bounds: those of the type.
RANGES = [
    *((I8, -128, 127), (I8, -127, 127), (I8, -8, 7), (I8, -64, 63), (I8, None, None)),
    *((U8, 0, 127), (U8, 0, 250), (U8, None, None)),
    *((I16, None, None), (I16, -32767, 32767), (U16, None, None)),
    *((I32, None, None), (I32, -(2**31) + 1, 2**31 - 1), (I32, -(2**20), 2**20)),
]
EPS = [2.0**-12, torch.finfo(torch.float32).eps]
TENSOR = [torch.per_tensor_affine, torch.per_tensor_symmetric]
CHANNEL = [torch.per_channel_affine, torch.per_channel_symmetric]


def observe(cls, tensors, calls, dtype, low, high, qscheme, eps, **more):
    bounds = {} if low is None else {"quant_min": low, "quant_max": high}
    o = cls(dtype=dtype, qscheme=qscheme, eps=eps, **bounds, **more)
    for name in calls:
        o(tensors[name])
    seen = o.min_val.numel() > 0 and not (o.min_val.numel() == 1 and o.min_val == float("inf"))
    scale, zero = o.calculate_qparams()
    return {
        "observer": cls.__name__,
        "dtype": str(dtype).removeprefix("torch."),
        "quant_min": o.quant_min,
        "quant_max": o.quant_max,
        "symmetric": "symmetric" in str(qscheme),
        "eps": eps,
        **more,
        "calls": calls,
        "seen": bool(seen),
        "scale": scale.to(torch.float32).reshape(-1).numpy().view(np.uint32).tolist(),
        "zero_point": zero.reshape(-1).tolist(),
    }


def observers(tensors):
    int8 = RANGES[0]
    for r, qscheme, eps in itertools.product(RANGES, TENSOR, EPS):
        for calls in [["normal"], ["positive"], ["negative"], ["tiny"], ["extreme"], ["outlier", "wide"]]:
            yield observe(ao.MinMaxObserver, tensors, calls, *r, qscheme, eps)
    for calls, qscheme in itertools.product(CALLS, TENSOR):
        yield observe(ao.MinMaxObserver, tensors, calls, *int8, qscheme, EPS[0])
        for c in (0.01, 0.3, 1.0):
            yield observe(ao.MovingAverageMinMaxObserver, tensors, calls, *int8, qscheme, EPS[1], averaging_constant=c)
    # All batches of one shape along the axis.
    same = [c for c in CALLS if not {"one", "many", "empty"} & set(c)]
    for axis, r, qscheme in itertools.product((0, 1, 3), (RANGES[0], RANGES[1], RANGES[7]), CHANNEL):
        for calls in same:
            if len(calls) > 1 or r == RANGES[1]:
                yield observe(ao.PerChannelMinMaxObserver, tensors, calls, *r, qscheme, EPS[0], ch_axis=axis)
    for axis, qscheme, c in itertools.product((0, 1), CHANNEL, (0.01, 0.3)):
        for calls in [c for c in same if len(c) > 1]:
            cls = ao.MovingAveragePerChannelMinMaxObserver
            yield observe(cls, tensors, calls, *int8, qscheme, EPS[1], ch_axis=axis, averaging_constant=c)
    histograms = [*CALLS, ["infinite"], ["infinite", "normal"], ["normal", "infinite"], ["normal", "all_infinite"]]
    for calls, r in itertools.product(histograms, (RANGES[0], RANGES[7], RANGES[8])):
        yield observe(ao.HistogramObserver, tensors, calls, *r, TENSOR[0], EPS[0], bins=2048)
    for calls in histograms:
        yield observe(ao.HistogramObserver, tensors, calls, *RANGES[1], TENSOR[1], EPS[0], bins=2048)
        yield observe(ao.HistogramObserver, tensors, calls, *RANGES[10], TENSOR[0], EPS[1], bins=256)
        yield observe(ao.HistogramObserver, tensors, calls, *RANGES[5], TENSOR[0], EPS[1], bins=100)
        yield observe(ao.HistogramObserver, tensors, calls, *RANGES[11], TENSOR[1], EPS[1], bins=17)


def call(op, *args):
    """One operator: tensors among `args` and its results are stored."""

    def described(a):
        if isinstance(a, torch.dtype):
            return {"dtype": str(a).removeprefix("torch.")}
        if isinstance(a, torch.Tensor):
            return {"array": stored(a)}
        return a

    packet, overload = op.rsplit(".", 1)
    library, name = packet.split(".")
    outputs = getattr(getattr(getattr(torch.ops, library), name), overload)(*args)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return {
        "op": op,
        "args": [described(a) for a in args],
        "outputs": [stored(o) for o in outputs],
    }


def operators():
    lib = "quantized_decomposed"
    # Ties, both signs of zero, what saturates, infinities.
    x = torch.cat([torch.arange(-12.0, 12.0) / 4, torch.tensor([0.0, -0.0, 1e9, -1e9, float("inf"), -float("inf")])])
    y = torch.stack([random(6, seed=s, scale=2.0**s) for s in range(5)])
    ints = {d: torch.arange(-9, 9).clamp(min=torch.iinfo(d).min).to(d) for d in (I8, U8, I16, U16, I32)}
    for (scale, zero), (dtype, low, high) in itertools.product(
        [(0.1, 0), (0.5, 3), (float(np.float32(0.0173)), -5), (1 / 3, 100)],
        [(I8, -128, 127), (I8, -8, 7), (U8, 0, 255), (I16, -32768, 32767), (U16, 0, 65535), (I32, -(2**20), 2**20)],
    ):
        for t in (x, y):
            yield call(f"{lib}.quantize_per_tensor.default", t, scale, zero, low, high, dtype)
        yield call(f"{lib}.dequantize_per_tensor.default", ints[dtype], scale, zero, low, high, dtype)
        s, z = torch.tensor([scale], dtype=torch.float64), torch.tensor([zero])
        yield call(f"{lib}.quantize_per_tensor.tensor", y, s, z, low, high, dtype)
        yield call(f"{lib}.dequantize_per_tensor.tensor", ints[dtype], s, z, low, high, dtype)
    for axis, n in ((0, 5), (1, 6)):
        scales, zeros = random(n, seed=9).abs() / 20 + 1e-3, torch.arange(n) * 3 - 7
        for dtype, low, high in ((I8, -127, 127), (U8, 0, 255), (I32, -(2**20), 2**20)):
            yield call(f"{lib}.quantize_per_channel.default", y, scales, zeros, axis, low, high, dtype)
            q = (y * 5).clamp(0 if dtype == U8 else -100, 100).to(dtype)
            yield call(f"{lib}.dequantize_per_channel.default", q, scales, zeros, axis, low, high, dtype)
            yield call(f"{lib}.dequantize_per_channel.default", q, scales, None, axis, low, high, dtype)
    batch = [y, random(3, 4, seed=11, scale=0.1), random(2, 3, 8, seed=12), -y.abs(), y.abs(), y * 0, y * 1e-12, y * 1e30]
    for t, eps in itertools.product(batch, EPS):
        for dtype, low, high in ((I8, -128, 127), (I8, -127, 127), (U8, 0, 255), (I16, -32768, 32767)):
            yield call(f"{lib}.choose_qparams.tensor", t, low, high, eps, dtype)
            yield call(f"{lib}.choose_qparams_symmetric.tensor", t, low, high, eps, dtype)
    for t in batch:
        yield (chosen := call(f"{lib}.choose_qparams_per_token_asymmetric.default", t, I8))
        scales, zeros = (torch.from_numpy(ARRAYS[o]) for o in chosen["outputs"])
        yield (q := call(f"{lib}.quantize_per_token.default", t, scales, zeros, -128, 127, I8))
        q = torch.from_numpy(ARRAYS[q["outputs"][0]])
        yield call(f"{lib}.dequantize_per_token.default", q, scales, zeros, -128, 127, I8, torch.float32)
        if t.shape[-1] % 2 == 0 and t.dim() == 2:
            groups = torch.ops.torchao.choose_qparams_affine(t, "SYMMETRIC", (1, 2), I8, -8, 7, EPS[1])
            yield (q := call(f"{lib}.quantize_per_channel_group.default", t, *groups, -8, 7, I8, 2))
            q = torch.from_numpy(ARRAYS[q["outputs"][0]])
            yield call(f"{lib}.dequantize_per_channel_group.default", q, *groups, -8, 7, I8, 2, torch.float32)
    block = {2: [(1, 2), (1, -1)], 3: [(1, 1, -1), (1, 3, 4)]}
    mappings = ("SYMMETRIC", "SYMMETRIC_NO_CLIPPING_ERR", "ASYMMETRIC")
    for t, mapping, (dtype, low, high) in itertools.product(batch, mappings, ((I8, -128, 127), (I8, -8, 7), (U8, 0, 255))):
        for b in block[t.dim()]:
            b = [n if size == -1 else size for size, n in zip(b, t.shape)]
            if any(n % size for n, size in zip(t.shape, b)):
                continue
            yield (chosen := call("torchao.choose_qparams_affine.default", t, mapping, b, dtype, low, high, EPS[1]))
            scales, zeros = (torch.from_numpy(ARRAYS[o]) for o in chosen["outputs"])
            yield (q := call("torchao.quantize_affine.default", t, b, scales, zeros, dtype, low, high))
            q = torch.from_numpy(ARRAYS[q["outputs"][0]])
            yield call("torchao.dequantize_affine.default", q, b, scales, zeros, dtype, low, high)


    for mapping in mappings:
        for more in [(), (None, None, None, torch.float64, I8), (-7, 7, None, None, None, True)]:
            yield call("torchao.choose_qparams_affine.default", batch[2], mapping, [1, 3, 4], I8, *more)
            yield call("torchao.choose_qparams_affine.default", batch[2] * 0, mapping, [1, 3, 4], I8, *more)


def rows(cases):
    return "[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]"


def main():
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    seen, asked = list(observers(pool())), list(operators())
    versions = json.dumps({"torch": torch.__version__.split("+")[0], "torchao": torchao.__version__})
    text = f'{{"versions": {versions},\n"observers": {rows(seen)},\n"operators": {rows(asked)}}}\n'
    (HERE / "observers.json").write_text(text)
    np.savez_compressed(HERE / "observers.npz", **ARRAYS)
    print(len(seen), "observers,", len(asked), "operators")


if __name__ == "__main__":
    main()
