"""Makes attention.json: what PyTorch and transformers answer for norms, rotary positions and attention.

Made with torch 2.15 and transformers 5.23 on a CPU:
    CUDA_VISIBLE_DEVICES= python testdata/engine/make_attention.py

Inputs are f32 numbers of few digits; everything is computed in f64, so that the answers are exact to the last digit that is
written. The exception is the rotary frequencies, which transformers computes in f32.
"""

import json
import math
import os
from types import SimpleNamespace

import torch
import transformers
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward as gemma2_attention
from transformers.models.llama.modeling_llama import LlamaRMSNorm, LlamaRotaryEmbedding, apply_rotary_pos_emb

torch.manual_seed(20250101)
torch.set_default_dtype(torch.float64)


def noise(*shape):
    return torch.round(torch.randn(*shape) * 1000) / 1000


def flat(t, digits=9):
    return [float(f"{v:.{digits}g}") for v in t.detach().double().flatten().tolist()]


def norms():
    rows, width, eps = 5, 24, 1e-5
    made = {}
    for name in ["rms", "rms_from_one", "layer"]:
        x, weight, d_y = noise(rows, width), noise(width), noise(rows, width)
        bias = noise(width)
        x.requires_grad_()
        if name == "layer":
            y = torch.nn.functional.layer_norm(x, [width], weight.requires_grad_(), bias.requires_grad_(), eps)
        else:
            # The modules compute in f32; their formula is applied here in f64 and compared with them.
            w = weight.requires_grad_()
            scale = w + 1 if name == "rms_from_one" else w
            y = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * scale
            module = (Gemma2RMSNorm if name == "rms_from_one" else LlamaRMSNorm)(width, eps)
            module.weight.data.copy_(weight)
            assert torch.allclose(module(x), y, atol=1e-5)
            y = y + bias.requires_grad_()
        y.backward(d_y)
        made[name] = {
            "rows": rows, "width": width, "epsilon": eps, "x": flat(x), "weight": flat(weight), "bias": flat(bias),
            "d_y": flat(d_y), "y": flat(y), "d_x": flat(x.grad), "d_weight": flat(weight.grad), "d_bias": flat(bias.grad),
        }
    return made


def rope():
    torch.set_default_dtype(torch.float32)
    half = 16
    short = [1 + 0.05 * i for i in range(half)]
    long = [1 + 0.9 * i for i in range(half)]
    kinds = {
        "default": {"rope_type": "default", "rope_theta": 10000.0},
        "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
        "dynamic": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
        "yarn": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 256},
        "yarn_mscale": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 40.0, "original_max_position_embeddings": 64,
                        "mscale": 1.0, "mscale_all_dim": 0.5, "beta_fast": 16, "beta_slow": 2, "truncate": False},
        "yarn_given": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 8.0, "original_max_position_embeddings": 128,
                       "attention_factor": 0.7},
        "longrope": {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": short, "long_factor": long,
                     "factor": 8.0, "original_max_position_embeddings": 128},
        "llama3": {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
                   "high_freq_factor": 4.0, "original_max_position_embeddings": 64},
    }
    made = {}
    for name, parameters in kinds.items():
        config = LlamaConfig(hidden_size=128, num_attention_heads=4, head_dim=2 * half, max_position_embeddings=1024,
                             rope_parameters=dict(parameters))
        made[name] = {"parameters": parameters, "max_position_embeddings": 1024, "dims": 2 * half, "by_length": []}
        for length in [100, 2000]:
            if name == "default":
                frequencies, factor = LlamaRotaryEmbedding.compute_default_rope_parameters(config)
            else:
                frequencies, factor = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config, "cpu", seq_len=length)
            made[name]["by_length"].append({"length": length, "frequencies": flat(frequencies), "factor": factor})
    # A partial rotation, and the rotation itself.
    config = LlamaConfig(hidden_size=64, num_attention_heads=2, head_dim=32,
                         rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0,
                                          "partial_rotary_factor": 0.75})
    frequencies, _ = ROPE_INIT_FUNCTIONS["linear"](config, "cpu")
    made["partial"] = {"frequencies": flat(frequencies), "factor": 0.75, "head_dim": 32}
    tokens, heads, dim = 3, 2, 8
    config = LlamaConfig(hidden_size=16, num_attention_heads=heads, head_dim=dim,
                         rope_parameters=dict(kinds["yarn"], original_max_position_embeddings=64))
    module = LlamaRotaryEmbedding(config)
    positions = torch.tensor([[0, 5, 77]])
    x, d_y = noise(1, heads, tokens, dim), noise(1, heads, tokens, dim)
    x.requires_grad_()
    cos, sin = module(x, positions)
    y, _ = apply_rotary_pos_emb(x, x.detach(), cos, sin)
    y.backward(d_y)
    rows = lambda t: flat(t.transpose(1, 2), 8)
    made["apply"] = {"positions": positions.flatten().tolist(), "heads": heads, "head_dim": dim, "factor": 4.0,
                     "theta": 1e6, "original": 64, "x": rows(x), "y": rows(y), "d_y": rows(d_y), "d_x": rows(x.grad)}
    torch.set_default_dtype(torch.float64)
    return made


