"""Recurrent networks and other shapes of network that no package has in small."""

import torch
import torch.nn.functional as F
from torch import nn

from . import architecture, noise, tokens


class Recurrent(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.rnn = kind(16, 24, batch_first=True, **options)
        self.head = nn.Linear(24 * (2 if options.get("bidirectional") else 1), 5)

    def forward(self, x):
        steps, state = self.rnn(x)
        return self.head(steps[:, -1]), steps, state


@architecture(core=True)
def lstm():
    net = Recurrent(nn.LSTM, num_layers=2, bidirectional=True)
    return LstmOutputs(net), noise(1, 10, 16)


class LstmOutputs(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        head, steps, (h, c) = self.net(x)
        return head, steps, h, c


@architecture
def gru():
    return Recurrent(nn.GRU, num_layers=2), noise(1, 10, 16)


@architecture
def rnn_tanh():
    return Recurrent(nn.RNN), noise(1, 10, 16)


class Cells(nn.Module):
    """Streaming: states are inputs and outputs."""

    def __init__(self):
        super().__init__()
        self.lstm, self.gru, self.head = nn.LSTMCell(16, 24), nn.GRUCell(24, 24), nn.Linear(24, 3)

    def forward(self, x, h, c, g):
        h, c = self.lstm(x, (h, c))
        g = self.gru(h, g)
        return torch.sigmoid(self.head(F.relu(g))), h, c, g


@architecture
def cells():
    def inputs(seed):
        g = torch.Generator().manual_seed(seed)
        return tuple(torch.randn(1, n, generator=g) * 0.5 for n in (16, 24, 24, 24))

    return Cells(), inputs


class Translator(nn.Module):
    """A GRU encoder, and a decoder of four greedy steps."""

    def __init__(self):
        super().__init__()
        self.embed, self.encode = nn.Embedding(40, 16), nn.GRU(16, 24, batch_first=True)
        self.step, self.out = nn.GRUCell(16, 24), nn.Linear(24, 40)

    def forward(self, ids):
        _, state = self.encode(self.embed(ids))
        state, word, logits = state[0], ids[:, 0], []
        for _ in range(4):
            state = self.step(self.embed(word), state)
            logits.append(self.out(state))
            word = logits[-1].argmax(-1)
        return torch.stack(logits, 1)


@architecture
def gru_translator():
    return Translator(), tokens(40, 1, 8)


class GatedTcn(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv1d(16, 32, 3, dilation=2**i, padding=2**i) for i in range(4))
        self.norm, self.head = nn.BatchNorm1d(16), nn.Conv1d(16, 8, 1)

    def forward(self, x):
        for layer in self.layers:
            x = x + F.glu(layer(x), 1)
        return self.head(F.elu(self.norm(x))).mean(-1)


@architecture
def tcn_glu():
    return GatedTcn(), noise(1, 16, 40)


@architecture(core=True)
def transformer_encoder():
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, activation="gelu")
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), noise(1, 12, 32)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)

    def forward(self, q, k):
        return self.attention(q, k, k, average_attn_weights=False)


@architecture
def multihead_attention():
    def inputs(seed):
        return noise(1, 6, 32)(seed) + noise(1, 9, 32)(seed + 1000)

    return Attention(), inputs


class Double(nn.Sequential):
    def __init__(self, a, b):
        super().__init__(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(True), nn.Conv2d(b, b, 3, padding=1), nn.ReLU(True))


class Unet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down1, self.down2, self.bottom = Double(3, 16), Double(16, 32), Double(32, 48)
        self.up2, self.up1 = nn.ConvTranspose2d(48, 32, 2, 2), nn.ConvTranspose2d(32, 16, 3, 2, 1, output_padding=1)
        self.merge2, self.merge1, self.head = Double(64, 32), Double(32, 16), nn.Conv2d(16, 2, 1)

    def forward(self, x):
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        c = self.bottom(F.avg_pool2d(b, 2))
        b = self.merge2(torch.cat([self.up2(c), b], 1))
        a = self.merge1(torch.cat([self.up1(b), a], 1))
        return torch.sigmoid(self.head(a))


@architecture
def unet():
    return Unet(), noise(1, 3, 32, 32)


@architecture
def superresolution():
    net = nn.Sequential(
        nn.Conv2d(3, 24, 5, padding=2), nn.PReLU(24), nn.Conv2d(24, 24, 3, padding=1, groups=4), nn.PReLU(),
        nn.Conv2d(24, 12, 3, padding=1), nn.PixelShuffle(2), nn.Hardtanh(-2, 2),
    )
    return net, noise(1, 3, 20, 20)


class DetectorHead(nn.Module):
    """A cascade stage of a face detector: PReLU, ceil-mode pooling, a permute into a flatten, two outputs."""

    def __init__(self):
        super().__init__()
        self.conv1, self.act1 = nn.Conv2d(3, 28, 3), nn.PReLU(28)
        self.conv2, self.act2 = nn.Conv2d(28, 48, 3), nn.PReLU(48)
        self.conv3, self.act3 = nn.Conv2d(48, 64, 2), nn.PReLU(64)
        self.dense, self.act4 = nn.Linear(576, 128), nn.PReLU(128)
        self.score, self.box = nn.Linear(128, 2), nn.Linear(128, 4)

    def forward(self, x):
        x = F.max_pool2d(self.act1(self.conv1(x)), 3, 2, ceil_mode=True)
        x = F.max_pool2d(self.act2(self.conv2(x)), 3, 2, ceil_mode=True)
        x = self.act3(self.conv3(x)).permute(0, 3, 2, 1).contiguous()
        x = self.act4(self.dense(x.view(x.shape[0], -1)))
        return F.softmax(self.score(x), -1), self.box(x)


