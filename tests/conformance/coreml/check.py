"""Checks .mlpackage folders against Apple's definitions, without Core ML: python -m coreml.check PACKAGE…

What is checked, by step; each is there because the others let some wrong package pass (`mutate.py` has them all):

container   Apple's ModelPackage class takes the folder and its Manifest.json
fields      the model has no field and no enumerator that Apple's message definitions lack
version     opsets are those of the specification version, which allows what the interface uses
names       identifiers are valid, and defined once
weights     weight.bin by its format, record by record
values      every constant is as long as its type says; those in weight.bin are records of that type, and all of them are used
program     Apple's operator definitions take every operator: it exists in this opset, with these arguments of these types
types       the types declared for outputs are those that the definitions infer
interface   the model's description says of inputs, outputs and states what the functions say

What this cannot see: values that are wrong but of the right type (`evaluate.py` compares numbers), and what Apple's compiler
may want beyond the definitions (`macos.py`, on a Mac).
"""

import dataclasses
import json
import re
import sys

from coremltools.converters.mil.frontend.milproto.helper import proto_to_types
from coremltools.converters.mil.mil import types
from coremltools.libmodelpackage import ModelPackage
from coremltools.proto import FeatureTypes_pb2
from google.protobuf.unknown_fields import UnknownFieldSet

from . import package
from .package import DTYPES, WEIGHTS_NAME, Package, coremltools, dims, elements, mil, output_name

IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_@]*")
ARRAY = FeatureTypes_pb2.ArrayFeatureType
# Types of arrays at the interface, and the first specification version that has them there.
INTERFACE = {
    ARRAY.FLOAT32: (mil.FLOAT32, 6),
    ARRAY.INT32: (mil.INT32, 6),
    ARRAY.FLOAT16: (mil.FLOAT16, 7),
    ARRAY.INT8: (mil.INT8, 10),
}
STATES, FUNCTIONS, SEVERAL_ENUMERATED = 9, 9, 9  # the first specification version with each


@dataclasses.dataclass(frozen=True)
class Fault:
    step: str
    text: str

    def __str__(self):
        return f"{self.step}: {self.text}"


def faults(path):
    """All that is wrong with a package, in order of steps; an empty list if nothing is."""
    with package.copied(path) as copy:
        found = list(run("container", container, copy))
        if found:
            return found  # what follows would read something else than a device does
        opened = Package(copy)
        for name, step in STEPS.items():
            found += run(name, step, opened)
        return found


def check(path):
    """Fails with all faults of a package."""
    found = faults(path)
    assert not found, f"{path}:\n" + "\n".join(map(str, found))


def run(name, step, argument):
    """Faults of one step. Apple's classes raise whatever they happen to stumble over: each is a fault."""
    try:
        yield from (Fault(name, text) for text in step(argument))
    except Exception as error:
        yield Fault(name, f"{type(error).__name__}: {' '.join(str(error).split())}")


# ---- steps: each yields texts ----


def container(folder):
    manifest = json.loads((folder / "Manifest.json").read_text())
    if not ModelPackage.isValid(str(folder)):
        yield "ModelPackage.isValid says no"
        return
    coremltools.utils.load_spec(str(folder))
    coremltools.models.MLModel(str(folder), skip_model_load=True)
    items = {item["path"]: item for item in manifest["itemInfoEntries"].values()}
    root = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]
    if root["path"] != str(package.MODEL.relative_to("Data")):
        yield f"the root is {root['path']}"
    if (folder / package.WEIGHTS).exists() and str(package.WEIGHTS.parent.relative_to("Data")) not in items:
        yield "weights are in the folder but not in the manifest"


def fields(opened):
    for path, message in messages(opened.spec, "model"):
        for field in UnknownFieldSet(message):
            yield f"{path}: field {field.field_number} does not exist"
        for field, value in message.ListFields():
            if field.enum_type is not None:
                numbers = value if repeated(field) else [value]
                for number in numbers:
                    if number not in field.enum_type.values_by_number:
                        yield f"{path}.{field.name}: {number} is no {field.enum_type.name}"


