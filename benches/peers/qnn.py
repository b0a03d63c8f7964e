"""`lowbit quantize --backend qnn` beside ExecuTorch's QNN flow in Python: torch.export.load, prepare_pt2e with QnnQuantizer, the
same samples, convert_pt2e, to_edge_transform_and_lower_to_qnn, write. Both files run in ExecuTorch's runtime, on Qualcomm's
emulation of the chip, and are compared with the float network.

    python qnn.py [--lowbit PATH] [--samples N] [--calls N] FOLDER...

A folder has model.pt2, calib.npz, and eval.npz or data.npz, as those in tests/conformance/.cache/zoo have after its tests. The
library is that of the wheel onnxruntime-qnn. Each run is a process of its own. What the library itself takes to finalize is in the
times of both; lowbit's report says what it is, and the last ratio is without it, taking it to be the same in Python.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from common import ROOT, Laps, run

sys.path.insert(0, str(ROOT / "tests/conformance"))
CHIP, RECIPE = "SM8650", "8a8w"


def chain(model, data, samples, out, report):
    """The Python chain. Imports are a stage too: a process pays for them."""
    lap = Laps()

    import numpy as np
    import torch
    from executorch.backends.qualcomm.quantizer.quantizer import QnnQuantizer, QuantDtype
    from executorch.backends.qualcomm.serialization.qc_schema import QcomChipset
    from executorch.backends.qualcomm.utils import utils
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    lap("start")
    program = torch.export.load(model)
    arrays = np.load(data)
    names = sorted((k for k in arrays.files if k.startswith("in")), key=lambda k: int(k[2:]))
    calls = [tuple(map(torch.from_numpy, call)) for call in zip(*(arrays[k][: int(samples)] for k in names))]
    lap("import")
    quantizer = QnnQuantizer()
    quantizer.set_default_quant_config(QuantDtype.use_8a8w, is_conv_per_channel=True, is_linear_per_channel=True)
    prepared = prepare_pt2e(program.module(), quantizer)
    lap("prepare")
    with torch.no_grad():
        for call in calls:
            prepared(*call)
    lap("calibrate")
    converted = convert_pt2e(prepared)
    lap("convert")
    options = utils.generate_htp_compiler_spec(use_fp16=False)
    specs = utils.generate_qnn_executorch_compiler_spec(soc_model=getattr(QcomChipset, CHIP), backend_options=options)
    lowered = utils.to_edge_transform_and_lower_to_qnn(converted, calls[0], specs).to_executorch()
    Path(out).write_bytes(lowered.buffer)
    lap("lower")
    lap.write(report)


def shorter(source, count, out):
    """The first calls of a file of inputs."""
    import numpy as np

    arrays = np.load(source)
    np.savez(out, **{k: arrays[k][:count] for k in arrays.files if k.startswith("in")})
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lowbit", default=str(ROOT / "target/release/lowbit"))
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--calls", type=int, default=4)
    parser.add_argument("--chain", nargs=5, help=argparse.SUPPRESS)
    parser.add_argument("folders", nargs="*", type=Path)
    args = parser.parse_args()
    if args.chain:
        return chain(*args.chain)
    import kit
    from qnn import adapter

    library = Path(importlib.util.find_spec("onnxruntime_qnn").submodule_search_locations[0])
    with tempfile.TemporaryDirectory() as libraries:
        os.environ |= adapter.environment(library, Path(libraries))
        os.environ |= {"QNN_LIB_DIR": str(library), "QNN_SDK_ROOT": libraries, "LOWBIT": args.lowbit}
        kit.LOWBIT = args.lowbit
        runtime = kit.Runtime()
        print(f"{'':24}{'lowbit dB':>12}{'Python dB':>12}{'lowbit s':>12}{'Python s':>12}{'lower s':>12}{'lower s':>12}{'finalize s':>12}{'ratio':>8}{'without':>9}")
        for net in args.folders:
            print(row(net, args, kit, runtime), flush=True)
        runtime.stop()


def row(net, args, kit, runtime):
    """One network: decibels of both, seconds of both from start to end, and of lowering."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        model, report = net / "model.pt2", folder / "report.json"
        calib = shorter(net / "calib.npz", args.samples, folder / "calib.npz")
        held_out = net / "eval.npz" if (net / "eval.npz").exists() else net / "data.npz"
        data = shorter(held_out, args.calls, folder / "data.npz")
        ours = [args.lowbit, "quantize", model, "--backend", "qnn", "--recipe", RECIPE, "--target", CHIP, "--calibrate", calib]
        ours += ["--out", folder / "lowbit.pte", "--report", report, "--quiet"]
        theirs = [sys.executable, __file__, "--chain", model, calib, str(args.samples), folder / "python.pte", report]
        expected = kit.run(model, data, folder / "float.npz")
        texts, seconds = [], []
        for name, command in (("lowbit", ours), ("python", theirs)):
            try:
                done = run(command, report)
                got = runtime.run(folder / f"{name}.pte", data, calls=args.calls)
                texts.append(f"{min(kit.sqnr(x, y) for x, y in zip(expected, got)):.1f}")
            except (SystemExit, kit.Failed, subprocess.SubprocessError) as failure:
                print(f"{net.name}, {name}: {str(failure).strip().splitlines()[-1]}", file=sys.stderr)
                done = {"wall": float("nan"), "lower": float("nan")}
                texts.append("failed")
            seconds.append((done["wall"], done["lower"]))
            library = done.get("lower_in_tool", 0) if name == "lowbit" else library
        (a, b), (c, d) = seconds
        ratios = f"{d / b:8.1f}{(d - library) / (b - library):9.1f}"
        return f"{net.name:24}{texts[0]:>12}{texts[1]:>12}{a:12.2f}{c:12.2f}{b:12.2f}{d:12.2f}{library:12.2f}{ratios}"


if __name__ == "__main__":
    main()
