"""Modules as people write them: pictures, points, graphs, physics, molecules, and what generates them."""

import math

import torch
import torch.nn.functional as F
from torch import nn
from more import i, r, register, u


@register(r(2, 6, 5), lambda: torch.rand(2, 6, 3) * 2)
class EGNN(nn.Module):
    """Features and coordinates of points that update each other, equivariantly."""

    def __init__(self):
        super().__init__()
        self.e, self.x, self.h = nn.Sequential(nn.Linear(11, 8), nn.SiLU(), nn.Linear(8, 8), nn.SiLU()), nn.Sequential(nn.Linear(8, 8), nn.SiLU(), nn.Linear(8, 1, bias=False)), nn.Sequential(nn.Linear(13, 8), nn.SiLU(), nn.Linear(8, 5))
        self.out = nn.Linear(5, 1)

    def forward(self, h, x):
        n = h.size(1)
        d = x[:, :, None] - x[:, None]
        r2 = (d**2).sum(-1, keepdim=True)
        m = self.e(torch.cat([h[:, :, None].expand(-1, -1, n, -1), h[:, None].expand(-1, n, -1, -1), r2], -1))
        m = m * (1 - torch.eye(n)).view(1, n, n, 1)
        x = x + (d / (r2.sqrt() + 1) * self.x(m)).sum(2) / (n - 1)
        h = h + self.h(torch.cat([h, m.sum(2)], -1))
        return torch.cat([x, self.out(h)], -1)


@register(i(10, 2, 5), lambda: torch.randn(2, 5, 3) * 2)
class SchNet(nn.Module):
    """Atoms: Gaussians of distances, shifted softplus, a cosine cutoff."""

    def __init__(self):
        super().__init__()
        self.emb, self.f, self.a, self.b, self.out = nn.Embedding(10, 8, padding_idx=0), nn.Sequential(nn.Linear(6, 8), nn.Softplus(), nn.Linear(8, 8)), nn.Linear(8, 8, bias=False), nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 4), nn.Softplus(), nn.Linear(4, 1))
        self.register_buffer("mu", torch.linspace(0, 5, 6))

    def forward(self, z, x):
        h = self.emb(z)
        d = torch.cdist(x, x) + 0.0
        g = torch.exp(-10.0 * (d.unsqueeze(-1) - self.mu) ** 2)
        c = 0.5 * (torch.cos(d * math.pi / 5.0) + 1.0) * (d < 5.0).float()
        w = self.f(g) * c.unsqueeze(-1)
        h = h + self.b((self.a(h).unsqueeze(1) * w).sum(2)) - math.log(2.0)
        return (self.out(h) * z.gt(0).unsqueeze(-1)).sum(dim=1)


@register(r(2, 5, 5, 6))
class TriangleUpdate(nn.Module):
    """AlphaFold's pairs: multiplication along triangles, attention along rows with a bias, an outer product's mean."""

    def __init__(self):
        super().__init__()
        self.n, self.ab, self.gab, self.no, self.z, self.gz = nn.LayerNorm(6), nn.Linear(6, 16), nn.Linear(6, 16), nn.LayerNorm(8), nn.Linear(8, 6), nn.Linear(6, 6)
        self.qkv, self.bias, self.g, self.o = nn.Linear(6, 24, bias=False), nn.Linear(6, 2, bias=False), nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, z):
        x = self.n(z)
        a, b = (self.ab(x) * self.gab(x).sigmoid()).chunk(2, -1)
        z = z + self.gz(x).sigmoid() * self.z(self.no(torch.einsum("bikc,bjkc->bijc", a, b)))
        x = self.n(z)
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).unbind(-3)
        s = torch.einsum("bijhc,bikhc->bihjk", q, k) / 2 + self.bias(x).permute(0, 3, 1, 2).unsqueeze(1)
        y = torch.einsum("bihjk,bikhc->bijhc", s.softmax(-1), v).flatten(-2)
        return z + self.o(torch.sigmoid(self.g(x)) * y)


@register(r(2, 4, 3), r(2, 7, 2))
class DeepONet(nn.Module):
    """A branch net for functions, a trunk net for places, Fourier features."""

    def __init__(self):
        super().__init__()
        self.branch, self.trunk, self.b = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 8)), nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 8)), nn.Parameter(torch.zeros(1))
        self.register_buffer("B", torch.randn(2, 4))

    def forward(self, u, y):
        p = 2 * math.pi * y @ self.B
        return torch.einsum("bk,bnk->bn", self.branch(u), self.trunk(torch.cat([torch.sin(p), torch.cos(p)], -1))) + self.b


