"""Modules that people write themselves."""

import math

import torch
import torch.nn.functional as F
from torch import nn
from registry import MODELS, ids, model


def normal(*shape):
    return lambda: torch.randn(*shape)


def whole(n, *shape):
    return lambda: torch.randint(0, n, shape)


def seq(name, net, *x):
    def f():
        return net(), tuple(v() for v in x)

    f.__name__ = name
    MODELS[name] = f


class Fn(nn.Module):
    """A module around a function of its parts."""

    def __init__(self, f, **parts):
        super().__init__()
        self.f = f
        for k, v in parts.items():
            if isinstance(v, torch.Tensor) and not isinstance(v, nn.Parameter):
                self.register_buffer(k, v)
            else:
                setattr(self, k, v)

    def forward(self, x):
        return self.f(self, x)


class Fn2(Fn):
    def forward(self, a, b):
        return self.f(self, a, b)


def fn(name, f, parts, *x):
    def g():
        return (Fn if len(x) == 1 else Fn2)(f, **parts()), tuple(v() for v in x)

    g.__name__ = name
    MODELS[name] = g


@model
def mlp_mixer():
    class Block(nn.Module):
        def __init__(self, t, c):
            super().__init__()
            self.a, self.b = nn.LayerNorm(c), nn.LayerNorm(c)
            self.tokens = nn.Sequential(nn.Linear(t, 2 * t), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * t, t))
            self.channels = nn.Sequential(nn.Linear(c, 2 * c), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * c, c))

        def forward(self, x):
            x = x + self.tokens(self.a(x).permute(0, 2, 1)).permute(0, 2, 1)
            return x + self.channels(self.b(x))

    class Mixer(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.blocks, self.norm, self.head = nn.Conv2d(3, 24, 8, 8), nn.Sequential(Block(16, 24), Block(16, 24)), nn.LayerNorm(24), nn.Linear(24, 10)

        def forward(self, x):
            return self.head(self.norm(self.blocks(self.stem(x).flatten(2).transpose(1, 2))).mean(1))

    return Mixer(), (torch.randn(2, 3, 32, 32),)


@model
def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 10)), (torch.randn(4, 1, 8, 8),)


@model
def mlp_fixed():
    return *mlp(), "fixed"


@model
def cnn():
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.LeakyReLU(0.1),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)), (torch.randn(4, 1, 8, 8),)


@model
def autoencoder():
    return nn.Sequential(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ELU(), nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.SiLU(),
                         nn.ConvTranspose2d(16, 8, 2, stride=2), nn.Softplus(), nn.ConvTranspose2d(8, 1, 3, stride=2, padding=1, output_padding=1), nn.Sigmoid()), (torch.randn(2, 1, 16, 16),)


@model
def unet():
    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            def block(i, o):
                return nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.GroupNorm(4, o), nn.SiLU())
            self.a, self.b, self.c = block(3, 8), block(8, 16), block(16, 8)
            self.up, self.head, self.pool = nn.ConvTranspose2d(16, 8, 2, 2), nn.Conv2d(8, 2, 1), nn.AvgPool2d(2)

        def forward(self, x):
            a = self.a(x)
            b = self.up(self.b(self.pool(a)))
            return self.head(self.c(torch.cat([a, b], 1)))

    return UNet(), (torch.randn(2, 3, 16, 16),)


@model
def lstm_unrolled():
    class Cell(nn.Module):
        def __init__(self):
            super().__init__()
            self.x, self.h, self.head = nn.Linear(6, 32), nn.Linear(8, 32, bias=False), nn.Linear(8, 3)

        def forward(self, x):
            h = torch.zeros(x.shape[0], 8)
            c = torch.zeros(x.shape[0], 8)
            for t in range(x.shape[1]):
                i, f, g, o = (self.x(x[:, t]) + self.h(h)).chunk(4, 1)
                c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
                h = torch.sigmoid(o) * torch.tanh(c)
            return self.head(h)

    return Cell(), (torch.randn(3, 5, 6),)


@model
def siamese():
    class Siamese(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 8))
            self.head = nn.Linear(8, 1)

        def forward(self, a, b):
            return self.head(torch.abs(self.body(a) - self.body(b)))

    return Siamese(), (torch.randn(3, 10), torch.randn(3, 10))


@model
def vae():
    class VAE(nn.Module):
        def __init__(self):
            super().__init__()
            self.enc, self.mu, self.lv, self.dec = nn.Linear(20, 16), nn.Linear(16, 4), nn.Linear(16, 4), nn.Linear(4, 20)

        def forward(self, x, eps):
            h = torch.relu(self.enc(x))
            return torch.sigmoid(self.dec(self.mu(h) + torch.exp(0.5 * self.lv(h)) * eps))

    return VAE(), (torch.randn(3, 20), torch.randn(3, 4))


@model
def resmlp():
    class Block(nn.Module):
        def __init__(self, t, c):
            super().__init__()
            self.alpha, self.beta = nn.Parameter(torch.randn(c)), nn.Parameter(torch.randn(1, 1, c))
            self.mix, self.fc, self.norm = nn.Linear(t, t), nn.Linear(c, c), nn.LayerNorm(c)

        def forward(self, x):
            x = x + self.alpha * self.mix(self.norm(x).transpose(1, 2)).transpose(1, 2)
            return x + self.beta * nn.functional.gelu(self.fc(x))

    return nn.Sequential(Block(9, 12), Block(9, 12), nn.Flatten(), nn.Linear(108, 5)), (torch.randn(2, 9, 12),)


@model
def conv1d_audio():
    return nn.Sequential(nn.Conv1d(1, 8, 9, stride=4), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(4), nn.Conv1d(8, 16, 3, dilation=2, groups=2), nn.Hardswish(),
                         nn.AdaptiveAvgPool1d(4), nn.Flatten(), nn.Linear(64, 5)), (torch.randn(2, 1, 256),)


@model
def encoder():
    layer = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True)

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.enc, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(16, 3)

        def forward(self, x):
            return self.head(self.enc(x).mean(1))

    return Encoder(), (torch.randn(2, 7, 16),)


@model
def encoder_seq_first():
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.enc, self.head = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, 0.0), 1), nn.Linear(16, 3)

        def forward(self, x):
            return self.head(self.enc(x.transpose(0, 1)).transpose(0, 1).mean(1))

    return Encoder(), (torch.randn(3, 7, 16),), "fixed"


@model
def two_heads():
    class Mix(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.gate, self.a, self.b = nn.Linear(8, 16), nn.Linear(8, 2), nn.Linear(16, 4), nn.Linear(16, 4)

        def forward(self, x):
            h = nn.functional.softplus(self.body(x))
            g = torch.softmax(self.gate(x), -1)
            return (g.unsqueeze(-1) * torch.stack([self.a(h), self.b(h)], 1)).sum(1)

    return Mix(), (torch.randn(3, 8),)


@model
def einsum_mix():
    class Mix(nn.Module):
        def __init__(self):
            super().__init__()
            self.qk, self.v, self.o = nn.Parameter(torch.randn(2, 8, 2, 4) / 3), nn.Linear(8, 8), nn.Parameter(torch.randn(2, 4, 8) / 3)

        def forward(self, x):
            q = torch.einsum("btc,chd->bthd", x, self.qk[0])
            k = torch.einsum("btc,chd->bhtd", x, self.qk[1])
            a = torch.softmax(torch.einsum("bthd,bhsd->bhts", q, k) / 2, -1)
            v = self.v(x).view(x.shape[0], -1, 2, 4)
            y = torch.einsum("bhts,bshd,hdc->btc", a, v, self.o)
            return y + torch.einsum("bij,bkj->bi", x, x).unsqueeze(-1)

    return Mix(), (torch.randn(3, 5, 8),)


@model
def upsampler():
    class Up(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 2, 1)
            self.pool = nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False)

        def forward(self, x):
            f = nn.functional
            y = f.interpolate(self.pool(self.a(x)), scale_factor=2, mode="bilinear")
            y = f.interpolate(self.b(y), scale_factor=2, mode="nearest")
            z = f.interpolate(y, size=(7, 5), mode="bilinear", align_corners=True) + f.interpolate(y, size=(7, 5), mode="nearest-exact")
            return self.c(f.interpolate(z, size=(9, 6), mode="bicubic") + f.interpolate(y, size=(9, 6), mode="nearest"))

    return Up(), (torch.randn(2, 2, 7, 6),)


@model
def padding_modes():
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"), nn.Tanh(), nn.Conv2d(4, 4, 5, padding=2, padding_mode="replicate"), nn.Tanh(),
                         nn.Conv2d(4, 3, 3, padding=(1, 0), padding_mode="circular"), nn.ReflectionPad2d((2, 1, 0, 3)), nn.Conv2d(3, 1, 2)), (torch.randn(2, 2, 6, 5),)