def messages(message, path):
    """(path, message) of a message and all in it."""
    yield path, message
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        here = f"{path}.{field.name}"
        if field.message_type.GetOptions().map_entry:
            if field.message_type.fields_by_name["value"].message_type is not None:
                for key, entry in value.items():
                    yield from messages(entry, f"{here}[{key}]")
        elif repeated(field):
            for number, entry in enumerate(value):
                yield from messages(entry, f"{here}[{number}]")
        else:
            yield from messages(value, here)


def repeated(field):
    return field.is_repeated


def version(opened):
    spec = opened.spec
    opset = package.VERSIONS.get(spec.specificationVersion)
    if opset is None:
        yield f"no specification version has ML Programs and the number {spec.specificationVersion}"
        return
    if spec.mlProgram.version != 1:
        yield f"program version {spec.mlProgram.version}"
    for name, function in spec.mlProgram.functions.items():
        if function.opset != opset:
            yield f"{name}: opset {function.opset} in specification version {spec.specificationVersion}, which has {opset}"
        if list(function.block_specializations) != [function.opset]:
            yield f"{name}: blocks for {sorted(function.block_specializations)}, the opset is {function.opset}"
    described = spec.description
    if described.functions and spec.specificationVersion < FUNCTIONS:
        yield f"several functions need version {FUNCTIONS}"
    for name, function in opened.descriptions().items():
        if function.state and spec.specificationVersion < STATES:
            yield f"{name}: states need version {STATES}"
        for feature in (*function.input, *function.output):
            since = INTERFACE.get(feature.type.multiArrayType.dataType, (None, 0))[1]
            if spec.specificationVersion < since:
                kind = ARRAY.ArrayDataType.Name(feature.type.multiArrayType.dataType)
                yield f"{name}: {feature.name} is {kind}, which needs version {since}"
        several = sum(len(feature.type.multiArrayType.enumeratedShapes.shapes) > 1 for feature in function.input)
        if several > 1 and spec.specificationVersion < SEVERAL_ENUMERATED:
            yield f"{name}: {several} inputs of enumerated shapes need version {SEVERAL_ENUMERATED}"


def names(opened):
    for name, function in opened.spec.mlProgram.functions.items():
        yield from invalid(name, f"function {name!r}")
        defined = set()
        for value in function.inputs:
            yield from define(value.name, defined, f"{name}: input")
        yield from block_names(opened.block(name), defined, name)


def block_names(block, defined, where):
    for operation in block.operations:
        for nested in operation.blocks:
            inner = set(defined)
            for value in nested.inputs:
                yield from define(value.name, inner, f"{where}: input of a block")
            yield from block_names(nested, inner, where)
        for value in operation.outputs:
            yield from define(value.name, defined, f"{where}: {operation.type}")
    for output in block.outputs:
        if output not in defined:
            yield f"{where}: the output {output!r} is not defined"


def define(name, defined, where):
    yield from invalid(name, where)
    if name in defined:
        yield f"{where}: {name!r} is defined twice"
    defined.add(name)


def invalid(name, where):
    if not IDENTIFIER.fullmatch(name):
        yield f"{where}: {name!r} is no identifier"


def weights(opened):
    package.records(opened.weights)
    return ()


def values(opened):
    table = package.records(opened.weights)
    used = set()
    for function, operation in opened.operations():
        for place, value in package.values(operation):
            where = f"{function}: {operation.type} {output_name(operation)}, {place}"
            yield from (f"{where}: {text}" for text in value_faults(value, table, used))
    for offset in sorted(set(table) - used):
        yield f"nothing refers to the record at {offset}"