@register(r(2, 8, 8, 2))
class FNO(nn.Module):
    """Fourier layers in two dimensions with complex weights of low modes, written into zeros."""

    def __init__(self):
        super().__init__()
        self.p, self.w, self.q = nn.Linear(4, 6), nn.Conv2d(6, 6, 1), nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 1))
        self.w1, self.w2 = (nn.Parameter(torch.rand(6, 6, 3, 3, dtype=torch.cfloat) / 36) for _ in range(2))

    def grid(self, shape):
        b, n, m = shape[:3]
        x = torch.linspace(0, 1, n).reshape(1, n, 1, 1).repeat([b, 1, m, 1])
        y = torch.linspace(0, 1, m).reshape(1, 1, m, 1).repeat([b, n, 1, 1])
        return torch.cat((x, y), dim=-1)

    def forward(self, x):
        x = self.p(torch.cat((x, self.grid(x.shape)), dim=-1)).permute(0, 3, 1, 2)
        f = torch.fft.rfft2(x)
        o = torch.zeros(x.shape[0], 6, x.size(-2), x.size(-1) // 2 + 1, dtype=torch.cfloat)
        o[:, :, :3, :3] = torch.einsum("bixy,ioxy->boxy", f[:, :, :3, :3], self.w1)
        o[:, :, -3:, :3] = torch.einsum("bixy,ioxy->boxy", f[:, :, -3:, :3], self.w2)
        x = F.gelu(torch.fft.irfft2(o, s=(x.size(-2), x.size(-1))) + self.w(x))
        return self.q(x.permute(0, 2, 3, 1))


@register(r(2, 3))
class LatentODE(nn.Module):
    """Runge-Kutta's steps, with the time beside the state."""

    def __init__(self):
        super().__init__()
        self.f, self.out = nn.Sequential(nn.Linear(4, 12), nn.Tanh(), nn.Linear(12, 3)), nn.Linear(3, 2)

    def rhs(self, t, y):
        return self.f(torch.cat([y, torch.ones_like(y[:, :1]) * t], 1))

    def forward(self, y):
        ts, traj = torch.linspace(0.0, 1.0, 5), [y]
        for a, b in zip(ts[:-1], ts[1:]):
            h = b - a
            k1 = self.rhs(a, y)
            k2 = self.rhs(a + h / 2, y + h * k1 / 2)
            k3 = self.rhs(a + h / 2, y + h * k2 / 2)
            k4 = self.rhs(b, y + h * k3)
            y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
            traj.append(y)
        return self.out(torch.stack(traj, 1))


@register(r(3, 2, 4, 4))
class Glow(nn.Module):
    """Squeeze, activation norm, 1x1 convolution by an LU's factors, affine coupling; the log-likelihood."""

    def __init__(self):
        super().__init__()
        self.loc, self.scale = nn.Parameter(torch.zeros(1, 8, 1, 1)), nn.Parameter(torch.ones(1, 8, 1, 1))
        p, l, up = torch.linalg.lu(torch.linalg.qr(torch.randn(8, 8))[0])
        s = torch.diagonal(up).clone()
        for n, v in dict(p=p, sign=torch.sign(s), lmask=torch.tril(torch.ones(8, 8), -1), umask=torch.triu(torch.ones(8, 8), 1), eye=torch.eye(8)).items():
            self.register_buffer(n, v)
        self.l, self.s, self.up = nn.Parameter(l), nn.Parameter(torch.log(torch.abs(s))), nn.Parameter(torch.triu(up, 1))
        self.net = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))

    def forward(self, x):
        b, c, h, w = x.shape
        x = x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).contiguous().view(b, c * 4, h // 2, w // 2)
        ld = (h * w / 4) * torch.sum(torch.log(torch.abs(self.scale))) + (h * w / 4) * self.s.sum()
        x = self.scale * (x + self.loc)
        weight = self.p @ (self.l * self.lmask + self.eye) @ (self.up * self.umask + torch.diag(self.sign * torch.exp(self.s)))
        x = F.conv2d(x, weight.unsqueeze(2).unsqueeze(3))
        a, bb = x.chunk(2, 1)
        t, g = self.net(a).chunk(2, 1)
        s = torch.sigmoid(t + 2)
        y = torch.cat([a, (bb + g) * s], 1)
        ld = ld + torch.sum(torch.log(s).view(b, -1), 1)
        return ld - 0.5 * (y.pow(2) + math.log(2 * math.pi)).flatten(1).sum(1)


@register(r(3, 4))
class SplineFlow(nn.Module):
    """Rational-quadratic splines: cumulative widths, a search for the bin, gathers."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2 * 14))

    def forward(self, x):
        a, b = x[:, ::2], torch.tanh(x[:, 1::2]) * 2.9
        w, h, d = self.net(a).view(-1, 2, 14).split([5, 5, 4], -1)
        w, h = (1e-3 + (1 - 5e-3) * F.softmax(t, -1) for t in (w, h))
        d = F.pad(F.softplus(d) + 1e-3, (1, 1), value=1.0)
        cw, ch = (F.pad(torch.cumsum(t, -1), (1, 0)) * 6 - 3 for t in (w, h))
        k = (torch.sum(b[..., None] >= cw, dim=-1) - 1).clamp(0, 4)[..., None]
        x0, x1, y0, y1, d0, d1 = (t.gather(-1, j)[..., 0] for t, j in ((cw, k), (cw, k + 1), (ch, k), (ch, k + 1), (d, k), (d, k + 1)))
        s, t = (y1 - y0) / (x1 - x0), (b - x0) / (x1 - x0)
        den = s + (d0 + d1 - 2 * s) * t * (1 - t)
        y = y0 + (y1 - y0) * (s * t.pow(2) + d0 * t * (1 - t)) / den
        ld = torch.log(s.pow(2) * (d1 * t.pow(2) + 2 * s * t * (1 - t) + d0 * (1 - t).pow(2))) - 2 * torch.log(den)
        return torch.stack([y, ld], -1)


@register(r(3, 4))
class MaskedAutoregressiveFlow(nn.Module):
    """Linear layers whose weights are masked by degrees."""

    class Masked(nn.Linear):
        def __init__(self, i, o, mask):
            super().__init__(i, o)
            self.register_buffer("mask", mask)

        def forward(self, x):
            return F.linear(x, self.mask * self.weight, self.bias)

    def __init__(self):
        super().__init__()
        d0, d1 = torch.arange(4), torch.arange(12) % 3
        self.a, self.b = self.Masked(4, 12, (d1[:, None] >= d0[None]).float()), self.Masked(12, 8, (d0.repeat(2)[:, None] > d1[None]).float())
        self.bn_g, self.bn_b = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(4))

    def forward(self, x):
        m, s = self.b(F.relu(self.a(x))).chunk(2, 1)
        y = (x - m) * torch.exp(-s.clamp(max=3))
        y = y.flip(1) * self.bn_g.exp() + self.bn_b
        return torch.cat([y, -s.sum(1, keepdim=True) + self.bn_g.sum()], 1)


@register(r(3, 3))
class BSplineKAN(nn.Module):
    """Cox-de Boor's recursion over a grid that is a buffer, weights with a scale each."""

    def __init__(self):
        super().__init__()
        self.register_buffer("grid", (torch.arange(-3, 9) * 0.4 - 1).expand(3, -1).contiguous())
        self.base, self.spline, self.scaler = nn.Parameter(torch.randn(4, 3) * 0.3), nn.Parameter(torch.randn(4, 3, 8) * 0.3), nn.Parameter(torch.rand(4, 3))

    def bases(self, x):
        g, x = self.grid, x.unsqueeze(-1)
        b = ((x >= g[:, :-1]) & (x < g[:, 1:])).to(x.dtype)
        for k in range(1, 4):
            b = (x - g[:, : -(k + 1)]) / (g[:, k:-1] - g[:, : -(k + 1)]) * b[:, :, :-1] + (g[:, k + 1 :] - x) / (g[:, k + 1 :] - g[:, 1:(-k)]) * b[:, :, 1:]
        return b.contiguous()

    def forward(self, x):
        return F.linear(F.silu(x), self.base) + F.linear(self.bases(x).view(x.size(0), -1), (self.spline * self.scaler.unsqueeze(-1)).view(4, -1))


@register(r(2, 3, 16, 16))
class ResidualVQ(nn.Module):
    """Codes of codes: nearest neighbours by distances, straight through, commitment; and a finite scalar part."""

    def __init__(self):
        super().__init__()
        self.enc, self.dec = nn.Sequential(nn.Conv2d(3, 8, 4, 2, 1), nn.ReLU(), nn.Conv2d(8, 6, 4, 2, 1)), nn.Sequential(nn.ConvTranspose2d(6, 8, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(8, 3, 4, 2, 1))
        self.books = nn.ModuleList(nn.Embedding(16, 6) for _ in range(2))

    def forward(self, x):
        z = self.enc(x)
        res, total, loss = z.permute(0, 2, 3, 1).contiguous(), 0, 0
        for book in self.books:
            flat = res.view(-1, 6)
            d = torch.sum(flat**2, dim=1, keepdim=True) + torch.sum(book.weight**2, dim=1) - 2 * torch.matmul(flat, book.weight.t())
            onehot = torch.zeros(d.shape[0], 16).scatter_(1, torch.argmin(d, dim=1).unsqueeze(1), 1)
            q = torch.matmul(onehot, book.weight).view(res.shape)
            loss = loss + F.mse_loss(q.detach(), res, reduction="none").mean((1, 2, 3)) * 0.25 + F.mse_loss(q, res.detach(), reduction="none").mean((1, 2, 3))
            q = res + (q - res).detach()
            total, res = total + q, res - q.detach()
        s = torch.tanh(z[:, :2]) * 2
        s = s + (s.round() - s).detach()
        y = self.dec(total.permute(0, 3, 1, 2) + F.pad(s, (0, 0, 0, 0, 0, 4)))
        return (y - x).abs().mean((1, 2, 3)) + loss


@register(r(2, 32, 3))
class PointNetPlus(nn.Module):
    """Farthest points in a loop, neighbours by distance, gathers, a maximum over each group."""

    def __init__(self):
        super().__init__()
        self.c1, self.b1, self.c2, self.fc = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 12, 1), nn.Linear(15, 4)

    def farthest(self, x, n):
        b, m, _ = x.shape
        far, dist, picks = torch.zeros(b, dtype=torch.long), torch.full((b, m), 1e10), []
        for _ in range(n):
            picks.append(far)
            c = x[torch.arange(b), far].unsqueeze(1)
            dist = torch.minimum(dist, ((x - c) ** 2).sum(-1))
            far = dist.max(-1)[1]
        return torch.stack(picks, 1)

    def forward(self, x):
        b = x.size(0)
        idx = self.farthest(x.detach(), 6)
        c = torch.gather(x, 1, idx.unsqueeze(-1).expand(-1, -1, 3))
        d = -2 * torch.matmul(c, x.permute(0, 2, 1)) + (c**2).sum(-1).view(b, 6, 1) + (x**2).sum(-1).view(b, 1, 32)
        near = d.detach().topk(5, dim=-1, largest=False)[1]
        g = x[torch.arange(b).view(b, 1, 1).repeat(1, 6, 5), near] - c.view(b, 6, 1, 3)
        h = F.relu(self.b1(self.c1(g.permute(0, 3, 2, 1))))
        h = torch.max(self.c2(h), 2)[0]
        return self.fc(torch.cat([h, c.transpose(1, 2)], 1).mean(-1))


@register(r(2, 3, 32, 32))
class DETR(nn.Module):
    """Queries over a picture's features with positions of rows and columns; classes and boxes."""

    def __init__(self):
        super().__init__()
        self.back, self.proj = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 2, 2), nn.ReLU()), nn.Conv2d(12, 16, 1)
        self.t = nn.Transformer(16, 4, 1, 2, 32, dropout=0.0)
        self.q, self.row, self.col = nn.Parameter(torch.rand(5, 16)), nn.Parameter(torch.rand(10, 8)), nn.Parameter(torch.rand(10, 8))
        self.cls, self.box = nn.Linear(16, 4), nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))

    def forward(self, x):
        h = self.proj(self.back(x))
        H, W = h.shape[-2:]
        pos = torch.cat([self.col[:W].unsqueeze(0).repeat(H, 1, 1), self.row[:H].unsqueeze(1).repeat(1, W, 1)], dim=-1).flatten(0, 1).unsqueeze(1)
        h = self.t(pos + 0.1 * h.flatten(2).permute(2, 0, 1), self.q.unsqueeze(1).repeat(1, x.size(0), 1)).transpose(0, 1)
        box = self.box(h).sigmoid()
        cx, cy, w, hh = box.unbind(-1)
        return torch.cat([self.cls(h), torch.stack([cx - 0.5 * w, cy - 0.5 * hh, cx + 0.5 * w, cy + 0.5 * hh], dim=-1)], -1)


