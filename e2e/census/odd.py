"""Modules in which an importer may go wrong without a word, and operators that are written seldom."""

import torch
import torch.nn.functional as F
from torch import nn
from registry import ids, model
from written import fn, normal, whole


def layer(i=4, o=8):
    return lambda: dict(a=nn.Linear(i, o))


def part(name, f, parts=None, x=None):
    fn("odd_" + name, f, parts or layer(), x or normal(3, 4))


# Truth values and bits.
part("bits_and", lambda m, x: m.e(x) * (x & 3)[..., None].float(), lambda: dict(e=nn.Embedding(16, 8)), whole(16, 3, 4))
part("bits_or", lambda m, x: m.e(x) * (x | 5)[..., None].float(), lambda: dict(e=nn.Embedding(16, 8)), whole(16, 3, 4))
part("bits_xor", lambda m, x: m.e(x) * (x ^ 5)[..., None].float(), lambda: dict(e=nn.Embedding(16, 8)), whole(16, 3, 4))
part("bits_not", lambda m, x: m.e(x) * (~x)[..., None].float(), lambda: dict(e=nn.Embedding(16, 8)), whole(16, 3, 4))
part("bits_shift", lambda m, x: m.e(x) * (x >> 1)[..., None].float(), lambda: dict(e=nn.Embedding(16, 8)), whole(16, 3, 4))
part("logical_and_floats", lambda m, x: m.a(x) * torch.logical_and(x, x * 3).float().sum(1, keepdim=True))
part("logical_or_floats", lambda m, x: m.a(x) * torch.logical_or(x - 1, x * 3).float().sum(1, keepdim=True))
part("logical_xor_floats", lambda m, x: m.a(x) * torch.logical_xor(x, x * 3).float().sum(1, keepdim=True))
part("logical_not_floats", lambda m, x: m.a(x) * (1 + torch.logical_not(x).float().sum(1, keepdim=True)))
part("bool_sum", lambda m, x: m.a(x) * ((x > 0) + (x > 0.5)).float().sum(1, keepdim=True))
part("bool_mul", lambda m, x: m.a(x) * ((x > 0) * (x > 0.5)).float().sum(1, keepdim=True))
part("bool_constant", lambda m, x: m.a(x) * (torch.tensor([True, True, False, True]) + torch.tensor([True, False, False, True])).float().sum())
part("int_divide", lambda m, x: m.e(x // 3), lambda: dict(e=nn.Embedding(16, 8)), whole(16, 3, 4))
part("int_true_divide", lambda m, x: m.e(x) * (x / 3)[..., None], lambda: dict(e=nn.Embedding(16, 8)), whole(16, 3, 4))
part("int_remainder", lambda m, x: m.e((x - 8) % 5), lambda: dict(e=nn.Embedding(16, 8)), whole(16, 3, 4))
part("int_mean", lambda m, x: m.e(x) * x.float().mean(1)[:, None, None], lambda: dict(e=nn.Embedding(16, 8)), whole(16, 3, 4))
part("int_negative_trunc", lambda m, x: m.e(torch.div(x - 8, 3, rounding_mode="trunc") + 3), lambda: dict(e=nn.Embedding(16, 8)), whole(16, 3, 4))
part("int_hash", lambda m, x: m.e((x * 2654435761) % 13), lambda: dict(e=nn.Embedding(16, 8)), whole(9000, 3, 4))
part("int_byte", lambda m, x: m.e((x * 100).to(torch.uint8).long() % 16), lambda: dict(e=nn.Embedding(16, 8)), whole(16, 3, 4))
part("float_to_int", lambda m, x: m.a(x) * (x * 3).int().float().sum(1, keepdim=True))
part("float_double", lambda m, x: m.a(x).double().mul(0.1).float())

# What is not taken must not matter.
part("where_log", lambda m, x: (lambda v: torch.where(v > 0, v.log(), v))(m.a(x)))
part("where_sqrt", lambda m, x: (lambda v: torch.where(v > 0, v.detach().sqrt(), torch.zeros_like(v)) + v)(m.a(x)))
part("where_divide", lambda m, x: (lambda v: torch.where(v > 0, 1 / v.relu(), v.detach() * 0 + v))(m.a(x)))
part("where_exp", lambda m, x: (lambda v: torch.where(v < 1, v.detach().exp(), v))(m.a(x) * 200))
part("masked_fill_nan", lambda m, x: m.a(x).log().masked_fill(m.a(x) <= 0, 0.0))
part("nan_to_num_log", lambda m, x: torch.nan_to_num(m.a(x).detach().log(), nan=0.5) + m.a(x))
part("infinity_compare", lambda m, x: (lambda v: v * (v.masked_fill(v < 0, float("-inf")) == float("-inf")).float())(m.a(x)))
part("isinf", lambda m, x: (lambda v: v * torch.isinf(v.masked_fill(v < 0, float("inf"))).float())(m.a(x)))
part("softmax_all_masked", lambda m, x: (lambda v: torch.nan_to_num(torch.softmax(v.masked_fill(v < 5, float("-inf")), -1)) + v)(m.a(x)))
part("pow_negative_base", lambda m, x: m.a(x) ** torch.tensor([2.0, 3.0, 1.0, 2.0, 3.0, 1.0, 2.0, 0.0]))
part("pow_zero", lambda m, x: torch.pow(m.a(x).relu(), 2.0) + torch.pow(m.a(x), 0.0))
part("sqrt_zero", lambda m, x: torch.sqrt(m.a(x).relu() + 1e-12))
part("sqrt_of_nothing", lambda m, x: torch.sqrt(F.relu(m.a(x)).sum(1, keepdim=True) + 1))
part("norm_zero", lambda m, x: m.a(x).relu().norm(dim=1, keepdim=True) * m.a(x))
part("max_ties", lambda m, x: m.a(x).relu().max(1, keepdim=True)[0] + m.a(x))
part("amax_ties", lambda m, x: m.a(x).clamp(max=0).amax(1, keepdim=True) + m.a(x))
part("maximum_ties", lambda m, x: torch.maximum(m.a(x), m.a(x).clone()))
part("clamp_edge", lambda m, x: m.a(x).clamp(0, 0.25).clamp(0, 0.25))
part("abs_zero", lambda m, x: m.a(x).relu().abs())
part("prod_zero", lambda m, x: m.a(x).relu().prod(1, keepdim=True) + m.a(x))
part("cumprod_zero", lambda m, x: torch.cumprod(m.a(x).relu(), 1) + m.a(x))
part("norm_p_zero", lambda m, x: m.a(x).relu().norm(p=3, dim=1, keepdim=True) + m.a(x))
part("std_zero", lambda m, x: (m.a(x) * 0 + 1).std(1, keepdim=True) + m.a(x))
part("atan2_quadrants", lambda m, x: torch.atan2(m.a(x), m.a(x).flip(1)))

@model
def truths():
    class Net(nn.Module):
        """Truth values, bits, what is not taken, and what has no gradient."""

        def __init__(self):
            super().__init__()
            self.e, self.a, self.b = nn.Embedding(16, 8), nn.Linear(8, 8), nn.Linear(8, 8)
            self.b.requires_grad_(False)
            self.register_buffer("on", torch.tensor([True, True, False, True]))

        def forward(self, x):
            h = self.a(self.e(x))
            bits = (x & 5) + (x | 6) * 2 + (x ^ 9) * 3 + (~x) + (x >> 1) + (x << 2)
            both = torch.logical_and(x, x - 3).long() + torch.logical_or(x, x - 3) * 2 + torch.logical_xor(x - 5, x - 3) * 3 + torch.logical_not(x)
            on = ((h > 0) + (h > 0.5)).float() + (self.on + self.on).float()[:, None]
            y = torch.where(h > 0, h.log(), h) + h.detach().sqrt().masked_fill(h <= 0, 0.5) + torch.where(h > 0, 0.0, h * h)
            with torch.no_grad():
                z = self.b(h)
            return self.b(y * on) * z + h ** torch.tensor([2.0, 3.0, 1.0, 2.0, 0.0, 1.0, 4.0, 2.0]) + 0.1 * bits[..., None] + both[..., None]

    return Net(), (torch.arange(12).reshape(3, 4),)


# What is trained, and what is not.


@model
def odd_no_grad():
    class Net(nn.Module):
        """A target network whose answers have no gradient."""

        def __init__(self):
            super().__init__()
            self.a, self.t = nn.Linear(4, 8), nn.Linear(4, 8)

        def forward(self, x):
            with torch.no_grad():
                y = self.t(x).tanh()
            return self.a(x) * y

    return Net(), (torch.randn(3, 4),)


@model
def odd_no_grad_input():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 8)

        def forward(self, x):
            h = self.a(x)
            with torch.no_grad():
                scale = h.abs().amax(1, keepdim=True)
                q = torch.round(h / scale * 7) / 7 * scale
            h = h + (q - h).detach()
            with torch.no_grad():
                h2 = self.b(h)
            return self.b(h) * h2

    return Net(), (torch.randn(3, 4),)


@model
def odd_frozen():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 8)
            self.a.requires_grad_(False)

        def forward(self, x):
            return self.b(torch.tanh(self.a(x)))

    return Net(), (torch.randn(3, 4),)


class Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, k):
        ctx.k = k
        return x.view_as(x)

    @staticmethod
    def backward(ctx, g):
        return -ctx.k * g, None


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.sign(x)

    @staticmethod
    def backward(ctx, g):
        return g


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, g):
        x = ctx.saved_tensors[0]
        s = torch.sigmoid(x)
        return g * (s * (1 + x * (1 - s)))


part("function_reverse", lambda m, x: m.b(Reverse.apply(torch.tanh(m.a(x)), 0.5)), lambda: dict(a=nn.Linear(4, 8), b=nn.Linear(8, 3)))
part("function_straight", lambda m, x: m.b(Straight.apply(m.a(x))), lambda: dict(a=nn.Linear(4, 8), b=nn.Linear(8, 3)))
part("function_swish", lambda m, x: m.b(Swish.apply(m.a(x))), lambda: dict(a=nn.Linear(4, 8), b=nn.Linear(8, 3)))


# Buffers.
@model
def odd_step_counter():
    class Net(nn.Module):
        """A weight that grows with the number of steps."""

        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 8)
            self.register_buffer("step", torch.zeros((), dtype=torch.long))

        def forward(self, x):
            self.step += 1
            return self.a(x) * torch.sigmoid(self.step / 10)

    return Net(), (torch.randn(3, 4),)


@model
def odd_ema():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 8)
            self.register_buffer("mean", torch.zeros(8))

        def forward(self, x):
            h = self.a(x)
            with torch.no_grad():
                self.mean.mul_(0.9).add_(h.mean(0), alpha=0.1)
            return h - self.mean

    return Net(), (torch.randn(3, 4),)


@model
def odd_ema_assigned():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 8)
            self.register_buffer("mean", torch.zeros(8))

        def forward(self, x):
            h = self.a(x)
            self.mean = 0.9 * self.mean + 0.1 * h.detach().mean(0)
            return h - self.mean

    return Net(), (torch.randn(3, 4),)


@model
def odd_clamped_weight():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 8)

        def forward(self, x):
            with torch.no_grad():
                self.a.weight.clamp_(-0.1, 0.1)
            return self.a(x)

    return Net(), (torch.randn(3, 4),)


