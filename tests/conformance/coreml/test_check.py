"""The check accepts what coremltools writes, and finds every fault that `mutate.py` knows, by the step that is there for it."""

import pytest

from . import check, mutate, package, samples


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    made = {}

    def get(name):
        if name not in made:
            made[name] = samples.SAMPLES[name](folder)
        return made[name]

    return get


@pytest.mark.parametrize("name", samples.SAMPLES)
def test_what_coremltools_writes_conforms(name, packages):
    check.check(packages(name))


@pytest.mark.parametrize("name", samples.SAMPLES)
def test_every_fault_is_found(name, packages):
    missed = [
        f"{mutant.name}: not by {mutant.step}, but {list(map(str, found))}"
        for mutant, found in mutate.verdicts(packages(name))
        if not any(fault.step == mutant.step for fault in found)
    ]
    assert not missed, "\n".join(missed)


def test_every_fault_can_be_made(packages, folder):
    made = {
        mutant.name
        for name in samples.SAMPLES
        for mutant in mutate.MUTANTS.values()
        if mutate.apply(mutant, packages(name), folder) is not None
    }
    assert made == set(mutate.MUTANTS), sorted(set(mutate.MUTANTS) - made)


def test_packages_are_left_as_they_were(packages):
    path = packages("eight_bits")
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    check.check(path)
    package.Package(path).program
    assert before == {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    "name, arrays, data",
    [
        ("uint1", [1, 0, 0, 0, 0, 0, 0, 0, 1], "0101"),
        ("uint2", [1, 2, 3, 0, 1], "3901"),
        ("uint3", [1, 2, 3, 4, 5, 6, 7, 0, 1], "d1581f01"),
        ("uint4", [1, 2, 3], "2103"),
        ("int4", [-1, 1, -8], "1f08"),
        ("uint6", [1, 2, 3, 63, 5], "8130fc05"),
    ],
)
def test_bits_are_read_as_apple_writes_them(name, arrays, data):
    dtype = next(d for d in package.DTYPES.values() if d.name == name)
    assert package.unpacked(bytes.fromhex(data), dtype, len(arrays)).tolist() == arrays
