"""Modules as people write them: text, time series, sound, and recurrent nets."""

import math

import torch
import torch.nn.functional as F
from torch import nn
from more import i, r, register, u


@register(r(3, 7, 4))
class LayerNormLSTM(nn.Module):
    """Gates normalised one by one, states from parameters, a loop in a loop."""

    def __init__(self):
        super().__init__()
        self.wi, self.wh, self.ni, self.nh, self.nc = nn.Linear(4, 32), nn.Linear(8, 32, bias=False), nn.LayerNorm(32), nn.LayerNorm(32), nn.LayerNorm(8)
        self.h0, self.c0, self.out = nn.Parameter(torch.zeros(8)), nn.Parameter(torch.zeros(8)), nn.Linear(8, 3)

    def forward(self, x):
        h, c = (p.unsqueeze(0).expand(x.size(0), -1) for p in (self.h0, self.c0))
        ys = []
        for v in x.unbind(1):
            f, i, o, g = (self.ni(self.wi(v)) + self.nh(self.wh(h))).chunk(4, 1)
            c = torch.addcmul(torch.sigmoid(f + 1) * c, torch.sigmoid(i), torch.tanh(g))
            h = torch.sigmoid(o) * torch.tanh(self.nc(c))
            ys.append(h)
        return self.out(torch.stack(ys).mean(0))


@register(i(30, 3, 9), lambda: torch.tensor([9, 5, 2]))
class MaskedBiLSTM(nn.Module):
    """Lengths as an input: the last valid step, and a mean over the valid ones."""

    def __init__(self):
        super().__init__()
        self.emb, self.rnn, self.out = nn.Embedding(30, 8, padding_idx=0), nn.LSTM(8, 6, batch_first=True, bidirectional=True, num_layers=2), nn.Linear(24, 2)

    def forward(self, x, n):
        h, _ = self.rnn(self.emb(x))
        mask = torch.arange(x.size(1))[None, :] < n[:, None]
        last = h[torch.arange(x.size(0)), n - 1]
        mean = (h * mask.unsqueeze(2)).sum(1) / n.unsqueeze(1)
        return self.out(torch.cat([last, mean], 1))


@register(i(30, 3, 6), i(30, 3, 5))
class BahdanauSeq2Seq(nn.Module):
    """Teacher forcing, additive attention, and a pointer into the source's words."""

    def __init__(self):
        super().__init__()
        self.emb, self.enc, self.dec = nn.Embedding(30, 8), nn.GRU(8, 8, batch_first=True, bidirectional=True), nn.GRUCell(24, 8)
        self.bridge, self.wa, self.ua, self.va, self.out, self.copy = nn.Linear(16, 8), nn.Linear(8, 8), nn.Linear(16, 8), nn.Linear(8, 1, bias=False), nn.Linear(32, 30), nn.Linear(32, 1)

    def forward(self, src, tgt):
        mem, h = self.enc(self.emb(src))
        h = torch.tanh(self.bridge(torch.cat([h[-2], h[-1]], dim=-1)))
        keys, y, out = self.ua(mem), torch.ones_like(tgt[:, 0]), []
        for t in range(tgt.size(1)):
            e = self.va(torch.tanh(self.wa(h).unsqueeze(1) + keys)).squeeze(2).masked_fill(src.eq(0), float("-inf"))
            a = F.softmax(e, dim=1)
            ctx = torch.bmm(a.unsqueeze(1), mem).squeeze(1)
            w = self.emb(y)
            h = self.dec(torch.cat([w, ctx], 1), h)
            s = torch.cat([h, ctx, w], 1)
            p = torch.sigmoid(self.copy(s))
            out.append(((1 - p) * F.softmax(self.out(s), 1)).scatter_add(1, src, p * a))
            y = tgt[:, t]
        return torch.log(torch.stack(out, dim=1) + 1e-8)


@register(i(30, 2, 3, 5))
class HierarchicalAttention(nn.Module):
    """Sentences of a document are folded into the batch and out again."""

    def __init__(self):
        super().__init__()
        self.emb, self.word, self.sent = nn.Embedding(30, 8), nn.GRU(8, 6, batch_first=True, bidirectional=True), nn.GRU(12, 6, batch_first=True, bidirectional=True)
        self.a, self.b, self.u, self.v, self.out = nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 1, bias=False), nn.Linear(12, 1, bias=False), nn.Linear(12, 4)

    def pool(self, h, a, u):
        return (torch.softmax(u(torch.tanh(a(h))), 1) * h).sum(1)

    def forward(self, x):
        n, s, w = x.shape
        h, _ = self.word(self.emb(x.view(n * s, w)))
        h, _ = self.sent(self.pool(h, self.a, self.u).view(n, s, -1))
        return F.log_softmax(self.out(self.pool(h, self.b, self.v)), -1)