def norm(name, f, *shape, **kw):
    part(name, lambda m, x: m.n(m.a(x)), lambda: dict(a=nn.Linear(4, 8) if len(shape) == 2 else nn.Conv2d(4, 8, 1), n=f(8, **kw)), normal(*shape))


norm("bn_plain", nn.BatchNorm1d, 5, 4, affine=False)
norm("bn_plain_images", nn.BatchNorm2d, 5, 4, 3, 3, affine=False)
norm("bn_untracked", nn.BatchNorm1d, 5, 4, track_running_stats=False)
norm("bn_untracked_images", nn.BatchNorm2d, 5, 4, 3, 3, track_running_stats=False)
norm("bn_plain_untracked", nn.BatchNorm2d, 5, 4, 3, 3, track_running_stats=False, affine=False)
norm("bn_momentum", nn.BatchNorm1d, 5, 4, momentum=0.3, eps=1e-3)
norm("bn_cumulative", nn.BatchNorm1d, 5, 4, momentum=None)
norm("in_affine", nn.InstanceNorm2d, 5, 4, 3, 3, affine=True)
norm("in_tracked", nn.InstanceNorm2d, 5, 4, 3, 3, track_running_stats=True)
norm("bn_momentum_zero", nn.BatchNorm1d, 5, 4, momentum=0.0)


@model
def odd_bn_frozen():
    class Net(nn.Module):
        """Batch normalisation that stays in evaluation mode, as of a backbone that is fine-tuned."""

        def __init__(self):
            super().__init__()
            self.a, self.n, self.b, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3), nn.BatchNorm1d(4)
            self.n.running_mean.normal_()
            self.n.running_var.uniform_(0.5, 2)

        def train(self, mode=True):
            super().train(mode)
            self.n.eval()
            return self

        def forward(self, x):
            return self.head(self.b(torch.relu(self.n(self.a(x)))).mean((2, 3)))

    return Net(), (torch.randn(3, 3, 8, 8),)


@model
def norms():
    class Net(nn.Module):
        """Batch normalisation without a weight, that stays in evaluation mode, and that two branches use."""

        def __init__(self):
            super().__init__()
            self.a, self.plain, self.still, self.twice = nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4, affine=False), nn.BatchNorm2d(4), nn.BatchNorm1d(4, momentum=0.3)
            self.still.running_mean.normal_()
            self.still.running_var.uniform_(0.5, 2)

        def train(self, mode=True):
            super().train(mode)
            self.still.eval()
            return self

        def forward(self, x):
            h = torch.tanh(self.still(self.plain(self.a(x))))
            return self.twice(h.mean((2, 3))) * self.twice(h[:, :, 0, 0])

    return Net(), (torch.randn(5, 2, 3, 3),)


@model
def untracked():
    class Net(nn.Module):
        """Batch normalisation by the batch's statistics, in evaluation too."""

        def __init__(self):
            super().__init__()
            self.a, self.n, self.b = nn.Linear(4, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, 3)

        def forward(self, x):
            return self.b(torch.tanh(self.n(self.a(x))))

    return Net(), (torch.randn(5, 4),)


@model
def odd_bn_shared():
    class Net(nn.Module):
        """One batch normalisation that two branches use: its statistics move twice."""

        def __init__(self):
            super().__init__()
            self.a, self.b, self.n = nn.Linear(4, 8), nn.Linear(4, 8), nn.BatchNorm1d(8)

        def forward(self, x):
            return self.n(self.a(x)) * self.n(self.b(x))

    return Net(), (torch.randn(5, 4),)


part("spectral_norm", lambda m, x: m.a(x), lambda: dict(a=nn.utils.parametrizations.spectral_norm(nn.Linear(4, 8))))
part("spectral_norm_old", lambda m, x: m.a(x), lambda: dict(a=nn.utils.spectral_norm(nn.Conv1d(4, 8, 1))), normal(3, 4, 5))
part("weight_norm", lambda m, x: m.a(x), lambda: dict(a=nn.utils.parametrizations.weight_norm(nn.Linear(4, 8))))
part("weight_norm_old", lambda m, x: m.a(x), lambda: dict(a=nn.utils.weight_norm(nn.Linear(4, 8))))
part("orthogonal", lambda m, x: m.a(x), lambda: dict(a=nn.utils.parametrizations.orthogonal(nn.Linear(4, 4))))

# Embeddings.
part("bag_mean", lambda m, x: m.e(x), lambda: dict(e=nn.EmbeddingBag(16, 8)), whole(16, 3, 4))
part("bag_sum", lambda m, x: m.e(x), lambda: dict(e=nn.EmbeddingBag(16, 8, mode="sum")), whole(16, 3, 4))
part("bag_max", lambda m, x: m.e(x), lambda: dict(e=nn.EmbeddingBag(16, 8, mode="max")), whole(16, 3, 4))
part("bag_padding", lambda m, x: m.e(x), lambda: dict(e=nn.EmbeddingBag(16, 8, padding_idx=3)), whole(6, 3, 4))
part("embedding_norm", lambda m, x: m.e(x), lambda: dict(e=nn.Embedding(16, 8, max_norm=1.0)), whole(16, 3, 4))
part("embedding_scaled", lambda m, x: F.embedding(x, m.e.weight * 2 + 1), lambda: dict(e=nn.Embedding(16, 8)), whole(16, 3, 4))
part("embedding_normalized", lambda m, x: F.embedding(x, F.normalize(m.e.weight, dim=1)), lambda: dict(e=nn.Embedding(16, 8)), whole(16, 3, 4))
part("embedding_indexed", lambda m, x: m.e.weight[x], lambda: dict(e=nn.Embedding(16, 8)), whole(16, 3, 4))
part("embedding_freq", lambda m, x: m.e(x), lambda: dict(e=nn.Embedding(16, 8, scale_grad_by_freq=True)), whole(4, 3, 4))
part("cosine_head", lambda m, x: F.linear(F.normalize(x), F.normalize(m.a.weight)) * 16)
part("one_hot", lambda m, x: F.one_hot(x, 16).float() @ m.e.weight, lambda: dict(e=nn.Embedding(16, 8)), whole(16, 3, 4))