@model
def lstm_both_ways():
    class LSTM(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = nn.LSTM(6, 5, 2, batch_first=True, bidirectional=True), nn.Linear(10, 3)

        def forward(self, x):
            y, (h, c) = self.lstm(x)
            return self.head(y.mean(1)) + self.head(torch.cat([h[-1], c[-2]], 1))

    return LSTM(), (torch.randn(3, 4, 6),)


@model
def gru_rnn():
    class GRU(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru, self.rnn, self.head = nn.GRU(6, 5), nn.RNN(5, 4, bias=False), nn.Linear(4, 3)

        def forward(self, x):
            y, h = self.gru(x.transpose(0, 1))
            y, _ = self.rnn(y, h[..., :4])
            return self.head(y[-1])

    return GRU(), (torch.randn(3, 4, 6),)


@model
def detached():
    class Stop(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 4), nn.Linear(8, 4)

        def forward(self, x):
            h = torch.tanh(self.a(x))
            return self.b(h.detach()) + self.c(h) * torch.sigmoid(self.b.bias.detach())

    return Stop(), (torch.randn(3, 6),)


@model
def tied_decoder():
    class Decoder(nn.Module):
        """A block that is used twice, and a head that is the embedding."""

        def __init__(self):
            super().__init__()
            self.wte, self.norm, self.block = nn.Embedding(11, 8), nn.LayerNorm(8), nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
            self.mix, self.head = nn.Linear(5, 5), nn.Linear(8, 11, bias=False)
            self.head.weight = self.wte.weight

        def forward(self, x):
            h = self.wte(x)
            for _ in range(2):
                h = h + self.block(self.norm(h))
                h = self.mix(h.transpose(1, 2)).transpose(1, 2)
            return self.head(h)

    return Decoder(), (ids(11, 3, 5),)


@model
def written_part():
    class Part(nn.Module):
        """A bias of which a copy's part is set to numbers, and vectors of length 1, of which one is zeros: as in Swin v2."""

        def __init__(self):
            super().__init__()
            self.a, self.head, self.scale = nn.Linear(6, 9), nn.Linear(9, 3), nn.Parameter(torch.rand(6) + 0.5)

        def forward(self, x):
            x = nn.functional.normalize(self.scale * x, dim=-1)
            b = self.a.bias.clone()
            b[3:6].zero_()
            h = nn.functional.linear(x, self.a.weight, b)
            c = self.head.bias.clone()
            c[1].fill_(0.5)
            return nn.functional.linear(torch.tanh(h), self.head.weight, c)

    return Part(), (torch.randn(3, 6) * torch.tensor([[1.0], [0.0], [1.0]]),)


@model
def argmax_pool():
    class Pool(nn.Module):
        """Vectors at positions that the tokens tell: of the greatest token, of the first 4, and of the last before the padding."""

        def __init__(self):
            super().__init__()
            self.words, self.mix, self.head = nn.Embedding(11, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x):
            h, n = torch.tanh(self.mix(self.words(x))), torch.arange(x.shape[0])
            greatest = h[n, x.to(torch.int).argmax(dim=-1)]
            four = h[n, (x == 4).int().argmax(dim=-1)]
            at = (torch.arange(x.shape[1]) * (x != 0).int()).argmax(-1, keepdim=True)
            return self.head(greatest + 2 * four) * h[n, at[:, 0]][:, :3] + at * 0.1

    return Pool(), (torch.tensor([[3, 9, 4, 9, 4, 0], [1, 2, 2, 10, 0, 0], [4, 5, 6, 7, 8, 9]]),)


@model
def masked_pair():
    class Pair(nn.Module):
        """Three inputs, of which later layers read the mask, and two outputs."""

        def __init__(self):
            super().__init__()
            self.words, self.types = nn.Embedding(13, 8), nn.Embedding(13, 8)
            self.a = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
            self.b = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
            self.words_head, self.mid, self.order = nn.Linear(8, 13), nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, input_ids, attention_mask, token_type_ids):
            x = self.words(input_ids) + self.types(token_type_ids)
            pad = -9.0 * (attention_mask == 0).float()  # a row of padding alone stays finite
            x = self.a(x, src_key_padding_mask=pad)
            words = self.words_head(x)
            x = torch.tanh(self.mid(self.b(x, src_key_padding_mask=pad)))
            m = attention_mask.unsqueeze(-1).float()
            return self.order((x * m).sum(1) / (m.sum(1) + 1)), words

    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0]])
    return Pair(), (ids(13, 3, 6) * mask, mask, torch.tensor([[0, 0, 0, 1, 1, 1]] * 3))


class GatedMLP(nn.Module):
    def __init__(self, t, c):
        super().__init__()
        self.norm, self.a, self.gate, self.mix, self.b = nn.LayerNorm(c), nn.Linear(c, 4 * c), nn.LayerNorm(2 * c), nn.Conv1d(t, t, 1), nn.Linear(2 * c, c)
        nn.init.constant_(self.mix.bias, 1.0)

    def forward(self, x):
        u, v = F.gelu(self.a(self.norm(x))).chunk(2, dim=-1)
        return x + self.b(u * self.mix(self.gate(v)))


fn("gmlp", lambda m, x: m.head(m.block(x).mean(1)), lambda: dict(head=nn.Linear(12, 5), block=GatedMLP(9, 12)), normal(2, 9, 12))


class Double(nn.Sequential):
    def __init__(self, i, o):
        super().__init__(nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU(inplace=True), nn.Conv2d(o, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU(inplace=True))


@model
def padded_text():
    class Padded(nn.Module):
        """Attention whose mask of padding is picked by the numbers of samples and positions, as Hugging Face's models make it."""

        def __init__(self):
            super().__init__()
            self.words, self.q, self.k, self.v, self.head = nn.Embedding(13, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, input_ids, attention_mask):
            n, t = input_ids.shape
            sample = torch.arange(n)[:, None, None, None]
            seen = attention_mask.bool()[sample, torch.arange(t)[None, None, None, :]].expand(n, 1, t, t)
            x = self.words(input_ids) * (1 + attention_mask.unsqueeze(-1))
            q, k, v = [f(x).view(n, t, 2, 4).transpose(1, 2) for f in (self.q, self.k, self.v)]
            y = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
            y = y[torch.arange(n)[:, None], torch.arange(2)[None, :], t - 2]
            return self.head(y.reshape(n, 8))

    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
    return Padded(), (ids(13, 3, 5) * mask, mask)


@model
def unet_bilinear():
    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.inc, self.d1, self.d2 = Double(3, 8), Double(8, 16), Double(16, 16)
            self.u1, self.u2, self.out = Double(32, 8), Double(16, 8), nn.Conv2d(8, 2, 1)
            self.up, self.pool = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), nn.MaxPool2d(2)

        def join(self, a, b):
            a = self.up(a)
            dy, dx = b.size(2) - a.size(2), b.size(3) - a.size(3)
            return torch.cat([b, F.pad(a, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])], dim=1)

        def forward(self, x):
            a = self.inc(x)
            b = self.d1(self.pool(a))
            c = self.d2(self.pool(b))
            return self.out(self.u2(self.join(self.u1(self.join(c, b)), a)))

    return UNet(), (torch.randn(2, 3, 18, 22),)


@model
def attention_unet():
    class Gate(nn.Module):
        def __init__(self, g, x, i):
            super().__init__()
            self.g, self.x, self.p = nn.Sequential(nn.Conv2d(g, i, 1), nn.BatchNorm2d(i)), nn.Sequential(nn.Conv2d(x, i, 1), nn.BatchNorm2d(i)), nn.Sequential(nn.Conv2d(i, 1, 1), nn.BatchNorm2d(1), nn.Sigmoid())

        def forward(self, g, x):
            return x * self.p(F.relu(self.g(g) + self.x(x)))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.up, self.gate, self.c, self.o = Double(3, 8), Double(8, 16), nn.ConvTranspose2d(16, 8, 2, 2), Gate(8, 8, 4), Double(16, 8), nn.Conv2d(8, 1, 1)

        def forward(self, x):
            a = self.a(x)
            u = self.up(self.b(F.max_pool2d(a, 2)))
            return self.o(self.c(torch.cat((self.gate(u, a), u), 1)))

    return Net(), (torch.randn(2, 3, 16, 16),)


