"""Faults, each made in an otherwise good package: what `check.py` has to find. python -m coreml.mutate PACKAGE…

A mutant names the step of the check that exists for it: another step finding something too proves nothing about that one.
"""

import dataclasses
import json
import pathlib
import shutil
import struct
import sys
import tempfile
from typing import Callable

from . import check, package
from .package import ALIGNMENT, DTYPES, Package, dims, mil, operations

ARRAY = check.ARRAY
MUTANTS = {}


class Inapplicable(Exception):
    """The package has nothing that this fault could be made in."""


@dataclasses.dataclass(frozen=True)
class Mutant:
    name: str
    step: str  # of the check, that finds it
    make: Callable  # changes Parts


def mutant(step):
    def add(function):
        assert step in check.STEPS or step == "container", step
        assert function.__name__ not in MUTANTS, function.__name__
        MUTANTS[function.__name__] = Mutant(function.__name__, step, function)
        return function

    return add


class Parts:
    """A package's parts, to be changed and written back."""

    def __init__(self, folder):
        opened = Package(folder)
        self.folder, self.spec = folder, opened.spec
        self.weights = bytearray(opened.weights)
        self.manifest = json.loads((folder / "Manifest.json").read_text())
        self.suffix = b""  # bytes after the serialized model

    def write(self):
        (self.folder / package.MODEL).write_bytes(self.spec.SerializeToString() + self.suffix)
        (self.folder / "Manifest.json").write_text(json.dumps(self.manifest))
        if self.weights:
            (self.folder / package.WEIGHTS).write_bytes(self.weights)

    # ---- finding what to change; Inapplicable where there is none ----

    @property
    def functions(self):
        return list(self.spec.mlProgram.functions.values())

    @property
    def block(self):
        return self.functions[0].block_specializations[self.functions[0].opset]

    def all(self):
        return list(operations(self.block))

    def first(self, *kinds):
        return find(self.all(), lambda operation: operation.type in kinds)

    def matrix(self):
        """An operator with weights."""
        return self.first("linear", "conv")

    def named(self, name):
        return find(self.all(), lambda operation: name in [o.name for o in operation.outputs])

    def constant(self, operation, argument):
        """The Value of an argument that a `const` makes, and that const."""
        bindings = operation.inputs[argument].arguments if argument in operation.inputs else []
        if not bindings or bindings[0].WhichOneof("binding") != "name":
            raise Inapplicable
        made = self.named(bindings[0].name)
        if made.type != "const":
            raise Inapplicable
        return made.attributes["val"], made

    def parameter(self, operation, name):
        """The Value of a constexpr's parameter: an attribute before iOS 18, an input since."""
        if name in operation.attributes:
            return operation.attributes[name]
        if name in operation.inputs and operation.inputs[name].arguments[0].WhichOneof("binding") == "value":
            return operation.inputs[name].arguments[0].value
        raise Inapplicable

    def values(self, condition):
        """The first Value of the program that the condition holds for."""
        found = [value for operation in self.all() for _, value in package.values(operation)]
        return find([v for v in found if v.type.WhichOneof("type") == "tensorType"], condition)

    def in_file(self):
        return self.values(lambda value: value.WhichOneof("value") == "blobFileValue")

    def record(self, number=0):
        """Offset of a record in the weights."""
        found = sorted(package.records(bytes(self.weights)))
        return find(found[number:], lambda offset: True)

    @property
    def described(self):
        functions = self.spec.description.functions
        return functions[0] if functions else self.spec.description

    def array(self, condition=lambda array: True):
        """An input's array type."""
        return find([f.type.multiArrayType for f in self.described.input], condition)

    def flexible(self, kind):
        return self.array(lambda array: array.WhichOneof("ShapeFlexibility") == kind)

    def state(self):
        return find(list(self.described.state), lambda feature: True)

    def rename(self, old, new):
        """A value's name, everywhere."""
        for operation in self.all():
            for output in operation.outputs:
                output.name = new if output.name == old else output.name
            for argument in operation.inputs.values():
                for binding in argument.arguments:
                    if binding.name == old:
                        binding.name = new
        for i, output in enumerate(self.block.outputs):
            self.block.outputs[i] = new if output == old else output
        for feature in self.described.output:
            feature.name = new if feature.name == old else feature.name

    def version(self, number):
        """Says another specification version, with the opset that belongs to it."""
        self.spec.specificationVersion = number
        for function in self.functions:
            block = mil.Block()
            block.CopyFrom(function.block_specializations[function.opset])
            del function.block_specializations[function.opset]
            function.opset = package.VERSIONS[number]
            function.block_specializations[function.opset].CopyFrom(block)