# Complex numbers.


@model
def odd_llama_rope():
    class Net(nn.Module):
        """Attention with rotary embeddings as Llama's own code has them."""

        def __init__(self):
            super().__init__()
            self.q, self.k, self.v, self.o = (nn.Linear(16, 16, bias=False) for _ in range(4))
            freqs = 1.0 / 100 ** (torch.arange(0, 8, 2).float() / 8)
            self.register_buffer("cis", torch.polar(torch.ones(5, 4), torch.outer(torch.arange(5.0), freqs)), persistent=False)

        def turn(self, x):
            c = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
            return torch.view_as_real(c * self.cis.view(1, 5, 1, 4)).flatten(3).type_as(x)

        def forward(self, x):
            q, k, v = (f(x).view(x.shape[0], 5, 2, 8) for f in (self.q, self.k, self.v))
            q, k = self.turn(q), self.turn(k)
            y = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True)
            return self.o(y.transpose(1, 2).reshape(x.shape))

    return Net(), (torch.randn(3, 5, 16),)


part("complex_computed", lambda m, x: torch.view_as_real(torch.view_as_complex(m.a(x).view(-1, 4, 2)) * torch.exp(1j * torch.arange(4.0))).flatten(1))
part("complex_parts", lambda m, x: (lambda c: (c * c.conj()).real + c.imag + c.abs())(torch.complex(m.a(x), m.a(x).flip(1))))
part("fft_rfft", lambda m, x: torch.view_as_real(torch.fft.rfft(m.a(x), dim=1)).flatten(1))
part("fft_abs", lambda m, x: torch.fft.rfft(m.a(x)).abs())
part("fft_fnet", lambda m, x: torch.fft.fft(torch.fft.fft(m.a(x), dim=-1), dim=-2).real, layer(), normal(3, 5, 4))
part("fft_gfnet", lambda m, x: torch.fft.irfft2(torch.fft.rfft2(m.a(x), dim=(1, 2), norm="ortho") * torch.view_as_complex(m.w), s=(4, 4), dim=(1, 2), norm="ortho"),
     lambda: dict(a=nn.Linear(4, 8), w=nn.Parameter(torch.randn(4, 3, 8, 2))), normal(3, 4, 4, 4))
part("fft_fno", lambda m, x: torch.fft.irfft(torch.einsum("bim,iom->bom", torch.fft.rfft(m.a(x).transpose(1, 2))[:, :, :3], m.w), n=6),
     lambda: dict(a=nn.Linear(4, 8), w=nn.Parameter(torch.randn(8, 8, 3, dtype=torch.cfloat))), normal(3, 6, 4))
part("fft_convolution", lambda m, x: torch.fft.irfft(torch.fft.rfft(m.a(x), n=16) * torch.fft.rfft(m.k, n=16), n=16)[:, :8], lambda: dict(a=nn.Linear(4, 8), k=nn.Parameter(torch.randn(8))))
part("stft", lambda m, x: torch.stft(x, 16, 8, window=torch.hann_window(16), return_complex=True).abs().flatten(1) @ m.w, lambda: dict(w=nn.Parameter(torch.randn(81, 4))), normal(3, 64))

# Windows, samples and volumes.
images = lambda: dict(a=nn.Conv2d(2, 4, 1))
part("conv_transpose3d", lambda m, x: m.t(m.a(x)), lambda: dict(a=nn.Conv3d(2, 4, 1), t=nn.ConvTranspose3d(4, 3, 3, stride=2, padding=1, output_padding=1)), normal(2, 2, 3, 4, 5))
part("conv_transpose3d_groups", lambda m, x: m.t(m.a(x)), lambda: dict(a=nn.Conv3d(2, 4, 1), t=nn.ConvTranspose3d(4, 6, 2, stride=2, groups=2)), normal(2, 2, 3, 4, 5))
part("unfold", lambda m, x: F.unfold(m.a(x), 3, padding=1, stride=2), images, normal(2, 2, 6, 5))
part("fold", lambda m, x: F.fold(F.unfold(m.a(x), 2, stride=2), (6, 4), 2, stride=2), images, normal(2, 2, 6, 4))
part("grid_sample", lambda m, x: F.grid_sample(m.a(x), F.affine_grid(torch.eye(2, 3)[None].expand(x.size(0), 2, 3) * 0.7, x.shape, align_corners=False), align_corners=False), images, normal(2, 2, 6, 5))


@model
def odd_spatial_transformer():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.c, self.loc, self.head = nn.Conv2d(1, 2, 3), nn.Linear(72, 6), nn.Linear(64, 3)
            self.loc.weight.data.mul_(0.1)
            self.loc.bias.data.copy_(torch.tensor([0.9, 0.1, 0.05, -0.1, 1.1, 0.02]))

        def forward(self, x):
            t = self.loc(torch.relu(self.c(x)).flatten(1)).view(-1, 2, 3)
            return self.head(F.grid_sample(x, F.affine_grid(t, x.shape, align_corners=False), align_corners=False).flatten(1))

    return Net(), (torch.randn(3, 1, 8, 8),)


