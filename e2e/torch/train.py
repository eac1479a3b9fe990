#!/usr/bin/env python3
"""The walkthrough's job in plain PyTorch: the yardstick for speed and accuracy.

    python3 train.py --data DATA.safetensors [--epochs 100] [--loader]

DATA holds train_x, train_y, val_x, val_y as engine/data reads them. Batches are slices
of tensors in memory in an order drawn anew each epoch; --loader takes PyTorch's
DataLoader over a list of rows instead, as the walkthrough does. Prints one JSON line;
samples_per_s counts training alone and leaves out the first epoch, in which PyTorch warms up;
samples_per_cpu_s is the same by processor time, for machines that others use too.
"""

import argparse
import json
import random
import resource
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from tensors import load
from walkthrough import CNN_Net


def memory_batches(x, y, size, gen):
    order = torch.randperm(len(x), generator=gen)
    for i in range(0, len(x), size):
        rows = order[i : i + size]
        yield x[rows], y[rows]


def accuracy(net, x, y, size):
    net.eval()
    right = 0
    with torch.no_grad():
        for i in range(0, len(x), size):
            right += (net(x[i : i + size]).argmax(1) == y[i : i + size].argmax(1)).sum().item()
    net.train()
    return 100 * right / len(x)


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--data", required=True, help="safetensors file with train_x, train_y, val_x, val_y")
    ap.add_argument("--epochs", type=int, default=100)
    ap.add_argument("--batch-size", type=int, default=64)
    ap.add_argument("--lr", type=float, default=0.001)
    ap.add_argument("--seed", type=int, default=42)
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--loader", action="store_true", help="read through PyTorch's DataLoader, as the walkthrough does")
    args = ap.parse_args()
    if args.epochs < 2:
        ap.error("--epochs must be at least 2: the first is not counted")
    torch.set_num_threads(args.threads)
    torch.set_num_interop_threads(1)
    torch.manual_seed(args.seed)
    random.seed(args.seed)

    data, _ = load(args.data)
    onehot = lambda t: t.float() if t.dim() == 2 else F.one_hot(t.long(), 10).float()
    x, y = data["train_x"].float(), onehot(data["train_y"])
    val_x, val_y = data["val_x"].float(), onehot(data["val_y"])

    net = CNN_Net()
    opt = torch.optim.Adam(net.parameters(), lr=args.lr)
    gen = torch.Generator().manual_seed(args.seed)
    loader = DataLoader(list(zip(x, y)), generator=gen, shuffle=True, batch_size=args.batch_size) if args.loader else None
    seconds, cpu = [], []
    for _ in range(args.epochs):
        begin, cpu_begin = time.perf_counter(), time.process_time()
        for bx, by in loader or memory_batches(x, y, args.batch_size, gen):
            opt.zero_grad()
            loss = F.mse_loss(net(bx), by)
            loss.backward()
            opt.step()
        seconds.append(time.perf_counter() - begin)
        cpu.append(time.process_time() - cpu_begin)
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({
        "torch": torch.__version__,
        "threads": args.threads,
        "loader": args.loader,
        "epochs": args.epochs,
        "samples_per_s": len(x) * (args.epochs - 1) / sum(seconds[1:]),
        "samples_per_cpu_s": len(x) * (args.epochs - 1) / sum(cpu[1:]),
        "epoch_s_median": statistics.median(seconds[1:]),
        "first_epoch_s": seconds[0],
        "loss": loss.item(),
        "val_accuracy": accuracy(net, val_x, val_y, args.batch_size),
        "peak_rss_bytes": rss if sys.platform == "darwin" else rss * 1024,
    }))


if __name__ == "__main__":
    main()
