"""Weights of 4 bits and embeddings of few bits, against torchao's eager arithmetic and in the ExecuTorch runtime."""

import copy
import json

import numpy as np
import pytest

import kit

CALLS, WORDS, WIDTH = 8, 512, 512
GROUPS, CHANNELS = kit.INT4_GROUP, kit.INT4_CHANNEL


def decoder():
    """A Llama of two layers with random weights."""
    import torch
    import transformers as hf

    class Decoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            sizes = dict(vocab_size=WORDS, hidden_size=WIDTH, intermediate_size=1408, num_hidden_layers=2)
            self.net = hf.LlamaForCausalLM(hf.LlamaConfig(**sizes, num_attention_heads=8, num_key_value_heads=4))

        def forward(self, tokens):
            return self.net(input_ids=tokens, use_cache=False).logits

    torch.manual_seed(0)
    return Decoder().eval()


def eight_da_four_w(granularity):
    import torch
    from torchao.quantization import Int8DynamicActivationIntxWeightConfig

    return Int8DynamicActivationIntxWeightConfig(weight_dtype=torch.int4, weight_granularity=granularity)


def embeddings(bits, granularity):
    import torch
    from torchao.quantization import IntxWeightOnlyConfig

    return IntxWeightOnlyConfig(weight_dtype=getattr(torch, f"int{bits}"), granularity=granularity)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The decoder's program, its data, and what torchao makes of it: outputs, and one program."""
    import torch
    from torchao.quantization import quantize_
    from torchao.quantization.granularity import PerAxis, PerGroup
    from torchao.utils import unwrap_tensor_subclass

    folder, net = tmp_path_factory.mktemp("int4"), decoder()
    tokens = torch.randint(0, WORDS, (CALLS, 1, 16))
    np.savez(folder / "data.npz", in0=tokens.numpy())
    torch.export.save(torch.export.export(net, (tokens[0],)), folder / "model.pt2")

    def outputs(net):
        with torch.no_grad():
            return np.stack([net(call).numpy() for call in tokens])

    def quantized(*configs):
        other = copy.deepcopy(net)
        for config, kind in configs:
            quantize_(other, config, lambda module, _: isinstance(module, kind))
        return other

    linear, embedding = torch.nn.Linear, torch.nn.Embedding
    exact = outputs(net)
    by_group = quantized((eight_da_four_w(PerGroup(32)), linear))
    peers = {"group-32": by_group}
    peers["group-128"] = quantized((eight_da_four_w(PerGroup(128)), linear))
    peers["channel"] = quantized((eight_da_four_w(PerAxis(0)), linear))
    for bits, granularity in [(8, PerAxis(0)), (4, PerGroup(32)), (2, PerGroup(32))]:
        peers[f"embedding-{bits}"] = quantized((embeddings(bits, granularity), embedding), (eight_da_four_w(PerGroup(32)), linear))
    found = {name: kit.sqnr(exact, outputs(peer)) for name, peer in peers.items()}
    exported = copy.deepcopy(by_group)
    unwrap_tensor_subclass(exported)
    torch.export.save(torch.export.export(exported, (tokens[0],)), folder / "torchao.pt2")
    return folder, exact, found, outputs(by_group)


CASES = {
    "group-32": (GROUPS, {}),
    "group-128": (GROUPS, {"group-size": 128}),
    "channel": (CHANNELS, {}),
    "embedding-8": (GROUPS, {"embedding": "int8"}),
    "embedding-4": (GROUPS, {"embedding": "int4", "embedding-group-size": 32}),
    "embedding-2": (GROUPS, {"embedding": "int2", "embedding-group-size": 32}),
    "eight bits": (kit.DYNAMIC, {}),
}


def quantize(model, data, out, recipe, options=None):
    extra = [word for name, value in (options or {}).items() for word in ("--option", f"{name}={value}")]
    return kit.quantize(model, out, evaluate=data, recipe=recipe, extra=extra)


@pytest.mark.parametrize("case", CASES)
def test_transformer_is_as_good_as_torchao(case, models, folder, runtime):
    home, exact, peers, _ = models
    recipe, options = CASES[case]
    report = quantize(home / "model.pt2", home / "data.npz", folder / "q.pte", recipe, options)
    assert not any("remark" in node for node in report["nodes"])
    said = report["outputs"][0]["sqnr_db"]
    device = kit.sqnr(exact, runtime.run(folder / "q.pte", home / "data.npz", CALLS)[0])
    size = (folder / "q.pte").stat().st_size
    kit.record("int4", case, torchao_db=peers.get(case), predicted_db=said, device_db=device, bytes=size)
    assert abs(said - device) <= 0.5
    assert case not in peers or max(abs(said - peers[case]), abs(device - peers[case])) <= 0.2
    kernels, _ = kit.operators(folder / "q.pte")
    wanted = {8: "embedding_byte", 4: "embedding_4bit", 2: "embedding_2bit"}.get(case.startswith("embedding") and int(case[-1]))
    assert wanted is None or f"quantized_decomposed.{wanted}.out" in kernels
    assert wanted is None or "aten.embedding.out" not in kernels


def test_weights_take_little_room(models, folder):
    home, _, _, _ = models
    quantize(home / "model.pt2", home / "data.npz", folder / "q.pte", GROUPS)
    import torch

    weights = {name: value for name, value in torch.export.load(home / "model.pt2").state_dict.items()}
    quantized = [value for name, value in weights.items() if value.dim() == 2 and "embed_tokens" not in name]
    count = sum(value.numel() for value in quantized)
    assert count > 6_000_000
    floats = 4 * sum(value.numel() for value in weights.values()) - 4 * count
    each = ((folder / "q.pte").stat().st_size - floats) / count
    kit.record("int4", "bytes a weight", bytes=f"{each:.4f}")
    assert each <= 0.57, f"{each:.4f} bytes a weight"


