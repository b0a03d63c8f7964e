"""What a .pte holds for Core ML: python -m coreml.payload MODEL.pte [--out FOLDER].

The delegate's bytes are a folder: the contents of its files, then a table of them as JSON, whose bytes are in reverse order, so
that it is read from the end. This reader keeps to what ExecuTorch's own reads, and refuses what that one lets pass.
"""

import argparse
import dataclasses
import json
import pathlib
import re
import tempfile

from . import check, package

BACKEND = "CoreMLBackend"
ROOT = "lowered_module"
MODEL = "model.mlpackage"
# Keys of compile specs, in ExecuTorch's order.
SPECS = ["compute_units", "min_deployment_target", "model_compute_precision", "model_type"]
IDENTIFIER = re.compile(r"executorch_[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class BadPayload(Exception):
    """The bytes are no folder as the delegate reads it; the text says why."""


@dataclasses.dataclass(frozen=True)
class Delegate:
    payload: bytes
    specs: list  # [(key, bytes)]
    segment: bool  # in a segment of the file, not in its tables

    def spec(self, key):
        return dict(self.specs)[key].decode()


def delegates(pte):
    """Core ML's delegates of a .pte, in order."""
    from executorch.exir._serialize._program import _flatbuffer_to_program, _get_extended_header, deserialize_pte_binary
    from executorch.exir.schema import DataLocation

    data = pathlib.Path(pte).read_bytes()
    header = _get_extended_header(data)
    stored = _flatbuffer_to_program(data[: header.program_size] if header else data)
    restored = deserialize_pte_binary(data).program
    found = []
    for before, after in zip(stored.execution_plan[0].delegates, restored.execution_plan[0].delegates):
        if after.id == BACKEND:
            payload = restored.backend_delegate_data[after.processed.index].data
            specs = [(spec.key, bytes(spec.value)) for spec in after.compile_specs]
            found.append(Delegate(bytes(payload), specs, before.processed.location == DataLocation.SEGMENT))
    return found


def table(payload):
    """The table of files, and how many bytes of data there are before it."""
    end = len(payload.rstrip(b"\0"))  # zeros may follow
    text = payload[:end][::-1]
    if not text.startswith(b"{"):
        raise BadPayload("there is no table at the end")
    try:
        nodes, length = json.JSONDecoder().raw_decode(text.decode("latin-1"))
    except ValueError as error:
        raise BadPayload(f"the table is no JSON: {error}") from error
    # JSON is UTF-8: read again, as far as it goes.
    nodes = json.loads(text[:length].decode())
    return nodes["nodes"], end - length


def unpack(payload):
    """{path: bytes} of a payload, every rule of its format checked; `BadPayload` otherwise."""
    nodes, size = table(payload)
    if not nodes:
        raise BadPayload("the table is empty")
    parents, covered = {}, []
    for number, node in enumerate(nodes):
        if set(node) != {"name", "kind", "dataRegion", "children"} or node["kind"] not in (0, 1):
            raise BadPayload(f"entry {number} is neither file nor folder: {node}")
        start, length = node["dataRegion"]["offset"], node["dataRegion"]["size"]
        if node["kind"] == 1 and (start or length):
            raise BadPayload(f"entry {number} is a folder and has data")
        if node["kind"] == 0 and node["children"]:
            raise BadPayload(f"entry {number} is a file and has children")
        if start + length > size:
            raise BadPayload(f"entry {number} lies outside: {start} + {length} of {size}")
        if length:
            covered.append((start, start + length))
        for name, child in node["children"].items():
            if not 0 <= child < number:
                raise BadPayload(f"entry {number}: the child {child} does not come before")
            if child in parents:
                raise BadPayload(f"entry {child} is in two folders")
            if nodes[child]["name"] != name:
                raise BadPayload(f"entry {child} is called {nodes[child]['name']!r} and {name!r}")
            if not name or "/" in name or name in (".", "..") or '"' in name or "\\" in name:
                raise BadPayload(f"entry {child} has the name {name!r}")
            parents[child] = number
    lost = set(range(len(nodes) - 1)) - set(parents)
    if lost or len(nodes) - 1 in parents:
        raise BadPayload(f"entries {sorted(lost)} are in no folder, or the last one is in one")
    for (_, end), (start, _) in zip(sorted(covered), sorted(covered)[1:]):
        if start < end:
            raise BadPayload(f"files overlap at {start}")
    files = {}
    for number, node in enumerate(nodes):
        if node["kind"] == 0:
            path, at = [node["name"]], number
            while parents[at] != len(nodes) - 1:
                at = parents[at]
                path.insert(0, nodes[at]["name"])
            start = node["dataRegion"]["offset"]
            files["/".join(path)] = payload[start : start + node["dataRegion"]["size"]]
    return files


def unpack_by_executorch(payload, folder):
    """The same by ExecuTorch's reader, as files in a folder of the root's name in `folder`."""
    from executorch.backends.apple.coreml import executorchcoreml

    if not executorchcoreml.unflatten_directory_contents(payload, str(folder)):
        raise BadPayload("ExecuTorch's reader refuses it")
    return files_of(pathlib.Path(folder) / table(payload)[0][-1]["name"])


def files_of(folder):
    folder = pathlib.Path(folder)
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def extract(files, folder):
    """Writes files; returns the package among them."""
    for name, data in files.items():
        path = pathlib.Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return pathlib.Path(folder) / MODEL


def check_delegate(delegate, target, precision, units="all", lowbit=True):
    """Fails where a delegate is not what its runtime reads, or not what was asked for. `lowbit`: the identifier, by which a
    device keeps compiled models, comes from the contents."""
    files = unpack(delegate.payload)
    with tempfile.TemporaryDirectory() as folder:
        assert unpack_by_executorch(delegate.payload, folder) == files
    assert delegate.segment, "the payload is in the program's tables"
    assert table(delegate.payload)[0][-1]["name"] == ROOT

    specs = {
        "compute_units": units,
        "min_deployment_target": str(package.TARGETS[target]),
        "model_compute_precision": precision,
        "model_type": "model",
    }
    assert delegate.specs == [(key, specs[key].encode()) for key in SPECS], delegate.specs

    metadata = json.loads(files["metadata.json"])
    assert set(metadata) == {"inputNames", "outputNames", "identifier"}, metadata
    assert metadata["outputNames"], "a delegate has outputs"
    if lowbit:
        assert IDENTIFIER.fullmatch(metadata["identifier"]), metadata["identifier"]
    allowed = {"metadata.json", "debug_info.json"} | {name for name in files if name.startswith(f"{MODEL}/")}
    assert set(files) == allowed & set(files), sorted(set(files) - allowed)
    with tempfile.TemporaryDirectory() as folder:
        path = extract(files, folder)
        check.check(path)
        described = package.Package(path).descriptions()["main"]
    assert metadata["inputNames"] == [feature.name for feature in described.input], metadata
    assert metadata["outputNames"] == [feature.name for feature in described.output], metadata


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pte")
    parser.add_argument("--out", type=pathlib.Path, help="folder for what the delegates hold, each in a folder 0, 1, …")
    arguments = parser.parse_args()
    for number, delegate in enumerate(delegates(arguments.pte)):
        files = unpack(delegate.payload)
        print(f"delegate {number}: {', '.join(f'{key}={value.decode()}' for key, value in delegate.specs)}")
        for name, data in files.items():
            print(f"  {name}: {len(data)} bytes")
        if arguments.out:
            extract(files, arguments.out / str(number))


if __name__ == "__main__":
    main()
