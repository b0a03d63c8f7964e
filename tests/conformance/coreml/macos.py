"""lowbit's packages in Core ML itself, on a Mac.

    python -m coreml.macos make FOLDER     anywhere with lowbit and the reference environment: packages, inputs, expected outputs
    python -m coreml.macos run FOLDER      on a Mac with coremltools: compiles and predicts each, on the CPU and on all units

Nothing else in this repository runs Core ML. `run` needs macOS 15, Xcode's command line tools, and coremltools 9.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy as np

# name: (network of the zoo, recipe or None for float, target, precision, decibels that the CPU must reach).
# What is computed in float32 is equal but for the order of sums; an integer that falls on the other side is a step.
CASES = {
    "float32": ("mobilenetv4_conv_small", None, "ios17", "float32", 80),
    "float16": ("mobilenetv4_conv_small", None, "ios17", "float16", 40),
    "static-convolutions": ("squeezenet1_1", "int8-static", "ios17", "float32", 30),
    "static-convolutions-float16": ("squeezenet1_1", "int8-static", "ios18", "float16", 25),
    "static-transformer": ("vit", "int8-static", "ios17", "float32", 30),
    "int8": ("vit", "int8-weight-only", "ios17", "float32", 80),
    "int8-ios18": ("bert", "int8-weight-only", "ios18", "float32", 80),
    "int4-groups": ("vit", "int4-weight-only-per-group", "ios18", "float32", 80),
    "int4-groups-float16": ("vit", "int4-weight-only-per-group", "ios18", "float16", 40),
    "tables-packed": ("vit", "lut4", "ios17", "float32", 80),
    "tables": ("unet", "lut4", "ios18", "float32", 80),
    "any-batch": ("resnet_dynamic_batch", "int8-weight-only", "ios18", "float32", 80),
}
# The neural engine and the GPU compute in half floats, whatever the package says.
ALL_UNITS_DB = 25
CALLS = 2


# ---- make ----


def make(folder, names=None):
    import kit

    folder = pathlib.Path(folder)
    for name in names or CASES:
        net, recipe, target, precision, least = CASES[name]
        source, case = kit.CACHE / "zoo" / net, folder / name
        shutil.rmtree(case, ignore_errors=True)
        case.mkdir(parents=True)
        inputs = kit.numbered(source / "data.npz", "in")
        np.savez(case / "in.npz", **{f"in{i}": x[:CALLS] for i, x in enumerate(inputs)})
        model = source / "model.pt2"
        if recipe:
            arguments = ["quantize", model, "--backend", "coreml", "--recipe", recipe, "--save-quantized", case / "q.pt2"]
            kit.lowbit(*arguments, *(["--calibrate", source / "calib.npz"] if recipe == "int8-static" else []))
            model = case / "q.pt2"
        options = ["--target", target, "--option", f"precision={precision}"]
        kit.lowbit("lower", model, "--backend", "coreml", *options, "--out", case / "model.mlpackage")
        kit.run(model, case / "in.npz", case / "out.npz")
        (case / "q.pt2").unlink(missing_ok=True)
        (case / "case.json").write_text(json.dumps({"least_db": least, "precision": precision, "target": target}))
    return folder


# ---- run ----


def compile_package(path):
    """Apple's compiler, which checks what no definition says."""
    with tempfile.TemporaryDirectory() as out:
        done = subprocess.run(["xcrun", "coremlcompiler", "compile", str(path), out], capture_output=True, text=True)
        made = list(pathlib.Path(out).glob("*.mlmodelc"))
        return None if done.returncode == 0 and made else (done.stdout + done.stderr).strip()[-2000:]


def predictor(units):
    """Outputs of one call, in order, on some of the device's units."""
    import coremltools as ct

    def predict(path):
        # Opening a package rewrites its manifest.
        with tempfile.TemporaryDirectory() as folder:
            copy = pathlib.Path(folder) / "model.mlpackage"
            shutil.copytree(path, copy)
            model = ct.models.MLModel(str(copy), compute_units=getattr(ct.ComputeUnit, units))
        described = model.get_spec().description
        names, outputs = [f.name for f in described.input], [f.name for f in described.output]
        kinds = {65568: np.float32, 65552: np.float16, 131104: np.int32}
        types = [kinds[f.type.multiArrayType.dataType] for f in described.input]

        def call(*arrays):
            results = model.predict({n: x.astype(t) for n, x, t in zip(names, arrays, types)})
            return [results[name] for name in outputs]

        return call

    return predict


def decibels(expected, got):
    x, y = np.asarray(expected, np.float64), np.asarray(got, np.float64)
    noise = np.linalg.norm(x - y)
    return float("inf") if noise == 0 else float(20 * np.log10(max(np.linalg.norm(x), 1e-30) / noise))


def numbered(path, prefix):
    with np.load(path) as arrays:
        return [arrays[f"{prefix}{i}"] for i in range(sum(name.startswith(prefix) for name in arrays.files))]


def run(folder, predictors, compiler=compile_package):
    """Prints a line for each case and predictor, {name: function of a package's path}; the number of failures."""
    failures = 0
    for case in sorted(path.parent for path in pathlib.Path(folder).glob("*/case.json")):
        said = json.loads((case / "case.json").read_text())
        refusal = compiler(case / "model.mlpackage") if compiler else None
        if refusal:
            failures += 1
            print(f"{case.name}: the compiler refuses it\n{refusal}")
            continue
        calls = list(zip(*numbered(case / "in.npz", "in")))
        expected = numbered(case / "out.npz", "out")
        for name, predict in predictors.items():
            least = said["least_db"] if name != "ALL" else min(ALL_UNITS_DB, said["least_db"])
            try:
                call = predict(case / "model.mlpackage")
                results = [np.stack(column) for column in zip(*(call(*arrays) for arrays in calls))]
                found = [decibels(x, y.reshape(x.shape)) for x, y in zip(expected, results) if x.dtype.kind == "f"]
            except Exception as error:  # each case tells its own story
                failures += 1
                print(f"{case.name}, {name}: {type(error).__name__}: {error}")
                continue
            good = all(db >= least for db in found)
            failures += not good
            verdict = "good" if good else f"FAILED, less than {least} dB"
            print(f"{case.name}, {name}: {', '.join(f'{db:.1f} dB' for db in found)}: {verdict}")
    return failures


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["make", "run"])
    parser.add_argument("folder", type=pathlib.Path)
    arguments = parser.parse_args()
    if arguments.command == "make":
        make(arguments.folder)
        return
    if sys.platform != "darwin":
        raise SystemExit("Core ML is on a Mac alone")
    raise SystemExit(1 if run(arguments.folder, {units: predictor(units) for units in ("CPU_ONLY", "ALL")}) else 0)


if __name__ == "__main__":
    main()
