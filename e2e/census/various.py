"""More modules as people write them: layers of their own, unusual inputs, losses inside."""

import math
from dataclasses import dataclass
from typing import List, NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import nn
from registry import MODELS, ids, model
from more import i, r, register, u


@register(lambda: torch.randn(3, 6, dtype=torch.float64))
class DoubleInput(nn.Module):
    """A data loader of numpy gives float64; the model casts."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.ELU(), nn.Linear(8, 2))

    def forward(self, x):
        return self.net(x.float())


@register(r(3, 5, 6), lambda: torch.rand(3, 5) > 0.3)
class BoolMask(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.m = nn.Linear(6, 4), nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x, mask):
        h = self.a(x).masked_fill(~mask[..., None], 0.0)
        h, w = self.m(h, h, h, key_padding_mask=~mask & (mask.sum(1, keepdim=True) > 0))
        return (h * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True).clamp(min=1) + w.mean((1, 2))[:, None] * 0.1


@register(lambda: torch.randint(0, 256, (2, 12, 12, 3), dtype=torch.uint8))
class ByteImages(nn.Module):
    """Pictures as they come: bytes, channels last, normalised by buffers."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]))
        self.net = nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.Hardswish(), nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(24, 3))

    def forward(self, x):
        x = (x.to(torch.float32) / 255 - self.mean) / self.std
        return self.net(x.permute(0, 3, 1, 2).contiguous())


@register(i(7, 3, 4), r(3, 5))
class TabularEmbeddings(nn.Module):
    """Categories, each with a table of its own, and numbers."""

    def __init__(self):
        super().__init__()
        self.tables = nn.ModuleList([nn.Embedding(n, d) for n, d in [(7, 3), (8, 4), (9, 2), (7, 5)]])
        self.bn, self.net = nn.BatchNorm1d(5), nn.Sequential(nn.Linear(19, 16), nn.ReLU(inplace=True), nn.BatchNorm1d(16), nn.Dropout(0.0), nn.Linear(16, 1))

    def forward(self, cats, nums):
        e = [t(cats[:, k]) for k, t in enumerate(self.tables)]
        return self.net(torch.cat(e + [self.bn(nums)], 1)).squeeze(-1)


class Out(NamedTuple):
    logits: torch.Tensor
    hidden: torch.Tensor


@register(r(3, 6))
class TupleOutput(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        h = torch.celu(self.a(x), 1.3)
        return self.b(h), [h, h * 2]


@register(r(3, 8), r(3, 8))
class OwnLoss(nn.Module):
    """Returns the mean loss of the batch, as many modules do."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 4), nn.Linear(4, 8)

    def forward(self, x, y):
        z = self.b(torch.tanh(self.a(x)))
        return F.mse_loss(z, y) + 0.1 * z.abs().mean() + 1e-3 * sum(p.pow(2).sum() for p in self.parameters())


@register(r(3, 8), i(4, 3))
class OwnCrossEntropy(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(8, 4)

    def forward(self, x, y):
        return F.cross_entropy(self.a(x), y)


@register(r(3, 8))
class VAEOwnLoss(nn.Module):
    """The reconstruction and the divergence, summed for each sample and averaged."""

    def __init__(self):
        super().__init__()
        self.e, self.d = nn.Linear(8, 6), nn.Linear(3, 8)

    def forward(self, x):
        mu, logvar = self.e(x).chunk(2, -1)
        rec = self.d(mu)
        bce = F.binary_cross_entropy_with_logits(rec, x.sigmoid(), reduction="sum") / x.size(0)
        kld = -0.5 * torch.mean(torch.sum(1 + logvar - mu.pow(2) - logvar.exp(), dim=1))
        return bce + 0.5 * kld


@register(r(4, 6))
class SimCLR(nn.Module):
    """Contrast within the batch: it mixes samples, and must be refused."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(6, 8)

    def forward(self, x):
        z = F.normalize(self.a(x), dim=1)
        return torch.logsumexp(z @ z.t() / 0.1, 1)


@register(r(3, 6))
class EMABuffer(nn.Module):
    """Keeps a mean of what it saw: must be refused."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(6, 8)
        self.register_buffer("center", torch.zeros(8))

    def forward(self, x):
        h = self.a(x)
        if self.training:
            self.center.mul_(0.9).add_(h.detach().mean(0), alpha=0.1)
        return h - self.center


@register(r(2, 4, 10))
class GroupedCausalConv(nn.Module):
    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv1d(4, 4, 2, dilation=2**k, groups=2) for k in range(3)])
        self.norms = nn.ModuleList([nn.GroupNorm(1, 4) for _ in range(3)])
        self.res = nn.ModuleList([nn.Conv1d(4, 4, 1) for _ in range(3)])

    def forward(self, x):
        skip = 0
        for k, (c, n, s) in enumerate(zip(self.convs, self.norms, self.res)):
            h = F.glu(torch.cat([n(c(F.pad(x, (2**k, 0)))), x], 1), dim=1)
            h = h + h.flip(1)
            x = x + s(h)
            skip = skip + h
        return skip[..., -1]


@register(r(2, 6, 8))
class RelativeAttention(nn.Module):
    """Transformer-XL's shift of relative scores."""

    def __init__(self):
        super().__init__()
        self.qkv, self.r, self.u, self.v, self.o = nn.Linear(8, 24, bias=False), nn.Linear(8, 8, bias=False), nn.Parameter(torch.randn(2, 4)), nn.Parameter(torch.randn(2, 4)), nn.Linear(8, 8)
        self.register_buffer("pos", torch.randn(6, 8))

    def shift(self, x):
        b, h, t, s = x.size()
        x = torch.cat([x.new_zeros(b, h, t, 1), x], dim=-1).view(b, h, s + 1, t)
        return x[:, :, 1:].view(b, h, t, s)

    def forward(self, x):
        b, t, _ = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, 2, 4).unbind(2)
        p = self.r(self.pos).view(t, 2, 4)
        ac = torch.einsum("bthd,bshd->bhts", q + self.u, k)
        bd = self.shift(torch.einsum("bthd,shd->bhts", q + self.v, p))
        a = (ac + bd) / 2
        a = a + torch.full((t, t), float("-inf")).triu(1)
        return self.o(torch.einsum("bhts,bshd->bthd", a.softmax(-1), v).reshape(b, t, 8))


