"""An .mlpackage as its parts: description and program (protocol buffers), weights, and the program as coremltools types it."""

import contextlib
import dataclasses
import functools
import io
import logging
import pathlib
import shutil
import struct
import tempfile
import warnings

import numpy as np

# coremltools says on import, at length, which other packages it was not tested with.
warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)
with contextlib.redirect_stderr(io.StringIO()):
    import coremltools
from coremltools.converters.mil.frontend.milproto.load import load as load_program
from coremltools.proto import MIL_pb2 as mil

DATA = pathlib.PurePath("Data", "com.apple.CoreML")
WEIGHTS = DATA / "weights" / "weight.bin"
MODEL = DATA / "model.mlmodel"
# What a value in the weights is called in the program.
WEIGHTS_NAME = "@model_path/weights/weight.bin"

# Targets by what `lowbit` calls them: (specificationVersion, opset).
VERSIONS = {6: "CoreML5", 7: "CoreML6", 8: "CoreML7", 9: "CoreML8", 10: "CoreML9"}
TARGETS = {"ios16": 7, "ios17": 8, "ios18": 9}


@dataclasses.dataclass(frozen=True)
class DType:
    name: str
    bits: int
    blob: int | None  # number in the weights' records, which is another one than in the program
    immediate: str | None  # field of a TensorValue that holds it


# Keys are numbers of mil.DataType.
DTYPES = {
    mil.BOOL: DType("bool", 8, None, "bools"),
    mil.STRING: DType("string", 0, None, "strings"),
    mil.FLOAT16: DType("fp16", 16, 1, "bytes"),
    mil.FLOAT32: DType("fp32", 32, 2, "floats"),
    mil.FLOAT64: DType("fp64", 64, None, "doubles"),
    mil.INT8: DType("int8", 8, 4, "bytes"),
    mil.INT16: DType("int16", 16, 6, "ints"),
    mil.INT32: DType("int32", 32, 14, "ints"),
    mil.INT64: DType("int64", 64, None, "longInts"),
    mil.INT4: DType("int4", 4, 8, "bytes"),
    mil.UINT8: DType("uint8", 8, 3, "bytes"),
    mil.UINT16: DType("uint16", 16, 7, "ints"),
    mil.UINT32: DType("uint32", 32, 15, "bytes"),
    mil.UINT64: DType("uint64", 64, None, "longInts"),
    mil.UINT1: DType("uint1", 1, 9, "bytes"),
    mil.UINT2: DType("uint2", 2, 10, "bytes"),
    mil.UINT3: DType("uint3", 3, 12, "bytes"),
    mil.UINT4: DType("uint4", 4, 11, "bytes"),
    mil.UINT6: DType("uint6", 6, 13, "bytes"),
}
BLOB_NAMES = {dtype.blob: dtype.name for dtype in DTYPES.values() if dtype.blob is not None}


@contextlib.contextmanager
def copied(path):
    """A copy of a package for Apple's classes to open: they rewrite Manifest.json."""
    path = pathlib.Path(path)
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / path.name
        shutil.copytree(path, copy)
        yield copy


