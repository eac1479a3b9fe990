"""More modules as people write them: vision, time, graphs, generative models."""

import math

import torch
import torch.nn.functional as F
from torch import nn
from registry import MODELS, ids, model


def made(cls, *inputs, fixed=False):
    """Registers a class by its name."""

    def f():
        return (cls(), tuple(x() for x in inputs)) + (("fixed",) if fixed else ())

    f.__name__ = "more_" + cls.__name__.lower()
    MODELS[f.__name__] = f


def register(*inputs, **kw):
    def g(cls):
        made(cls, *inputs, **kw)
        return cls

    return g


def r(*shape):
    return lambda: torch.randn(*shape)


def i(n, *shape):
    return lambda: torch.randint(0, n, shape)


def u(*shape):
    return lambda: torch.rand(*shape)


@register(r(2, 3, 16, 16), i(1000, 2))
class DiffusionUNet(nn.Module):
    """Noise prediction with a sinusoidal time embedding."""

    def __init__(self):
        super().__init__()
        self.time = nn.Sequential(nn.Linear(16, 32), nn.SiLU(), nn.Linear(32, 32))
        self.inc, self.down, self.mid, self.up, self.out = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 4, 2, 1), nn.Conv2d(16, 16, 3, padding=1), nn.ConvTranspose2d(16, 8, 4, 2, 1), nn.Conv2d(16, 3, 3, padding=1)
        self.t1, self.t2 = nn.Linear(32, 8), nn.Linear(32, 16)
        self.n1, self.n2, self.n3 = nn.GroupNorm(4, 8), nn.GroupNorm(4, 16), nn.GroupNorm(4, 8)
        self.attn = nn.MultiheadAttention(16, 4, batch_first=True)

    def embed(self, t):
        half = 8
        f = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / half)
        a = t[:, None].float() * f[None]
        return torch.cat([torch.cos(a), torch.sin(a)], dim=-1)

    def forward(self, x, t):
        e = self.time(self.embed(t))
        h1 = F.silu(self.n1(self.inc(x))) + self.t1(e)[:, :, None, None]
        h2 = F.silu(self.n2(self.down(h1))) + self.t2(e)[:, :, None, None]
        b, c, h, w = h2.shape
        s = h2.view(b, c, h * w).permute(0, 2, 1)
        s = s + self.attn(s, s, s, need_weights=False)[0]
        h2 = self.mid(s.permute(0, 2, 1).view(b, c, h, w))
        u = F.silu(self.n3(self.up(h2)))
        return self.out(torch.cat([u, h1], 1))


@register(r(2, 3, 16, 16))
class VQVAE(nn.Module):
    """Straight-through codes, and the commitment loss beside."""

    def __init__(self):
        super().__init__()
        self.enc = nn.Sequential(nn.Conv2d(3, 8, 4, 2, 1), nn.ReLU(), nn.Conv2d(8, 4, 1))
        self.book = nn.Embedding(16, 4)
        self.dec = nn.Sequential(nn.ConvTranspose2d(4, 8, 4, 2, 1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1))

    def forward(self, x):
        z = self.enc(x).permute(0, 2, 3, 1).contiguous()
        flat = z.view(-1, 4)
        d = torch.cdist(flat[None], self.book.weight[None])[0] if False else flat.pow(2).sum(1, keepdim=True) - 2 * flat @ self.book.weight.t() + self.book.weight.pow(2).sum(1)
        idx = torch.argmin(d, dim=1)
        hot = torch.zeros(idx.shape[0], 16).scatter_(1, idx.unsqueeze(1), 1)
        q = (hot @ self.book.weight).view(z.shape)
        beta = ((q.detach() - z) ** 2).mean((1, 2, 3)) * 0.25 + ((q - z.detach()) ** 2).mean((1, 2, 3))
        q = z + (q - z).detach()
        return self.dec(q.permute(0, 3, 1, 2)) + beta[:, None, None, None]


@register(i(50, 3, 9))
class GRUClassifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.e, self.g, self.fc = nn.Embedding(50, 8, padding_idx=0), nn.GRU(8, 6, num_layers=2, bidirectional=True, batch_first=True), nn.Linear(12, 4)

    def forward(self, x):
        o, h = self.g(self.e(x))
        return self.fc(torch.cat([h[-2], h[-1]], dim=1))


