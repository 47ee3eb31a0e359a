"""Goldens of the engine's linear maps, adapters and optimisers: linear.json.

Ran with torch 2.15 (CPU), peft 0.21.2. Run in this directory:

    CUDA_VISIBLE_DEVICES= HF_HUB_OFFLINE=1 python make_linear.py

Adapters: a torch.nn.Linear or a Conv1D adapted by PEFT, all factors random; loss = <output, cotangent>. No dropout, whose
masks are not ours. Optimisers: 20 steps of torch.optim from given weights and gradients, the latter clipped by
torch.nn.utils.clip_grad_norm_ where `clip` is given.
"""

import json

import peft
import torch
from peft import LoraConfig, get_peft_model
from transformers.pytorch_utils import Conv1D

torch.manual_seed(0)
ROWS, INPUTS, OUTPUTS, RANK = 5, 12, 10, 3
LENGTH, STEPS = 6, 20


def numbers(tensor):
    # Nine digits are enough for every f32.
    return [float(f"{v:.9g}") for v in tensor.detach().flatten().tolist()]


def adapter(dora, rslora, conv):
    linear = Conv1D(OUTPUTS, INPUTS) if conv else torch.nn.Linear(INPUTS, OUTPUTS)
    torch.nn.init.normal_(linear.weight)
    torch.nn.init.normal_(linear.bias)
    config = LoraConfig(
        r=RANK, lora_alpha=4, use_rslora=rslora, use_dora=dora, fan_in_fan_out=conv, target_modules=["0"]
    )
    model = get_peft_model(torch.nn.Sequential(linear), config)
    layer = model.base_model.model[0]
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    torch.nn.init.normal_(a)
    torch.nn.init.normal_(b)
    factors = {"a": a, "b": b}
    if dora:
        factors["magnitude"] = layer.lora_magnitude_vector["default"].weight
        torch.nn.init.uniform_(factors["magnitude"], 1, 4)
    x = torch.randn(ROWS, INPUTS, requires_grad=True)
    cotangent = torch.randn(ROWS, OUTPUTS)
    y = model(x)
    (y * cotangent).sum().backward()
    base = layer.base_layer
    out = {"scale": layer.scaling["default"], "conv": conv}
    given = {"x": x, "weight": base.weight, "bias": base.bias, "cotangent": cotangent, "y": y, "dx": x.grad}
    for name, tensor in given.items():
        out[name] = numbers(tensor)
    for name, factor in factors.items():
        out[name], out["d" + name] = numbers(factor), numbers(factor.grad)
    return out


def optimizer(make, clip=None):
    weight = torch.nn.Parameter(torch.randn(LENGTH))
    out = {"weight": numbers(weight), "clip": clip, "gradients": [], "weights": [], "norms": []}
    steps = make([weight])
    for _ in range(STEPS):
        weight.grad = torch.randn(LENGTH) * 2
        out["gradients"].append(numbers(weight.grad))
        if clip is not None:
            out["norms"].append(float(torch.nn.utils.clip_grad_norm_([weight], clip)))
        steps.step()
        out["weights"].append(numbers(weight))
    return out


cases = {
    "versions": {"torch": torch.__version__, "peft": peft.__version__},
    "lora": adapter(dora=False, rslora=False, conv=False),
    "lora_conv": adapter(dora=False, rslora=True, conv=True),
    "dora": adapter(dora=True, rslora=False, conv=False),
    "dora_conv": adapter(dora=True, rslora=True, conv=True),
    "adamw": optimizer(lambda p: torch.optim.AdamW(p)),
    "adamw_clipped": optimizer(
        lambda p: torch.optim.AdamW(p, lr=0.05, betas=(0.8, 0.95), eps=1e-4, weight_decay=0.2), clip=1.5
    ),
    "sgd": optimizer(lambda p: torch.optim.SGD(p, lr=0.1)),
    "sgd_momentum": optimizer(lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9, weight_decay=0.1)),
    "sgd_nesterov": optimizer(
        lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.8, nesterov=True, weight_decay=0.05), clip=3.0
    ),
}
with open("linear.json", "w") as file:
    lines = [f"{json.dumps(name)}: {json.dumps(case)}" for name, case in cases.items()]
    file.write("{\n" + ",\n".join(lines) + "\n}\n")