seq("conv_transpose1d", lambda: nn.Sequential(nn.Conv1d(2, 8, 4, 2, 1), nn.LeakyReLU(0.2), nn.ConvTranspose1d(8, 4, 4, 2, 1), nn.Tanh(), nn.ConvTranspose1d(4, 2, 3, 2, 1, output_padding=1, groups=2, bias=False), nn.Tanh(), nn.ConvTranspose1d(2, 2, 3, dilation=2)), normal(2, 2, 16))
seq("conv_transpose_groups", lambda: nn.Sequential(nn.ConvTranspose2d(4, 8, 3, 2, 1, 1, groups=2), nn.ReLU(), nn.ConvTranspose2d(8, 2, 3, dilation=2, padding=2)), normal(2, 4, 5, 6))
seq("espcn", lambda: nn.Sequential(nn.Conv2d(1, 16, 5, padding=2), nn.Tanh(), nn.Conv2d(16, 9, 3, padding=1), nn.PixelShuffle(3)), normal(2, 1, 7, 6))
seq("pixel_unshuffle", lambda: nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 8, 3, padding=1), nn.PReLU(8), nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2)), normal(2, 3, 8, 6))
seq("glu_conv", lambda: nn.Sequential(nn.Conv1d(4, 16, 3, padding=1), nn.GLU(dim=1), nn.Conv1d(8, 8, 3, padding=1), nn.GLU(1), nn.Flatten(), nn.Linear(40, 3)), normal(2, 4, 10))


@model
def wavenet():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.start = nn.Conv1d(1, 8, 1)
            self.f = nn.ModuleList(nn.Conv1d(8, 8, 2, dilation=2**i) for i in range(3))
            self.g = nn.ModuleList(nn.Conv1d(8, 8, 2, dilation=2**i) for i in range(3))
            self.r = nn.ModuleList(nn.Conv1d(8, 8, 1) for _ in range(3))
            self.s = nn.ModuleList(nn.Conv1d(8, 8, 1) for _ in range(3))
            self.end = nn.Sequential(nn.ReLU(), nn.Conv1d(8, 16, 1))

        def forward(self, x):
            x, skip = self.start(x), 0
            for i in range(3):
                p = F.pad(x, (2**i, 0))
                z = torch.tanh(self.f[i](p)) * torch.sigmoid(self.g[i](p))
                skip = skip + self.s[i](z)
                x = x + self.r[i](z)
            return self.end(skip)

    return Net(), (torch.randn(2, 1, 32),)


class SE(nn.Module):
    def __init__(self, c, r=4):
        super().__init__()
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Sequential(nn.Linear(c, c // r, bias=False), nn.ReLU(inplace=True), nn.Linear(c // r, c, bias=False), nn.Sigmoid())

    def forward(self, x):
        b, c, _, _ = x.size()
        y = self.fc(self.pool(x).view(b, c)).view(b, c, 1, 1)
        return x * y.expand_as(x)


seq("se_net", lambda: nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), SE(16), nn.ReLU(), nn.Conv2d(16, 8, 3), SE(8), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, 4)), normal(2, 3, 8, 8))


@model
def cbam():
    class CBAM(nn.Module):
        def __init__(self, c):
            super().__init__()
            self.mlp, self.sp = nn.Sequential(nn.Conv2d(c, c // 4, 1, bias=False), nn.ReLU(), nn.Conv2d(c // 4, c, 1, bias=False)), nn.Conv2d(2, 1, 7, padding=3, bias=False)

        def forward(self, x):
            x = x * torch.sigmoid(self.mlp(F.adaptive_avg_pool2d(x, 1)) + self.mlp(F.adaptive_max_pool2d(x, 1)))
            mx, _ = torch.max(x, dim=1, keepdim=True)
            return x * torch.sigmoid(self.sp(torch.cat([torch.mean(x, dim=1, keepdim=True), mx], 1)))

    return nn.Sequential(nn.Conv2d(3, 8, 3), CBAM(8), nn.Flatten(), nn.Linear(8 * 36, 3)), (torch.randn(2, 3, 8, 8),)


@model
def tied_autoencoder():
    class AE(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.b, self.c = nn.Parameter(torch.randn(8, 20) / 4), nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(20))

        def forward(self, x):
            h = torch.sigmoid(F.linear(x, self.w, self.b))
            return F.linear(h, self.w.t(), self.c)

    return AE(), (torch.randn(3, 20),)


@model
def tied_conv_autoencoder():
    class AE(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 6, 3, stride=2, padding=1)

        def forward(self, x):
            h = F.relu(self.conv(x))
            return F.conv_transpose2d(h, self.conv.weight, stride=2, padding=1, output_padding=1)

    return AE(), (torch.randn(2, 1, 8, 8),)


@model
def siamese_cosine():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.scale = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 8)), nn.Parameter(torch.tensor(2.0))

        def forward(self, a, b):
            a, b = self.body(a), self.body(b)
            return torch.stack([F.cosine_similarity(a, b) * self.scale.exp(), F.pairwise_distance(a, b), (F.normalize(a, dim=1) * F.normalize(b, p=2, dim=1)).sum(1)], 1)

    return Net(), (torch.randn(2, 1, 8, 8), torch.randn(2, 1, 8, 8))


@model
def seq2seq_transformer():
    class PositionalEncoding(nn.Module):
        def __init__(self, d, n=50):
            super().__init__()
            pos = torch.arange(n).unsqueeze(1)
            div = torch.exp(torch.arange(0, d, 2) * (-math.log(10000.0) / d))
            pe = torch.zeros(n, 1, d)
            pe[:, 0, 0::2] = torch.sin(pos * div)
            pe[:, 0, 1::2] = torch.cos(pos * div)
            self.register_buffer("pe", pe)
            self.dropout = nn.Dropout(0.1)

        def forward(self, x):
            return self.dropout(x + self.pe[: x.size(0)])

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.src, self.tgt, self.pos = nn.Embedding(20, 16), nn.Embedding(20, 16), PositionalEncoding(16)
            self.net, self.out = nn.Transformer(16, 2, 1, 1, 32, 0.0, batch_first=True), nn.Linear(16, 20)

        def forward(self, a, b):
            p = lambda x: self.pos(x.transpose(0, 1)).transpose(0, 1)
            mask = nn.Transformer.generate_square_subsequent_mask(b.size(1))
            return self.out(self.net(p(self.src(a) * math.sqrt(16)), p(self.tgt(b) * math.sqrt(16)), tgt_mask=mask, tgt_is_causal=True))

    return Net(), (torch.randint(0, 20, (2, 7)), torch.randint(0, 20, (2, 5)))


@model
def decoder_layers():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.dec, self.mem, self.out = nn.TransformerDecoder(nn.TransformerDecoderLayer(16, 4, 32, 0.0, activation="gelu", batch_first=True, norm_first=True), 2, nn.LayerNorm(16)), nn.Parameter(torch.randn(1, 6, 16)), nn.Linear(16, 4)

        def forward(self, x):
            t = x.size(1)
            mask = torch.triu(torch.ones(t, t, dtype=torch.bool), diagonal=1)
            return self.out(self.dec(x, self.mem.expand(x.size(0), -1, -1), tgt_mask=mask))

    return Net(), (torch.randn(2, 5, 16),)