@register(i(50, 3, 9))
class LSTMAttentionPooling(nn.Module):
    def __init__(self):
        super().__init__()
        self.e, self.l, self.a, self.fc = nn.Embedding(50, 8), nn.LSTM(8, 6, bidirectional=True, batch_first=True), nn.Linear(12, 1), nn.Linear(12, 4)

    def forward(self, x):
        o, (h, c) = self.l(self.e(x))
        s = self.a(torch.tanh(o)).squeeze(-1).masked_fill(x == 0, float("-inf"))
        w = F.softmax(s, dim=1)
        return self.fc(torch.bmm(w.unsqueeze(1), o).squeeze(1)) + self.fc(torch.cat([c[0], c[1]], 1))


@register(i(50, 3, 9))
class LSTMLastValid(nn.Module):
    """The last state that is not padding."""

    def __init__(self):
        super().__init__()
        self.e, self.l, self.fc = nn.Embedding(50, 8), nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 4)

    def forward(self, x):
        o, _ = self.l(self.e(x))
        last = (x != 0).sum(1) - 1
        idx = last.view(-1, 1, 1).expand(-1, 1, o.size(2))
        return self.fc(o.gather(1, idx).squeeze(1))


@register(i(30, 2, 7), i(30, 2, 5))
class Seq2SeqTransformer(nn.Module):
    """nn.Transformer with sinusoidal positions, masks of padding and of the future."""

    def __init__(self):
        super().__init__()
        self.src, self.tgt = nn.Embedding(30, 16), nn.Embedding(30, 16)
        pe = torch.zeros(20, 16)
        pos = torch.arange(0, 20).unsqueeze(1).float()
        div = torch.exp(torch.arange(0, 16, 2).float() * (-math.log(10000.0) / 16))
        pe[:, 0::2], pe[:, 1::2] = torch.sin(pos * div), torch.cos(pos * div)
        self.register_buffer("pe", pe.unsqueeze(0))
        self.tf = nn.Transformer(16, 4, 2, 2, 32, 0.0, batch_first=True)
        self.gen = nn.Linear(16, 30)

    def forward(self, s, t):
        mask = nn.Transformer.generate_square_subsequent_mask(t.size(1))
        a = self.src(s) * math.sqrt(16) + self.pe[:, : s.size(1)]
        b = self.tgt(t) * math.sqrt(16) + self.pe[:, : t.size(1)]
        o = self.tf(a, b, tgt_mask=mask, src_key_padding_mask=(s == 1), tgt_key_padding_mask=(t == 1), memory_key_padding_mask=(s == 1))
        return self.gen(o)


@register(r(2, 4, 3, 8, 8))
class ConvLSTM(nn.Module):
    """Frames in, the next frame out; states are made with the batch's size."""

    def __init__(self):
        super().__init__()
        self.cell, self.out = nn.Conv2d(3 + 4, 16, 3, padding=1), nn.Conv2d(4, 3, 1)

    def forward(self, x):
        b, t, c, h, w = x.size()
        hid = torch.zeros(b, 4, h, w, device=x.device)
        cell = torch.zeros(b, 4, h, w, device=x.device)
        outs = []
        for k in range(t):
            i, f, o, g = torch.split(self.cell(torch.cat([x[:, k], hid], dim=1)), 4, dim=1)
            cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
            hid = torch.sigmoid(o) * torch.tanh(cell)
            outs.append(self.out(hid))
        return torch.stack(outs, dim=1)