class Package:
    """The parts of a package that lies at `folder`. Opened for reading alone: Manifest.json is left as it is."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.spec = coremltools.proto.Model_pb2.Model()
        self.spec.ParseFromString((self.folder / MODEL).read_bytes())

    @functools.cached_property
    def weights(self):
        """Bytes of weight.bin; none where a program has no large constants."""
        path = self.folder / WEIGHTS
        return path.read_bytes() if path.exists() else b""

    @functools.cached_property
    def program(self):
        """The program by Apple's definitions: types are inferred, arguments checked against each operator's signature."""
        return load_program(self.spec, self.spec.specificationVersion, str(self.folder / WEIGHTS.parent))

    def block(self, function="main"):
        found = self.spec.mlProgram.functions[function]
        return found.block_specializations[found.opset]

    def operations(self):
        """(function, operation) of all functions, with nested blocks."""
        for name in self.spec.mlProgram.functions:
            for operation in operations(self.block(name)):
                yield name, operation

    def descriptions(self):
        """Inputs, outputs and states of each function, as the model describes them: {function: description}."""
        described = self.spec.description
        return {f.name: f for f in described.functions} if described.functions else {"main": described}


def operations(block):
    """All operations of a block, in order, those of nested blocks too."""
    for operation in block.operations:
        yield operation
        for nested in operation.blocks:
            yield from operations(nested)


def values(operation):
    """(where, Value) for each constant in an operation."""
    for name, value in operation.attributes.items():
        yield f"attribute {name}", value
    for name, argument in operation.inputs.items():
        for binding in argument.arguments:
            if binding.WhichOneof("binding") == "value":
                yield f"input {name}", binding.value


def output_name(operation):
    return operation.outputs[0].name if operation.outputs else "(no output)"


def dims(tensor):
    """Sizes of a TensorType; None where a size is only known at run time."""
    return [d.constant.size if d.WhichOneof("dimension") == "constant" else None for d in tensor.dimensions]


def elements(tensor):
    count = 1
    for size in dims(tensor):
        count *= size
    return count


# ---- weight.bin: a header, then records of 64 bytes, each before its data, all at multiples of 64 bytes ----

ALIGNMENT, SENTINEL, STORAGE_VERSION = 64, 0xDEADBEEF, 2


@dataclasses.dataclass(frozen=True)
class Record:
    offset: int  # of the record: what the program refers to
    dtype: int
    size: int
    start: int  # of the data
    padding: int  # unused bits at the end of the data

    @property
    def end(self):
        return self.start + self.size

    def data(self, weights):
        return weights[self.start : self.end]


class BadWeights(Exception):
    """weight.bin breaks a rule of its format; the text says which and where."""


def records(weights):
    """{offset: record} of weight.bin, every rule of the format checked; `BadWeights` otherwise."""
    if not weights:
        return {}
    if len(weights) < ALIGNMENT:
        raise BadWeights(f"{len(weights)} bytes hold no header")
    count, version = struct.unpack_from("<II", weights)
    if version != STORAGE_VERSION:
        raise BadWeights(f"version {version}, not {STORAGE_VERSION}")
    if any(weights[8:ALIGNMENT]):
        raise BadWeights("reserved bytes of the header are not zero")
    found, at, end = {}, ALIGNMENT, ALIGNMENT
    for number in range(count):
        where = f"record {number} at {at}"
        if at + ALIGNMENT > len(weights):
            raise BadWeights(f"{where}: the file ends at {len(weights)}")
        sentinel, dtype, size, start, padding = struct.unpack_from("<IIQQQ", weights, at)
        if sentinel != SENTINEL:
            raise BadWeights(f"{where}: sentinel {sentinel:#x}")
        if dtype not in BLOB_NAMES:
            raise BadWeights(f"{where}: no such type: {dtype}")
        if any(weights[at + 32 : at + ALIGNMENT]):
            raise BadWeights(f"{where}: reserved bytes are not zero")
        if start != at + ALIGNMENT:
            raise BadWeights(f"{where}: its data is at {start}")
        if start + size > len(weights):
            raise BadWeights(f"{where}: {size} bytes go beyond the end, {len(weights)}")
        if padding >= 8 or (padding and size and weights[start + size - 1] >> (8 - padding)):
            raise BadWeights(f"{where}: {padding} unused bits, not zero or too many")
        found[at] = Record(at, dtype, size, start, padding)
        end = start + size
        at = -(-end // ALIGNMENT) * ALIGNMENT
        if any(weights[end:at]):
            raise BadWeights(f"{where}: bytes between its data and the next record are not zero")
    if end != len(weights):
        raise BadWeights(f"{len(weights) - end} bytes after the last record")
    return found


NUMPY = {"fp16": "<f2", "fp32": "<f4", "int8": "i1", "uint8": "u1", "int16": "<i2", "uint16": "<u2", "int32": "<i4", "uint32": "<u4"}


def unpacked(data, dtype, count):
    """`count` values of a type in bytes; those of fewer than 8 bits lie one after the other, lowest bit first."""
    if dtype.bits >= 8:
        return np.frombuffer(data, NUMPY[dtype.name], count)
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")[: count * dtype.bits].reshape(count, dtype.bits)
    numbers = bits.astype(np.int16) @ (1 << np.arange(dtype.bits, dtype=np.int16))
    if not dtype.name.startswith("u"):
        numbers -= (numbers >> (dtype.bits - 1)) << dtype.bits
    return numbers.astype(np.uint8 if dtype.name.startswith("u") else np.int8)
