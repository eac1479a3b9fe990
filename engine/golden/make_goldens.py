#!/usr/bin/env python3
"""Writes testdata/*.safetensors: PyTorch's answers, for Go tests that have no PyTorch.

    python3 make_goldens.py            write the files anew
    python3 make_goldens.py --check    compute again and compare with the files

Needs PyTorch (1.13 or later) and nothing else. Inputs come from Python's own random
numbers on a grid of 2^-16, so that they are the same bits wherever this runs; outputs
differ between versions and processors in their last bits, which is why --check allows
for rounding in them. README.md says what each file holds.
"""

import argparse
import gzip
import json
import math
import os
import random
import sys
import warnings

import torch
import torch.nn.functional as F
from torch import nn

HERE = os.path.dirname(os.path.abspath(__file__))
TESTDATA = os.path.join(HERE, "testdata")
sys.path.insert(0, os.path.join(HERE, "..", "..", "e2e", "torch"))

from models import FULL, SMALL  # noqa: E402
from tensors import load, save  # noqa: E402
from walkthrough import CNN_Net, no_dropout  # noqa: E402

# ---- inputs ----


class Inputs:
    """Numbers that are the same bits in every Python."""

    def __init__(self, seed):
        self.r = random.Random(seed)

    def fill(self, shape, f):
        n = math.prod(shape)
        return torch.tensor([round(f() * 65536) / 65536 for _ in range(n)], dtype=torch.float32).reshape(shape)

    def normal(self, *shape):
        r = self.r.random
        return self.fill(shape, lambda: math.sqrt(-2 * math.log(1 - r())) * math.cos(2 * math.pi * r()))

    def uniform(self, lo, hi, *shape):
        return self.fill(shape, lambda: lo + (hi - lo) * self.r.random())

    def ints(self, n, *shape):
        return torch.tensor([int(self.r.random() * n) for _ in range(math.prod(shape))]).reshape(shape)


def grid(t):
    """t rounded to the grid of the inputs, which hides how it was computed."""
    return (t * 65536).round() / 65536


class Cases:
    """Collects cases: tensors named CASE.ROLE and a JSON description per case."""

    def __init__(self):
        self.tensors, self.meta, self.inputs = {}, {}, set()

    def put(self, case, meta, given, answers):
        assert case not in self.meta, case
        self.meta[case] = json.dumps(meta, sort_keys=True)
        for role, t in list(given.items()) + list(answers.items()):
            self.tensors[case + "." + role] = t.detach().clone()
        self.inputs.update(case + "." + role for role in given)


def seed_of(case):
    return int.from_bytes(case.encode(), "big")


def backward(y, dy, given):
    """The gradient of every float input with respect to sum(y*dy), as dNAME."""
    names = [n for n, t in given.items() if t.requires_grad]
    grads = torch.autograd.grad(y, [given[n] for n in names], dy)
    return {"d" + n: g for n, g in zip(names, grads)}


def tracked(**tensors):
    return {n: t.clone().requires_grad_() for n, t in tensors.items() if t is not None}


# ---- ops ----


def op(c, case, meta, f, draw, dy=None, fixed=None):
    """One case of a differentiable function: draw(inputs) gives what it reads."""
    r = Inputs(seed_of(case))
    given = tracked(**draw(r))
    y = f(**given)
    dy = dy if dy is not None else r.normal(*y.shape)
    answers = {"y": y, **backward(y, dy, given), **(fixed or {})}
    c.put(case, meta, {**given, "dy": dy}, answers)