@register(r(3, 1, 12, 12), r(3, 1, 12, 12), i(2, 3))
class SiameseContrastive(nn.Module):
    """Returns the contrastive loss of each pair."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(100, 8))

    def forward(self, a, b, y):
        d = F.pairwise_distance(self.net(a), self.net(b), keepdim=True)
        y = y.float()[:, None]
        return (1 - y) * d.pow(2) + y * torch.clamp(1.0 - d, min=0.0).pow(2)


@register(r(2, 3, 16, 16))
class SpectralDiscriminator(nn.Module):
    def __init__(self):
        super().__init__()
        sn = nn.utils.spectral_norm
        self.net = nn.Sequential(sn(nn.Conv2d(3, 8, 4, 2, 1)), nn.LeakyReLU(0.2), sn(nn.Conv2d(8, 16, 4, 2, 1)), nn.LeakyReLU(0.2), nn.Flatten(), sn(nn.Linear(256, 1)))

    def forward(self, x):
        return self.net(x)


@register(r(2, 3, 16, 16))
class SpectralParametrized(nn.Module):
    def __init__(self):
        super().__init__()
        sn = nn.utils.parametrizations.spectral_norm
        self.a, self.b, self.c = sn(nn.Conv2d(3, 8, 4, 2, 1)), sn(nn.ConvTranspose2d(8, 4, 4, 2, 1)), sn(nn.Linear(16, 5))

    def forward(self, x):
        return self.c(F.relu(self.b(F.relu(self.a(x)))))


@register(r(2, 1, 14, 14))
class STN(nn.Module):
    """PyTorch's tutorial."""

    def __init__(self):
        super().__init__()
        self.localization = nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2, stride=2), nn.ReLU(True), nn.Conv2d(4, 5, 3), nn.MaxPool2d(2, stride=2), nn.ReLU(True))
        self.fc_loc = nn.Sequential(nn.Linear(20, 8), nn.ReLU(True), nn.Linear(8, 6))
        self.fc_loc[2].weight.data.mul_(0.05)
        self.fc_loc[2].bias.data.copy_(torch.tensor([1, 0.1, 0, 0, 0.9, 0], dtype=torch.float))
        self.conv, self.fc = nn.Conv2d(1, 4, 5), nn.Linear(400, 10)

    def forward(self, x):
        xs = self.localization(x).view(-1, 20)
        theta = self.fc_loc(xs).view(-1, 2, 3)
        grid = F.affine_grid(theta, x.size(), align_corners=True)
        x = F.grid_sample(x, grid, align_corners=True)
        return F.log_softmax(self.fc(F.relu(self.conv(x)).flatten(1)), dim=1)


@register(r(2, 3, 10, 12), r(2, 2, 10, 12))
class FlowWarp(nn.Module):
    """An image warped by a flow of pixels, border padded, bicubic and nearest beside."""

    def __init__(self):
        super().__init__()
        self.refine = nn.Conv2d(2, 2, 3, padding=1)
        self.feat = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x, flow):
        flow = self.refine(flow)
        b, c, h, w = x.shape
        gy, gx = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        base = torch.stack((gx, gy), 0).float()
        v = base[None] + flow
        vx, vy = 2.0 * v[:, 0] / max(w - 1, 1) - 1.0, 2.0 * v[:, 1] / max(h - 1, 1) - 1.0
        grid = torch.stack((vx, vy), dim=3)
        f = self.feat(x)
        return torch.cat([F.grid_sample(f, grid, mode="bilinear", padding_mode="border", align_corners=True), F.grid_sample(f, grid, mode="bicubic", padding_mode="zeros", align_corners=False),
                          F.grid_sample(f, grid, mode="bilinear", padding_mode="reflection", align_corners=False), F.grid_sample(f, grid, mode="nearest", align_corners=False),
                          F.grid_sample(f, grid, mode="bicubic", padding_mode="reflection", align_corners=True), F.grid_sample(f, grid, mode="bicubic", padding_mode="border")], 1)


@register(r(2, 2, 4, 8, 8))
class VideoAutoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc = nn.Sequential(nn.Conv3d(2, 4, 3, stride=(1, 2, 2), padding=1), nn.ReLU(), nn.Conv3d(4, 8, 3, stride=2, padding=1), nn.BatchNorm3d(8), nn.ReLU())
        self.dec = nn.Sequential(nn.ConvTranspose3d(8, 4, 4, stride=2, padding=1), nn.ReLU(), nn.ConvTranspose3d(4, 2, (3, 4, 4), stride=(1, 2, 2), padding=1), nn.Tanh())

    def forward(self, x):
        return self.dec(self.enc(x))


@register(r(2, 3, 16, 16))
class SegNet(nn.Module):
    """Max unpooling with the encoder's positions."""

    def __init__(self):
        super().__init__()
        self.c1, self.c2, self.d2, self.d1 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1)
        self.pool, self.unpool = nn.MaxPool2d(2, 2, return_indices=True), nn.MaxUnpool2d(2, 2)

    def forward(self, x):
        x, i1 = self.pool(F.relu(self.c1(x)))
        x, i2 = self.pool(F.relu(self.c2(x)))
        x = F.relu(self.d2(self.unpool(x, i2)))
        return self.d1(self.unpool(x, i1))