@register(i(30, 2, 7), i(30, 2, 5))
class BiDAF(nn.Module):
    """Context and question; a similarity of all pairs, both ways; two pointers."""

    def __init__(self):
        super().__init__()
        self.emb, self.hw, self.rnn, self.w = nn.Embedding(30, 8), nn.ModuleList([nn.Linear(8, 16)]), nn.LSTM(8, 4, batch_first=True, bidirectional=True), nn.Linear(24, 1)
        self.model, self.p1, self.p2 = nn.LSTM(32, 4, batch_first=True, bidirectional=True), nn.Linear(40, 1), nn.Linear(40, 1)

    def embed(self, x):
        x = self.emb(x)
        for l in self.hw:
            h, g = l(x).chunk(2, -1)
            g = torch.sigmoid(g)
            x = g * F.relu(h) + (1 - g) * x
        return self.rnn(x)[0]

    def forward(self, c, q):
        c, q = self.embed(c), self.embed(q)
        cc, qq = c.unsqueeze(2).expand(-1, -1, q.size(1), -1), q.unsqueeze(1).expand(-1, c.size(1), -1, -1)
        s = self.w(torch.cat([cc, qq, cc * qq], -1)).squeeze(-1)
        c2q = torch.bmm(F.softmax(s, 2), q)
        q2c = torch.bmm(F.softmax(s.max(2)[0], 1).unsqueeze(1), c).repeat(1, c.size(1), 1)
        g = torch.cat([c, c2q, c * c2q, c * q2c], -1)
        m = self.model(g)[0]
        return torch.stack([self.p1(torch.cat([g, m], -1)).squeeze(-1), self.p2(torch.cat([g, m], -1)).squeeze(-1)], 1)


@register(i(30, 2, 8))
class BiaffineParser(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb, self.rnn = nn.Embedding(30, 8), nn.LSTM(8, 8, bidirectional=True, batch_first=True)
        self.head, self.dep, self.arc, self.rel = nn.Linear(16, 6), nn.Linear(16, 6), nn.Parameter(torch.randn(7, 6) * 0.1), nn.Parameter(torch.randn(3, 7, 7) * 0.1)

    def forward(self, x):
        h, _ = self.rnn(self.emb(x))
        a, b = F.leaky_relu(self.head(h), 0.1), F.leaky_relu(self.dep(h), 0.1)
        one = torch.ones_like(a[..., :1])
        arc = torch.einsum("bxi,ij,byj->bxy", torch.cat([b, one], -1), self.arc, a)
        rel = torch.einsum("bxi,oij,byj->bxyo", torch.cat([b, one], -1), self.rel, torch.cat((a, one), -1))
        arc = arc.masked_fill(torch.eye(x.size(1), dtype=torch.bool)[None], -1e9)
        return torch.cat([arc.log_softmax(-1).exp().unsqueeze(-1), rel], -1)


@register(i(30, 2, 8))
class TransformerXL(nn.Module):
    """Relative positions by the shift of a padded matrix; content and position biases; a memory."""

    def __init__(self):
        super().__init__()
        self.emb, self.qkv, self.r, self.o, self.n = nn.Embedding(30, 16), nn.Linear(16, 48, bias=False), nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False), nn.LayerNorm(16)
        self.u, self.v = nn.Parameter(torch.randn(2, 8) * 0.1), nn.Parameter(torch.randn(2, 8) * 0.1)
        self.register_buffer("inv", 1 / (10000 ** (torch.arange(0.0, 16, 2.0) / 16)))

    def shift(self, x):
        b, h, n, m = x.shape
        x = torch.cat([torch.zeros(b, h, n, 1, dtype=x.dtype), x], 3).view(b, h, m + 1, n)
        return x[:, :, 1:].view(b, h, n, m)

    def forward(self, x):
        h = self.emb(x)
        b, n = x.shape
        pos = torch.arange(n - 1, -1, -1.0)
        s = torch.outer(pos, self.inv)
        rk = self.r(torch.cat([s.sin(), s.cos()], -1)).view(n, 2, 8)
        q, k, v = torch.chunk(self.qkv(h).view(b, n, 3, 2, 8), 3, dim=2)
        q, k, v = q.squeeze(2), k.squeeze(2), v.squeeze(2)
        ac = torch.einsum("bind,bjnd->bnij", (q + self.u, k))
        bd = self.shift(torch.einsum("bind,jnd->bnij", (q + self.v, rk)))
        a = (ac + bd).mul_(8**-0.5).masked_fill(torch.triu(torch.ones(n, n, dtype=torch.uint8), diagonal=1).bool(), -1e30)
        y = torch.einsum("bnij,bjnd->bind", F.softmax(a, 3), v).contiguous().view(b, n, 16)
        return F.linear(self.n(h + self.o(y)), self.emb.weight)


@register(i(30, 2, 8))
class RetNet(nn.Module):
    """Retention in its parallel form: decay masks, rotation, group norm over heads."""

    def __init__(self):
        super().__init__()
        self.emb, self.q, self.k, self.v, self.g, self.o, self.gn = nn.Embedding(30, 16), *(nn.Linear(16, 16, bias=False) for _ in range(5)), nn.GroupNorm(2, 16, affine=False)
        self.register_buffer("decay", torch.log(1 - 2 ** (-5 - torch.arange(2, dtype=torch.float32))))

    def forward(self, x):
        h = self.emb(x)
        b, n, _ = h.shape
        idx = torch.arange(n).to(h)
        d = idx[:, None] - idx[None]
        mask = torch.where(d >= 0, torch.exp(d.clamp(min=0)[None] * self.decay[:, None, None]), 0.0)
        mask = mask / mask.sum(-1, keepdim=True).sqrt()
        q, k, v = (l(h).view(b, n, 2, 8).transpose(1, 2) for l in (self.q, self.k, self.v))
        s = q @ (k * 8**-0.5).transpose(-1, -2) * mask
        s = s / s.detach().abs().sum(-1, keepdim=True).clamp(min=1, max=5e4)
        y = (s @ v).transpose(1, 2).reshape(b * n, 16)
        return self.o(F.silu(self.g(h)) * self.gn(y).view(b, n, 16))


