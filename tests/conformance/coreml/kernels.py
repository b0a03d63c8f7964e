"""Core ML operators in numpy and PyTorch: those that coremltools cannot compute itself, or computes wrong.

A kernel gets an operator's arguments by name, floats in one type, and returns its output, or a tuple of them. What an operator
means is taken from Apple's documentation of it, and, where that leaves it open, from what Apple's own tests expect of Core ML
(`test_apple.py` runs them). What neither says is refused.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

KERNELS = {}


class Refused(Exception):
    """The operator is not known well enough to say what Core ML computes."""


def kernel(*names):
    def add(function):
        for name in names or [function.__name__]:
            assert name not in KERNELS, name
            KERNELS[name] = function
        return function

    return add


def tensor(x):
    return torch.from_numpy(np.ascontiguousarray(x))


def double(x):
    """Sums are in double precision: what is compared with them shall be no further off than its own rounding."""
    return torch.from_numpy(np.ascontiguousarray(x, np.float64))


def present(a, name):
    return a.get(name) is not None


def floats(x):
    """The type that is computed in."""
    return x.dtype if x.dtype.kind == "f" else np.float32


def along(x, axis, vector):
    """A vector in a shape that broadcasts along an axis of x."""
    shape = [1] * x.ndim
    shape[axis] = -1
    return np.asarray(vector, floats(x)).reshape(shape)


# ---- convolutions ----


def paddings(a, kernel, stride, size, dilation):
    """[(before, after)] of each spatial axis."""
    kind = a["pad_type"]
    if kind == "valid":
        return [(0, 0)] * len(kernel)
    if kind == "custom":
        pad = [int(p) for p in a["pad"]]
        return list(zip(pad[::2], pad[1::2]))
    if kind not in ("same", "same_lower"):
        raise Refused(f"pad_type {kind}")
    found = []
    for k, s, n, d in zip(kernel, stride, size, dilation):
        total = max(0, (math.ceil(n / s) - 1) * s + (k - 1) * d + 1 - n)
        small, large = total // 2, total - total // 2
        found.append((small, large) if kind == "same" else (large, small))
    return found


def padded(x, pads, value=0.0):
    flat = [p for pair in reversed(pads) for p in pair]
    return F.pad(x, flat, value=value)


def vector(a, name, rank, default=1):
    return [int(v) for v in a[name]] if present(a, name) else [default] * rank


@kernel()
def conv(a):
    x, w = double(a["x"]), double(a["weight"])
    rank = w.dim() - 2
    stride, dilation = vector(a, "strides", rank), vector(a, "dilations", rank)
    pads = paddings(a, w.shape[2:], stride, x.shape[2:], dilation)
    bias = double(a["bias"]) if present(a, "bias") else None
    function = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    return function(padded(x, pads), w, bias, stride=stride, dilation=dilation, groups=int(a["groups"])).numpy()


@kernel()
def conv_transpose(a):
    x, w = double(a["x"]), double(a["weight"])
    rank = w.dim() - 2
    stride, dilation = vector(a, "strides", rank), vector(a, "dilations", rank)
    function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
    full = function(x, w, None, stride=stride, dilation=dilation, groups=int(a["groups"]))
    asked = [int(v) for v in a["output_shape"]][2:] if present(a, "output_shape") else None
    for axis in range(rank):
        size, kind = full.shape[2 + axis], a["pad_type"]
        before = int(a["pad"][2 * axis]) if kind == "custom" else 0
        after = int(a["pad"][2 * axis + 1]) if kind == "custom" else 0
        length = size - before - after
        if kind == "same":
            length = x.shape[2 + axis] * stride[axis]
        if asked:
            length = asked[axis]
        if kind == "same":  # what is too much goes from both ends; one more from the far one
            before = max(0, size - length) // 2
        # More than there is: the far end has no contributions.
        full = F.pad(full.movedim(2 + axis, -1), (0, max(0, before + length - size))).narrow(-1, before, length).movedim(-1, 2 + axis)
    if present(a, "bias"):
        full = full + tensor(along(full.numpy(), 1, a["bias"]))
    return full.contiguous().numpy()


@kernel()
def linear(a):
    x, w, bias = (double(a[k]) if present(a, k) else None for k in ("x", "weight", "bias"))
    return F.linear(x, w, bias).numpy()


@kernel()
def matmul(a):
    x, y = double(a["x"]), double(a["y"])
    x, y = x.mT if a["transpose_x"] else x, y.mT if a["transpose_y"] else y
    return (x @ y).numpy()


# ---- pooling ----


def pool_pads(a):
    """Kernel, stride and paddings; where sizes are rounded up, with what the last window reaches beyond, as a third number."""
    size, kernel = np.shape(a["x"])[2:], [int(k) for k in a["kernel_sizes"]]
    rank = len(kernel)
    stride = vector(a, "strides", rank)
    pads = paddings(a, kernel, stride, size, [1] * rank)
    found = []
    for n, k, s, (before, after) in zip(size, kernel, stride, pads):
        beyond = 0
        if a["ceil_mode"]:
            count = math.ceil((n + before + after - k) / s) + 1
            if (count - 1) * s >= n + before and before + after > 0:
                count -= 1  # no window starts in the padding at the end
            beyond = max(0, (count - 1) * s + k - (n + before + after))
        found.append((before, after, beyond))
    return kernel, stride, found


def pool(function, x, kernel, stride, **options):
    """Pooling without padding, of any number of axes."""
    return function(x.flatten(0, 1).unsqueeze(0), tuple(kernel), tuple(stride), **options).unflatten(1, x.shape[:2]).squeeze(0)


@kernel()
def max_pool(a):
    kernel, stride, pads = pool_pads(a)
    x = padded(tensor(a["x"]), [(before, after + beyond) for before, after, beyond in pads], -math.inf)
    return pool((F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(kernel) - 1], x, kernel, stride).numpy()


def window_sums(x, kernel, stride):
    function = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[len(kernel) - 1]
    return pool(function, x, kernel, stride) * math.prod(kernel)


@kernel()
def avg_pool(a):
    """The mean over what a window has of the picture, and, unless excluded, of its padding; never of what lies beyond."""
    kernel, stride, pads = pool_pads(a)
    x = tensor(a["x"]).double()
    ones = torch.ones_like(x[:1, :1])
    around, beyond = [p[:2] for p in pads], [(0, p[2]) for p in pads]
    counted = padded(ones, around, 0.0 if a["exclude_padding_from_average"] else 1.0)
    sums = window_sums(padded(padded(x, around), beyond), kernel, stride)
    return (sums / window_sums(padded(counted, beyond), kernel, stride)).numpy()


@kernel()
def l2_pool(a):
    kernel, stride, pads = pool_pads(a)
    x = padded(tensor(a["x"]).double(), [(before, after + beyond) for before, after, beyond in pads])
    return window_sums(x * x, kernel, stride).clamp(min=0).sqrt().numpy()


# ---- normalization ----


@kernel()
def batch_norm(a):
    x = a["x"]
    scale = 1 / np.sqrt(along(x, 1, a["variance"]) + np.dtype(floats(x)).type(a["epsilon"]))
    y = (x - along(x, 1, a["mean"])) * scale
    return affine(y, a)


@kernel()
def instance_norm(a):
    x = a["x"].astype(np.float64)
    axes = tuple(range(2, x.ndim))
    y = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + np.dtype(floats(x)).type(a["epsilon"]))
    return affine(y, a)


def affine(y, a):
    if present(a, "gamma"):
        y = y * along(y, 1, a["gamma"])
    if present(a, "beta"):
        y = y + along(y, 1, a["beta"])
    return y


@kernel()
def local_response_norm(a):
    """Apple's test has tensors of rank 3, in which no channel counts another as its neighbour; windows of even size are nowhere."""
    x, size = tensor(a["x"]), int(a["size"])
    if x.dim() != 4 or size % 2 == 0:
        raise Refused(f"local_response_norm of rank {x.dim()} with windows of {size}")
    return F.local_response_norm(x, size, float(a["alpha"]), float(a["beta"]), float(a["k"])).numpy()