def conv(c, case, n, cin, h, w, cout, k, stride=1, padding=0, dilation=1, groups=1, bias=True):
    pair = lambda v: list(v) if isinstance(v, tuple) else [v, v]
    attrs = {"in_channels": cin, "out_channels": cout, "kernel_size": pair(k), "bias": bias}
    if stride != 1:
        attrs["stride"] = pair(stride)
    if padding == "same":
        attrs["same"] = True
    elif padding != 0:
        attrs["padding"] = pair(padding)
    if dilation != 1:
        attrs["dilation"] = pair(dilation)
    if groups != 1:
        attrs["groups"] = groups
    kh, kw = pair(k)

    def draw(r):
        b = 1 / math.sqrt(cin // groups * kh * kw)
        return dict(
            x=r.normal(n, cin, h, w),
            weight=r.uniform(-b, b, cout, cin // groups, kh, kw),
            bias=r.uniform(-b, b, cout) if bias else None,
        )

    def f(x, weight, bias=None):
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)

    op(c, case, {"op": "conv2d", "attrs": attrs}, f, draw)


def batchnorm(c, case, shape, train, mean=0.0, std=1.0):
    n = shape[1]
    r = Inputs(seed_of(case))
    given = tracked(x=r.normal(*shape) * std + mean, weight=r.uniform(0.5, 1.5, n), bias=r.uniform(-0.5, 0.5, n))
    run_mean, run_var = r.normal(n) + mean, r.uniform(0.5, 2, n)
    m = nn.BatchNorm2d(n) if len(shape) == 4 else nn.BatchNorm1d(n)
    m.train(train)
    m.load_state_dict({
        "weight": given["weight"].detach(), "bias": given["bias"].detach(),
        "running_mean": run_mean, "running_var": run_var, "num_batches_tracked": torch.tensor(3),
    })
    x = given["x"]
    y = m(x)
    dy = r.normal(*shape)
    dx, dw, db = torch.autograd.grad(y, [x, m.weight, m.bias], dy)
    attrs = {"num_features": n, "eps": m.eps, "momentum": m.momentum}
    kind = "batchnorm2d" if len(shape) == 4 else "batchnorm1d"
    c.put(
        case, {"op": kind, "attrs": attrs, "train": train},
        {**given, "running_mean": run_mean, "running_var": run_var, "num_batches_tracked": torch.tensor(3), "dy": dy},
        {
            "y": y, "dx": dx, "dweight": dw, "dbias": db, "running_mean_after": m.running_mean,
            "running_var_after": m.running_var, "num_batches_tracked_after": m.num_batches_tracked,
        },
    )


def loss(c, case, meta, f, x, target):
    x = x.clone().requires_grad_()
    l = f(x, target)
    (dx,) = torch.autograd.grad(l, [x])
    c.put(case, meta, {"x": x, "target": target}, {"loss": l, "dx": dx})


def special(f):
    """Zeros of both signs, NaN, infinities, the smallest and the largest numbers."""
    t = [0.0, -0.0, math.nan, math.inf, -math.inf, 1e-45, -1e-45, 1.17549435e-38, -1.17549435e-38, 3.4e38, -3.4e38, 1.0, -1.0]
    return torch.tensor(t + [f() for _ in range(3)], dtype=torch.float32)


def make_ops():
    c = Cases()
    conv(c, "conv2d_3x3_same", 2, 3, 8, 8, 4, 3, padding="same")
    conv(c, "conv2d_3x3_same_1ch", 4, 1, 8, 8, 16, 3, padding="same")
    conv(c, "conv2d_2x4_same_uneven", 2, 2, 5, 6, 3, (2, 4), padding="same")
    conv(c, "conv2d_3x3_same_dilated", 1, 2, 7, 6, 3, 3, padding="same", dilation=(2, 1))
    conv(c, "conv2d_3x3_stride2_pad1", 2, 3, 7, 8, 5, 3, stride=2, padding=1)
    conv(c, "conv2d_3x3_stride2_rest", 1, 2, 8, 10, 3, 3, stride=(3, 2))
    conv(c, "conv2d_1x1", 2, 6, 4, 5, 7, 1)
    conv(c, "conv2d_1x1_stride2", 2, 4, 6, 5, 3, 1, stride=2)
    conv(c, "conv2d_groups2", 2, 4, 6, 6, 6, 3, padding=1, groups=2)
    conv(c, "conv2d_depthwise", 2, 5, 6, 6, 5, 3, padding=1, groups=5)
    conv(c, "conv2d_depthwise_multiplier2_stride2", 1, 3, 7, 7, 6, 3, stride=2, padding=1, groups=3)
    conv(c, "conv2d_dilation2", 2, 2, 9, 8, 3, 3, padding=2, dilation=2)
    conv(c, "conv2d_no_bias", 2, 3, 5, 5, 4, 3, padding=1, bias=False)
    conv(c, "conv2d_5x3", 2, 2, 8, 7, 3, (5, 3), stride=(1, 2), padding=(2, 1))
    conv(c, "conv2d_wide_pad", 1, 2, 3, 3, 2, 3, padding=(3, 2))

    relu = {"op": "relu"}
    op(c, "relu", relu, lambda x: F.relu(x), lambda r: dict(x=r.normal(3, 7)))
    op(c, "relu_special", relu, lambda x: F.relu(x), lambda r: dict(x=special(r.r.random)))

    def maxpool(case, draw, k, stride, pad=0):
        attrs = {"kernel_size": [k, k], "stride": [stride, stride]}
        if pad:
            attrs["padding"] = [pad, pad]
        r = Inputs(seed_of(case))
        x = draw(r).requires_grad_()
        y, at = F.max_pool2d(x, k, stride, pad, return_indices=True)
        dy = r.normal(*y.shape)
        (dx,) = torch.autograd.grad(y, [x], dy)
        c.put(case, {"op": "maxpool2d", "attrs": attrs}, {"x": x, "dy": dy}, {"y": y, "dx": dx, "indices": at})

    ties = lambda *shape: lambda r: r.ints(3, *shape).float()

    def nans(r):
        x = r.normal(1, 2, 6, 6)
        for i in (0, 1, 7, 20, 27, 35):
            x[0, 0].view(-1)[i] = math.nan
        x[0, 1, :2, :2] = -math.inf
        return x

    maxpool("maxpool2d_2x2", lambda r: r.normal(2, 3, 6, 8), 2, 2)
    maxpool("maxpool2d_2x2_rest", lambda r: r.normal(2, 2, 5, 7), 2, 2)
    maxpool("maxpool2d_2x2_ties", ties(2, 2, 6, 6), 2, 2)
    maxpool("maxpool2d_2x2_nan", nans, 2, 2)
    maxpool("maxpool2d_3x3_stride2_pad1", lambda r: r.normal(2, 2, 7, 8), 3, 2, 1)
    maxpool("maxpool2d_3x3_stride2_pad1_ties", ties(1, 2, 7, 7), 3, 2, 1)
    maxpool("maxpool2d_3x3_stride1_nan", nans, 3, 1, 1)

    def avgpool(case, shape, k, stride, pad=0):
        attrs = {"kernel_size": [k, k], "stride": [stride, stride], "padding": [pad, pad]}
        op(c, case, {"op": "avgpool2d", "attrs": attrs}, lambda x: F.avg_pool2d(x, k, stride, pad), lambda r: dict(x=r.normal(*shape)))

    avgpool("avgpool2d_2x2", (2, 3, 6, 7), 2, 2)
    avgpool("avgpool2d_3x3_stride2_pad1", (2, 2, 7, 8), 3, 2, 1)
    avgpool("avgpool2d_global", (2, 3, 4, 4), 4, 4)

    batchnorm(c, "batchnorm1d_train", (8, 5), True)
    batchnorm(c, "batchnorm1d_eval", (8, 5), False)
    batchnorm(c, "batchnorm2d_train", (4, 3, 5, 5), True)
    batchnorm(c, "batchnorm2d_eval", (4, 3, 5, 5), False)
    batchnorm(c, "batchnorm2d_train_batch1", (1, 4, 3, 3), True)
    batchnorm(c, "batchnorm2d_train_1x1", (6, 20, 1, 1), True)
    batchnorm(c, "batchnorm2d_train_offset", (4, 2, 4, 4), True, mean=50.0, std=0.5)

    op(c, "flatten", {"op": "flatten"}, lambda x: torch.flatten(x, 1), lambda r: dict(x=r.normal(2, 3, 4, 5)))

    def linear(case, lead, i, o, bias=True):
        def draw(r):
            b = 1 / math.sqrt(i)
            return dict(x=r.normal(*lead, i), weight=r.uniform(-b, b, o, i), bias=r.uniform(-b, b, o) if bias else None)

        attrs = {"in_features": i, "out_features": o, "bias": bias}
        op(c, case, {"op": "linear", "attrs": attrs}, lambda x, weight, bias=None: F.linear(x, weight, bias), draw)

    linear("linear", (8,), 13, 7)
    linear("linear_wide", (3,), 300, 5)
    linear("linear_no_bias", (4,), 6, 9, bias=False)
    linear("linear_3d", (2, 3), 5, 4)

    def rows(r):
        x = r.normal(6, 10)
        x[1] *= 30
        x[2] = 88.0
        x[3, :5] = -math.inf
        x[4] += 1000
        return dict(x=x)

    meta, softmax = {"op": "softmax"}, lambda x: F.softmax(x, dim=-1)
    op(c, "softmax", meta, softmax, lambda r: dict(x=r.normal(5, 10)))
    op(c, "softmax_extreme", meta, softmax, rows)
    op(c, "softmax_3d", meta, softmax, lambda r: dict(x=r.normal(2, 3, 33)))

    r = Inputs(1)
    loss(c, "mse", {"loss": "mse"}, F.mse_loss, r.normal(6, 10), r.normal(6, 10))
    onehot = F.one_hot(r.ints(10, 8), 10).float()
    loss(c, "mse_onehot", {"loss": "mse"}, F.mse_loss, grid(F.softmax(r.normal(8, 10), -1)), onehot)
    ce = {"loss": "cross_entropy"}
    loss(c, "cross_entropy_index", ce, F.cross_entropy, r.normal(8, 10), r.ints(10, 8))
    ignore = r.ints(5, 6)
    ignore[1] = ignore[4] = -100
    loss(c, "cross_entropy_index_ignore", ce, F.cross_entropy, r.normal(6, 5) * 20, ignore)
    prob = r.uniform(0, 1, 8, 10)
    prob = grid(prob / prob.sum(-1, keepdim=True))
    prob[7] *= 0.5  # need not add up to 1
    loss(c, "cross_entropy_prob", ce, F.cross_entropy, r.normal(8, 10), prob)
    loss(c, "cross_entropy_onehot", ce, F.cross_entropy, r.normal(8, 10) * 10, onehot)

    op(c, "add", {"op": "add"}, lambda a, b: a + b, lambda r: dict(a=r.normal(3, 4, 5), b=r.normal(3, 4, 5)))

    def layernorm(case, lead, n, affine=True, mean=0.0):
        def draw(r):
            d = dict(x=r.normal(*lead, n) + mean)
            if affine:
                d.update(weight=r.uniform(0.5, 1.5, n), bias=r.uniform(-0.5, 0.5, n))
            return d

        attrs = {"normalized_shape": [n], "eps": 1e-5, "elementwise_affine": affine}
        op(c, case, {"op": "layernorm", "attrs": attrs}, lambda x, weight=None, bias=None: F.layer_norm(x, [n], weight, bias, 1e-5), draw)

    layernorm("layernorm", (2, 3), 16)
    layernorm("layernorm_odd", (5,), 37)
    layernorm("layernorm_no_affine", (4,), 8, affine=False)
    layernorm("layernorm_offset", (3,), 24, mean=30.0)

    wide = lambda r: dict(x=torch.cat([r.normal(40), r.uniform(-12, 12, 40), torch.tensor([0.0, -0.0, 100.0, -100.0])]))
    op(c, "gelu_erf", {"op": "gelu", "attrs": {"approximate": "none"}}, lambda x: F.gelu(x), wide)
    op(c, "gelu_tanh", {"op": "gelu", "attrs": {"approximate": "tanh"}}, lambda x: F.gelu(x, approximate="tanh"), wide)
    op(c, "tanh", {"op": "tanh"}, lambda x: torch.tanh(x), wide)
    op(c, "sigmoid", {"op": "sigmoid"}, lambda x: torch.sigmoid(x), wide)

    r = Inputs(2)
    index, weight = r.ints(11, 2, 5), r.normal(11, 4).requires_grad_()
    index[1, 1] = index[0, 0]  # a repeated row: its gradients add up
    y = F.embedding(index, weight)
    dy = r.normal(*y.shape)
    (dw,) = torch.autograd.grad(y, [weight], dy)
    c.put(
        "embedding", {"op": "embedding", "attrs": {"num_embeddings": 11, "embedding_dim": 4}},
        {"index": index, "weight": weight, "dy": dy}, {"y": y, "dweight": dw},
    )
    return c


# ---- losses with their settings ----


def make_losses():
    c = Cases()
    r = Inputs(11)

    def case(name, kind, options, f, x, target):
        loss(c, name, {"loss": kind, "options": options}, f, x, target)

    spread = lambda *shape: torch.cat([r.normal(*shape), r.normal(*shape) * 8])
    ce = "cross_entropy"
    labels = r.ints(5, 12)
    padded = labels.clone()
    padded[3] = padded[7] = 0
    far = labels.clone()
    far[2] = 255
    weights = r.uniform(0.25, 3, 5)
    listed = [float(w) for w in weights]
    prob = grid(F.softmax(r.normal(12, 5), -1))
    x = spread(6, 5)
    case("ce_ignore", ce, {"ignore_index": 0}, lambda x, t: F.cross_entropy(x, t, ignore_index=0), x, padded)
    case("ce_ignore_far", ce, {"ignore_index": 255}, lambda x, t: F.cross_entropy(x, t, ignore_index=255), x, far)
    case("ce_smooth", ce, {"label_smoothing": 0.1}, lambda x, t: F.cross_entropy(x, t, label_smoothing=0.1), x, labels)
    case("ce_weights", ce, {"class_weights": listed}, lambda x, t: F.cross_entropy(x, t, weights), x, labels)
    both = {"class_weights": listed, "label_smoothing": 0.3, "ignore_index": 0}
    case("ce_all", ce, both, lambda x, t: F.cross_entropy(x, t, weights, label_smoothing=0.3, ignore_index=0), x, padded)
    case("ce_prob_smooth", ce, {"label_smoothing": 0.1}, lambda x, t: F.cross_entropy(x, t, label_smoothing=0.1), x, prob)
    both = {"class_weights": listed, "label_smoothing": 0.3}
    case("ce_prob_all", ce, both, lambda x, t: F.cross_entropy(x, t, weights, label_smoothing=0.3), x, prob)

    bce, F_bce = "bce_with_logits", F.binary_cross_entropy_with_logits
    yes, shares = r.ints(2, 12, 3).float(), r.uniform(0, 1, 12, 3)
    x = torch.cat([spread(5, 3), torch.tensor([[0.0, -0.0, 40.0], [-40.0, 90.0, -90.0]])])
    pos = r.uniform(0.25, 4, 3)
    case("bce", bce, {}, F_bce, x, yes)
    case("bce_shares", bce, {}, F_bce, x, shares)
    case("bce_pos", bce, {"pos_weight": [float(w) for w in pos]}, lambda x, t: F_bce(x, t, pos_weight=pos), x, yes)
    case("bce_pos_one", bce, {"pos_weight": [2.5]}, lambda x, t: F_bce(x, t, pos_weight=torch.tensor(2.5)), x, shares)

    x, t = spread(6, 3), r.normal(12, 3)
    x[0] = t[0]  # no error at all
    case("l1", "l1", {}, F.l1_loss, x, t)
    case("smooth_l1", "smooth_l1", {}, F.smooth_l1_loss, x, t)
    case("smooth_l1_narrow", "smooth_l1", {"beta": 0.25}, lambda x, t: F.smooth_l1_loss(x, t, beta=0.25), x, t)
    case("smooth_l1_zero", "smooth_l1", {"beta": 0.0}, lambda x, t: F.smooth_l1_loss(x, t, beta=0.0), x[1:], t[1:])  # 1.13 has -1 at 0
    case("huber", "huber", {}, F.huber_loss, x, t)
    case("huber_wide", "huber", {"delta": 2.5}, lambda x, t: F.huber_loss(x, t, delta=2.5), x, t)
    return c


# ---- optimisers and schedules ----


def make_optim():
    c = Cases()
    r = Inputs(3)
    steps, n = 5, 17
    p0, grads = r.normal(n), r.normal(steps, n)
    grads[:, 1] = 0  # never a gradient
    grads[1:, 2] = 0  # only once
    grads[:, 3] *= 1e-6
    grads[:, 4] *= 1e4
    p0[5] = 0

    rules = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "nadam": torch.optim.NAdam}
    buffers = {"sgd": ["momentum_buffer"], "adam": ["exp_avg", "exp_avg_sq"]}

    def rule(case, name, **kw):
        p = nn.Parameter(p0.clone())
        # PyTorch 1.13's plain NAdam multiplies mu(t) into the product of the next step
        # twice (later versions do not); its foreach form was always right.
        form = {"foreach": True} if name == "nadam" else {}
        o = rules[name]([p], **kw, **form)
        ps = []
        for t in range(steps):
            p.grad = grads[t].clone()
            o.step()
            ps.append(p.detach().clone())
        answers = {"p": torch.stack(ps)}
        for b in buffers["sgd" if name == "sgd" else "adam"]:
            v = o.state[p].get(b)
            if v is not None:
                answers[b] = v
        full = {"name": name, **{k: o.defaults[k] for k in ("lr", "betas", "eps", "weight_decay", "momentum", "dampening", "nesterov") if k in o.defaults}}
        if name == "nadam":
            full["momentum_decay"] = o.defaults["momentum_decay"]
        c.put(case, {k: v for k, v in full.items() if v not in (0, False)}, {}, answers)

    c.tensors.update(p0=p0, grads=grads)
    c.inputs.update(("p0", "grads"))
    rule("sgd", "sgd", lr=0.1)
    rule("sgd_momentum", "sgd", lr=0.1, momentum=0.9)
    rule("sgd_nesterov", "sgd", lr=0.1, momentum=0.9, nesterov=True)
    rule("sgd_dampening", "sgd", lr=0.1, momentum=0.9, dampening=0.5)
    rule("sgd_weight_decay", "sgd", lr=0.1, momentum=0.9, weight_decay=0.01)
    rule("sgd_plain_weight_decay", "sgd", lr=0.1, weight_decay=0.01)
    rule("adam", "adam", lr=1e-3)
    rule("adam_weight_decay", "adam", lr=1e-3, weight_decay=0.01)
    rule("adam_eps_betas", "adam", lr=1e-2, eps=1e-3, betas=(0.4, 0.99))
    rule("adamw", "adamw", lr=1e-3, weight_decay=0.01)
    rule("adamw_strong", "adamw", lr=1e-2, weight_decay=0.5)
    rule("nadam", "nadam", lr=2e-3)
    rule("nadam_weight_decay", "nadam", lr=2e-3, weight_decay=0.01)

    S = torch.optim.lr_scheduler

    def schedule(case, base, attrs, mk, epochs=24):
        o = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=base)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            s = mk(o)
            lrs = []
            for _ in range(epochs):
                lrs.append(float(o.param_groups[0]["lr"]))
                o.step()
                s.step()
        c.meta["lr." + case] = json.dumps({"base": base, "schedule": attrs, "lr": lrs})

    schedule("step", 0.1, {"name": "step", "step_size": 5, "gamma": 0.3}, lambda o: S.StepLR(o, 5, 0.3))
    schedule("multistep", 0.1, {"name": "multistep", "milestones": [2, 7, 7, 15], "gamma": 0.5}, lambda o: S.MultiStepLR(o, [2, 7, 7, 15], 0.5))
    schedule("exponential", 0.05, {"name": "exponential", "gamma": 0.9}, lambda o: S.ExponentialLR(o, 0.9))
    schedule("cosine", 0.1, {"name": "cosine", "t_max": 23, "eta_min": 0.001}, lambda o: S.CosineAnnealingLR(o, 23, 0.001))
    schedule("cosine_past", 0.1, {"name": "cosine", "t_max": 10}, lambda o: S.CosineAnnealingLR(o, 10))
    schedule("linear", 0.1, {"name": "linear", "start": 0.1, "total": 6}, lambda o: S.LinearLR(o, 0.1, 1.0, 6))
    schedule(
        "linear_cosine", 0.1,
        {"name": "sequential", "milestones": [4], "parts": [{"name": "linear", "start": 0.25, "total": 4}, {"name": "cosine", "t_max": 20}]},
        lambda o: S.SequentialLR(o, [S.LinearLR(o, 0.25, 1.0, 4), S.CosineAnnealingLR(o, 20)], [4]),
    )
    return c


