#!/usr/bin/env python3
"""Asks PyTorch whether a trained example of the zoo is the model that it is named after.

    python3 zoo.py EXAMPLE FILE.pt FILE.safetensors

Loads each file into the module of models.py with strict=True and in its order, checks that
both hold the same bits, and prints the number of entries as one JSON line.
"""

import json
import sys

import torch

from models import FULL
from tensors import load


def main():
    name, pt, st = sys.argv[1:]
    a, b = torch.load(pt, map_location="cpu", weights_only=True), load(st)[0]
    net = FULL[name]()
    for path, d in ((pt, a), (st, b)):
        net.load_state_dict(d, strict=True)
        if list(d) != list(net.state_dict()):
            sys.exit("zoo.py: %s: the entries are not in the module's order" % path)
    for n, t in a.items():
        if not torch.equal(t, b[n]):
            sys.exit("zoo.py: the two files differ in %s" % n)
    print(json.dumps({"entries": len(a)}))


if __name__ == "__main__":
    main()
