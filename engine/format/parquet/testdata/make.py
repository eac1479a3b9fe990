"""Makes the Parquet files of the tests. pip install pyarrow; python make.py."""
import io, json, struct, zlib
import pyarrow as pa
import pyarrow.parquet as pq


def png(shade):
    """A grey picture of 2 x 2 pixels."""
    raw = b"".join(b"\0" + bytes([shade, shade + 1]) for _ in range(2))
    chunk = lambda t, d: struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 8, 0, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


n = 30
info = {"info": {"features": {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog", "owl"], "_type": "ClassLabel"}}}}
images = pa.table({
    "image": pa.array([{"bytes": png(i), "path": f"{i}.png"} for i in range(n)], pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
    "label": pa.array([i % 3 for i in range(n)], pa.int64()),
    "caption": pa.array([f"picture {i}" for i in range(n)]),
}).replace_schema_metadata({"huggingface": json.dumps(info)})
pq.write_table(images, "images.parquet", row_group_size=7, compression="snappy")
table = {
    "a": pa.array([i / 4 for i in range(n)], pa.float64()),
    "b": pa.array([i for i in range(n)], pa.int32()),
    "c": pa.array([i % 2 == 0 for i in range(n)], pa.bool_()),
    "h": pa.array([i / 2 for i in range(n)], pa.float16()) if pa.types.is_float16(pa.float16()) else None,
    "v": pa.array([[i, i + 1, i + 2] for i in range(n)], pa.list_(pa.float32())),
    "kind": pa.array([["red", "green", "blue"][i % 3] for i in range(n)]).dictionary_encode(),
}
for codec in ["none", "gzip", "zstd", "brotli", "lz4"]:
    pq.write_table(pa.table(table), f"table-{codec}.parquet", row_group_size=20, compression=codec, version="2.6", data_page_version="2.0" if codec == "zstd" else "1.0")
pq.write_table(pa.table({"x": pa.array([1.0, None, 3.0]), "y": pa.array([1, 2, 3])}), "nulls.parquet")
pq.write_table(pa.table({"ids": pa.array([[1, 2], [3]]), "y": pa.array([1, 2])}), "ragged.parquet")
# Numbers that are not what is stored, and columns that are no numbers.
import datetime, decimal
money = pa.array([decimal.Decimal("1.25"), decimal.Decimal("-3.75"), decimal.Decimal("40000.00")], pa.decimal128(7, 2))
forms = pa.table({
    "u": pa.array([1, 2**31 + 2**10, 2**32 - 2**8], pa.uint32()),
    "w": pa.array([1, 2**63 + 2**40, 7], pa.uint64()),
    "m": money,
    "day": pa.array([datetime.date(2024, 1, i + 1) for i in range(3)]),
    "city": pa.array(["Rome", "Paris", "Rome"]),
    "y": pa.array([0, 1, 0]),
    "__index_level_0__": pa.array([2, 0, 1]),
})
pq.write_table(forms, "forms.parquet")
pq.write_table(pa.table({"m": money, "y": pa.array([0, 1, 0])}), "money.parquet", store_decimal_as_integer=True)
# Truth values as runs: of lengths that are no multiples of 8, single and in lists.
value = lambda i: i * i // 7 % 3 == 0 or 100 <= i < 160
truths = pa.table({
    "t": pa.array([value(i) for i in range(400)], pa.bool_()),
    "l": pa.array([[value(i), value(i + 1)][:1 + i % 2] for i in range(400)], pa.list_(pa.bool_())),
    "y": pa.array([i % 3 for i in range(400)], pa.int32()),
})
for codec, version in [("none", "2.0"), ("snappy", "2.0"), ("zstd", "1.0")]:
    encoding = dict(use_dictionary=False, column_encoding={"t": "RLE", "l.list.element": "RLE", "y": "PLAIN"})
    pq.write_table(truths, f"truths-{codec}.parquet", row_group_size=150, compression=codec, data_page_version=version, data_page_size=32, write_batch_size=64, **encoding)
