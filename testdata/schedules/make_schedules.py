#!/usr/bin/env python3
"""Learning rates by transformers' schedulers, as shares of the peak, step by step: writes schedules.json beside itself.

Made with transformers 5.23.0 and torch 2.15.0. 4 steps of warm-up of 20; wsd decays over 6.
"""

import json
from pathlib import Path

import torch
import transformers

STEPS = 21
CASES = {
    "constant": ("constant_with_warmup", 0.0, {}),
    "linear": ("linear", 0.0, {}),
    "cosine": ("cosine", 0.0, {}),
    "cosine_floor": ("cosine_with_min_lr", 0.1, {"min_lr_rate": 0.1}),
    "wsd": ("warmup_stable_decay", 0.0, {"num_decay_steps": 6, "decay_type": "linear"}),
    "wsd_floor": ("warmup_stable_decay", 0.1, {"num_decay_steps": 6, "decay_type": "linear", "min_lr_ratio": 0.1}),
}


def shares(name, options):
    """The rate of each step, the peak being 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = transformers.get_scheduler(name, optimizer, 4, 20, scheduler_specific_kwargs=options or None)
    out = []
    for _ in range(STEPS):
        out.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return out


def main():
    """All cases."""
    cases = [
        {"case": case, "floor": floor, "shares": shares(name, options)} for case, (name, floor, options) in CASES.items()
    ]
    text = json.dumps({"transformers": transformers.__version__, "torch": torch.__version__, "cases": cases}, indent=1)
    Path(__file__).with_name("schedules.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