@register(r(2, 10, 6))
class AttentionPooling(nn.Module):
    """A learnt query, as of multiple-instance learning, gated."""

    def __init__(self):
        super().__init__()
        self.V, self.U, self.w, self.q = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 1), nn.Parameter(torch.randn(1, 1, 6))
        self.mha, self.head = nn.MultiheadAttention(6, 2, batch_first=True), nn.Linear(12, 3)

    def forward(self, x):
        a = torch.softmax(self.w(torch.tanh(self.V(x)) * torch.sigmoid(self.U(x))).transpose(1, 2), dim=-1)
        q = self.q.expand(x.shape[0], -1, -1)
        p, _ = self.mha(q, x, x)
        return self.head(torch.cat([(a @ x).squeeze(1), p.squeeze(1)], dim=-1))


@register(r(3, 5, 8))
class TopKMoE(nn.Module):
    """Experts in a loop over all tokens, weighted by a sparse gate, with the balancing loss of each sample."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(8, 4, bias=False)
        self.experts = nn.ModuleList([nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)) for _ in range(4)])

    def forward(self, x):
        logits = self.gate(x)
        w, idx = torch.topk(logits, 2, dim=-1)
        w = F.softmax(w, dim=-1)
        y = torch.zeros_like(x)
        for k, e in enumerate(self.experts):
            m = (idx == k)
            y = y + e(x) * (w * m).sum(-1, keepdim=True)
        probs = F.softmax(logits, dim=-1)
        balance = (probs.mean(1) * F.one_hot(idx, 4).float().sum(2).mean(1)).sum(-1)
        return y + balance[:, None, None]


@register(r(3, 5, 8))
class GatheredExperts(nn.Module):
    """Each token's own expert weights are looked up and multiplied."""

    def __init__(self):
        super().__init__()
        self.gate, self.w = nn.Linear(8, 4), nn.Parameter(torch.randn(4, 8, 8) * 0.3)

    def forward(self, x):
        p = self.gate(x).softmax(-1)
        v, i = p.max(-1)
        return torch.einsum("btd,btde->bte", x, self.w[i]) * v[..., None]


@register(r(2, 6, 4), u(2, 6, 6))
class DenseGCN(nn.Module):
    def __init__(self):
        super().__init__()
        self.w1, self.w2, self.n = nn.Linear(4, 8), nn.Linear(8, 8), nn.BatchNorm1d(6)

    def forward(self, x, adj):
        a = (adj > 0.5).float()
        a = a + torch.eye(6, device=x.device)[None]
        d = a.sum(-1).clamp(min=1).pow(-0.5)
        a = d.unsqueeze(-1) * a * d.unsqueeze(-2)
        h = F.relu(self.n(torch.bmm(a, self.w1(x))))
        h = torch.bmm(a, self.w2(h))
        return torch.cat([h.mean(1), h.max(dim=1).values, h.sum(1)], -1)


@register(r(2, 12, 6))
class Perceiver(nn.Module):
    def __init__(self):
        super().__init__()
        self.latents = nn.Parameter(torch.randn(4, 8) * 0.5)
        self.kv, self.q, self.ln, self.lx = nn.Linear(6, 16), nn.Linear(8, 8), nn.LayerNorm(8), nn.LayerNorm(6)
        self.self_attn, self.head = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True, norm_first=True), nn.Linear(8, 3)

    def forward(self, x):
        l = self.latents.unsqueeze(0).repeat(x.size(0), 1, 1)
        k, v = self.kv(self.lx(x)).chunk(2, dim=-1)
        q = self.q(self.ln(l))
        q, k, v = (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in (q, k, v))
        l = l + F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        l = self.self_attn(l)
        return self.head(l.mean(1))


@register(r(2, 3, 16, 16))
class Mixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.blocks = nn.ModuleList([nn.ModuleDict(dict(n1=nn.LayerNorm(8), t=nn.Sequential(nn.Linear(16, 12), nn.GELU(), nn.Linear(12, 16)), n2=nn.LayerNorm(8), c=nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8)))) for _ in range(2)])
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.stem(x).flatten(2).transpose(1, 2)
        for b in self.blocks:
            x = x + b["t"](b["n1"](x).mT).mT
            x = x + b["c"](b["n2"](x))
        return self.head(x.mean(dim=1))


