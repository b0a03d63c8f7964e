"""The evaluator against PyTorch: each operator in a package that coremltools writes, which the check accepts."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from . import check, evaluate, samples
from .package import coremltools as ct
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Function, Placeholder, Program, types

RTOL = 1e-5
CASES = {}


def floats(*shape, low=None, high=None, seed=0):
    g = np.random.default_rng(seed + len(shape))
    x = g.standard_normal(shape) if low is None else g.uniform(low, high, shape)
    return x.astype(np.float32)


def ints(low, high, *shape, seed=0):
    return np.random.default_rng(seed).integers(low, high, shape).astype(np.int32)


def case(name, build, reference, *inputs, target="ios18"):
    """`build` makes the program's outputs of its inputs with `mb`, `reference` those of PyTorch's tensors."""
    assert name not in CASES, name
    CASES[name] = (build, reference, inputs, target)


def make(build, inputs, target, path):
    kinds = {"float32": types.fp32, "int32": types.int32, "float16": types.fp16}
    placeholders = {f"in{i}": Placeholder(sym_shape=x.shape, dtype=kinds[x.dtype.name]) for i, x in enumerate(inputs)}
    program = Program()
    with Function(placeholders, opset_version=samples.TARGETS[target]) as function:
        made = build(*function.inputs.values())
        made = list(made) if isinstance(made, (tuple, list)) else [made]
        # The interface has floats and int32.
        plain = (types.fp32, types.fp16, types.int32)
        function.set_outputs([var if var.dtype in plain else mb.cast(x=var, dtype="int32") for var in made])
    program.add_function("main", function)
    return samples.save(program, path, target)


def close(got, expected, rtol=RTOL):
    assert len(got) == len(expected), f"{len(got)} outputs, expected {len(expected)}"
    for a, b in zip(got, expected):
        b = np.asarray(b.numpy() if isinstance(b, torch.Tensor) else b)
        assert a.shape == b.shape, f"shape {a.shape}, expected {b.shape}"
        if b.dtype.kind != "f":
            assert (a == b).all(), f"{a.tolist()}, expected {b.tolist()}"
            continue
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * float(np.abs(b).max(initial=0)))


# ---- convolutions and products ----

X1, X2, X3 = floats(2, 4, 11), floats(2, 4, 9, 10), floats(1, 4, 5, 6, 7)
W1, W2, W3 = floats(6, 4, 3, seed=1), floats(6, 4, 3, 2, seed=1), floats(6, 4, 2, 3, 2, seed=1)
BIAS = floats(6, seed=2)


def torch_of(function, *constants, **options):
    return lambda *x: function(*x, *map(torch.from_numpy, constants), **options)


case("conv1d", lambda x: mb.conv(x=x, weight=W1, bias=BIAS, strides=[2], pad_type="custom", pad=[1, 1]),
     torch_of(F.conv1d, W1, BIAS, stride=2, padding=1), X1)
case("conv2d", lambda x: mb.conv(x=x, weight=W2, bias=BIAS, strides=[2, 1], pad_type="custom", pad=[2, 2, 1, 1], dilations=[2, 1]),
     torch_of(F.conv2d, W2, BIAS, stride=(2, 1), padding=(2, 1), dilation=(2, 1)), X2)
case("conv2d uneven", lambda x: mb.conv(x=x, weight=W2, pad_type="custom", pad=[0, 2, 1, 0]),
     lambda x: F.conv2d(F.pad(x, (1, 0, 0, 2)), torch.from_numpy(W2)), X2)
case("conv2d same", lambda x: mb.conv(x=x, weight=W2, pad_type="same"), torch_of(F.conv2d, W2, padding="same"), X2)
case("conv2d valid", lambda x: mb.conv(x=x, weight=W2, pad_type="valid"), torch_of(F.conv2d, W2), X2)
case("conv2d groups", lambda x: mb.conv(x=x, weight=W2[:, :2], pad_type="valid", groups=2), torch_of(F.conv2d, W2[:, :2].copy(), groups=2), X2)
case("conv2d dynamic weight", lambda x, w: mb.conv(x=x, weight=w, pad_type="valid"), F.conv2d, X2, W2)
case("conv3d", lambda x: mb.conv(x=x, weight=W3, pad_type="custom", pad=[1, 1, 0, 0, 1, 1], strides=[1, 2, 1]),
     torch_of(F.conv3d, W3, padding=(1, 0, 1), stride=(1, 2, 1)), X3)
T1, T2, T3 = floats(4, 3, 4, seed=3), floats(4, 3, 3, 2, seed=3), floats(4, 3, 2, 2, 3, seed=3)
case("conv_transpose1d", lambda x: mb.conv_transpose(x=x, weight=T1, bias=BIAS[:3], strides=[2], pad_type="custom", pad=[1, 1]),
     torch_of(F.conv_transpose1d, T1, BIAS[:3].copy(), stride=2, padding=1), X1)
case("conv_transpose2d", lambda x: mb.conv_transpose(x=x, weight=T2, strides=[2, 3], pad_type="custom", pad=[1, 1, 0, 0], dilations=[2, 1]),
     torch_of(F.conv_transpose2d, T2, stride=(2, 3), padding=(1, 0), dilation=(2, 1)), X2)
case("conv_transpose2d groups", lambda x: mb.conv_transpose(x=x, weight=T2, pad_type="valid", groups=2),
     torch_of(F.conv_transpose2d, T2, groups=2), X2)
case("conv_transpose2d output_shape",
     lambda x: mb.conv_transpose(x=x, weight=T2, bias=BIAS[:3], strides=[2, 2], pad_type="custom", pad=[1, 1, 0, 0], output_shape=[2, 3, 18, 21]),
     torch_of(F.conv_transpose2d, T2, BIAS[:3].copy(), stride=2, padding=(1, 0), output_padding=(1, 1)), X2)
case("conv_transpose3d", lambda x: mb.conv_transpose(x=x, weight=T3, strides=[1, 2, 1], pad_type="valid"),
     torch_of(F.conv_transpose3d, T3, stride=(1, 2, 1)), X3)
M = floats(5, 8, seed=4)
case("linear", lambda x: mb.linear(x=x, weight=M, bias=BIAS[:5]), torch_of(F.linear, M, BIAS[:5].copy()), floats(3, 8))
case("linear rank 3", lambda x: mb.linear(x=x, weight=M), torch_of(F.linear, M), floats(2, 3, 8))
case("matmul", lambda x, y: mb.matmul(x=x, y=y), torch.matmul, floats(2, 3, 8), floats(2, 8, 4, seed=1))
case("matmul transposed", lambda x, y: mb.matmul(x=x, y=y, transpose_x=True, transpose_y=True),
     lambda x, y: x.mT @ y.mT, floats(2, 8, 3), floats(4, 8, seed=1))
case("einsum", lambda x, y: mb.einsum(values=(x, y), equation="nchw,nwhu->nchu"),
     lambda x, y: torch.einsum("nchw,nwhu->nchu", x, y), floats(2, 3, 4, 5), floats(2, 5, 4, 3, seed=1))
for mask in ("none", "float", "bool"):
    Q, K, V = floats(2, 2, 5, 8), floats(2, 2, 6, 8, seed=1), floats(2, 2, 6, 7, seed=2)
    if mask == "none":
        case("attention", lambda q, k, v: mb.scaled_dot_product_attention(query=q, key=k, value=v), F.scaled_dot_product_attention, Q, K, V)
    elif mask == "float":
        case("attention mask", lambda q, k, v, m: mb.scaled_dot_product_attention(query=q, key=k, value=v, attn_mask=m),
             F.scaled_dot_product_attention, Q, K, V, floats(2, 1, 5, 6, seed=3))
    else:
        case("attention bool mask", lambda q, k, v, m: mb.scaled_dot_product_attention(query=q, key=k, value=v, attn_mask=mb.cast(x=m, dtype="bool")),
             lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m.bool()), Q, K, V, np.tril(np.ones((5, 6), np.int32)))

# ---- pools ----

for n, x in ((1, X1), (2, X2), (3, X3)):
    k, s, p = [3, 2, 3][:n], [2, 1, 2][:n], [1, 0, 1][:n]
    pad = [v for v in p for _ in (0, 1)]
    maxp, avgp = getattr(F, f"max_pool{n}d"), getattr(F, f"avg_pool{n}d")
    case(f"max_pool{n}d", lambda x, k=k, s=s, pad=pad: mb.max_pool(x=x, kernel_sizes=k, strides=s, pad_type="custom", pad=pad),
         lambda x, f=maxp, k=k, s=s, p=p: f(x, k, s, p), x)
    for exclude in (False, True):
        case(f"avg_pool{n}d exclude={exclude}",
             lambda x, k=k, s=s, pad=pad, e=exclude: mb.avg_pool(
                 x=x, kernel_sizes=k, strides=s, pad_type="custom", pad=pad, exclude_padding_from_average=e),
             lambda x, f=avgp, k=k, s=s, p=p, e=exclude: f(x, k, s, p, count_include_pad=not e), x)
    if n < 3:
        case(f"max_pool{n}d ceil", lambda x, k=k, pad=pad, n=n: mb.max_pool(x=x, kernel_sizes=k, strides=[3] * n, pad_type="custom", pad=pad, ceil_mode=True),
             lambda x, f=maxp, k=k, p=p: f(x, k, 3, p, ceil_mode=True), x)
        for exclude in (False, True):
            case(f"avg_pool{n}d ceil exclude={exclude}",
                 lambda x, k=k, pad=pad, n=n, e=exclude: mb.avg_pool(
                     x=x, kernel_sizes=k, strides=[3] * n, pad_type="custom", pad=pad, ceil_mode=True, exclude_padding_from_average=e),
                 lambda x, f=avgp, k=k, p=p, e=exclude: f(x, k, 3, p, ceil_mode=True, count_include_pad=not e), x)
case("max_pool uneven", lambda x: mb.max_pool(x=x, kernel_sizes=[2, 2], strides=[2, 2], pad_type="custom", pad=[0, 1, 1, 0]),
     lambda x: F.max_pool2d(F.pad(x, (1, 0, 0, 1), value=-np.inf), 2), X2)
case("l2_pool", lambda x: mb.l2_pool(x=x, kernel_sizes=[2, 3], strides=[2, 1], pad_type="valid"), lambda x: F.lp_pool2d(x, 2, (2, 3), (2, 1)), X2)

# ---- normalization ----

C4 = [floats(4, seed=i, low=0.5, high=2) for i in range(4)]
case("batch_norm", lambda x: mb.batch_norm(x=x, mean=C4[0], variance=C4[1], gamma=C4[2], beta=C4[3], epsilon=np.float32(1e-3)),
     lambda x: F.batch_norm(x, *map(torch.from_numpy, (C4[0], C4[1], C4[2], C4[3])), eps=1e-3), X2)
case("batch_norm plain", lambda x: mb.batch_norm(x=x, mean=C4[0], variance=C4[1]), lambda x: F.batch_norm(x, *map(torch.from_numpy, C4[:2])), X1)
case("instance_norm", lambda x: mb.instance_norm(x=x, gamma=C4[2], beta=C4[3]),
     lambda x: F.instance_norm(x, weight=torch.from_numpy(C4[2]), bias=torch.from_numpy(C4[3])), X2)
case("layer_norm", lambda x: mb.layer_norm(x=x, axes=[-1], gamma=floats(10), beta=floats(10, seed=1), epsilon=np.float32(1e-6)),
     lambda x: F.layer_norm(x, (10,), torch.from_numpy(floats(10)), torch.from_numpy(floats(10, seed=1)), 1e-6), X2)
case("layer_norm two axes", lambda x: mb.layer_norm(x=x, axes=[-2, -1]), lambda x: F.layer_norm(x, (9, 10)), X2)
case("l2_norm", lambda x: mb.l2_norm(x=x, epsilon=np.float32(1e-6)), lambda x: x / (x.square().sum((1, 2, 3), keepdim=True) + 1e-6).sqrt(), X2)
case("local_response_norm", lambda x: mb.local_response_norm(x=x, size=3, alpha=np.float32(0.1)), lambda x: F.local_response_norm(x, 3, 0.1), X2)

# ---- elementwise ----

A, B = floats(3, 4), floats(3, 4, seed=1)
UNARY = {
    "abs": torch.abs, "atan": torch.atan, "ceil": torch.ceil, "cos": torch.cos, "cosh": torch.cosh, "erf": torch.erf, "exp": torch.exp,
    "exp2": torch.exp2, "floor": torch.floor, "round": torch.round, "sign": torch.sign, "sin": torch.sin, "sinh": torch.sinh,
    "square": torch.square, "tan": torch.tan, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "relu": torch.relu, "relu6": F.relu6,
    "softplus": F.softplus, "softsign": F.softsign, "silu": F.silu, "identity": torch.clone,
}
for name, function in UNARY.items():
    case(name, lambda x, f=getattr(mb, name): f(x=x), function, A * 3)
for name in ("acos", "asin", "atanh"):
    case(name, lambda x, f=getattr(mb, name): f(x=x), getattr(torch, name), floats(3, 4, low=-0.9, high=0.9))
case("sqrt", lambda x: mb.sqrt(x=x), torch.sqrt, np.abs(A))
case("log", lambda x: mb.log(x=x, epsilon=np.float32(0)), torch.log, np.abs(A) + 0.01)
case("rsqrt", lambda x: mb.rsqrt(x=x, epsilon=np.float32(1e-12)), torch.rsqrt, np.abs(A) + 0.01)
case("inverse", lambda x: mb.inverse(x=x, epsilon=np.float32(1e-12)), torch.reciprocal, np.abs(A) + 0.1)
case("softplus large", lambda x: mb.softplus(x=x), F.softplus, A * 100)
case("clip", lambda x: mb.clip(x=x, alpha=np.float32(-0.5), beta=np.float32(0.7)), lambda x: x.clamp(-0.5, 0.7), A)
case("threshold", lambda x: mb.threshold(x=x, alpha=np.float32(0.3)), lambda x: x.clamp(min=0.3), A)
BINARY = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "real_div": torch.div, "maximum": torch.maximum, "minimum": torch.minimum,
    "floor_div": torch.floor_divide, "mod": torch.remainder, "equal": torch.eq, "not_equal": torch.ne, "greater": torch.gt,
    "greater_equal": torch.ge, "less": torch.lt, "less_equal": torch.le,
}
for name, function in BINARY.items():
    case(name, lambda x, y, f=getattr(mb, name): f(x=x, y=y), function, A, B)
    case(f"{name} broadcast", lambda x, y, f=getattr(mb, name): f(x=x, y=y), function, floats(2, 3, 4), B[:, :1].copy())
case("add ints", lambda x, y: mb.add(x=x, y=y), torch.add, ints(-9, 9, 3, 4), ints(-9, 9, 3, 4, seed=1))
case("floor_div ints", lambda x, y: mb.floor_div(x=x, y=y), torch.floor_divide, ints(-9, 9, 3, 4), ints(1, 5, 3, 4))
case("mod ints", lambda x, y: mb.mod(x=x, y=y), torch.remainder, ints(-9, 9, 3, 4), ints(1, 5, 3, 4))
case("pow", lambda x, y: mb.pow(x=x, y=y), torch.pow, np.abs(A), B)
for name in ("logical_and", "logical_or", "logical_xor"):
    case(name, lambda x, y, f=getattr(mb, name): f(x=mb.cast(x=x, dtype="bool"), y=mb.cast(x=y, dtype="bool")),
         lambda x, y, f=getattr(torch, name): f(x, y), ints(0, 2, 3, 4), ints(0, 2, 3, 4, seed=1))
case("logical_not", lambda x: mb.logical_not(x=mb.cast(x=x, dtype="bool")), torch.logical_not, ints(0, 2, 3, 4))
case("select", lambda c, x, y: mb.select(cond=mb.cast(x=c, dtype="bool"), a=x, b=y), lambda c, x, y: torch.where(c.bool(), x, y),
     ints(0, 2, 3, 4), A, B)
case("where broadcast", lambda c, x: mb.select(cond=mb.cast(x=c, dtype="bool"), a=x, b=np.float32(-5)),
     lambda c, x: torch.where(c.bool(), x, torch.tensor(-5.0)), ints(0, 2, 3, 4), A)
for kind, torch_kind in (("int32", torch.int32), ("bool", torch.bool)):
    case(f"cast {kind}", lambda x, k=kind: mb.cast(x=x, dtype=k), lambda x, k=torch_kind: x.to(k), A * 3)
case("cast fp32", lambda x: mb.cast(x=x, dtype="fp32"), lambda x: x.float(), ints(-9, 9, 3, 4))

# ---- activations ----

for mode, approximate in (("EXACT", "none"), ("TANH_APPROXIMATION", "tanh")):
    case(f"gelu {mode}", lambda x, m=mode: mb.gelu(x=x, mode=m), lambda x, a=approximate: F.gelu(x, approximate=a), A * 2)
case("gelu sigmoid", lambda x: mb.gelu(x=x, mode="SIGMOID_APPROXIMATION"), lambda x: x * torch.sigmoid(1.702 * x), A * 2)
case("elu", lambda x: mb.elu(x=x, alpha=np.float32(0.7)), lambda x: F.elu(x, 0.7), A)
case("leaky_relu", lambda x: mb.leaky_relu(x=x, alpha=np.float32(0.2)), lambda x: F.leaky_relu(x, 0.2), A)
case("prelu", lambda x: mb.prelu(x=x, alpha=C4[0]), torch_of(F.prelu, C4[0]), X2)
case("clamped_relu", lambda x: mb.clamped_relu(x=x, alpha=np.float32(0.3), beta=np.float32(0.8)),
     lambda x: torch.where(x >= 0, x, 0.3 * x).clamp(max=0.8), A)
case("thresholded_relu", lambda x: mb.thresholded_relu(x=x, alpha=np.float32(0.4)), lambda x: torch.where(x >= 0.4, x, torch.zeros(())), A)
case("linear_activation", lambda x: mb.linear_activation(x=x, alpha=np.float32(2), beta=np.float32(-1)), lambda x: 2 * x - 1, A)
case("scaled_tanh", lambda x: mb.scaled_tanh(x=x, alpha=np.float32(2), beta=np.float32(0.5)), lambda x: 2 * torch.tanh(0.5 * x), A)
case("sigmoid_hard", lambda x: mb.sigmoid_hard(x=x, alpha=np.float32(1 / 6), beta=np.float32(0.5)), F.hardsigmoid, A * 5)
case("softplus_parametric", lambda x: mb.softplus_parametric(x=x, alpha=C4[0], beta=C4[1]),
     lambda x: torch.from_numpy(C4[0])[:, None, None] * F.softplus(torch.from_numpy(C4[1])[:, None, None] * x), X2)
for axis in (-1, 1):
    case(f"softmax {axis}", lambda x, a=axis: mb.softmax(x=x, axis=a), lambda x, a=axis: x.softmax(a), X2 * 3)

# ---- reductions ----

REDUCTIONS = {
    "reduce_mean": torch.mean, "reduce_sum": torch.sum, "reduce_max": torch.amax, "reduce_min": torch.amin,
    "reduce_l1_norm": lambda x, d, keepdim: x.abs().sum(d, keepdim), "reduce_l2_norm": lambda x, d, keepdim: x.norm(2, d, keepdim),
    "reduce_sum_square": lambda x, d, keepdim: x.square().sum(d, keepdim), "reduce_log_sum_exp": torch.logsumexp,
    "reduce_log_sum": lambda x, d, keepdim: x.sum(d, keepdim).log(),
}
for name, function in REDUCTIONS.items():
    for axes, keep in (([1], False), ([-1, -2], True)):
        data = np.abs(X2) + 0.1 if name == "reduce_log_sum" else X2 * 3
        case(f"{name} {axes}", lambda x, f=getattr(mb, name), a=axes, k=keep: f(x=x, axes=a, keep_dims=k),
             lambda x, f=function, a=axes, k=keep: f(x, tuple(a), keepdim=k), data)
case("reduce_mean all", lambda x: mb.reduce_mean(x=x, axes=[0, 1, 2, 3], keep_dims=True), lambda x: x.mean((0, 1, 2, 3), keepdim=True), X2)
case("reduce_prod", lambda x: mb.reduce_prod(x=x, axes=[1]), lambda x: x.prod(1), A)
case("reduce_sum ints", lambda x: mb.reduce_sum(x=x, axes=[1]), lambda x: x.sum(1), ints(-9, 9, 3, 4))
case("reduce_argmax", lambda x: mb.reduce_argmax(x=x, axis=1), lambda x: x.argmax(1), X2)
case("reduce_argmin", lambda x: mb.reduce_argmin(x=x, axis=-1, keep_dims=True), lambda x: x.argmin(-1, keepdim=True), X2)
case("topk", lambda x: mb.topk(x=x, k=3, axis=-1), lambda x: torch.topk(x, 3), X2)
case("topk smallest", lambda x: mb.topk(x=x, k=2, axis=1, ascending=True), lambda x: torch.topk(x, 2, 1, largest=False), X2)
case("argsort", lambda x: mb.argsort(x=x, axis=-1, ascending=True), lambda x: x.argsort(-1), X2)
case("argsort descending", lambda x: mb.argsort(x=x, axis=1, ascending=False), lambda x: x.argsort(1, descending=True), X2)
for exclusive, backward in ((False, False), (True, False), (False, True)):
    def summed(x, e=exclusive, r=backward):
        x = x.flip(1) if r else x
        y = x.cumsum(1) - (x if e else 0)
        return y.flip(1) if r else y

    case(f"cumsum exclusive={exclusive} reverse={backward}",
         lambda x, e=exclusive, r=backward: mb.cumsum(x=x, axis=1, exclusive=e, reverse=r), summed, A)

# ---- shapes ----

# A 0 is the input's size: counted from the left before iOS 17, and from the right since.
case("reshape iOS 16", lambda x: mb.reshape(x=x, shape=[2, 0, -1, 10]), lambda x: x.reshape(2, 4, 9, 10), X2, target="ios16")
case("reshape", lambda x: mb.reshape(x=x, shape=[2, 0, -1]), lambda x: x.reshape(2, 9, -1), X2)
case("transpose", lambda x: mb.transpose(x=x, perm=[0, 2, -1, 1]), lambda x: x.permute(0, 2, 3, 1), X2)
case("expand_dims", lambda x: mb.expand_dims(x=x, axes=[0, -1]), lambda x: x[None, ..., None], A)
case("squeeze", lambda x: mb.squeeze(x=x, axes=[1]), lambda x: x.squeeze(1), floats(3, 1, 4))
case("flatten2d", lambda x: mb.flatten2d(x=x, axis=2), lambda x: x.reshape(8, 90), X2)
case("stack", lambda x, y: mb.stack(values=(x, y), axis=1), lambda x, y: torch.stack((x, y), 1), A, B)
case("concat", lambda x, y: mb.concat(values=(x, y), axis=-1), lambda x, y: torch.cat((x, y), -1), A, B)
case("concat interleaved", lambda x, y: mb.concat(values=(x, y), axis=0, interleave=True), lambda x, y: torch.stack((x, y), 1).flatten(0, 1), A, B)
case("split", lambda x: mb.split(x=x, num_splits=2, axis=1), lambda x: x.split(2, 1), A)
case("split sizes", lambda x: mb.split(x=x, split_sizes=[1, 3], axis=1), lambda x: x.split((1, 3), 1), A)
case("slice_by_index", lambda x: mb.slice_by_index(x=x, begin=[0, 1, 2, -3], end=[2, 3, 9, -1], stride=[1, 1, 3, 1]), lambda x: x[0:2, 1:3, 2:9:3, -3:-1], X2)
case("slice_by_index masks",
     lambda x: mb.slice_by_index(x=x, begin=[0, 1, 0, 0], end=[0, 0, 0, 4], begin_mask=[True, False, True, True],
                                 end_mask=[True, False, True, False], squeeze_mask=[False, True, False, False]),
     lambda x: x[:, 1, :, :4], X2)
case("slice_by_index backwards", lambda x: mb.slice_by_index(x=x, begin=[0, -1], end=[3, 0], stride=[1, -1], end_mask=[False, True]),
     lambda x: x.flip(1), A)
case("slice_by_size", lambda x: mb.slice_by_size(x=x, begin=[0, 1, 2, 3], size=[2, -1, 3, 4]), lambda x: x[:, 1:, 2:5, 3:7], X2)
case("slice_by_size dynamic", lambda x, b: mb.slice_by_size(x=x, begin=b, size=[2, 2]), lambda x, b: x[1:3, 2:4], A, np.array([1, 2], np.int32))
case("slice_update", lambda x, u: mb.slice_update(x=x, update=u, begin=[0, 1], end=[3, 3]),
     lambda x, u: torch.cat((x[:, :1], u, x[:, 3:]), 1), A, floats(3, 2, seed=5))
case("tile", lambda x: mb.tile(x=x, reps=[2, 3]), lambda x: x.repeat(2, 3), A)
case("pad", lambda x: mb.pad(x=x, pad=[1, 2, 0, 3], mode="constant", constant_val=np.float32(0.5)), lambda x: F.pad(x, (0, 3, 1, 2), value=0.5), X2)
case("pad reflect", lambda x: mb.pad(x=x, pad=[1, 2, 3, 0], mode="reflect"), lambda x: F.pad(x, (3, 0, 1, 2), mode="reflect"), X2)
case("pad replicate", lambda x: mb.pad(x=x, pad=[1, 2, 3, 0], mode="replicate"), lambda x: F.pad(x, (3, 0, 1, 2), mode="replicate"), X2)
case("reverse", lambda x: mb.reverse(x=x, axes=[0, -1]), lambda x: x.flip(0, -1), A)
case("pixel_shuffle", lambda x: mb.pixel_shuffle(x=x, upscale_factor=2), lambda x: F.pixel_shuffle(x, 2), X2)
case("pixel_unshuffle", lambda x: mb.pixel_unshuffle(x=x, downscale_factor=np.uint32(2)), lambda x: F.pixel_unshuffle(x, 2), floats(2, 3, 4, 6))
case("space_to_depth", lambda x: mb.space_to_depth(x=x, block_size=2),
     lambda x: F.pixel_unshuffle(x, 2).unflatten(1, (3, 4)).transpose(1, 2).flatten(1, 2), floats(2, 3, 4, 6))
case("depth_to_space", lambda x: mb.depth_to_space(x=x, block_size=2),
     lambda x: F.pixel_shuffle(x.unflatten(1, (4, 2)).transpose(1, 2).flatten(1, 2), 2), floats(2, 8, 3, 5))
case("band_part", lambda x: mb.band_part(x=x, lower=1, upper=2), lambda x: x.tril(2).triu(-1), floats(2, 6, 6))
case("tril", lambda x: mb.band_part(x=x, lower=-1, upper=0), torch.tril, floats(2, 6, 6))
case("shape", lambda x: mb.shape(x=mb.relu(x=x)), lambda x: torch.tensor(x.shape), X2)
case("fill", lambda x: mb.fill(shape=mb.shape(x=x), value=np.float32(2.5)), lambda x: torch.full(x.shape, 2.5), A)
case("fill_like", lambda x: mb.fill_like(ref_tensor=x, value=np.float32(2.5)), lambda x: torch.full(x.shape, 2.5), A)
case("range_1d", lambda n: mb.range_1d(start=1, end=mb.squeeze(x=n), step=2), lambda n: torch.arange(1, 9, 2), np.array([9], np.int32))
case("non_zero", lambda x: mb.non_zero(x=x), torch.nonzero, ints(0, 2, 3, 4))
case("one_hot", lambda x: mb.one_hot(indices=x, one_hot_vector_size=5, on_value=np.float32(2), off_value=np.float32(-1)),
     lambda x: F.one_hot(x.long(), 5).float() * 3 - 1, ints(0, 5, 3, 4))
case("one_hot axis", lambda x: mb.one_hot(indices=x, one_hot_vector_size=5, axis=1), lambda x: F.one_hot(x.long(), 5).movedim(-1, 1).int(), ints(0, 5, 3, 4))

# ---- gather and scatter ----

case("gather", lambda x, i: mb.gather(x=x, indices=i, axis=1), lambda x, i: x[:, i.long()], X2, ints(0, 4, 2, 3))
case("gather batch", lambda x, i: mb.gather(x=x, indices=i, axis=1, batch_dims=1), lambda x, i: torch.stack([p[k.long()] for p, k in zip(x, i)]), X2, ints(0, 4, 2, 3))
case("gather_along_axis", lambda x, i: mb.gather_along_axis(x=x, indices=i, axis=1), lambda x, i: x.gather(1, i.long()), A, ints(0, 4, 3, 2))
case("gather_nd", lambda x, i: mb.gather_nd(x=x, indices=i), lambda x, i: x[i[..., 0].long(), i[..., 1].long()], X2, ints(0, 2, 5, 2))
case("gather_nd batch", lambda x, i: mb.gather_nd(x=x, indices=i, batch_dims=1),
     lambda x, i: torch.stack([p[k[:, 0].long(), k[:, 1].long()] for p, k in zip(x, i)]), X2, ints(0, 4, 2, 5, 2))
SCATTERS = {"add": "sum", "max": "amax", "min": "amin", "mul": "prod"}
for mode, reduce in SCATTERS.items():
    case(f"scatter {mode}", lambda x, i, u, m=mode: mb.scatter(data=x, indices=i, updates=u, axis=1, mode=m),
         lambda x, i, u, r=reduce: x.scatter_reduce(1, i.long().expand(3, 6), u, r), A, ints(0, 4, 6), floats(3, 6, seed=6))
    case(f"scatter_along_axis {mode}", lambda x, i, u, m=mode: mb.scatter_along_axis(data=x, indices=i, updates=u, axis=1, mode=m),
         lambda x, i, u, r=reduce: x.scatter_reduce(1, i.long(), u, r), A, ints(0, 4, 3, 6), floats(3, 6, seed=6))
case("scatter update", lambda x, i, u: mb.scatter(data=x, indices=i, updates=u, axis=0, mode="update"),
     lambda x, i, u: x.index_copy(0, i.long(), u), A, np.array([2, 0], np.int32), floats(2, 4, seed=6))
case("scatter_along_axis update", lambda x, i, u: mb.scatter_along_axis(data=x, indices=i, updates=u, axis=0, mode="update"),
     lambda x, i, u: x.scatter(0, i.long(), u), A, np.array([[2, 0, 1, 2]], np.int32), floats(1, 4, seed=6))
case("scatter_nd add", lambda x, i, u: mb.scatter_nd(data=x, indices=i, updates=u, mode="add"),
     lambda x, i, u: x.index_put((i[:, 0].long(), i[:, 1].long()), u, accumulate=True), A, ints(0, 3, 5, 2), floats(5, seed=6))
case("scatter_nd update", lambda x, i, u: mb.scatter_nd(data=x, indices=i, updates=u, mode="update"),
     lambda x, i, u: x.index_put((i[:, 0].long(),), u), A, np.array([[2], [0]], np.int32), floats(2, 4, seed=6))

# ---- pictures ----

RESIZE = {
    "UNALIGN_CORNERS": lambda x, size: F.interpolate(x, size, mode="bilinear", align_corners=False),
    "STRICT_ALIGN_CORNERS": lambda x, size: F.interpolate(x, size, mode="bilinear", align_corners=True),
    "ALIGN_CORNERS": lambda x, size: F.interpolate(x, size, mode="bilinear", align_corners=True),
}
for mode, function in RESIZE.items():
    for size in ((14, 5), (4, 23)):
        case(f"resize_bilinear {mode} {size}",
             lambda x, m=mode, s=size: mb.resize_bilinear(x=x, target_size_height=s[0], target_size_width=s[1], sampling_mode=m),
             lambda x, f=function, s=size: f(x, s), X2)
case("upsample_bilinear", lambda x: mb.upsample_bilinear(x=x, scale_factor_height=2, scale_factor_width=3, align_corners=True),
     lambda x: F.interpolate(x, scale_factor=(2, 3), mode="bilinear", align_corners=True), X2)
case("upsample_bilinear halves", lambda x: mb.upsample_bilinear(x=x, scale_factor_height=np.float32(1.5), scale_factor_width=np.float32(2.5), align_corners=False),
     lambda x: F.interpolate(x, scale_factor=(1.5, 2.5), mode="bilinear", align_corners=False, recompute_scale_factor=True), X2)
case("upsample_nearest_neighbor", lambda x: mb.upsample_nearest_neighbor(x=x, scale_factor_height=2, scale_factor_width=3),
     lambda x: F.interpolate(x, scale_factor=(2, 3), mode="nearest"), X2)
case("resize_nearest_neighbor", lambda x: mb.resize_nearest_neighbor(x=x, target_size_height=18, target_size_width=5), lambda x: F.interpolate(x, (18, 5)), X2)
case("resize", lambda x: mb.resize(x=x, shape=[18, 25], resized_dims=np.uint32(2), interpolation_mode="LINEAR", sampling_mode="UNALIGN_CORNERS"),
     lambda x: F.interpolate(x, (18, 25), mode="bilinear"), X2)
PLACES = floats(2, 6, 5, 2, low=-1.4, high=1.4)
for padding, theirs, aligned in (
    ("constant", "zeros", True), ("constant", "zeros", False), ("border", "border", True), ("border", "border", False),
    ("reflection", "reflection", True), ("symmetric", "reflection", False),
):
    for mode in ("bilinear", "nearest"):
        case(f"resample {mode} {padding} {aligned}",
             lambda x, g, m=mode, p=padding, a=aligned: mb.resample(
                 x=x, coordinates=g, sampling_mode=m, padding_mode=p, padding_value=np.float32(0),
                 coordinates_mode="normalized_minus_one_to_one", align_corners=a),
             lambda x, g, m=mode, p=theirs, a=aligned: F.grid_sample(x, g, m, p, a), X2, PLACES)
BOX = np.array([[1, 2, 6, 7.5], [0, 1, 8, 4]], np.float32)


def cropped(x, boxes, size=(4, 5)):
    """Boxes by grid_sample, whose corners are the box's."""
    made = []
    for picture, (top, left, bottom, right) in zip(x, boxes):
        rows, columns = (torch.linspace(a, b, n) for a, b, n in ((top, bottom, size[0]), (left, right, size[1])))
        rows, columns = rows / (x.shape[2] - 1) * 2 - 1, columns / (x.shape[3] - 1) * 2 - 1
        places = torch.stack((columns.expand(*size), rows[:, None].expand(*size)), -1)
        made.append(F.grid_sample(picture[None], places[None], align_corners=True)[0])
    return torch.stack(made)


