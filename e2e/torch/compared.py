#!/usr/bin/env python3
"""Trains in PyTorch a model that compares the samples of a batch, as ravnest has trained it.

    python3 compared.py INITIAL TRAINED DATA EPOCHS LR

INITIAL and TRAINED are loaded strictly into the module that engine/importer/testdata/more_clip.pt2 was
exported from (e2e/census/compared.py). DATA has x and y, which are one batch, and val_x and val_y.
Prints {"losses": of each epoch, "val": the loss of TRAINED, "apart": how far its weights are at most}.
"""

import json
import sys

import torch
import torch.nn.functional as F
from torch import nn

from tensors import load


class Clip(nn.Module):
    def __init__(self):
        super().__init__()
        self.image, self.text = nn.Linear(8, 6), nn.Linear(8, 6)
        self.logit_scale = nn.Parameter(torch.tensor(0.0))

    def forward(self, x, y):
        a, b = F.normalize(self.image(x), dim=-1), F.normalize(self.text(y), dim=-1)
        logits = self.logit_scale.exp().clamp(max=100) * a @ b.t()
        labels = torch.arange(x.size(0))
        return 0.5 * (F.cross_entropy(logits, labels) + F.cross_entropy(logits.t(), labels))


initial, trained, data, epochs, lr = sys.argv[1:]
data = load(data)[0]
net, other = Clip(), Clip()
net.load_state_dict(load(initial)[0], strict=True)
other.load_state_dict(load(trained)[0] if trained.endswith(".safetensors") else torch.load(trained, map_location="cpu"), strict=True)
opt, losses = torch.optim.SGD(net.parameters(), lr=float(lr)), []
for _ in range(int(epochs)):
    opt.zero_grad()
    loss = net(data["x"], data["y"])
    loss.backward()
    opt.step()
    losses.append(loss.item())
apart = max(float((p - q).abs().max()) for p, q in zip(net.parameters(), other.parameters()))
print(json.dumps({"losses": losses, "val": other(data["val_x"], data["val_y"]).item(), "apart": apart}))