# ---- how a job learns ----


class Lamb(torch.optim.Optimizer):
    """LAMB (arXiv 1904.00962, algorithm 2), with the steps of parameters without decay as Adam's."""

    def __init__(self, params, lr, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.01):
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for g in self.param_groups:
            for p in g["params"]:
                if p.grad is None:
                    continue
                s = self.state[p]
                if not s:
                    s.update(t=0, m=torch.zeros_like(p), v=torch.zeros_like(p))
                s["t"] += 1
                b1, b2 = g["betas"]
                s["m"].mul_(b1).add_(p.grad, alpha=1 - b1)
                s["v"].mul_(b2).addcmul_(p.grad, p.grad, value=1 - b2)
                r = (s["m"] / (1 - b1 ** s["t"])) / ((s["v"] / (1 - b2 ** s["t"])).sqrt() + g["eps"]) + g["weight_decay"] * p
                trust = 1.0
                if g["weight_decay"] and p.norm() > 0 and r.norm() > 0:
                    trust = (p.norm() / r.norm()).item()
                p.sub_(r, alpha=g["lr"] * trust)


class Learner(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.n, self.b = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x):
        return self.b(F.relu(self.n(self.a(x))))


def make_learn():
    """Two epochs of three batches, in order, with the settings of a job."""
    c = Cases()
    r = Inputs(21)
    x, y = r.normal(24, 6), r.ints(3, 24)
    begin = {k: r.uniform(-0.6, 0.6, *v.shape) for k, v in Learner().state_dict().items()}
    c.put("data", {}, {"x": x, "y": y, **{"init." + k: v for k, v in begin.items()}}, {})
    rules = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW, "lamb": Lamb}

    def run(case, name, clip=0, freeze=(), no_decay=(), plain=(), lr=0.05, schedule=None, rate=None, **kw):
        m = Learner()
        m.load_state_dict(begin)
        for k, p in m.named_parameters():
            p.requires_grad_(k not in freeze)
        trained = {k: p for k, p in m.named_parameters() if p.requires_grad}
        groups = [{"params": [p for k, p in trained.items() if k not in plain]}, {"params": [p for k, p in trained.items() if k in plain], "weight_decay": 0.0}]
        o = rules[name](groups if plain else groups[0]["params"], lr=lr, **kw)
        losses, update = [], 0
        for epoch in range(2):
            for b in range(0, 24, 8):
                for g in o.param_groups:
                    g["lr"] = lr * rate(update) if rate else lr
                o.zero_grad(set_to_none=True)
                l = F.cross_entropy(m(x[b : b + 8]), y[b : b + 8])
                l.backward()
                if clip:
                    nn.utils.clip_grad_norm_(m.parameters(), clip)
                o.step()
                losses.append(l.item())
                update += 1
        opt = {"name": name, "lr": lr, **kw}
        if no_decay:
            opt["no_decay"] = list(no_decay)
        job = {"optimizer": opt}
        if clip:
            job["clip_norm"] = clip
        if freeze:
            job["freeze"] = list(freeze)
        if schedule:
            job["lr_schedule"] = schedule
        c.put(case, job, {}, {"losses": torch.tensor(losses), **{"after." + k: v for k, v in m.state_dict().items()}})

    run("clip", "sgd", clip=0.25)
    run("clip_frozen", "sgd", clip=0.25, freeze=("a.weight", "n.bias"), momentum=0.9)
    run("frozen_layer", "adamw", freeze=("a.weight", "a.bias"), weight_decay=0.1)
    run("no_decay", "adamw", weight_decay=0.5, no_decay=("bias", "norm"), plain=("a.bias", "n.weight", "n.bias", "b.bias"))
    run("no_decay_name", "sgd", weight_decay=0.1, no_decay=("b.*",), plain=("b.weight", "b.bias"))
    run("lamb", "lamb", weight_decay=0.1)
    run("lamb_no_decay", "lamb", weight_decay=0.1, no_decay=("bias", "norm"), plain=("a.bias", "n.weight", "n.bias", "b.bias"), clip=1.0)
    up = lambda u: u / 2
    half = lambda u: 0.5 * (1 + math.cos(math.pi * (u - 2) / 4))
    run("warmup_linear", "sgd", schedule={"name": "warmup_linear", "warmup": 2}, rate=lambda u: up(u) if u < 2 else (6 - u) / 4)
    run("warmup_cosine", "adamw", schedule={"name": "warmup_cosine", "warmup": 2}, rate=lambda u: up(u) if u < 2 else half(u), weight_decay=0.01)
    run("warmup", "sgd", schedule={"name": "warmup", "warmup": 4}, rate=lambda u: min(u / 4, 1))
    return c