case("crop_resize", lambda x, b: mb.crop_resize(x=x, boxes=b, target_height=4, target_width=5, sampling_mode="STRICT_ALIGN_CORNERS"), cropped, X2, BOX)
case("crop_resize iOS 16",
     lambda x: mb.crop_resize(x=x, roi=BOX[:1].reshape(1, 1, 4, 1, 1), target_height=4, target_width=5, sampling_mode="ALIGN_CORNERS"),
     lambda x: cropped(x, torch.from_numpy(BOX[:1]).expand(2, 4))[None], X2, target="ios16")

# ---- recurrent layers ----


def lstm_case(name, bidirectional, whole):
    torch.manual_seed(0)
    net = torch.nn.LSTM(5, 4, bidirectional=bidirectional)
    state = {k: v.detach().numpy() for k, v in net.named_parameters()}

    def gates(x):  # PyTorch has i, f, z, o
        i, f, z, o = np.split(x, 4)
        return np.concatenate((i, f, o, z))

    options = {"direction": "bidirectional" if bidirectional else "forward", "output_sequence": whole}
    for suffix, theirs in (("", "l0"), ("_back", "l0_reverse"))[: 2 if bidirectional else 1]:
        options["weight_ih" + suffix] = gates(state[f"weight_ih_{theirs}"])
        options["weight_hh" + suffix] = gates(state[f"weight_hh_{theirs}"])
        options["bias" + suffix] = gates(state[f"bias_ih_{theirs}"] + state[f"bias_hh_{theirs}"])
    count = 2 if bidirectional else 1

    def reference(x, h, c):
        def pairs(s):
            return torch.stack(s.split(4, 1))

        with torch.no_grad():
            y, (h, c) = net(x, (pairs(h), pairs(c)))
        flat = [s.movedim(0, 1).flatten(1) for s in (h, c)]
        return y if whole else flat[0][None], flat[0], flat[1]

    case(name, lambda x, h, c: mb.lstm(x=x, initial_h=h, initial_c=c, **options), reference,
         floats(6, 2, 5), floats(2, 4 * count, seed=1), floats(2, 4 * count, seed=2))