@register(r(2, 3, 32, 32))
class YOLOHead(nn.Module):
    """Anchors, a grid of cells, boxes decoded in place, an SPPF neck and concatenated scales."""

    def __init__(self):
        super().__init__()
        cba = lambda a, b, k, s: nn.Sequential(nn.Conv2d(a, b, k, s, k // 2, bias=False), nn.BatchNorm2d(b), nn.SiLU(inplace=True))
        self.a, self.b, self.c, self.pool, self.d = cba(3, 8, 3, 2), cba(8, 12, 3, 2), cba(12, 16, 3, 2), nn.MaxPool2d(5, 1, 2), cba(64, 12, 1, 1)
        self.up, self.h = nn.Upsample(None, 2, "nearest"), nn.ModuleList([nn.Conv2d(24, 2 * 7, 1), nn.Conv2d(12, 2 * 7, 1)])
        self.register_buffer("anchors", torch.tensor([[[1.0, 1.5], [2.0, 1.0]], [[3.0, 3.0], [2.0, 4.0]]]))

    def forward(self, x):
        p = self.b(self.a(x))
        s = [self.c(p)]
        for _ in range(3):
            s.append(self.pool(s[-1]))
        q = self.d(torch.cat(s, 1))
        out = []
        for k, (h, f) in enumerate(zip(self.h, (torch.cat([self.up(q), p], 1), q))):
            y = h(f)
            b, _, ny, nx = y.shape
            y = y.view(b, 2, 7, ny, nx).permute(0, 1, 3, 4, 2).contiguous().sigmoid()
            yv, xv = torch.meshgrid([torch.arange(ny), torch.arange(nx)], indexing="ij")
            grid = torch.stack((xv, yv), 2).expand((1, 2, ny, nx, 2)).float() - 0.5
            z = y.clone()
            z[..., 0:2] = (y[..., 0:2] * 2 + grid) * (32 // nx)
            z[..., 2:4] = (y[..., 2:4] * 2) ** 2 * self.anchors[k].view(1, 2, 1, 1, 2)
            out.append(z.view(b, -1, 7))
        return torch.cat(out, 1)


@register(r(2, 3, 16, 16), u(2, 2, 8, 8))
class CenterNet(nn.Module):
    """A heat map with the penalty-reduced focal loss, normalised by the number of peaks of each picture."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.GroupNorm(2, 8), nn.Mish(), nn.Conv2d(8, 2, 1))

    def forward(self, x, gt):
        gt = torch.where(gt > 0.95, torch.ones_like(gt), gt)
        p = torch.clamp(self.net(x).sigmoid_(), min=1e-4, max=1 - 1e-4)
        pos, neg = gt.eq(1).float(), gt.lt(1).float()
        a = torch.log(p) * torch.pow(1 - p, 2) * pos
        b = torch.log(1 - p) * torch.pow(p, 2) * torch.pow(1 - gt, 4) * neg
        n = pos.sum(dim=(1, 2, 3))
        return -(a.sum((1, 2, 3)) + b.sum((1, 2, 3))) / torch.clamp(n, min=1)


@register(r(2, 3, 16, 16))
class IntegralPose(nn.Module):
    """Key points as the mean of a soft heat map; dice and smoothness beside."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.InstanceNorm2d(8, affine=True), nn.ReLU6(), nn.Conv2d(8, 5, 3, padding=1))
        self.beta = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        h = self.net(x)
        n, k, H, W = h.shape
        p = F.softmax((h * self.beta).reshape(n, k, -1), 2).view(n, k, H, W)
        gx, gy = p.sum(2), p.sum(3)
        xs = (gx * torch.linspace(-1, 1, W)).sum(-1)
        ys = (gy * torch.linspace(-1, 1, H)).sum(-1)
        tv = (p[:, :, 1:] - p[:, :, :-1]).abs().sum((2, 3)) + (p[..., 1:] - p[..., :-1]).abs().sum((2, 3))
        return torch.stack([xs, ys, tv], -1)


@register(r(2, 3, 16, 16), r(2, 3, 16, 16))
class StereoVolume(nn.Module):
    """A cost volume of shifted features, 3D convolutions, a soft argmin."""

    def __init__(self):
        super().__init__()
        self.f, self.g = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(True), nn.Conv2d(6, 4, 3, 1, 2, dilation=2)), nn.Sequential(nn.Conv3d(8, 6, 3, padding=1), nn.ReLU(), nn.Conv3d(6, 1, 3, padding=1))

    def forward(self, left, right):
        a, b = self.f(left), self.f(right)
        n, c, h, w = a.shape
        cost = torch.zeros(n, 2 * c, 4, h, w)
        for d in range(4):
            if d > 0:
                cost[:, :c, d, :, d:] = a[:, :, :, d:]
                cost[:, c:, d, :, d:] = b[:, :, :, :-d]
            else:
                cost[:, :c, d], cost[:, c:, d] = a, b
        v = F.interpolate(self.g(cost), [8, 16, 16], mode="trilinear", align_corners=False).squeeze(1)
        p = F.softmax(-v, dim=1)
        return torch.sum(p * torch.arange(8, dtype=p.dtype).view(1, 8, 1, 1), 1)


@register(r(2, 8, 8, 8))
class Restormer(nn.Module):
    """Attention over channels with a learned temperature, gated depthwise feed-forward, bias-free norms, pixel shuffles."""

    def __init__(self):
        super().__init__()
        self.w, self.temp, self.qkv, self.dw, self.o = nn.Parameter(torch.ones(8)), nn.Parameter(torch.ones(2, 1, 1)), nn.Conv2d(8, 24, 1, bias=False), nn.Conv2d(24, 24, 3, padding=1, groups=24, bias=False), nn.Conv2d(8, 8, 1, bias=False)
        self.i, self.fd, self.fo, self.down, self.up = nn.Conv2d(8, 32, 1), nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.Conv2d(16, 8, 1), nn.Sequential(nn.Conv2d(8, 4, 3, padding=1), nn.PixelUnshuffle(2)), nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.PixelShuffle(2))

    def norm(self, x):
        h, w = x.shape[-2:]
        y = x.flatten(2).transpose(1, 2)
        y = y / torch.sqrt(y.var(-1, keepdim=True, unbiased=False) + 1e-5) * self.w
        return y.transpose(1, 2).unflatten(2, (h, w))

    def forward(self, x):
        b, c, h, w = x.shape
        q, k, v = (t.reshape(b, 2, 4, h * w) for t in self.dw(self.qkv(self.norm(x))).chunk(3, dim=1))
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        x = x + self.o(((q @ k.transpose(-2, -1) * self.temp).softmax(dim=-1) @ v).reshape(b, c, h, w))
        a, g = self.fd(self.i(self.norm(x))).chunk(2, 1)
        x = x + self.fo(F.gelu(a) * g)
        return self.up(self.down(x))


@register(r(2, 4, 8, 8))
class OwnKernels(nn.Module):
    """Kernels of each sample: involution by unfold, and a grouped convolution over the folded batch."""

    def __init__(self):
        super().__init__()
        self.red, self.span = nn.Sequential(nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2), nn.ReLU()), nn.Conv2d(2, 9 * 2, 1)
        self.route, self.experts = nn.Linear(4, 3), nn.Parameter(torch.randn(3, 6, 4, 3, 3) * 0.2)

    def forward(self, x):
        b, c, h, w = x.shape
        k = self.span(self.red(x)).view(b, 2, 9, h, w).unsqueeze(2)
        y = (k * F.unfold(x, 3, padding=1).view(b, 2, c // 2, 9, h, w)).sum(3).view(b, c, h, w)
        r = torch.sigmoid(self.route(F.adaptive_avg_pool2d(y, 1).flatten(1)))
        weight = torch.matmul(r, self.experts.view(3, -1)).view(b * 6, 4, 3, 3)
        return F.conv2d(y.reshape(1, b * c, h, w), weight, padding=1, groups=b).view(b, 6, h, w)


@register(r(2, 4, 8, 8))
class CoordinateAttention(nn.Module):
    """Pools along rows and columns; octave's two frequencies; coordinates as channels; a blur of fixed weights."""

    def __init__(self):
        super().__init__()
        self.c1, self.bn, self.ch, self.cw, self.cc, self.lo = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(7, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1, padding_mode="reflect")
        k = torch.tensor([1.0, 2.0, 1.0])
        self.register_buffer("blur", (k[:, None] * k[None] / 16)[None, None].repeat(6, 1, 1, 1))

    def forward(self, x):
        n, c, h, w = x.size()
        a, b = F.adaptive_avg_pool2d(x, (None, 1)), F.adaptive_avg_pool2d(x, (1, None)).permute(0, 1, 3, 2)
        y = F.hardswish(self.bn(self.c1(torch.cat([a, b], dim=2))))
        a, b = torch.split(y, [h, w], dim=2)
        x = x * self.ch(a).sigmoid() * self.cw(b.permute(0, 1, 3, 2)).sigmoid()
        yy, xx = torch.arange(h).float() / (h - 1) * 2 - 1, torch.arange(w).float() / (w - 1) * 2 - 1
        xx, yy = xx.repeat(1, h, 1).expand(n, -1, -1).unsqueeze(1), yy.repeat(1, w, 1).transpose(1, 2).expand(n, -1, -1).unsqueeze(1)
        rr = torch.sqrt(torch.pow(xx - 0.5, 2) + torch.pow(yy - 0.5, 2))
        z = self.cc(torch.cat([x, xx, yy, rr], 1))
        low = F.conv2d(F.pad(z, (1, 1, 1, 1), mode="reflect"), self.blur, stride=2, groups=6)
        return z + F.interpolate(self.lo(low), scale_factor=2, mode="bicubic", align_corners=True)


@register(r(2, 3, 32, 32))
class UNetPlusPlus(nn.Module):
    """Dense skips, squeeze and attention gates, deep supervision averaged; a pyramid pool."""

    def __init__(self):
        super().__init__()
        cb = lambda a, b: nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(inplace=True))
        self.pool, self.x00, self.x10, self.x20, self.x01, self.x11, self.x02 = nn.MaxPool2d(2, 2), cb(3, 4), cb(4, 6), cb(6, 8), cb(10, 4), cb(14, 6), cb(14, 4)
        self.ppm, self.f1, self.f2 = nn.ModuleList(nn.Sequential(nn.AdaptiveAvgPool2d(s), nn.Conv2d(8, 2, 1)) for s in (1, 2, 3)), nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 1)
        self.mix = nn.Conv2d(14, 8, 1)

    def up(self, x, like):
        return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=True)

    def forward(self, x):
        a = self.x00(x)
        b = self.x10(self.pool(a))
        c = self.x20(self.pool(b))
        c = self.mix(torch.cat([c] + [self.up(p(c), c) for p in self.ppm], 1))
        d = self.x01(torch.cat([a, self.up(b, a)], 1))
        e = self.x11(torch.cat([b, self.up(c, b)], 1))
        f = self.x02(torch.cat([a, d, self.up(e, a)], 1))
        return (self.f1(d) + self.f2(f)) / 2