part("max_unpool", lambda m, x: (lambda y: F.max_unpool2d(y[0], y[1], 2))(F.max_pool2d(m.a(x), 2, return_indices=True)), images, normal(2, 2, 6, 4))
part("max_pool_dilated", lambda m, x: F.max_pool2d(m.a(x), 2, 1, dilation=2), images, normal(2, 2, 6, 5))
part("lp_pool", lambda m, x: F.lp_pool2d(m.a(x).abs() + 0.1, 2, 2), images, normal(2, 2, 6, 4))
part("avg_pool_divisor", lambda m, x: F.avg_pool2d(m.a(x), 2, divisor_override=3), images, normal(2, 2, 6, 4))
part("local_response", lambda m, x: F.local_response_norm(m.a(x), 3), images, normal(2, 2, 6, 4))
part("antialias", lambda m, x: F.interpolate(m.a(x), size=(3, 3), mode="bilinear", antialias=True), images, normal(2, 2, 7, 6))
part("area", lambda m, x: F.interpolate(m.a(x), size=(3, 3), mode="area"), images, normal(2, 2, 7, 6))
part("roll", lambda m, x: torch.roll(m.a(x), (1, -2), (2, 3)), images, normal(2, 2, 6, 5))
part("roll_flat", lambda m, x: torch.roll(m.w, 3).sum() * m.a(x), lambda: dict(a=nn.Linear(4, 8), w=nn.Parameter(torch.randn(5))))
part("fractional", lambda m, x: F.adaptive_avg_pool2d(m.a(x), (3, None)), images, normal(2, 2, 7, 6))
part("conv_dynamic", lambda m, x: F.conv2d(x, m.w.softmax(0)[0], padding=1), lambda: dict(w=nn.Parameter(torch.randn(3, 4, 2, 3, 3))), normal(2, 2, 6, 5))


@model
def odd_conv_per_sample():
    class Net(nn.Module):
        """Dynamic convolution: each sample has kernels of its own, and the batch becomes groups."""

        def __init__(self):
            super().__init__()
            self.w, self.g = nn.Parameter(torch.randn(3, 4, 2, 3, 3)), nn.Linear(2, 3)

        def forward(self, x):
            n, c, h, w = x.shape
            a = torch.softmax(self.g(x.mean((2, 3))), 1)
            k = (a @ self.w.view(3, -1)).view(n * 4, c, 3, 3)
            return F.conv2d(x.reshape(1, n * c, h, w), k, padding=1, groups=n).view(n, 4, h, w)

    return Net(), (torch.randn(2, 2, 6, 5),)


@model
def odd_cross_correlation():
    class Net(nn.Module):
        """Each sample's template slides over its image, as in trackers."""

        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(2, 4, 3)

        def forward(self, x, z):
            x, z = self.a(x), self.a(z)
            n, c, h, w = x.shape
            return F.conv2d(x.reshape(1, n * c, h, w), z.reshape(n * c, 1, *z.shape[2:]), groups=n * c).reshape(n, c, h - z.shape[2] + 1, -1)

    return Net(), (torch.randn(2, 2, 9, 8), torch.randn(2, 2, 5, 5))


# Positions, orders and sets.
part("bucketize", lambda m, x: m.e(torch.bucketize(x, torch.tensor([-1.0, 0.0, 1.0]))), lambda: dict(e=nn.Embedding(4, 8)))
part("searchsorted", lambda m, x: m.e(torch.searchsorted(torch.tensor([-1.0, 0.0, 1.0]), x, right=True)), lambda: dict(e=nn.Embedding(4, 8)))
part("histogram", lambda m, x: F.one_hot(x, 16).sum(1).float() @ m.e.weight, lambda: dict(e=nn.Embedding(16, 8)), whole(16, 3, 4))
part("sort_long", lambda m, x: torch.sort(m.a(x), 1)[0].cumsum(1), layer(4, 70))
part("sort_by", lambda m, x: (lambda v: torch.gather(v, 1, v.argsort(1, descending=True)))(m.a(x)))
part("topk_mask", lambda m, x: (lambda v: v * torch.zeros_like(v).scatter(1, v.topk(3, 1)[1], 1.0))(m.a(x)))
part("kth_mask", lambda m, x: (lambda v: v * (v >= v.topk(3, 1)[0][:, -1:]))(m.a(x)))
part("scatter_add", lambda m, x: torch.zeros(x.size(0), 5).scatter_add(1, (x > 0).long() * 2, m.a(x)[:, :4]))
part("scatter_reduce", lambda m, x: torch.zeros(x.size(0), 5).scatter_reduce(1, (x > 0).long() * 2, m.a(x)[:, :4], "sum"))
part("index_copy", lambda m, x: torch.zeros(x.size(0), 5).index_copy(1, torch.tensor([3, 0]), m.a(x)[:, :2]))
part("index_fill", lambda m, x: m.a(x).index_fill(1, torch.tensor([3, 0]), 0.5))
part("masked_select_where", lambda m, x: torch.where(x > 0, x, 0.0).sum(1, keepdim=True) * m.a(x))
part("cummax_positions", lambda m, x: (lambda v: v[0] + v[1])(torch.cummax(m.a(x), 1)))
part("take_along", lambda m, x: torch.take_along_dim(m.a(x), m.a(x).argsort(1), 1))
part("unflatten", lambda m, x: m.a(x).unflatten(1, (2, 4)).transpose(1, 2).flatten(1))
part("diag_embed", lambda m, x: torch.diag_embed(m.a(x)).flatten(1))
part("tril_indices", lambda m, x: (lambda v: (v[:, :, None] * v[:, None])[:, torch.tril_indices(8, 8)[0], torch.tril_indices(8, 8)[1]])(m.a(x)))
part("outer_kron", lambda m, x: torch.kron(m.w, torch.eye(2))[:4, :8].sum() * m.a(x), lambda: dict(a=nn.Linear(4, 8), w=nn.Parameter(torch.randn(2, 4))))
part("cov", lambda m, x: (lambda v: (v - v.mean(2, keepdim=True)) @ (v - v.mean(2, keepdim=True)).mT / 3)(m.a(x).view(-1, 2, 4)))
part("trace", lambda m, x: (lambda v: (v @ v.mT).diagonal(dim1=1, dim2=2).sum(1, keepdim=True))(m.a(x).view(-1, 2, 4)))
part("matrix_exp", lambda m, x: torch.matrix_exp(m.w) @ m.a(x).T, lambda: dict(a=nn.Linear(4, 8), w=nn.Parameter(torch.randn(8, 8) * 0.1)))
part("inverse", lambda m, x: m.a(x) @ torch.linalg.inv(m.w), lambda: dict(a=nn.Linear(4, 8), w=nn.Parameter(torch.eye(8) + torch.randn(8, 8) * 0.1)))
part("triangular", lambda m, x: m.a(x) @ torch.tril(m.w), lambda: dict(a=nn.Linear(4, 8), w=nn.Parameter(torch.randn(8, 8))))
part("det", lambda m, x: m.a(x) + torch.linalg.slogdet(m.w)[1], lambda: dict(a=nn.Linear(4, 8), w=nn.Parameter(torch.eye(8) + torch.randn(8, 8) * 0.1)))
part("vander", lambda m, x: torch.stack([m.a(x) ** k for k in range(4)], -1).flatten(1))
part("cumsum_flip", lambda m, x: m.a(x).flip(1).cumsum(1).flip(1))
part("logcumsumexp", lambda m, x: torch.logcumsumexp(m.a(x), 1))
part("bincount_free", lambda m, x: m.e(x).sum(1) / x.ne(0).sum(1, keepdim=True), lambda: dict(e=nn.Embedding(16, 8, padding_idx=0)), whole(16, 3, 4))
part("unsqueeze_many", lambda m, x: m.a(x)[:, None, :, None].expand(-1, 2, -1, 3).reshape(x.size(0), -1))
part("index_pairs", lambda m, x: (lambda v: v[:, [0, 1, 2], [3, 2, 1]])(m.a(x).view(-1, 4, 4)), layer(4, 16))
part("index_far", lambda m, x: (lambda v: v[:, [0, 1], :, [1, 0]])(m.a(x).view(-1, 2, 4, 2)).transpose(0, 1), layer(4, 16))
part("index_mask", lambda m, x: m.a(x)[:, torch.tensor([True, False] * 4)])
part("index_put", lambda m, x: torch.zeros(x.size(0), 3, 3).index_put((torch.arange(x.size(0)), torch.tensor(1), torch.tensor(2)), m.a(x)[:, 0]))
part("as_strided", lambda m, x: m.a(x).as_strided((x.size(0), 3, 4), (8, 2, 1)).flatten(1))