@register(i(30, 2, 8))
class SelectiveScan(nn.Module):
    """Mamba's block by hand: a causal depthwise convolution and a scan step by step."""

    def __init__(self):
        super().__init__()
        self.emb, self.inp, self.conv, self.x, self.dt, self.out = nn.Embedding(30, 8), nn.Linear(8, 32, bias=False), nn.Conv1d(16, 16, 4, groups=16, padding=3), nn.Linear(16, 2 + 8, bias=False), nn.Linear(2, 16), nn.Linear(16, 8, bias=False)
        self.A_log, self.D = nn.Parameter(torch.log(torch.arange(1, 5, dtype=torch.float32).repeat(16, 1))), nn.Parameter(torch.ones(16))

    def forward(self, ids):
        x, z = self.inp(self.emb(ids)).chunk(2, dim=-1)
        n = x.shape[1]
        x = F.silu(self.conv(x.transpose(1, 2))[..., :n].transpose(1, 2))
        dt, B, C = self.x(x).split([2, 4, 4], dim=-1)
        dt = F.softplus(self.dt(dt))
        A = -torch.exp(self.A_log.float())
        dA = torch.exp(torch.einsum("bld,dn->bldn", dt, A))
        dBu = torch.einsum("bld,bln,bld->bldn", dt, B, x)
        s, ys = torch.zeros(x.shape[0], 16, 4), []
        for t in range(n):
            s = dA[:, t] * s + dBu[:, t]
            ys.append(torch.einsum("bdn,bn->bd", s, C[:, t]))
        return self.out((torch.stack(ys, 1) + x * self.D) * F.silu(z))


@register(i(30, 2, 8))
class RWKVLoop(nn.Module):
    """Time mixing by ZeroPad2d's shift, the stable sum of exponentials in a loop."""

    def __init__(self):
        super().__init__()
        self.emb, self.shift = nn.Embedding(30, 8), nn.ZeroPad2d((0, 0, 1, -1))
        self.k, self.v, self.r, self.o = (nn.Linear(8, 8, bias=False) for _ in range(4))
        self.w, self.u, self.mix = nn.Parameter(torch.randn(8) * 0.3), nn.Parameter(torch.randn(8) * 0.3), nn.Parameter(torch.rand(3, 1, 1, 8))

    def forward(self, x):
        h = self.emb(x)
        p = self.shift(h)
        k, v, r = (l(h * m + p * (1 - m)) for l, m in zip((self.k, self.v, self.r), self.mix))
        num, den, top, out = torch.zeros_like(h[:, 0]), torch.zeros_like(h[:, 0]), torch.full_like(h[:, 0], -1e38), []
        w = -torch.exp(self.w)
        for t in range(x.size(1)):
            kk, vv = k[:, t], v[:, t]
            q = torch.maximum(top, self.u + kk)
            a, b = torch.exp(top - q), torch.exp(self.u + kk - q)
            out.append((a * num + b * vv) / (a * den + b))
            q = torch.maximum(top + w, kk)
            a, b = torch.exp(top + w - q), torch.exp(kk - q)
            num, den, top = a * num + b * vv, a * den + b, q
        return self.o(torch.sigmoid(r) * torch.stack(out, dim=1))


@register(r(2, 16, 4))
class S4D(nn.Module):
    """A diagonal state space model: a Vandermonde product makes the kernel, an FFT convolves."""

    def __init__(self):
        super().__init__()
        self.inp, self.log_dt = nn.Linear(4, 6), nn.Parameter(torch.rand(6) * 2 - 4)
        self.C, self.log_A_real, self.A_imag, self.D = nn.Parameter(torch.randn(6, 4, 2)), nn.Parameter(torch.log(0.5 * torch.ones(6, 4))), nn.Parameter(math.pi * torch.arange(4.0).repeat(6, 1)), nn.Parameter(torch.randn(6))
        self.out = nn.Sequential(nn.Conv1d(6, 12, 1), nn.GLU(dim=-2))

    def forward(self, x):
        u = self.inp(x).transpose(-1, -2)
        n = u.size(-1)
        dt, C, A = torch.exp(self.log_dt), torch.view_as_complex(self.C), -torch.exp(self.log_A_real) + 1j * self.A_imag
        dtA = A * dt.unsqueeze(-1)
        C = C * (torch.exp(dtA) - 1.0) / A
        K = 2 * torch.einsum("hn,hnl->hl", C, torch.exp(dtA.unsqueeze(-1) * torch.arange(n))).real
        y = torch.fft.irfft(torch.fft.rfft(u, n=2 * n) * torch.fft.rfft(K, n=2 * n), n=2 * n)[..., :n]
        return self.out(F.gelu(y + u * self.D.unsqueeze(-1))).mean(-1)


@register(r(2, 16, 6))
class Hyena(nn.Module):
    """Long filters made by a small network with decays, and gates."""

    def __init__(self):
        super().__init__()
        self.inp, self.short, self.filter, self.out = nn.Linear(6, 18), nn.Conv1d(18, 18, 3, padding=2, groups=18), nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 6)), nn.Linear(6, 6)
        self.bias = nn.Parameter(torch.randn(6))

    def forward(self, x):
        n = x.shape[1]
        v, a, b = self.short(self.inp(x).mT)[..., :n].split(6, dim=1)
        t = torch.linspace(0, 1, n)[:, None]
        z = torch.cat([t, torch.cos(2 * math.pi * t), torch.sin(2 * math.pi * t)], -1)
        k = (self.filter(z) * torch.exp(-t * torch.linspace(1, 4, 6))).mT
        y = torch.fft.irfft(torch.fft.rfft(v * a, 2 * n) * torch.fft.rfft(k, 2 * n), 2 * n, norm="backward")[..., :n]
        return self.out(((y + v * a * self.bias[:, None]) * b).transpose(1, 2))


