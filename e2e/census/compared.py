"""Modules that compare the samples of a batch with each other: contrastive losses, and means over the
batch on the way."""

import torch
import torch.nn.functional as F
from torch import nn
from more import i, r, register


class Views(nn.Module):
    """Two views of each sample through one network."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 6))

    def both(self, x):
        return F.normalize(self.net(x[:, 0]), dim=1), F.normalize(self.net(x[:, 1]), dim=1)


@register(r(4, 2, 8))
class NTXent(Views):
    """SimCLR's loss, as cross entropy over 2N views."""

    def forward(self, x):
        a, b = self.both(x)
        n = a.size(0)
        z = torch.cat([a, b], dim=0)
        sim = z @ z.t() / 0.5
        sim = sim.masked_fill(torch.eye(2 * n, dtype=torch.bool), float("-inf"))
        targets = torch.cat([torch.arange(n) + n, torch.arange(n)])
        return F.cross_entropy(sim, targets)


@register(r(4, 2, 8))
class NTXentRange(Views):
    """The same with targets from ranges that begin in the middle."""

    def forward(self, x):
        a, b = self.both(x)
        n = x.shape[0]
        z = torch.cat((a, b))
        sim = torch.matmul(z, z.T) / 0.2
        sim = sim - 1e9 * torch.eye(2 * n)
        return F.cross_entropy(sim, torch.cat((torch.arange(n, 2 * n), torch.arange(0, n))))


@register(r(4, 2, 8))
class NTXentByHand(Views):
    """Written out: exponentials, a mask, the positives from the halves."""

    def forward(self, x):
        a, b = self.both(x)
        z = torch.cat([a, b], 0)
        sim = torch.exp(torch.mm(z, z.t().contiguous()) / 0.5)
        mask = (torch.ones_like(sim) - torch.eye(2 * x.shape[0])).bool()
        neg = (sim * mask).sum(dim=-1)
        pos = torch.exp(torch.sum(a * b, dim=-1) / 0.5)
        pos = torch.cat([pos, pos], dim=0)
        return (-torch.log(pos / neg)).mean()


@register(r(4, 2, 8))
class NTXentCosine(Views):
    """Similarities by broadcasting."""

    def forward(self, x):
        a, b = self.net(x[:, 0]), self.net(x[:, 1])
        sim = F.cosine_similarity(a.unsqueeze(1), b.unsqueeze(0), dim=-1) / 0.1
        return torch.mean(torch.logsumexp(sim, dim=1) - torch.diagonal(sim))


@register(r(4, 8), r(4, 8))
class Clip(nn.Module):
    """Both directions; a temperature that is learned and bounded."""

    def __init__(self):
        super().__init__()
        self.image, self.text = nn.Linear(8, 6), nn.Linear(8, 6)
        self.logit_scale = nn.Parameter(torch.tensor(2.6593))

    def forward(self, x, y):
        a, b = F.normalize(self.image(x), dim=-1), F.normalize(self.text(y), dim=-1)
        logits = self.logit_scale.exp().clamp(max=100) * a @ b.t()
        labels = torch.arange(x.size(0), device=x.device)
        return 0.5 * (F.cross_entropy(logits, labels) + F.cross_entropy(logits.t(), labels))


@register(r(4, 8), r(4, 8))
class SigLip(nn.Module):
    """Sigmoids of all pairs."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 6), nn.Linear(8, 6)
        self.scale, self.bias = nn.Parameter(torch.tensor(1.5)), nn.Parameter(torch.tensor(-2.0))

    def forward(self, x, y):
        a, b = F.normalize(self.a(x), dim=-1), F.normalize(self.b(y), dim=-1)
        logits = a @ b.T * self.scale.exp() + self.bias
        labels = 2 * torch.eye(x.size(0)) - torch.ones(x.size(0), x.size(0))
        return -F.logsigmoid(labels * logits).sum() / x.size(0)


@register(r(5, 8), i(3, 5))
class BatchHard(nn.Module):
    """The farthest of one's own class, the nearest of others."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 6))

    def forward(self, x, y):
        z = self.net(x)
        sq = (z * z).sum(1)
        d = (sq[:, None] + sq[None, :] - 2 * z @ z.T).clamp(min=1e-12).sqrt()
        same = y[:, None] == y[None, :]
        pos = (d * same.float()).max(dim=1)[0]
        neg = (d + 1e3 * same.float()).min(dim=1)[0]
        return F.relu(pos - neg + 0.5).mean()


