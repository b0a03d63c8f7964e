"""Apple's own tests of operators, with this evaluator in Core ML's place: python -m coreml.apple [--each N] [pytest
arguments]. --each: at most so many cases of each test; there are 20,000.

coremltools carries tests that build an operator's program, and compare what Core ML makes of it with expected numbers; away
from macOS they compare nothing. Here they compare `evaluate.py`. What it refuses is skipped, with the reason.
"""

import argparse
import functools
import gc
import os
import pathlib

os.environ |= {"INCLUDE_MIL_FP32_UNIT_TESTS": "1", "PYMIL_TEST_TARGETS": "mlprogram"}  # read when the tests are imported

import numpy as np
import pytest
from coremltools.converters.mil.mil.ops import tests
from coremltools.converters.mil.mil.ops.tests import testing_utils

from . import evaluate, package


class Converted(package.Package):
    """A model that was converted and not yet saved."""

    def __init__(self, model):
        self.spec, self.folder = model.get_spec(), pathlib.Path(model.weights_dir or "")

    @functools.cached_property
    def program(self):
        return package.load_program(self.spec, self.spec.specificationVersion, str(self.folder))


def compare(mlmodel, input_key_values, expected_outputs, dtype="fp32", atol=1e-4, rtol=1e-5, state=None, **_):
    if dtype != "fp32" or mlmodel.get_spec().WhichOneof("Type") != "mlProgram" or expected_outputs is None:
        pytest.skip("no float32 ML Program")
    try:
        evaluator = evaluate.Evaluator(Converted(mlmodel))
        states = evaluator.initial_states() if state is None else state
        found = evaluator.run(input_key_values, states=states)
    except evaluate.Refused as error:
        pytest.skip(f"refused: {error}")
    for name, expected in expected_outputs.items():
        np.testing.assert_allclose(found[name], expected, atol=atol, rtol=rtol)


LEFT_OUT = [
    # Half floats, whose rounding is the device's.
    "float16",
    "fp16",
    # What wrong indices do, a rank that is not known, a model that the test itself predicts with.
    "test_ios17_invalid_indices",
    "TestFill::test_builder_to_backend_symbolic",
    "TestConstexprSparseBlockwiseShiftScale::test_builder_to_backend_corner_case",
    # Counts casts that float16 would need, after the numbers.
    "iOS15/test_image_resizing.py::TestResample",
    # Expects 7.899, of which the last digit is not right: the place is half between 5.9 and 9.9.
    "TestCropResize::test_builder_to_backend_ios16",
    "TestCropResize::test_builder_to_backend_ios17",
]


class Plugin:
    """Keeps the float32 cases, and of each test a part that is spread over its cases."""

    def __init__(self, each):
        self.each = each

    def pytest_collection_modifyitems(self, items):
        tests = {}
        for item in items:
            parameters = getattr(item, "callspec", None)
            backend = parameters.params.get("backend") if parameters else None
            if any(word in item.nodeid for word in LEFT_OUT):
                continue
            if (getattr(backend, "backend", None), getattr(backend, "precision", None)) == ("mlprogram", "fp32"):
                tests.setdefault(item.nodeid.split("[")[0], []).append(item)
        items[:] = [cases[i] for cases in tests.values() for i in spread(len(cases), self.each)]


def spread(count, most):
    return range(count) if count <= most else sorted({int(i) for i in np.linspace(0, count - 1, most)})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=20)
    arguments, others = parser.parse_known_args()
    # Before the tests are imported: they take the function by name.
    testing_utils.compare_backend = compare
    package.coremltools.models.MLModel._is_stateful = lambda self: bool(self.get_spec().description.state)
    package.coremltools.models.MLModel.make_state = lambda self: evaluate.Evaluator(Converted(self)).initial_states()
    gc.collect()
    gc.freeze()  # each conversion ends with a collection of garbage
    folder = str(pathlib.Path(tests.__file__).parent)
    raise SystemExit(pytest.main(["-q", "-p", "no:cacheprovider", "--import-mode=importlib", folder, *others], plugins=[Plugin(arguments.each)]))


if __name__ == "__main__":
    main()
