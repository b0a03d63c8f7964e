"""lowbit beside PyTorch, torchao, ONNX Runtime and ExecuTorch's XNNPACK: forward runs in f32 and int8, calibration with
histograms and with least and greatest values. Random weights, 224 x 224, one image a run.

    python speed.py [--models mobilenet_v2,resnet18,vit] [--threads 1,2] [--rounds N] [--runs N] [--lowbit PATH] [--out TABLE.md]

All take turns in an order drawn anew each round; printed are medians, and the median of the ratios within rounds. With one
thread everybody is pinned to one core and CPU time counts, which other work on the machine disturbs least; with more it is
the clock. Needs the environment that setup.sh makes, and a release build of lowbit.
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

from common import ROOT, paired, rounds

OURS = {
    "f32": ["model.pt2"],
    "int8": ["quantized.pt2"],
    "histograms": ["model.pt2", "--calibrate", "histogram", "--backend", "xnnpack", "--recipe", "int8-static-per-channel"],
    "min-max": ["model.pt2", "--calibrate", "min-max", "--backend", "xnnpack", "--recipe", "int8-static-per-channel"],
}
# What of lowbit's is compared with whom, and what the issue asks for by network.
ROWS = [
    ("f32", "onnx_f32", (1.0, 1.0, 1.0)),
    ("f32", "xnnpack_f32", (1.0, 1.0, 0.8)),
    ("f32", "torch_f32", None),
    ("histograms", "torchao_histogram", (1 / 12, 1 / 3, 1 / 3)),
    ("min-max", "torchao_min_max", (1 / 5, 1 / 2.4, 1 / 2)),
    ("int8", "torchao_int8", (1 / 20, 1 / 12, 1 / 5)),
    ("int8", "xnnpack_int8", (0.9, 1.0, 0.8)),
    ("int8", "onnx_int8", None),
]
MODELS = ["mobilenet_v2", "resnet18", "vit"]


def pin(threads):
    """A child's processors: the last ones."""
    return lambda: os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])


def worker(engine, folder, threads):
    """One engine in a process of its own: for every number on a line, so many runs, their median times as JSON."""
    import torch

    from engines import ENGINES

    torch.set_num_threads(threads)
    call = ENGINES[engine](Path(folder), threads)
    for _ in range(2):
        call()
    print("ready", file=sys.__stdout__, flush=True)
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            times.append((time.perf_counter() - wall, time.process_time() - cpu))
        wall, cpu = (statistics.median(column) * 1e3 for column in zip(*times))
        print(json.dumps({"wall": wall, "cpu": cpu}), file=sys.__stdout__, flush=True)


class Peer:
    def __init__(self, engine, folder, threads, runs):
        command = [sys.executable, __file__, "--worker", engine, str(folder), str(threads)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        log = open(folder / f"{engine}.log", "w")
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment, preexec_fn=pin(threads)
        )
        self.runs, self.read = runs, lambda: self.answer(folder / f"{engine}.log")
        while self.read() != "ready":
            pass

    def answer(self, log):
        # Libraries print on the same stream.
        for line in self.process.stdout:
            if line.startswith(("ready", "{")):
                return line.strip()
        raise RuntimeError(log.read_text()[-1500:])

    def __call__(self):
        print(self.runs, file=self.process.stdin, flush=True)
        return json.loads(self.read())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def lowbit(program, arguments, folder, threads, runs):
    def call():
        command = [program, "bench", *arguments, "--runs", str(runs), "--threads", str(threads), "--json"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, preexec_fn=pin(threads))
        found = json.loads(done.stdout)
        return {"wall": found["milliseconds"]["median"], "cpu": found["cpu_milliseconds"]["median"]}

    return call


def make(name, folder):
    import torch

    from networks import SHAPE, network

    torch.manual_seed(0)
    torch.export.save(torch.export.export(network(name), (torch.randn(SHAPE),)), folder / "model.pt2")
    (folder / "name").write_text(name)
    import numpy as np

    np.savez(folder / "data.npz", in0=torch.randn(2, *SHAPE).numpy())


def measure(name, threads, args):
    """Lines of the table for one network."""
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        subprocess.run([sys.executable, __file__, "--make", name, str(folder)], check=True)
        quantize = [args.lowbit, "quantize", "model.pt2", "--backend", "xnnpack", "--recipe", "int8-static-per-channel"]
        quantize += ["--calibrate", "data.npz", "--save-quantized", "quantized.pt2", "--quiet"]
        subprocess.run(quantize, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        peers = {}
        for engine in dict.fromkeys(row[1] for row in ROWS):
            try:
                peers[engine] = Peer(engine, folder, threads, args.runs)
            except RuntimeError as e:
                print(f"{engine} cannot run {name}: {e}", file=sys.stderr)
        ours = {k: lowbit(args.lowbit, a, folder, threads, args.runs) for k, a in OURS.items()}
        found = rounds(args.rounds, {**ours, **peers})
        clock = "cpu" if threads == 1 else "wall"
        times = {who: [r[clock] for r in runs] for who, runs in found.items()}
        for work, engine, goals in ROWS:
            if engine in peers:
                goal = f"{goals[MODELS.index(name)]:.3f}" if goals and name in MODELS else ""
                us, them = statistics.median(times[work]), statistics.median(times[engine])
                ratio = paired(times[work], times[engine])
                lines.append(f"| {name} | {threads} | {work} | {engine} | {us:.2f} | {them:.2f} | {ratio:.3f} | {goal} |")
        for peer in peers.values():
            peer.close()
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--lowbit", default=str(ROOT / "target/release/lowbit"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--make", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return worker(args.worker[0], args.worker[1], int(args.worker[2]))
    if args.make:
        return make(args.make[0], Path(args.make[1]))
    lines = [
        "| network | threads | work | peer | lowbit ms | peer ms | ratio | goal |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for threads in map(int, args.threads.split(",")):
        for name in args.models.split(","):
            lines += measure(name, threads, args)
    print("\n".join(lines))
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