def find(items, condition):
    for item in items:
        if condition(item):
            return item
    raise Inapplicable


def need(condition):
    if not condition:
        raise Inapplicable


# ---- the container ----


@mutant("container")
def manifest_is_no_json(parts):
    parts.manifest = []


@mutant("container")
def manifest_without_root(parts):
    del parts.manifest["rootModelIdentifier"]


@mutant("container")
def manifest_of_another_version(parts):
    parts.manifest["fileFormatVersion"] = "9.0.0"


@mutant("container")
def manifest_without_descriptions(parts):
    for item in parts.manifest["itemInfoEntries"].values():
        del item["description"]


@mutant("container")
def manifest_of_other_paths(parts):
    for item in parts.manifest["itemInfoEntries"].values():
        item["path"] += "x"


@mutant("container")
def manifest_root_is_another_item(parts):
    root = parts.manifest["rootModelIdentifier"]
    parts.manifest["rootModelIdentifier"] = find(list(parts.manifest["itemInfoEntries"]), lambda key: key != root)


@mutant("container")
def manifest_without_weights(parts):
    need(parts.weights)
    items = parts.manifest["itemInfoEntries"]
    del items[find(list(items), lambda key: items[key]["path"].endswith("weights"))]


@mutant("container")
def model_is_cut_off(parts):
    parts.suffix = bytes([0x12, 0x40, 0x01])  # a message of 64 bytes, of which there is one


# ---- the messages ----


@mutant("fields")
def unknown_field_of_the_model(parts):
    parts.suffix = bytes([0xF8, 0x3F, 1])  # 1023: 1


@mutant("fields")
def unknown_field_of_an_operation(parts):
    parts.all()[0].MergeFromString(bytes([0xD0, 0x05, 1]))  # 90: 1


@mutant("fields")
def unknown_type_number(parts):
    parts.first("linear", "conv", "relu", "mul").outputs[0].type.tensorType.dataType = 99


# ---- versions ----


@mutant("version")
def specification_of_an_older_system(parts):
    parts.spec.specificationVersion -= 1


@mutant("version")
def specification_without_programs(parts):
    parts.spec.specificationVersion = 4


@mutant("version")
def specification_of_the_future(parts):
    parts.spec.specificationVersion = 99


@mutant("version")
def opset_of_an_older_system(parts):
    function = parts.functions[0]
    block = mil.Block()
    block.CopyFrom(parts.block)
    del function.block_specializations[function.opset]
    function.opset = package.VERSIONS[parts.spec.specificationVersion - 1]
    function.block_specializations[function.opset].CopyFrom(block)


@mutant("version")
def blocks_for_two_opsets(parts):
    parts.functions[0].block_specializations["CoreML5"].CopyFrom(parts.block)


@mutant("version")
def program_of_version_2(parts):
    parts.spec.mlProgram.version = 2


@mutant("version")
def bytes_at_the_interface(parts):
    parts.described.output[0].type.multiArrayType.dataType = ARRAY.INT8


@mutant("version")
def half_floats_too_early(parts):
    need(any(f.type.multiArrayType.dataType == ARRAY.FLOAT16 for f in parts.described.input))
    parts.version(6)


@mutant("version")
def states_too_early(parts):
    need(len(parts.described.state))
    parts.version(8)


@mutant("version")
def functions_too_early(parts):
    need(len(parts.spec.description.functions))
    parts.version(8)


# ---- names ----


@mutant("names")
def name_with_a_dot(parts):
    parts.rename(parts.first("relu", "linear", "gather", "mul").outputs[0].name, "a.b/c")


@mutant("names")
def name_that_starts_with_a_digit(parts):
    parts.rename(parts.first("relu", "linear", "gather", "mul").outputs[0].name, "1st")


@mutant("names")
def name_defined_twice(parts):
    made = [operation for operation in parts.all() if operation.outputs]
    need(len(made) > 1)
    a, b = made[0], made[-1]
    parts.rename(b.outputs[0].name, a.outputs[0].name)


