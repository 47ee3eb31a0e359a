"""Goldens of the adapter tests: tiny random models, adapters with random (not initial) factors, and what PEFT merges.

Ran with peft 0.21.2, transformers 5.23, torch 2.15 (CPU), safetensors. Run in this directory:

    CUDA_VISIBLE_DEVICES= HF_HUB_OFFLINE=1 python make_adapter.py

Per case: adapter_config.json and adapter_model.safetensors as `save_pretrained` writes them, and
expected.safetensors with the tensors that `merge_and_unload` changed (all arithmetic in f32). The adapter is loaded
again from its files before the merge, so that the expectation is what a user of those files gets.
"""

import os
import shutil

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM


class Convolutions(torch.nn.Module):
    """One convolution of each kind that PEFT adapts."""

    def __init__(self):
        super().__init__()
        self.wide = torch.nn.Conv2d(3, 5, (3, 2))
        self.point = torch.nn.Conv2d(5, 4, 1)
        self.line = torch.nn.Conv1d(4, 6, 3)


def llama():
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=24, hidden_size=16, intermediate_size=20, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, attention_bias=True, max_position_embeddings=32, tie_word_embeddings=False))


def gpt2():
    return GPT2LMHeadModel(GPT2Config(
        vocab_size=24, n_embd=16, n_inner=20, n_layer=2, n_head=4, n_positions=8))


BASES = {"llama": llama, "gpt2": gpt2, "conv": Convolutions}
LINEAR = ["q_proj", "v_proj", "down_proj"]

# case: (base, arguments of LoraConfig)
CASES = {
    "plain": ("llama", dict(r=3, lora_alpha=7, target_modules=LINEAR)),
    "rslora": ("llama", dict(r=3, lora_alpha=7, use_rslora=True, target_modules=["q_proj"])),
    "patterns": ("llama", dict(
        r=3, lora_alpha=7, target_modules=LINEAR,
        rank_pattern={"layers.1.self_attn.q_proj": 5, r"v_proj": 2},
        alpha_pattern={r"layers\.\d.mlp.down_proj": 11, "^model.layers.0.self_attn.q_proj": 1})),
    "dora": ("llama", dict(r=3, lora_alpha=7, use_dora=True, target_modules=LINEAR)),
    "modules_to_save": ("llama", dict(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])),
    "embedding": ("llama", dict(r=3, lora_alpha=7, target_modules=["embed_tokens", "lm_head", "q_proj"])),
    "embedding_dora": ("llama", dict(r=3, lora_alpha=7, use_dora=True, target_modules=["embed_tokens"])),
    "resized": ("llama", dict(r=2, target_modules=["q_proj"])),
    "lora_bias": ("llama", dict(r=2, lora_alpha=5, lora_bias=True, target_modules=["q_proj", "v_proj"])),
    "bias_all": ("llama", dict(r=2, bias="all", target_modules=["q_proj"])),
    "tokens": ("llama", dict(r=2, target_modules=["q_proj"], trainable_token_indices=[7, 2, 19])),
    "bf16_base": ("llama", dict(r=3, lora_alpha=7, target_modules=LINEAR)),
    "gpt2": ("gpt2", dict(r=3, lora_alpha=7, fan_in_fan_out=True, target_modules=["c_attn", "c_proj", "c_fc"])),
    "gpt2_dora": ("gpt2", dict(
        r=2, lora_alpha=5, use_dora=True, fan_in_fan_out=True, target_modules=["c_attn", "c_proj"])),
    "conv": ("conv", dict(r=3, lora_alpha=7, target_modules=["wide", "point", "line"])),
    "conv_dora": ("conv", dict(r=2, lora_alpha=5, use_dora=True, target_modules=["wide", "line"])),
}


def state(model):
    """Stored tensors: what save_pretrained would write (a tied head is not stored)."""
    tied = getattr(getattr(model, "config", None), "tie_word_embeddings", False)
    return {k: v.detach().clone().contiguous() for k, v in model.state_dict().items()
            if not (tied and k == "lm_head.weight")}


def base_model(kind):
    torch.manual_seed(1)
    model = BASES[kind]()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.name_or_path = f"tiny-{kind}"
    if hasattr(model, "config"):
        model.config.name_or_path = model.name_or_path
    return model


def make(case, kind, arguments):
    model = base_model(kind)
    before = state(model)
    if case == "resized":
        model.resize_token_embeddings(26)
    if case == "bf16_base":
        before = {k: v.bfloat16() for k, v in before.items()}
        # The expectation is the f32 arithmetic on the rounded base: our single rounding comes after it.
        model.load_state_dict({k: v.float() for k, v in before.items()})
    peft_model = get_peft_model(model, LoraConfig(**arguments))
    torch.manual_seed(2)
    for name, parameter in peft_model.named_parameters():
        if "magnitude" in name:
            parameter.data *= 1 + 0.2 * torch.randn_like(parameter)
        elif parameter.requires_grad or "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    peft_model.save_pretrained(case, save_embedding_layers=True if case == "resized" else "auto")
    os.remove(f"{case}/README.md")

    again = base_model(kind)
    if case == "resized":
        again.resize_token_embeddings(26)
    if case == "bf16_base":
        again.load_state_dict({k: v.float() for k, v in before.items()})
    merged = PeftModel.from_pretrained(again, case).merge_and_unload()
    after = state(merged)
    changed = {k: v for k, v in after.items()
               if k not in before or v.shape != before[k].shape or not torch.equal(v, before[k].to(v.dtype))}
    save_file(changed, f"{case}/expected.safetensors")
    keys = sorted(load_file(f"{case}/adapter_model.safetensors"))
    print(case, len(changed), sorted(changed)[:2], keys[:3])


for kind in BASES:
    os.makedirs(f"base_{kind}", exist_ok=True)
    save_file(state(base_model(kind)), f"base_{kind}/model.safetensors")
os.makedirs("base_llama_bf16", exist_ok=True)
save_file({k: v.bfloat16() for k, v in state(base_model("llama")).items()}, "base_llama_bf16/model.safetensors")
for case, (kind, arguments) in CASES.items():
    shutil.rmtree(case, ignore_errors=True)
    make(case, kind, arguments)
