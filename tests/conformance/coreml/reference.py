"""ExecuTorch's own Core ML lowering, to hold lowbit's against: python -m coreml.reference PROGRAM.pt2 OUT.pte [--target ios17]
[--precision float32].

What is compared, by `differences`, after these rules:

* `const` and `cast` are left out: the two put half floats in at other places, and constants are named as each likes.
* So are operators that only move numbers (views, `transpose`, which coremltools makes an argument of `matmul`): where to, the
  results tell. And operators whose output nobody reads.
* A quantized tensor counts as dequantized once, however many read it: each reader has a `dequantize` of its own in what PyTorch
  exports, and coremltools merges them, or not, when it has given them different scales.
* `clip` and `relu6` are one: ExecuTorch writes ReLU6 as a `clip` from 0 to 6.
* Of quantization parameters only the number counts: ExecuTorch divides the scales of what is added or multiplied by one of
  them (a pass of coremltools, "distributive_quantized_binary_op_scale_normalization").
* Integers of weights and indices into tables must be equal, byte by byte. Scales and tables must be equal but for rounding.
"""

import argparse
import collections
import dataclasses
import pathlib
import tempfile
import warnings

import numpy as np

from . import package, payload
from .package import DTYPES, mil

LEFT_OUT = {"const", "cast", "identity", "reshape", "squeeze", "expand_dims", "transpose"}
SAME = {"clip": "relu6"}
# What a weight's integers, and what its scales or table values are called, by the operator that makes it.
INTEGERS = {
    "constexpr_affine_dequantize": ("quantized_data", ("scale", "zero_point")),
    "constexpr_blockwise_shift_scale": ("data", ("scale", "offset")),
    "constexpr_lut_to_dense": ("indices", ("lut",)),
}


def lower(program, out, target, precision, whole=False):
    """Lowers what is in a .pt2 with ExecuTorch, and writes the .pte."""
    warnings.simplefilter("ignore")
    import coremltools as ct
    import torch
    import torch.ao.quantization.fx._decomposed  # noqa: F401  (operators of quantized_decomposed)
    import torchao  # noqa: F401  (operators of torchao)
    import torchao.prototype.quantization.codebook_coreml  # noqa: F401  (quant.dequantize_codebook)
    from executorch.backends.apple.coreml.compiler import CoreMLBackend
    from executorch.backends.apple.coreml.partition import CoreMLPartitioner
    from executorch.exir import to_edge_transform_and_lower

    exported = program if isinstance(program, torch.export.ExportedProgram) else torch.export.load(str(program))
    with_strides(torch, exported.graph_module)
    specs = CoreMLBackend.generate_compile_specs(
        compute_unit=ct.ComputeUnit.ALL,
        minimum_deployment_target={"ios16": ct.target.iOS16, "ios17": ct.target.iOS17, "ios18": ct.target.iOS18}[target],
        compute_precision=ct.precision(precision),
        model_type=CoreMLBackend.MODEL_TYPE.MODEL,
    )
    partitioner = CoreMLPartitioner(compile_specs=specs, lower_full_graph=whole)
    edge = to_edge_transform_and_lower(exported, partitioner=[partitioner])
    pathlib.Path(out).write_bytes(edge.to_executorch().buffer)
    return out


def with_strides(torch, graph_module):
    """A max_pool2d without a written stride stops coremltools: writes it."""
    for node in graph_module.graph.nodes:
        if node.target == torch.ops.aten.max_pool2d.default and len(node.args) == 2:
            node.args = (*node.args, node.args[1])


# ---- what a package is compared by ----


@dataclasses.dataclass(frozen=True)
class Weight:
    operator: str
    dtype: str
    shape: tuple
    data: bytes
    parameters: tuple  # (name, shape, values)


@dataclasses.dataclass
class Summary:
    operators: collections.Counter
    weights: list


def summary(path):
    """Operators and compressed weights of a package."""
    opened = package.Package(path)
    read = {name for _, operation in opened.operations() for name in names_read(operation)}
    read |= {name for function in opened.spec.mlProgram.functions for name in opened.block(function).outputs}
    found, dequantized = Summary(collections.Counter(), []), set()
    for _, operation in opened.operations():
        if operation.type == "dequantize":
            tensor = operation.inputs["input"].arguments[0].name
            if tensor in dequantized:
                continue
            dequantized.add(tensor)
        if operation.outputs and not any(value.name in read for value in operation.outputs):
            continue
        if operation.type not in LEFT_OUT:
            found.operators[SAME.get(operation.type, operation.type)] += 1
        if operation.type in INTEGERS:
            found.weights.append(weight(opened, operation))
    return found