@model
def nano_gpt():
    class Attn(nn.Module):
        def __init__(self, c, h, t):
            super().__init__()
            self.qkv, self.proj, self.h = nn.Linear(c, 3 * c, bias=False), nn.Linear(c, c, bias=False), h
            self.register_buffer("mask", torch.tril(torch.ones(t, t)).view(1, 1, t, t))
            self.drop = nn.Dropout(0.1)

        def forward(self, x):
            B, T, C = x.size()
            q, k, v = self.qkv(x).split(C, dim=2)
            q, k, v = (y.view(B, T, self.h, C // self.h).transpose(1, 2) for y in (q, k, v))
            a = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
            a = a.masked_fill(self.mask[:, :, :T, :T] == 0, float("-inf"))
            y = self.drop(F.softmax(a, dim=-1)) @ v
            return self.proj(y.transpose(1, 2).contiguous().view(B, T, C))

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.n, self.m, self.mlp = nn.LayerNorm(16), nn.LayerNorm(16), Attn(16, 2, 12), nn.Sequential(nn.Linear(16, 64), nn.GELU(approximate="tanh"), nn.Linear(64, 16))

        def forward(self, x):
            x = x + self.m(self.a(x))
            return x + self.mlp(self.n(x))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.wte, self.wpe, self.h, self.ln, self.head = nn.Embedding(30, 16), nn.Embedding(12, 16), nn.ModuleList([Block(), Block()]), nn.LayerNorm(16), nn.Linear(16, 30, bias=False)
            self.wte.weight = self.head.weight

        def forward(self, idx):
            x = self.wte(idx) + self.wpe(torch.arange(0, idx.size(1), dtype=torch.long, device=idx.device))
            for b in self.h:
                x = b(x)
            return self.head(self.ln(x))

    return Net(), (torch.randint(0, 30, (2, 8)),)


fn("where_masks", lambda m, x, t: m.o(torch.where(t.unsqueeze(-1) > 3, m.a(x), m.b(x)).masked_fill((t == 0).unsqueeze(-1), 0.0).sum(1) / (t != 0).sum(1, keepdim=True).clamp(min=1)),
   lambda: dict(a=nn.Linear(4, 8), b=nn.Linear(4, 8), o=nn.Linear(8, 3)), normal(2, 5, 4), lambda: torch.tensor([[1, 4, 5, 0, 0], [9, 2, 3, 4, 0]]))
fn("einsum_more", lambda m, x: torch.einsum("...i,oi->...o", x, m.w) + torch.einsum("bti,bsi,os->bto", x, x, m.v) + torch.einsum("btc,c->bt", x, m.u).unsqueeze(-1) + torch.einsum("b t c, t c d -> b d", x, m.z)[:, None],
   lambda: dict(w=nn.Parameter(torch.randn(6, 4)), v=nn.Parameter(torch.randn(6, 5)), u=nn.Parameter(torch.randn(4)), z=nn.Parameter(torch.randn(5, 4, 6))), normal(2, 5, 4))
fn("einsum_outer", lambda m, x, y: m.o(torch.einsum("bi,bj->bij", m.a(x), m.b(y)).flatten(1)) + torch.einsum("bi,ij,bj->b", x, m.w, y)[:, None], lambda: dict(a=nn.Linear(4, 3), b=nn.Linear(5, 3), o=nn.Linear(9, 2), w=nn.Parameter(torch.randn(4, 5))), normal(2, 4), normal(2, 5))


@model
def spectrogram_cnn():
    class Net(nn.Module):
        """A short-time Fourier transform as a convolution with fixed filters, then a CNN."""

        def __init__(self):
            super().__init__()
            n = 16
            k = torch.arange(n // 2 + 1)[:, None] * torch.arange(n)[None] * (2 * math.pi / n)
            w = torch.hann_window(n)
            self.register_buffer("real", (torch.cos(k) * w).unsqueeze(1))
            self.register_buffer("imag", (torch.sin(k) * w).unsqueeze(1))
            self.register_buffer("mel", torch.rand(9, 6))
            self.net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Linear(8, 5))

        def forward(self, x):
            x = x.unsqueeze(1)
            p = F.conv1d(x, self.real, stride=8) ** 2 + F.conv1d(x, self.imag, stride=8) ** 2
            m = torch.matmul(p.transpose(1, 2), self.mel)
            return self.net(torch.log(m + 1e-6).transpose(1, 2).unsqueeze(1))

    return Net(), (torch.randn(2, 160),)


@model
def weight_norm_tcn():
    class Block(nn.Module):
        def __init__(self, i, o, d):
            super().__init__()
            wn = nn.utils.parametrizations.weight_norm
            self.a, self.b, self.d, self.down = wn(nn.Conv1d(i, o, 3, padding=2 * d, dilation=d)), wn(nn.Conv1d(o, o, 3, padding=2 * d, dilation=d)), 2 * d, nn.Conv1d(i, o, 1) if i != o else None

        def forward(self, x):
            y = F.relu(self.a(x)[:, :, : -self.d].contiguous())
            y = F.relu(self.b(y)[:, :, : -self.d].contiguous())
            return F.relu(y + (x if self.down is None else self.down(x)))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.fc = nn.Sequential(Block(3, 8, 1), Block(8, 8, 2)), nn.Linear(8, 4)

        def forward(self, x):
            return self.fc(self.net(x)[:, :, -1])

    return Net(), (torch.randn(2, 3, 12),)


fn("weight_norm_linear", lambda m, x: m.b(torch.tanh(m.a(x))), lambda: dict(a=nn.utils.parametrizations.weight_norm(nn.Linear(5, 8)), b=nn.utils.parametrizations.weight_norm(nn.Linear(8, 3), dim=None)), normal(3, 5))


@model
def weight_standard():
    class WSConv(nn.Conv2d):
        def forward(self, x):
            w = self.weight
            w = (w - w.mean(dim=[1, 2, 3], keepdim=True)) / (w.std(dim=[1, 2, 3], keepdim=True) + 1e-5)
            return F.conv2d(x, w, self.bias, self.stride, self.padding, self.dilation, self.groups)

    return nn.Sequential(WSConv(3, 8, 3, stride=2, padding=1), nn.GroupNorm(2, 8), nn.ReLU(), WSConv(8, 8, 3, groups=4), nn.Flatten(), nn.Linear(32, 3)), (torch.randn(2, 3, 8, 8),)


class Residual(nn.Module):
    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, x):
        return self.f(x) + x


seq("convmixer", lambda: nn.Sequential(nn.Conv2d(3, 16, 4, 4), nn.GELU(), nn.BatchNorm2d(16), *[nn.Sequential(Residual(nn.Sequential(nn.Conv2d(16, 16, 5, groups=16, padding="same"), nn.GELU(), nn.BatchNorm2d(16))), nn.Conv2d(16, 16, 1), nn.GELU(), nn.BatchNorm2d(16)) for _ in range(2)], nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Linear(16, 10)), normal(2, 3, 32, 32))


@model
def vit_by_hand():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch, self.cls, self.pos = nn.Linear(48, 32), nn.Parameter(torch.randn(1, 1, 32)), nn.Parameter(torch.randn(1, 17, 32))
            self.enc, self.head = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, 0.0, "gelu", batch_first=True, norm_first=True), 2, enable_nested_tensor=False), nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 10))

        def forward(self, x):
            b, c, h, w = x.shape
            x = x.reshape(b, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(b, -1, 48)
            x = torch.cat([self.cls.repeat(b, 1, 1), self.patch(x)], dim=1) + self.pos
            return self.head(self.enc(x)[:, 0])

    return Net(), (torch.randn(2, 3, 16, 16),)


@model
def deepfm():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embs, self.first = nn.ModuleList(nn.Embedding(n, 6) for n in (5, 7, 9)), nn.ModuleList(nn.Embedding(n, 1) for n in (5, 7, 9))
            self.deep, self.num = nn.Sequential(nn.Linear(18 + 4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 1)), nn.Linear(4, 1)

        def forward(self, cats, nums):
            e = torch.stack([m(cats[:, i]) for i, m in enumerate(self.embs)], 1)
            fm = 0.5 * (e.sum(1).pow(2) - e.pow(2).sum(1)).sum(1, keepdim=True)
            first = sum(m(cats[:, i]) for i, m in enumerate(self.first)) + self.num(nums)
            return torch.sigmoid(fm + first + self.deep(torch.cat([e.flatten(1), nums], 1))).squeeze(1)

    return Net(), (torch.randint(0, 5, (4, 3)), torch.randn(4, 4))


@model
def cross_network():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.b, self.o = nn.ParameterList(nn.Parameter(torch.randn(6, 1)) for _ in range(2)), nn.ParameterList(nn.Parameter(torch.randn(6)) for _ in range(2)), nn.Linear(6, 1)

        def forward(self, x):
            y = x
            for w, b in zip(self.w, self.b):
                y = x * torch.matmul(y, w) + b + y
            return self.o(y)

    return Net(), (torch.randn(3, 6),)


@model
def two_towers():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.user, self.item, self.ub, self.ib, self.bias = nn.Embedding(9, 8), nn.Embedding(11, 8), nn.Embedding(9, 1), nn.Embedding(11, 1), nn.Parameter(torch.tensor(3.0))

        def forward(self, u, i):
            return (self.user(u) * self.item(i)).sum(-1) + self.ub(u).squeeze(-1) + self.ib(i).squeeze(-1) + self.bias

    return Net(), (torch.randint(0, 9, (4,)), torch.randint(0, 11, (4,)))


@model
def bag_of_words():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.bag, self.fc = nn.EmbeddingBag(20, 8, mode="mean"), nn.Linear(8, 3)

        def forward(self, x):
            return self.fc(self.bag(x))

    return Net(), (torch.randint(0, 20, (2, 6)),)


@model
def ft_transformer():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.b, self.cls = nn.Parameter(torch.randn(5, 8)), nn.Parameter(torch.randn(5, 8)), nn.Parameter(torch.randn(8))
            self.cat, self.offsets = nn.Embedding(12, 8), None
            self.register_buffer("off", torch.tensor([0, 5]))
            self.enc, self.head = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True), 1), nn.Linear(8, 1)

        def forward(self, x, c):
            t = torch.cat([x[..., None] * self.w + self.b, self.cat(c + self.off)], 1)
            t = torch.cat([self.cls.expand(len(x), 1, -1), t], 1)
            return self.head(F.relu(self.enc(t)[:, 0]))

    return Net(), (torch.randn(2, 5), torch.tensor([[1, 2], [4, 6]]))


@model
def siren():
    class Sine(nn.Module):
        def __init__(self, i, o):
            super().__init__()
            self.l = nn.Linear(i, o)

        def forward(self, x):
            return torch.sin(30.0 * self.l(x) * 0.1)

    return nn.Sequential(Sine(2, 16), Sine(16, 16), nn.Linear(16, 3)), (torch.randn(3, 2),)