@register(r(2, 3, 12, 12))
class DynamicConv(nn.Module):
    """CondConv: kernels of each sample, a grouped convolution over the batch."""

    def __init__(self):
        super().__init__()
        self.route, self.w, self.fc = nn.Linear(3, 4), nn.Parameter(torch.randn(4, 6, 3, 3, 3) * 0.3), nn.Linear(6, 2)

    def forward(self, x):
        b, c, h, w = x.size()
        a = torch.sigmoid(self.route(F.adaptive_avg_pool2d(x, 1).flatten(1)))
        k = torch.matmul(a, self.w.view(4, -1)).view(b * 6, c, 3, 3)
        y = F.conv2d(x.view(1, b * c, h, w), k, stride=2, padding=1, groups=b)
        return self.fc(y.view(b, 6, y.size(-2), y.size(-1)).mean((-1, -2)))


@register(r(2, 4, 8, 8), r(2, 6))
class StyleGAN2Block(nn.Module):
    """Weights modulated by each sample's style, and demodulated; noise left out."""

    def __init__(self):
        super().__init__()
        self.w, self.s, self.b = nn.Parameter(torch.randn(1, 5, 4, 3, 3)), nn.Linear(6, 4), nn.Parameter(torch.zeros(5))

    def forward(self, x, z):
        b, c, h, w = x.shape
        s = self.s(z).view(b, 1, c, 1, 1) + 1
        k = self.w * s / math.sqrt(c * 9)
        k = k * torch.rsqrt(k.pow(2).sum([2, 3, 4]) + 1e-8).view(b, 5, 1, 1, 1)
        x = x.reshape(1, b * c, h, w)
        y = F.conv2d(x, k.view(b * 5, c, 3, 3), padding=1, groups=b).view(b, 5, h, w)
        return F.leaky_relu(y + self.b.view(1, -1, 1, 1), 0.2) * math.sqrt(2)


@register(r(2, 5, 6))
class LSTMProjected(nn.Module):
    def __init__(self):
        super().__init__()
        self.l, self.fc = nn.LSTM(6, 8, 2, batch_first=True, bidirectional=True, proj_size=3), nn.Linear(6, 2)

    def forward(self, x):
        o, (h, c) = self.l(x)
        return self.fc(o) + h.sum(0)[:, None, :2] + c.sum(0)[:, None, :2]


