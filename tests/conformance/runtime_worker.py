"""Runs .pte files in the ExecuTorch runtime: one JSON request a line on stdin, one JSON answer a line on stdout.

Request: {"pte": path, "data": npz with in0, in1, …, "calls": n or null, "out": npz}. `calls` null: the arrays are one
call's inputs; otherwise axis 0 of each is the call. Answer: {"calls": n} or {"error": text, "log": the runtime's log}.
A program that takes the runtime down takes this process down; `kit.Runtime` starts another.
"""

import json
import os
import sys
import tempfile

import numpy as np


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the runtime logs to stdout as well
    log = tempfile.TemporaryFile()
    os.dup2(log.fileno(), 2)
    os.dup2(log.fileno(), 1)
    import torch
    from executorch.extension.pybindings import portable_lib
    import executorch.kernels.quantized  # noqa: F401  (registers quantized_decomposed kernels)

    torch.set_num_threads(1)
    # Kept until the next request: outputs may live in the module's memory.
    for line in sys.stdin:
        request = json.loads(line)
        log.seek(0)
        log.truncate()
        try:
            answer = {"calls": run(portable_lib, torch, request)}
        except Exception as error:  # the runtime raises RuntimeError with a code; the reason is in the log
            log.seek(0)
            answer = {"error": str(error), "log": log.read()[-2000:].decode(errors="replace")}
        print(json.dumps(answer), file=answers, flush=True)


def run(portable_lib, torch, request):
    module = portable_lib._load_for_executorch(request["pte"])
    with np.load(request["data"]) as data:
        inputs = [data[f"in{i}"] for i in range(sum(name.startswith("in") for name in data.files))]
    calls = [inputs] if request["calls"] is None else [[x[i] for x in inputs] for i in range(request["calls"])]
    results = []
    for call in calls:
        outputs = module.forward(tuple(torch.from_numpy(np.array(x, order="C")) for x in call))
        results.append([numpy(torch, value) for value in outputs])
    columns = zip(*results)
    stacked = results[0] if request["calls"] is None else [np.stack(c) for c in columns]
    np.savez(request["out"], **{f"out{i}": x for i, x in enumerate(stacked)})
    return len(calls)


def numpy(torch, value):
    if not isinstance(value, torch.Tensor):
        return np.asarray(value)
    value = value.contiguous()
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy().copy()


if __name__ == "__main__":
    main()