# ---- activations that coremltools has not, or lets overflow ----


@kernel()
def silu(a):
    return F.silu(tensor(a["x"])).numpy()


@kernel()
def softplus(a):
    return np.logaddexp(0, a["x"])


@kernel()
def softplus_parametric(a):
    x = a["x"]
    return along(x, 1, a["alpha"]) * np.logaddexp(0, along(x, 1, a["beta"]) * x)


@kernel()
def sigmoid(a):
    return torch.sigmoid(tensor(a["x"])).numpy()


@kernel()
def cast(a):
    """Floats stay as they are: to what the program declares is rounded afterwards, if at all."""
    x = np.asarray(a["x"])
    kinds = {"fp16": floats(x), "fp32": floats(x), "bool": np.bool_}
    kind = kinds.get(a["dtype"]) or np.dtype(a["dtype"])
    return (np.trunc(x) if x.dtype.kind == "f" and np.dtype(kind).kind in "iu" else x).astype(kind)


# ---- reductions: coremltools' own fail with numpy 2.4 (reduce_mean), or overflow (reduce_log_sum_exp) ----


def reduction(name, function):
    def run(a):
        axes = tuple(int(i) for i in a["axes"]) if present(a, "axes") else None
        x = a["x"]
        result = function(x.astype(np.float64) if x.dtype.kind == "f" else x, axes, bool(a["keep_dims"]))
        return np.asarray(result)

    kernel(name)(run)