def allowed(queries, keys, kind):
    at = torch.arange(queries)[:, None] + (keys - queries)
    key = torch.arange(keys)[None, :]
    if kind == "causal":
        return key <= at
    if kind.startswith("sliding"):
        return (key <= at) & (key > at - int(kind.split()[1]))
    if kind.startswith("local"):
        return (key - at).abs() <= int(kind.split()[1])
    return torch.ones(queries, keys, dtype=torch.bool)


def attention():
    made = []
    cases = [
        # heads, kv_heads, head_dim, mask, cap, segments (queries, keys)
        (4, 4, 8, "causal", None, [(6, 6)]),
        (4, 2, 8, "causal", None, [(7, 7), (5, 5)]),
        (6, 1, 10, "full", None, [(5, 9), (3, 3)]),
        (4, 2, 8, "sliding 3", None, [(9, 9), (2, 2)]),
        (2, 2, 12, "local 2", None, [(9, 9)]),
        (4, 2, 8, "causal", 2.0, [(7, 7), (4, 6)]),
        (4, 2, 8, "sliding 4", 5.0, [(8, 8)]),
    ]
    for heads, kv_heads, dim, kind, cap, segments in cases:
        parts = {key: [] for key in ["q", "k", "v", "out", "d_out", "d_q", "d_k", "d_v"]}
        scale = dim**-0.5 * (3 if cap else 1)
        for queries, keys in segments:
            q, k, v = noise(1, heads, queries, dim), noise(1, kv_heads, keys, dim), noise(1, kv_heads, keys, dim)
            d_out = noise(1, heads, queries, dim)
            for t in (q, k, v):
                t.requires_grad_()
            mask = allowed(queries, keys, kind)
            if cap:
                module = SimpleNamespace(num_key_value_groups=heads // kv_heads, training=False, head_dim=dim)
                bias = torch.zeros(queries, keys).masked_fill(~mask, -math.inf)
                # It computes the softmax in f32 unless told not to.
                softmax = torch.nn.functional.softmax
                torch.nn.functional.softmax = lambda x, dim, dtype: softmax(x, dim=dim)
                out, _ = gemma2_attention(module, q, k, v, bias[None, None], scaling=scale, softcap=cap)
                torch.nn.functional.softmax = softmax
                out = out.transpose(1, 2)
            else:
                out = torch.nn.functional.scaled_dot_product_attention(
                    q, k, v, attn_mask=mask, scale=scale, enable_gqa=True)
            out.backward(d_out)
            for key, t in zip(parts, [q, k, v, out, d_out, q.grad, k.grad, v.grad]):
                parts[key] += flat(t.transpose(1, 2), 8)
        made.append({"heads": heads, "kv_heads": kv_heads, "head_dim": dim, "mask": kind, "cap": cap, "scale": scale,
                     "segments": segments, **parts})
    return made


made = {
    "made_with": {"torch": torch.__version__, "transformers": transformers.__version__},
    "norm": norms(), "rope": rope(), "attention": attention(),
}
path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "attention.json")
with open(path, "w") as file:
    json.dump(made, file, separators=(",", ":"))
    file.write("\n")