# ---- the walkthrough's model ----


def batch_of_digits():
    """The first 64 rows of the training split. engine/data/digits.gz unpacks to 1797 x 64
    pixels, the training rows first, then 1797 labels, a byte each."""
    with gzip.open(os.path.join(HERE, "..", "data", "digits.gz")) as f:
        raw = f.read()
    n = len(raw) // 65
    x = torch.tensor(list(raw[: 64 * 64]), dtype=torch.float32).reshape(64, 1, 8, 8)
    return x, torch.tensor(list(raw[n * 64 :][:64]))


def make_cnn():
    c = Cases()
    x, labels = batch_of_digits()
    y = F.one_hot(labels, 10).float()

    net = no_dropout(CNN_Net())
    r = Inputs(4)
    init, bounds = {}, {}
    for name, t in net.state_dict().items():
        layer = net.get_submodule(name.rsplit(".", 1)[0])
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            fan_in = layer.weight[0].numel()
            bounds[name] = 1 / math.sqrt(fan_in)
            # PyTorch's own draw stays within the bound, and comes near it
            assert t.abs().max() <= bounds[name] * (1 + 1e-6), name
            if t.numel() > 100:
                assert t.abs().max() >= 0.9 * bounds[name], name
            init[name] = r.uniform(-bounds[name], bounds[name], *t.shape)
        else:
            init[name] = t.clone()

    put = lambda prefix, tensors: c.tensors.update({prefix + n: t.detach().clone() for n, t in tensors.items()})
    c.tensors.update(x=x, labels=labels, y=y)
    put("init.", init)
    c.inputs.update(c.tensors)

    net.load_state_dict(init)
    net.eval()
    logits = {}
    net.dense_2.register_forward_hook(lambda m, i, o: logits.update(out=o))
    with torch.no_grad():
        out = net(x)
    put("eval.", {"out": out, "logits": logits["out"]})

    acts = {}
    for name, m in net.named_children():
        if name.startswith("drp") or name == "flatten":
            continue  # they change nothing but the shape

        def keep(m, i, o, name=name):
            o.retain_grad()
            acts[name] = o

        m.register_forward_hook(keep)

    net.train()
    opt = torch.optim.Adam(net.parameters(), lr=0.001)
    losses = []
    for step in range(5):
        opt.zero_grad()
        inp = x.clone().requires_grad_()
        out = net(inp)
        loss = F.mse_loss(out, y)
        loss.backward()
        losses.append(loss.item())
        if step == 0:
            put("train.", {"out": out, "logits": logits["out"], "loss": loss})
            put("act.", {n: t[:4] for n, t in acts.items()})
            put("dact.", {n: t.grad[:4] for n, t in acts.items()})
            put("dact.", {"x": inp.grad[:4]})
            put("grad.", {n: p.grad for n, p in net.named_parameters()})
        opt.step()
        if step == 0:
            put("after.", net.state_dict())
    c.tensors["losses"] = torch.tensor(losses)
    c.meta["optimizer"] = json.dumps({"name": "adam", "lr": 0.001})
    c.meta["init_bounds"] = json.dumps(bounds)
    c.meta["init"] = (
        "Conv2d and Linear, weight and bias: uniform in [-b, b], b = 1/sqrt(fan_in), which is kaiming_uniform(a=sqrt(5)); "
        "BatchNorm: weight 1, bias 0, running_mean 0, running_var 1, num_batches_tracked 0. The bound per name is in init_bounds."
    )
    return c