@mutant("names")
def name_of_an_input_taken(parts):
    parts.rename(parts.all()[-1].outputs[0].name, parts.functions[0].inputs[0].name)


@mutant("names")
def output_that_nothing_makes(parts):
    parts.block.outputs[0] = parts.described.output[0].name = "nobody"


@mutant("names")
def function_of_a_wrong_name(parts):
    function = mil.Function()
    function.CopyFrom(parts.functions[0])
    parts.spec.mlProgram.functions["a-b"].CopyFrom(function)


# ---- weight.bin ----


def put(parts, form, at, value):
    struct.pack_into("<" + form, parts.weights, at, value)


@mutant("weights")
def weights_of_version_1(parts):
    parts.record()
    put(parts, "I", 4, 1)


@mutant("weights")
def weights_count_too_small(parts):
    need(len(package.records(bytes(parts.weights))) > 1)
    put(parts, "I", 0, 1)


@mutant("weights")
def weights_count_too_large(parts):
    parts.record()
    put(parts, "I", 0, struct.unpack_from("<I", parts.weights)[0] + 1)


@mutant("weights")
def weights_header_reserved(parts):
    parts.record()
    put(parts, "I", 60, 1)


@mutant("weights")
def record_without_sentinel(parts):
    put(parts, "I", parts.record(), 0xDEADBEEE)


@mutant("weights")
def record_of_no_type(parts):
    put(parts, "I", parts.record() + 4, 77)


@mutant("weights")
def record_data_elsewhere(parts):
    at = parts.record()
    put(parts, "Q", at + 16, at)


@mutant("weights")
def record_beyond_the_end(parts):
    put(parts, "Q", parts.record() + 8, len(parts.weights))


@mutant("weights")
def record_reserved(parts):
    put(parts, "Q", parts.record() + 40, 1)


@mutant("weights")
def record_with_unused_byte(parts):
    put(parts, "Q", parts.record() + 24, 8)


@mutant("weights")
def unused_bits_set(parts):
    table = package.records(bytes(parts.weights))
    record = find(list(table.values()), lambda record: record.padding)
    parts.weights[record.end - 1] |= 0x80


@mutant("weights")
def gap_that_is_not_zero(parts):
    table = sorted(package.records(bytes(parts.weights)).values(), key=lambda record: record.offset)
    record = find(table[:-1], lambda record: record.end % ALIGNMENT)
    parts.weights[record.end] = 1


@mutant("weights")
def weights_cut_off(parts):
    parts.record()
    del parts.weights[-3:]


@mutant("weights")
def weights_with_more_at_the_end(parts):
    parts.record()
    parts.weights.append(0)


@mutant("weights")
def record_off_its_alignment(parts):
    """Everything moves by 32 bytes, and what refers to it too."""
    parts.record()
    parts.weights[ALIGNMENT:ALIGNMENT] = bytes(32)
    for operation in parts.all():
        for _, value in package.values(operation):
            if value.WhichOneof("value") == "blobFileValue":
                value.blobFileValue.offset += 32


# ---- constants ----


@mutant("values")
def reference_off_by_a_record(parts):
    parts.in_file().blobFileValue.offset += ALIGNMENT


@mutant("values")
def reference_to_data(parts):
    parts.in_file().blobFileValue.offset += 1


@mutant("values")
def reference_to_another_file(parts):
    parts.in_file().blobFileValue.fileName = "@model_path/weights/other.bin"


@mutant("values")
def record_that_nothing_refers_to(parts):
    parts.record()
    parts.weights.extend(bytes(-len(parts.weights) % ALIGNMENT))
    at = len(parts.weights)
    parts.weights.extend(struct.pack("<IIQQQ", package.SENTINEL, 2, 4, at + ALIGNMENT, 0).ljust(ALIGNMENT, b"\0") + bytes(4))
    put(parts, "I", 0, struct.unpack_from("<I", parts.weights)[0] + 1)


@mutant("values")
def record_of_another_type(parts):
    at = parts.in_file().blobFileValue.offset
    put(parts, "I", at + 4, 5)  # bfloat16: no type of ours, of another size


@mutant("values")
def record_of_the_other_sign(parts):
    """int8 as uint8, int4 as uint4: as many bytes."""
    other = {"int8": 3, "int4": 11, "uint3": 13, "uint4": 8, "uint8": 4, "fp32": 14, "fp16": 6}
    value = parts.in_file()
    put(parts, "I", value.blobFileValue.offset + 4, other[DTYPES[value.type.tensorType.dataType].name])