def log_sum_exp(x, axes, keep):
    top = x.max(axes, keepdims=True)
    total = np.log(np.exp(x - top).sum(axes, keepdims=True)) + top
    return total if keep else np.squeeze(total, axes)


reduction("reduce_mean", lambda x, axes, keep: x.mean(axes, keepdims=keep))
reduction("reduce_sum", lambda x, axes, keep: x.sum(axes, keepdims=keep))
reduction("reduce_prod", lambda x, axes, keep: x.prod(axes, keepdims=keep))
reduction("reduce_max", lambda x, axes, keep: x.max(axes, keepdims=keep))
reduction("reduce_min", lambda x, axes, keep: x.min(axes, keepdims=keep))
reduction("reduce_l1_norm", lambda x, axes, keep: np.abs(x).sum(axes, keepdims=keep))
reduction("reduce_l2_norm", lambda x, axes, keep: np.sqrt((x * x).sum(axes, keepdims=keep)))
reduction("reduce_sum_square", lambda x, axes, keep: (x * x).sum(axes, keepdims=keep))
reduction("reduce_log_sum", lambda x, axes, keep: np.log(x.sum(axes, keepdims=keep)))
reduction("reduce_log_sum_exp", log_sum_exp)


@kernel()
def cumsum(a):
    x = np.flip(a["x"], a["axis"]) if a["reverse"] else a["x"]
    total = np.cumsum(x.astype(np.float64) if x.dtype.kind == "f" else x, a["axis"])
    if a["exclusive"]:
        total = total - x
    return np.flip(total, a["axis"]) if a["reverse"] else total


# ---- quantization ----


def quantization(a):
    """Scale and zero point in shapes that broadcast."""
    x, scale = a["input"], np.asarray(a["scale"])
    zero = np.asarray(a["zero_point"] if present(a, "zero_point") else 0, scale.dtype)
    if scale.ndim:
        scale = along(x, int(a["axis"]), scale)
        zero = along(x, int(a["axis"]), zero) if zero.ndim else zero
    return scale, zero


@kernel()
def quantize(a):
    scale, zero = quantization(a)
    limits = np.iinfo(a["output_dtype"])
    return np.clip(np.round(a["input"] / scale) + zero, limits.min, limits.max).astype(a["output_dtype"])


@kernel()
def dequantize(a):
    scale, zero = quantization(a)
    return (a["input"].astype(scale.dtype) - zero) * scale


# ---- attention ----


@kernel()
def scaled_dot_product_attention(a):
    query, key, value = (tensor(a[name]).double() for name in ("query", "key", "value"))
    mask = None
    if present(a, "attn_mask"):
        mask = tensor(a["attn_mask"])
        mask = mask if mask.dtype == torch.bool else mask.double()
    return F.scaled_dot_product_attention(query, key, value, mask).numpy()


# ---- pictures ----