# ---- the models of the zoo ----


def noise(seed, n):
    """n numbers of 16 bits in [-1, 1), the same in every language: no file need hold them."""
    u = (torch.arange(n) * 2654435761 + seed * 0x9E3779B1) & 0xFFFFFFFF
    u = ((u ^ (u >> 15)) * 2246822519) & 0xFFFFFFFF
    u = ((u ^ (u >> 13)) * 3266489917) & 0xFFFFFFFF
    return (u >> 16).float() / 32768 - 1


def weights(net):
    """The state dict of a small model: matrices as large as 1/sqrt(fan_in) to the next power
    of two, scales of normalisations near 1, everything else near 0."""
    d = {}
    for k, (name, t) in enumerate(net.state_dict().items()):
        v = noise(k + 1, t.numel()).reshape(t.shape)
        if t.dim() > 1:
            d[name] = v * 2.0 ** -round(math.log2(math.sqrt(t[0].numel())))
        elif name.endswith("weight") or name.endswith("running_var"):
            d[name] = 1 + v / 4
        elif t.dim() == 1:
            d[name] = v / 8
        else:
            d[name] = t.clone()
    return d


SAMPLES = 192  # of a gradient that has more elements: every n-th


def sampled(t):
    t = t.reshape(-1)
    return t[:: (t.numel() + SAMPLES - 1) // SAMPLES]


def make_models():
    c = Cases()
    ints = lambda seed, n, *shape: ((noise(seed, math.prod(shape)) + 1) * (n / 2)).long().reshape(shape)
    inputs = {
        "gpt": lambda: (ints(100, 3, 4, 11), ints(101, 3, 4, 11)),
        "gpt_long": lambda: (ints(100, 5, 2, 70), ints(101, 5, 2, 70)),
        "resnet": lambda: (noise(100, 4 * 3 * 64 * 64).reshape(4, 3, 64, 64), ints(101, 7, 4)),
        "resnet_bottleneck": lambda: (noise(100, 3 * 3 * 64 * 64).reshape(3, 3, 64, 64), ints(101, 5, 3)),
        "bert": lambda: (1 + ints(100, 39, 3, 12), ints(101, 3, 3)),
    }
    for case, draw in inputs.items():
        net = SMALL[case]()
        net.load_state_dict(weights(net))
        net.train()
        x, y = draw()
        if case == "gpt":
            y[:, :5] = -100  # the digits to be sorted do not count
        if case == "bert":
            x[1, 7:], x[2, 4:] = 0, 0  # filled up
        logits = net(x)
        l = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), y.reshape(-1))
        l.backward()
        grads = {n: p.grad for n, p in net.named_parameters()}
        answers = {"logits": logits, "loss": l, "norms": torch.stack([g.norm() for g in grads.values()])}
        answers.update({"grad." + n: sampled(g) for n, g in grads.items()})
        answers.update({"after." + n: t for n, t in net.state_dict().items() if "running" in n})
        given = {"y": y} if x.is_floating_point() else {"x": x, "y": y}
        c.put(case, {"gradients": list(grads)}, given, answers)
    for name, make in FULL.items():
        c.meta["names." + name] = json.dumps({n: list(t.shape) for n, t in make().state_dict().items()})
    return c


