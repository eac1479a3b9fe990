"""Modules as people write them: recommenders, tables, agents, and losses of a batch."""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, kl_divergence
from more import i, r, register, u


@register(i(30, 3, 4), i(10, 3, 5), r(3, 6))
class DLRM(nn.Module):
    """Dense and sparse features; the products of all pairs, taken below the diagonal."""

    def __init__(self):
        super().__init__()
        self.bags = nn.ModuleList([nn.EmbeddingBag(30, 8, mode="sum"), nn.EmbeddingBag(10, 8, mode="mean")])
        self.bottom = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU())
        self.top = nn.Sequential(nn.Linear(8 + 3, 16), nn.ReLU(), nn.Linear(16, 1), nn.Sigmoid())

    def forward(self, a, b, x):
        d = self.bottom(x)
        t = torch.cat([d] + [bag(v) for bag, v in zip(self.bags, (a, b))], dim=1).view(x.size(0), -1, 8)
        z = torch.bmm(t, t.transpose(1, 2))
        _, n, m = z.shape
        li, lj = torch.tensor([p for p in range(n) for _ in range(p)]), torch.tensor([q for p in range(n) for q in range(p)])
        return self.top(torch.cat([d, z[:, li, lj]], dim=1))


@register(i(50, 3, 4))
class XDeepFM(nn.Module):
    """Fields of one table by offsets; a compressed interaction network and an MLP."""

    def __init__(self):
        super().__init__()
        self.register_buffer("offsets", torch.tensor([0, 50, 100, 150]))
        self.emb, self.lin, self.bias = nn.Embedding(200, 6), nn.Embedding(200, 1), nn.Parameter(torch.zeros(1))
        self.cin = nn.ModuleList([nn.Conv1d(16, 8, 1), nn.Conv1d(4 * 4, 8, 1)])
        self.fc, self.mlp = nn.Linear(12, 1), nn.Sequential(nn.Linear(24, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 1))

    def forward(self, x):
        x = x + self.offsets.unsqueeze(0)
        e = self.emb(x)
        x0, h, parts = e.unsqueeze(2), e, []
        for k, conv in enumerate(self.cin):
            z = (x0 * h.unsqueeze(1)).view(x.shape[0], -1, 6)
            z = F.relu(conv(z))
            if k == 0:
                z, h = torch.split(z, z.shape[1] // 2, dim=1)
            parts.append(z)
        cin = self.fc(torch.cat(parts, 1).sum(2))
        return torch.sigmoid((self.lin(x).sum(1) + self.bias + cin + self.mlp(e.flatten(1))).squeeze(1))


class Dice(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.bn, self.alpha = nn.BatchNorm1d(n, eps=1e-8), nn.Parameter(torch.zeros(n))

    def forward(self, x):
        p = torch.sigmoid(self.bn(x))
        return self.alpha * (1 - p) * x + p * x


@register(i(40, 3, 7), i(40, 3))
class DIN(nn.Module):
    """Interest in a candidate: what was seen before, weighted by a small network; 0 is padding."""

    def __init__(self):
        super().__init__()
        self.items = nn.Embedding(40, 8, padding_idx=0)
        self.att = nn.Sequential(nn.Linear(32, 16), nn.PReLU(), nn.Linear(16, 1))
        self.out = nn.Sequential(nn.Linear(24, 16), Dice(16), nn.Linear(16, 2))

    def forward(self, seen, item):
        h, c = self.items(seen), self.items(item)
        q = c.unsqueeze(1).expand_as(h)
        w = self.att(torch.cat([q, h, q - h, q * h], -1)).squeeze(-1)
        w = w.masked_fill(seen == 0, -2.0**32 + 1)
        s = torch.matmul(F.softmax(w, dim=-1).unsqueeze(1), h).squeeze(1)
        return self.out(torch.cat([s, c, s * c], 1))


@register(i(60, 3, 9))
class SASRec(nn.Module):
    """The next item, by scores against the items' own table."""

    def __init__(self):
        super().__init__()
        self.items, self.pos = nn.Embedding(61, 16, padding_idx=0), nn.Embedding(9, 16)
        self.drop = nn.Dropout(0.2)
        self.norms = nn.ModuleList(nn.LayerNorm(16, eps=1e-8) for _ in range(2))
        self.att = nn.MultiheadAttention(16, 2, dropout=0.2)
        self.c1, self.c2 = nn.Conv1d(16, 16, 1), nn.Conv1d(16, 16, 1)

    def forward(self, seq):
        x = self.items(seq) * self.items.embedding_dim**0.5
        x = x + self.pos(torch.arange(seq.size(1), device=seq.device).unsqueeze(0).repeat(seq.size(0), 1))
        pad = seq == 0
        x = self.drop(x) * ~pad.unsqueeze(-1)
        x = torch.transpose(x, 0, 1)
        q = self.norms[0](x)
        a, _ = self.att(q, x, x, attn_mask=~torch.tril(torch.ones((seq.size(1), seq.size(1)), dtype=torch.bool)))
        x = torch.transpose(q + a, 0, 1)
        y = self.norms[1](x)
        x = y + self.c2(F.relu(self.c1(y.transpose(-1, -2)))).transpose(-1, -2)
        return x @ self.items.weight.t() * ~pad.unsqueeze(-1)


@register(r(3, 12))
class MMoE(nn.Module):
    """Several tasks over shared experts, each with its gate; two answers."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(12, 8), nn.ReLU()) for _ in range(3))
        self.gates = nn.ParameterList(nn.Parameter(torch.randn(12, 3) * 0.1) for _ in range(2))
        self.towers = nn.ModuleList(nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 1)) for _ in range(2))

    def forward(self, x):
        e = torch.stack([f(x) for f in self.experts])
        out = []
        for g, t in zip(self.gates, self.towers):
            w = F.softmax(x @ g, dim=1).t().unsqueeze(2).expand(-1, -1, 8)
            out.append(t((w * e).sum(0)))
        return torch.cat(out, 1)


@register(r(4, 10))
class TabNet(nn.Module):
    """Steps that look at a few columns each, by sparsemax, with ghost batch norm and shared layers."""

    class GLU(nn.Module):
        def __init__(self, fc, n):
            super().__init__()
            self.fc, self.bn = fc, nn.BatchNorm1d(n, momentum=0.02)

        def forward(self, x):
            x = self.bn(self.fc(x))
            return x[:, : x.size(1) // 2] * torch.sigmoid(x[:, x.size(1) // 2 :])

    def __init__(self):
        super().__init__()
        shared = nn.Linear(10, 24, bias=False)
        self.bn = nn.BatchNorm1d(10, momentum=0.01)
        self.steps = nn.ModuleList(nn.ModuleList([self.GLU(shared, 24), self.GLU(nn.Linear(12, 24, bias=False), 24)]) for _ in range(3))
        self.att = nn.ModuleList(nn.Sequential(nn.Linear(6, 10, bias=False), nn.BatchNorm1d(10)) for _ in range(2))
        self.out = nn.Linear(6, 3, bias=False)

    @staticmethod
    def sparsemax(z):
        z = z - z.max(dim=-1, keepdim=True)[0]
        s, _ = torch.sort(z, dim=-1, descending=True)
        k = torch.arange(1, z.size(-1) + 1, dtype=z.dtype, device=z.device)
        support = 1 + k * s > s.cumsum(-1)
        n = support.sum(-1, keepdim=True)
        tau = (s.cumsum(-1).gather(-1, n - 1) - 1) / n.to(z.dtype)
        return torch.clamp(z - tau, min=0)

    def run(self, k, x):
        a = self.steps[k][0](x)
        return (a + self.steps[k][1](a)) * math.sqrt(0.5)

    def forward(self, x):
        x = self.bn(x)
        prior, total, loss = torch.ones_like(x), 0, 0
        a = self.run(0, x)[:, 6:]
        for k in range(2):
            m = self.sparsemax(self.att[k](a) * prior)
            loss = loss + torch.mean(torch.sum(m * torch.log(m + 1e-15), dim=1))
            prior = prior * (1.3 - m)
            h = self.run(k + 1, m * x)
            total, a = total + F.relu(h[:, :6]), h[:, 6:]
        return self.out(total)


@register(i(5, 4, 3), r(4, 6))
class SAINT(nn.Module):
    """Categorical and numeric columns as tokens; gated feed-forward layers and column attention."""

    def __init__(self):
        super().__init__()
        self.cat = nn.ModuleList(nn.Embedding(5, 8) for _ in range(3))
        self.num = nn.ModuleList(nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 8)) for _ in range(6))
        self.cls = nn.Parameter(torch.randn(1, 1, 8))
        self.qkv, self.proj, self.n1, self.n2 = nn.Linear(8, 24, bias=False), nn.Linear(8, 8), nn.LayerNorm(8), nn.LayerNorm(8)
        self.ff1, self.ff2, self.head = nn.Linear(8, 64), nn.Linear(32, 8), nn.Linear(8, 1)

    def forward(self, c, x):
        t = [e(c[:, k]) for k, e in enumerate(self.cat)] + [m(x[:, k : k + 1]) for k, m in enumerate(self.num)]
        h = torch.cat((self.cls.repeat(x.shape[0], 1, 1), torch.stack(t, 1)), 1)
        q, k, v = (z.reshape(*z.shape[:2], 2, 4).permute(0, 2, 1, 3) for z in self.qkv(self.n1(h)).chunk(3, -1))
        a = (torch.einsum("bhid,bhjd->bhij", q, k) * 4**-0.5).softmax(-1)
        h = h + self.proj(torch.einsum("bhij,bhjd->bhid", a, v).transpose(1, 2).flatten(2))
        y, g = self.ff1(self.n2(h)).chunk(2, dim=-1)
        h = h + self.ff2(y * F.gelu(g))
        return self.head(h[:, 0])


@register(r(4, 6), i(3, 4), u(4), r(4, 1))
class DQNLoss(nn.Module):
    """A double DQN's loss, with a target network that does not learn."""

    def __init__(self):
        super().__init__()
        net = lambda: nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
        self.q, self.target = net(), net()
        for p in self.target.parameters():
            p.requires_grad_(False)

    def forward(self, s, a, done, reward):
        s2 = s + 0.1
        q = self.q(s).gather(1, a.unsqueeze(1)).squeeze(1)
        with torch.no_grad():
            best = self.q(s2).argmax(dim=1, keepdim=True)
            y = reward.squeeze(1) + 0.99 * (1 - done) * self.target(s2).gather(1, best).squeeze(1)
        return F.smooth_l1_loss(q, y, reduction="none")


@register(r(4, 6), i(3, 4), r(4), r(4))
class PPOLoss(nn.Module):
    """The clipped objective, the value's loss, and the entropy, by torch.distributions."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 16), nn.Tanh())
        self.pi, self.v = nn.Linear(16, 3), nn.Linear(16, 1)

    def forward(self, s, a, advantage, old):
        h = self.body(s)
        d = Categorical(logits=self.pi(h), validate_args=False)
        ratio = torch.exp(d.log_prob(a) - old * 0.1)
        clipped = torch.min(ratio * advantage, torch.clamp(ratio, 0.8, 1.2) * advantage)
        return -clipped + 0.5 * (self.v(h).squeeze(-1) - advantage).pow(2) - 0.01 * d.entropy()


@register(r(4, 6), r(4, 2))
class TanhGaussian(nn.Module):
    """A policy squashed by tanh: the log-probability of given noise, as soft actor-critic has it."""

    def __init__(self):
        super().__init__()
        self.body, self.mu, self.sd = nn.Sequential(nn.Linear(6, 16), nn.ReLU()), nn.Linear(16, 2), nn.Linear(16, 2)

    def forward(self, s, eps):
        h = self.body(s)
        mu, sd = self.mu(h), torch.clamp(self.sd(h), -20, 2).exp()
        d = Normal(mu, sd, validate_args=False)
        z = mu + sd * eps
        a = torch.tanh(z)
        return (d.log_prob(z) - torch.log(1 - a.pow(2) + 1e-6)).sum(-1, keepdim=True) + a


@register(r(4, 6), i(4, 4))
class QuantileDQN(nn.Module):
    """Quantile regression with a Huber loss over all pairs; an implicit quantile network's cosines."""

    def __init__(self):
        super().__init__()
        self.net, self.cos, self.out = nn.Linear(6, 16), nn.Linear(12, 16), nn.Linear(16, 4)

    def forward(self, s, a):
        tau = (torch.arange(8, dtype=s.dtype) + 0.5) / 8
        c = torch.cos(math.pi * torch.arange(1, 13, dtype=s.dtype)[None] * tau[:, None])
        z = self.out(F.relu(self.net(s))[:, None] * F.relu(self.cos(c))[None])
        q = z.gather(2, a[:, None, None].expand(-1, 8, 1)).squeeze(2)
        y = z.detach().max(2)[0] * 0.9 + 0.1
        d = y[:, None, :] - q[:, :, None]
        return (torch.abs(tau[None, :, None] - (d.detach() < 0).float()) * F.huber_loss(q[:, :, None].expand_as(d), y[:, None].expand_as(d), reduction="none")).mean(2).sum(1)


@register(r(3, 5, 6), i(4, 3, 5))
class RSSM(nn.Module):
    """A world model's loop: a GRU cell, categorical latents straight through, a KL with one side detached."""

    def __init__(self):
        super().__init__()
        self.act, self.cell, self.prior, self.post, self.dec = nn.Embedding(4, 4), nn.GRUCell(20, 12), nn.Linear(12, 16), nn.Linear(18, 16), nn.Linear(28, 6)

    def latent(self, logits):
        p = F.softmax(logits.view(-1, 4, 4), -1)
        hard = F.one_hot(p.argmax(-1), 4).float()
        return (hard + p - p.detach()).flatten(1)

    def forward(self, x, a):
        h, z, out = x.new_zeros(x.size(0), 12), x.new_zeros(x.size(0), 16), []
        for t in range(x.size(1)):
            h = self.cell(torch.cat([z, self.act(a[:, t])], 1), h)
            pri, post = self.prior(h), self.post(torch.cat([h, x[:, t]], 1))
            z = self.latent(post)
            p, q = F.log_softmax(pri.view(-1, 4, 4), -1), F.log_softmax(post.view(-1, 4, 4), -1)
            kl = (q.exp() * (q - p)).sum((1, 2))
            bal = 0.8 * (q.detach().exp() * (q.detach() - p)).sum((1, 2)) + 0.2 * kl
            out.append((self.dec(torch.cat([h, z], 1)) - x[:, t]).square().sum(1) + torch.maximum(bal, torch.tensor(1.0)))
        return torch.stack(out, 1)


@register(r(4, 8), r(4, 2))
class DistributionsVAE(nn.Module):
    """Normal, its KL divergence and log-probability from torch.distributions."""

    def __init__(self):
        super().__init__()
        self.enc, self.mu, self.sd, self.dec = nn.Linear(8, 16), nn.Linear(16, 2), nn.Linear(16, 2), nn.Sequential(nn.Linear(2, 16), nn.ELU(), nn.Linear(16, 8))

    def forward(self, x, eps):
        h = F.elu(self.enc(x))
        q = Independent(Normal(self.mu(h), F.softplus(self.sd(h)) + 1e-3, validate_args=False), 1, validate_args=False)
        p = Independent(Normal(torch.zeros(2), torch.ones(2), validate_args=False), 1, validate_args=False)
        z = q.mean + q.stddev * eps
        like = Independent(Normal(self.dec(z), 0.5, validate_args=False), 1, validate_args=False)
        return -like.log_prob(x) + kl_divergence(q.base_dist, Normal(torch.zeros_like(q.mean), torch.ones_like(q.mean), validate_args=False)).sum(-1)


@register(r(4, 3), r(4, 2))
class MixtureLikelihood(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.w, self.mu, self.sd = nn.Sequential(nn.Linear(3, 16), nn.Tanh()), nn.Linear(16, 4), nn.Linear(16, 8), nn.Linear(16, 8)

    def forward(self, x, y):
        h = self.net(x)
        parts = Independent(Normal(self.mu(h).view(-1, 4, 2), self.sd(h).exp().view(-1, 4, 2), validate_args=False), 1, validate_args=False)
        return -MixtureSameFamily(Categorical(logits=self.w(h), validate_args=False), parts, validate_args=False).log_prob(y)


@register(r(4, 2, 8))
class BarlowTwins(nn.Module):
    """The correlation of two views over the batch."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 6))
        self.bn = nn.BatchNorm1d(6, affine=False)

    def forward(self, x):
        a, b = self.bn(self.net(x[:, 0])), self.bn(self.net(x[:, 1]))
        c = a.T @ b / x.size(0)
        on = torch.diagonal(c).add_(-1).pow_(2).sum()
        off = c.flatten()[:-1].view(5, 7)[:, 1:].flatten().pow(2).sum()
        return on + 0.005 * off


@register(r(4, 2, 8))
class VICReg(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 6))

    def forward(self, x):
        a, b = self.net(x[:, 0]), self.net(x[:, 1])
        sim = F.mse_loss(a, b)
        a, b = a - a.mean(0), b - b.mean(0)
        std = sum(torch.mean(F.relu(1 - torch.sqrt(v.var(dim=0) + 1e-4))) / 2 for v in (a, b))
        cov = sum(((v.T @ v) / (v.size(0) - 1)).fill_diagonal_(0).pow_(2).sum() / 6 for v in (a, b))
        return 25 * sim + 25 * std + cov


@register(r(4, 2, 8), i(2, 4))
class SupCon(nn.Module):
    """A supervised contrastive loss over the batch."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 6))

    def forward(self, x, y):
        z = F.normalize(self.net(x), dim=2)
        z = torch.cat(torch.unbind(z, dim=1), dim=0)
        mask = torch.eq(y.view(-1, 1), y.view(-1, 1).T).float().repeat(2, 2)
        logits = z @ z.T / 0.5
        logits = logits - torch.max(logits, dim=1, keepdim=True)[0].detach()
        alone = torch.ones_like(mask) - torch.eye(mask.size(0))
        mask = mask * alone
        log_prob = logits - torch.log((torch.exp(logits) * alone).sum(1, keepdim=True))
        return -((mask * log_prob).sum(1) / mask.sum(1)).mean()


@register(r(3, 8), r(3, 8))
class InBatchNegatives(nn.Module):
    """CLIP's loss: both directions, a learned temperature."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.scale = nn.Linear(8, 6), nn.Linear(8, 6), nn.Parameter(torch.ones([]) * math.log(1 / 0.07))

    def forward(self, x, y):
        a, b = self.a(x), self.b(y)
        a, b = a / a.norm(dim=1, keepdim=True), b / b.norm(dim=1, keepdim=True)
        logits = self.scale.exp() * a @ b.t()
        labels = torch.arange(x.shape[0], device=x.device)
        return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.t(), labels)) / 2


@register(r(3, 8), r(3, 5))
class WGANCritic(nn.Module):
    """A critic's step: the generator's pictures are made without gradients."""

    def __init__(self):
        super().__init__()
        self.g = nn.Sequential(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8), nn.Tanh())
        self.d = nn.Sequential(nn.Linear(8, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))

    def forward(self, real, z):
        with torch.no_grad():
            fake = self.g(z)
        return self.d(fake).mean() - self.d(real).mean()


@register(r(3, 8), r(3, 8), r(3, 8))
class TripletLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.loss = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 6)), nn.TripletMarginLoss(margin=1.0)

    def forward(self, a, p, n):
        return self.loss(self.net(a), self.net(p), self.net(n))


@register(i(50, 3), i(50, 3), i(50, 3, 5))
class SkipGram(nn.Module):
    """Negative sampling: two tables, products by bmm, log-sigmoid."""

    def __init__(self):
        super().__init__()
        self.u, self.v = nn.Embedding(50, 8, sparse=False), nn.Embedding(50, 8)

    def forward(self, center, context, negative):
        c = self.u(center)
        pos = F.logsigmoid(torch.clamp((c * self.v(context)).sum(1), max=10, min=-10))
        neg = F.logsigmoid(-torch.bmm(self.v(negative), c.unsqueeze(2)).squeeze(2).clamp(-10, 10)).sum(1)
        return -(pos + neg).mean()


@register(i(20, 3), i(30, 3))
class BiasedFactors(nn.Module):
    """Matrix factorization and a neural part beside it."""

    def __init__(self):
        super().__init__()
        self.u, self.i, self.bu, self.bi, self.mean = nn.Embedding(20, 8), nn.Embedding(30, 8), nn.Embedding(20, 1), nn.Embedding(30, 1), nn.Parameter(torch.tensor([3.5]))
        self.mlp = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, user, item):
        u, i = self.u(user), self.i(item)
        return (u * i).sum(-1) + self.bu(user)[..., 0] + self.bi(item).squeeze() + self.mean + self.mlp(torch.cat((u, i), -1)).flatten()


@register(r(3, 10))
class SoftTree(nn.Module):
    """A differentiable decision tree: paths are products of gates, entmax-like steps choose columns."""

    def __init__(self):
        super().__init__()
        self.choose, self.cut, self.temp, self.leaves = nn.Parameter(torch.randn(10, 2, 3)), nn.Parameter(torch.randn(2, 3)), nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.randn(2, 4, 8))
        codes = torch.tensor([[(leaf >> d) & 1 for leaf in range(8)] for d in range(3)], dtype=torch.float32)
        self.bins = nn.Parameter(torch.stack([codes, 1 - codes], -1), requires_grad=False)

    def forward(self, x):
        f = torch.einsum("bi,ind->bnd", x, F.softmax(self.choose, 0))
        t = (f - self.cut) * torch.exp(-self.temp)
        t = torch.clamp(0.5 * torch.stack([-t, t], dim=-1) + 0.5, 0, 1)
        m = torch.einsum("btds,dcs->btdc", t, self.bins)
        return torch.einsum("bnl,ncl->bnc", torch.prod(m, dim=-2), self.leaves).mean(1)


@register(r(3, 6), i(4, 3))
class CenterLoss(nn.Module):
    """Cross entropy with margin, centers of classes, and focal weights."""

    def __init__(self):
        super().__init__()
        self.net, self.cls, self.centers = nn.Linear(6, 8), nn.Linear(8, 4), nn.Parameter(torch.randn(4, 8))

    def forward(self, x, y):
        h = F.leaky_relu(self.net(x))
        logits = self.cls(h)
        ce = F.cross_entropy(logits, y, reduction="none", label_smoothing=0.1)
        pt = torch.exp(-ce)
        center = (h - self.centers.index_select(0, y)).pow(2).sum(1).clamp(min=1e-12, max=1e12)
        onehot = torch.zeros_like(logits).scatter_(1, y.view(-1, 1), 1.0)
        margin = F.relu(1.0 + (logits * (1 - onehot)).max(1)[0] - (logits * onehot).sum(1))
        return ((1 - pt) ** 2 * ce + 0.01 * center + 0.1 * margin).mean()


@register(r(3, 5, 4))
class SetTransformer(nn.Module):
    """Induced points and pooling by attention."""

    class MAB(nn.Module):
        def __init__(self, q, k, v, heads=2):
            super().__init__()
            self.heads, self.q, self.k, self.v, self.o, self.l0, self.l1 = heads, nn.Linear(q, v), nn.Linear(k, v), nn.Linear(k, v), nn.Linear(v, v), nn.LayerNorm(v), nn.LayerNorm(v)

        def forward(self, a, b):
            q, k, v = self.q(a), self.k(b), self.v(b)
            d = q.size(2) // self.heads
            qs, ks, vs = (torch.cat(t.split(d, 2), 0) for t in (q, k, v))
            w = torch.softmax(qs.bmm(ks.transpose(1, 2)) / math.sqrt(q.size(2)), 2)
            o = self.l0(torch.cat((qs + w.bmm(vs)).split(q.size(0), 0), 2))
            return self.l1(o + F.relu(self.o(o)))

    def __init__(self):
        super().__init__()
        self.points, self.seed = nn.Parameter(torch.randn(1, 3, 8)), nn.Parameter(torch.randn(1, 1, 8))
        self.m0, self.m1, self.m2, self.out = self.MAB(8, 4, 8), self.MAB(4, 8, 8), self.MAB(8, 8, 8), nn.Linear(8, 2)

    def forward(self, x):
        h = self.m0(self.points.repeat(x.size(0), 1, 1), x)
        h = self.m1(x, h)
        return self.out(self.m2(self.seed.repeat(x.size(0), 1, 1), h)).squeeze(1)


@register(r(6, 6))
class SwAV(nn.Module):
    """Prototypes; Sinkhorn's assignment is made without gradients."""

    def __init__(self):
        super().__init__()
        self.net, self.protos = nn.Linear(6, 8), nn.Linear(8, 4, bias=False)

    @torch.no_grad()
    def sinkhorn(self, s):
        q = torch.exp(s / 0.5).t()
        q = q / q.sum()
        for _ in range(3):
            q = q / q.sum(1, keepdim=True) / 4
            q = q / q.sum(0, keepdim=True) / q.size(1)
        return (q * q.size(1)).t()

    def forward(self, x):
        s = self.protos(F.normalize(self.net(x), dim=1))
        return -(self.sinkhorn(s) * F.log_softmax(s / 0.1, dim=1)).sum(1).mean()