@register(r(2, 10, 4))
class MinGRU(nn.Module):
    """A parallel scan in logarithms by cumsum and logcumsumexp."""

    def __init__(self):
        super().__init__()
        self.hg, self.out = nn.Linear(4, 16, bias=False), nn.Linear(8, 3)

    def forward(self, x):
        h, g = self.hg(x).chunk(2, -1)
        coeff = -F.softplus(g)
        values = -F.softplus(-g) + torch.where(h >= 0, (F.relu(h) + 0.5).log(), -F.softplus(-h))
        a = F.pad(coeff.cumsum(1), (0, 0, 1, 0))
        v = F.pad(values, (0, 0, 1, 0), value=-3.0)
        return self.out((a + (v - a).logcumsumexp(dim=1)).exp()[:, 1:])


@register(r(2, 8, 6))
class MLSTM(nn.Module):
    """xLSTM's matrix memory: exponential gates with a stabiliser, in its parallel form."""

    def __init__(self):
        super().__init__()
        self.qkv, self.ig, self.fg, self.o = nn.Linear(6, 18), nn.Linear(18, 2), nn.Linear(18, 2), nn.Linear(6, 6)

    def forward(self, x):
        z = self.qkv(x)
        b, n, _ = x.shape
        q, k, v = (t.view(b, n, 2, 3).transpose(1, 2) for t in z.chunk(3, 2))
        i, f = self.ig(z).transpose(1, 2)[..., None], F.logsigmoid(self.fg(z).transpose(-1, -2).unsqueeze(-1))
        c = torch.cat([torch.zeros_like(f[:, :, :1]), torch.cumsum(f, dim=-2)], dim=-2)
        rep = c.repeat(1, 1, 1, n + 1)
        d = (rep - rep.transpose(-2, -1))[:, :, 1:, 1:]
        d = torch.where(torch.tril(torch.ones(n, n, dtype=torch.bool)), d, -float("inf")) + i.transpose(-2, -1)
        m, _ = torch.max(d, dim=-1, keepdim=True)
        s = q @ (k / math.sqrt(3)).transpose(-2, -1) * torch.exp(d - m)
        norm = torch.maximum(s.sum(-1, keepdim=True).abs(), torch.exp(-m))
        return self.o((s / (norm + 1e-6) @ v).transpose(1, 2).reshape(b, n, -1))


@register(r(2, 1, 64))
class ConvTasNet(nn.Module):
    """Masks over a learned basis; global layer norm; overlap and add; SI-SNR."""

    class GLN(nn.Module):
        def __init__(self, n):
            super().__init__()
            self.g, self.b = nn.Parameter(torch.ones(1, n, 1)), nn.Parameter(torch.zeros(1, n, 1))

        def forward(self, y):
            m = y.mean(dim=1, keepdim=True).mean(dim=2, keepdim=True)
            v = torch.pow(y - m, 2).mean(dim=1, keepdim=True).mean(dim=2, keepdim=True)
            return self.g * (y - m) / torch.pow(v + 1e-8, 0.5) + self.b

    def __init__(self):
        super().__init__()
        self.enc, self.ln, self.bottle, self.masks, self.dec = nn.Conv1d(1, 12, 8, stride=4, bias=False), self.GLN(12), nn.Conv1d(12, 8, 1), nn.Conv1d(8, 24, 1), nn.Linear(12, 8, bias=False)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Conv1d(8, 16, 1), nn.PReLU(), self.GLN(16), nn.Conv1d(16, 16, 3, padding=d, dilation=d, groups=16), nn.PReLU(), self.GLN(16), nn.Conv1d(16, 8, 1)) for d in (1, 2, 4))

    def forward(self, x):
        w = F.relu(self.enc(x))
        h = self.bottle(self.ln(w))
        for b in self.blocks:
            h = h + b(h)
        m = F.softmax(self.masks(h).view(x.size(0), 2, 12, -1), dim=1)
        s = self.dec((w.unsqueeze(1) * m).transpose(2, 3))
        n, c, k, l = s.shape
        s = s.view(n, c, k, 2, 4)
        y = torch.zeros(n, c, (k + 1) * 4)
        sub = F.pad(s[:, :, :, 0].reshape(n, c, -1), (0, 4)) + F.pad(s[:, :, :, 1].reshape(n, c, -1), (4, 0))
        y = y + sub
        t = x - x.mean(-1, keepdim=True)
        y = y - y.mean(-1, keepdim=True)
        p = (y * t).sum(-1, keepdim=True) * t / (t.pow(2).sum(-1, keepdim=True) + 1e-8)
        return 10 * torch.log10(p.pow(2).sum(-1) / ((y - p).pow(2).sum(-1) + 1e-8) + 1e-8)