@register(r(2, 1, 200))
class SpectrogramNet(nn.Module):
    """A spectrogram inside, mel filters of its own, log, a small CNN."""

    def __init__(self):
        super().__init__()
        self.register_buffer("window", torch.hann_window(32))
        self.mel, self.c, self.fc = nn.Parameter(torch.rand(17, 8)), nn.Conv2d(1, 4, 3), nn.Linear(4, 3)

    def forward(self, x):
        s = torch.stft(x.squeeze(1), n_fft=32, hop_length=16, win_length=32, window=self.window, center=True, return_complex=True)
        p = s.abs().pow(2)
        m = torch.log(torch.matmul(p.transpose(1, 2), self.mel.abs()) + 1e-5)
        return self.fc(F.relu(self.c(m.unsqueeze(1))).mean((2, 3)))


@register(r(2, 6, 8))
class Rotary2(nn.Module):
    """rotate_half with cos and sin from positions, grouped keys, a sliding window, soft caps."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = nn.Linear(8, 16, bias=False), nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False), nn.Linear(16, 8, bias=False)
        self.qn, self.kn = nn.RMSNorm(4), nn.RMSNorm(4)

    def rope(self, x):
        t = torch.arange(x.shape[2], device=x.device).float()
        f = torch.outer(t, 1.0 / (100 ** (torch.arange(0, 4, 2).float() / 4)))
        e = torch.cat((f, f), -1)
        a, b = x.chunk(2, -1)
        return x * e.cos() + torch.cat((-b, a), -1) * e.sin()

    def forward(self, x):
        b, t, _ = x.shape
        q = self.rope(self.qn(self.q(x).view(b, t, 4, 4)).transpose(1, 2))
        k = self.rope(self.kn(self.k(x).view(b, t, 2, 4)).transpose(1, 2)).repeat_interleave(2, dim=1)
        v = self.v(x).view(b, t, 2, 4).transpose(1, 2)[:, :, None].expand(b, 2, 2, t, 4).reshape(b, 4, t, 4)
        i = torch.arange(t)
        mask = (i[:, None] >= i[None]) & (i[:, None] - i[None] < 3)
        s = q @ k.transpose(-2, -1) / 2
        s = 20.0 * torch.tanh(s / 20.0)
        s = s.masked_fill(~mask, torch.finfo(s.dtype).min)
        return self.o((s.softmax(-1, dtype=torch.float32).to(q.dtype) @ v).transpose(1, 2).contiguous().view(b, t, 16))


@register(r(2, 3, 8, 8))
class NonLocal(nn.Module):
    def __init__(self):
        super().__init__()
        self.th, self.ph, self.g, self.o, self.gamma = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(4, 3, 1), nn.Parameter(torch.tensor([0.3]))

    def forward(self, x):
        b, c, h, w = x.shape
        th, ph, g = self.th(x).view(b, -1, h * w), F.max_pool2d(self.ph(x), 2).view(b, -1, h * w // 4), F.max_pool2d(self.g(x), 2).view(b, -1, h * w // 4)
        a = F.softmax(torch.bmm(th.transpose(1, 2), ph), -1)
        return x + self.gamma * self.o(torch.bmm(g, a.transpose(1, 2)).view(b, -1, h, w))


@register(r(2, 6, 8))
class Performer(nn.Module):
    """Random features, orthogonal ones in a buffer; causal by running sums."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.register_buffer("proj", torch.randn(5, 8))

    def feat(self, x):
        x = x * x.shape[-1] ** -0.25
        d = torch.einsum("btd,fd->btf", x, self.proj)
        return torch.exp(d - (x**2).sum(-1, keepdim=True) / 2 - d.amax(dim=(-1, -2), keepdim=True).detach()) + 1e-4

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        q, k = self.feat(q), self.feat(k)
        kv = torch.einsum("btf,btd->btfd", k, v).cumsum(1)
        z = torch.einsum("btf,btf->bt", q, k.cumsum(1))
        return torch.einsum("btf,btfd->btd", q, kv) / z[..., None]


@register(r(2, 5, 6))
class HopfieldIterations(nn.Module):
    """A fixed point in a few steps, the state detached between."""

    def __init__(self):
        super().__init__()
        self.m, self.ln, self.beta = nn.Parameter(torch.randn(7, 6)), nn.LayerNorm(6, elementwise_affine=False), nn.Parameter(torch.tensor(0.7))

    def forward(self, x):
        z = self.ln(x)
        for k in range(3):
            if k == 2:
                z = z.detach() + (z - z.detach()) * 0.5
            z = torch.softmax(self.beta.exp() * z @ F.normalize(self.m, dim=-1).T, -1) @ self.m
        return z