@register(r(2, 7, 6))
class MambaLoop(nn.Module):
    """A selective scan, one step after the other."""

    def __init__(self):
        super().__init__()
        self.inp, self.conv, self.xp, self.dt, self.out = nn.Linear(6, 16), nn.Conv1d(8, 8, 3, groups=8, padding=2), nn.Linear(8, 2 + 8), nn.Linear(2, 8), nn.Linear(8, 6)
        self.A_log, self.D = nn.Parameter(torch.log(torch.arange(1, 5).float().repeat(8, 1))), nn.Parameter(torch.ones(8))

    def forward(self, x):
        b, l, _ = x.shape
        h, z = self.inp(x).chunk(2, -1)
        h = F.silu(self.conv(h.transpose(1, 2))[..., :l].transpose(1, 2))
        dt, B, C = self.xp(h).split([2, 4, 4], dim=-1)
        dt = F.softplus(self.dt(dt))
        A = -torch.exp(self.A_log)
        dA = torch.exp(torch.einsum("bld,dn->bldn", dt, A))
        dB = torch.einsum("bld,bln,bld->bldn", dt, B, h)
        s, ys = torch.zeros(b, 8, 4, device=x.device, dtype=x.dtype), []
        for t in range(l):
            s = dA[:, t] * s + dB[:, t]
            ys.append(torch.einsum("bdn,bn->bd", s, C[:, t]))
        y = torch.stack(ys, 1) + h * self.D
        return self.out(y * F.silu(z))


@register(r(3, 4))
class KAN(nn.Module):
    """B-splines by Cox and de Boor."""

    def __init__(self):
        super().__init__()
        g = torch.arange(-3, 8 + 1) * 0.4 - 1
        self.register_buffer("grid", g.expand(4, -1).contiguous())
        self.base, self.spline, self.scale = nn.Parameter(torch.randn(5, 4)), nn.Parameter(torch.randn(5, 4, 8) * 0.3), nn.Parameter(torch.ones(5, 4))

    def b_splines(self, x):
        g, x = self.grid, x.unsqueeze(-1)
        b = ((x >= g[:, :-1]) & (x < g[:, 1:])).to(x.dtype)
        for k in range(1, 4):
            b = ((x - g[:, : -(k + 1)]) / (g[:, k:-1] - g[:, : -(k + 1)]) * b[:, :, :-1]) + ((g[:, k + 1 :] - x) / (g[:, k + 1 :] - g[:, 1:(-k)]) * b[:, :, 1:])
        return b.contiguous()

    def forward(self, x):
        w = self.spline * self.scale.unsqueeze(-1)
        return F.linear(F.silu(x), self.base) + F.linear(self.b_splines(x).view(x.size(0), -1), w.view(5, -1))


@register(u(3, 20, 2))
class Siren(nn.Module):
    def __init__(self):
        super().__init__()
        self.l = nn.ModuleList([nn.Linear(2, 16), nn.Linear(16, 16), nn.Linear(16, 3)])

    def forward(self, x):
        x = x * 2 - 1
        for k, l in enumerate(self.l[:-1]):
            x = torch.sin((30.0 if k == 0 else 1.0) * l(x))
        return self.l[-1](x)