@register(r(2, 2, 64))
class Demucs(nn.Module):
    """GLU, a recurrent middle, transposed convolutions over cropped skips; input scaled by its own deviation."""

    def __init__(self):
        super().__init__()
        self.enc = nn.ModuleList(nn.Sequential(nn.Conv1d(a, b, 8, 4), nn.ReLU(), nn.Conv1d(b, 2 * b, 1), nn.GLU(dim=1)) for a, b in [(2, 6), (6, 8)])
        self.lstm, self.lin = nn.LSTM(8, 8, num_layers=2, bidirectional=True), nn.Linear(16, 8)
        self.dec = nn.ModuleList(nn.Sequential(nn.Conv1d(a, 2 * a, 3, padding=1), nn.GLU(1), nn.ConvTranspose1d(a, b, 8, 4), act) for a, b, act in [(8, 6, nn.ReLU()), (6, 4, nn.Identity())])

    def forward(self, x):
        mono = x.mean(dim=1, keepdim=True)
        m, s = mono.mean(dim=-1, keepdim=True), mono.std(dim=-1, keepdim=True)
        h = F.pad((x - m) / (1e-5 + s), (0, 20))
        skips = []
        for e in self.enc:
            h = e(h)
            skips.append(h)
        h = h.permute(2, 0, 1)
        h = self.lin(self.lstm(h)[0]).permute(1, 2, 0)
        for d in self.dec:
            k = skips.pop(-1)
            h = d(h + k[..., : h.shape[-1]])
        return (h * s + m).view(x.size(0), 2, 2, -1)[..., : x.size(-1)]


@register(r(2, 12, 8))
class Conformer(nn.Module):
    """Half feed-forwards, attention with a class's relative positions, GLU convolution module."""

    def __init__(self):
        super().__init__()
        ff = lambda: nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 32), nn.SiLU(), nn.Dropout(0.1), nn.Linear(32, 8))
        self.ff1, self.ff2, self.n, self.qkv, self.rel, self.o = ff(), ff(), nn.LayerNorm(8), nn.Linear(8, 24), nn.Embedding(2 * 6 + 1, 4), nn.Linear(8, 8)
        self.cn, self.pw, self.dw, self.bn, self.pw2, self.final = nn.LayerNorm(8), nn.Conv1d(8, 16, 1), nn.Conv1d(8, 8, 7, padding="same", groups=8), nn.BatchNorm1d(8), nn.Conv1d(8, 8, 1), nn.LayerNorm(8)

    def forward(self, x):
        x = x + 0.5 * self.ff1(x)
        b, n, _ = x.shape
        q, k, v = (t.reshape(b, n, 2, 4).transpose(1, 2) for t in self.qkv(self.n(x)).chunk(3, -1))
        s = torch.arange(n)
        d = (s[:, None] - s[None, :]).clamp(-6, 6) + 6
        e = self.rel(d).to(q)
        a = (torch.einsum("bhid,bhjd->bhij", q, k) + torch.einsum("bhnd,nrd->bhnr", q, e)) * 0.5
        x = x + self.o((a.softmax(-1) @ v).transpose(1, 2).reshape(b, n, 8))
        h = F.glu(self.pw(self.cn(x).transpose(1, 2)), dim=1)
        x = x + self.pw2(F.silu(self.bn(self.dw(h)))).transpose(1, 2)
        x = x + 0.5 * self.ff2(x)
        return self.final(x)


@register(r(2, 10, 32))
class ECAPA(nn.Module):
    """Speakers: Res2Net's scales, squeeze and excite, statistics pooled by attention, angular classes."""

    def __init__(self):
        super().__init__()
        self.c1, self.b1 = nn.Conv1d(10, 16, 5, padding=2), nn.BatchNorm1d(16)
        self.res = nn.ModuleList(nn.Conv1d(4, 4, 3, padding=2, dilation=2) for _ in range(3))
        self.se = nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Conv1d(16, 4, 1), nn.ReLU(), nn.Conv1d(4, 16, 1), nn.Sigmoid())
        self.att = nn.Sequential(nn.Conv1d(48, 8, 1), nn.Tanh(), nn.Conv1d(8, 16, 1), nn.Softmax(dim=2))
        self.out, self.w = nn.Linear(32, 6), nn.Parameter(torch.randn(5, 6))

    def forward(self, x):
        x = x - torch.mean(x, dim=-1, keepdim=True)
        h = self.b1(F.relu(self.c1(x)))
        parts, y = torch.split(h, 4, 1), []
        for k, p in enumerate(parts):
            y.append(p if k == 0 else F.relu(self.res[k - 1](p if k == 1 else p + y[-1])))
        z = torch.cat(y, 1)
        h = h + z * self.se(z)
        t = h.size()[-1]
        g = torch.cat((h, torch.mean(h, dim=2, keepdim=True).repeat(1, 1, t), torch.sqrt(torch.var(h, dim=2, keepdim=True).clamp(min=1e-4)).repeat(1, 1, t)), dim=1)
        w = self.att(g)
        mu = torch.sum(h * w, dim=2)
        sg = torch.sqrt((torch.sum((h**2) * w, dim=2) - mu**2).clamp(min=1e-4))
        cos = F.linear(F.normalize(self.out(torch.cat((mu, sg), 1))), F.normalize(self.w))
        sin = torch.sqrt((1.0 - torch.mul(cos, cos)).clamp(0, 1))
        phi = cos * math.cos(0.2) - sin * math.sin(0.2)
        return torch.where((cos - math.cos(math.pi - 0.2)) > 0, phi, cos - math.sin(math.pi - 0.2) * 0.2) * 30