@register(r(2, 3, 16, 16), u(2, 16))
class MaskedAutoencoder(nn.Module):
    """MAE with noise as an input: a shuffle of patches for each sample, and its inverse."""

    def __init__(self):
        super().__init__()
        self.emb, self.pos, self.cls, self.token = nn.Conv2d(3, 16, 4, 4), nn.Parameter(torch.randn(1, 17, 16) * 0.02), nn.Parameter(torch.randn(1, 1, 16)), nn.Parameter(torch.randn(1, 1, 16))
        layer = lambda: nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True, norm_first=True)
        self.enc, self.dec, self.out = layer(), layer(), nn.Linear(16, 48)

    def forward(self, x, noise):
        h = self.emb(x).flatten(2).transpose(1, 2) + self.pos[:, 1:]
        n, l, d = h.shape
        shuffle = torch.argsort(noise, dim=1)
        restore = torch.argsort(shuffle, dim=1)
        h = torch.gather(h, dim=1, index=shuffle[:, :6].unsqueeze(-1).repeat(1, 1, d))
        mask = torch.ones([n, l])
        mask[:, :6] = 0
        mask = torch.gather(mask, dim=1, index=restore)
        h = self.enc(torch.cat(((self.cls + self.pos[:, :1]).expand(n, -1, -1), h), 1))
        t = torch.cat([h[:, 1:], self.token.repeat(n, l + 1 - h.shape[1], 1)], 1)
        t = torch.gather(t, 1, restore.unsqueeze(-1).repeat(1, 1, d))
        y = self.out(self.dec(torch.cat([h[:, :1], t], 1)))[:, 1:]
        p = x.reshape(n, 3, 4, 4, 4, 4)
        p = torch.einsum("nchpwq->nhwpqc", p).reshape(n, 16, 48)
        p = (p - p.mean(-1, keepdim=True)) / (p.var(-1, keepdim=True) + 1e-6) ** 0.5
        return (((y - p) ** 2).mean(-1) * mask).sum(1) / mask.sum(1)