@register(r(3, 6))
class MixtureDensity(nn.Module):
    """Minus the log likelihood of a mixture, by logsumexp; a Student's t beside."""

    def __init__(self):
        super().__init__()
        self.pi, self.mu, self.sigma = nn.Linear(5, 3), nn.Linear(5, 3), nn.Linear(5, 3)

    def forward(self, x):
        x, y = x[:, :5], x[:, 5:]
        lp, mu, s = F.log_softmax(self.pi(x), -1), self.mu(x), F.elu(self.sigma(x)) + 1 + 1e-6
        n = -0.5 * ((y - mu) / s) ** 2 - torch.log(s) - 0.5 * math.log(2 * math.pi)
        t = -1.5 * torch.log1p((y - mu) ** 2 / (2 * s.square()))
        return -torch.logsumexp(lp + n, 1) - torch.logsumexp(lp + t, 1)


@register(r(3, 6), i(3, 3))
class ArcFace(nn.Module):
    def __init__(self):
        super().__init__()
        self.l, self.w = nn.Linear(6, 8), nn.Parameter(torch.randn(3, 8))

    def forward(self, x, y):
        cos = F.linear(F.normalize(self.l(x)), F.normalize(self.w)).clamp(-1 + 1e-7, 1 - 1e-7)
        sin = torch.sqrt((1.0 - cos.pow(2)).clamp(0, 1))
        phi = cos * math.cos(0.3) - sin * math.sin(0.3)
        phi = torch.where(cos > math.cos(math.pi - 0.3), phi, cos - math.sin(math.pi - 0.3) * 0.3)
        hot = torch.zeros_like(cos)
        hot.scatter_(1, y.view(-1, 1).long(), 1)
        return 16.0 * ((hot * phi) + ((1.0 - hot) * cos))


@register(r(3, 8))
class SparseMax(nn.Module):
    """Martins and Astudillo's projection, by sorting."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(8, 6)

    def forward(self, x):
        z = self.a(x)
        s, _ = torch.sort(z, dim=-1, descending=True)
        k = torch.arange(1, 7, device=z.device, dtype=z.dtype)
        cs = s.cumsum(-1) - 1
        support = (k * s > cs)
        n = support.sum(-1, keepdim=True)
        tau = torch.gather(cs, -1, n - 1) / n.to(z.dtype)
        return torch.clamp(z - tau, min=0)


@register(r(3, 8))
class NODE(nn.Module):
    """Oblivious trees: soft splits, bins, leaves."""

    def __init__(self):
        super().__init__()
        self.sel, self.thr, self.temp, self.resp = nn.Parameter(torch.rand(8, 2, 3)), nn.Parameter(torch.randn(2, 3)), nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.randn(2, 1, 8))
        idx = torch.arange(8)
        codes = (idx[None] // 2 ** torch.arange(3)[:, None]) % 2
        self.register_buffer("codes", torch.stack([codes, 1 - codes], dim=-1).float())

    def forward(self, x):
        v = torch.einsum("bi,ind->bnd", x, torch.softmax(self.sel, 0))
        t = (v - self.thr) * torch.exp(-self.temp)
        t = torch.stack([-t, t], dim=-1)
        bins = (0.5 * t + 0.5).clamp(0, 1)
        m = torch.einsum("bnds,dcs->bndc", bins, self.codes)
        return torch.einsum("bnc,nkc->bnk", m.prod(dim=-2), self.resp).mean(1)


@register(r(2, 8, 6))
class AFNO(nn.Module):
    def __init__(self):
        super().__init__()
        self.w1, self.w2, self.b = nn.Parameter(0.1 * torch.randn(2, 6, 6)), nn.Parameter(0.1 * torch.randn(2, 6, 6)), nn.Parameter(0.1 * torch.randn(2, 6))

    def forward(self, x):
        f = torch.fft.rfft(x, dim=1, norm="ortho")
        re = F.relu(torch.einsum("btc,cd->btd", f.real, self.w1[0]) - torch.einsum("btc,cd->btd", f.imag, self.w1[1]) + self.b[0])
        im = F.relu(torch.einsum("btc,cd->btd", f.imag, self.w1[0]) + torch.einsum("btc,cd->btd", f.real, self.w1[1]) + self.b[1])
        y = torch.view_as_complex(F.softshrink(torch.stack([re, im], dim=-1), lambd=0.01))
        return torch.fft.irfft(y, n=8, dim=1, norm="ortho") + x


@register(r(2, 6, 4), i(6, 2, 5))
class PointerNet(nn.Module):
    """Scores over the input's own positions; chosen ones are masked for the later."""

    def __init__(self):
        super().__init__()
        self.enc, self.dec, self.w1, self.w2, self.v = nn.GRU(4, 6, batch_first=True), nn.GRUCell(4, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 1, bias=False)

    def forward(self, x, order):
        e, h = self.enc(x)
        h = h.squeeze(0)
        inp, mask, ys = x.mean(1), torch.zeros(x.size(0), 6, dtype=torch.bool), []
        for t in range(5):
            h = self.dec(inp, h)
            s = self.v(torch.tanh(self.w1(e) + self.w2(h).unsqueeze(1))).squeeze(-1)
            ys.append(F.log_softmax(s.masked_fill(mask, -1e9), -1))
            k = order[:, t]
            mask = mask.scatter(1, k.unsqueeze(1), True)
            inp = x[torch.arange(x.size(0)), k]
        return torch.stack(ys, 1).clamp(min=-50)


