"""Exports models with PyTorch and writes what one training step of each must give.

    python census.py DIR [NAME...]
    python census.py answers DIR [NAME...]

SEED in the environment is that of weights and inputs: where a ReLU's input is 0 but for rounding,
gradients jump.

For every model: NAME.pt2, and NAME.safetensors with the inputs, the weights of the loss
(loss = sum(output * weights)), the output, the gradient of every parameter, and the buffers
behind the step; the output of a batch with one sample more, and that in evaluation mode. Dropout
is off. Nothing is downloaded: weights are random.
"""

import copy
import io
import json
import os
import struct
import sys
import time
import warnings
import zipfile

import torch
from torch import nn

import function  # noqa: F401
import compared  # noqa: F401
import families  # noqa: F401
from drawn import DRAWN
import library  # noqa: F401
import more  # noqa: F401
import odd  # noqa: F401
import scenes  # noqa: F401
import series  # noqa: F401
import tables  # noqa: F401
import various  # noqa: F401
from registry import MODELS

torch.set_num_threads(1)


def save(path, tensors):
    """The safetensors format, so that no library is needed."""
    head, at, parts = {}, 0, []
    for name, t in tensors.items():
        b = t.detach().contiguous().float().numpy().tobytes()
        head[name] = {"dtype": "F32", "shape": list(t.shape), "data_offsets": [at, at + len(b)]}
        at += len(b)
        parts.append(b)
    h = json.dumps(head).encode()
    h += b" " * (-len(h) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(h)) + h + b"".join(parts))


def export(ep, path):
    """torch.export.save without the example inputs and where this machine keeps its files."""
    b = io.BytesIO()
    torch.export.save(ep, b)
    lib = os.path.dirname(os.path.dirname(torch.__file__))
    here = os.path.dirname(os.path.abspath(__file__))
    with zipfile.ZipFile(b) as old, zipfile.ZipFile(path, "w") as new:
        for f in old.infolist():
            data = old.read(f)
            if f.filename.endswith(".json"):
                data = data.replace(lib.encode(), b"/site-packages").replace(here.encode(), b"/src")
            if "sample_inputs" not in f.filename:
                new.writestr(zipfile.ZipInfo("model/" + f.filename.split("/", 1)[1]), data)


def onnx(m, inputs, fixed, path, how):
    """The model by torch.onnx.export: how is dynamo, script (the exporter before) or eval."""
    warnings.filterwarnings("ignore")
    if how == "script":
        kw = {} if fixed else {"input_names": ["x%d" % i for i in range(len(inputs))], "dynamic_axes": {"x%d" % i: {0: "N"} for i in range(len(inputs))}}
        torch.onnx.export(m, inputs, path, dynamo=False, training=torch.onnx.TrainingMode.TRAINING, do_constant_folding=False, **kw)
        return
    kw = {} if fixed else {"dynamic_shapes": tuple({0: torch.export.Dim.AUTO} for _ in inputs)}
    # Its optimiser folds batch normalisation into the convolution before it.
    torch.onnx.export(m, inputs, path, dynamo=True, verbose=False, optimize=how != "plain", **kw)


def first(out):
    """The tensor that the graph's first output is."""
    if isinstance(out, torch.Tensor):
        return out
    if isinstance(out, dict):
        out = list(out.values())
    return first(out[0])


def step(m, inputs, seed=None):
    m.zero_grad(set_to_none=True)
    out = first(m(*inputs))
    if seed is None:
        seed = torch.randn(out.shape) / out.numel()
    loss = (out * seed.to(out.dtype)).sum()
    loss.backward()
    return out, seed, loss, {k: p.grad.clone() for k, p in m.named_parameters() if p.grad is not None}


def another(x):
    """A batch of one sample more than x, with other numbers. No two are alike: a batch norm over equal
    values divides what rounding left of them by almost nothing."""
    n = x.shape[0]
    y = x[[(i * 2 + 1) % n for i in range(n + 1)]]
    if not x.is_floating_point():
        return y
    return y * torch.linspace(0.75, 0.5, n + 1).to(x.dtype).view([-1] + [1] * (x.dim() - 1))