@model
def nerf():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("freq", 2.0 ** torch.arange(4))
            self.a, self.sigma, self.rgb = nn.Sequential(nn.Linear(27, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU()), nn.Linear(32, 1), nn.Sequential(nn.Linear(32 + 27, 16), nn.ReLU(), nn.Linear(16, 3), nn.Sigmoid())

        def enc(self, x):
            y = (x[..., None] * self.freq).flatten(-2)
            return torch.cat([x, y.sin(), torch.cos(y)], -1)

        def forward(self, x, d):
            h = self.a(self.enc(x))
            return torch.cat([self.rgb(torch.cat([h, self.enc(d)], -1)), F.softplus(self.sigma(h))], -1)

    return Net(), (torch.randn(2, 6, 3), torch.randn(2, 6, 3))


@model
def volume_rendering():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 4))

        def forward(self, x):
            y = self.net(x)
            alpha = 1 - torch.exp(-F.relu(y[..., 3]) * 0.1)
            t = torch.cumprod(torch.cat([torch.ones_like(alpha[:, :1]), 1 - alpha + 1e-10], -1), -1)[:, :-1]
            return ((alpha * t)[..., None] * torch.sigmoid(y[..., :3])).sum(1)

    return Net(), (torch.randn(2, 6, 3),)


@model
def kan():
    class Layer(nn.Module):
        def __init__(self, i, o, n=5):
            super().__init__()
            self.register_buffer("grid", torch.linspace(-2, 2, n))
            self.base, self.spline = nn.Linear(i, o), nn.Linear(i * n, o, bias=False)

        def forward(self, x):
            b = torch.exp(-(((x[..., None] - self.grid) / 1.0) ** 2))
            return self.base(F.silu(x)) + self.spline(b.view(x.size(0), -1))

    return nn.Sequential(Layer(3, 8), Layer(8, 2)), (torch.randn(3, 3),)


@model
def mixture_density():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.h, self.pi, self.mu, self.s = nn.Linear(3, 16), nn.Linear(16, 4), nn.Linear(16, 4), nn.Linear(16, 4)

        def forward(self, x, y):
            h = torch.tanh(self.h(x))
            lp = F.log_softmax(self.pi(h), -1) - 0.5 * ((y - self.mu(h)) / torch.exp(self.s(h))) ** 2 - self.s(h)
            return -torch.logsumexp(lp, -1)

    return Net(), (torch.randn(3, 3), torch.randn(3, 1))


@model
def soft_experts():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.w1, self.w2, self.gate = nn.Parameter(torch.randn(3, 8, 16) / 3), nn.Parameter(torch.randn(3, 16, 8) / 4), nn.Linear(8, 3)

        def forward(self, x):
            g = self.gate(x).softmax(-1)
            h = F.gelu(torch.einsum("btd,edf->btef", x, self.w1))
            return torch.einsum("btef,efd,bte->btd", h, self.w2, g)

    return Net(), (torch.randn(2, 4, 8),)


@model
def top2_experts():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.experts, self.gate = nn.ModuleList(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)) for _ in range(4)), nn.Linear(8, 4)

        def forward(self, x):
            v, i = torch.topk(self.gate(x), 2, dim=-1)
            g = torch.zeros_like(self.gate(x)).scatter(-1, i, torch.softmax(v, -1))
            return sum(g[:, k : k + 1] * e(x) for k, e in enumerate(self.experts))

    return Net(), (torch.randn(3, 8),)


@model
def cells():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.l, self.g, self.r, self.o = nn.LSTMCell(4, 6), nn.GRUCell(6, 5), nn.RNNCell(5, 3), nn.Linear(3, 2)

        def forward(self, x):
            b = x.size(0)
            h, c, g, r = x.new_zeros(b, 6), x.new_zeros(b, 6), torch.zeros(b, 5), torch.zeros(b, 3)
            out = []
            for t in range(x.size(1)):
                h, c = self.l(x[:, t], (h, c))
                g = self.g(h, g)
                r = self.r(g, r)
                out.append(self.o(r))
            return torch.stack(out, 1)

    return Net(), (torch.randn(2, 4, 4),)


@model
def conv_lstm():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.o = nn.Conv2d(1 + 4, 16, 3, padding=1), nn.Conv2d(4, 1, 1)

        def forward(self, x):
            b, t, _, hh, w = x.shape
            h = c = torch.zeros(b, 4, hh, w)
            for k in range(t):
                i, f, o, g = torch.split(self.conv(torch.cat([x[:, k], h], 1)), 4, dim=1)
                c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
                h = torch.sigmoid(o) * torch.tanh(c)
            return self.o(h)

    return Net(), (torch.randn(2, 3, 1, 6, 6),)


fn("bilinear_layer", lambda m, a, b: m.o(torch.tanh(m.bi(a, b))), lambda: dict(bi=nn.Bilinear(4, 5, 6), o=nn.Linear(6, 2)), normal(3, 4), normal(3, 5))
fn("attention_module", lambda m, x: m.o(m.mha(x, x, x, need_weights=False, attn_mask=m.mask)[0] + m.mha(x, x, x, average_attn_weights=True)[0]).mean(1), lambda: dict(mha=nn.MultiheadAttention(8, 2, batch_first=True), o=nn.Linear(8, 2), mask=torch.triu(torch.full((5, 5), float("-inf")), 1)), normal(2, 5, 8))
fn("max_over_time", lambda m, x: m.fc(torch.cat([F.relu(c(m.e(x).transpose(1, 2))).max(dim=2)[0] for c in (m.a, m.b, m.c)], 1)), lambda: dict(e=nn.Embedding(20, 8), a=nn.Conv1d(8, 4, 2), b=nn.Conv1d(8, 4, 3), c=nn.Conv1d(8, 4, 4), fc=nn.Linear(12, 3)), whole(20, 2, 9))
fn("max_pool_over_time", lambda m, x: m.fc(torch.cat([F.max_pool1d(F.relu(c(m.e(x).transpose(1, 2))), 9 - k + 1).squeeze(2) for k, c in ((2, m.a), (3, m.b))], 1)), lambda: dict(e=nn.Embedding(20, 8), a=nn.Conv1d(8, 4, 2), b=nn.Conv1d(8, 4, 3), fc=nn.Linear(8, 3)), whole(20, 2, 9))
fn("text_cnn_2d", lambda m, x: m.fc(F.relu(m.c(m.e(x).unsqueeze(1))).squeeze(3).amax(2)), lambda: dict(e=nn.Embedding(20, 8), c=nn.Conv2d(1, 4, (3, 8)), fc=nn.Linear(4, 3)), whole(20, 2, 9))
fn("point_net", lambda m, x: m.fc(torch.max(m.net(x), 2, keepdim=True)[0].view(-1, 16)), lambda: dict(net=nn.Sequential(nn.Conv1d(3, 8, 1), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 16, 1), nn.BatchNorm1d(16)), fc=nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4), nn.LogSoftmax(dim=1))), normal(3, 3, 20))
fn("norms", lambda m, x: m.c(m.ln(m.i(m.b(m.a(x))))), lambda: dict(a=nn.Conv2d(3, 8, 3), b=nn.InstanceNorm2d(8, affine=True), i=nn.LocalResponseNorm(3), ln=nn.LayerNorm([8, 6, 6]), c=nn.Sequential(nn.GroupNorm(8, 8, affine=False), nn.Conv2d(8, 2, 1))), normal(2, 3, 8, 8))
fn("norms_without_weights", lambda m, x: m.c(m.d(m.b(m.a(x)))), lambda: dict(a=nn.Conv2d(3, 8, 3), b=nn.BatchNorm2d(8, affine=False), d=nn.InstanceNorm2d(8), c=nn.Sequential(nn.Flatten(), nn.Linear(8 * 36, 4), nn.LayerNorm(4, elementwise_affine=False), nn.RMSNorm(4))), normal(2, 3, 8, 8))
fn("batch_statistics", lambda m, x: m.o(m.b(m.a(x))), lambda: dict(a=nn.Linear(4, 8), b=nn.BatchNorm1d(8, track_running_stats=False), o=nn.Linear(8, 2)), normal(4, 4))
fn("batch_norm_average", lambda m, x: m.o(m.b(m.a(x))), lambda: dict(a=nn.Linear(4, 8), b=nn.BatchNorm1d(8, momentum=None), o=nn.Linear(8, 2)), normal(4, 4))
fn("adaptive_max", lambda m, x: m.o(torch.cat([F.adaptive_max_pool2d(m.a(x), (2, 3)).flatten(1), F.adaptive_max_pool1d(m.a(x).flatten(2), 4).flatten(1)], 1)), lambda: dict(a=nn.Conv2d(2, 4, 3), o=nn.Linear(24 + 16, 2)), normal(2, 2, 9, 8))
fn("lp_pool", lambda m, x: m.o(F.lp_pool2d(F.relu(m.a(x)) + 0.1, 2, 2).flatten(1)), lambda: dict(a=nn.Conv2d(2, 4, 3), o=nn.Linear(36, 2)), normal(2, 2, 8, 8))
fn("unfold_fold", lambda m, x: m.o(F.unfold(x, 2, stride=2).transpose(1, 2)), lambda: dict(o=nn.Linear(12, 8)), normal(2, 3, 6, 6))
fn("unfold_overlapping", lambda m, x: m.o(F.unfold(m.c(x), 3, padding=1, stride=2, dilation=1).transpose(1, 2)), lambda: dict(c=nn.Conv2d(3, 2, 1), o=nn.Linear(18, 4)), normal(2, 3, 6, 7))
fn("fold", lambda m, x: F.fold(m.o(x).transpose(1, 2), (6, 6), 3, padding=1, stride=1), lambda: dict(o=nn.Linear(5, 18)), normal(2, 36, 5))
fn("grid_sample", lambda m, x: F.grid_sample(m.c(x), F.affine_grid(m.l(x.flatten(1)).view(-1, 2, 3) * 0.1 + torch.tensor([[1.0, 0, 0], [0, 1, 0]]), x.shape, align_corners=False), align_corners=False), lambda: dict(c=nn.Conv2d(1, 1, 1), l=nn.Linear(36, 6)), normal(2, 1, 6, 6))


