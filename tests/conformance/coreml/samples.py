"""Packages that coremltools writes, for checks of the checks: each a function of a folder that returns the package's path."""

import gc

import numpy as np

from .package import coremltools as ct
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import get_new_symbol, types

# Each conversion ends with a collection of garbage, which takes half a second where all that was imported is looked at.
gc.collect()
gc.freeze()

TARGETS = {"ios16": ct.target.iOS16, "ios17": ct.target.iOS17, "ios18": ct.target.iOS18}
FP16, FP32 = types.fp16, types.fp32
SAMPLES = {}


def sample(function):
    SAMPLES[function.__name__] = function
    return function


def rng():
    return np.random.default_rng(7)


def random(*shape, dtype=np.float32):
    return rng().standard_normal(shape).astype(dtype)


def integers(low, high, shape, dtype):
    return rng().integers(low, high, shape).astype(dtype)


def tensor(*shape, dtype=FP32):
    return mb.TensorSpec(shape=shape, dtype=dtype)


def program(target, *inputs):
    """Decorates the function that builds a program."""
    return mb.program(input_specs=list(inputs), opset_version=TARGETS[target])


def save(built, path, target, inputs=None):
    """Writes a program as it is: no pass of the converter changes it."""
    model = ct.convert(
        built, convert_to="mlprogram", minimum_deployment_target=TARGETS[target], inputs=inputs,
        compute_precision=ct.precision.FLOAT32, pass_pipeline=ct.PassPipeline.EMPTY, skip_model_load=True,
    )
    model.save(str(path))
    return path


@sample
def eight_bits(folder):
    """iOS 17: 8-bit weights and activations, a scale a channel or one for all."""

    @program("ios17", tensor(1, 3, 8, 8))
    def built(x):
        kernel = mb.constexpr_affine_dequantize(
            quantized_data=integers(-127, 128, (4, 3, 3, 3), np.int8), zero_point=np.zeros(4, np.int8),
            scale=np.linspace(0.01, 0.02, 4, dtype=np.float32), axis=0,
        )
        x = mb.dequantize(input=mb.quantize(input=x, scale=np.float32(0.03), output_dtype="int8"), scale=np.float32(0.03))
        y = mb.relu(x=mb.conv(x=x, weight=kernel, bias=random(4), pad_type="custom", pad=[1, 1, 1, 1]))
        zero = np.uint8(3)
        y = mb.quantize(input=y, scale=np.float32(0.02), zero_point=zero, output_dtype="uint8")
        y = mb.reshape(x=mb.dequantize(input=y, scale=np.float32(0.02), zero_point=zero), shape=[1, 256])
        matrix = mb.constexpr_affine_dequantize(
            quantized_data=integers(-127, 128, (5, 256), np.int8), zero_point=np.int8(0), scale=np.float32(0.01), axis=0
        )
        return mb.linear(x=y, weight=matrix, bias=random(5), name="result")

    return save(built, folder / "eight_bits.mlpackage", "ios17")


@sample
def pair(folder):
    """iOS 18: two inputs of different types, two outputs, half floats at the interface."""

    @program("ios18", tensor(4, 6, dtype=FP16), tensor(3, dtype=types.int32))
    def built(x, rows):
        picked = mb.gather(x=x, indices=rows, axis=0)
        return mb.cast(x=picked, dtype="fp32", name="wide"), mb.relu(x=picked, name="half")

    return save(built, folder / "pair.mlpackage", "ios18")


@sample
def blocks(folder):
    """iOS 18: 4-bit weights with scales for blocks, an odd number of them, with offsets and without."""

    @program("ios18", tensor(2, 9))
    def built(x):
        weight = mb.constexpr_blockwise_shift_scale(
            data=integers(-8, 8, (5, 9), types.np_int4_dtype), scale=random(5, 3), offset=integers(-8, 8, (5, 3), types.np_int4_dtype)
        )
        other = mb.constexpr_blockwise_shift_scale(data=integers(-8, 8, (6, 5), types.np_int4_dtype), scale=random(6, 1))
        return mb.linear(x=mb.linear(x=x, weight=weight), weight=other, name="result")

    return save(built, folder / "blocks.mlpackage", "ios18")


@sample
def tables(folder):
    """iOS 18: weights as indices of 3 and 4 bits into tables."""

    @program("ios18", tensor(2, 7))
    def built(x):
        weight = mb.constexpr_lut_to_dense(indices=integers(0, 8, (6, 7), types.np_uint3_dtype), lut=random(2, 1, 8, 1))
        other = mb.constexpr_lut_to_dense(indices=integers(0, 16, (5, 6), types.np_uint4_dtype), lut=random(1, 3, 16, 1))
        return mb.linear(x=mb.linear(x=x, weight=weight), weight=other, name="result")

    return save(built, folder / "tables.mlpackage", "ios18")


@sample
def packed_tables(folder):
    """iOS 17: indices packed into bytes by the writer."""

    @program("ios17", tensor(2, 8))
    def built(x):
        weight = mb.constexpr_lut_to_dense(
            indices=integers(0, 256, (20,), np.uint8), lut=random(16), shape=np.array([5, 8], np.uint32)
        )
        return mb.linear(x=x, weight=weight, name="result")

    return save(built, folder / "packed_tables.mlpackage", "ios17")


@sample
def state(folder):
    """iOS 18: a buffer that keeps its value between calls."""

    @program("ios18", tensor(1, 4, dtype=FP16), mb.StateTensorSpec((1, 4), dtype=FP16))
    def built(x, total):
        before = mb.read_state(input=total)
        after = mb.coreml_update_state(state=total, value=mb.add(x=x, y=before))
        return mb.mul(x=after, y=np.float16(2), name="result")

    return save(built, folder / "state.mlpackage", "ios18")


@sample
def ranges(folder):
    """A batch of any size up to 8."""

    @program("ios17", tensor(get_new_symbol(), 4))
    def built(x):
        return mb.linear(x=mb.relu(x=x), weight=random(3, 4), bias=random(3), name="result")

    shape = ct.Shape(shape=(ct.RangeDim(lower_bound=1, upper_bound=8, default=2), 4))
    return save(built, folder / "ranges.mlpackage", "ios17", inputs=[ct.TensorType(name="x", shape=shape)])


@sample
def enumerated(folder):
    """One of three lengths."""

    @program("ios17", tensor(1, get_new_symbol(), 4))
    def built(x):
        return mb.relu(x=x, name="result")

    shapes = ct.EnumeratedShapes(shapes=[(1, 8, 4), (1, 16, 4), (1, 32, 4)], default=(1, 16, 4))
    return save(built, folder / "enumerated.mlpackage", "ios17", inputs=[ct.TensorType(name="x", shape=shapes)])


@sample
def functions(folder):
    """iOS 18: two functions that share a weight."""
    weight = random(8, 8)

    def one(name, length):
        @program("ios18", tensor(length, 8))
        def built(x):
            return mb.linear(x=x, weight=weight, name=f"result_{name}")

        return str(save(built, folder / f"one_{name}.mlpackage", "ios18"))

    described = ct.utils.MultiFunctionDescriptor()
    described.add_function(one("decode", 1), src_function_name="main", target_function_name="decode")
    described.add_function(one("prefill", 4), src_function_name="main", target_function_name="prefill")
    described.default_function_name = "decode"
    path = folder / "functions.mlpackage"
    ct.utils.save_multifunction(described, str(path))
    return path
