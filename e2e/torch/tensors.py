"""Reads and writes safetensors files: the length of a JSON header (u64, little-endian),
the header, the elements. F32 and I64, which is all that our state dicts hold, and U8 for
pixels; nothing but PyTorch is needed. Independent of the Go code that it is used to check.
"""

import json
import struct
import sys
from array import array

import torch

CODES = {"F32": ("f", torch.float32), "I64": ("q", torch.int64), "U8": ("B", torch.uint8)}
NAMES = {dtype: name for name, (_, dtype) in CODES.items()}


def _swapped(raw):
    if sys.byteorder == "big":
        raw.byteswap()
    return raw


def save(path, tensors, meta=None):
    """Writes {name: tensor} in its order; meta maps strings to strings."""
    header, data = {"__metadata__": meta} if meta else {}, {}
    for name, t in tensors.items():
        dtype = NAMES[t.dtype]
        data[name] = _swapped(array(CODES[dtype][0], t.detach().reshape(-1).tolist())).tobytes()
        header[name] = {"dtype": dtype, "shape": list(t.shape)}
    # the widest elements come first, so that every element lies aligned
    names = sorted(data, key=lambda n: ("I64", "F32", "U8").index(header[n]["dtype"]))
    end = 0
    for name in names:
        header[name]["data_offsets"] = [end, end + len(data[name])]
        end += len(data[name])
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(head)) + head + b"".join(data[n] for n in names))


def load(path):
    """Reads (tensors in the file's order, meta)."""
    with open(path, "rb") as f:
        (n,) = struct.unpack("<Q", f.read(8))
        header, data = json.loads(f.read(n)), f.read()
    meta, tensors = header.pop("__metadata__", {}), {}
    for name, e in header.items():
        code, dtype = CODES[e["dtype"]]
        raw = array(code)
        begin, end = e["data_offsets"]
        raw.frombytes(data[begin:end])
        tensors[name] = torch.tensor(_swapped(raw).tolist(), dtype=dtype).reshape(e["shape"])
    return tensors, meta