@mutant("values")
def record_too_short(parts):
    at = parts.in_file().blobFileValue.offset + 8
    size = struct.unpack_from("<Q", parts.weights, at)[0]
    need(size % ALIGNMENT != 1)  # else what is left out is more than a gap
    parts.weights[at + ALIGNMENT - 8 + size - 1] = 0
    put(parts, "Q", at, size - 1)


@mutant("values")
def record_that_counts_no_unused_bits(parts):
    table = package.records(bytes(parts.weights))
    record = find(list(table.values()), lambda record: record.padding)
    put(parts, "Q", record.offset + 24, 0)


@mutant("values")
def bytes_where_fewer_bits_are_meant(parts):
    """The program says 4 bits, weight.bin has a byte for each."""
    value = parts.values(lambda v: v.WhichOneof("value") == "blobFileValue" and v.type.tensorType.dataType in (mil.INT8, mil.UINT8))
    value.type.tensorType.dataType = mil.INT4 if value.type.tensorType.dataType == mil.INT8 else mil.UINT4


@mutant("values")
def constant_of_another_shape(parts):
    parts.in_file().type.tensorType.dimensions[0].constant.size += 1


@mutant("values")
def constant_of_another_rank(parts):
    parts.in_file().type.tensorType.rank += 1


@mutant("values")
def constant_of_unknown_size(parts):
    parts.in_file().type.tensorType.dimensions[0].unknown.variadic = False


@mutant("values")
def immediate_too_long(parts):
    value = parts.values(lambda v: v.immediateValue.tensor.WhichOneof("value") in ("ints", "floats"))
    held = getattr(value.immediateValue.tensor, value.immediateValue.tensor.WhichOneof("value")).values
    held.append(held[0])


@mutant("values")
def immediate_too_short(parts):
    value = parts.values(lambda v: v.immediateValue.tensor.WhichOneof("value") in ("ints", "floats"))
    held = getattr(value.immediateValue.tensor, value.immediateValue.tensor.WhichOneof("value")).values
    del held[-1]


@mutant("values")
def immediate_bytes_too_long(parts):
    value = parts.values(lambda v: v.immediateValue.tensor.WhichOneof("value") == "bytes")
    value.immediateValue.tensor.bytes.values += b"\0"


@mutant("values")
def half_floats_written_as_floats(parts):
    value = parts.values(lambda v: v.type.tensorType.dataType == mil.FLOAT16 and v.WhichOneof("value") == "immediateValue")
    value.immediateValue.tensor.floats.values.append(1.0)


@mutant("values")
def nothing_for_a_value(parts):
    parts.in_file().ClearField("blobFileValue")


# ---- the program: types and shapes ----


@mutant("program")
def output_of_another_type(parts):
    tensor = parts.matrix().outputs[0].type.tensorType
    tensor.dataType = mil.FLOAT16 if tensor.dataType == mil.FLOAT32 else mil.FLOAT32


@mutant("program")
def output_of_another_shape(parts):
    parts.matrix().outputs[0].type.tensorType.dimensions[-1].constant.size += 1


@mutant("program")
def output_of_another_rank(parts):
    tensor = parts.matrix().outputs[0].type.tensorType
    tensor.dimensions.add().constant.size = 1
    tensor.rank += 1


@mutant("program")
def input_left_out(parts):
    del parts.matrix().inputs["x"]


@mutant("program")
def weight_left_out(parts):
    del parts.matrix().inputs["weight"]


@mutant("program")
def argument_of_no_name(parts):
    operation = parts.matrix()
    operation.inputs["bogus"].CopyFrom(operation.inputs["x"])


@mutant("program")
def argument_of_two_values(parts):
    argument = parts.matrix().inputs["x"]
    argument.arguments.add().CopyFrom(argument.arguments[0])


@mutant("program")
def operator_of_no_name(parts):
    parts.matrix().type = "linearr"


@mutant("program")
def operator_with_too_many_outputs(parts):
    operation = parts.matrix()
    operation.outputs.add().CopyFrom(operation.outputs[0])
    operation.outputs[1].name = "more"


@mutant("program")
def operator_with_an_attribute(parts):
    operation = parts.matrix()
    operation.attributes["strides"].CopyFrom(operation.attributes["name"])