@register(r(3, 6))
class RealNVP(nn.Module):
    """Minus the log likelihood of each sample."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.tensor([[1.0, 0, 1, 0, 1, 0], [0, 1, 0, 1, 0, 1]]))
        self.s = nn.ModuleList([nn.Sequential(nn.Linear(6, 8), nn.LeakyReLU(), nn.Linear(8, 6), nn.Tanh()) for _ in range(2)])
        self.t = nn.ModuleList([nn.Sequential(nn.Linear(6, 8), nn.LeakyReLU(), nn.Linear(8, 6)) for _ in range(2)])

    def forward(self, x):
        log_det, z = x.new_zeros(x.shape[0]), x
        for k in reversed(range(2)):
            zm = self.mask[k] * z
            s, t = self.s[k](zm) * (1 - self.mask[k]), self.t[k](zm) * (1 - self.mask[k])
            z = (1 - self.mask[k]) * (z - t) * torch.exp(-s) + zm
            log_det = log_det - s.sum(dim=1)
        logp = (-0.5 * z.pow(2) - 0.5 * math.log(2 * math.pi)).sum(1)
        return -(logp + log_det)


@register(r(2, 6, 5))
class NTM(nn.Module):
    """Content addressing, interpolation, a shift by circular convolution, sharpening; a memory that is written."""

    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.LSTMCell(5 + 4, 8), nn.Linear(8, 4 + 1 + 1 + 3 + 1 + 4 + 4)
        self.mem, self.out = nn.Parameter(torch.randn(6, 4)), nn.Linear(12, 3)

    def forward(self, x):
        b = x.size(0)
        m = self.mem.unsqueeze(0).expand(b, 6, 4)
        h, c = x.new_zeros(b, 8), x.new_zeros(b, 8)
        w, r_ = torch.zeros(b, 6), torch.zeros(b, 4)
        ys = []
        for t in range(x.size(1)):
            h, c = self.cell(torch.cat([x[:, t], r_], 1), (h, c))
            k, beta, g, s, gamma, e, a = torch.split(self.head(h), [4, 1, 1, 3, 1, 4, 4], dim=1)
            wc = F.softmax(F.softplus(beta) * F.cosine_similarity(m, torch.tanh(k).unsqueeze(1), dim=-1), dim=1)
            wg = torch.sigmoid(g) * wc + (1 - torch.sigmoid(g)) * w
            s = F.softmax(s, 1)
            ws = s[:, 0:1] * wg.roll(1, 1) + s[:, 1:2] * wg + s[:, 2:3] * wg.roll(-1, 1)
            w = (ws + 1e-6) ** (1 + F.softplus(gamma))
            w = w / (w.sum(1, keepdim=True) + 1e-16)
            r_ = torch.matmul(w.unsqueeze(1), m).squeeze(1)
            m = m * (1 - w.unsqueeze(-1) * torch.sigmoid(e).unsqueeze(1)) + w.unsqueeze(-1) * torch.tanh(a).unsqueeze(1)
            ys.append(self.out(torch.cat([h, r_], 1)))
        return torch.stack(ys, 1)


@register(r(2, 1, 12, 12))
class CapsNet(nn.Module):
    """Three rounds of routing, the last with a gradient."""

    def __init__(self):
        super().__init__()
        self.conv, self.prim = nn.Conv2d(1, 8, 5), nn.ModuleList([nn.Conv2d(8, 2, 3, 2) for _ in range(4)])
        self.W = nn.Parameter(0.1 * torch.randn(1, 3, 18, 6, 4))

    def squash(self, s, dim=-1):
        n = torch.sum(s**2, dim=dim, keepdim=True)
        return n / (1 + n) * s / (torch.sqrt(n) + 1e-8)

    def forward(self, x):
        x = F.relu(self.conv(x))
        u = torch.stack([p(x).flatten(1) for p in self.prim], dim=-1)
        u = self.squash(u)
        uh = torch.matmul(self.W, u[:, None, :, :, None]).squeeze(-1)
        stop = uh.detach()
        b = torch.zeros(x.size(0), 3, 18, 1)
        for k in range(2):
            c = F.softmax(b, dim=1)
            v = self.squash((c * stop).sum(dim=2))
            b = b + torch.matmul(stop, v.unsqueeze(-1))
        v = self.squash((F.softmax(b, dim=1) * uh).sum(dim=2))
        return v.norm(dim=-1)


class Clipped(nn.Module):
    def forward(self, w):
        return w.clamp(-0.3, 0.3)


class Symmetric(nn.Module):
    def forward(self, w):
        return w.triu() + w.triu(1).transpose(-1, -2)


@register(r(3, 6))
class Parametrized(nn.Module):
    """Weights that are computed from parameters."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 6), nn.utils.parametrizations.weight_norm(nn.Linear(6, 6)), nn.Linear(6, 6)
        nn.utils.parametrize.register_parametrization(self.a, "weight", Symmetric())
        nn.utils.parametrize.register_parametrization(self.c, "weight", Clipped())

    def forward(self, x):
        return self.c(torch.tanh(self.b(torch.tanh(self.a(x)))))


