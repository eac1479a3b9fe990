"""Operators with attributes drawn at random, a small model each: SEED=7 ROUNDS=20 python census.py
DIR drawn.

What is odd about an operator lies in its attributes and in values at its edges, which models that
people write seldom have together: the elements are multiples of a half, so that there are zeros,
equals and bounds among them. Each is a function of a random.Random that returns the shape of a
sample and a function (or module) of the batch.
"""

import os
import random

import torch
import torch.nn.functional as F
from torch import nn

from registry import MODELS

DRAWN = []


class Drawn(nn.Module):
    """f of x·a + b, so that the gradient of f's input is seen in that of a and b."""

    def __init__(self, shape, f, r):
        super().__init__()
        n = torch.Size(shape).numel()
        self.a = nn.Parameter(torch.tensor([r.choice([-2.0, -1.0, 1.0, 2.0]) for _ in range(n)]).view(shape))
        self.b = nn.Parameter(torch.tensor([r.choice([-1.0, -0.5, 0.0, 0.5, 1.0]) for _ in range(n)]).view(shape))
        self.f, self.r, self.state = f, r, r.getstate()

    def forward(self, x):
        self.r.setstate(self.state)  # what f draws is the same each time
        x = x * self.a + self.b
        y = self.f(x)
        # What has no slope, or one that is nothing but rounding, beside one that is not.
        return y.float() + 0.1 * x.flatten(1).mean(1).reshape(-1, *[1] * (y.dim() - 1))


def drawn(f):
    def maker(k):
        def make():
            r = random.Random("%s %s %d" % (f.__name__, os.environ.get("SEED", "1"), k))
            shape, g = f(r)
            n = r.randint(2, 4)
            x = torch.tensor([r.randint(-4, 4) / 2 for _ in range(n * torch.Size(shape).numel())]).view(n, *shape)
            return Drawn(shape, g, r), (x,)
        return make

    for k in range(int(os.environ.get("ROUNDS", "1"))):
        DRAWN.append("drawn_%s_%d" % (f.__name__, k))
        MODELS[DRAWN[-1]] = maker(k)
    return f


def some(r, *xs):
    return r.choice(xs)


def dims(r, low, high, most=5):
    return [r.randint(1, most) for _ in range(r.randint(low, high))]


def axis(r, rank, own=True):
    """An axis of a batch of samples of so many axes, not the batch's."""
    return some(r, r.randint(1, rank), r.randint(-rank, -1))


def axes(r, rank):
    k = r.sample(range(1, rank + 1), r.randint(1, rank))
    return [a if r.random() < 0.5 else a - rank - 1 for a in k]


@drawn
def conv(r):
    d = r.randint(1, 3)
    g = some(r, 1, 1, 2, 3)
    k = [r.randint(1, 3) for _ in range(d)]
    dil = [some(r, 1, 1, 2) for _ in k]
    pad = some(r, "same", "valid", [r.randint(0, 2) for _ in k])
    stride = [1] * d if pad == "same" else [some(r, 1, 1, 2, 3) for _ in k]
    m = [nn.Conv1d, nn.Conv2d, nn.Conv3d][d - 1](g * r.randint(1, 2), g * r.randint(1, 2), k, stride, pad, dil, g, bias=some(r, True, False), padding_mode="zeros" if isinstance(pad, str) else some(r, "zeros", "zeros", "reflect", "replicate", "circular") if d < 3 else "zeros")
    return [m.in_channels] + [r.randint(5, 8) for _ in k], m


@drawn
def conv_transpose(r):
    d = r.randint(1, 3)
    g = some(r, 1, 1, 2)
    k = [r.randint(1, 3) for _ in range(d)]
    stride = [r.randint(1, 3) for _ in k]
    dil = [some(r, 1, 1, 2) for _ in k]
    out = [r.randint(0, max(s, t) - 1) for s, t in zip(stride, dil)]
    m = [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d][d - 1](g * r.randint(1, 2), g * r.randint(1, 2), k, stride, [r.randint(0, 1) for _ in k], out, g, bias=some(r, True, False), dilation=dil)
    return [m.in_channels] + [r.randint(2, 5) for _ in k], m