@mutant("program")
def reference_to_nothing(parts):
    parts.matrix().inputs["x"].arguments[0].name = "nope"


@mutant("program")
def use_before_definition(parts):
    operation = parts.matrix()
    at = list(parts.block.operations).index(operation)
    copy = mil.Operation()
    copy.CopyFrom(operation)
    del parts.block.operations[at]
    parts.block.operations.insert(0, copy)


@mutant("program")
def weight_that_does_not_fit(parts):
    """The weight's last two sizes swapped: as many values."""
    operation = parts.matrix()
    made = parts.named(operation.inputs["weight"].arguments[0].name)
    need(made.type == "const" or made.type.startswith("constexpr"))
    value = made.attributes["val"] if made.type == "const" else parts.parameter(made, "data" if "data" in made.inputs else "quantized_data")
    a, b = dims(value.type.tensorType)[:2]
    need(a != b)
    for tensor in (value.type.tensorType, made.outputs[0].type.tensorType):
        tensor.dimensions[0].constant.size, tensor.dimensions[1].constant.size = b, a


@mutant("program")
def bias_that_is_no_constant(parts):
    operation = parts.matrix()
    need("bias" in operation.inputs)
    operation.inputs["bias"].arguments[0].name = parts.functions[0].inputs[0].name


@mutant("program")
def padding_of_no_kind(parts):
    value, _ = parts.constant(parts.first("conv"), "pad_type")
    value.immediateValue.tensor.strings.values[0] = "sane"


def string(parts, operation, argument):
    return parts.constant(operation, argument)[0].immediateValue.tensor.strings.values[0]


@mutant("program")
def padding_of_another_width(parts):
    operation = find(parts.all(), lambda o: o.type == "conv" and string(parts, o, "pad_type") == "custom")
    value, _ = parts.constant(operation, "pad")
    value.immediateValue.tensor.ints.values[0] += 100  # less may vanish in the stride


@mutant("program")
def reshape_to_another_size(parts):
    value, _ = parts.constant(parts.first("reshape"), "shape")
    value.immediateValue.tensor.ints.values[0] += 1


@mutant("program")
def operators_of_a_newer_system(parts):
    """All says iOS 17 (16), the operators are of iOS 18 (17)."""
    parts.first("constexpr_blockwise_shift_scale", "quantize", "read_state")
    parts.version(parts.spec.specificationVersion - 1)


# ---- the program: quantization ----


@mutant("program")
def quantize_says_another_type(parts):
    value, _ = parts.constant(parts.first("quantize"), "output_dtype")
    kinds = value.immediateValue.tensor.strings.values
    kinds[0] = "uint8" if kinds[0] == "int8" else "int8"


@mutant("program")
def zero_point_of_another_type(parts):
    operation = find([o for o in parts.all() if o.type == "quantize"], lambda o: "zero_point" in o.inputs)
    value, made = parts.constant(operation, "zero_point")
    for tensor in (value.type.tensorType, made.outputs[0].type.tensorType):
        tensor.dataType = mil.INT8 if tensor.dataType == mil.UINT8 else mil.UINT8


@mutant("program")
def scale_of_another_type(parts):
    value, made = parts.constant(parts.first("quantize"), "scale")
    need(value.type.tensorType.dataType == mil.FLOAT32)
    for tensor in (value.type.tensorType, made.outputs[0].type.tensorType):
        tensor.dataType = mil.FLOAT16
    value.immediateValue.tensor.bytes.values = b"\0\x3c"


@mutant("program")
def scale_of_zero(parts):
    value, _ = parts.constant(parts.first("quantize"), "scale")
    need(value.immediateValue.tensor.WhichOneof("value") == "floats")
    value.immediateValue.tensor.floats.values[0] = 0


@mutant("program")
def axis_without_a_vector(parts):
    operation, conv = parts.first("quantize"), parts.first("conv")
    operation.inputs["axis"].CopyFrom(conv.inputs["groups"])


@mutant("program")
def dequantize_reads_floats(parts):
    parts.first("dequantize").inputs["input"].arguments[0].name = parts.functions[0].inputs[0].name


@mutant("program")
def weight_without_zero_point(parts):
    del parts.first("constexpr_affine_dequantize").attributes["zero_point"]


