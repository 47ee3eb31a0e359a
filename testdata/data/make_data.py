"""Parquet files as the `datasets` library writes them, and MFTCoder's arithmetic of packing and blending.

Made with Python 3.11.7, pyarrow 26.0.1. Run in this directory:

    python make_data.py

`shapes/*.parquet`: nested messages (snappy), labelled texts in three row groups (zstd), images as struct<bytes, path>
(gzip). `mft_data.json`: what MFTCoder's published data code does with lengths and weights, written down from its
description: `blend` draws (task, row), `pack` fills rows greedily and leaves the last one open, `concat` cuts a stream of
tokens into overlapping blocks. The other files were written by hand.
"""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

IMAGES = Path(__file__).parent.parent / "image"


def blend(weights, total):
    counts, order = [0] * len(weights), []
    for i in range(total):
        short = [w * max(i, 1) - count for w, count in zip(weights, counts)]
        task = short.index(max(short))
        order.append([task, counts[task]])
        counts[task] += 1
    return order


def pack(lengths, room):
    bins, current, used, dropped = [], [], 0, []
    for i, length in enumerate(lengths):
        if length > room:
            dropped.append(i)
            continue
        if used + length > room:
            bins.append(current)
            current, used = [], 0
        current.append(i)
        used += length
    return bins, current, dropped


def concat(lengths, block, stride):
    total, at, blocks = sum(lengths), 0, []
    while at + block <= total:
        blocks.append([at, at + block])
        at += stride
    return blocks, total - at


def mft():
    lengths = [5, 4, 3, 12, 7, 2, 6, 1]
    bins, remainder, dropped = pack(lengths, 10)
    fitting = [length for length in lengths if length != 12]
    blocks, carried = concat(fitting, 9, 8)
    return {
        "blend": {"sizes": [6, 3, 1], "weights": [0.6, 0.3, 0.1], "order": blend([0.6, 0.3, 0.1], 10)},
        "blend_2": {"weights": [0.5, 0.25, 0.25], "order": blend([0.5, 0.25, 0.25], 8)},
        "pack": {"lengths": lengths, "max_len": 10, "bins": bins, "open_remainder": remainder, "dropped": dropped},
        "concat": {"lengths": fitting, "block": 9, "stride": 8, "blocks": blocks, "carried_tokens": carried},
    }


def parquet():
    rounds = [
        [{"role": "user", "content": "1 + 1 = ?"}, {"role": "assistant", "content": "2"}],
        [{"role": "user", "content": "größer?"}, {"role": "assistant", "content": "naïve café"}],
    ]
    pq.write_table(pa.table({"messages": rounds, "score": [0.5, None]}), "shapes/messages.parquet", compression="snappy")
    labelled = pa.table({"sentence": ["a b", "c d", "e f"], "label": pa.array([1, 0, 1], pa.int64()),
                         "idx": pa.array([0, 1, 2], pa.int32())})
    pq.write_table(labelled, "shapes/classified.parquet", compression="zstd", row_group_size=1)
    images = [{"bytes": (IMAGES / "rgb.png").read_bytes(), "path": "rgb.png"},
              {"bytes": (IMAGES / "grey.png").read_bytes(), "path": None}]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(images, kind), "label": pa.array([0, 1], pa.int64())}),
                   "shapes/images.parquet", compression="gzip")


if __name__ == "__main__":
    parquet()
    with open("mft_data.json", "w") as file:
        json.dump(mft(), file, indent=1)
        file.write("\n")
