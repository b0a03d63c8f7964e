"""Wrong inputs: exit code 1 (failed) or 2 (wrong usage), a message that names the thing, and no output file left."""

import numpy as np
import pytest

import kit

DEMO = kit.REPOSITORY / "crates" / "cli" / "demo"
MODEL, CALIBRATION = DEMO / "model.pt2", DEMO / "calib.npz"


@pytest.fixture
def good():
    with np.load(CALIBRATION) as arrays:
        return arrays["in0"].astype(np.float32)[:8]


def refused(folder, *words, model=MODEL, calibrate=CALIBRATION, backend="xnnpack", recipe=None, out=None, code=1, extra=()):
    """Quantizing fails with the exit code; the message has all words and no output is written."""
    out = out or folder / "m.pte"
    arguments = ["quantize", model, "--backend", backend, "--out", out, *extra]
    arguments += ["--recipe", recipe] if recipe else []
    arguments += ["--calibrate", calibrate] if calibrate else []
    done = kit.call(*arguments)
    assert done.returncode == code, f"exit {done.returncode}: {done.stderr}"
    for word in words:
        assert word in done.stderr, f"{word!r} is not in: {done.stderr}"
    assert not out.exists()
    return done.stderr


def test_the_good_case(folder, good):
    np.savez(folder / "good.npz", in0=good)
    kit.quantize(MODEL, folder / "m.pte", folder / "good.npz")
    assert (folder / "m.pte").stat().st_size > 1000


def test_missing_model(folder):
    refused(folder, "absent.pt2", model=folder / "absent.pt2")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.99])
def test_truncated_model(folder, share):
    data = MODEL.read_bytes()
    (folder / "cut.pt2").write_bytes(data[: int(len(data) * share)])
    refused(folder, "cut.pt2", model=folder / "cut.pt2")


@pytest.mark.parametrize("seed", range(8))
def test_damaged_model(folder, seed):
    """Bytes changed at random places: an error, or, where nothing that is read was hit, a file. Never a crash."""
    g = np.random.default_rng(seed)
    data = bytearray(MODEL.read_bytes())
    for _ in range(20):
        data[int(g.integers(len(data)))] = int(g.integers(256))
    (folder / "damaged.pt2").write_bytes(data)
    done = kit.call("quantize", folder / "damaged.pt2", "--backend", "xnnpack", "--calibrate", CALIBRATION, "--out", folder / "m.pte")
    assert done.returncode in (0, 1)
    if done.returncode:
        assert "damaged.pt2" in done.stderr


def test_not_a_model(folder):
    (folder / "text.pt2").write_text("this is no archive\n" * 100)
    refused(folder, "text.pt2", model=folder / "text.pt2")


def test_wrong_shape(folder, good):
    np.savez(folder / "wide.npz", in0=np.zeros((8, 1, 3, 30, 30), np.float32))
    shape = ", ".join(map(str, good.shape[1:]))
    refused(folder, "wide.npz", "in0", "8, 1, 3, 30, 30", shape, calibrate=folder / "wide.npz")


def test_wrong_dtype(folder, good):
    np.savez(folder / "complex.npz", in0=good.astype(np.complex64))
    refused(folder, "complex.npz", "in0", calibrate=folder / "complex.npz")


def test_missing_input_array(folder):
    np.savez(folder / "other.npz", picture=np.zeros((1, 1, 28, 28), np.float32))
    refused(folder, "other.npz", "in0", calibrate=folder / "other.npz")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite(folder, good, value):
    good.reshape(len(good), -1)[5, 100] = value
    np.savez(folder / "odd.npz", in0=good)
    text = refused(folder, "odd.npz", "in0", calibrate=folder / "odd.npz")
    assert "nan" in text.lower() or "inf" in text.lower()


def test_missing_data(folder):
    refused(folder, "absent.npz", calibrate=folder / "absent.npz")


def test_no_calibration_data(folder):
    refused(folder, "recipe int8-static ", "--calibrate", "int8-dynamic-per-channel", calibrate=None, code=2)


def test_empty_calibration_data(folder, good):
    np.savez(folder / "empty.npz", in0=good[:0])
    refused(folder, "empty.npz", calibrate=folder / "empty.npz")


def test_unknown_operator(folder):
    refused(folder, "unknown", "linalg_svd", "decompose", model=kit.REPOSITORY / "tests" / "data" / "unknown_operator" / "model.pt2")


def test_unbounded_size(folder):
    model = kit.CACHE / "unbounded.pt2"
    if not model.exists():
        import torch

        net, example = torch.nn.Linear(4, 4).eval(), (torch.randn(2, 4),)
        shapes = ({0: torch.export.Dim.DYNAMIC},)
        torch.export.save(torch.export.export(net, example, dynamic_shapes=shapes), model)
    refused(folder, "upper bound", "Dim", model=model)  # before any calibration


def test_unknown_backend(folder):
    refused(folder, "toaster", "xnnpack", backend="toaster", code=2)


def test_unknown_recipe(folder):
    refused(folder, "int3", "int8-static-per-channel", "int8-dynamic-per-channel", recipe="int3", code=2)


def test_unknown_command():
    assert kit.call("quantise").returncode == 2


def test_unwritable_output(folder):
    refused(folder, "absent", out=folder / "absent" / "m.pte")


def test_output_is_a_folder(folder):
    (folder / "m.pte").mkdir()
    done = kit.call("quantize", MODEL, "--backend", "xnnpack", "--calibrate", CALIBRATION, "--out", folder / "m.pte")
    assert done.returncode == 1 and "m.pte" in done.stderr


def test_skip_that_matches_nothing(folder):
    refused(folder, "no.such.layer", extra=["--skip", "no.such.layer*"], code=2)