@drawn
def max_pool(r):
    d = r.randint(1, 3)
    k = [r.randint(1, 3) for _ in range(d)]
    kw = dict(stride=some(r, None, [r.randint(1, 3) for _ in k]), padding=[r.randint(0, t // 2) for t in k], ceil_mode=some(r, True, False))
    f = [F.max_pool1d, F.max_pool2d, F.max_pool3d][d - 1]
    return [2] + [r.randint(3, 8) for _ in k], lambda x: f(x, k, **kw)


@drawn
def max_pool_dilated(r):
    k, dil = [r.randint(1, 3) for _ in range(2)], [r.randint(1, 2) for _ in range(2)]
    s = r.randint(1, 3)
    return [2] + [r.randint(5, 8) for _ in k], lambda x: F.max_pool2d(x, k, s, dilation=dil)


@drawn
def max_pool_where(r):
    k, s = r.randint(2, 3), r.randint(1, 3)
    p = r.randint(0, k // 2)

    def f(x):
        y, i = F.max_pool2d(x, k, s, p, return_indices=True)
        return torch.cat([y, i.float()], 1)
    return [2] + [r.randint(4, 8) for _ in range(2)], f


@drawn
def avg_pool(r):
    d = r.randint(1, 3)
    k = [r.randint(1, 3) for _ in range(d)]
    kw = dict(stride=some(r, None, [r.randint(1, 3) for _ in k]), padding=[r.randint(0, t // 2) for t in k], ceil_mode=some(r, True, False), count_include_pad=some(r, True, False))
    if d == 2 and not kw["ceil_mode"]:
        kw["divisor_override"] = some(r, None, None, 3)
    f = [F.avg_pool1d, F.avg_pool2d, F.avg_pool3d][d - 1]
    return [2] + [r.randint(3, 8) for _ in k], lambda x: f(x, k, **kw)


@drawn
def adaptive_pool(r):
    d, most = r.randint(1, 3), some(r, True, False)
    out = [some(r, 1, 2, 3, 4, 7) for _ in range(d)]
    if d == 3 and most:
        d, out = 2, out[:2]
    f = [[F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d], [F.adaptive_max_pool1d, F.adaptive_max_pool2d, None]][most][d - 1]
    return [2] + [r.randint(1, 8) for _ in out], lambda x: f(x, out)


@drawn
def lp_pool(r):
    k, p, s, c = r.randint(1, 3), some(r, 2.0, 2.0, 3.0), some(r, None, 1, 2), some(r, True, False)
    return [2] + [r.randint(4, 7) for _ in range(2)], lambda x: F.lp_pool2d(x.abs() + 0.5, p, k, s, c)


@drawn
def interpolate(r):
    d = r.randint(1, 3)
    modes = [["nearest", "nearest-exact", "linear"], ["nearest", "nearest-exact", "bilinear", "bicubic"], ["nearest", "trilinear"]][d - 1]
    kw = dict(mode=some(r, *modes))
    if "linear" in kw["mode"] or "cubic" in kw["mode"]:
        kw["align_corners"] = some(r, True, False)
        if d == 2 and not kw["align_corners"]:
            kw["antialias"] = some(r, True, False)
    if some(r, True, False):
        kw["size"] = [r.randint(1, 9) for _ in range(d)]
    else:
        kw["scale_factor"] = [some(r, 0.5, 0.7, 1.0, 1.5, 2.0, 2.3, 3.0) for _ in range(d)]
        kw["recompute_scale_factor"] = some(r, None, True, False)
    return [2] + [r.randint(2, 6) for _ in range(d)], lambda x: F.interpolate(x, **kw)


@drawn
def grid_sample(r):
    kw = dict(mode=some(r, "bilinear", "nearest", "bicubic"), padding_mode=some(r, "zeros", "border", "reflection"), align_corners=some(r, True, False))
    h, w = r.randint(1, 5), r.randint(1, 5)
    g = torch.empty(1, 3, 4, 2)
    g.copy_(torch.tensor([r.uniform(-1.6, 1.6) for _ in range(24)]).view(1, 3, 4, 2))
    return [2, h, w], lambda x: F.grid_sample(x, (g + 0.01 * x.mean((1, 2, 3)).view(-1, 1, 1, 1)), **kw)


@drawn
def affine_grid(r):
    size, c = [r.randint(1, 4) for _ in range(2)], some(r, True, False)
    return [2, 3], lambda x: F.affine_grid(x, [x.shape[0], 1] + size, align_corners=c)


@drawn
def pad(r):
    shape = dims(r, 2, 3, 6)
    mode = some(r, "constant", "constant", "reflect", "replicate", "circular")
    n = r.randint(1, len(shape)) if mode == "constant" else len(shape) - 1
    shape = [max(2, d) for d in shape]
    p = []
    for a in range(n):
        d = shape[-1 - a]
        low = -1 if mode == "constant" and d > 2 else 0
        p += [r.randint(low, min(2, d - 1)), r.randint(low, min(2, d - 1))]
    v = some(r, 0, 1.5, -2) if mode == "constant" else None
    return shape, lambda x: F.pad(x, p, mode, v)


@drawn
def unfold(r):
    k, kw = [r.randint(1, 3) for _ in range(2)], dict(dilation=r.randint(1, 2), padding=r.randint(0, 1), stride=r.randint(1, 3))
    return [2, r.randint(5, 7), r.randint(5, 7)], lambda x: F.unfold(x, k, **kw)


@drawn
def fold(r):
    k, kw = [r.randint(1, 3) for _ in range(2)], dict(dilation=r.randint(1, 2), padding=r.randint(0, 1), stride=r.randint(1, 3))
    size = [r.randint(5, 7) for _ in range(2)]
    n = 1
    for s, t in zip(size, k):
        n *= (s + 2 * kw["padding"] - kw["dilation"] * (t - 1) - 1) // kw["stride"] + 1
    return [2 * k[0] * k[1], n], lambda x: F.fold(x, size, k, **kw)


@drawn
def tensor_unfold(r):
    shape = [r.randint(3, 6) for _ in range(2)]
    a, s, t = axis(r, 2), r.randint(1, 3), r.randint(1, 3)
    return shape, lambda x: x.unfold(a, s, t)


@drawn
def shuffle(r):
    k = r.randint(1, 3)
    if some(r, True, False):
        return [2 * k * k, 2, 3], lambda x: F.pixel_shuffle(x, k)
    return some(r, ([2, 2 * k, 3 * k], lambda x: F.pixel_unshuffle(x, k)), ([2 * k, 2, 3], lambda x: F.channel_shuffle(x, k)))


@drawn
def norm_layer(r):
    shape = [4] + dims(r, 1, 2, 4)
    eps = some(r, 1e-5, 1e-2, 0.5)
    aff = some(r, True, False)
    kind = r.randint(0, 4)
    if kind == 0:
        shape = [r.randint(2, 4) for _ in range(r.randint(1, 3))]
        return shape, nn.LayerNorm(shape[-r.randint(1, len(shape)):], eps, aff, bias=some(r, True, False))
    if kind == 1:
        return shape, nn.GroupNorm(some(r, 1, 2, 4), 4, eps, aff)
    if kind == 2:
        shape[-1] = max(2, shape[-1])
        return shape, [nn.InstanceNorm1d, nn.InstanceNorm2d][len(shape) - 2](4, eps, affine=aff)
    if kind == 3:
        return shape, nn.RMSNorm(shape[-1], some(r, None, eps), aff)
    if len(shape) == 2 and some(r, True, False):
        shape = [4]
    return shape, [nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d][len(shape) - 1](4, eps, some(r, 0.1, 0.5, 1.0), aff)


@drawn
def activation(r):
    f = some(
        r, F.relu, F.relu6, F.silu, F.hardswish, F.hardsigmoid, F.hardtanh, F.mish, F.selu, F.softsign, F.logsigmoid, F.tanhshrink, torch.sigmoid, torch.tanh,
        lambda x: F.hardtanh(x, -1.5, 0.5), lambda x: F.leaky_relu(x, 0.2), lambda x: F.leaky_relu(x, -0.5), lambda x: F.elu(x, 1.5), lambda x: F.celu(x, 0.5), lambda x: F.gelu(x, approximate="tanh"), F.gelu,
        lambda x: F.softplus(x, 2.0, 1.0), lambda x: F.softplus(x, 0.5), lambda x: F.threshold(x, 0.5, -3.0), lambda x: F.hardshrink(x, 0.5), lambda x: F.softshrink(x, 0.5), lambda x: F.glu(x, 1), lambda x: F.glu(x, -1))
    return [4, 6], f


@drawn
def prelu(r):
    return [3] + dims(r, 0, 2), nn.PReLU(some(r, 1, 3), 0.25 if some(r, True, False) else 0.5)


@drawn
def unary(r):
    near = lambda f: lambda x: f(x / 8)
    above = lambda f: lambda x: f(x.abs() + 0.5)
    return [5, 5], some(
        r, torch.floor, torch.ceil, torch.trunc, torch.round, torch.frac, torch.sign, torch.abs, torch.neg, torch.exp, torch.exp2, torch.expm1, torch.sin, torch.cos, near(torch.tan), torch.sinh, torch.cosh, torch.erf, torch.erfc, torch.atan,
        near(torch.asin), near(torch.acos), torch.sinc, torch.square, above(torch.log), above(torch.log1p), above(torch.log2), above(torch.log10), above(torch.sqrt), above(torch.rsqrt), above(torch.reciprocal),
        lambda x: torch.round(x / 3, decimals=1), lambda x: torch.round(x * 7, decimals=-1), torch.asinh, torch.deg2rad, torch.nan_to_num, torch.logical_not, torch.isfinite)


@drawn
def binary(r):
    shape = dims(r, 1, 3, 4)
    other = [d if r.random() < 0.6 else 1 for d in shape[r.randint(0, len(shape)):]]
    c = torch.tensor([some(r, -2.0, -1.5, -0.5, 0.5, 1.0, 3.0) for _ in range(torch.Size(other).numel())]).view(other)
    kind = r.randint(0, 2)
    y = (lambda x: c, lambda x: x.flip(-1) + 0.2137, lambda x: some(r, 2.0, -1.5, 3))[kind]
    t = lambda v: v if isinstance(v, torch.Tensor) else torch.tensor(float(v))
    f = some(
        r, torch.add, torch.sub, torch.mul, torch.div, torch.remainder, torch.fmod, lambda a, b: torch.maximum(a, t(b)), lambda a, b: torch.minimum(a, t(b)), lambda a, b: torch.div(a, b, rounding_mode="floor"), lambda a, b: torch.div(a, b, rounding_mode="trunc"),
        lambda a, b: torch.add(a, b, alpha=2), lambda a, b: torch.sub(a, b, alpha=0.5), lambda a, b: torch.rsub(a, b, alpha=2), lambda a, b: torch.atan2(a, t(b)), lambda a, b: torch.hypot(a, t(b)), lambda a, b: torch.logaddexp(a, t(b)), lambda a, b: torch.xlogy(a, t(b).abs()), lambda a, b: torch.pow(a.abs() + 0.5, b),
        lambda a, b: torch.clamp(a, min=t(b)), lambda a, b: torch.clamp(a, max=t(b)), lambda a, b: torch.where(a > b, a, b), lambda a, b: torch.where(a == b, a, 0.0))
    return shape, lambda x: f(x, y(x))


@drawn
def number_first(r):
    k = some(r, 2, 0.5, -1.5)
    return dims(r, 1, 3), some(r, lambda x: k - x, lambda x: k / (x.abs() + 0.5), lambda x: abs(k) ** x)


@drawn
def power(r):
    k = some(r, 0, 1, 2, 3, -1, -2, 0.5, 1.5, -0.5, 2.0)
    if k != int(k) or k < 0:
        return dims(r, 1, 2), lambda x: (x.abs() + 0.5) ** k
    return dims(r, 1, 2), lambda x: x ** k


@drawn
def clamp(r):
    return dims(r, 1, 2), some(r, lambda x: x.clamp(-0.5, 1), lambda x: x.clamp(min=0.5), lambda x: x.clamp(max=-0.5), lambda x: x.clamp(1, -1), lambda x: x.clamp_min(0), lambda x: x.clamp_max(0))


@drawn
def compare(r):
    shape = dims(r, 1, 3, 4)
    c = some(r, 0.5, torch.tensor([0.5]).view([1] * (len(shape) + r.randint(0, 1))), 0)
    f = some(r, torch.eq, torch.ne, torch.lt, torch.le, torch.gt, torch.ge)
    return shape, lambda x: f(x, c)


@drawn
def truth(r):
    f = some(r, torch.logical_and, torch.logical_or, torch.logical_xor)
    a = some(r, None, axis(r, 2))
    k = some(r, True, False)
    if a is None:
        return [3, 4], lambda x: f(x > 0, x < 1)
    return [3, 4], some(r, lambda x: torch.any(x > 1, a, k), lambda x: torch.all(x > -2, a, k), lambda x: torch.any(x.flatten(1), 1), lambda x: (x > 0).sum(a))


def distinct(x):
    """x without equals, of which it is not said whose the gradient is."""
    n = x.shape[1:].numel()
    return x + 0.01 / n * torch.arange(n).view(x.shape[1:])


@drawn
def reduction(r):
    shape = dims(r, 1, 3, 4)
    a, k = axes(r, len(shape)), some(r, True, False)
    one = a[0]
    big = lambda f: (lambda x: f(torch.cat([x, x + 1.25, x * 0.5], one)))
    return shape, some(
        r, lambda x: x.sum(a, k), lambda x: x.mean(a, k), lambda x: x.amax(a, k), lambda x: x.amin(a, k), big(lambda x: x.var(a, correction=r.randint(0, 2), keepdim=k)), big(lambda x: x.std(a, unbiased=False, keepdim=k)), big(lambda x: x.std(a, keepdim=k)),
        lambda x: x.max(one, k)[0], lambda x: x.min(one, k)[0], lambda x: x.prod(one, k), lambda x: distinct(x).median(one, k)[0], lambda x: x.logsumexp(a, k), lambda x: x.norm(dim=a, keepdim=k), lambda x: torch.linalg.vector_norm(x, some(r, 1, 2, 3, float("inf")), a, k),
        lambda x: x.argmax(one, k), lambda x: x.argmin(one, k), lambda x: x.max(one, k)[1], lambda x: torch.var_mean(torch.cat([x, x + 1], one), a, keepdim=k)[0], lambda x: torch.aminmax(x, dim=one, keepdim=k)[0], lambda x: distinct(x).quantile(0.3, one, k), lambda x: distinct(x).kthvalue(1, one, k)[0])


@drawn
def scan(r):
    shape = dims(r, 1, 3, 4)
    a = axis(r, len(shape))
    n = r.randint(1, 2)
    return shape, some(r, lambda x: x.cumsum(a), lambda x: x.cumprod(a), lambda x: x.cummax(a)[0], lambda x: x.cummin(a)[0], lambda x: x.logcumsumexp(a), lambda x: torch.diff(torch.cat([x, x, x * x], a), n, a), lambda x: torch.diff(x, dim=a, prepend=x, append=x), lambda x: torch.trapezoid(x, dx=0.5, dim=a), lambda x: x.softmax(a), lambda x: x.log_softmax(a), lambda x: F.normalize(x, some(r, 1, 2, 2), a, some(r, 1e-12, 0.5)), lambda x: F.softmin(x, a))


@drawn
def order(r):
    shape = dims(r, 1, 3, 5)
    a = axis(r, len(shape))
    d, i = some(r, True, False), some(r, 0, 1)
    return shape, some(r, lambda x: torch.sort(x, dim=a, descending=d, stable=True)[i], lambda x: torch.argsort(x, dim=a, descending=d, stable=True), lambda x: torch.topk(distinct(x), 1, a, d)[i])


@drawn
def view(r):
    shape = [r.randint(2, 4) for _ in range(r.randint(2, 4))]
    n = len(shape)
    a, b = axis(r, n), axis(r, n)
    p = r.sample(range(1, n + 1), n)
    d = shape[a - 1 if a > 0 else a]
    k = r.randint(1, 3)
    return shape, some(
        r, lambda x: x.transpose(a, b), lambda x: x.permute(0, *p), lambda x: x.flatten(1), lambda x: x.flatten(a % (n + 1)), lambda x: x.unsqueeze(a), lambda x: x.unsqueeze(-1).squeeze(), lambda x: x.movedim(a, b), lambda x: x.swapaxes(a, b), lambda x: x.flip(axes(r, n)), lambda x: x.roll(r.randint(-5, 5), a),
        lambda x: x.roll([1, -2], [a, -1]), lambda x: x.repeat(*[1] + [r.randint(1, 3) for _ in shape]), lambda x: x.repeat_interleave(k, a), lambda x: x.tile(k), lambda x: x.narrow(a, -1, 1), lambda x: x.select(a, -1), lambda x: torch.cat(x.chunk(k, a)[::-1], a), lambda x: torch.cat(x.tensor_split(k, a)[::-1], a), lambda x: torch.cat(x.split([1, d - 1], a)[::-1], a), lambda x: torch.stack(x.unbind(a)[::-1], b),
        lambda x: x.index_select(a, torch.tensor([d - 1, 0])), lambda x: x[..., ::2], lambda x: x[:, -2:], lambda x: x[:, :-1], lambda x: x[:, 1::2, None], lambda x: x[:, [0, -1]], lambda x: x[..., -1, :], lambda x: x[:, torch.tensor([[0, 1], [1, -1]])], lambda x: torch.rot90(x, r.randint(-1, 3), [-2, -1]), lambda x: x.diagonal(0, -2, -1), lambda x: torch.diag_embed(x), lambda x: x.take_along_dim(torch.zeros([1] * (n + 1), dtype=torch.long), a), lambda x: x.unflatten(a, (1, -1)), lambda x: x.expand(2, *x.shape).movedim(0, 1), lambda x: x.triu(r.randint(-1, 1)), lambda x: x.tril(r.randint(-1, 1)))


@drawn
def write(r):
    shape = [r.randint(2, 4) for _ in range(r.randint(1, 3))]
    n = len(shape)
    a = axis(r, n)
    d = shape[a - 1 if a > 0 else a]
    i = torch.tensor(r.sample(range(d), 2))
    idx = torch.tensor([r.randint(0, d - 1) for _ in range(torch.Size(shape).numel())]).view(1, *shape)
    src = lambda x: x.index_select(a, torch.arange(2)) * 3
    full = lambda x: idx.expand(x.shape[0], *shape)

    def put(x):
        y = x.clone()
        y[:, 0] = r.choice([1.5, x[:, 1]])
        y[..., -1] += 2
        return y

    return shape, some(r, lambda x: x.index_fill(a, i, 0.5), lambda x: x.index_copy(a, i, src(x)), lambda x: x.index_add(a, i, src(x), alpha=some(r, 1, 2)), lambda x: x.gather(a, full(x)), lambda x: x.scatter(a, i.view([-1] + [1] * (n - (a % (n + 1)))).expand([x.shape[0]] + shape[:a % (n + 1) - 1] + [2] + shape[a % (n + 1):]), 0.5), lambda x: x.scatter_add(a, full(x), x * 2), lambda x: x.masked_fill(x > 0, some(r, 0.0, 1.5, -1e9)), put, lambda x: x.where(x > 0, -x))


@drawn
def product(r):
    k, n, h = r.randint(1, 4), r.randint(1, 4), r.randint(1, 3)
    w = nn.Parameter(torch.randn(k, n))
    m = nn.Module()
    m.w, m.b = w, nn.Parameter(torch.randn(n))
    c = torch.randn(h, k, n)
    f = some(
        r, lambda x: x @ m.w, lambda x: F.linear(x, m.w.t(), m.b), lambda x: torch.matmul(x.unsqueeze(1), c), lambda x: x @ x.mT, lambda x: torch.einsum("bik,kn->bni", x, m.w), lambda x: torch.einsum("bik,bjk->bij", x, x), lambda x: torch.tensordot(x, m.w, 1), lambda x: torch.baddbmm(x @ x.mT, x, x.mT, beta=0.5, alpha=2), lambda x: torch.inner(x, m.w.t()),
        lambda x: torch.addmm(m.b, x[:, 0], m.w, beta=2, alpha=0.5), lambda x: x @ m.w[:, 0], lambda x: torch.einsum("bik,bik->bi", x, x), lambda x: torch.kron(x, torch.tensor([[1.0, 2.0]])), lambda x: torch.cdist(x, x + 1), lambda x: torch.cdist(x, m.w.t(), p=2.0), lambda x: torch.bmm(x, x.mT), lambda x: torch.einsum("...ik->...ki", x))
    m.forward = f
    return [h, k], m


@drawn
def cross(r):
    d = some(r, 1, 2, -1)
    return [3, 3], lambda x: some(r, torch.cross, torch.linalg.cross)(x, x.flip(1) + 1, dim=d)


@drawn
def attention(r):
    h, t, s, d = r.randint(1, 4), r.randint(1, 4), r.randint(1, 4), r.randint(1, 4)
    kind = r.randint(0, 3)
    kw = dict(scale=some(r, None, 0.3))
    if kind == 1:
        kw["is_causal"] = True
    if kind == 2:
        kw["attn_mask"] = torch.tensor([r.random() < 0.6 for _ in range(t * s)]).view(t, s)
        if some(r, True, False):
            kw["attn_mask"][:, 0] = True
    if kind == 3:
        kw["attn_mask"] = torch.randn(some(r, 1, h), t, s)
    k = nn.Module()
    k.w = nn.Parameter(torch.randn(d, s))
    same = s == t

    def f(x):
        key = x if same else torch.stack([x.mean(2) + i * 0.3 for i in range(s)], 2)
        return F.scaled_dot_product_attention(x, key, key * 2, **kw)
    return [h, t, d], f


@drawn
def multihead(r):
    e, h = 4, some(r, 1, 2, 4)
    kw = dict(bias=some(r, True, False), batch_first=True, add_bias_kv=some(r, False, False, True), add_zero_attn=some(r, False, False, True))
    a = nn.MultiheadAttention(e, h, **kw)
    mask = some(r, None, torch.triu(torch.ones(3, 3, dtype=torch.bool), 1), torch.randn(3, 3))
    need, avg = some(r, True, False), some(r, True, False)
    m = nn.Module()
    m.a = a
    m.forward = lambda x: a(x, x, x, attn_mask=mask, need_weights=need, average_attn_weights=avg)[0]
    return [3, e], m


@drawn
def recurrent(r):
    kind = some(r, nn.LSTM, nn.GRU, nn.RNN)
    kw = dict(num_layers=r.randint(1, 2), bias=some(r, True, False), batch_first=some(r, True, False), bidirectional=some(r, True, False))
    if kind is nn.RNN:
        kw["nonlinearity"] = some(r, "tanh", "relu")
    if kind is nn.LSTM and r.random() < 0.3:
        kw["proj_size"] = 2
    c = kind(3, 4, **kw)
    which = some(r, 0, 0, 1)
    m = nn.Module()
    m.c = c

    def f(x):
        y, h = c(x if kw["batch_first"] else x.transpose(0, 1))
        if which == 0:
            return y if kw["batch_first"] else y.transpose(0, 1)
        return (h[0] if isinstance(h, tuple) else h).transpose(0, 1)
    m.forward = f
    return [r.randint(2, 4), 3], m


@drawn
def embedding(r):
    pad = some(r, None, 0, 2, -1)
    e = nn.Embedding(9, 3, padding_idx=pad)
    with torch.no_grad():
        e.weight.normal_()
    m = nn.Module()
    m.e = e
    m.forward = lambda x: m.e((x * 2).round().abs().clamp(max=8).long()) * x.unsqueeze(-1)
    return [r.randint(1, 5)], m


@drawn
def embedding_bag(r):
    e = nn.EmbeddingBag(9, 3, mode=some(r, "sum", "mean", "max"))
    m = nn.Module()
    m.e = e
    m.forward = lambda x: m.e((x * 2).round().abs().clamp(max=8).long()) * x.mean(1, keepdim=True)
    return [r.randint(1, 5)], m


@drawn
def loss(r):
    c = 4
    per = lambda y: y.reshape(y.shape[0], -1).sum(1) if y.dim() else y
    w = torch.rand(c)
    shape = [c] + dims(r, 0, 1, 3)
    tt = lambda x: (x.detach().sum(1) * 2).abs().round().long() % c
    p = lambda x: torch.sigmoid(x)
    q = lambda x: (x.detach() > 0).float()
    red = "none"
    return shape, some(
        r, lambda x: per(F.cross_entropy(x, tt(x), reduction=red, ignore_index=some(r, -100, 1), label_smoothing=some(r, 0.0, 0.2), weight=some(r, None, w))), lambda x: per(F.cross_entropy(x, (2 * x.detach()).softmax(1), reduction=red, label_smoothing=some(r, 0.0, 0.2), weight=some(r, None, w))), lambda x: per(F.nll_loss(x.log_softmax(1), tt(x), weight=some(r, None, w), ignore_index=some(r, -100, 2), reduction=red)),
        lambda x: per(F.mse_loss(x, q(x), reduction=red)), lambda x: per(F.l1_loss(x, q(x), reduction=red)), lambda x: per(F.smooth_l1_loss(x, q(x), reduction=red, beta=some(r, 0.5, 1.0, 0.0))), lambda x: per(F.huber_loss(x, q(x), reduction=red, delta=some(r, 0.5, 1.0))), lambda x: per(F.binary_cross_entropy(p(x), q(x), reduction=red)), lambda x: per(F.binary_cross_entropy(p(20 * x), q(x), reduction=red)), lambda x: per(F.binary_cross_entropy_with_logits(x * 10, q(x), reduction=red, pos_weight=some(r, None, torch.tensor(2.0)))),
        lambda x: per(F.kl_div(x.log_softmax(1), q(x), reduction=red)), lambda x: per(F.kl_div(x.log_softmax(1), x.detach().log_softmax(1), reduction=red, log_target=True)), lambda x: per(F.soft_margin_loss(x, q(x) * 2 - 1, reduction=red)), lambda x: per(F.poisson_nll_loss(x, q(x), log_input=True, reduction=red)), lambda x: per(F.poisson_nll_loss(x.abs(), q(x), log_input=False, reduction=red)), lambda x: per(F.hinge_embedding_loss(x, q(x) * 2 - 1, margin=some(r, 1.0, 0.5), reduction=red)), lambda x: per(F.margin_ranking_loss(x, -x, q(x) * 2 - 1, margin=some(r, 0.0, 0.5), reduction=red)),
        lambda x: per(F.gaussian_nll_loss(x, q(x), x.abs() + 0.5, full=some(r, True, False), reduction=red)), lambda x: per(F.triplet_margin_loss(x, x.roll(1, 1), x * x, margin=0.5, p=some(r, 1.0, 2.0), swap=some(r, True, False), reduction=red)), lambda x: per(F.cosine_embedding_loss(x.flatten(1), x.flatten(1).roll(1, 1) + 1, q(x).flatten(1)[:, 0] * 2 - 1, margin=0.1, reduction=red)), lambda x: per(F.cosine_similarity(x, x.roll(1, 1) + 1, dim=1)), lambda x: per(F.pairwise_distance(x, x.roll(1, 1), p=some(r, 2.0, 1.0))))


@drawn
def integers(r):
    i = lambda x: (x * 2).round().long()
    k = some(r, 2, 3, -2)
    return dims(r, 1, 2), some(r, lambda x: i(x) // k, lambda x: i(x) % k, lambda x: torch.div(i(x), k, rounding_mode="trunc"), lambda x: torch.fmod(i(x), k), lambda x: i(x) / k, lambda x: i(x) * 1.5, lambda x: i(x) ** 2, lambda x: -i(x), lambda x: i(x).abs().float().sqrt(), lambda x: (i(x) + 5) & 3, lambda x: (i(x) + 5) >> 1, lambda x: i(x).bool(), lambda x: i(x).float().mean(-1), lambda x: i(x).cumsum(-1), lambda x: i(x).sum(-1), lambda x: x.to(torch.int32), lambda x: i(x).clamp(-1, 1), lambda x: F.one_hot(i(x).abs() % 3, 3), lambda x: i(x).max(-1)[0], lambda x: i(x) == k, lambda x: torch.where(i(x) > 0, i(x), 7))


@drawn
def fourier(r):
    n, norm = some(r, None, 4, 5, 9), some(r, "backward", "ortho", "forward")
    shape = [2, r.randint(4, 8)]
    ri = lambda z: torch.view_as_real(z).flatten(2)
    a = some(r, 1, -1)
    return shape, some(r, lambda x: torch.view_as_real(torch.fft.rfft(x, n, -1, norm)), lambda x: torch.view_as_real(torch.fft.fft(x, n, -1, norm)), lambda x: torch.fft.irfft(torch.fft.rfft(x), n, -1, norm), lambda x: torch.fft.rfft(x, dim=-1, norm=norm).abs(), lambda x: torch.view_as_real(torch.fft.rfft2(x, norm=norm)), lambda x: torch.fft.ifft(torch.fft.fft(x), norm=norm).real)