@register(r(2, 3, 16, 16))
class HandSwin(nn.Module):
    """Windows with shifts, a relative bias table looked up by a buffer, a mask for what wrapped around."""

    def __init__(self):
        super().__init__()
        self.emb, self.n1, self.qkv, self.o, self.table = nn.Conv2d(3, 8, 2, 2), nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8), nn.Parameter(torch.randn(49, 2) * 0.02)
        self.merge, self.mn, self.head = nn.Linear(32, 16, bias=False), nn.LayerNorm(32), nn.Linear(16, 5)
        c = torch.stack(torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")).flatten(1)
        d = (c[:, :, None] - c[:, None]).permute(1, 2, 0) + 3
        self.register_buffer("index", d[..., 0] * 7 + d[..., 1])
        m = torch.zeros(1, 8, 8, 1)
        for k, (a, b) in enumerate([(a, b) for a in (slice(0, -4), slice(-4, -2), slice(-2, None)) for b in (slice(0, -4), slice(-4, -2), slice(-2, None))]):
            m[:, a, b] = k
        w = self.windows(m).squeeze(-1)
        self.register_buffer("mask", (w[:, None] - w[:, :, None]).ne(0).float() * -100.0)

    def windows(self, x):
        b, h, w, c = x.shape
        return x.view(b, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, 16, c)

    def forward(self, x):
        x = self.emb(x).permute(0, 2, 3, 1)
        b = x.size(0)
        for shift in (0, 2):
            h = self.windows(torch.roll(self.n1(x), (-shift, -shift), (1, 2)))
            q, k, v = self.qkv(h).reshape(-1, 16, 3, 2, 4).permute(2, 0, 3, 1, 4)
            a = q * 0.5 @ k.transpose(-2, -1) + self.table[self.index.view(-1)].view(16, 16, 2).permute(2, 0, 1).contiguous().unsqueeze(0)
            if shift:
                a = (a.view(b, 4, 2, 16, 16) + self.mask.unsqueeze(1).unsqueeze(0)).view(-1, 2, 16, 16)
            h = self.o((a.softmax(-1) @ v).transpose(1, 2).reshape(-1, 16, 8)).view(b, 2, 2, 4, 4, 8).permute(0, 1, 3, 2, 4, 5).contiguous().view(b, 8, 8, 8)
            x = x + torch.roll(h, shifts=(shift, shift), dims=(1, 2))
        x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)
        return self.head(self.merge(self.mn(x)).mean((1, 2)))


