"""Recurrent layers are one loop in a .pte, however long the sequence, with products of integers."""

import numpy as np
import pytest
import torch

import kit


class Net(torch.nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.rnn = getattr(torch.nn, kind)(12, 16, **options)

    def forward(self, x):
        return self.rnn(x)[0]


def export(folder, name, kind, steps, dynamic_shapes=None, batch=2, **options):
    """Exports a layer; returns the module, and paths of model and data."""
    torch.manual_seed(0)
    net = Net(kind, batch_first=True, **options).eval()
    x = torch.randn(batch, steps, 12)
    program = torch.export.export(net, (x,), dynamic_shapes=dynamic_shapes)
    model, data = folder / f"{name}.pt2", folder / f"{name}.npz"
    torch.export.save(program, model)
    np.savez(data, in0=x.numpy())
    return net, model, data


def on_device(runtime, net, pte, data):
    """SQNR of the running .pte."""
    with np.load(data) as arrays, torch.no_grad():
        expected = net(torch.from_numpy(arrays["in0"])).numpy()
    return kit.sqnr(expected, runtime.run(pte, data)[0])


LAYERS = [("LSTM", {}), ("LSTM", {"num_layers": 2, "bidirectional": True}), ("LSTM", {"proj_size": 8}), ("GRU", {"bias": False})]


@pytest.mark.parametrize("recipe", [None, kit.DEFAULT, kit.DYNAMIC])
@pytest.mark.parametrize("kind, options", LAYERS)
def test_nothing_grows_with_steps(kind, options, recipe, folder, runtime):
    sizes = []
    for steps in (3, 40):
        net, model, data = export(folder, f"m{steps}", kind, steps, **options)
        pte = folder / f"m{steps}.pte"
        if recipe is None:
            kit.lower(model, pte)
            assert on_device(runtime, net, pte, data) > 100
            sizes.append(pte.stat().st_size)
            continue
        calibrate = None if recipe == kit.DYNAMIC else data
        report = kit.quantize(model, pte, calibrate, data, recipe)
        said = report["outputs"][0]["sqnr_db"]
        assert said > 30 and abs(on_device(runtime, net, pte, data) - said) < 0.5
        assert all(node["delegate"] is not None for node in report["nodes"]), report["nodes"]
        sizes.append((pte.stat().st_size, len(report["nodes"])))
    assert sizes[0] == sizes[1]


def test_runs_at_every_batch_size(folder, runtime):
    batch = {0: torch.export.Dim("b", min=1, max=4)}
    net, model, data = export(folder, "m", "LSTM", 5, dynamic_shapes=(batch,), bidirectional=True)
    kit.lower(model, folder / "m.pte")
    kit.quantize(model, folder / "q.pte", recipe=kit.DYNAMIC)
    for size in (2, 4, 1):
        np.savez(data, in0=np.random.default_rng(size).standard_normal((size, 5, 12), np.float32))
        assert on_device(runtime, net, folder / "m.pte", data) > 100
        assert on_device(runtime, net, folder / "q.pte", data) > 30