lstm_case("lstm", False, True)
lstm_case("lstm last", False, False)
lstm_case("lstm bidirectional", True, True)
lstm_case("lstm bidirectional last", True, False)


def rnn_case():
    torch.manual_seed(0)
    net = torch.nn.RNN(5, 4)
    w = {k: v.detach().numpy() for k, v in net.named_parameters()}

    def reference(x, h):
        with torch.no_grad():
            y, h = net(x, h[None])
        return y, h[0]

    case("rnn", lambda x, h: mb.rnn(x=x, initial_h=h, weight_ih=w["weight_ih_l0"], weight_hh=w["weight_hh_l0"],
                                    bias=w["bias_ih_l0"] + w["bias_hh_l0"], output_sequence=True), reference, floats(6, 2, 5), floats(2, 4, seed=1))


rnn_case()


def gru_case():
    """The reset gate before the product with the state."""
    w, u, b = floats(12, 5, seed=7), floats(12, 4, seed=8), floats(12, seed=9)

    def reference(x, h):
        (wr, wo, wz), (ur, uo, uz), (br, bo, bz) = ([torch.from_numpy(p) for p in np.split(v, 3)] for v in (w, u, b))
        made = []
        for row in x:
            r, z = torch.sigmoid(row @ wr.T + h @ ur.T + br), torch.sigmoid(row @ wz.T + h @ uz.T + bz)
            h = (1 - z) * torch.tanh(row @ wo.T + (r * h) @ uo.T + bo) + z * h
            made.append(h)
        return torch.stack(made), h

    case("gru", lambda x, h: mb.gru(x=x, initial_h=h, weight_ih=w, weight_hh=u, bias=b, output_sequence=True), reference, floats(6, 2, 5), floats(2, 4, seed=1))