@register(r(5, 8), i(3, 5))
class BatchAll(nn.Module):
    """All triplets of the batch, by cdist and masks."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(8, 6)

    def forward(self, x, y):
        z = self.net(x)
        d = torch.cdist(z, z)
        same = y.unsqueeze(0) == y.unsqueeze(1)
        other = ~torch.eye(y.size(0), dtype=torch.bool)
        t = d.unsqueeze(2) - d.unsqueeze(1) + 0.3
        valid = (same & other).unsqueeze(2) & ~same.unsqueeze(1)
        t = F.relu(t) * valid
        return t.sum() / (valid.sum() + 1e-6)


@register(r(4, 8), r(4, 8))
class InBatchTriplet(nn.Module):
    """Every other sample's positive is a negative."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 6))

    def forward(self, x, y):
        a, p = self.net(x), self.net(y)
        s = a @ p.transpose(0, 1)
        own = torch.diag(s).unsqueeze(1)
        loss = F.relu(0.2 + s - own)
        return (loss * (1 - torch.eye(x.size(0)))).sum() / (x.size(0) * x.size(0))


@register(r(4, 2, 8))
class Barlow(nn.Module):
    """Cross-correlation of the features over the batch."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 6))

    def forward(self, x):
        a, b = self.net(x[:, 0]), self.net(x[:, 1])
        a = (a - a.mean(0)) / (a.std(0) + 1e-5)
        b = (b - b.mean(dim=0, keepdim=True)) / (b.std(dim=0, keepdim=True) + 1e-5)
        c = a.T @ b / x.size(0)
        d = (c - torch.eye(6)) ** 2
        return (d * (torch.eye(6) + 5e-3 * (1 - torch.eye(6)))).sum()


@register(r(5, 8))
class Centred(nn.Module):
    """The mean and spread of the batch in the middle of a model."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x):
        h = torch.tanh(self.a(x))
        h = (h - h.mean(dim=0)) / torch.sqrt(h.var(dim=0, unbiased=False) + 1e-3)
        return self.b(h)


@register(r(5, 8))
class Neighbours(nn.Module):
    """Attention over the samples of the batch, as tables have it."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.out = nn.Linear(8, 6), nn.Linear(8, 6), nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x):
        w = torch.softmax(self.q(x) @ self.k(x).t() / 6**0.5, dim=-1)
        return self.out(w @ self.v(x))


@register(r(5, 3, 4, 4))
class MinibatchDeviation(nn.Module):
    """A discriminator with the deviation over the batch as one more feature."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(5 * 16, 1)

    def forward(self, x):
        h = F.leaky_relu(self.conv(x), 0.2)
        s = (h - h.mean(0, keepdim=True)).square().mean(0).add(1e-8).sqrt().mean()
        return self.fc(torch.cat([h, s.expand(h.size(0), 1, 4, 4)], 1).flatten(1))


@register(r(4, 2, 8))
class ClassifiedAndContrasted(Views):
    """A loss of each sample beside one of the batch."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        a, b = self.both(x)
        own = F.mse_loss(self.head(a), self.head(b))
        logits = a @ b.T / 0.3
        return own + 0.5 * F.cross_entropy(logits, torch.arange(a.size(0)))


@register(r(6, 8))
class Uniformity(nn.Module):
    """Alignment and uniformity: the mean of a Gaussian of all distances."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(8, 6)

    def forward(self, x):
        z = F.normalize(self.net(x), dim=1)
        d = torch.cdist(z, z).pow(2)
        return d.mul(-2).exp().mean().log() + (z * z).mean()


@register(r(5, 8), r(5, 8))
class Kernels(nn.Module):
    """The maximum mean discrepancy of two sets of samples."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(8, 4)

    def forward(self, x, y):
        z = torch.cat([self.net(x), self.net(y)], 0)
        d = ((z.unsqueeze(0) - z.unsqueeze(1)) ** 2).sum(2)
        k = torch.exp(-d / 2)
        n = x.size(0)
        return k[:n, :n].mean() + k[n:, n:].mean() - 2 * k[:n, n:].mean()