# ---- main ----

# What another order of summation may move, relative to the scale below.
TOLERANCE = 1e-5


def gradient_group(key):
    """Which gradients key is one of, None if it is not a gradient.

    Rounding in a gradient grows with the terms that are summed, not with their sum: the
    gradient of a key's bias is zero in exact arithmetic, and so is that of a bias before
    batch norm. What is computed for them is nothing but rounding, different on every
    processor. So a gradient is measured by the largest that the same
    backward pass computes (the one that arrives from above included).
    """
    head, _, role = key.rpartition(".")
    if ".grad." in key:
        return key[: key.index(".grad.")] + ".grad"
    if key.startswith(("grad.", "dact.")):
        return "grad"
    if key.endswith(".norms"):
        return key[: -len("norms")] + "grad"
    if role.startswith("d") and role != "d":
        return head
    return None


def largest(t):
    t = t.double()
    t = t[torch.isfinite(t)]
    return t.abs().max().item() if t.numel() else 0.0


def scales(tensors):
    """The scale of every tensor: its largest finite value, for gradients the largest of their group."""
    own = {k: largest(t) for k, t in tensors.items() if t.is_floating_point()}
    group = {}
    for k, v in own.items():
        g = gradient_group(k)
        if g is not None:
            group[g] = max(group.get(g, 0.0), v)
    return {k: max(v, group.get(gradient_group(k), 0.0)) for k, v in own.items()}


