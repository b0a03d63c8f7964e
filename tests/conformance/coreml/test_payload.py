"""Payloads: this reader and ExecuTorch's agree on what ExecuTorch writes, and faults are found. What ExecuTorch lowers passes."""

import json

import pytest
import torch
from torch import nn

from . import evaluate, package, payload, reference, samples


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16 * 16, 32)

    def forward(self, x):
        return self.head(torch.relu(nn.functional.max_pool2d(self.conv(x), 2)).flatten(1))


@pytest.fixture(scope="module")
def inputs():
    torch.manual_seed(0)
    return torch.randn(1, 3, 8, 8)


@pytest.fixture(scope="module")
def lowered(tmp_path_factory, inputs):
    """A network with 8-bit weights that ExecuTorch lowered, and what PyTorch computes."""
    from torchao.quantization import IntxWeightOnlyConfig, quantize_
    from torchao.quantization.granularity import PerGroup

    folder = tmp_path_factory.mktemp("payload")
    torch.manual_seed(0)
    net = Net().eval()
    quantize_(net, IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(32)))
    with torch.no_grad():
        expected = net(inputs)
    reference.lower(torch.export.export(net, (inputs,)), folder / "m.pte", "ios18", "float32")
    return folder / "m.pte", expected


def test_what_executorch_lowers_passes(lowered, folder, inputs):
    pte, expected = lowered
    (delegate,) = payload.delegates(pte)
    payload.check_delegate(delegate, "ios18", "float32", lowbit=False)
    (path,) = reference.packages(pte, folder)
    (got,) = evaluate.Evaluator(path).call(inputs.numpy())
    assert abs(got - expected.numpy()).max() < 1e-5 * abs(expected).max()


@pytest.mark.parametrize(
    "field, value",
    [("specs", lambda d: d.specs[::-1]), ("specs", lambda d: d.specs[1:]), ("segment", lambda d: False), ("payload", lambda d: d.payload[:-1])],
)
def test_delegates_with_faults_do_not(field, value, lowered):
    (delegate,) = payload.delegates(lowered[0])
    fields = {"payload": delegate.payload, "specs": delegate.specs, "segment": delegate.segment} | {field: value(delegate)}
    with pytest.raises((AssertionError, payload.BadPayload)):
        payload.check_delegate(payload.Delegate(**fields), "ios18", "float32", lowbit=False)


@pytest.mark.parametrize("target, precision", [("ios17", "float32"), ("ios18", "float16")])
def test_another_target_or_precision_than_asked_for(target, precision, lowered):
    (delegate,) = payload.delegates(lowered[0])
    with pytest.raises(AssertionError):
        payload.check_delegate(delegate, target, precision, lowbit=False)


def test_the_readers_agree(folder):
    """Folders that ExecuTorch's writer makes payloads of."""
    from executorch.backends.apple.coreml import executorchcoreml

    path = samples.eight_bits(folder / "in")
    (folder / "in" / "empty").mkdir()
    (folder / "out").mkdir()
    (folder / "in" / "note.txt").write_text("x")  # an empty file crashes ExecuTorch's writer
    data = executorchcoreml.flatten_directory_contents(str(folder / "in"))
    assert payload.unpack(data) == payload.files_of(folder / "in")
    assert payload.unpack(data + bytes(5)) == payload.unpack(data)
    assert payload.unpack_by_executorch(data, folder / "out") == payload.files_of(folder / "in")
    assert package.Package(folder / "out" / "in" / path.name).spec == package.Package(path).spec


def encoded(nodes, data=b"0123456789"):
    return data + json.dumps({"nodes": nodes}).encode()[::-1]


def entry(name, kind, children=None, offset=0, size=0):
    return {"name": name, "kind": kind, "children": children or {}, "dataRegion": {"offset": offset, "size": size}}


FAULTS = {
    "nothing": b"",
    "no table": b"abc",
    "no entries": encoded([]),
    "no end": encoded([entry("r", 1)])[1:][:-1],
    "child after parent": encoded([entry("r", 1, {"a": 1}), entry("a", 0), entry("s", 1)]),
    "child is parent": encoded([entry("r", 1, {"r": 0})]),
    "child in two folders": encoded([entry("a", 0), entry("d", 1, {"a": 0}), entry("r", 1, {"a": 0, "d": 1})]),
    "entry in no folder": encoded([entry("a", 0), entry("b", 0), entry("r", 1, {"a": 0})]),
    "two names": encoded([entry("a", 0), entry("r", 1, {"b": 0})]),
    "name of a path": encoded([entry("../a", 0), entry("r", 1, {"../a": 0})]),
    "file outside": encoded([entry("a", 0, offset=5, size=6), entry("r", 1, {"a": 0})]),
    "files overlap": encoded([entry("a", 0, size=5), entry("b", 0, offset=4, size=2), entry("r", 1, {"a": 0, "b": 1})]),
    "folder with data": encoded([entry("r", 1, size=3)]),
    "file with children": encoded([entry("a", 0), entry("f", 0, {"a": 0}), entry("r", 1, {"f": 1})]),
    "another kind": encoded([entry("a", 2), entry("r", 1, {"a": 0})]),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_found(name):
    with pytest.raises(payload.BadPayload):
        payload.unpack(FAULTS[name])


def test_a_good_table_is_none_of_the_faults():
    data = encoded([entry("a", 0, size=4), entry("b", 0, offset=4, size=6), entry("d", 1, {"b": 1}), entry("r", 1, {"a": 0, "d": 2})])
    assert payload.unpack(data) == {"a": b"0123", "d/b": b"456789"}


# ---- comparing lowerings ----


def test_a_lowering_equals_itself(lowered):
    one = reference.summaries(lowered[0])
    assert one.weights and one.operators["conv"] == 1 and not reference.differences(one, reference.summaries(lowered[0]))


def test_differences_are_found(lowered):
    import dataclasses

    one, other = reference.summaries(lowered[0]), reference.summaries(lowered[0])
    other.operators["conv"] += 1
    (weight,) = other.weights
    cases = {
        "conv: 1, ExecuTorch has 2": weight,
        "with these integers": dataclasses.replace(weight, data=bytes([weight.data[0] ^ 1]) + weight.data[1:]),
        "of int8": dataclasses.replace(weight, dtype="int8"),
        "scale of shape": dataclasses.replace(weight, parameters=(("scale", (8, 32), weight.parameters[0][2]),)),
        "scale differs by": dataclasses.replace(weight, parameters=(("scale", weight.parameters[0][1], weight.parameters[0][2] * 1.01),)),
        "parameters": dataclasses.replace(weight, parameters=()),
    }
    for text, changed in cases.items():
        other.weights = [changed]
        found = reference.differences(one, other)
        assert any(text in difference for difference in found), (text, found)