@register(r(2, 5, 6), lambda: (torch.rand(2, 5, 5) > 0.5).float())
class DenseGraphs(nn.Module):
    """Chebyshev's recursion, attention with dynamic scores, an isomorphism layer, pooling by the best scores."""

    def __init__(self):
        super().__init__()
        self.w, self.l, self.r, self.a, self.eps, self.mlp, self.p, self.out = nn.Parameter(torch.randn(3, 6, 8) * 0.3), nn.Linear(8, 8), nn.Linear(8, 8), nn.Parameter(torch.randn(8)), nn.Parameter(torch.zeros(1)), nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)), nn.Linear(8, 1), nn.Linear(8, 2)

    def forward(self, x, adj):
        adj = ((adj + adj.transpose(1, 2)) > 0).float() + torch.eye(5)
        deg = adj.sum(-1).clamp(min=1).pow(-0.5)
        lap = -deg.unsqueeze(2) * adj * deg.unsqueeze(1)
        t = [x, torch.bmm(lap, x)]
        t.append(2 * lap @ t[-1] - t[-2])
        h = F.relu(sum(torch.matmul(v, self.w[k]) for k, v in enumerate(t)))
        e = F.leaky_relu(self.l(h).unsqueeze(2) + self.r(h).unsqueeze(1), 0.2) @ self.a
        h = torch.where(adj > 0, e, torch.full_like(e, -9e15)).softmax(2) @ h
        h = self.mlp((1 + self.eps) * h + adj @ h)
        s = torch.sigmoid(self.p(h).squeeze(-1))
        v, idx = torch.topk(s, 3, dim=1)
        h = torch.gather(h, 1, idx.unsqueeze(-1).expand(-1, -1, 8)) * v.unsqueeze(-1)
        return self.out(h.mean(1) + h.max(1).values)


