"""`lowbit quantize --backend coreml` beside ExecuTorch's Core ML flow in Python: torch.export.load, prepare_pt2e with
CoreMLQuantizer, 16 samples, convert_pt2e, to_edge_transform_and_lower with CoreMLPartitioner, write. A transformer's block,
random weights.

    python coreml.py [--repeat N] [--lowbit PATH] [--width N] [--tokens N]

Each is a process of its own, started in turns. Printed are medians, and the median of the ratios of neighbouring runs.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from common import ROOT, SAMPLES, Laps, table, take_turns

RECIPE, TARGET = "int8-static", "ios17"


def chain(model, data, out, report):
    """The Python chain. Imports are a stage too: a process pays for them."""
    lap = Laps()

    import coremltools as ct
    import numpy as np
    import torch
    from coremltools.optimize.torch.quantization.quantization_config import (
        LinearQuantizerConfig,
        ModuleLinearQuantizerConfig,
        QuantizationScheme,
    )
    from executorch.backends.apple.coreml.compiler import CoreMLBackend
    from executorch.backends.apple.coreml.partition import CoreMLPartitioner
    from executorch.backends.apple.coreml.quantizer import CoreMLQuantizer
    from executorch.exir import to_edge_transform_and_lower
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    lap("start")
    program = torch.export.load(model)
    samples = [(torch.from_numpy(x),) for x in np.load(data)["in0"]]
    lap("import")
    settings = ModuleLinearQuantizerConfig(
        quantization_scheme=QuantizationScheme.symmetric, activation_dtype=torch.quint8, weight_dtype=torch.qint8, weight_per_channel=True
    )
    prepared = prepare_pt2e(program.module(), CoreMLQuantizer(LinearQuantizerConfig(global_config=settings)))
    lap("prepare")
    with torch.no_grad():
        for sample in samples:
            prepared(*sample)
    lap("calibrate")
    converted = convert_pt2e(prepared)
    lap("convert")
    exported = torch.export.export(converted, samples[0])
    specs = CoreMLBackend.generate_compile_specs(
        minimum_deployment_target=ct.target.iOS17, compute_precision=ct.precision.FLOAT16
    )
    lowered = to_edge_transform_and_lower(exported, partitioner=[CoreMLPartitioner(compile_specs=specs)]).to_executorch()
    Path(out).write_bytes(lowered.buffer)
    lap("lower")
    lap.write(report)


def make(folder, width, tokens):
    import numpy as np
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x):
            heads = self.qkv(self.norms[0](x)).unflatten(-1, (3, width // 64, 64))
            q, k, v = heads.permute(2, 0, 3, 1, 4)
            x = x + self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
            return x + self.down(nn.functional.gelu(self.up(self.norms[1](x))))

    torch.manual_seed(0)
    torch.export.save(torch.export.export(Block().eval(), (torch.randn(1, tokens, width),)), folder / "model.pt2")
    np.savez(folder / "data.npz", in0=torch.randn(SAMPLES, 1, tokens, width).numpy())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--lowbit", default=str(ROOT / "target/release/lowbit"))
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--chain", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.make:
        return make(args.make, args.width, args.tokens)
    if args.chain:
        return chain(*args.chain)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        # Not in this process: what it holds when it starts others counts as theirs.
        sizes = ["--width", str(args.width), "--tokens", str(args.tokens)]
        subprocess.run([sys.executable, __file__, "--make", folder, *sizes], check=True)
        model, data, report = str(folder / "model.pt2"), str(folder / "data.npz"), folder / "report.json"
        ours = [args.lowbit, "quantize", model, "--backend", "coreml", "--recipe", RECIPE, "--target", TARGET, "--calibrate", data]
        ours += ["--out", str(folder / "lowbit.pte"), "--report", str(report), "--quiet"]
        theirs = [sys.executable, __file__, "--chain", model, data, str(folder / "python.pte"), str(report)]
        results = take_turns(args.repeat, {"lowbit": ours, "python": theirs}, report)
        sizes = {f.name: f.stat().st_size for f in folder.glob("*.pte")}
        table(results["lowbit"], results["python"])
        print(", ".join(f"{k}: {v:,} bytes" for k, v in sorted(sizes.items())))


if __name__ == "__main__":
    main()