# Sequences.
part("lstm_projected", lambda m, x: m.l(x)[0], lambda: dict(l=nn.LSTM(4, 8, proj_size=3, batch_first=True)), normal(3, 5, 4))
part("lstm_state", lambda m, x: m.l(x, (m.h.expand(-1, x.size(0), -1).contiguous(), m.h.expand(-1, x.size(0), -1).contiguous()))[0], lambda: dict(l=nn.LSTM(4, 8, batch_first=True), h=nn.Parameter(torch.randn(1, 1, 8))), normal(3, 5, 4))
part("lstm_long", lambda m, x: m.l(x)[1][0][-1], lambda: dict(l=nn.LSTM(4, 8, batch_first=True)), normal(3, 40, 4))
part("multihead_mask", lambda m, x: m.l(x, x, x, attn_mask=torch.triu(torch.ones(5, 5, dtype=torch.bool), 1), need_weights=False)[0], lambda: dict(l=nn.MultiheadAttention(8, 2, batch_first=True)), normal(3, 5, 8))
part("multihead_weights", lambda m, x: (lambda y: y[0] * y[1].sum(1)[..., None])(m.l(x, x, x)), lambda: dict(l=nn.MultiheadAttention(8, 2, batch_first=True, add_bias_kv=True)), normal(3, 5, 8))
part("decoder_layer", lambda m, x: m.l(x, x.flip(1), tgt_mask=nn.Transformer.generate_square_subsequent_mask(5)), lambda: dict(l=nn.TransformerDecoderLayer(8, 2, 16, 0.0, batch_first=True)), normal(3, 5, 8))
part("transformer", lambda m, x: m.l(x, x.flip(1)), lambda: dict(l=nn.Transformer(8, 2, 1, 1, 16, 0.0, batch_first=True)), normal(3, 5, 8))
part("adaptive_softmax", lambda m, x: m.l.log_prob(m.a(x)), lambda: dict(a=nn.Linear(4, 8), l=nn.AdaptiveLogSoftmaxWithLoss(8, 20, [5, 10])))

# Sums in many forms.
def einsums(m, x):
    v = m.a(x)
    y = [torch.einsum("bd,d->bd", v, m.d), torch.einsum("bd,od->bo", v, m.od), torch.einsum("bd,hde->bhe", v, m.hde).flatten(1), torch.einsum("b d, e d -> b e", v, m.od), torch.einsum("bd,d->b", v, m.d)[:, None],
         torch.einsum("bi,ij,bj->b", v, m.dd, v)[:, None], torch.einsum("...d,de->...e", v, m.dd), torch.einsum("bd,de,ef->bf", v, m.dd, m.dd), torch.einsum("bi,bj->bij", v, v).flatten(1),
         torch.einsum("bd->b", v)[:, None], torch.einsum("bii->bi", v.view(-1, 2, 2, 2)[:, :, :, 0]), torch.einsum("bhij,bhjk->bhik", v.view(-1, 2, 2, 2), v.view(-1, 2, 2, 2)).flatten(1),
         torch.einsum("bij,bij->bi", v.view(-1, 2, 4), v.view(-1, 2, 4)), torch.einsum("bij,bkj->bik", v.view(-1, 2, 4), v.view(-1, 2, 4)).flatten(1), torch.einsum("ij,bj->bi", m.dd, v),
         torch.einsum("bij,jk", v.view(-1, 2, 4), m.dd[:4]).flatten(1), torch.einsum("bcd,bce->bde", v.view(-1, 2, 4), v.view(-1, 2, 4)).flatten(1), torch.einsum("nlhd,nshd->nlsh", v.view(-1, 2, 2, 2), v.view(-1, 2, 2, 2)).flatten(1)]
    return torch.cat(y, 1)