def grid(mode, size, count):
    """Where `count` samples lie on an axis of `size` points."""
    i = np.arange(count, dtype=np.float64)
    if mode == "ALIGN_CORNERS" and count == 1:
        return np.array([(size - 1) / 2])
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        at = i * ((size - 1) / max(1, count - 1))
    elif mode == "DEFAULT":
        at = i * (size / count)
    elif mode == "OFFSET_CORNERS":
        delta = max(1, size - 1) / count
        at = (i + 0.5) * delta
    elif mode == "UNALIGN_CORNERS":
        at = (i + 0.5) * (size / count) - 0.5
    else:
        raise Refused(f"sampling_mode {mode}")
    return np.clip(at, 0, size - 1)


def interpolated(x, axis, at):
    """Values at fractional places of an axis."""
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, x.shape[axis] - 1)
    share = np.expand_dims(at - low, tuple(range(1, x.ndim - axis % x.ndim)))
    return np.take(x, low, axis) * (1 - share) + np.take(x, high, axis) * share


def resized(x, height, width, mode):
    x = x.astype(np.float64)
    for axis, count in ((-2, height), (-1, width)):
        x = interpolated(x, axis, grid(mode, x.shape[axis], count))
    return x


@kernel()
def resize_bilinear(a):
    return resized(a["x"], int(a["target_size_height"]), int(a["target_size_width"]), a["sampling_mode"])


def scaled(a):
    """Sizes after scaling, rounded down."""
    x = a["x"]
    height, width = np.float32(a["scale_factor_height"]), np.float32(a["scale_factor_width"])
    return int(math.floor(height * x.shape[-2])), int(math.floor(width * x.shape[-1]))


@kernel()
def upsample_bilinear(a):
    aligned = bool(a["align_corners"])
    centers = bool(a["half_pixel_centers"]) if present(a, "half_pixel_centers") else not aligned
    if aligned and centers:
        raise Refused("align_corners and half_pixel_centers")
    mode = "STRICT_ALIGN_CORNERS" if aligned else "UNALIGN_CORNERS" if centers else "DEFAULT"
    return resized(a["x"], *scaled(a), mode)


def nearest(x, height, width):
    """As PyTorch's: the place rounded down."""
    for axis, count in ((-2, height), (-1, width)):
        at = np.floor(np.arange(count) * (x.shape[axis] / count)).astype(int)
        x = np.take(x, np.minimum(at, x.shape[axis] - 1), axis)
    return x


@kernel()
def resize_nearest_neighbor(a):
    """Which neighbour is the nearest is documented nowhere; of whole factors all rules say the same."""
    height, width = int(a["target_size_height"]), int(a["target_size_width"])
    for before, after in zip(a["x"].shape[-2:], (height, width)):
        if before % after and after % before:
            raise Refused(f"the nearest neighbours from {before} to {after}; upsample_nearest_neighbor takes PyTorch's")
    return nearest(a["x"], height, width)


@kernel()
def upsample_nearest_neighbor(a):
    """Apple's tests hold fractional factors against PyTorch."""
    return nearest(a["x"], *scaled(a))


@kernel()
def resize(a):
    x, dims = a["x"], int(a["resized_dims"])
    sizes = [int(n) for n in a["shape"]][len(a["shape"]) - dims :]
    for axis, count in zip(range(x.ndim - dims, x.ndim), sizes):
        if count == 0 or count == x.shape[axis]:
            continue
        if a["interpolation_mode"] == "LINEAR":
            x = interpolated(x.astype(np.float64), axis, grid(a["sampling_mode"], x.shape[axis], count))
            continue
        at = grid(a["sampling_mode"], x.shape[axis], count)
        if np.any(at % 1 == 0.5):
            raise Refused("the nearest of two that are as near")
        x = np.take(x, np.round(at).astype(int), axis)
    return x


CORNERS = {
    "CORNERS_HEIGHT_FIRST": lambda b: (b[0], b[1], b[2], b[3]),
    "CORNERS_WIDTH_FIRST": lambda b: (b[1], b[0], b[3], b[2]),
    "CENTER_SIZE_HEIGHT_FIRST": lambda b: (b[0] - b[2] / 2, b[1] - b[3] / 2, b[0] + b[2] / 2, b[1] + b[3] / 2),
    "CENTER_SIZE_WIDTH_FIRST": lambda b: (b[1] - b[3] / 2, b[0] - b[2] / 2, b[1] + b[3] / 2, b[0] + b[2] / 2),
}