def names_read(operation):
    yield from (b.name for argument in operation.inputs.values() for b in argument.arguments if b.WhichOneof("binding") == "name")
    for block in operation.blocks:
        yield from block.outputs


def weight(opened, operation):
    values = dict(operation.attributes)
    for name, argument in operation.inputs.items():
        if argument.arguments[0].WhichOneof("binding") == "value":
            values[name] = argument.arguments[0].value
    integers, parameters = INTEGERS[operation.type]
    dtype, shape, data = raw(opened, values[integers])
    found = []
    for name in parameters:
        if name in values:
            kind, sizes, numbers = raw(opened, values[name])
            held = package.unpacked(numbers, kind, int(np.prod(sizes)) if sizes else 1).astype(np.float64)
            if name in ("zero_point", "offset") and not held.any():
                continue  # as good as none
            found.append((name, tuple(n for n in sizes if n != 1), held))
    return Weight(operation.type, dtype.name, tuple(shape), data, tuple(found))


def raw(opened, value):
    """Type, shape and bytes of a constant, wherever it is stored."""
    tensor = value.type.tensorType
    dtype, shape = DTYPES[tensor.dataType], package.dims(tensor)
    if value.WhichOneof("value") == "blobFileValue":
        return dtype, shape, package.records(opened.weights)[value.blobFileValue.offset].data(opened.weights)
    held = value.immediateValue.tensor
    if dtype.immediate == "bytes":
        return dtype, shape, held.bytes.values
    kinds = {mil.FLOAT32: np.float32, mil.INT32: np.int32}
    return dtype, shape, np.asarray(getattr(held, dtype.immediate).values, kinds[tensor.dataType]).tobytes()


def differences(ours, theirs, tolerance=1e-6):
    """What distinguishes two summaries, as texts."""
    found = []
    for name in sorted(set(ours.operators) | set(theirs.operators)):
        if ours.operators[name] != theirs.operators[name]:
            found.append(f"{name}: {ours.operators[name]}, ExecuTorch has {theirs.operators[name]}")
    rest = list(theirs.weights)
    for one in ours.weights:
        same = next((other for other in rest if key(other) == key(one)), None)
        if same is None:
            found.append(f"ExecuTorch has no {one.operator} of {one.dtype} {list(one.shape)} with these integers")
            continue
        rest.remove(same)
        found += parameter_differences(one, same, tolerance)
    found += [f"only ExecuTorch has {one.operator} of {one.dtype} {list(one.shape)}" for one in rest]
    return found


def key(weight):
    return weight.operator, weight.dtype, weight.shape, weight.data


def parameter_differences(ours, theirs, tolerance):
    a, b = ({name: (shape, values) for name, shape, values in w.parameters} for w in (ours, theirs))
    if set(a) != set(b):
        yield f"{ours.operator} {list(ours.shape)}: parameters {sorted(a)}, ExecuTorch has {sorted(b)}"
        return
    for name, (shape, values) in a.items():
        if shape != b[name][0]:
            yield f"{ours.operator} {list(ours.shape)}: {name} of shape {shape}, ExecuTorch has {b[name][0]}"
        elif not np.allclose(values, b[name][1], rtol=tolerance, atol=0):
            worst = float(np.max(np.abs(values - b[name][1]) / np.abs(b[name][1])))
            yield f"{ours.operator} {list(ours.shape)}: {name} differs by {worst:.2e}"


def packages(pte, folder):
    """Packages of a .pte's delegates."""
    found = []
    for number, delegate in enumerate(payload.delegates(pte)):
        found.append(payload.extract(payload.unpack(delegate.payload), pathlib.Path(folder) / str(number)))
    return found


def summaries(pte):
    """Of all delegates of a .pte together."""
    together = Summary(collections.Counter(), [])
    with tempfile.TemporaryDirectory() as folder:
        for path in packages(pte, folder):
            one = summary(path)
            together.operators += one.operators
            together.weights += one.weights
    return together


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("out")
    parser.add_argument("--target", default="ios18")
    parser.add_argument("--precision", default="float16")
    arguments = parser.parse_args()
    lower(arguments.program, arguments.out, arguments.target, arguments.precision)


if __name__ == "__main__":
    main()