def value_faults(value, table, used):
    kind, form = value.type.WhichOneof("type"), value.WhichOneof("value")
    if kind != "tensorType":
        return  # lists and dictionaries: Apple's parser reads each of their values
    tensor = value.type.tensorType
    dtype = DTYPES.get(tensor.dataType)
    if dtype is None:
        yield f"no constant has type {tensor.dataType}"
        return
    if tensor.rank != len(tensor.dimensions) or None in dims(tensor):
        yield f"rank {tensor.rank} with sizes {dims(tensor)}"
        return
    count = elements(tensor)
    if form == "immediateValue":
        yield from immediate_faults(value.immediateValue, dtype, count)
    elif form == "blobFileValue":
        record = table.get(value.blobFileValue.offset)
        if value.blobFileValue.fileName != WEIGHTS_NAME:
            yield f"in the file {value.blobFileValue.fileName!r}"
        elif record is None:
            yield f"no record at {value.blobFileValue.offset}"
        else:
            used.add(record.offset)
            bits = count * dtype.bits
            expected = (dtype.blob, -(-bits // 8), -bits % 8)
            if (record.dtype, record.size, record.padding) != expected:
                has = f"{package.BLOB_NAMES[record.dtype]}, {record.size} bytes, {record.padding} unused bits"
                yield f"{count} of {dtype.name}: the record at {record.offset} has {has}"
    else:
        yield "no value"


def immediate_faults(immediate, dtype, count):
    field = immediate.tensor.WhichOneof("value")
    if field is None and count == 0:
        return
    if field != dtype.immediate:
        yield f"{dtype.name} in the field {field}, not {dtype.immediate}"
        return
    held = getattr(immediate.tensor, field).values
    expected = -(-count * dtype.bits // 8) if field == "bytes" else count
    if len(held) != expected:
        yield f"{count} of {dtype.name} in {len(held)} {field}, not {expected}"
    unused = -count * dtype.bits % 8
    if field == "bytes" and unused and held and held[-1] >> (8 - unused):
        yield f"unused bits of {count} of {dtype.name} are not zero"


def program(opened):
    # Loading checks all but what Program checks of whole programs: ranks above 5, inputs that must be constant.
    opened.program.validate()
    opened.program._check_early_error_out_for_invalid_program()
    return ()


def declared_types(opened):
    for name in opened.spec.mlProgram.functions:
        inferred = {}
        inferred_types(opened.program.functions[name].operations, inferred)
        for operation in package.operations(opened.block(name)):
            for value in operation.outputs:
                said, is_ = proto_to_types(value.type), inferred.get(value.name)
                if is_ is None:
                    yield f"{name}: Apple's parser lost {value.name}"
                elif not same_type(said, is_):
                    text = types.builtin_to_string(is_) if not types.is_tensor(is_) else f"{is_.get_primitive()} {is_.get_shape()}"
                    declared = f"{said.get_primitive()} {said.get_shape()}" if types.is_tensor(said) else str(said)
                    yield f"{name}: {operation.type} {value.name} is declared as {declared}, and is {text}"


def inferred_types(operations, into):
    for operation in operations:
        for block in operation.blocks:
            inferred_types(block.operations, into)
        for value in operation.outputs:
            into[value.name] = value.sym_type


def same_type(said, is_):
    """Rank 0 is written as a scalar; Apple's own inference makes tensors of rank 0 of some."""
    if types.is_tensor(is_) and not types.is_tensor(said):
        return is_.get_primitive() == said and len(is_.get_shape()) == 0
    return types.is_compatible_type(is_, said)


def interface(opened):
    spec, described = opened.spec, opened.descriptions()
    functions = spec.mlProgram.functions
    if set(described) != set(functions):
        yield f"described are {sorted(described)}, there are {sorted(functions)}"
        return
    if spec.description.functions:
        if spec.description.defaultFunctionName not in functions:
            yield f"there is no default function {spec.description.defaultFunctionName!r}"
        if spec.description.input or spec.description.output or spec.description.state:
            yield "several functions, and a description outside of them"
    for name, function in functions.items():
        feature = described[name]
        states = [value for value in function.inputs if value.type.WhichOneof("type") == "stateType"]
        inputs = [value for value in function.inputs if value.type.WhichOneof("type") != "stateType"]
        made = {value.name: value for operation in package.operations(opened.block(name)) for value in operation.outputs}
        made |= {value.name: value for value in inputs}
        outputs = [made[output] for output in opened.block(name).outputs]
        for kind, features, named in (("input", feature.input, inputs), ("output", feature.output, outputs), ("state", feature.state, states)):
            a, b = [f.name for f in features], [v.name for v in named]
            if a != b:
                yield f"{name}: described {kind}s {a}, the function has {b}"
                continue
            for one, value in zip(features, named):
                for text in feature_faults(kind, one, value.type):
                    yield f"{name}: {kind} {one.name}: {text}"
        taken = [f.name for f in (*feature.input, *feature.state)]
        for one in feature.output:
            if one.name in taken:
                yield f"{name}: {one.name} is both input and output"


def feature_faults(kind, feature, value):
    form = feature.type.WhichOneof("Type")
    if form != ("stateType" if kind == "state" else "multiArrayType"):
        yield f"is described as {form}"
        return
    array = feature.type.stateType.arrayType if kind == "state" else feature.type.multiArrayType
    tensor = (value.stateType.wrappedType if kind == "state" else value).tensorType
    allowed = {ARRAY.FLOAT16: (mil.FLOAT16, STATES)} if kind == "state" else INTERFACE
    if array.dataType not in allowed:
        yield f"{array.dataType} is no type that {kind}s have"
    elif allowed[array.dataType][0] != tensor.dataType:
        yield f"described as {ARRAY.ArrayDataType.Name(array.dataType)}, and is {DTYPES[tensor.dataType].name}"
    sizes, shape = dims(tensor), list(array.shape)
    flexibility = array.WhichOneof("ShapeFlexibility")
    if kind == "output" and (None in sizes or not sizes):
        sizes = []  # Core ML says no shape where it is only known at run time
    if not sizes and kind == "input":
        sizes = [1]
    if flexibility is None:
        if shape != sizes:
            yield f"described with shape {shape}, and has {sizes}"
        return
    if kind != "input":
        yield f"only inputs have {flexibility}"
    elif len(shape) != len(sizes):
        yield f"default shape {shape}, and has {sizes}"
    elif flexibility == "shapeRange":
        yield from range_faults([(r.lowerBound, r.upperBound) for r in array.shapeRange.sizeRanges], shape, sizes)
    else:
        yield from enumeration_faults([list(s.shape) for s in array.enumeratedShapes.shapes], shape, sizes)


def range_faults(ranges, shape, sizes):
    if len(ranges) != len(sizes):
        yield f"{len(ranges)} ranges for {len(sizes)} axes"
        return
    for axis, ((low, high), default, size) in enumerate(zip(ranges, shape, sizes)):
        above = high >= 0 and default > high  # -1: unbounded
        if low < 1 or default < low or above:
            yield f"axis {axis}: the default {default} is not in {low}..{high}"
        if (size is None) == (low == high):
            yield f"axis {axis}: {low}..{high}, in the function {'any size' if size is None else size}"
        elif size is not None and size != low:
            yield f"axis {axis}: {low}, in the function {size}"


def enumeration_faults(shapes, shape, sizes):
    if shape not in shapes:
        yield f"the default {shape} is none of {shapes}"
    if len({tuple(s) for s in shapes}) != len(shapes):
        yield f"{shapes} has one twice"
    if any(len(s) != len(sizes) for s in shapes):
        yield f"{shapes} for {len(sizes)} axes"
        return
    for axis, size in enumerate(sizes):
        found = {s[axis] for s in shapes}
        if found != {size} if size is not None else len(found) == 1:
            yield f"axis {axis}: {sorted(found)}, in the function {'any size' if size is None else size}"


STEPS = {
    "fields": fields,
    "version": version,
    "names": names,
    "weights": weights,
    "values": values,
    "program": program,
    "types": declared_types,
    "interface": interface,
}


def main():
    if len(sys.argv) < 2:
        raise SystemExit(__doc__.splitlines()[0])
    bad = 0
    for path in sys.argv[1:]:
        found = faults(path)
        bad += bool(found)
        print(f"{path}: {'conforms' if not found else f'{len(found)} faults'}")
        for fault in found:
            print(f"  {fault}")
    raise SystemExit(1 if bad else 0)


if __name__ == "__main__":
    main()
