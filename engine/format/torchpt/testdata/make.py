"""Makes the files that torch_test.go reads, and checks that PyTorch reads ours.pt, which
that test pins. Run it with the PyTorch versions whose files are wanted (1.13 and a
current one are committed); file names carry the version.

    python make.py
"""
import hashlib, io, os, struct, zipfile
from collections import OrderedDict

import torch

here = os.path.dirname(os.path.abspath(__file__))
version = ".".join(torch.__version__.split(".")[:2])


def save(name, obj, **kw):
    torch.save(obj, os.path.join(here, "%s-%s.pt" % (name, version)), **kw)


def ramp(*shape):
    n = 1
    for d in shape:
        n *= d
    return (torch.arange(n, dtype=torch.float32) / 8 - 1).reshape(shape)


# A module's own state_dict(), with its _metadata.
net = torch.nn.Sequential(
    OrderedDict(conv=torch.nn.Conv2d(1, 2, 3), bn=torch.nn.BatchNorm2d(2), block=torch.nn.Sequential(torch.nn.Linear(2, 3)))
)
with torch.no_grad():
    for p in list(net.parameters()) + [net.bn.running_mean, net.bn.running_var]:
        p.copy_(ramp(*p.shape))
    net.bn.num_batches_tracked.fill_(17)
save("module", net.state_dict())
# The same with parameters instead of tensors.
save("parameters", net.state_dict(keep_vars=True))

base = ramp(4, 6)
save("views", {
    "transposed": base.t(),
    "offset": base[1:3, 2:5],
    "step": base[:, ::3],
    "expanded": torch.tensor([[1.0], [2.0]]).expand(2, 3),
    "permuted": ramp(2, 3, 2).permute(2, 0, 1),
    "tied": base,
    "scalar": base[3, 5],
    "empty": base[:0],
})
save("types", {
    "half": torch.tensor([1.5, -65504, 2.0**-24]).half(),
    "bfloat16": torch.tensor([1.0, -3.0]).bfloat16(),
    "double": torch.tensor([0.1, -2.0], dtype=torch.float64),
    "long": torch.tensor([-(2**40), 7]),
    "int": torch.tensor([-5, 7], dtype=torch.int32),
    "short": torch.tensor([-5, 7], dtype=torch.int16),
    "char": torch.tensor([-5, 7], dtype=torch.int8),
    "byte": torch.tensor([250, 7], dtype=torch.uint8),
    "bool": torch.tensor([True, False]),
})
# The state dict among other things.
save("checkpoint", {"model": net.state_dict(), "epoch": 3})
# What must be refused.
save("whole", torch.nn.Linear(1, 1))
save("legacy", OrderedDict(w=ramp(1)), _use_new_zipfile_serialization=False)

# data.pkl of dicts of n tensors: ours must be the same bytes.
shapes = [(), (3,), (2, 3), (1, 2, 3), (2, 1, 3, 2), (0, 4), (300,)]
with open(os.path.join(here, "pickles-%s.txt" % version), "w") as out:
    for n in (0, 1, 2, 7, 1000, 1001, 1002, 2001):
        d = OrderedDict()
        for i in range(n):
            shape = (70000,) if i == 6 else shapes[i % 7]
            d["layer.%d.weight" % i] = torch.zeros(shape) if i % 5 else torch.zeros(shape, dtype=torch.int64)
        b = io.BytesIO()
        torch.save(d, b)
        p = zipfile.ZipFile(b).read("archive/data.pkl")
        out.write("%d %d %s\n" % (n, len(p), hashlib.sha256(p).hexdigest()))

ours = os.path.join(here, "ours.pt")
loads = [dict(weights_only=True), dict(weights_only=True, mmap=True)]
for kw in loads if version != "1.13" else loads[:1]:
    d = torch.load(ours, **kw)
    assert type(d) is OrderedDict and list(d) == ["a.weight", "ü", "bn.num_batches_tracked", "empty", "conv"], list(d)
    bits = lambda t: struct.unpack("<%dI" % t.numel(), t.contiguous().numpy().tobytes())
    assert d["a.weight"].shape == (2, 2) and bits(d["a.weight"]) == (0x3F800000, 0x80000000, 0x7FC00001, 0xFF800000)
    assert d["ü"].tolist() == [0.5]
    assert d["bn.num_batches_tracked"].shape == () and d["bn.num_batches_tracked"].item() == -5
    assert d["bn.num_batches_tracked"].dtype == torch.int64
    assert d["empty"].shape == (0, 3)
    assert torch.equal(d["conv"], ramp(2, 1, 3, 3)) and d["conv"].is_contiguous()
    print("torch %s read ours.pt as written %s" % (version, kw))
