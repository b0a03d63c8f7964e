"""The whole of `lowbit quantize` beside the same chain in Python: torch.export.load, prepare_pt2e with XNNPACKQuantizer, 16
samples, convert_pt2e, to_edge_transform_and_lower with XnnpackPartitioner, write. MobileNetV2, 224 x 224, random weights.

    python quantize.py [--repeat N] [--lowbit PATH]

Each is a process of its own, started in turns. Printed are medians, and the median of the ratios of neighbouring runs.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = 16
RECIPE = "int8-static-per-channel"


def chain(model, data, out, report):
    """The Python chain. Imports are a stage too: a process pays for them."""
    seconds, last = {}, time.perf_counter()

    def lap(stage):
        nonlocal last
        now = time.perf_counter()
        seconds[stage] = now - last
        last = now

    import numpy as np
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import XNNPACKQuantizer, get_symmetric_quantization_config
    from executorch.exir import to_edge_transform_and_lower
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    lap("start")
    program = torch.export.load(model)
    samples = [(torch.from_numpy(x),) for x in np.load(data)["in0"]]
    lap("import")
    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    prepared = prepare_pt2e(program.module(), quantizer)
    lap("prepare")
    with torch.no_grad():
        for sample in samples:
            prepared(*sample)
    lap("calibrate")
    converted = convert_pt2e(prepared)
    lap("convert")
    exported = torch.export.export(converted, samples[0])
    lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch()
    Path(out).write_bytes(lowered.buffer)
    lap("lower")
    Path(report).write_text(json.dumps({"seconds": seconds}))


def make(folder):
    import numpy as np
    import torch
    import torchvision

    torch.manual_seed(0)
    net = torchvision.models.mobilenet_v2(weights=None).eval()
    torch.export.save(torch.export.export(net, (torch.randn(1, 3, 224, 224),)), folder / "model.pt2")
    np.savez(folder / "data.npz", in0=torch.randn(SAMPLES, 1, 3, 224, 224).numpy())


def run(command, report):
    """Wall seconds, peak resident bytes and stages of a process."""
    begin = time.perf_counter()
    with open(os.devnull, "w") as quiet, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=quiet, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            errors.seek(0)
            raise SystemExit(f"{command[0]} failed:\n{errors.read().decode(errors='replace')[-2000:]}")
    seconds = json.loads(report.read_text())["seconds"]
    rss = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    quantize = sum(seconds[k] for k in ("prepare", "convert", "lower"))
    return {"wall": wall, "peak RSS": rss / 2**20, "prepare+convert+lower": quantize, **seconds}


def table(lowbit, python):
    print(f"{'':24}{'lowbit':>12}{'Python':>12}{'ratio':>10}")
    for row in ["wall", "peak RSS", "prepare+convert+lower", "start", "import", "prepare", "calibrate", "convert", "lower"]:
        a, b = ([r.get(row, 0.0) for r in runs] for runs in (lowbit, python))
        ratio = statistics.median(y / x for x, y in zip(a, b)) if all(a) else None
        unit = "MiB" if row == "peak RSS" else "s"
        numbers = [f"{statistics.median(v):.{0 if unit == 'MiB' else 3}f} {unit}" for v in (a, b)]
        print(f"{row:24}{numbers[0]:>12}{numbers[1]:>12}{f'{ratio:.1f} x' if ratio else '':>10}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--lowbit", default=str(ROOT / "target/release/lowbit"))
    parser.add_argument("--chain", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.make:
        return make(args.make)
    if args.chain:
        return chain(*args.chain)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        # Not in this process: what it holds when it starts others counts as theirs.
        subprocess.run([sys.executable, __file__, "--make", folder], check=True)
        model, data = str(folder / "model.pt2"), str(folder / "data.npz")
        report = folder / "report.json"
        ours = [args.lowbit, "quantize", model, "--backend", "xnnpack", "--recipe", RECIPE, "--calibrate", data]
        ours += ["--out", str(folder / "lowbit.pte"), "--report", str(report), "--quiet"]
        theirs = [sys.executable, __file__, "--chain", model, data, str(folder / "python.pte"), str(report)]
        results = {"lowbit": [], "python": []}
        for i in range(args.repeat):
            # Who goes first changes, so that neither always finds warm files.
            for name, command in [("lowbit", ours), ("python", theirs)][:: 1 if i % 2 == 0 else -1]:
                results[name].append(run(command, report))
                print(f"{i + 1}/{args.repeat} {name}: {results[name][-1]['wall']:.2f} s", file=sys.stderr, flush=True)
        sizes = {f.name: f.stat().st_size for f in folder.glob("*.pte")}
        table(results["lowbit"], results["python"])
        print(", ".join(f"{k}: {v:,} bytes" for k, v in sorted(sizes.items())))


if __name__ == "__main__":
    main()
