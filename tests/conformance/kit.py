"""What the checks share: running the `lowbit` binary and the ExecuTorch runtime, comparing arrays."""

import json
import os
import pathlib
import select
import subprocess
import sys
import tempfile

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
CACHE = pathlib.Path(os.environ.get("LOWBIT_CACHE", HERE / ".cache"))
LOWBIT = os.environ.get("LOWBIT", str(REPOSITORY / "target" / "release" / "lowbit"))
BACKEND = "xnnpack"
# Checks run side by side, so each of them on one processor.
ONE = {"LOWBIT_THREADS": "1"}
DEFAULT, STATIC, PER_TENSOR = "int8-static", "int8-static-per-channel", "int8-static-per-tensor"
DYNAMIC = "int8-dynamic-per-channel"
INT4_GROUP, INT4_CHANNEL = "int8-dynamic-int4-per-group", "int8-dynamic-int4-per-channel"


class Failed(Exception):
    """`lowbit` or the runtime said no; the text says why."""


# ---- lowbit ----


def call(*arguments, env=None, timeout=600):
    """Runs `lowbit` and returns its completed process. A panic or a signal is never an answer."""
    command = [LOWBIT, *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL, env={**os.environ, **ONE, **(env or {})}
    )
    text = done.stdout + done.stderr
    assert done.returncode in (0, 1, 2) and "panicked at" not in text, f"{' '.join(command)}\n{done.returncode}: {text[-3000:]}"
    return done


def lowbit(*arguments, env=None):
    """Runs `lowbit`, which must succeed; returns its stdout."""
    done = call(*arguments, env=env)
    if done.returncode:
        raise Failed(f"lowbit {' '.join(map(str, arguments))}\n{done.stderr.strip()}")
    return done.stdout


def run(model, data, out):
    """Outputs of the program on lowbit's CPU executor."""
    lowbit("run", model, "--data", data, "--out", out)
    return outputs(out)


def lower(model, out):
    lowbit("lower", model, "--backend", BACKEND, "--out", out)
    return out


def quantize(model, out, calibrate=None, evaluate=None, recipe=None, report=None, extra=(), env=None):
    """Quantizes; returns the report."""
    report = report or pathlib.Path(out).with_suffix(".report.json")
    arguments = ["quantize", model, "--backend", BACKEND, "--out", out, "--report", report, *extra]
    arguments += ["--recipe", recipe] if recipe else []
    arguments += ["--calibrate", calibrate] if calibrate else []
    arguments += ["--evaluate", evaluate] if evaluate else []
    lowbit(*arguments, env=env)
    return json.loads(pathlib.Path(report).read_text())


# ---- the ExecuTorch runtime ----


class Runtime:
    """A worker process with the ExecuTorch runtime, started when needed and again after a crash."""

    def __init__(self):
        self.worker = None

    def start(self):
        if self.worker is None or self.worker.poll() is not None:
            self.worker = subprocess.Popen(
                [sys.executable, str(HERE / "runtime_worker.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        return self.worker

    def run(self, pte, data, calls=None, timeout=600):
        """Outputs of the .pte. `calls`: axis 0 of each array of `data` (a path) is so many calls; None: one call."""
        with tempfile.TemporaryDirectory() as folder:
            out = pathlib.Path(folder) / "out.npz"
            request = {"pte": str(pte), "data": str(data), "calls": calls, "out": str(out)}
            worker = self.start()
            worker.stdin.write(json.dumps(request) + "\n")
            worker.stdin.flush()
            ready, _, _ = select.select([worker.stdout], [], [], timeout)
            line = worker.stdout.readline() if ready else ""
            if not line:
                worker.kill()
                how = f"took more than {timeout} s" if not ready else f"crashed (exit {worker.wait()})"
                raise Failed(f"the ExecuTorch runtime {how} on {pte}")
            answer = json.loads(line)
            if "error" in answer:
                raise Failed(f"the ExecuTorch runtime refused {pte}: {answer['error']}\n{answer['log']}")
            return outputs(out)

    def stop(self):
        if self.worker is not None:
            self.worker.kill()
            self.worker.wait()


def operators(pte):
    """Names of the operators a .pte runs outside delegates, and how many delegate calls it makes."""
    from executorch.exir._serialize._program import deserialize_pte_binary

    read = deserialize_pte_binary(pathlib.Path(pte).read_bytes())
    program = getattr(read, "program", read)
    plan = program.execution_plan[0]
    kernels, delegates = set(), 0
    for chain in plan.chains:
        for instruction in chain.instructions:
            arguments = instruction.instr_args
            kind = type(arguments).__name__
            if kind == "KernelCall":
                operator = plan.operators[arguments.op_index]
                kernels.add(f"{operator.name}.{operator.overload}".replace("::", "."))
            elif kind == "DelegateCall":
                delegates += 1
    return kernels, delegates


# ---- arrays ----


def outputs(path):
    """[out0, out1, …] of an npz file (or any other prefix-less order: outputs only)."""
    return numbered(path, "out")


def numbered(path, prefix):
    with np.load(path) as arrays:
        found = []
        while f"{prefix}{len(found)}" in arrays.files:
            found.append(arrays[f"{prefix}{len(found)}"])
        return found


def differences(got, expected, rtol, atol):
    """None when all arrays agree, else the first difference as text. Integers and booleans must be equal, NaN too."""
    if len(got) != len(expected):
        return f"{len(got)} outputs, expected {len(expected)}"
    for i, (a, b) in enumerate(zip(got, expected)):
        if a.shape != b.shape:
            return f"out{i}: shape {a.shape}, expected {b.shape}"
        if a.dtype != b.dtype:
            return f"out{i}: {a.dtype}, expected {b.dtype}"
        if b.dtype.kind == "f":
            wrong = ~np.isclose(a.astype(np.float64), b.astype(np.float64), rtol=rtol, atol=atol, equal_nan=True)
        else:
            wrong = a != b
        if wrong.any():
            at = tuple(int(k) for k in np.argwhere(wrong)[0])
            return f"out{i}: {int(wrong.sum())} of {b.size} differ, first at {list(at)}: {a[at]}, expected {b[at]}"
    return None


def sqnr(expected, got):
    """Signal to quantization noise in dB, as torchao's compute_error: 20 log10(|x| / |x - y|)."""
    x, y = np.asarray(expected, np.float64), np.asarray(got, np.float64)
    noise = np.linalg.norm(x - y)
    if noise == 0:
        return float("inf")
    with np.errstate(divide="ignore"):
        return float(20 * np.log10(np.linalg.norm(x) / noise))


def is_float(x):
    return x.dtype.kind == "f"


# ---- results that are printed at the end ----


def record(table, name, **columns):
    """Keeps one row for the table printed when all tests are done."""
    folder = CACHE / "results" / table
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps({"name": name, **columns}))