@register(r(2, 4, 5, 6), r(2, 7))
class DictOutputs(nn.Module):
    """Several inputs, several answers by name."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.heads = nn.Conv2d(4, 3, 3), nn.Linear(7, 12), nn.ModuleDict(dict(cls=nn.Linear(48, 5), box=nn.Linear(48, 4)))

    def forward(self, image, meta):
        f = torch.cat([self.a(image).flatten(1), self.b(meta)], dim=1)
        return {"logits": self.heads["cls"](f), "boxes": self.heads["box"](f).sigmoid(), "features": f}


@register(r(2, 3, 8, 8))
class PatchFold(nn.Module):
    """Patches, each through a linear layer, folded back with overlaps divided."""

    def __init__(self):
        super().__init__()
        self.l = nn.Linear(48, 48)

    def forward(self, x):
        p = F.unfold(x, kernel_size=4, stride=2)
        p = self.l(p.transpose(1, 2)).transpose(1, 2)
        norm = F.fold(F.unfold(torch.ones_like(x), 4, stride=2), x.shape[-2:], 4, stride=2)
        return F.fold(p, output_size=x.shape[-2:], kernel_size=4, stride=2) / norm


@register(r(2, 3, 9, 7))
class Scales(nn.Module):
    """Every mode of interpolation, pixel shuffle and its reverse."""

    def __init__(self):
        super().__init__()
        self.c = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x):
        h = self.c(x)
        outs = [F.interpolate(h, scale_factor=2, mode="nearest"), F.interpolate(h, size=(18, 14), mode="bilinear", align_corners=True), F.interpolate(h, scale_factor=2, mode="bicubic", align_corners=False),
                F.interpolate(F.interpolate(h, scale_factor=0.5, mode="bilinear", recompute_scale_factor=True), size=(18, 14), mode="nearest-exact"), F.interpolate(F.interpolate(h, size=(4, 5), mode="area"), size=(18, 14), mode="bilinear"),
                F.interpolate(F.interpolate(h, size=(5, 4), mode="bilinear", antialias=True), size=(18, 14))]
        y = sum(outs)
        return F.pixel_shuffle(y, 2) + F.pixel_shuffle(F.pixel_shuffle(F.pixel_unshuffle(y, 2), 2), 2)


@register(i(12, 3, 5), r(3, 5, 4))
class ScatterGather(nn.Module):
    """Multi-hot bags with repeats, pooling by segments, writes at positions."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.e = nn.Linear(12, 6), nn.Linear(4, 6), nn.Embedding(12, 6)

    def forward(self, x, v):
        hot = torch.zeros(x.size(0), 12).scatter_(1, x, 1.0)
        counts = torch.zeros(x.size(0), 12).scatter_add_(1, x, torch.ones_like(x, dtype=torch.float))
        h = self.b(v)
        seg = (x % 3)
        pooled = torch.zeros(x.size(0), 3, 6).scatter_add(1, seg[..., None].expand(-1, -1, 6), h)
        n = torch.zeros(x.size(0), 3).scatter_add(1, seg, torch.ones(x.size(0), 5)).clamp(min=1)
        pooled = pooled / n[..., None]
        back = pooled.gather(1, seg.unsqueeze(-1).expand(-1, -1, 6))
        y = h.clone()
        y[:, 2] = back[:, 1] * 2
        y[..., 1:3] += 1
        best = h.norm(dim=-1).argmax(1)
        return self.a(hot) + self.a(counts) + back.sum(1) + y.mean(1) + h[torch.arange(x.size(0)), best]


@register(r(3, 8))
class Orders(nn.Module):
    """Sorting, ranking, quantiles, thresholds of the greatest, running products."""

    def __init__(self):
        super().__init__()
        self.a, self.w = nn.Linear(8, 90), nn.Parameter(torch.randn(90))

    def forward(self, x):
        v = self.a(x)
        s, i = torch.sort(v, dim=-1, descending=True)
        rank = i.argsort(-1)
        keep = v >= s[:, 9:10]
        med = v.median(dim=-1, keepdim=True).values
        p = torch.cumprod(torch.sigmoid(v[:, :20]), 1)
        t = torch.topk(v, 70, dim=1).values.cumsum(1)
        m = torch.msort(v.t()).t() if False else torch.sort(v, dim=1)[0]
        cdf = torch.softmax(s, -1).cumsum(-1)
        nucleus = torch.softmax(s, -1) * (cdf - torch.softmax(s, -1) < 0.9)
        return torch.cat([s * self.w, v * keep, v * rank.float() / 90, v - med, p, t, m.flip(1), nucleus.gather(1, rank)], 1)


