"""What the scripts of this folder share: processes with their time and memory, pairing, tables."""

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = 16


class Laps:
    """Seconds between stages."""

    def __init__(self):
        self.seconds, self.last = {}, time.perf_counter()

    def __call__(self, stage):
        now = time.perf_counter()
        self.seconds[stage] = now - self.last
        self.last = now

    def write(self, report):
        Path(report).write_text(json.dumps({"seconds": self.seconds}))


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
    cpu = usage.ru_utime + usage.ru_stime
    return {"wall": wall, "CPU": cpu, "peak RSS": rss / 2**20, "prepare+convert+lower": quantize, **seconds}


def take_turns(repeat, contenders, report):
    """Runs commands `repeat` times by turns. Who goes first changes, so that nobody always finds warm files."""
    results = {name: [] for name in contenders}
    for i in range(repeat):
        for name in list(contenders)[:: 1 if i % 2 == 0 else -1]:
            results[name].append(run(contenders[name], report))
            print(f"{i + 1}/{repeat} {name}: {results[name][-1]['wall']:.2f} s", file=sys.stderr, flush=True)
    return results


def table(lowbit, python):
    """Medians of both, and the median of the ratios of neighbouring runs."""
    print(f"{'':24}{'lowbit':>12}{'Python':>12}{'ratio':>10}")
    rows = ["wall", "CPU", "peak RSS", "prepare+convert+lower"]
    for row in rows + ["start", "import", "prepare", "calibrate", "convert", "lower"]:
        a, b = ([r.get(row, 0.0) for r in runs] for runs in (lowbit, python))
        ratio = statistics.median(y / x for x, y in zip(a, b)) if all(a) else None
        unit = "MiB" if row == "peak RSS" else "s"
        numbers = [f"{statistics.median(v):.{0 if unit == 'MiB' else 3}f} {unit}" for v in (a, b)]
        print(f"{row:24}{numbers[0]:>12}{numbers[1]:>12}{f'{ratio:.1f} x' if ratio else '':>10}")


def rounds(count, contenders, seed=0):
    """Calls every contender once a round, in an order that is drawn anew for each. Gives lists of what they returned."""
    results, order = {name: [] for name in contenders}, random.Random(seed)
    for i in range(count):
        names = list(contenders)
        order.shuffle(names)
        for name in names:
            results[name].append(contenders[name]())
        print(f"round {i + 1}/{count}", file=sys.stderr, flush=True)
    return results


def paired(ours, theirs):
    """The median of the ratios of the same rounds."""
    return statistics.median(a / b for a, b in zip(ours, theirs))
