"""The same inputs give the same bytes, whatever the number of threads."""

import json

import pytest

import kit

DEMO = kit.REPOSITORY / "crates" / "cli" / "demo"
NETS = ["demo", "mobilenet_v2", "vit", "lstm", "unet", "bert"]


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("recipe", [kit.DEFAULT, kit.STATIC, kit.PER_TENSOR, kit.DYNAMIC, kit.INT4_GROUP])
def test_quantize_twice(name, recipe, folder):
    net = DEMO if name == "demo" else kit.CACHE / "zoo" / name
    evaluate = net / ("eval.npz" if name == "demo" else "data.npz")
    calibrate = None if recipe in (kit.DYNAMIC, kit.INT4_GROUP) else net / "calib.npz"
    found = []
    for number, threads in enumerate(["1", "1", "2", "3"]):
        pte = folder / str(number) / "m.pte"  # the report names the file
        pte.parent.mkdir()
        report = kit.quantize(net / "model.pt2", pte, calibrate, evaluate, recipe, env={"LOWBIT_THREADS": threads})
        for timing in ("seconds", "peak_rss_bytes"):
            report.pop(timing)
        text = json.dumps(report).replace(str(pte), "m.pte")
        found.append((threads, pte.read_bytes(), text))
    for threads, data, text in found[1:]:
        assert data == found[0][1], f"another .pte with {threads} threads"
        assert text == found[0][2], f"another report with {threads} threads"


@pytest.mark.parametrize("name", NETS[1:])
def test_run_and_lower_twice(name, folder):
    net = kit.CACHE / "zoo" / name
    outputs, files = set(), set()
    for threads in ["1", "2", "3"]:
        env = {"LOWBIT_THREADS": threads}
        kit.lowbit("run", net / "model.pt2", "--data", net / "data.npz", "--out", folder / "out.npz", env=env)
        outputs.add(b"".join(x.tobytes() for x in kit.outputs(folder / "out.npz")))
        kit.lowbit("lower", net / "model.pt2", "--backend", kit.BACKEND, "--out", folder / "m.pte", env=env)
        files.add((folder / "m.pte").read_bytes())
    assert len(outputs) == 1 and len(files) == 1