def beside(m, inputs, state):
    """What else must agree: another batch, and evaluation."""
    t = {}
    for what, train, xs in [("other", True, [another(x) for x in inputs]), ("eval", False, inputs)]:
        m.load_state_dict(state)
        m.train(train)
        try:
            with torch.no_grad():
                out = first(m(*xs))
        except Exception as e:  # a model of one batch size
            print("%s: %s" % (what, str(e).strip().split("\n")[0][:200]), file=sys.stderr)
            continue
        finally:
            m.train()
        t.update({"%s.%d" % (what, i): x for i, x in enumerate(xs)})
        t[what + ".output"] = out
    return t


def apart(a, b, floor=0.0):
    """The root mean square of the difference, as a share of that of b."""
    a, b = a.detach(), b.detach()
    return float((a - b).square().mean().sqrt()) / max(float(b.square().mean().sqrt()), floor, 1e-30)


def edges(m, inputs, seed, state, out, grads, noise):
    """How far each gradient moves when weights and inputs move so little that the output moves as
    far as float32's rounding moves it: a ReLU's slope jumps where its input is 0 but for rounding,
    and no float32 has the gradient more exactly than that."""
    floor = 1e-3 * (sum(float(g.square().sum()) for g in grads.values()) / max(sum(g.numel() for g in grads.values()), 1)) ** 0.5
    size, worst = 1e-7, dict.fromkeys(grads, 0.0)
    if not noise > 0:
        return {}
    for k in range(4):
        g = torch.Generator().manual_seed(k + 1)
        jitter = lambda x: x * (1 + size * torch.randn(x.shape, generator=g, dtype=x.dtype)) if x.is_floating_point() else x
        m.load_state_dict(state)
        with torch.no_grad():
            for p in m.parameters():
                p.copy_(jitter(p))
        y, _, _, moved = step(m, [jitter(x) for x in inputs], seed)
        if k == 0:  # only to learn how far the output moves
            size *= noise / max(apart(y, out), 1e-30)
            continue
        worst = {n: max(w, apart(moved[n], grads[n], floor)) for n, w in worst.items()}
    return {"edge." + n: torch.tensor([w]) for n, w in worst.items()}


# Those that engine/importer keeps as test data: python census.py DIR small.
SMALL = ["cnn", "autoencoder", "unet", "lstm_unrolled", "resmlp", "conv1d_audio", "encoder", "encoder_seq_first", "two_heads",
         "einsum_mix", "upsampler", "padding_modes", "lstm_both_ways", "gru_rnn", "detached", "tied_decoder", "masked_pair", "padded_text", "argmax_pool", "written_part",
         "written_views", "chosen", "computed_windows", "functions", "volume", "truths", "norms", "untracked", "rotated", "lookups", "seldom", "edges", "unseeing",
         "more_joinedbatches", "more_stn", "more_flowwarp", "more_segnet", "more_videoautoencoder", "more_lstmprojected", "more_dynamicconv", "more_spectrogramnet", "more_orders", "more_scattergather", "more_ownloss", "more_owncrossentropy", "more_vaeownloss", "more_maskedlosses", "more_tripletcosine", "more_spectraldiscriminator", "more_spectralparametrized",
         "more_clip", "more_ntxent", "more_barlow", "more_batchhard", "more_centred", "more_classifiedandcontrasted", "more_hardestofranks", "more_softtargets", "odd_batch_counted", "odd_batch_cumulated"]
# And those that it refuses: python census.py DIR refused.
REFUSED = ["odd_function_straight", "odd_step_counter", "odd_clamped_weight", "odd_int_hash", "odd_fft_all", "odd_batch_rolled"]


