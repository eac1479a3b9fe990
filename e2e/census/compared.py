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


@register(r(4, 2, 8))
class Einsum(Views):
    """Similarities by einsum, the loss by log_softmax and the diagonal, in both directions."""

    def forward(self, x):
        a, b = self.both(x)
        sim = torch.einsum("nd,md->nm", a, b) / 0.1
        return -(sim.log_softmax(1).diag().mean() + F.log_softmax(sim, dim=0).diagonal().mean()) / 2


@register(r(4, 2, 8))
class SoftTargets(Views):
    """Cross entropy with an identity for targets, and with smoothed labels."""

    def forward(self, x):
        a, b = self.both(x)
        sim = a @ b.t() / 0.2
        n = sim.shape[0]
        return F.cross_entropy(sim, torch.eye(n)) + F.cross_entropy(sim.t(), torch.arange(n), label_smoothing=0.1)


@register(r(4, 8), r(4, 8))
class HardestOfRanks(nn.Module):
    """VSE++: the hardest negative of each row and column."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 6), nn.Linear(8, 6)

    def forward(self, x, y):
        scores = F.normalize(self.a(x)).mm(F.normalize(self.b(y)).t())
        diagonal = scores.diag().view(scores.size(0), 1)
        d1, d2 = diagonal.expand_as(scores), diagonal.t().expand_as(scores)
        cost_s, cost_im = (0.2 + scores - d1).clamp(min=0), (0.2 + scores - d2).clamp(min=0)
        own = torch.eye(scores.size(0)) > 0.5
        cost_s, cost_im = cost_s.masked_fill_(own, 0), cost_im.masked_fill_(own, 0)
        return cost_s.max(1)[0].sum() + cost_im.max(0)[0].sum()


@register(r(5, 8), i(3, 5))
class ReidTriplet(nn.Module):
    """Distances by expand and addmm_, as in person re-identification."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(8, 6)

    def forward(self, x, y):
        z = self.net(x)
        n = z.size(0)
        dist = torch.pow(z, 2).sum(dim=1, keepdim=True).expand(n, n)
        dist = dist + dist.t()
        dist = torch.addmm(dist, z, z.t(), beta=1, alpha=-2).clamp(min=1e-12).sqrt()
        mask = y.expand(n, n).eq(y.expand(n, n).t())
        ap = torch.where(mask, dist, torch.zeros_like(dist)).amax(1)
        an = torch.where(mask, torch.full_like(dist, 1e4), dist).amin(1)
        return F.margin_ranking_loss(an, ap, torch.ones_like(an), margin=0.3)


@register(r(5, 8), r(5, 8))
class Coral(nn.Module):
    """Covariances of two domains."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(8, 6)

    def cov(self, x):
        n = x.size(0)
        s = x.sum(dim=0, keepdim=True)
        return (x.t() @ x - (s.t() @ s) / n) / (n - 1)

    def forward(self, x, y):
        return (self.cov(self.net(x)) - self.cov(self.net(y))).pow(2).sum() / (4 * 36)


@register(r(6, 2, 8))
class Sinkhorn(Views):
    """SwAV's codes: rows and columns of the scores normalised in turn, without gradients."""

    def __init__(self):
        super().__init__()
        self.prototypes = nn.Linear(6, 5, bias=False)

    def codes(self, s):
        with torch.no_grad():
            q = torch.exp(s / 0.5).t()
            q = q / q.sum()
            for _ in range(3):
                q = q / q.sum(dim=1, keepdim=True) / 5
                q = q / q.sum(dim=0, keepdim=True) / q.shape[1]
            return (q * q.shape[1]).t()

    def forward(self, x):
        a, b = self.both(x)
        s, t = self.prototypes(a), self.prototypes(b)
        return -0.5 * ((self.codes(s) * F.log_softmax(t / 0.1, 1)).sum(1) + (self.codes(t) * F.log_softmax(s / 0.1, 1)).sum(1)).mean()


@register(r(5, 8), i(3, 5))
class MultiSimilarity(nn.Module):
    """Weights of positives and negatives by exponentials."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(8, 6)

    def forward(self, x, y):
        z = F.normalize(self.net(x), dim=1)
        sim = z @ z.t()
        same = (y.view(-1, 1) == y.view(1, -1)).float()
        pos = same * (1 - torch.eye(x.size(0)))
        neg = 1 - same
        p = torch.log(1 + (torch.exp(-2 * (sim - 0.5)) * pos).sum(1)) / 2
        q = torch.log(1 + (torch.exp(40 * (sim - 0.5)) * neg).sum(1)) / 40
        return (p + q).mean()


@register(r(5, 8))
class NearestOfBatch(nn.Module):
    """A smoothed feature from the nearest samples."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x):
        z = self.a(x)
        d = torch.cdist(z.detach(), z.detach())
        w = (d <= d.mean()).float()
        w = w / w.sum(1, keepdim=True)
        return self.b(torch.relu(w @ z))


@register(r(4, 3, 8))
class SetOfBatch(nn.Module):
    """Attention over the samples, which are the sequence."""

    def __init__(self):
        super().__init__()
        self.attn, self.out = nn.MultiheadAttention(8, 2, dropout=0.0), nn.Linear(8, 3)

    def forward(self, x):
        y, _ = self.attn(x, x, x, need_weights=False)  # the first axis, of the samples, is the sequence
        return self.out(F.layer_norm(x + y, (8,)))


@register(r(4, 8), r(4, 8))
class NPair(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(8, 6)

    def forward(self, x, y):
        a, p = self.net(x), self.net(y)
        target = torch.arange(x.shape[0])
        target = target.view(target.size(0), 1)
        target = (target == target.t()).float()
        target = target / torch.sum(target, dim=1, keepdim=True).float()
        logit = torch.matmul(a, torch.transpose(p, 0, 1))
        ce = torch.mean(torch.sum(-target * F.log_softmax(logit, dim=1), dim=1))
        return ce + 0.002 * torch.sum(a**2 + p**2) / x.shape[0]


@register(r(4, 2, 8))
class DecoupledDiag(Views):
    """The positives beside the diagonal of 2N views."""

    def forward(self, x):
        a, b = self.both(x)
        n = x.size(0)
        z = torch.cat([a, b])
        sim = F.cosine_similarity(z.unsqueeze(1), z.unsqueeze(0), dim=2)
        pos = torch.cat([torch.diag(sim, n), torch.diag(sim, -n)])
        mask = (~torch.eye(2 * n, 2 * n, dtype=torch.bool)).float()
        nom = torch.exp(pos / 0.5)
        den = mask * torch.exp(sim / 0.5)
        return torch.sum(-torch.log(nom / torch.sum(den, dim=1))) / (2 * n)


@register(r(4, 8))
class PairHead(nn.Module):
    """A layer norm and a head over products of all pairs."""

    def __init__(self):
        super().__init__()
        self.net, self.head = nn.Linear(8, 6), nn.Linear(6, 1)

    def forward(self, x):
        z = self.net(x)
        pairs = z.unsqueeze(0) * z.unsqueeze(1)
        s = self.head(F.gelu(F.layer_norm(pairs, (6,)))).squeeze(-1)
        return F.cross_entropy(s, torch.arange(s.size(0)))
