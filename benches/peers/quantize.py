"""The whole of `lowbit quantize` beside the same chain in Python: torch.export.load, prepare_pt2e with XNNPACKQuantizer, 16
samples, convert_pt2e, to_edge_transform_and_lower with XnnpackPartitioner, write. Random weights, 224 x 224.

    python quantize.py [--repeat N] [--lowbit PATH] [--model mobilenet_v2|resnet18|vit] [--samples N]

Each is a process of its own, started in turns. Printed are medians, and the median of the ratios of neighbouring runs.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from common import ROOT, SAMPLES, Laps, table, take_turns

RECIPE = "int8-static-per-channel"


def chain(model, data, out, report):
    """The Python chain. Imports are a stage too: a process pays for them."""
    lap = Laps()

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
    lap.write(report)


def make(folder, model, samples):
    import numpy as np
    import torch

    from networks import network

    torch.manual_seed(0)
    net = network(model)
    torch.export.save(torch.export.export(net, (torch.randn(1, 3, 224, 224),)), folder / "model.pt2")
    np.savez(folder / "data.npz", in0=torch.randn(samples, 1, 3, 224, 224).numpy())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--lowbit", default=str(ROOT / "target/release/lowbit"))
    parser.add_argument("--model", default="mobilenet_v2")
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--chain", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.make:
        return make(args.make, args.model, args.samples)
    if args.chain:
        return chain(*args.chain)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        # Not in this process: what it holds when it starts others counts as theirs.
        sizes = ["--model", args.model, "--samples", str(args.samples)]
        subprocess.run([sys.executable, __file__, "--make", folder, *sizes], check=True)
        model, data = str(folder / "model.pt2"), str(folder / "data.npz")
        report = folder / "report.json"
        ours = [args.lowbit, "quantize", model, "--backend", "xnnpack", "--recipe", RECIPE, "--calibrate", data]
        ours += ["--out", str(folder / "lowbit.pte"), "--report", str(report), "--quiet"]
        theirs = [sys.executable, __file__, "--chain", model, data, str(folder / "python.pte"), str(report)]
        results = take_turns(args.repeat, {"lowbit": ours, "python": theirs}, report)
        sizes = {f.name: f.stat().st_size for f in folder.glob("*.pte")}
        table(results["lowbit"], results["python"])
        print(", ".join(f"{k}: {v:,} bytes" for k, v in sorted(sizes.items())))


if __name__ == "__main__":
    main()