part("einsums", einsums, lambda: dict(a=nn.Linear(4, 8), d=nn.Parameter(torch.randn(8)), od=nn.Parameter(torch.randn(5, 8)), hde=nn.Parameter(torch.randn(2, 8, 3)), dd=nn.Parameter(torch.randn(8, 8))))
part("tensordot", lambda m, x: torch.tensordot(m.a(x), m.w, dims=([1], [1])), lambda: dict(a=nn.Linear(4, 8), w=nn.Parameter(torch.randn(3, 8))))
part("inner_outer", lambda m, x: torch.inner(m.a(x), m.w) + torch.outer(m.w[0], m.w[1]).sum(), lambda: dict(a=nn.Linear(4, 8), w=nn.Parameter(torch.randn(3, 8))))
part("addmm_factors", lambda m, x: torch.addmm(m.b, m.a(x), m.w, beta=0.5, alpha=2), lambda: dict(a=nn.Linear(4, 8), w=nn.Parameter(torch.randn(8, 3)), b=nn.Parameter(torch.randn(3))))
part("vector_products", lambda m, x: (m.a(x) @ m.w)[:, None] + (m.w @ m.w), lambda: dict(a=nn.Linear(4, 8), w=nn.Parameter(torch.randn(8))))
part("chain", lambda m, x: torch.linalg.multi_dot([m.a(x), m.w, m.w.T]), lambda: dict(a=nn.Linear(4, 8), w=nn.Parameter(torch.randn(8, 3))))

