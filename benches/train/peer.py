#!/usr/bin/env python3
"""The same work in PyTorch, as a line of JSON: seconds and loss of each step. Called by compare.py.

    python peer.py WORK MODEL --threads 2 --steps 9 --sequences 4 --length 256

WORK: train, lora, forward, checkpointing, generate (with a cache), as in `measure.rs`, by transformers with scaled-dot-product attention and
PyTorch's fused AdamW; `plain` is `train` written out by hand with PyTorch's fastest operators (fused RMSNorm, no padding
mask, no Hugging Face layer between).
"""

import argparse
import json
import time

import torch
import torch.nn.functional as F
from torch import nn


def main():
    """Runs the steps."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work", choices=["train", "lora", "checkpointing", "forward", "plain", "generate"])
    parser.add_argument("model")
    for name, default in {"threads": 2, "steps": 9, "sequences": 4, "length": 256, "new": 128}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    step = {"bert": classes, "vit": images}.get(kind(args.model), tokens)(args)
    seconds, losses = [], []
    for _ in range(args.steps):
        start = time.perf_counter()
        losses.append(step())
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"seconds": seconds, "losses": losses}))


def kind(model):
    """The family of a model."""
    with open(f"{model}/config.json", encoding="utf-8") as file:
        return json.load(file)["model_type"]


def numbers(count, limit):
    """The same arbitrary numbers as the program's."""
    state, out = 1, []
    for _ in range(count):
        state = (state * 1664525 + 1013904223) % 2**32
        out.append((state >> 8) % limit)
    return out


def load(args, automatic):
    """A model of transformers, and whether it is trained whole, by adapters or not."""
    model = automatic.from_pretrained(args.model, attn_implementation="sdpa", dtype=torch.float32)
    if args.work == "lora":
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"))
    if args.work == "checkpointing":
        model.gradient_checkpointing_enable()
    return model.train(args.work not in ("forward", "generate"))


def stepper(args, model, loss_of):
    """One step of a model whose loss `loss_of` computes."""
    if args.work == "forward":
        def forward():
            with torch.inference_mode():
                return loss_of().item()
        return forward
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)

    def step():
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def tokens(args):
    """Next tokens."""
    import transformers

    with open(f"{args.model}/config.json", encoding="utf-8") as file:
        config = json.load(file)
    ids = torch.tensor(numbers(args.sequences * args.length, config["vocab_size"]))
    ids = ids.reshape(args.sequences, args.length)
    if args.work == "plain":
        model = Plain(config, args)
        return stepper(args, model, lambda: next_token_loss(model(ids), ids))
    model = load(args, transformers.AutoModelForCausalLM)
    if args.work == "generate":
        return lambda: mean_of_continuations(model, ids, args.new)
    return stepper(args, model, lambda: next_token_loss(model(ids, use_cache=False).logits, ids))


def mean_of_continuations(model, ids, new):
    """The mean id of what greedy generation writes: other tokens, another mean."""
    model.generation_config.eos_token_id = None
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False)
    return out[:, ids.shape[1]:].double().mean().item()


def next_token_loss(logits, ids):
    """Mean cross-entropy of every token but the first of each sequence."""
    return F.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1))


def classes(args):
    """Classes of texts."""
    import transformers

    model = load(args, transformers.AutoModelForSequenceClassification)
    ids = torch.tensor(numbers(args.sequences * args.length, model.config.vocab_size))
    ids = ids.reshape(args.sequences, args.length)
    labels = torch.arange(args.sequences) % model.config.num_labels
    return stepper(args, model, lambda: F.cross_entropy(model(ids).logits, labels))


def images(args):
    """Classes of images."""
    import transformers

    model = load(args, transformers.AutoModelForImageClassification)
    config = model.config
    shape = (args.sequences, config.num_channels, config.image_size, config.image_size)
    count = args.sequences * config.num_channels * config.image_size**2
    pixels = (torch.tensor(numbers(count, 256)) / 127.5 - 1).reshape(shape)
    labels = torch.arange(args.sequences) % config.num_labels
    return stepper(args, model, lambda: F.cross_entropy(model(pixels).logits, labels))


class Plain(nn.Module):
    """A Llama with one key head per query head, in PyTorch's fastest operators."""

    def __init__(self, config, args):
        super().__init__()
        from safetensors.torch import load_file

        self.weights = nn.ParameterDict()
        for name, value in load_file(f"{args.model}/model.safetensors").items():
            self.weights[name.replace(".", "/")] = nn.Parameter(value.float())
        self.layers, self.heads = config["num_hidden_layers"], config["num_attention_heads"]
        self.epsilon = config["rms_norm_eps"]
        width = config["hidden_size"] // self.heads
        inverse = 1 / (10000 ** (torch.arange(0, width, 2).float() / width))
        angles = torch.outer(torch.arange(args.length).float(), inverse)
        angles = torch.cat((angles, angles), -1)
        self.cos, self.sin = angles.cos(), angles.sin()

    def weight(self, name):
        """A weight by its name in the file."""
        return self.weights[f"{name}.weight".replace(".", "/")]

    def norm(self, x, name):
        """RMSNorm."""
        return F.rms_norm(x, (x.shape[-1],), self.weight(name), self.epsilon)

    def turn(self, x):
        """Rotary positions."""
        half = x.shape[-1] // 2
        return x * self.cos + torch.cat((-x[..., half:], x[..., :half]), -1) * self.sin

    def attend(self, h, at):
        """Attention."""
        split = lambda t: t.view(*t.shape[:2], self.heads, -1).transpose(1, 2)
        q, k, v = (split(F.linear(h, self.weight(f"{at}.{n}_proj"))) for n in "qkv")
        o = F.scaled_dot_product_attention(self.turn(q), self.turn(k), v, is_causal=True)
        return F.linear(o.transpose(1, 2).reshape(h.shape), self.weight(f"{at}.o_proj"))

    def forward(self, ids):
        """Logits."""
        x = F.embedding(ids, self.weight("model.embed_tokens"))
        for i in range(self.layers):
            at = f"model.layers.{i}"
            x = x + self.attend(self.norm(x, f"{at}.input_layernorm"), f"{at}.self_attn")
            h = self.norm(x, f"{at}.post_attention_layernorm")
            gate, up = (F.linear(h, self.weight(f"{at}.mlp.{n}_proj")) for n in ("gate", "up"))
            x = x + F.linear(F.silu(gate) * up, self.weight(f"{at}.mlp.down_proj"))
        return F.linear(self.norm(x, "model.norm"), self.weight("lm_head"))


if __name__ == "__main__":
    main()