def test_programs_of_torchao_lower(models, folder, runtime):
    """What `quantize_` made of the model, exported: the same integers, so the same outputs as from the float program."""
    home, exact, peers, theirs = models
    ours = kit.run(home / "torchao.pt2", home / "data.npz", folder / "out.npz")[0]
    # Where a float's last bit decides between two integers, all that reads them differs by a step; elsewhere nothing does.
    rows = [kit.sqnr(x, y) for x, y in zip(theirs.reshape(-1, WORDS), ours.reshape(-1, WORDS))]
    kit.record("int4", "torchao's program on the CPU", median_db=float(np.median(rows)), least_db=min(rows))
    assert np.median(rows) > 100 and min(rows) > 30, "the CPU computes what torchao does"
    kit.lower(home / "torchao.pt2", folder / "torchao.pte")
    quantize(home / "model.pt2", home / "data.npz", folder / "q.pte", GROUPS)
    a, b = (runtime.run(folder / f"{name}.pte", home / "data.npz", CALLS)[0] for name in ("torchao", "q"))
    assert kit.sqnr(a, b) > 60 and abs(kit.sqnr(exact, a) - peers["group-32"]) <= 0.2
    assert (folder / "torchao.pte").stat().st_size < 1.01 * (folder / "q.pte").stat().st_size


@pytest.mark.parametrize("recipe", [GROUPS, CHANNELS, kit.DYNAMIC])
def test_layers_that_do_not_fit_take_eight_bits(recipe, folder, runtime):
    import torch
    from torch import nn

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.wide, self.odd = nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 33, 1), nn.Conv2d(33, 64, 1, bias=False)
            self.first, self.middle, self.last = nn.Linear(64, 33), nn.Linear(33, 96), nn.Linear(96, 7)

        def forward(self, x):
            y = self.odd(self.wide(torch.sigmoid(self.conv(x)))).mean((2, 3))
            return self.last(torch.tanh(self.middle(torch.tanh(self.first(y)))))

    torch.manual_seed(0)
    net, x = Odd().eval(), torch.randn(CALLS, 2, 3, 9, 8)
    torch.export.save(torch.export.export(net, (x[0],)), folder / "odd.pt2")
    np.savez(folder / "odd.npz", in0=x.numpy())
    with torch.no_grad():
        exact = np.stack([net(call).numpy() for call in x])
    report = quantize(folder / "odd.pt2", folder / "odd.npz", folder / "odd.pte", recipe)
    device = kit.sqnr(exact, runtime.run(folder / "odd.pte", folder / "odd.npz", CALLS)[0])
    said = report["outputs"][0]["sqnr_db"]
    kit.record("int4", f"odd.{recipe}", predicted_db=said, device_db=device)
    assert abs(said - device) <= 0.5
    assert all(node["delegate"] is not None for node in report["nodes"]), json.dumps(report["nodes"])
    remarks = {node["module"]: node["remark"] for node in report["nodes"] if "remark" in node}
    assert set(remarks) == (set() if recipe == kit.DYNAMIC else {"conv", "odd", "middle"})
    bits = {site["use"]["node"]: site["quant_max"] for site in report["sites"] if site["use"] and site["use"]["operand"] == 1}
    by_module = {node["module"]: bits[node["name"]] for node in report["nodes"] if node["name"] in bits}
    four = set() if recipe == kit.DYNAMIC else {"wide", "first", "last"}
    assert by_module == {path: 7 if path in four else 127 for path in ("conv", "wide", "odd", "first", "middle", "last")}


def test_shared_parameters_stay_right(folder, runtime):
    """One parameter for the embedding and the last layer: each is quantized for its reader, or neither sees the other's."""
    import torch
    from torch import nn

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.hidden, self.head = nn.Embedding(40, 64), nn.Linear(64, 64), nn.Linear(64, 40, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, tokens):
            return self.head(torch.tanh(self.hidden(self.embedding(tokens))))

    torch.manual_seed(0)
    net, x = Tied().eval(), torch.randint(0, 40, (CALLS, 2, 5))
    torch.export.save(torch.export.export(net, (x[0],)), folder / "tied.pt2")
    np.savez(folder / "tied.npz", in0=x.numpy())
    with torch.no_grad():
        exact = np.stack([net(call).numpy() for call in x])
    least = {"int8": 30, "int4": 15, "int2": 3}
    for recipe in [kit.DYNAMIC, GROUPS]:
        for embedding in ["float", "int8", "int4", "int2"]:
            for mapping in ["symmetric", "asymmetric"]:
                options = {} if embedding == "float" else {"embedding-mapping": mapping, "embedding-group-size": 16}
                report = quantize(folder / "tied.pt2", folder / "tied.npz", folder / "t.pte", recipe, {"embedding": embedding} | options)
                said = report["outputs"][0]["sqnr_db"]
                device = kit.sqnr(exact, runtime.run(folder / "t.pte", folder / "tied.npz", CALLS)[0])
                assert abs(said - device) <= 0.5, (recipe, embedding, mapping, said, device)
                floor = min(least.get(embedding, 30), 15 if recipe == GROUPS else 30)
                assert device >= floor, (recipe, embedding, mapping, device)
