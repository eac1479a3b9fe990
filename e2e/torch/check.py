#!/usr/bin/env python3
"""Asks PyTorch whether fused files are what they should be.

    python3 check.py --pt FILE.pt --safetensors FILE.safetensors --val DATA.safetensors [--answers OURS.safetensors]

Loads each file into the walkthrough's own nn.Module with strict=True (every key matched,
none left over), checks that both hold the same bits, evaluates on the validation rows
(val_x [n,1,8,8], val_y [n] classes or [n,10] one-hot) and prints one JSON line. With
--answers it also compares with our own outputs for these rows: "logits" (before the
softmax) and "out" (after it), each [n,10], either may be missing. Anything that does not
fit is an error with exit code 1.
"""

import argparse
import hashlib
import json
import struct
import sys

import torch
import torch.nn.functional as F

from tensors import load
from walkthrough import CNN_Net


def fail(message):
    sys.exit("check.py: " + message)


def read_pt(path):
    # weights_only: the file must need no code of ours, or of anybody, to load
    d = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(d, dict) or not all(isinstance(t, torch.Tensor) for t in d.values()):
        fail("%s is not a state dict" % path)
    return d


def load_strict(path, d):
    """d in a new module. load_state_dict would convert types in silence; this does not."""
    net = CNN_Net()
    own = net.state_dict()
    try:
        net.load_state_dict(d, strict=True)
    except RuntimeError as e:
        fail("%s does not load: %s" % (path, e))
    for name, t in own.items():
        if d[name].dtype != t.dtype or d[name].shape != t.shape:
            fail("%s: %s is %s %s, the module has %s %s" % (path, name, d[name].dtype, list(d[name].shape), t.dtype, list(t.shape)))
    if list(d) != list(own):
        fail("%s: the entries are not in the module's order" % path)
    return net.eval()


def bits(t):
    t = t.contiguous()
    return t.view(torch.int32) if t.dtype == torch.float32 else t


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--pt", required=True, help="fused state dict, PyTorch's own format")
    ap.add_argument("--safetensors", required=True, help="the same as safetensors")
    ap.add_argument("--val", required=True, help="safetensors file with val_x and val_y")
    ap.add_argument("--answers", help="safetensors file with our logits and/or out for the rows of val_x")
    args = ap.parse_args()
    torch.set_num_threads(1)

    a, b = read_pt(args.pt), load(args.safetensors)[0]
    net, other = load_strict(args.pt, a), load_strict(args.safetensors, b)
    for (name, t), u in zip(net.state_dict().items(), other.state_dict().values()):
        if not torch.equal(bits(t), bits(u)):
            fail("the two files differ in %s" % name)

    val, _ = load(args.val)
    x, y = val["val_x"].float(), val["val_y"]
    if y.dim() == 2:
        y = y.argmax(1)
    seen = {}
    net.dense_2.register_forward_hook(lambda m, i, o: seen.update(logits=o))
    with torch.no_grad():
        seen["out"] = net(x)
    right = (seen["out"].argmax(1) == y.long()).sum().item()
    raw = struct.pack("<%df" % seen["logits"].numel(), *seen["logits"].reshape(-1).tolist())
    report = {
        "torch": torch.__version__,
        "keys": len(a),
        "elements": sum(t.numel() for t in a.values()),
        "files_equal": True,
        "rows": len(x),
        "right": right,
        "val_accuracy": 100 * right / len(x),
        "mse": F.mse_loss(seen["out"], F.one_hot(y.long(), 10).float()).item(),
        "logits_sha256": hashlib.sha256(raw).hexdigest(),
        "logits_first": seen["logits"][:2].tolist(),
    }
    if args.answers:
        ours, _ = load(args.answers)
        if not set(ours) & {"logits", "out"}:
            fail("%s has neither logits nor out" % args.answers)
        for name in ("logits", "out"):
            if name not in ours:
                continue
            if ours[name].shape != seen[name].shape:
                fail("%s: %s is %s, PyTorch's is %s" % (args.answers, name, list(ours[name].shape), list(seen[name].shape)))
            d = (ours[name].double() - seen[name].double()).abs().max().item()
            report[name + "_max_abs_diff"] = d if d == d else None  # NaN is not JSON
            report[name + "_max_abs"] = seen[name].abs().max().item()
            report[name + "_same_class"] = (ours[name].argmax(1) == seen[name].argmax(1)).sum().item()
    print(json.dumps(report))


if __name__ == "__main__":
    main()