@mutant("program")
def weight_axis_beyond_rank(parts):
    parts.first("constexpr_affine_dequantize").attributes["axis"].immediateValue.tensor.ints.values[0] = 5


@mutant("program")
def weight_axis_of_another_size(parts):
    parts.first("constexpr_affine_dequantize").attributes["axis"].immediateValue.tensor.ints.values[0] = 1


@mutant("types")
def weight_declared_with_another_shape(parts):
    operation = find(parts.all(), lambda o: o.type.startswith("constexpr_"))
    operation.outputs[0].type.tensorType.dimensions[0].constant.size += 2


@mutant("types")
def weight_declared_with_another_type(parts):
    operation = find(parts.all(), lambda o: o.type.startswith("constexpr_"))
    tensor = operation.outputs[0].type.tensorType
    tensor.dataType = mil.FLOAT16 if tensor.dataType == mil.FLOAT32 else mil.FLOAT32


@mutant("types")
def constant_declared_with_another_shape(parts):
    operation = find(parts.all(), lambda o: o.type == "const" and o.outputs[0].type.tensorType.rank)
    operation.outputs[0].type.tensorType.dimensions[0].constant.size += 1


@mutant("types")
def constant_declared_with_another_type(parts):
    operation = find(parts.all(), lambda o: o.type == "const" and o.outputs[0].type.tensorType.dataType == mil.INT32)
    operation.outputs[0].type.tensorType.dataType = mil.INT16


def reshaped(value, *sizes):
    """Another shape for as many values."""
    del value.type.tensorType.dimensions[:]
    for size in sizes:
        value.type.tensorType.dimensions.add().constant.size = size
    value.type.tensorType.rank = len(sizes)


def blockwise(parts):
    return parts.first("constexpr_blockwise_shift_scale")


@mutant("program")
def block_scale_that_does_not_divide(parts):
    """[5, 3] scales as [3, 5]."""
    value = parts.parameter(blockwise(parts), "scale")
    rows, columns = dims(value.type.tensorType)
    need(rows != columns)
    reshaped(value, columns, rows)


@mutant("program")
def block_scale_of_a_lower_rank(parts):
    value = parts.parameter(blockwise(parts), "scale")
    reshaped(value, package.elements(value.type.tensorType))


@mutant("program")
def block_offset_of_another_shape(parts):
    value = parts.parameter(blockwise(parts), "offset")
    reshaped(value, package.elements(value.type.tensorType), 1)


@mutant("program")
def block_offset_of_another_type(parts):
    value = parts.parameter(blockwise(parts), "offset")
    need(value.type.tensorType.dataType == mil.INT4)
    value.type.tensorType.dataType = mil.UINT4
    if value.WhichOneof("value") == "blobFileValue":
        put(parts, "I", value.blobFileValue.offset + 4, DTYPES[mil.UINT4].blob)


@mutant("program")
def block_scale_left_out(parts):
    del blockwise(parts).inputs["scale"]


@mutant("program")
def block_scale_of_integers(parts):
    operation = blockwise(parts)
    parts.parameter(operation, "scale").CopyFrom(parts.parameter(operation, "data"))


def lut(parts):
    return find(parts.all(), lambda o: o.type == "constexpr_lut_to_dense" and "lut" in o.inputs)


