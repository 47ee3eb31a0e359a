#!/usr/bin/env python3
"""AdaMerging in plain PyTorch, for compare.py.

    python peer.py experts WORK COUNT              # experts WORK/float32-K and WORK/bfloat16-K
    python peer.py learn WORK COUNT DTYPE STEPS OUT

Autograd runs through the merge: weights are θ₀ + Σ λ τ with λ a parameter per tensor and expert, the model is called with them
(`torch.func.functional_call`), the loss is the mean entropy of the next token, and Adam moves λ.
"""

import json
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

torch.set_num_threads(2)


def experts(work, count):
    """Experts: the base with noise of a tenth of each tensor's deviation, more for the first."""
    base = load_file(work / "model" / "model.safetensors")
    for k in range(count):
        for dtype in (torch.float32, torch.bfloat16):
            out = work / f"{str(dtype).removeprefix('torch.')}-{k}"
            if (out / "model.safetensors").exists():
                continue
            out.mkdir(exist_ok=True)
            generator = torch.Generator().manual_seed(k)
            noise = {name: torch.randn(x.shape, generator=generator) * x.std().nan_to_num(0.0).clamp(min=1e-3) for name, x in base.items()}
            # Rounded in both types, so that they are one expert.
            moved = {name: (x + noise[name] * (0.1 + 0.02 * (k % 5))).to(torch.bfloat16) for name, x in base.items()}
            save_file({name: x.to(dtype) for name, x in moved.items()}, out / "model.safetensors", {"format": "pt"})
            (out / "config.json").write_text((work / "model" / "config.json").read_text())


def learn(work, count, dtype, steps, out):
    """Learns, and writes seconds, losses and coefficients."""
    model = AutoModelForCausalLM.from_pretrained(work / "model", dtype=torch.float32, attn_implementation="sdpa").eval()
    base = {name: p.detach() for name, p in model.named_parameters()}
    vectors = {name: [] for name in base}
    for k in range(count):
        expert = load_file(work / f"{dtype}-{k}" / "model.safetensors")
        for name, x in base.items():
            vectors[name].append(expert[name].float() - x)
    lambdas = {name: torch.full((count,), 0.3, dtype=torch.float32, requires_grad=True) for name in base}
    adam = torch.optim.Adam(lambdas.values(), lr=1e-3)
    ids = torch.tensor(rows(work))
    seconds, losses = [], []
    for _ in range(steps):
        start = time.perf_counter()
        merged = {name: x + sum(c * v for c, v in zip(lambdas[name], vectors[name])) for name, x in base.items()}
        logits = torch.func.functional_call(model, merged, kwargs={"input_ids": ids, "use_cache": False}, tie_weights=True).logits
        logs = torch.log_softmax(logits[:, :-1].float(), -1)
        loss = -(logs.exp() * logs).sum(-1).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        seconds.append(time.perf_counter() - start)
        losses.append(loss.item())
    coefficients = {name: value.tolist() for name, value in lambdas.items()}
    Path(out).write_text(json.dumps({"seconds": seconds, "losses": losses, "coefficients": coefficients}))


def rows(work):
    """Token ids, the end token last, as onefold makes them."""
    words = json.loads((work / "model" / "tokenizer.json").read_text())["model"]["vocab"]
    lines = [json.loads(line)["text"] for line in (work / "rows.jsonl").read_text().splitlines()]
    return [[words[word] for word in line.split()] + [words["</s>"]] for line in lines]


if __name__ == "__main__":
    if sys.argv[1] == "experts":
        experts(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        learn(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4], int(sys.argv[5]), sys.argv[6])