@model
def spectral():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 8))

        def forward(self, x):
            return self.a(x)

    return Net(), (torch.randn(3, 4),)


@model
def vq_vae():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.enc, self.book, self.dec = nn.Conv2d(3, 4, 4, 4), nn.Embedding(6, 4), nn.ConvTranspose2d(4, 3, 4, 4)

        def forward(self, x):
            z = self.enc(x).permute(0, 2, 3, 1)
            d = z.pow(2).sum(-1, keepdim=True) - 2 * z @ self.book.weight.t() + self.book.weight.pow(2).sum(1)
            q = self.book(d.argmin(-1))
            return self.dec((z + (q - z).detach()).permute(0, 3, 1, 2))

    return Net(), (torch.randn(2, 3, 8, 8),)


@model
def capsules():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.w = nn.Conv2d(1, 8, 3, stride=2), nn.Parameter(torch.randn(1, 18, 3, 6, 4) * 0.1)

        def squash(self, s):
            n = (s**2).sum(-1, keepdim=True)
            return n / (1 + n) * s / torch.sqrt(n + 1e-8)

        def forward(self, x):
            u = self.squash(self.conv(x).view(x.size(0), 18, 4))
            u = torch.matmul(self.w, u[:, :, None, :, None]).squeeze(-1)
            b = torch.zeros(x.size(0), 18, 3, 1)
            for i in range(2):
                v = self.squash((F.softmax(b, 2) * u).sum(1, keepdim=True))
                if i < 1:
                    b = b + (u * v).sum(-1, keepdim=True)
            return v.squeeze(1).norm(dim=-1)

    return Net(), (torch.randn(2, 1, 7, 7),)


@model
def gcn():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x, adj):
            adj = adj + torch.eye(adj.size(1))
            d = adj.sum(-1).clamp(min=1).pow(-0.5)
            adj = d.unsqueeze(-1) * adj * d.unsqueeze(-2)
            return torch.bmm(adj, self.b(F.relu(torch.bmm(adj, self.a(x)))))

    return Net(), (torch.randn(2, 5, 4), (torch.rand(2, 5, 5) > 0.5).float())


@model
def gat():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.s, self.t = nn.Linear(4, 8, bias=False), nn.Linear(8, 1, bias=False), nn.Linear(8, 1, bias=False)

        def forward(self, x, adj):
            h = self.w(x)
            e = F.leaky_relu(self.s(h) + self.t(h).transpose(1, 2), 0.2)
            a = F.softmax(torch.where(adj > 0, e, torch.full_like(e, -9e15)), -1)
            return F.elu(a @ h)

    return Net(), (torch.randn(2, 5, 4), ((torch.rand(2, 5, 5) > 0.5) | torch.eye(5, dtype=torch.bool)).float())


@model
def linear_attention():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.o = nn.Linear(8, 24), nn.Linear(8, 8)

        def forward(self, x):
            q, k, v = self.qkv(x).view(x.size(0), x.size(1), 3, 2, 4).permute(2, 0, 3, 1, 4)
            q, k = F.elu(q) + 1, F.elu(k) + 1
            kv = torch.einsum("bhtd,bhte->bhde", k, v)
            z = 1 / (torch.einsum("bhtd,bhd->bht", q, k.sum(2)) + 1e-6)
            return self.o(torch.einsum("bhtd,bhde,bht->bthe", q, kv, z).flatten(2))

    return Net(), (torch.randn(2, 5, 8),)


@model
def rope_llama():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.e, self.q, self.k, self.v, self.o, self.n = nn.Embedding(20, 16), nn.Linear(16, 16, bias=False), nn.Linear(16, 8, bias=False), nn.Linear(16, 8, bias=False), nn.Linear(16, 20, bias=False), nn.RMSNorm(16)
            inv = 1.0 / (10000 ** (torch.arange(0, 8, 2).float() / 8))
            t = torch.outer(torch.arange(12).float(), inv)
            self.register_buffer("cos", torch.cat([t, t], -1).cos(), persistent=False)
            self.register_buffer("sin", torch.cat([t, t], -1).sin(), persistent=False)

        def rot(self, x):
            t = x.size(2)
            a, b = x.chunk(2, -1)
            return x * self.cos[:t] + torch.cat([-b, a], -1) * self.sin[:t]

        def forward(self, idx):
            x = self.e(idx)
            h = self.n(x)
            B, T, _ = h.shape
            q, k, v = self.q(h).view(B, T, 2, 8).transpose(1, 2), self.k(h).view(B, T, 1, 8).transpose(1, 2), self.v(h).view(B, T, 1, 8).transpose(1, 2)
            q, k = self.rot(q), self.rot(k)
            k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, dim=1)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            return self.o(x + y.transpose(1, 2).reshape(B, T, -1))

    return Net(), (torch.randint(0, 20, (2, 6)),)


@model
def rope_complex():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.q = nn.Linear(8, 8)
            self.register_buffer("f", torch.polar(torch.ones(5, 4), torch.outer(torch.arange(5).float(), torch.rand(4))))

        def forward(self, x):
            q = torch.view_as_complex(self.q(x).float().reshape(*x.shape[:-1], -1, 2))
            return torch.view_as_real(q * self.f[None]).flatten(2)

    return Net(), (torch.randn(2, 5, 8),)


