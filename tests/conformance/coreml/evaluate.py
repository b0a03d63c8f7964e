"""Computes ML Programs without Core ML: python -m coreml.evaluate PACKAGE --data IN.npz --out OUT.npz [--native].

Apple's parser types the program, Apple's code decompresses weights, and Apple's value inference, which folds constants when
models are converted, computes each operator that it can; `kernels.py` has the others.

precision "exact": all floats are float32, whatever the program declares. For float32 programs that is what they say; for
float16 ones it leaves out the rounding of what is computed (constants are as they are stored).
precision "double": all floats are float64, so that what differs from it is the other side's rounding.
precision "native": what the program declares as float16 is rounded to it after each operator, as on a device whose
operators compute in more precision than they store.
"""

import argparse
import copy

import numpy as np
from coremltools.converters.mil.mil import types
from coremltools.converters.mil.mil.var import Var

from . import package
from .kernels import KERNELS, Refused

FLOATS = (types.fp16, types.fp32)


class Evaluator:
    def __init__(self, path, precision="exact"):
        opened = path if isinstance(path, package.Package) else package.Package(path)
        self.program, self.precision = opened.program, precision
        self.float = np.float64 if precision == "double" else np.float32
        self.descriptions = opened.descriptions()
        self.default = opened.spec.description.defaultFunctionName or "main"
        self.constants = {}  # decompressed weights, by what makes them
        self.used = {"apple": set(), "kernels": set()}
        self.observer = None  # called with each operator, its outputs, and `value` of any variable; may return other outputs

    def inputs(self, function=None):
        return [feature.name for feature in self.descriptions[function or self.default].input]

    def outputs(self, function=None):
        return [feature.name for feature in self.descriptions[function or self.default].output]

    def initial_states(self, function=None):
        """States as Core ML makes them: zeros."""
        features = self.descriptions[function or self.default].state
        return {f.name: np.zeros(list(f.type.stateType.arrayType.shape), self.float) for f in features}

    def call(self, *arrays, function=None):
        """Outputs in order, for inputs in order."""
        results = self.run(dict(zip(self.inputs(function), arrays, strict=True)), function)
        return [results[name] for name in self.outputs(function)]

    def run(self, feeds, function=None, states=None):
        """{output: array}. `states` ({name: array}) is updated."""
        found = self.program.functions[function or self.default]
        self.states = states if states is not None else self.initial_states(function)
        known = {}
        for name, var in found.inputs.items():
            if not types.is_state(var.sym_type):
                known[var] = self.stored(np.asarray(feeds[name]), var)
        for operation in found.operations:
            if operation.op_type == "const":
                continue
            results = self.operation(operation, known)
            if not isinstance(results, (tuple, list)):
                results = (results,)
            if len(results) != len(operation.outputs):
                raise Refused(f"{operation.op_type}: {len(results)} results for {len(operation.outputs)} outputs")
            results = [self.stored(np.asarray(result), var) for var, result in zip(operation.outputs, results)]
            if self.observer is not None:
                results = self.observer(operation, results, lambda var: self.value(var, known)) or results
            known.update(zip(operation.outputs, results))
        return {var.name: self.value(var, known) for var in found.outputs}

    def operation(self, operation, known):
        kind = operation.op_type
        if kind.startswith("constexpr_"):
            self.used["apple"].add(kind)
            if operation not in self.constants:
                # One may read what another makes.
                made = {name: self.constants[v.op][v.op.outputs.index(v)] for name, v in operation.inputs.items() if v.op in self.constants}
                result = twin(operation, made).materialized_val_inference()
                self.constants[operation] = result if isinstance(result, (tuple, list)) else (result,)
            return self.constants[operation]
        if kind == "read_state":
            return self.states[operation.input.name]
        if kind == "coreml_update_state":
            # A state holds what its type can.
            value = self.stored(self.value(operation.value, known), operation.value)
            self.states[operation.state.name] = value
            return value
        if operation.blocks:
            raise Refused(f"{kind}: control flow")
        inputs = {name: self.argument(argument, known) for name, argument in operation.inputs.items()}
        with np.errstate(all="ignore"):
            if kind in KERNELS:
                self.used["kernels"].add(kind)
                return KERNELS[kind](inputs)
            self.used["apple"].add(kind)
            return apple(operation, inputs)

    def argument(self, argument, known):
        if isinstance(argument, (tuple, list)):
            return [self.value(var, known) for var in argument]
        return self.value(argument, known)

    def value(self, var, known):
        """A value that was computed, or a constant: arrays, numbers and strings; floats in the type that is computed in."""
        if var in known:
            return known[var]
        if var.val is None:
            raise Refused(f"{var.name} has no value")
        value = var.val
        if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind == "f":
            value = value.astype(self.float)
        if isinstance(value, np.ndarray):
            known[var] = value
        return value

    def stored(self, array, var):
        """A result as the variable holds it."""
        shape = var.shape
        if len(array.shape) != len(shape) or any(isinstance(n, (int, np.integer)) and n != m for n, m in zip(shape, array.shape)):
            raise Refused(f"{var.name}: computed with shape {list(array.shape)}, typed as {list(map(str, shape))}")
        if var.dtype in FLOATS:
            if var.dtype is types.fp16 and self.precision == "native":
                array = array.astype(np.float16)
            return array.astype(self.float)
        return array.astype(types.nptype_from_builtin(var.dtype))


def apple(operation, inputs):
    """An operator by Apple's value inference."""
    try:
        result = twin(operation, inputs).value_inference()
    except NotImplementedError as error:
        raise Refused(f"{operation.op_type}: nobody computes it ({error})") from error
    if result is None:
        raise Refused(f"{operation.op_type}: Apple's inference gives nothing")
    return result


def twin(operation, inputs):
    """A copy of an operator that reads constants."""
    made = copy.copy(operation)
    made._input_vars = dict(operation._input_vars)
    for name, value in inputs.items():
        var = [constant(v) for v in value] if isinstance(value, list) else constant(value)
        made._input_vars[name] = var
        setattr(made, name, var)
    return made


def constant(value):
    if isinstance(value, str):
        kind = types.str
    elif isinstance(value, np.ndarray) and value.ndim:
        kind = types.tensor(types.numpy_type_to_builtin_type(value.dtype), value.shape)
    else:
        value = np.asarray(value)[()]
        kind = types.numpy_type_to_builtin_type(value.dtype)
    made = kind()
    made.val = value
    return Var("", kind, made)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package")
    parser.add_argument("--data", required=True, help="in0, in1, …: axis 0 is the call if they have one more than the inputs")
    parser.add_argument("--out", required=True)
    parser.add_argument("--native", action="store_true")
    arguments = parser.parse_args()
    evaluator = Evaluator(arguments.package, "native" if arguments.native else "exact")
    with np.load(arguments.data) as data:
        columns = [data[f"in{i}"] for i in range(len(evaluator.inputs()))]
    first = next(iter(evaluator.program.functions[evaluator.default].inputs.values()))
    calls = list(zip(*columns)) if columns[0].ndim > first.rank else [columns]
    results = [evaluator.call(*call) for call in calls]
    arrays = [np.stack(column) for column in zip(*results)] if columns[0].ndim > first.rank else results[0]
    np.savez(arguments.out, **{f"out{i}": x for i, x in enumerate(arrays)})


if __name__ == "__main__":
    main()