@register(r(2, 1, 64))
class SincNet(nn.Module):
    """Band-pass filters made from two learned frequencies each."""

    def __init__(self):
        super().__init__()
        self.low, self.band = nn.Parameter(torch.tensor([[50.0], [300.0], [900.0]])), nn.Parameter(torch.tensor([[100.0], [300.0], [500.0]]))
        n = torch.linspace(0, 15 / 2 - 1, steps=7)
        self.register_buffer("window", 0.54 - 0.46 * torch.cos(2 * math.pi * n / 15))
        self.register_buffer("n", 2 * math.pi * torch.arange(-7, 0).view(1, -1) / 4000.0)
        self.cls = nn.Linear(3, 4)

    def forward(self, x):
        low = 30 + torch.abs(self.low)
        high = torch.clamp(low + 30 + torch.abs(self.band), 30, 2000)
        band = (high - low)[:, 0]
        left = ((torch.sin(torch.matmul(high, self.n)) - torch.sin(torch.matmul(low, self.n))) / (self.n / 2)) * self.window
        bp = torch.cat([left, 2 * band.view(-1, 1), torch.flip(left, dims=[1])], dim=1) / (2 * band[:, None])
        y = F.conv1d(x, bp.view(3, 1, 15), stride=2)
        return self.cls(torch.log(F.avg_pool1d(y.abs(), 8).mean(-1) + 1e-3))


@register(r(2, 1, 4, 32))
class EEGNet(nn.Module):
    """Depthwise and separable convolutions; weights clipped by norm where they are used."""

    def __init__(self):
        super().__init__()
        self.c1, self.b1, self.dw, self.b2 = nn.Conv2d(1, 4, (1, 9), padding=(0, 4), bias=False), nn.BatchNorm2d(4, momentum=0.01, eps=1e-3), nn.Conv2d(4, 8, (4, 1), groups=4, bias=False), nn.BatchNorm2d(8)
        self.sep, self.pw, self.b3, self.fc = nn.Conv2d(8, 8, (1, 5), padding=(0, 2), groups=8, bias=False), nn.Conv2d(8, 6, 1, bias=False), nn.BatchNorm2d(6), nn.Linear(6 * 4, 3)

    def forward(self, x):
        h = self.b1(self.c1(x))
        w = torch.renorm(self.dw.weight, p=2, dim=0, maxnorm=1.0)
        h = F.avg_pool2d(F.elu(self.b2(F.conv2d(h, w, groups=4))), (1, 4))
        h = F.avg_pool2d(F.elu(self.b3(self.pw(self.sep(h)))), (1, 2))
        return self.fc(h.view(-1, 6 * 4))


@register(r(2, 16, 3), r(2, 8, 3))
class TemporalFusion(nn.Module):
    """Gated residual networks, variables chosen by softmax, an LSTM's states carried on, attention with shared values."""

    class GRN(nn.Module):
        def __init__(self, i, h, o):
            super().__init__()
            self.a, self.b, self.g, self.skip, self.n = nn.Linear(i, h), nn.Linear(h, h), nn.Linear(h, 2 * o), nn.Linear(i, o) if i != o else nn.Identity(), nn.LayerNorm(o)

        def forward(self, x):
            return self.n(self.skip(x) + F.glu(self.g(self.b(F.elu(self.a(x)))), -1))

    def __init__(self):
        super().__init__()
        self.vars, self.sel = nn.ModuleList(nn.ModuleList([nn.Linear(1, 8), self.GRN(8, 8, 8)]) for _ in range(3)), self.GRN(24, 8, 3)
        self.enc, self.dec, self.q, self.k, self.v, self.o, self.out = nn.LSTM(8, 8, batch_first=True), nn.LSTM(8, 8, batch_first=True), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4), nn.Linear(4, 8), nn.Linear(8, 3)

    def choose(self, x):
        e = [l(x[..., k : k + 1]) for k, (l, _) in enumerate(self.vars)]
        w = torch.softmax(self.sel(torch.cat(e, -1)), -1).unsqueeze(-2)
        return (torch.stack([g(v) for v, (_, g) in zip(e, self.vars)], -1) * w).sum(-1)

    def forward(self, past, future):
        a, b = self.choose(past), self.choose(future)
        h, s = self.enc(a)
        g, _ = self.dec(b, s)
        t = torch.cat([h, g], 1)
        n, m = t.size(1), g.size(1)
        mask = torch.arange(n)[None] > torch.arange(n - m, n)[:, None]
        v, ws = self.v(t), []
        for head in range(2):
            q, k = self.q(g)[..., head * 4 : head * 4 + 4], self.k(t)[..., head * 4 : head * 4 + 4]
            ws.append((q @ k.transpose(1, 2) / 2).masked_fill(mask, -1e9).softmax(2) @ v)
        return self.out(g + self.o(torch.stack(ws).mean(0)))