gru_case()

# ---- quantization ----


def fake(x, scale, zero, kind, axis=None):
    limits = torch.iinfo(kind)
    if axis is None:
        return torch.fake_quantize_per_tensor_affine(x, scale, zero, limits.min, limits.max)
    return torch.fake_quantize_per_channel_affine(x, torch.from_numpy(scale), torch.from_numpy(zero.astype(np.int32)), axis, limits.min, limits.max)


def both_ways(x, **options):
    """quantize and dequantize, with the same parameters."""
    kind = options.pop("output_dtype")
    return mb.dequantize(input=mb.quantize(input=x, output_dtype=kind, **options), **options)


SCALES = np.array([0.011, 0.02, 0.03, 0.017], np.float32)
case("quantize int8", lambda x: both_ways(x, scale=np.float32(0.013), output_dtype="int8"), lambda x: fake(x, 0.013, 0, torch.int8), X2)
case("quantize uint8", lambda x: both_ways(x, scale=np.float32(0.013), zero_point=np.uint8(77), output_dtype="uint8"), lambda x: fake(x, 0.013, 77, torch.uint8), X2)
case("quantize channels", lambda x: both_ways(x, scale=SCALES, zero_point=np.array([0, 3, -5, 9], np.int8), axis=1, output_dtype="int8"),
     lambda x: fake(x, SCALES, np.array([0, 3, -5, 9]), torch.int8, 1), X2)
