"""One model of the zoo in PyTorch, for the benchmark beside it.

    python3 step.py TORCH CASE BATCH THREADS MODE

TORCH is the directory of models.py; a CASE torchvision/NAME is a model of torchvision's. MODE
export writes the model to the file named by a further argument. Otherwise MODE is float32, or autocast (forward and loss in bfloat16),
channels_last (the layout of images) and compile, joined by +. Prints "ready" after a first training step, the
memory that PyTorch takes by itself and its version; then, for every line with a number n on stdin, does n
steps and prints the seconds that they took (of processor time, with one thread) and the peak
memory in bytes.
"""

import os
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, sys.argv[1])
import models  # noqa: E402

# OpenMP's threads spin after their work and halve the speed of a BLAS that has threads of
# its own. They read this once, when they are loaded.
if not torch.backends.mkl.is_available() and "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "passive"
    os.execv(sys.executable, [sys.executable, *sys.argv])

case, batch, threads, mode = sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5].split("+")
torch.set_num_threads(threads)
torch.manual_seed(1)


class CNN(nn.Sequential):
    def __init__(self):
        conv = lambda i, o: nn.Conv2d(i, o, 3, padding="same")
        super().__init__(
            conv(1, 16), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25), nn.BatchNorm2d(16), nn.MaxPool2d(2),
            conv(16, 32), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25), nn.BatchNorm2d(32), nn.Flatten(),
            nn.Linear(32, 256), nn.ReLU(), nn.Dropout(0.4), nn.BatchNorm1d(256), nn.Linear(256, 10), nn.Softmax(-1),
        )


def peak():
    """The largest this process has been, as Linux counts it; 0 elsewhere."""
    try:
        with open("/proc/self/status") as f:
            return next(int(l.split()[1]) for l in f if l.startswith("VmHWM")) * 1024
    except OSError:
        return 0


name, _, side = case.partition("@")
if name.startswith("torchvision/"):
    import torchvision

    net = getattr(torchvision.models, name.split("/")[1])(weights=None)
else:
    net = CNN() if name == "cnn" else models.FULL[name]()
net.train()
if name == "cnn":
    x, y = torch.rand(batch, 1, 8, 8) * 16, F.one_hot(torch.randint(10, (batch,)), 10).float()
elif side:
    x, y = torch.randn(batch, 3, int(side), int(side)), torch.randint(10, (batch,))
elif name == "bert":
    x, y = torch.randint(1, 30522, (batch, 128)), torch.randint(2, (batch,))
else:
    vocab, t = net.lm_head.weight.shape[0], net.transformer.wpe.weight.shape[0]
    x, y = torch.randint(vocab, (batch, t)), torch.randint(vocab, (batch, t))
if mode == ["export"]:
    auto = {0: torch.export.Dim.AUTO}
    torch.export.save(torch.export.export(net, (x,), dynamic_shapes=(auto,), strict=False), sys.argv[6])
    sys.exit()
base = peak()
if "channels_last" in mode:
    net, x = net.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
forward = torch.compile(net) if "compile" in mode else net
opt = torch.optim.AdamW(net.parameters(), lr=1e-5)


def step():
    opt.zero_grad(set_to_none=False)
    with torch.autocast("cpu", torch.bfloat16, enabled="autocast" in mode):
        out = forward(x)
        if name == "cnn":
            loss = F.mse_loss(out, y)
        else:
            loss = F.cross_entropy(out.reshape(-1, out.shape[-1]), y.reshape(-1))
    loss.backward()
    opt.step()


step()
clock = time.process_time if threads == 1 else time.perf_counter
weights = sum(p.numel() for p in net.parameters()) * 4
print("ready", base - weights, torch.__version__, flush=True)
for line in sys.stdin:
    t = clock()
    for _ in range(int(line)):
        step()
    print(clock() - t, peak(), flush=True)