@register(r(2, 3, 8, 8))
class Lists(nn.Module):
    """A pyramid: lists of features, lateral layers by reversed zip, kwargs between methods."""

    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList([nn.Conv2d(a, b, 3, s, 1) for a, b, s in [(3, 4, 1), (4, 6, 2), (6, 8, 2)]])
        self.lat = nn.ModuleList([nn.Conv2d(c, 5, 1) for c in (4, 6, 8)])
        self.heads = nn.ParameterDict({"scale": nn.Parameter(torch.ones(3)), "shift": nn.Parameter(torch.zeros(3, 1))})

    def fuse(self, feats: List[torch.Tensor], *, mode: str = "nearest", top: Optional[torch.Tensor] = None):
        outs = []
        for f, l in zip(reversed(feats), reversed(self.lat)):
            top = l(f) if top is None else l(f) + F.interpolate(top, size=f.shape[-2:], mode=mode)
            outs.insert(0, top)
        return outs

    def forward(self, x):
        feats = []
        for s in self.stages:
            x = F.relu6(s(x))
            feats.append(x)
        outs = self.fuse(feats, mode="nearest")
        return torch.cat([o.flatten(1).mean(1, keepdim=True) * s + b for o, s, b in zip(outs, self.heads["scale"], self.heads["shift"])], 1)


@register(r(2, 20, 4))
class Informer(nn.Module):
    """A trend by moving averages, values and time features, distilling."""

    def __init__(self):
        super().__init__()
        self.avg, self.val, self.conv, self.norm, self.enc, self.proj = nn.AvgPool1d(5, stride=1), nn.Conv1d(4, 8, 3, padding=1, padding_mode="circular", bias=False), nn.Conv1d(8, 8, 3, padding=2, padding_mode="circular"), nn.BatchNorm1d(8), nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True, activation="gelu"), nn.Linear(11, 6)

    def forward(self, x):
        front, end = x[:, 0:1, :].repeat(1, 2, 1), x[:, -1:, :].repeat(1, 2, 1)
        trend = self.avg(torch.cat([front, x, end], dim=1).permute(0, 2, 1)).permute(0, 2, 1)
        mean, std = x.mean(1, keepdim=True).detach(), torch.sqrt(torch.var(x, dim=1, keepdim=True, unbiased=False) + 1e-5).detach()
        h = self.enc(self.val(((x - trend - mean) / std).permute(0, 2, 1)).transpose(1, 2))
        h = F.max_pool1d(F.elu(self.norm(self.conv(h.permute(0, 2, 1)))), 3, 2, 1).transpose(1, 2)
        return self.proj(h.permute(0, 2, 1)).permute(0, 2, 1) + trend.mean((1, 2), keepdim=True)


@register(r(2, 6, 5))
class CRFForward(nn.Module):
    """The log partition of a linear chain."""

    def __init__(self):
        super().__init__()
        self.l, self.start, self.trans, self.end = nn.Linear(5, 4), nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4))

    def forward(self, x):
        e = self.l(x)
        s = self.start + e[:, 0]
        for t in range(1, e.size(1)):
            s = torch.logsumexp(s.unsqueeze(2) + self.trans + e[:, t].unsqueeze(1), dim=1)
        best = self.start + e[:, 0]
        for t in range(1, e.size(1)):
            best, _ = (best.unsqueeze(2) + self.trans + e[:, t].unsqueeze(1)).max(dim=1)
        return torch.logsumexp(s + self.end, dim=1) - (best + self.end).max(1)[0]