DATA = np.random.default_rng(0).integers(-127, 128, (5, 8)).astype(np.int8)


def with_weight(make_weight, weight, name, target):
    """A product with a weight that is decompressed."""
    case(name, lambda x: mb.linear(x=x, weight=make_weight()), lambda x: x @ torch.from_numpy(np.asarray(weight, np.float32)).T, floats(3, 8), target=target)


for target in ("ios16", "ios17"):
    with_weight(
        lambda: mb.constexpr_affine_dequantize(quantized_data=DATA, zero_point=np.arange(5, dtype=np.int8), scale=C4[0].repeat(2)[:5] / 100, axis=0),
        (DATA.astype(np.float32) - np.arange(5)[:, None]) * (C4[0].repeat(2)[:5] / 100)[:, None], f"constexpr_affine_dequantize {target}", target,
    )
    with_weight(
        lambda: mb.constexpr_affine_dequantize(quantized_data=DATA, zero_point=np.int8(0), scale=np.float32(0.01), axis=1),
        DATA * np.float32(0.01), f"constexpr_affine_dequantize one scale {target}", target,
    )
    for bits in (1, 2, 4, 6, 8):
        codes = np.random.default_rng(bits).integers(0, 2**bits, (5, 8)).astype(np.uint8)
        flat = ((codes.reshape(-1, 1) >> np.arange(bits)) & 1).astype(np.uint8).ravel()
        table = floats(2**bits, seed=bits)
        with_weight(
            lambda flat=flat, table=table: mb.constexpr_lut_to_dense(indices=np.packbits(flat, bitorder="little"), lut=table, shape=np.array([5, 8], np.uint32)),
            table[codes], f"constexpr_lut_to_dense {bits} {target}", target,
        )