@register(r(2, 6, 4), i(6, 2, 2, 9))
class EdgeList(nn.Module):
    """Messages along lists of edges: gathers of sources, sums and softmax at targets by scatter."""

    def __init__(self):
        super().__init__()
        self.msg, self.att, self.upd = nn.Linear(8, 8), nn.Linear(8, 1), nn.GRUCell(8, 4)

    def forward(self, x, edges):
        b, n, d = x.shape
        src, dst = edges[:, 0], edges[:, 1]
        take = lambda i: torch.gather(x, 1, i.unsqueeze(-1).expand(-1, -1, d))
        e = torch.cat([take(src), take(dst)], -1)
        a = torch.exp(F.leaky_relu(self.att(e)).squeeze(-1).clamp(max=5))
        z = torch.zeros(b, n).scatter_add_(1, dst, a)
        m = F.relu(self.msg(e)) * (a / (z.gather(1, dst) + 1e-16)).unsqueeze(-1)
        agg = x.new_zeros(b, n, 8).scatter_add_(1, dst[..., None].expand(-1, -1, 8), m)
        mx = torch.full((b, n, 8), -1e3).scatter_reduce(1, dst[..., None].expand(-1, -1, 8), m, reduce="amax")
        agg = agg + torch.where(mx > -1e3, mx, 0.0)
        return self.upd(agg.reshape(b * n, 8), x.reshape(b * n, d)).view(b, n, d)


@register(r(2, 4, 4, 3), i(10, 2))
class HyperNet(nn.Module):
    """Weights for each sample from an embedding, FiLM, and a network of batched products."""

    def __init__(self):
        super().__init__()
        self.emb, self.w1, self.b1, self.w2, self.film = nn.Embedding(10, 6), nn.Linear(6, 24), nn.Linear(6, 8), nn.Linear(6, 16), nn.Linear(6, 16)

    def forward(self, x, k):
        e = self.emb(k)
        b = x.shape[0]
        h = torch.baddbmm(self.b1(e).unsqueeze(1), x.view(b, 16, 3), self.w1(e).view(b, 3, 8))
        g, t = self.film(e)[:, None].chunk(2, -1)
        h = torch.sin(h) * (1 + g) + t
        return torch.einsum("bni,bio->bno", h, self.w2(e).view(b, 8, 2)).view(b, 4, 4, 2)


