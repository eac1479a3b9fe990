"""Trains one model of the zoo in PyTorch from given weights, for the command beside it.

    python3 peer.py TORCH DATA NAME MODE SEED EPOCHS BATCH OPTIMIZER ARGS...

TORCH is the directory of models.py, DATA a safetensors file with train_x, train_y, val_x, val_y
and the weights, each name after "weights:". MODE is fp32 or bf16 (autocast). ARGS are those of
the model's class, as JSON. Prints the validation loss.
"""

import json
import sys

import torch
import torch.nn.functional as F

sys.path.insert(0, sys.argv[1])
import models  # noqa: E402
from tensors import load  # noqa: E402
from walkthrough import CNN_Net  # noqa: E402

path, name, mode, seed, epochs, batch = sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5]), int(sys.argv[6]), int(sys.argv[7])
rule, args = json.loads(sys.argv[8]), json.loads(sys.argv[9])
torch.set_num_threads(1)
torch.manual_seed(seed)
d = load(path)[0]
net = {"cnn": CNN_Net, "gpt": models.GPT, "resnet": models.ResNet, "bert": models.BERT}[name](*args)
net.load_state_dict({k[8:]: v for k, v in d.items() if k.startswith("weights:")}, strict=True)
tokens = name in ("gpt", "bert")
x, vx = (d[k].long() if tokens else d[k].float() for k in ("train_x", "val_x"))
y, vy = (d[k].float() if name == "cnn" else d[k].long() for k in ("train_y", "val_y"))
if name == "cnn" and y.dim() == 1:
    y, vy = F.one_hot(y.long(), 10).float(), F.one_hot(vy.long(), 10).float()
lr, decay, betas = rule["lr"], rule.get("weight_decay", 0), tuple(rule.get("betas") or (0.9, 0.999))
if rule["name"] == "sgd":
    opt = torch.optim.SGD(net.parameters(), lr=lr, momentum=rule.get("momentum", 0), weight_decay=decay)
else:
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[rule["name"]]
    opt = kind(net.parameters(), lr=lr, betas=betas, weight_decay=decay)


def loss(x, y, reduction="mean"):
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mode == "bf16"):
        out = net(x)
    out = out.float()
    if name == "cnn":
        return F.mse_loss(out, y, reduction=reduction), y.numel()
    y = y.reshape(-1)
    return F.cross_entropy(out.reshape(len(y), -1), y, reduction=reduction, ignore_index=-100), int((y >= 0).sum())


gen = torch.Generator().manual_seed(seed)
for _ in range(epochs):
    order = torch.randperm(len(x), generator=gen)
    for i in range(0, len(x), batch):
        rows = order[i : i + batch]
        opt.zero_grad()
        loss(x[rows], y[rows])[0].backward()
        opt.step()
net.eval()
with torch.no_grad():
    parts = [loss(vx[i : i + batch], vy[i : i + batch], "sum") for i in range(0, len(vx), batch)]
print(json.dumps({"loss": sum(p[0].item() for p in parts) / sum(p[1] for p in parts)}))
