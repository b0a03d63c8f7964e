"""Exports the architectures of `zoo` with PyTorch: python export_zoo.py DIR [NAME…] [--jobs N].

DIR/<name>/ gets model.pt2 (and model_core.pt2, after run_decompositions()), data.npz (in0… of CALLS calls), expected.npz
(out0… of PyTorch), calib.npz, meta.json; with a dynamic batch batch_data.npz and batch_expected.npz (one call of another
batch size); or error.txt. What is there already is kept.
"""

import argparse
import json
import multiprocessing
import pathlib
import shutil
import traceback
import warnings

CALLS, CALIBRATION = 8, 8


def export(task):
    name, folder = task
    done, making = folder / name, folder / f".{name}"
    if (done / "meta.json").exists():
        return name, None
    shutil.rmtree(making, ignore_errors=True)
    shutil.rmtree(done, ignore_errors=True)
    making.mkdir(parents=True)
    error = None
    try:
        write(name, making)
    except Exception:  # shown by the test of this architecture
        error = traceback.format_exc()
        (making / "error.txt").write_text(error)
    making.rename(done)
    return name, error


def write(name, folder):
    import numpy as np
    import torch

    from zoo import ZOO

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(1)
    entry = ZOO[name]
    net, inputs = entry.build()
    settle(net, inputs)
    net.eval()
    exported = torch.export.export(net, inputs(0), dynamic_shapes=entry.dynamic, strict=False)
    torch.export.save(exported, folder / "model.pt2")
    if entry.core:
        torch.export.save(exported.run_decompositions(), folder / "model_core.pt2")
    calls = [inputs(seed) for seed in range(CALLS)]
    with torch.no_grad():
        results = [flat(net(*call)) for call in calls]
    # The network need not write into its inputs or keep state: each call is one run of the program.
    save(np, folder / "data.npz", "in", calls)
    save(np, folder / "expected.npz", "out", results)
    save(np, folder / "calib.npz", "in", [inputs(100 + seed) for seed in range(CALIBRATION)])
    if entry.dynamic:  # another batch size: all calls in one
        batch = tuple(torch.cat(column) for column in zip(*calls))
        with torch.no_grad():
            result = flat(net(*batch))
        save_call(np, folder / "batch_data.npz", "in", batch)
        save_call(np, folder / "batch_expected.npz", "out", result)
    targets = sorted({str(n.target) for n in exported.graph.nodes if n.op == "call_function"})
    meta = {
        "calls": CALLS,
        "parameters": sum(p.numel() for p in net.parameters()),
        "targets": targets,
        "torch": torch.__version__,
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=1))


def settle(net, inputs):
    """Gives batch norms the statistics of their inputs: with those of a new network, deep ones give zeros or infinities."""
    import torch

    norms = [m for m in net.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    net.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    if norms:
        with torch.no_grad():
            batch = [torch.cat([inputs(200 + seed)[i] for seed in range(16)]) for i in range(len(inputs(0)))]
            net(*batch)
    net.eval()


def flat(result):
    import torch

    return torch.utils._pytree.tree_leaves(result)


def save(np, path, prefix, calls):
    columns = list(zip(*calls))
    np.savez(path, **{f"{prefix}{i}": np.stack([t.detach().numpy() for t in c]) for i, c in enumerate(columns)})


def save_call(np, path, prefix, tensors):
    np.savez(path, **{f"{prefix}{i}": t.detach().numpy() for i, t in enumerate(tensors)})


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    import zoo  # imported once, before the workers are forked

    names = arguments.names or list(zoo.ZOO)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    failed = 0
    tasks = [(name, arguments.folder) for name in names]
    with multiprocessing.get_context("fork").Pool(arguments.jobs, maxtasksperchild=8) as pool:
        for name, error in pool.imap_unordered(export, tasks):
            failed += error is not None
            print(f"{name}: {error.strip().splitlines()[-1] if error else 'exported'}", flush=True)
    print(f"{len(names) - failed} of {len(names)} architectures exported")


if __name__ == "__main__":
    main()