@architecture(core=True)
def detector_head():
    return DetectorHead(), noise(1, 3, 24, 24)


class Recommender(nn.Module):
    def __init__(self):
        super().__init__()
        self.tables = nn.ModuleList(nn.EmbeddingBag(50, 8, mode="sum") for _ in range(3))
        self.dense, self.top = nn.Linear(6, 8), nn.Sequential(nn.Linear(14, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, numbers, ids):
        parts = [F.relu(self.dense(numbers))] + [t(ids[:, i : i + 1]) for i, t in enumerate(self.tables)]
        z = torch.stack(parts, 1)
        pairs = torch.bmm(z, z.transpose(1, 2))
        upper = torch.triu_indices(4, 4, 1)
        return torch.sigmoid(self.top(torch.cat([parts[0], pairs[:, upper[0], upper[1]]], 1)))


@architecture
def recommender():
    def inputs(seed):
        return noise(1, 6)(seed) + tokens(50, 1, 3)(seed)

    return Recommender(), inputs


class StyleNet(nn.Module):
    """Instance and group norm, reflection padding, resizing."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, stride=2, padding=1)
        self.norm1, self.norm2, self.out = nn.InstanceNorm2d(16, affine=True), nn.GroupNorm(4, 16), nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x):
        x = F.silu(self.norm1(self.a(F.pad(x, (1, 1, 1, 1), mode="reflect"))))
        x = F.leaky_relu(self.norm2(self.b(x)), 0.1)
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return torch.tanh(self.out(F.interpolate(x, scale_factor=2, mode="nearest")))


@architecture
def style_net():
    return StyleNet(), noise(1, 3, 16, 16)


class CharCnn(nn.Module):
    """Text classifier: embedding, parallel conv1d, max over time."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(60, 16, padding_idx=0)
        self.convs, self.head = nn.ModuleList(nn.Conv1d(16, 12, k) for k in (2, 3, 4)), nn.Linear(36, 4)

    def forward(self, ids):
        x = self.embed(ids).transpose(1, 2)
        return F.log_softmax(self.head(torch.cat([F.relu(c(x)).max(-1).values for c in self.convs], 1)), -1)


@architecture
def char_cnn():
    return CharCnn(), tokens(60, 1, 20)


class ConvLstm(nn.Module):
    """A sound model: strided conv1d, one LSTM step a frame, hard activations."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv1d(1, 24, 8, stride=4), nn.BatchNorm1d(24)
        self.rnn, self.head = nn.LSTM(24, 16, batch_first=True), nn.Linear(16, 1)

    def forward(self, x):
        x = F.hardswish(self.norm(self.conv(x.abs() + x)))
        y, _ = self.rnn(x.transpose(1, 2))
        return F.hardsigmoid(self.head(y)).squeeze(-1)


@architecture
def conv_lstm():
    return ConvLstm(), noise(1, 1, 64)


class Sampler(nn.Module):
    """Spatial transformer: an affine grid made by the network, and sampling."""

    def __init__(self):
        super().__init__()
        self.look, self.theta = nn.Conv2d(1, 8, 5, stride=2), nn.Linear(8, 6)

    def forward(self, x):
        theta = torch.tanh(self.theta(F.relu(self.look(x)).mean((2, 3)))).view(-1, 2, 3)
        return F.grid_sample(x, F.affine_grid(theta, x.shape, align_corners=False), align_corners=False)


@architecture
def spatial_transformer():
    return Sampler(), noise(1, 1, 16, 16)


class Codec(nn.Module):
    """A sound codec: causal strided convolutions down, transposed ones up."""

    def __init__(self):
        super().__init__()
        self.down = nn.ModuleList([nn.Conv1d(1, 8, 7), nn.Conv1d(8, 16, 4, stride=2), nn.Conv1d(16, 16, 4, stride=4)])
        self.up = nn.ModuleList([nn.ConvTranspose1d(16, 16, 4, stride=4), nn.ConvTranspose1d(16, 8, 4, stride=2, padding=1)])
        self.out = nn.Conv1d(8, 1, 7, padding="same", dilation=2)

    def forward(self, x):
        for layer in self.down:
            x = F.elu(layer(F.pad(x, (layer.kernel_size[0] - layer.stride[0], 0))))
        for layer in self.up:
            x = F.leaky_relu_(layer(x), 0.2)
        return torch.tanh(self.out(x))


@architecture
def sound_codec():
    return Codec(), noise(1, 1, 64)


class Patches(nn.Module):
    """Squeeze by extremes and sums, unfold, resize with bicubic weights."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding="same")
        self.gate = nn.Linear(24, 12)
        self.mix = nn.Conv2d(12, 6, 1)

    def forward(self, x):
        x = F.gelu(self.stem(F.interpolate(x, size=(18, 18), mode="bicubic", antialias=False)))
        squeezed = torch.cat([x.amax((2, 3)), x.sum((2, 3)) / 324], 1)
        x = self.mix(x * torch.sigmoid(self.gate(squeezed))[:, :, None, None])
        windows = x.unfold(2, 6, 4).unfold(3, 6, 4)
        folded = F.fold(F.unfold(x, 3, padding=1), (18, 18), 3, padding=1)
        return windows.mean((-1, -2)), folded


@architecture
def patches():
    return Patches(), noise(1, 3, 14, 14)