@register(lambda: torch.rand(2, 6, 3) * 2 - 1, r(2, 3))
class NeRFView(nn.Module):
    """Positional encoding, densities along a ray, transmittance, depth; a trilinear feature grid."""

    def __init__(self):
        super().__init__()
        self.grid, self.net, self.sigma, self.rgb = nn.Parameter(torch.randn(1, 4, 4, 4, 4) * 0.1), nn.Sequential(nn.Linear(4 + 3 + 12, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU()), nn.Linear(16, 1), nn.Sequential(nn.Linear(19, 8), nn.ReLU(), nn.Linear(8, 3), nn.Sigmoid())

    def forward(self, p, d):
        b, n, _ = p.shape
        f = F.grid_sample(self.grid.expand(b, -1, -1, -1, -1), p.view(b, n, 1, 1, 3), align_corners=True).view(b, 4, n).transpose(1, 2)
        enc = torch.cat([p] + [fn(2.0**k * p) for k in range(2) for fn in (torch.sin, torch.cos)], -1)
        h = self.net(torch.cat([f, enc], -1))
        s = F.softplus(self.sigma(h).squeeze(-1) - 1)
        d = d / torch.norm(d, dim=-1, keepdim=True)
        c = self.rgb(torch.cat([h, d[:, None].expand(-1, n, -1)], -1))
        dist = torch.cat([p[:, 1:] - p[:, :-1], torch.full_like(p[:, :1], 1e1)], 1).norm(dim=-1)
        a = 1 - torch.exp(-s * dist)
        w = a * torch.cumprod(torch.cat([torch.ones((b, 1)), 1 - a + 1e-10], -1), -1)[:, :-1]
        z = torch.linspace(0.5, 2, n)
        return torch.cat([(w[..., None] * c).sum(-2), (w * z).sum(-1, keepdim=True), 1 - w.sum(-1, keepdim=True)], -1)


@register(r(2, 3, 8, 8), lambda: torch.randint(0, 1000, (2,)), i(12, 2, 5))
class ConditionalDiffusion(nn.Module):
    """Noise added by a schedule that is a buffer, attention to a text, a weight by the signal's ratio."""

    def __init__(self):
        super().__init__()
        a = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
        self.register_buffer("ac", a)
        self.text, self.inp, self.t = nn.Embedding(12, 8), nn.Conv2d(3, 8, 3, padding=1), nn.Sequential(nn.Linear(8, 16), nn.SiLU(), nn.Linear(16, 16))
        self.norm, self.c1, self.q, self.kv, self.o, self.out = nn.GroupNorm(4, 8), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 8, bias=False), nn.Linear(8, 16, bias=False), nn.Linear(8, 8), nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x, t, words):
        noise = torch.sin(x * 12.9898 + 4.0)
        a = self.ac[t].view(-1, 1, 1, 1)
        y = a.sqrt() * x + (1 - a).sqrt() * noise
        f = t.float()[:, None] * torch.exp(torch.arange(4) * -(math.log(10000) / 3))[None]
        s, b = self.t(torch.cat((f.sin(), f.cos()), 1))[:, :, None, None].chunk(2, 1)
        h = self.inp(y)
        h = h + self.c1(F.silu(self.norm(h) * (s + 1) + b))
        k, v = self.kv(self.text(words)).chunk(2, -1)
        q = self.q(h.flatten(2).transpose(1, 2))
        h = h + self.o(F.scaled_dot_product_attention(*(z.unflatten(-1, (2, 4)).transpose(1, 2) for z in (q, k, v))).transpose(1, 2).flatten(2)).transpose(1, 2).reshape(h.shape)
        snr = (a / (1 - a)).flatten()
        return (self.out(h) - noise).pow(2).mean((1, 2, 3)) * torch.minimum(snr, torch.full_like(snr, 5.0)) / snr


@register(r(2, 6, 8))
class GumbelSlots(nn.Module):
    """Slot attention: a softmax over slots, normalised over inputs, a GRU three times, the last gradient only."""

    def __init__(self):
        super().__init__()
        self.mu, self.ls, self.k, self.v, self.q, self.gru, self.n, self.ns, self.mlp = nn.Parameter(torch.randn(1, 3, 8)), nn.Parameter(torch.zeros(1, 3, 8)), nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False), nn.GRUCell(8, 8), nn.LayerNorm(8), nn.LayerNorm(8), nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))

    def forward(self, x):
        x = self.n(x)
        k, v = self.k(x), self.v(x)
        s = (self.mu + self.ls.exp() * 0.1).expand(x.shape[0], -1, -1)
        for t in range(3):
            if t == 2:
                s = s.detach() + self.mu - self.mu.detach()
            a = torch.einsum("bid,bjd->bij", self.q(self.ns(s)), k) * 8**-0.5
            a = a.softmax(dim=1) + 1e-8
            a = a / a.sum(dim=-1, keepdim=True)
            s = self.gru(torch.einsum("bjd,bij->bid", v, a).reshape(-1, 8), s.reshape(-1, 8)).reshape(x.size(0), -1, 8)
            s = s + self.mlp(s)
        return s


@register(r(4, 3, 8), r(4, 3, 8), lambda: torch.randint(0, 5, (4, 6)).sort()[0] % 3 + torch.tensor([0, 2, 1, 2, 0, 1]))
class JoinedBatches(nn.Module):
    """Batches one behind the other and apart again, what works on each row of them, and seldom ways to pick and write."""

    def __init__(self):
        super().__init__()
        self.net, self.bn, self.gn, self.rnn, self.h0 = nn.Linear(8, 8), nn.BatchNorm1d(8), nn.GroupNorm(2, 8), nn.GRU(4, 4, batch_first=True), nn.Parameter(torch.randn(1, 1, 4))
        self.d, self.own = nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(5, 8))

    def forward(self, a, b, at):
        n, t, c = a.shape
        z = self.net(torch.cat([a, b, a - b]).reshape(3 * n * t, c))
        z = (self.bn(z) + self.gn(z)) @ torch.diag(self.d)
        x, y, w = z.view(3 * n, t, c).chunk(3, dim=0)
        u, v = torch.split(torch.cat((x, y), dim=0), [n, n], dim=0)
        h, last = self.rnn(z.view(3 * n * t, 2, 4), self.h0.expand(1, 3 * n * t, 4).contiguous())
        h = (h.reshape(3 * n, t, 8) + last[0].view(3 * n, t, 4).repeat(1, 1, 2))[n : 2 * n]
        q = torch.cat([u * v, w + h], 1)
        m = q[torch.arange(n).view(n, 1, 1).repeat(1, 2, 3), at.view(n, 2, 3)].flatten(1, 2)
        s = torch.renorm(self.own, 2, 0, 1.5).expand(n, 5, 8)
        to = at.unsqueeze(-1).expand(-1, -1, 8)
        rs = [s.scatter_reduce(1, to, m, "amax"), s.scatter_reduce(1, to, m, "amin", include_self=False), s.scatter_reduce(1, to, m, "mean"), s.scatter_reduce(1, to, m, "mean", include_self=False), s.scatter_reduce(1, to, m, "sum", include_self=False)]
        far = torch.where(at > 2, float("inf"), self.d[:6].square()).amin(1)
        return torch.stack(rs, 1) + far[:, None, None, None]
