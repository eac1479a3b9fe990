"""Makes reference.safetensors with the reference implementation, and checks that it
reads ours.safetensors, which the Go test pins, to the values of that test.

    pip install torch safetensors
    python make.py
"""
import os, struct, torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

here = os.path.dirname(os.path.abspath(__file__))
save_file({
    "conv.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3) / 4 - 1,
    "bn.num_batches_tracked": torch.tensor(17),
    "half": torch.tensor([1.5, -65504, 2.0**-24], dtype=torch.float16),
    "brain": torch.tensor([[1.0], [-3.0]], dtype=torch.bfloat16),
    "none": torch.zeros(0, 4),
    "größe/日本": torch.tensor([float("nan"), float("-inf"), -0.0]),
}, os.path.join(here, "reference.safetensors"), metadata={"format": "pt", "note": "a \"quoted\" <word>"})

ours = os.path.join(here, "ours.safetensors")
d = load_file(ours)
assert sorted(d) == ["a.weight", "bn.num_batches_tracked", "empty", "ü<&>\"\\"], sorted(d)
bits = lambda t: struct.unpack("<%dI" % t.numel(), t.contiguous().numpy().tobytes())
assert d["a.weight"].shape == (2, 2) and bits(d["a.weight"]) == (0x3F800000, 0x80000000, 0x7FC00001, 0xFF800000)
assert d["bn.num_batches_tracked"].shape == () and d["bn.num_batches_tracked"].item() == -5
assert d["bn.num_batches_tracked"].dtype == torch.int64
assert d["empty"].shape == (0, 3) and d["ü<&>\"\\"].tolist() == [0.5]
with safe_open(ours, "pt") as f:
    assert f.metadata() == {"format": "pt", "run": "1 <2>"}, f.metadata()
print("ours.safetensors read as written")