@register(r(3, 24, 2))
class NHiTS(nn.Module):
    """Pools of several sizes, coefficients interpolated, residuals backwards, a level for each series."""

    def __init__(self):
        super().__init__()
        self.pools = nn.ModuleList(nn.MaxPool1d(k, stride=k, ceil_mode=True) for k in (5, 2, 1))
        self.mlps = nn.ModuleList(nn.Sequential(nn.Linear(-(-24 // k), 16), nn.ReLU(), nn.Linear(16, 24 + p)) for k, p in ((5, 2), (2, 4), (1, 8)))

    def forward(self, x):
        x = x.permute(0, 2, 1)
        level = x[..., -1:]
        res, out = (x - level).flip(dims=(-1,)), level.expand(-1, -1, 8)
        for pool, mlp in zip(self.pools, self.mlps):
            t = mlp(pool(res))
            back, knots = t[..., :24], t[..., 24:]
            res = res - back
            out = out + F.interpolate(knots, size=8, mode="linear")
        return out.permute(0, 2, 1)


@register(r(2, 24, 3))
class Autoformer(nn.Module):
    """Trends by replicated ends and averages; attention over delays, by the correlation that an FFT gives."""

    def __init__(self):
        super().__init__()
        self.inp, self.q, self.k, self.v, self.o, self.trend = nn.Conv1d(3, 8, 3, padding=1, padding_mode="circular", bias=False), *(nn.Linear(8, 8) for _ in range(4)), nn.Linear(3, 8)

    def decomp(self, x):
        front, end = x[:, 0:1].repeat(1, 2, 1), x[:, -1:].repeat(1, 2, 1)
        m = F.avg_pool1d(torch.cat([front, x, end], 1).permute(0, 2, 1), 5, 1, 0).permute(0, 2, 1)
        return x - m, m

    def forward(self, x):
        s, trend = self.decomp(x)
        h = self.inp(s.transpose(1, 2)).transpose(1, 2)
        q, k, v = (l(h).permute(0, 2, 1).contiguous() for l in (self.q, self.k, self.v))
        n = x.size(1)
        corr = torch.fft.irfft(torch.fft.rfft(q, dim=-1) * torch.conj(torch.fft.rfft(k, dim=-1)), n=n, dim=-1)
        w, d = torch.topk(corr.mean(1), 3, dim=-1)
        w = torch.softmax(w, dim=-1)
        base, vv, out = torch.arange(n)[None, None], v.repeat(1, 1, 2), torch.zeros_like(v)
        for t in range(3):
            out = out + torch.gather(vv, -1, (base + d[:, t, None, None]).expand(-1, 8, -1)) * w[:, t, None, None]
        return self.o(out.transpose(1, 2)) + self.trend(trend)


@register(r(2, 16, 5))
class InvertedTransformer(nn.Module):
    """Each variable is a token; the series is normalised by what is computed without gradients."""

    def __init__(self):
        super().__init__()
        self.emb, self.enc, self.out = nn.Linear(16, 16), nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, activation="gelu", batch_first=True, norm_first=True), 2, enable_nested_tensor=False), nn.Linear(16, 6)

    def forward(self, x):
        m = x.mean(1, keepdim=True).detach()
        x = x - m
        s = torch.sqrt(torch.var(x, dim=1, keepdim=True, unbiased=False) + 1e-5)
        x = x / s
        y = self.out(self.enc(self.emb(x.permute(0, 2, 1)))).permute(0, 2, 1)[:, :, :5]
        return y * s[:, 0, :].unsqueeze(1).repeat(1, 6, 1) + m[:, 0, :].unsqueeze(1).repeat(1, 6, 1)


@register(i(20, 2, 6), r(2, 12, 4))
class Tacotron(nn.Module):
    """Attention that knows where it was: the weights so far go through a convolution; a prenet; a stop token."""

    def __init__(self):
        super().__init__()
        self.emb, self.pre, self.rnn, self.q, self.m, self.loc, self.ld, self.v, self.out = nn.Embedding(20, 8), nn.Linear(4, 6), nn.LSTMCell(14, 8), nn.Linear(8, 6, bias=False), nn.Linear(8, 6, bias=False), nn.Conv1d(2, 3, 5, padding=2, bias=False), nn.Linear(3, 6, bias=False), nn.Linear(6, 1, bias=False), nn.Linear(16, 9)

    def forward(self, text, mel):
        mem = self.emb(text)
        b, n, _ = mem.shape
        keys, ctx, w, acc = self.m(mem), mem.new_zeros(b, 8), mem.new_zeros(b, n), mem.new_zeros(b, n)
        h = c = mem.new_zeros(b, 8)
        frames, outs = torch.cat([mel.new_zeros(b, 1, 4), mel.reshape(b, 6, 8)[:, :-1, 4:]], 1), []
        for f in frames.transpose(0, 1):
            h, c = self.rnn(torch.cat([F.relu(self.pre(f)), ctx], -1), (h, c))
            l = self.ld(self.loc(torch.stack([w, acc], 1)).transpose(1, 2))
            w = F.softmax(self.v(torch.tanh(self.q(h.unsqueeze(1)) + keys + l)).squeeze(-1), -1)
            acc = acc + w
            ctx = torch.bmm(w.unsqueeze(1), mem).squeeze(1)
            outs.append(self.out(torch.cat([h, ctx], 1)))
        y = torch.stack(outs, 1)
        return torch.cat([y[..., :8].reshape(b, 12, 4), torch.sigmoid(y[..., 8:]).repeat_interleave(2, 1)], -1)


@register(r(2, 4, 12))
class HiFiGAN(nn.Module):
    """Transposed convolutions with weight norm, kernels of several sizes side by side."""

    def __init__(self):
        super().__init__()
        wn = torch.nn.utils.parametrizations.weight_norm
        self.pre, self.ups = wn(nn.Conv1d(4, 16, 7, padding=3)), nn.ModuleList(wn(nn.ConvTranspose1d(16 // 2**k, 8 // 2**k, 8, 4, padding=2)) for k in range(2))
        self.res = nn.ModuleList(wn(nn.Conv1d(c, c, k, padding=(k - 1) * d // 2, dilation=d)) for c in (8, 4) for k, d in ((3, 1), (7, 3)))
        self.post = wn(nn.Conv1d(4, 1, 7, padding=3, padding_mode="reflect"))

    def forward(self, x):
        x = self.pre(x)
        for k, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, 0.1))
            x = sum(x + r(F.leaky_relu(x, 0.1)) for r in self.res[2 * k : 2 * k + 2]) / 2
        return torch.tanh(self.post(F.leaky_relu(x)))


@register(i(30, 2, 10))
class Nystrom(nn.Module):
    """Landmarks, and a pseudo-inverse by iteration."""

    def __init__(self):
        super().__init__()
        self.emb, self.qkv, self.conv, self.o = nn.Embedding(30, 8), nn.Linear(8, 24, bias=False), nn.Conv2d(2, 2, (3, 1), padding=(1, 0), groups=2, bias=False), nn.Linear(8, 8)

    def forward(self, x):
        h = self.emb(x)
        q, k, v = (t.reshape(*x.shape, 2, 4).transpose(1, 2) for t in self.qkv(h).chunk(3, -1))
        ql, kl = (t.reshape(x.size(0), 2, 5, 2, 4).mean(-2) for t in (q, k))
        a, b, c = (torch.softmax(m, -1) for m in (q @ kl.mT, ql @ kl.mT, ql @ k.mT))
        col, row = b.abs().sum(dim=-1), b.abs().sum(dim=-2)
        z = b.mT / (col.amax(-1, keepdim=True) * row.amax(-1, keepdim=True)).unsqueeze(-1)
        eye = torch.eye(5)
        for _ in range(3):
            bz = b @ z
            z = 0.25 * z @ (13 * eye - (bz @ (15 * eye - (bz @ (7 * eye - bz)))))
        return self.o((a @ z @ (c @ v) + self.conv(v)).transpose(1, 2).flatten(2))


@register(i(30, 2, 12))
class LocalAttention(nn.Module):
    """Windows that look one window back, positions by T5's buckets in logarithms."""

    def __init__(self):
        super().__init__()
        self.emb, self.qkv, self.o, self.bias = nn.Embedding(30, 8), nn.Linear(8, 24), nn.Linear(8, 8), nn.Embedding(8, 2)

    def bucket(self, d):
        d = -torch.min(d, torch.zeros_like(d))
        big = 4 + (torch.log(d.float() / 4) / math.log(16 / 4) * 4).to(torch.long)
        return torch.where(d < 4, d, torch.min(big, torch.full_like(big, 7)))

    def forward(self, x):
        b, n = x.shape
        q, k, v = (t.view(b, n // 4, 4, 2, 4).permute(0, 3, 1, 2, 4) for t in self.qkv(self.emb(x)).chunk(3, -1))
        back = lambda t: torch.cat([F.pad(t, (0, 0, 0, 0, 1, 0))[:, :, :-1], t], dim=3)
        k, v = back(k), back(v)
        d = (torch.arange(8) - 4)[None] - torch.arange(4)[:, None]
        s = torch.einsum("bhwid,bhwjd->bhwij", q, k) / 2 + self.bias(self.bucket(d)).permute(2, 0, 1)[None, :, None]
        pad = torch.arange(n // 4)[:, None, None] * 4 + (torch.arange(8) - 4)[None, None] < 0
        s = s.masked_fill(pad | (d > 0)[None], torch.finfo(s.dtype).min)
        return self.o(torch.einsum("bhwij,bhwjd->bhwid", s.softmax(-1), v).permute(0, 2, 3, 1, 4).reshape(b, n, 8))


@register(i(30, 2, 8))
class LatentAttention(nn.Module):
    """Compressed keys and values, rotary halves beside plain ones, an RMS norm by torch, tied experts by einsum."""

    def __init__(self):
        super().__init__()
        self.emb, self.q, self.kva, self.kvb, self.n, self.o = nn.Embedding(30, 16), nn.Linear(16, 2 * 12, bias=False), nn.Linear(16, 6 + 4, bias=False), nn.Linear(6, 2 * 16, bias=False), nn.RMSNorm(6), nn.Linear(16, 16, bias=False)
        self.gate, self.w1, self.w2 = nn.Linear(16, 4, bias=False), nn.Parameter(torch.randn(4, 16, 24) * 0.2), nn.Parameter(torch.randn(4, 12, 16) * 0.2)

    def rope(self, x):
        n = x.size(-2)
        f = torch.polar(torch.ones(n, 2), torch.outer(torch.arange(n).float(), 10000 ** -(torch.arange(0, 4, 2).float() / 4)))
        return torch.view_as_real(torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2)) * f).flatten(-2).type_as(x)

    def forward(self, x):
        h = self.emb(x)
        b, n, _ = h.shape
        qn, qr = self.q(h).view(b, n, 2, 12).transpose(1, 2).split([8, 4], -1)
        c, kr = self.kva(h).split([6, 4], dim=-1)
        kn, v = self.kvb(self.n(c)).view(b, n, 2, 16).transpose(1, 2).split([8, 8], -1)
        k = torch.cat([kn, self.rope(kr.unsqueeze(1)).expand(-1, 2, -1, -1)], -1)
        h = h + self.o(F.scaled_dot_product_attention(torch.cat([qn, self.rope(qr)], -1), k, v, is_causal=True).transpose(1, 2).reshape(b, n, 16))
        w, e = torch.topk(torch.sigmoid(self.gate(h)), 2, dim=-1)
        g = torch.zeros_like(self.gate(h)).scatter(-1, e, w / w.sum(-1, keepdim=True))
        a, u = torch.einsum("bnd,edf->bnef", h, self.w1).chunk(2, -1)
        return h + torch.einsum("bnef,efd,bne->bnd", F.silu(a) * u, self.w2, g)