for name, low, high, kind in (("int4", -8, 8, types.np_int4_dtype), ("uint4", 0, 16, types.np_uint4_dtype), ("int8", -128, 128, np.int8), ("uint8", 0, 256, np.uint8)):
    codes = np.random.default_rng(1).integers(low, high, (5, 8))
    zero = np.random.default_rng(2).integers(low, high, (5, 2))
    scale = floats(5, 2, seed=3)
    with_weight(
        lambda codes=codes, kind=kind, scale=scale: mb.constexpr_blockwise_shift_scale(data=codes.astype(kind), scale=scale),
        codes * scale.repeat(4, 1), f"constexpr_blockwise_shift_scale {name}", "ios18",
    )
    with_weight(
        lambda codes=codes, kind=kind, scale=scale, zero=zero: mb.constexpr_blockwise_shift_scale(data=codes.astype(kind), scale=scale, offset=zero.astype(kind)),
        (codes - zero.repeat(4, 1)) * scale.repeat(4, 1), f"constexpr_blockwise_shift_scale {name} offset", "ios18",
    )
for bits in (1, 2, 3, 4, 6, 8):
    kind = np.uint8 if bits == 8 else getattr(types, f"np_uint{bits}_dtype")
    codes, table = np.random.default_rng(bits).integers(0, 2**bits, (5, 8)), floats(1, 2, 2**bits, 1, seed=bits)
    with_weight(
        lambda codes=codes, kind=kind, table=table: mb.constexpr_lut_to_dense(indices=codes.astype(kind), lut=table),
        np.concatenate((table[0, 0, codes[:, :4], 0], table[0, 1, codes[:, 4:], 0]), 1), f"constexpr_lut_to_dense {bits} groups", "ios18",
    )
