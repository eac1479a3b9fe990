# Writes net.pt2: python net.py, with PyTorch 2.6 or later.
import io, os, sys, zipfile

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(64, 10)
        self.tok = nn.Parameter(torch.randn(1, 4, 1, 1))
        self.drop = nn.Dropout(0.1)
        self.register_buffer("np_buf", torch.arange(4.0), persistent=False)

    def forward(self, x):
        x = torch.relu(self.bn(self.conv1(x))) * self.tok
        x = nn.functional.max_pool2d(x, 2)
        x = self.drop(x.flatten(1))
        return self.fc(x) + torch.ones(10)


def save(module, args, path, **kw):
    """Exports, and leaves out where this machine keeps its files."""
    b = io.BytesIO()
    torch.export.save(torch.export.export(module, args, **kw), b)
    here = [os.path.dirname(os.path.dirname(torch.__file__)), os.path.dirname(os.path.abspath(__file__))]
    with zipfile.ZipFile(b) as old, zipfile.ZipFile(path, "w") as new:
        for f in old.infolist():
            data = old.read(f)
            if f.filename.endswith("model.json"):
                for n, h in zip(["/lib", "/src"], here):
                    data = data.replace(h.encode(), n.encode())
            if "sample_inputs" not in f.filename:
                name = f.filename.split("/", 1)[1]
                new.writestr(zipfile.ZipInfo("net/" + name), data)


if __name__ == "__main__":
    torch.manual_seed(1)
    save(Net().train(), (torch.randn(2, 1, 8, 8),), "net.pt2", dynamic_shapes=({0: torch.export.Dim.AUTO},))
