"""Do two tools write the same model? A speed means nothing if they do not.

A sample of up to 24 tensors, 65,536 elements of each, is compared. The measure is the mean distance of the two outputs over
the mean distance of the second from the base: 0 is equality, 1 means that they differ as much as the merge changed.
mergekit computes in bf16 and rounds after every operation, so some per cent are its own error.
"""

import math

import numpy as np

from checkpoint import read_header, weight_files

TENSORS = 24
ELEMENTS = 1 << 16


class Disagreement(Exception):
    """An output that is not the model it should be."""


def layout(directory):
    """Where each tensor of a checkpoint lies: name → (file, offset, shape, dtype)."""
    tensors = {}
    for path in weight_files(directory):
        entries, start = read_header(path)
        for name, entry in entries.items():
            tensors[name] = (path, start + entry["data_offsets"][0], tuple(entry["shape"]), entry["dtype"])
    return tensors


def sample(directory, like):
    """Sampled elements as f32, by tensor, after checking that the tensors are those of the checkpoint `like`."""
    found, expected = layout(directory), layout(like)
    facts = lambda tensors: {name: place[2:] for name, place in tensors.items()}
    if facts(found) != facts(expected):
        raise Disagreement(f"{len(found)} tensors written that are not the {len(expected)} of the base in name, shape or dtype")
    names = sorted(found)[:: math.ceil(len(found) / TENSORS)]
    return {name: elements(*found[name][:3]) for name in names}


def elements(path, offset, shape):
    """Elements from the middle of a tensor."""
    n = math.prod(shape)
    length = min(n, ELEMENTS)
    skip = (n - length) // 2
    bits = np.fromfile(path, dtype="<u2", count=length, offset=offset + 2 * skip)
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def distance(ours, theirs, base):
    """Mean distance of the outputs over the mean distance of `theirs` from the base."""
    apart = sum(float(np.abs(ours[name] - theirs[name]).sum()) for name in base)
    moved = sum(float(np.abs(theirs[name] - base[name]).sum()) for name in base)
    return apart / moved if moved else apart