PAIRS = floats(1, 1, 4, 2, seed=4)
with_weight(
    lambda: mb.constexpr_lut_to_dense(indices=(np.arange(20).reshape(5, 4) % 4).astype(types.np_uint2_dtype), lut=PAIRS, vector_axis=1),
    PAIRS[0, 0][np.arange(20).reshape(5, 4) % 4].reshape(5, 8), "constexpr_lut_to_dense vectors", "ios18",
)
with_weight(
    lambda: mb.constexpr_blockwise_shift_scale(
        data=mb.constexpr_lut_to_dense(indices=(np.arange(40).reshape(5, 8) % 4).astype(types.np_uint2_dtype), lut=np.array([-7, -1, 2, 8], np.int8).reshape(1, 1, 4, 1)),
        scale=floats(5, 1, seed=5)),
    np.array([-7, -1, 2, 8])[np.arange(40).reshape(5, 8) % 4] * floats(5, 1, seed=5), "scales of a table of integers", "ios18",
)
with_weight(lambda: mb.constexpr_cast(source_val=M.astype(np.float16), output_dtype="fp32"), M.astype(np.float16), "constexpr_cast", "ios17")
SPARSE = np.where(np.arange(40).reshape(5, 8) % 3 == 0, M, 0)
with_weight(
    lambda: mb.constexpr_sparse_to_dense(
        nonzero_data=SPARSE[SPARSE != 0], mask=np.packbits((SPARSE != 0).ravel(), bitorder="little"), shape=np.array([5, 8], np.uint32)),
    SPARSE, "constexpr_sparse_to_dense", "ios17",
)