@register(r(3, 6, 5), i(2, 3, 6), i(5, 3, 6))
class MaskedLosses(nn.Module):
    """Losses of each sample, of tokens that count."""

    def __init__(self):
        super().__init__()
        self.l = nn.Linear(5, 5)

    def forward(self, x, mask, y):
        z, m = self.l(x), mask.float()
        ce = F.cross_entropy(z.transpose(1, 2), y, reduction="none")
        ls = F.cross_entropy(z.transpose(1, 2), y, reduction="none", label_smoothing=0.1)
        nll = -F.log_softmax(z, -1).gather(-1, y.unsqueeze(-1)).squeeze(-1)
        pt = torch.exp(-ce)
        focal = (0.25 * (1 - pt) ** 2 * ce)
        p = torch.softmax(z, -1)
        hot = F.one_hot(y, 5).float()
        dice = 1 - (2 * (p * hot).sum(1) + 1) / (p.sum(1) + hot.sum(1) + 1)
        mse = ((z.sigmoid() - hot) ** 2).mean(-1)
        kl = F.kl_div(F.log_softmax(z, -1), F.softmax(x, -1), reduction="none").sum(-1)
        bce = F.binary_cross_entropy(z.sigmoid(), hot, reduction="none").mean(-1)
        each = lambda v: (v * m).sum(1) / m.sum(1).clamp(min=1)
        return each(ce) + each(ls) + each(nll) + each(focal) + dice.mean(1) + each(mse) + each(kl) + each(bce)


@register(r(3, 6), r(3, 6), r(3, 6))
class TripletCosine(nn.Module):
    """Metric losses of each sample."""

    def __init__(self):
        super().__init__()
        self.l = nn.Linear(6, 4)

    def forward(self, a, p, n):
        a, p, n = self.l(a), self.l(p), self.l(n)
        t = F.triplet_margin_loss(a, p, n, margin=1.0, reduction="none")
        y = torch.ones(a.size(0))
        c = F.cosine_embedding_loss(a, p, y, reduction="none") + F.cosine_embedding_loss(a, n, -y, margin=0.1, reduction="none")
        r_ = F.margin_ranking_loss(a.sum(1), n.sum(1), y, margin=0.3, reduction="none")
        h = F.hinge_embedding_loss(F.pairwise_distance(a, n), -y, reduction="none")
        s = F.soft_margin_loss(a, torch.ones_like(a), reduction="none").mean(1)
        g = 0.5 * (torch.log(F.softplus(n).clamp(min=1e-6)) + (a - p.detach()) ** 2 / F.softplus(n).clamp(min=1e-6)).mean(1)
        po = F.poisson_nll_loss(a, p.abs(), reduction="none").mean(1)
        return t + c + r_ + h + s + g + po


@register(r(3, 10, 3))
class PointNet(nn.Module):
    """A learnt transform of the points, max pooling over them, and furthest neighbours."""

    def __init__(self):
        super().__init__()
        self.t, self.c1, self.c2, self.b1, self.head = nn.Linear(3, 9), nn.Conv1d(3, 8, 1), nn.Conv1d(8, 16, 1), nn.BatchNorm1d(8), nn.Linear(16, 4)

    def forward(self, x):
        T = self.t(x.max(1)[0]).view(-1, 3, 3) + torch.eye(3).view(1, 3, 3)
        x = torch.bmm(x, T).transpose(2, 1)
        x = self.c2(F.relu(self.b1(self.c1(x))))
        return self.head(torch.max(x, 2, keepdim=True)[0].view(-1, 16))


@register(r(2, 12, 3))
class DGCNN(nn.Module):
    """Edges to the nearest neighbours, found in each sample."""

    def __init__(self):
        super().__init__()
        self.c, self.head = nn.Sequential(nn.Conv2d(6, 8, 1, bias=False), nn.BatchNorm2d(8), nn.LeakyReLU(0.2)), nn.Linear(8, 4)

    def forward(self, x):
        b, n, c = x.shape
        d = torch.cdist(x, x)
        idx = d.topk(4, dim=-1, largest=False)[1]
        nb = torch.gather(x[:, None].expand(b, n, n, c), 2, idx[..., None].expand(b, n, 4, c))
        e = torch.cat([nb - x[:, :, None], x[:, :, None].expand(b, n, 4, c)], -1)
        f = self.c(e.permute(0, 3, 1, 2)).max(-1)[0]
        return self.head(f.mean(-1))
