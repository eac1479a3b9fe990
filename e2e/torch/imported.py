#!/usr/bin/env python3
"""Asks PyTorch what a model that was imported, trained and exported answers.

    python3 imported.py FILE DATA.safetensors

FILE, .pt or .safetensors, is loaded strictly into the module that engine/importer/testdata/cnn.pt2
was exported from (e2e/census/census.py). Prints {"class": [...], "probability": [...]} for the
rows x of DATA.
"""

import json
import sys

import torch
from torch import nn

from tensors import load

net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.LeakyReLU(0.1),
                    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
name, data = sys.argv[1:]
state = load(name)[0] if name.endswith(".safetensors") else torch.load(name, map_location="cpu")
net.load_state_dict(state, strict=True)
net.eval()
with torch.no_grad():
    p = torch.softmax(net(load(data)[0]["x"].float()), 1)
best, at = p.max(1)
print(json.dumps({"class": at.tolist(), "probability": best.tolist()}))