@register(r(2, 8, 5), i(4, 2, 3))
class CTCHead(nn.Module):
    """Connectionist temporal classification inside the model."""

    def __init__(self):
        super().__init__()
        self.l = nn.Linear(5, 5)

    def forward(self, x, y):
        lp = F.log_softmax(self.l(x), -1).transpose(0, 1)
        n = x.size(0)
        return F.ctc_loss(lp, y + 1, torch.full((n,), 8, dtype=torch.long), torch.full((n,), 3, dtype=torch.long), reduction="none")


@register(r(2, 4, 6, 6))
class GhostShuffle(nn.Module):
    """Cheap features, channel shuffles, squeeze and excitation, strips of pooling."""

    def __init__(self):
        super().__init__()
        self.p, self.c, self.s1, self.s2, self.bn = nn.Conv2d(4, 4, 1, bias=False), nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1), nn.BatchNorm2d(8)

    def forward(self, x):
        a = F.relu(self.p(x))
        h = self.bn(torch.cat([a, self.c(a)], dim=1))
        h = F.channel_shuffle(h, 2)
        n, c, hh, w = h.shape
        h = h.reshape(n, 2, c // 2, hh, w).transpose(1, 2).reshape(n, c, hh, w)
        h = h * F.hardsigmoid(self.s2(F.relu(self.s1(h.mean((2, 3), keepdim=True)))))
        ph, pw = F.adaptive_avg_pool2d(h, (None, 1)), F.adaptive_avg_pool2d(h, (1, None))
        return h * torch.sigmoid(ph) * torch.sigmoid(pw) + F.max_pool2d(h, 3, 1, 1) - F.avg_pool2d(h, 3, 1, 1, count_include_pad=False)


@register(r(2, 2, 6, 6))
class Wavelets(nn.Module):
    """Fixed filters by strided grouped convolutions, and back."""

    def __init__(self):
        super().__init__()
        l, h = torch.tensor([1.0, 1.0]) / math.sqrt(2), torch.tensor([1.0, -1.0]) / math.sqrt(2)
        self.register_buffer("k", torch.stack([torch.outer(a, b) for a in (l, h) for b in (l, h)])[:, None])
        self.c = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        k = self.k.repeat(2, 1, 1, 1)
        y = F.conv2d(x, k, stride=2, groups=2)
        y = y + torch.sign(y) * F.relu(self.c(y).abs() - 0.1)
        return F.conv_transpose2d(y, k, stride=2, groups=2)


@register(r(3, 6), r(3, 6))
class SpectralTwice(nn.Module):
    """A discriminator of what is real and what is not: its vectors move twice a step, by two iterations."""

    def __init__(self):
        super().__init__()
        sn = nn.utils.parametrizations.spectral_norm
        self.a, self.b = sn(nn.Linear(6, 8), n_power_iterations=2), sn(nn.Linear(8, 1, bias=False), eps=1e-6)

    def d(self, x):
        return self.b(F.leaky_relu(self.a(x), 0.2))

    def forward(self, real, fake):
        return F.relu(1 - self.d(real)) + F.relu(1 + self.d(fake))


@register(r(3, 2, 8, 8))
class EqualizedLR(nn.Module):
    """Weights scaled by constants and by a learnt number; a spectral norm that is looked at beside."""

    def __init__(self):
        super().__init__()
        self.w, self.b, self.g = nn.Parameter(torch.randn(4, 2, 3, 3)), nn.Parameter(torch.randn(4)), nn.Parameter(torch.tensor(0.7))
        self.l, self.e = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)), nn.utils.spectral_norm(nn.Embedding(5, 4))

    def forward(self, x):
        h = F.conv2d(x, self.w * (1 / math.sqrt(18)), self.b, stride=2, padding=1)
        h = F.conv_transpose2d(h, self.g * self.w, stride=2)[:, :, :8, :8] + x
        k = (h.mean((2, 3)).sum(1) > 0).long()
        y = F.adaptive_avg_pool2d(F.conv2d(h, self.w / self.g.abs(), bias=self.b * 2), 1).flatten(1)
        return self.l(y) + self.e(k) + self.l.weight.sum() * 0.1