@model
def alibi_t5_bias():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.rel, self.qkv = nn.Embedding(9, 2), nn.Linear(8, 24)

        def forward(self, x):
            t = x.size(1)
            pos = torch.arange(t)
            d = (pos[None] - pos[:, None]).clamp(-4, 4) + 4
            q, k, v = self.qkv(x).view(-1, t, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
            a = (q @ k.mT / 2 + self.rel(d).permute(2, 0, 1)).softmax(-1)
            return (a @ v).transpose(1, 2).flatten(2)

    return Net(), (torch.randn(2, 6, 8),)


@model
def dcgan():
    g = nn.Sequential(nn.Unflatten(1, (8, 1, 1)), nn.ConvTranspose2d(8, 16, 4, 1, 0, bias=False), nn.BatchNorm2d(16), nn.ReLU(True), nn.ConvTranspose2d(16, 8, 4, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(True), nn.ConvTranspose2d(8, 1, 4, 2, 1, bias=False), nn.Tanh())
    return g, (torch.randn(3, 8),)


@model
def ddpm_unet():
    class Block(nn.Module):
        def __init__(self, i, o):
            super().__init__()
            self.n, self.c, self.t, self.m, self.d, self.s = nn.GroupNorm(4, i), nn.Conv2d(i, o, 3, padding=1), nn.Linear(16, o), nn.GroupNorm(4, o), nn.Conv2d(o, o, 3, padding=1), nn.Conv2d(i, o, 1) if i != o else nn.Identity()

        def forward(self, x, t):
            h = self.c(F.silu(self.n(x))) + self.t(F.silu(t))[:, :, None, None]
            return self.s(x) + self.d(F.silu(self.m(h)))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.time, self.inp, self.a, self.down, self.b, self.attn, self.up, self.c, self.out = nn.Sequential(nn.Linear(16, 16), nn.SiLU(), nn.Linear(16, 16)), nn.Conv2d(3, 8, 3, padding=1), Block(8, 8), nn.Conv2d(8, 8, 3, 2, 1), Block(8, 16), nn.Conv1d(16, 48, 1), nn.Conv2d(16, 8, 3, padding=1), Block(16, 8), nn.Conv2d(8, 3, 1)

        def forward(self, x, t):
            half = 8
            freqs = torch.exp(-math.log(10000) * torch.arange(0, half, dtype=torch.float32) / half)
            args = t[:, None].float() * freqs[None]
            e = self.time(torch.cat([torch.cos(args), torch.sin(args)], -1))
            a = self.a(self.inp(x), e)
            h = self.b(self.down(a), e)
            b, c, hh, w = h.shape
            q, k, v = self.attn(h.reshape(b, c, -1)).chunk(3, 1)
            wgt = torch.softmax(torch.einsum("bct,bcs->bts", q, k) * c**-0.5, -1)
            h = h + torch.einsum("bts,bcs->bct", wgt, v).reshape(b, c, hh, w)
            h = self.up(F.interpolate(h, scale_factor=2, mode="nearest"))
            return self.out(self.c(torch.cat([h, a], 1), e))

    return Net(), (torch.randn(2, 3, 8, 8), torch.tensor([3, 500]))


@model
def dit():
    class Block(nn.Module):
        def __init__(self, c):
            super().__init__()
            self.n1, self.n2, self.attn, self.mlp, self.ada = nn.LayerNorm(c, elementwise_affine=False, eps=1e-6), nn.LayerNorm(c, elementwise_affine=False, eps=1e-6), nn.MultiheadAttention(c, 2, batch_first=True), nn.Sequential(nn.Linear(c, 4 * c), nn.GELU("tanh"), nn.Linear(4 * c, c)), nn.Sequential(nn.SiLU(), nn.Linear(c, 6 * c))

        def forward(self, x, c):
            s1, k1, g1, s2, k2, g2 = self.ada(c).chunk(6, 1)
            h = self.n1(x) * (1 + k1.unsqueeze(1)) + s1.unsqueeze(1)
            x = x + g1.unsqueeze(1) * self.attn(h, h, h, need_weights=False)[0]
            return x + g2.unsqueeze(1) * self.mlp(self.n2(x) * (1 + k2.unsqueeze(1)) + s2.unsqueeze(1))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch, self.y, self.b, self.out = nn.Conv2d(3, 16, 2, 2), nn.Embedding(5, 16), nn.ModuleList([Block(16), Block(16)]), nn.Linear(16, 12)

        def forward(self, x, y):
            h, c = self.patch(x).flatten(2).transpose(1, 2), self.y(y)
            for b in self.b:
                h = b(h, c)
            h = self.out(h).reshape(x.shape[0], 4, 4, 2, 2, 3)
            return torch.einsum("nhwpqc->nchpwq", h).reshape(x.shape[0], 3, 8, 8)

    return Net(), (torch.randn(2, 3, 8, 8), torch.tensor([1, 4]))


@model
def style_block():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.map, self.const, self.conv, self.aff, self.rgb = nn.Sequential(nn.Linear(8, 8), nn.LeakyReLU(0.2)), nn.Parameter(torch.randn(1, 8, 4, 4)), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 16), nn.Conv2d(8, 3, 1)

        def forward(self, z):
            w = self.map(z * torch.rsqrt(torch.mean(z**2, dim=1, keepdim=True) + 1e-8))
            x = self.conv(self.const.expand(z.size(0), -1, -1, -1))
            mu, sd = x.mean([2, 3], keepdim=True), x.std([2, 3], keepdim=True) + 1e-5
            s, b = self.aff(w).view(-1, 2, 8, 1, 1).unbind(1)
            return self.rgb(F.leaky_relu((x - mu) / sd * (1 + s) + b, 0.2))

    return Net(), (torch.randn(2, 8),)


@model
def srgan_block():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.f = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.PReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))

        def forward(self, x):
            return x + self.f(x)

    return nn.Sequential(nn.Conv2d(3, 8, 9, padding=4), nn.PReLU(), Block(), nn.Conv2d(8, 32, 3, padding=1), nn.PixelShuffle(2), nn.PReLU(), nn.Conv2d(8, 3, 9, padding=4), nn.Tanh()), (torch.randn(2, 3, 8, 8),)


@model
def crnn():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.cnn, self.rnn, self.fc = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d((2, 1)), nn.Conv2d(8, 8, (4, 1)), nn.ReLU()), nn.LSTM(8, 6, bidirectional=True, batch_first=True), nn.Linear(12, 5)

        def forward(self, x):
            f = self.cnn(x).squeeze(2).permute(0, 2, 1)
            return F.log_softmax(self.fc(self.rnn(f)[0]), 2)

    return Net(), (torch.randn(2, 1, 8, 10),)


@model
def rl_dueling():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.f, self.v, self.a = nn.Sequential(nn.Linear(4, 16), nn.ReLU()), nn.Linear(16, 1), nn.Linear(16, 3)

        def forward(self, x):
            h = self.f(x)
            a = self.a(h)
            return self.v(h) + a - a.mean(dim=1, keepdim=True)

    return Net(), (torch.randn(3, 4),)


@model
def actor_critic():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.f, self.mu, self.log_std, self.v = nn.Sequential(nn.Linear(4, 16), nn.Tanh()), nn.Linear(16, 2), nn.Parameter(torch.zeros(2)), nn.Linear(16, 1)

        def forward(self, x, act):
            h = self.f(x)
            std = self.log_std.exp().expand(x.size(0), 2)
            logp = (-((act - self.mu(h)) ** 2) / (2 * std**2) - std.log() - 0.5 * math.log(2 * math.pi)).sum(-1)
            return torch.cat([logp[:, None], self.v(h)], 1)

    return Net(), (torch.randn(3, 4), torch.randn(3, 2))


@model
def real_nvp():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.s, self.t = nn.ModuleList(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4), nn.Tanh()) for _ in range(2)), nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
            self.register_buffer("mask", torch.tensor([[1.0, 0, 1, 0], [0, 1.0, 0, 1]]))

        def forward(self, x):
            ld = x.new_zeros(x.shape[0])
            for i in range(2):
                m = self.mask[i]
                xm = x * m
                s, t = self.s[i](xm) * (1 - m), self.t[i](xm) * (1 - m)
                x = xm + (1 - m) * (x * torch.exp(s) + t)
                ld = ld + s.sum(dim=1)
            return -0.5 * (x**2).sum(1) + ld

    return Net(), (torch.randn(3, 4),)


@model
def n_beats():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.th = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU()), nn.Linear(16, 12)

        def forward(self, x):
            th = self.th(self.fc(x))
            return th[:, :8], th[:, 8:]

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.b = nn.ModuleList([Block(), Block()])

        def forward(self, x):
            f = torch.zeros(x.size(0), 4)
            for b in self.b:
                back, fore = b(x)
                x = x - back
                f = f + fore
            return f

    return Net(), (torch.randn(3, 8),)


@model
def dlinear():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.avg, self.s, self.t = nn.AvgPool1d(5, stride=1), nn.Linear(12, 4), nn.Linear(12, 4)

        def forward(self, x):
            p = torch.cat([x[:, 0:1].repeat(1, 2, 1), x, x[:, -1:].repeat(1, 2, 1)], 1)
            trend = self.avg(p.permute(0, 2, 1)).permute(0, 2, 1)
            y = self.s((x - trend).permute(0, 2, 1)) + self.t(trend.permute(0, 2, 1))
            return y.permute(0, 2, 1)

    return Net(), (torch.randn(2, 12, 3),)


@model
def revin():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.b, self.l = nn.Parameter(torch.rand(3) + 0.5), nn.Parameter(torch.randn(3)), nn.Linear(12, 4)

        def forward(self, x):
            mu = x.mean(1, keepdim=True).detach()
            sd = torch.sqrt(torch.var(x, dim=1, keepdim=True, unbiased=False) + 1e-5).detach()
            y = self.l(((x - mu) / sd * self.w + self.b).transpose(1, 2)).transpose(1, 2)
            return (y - self.b) / (self.w + 1e-10) * sd + mu

    return Net(), (torch.randn(2, 12, 3),)


@model
def video_cnn():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.c, self.t, self.f = nn.Conv2d(3, 8, 3, 2), nn.Conv1d(8, 8, 3), nn.Linear(8, 4)

        def forward(self, x):
            b, t, c, h, w = x.shape
            y = F.relu(self.c(x.view(b * t, c, h, w))).mean([2, 3]).view(b, t, -1)
            return self.f(self.t(y.transpose(1, 2)).amax(2))

    return Net(), (torch.randn(2, 5, 3, 9, 9),)


seq("conv3d", lambda: nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(4, 8, 3), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, 3)), normal(2, 1, 8, 8, 8))
seq("channels_dropout", lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.Dropout2d(0.0), nn.ReLU(), nn.ZeroPad2d((1, 2, 0, 1)), nn.ConstantPad2d(1, 0.5), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(4 * 8 * 9, 3), nn.AlphaDropout(0.0)), normal(2, 3, 8, 8))
seq("circular_1d", lambda: nn.Sequential(nn.Conv1d(2, 4, 3, padding=1, padding_mode="circular"), nn.ReplicationPad1d(2), nn.Conv1d(4, 4, 3), nn.ReflectionPad1d(1), nn.Conv1d(4, 1, 3)), normal(2, 2, 9))
seq("batch_norm_3d_like", lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(5), nn.ReLU(), nn.Flatten(1, 2), nn.Linear(30, 3)), normal(3, 5, 4))