def box_grid(mode, start, end, count):
    """As `grid`, between two places; a box may end before it starts."""
    length, i = end - start, np.arange(count, dtype=np.float64)
    if mode == "ALIGN_CORNERS" and count == 1:
        return np.array([start + length / 2])
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        return start + i * (length / max(1, count - 1))
    if length < 0:
        raise Refused(f"a box that ends before it starts, with {mode}")
    if mode == "OFFSET_CORNERS":
        return start + (i + 0.5) * (max(1, length) / count)
    if mode == "DEFAULT":
        return start + i * ((length + 1) / count)
    return start + (i + 0.5) * ((length + 1) / count) - 0.5


@kernel()
def crop_resize(a):
    x = a["x"].astype(np.float64)
    if "boxes" in a:  # since iOS 17
        boxes = np.asarray(a["boxes"], np.float64)
        pictures = [[int(i)] for i in a["box_indices"]] if present(a, "box_indices") else [[i] for i in range(len(boxes))]
    else:
        boxes = np.asarray(a["roi"], np.float64)[:, 0, :, 0, 0]
        pictures = [list(range(x.shape[0]))] * len(boxes)
        if boxes.shape[1] == 5:
            boxes, pictures = boxes[:, 1:], [[int(i)] for i in boxes[:, 0]]
    sizes, limits = (int(a["target_height"]), int(a["target_width"])), (x.shape[2] - 1, x.shape[3] - 1)
    crops = []
    for box, numbers in zip(boxes, pictures):
        top, left, bottom, right = CORNERS[a["box_coordinate_mode"]](box)
        places, inside = [], []
        for start, end, count, limit in zip((top, left), (bottom, right), sizes, limits):
            scale = float(a["spatial_scale"]) * (limit if a["normalized_coordinates"] else 1)
            at = box_grid(a["sampling_mode"], start * scale, end * scale, count)
            inside.append((at >= 0) & (at <= limit))
            places.append(np.clip(at, 0, limit))
        crop = interpolated(interpolated(x[numbers], 2, places[0]), 3, places[1])
        outside = ~(inside[0][:, None] & inside[1][None, :])
        crop[..., outside] = float(a["pad_value"]) if present(a, "pad_value") else 0.0
        crops.append(crop)
    result = np.stack(crops)
    return result[:, 0] if "boxes" in a else result


def reflected(at, low, high):
    """Places folded back between two mirrors."""
    span = high - low
    if span <= 0:
        return np.zeros_like(at)
    at = np.abs(at - low) % (2 * span)
    return low + np.where(at > span, 2 * span - at, at)


@kernel()
def resample(a):
    x, coordinates = a["x"].astype(np.float64), np.asarray(a["coordinates"], np.float64)
    places = []
    for axis, size in ((0, x.shape[3]), (1, x.shape[2])):
        at, mode = coordinates[..., axis], a["coordinates_mode"]
        if mode == "normalized_minus_one_to_one":
            at, mode = (at + 1) / 2, "normalized_zero_to_one"
        if mode == "normalized_zero_to_one":
            at = at * (size - 1) if a["align_corners"] else at * size - 0.5
        elif not a["align_corners"]:
            raise Refused("coordinates of pixels without align_corners")
        if a["padding_mode"] == "border":
            at = np.clip(at, 0, size - 1)
        elif a["padding_mode"] == "reflection":
            at = reflected(at, 0, size - 1)
        elif a["padding_mode"] == "symmetric":
            at = np.clip(reflected(at, -0.5, size - 0.5), 0, size - 1)
        places.append(at)
    across, down = places
    if a["sampling_mode"] == "nearest":
        return picked(x, np.round(down), np.round(across), a)
    if a["sampling_mode"] != "bilinear":
        raise Refused(f"sampling_mode {a['sampling_mode']}")
    top, left = np.floor(down), np.floor(across)
    v, h = (down - top)[:, None], (across - left)[:, None]
    upper = picked(x, top, left, a) * (1 - h) + picked(x, top, left + 1, a) * h
    lower = picked(x, top + 1, left, a) * (1 - h) + picked(x, top + 1, left + 1, a) * h
    return upper * (1 - v) + lower * v