# Sizes of the batch that a program may hide.
part("batch_divided", lambda m, x: m.a(x) / x.shape[0])
part("batch_folded", lambda m, x: m.a(x).view(x.shape[0] * 2, 4).softmax(1).view(x.shape[0], 8))
part("batch_repeated", lambda m, x: torch.cat([m.c.repeat(x.shape[0], 1), m.a(x)], 1), lambda: dict(a=nn.Linear(4, 8), c=nn.Parameter(torch.randn(1, 3))))
part("batch_arange", lambda m, x: m.a(x) * torch.arange(x.shape[0])[:, None])
part("batch_mean", lambda m, x: m.a(x) - m.a(x).mean(0))
part("batch_contrast", lambda m, x: m.a(x) @ m.a(x).T)
part("batch_permuted", lambda m, x: m.a(x)[torch.arange(x.shape[0]).flip(0)])
part("batch_half", lambda m, x: m.a(x)[: x.shape[0] // 2])
part("minibatch_std", lambda m, x: torch.cat([m.a(x), m.a(x).std(0).mean().expand(x.shape[0], 1)], 1))


@model
def rotated():
    class Net(nn.Module):
        """Complex numbers: rotary embeddings as Llama's own code has them, a global filter and FNet's mixing."""

        def __init__(self):
            super().__init__()
            self.a, self.b, self.w = nn.Linear(8, 8), nn.Linear(8, 8), nn.Parameter(torch.randn(4, 5, 2))
            self.register_buffer("cis", torch.polar(torch.ones(6, 4), torch.outer(torch.arange(6.0), 1 / 10 ** torch.arange(4.0))), persistent=False)

        def forward(self, x):
            h = torch.view_as_complex(self.a(x).reshape(*x.shape[:-1], -1, 2)) * self.cis
            h = torch.view_as_real(h).flatten(2)
            f = torch.fft.rfft(h, norm="ortho")[:, :4] * torch.view_as_complex(self.w)
            g = torch.fft.irfft(f, n=8, norm="ortho")
            m = torch.fft.fft(torch.fft.fft(self.b(h), dim=-1), dim=-2).real
            c = torch.complex(h, m) * 2j
            return torch.cat([g, m, (c / (1 + c * c.conj())).abs() + c.imag.exp().log(), torch.fft.ifft2(c).real], 1)

    return Net(), (torch.randn(3, 6, 8),)


@model
def lookups():
    class Net(nn.Module):
        """Bags of words, and tables that are computed."""

        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.EmbeddingBag(12, 4), nn.EmbeddingBag(12, 4, mode="sum", padding_idx=3), nn.EmbeddingBag(12, 4, mode="max")
            self.d, self.e = nn.EmbeddingBag(12, 4, padding_idx=0), nn.Embedding(12, 4)
            self.register_buffer("bounds", torch.tensor([2.5, 5.0, 7.0]))

        def forward(self, x):
            y = [f(x) for f in (self.a, self.b, self.c, self.d)]
            y.append(F.embedding(x, F.normalize(self.e.weight, dim=1)).mean(1))
            y.append(self.e(torch.bucketize(x.float(), self.bounds)).sum(1) + self.e(torch.searchsorted(self.bounds, x.float(), right=True)).sum(1))
            return torch.cat(y, 1)

    return Net(), (torch.randint(0, 12, (3, 5)),)


@model
def seldom():
    class Net(nn.Module):
        """Functions that are written seldom."""

        def __init__(self):
            super().__init__()
            self.a, self.w, self.v, self.m = nn.Linear(4, 8), nn.Parameter(torch.randn(8, 8) / 3), nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(2, 4))
            self.l, self.h = nn.LSTM(2, 3, 2, batch_first=True, dropout=0.0), nn.Parameter(torch.randn(2, 1, 3))

        def forward(self, x):
            v = self.a(x)
            t, q = torch.tanh(v) * 0.9, v.view(-1, 2, 4)
            image = torch.einsum("bi,bj->bij", v, v)[:, None]
            h = self.h.expand(-1, x.size(0), -1).contiguous()
            y = [torch.atan2(v, v.flip(1)), torch.asin(t) + torch.acos(t) * 0.5 + torch.sinc(v) + torch.atan(v), torch.nan_to_num(v.detach().log(), nan=0.5, neginf=-3.0) + v,
                 torch.logcumsumexp(v, 1), torch.kron(v, torch.tensor([[1.0, 2.0]])), torch.quantile(v, 0.3, dim=1, keepdim=True), torch.trapezoid(v, dim=1)[:, None],
                 torch.zeros(x.size(0), 5).index_copy(1, torch.tensor([3, 0]), v[:, :2]), v.index_fill(1, torch.tensor([3, 0]), 0.5), torch.take_along_dim(v, v.argsort(1), 1),
                 torch.zeros(x.size(0), 5).scatter_reduce(1, (x > 0).long() * 2, v[:, :4], "sum"), torch.tensordot(q, self.m, dims=([1], [0])).flatten(1), torch.inner(v, self.w),
                 torch.linalg.multi_dot([v, self.w, self.w.T]), (v @ self.v)[:, None] + self.v @ self.v, torch.addmm(self.v, v, self.w, beta=0.5, alpha=2), torch.diag_embed(v).flatten(1)[:, ::3],
                 torch.einsum("bii->bi", image[:, 0]), torch.einsum("bij,jk", q, self.w[:4]).flatten(1), F.avg_pool2d(image, 2, divisor_override=3).flatten(1), F.max_pool2d(image, 2, 2, dilation=3).flatten(1),
                 torch.roll(self.m, 3).sum() * v, self.l(q.mT, (h, h))[0].flatten(1), torch.outer(self.v, self.v)[:1] * v, torch.triu(image)[:, 0, torch.triu_indices(8, 8)[0], torch.triu_indices(8, 8)[1]]]
            return torch.cat(y, 1)

    return Net(), (torch.randn(3, 4),)


@model
def edges():
    class Edges(nn.Module):
        """Zeros, equals and bounds, where a slope is what PyTorch says it is, and attributes that are seldom given."""

        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Parameter(torch.tensor([1.0, -2.0, 0.5, 2.0] * 4)), nn.Parameter(torch.tensor([0.0, 0.5] * 8))
            self.act, self.up = nn.PReLU(16), nn.ConvTranspose2d(1, 1, 2, padding=1, output_padding=1, dilation=2)

        def forward(self, x):
            y, F = x * self.a + self.b, nn.functional
            sure = torch.sigmoid(40 * y)  # 0 and 1
            loss = F.binary_cross_entropy(sure, (x > 0).float(), reduction="none")
            rows = y.view(-1, 4, 4)
            cut = [y.clamp(-0.5, 1), y.clamp(min=0), y.clamp(max=-0.5), y.clamp(1, -1)]
            ends = torch.cat([torch.norm(rows * 0, 3, 2), torch.norm(rows, 3, 1), rows.diff(2, 1, append=rows[:, :1]).flatten(1), F.pairwise_distance(rows, rows.flip(1), p=1.0)], 1)
            most = F.adaptive_max_pool2d(rows.unsqueeze(1), (2, 3)).flatten(1)
            part = torch.tril(torch.where(rows > 3, torch.inf, rows)).clamp(max=2).flatten(1)
            up = self.up(rows.unsqueeze(1)).flatten(1)
            turned = torch.cross(rows[:, :3], rows[:, 1:].flip(2)).flatten(1)  # along the first axis of three elements
            return torch.cat([self.act(y), loss, *cut, ends, most, part, up, turned, y.cummax(1)[0], torch.round(y * 0.37, decimals=1), torch.round(y * 17, decimals=-1)], 1)

    return Edges(), (torch.randint(-4, 5, (4, 16)) / 2,)


@model
def unseeing():
    class Unseeing(nn.Module):
        """Queries that see no key get zeros: padded ones, and some of a mask that is always the same."""

        def __init__(self):
            super().__init__()
            self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 4)
            self.register_buffer("fixed", torch.tensor([[1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 0]], dtype=torch.bool))

        def forward(self, x):
            q, k, v = (t.unflatten(2, (2, 4)).transpose(1, 2) for t in self.qkv(x).chunk(3, 2))
            there = x[:, :, 0] > 0
            attend = nn.functional.scaled_dot_product_attention
            y = attend(q, k, v, attn_mask=there[:, None, :, None] & there[:, None, None, :])
            y = attend(y, k, v, attn_mask=self.fixed) + attend(q, k, v, attn_mask=torch.where(there, 0.5, -torch.inf)[:, None, None])
            return self.out(y.transpose(1, 2).flatten(2))

    x = torch.randn(3, 4, 8)
    x[1, :, 0] = -1
    return Unseeing(), (x,)


@model
def odd_fft_all():
    class Transformed(nn.Module):
        """A transform along all axes, the batch too."""

        def __init__(self):
            super().__init__()
            self.a = nn.Linear(6, 6)

        def forward(self, x):
            return torch.fft.fftn(self.a(x)).real

    return Transformed(), (torch.randn(3, 6),)


# Samples that change places, and constants that count them.
part("batch_rolled", lambda m, x: m.a(x) + m.a(x).roll(1, 0))
part("batch_counted", lambda m, x: m.a(x) / torch.ones(x.shape[0]).sum())
part("batch_cumulated", lambda m, x: m.a(x) + torch.ones(x.shape[0], 1).cumsum(0))