def census(name, dir):
    torch.manual_seed(int(os.environ.get("SEED", "1")))
    m, inputs, *rest = MODELS[name]()
    fixed = bool(rest and rest[0] == "fixed") or os.environ.get("FIXED") == "1"
    m.train()
    for x in m.modules():
        if isinstance(x, (nn.Dropout, nn.Dropout2d)):
            x.p = 0.0
        if isinstance(x, nn.MultiheadAttention):
            x.dropout = 0.0
        if type(x).__name__ == "StochasticDepth":
            x.p = 0.0
    # A head of zeros has no gradients below it, and scales of one hide who is scaled.
    with torch.no_grad():
        for p in m.parameters():
            if not p.is_complex() and p.min() == p.max():
                p += 0.1 * torch.randn_like(p)
    state = copy.deepcopy(m.state_dict())
    kw = {}
    if not fixed:
        kw["dynamic_shapes"] = tuple({0: torch.export.Dim.AUTO} for _ in inputs)
    ep = torch.export.export(m, inputs, strict=False, **kw)
    export(ep, os.path.join(dir, name + ".pt2"))
    if os.environ.get("ONNX"):
        m.load_state_dict(state)
        onnx(m, inputs, fixed, os.path.join(dir, name + ".onnx"), os.environ["ONNX"])
    m.load_state_dict(state)
    out, seed, loss, grads = step(m, inputs)
    t = {"input.%d" % i: x for i, x in enumerate(inputs)}
    t.update(seed=seed, output=out, loss=loss)
    t.update({"grad." + k: g for k, g in grads.items()})
    t.update({"after." + k: b.clone() for k, b in m.named_buffers() if k in state})
    t.update(beside(m, inputs, state))
    if name not in SMALL and name not in DRAWN:
        # What rounding alone does: the same step with twice the digits.
        m.load_state_dict(state)
        m.double()
        torch.set_default_dtype(torch.float64)
        try:
            wide = [x.double() if x.is_floating_point() else x for x in inputs]
            rounded, (out, _, _, grads) = t["output"].double(), step(m, wide, seed)
            if out.isfinite().all():  # some masks are the least float32
                t["exact"] = out
                t.update({"exact." + k: g for k, g in grads.items()})
                t.update({"exact.after." + k: b.clone() for k, b in m.named_buffers() if k in state})
                t.update(edges(m, wide, seed, state, out, grads, apart(rounded, out)))
        except Exception as e:
            print("%s in float64: %s" % (name, str(e).split("\n")[0]), file=sys.stderr)
        finally:
            torch.set_default_dtype(torch.float32)
    save(os.path.join(dir, name + ".safetensors"), t)


def load(path):
    with open(path, "rb") as f:
        n = struct.unpack("<Q", f.read(8))[0]
        head, data = json.loads(f.read(n)), f.read()
    return {k: torch.frombuffer(bytearray(data[v["data_offsets"][0]:v["data_offsets"][1]]), dtype=torch.float32).reshape(v["shape"]) for k, v in head.items() if k != "__metadata__"}


def answers(dir, names):
    """Holds onnxruntime's answers of what was exported against the engine's."""
    import onnxruntime

    wrong = 0
    for path in sorted(os.listdir(dir)):
        name = path[:-len(".out.onnx")]
        if not path.endswith(".out.onnx") or names and name not in names:
            continue
        try:
            t = load(os.path.join(dir, name + ".out.safetensors"))
            s = onnxruntime.InferenceSession(os.path.join(dir, path), providers=["CPUExecutionProvider"])
            x = {i.name: (t[i.name].long() if "int64" in i.type else t[i.name]).numpy() for i in s.get_inputs()}
            y, want = torch.from_numpy(s.run(None, x)[0]), t["answer"]
            d = float((y - want).norm() / want.norm())
        except Exception as e:
            d = str(e).strip().split("\n")[0][:200]
        wrong += not (isinstance(d, float) and d < 1e-4)
        print("onnxruntime %-22s %s" % (name, d if isinstance(d, str) else "%.1e" % d), flush=True)
    sys.exit(wrong > 0)


if __name__ == "__main__":
    if sys.argv[1] == "answers":
        answers(sys.argv[2], sys.argv[3:])
    dir = sys.argv[1]
    os.makedirs(dir, exist_ok=True)
    names = {"small": SMALL, "refused": REFUSED, "drawn": DRAWN}.get(" ".join(sys.argv[2:]), sys.argv[2:])
    for name in names or [n for n in MODELS if not n.startswith(("timm_", "drawn_"))]:
        t = time.time()
        try:
            census(name, dir)
            print("exported %-22s %5.1f s" % (name, time.time() - t), file=sys.stderr, flush=True)
        except Exception as e:  # a model that this PyTorch cannot export
            print("%s: %s" % (name, str(e).strip().split("\n")[0][:300]), file=sys.stderr, flush=True)
            with open(os.path.join(dir, name + ".failed"), "w") as f:
                f.write(str(e))