@pytest.mark.parametrize("name", CASES)
def test_operator(name, folder):
    build, reference, inputs, target = CASES[name]
    path = make(build, inputs, target, folder / "m.mlpackage")
    check.check(path)
    expected = reference(*(torch.from_numpy(x) for x in inputs))
    expected = [expected] if isinstance(expected, torch.Tensor) else list(expected)
    close(evaluate.Evaluator(path).call(*inputs), expected)


# ---- whole programs ----


def test_states_are_kept(folder):
    evaluator = evaluate.Evaluator(samples.state(folder))
    states, total = evaluator.initial_states(), np.zeros((1, 4), np.float32)
    for seed in range(3):
        x = floats(1, 4, seed=seed).astype(np.float16)
        total += x
        assert np.allclose(evaluator.run({"x": x}, states=states)["result"], 2 * total, atol=1e-6)
    assert np.allclose(evaluator.run({"x": x}, states=evaluator.initial_states())["result"], 2 * x, atol=1e-6)


def test_functions_by_name(folder):
    evaluator = evaluate.Evaluator(samples.functions(folder))
    weight = samples.random(8, 8)
    for function, length in (("decode", 1), ("prefill", 4)):
        x = floats(length, 8)
        close(evaluator.call(x, function=function), [x @ weight.T])


def test_any_size_of_a_range(folder):
    evaluator = evaluate.Evaluator(samples.ranges(folder))
    for batch in (1, 2, 5):
        x = floats(batch, 4)
        close(evaluator.call(x), [np.maximum(x, 0) @ samples.random(3, 4).T + samples.random(3)])


def test_half_floats_are_rounded_after_each_operator(folder):
    x, y = floats(64).astype(np.float16), floats(64, seed=1).astype(np.float16)
    path = make(lambda x, y: mb.exp(x=mb.mul(x=x, y=y)), [x, y], "ios18", folder / "m.mlpackage")
    (exact,), (native,) = evaluate.Evaluator(path).call(x, y), evaluate.Evaluator(path, "native").call(x, y)
    rounded = np.exp((x.astype(np.float32) * y.astype(np.float32)).astype(np.float16).astype(np.float32)).astype(np.float16)
    assert np.array_equal(native, rounded.astype(np.float32))
    assert not np.array_equal(exact, native)
    close([exact], [np.exp(x.astype(np.float64) * y.astype(np.float64)).astype(np.float32)])


def test_what_nobody_computes_is_refused(folder):
    path = make(lambda x: mb.add(x=x, y=mb.random_normal(shape=[2, 3])), [floats(2, 3)], "ios17", folder / "m.mlpackage")
    with pytest.raises(evaluate.Refused, match="random_normal"):
        evaluate.Evaluator(path).call(floats(2, 3))


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1), torch.nn.BatchNorm2d(8)
        self.attention, self.head = torch.nn.MultiheadAttention(8, 2, batch_first=True), torch.nn.Linear(8, 5)

    def forward(self, x):
        x = F.hardswish(self.norm(self.conv(x))).flatten(2).mT
        return self.head(F.layer_norm(x + self.attention(x, x, x)[0], (8,))).mean(1)


@pytest.mark.parametrize("target", ["ios16", "ios17", "ios18"])
def test_a_network_that_coremltools_converts(target, folder):
    torch.manual_seed(0)
    net, x = Net().eval(), torch.randn(2, 3, 8, 8)
    exported = torch.export.export(net, (x,)).run_decompositions({})
    model = ct.convert(
        exported, minimum_deployment_target=samples.TARGETS[target], compute_precision=ct.precision.FLOAT32, skip_model_load=True
    )
    model.save(str(folder / "net.mlpackage"))
    check.check(folder / "net.mlpackage")
    with torch.no_grad():
        close(evaluate.Evaluator(folder / "net.mlpackage").call(x.numpy()), [net(x)])
