#!/usr/bin/env python3
"""Makes the models of the merge benchmark: a base and three experts of a Llama with 373,867,520 parameters, in bf16.

    python generate.py DIR

Every matrix of the base is normal with deviation 0.02 (norm weights: 1 + 0.05 · normal), rounded to bf16. Expert t
adds σₜ · f · (√0.1 · common + √0.9 · own) and rounds again; `common` is shared by the experts, so that task vectors have
cosines near 0.1; f runs from 0.5 to 1.5 over the tensors. σ is chosen such that about 40 % of the elements are equal to
the base after rounding, as in light fine-tunes. Same seed and NumPy version, same bytes (`models.json` says what they
were).

Needs NumPy, 3.0 GB of disk and about a minute of one core; memory does not depend on the model's size.
"""

import argparse
import hashlib
import math
import sys
import zlib
from pathlib import Path

import numpy as np

from checkpoint import LLAMA_374M, header, llama_tensors, parameters, save_json, write_side_files

SEED = 20240611
# Deviations of the deltas of the three experts.
SIGMAS = [0.66e-4, 0.83e-4, 1.04e-4]
COMMON = 0.1
BLOCK = 1 << 22


def main():
    """Writes DIR/base and DIR/expert1 … expert3, one after another."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dir", type=Path, help="where to write; made if it does not exist")
    parser.add_argument("--seed", type=int, default=SEED)
    args = parser.parse_args()
    tensors = llama_tensors(LLAMA_374M)
    summary = {"parameters": parameters(tensors), "seed": args.seed, "numpy": np.__version__, "models": {}}
    for expert in range(len(SIGMAS) + 1):
        name = f"expert{expert}" if expert else "base"
        summary["models"][name] = write_model(args.dir / name, tensors, args.seed, expert)
        write_side_files(args.dir / name, LLAMA_374M)
        print(name, summary["models"][name], file=sys.stderr, flush=True)
    save_json(args.dir / "models.json", summary)


def write_model(directory, tensors, seed, expert):
    """Writes one model; expert 0 is the base. Returns its SHA-256 and the share of elements equal to the base."""
    directory.mkdir(parents=True, exist_ok=True)
    digest, equal = hashlib.sha256(), 0
    with open(directory / "model.safetensors", "wb") as file:

        def put(data):
            file.write(data)
            digest.update(data)

        put(header(tensors))
        for index, (name, shape) in enumerate(tensors):
            factor = 0.5 + index / (len(tensors) - 1)
            for base, own in blocks(name, shape, seed, expert, factor):
                equal += int(np.count_nonzero(base == own))
                put(own.tobytes())
    return {"sha256": digest.hexdigest(), "equal_to_base": round(equal / parameters(tensors), 4)}


def blocks(name, shape, seed, expert, factor):
    """The base and the expert as bf16 bits, block by block."""
    base_stream, common, own = (stream(seed, name, kind) for kind in ("base", "common", f"expert{expert}"))
    n = math.prod(shape)
    for start in range(0, n, BLOCK):
        length = min(BLOCK, n - start)
        base = base_stream.standard_normal(length, dtype=np.float32)
        base = to_bf16(base * np.float32(0.02) if len(shape) > 1 else 1 + base * np.float32(0.05))
        if not expert:
            yield base, base
            continue
        delta = common.standard_normal(length, dtype=np.float32) * np.float32(math.sqrt(COMMON))
        delta += own.standard_normal(length, dtype=np.float32) * np.float32(math.sqrt(1 - COMMON))
        delta *= np.float32(SIGMAS[expert - 1] * factor)
        delta += from_bf16(base)
        yield base, to_bf16(delta)


def stream(seed, name, kind):
    """Random numbers that depend on nothing but seed, tensor and purpose."""
    return np.random.Generator(np.random.SFC64([seed, zlib.crc32(name.encode()), zlib.crc32(kind.encode())]))


def to_bf16(x):
    """Rounds finite f32 to the nearest bf16, ties to even; returns the bits."""
    bits = x.view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype("<u2")


def from_bf16(bits):
    """The f32 values of bf16 bits."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


if __name__ == "__main__":
    main()