@model
def written_views():
    class Net(nn.Module):
        """Steps that are written into a tensor through views, before and after others look at it."""

        def __init__(self):
            super().__init__()
            self.a, self.decay, self.head = nn.Linear(4, 6), nn.Parameter(torch.tensor(0.7)), nn.Linear(6, 3)

        def forward(self, x):
            h = self.a(x)
            out = torch.zeros_like(h)
            early = out[:, 1:3]
            state = h[:, 0]
            for t in range(x.shape[1]):
                state = state * self.decay.sigmoid() + h[:, t]
                out[:, t] = state
            out.transpose(1, 2)[:, ::2].mul_(2.0)
            y = out.view(-1, x.shape[1], 2, 3)
            y[:, :, 0].add_(1.0)
            a, b = out.narrow(2, 0, 3), out[..., 3:]
            a.mul_(0.5)
            out[:, :, [0, 4]] = early.sum(1, keepdim=True)[..., :2]
            return self.head(out) + y.sum(2) + b[:, :, :1]

    return Net(), (torch.randn(2, 4, 4),)


@model
def chosen():
    class Net(nn.Module):
        """Elements by their value and by positions that depend on the data."""

        def __init__(self):
            super().__init__()
            self.a, self.experts, self.head = nn.Linear(4, 6), nn.Parameter(torch.randn(6, 4, 3)), nn.Linear(6, 3)
            self.register_buffer("table", torch.randn(5, 6))

        def forward(self, x, at):
            h = self.a(x)
            v, i = torch.topk(h, 2, dim=-1)
            gate = torch.zeros_like(h).scatter(-1, i, torch.softmax(v, -1))
            y = torch.einsum("bte,edo,btd->bto", gate, self.experts, x)
            s, order = torch.sort(h, dim=1, descending=True)
            first, where = h.max(dim=1)
            y = y + self.head(s) + (order * 0.1).sum(2, keepdim=True) + self.head(first + self.table[at]).unsqueeze(1) + where[:, None, :3]
            y = y + h.gather(1, at[:, None, None].expand(-1, 1, 6)).mean(2, keepdim=True) + nn.functional.one_hot(at, 5)[:, None, :3]
            y[h[..., :3] > 0.3] = 0.25
            return y + h.min(dim=2, keepdim=True)[0] + h.median(dim=1, keepdim=True)[0][..., 2:5] + torch.arange(2)[None, :, None].sum() * h.argmin(-1, keepdim=True)

    return Net(), (torch.randn(3, 4, 4), torch.tensor([2, 0, 3]))


@model
def computed_windows():
    class Net(nn.Module):
        """Convolutions with computed weights, windows that are taken apart and added again."""

        def __init__(self):
            super().__init__()
            wn = nn.utils.parametrizations.weight_norm
            self.a, self.b = wn(nn.Conv1d(2, 4, 3, padding=2, dilation=2)), nn.ConvTranspose1d(4, 2, 4, 2, 1, groups=2)
            self.c, self.d = wn(nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2)), wn(nn.ConvTranspose2d(4, 2, 3, 2, 1, 1))
            self.register_buffer("filters", torch.randn(3, 1, 2, 2))

        def forward(self, x):
            f = nn.functional
            y = self.b(torch.tanh(self.a(x))).view(-1, 2, 4, 5)
            z = self.d(torch.tanh(self.c(y)))[:, :, :4, :5]
            u = f.unfold(z, (2, 3), dilation=(1, 2), padding=1, stride=(2, 1))
            v = f.fold(u * 0.5, (4, 5), (2, 3), dilation=(1, 2), padding=1, stride=(2, 1))
            w = f.conv2d(v[:, :1], self.filters, padding="same")
            m = f.adaptive_max_pool2d(w, (3, 2)).flatten(1)
            return torch.cat([m, f.pixel_unshuffle(f.pad(v, (0, 1)), 2).flatten(1), x.unfold(2, 4, 3).sum(3).flatten(1)], 1)

    return Net(), (torch.randn(2, 2, 10),)


@model
def functions():
    class Net(nn.Module):
        """Functions that are made of others."""

        def __init__(self):
            super().__init__()
            self.a, self.cell, self.two = nn.Linear(4, 6), nn.GRUCell(6, 6), nn.Bilinear(6, 4, 6)
            self.scale = nn.Parameter(torch.tensor(1.3))

        def forward(self, x):
            f, h = nn.functional, self.a(x) * self.scale
            p = h.abs() + 0.5
            y = [torch.expm1(h), torch.log1p(p), torch.exp2(h), torch.log2(p), torch.log10(p), torch.tan(h * 0.2), torch.sinh(h), torch.cosh(h), torch.erfc(h), h * torch.ceil(h), torch.frac(h), h * torch.round(h)]
            y += [f.threshold(h, 0.1, -0.5), f.hardshrink(h), f.softshrink(h), f.tanhshrink(h), torch.fmod(h, 0.7), torch.remainder(h, 0.7), torch.addcdiv(h, h, p), torch.logaddexp(h, 2 * h), torch.hypot(h, p), torch.xlogy(h, p), p**h, 2.0**h]
            y += [torch.cumprod(h, 1), torch.cummax(h, 1)[0], torch.clamp(h, -p * 0.5, p), torch.linspace(0, 1, 6) * h, self.cell(h, torch.tanh(h)), self.two(h, x), f.huber_loss(h, p, reduction="none"), f.smooth_l1_loss(h, p, reduction="none", beta=0.5)]
            y += [f.binary_cross_entropy_with_logits(h, (x[:, :1] > 0).float().expand(-1, 6), reduction="none"), f.kl_div(f.log_softmax(h, 1), torch.softmax(2 * h, 1), reduction="none"), h.masked_fill(~torch.isfinite(h) | torch.isnan(h), 0.0)]
            s = [torch.logsumexp(h, 1), h.prod(1), h.norm(p=1, dim=1), h.norm(p=3, dim=1), h.norm(p=float("inf"), dim=1), f.cosine_similarity(h, p), f.pairwise_distance(h, p), torch.var_mean(h, 1)[0], torch.aminmax(h, dim=1)[0], f.cross_entropy(h, h.detach().argmax(1), reduction="none")]
            s += [(h > 1).any(1) * h[:, 0], (h > -1).all(1) * h[:, 1], torch.cdist(h.view(-1, 2, 3), p.view(-1, 2, 3)).sum((1, 2)), torch.cross(h[:, :3], p[:, 3:], dim=1).sum(1), torch.einsum("...i,i->...", h, self.a.bias), h.view(-1, 2, 3)[:, :, :2].diagonal(dim1=1, dim2=2).sum(1)]
            return torch.cat([torch.stack(y, 1).flatten(1), torch.stack(s, 1)], 1)

    return Net(), (torch.randn(3, 4),)


@model
def volume():
    class Volume(nn.Module):
        """Convolutions and pools over three axes."""

        def __init__(self):
            super().__init__()
            self.a, self.norm = nn.Conv3d(2, 4, (2, 3, 2), stride=(1, 2, 1), padding=(1, 1, 0)), nn.BatchNorm3d(4)
            self.b, self.c = nn.Conv3d(4, 6, 3, padding="same", dilation=(1, 2, 1), groups=2), nn.Conv3d(6, 4, 1, bias=False)
            self.head = nn.Linear(4 * 2 * 1 * 2, 3)

        def forward(self, x):
            x = torch.relu(self.norm(self.a(x)))
            x = nn.functional.max_pool3d(x, (2, 2, 2), stride=(1, 2, 1), padding=(0, 1, 1))
            x = nn.functional.avg_pool3d(self.b(x), 2, stride=(2, 1, 2), padding=1, count_include_pad=False)
            return self.head(nn.functional.adaptive_avg_pool3d(self.c(x), (2, 1, 2)).flatten(1))

    return Volume(), (torch.randn(3, 2, 4, 7, 6),)


@model
def vae_drawn():
    class VAE(nn.Module):
        """It draws its noise in three ways, times 0, so that others' answers can be compared."""

        def __init__(self):
            super().__init__()
            self.enc, self.mu, self.lv, self.dec = nn.Linear(20, 16), nn.Linear(16, 4), nn.Linear(16, 4), nn.Linear(4, 20)

        def forward(self, x):
            h = torch.relu(self.enc(x))
            mu, std = self.mu(h), torch.exp(0.5 * self.lv(h))
            z = mu + std * 0.0 * torch.randn_like(std) + 0.0 * torch.distributions.Normal(mu, std, validate_args=False).rsample()
            return self.dec(z + 0.0 * torch.rand(x.size(0), 4) + 0.0 * torch.empty_like(mu).normal_(0, 0.5) + std)

    return VAE(), (torch.randn(3, 20),)