def difference(a, b, scale):
    """The largest difference relative to scale; NaN equals NaN. The rest must be equal."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return math.inf
    if not a.is_floating_point():
        return 0.0 if torch.equal(a, b) else math.inf
    a, b = a.double(), b.double()
    finite = torch.isfinite(a)
    if not torch.equal(finite, torch.isfinite(b)) or not torch.equal(torch.isnan(a), torch.isnan(b)):
        return math.inf
    rest = ~finite & ~torch.isnan(a)
    if not torch.equal(a[rest], b[rest]):
        return math.inf
    if not finite.any():
        return 0.0
    most = (a - b)[finite].abs().max().item()
    return most / scale if scale else (0.0 if most == 0 else math.inf)


def adam_doubt(grad, scale, lr):
    """How far one step of Adam may be off, element by element.

    It moves a parameter by lr*g/|g|: where the gradient is next to nothing its sign is
    rounding, and the step is off by up to twice the learning rate.
    """
    g = grad.double().abs()
    return 1e-6 + lr * torch.clamp(2 * TOLERANCE * scale / g.clamp_min(1e-300), max=2.0)


def check(name, c):
    path = os.path.join(TESTDATA, name + ".safetensors")
    tensors, meta = load(path)
    bad = []
    if set(tensors) != set(c.tensors):
        bad.append("names differ: %s" % sorted(set(tensors) ^ set(c.tensors))[:5])
    scale, worst = scales(tensors), 0.0
    for key, t in c.tensors.items():
        if key not in tensors:
            continue
        grad = "grad." + key[len("after.") :] if key.startswith("after.") else None
        if grad in tensors:
            lr = json.loads(meta["optimizer"])["lr"]
            off = (tensors[key].double() - t.double()).abs() - adam_doubt(tensors[grad], scale[grad], lr)
            if not (off <= 0).all():
                bad.append("%s: is off by %.3g more than one step of Adam explains" % (key, off.max().item()))
            continue
        d = difference(tensors[key], t, scale.get(key, 0.0))
        tol = 0.0 if key in c.inputs else TOLERANCE
        if d > tol:
            bad.append("%s: differs by %.3g of the scale %.3g, at most %.3g expected" % (key, d, scale.get(key, 0.0), tol))
        worst = max(worst, d)
    for key, v in c.meta.items():
        if not same_json(meta.get(key), v):
            bad.append("%s: metadata differs: %s, now %s" % (key, meta.get(key), v))
    for b in bad:
        print("%s: %s" % (name, b), file=sys.stderr)
    print("%s: %d tensors, largest difference %.3g" % (name, len(c.tensors), worst))
    return not bad


def same_json(a, b):
    def near(a, b):
        if isinstance(a, float) and isinstance(b, float):
            return abs(a - b) <= 1e-12 * max(abs(a), abs(b), 1e-6)
        if isinstance(a, dict) and isinstance(b, dict):
            return a.keys() == b.keys() and all(near(a[k], b[k]) for k in a)
        if isinstance(a, list) and isinstance(b, list):
            return len(a) == len(b) and all(map(near, a, b))
        return a == b

    try:
        return near(json.loads(a), json.loads(b))
    except (TypeError, ValueError):
        return a == b


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--check", action="store_true", help="compare with the committed files instead of writing them")
    args = ap.parse_args()
    warnings.filterwarnings("ignore", message=".*padding='same'.*")  # where it is uneven PyTorch pads a copy
    torch.set_num_threads(1)
    torch.manual_seed(0)
    ok = True
    for name, make in (("ops", make_ops), ("losses", make_losses), ("optim", make_optim), ("learn", make_learn), ("cnn", make_cnn), ("models", make_models)):
        c = make()
        if args.check:
            ok = check(name, c) and ok
        else:
            path = os.path.join(TESTDATA, name + ".safetensors")
            save(path, c.tensors, dict(sorted({**c.meta, "torch": torch.__version__.split("+")[0]}.items())))
            print("%s: %d tensors, %d bytes" % (name, len(c.tensors), os.path.getsize(path)))
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