def picked(x, rows, columns, a):
    """x[b, :, rows, columns]; the padding value outside where there is one."""
    inside = (rows >= 0) & (rows < x.shape[2]) & (columns >= 0) & (columns < x.shape[3])
    rows, columns = np.clip(rows, 0, x.shape[2] - 1).astype(int), np.clip(columns, 0, x.shape[3] - 1).astype(int)
    found = np.stack([picture[:, r, c] for picture, r, c in zip(x, rows, columns)])
    if a["padding_mode"] == "constant":
        found = np.where(inside[:, None], found, np.float64(a["padding_value"]))
    return found


@kernel()
def pixel_shuffle(a):
    return F.pixel_shuffle(tensor(a["x"]), int(a["upscale_factor"])).numpy()


@kernel()
def pixel_unshuffle(a):
    return F.pixel_unshuffle(tensor(a["x"]), int(a["downscale_factor"])).numpy()


@kernel()
def space_to_depth(a):
    """The place in the block is the slow part of the new channel, where pixel_unshuffle has it fast."""
    x, b = a["x"], int(a["block_size"])
    n, c, h, w = x.shape
    return x.reshape(n, c, h // b, b, w // b, b).transpose(0, 3, 5, 1, 2, 4).reshape(n, c * b * b, h // b, w // b)


@kernel()
def depth_to_space(a):
    x, b = a["x"], int(a["block_size"])
    n, c, h, w = x.shape
    return x.reshape(n, b, b, c // (b * b), h, w).transpose(0, 3, 4, 1, 5, 2).reshape(n, c // (b * b), h * b, w * b)


@kernel()
def concat(a):
    """coremltools leaves `interleave` out."""
    if a["interleave"]:
        axis = int(a["axis"]) % a["values"][0].ndim
        stacked = np.stack(a["values"], axis + 1)
        shape = list(a["values"][0].shape)
        shape[axis] *= len(a["values"])
        return stacked.reshape(shape)
    return np.concatenate([np.asarray(v) for v in a["values"]], int(a["axis"]))


@kernel()
def flatten2d(a):
    axis = int(a["axis"])  # may be the rank
    axis = axis + a["x"].ndim if axis < 0 else axis
    return a["x"].reshape(math.prod(a["x"].shape[:axis]), -1)


# ---- gather and scatter ----


@kernel()
def gather_nd(a):
    x, indices, batch = a["x"], a["indices"].astype(int), int(a.get("batch_dims") or 0)
    flat = x.reshape(-1, *x.shape[batch:])
    places = indices.reshape(len(flat), -1, indices.shape[-1])
    found = np.stack([part[tuple(np.moveaxis(place, -1, 0))] for part, place in zip(flat, places)])
    return found.reshape(indices.shape[:-1] + x.shape[batch + indices.shape[-1] :])


UPDATES = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
}


def scattered(a, places, updates):
    data = np.array(a["data"])
    if a["mode"] == "update":
        data[places] = updates
    else:
        UPDATES[a["mode"]].at(data, places, updates)
    return data


@kernel()
def scatter(a):
    axis = int(a["axis"]) % a["data"].ndim
    return scattered(a, (slice(None),) * axis + (a["indices"].astype(int),), a["updates"])


@kernel()
def scatter_nd(a):
    return scattered(a, tuple(np.moveaxis(a["indices"].astype(int), -1, 0)), a["updates"])


@kernel()
def scatter_along_axis(a):
    """coremltools computes every mode as `update`."""
    axis, indices = int(a["axis"]) % a["data"].ndim, a["indices"].astype(int)
    places = list(np.ogrid[tuple(slice(n) for n in indices.shape)])
    places[axis] = indices
    return scattered(a, tuple(places), a["updates"])


@kernel()
def one_hot(a):
    size, axis = int(a["one_hot_vector_size"]), int(a["axis"])
    hot = a["indices"].astype(int)[..., None] == np.arange(size)
    result = np.where(hot, a["on_value"], a["off_value"])
    return np.moveaxis(result, -1, axis if axis >= 0 else axis + result.ndim)


# ---- recurrent layers ----

ACTIVATIONS = {
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "scaled_tanh": np.tanh,  # its factors are 1
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "hard_sigmoid": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
}
ACTIVATIONS["sigmoid_hard"] = ACTIVATIONS["hard_sigmoid"]


def wide(a):
    """Arguments in double precision."""
    return {k: v.astype(np.float64) if isinstance(v, np.ndarray) and v.dtype.kind == "f" else v for k, v in a.items()}


def unrolled(x, direction, step, *states):
    """Steps in order; "reverse" begins at the end, and what it makes stays in the order it was made in."""
    made = []
    for row in x if direction == "forward" else x[::-1]:
        states = step(row, *states)
        made.append(states[0])
    return np.stack(made), states


def sequence(a, made):
    return made if a["output_sequence"] else made[-1:]


@kernel()
def rnn(a):
    a, act = wide(a), ACTIVATIONS[a["activation"]]
    bias = a["bias"] if present(a, "bias") else 0.0

    def step(x, h):
        return (act(x @ a["weight_ih"].T + h @ a["weight_hh"].T + bias),)

    made, (h,) = unrolled(a["x"], a["direction"], step, a["initial_h"])
    return sequence(a, made), h


@kernel()
def gru(a):
    """Gates r, o, z. Without reset_after the reset gate is applied to the state before its product, unlike in PyTorch."""
    a, inner, act = wide(a), ACTIVATIONS[a["recurrent_activation"]], ACTIVATIONS[a["activation"]]
    if a.get("reset_after"):
        raise Refused("Apple's own test of reset_after against PyTorch is expected to fail")
    if present(a, "input_bias"):
        raise Refused("input_bias without reset_after")
    to_r, to_o, to_z = np.split(a["weight_ih"], 3)
    of_r, of_o, of_z = np.split(a["weight_hh"], 3)
    b_r, b_o, b_z = np.split(a["bias"], 3) if present(a, "bias") else (0.0, 0.0, 0.0)

    def step(x, h):
        r, z = inner(x @ to_r.T + h @ of_r.T + b_r), inner(x @ to_z.T + h @ of_z.T + b_z)
        o = act(x @ to_o.T + (r * h) @ of_o.T + b_o)
        return ((1 - z) * o + z * h,)

    made, (h,) = unrolled(a["x"], a["direction"], step, a["initial_h"])
    return sequence(a, made), h


def lstm_direction(a, suffix, reverse, h, c):
    """One direction of an LSTM; gates i, f, o, z."""
    gate, cell, act = (ACTIVATIONS[a[k]] for k in ("recurrent_activation", "cell_activation", "activation"))
    weight_ih, weight_hh = a["weight_ih" + suffix], a["weight_hh" + suffix]
    bias = a["bias" + suffix] if present(a, "bias" + suffix) else 0.0
    peep = np.split(a["peephole" + suffix], 3) if present(a, "peephole" + suffix) else (0.0, 0.0, 0.0)
    limit = float(a["clip"]) if present(a, "clip") else math.inf

    def step(x, h, c):
        i, f, o, z = np.split(x @ weight_ih.T + h @ weight_hh.T + bias, 4, axis=-1)
        i, f = gate(i + peep[0] * c), gate(f + peep[1] * c)
        c = np.clip(f * c + i * cell(z), -limit, limit)  # the documentation clips the gate; Apple's test, what it makes
        return gate(o + peep[2] * c) * act(c), c

    return unrolled(a["x"], "reverse" if reverse else "forward", step, h, c)


@kernel()
def lstm(a):
    a = wide(a)
    if a["direction"] != "bidirectional":
        made, (h, c) = lstm_direction(a, "", a["direction"] == "reverse", a["initial_h"], a["initial_c"])
        return sequence(a, made), h, c
    size = a["weight_hh"].shape[1]
    parts = [
        lstm_direction(a, suffix, reverse, a["initial_h"][:, part], a["initial_c"][:, part])
        for suffix, reverse, part in (("", False, slice(size)), ("_back", True, slice(size, None)))
    ]
    (there, (h1, c1)), (back, (h2, c2)) = parts
    # Of the whole sequence, outputs of a step are side by side; of none, those that each direction made last.
    made = np.concatenate([there, back[::-1]], -1) if a["output_sequence"] else np.concatenate([there[-1:], back[-1:]], -1)
    return made, np.concatenate([h1, h2], -1), np.concatenate([c1, c2], -1)