@mutant("program")
def table_of_another_length(parts):
    """[.., 8, 1] as [.., 4, 2]: half the entries, twice as long."""
    value = parts.parameter(lut(parts), "lut")
    *groups, entries, vector = dims(value.type.tensorType)
    reshaped(value, *groups, entries // 2, vector * 2)


@mutant("program")
def table_of_a_lower_rank(parts):
    value = parts.parameter(lut(parts), "lut")
    reshaped(value, *dims(value.type.tensorType)[:-1])


@mutant("program")
def table_groups_that_do_not_divide(parts):
    """Groups along the other axis."""
    value = parts.parameter(lut(parts), "lut")
    a, b, *rest = dims(value.type.tensorType)
    need(a != b)
    reshaped(value, b, a, *rest)


@mutant("program")
def table_for_fewer_bits(parts):
    """Indices said to have another width, with a record of that width."""
    operation = lut(parts)
    value = parts.parameter(operation, "indices")
    need(value.type.tensorType.dataType == mil.UINT3)
    count = package.elements(value.type.tensorType)
    value.type.tensorType.dataType = mil.UINT2
    value.ClearField("blobFileValue")
    value.immediateValue.tensor.bytes.values = bytes(-(-count * 2 // 8))


def packed(parts):
    return find(parts.all(), lambda o: o.type == "constexpr_lut_to_dense" and "lut" in o.attributes)


@mutant("program")
def packed_table_of_no_power_of_two(parts):
    value = parts.parameter(packed(parts), "lut")
    size = package.elements(value.type.tensorType)
    value.ClearField("blobFileValue")
    value.immediateValue.tensor.floats.values.extend([0.5] * (size - 1))
    reshaped(value, size - 1)


@mutant("program")
def packed_indices_of_another_size(parts):
    shape = parts.parameter(packed(parts), "shape")
    data = bytearray(shape.immediateValue.tensor.bytes.values)
    data[0] += 1
    shape.immediateValue.tensor.bytes.values = bytes(data)


@mutant("program")
def packed_shape_of_signed_integers(parts):
    shape = parts.parameter(packed(parts), "shape")
    numbers = struct.unpack(f"<{package.elements(shape.type.tensorType)}I", shape.immediateValue.tensor.bytes.values)
    shape.type.tensorType.dataType = mil.INT32
    shape.immediateValue.tensor.ints.values.extend(numbers)


# ---- the program: states ----


@mutant("program")
def state_read_from_an_input(parts):
    need(len(parts.described.state))
    plain = find(list(parts.functions[0].inputs), lambda v: v.type.WhichOneof("type") == "tensorType")
    parts.first("read_state").inputs["input"].arguments[0].name = plain.name


@mutant("program")
def state_read_with_another_shape(parts):
    parts.first("read_state").outputs[0].type.tensorType.dimensions[-1].constant.size += 1


@mutant("program")
def state_written_with_another_shape(parts):
    """The state gets larger, description and all: what is written into it no longer fits."""
    parts.first("write_state")
    value = find(list(parts.functions[0].inputs), lambda v: v.type.WhichOneof("type") == "stateType")
    value.type.stateType.wrappedType.tensorType.dimensions[-1].constant.size += 1
    parts.state().type.stateType.arrayType.shape[-1] += 1


@mutant("interface")
def state_of_floats(parts):
    state = parts.state()
    state.type.stateType.arrayType.dataType = ARRAY.FLOAT32


@mutant("interface")
def state_not_described(parts):
    parts.state()
    del parts.described.state[:]


@mutant("interface")
def state_described_with_another_shape(parts):
    parts.state().type.stateType.arrayType.shape[-1] += 1


@mutant("interface")
def state_described_as_input(parts):
    state = parts.state()
    feature = parts.described.input.add()
    feature.name = state.name
    feature.type.multiArrayType.CopyFrom(state.type.stateType.arrayType)
    del parts.described.state[:]


# ---- the interface ----


@mutant("interface")
def output_described_by_another_name(parts):
    parts.described.output[0].name = "zzz"


@mutant("interface")
def output_not_described(parts):
    del parts.described.output[-1]


@mutant("interface")
def output_described_with_another_shape(parts):
    array = parts.described.output[0].type.multiArrayType
    need(len(array.shape))
    array.shape[-1] += 1


@mutant("interface")
def output_described_with_another_type(parts):
    array = parts.described.output[0].type.multiArrayType
    array.dataType = ARRAY.INT32 if array.dataType != ARRAY.INT32 else ARRAY.FLOAT32


@mutant("interface")
def outputs_in_another_order(parts):
    features = parts.described.output
    need(len(features) > 1)
    features.insert(0, features.pop())


@mutant("interface")
def input_described_by_another_name(parts):
    parts.described.input[0].name = "zzz"


@mutant("interface")
def input_described_with_another_type(parts):
    array = parts.described.input[0].type.multiArrayType
    array.dataType = ARRAY.INT32 if array.dataType != ARRAY.INT32 else ARRAY.FLOAT32


@mutant("interface")
def input_described_with_doubles(parts):
    parts.described.input[0].type.multiArrayType.dataType = ARRAY.DOUBLE


@mutant("interface")
def input_described_with_another_shape(parts):
    array = parts.array(lambda array: array.WhichOneof("ShapeFlexibility") is None)
    array.shape[0] += 1


@mutant("interface")
def input_described_twice(parts):
    parts.described.input.add().CopyFrom(parts.described.input[0])


@mutant("interface")
def inputs_in_another_order(parts):
    features = parts.described.input
    need(len(features) > 1)
    features.insert(0, features.pop())


@mutant("interface")
def input_described_as_picture(parts):
    parts.described.input[0].type.imageType.width = 8


@mutant("interface")
def input_said_to_be_flexible(parts):
    array = parts.array(lambda array: array.WhichOneof("ShapeFlexibility") is None)
    for size in array.shape:
        array.shapeRange.sizeRanges.add(lowerBound=size, upperBound=size + 1)


@mutant("interface")
def range_left_out(parts):
    parts.flexible("shapeRange").ClearField("shapeRange")


@mutant("interface")
def range_without_the_default(parts):
    array = parts.flexible("shapeRange")
    find(array.shapeRange.sizeRanges, lambda r: r.lowerBound != r.upperBound).upperBound = 1
    array.shape[0] = 2


@mutant("interface")
def range_of_one_size_for_any(parts):
    r = find(parts.flexible("shapeRange").shapeRange.sizeRanges, lambda r: r.lowerBound != r.upperBound)
    r.lowerBound = r.upperBound = 2


@mutant("interface")
def range_for_a_fixed_size(parts):
    find(parts.flexible("shapeRange").shapeRange.sizeRanges, lambda r: r.lowerBound == r.upperBound).upperBound += 1


@mutant("interface")
def range_for_fewer_axes(parts):
    del parts.flexible("shapeRange").shapeRange.sizeRanges[-1]


@mutant("interface")
def range_from_zero(parts):
    find(parts.flexible("shapeRange").shapeRange.sizeRanges, lambda r: r.lowerBound != r.upperBound).lowerBound = 0


@mutant("interface")
def flexible_output_with_a_shape(parts):
    parts.flexible("shapeRange")
    parts.described.output[0].type.multiArrayType.shape.extend([2, 3])


@mutant("interface")
def enumeration_without_the_default(parts):
    array = parts.flexible("enumeratedShapes")
    array.shape[1] += 1


@mutant("interface")
def enumeration_of_another_rank(parts):
    parts.flexible("enumeratedShapes").enumeratedShapes.shapes[-1].shape.append(1)


@mutant("interface")
def enumeration_of_a_fixed_size(parts):
    parts.flexible("enumeratedShapes").enumeratedShapes.shapes[-1].shape[-1] += 1


@mutant("interface")
def enumeration_with_one_twice(parts):
    shapes = parts.flexible("enumeratedShapes").enumeratedShapes.shapes
    shapes.add().CopyFrom(shapes[0])


@mutant("container")
def function_not_described(parts):
    need(len(parts.spec.description.functions))
    del parts.spec.description.functions[0]


@mutant("container")
def default_function_of_no_name(parts):
    need(len(parts.spec.description.functions))
    parts.spec.description.defaultFunctionName = "nobody"


@mutant("interface")
def function_not_called_main(parts):
    need(not parts.spec.description.functions)
    function = mil.Function()
    function.CopyFrom(parts.functions[0])
    del parts.spec.mlProgram.functions["main"]
    parts.spec.mlProgram.functions["forward"].CopyFrom(function)


# ---- making them ----


def apply(mutant, source, folder):
    """A copy of a package with the fault, in `folder`; None where the package has nothing to make it in."""
    path = pathlib.Path(folder) / f"{mutant.name}.mlpackage"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(source, path)
    parts = Parts(path)
    try:
        mutant.make(parts)
    except Inapplicable:
        shutil.rmtree(path)
        return None
    parts.write()
    return path


def verdicts(source):
    """(mutant, faults the check finds) for all mutants that a package can have."""
    with tempfile.TemporaryDirectory() as folder:
        for one in MUTANTS.values():
            path = apply(one, source, folder)
            if path is not None:
                yield one, check.faults(path)
                shutil.rmtree(path)


def main():
    survived = 0
    for source in sys.argv[1:]:
        good = check.faults(source)
        print(f"{source}: {'accepted' if not good else [str(f) for f in good]}")
        for one, found in verdicts(source):
            caught = any(fault.step == one.step for fault in found)
            survived += not caught
            print(f"  {'' if caught else 'MISSED '}{one.name} ({one.step}): {[str(f)[:100] for f in found[:2]]}")
    raise SystemExit(1 if survived else 0)


if __name__ == "__main__":
    main()
