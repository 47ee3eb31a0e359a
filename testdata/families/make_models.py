"""Tiny random models of every family, with what transformers computes on them.

Made with torch 2.15.0 (CPU), transformers 5.23.0, safetensors 0.8.0. Run in this directory:

    CUDA_VISIBLE_DEVICES= HF_HUB_OFFLINE=1 python make_models.py

Per variant a directory with

* `config.json`          as transformers 5 writes it; for some `config.v4.json`, the same in the spelling of version 4
* `model.safetensors`    f32; variants that differ only in arithmetic (rope, windows, soft caps) name the directory
                         whose weights they share in `golden.json`, key `weights`
* `golden.json`          inputs; logits; loss; of each parameter's gradient the norm and 16 elements at the flat
                         indices i*n//16; the losses of 20 AdamW steps on the same batch, and the loss after them

Eager attention, f32, eval mode (no dropout), one thread. Numbers are the shortest decimals that give the same f32,
norms are taken in f64. `defaults.json` holds what each configuration class fills in for keys that a file omits.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
import transformers as tf
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)

VOCAB, PAD, STEPS, SAMPLES = 64, 0, 20, 16
ADAMW = dict(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
DROPPED = ("transformers_version", "_name_or_path")

DECODER = dict(
    vocab_size=VOCAB, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
    max_position_embeddings=64, pad_token_id=PAD, bos_token_id=1, eos_token_id=2,
)
GQA = dict(DECODER, num_key_value_heads=2)
ENCODER = dict(
    vocab_size=VOCAB, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
    max_position_embeddings=40, num_labels=3,
)
DISTIL = dict(vocab_size=VOCAB, dim=32, hidden_dim=40, n_layers=2, n_heads=4, max_position_embeddings=40)
VISION = dict(
    hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, image_size=16, patch_size=8,
    num_channels=3,
)


def rope(kind, theta=10000.0, **more):
    return dict(rope_parameters=dict(rope_type=kind, rope_theta=theta, **more))


SHORT, LONG = [1.0, 1.1, 1.25, 1.5], [1.0, 2.0, 3.5, 6.0]
LLAMA = dict(GQA, tie_word_embeddings=True, attention_bias=True, mlp_bias=True)
LLAMA3 = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16)
GEMMA = dict(GQA, head_dim=16, query_pre_attn_scalar=12, sliding_window=4, bos_token_id=2, eos_token_id=1)
GEMMA3_ROPE = dict(
    sliding_attention=dict(rope_type="default", rope_theta=10000.0),
    full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1000000.0),
)
PHI = dict(GQA, original_max_position_embeddings=64)
PHI_LONG = dict(short_factor=SHORT, long_factor=LONG)

# name: (model class, configuration class, configuration, directory whose weights are used)
DECODERS = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", dict(DECODER, head_dim=12, eos_token_id=[2, 3]), None),
    "llama_gqa": ("LlamaForCausalLM", "LlamaConfig", LLAMA, None),
    "llama_linear": ("LlamaForCausalLM", "LlamaConfig", dict(LLAMA, **rope("linear", factor=4.0)), "llama_gqa"),
    "llama_dynamic": ("LlamaForCausalLM", "LlamaConfig",
                      dict(LLAMA, max_position_embeddings=8, **rope("dynamic", factor=2.0)), "llama_gqa"),
    "llama_yarn": ("LlamaForCausalLM", "LlamaConfig",
                   dict(LLAMA, **rope("yarn", factor=4.0, original_max_position_embeddings=16)), "llama_gqa"),
    "llama_yarn_mscale": ("LlamaForCausalLM", "LlamaConfig",
                          dict(LLAMA, **rope("yarn", factor=4.0, original_max_position_embeddings=16, beta_fast=2.0,
                                             beta_slow=0.5, mscale=0.7, mscale_all_dim=0.4, truncate=False)),
                          "llama_gqa"),
    "llama_llama3": ("LlamaForCausalLM", "LlamaConfig", dict(LLAMA, **rope("llama3", 500000.0, **LLAMA3)),
                     "llama_gqa"),
    "llama_longrope": ("LlamaForCausalLM", "LlamaConfig",
                       dict(LLAMA, **rope("longrope", factor=8.0, original_max_position_embeddings=8, **PHI_LONG)),
                       "llama_gqa"),
    "mistral": ("MistralForCausalLM", "MistralConfig", dict(GQA, sliding_window=4), None),
    "mistral_full": ("MistralForCausalLM", "MistralConfig", dict(GQA, sliding_window=None), "mistral"),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", dict(GQA, tie_word_embeddings=True), None),
    "qwen2_sliding": ("Qwen2ForCausalLM", "Qwen2Config",
                      dict(GQA, tie_word_embeddings=True, use_sliding_window=True, sliding_window=3,
                           max_window_layers=1), "qwen2"),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", dict(GQA, head_dim=16), None),
    "qwen3_bias": ("Qwen3ForCausalLM", "Qwen3Config",
                   dict(GQA, head_dim=8, attention_bias=True, tie_word_embeddings=True), None),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config",
               dict(GEMMA, attn_logit_softcapping=2.0, final_logit_softcapping=3.0), None),
    "gemma2_uncapped": ("Gemma2ForCausalLM", "Gemma2Config",
                        dict(GEMMA, attn_logit_softcapping=None, final_logit_softcapping=None), "gemma2"),
    "gemma3_text": ("Gemma3ForCausalLM", "Gemma3TextConfig",
                    dict(GEMMA, num_hidden_layers=3, rope_parameters=GEMMA3_ROPE,
                         layer_types=["sliding_attention", "sliding_attention", "full_attention"]), None),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", PHI, None),
    "phi3_longrope_short": ("Phi3ForCausalLM", "Phi3Config",
                            dict(PHI, max_position_embeddings=256, **rope("longrope", **PHI_LONG)), "phi3"),
    "phi3_longrope_long": ("Phi3ForCausalLM", "Phi3Config",
                           dict(PHI, original_max_position_embeddings=8, sliding_window=6,
                                **rope("longrope", **PHI_LONG)), "phi3"),
    "phi3_partial": ("Phi3ForCausalLM", "Phi3Config", dict(PHI, **rope("default", partial_rotary_factor=0.5)), "phi3"),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config",
             dict(vocab_size=VOCAB, n_positions=64, n_embd=32, n_layer=2, n_head=4, n_inner=40, bos_token_id=1,
                  eos_token_id=2, pad_token_id=PAD), None),
    "gpt2_unscaled": ("GPT2LMHeadModel", "GPT2Config",
                      dict(vocab_size=VOCAB, n_positions=64, n_embd=32, n_layer=2, n_head=4, n_inner=40,
                           bos_token_id=1, eos_token_id=2, pad_token_id=PAD, activation_function="relu",
                           scale_attn_weights=False, scale_attn_by_inverse_layer_idx=True), "gpt2"),
    "llama_classify": ("LlamaForSequenceClassification", "LlamaConfig", dict(GQA, num_labels=3), None),
}
ENCODERS = {
    "bert": ("BertForSequenceClassification", "BertConfig", dict(ENCODER), None),
    "roberta": ("RobertaForSequenceClassification", "RobertaConfig",
                dict(ENCODER, type_vocab_size=1, layer_norm_eps=1e-5), None),
    "distilbert": ("DistilBertForSequenceClassification", "DistilBertConfig",
                   dict(DISTIL, num_labels=3), None),
    "bert_multi_label": ("BertForSequenceClassification", "BertConfig",
                         dict(ENCODER, problem_type="multi_label_classification"), "bert"),
    "bert_regression": ("BertForSequenceClassification", "BertConfig",
                        dict(ENCODER, problem_type="regression"), "bert"),
    "bert_tokens": ("BertForTokenClassification", "BertConfig", dict(ENCODER), None),
    "roberta_tokens": ("RobertaForTokenClassification", "RobertaConfig",
                       dict(ENCODER, type_vocab_size=1, layer_norm_eps=1e-5), None),
    "distilbert_tokens": ("DistilBertForTokenClassification", "DistilBertConfig", dict(DISTIL, num_labels=3), None),
    "bert_masked": ("BertForMaskedLM", "BertConfig", dict(ENCODER, hidden_act="gelu_new"), None),
    "roberta_masked": ("RobertaForMaskedLM", "RobertaConfig",
                       dict(ENCODER, type_vocab_size=1, layer_norm_eps=1e-5, hidden_act="relu"), None),
    "distilbert_masked": ("DistilBertForMaskedLM", "DistilBertConfig", dict(DISTIL), None),
}
IMAGES = {
    "vit": ("ViTForImageClassification", "ViTConfig", dict(VISION, num_labels=3), None),
    "vit_unbiased": ("ViTForImageClassification", "ViTConfig",
                     dict(VISION, num_labels=3, qkv_bias=False, hidden_act="gelu_new", patch_size=4), None),
}
CLIP_TEXT = dict(vocab_size=VOCAB, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
                 max_position_embeddings=16, projection_dim=16, bos_token_id=62, eos_token_id=63, pad_token_id=1)
CLIPS = {
    "clip": ("CLIPModel", "CLIPConfig",
             dict(text_config=CLIP_TEXT, vision_config=dict(VISION, projection_dim=16), projection_dim=16), None),
}


def short(array):
    """Nested lists of the shortest decimals that round to the same f32."""
    if isinstance(array, torch.Tensor):
        array = array.detach().to(torch.float32).numpy()
    if array.ndim == 0:
        return float(str(np.float32(array)))
    return [short(part) for part in array]


def fill(model, seed):
    """Every parameter gets random values, so that each one matters: biases and norms stray from 0 and 1 too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(parameter + 0.1 * noise if parameter.ndim < 2 else 0.2 * noise)


def ids(generator, rows, length):
    return torch.randint(4, VOCAB - 2, (rows, length), generator=generator)


def language_inputs(name, classify):
    """`classify`: one label per row, as the problem of the name has it; else one per token."""
    generator = torch.Generator().manual_seed(11)
    tokens = ids(generator, 2, 12)
    mask = torch.ones_like(tokens)
    mask[1, 8:] = 0
    tokens[1, 8:] = 1 if name.startswith("roberta") else PAD
    inputs = dict(input_ids=tokens, attention_mask=mask)
    if name.startswith("bert"):
        inputs["token_type_ids"] = (torch.arange(12) >= 5).long().repeat(2, 1) * mask
    if name.endswith("multi_label"):
        return dict(inputs, labels=torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]]))
    if name.endswith("regression"):
        return dict(inputs, labels=torch.tensor([[0.5, -1.0, 2.0], [0.25, 1.5, -0.75]]))
    if classify:
        return dict(inputs, labels=torch.tensor([2, 0]))
    if name.endswith("tokens"):
        labels = (tokens % 3).masked_fill(mask == 0, -100)
        labels[:, 4] = -100
        return dict(inputs, labels=labels)
    labels = tokens.masked_fill(mask == 0, -100)
    labels[:, :3] = -100
    return dict(inputs, labels=labels)


def image_inputs():
    generator = torch.Generator().manual_seed(12)
    return dict(pixel_values=torch.randn((2, 3, 16, 16), generator=generator), labels=torch.tensor([2, 0]))


def clip_inputs():
    generator = torch.Generator().manual_seed(13)
    tokens = ids(generator, 2, 9)
    tokens[:, 0] = 62
    tokens[0, 8], tokens[1, 6] = 63, 63
    tokens[1, 7:] = 1
    mask = torch.ones_like(tokens)
    mask[1, 7:] = 0
    pixels = torch.randn((2, 3, 16, 16), generator=generator)
    return dict(input_ids=tokens, attention_mask=mask, pixel_values=pixels, return_loss=True)


def stored_names(model, stored):
    """Names in memory -> names in the file, which for some families differ since version 5: equal bytes tell."""
    by_bytes = {value.numpy().tobytes(): name for name, value in stored.items()}
    assert len(by_bytes) == len(stored)
    return {name: by_bytes[value.detach().numpy().tobytes()] for name, value in model.named_parameters()}


def gradients(model, names):
    found = {}
    for name, parameter in sorted(model.named_parameters()):
        if parameter.grad is None:
            continue
        flat = parameter.grad.flatten()
        at = [i * flat.numel() // SAMPLES for i in range(SAMPLES)]
        found[names[name]] = dict(norm=float(flat.double().norm()), samples=[short(flat[i]) for i in at])
    return found


def trace(model, inputs):
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False, **ADAMW)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        losses.append(short(loss))
    return losses + [short(model(**inputs).loss)]


def golden(model, inputs, stored):
    names = stored_names(model, stored)
    model.zero_grad()
    output = model(**inputs)
    output.loss.backward()
    listed = {key: value.tolist() if value.dtype == torch.long else short(value)
              for key, value in inputs.items() if isinstance(value, torch.Tensor)}
    made = dict(inputs=listed)
    if "logits_per_image" in output:
        made["logits"] = short(output.logits_per_image)
        made["image_embeds"], made["text_embeds"] = short(output.image_embeds), short(output.text_embeds)
    else:
        made["logits"] = short(output.logits)
    made.update(loss=short(output.loss), gradients=gradients(model, names))
    made.update(adamw=dict(ADAMW, betas=list(ADAMW["betas"])), trace=trace(model, inputs))
    return made


def write(path, value):
    path.write_text(json.dumps(value, separators=(",", ":")) + "\n")


def make(name, model_class, config_class, settings, weights, inputs):
    config = getattr(tf, config_class)(**settings)
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = getattr(tf, model_class)(config).float().eval()
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if weights is None:
        fill(model, seed=7)
        model.save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
    else:
        missing, unexpected = model.load_state_dict(load_file(HERE / weights / "model.safetensors"), strict=False)
        assert not unexpected and all("lm_head" in key for key in missing), (name, missing, unexpected)
        model.tie_weights()
        model.config.architectures = [model_class]
        model.config.dtype = "float32"
        model.config.save_pretrained(folder)
    written = json.loads((folder / "config.json").read_text())
    for key in DROPPED:
        written.pop(key, None)
    (folder / "config.json").write_text(json.dumps(written, indent=2, sort_keys=True) + "\n")
    if weights is None:
        again = load_file(folder / "model.safetensors")
        save_file(again, folder / "model.safetensors", metadata={"format": "pt"})
    reference = tf.AutoConfig.from_pretrained(folder)
    assert reference.to_dict().get("rope_parameters") == config.to_dict().get("rope_parameters"), name
    stored = load_file(HERE / (weights or name) / "model.safetensors")
    made = golden(model, inputs, stored)
    write(folder / "golden.json", dict(weights=weights or name, architecture=model_class, **made))
    version_4(folder, written, reference)


def version_4(folder, config, reference):
    """The same configuration as version 4 of transformers spelled it: rope_theta and rope_scaling, torch_dtype."""
    if "rope_parameters" not in config:
        return
    old = {key: value for key, value in config.items() if key not in ("rope_parameters", "dtype", "layer_types")}
    old["torch_dtype"] = config["dtype"]
    found = config["rope_parameters"]
    if "full_attention" in found:
        old["rope_theta"] = found["full_attention"]["rope_theta"]
        old["rope_local_base_freq"] = found["sliding_attention"]["rope_theta"]
        old["sliding_window_pattern"] = 3
        scaling = {k: v for k, v in found["full_attention"].items() if k != "rope_theta"}
    else:
        old["rope_theta"] = found["rope_theta"]
        if "partial_rotary_factor" in found:
            old["partial_rotary_factor"] = found["partial_rotary_factor"]
        scaling = {k: v for k, v in found.items() if k not in ("rope_theta", "partial_rotary_factor")}
    if scaling.get("rope_type") == "default":
        old["rope_scaling"] = None
    else:
        if old["model_type"] != "gemma3_text":  # whose class reads `rope_type` only
            scaling["type"] = scaling.pop("rope_type")
        old["rope_scaling"] = scaling
        if old["model_type"] == "phi3":
            scaling.pop("original_max_position_embeddings", None)
    again = type(reference)(**json.loads(json.dumps(old)))
    mine, theirs = again.to_dict(), reference.to_dict()
    for rope_dict in (mine["rope_parameters"], mine["rope_parameters"].get("full_attention", {})):
        rope_dict.pop("type", None)
    for key in ("rope_parameters", "layer_types"):
        assert mine.get(key) == theirs.get(key), (folder.name, key, mine.get(key), theirs.get(key))
    (folder / "config.v4.json").write_text(json.dumps(old, indent=2, sort_keys=True) + "\n")


def defaults():
    classes = ["Llama", "Mistral", "Qwen2", "Qwen3", "Gemma2", "Gemma3Text", "Phi3", "GPT2", "Bert", "Roberta",
               "DistilBert", "ViT", "CLIPText", "CLIPVision", "CLIP"]
    found = {}
    for name in classes:
        made = getattr(tf, f"{name}Config")().to_dict()
        found[made["model_type"]] = {key: value for key, value in sorted(made.items()) if key not in DROPPED}
    (HERE / "defaults.json").write_text(json.dumps(found, indent=1) + "\n")


def main():
    for name, row in DECODERS.items():
        make(name, *row, language_inputs(name, "classify" in name))
    for name, row in ENCODERS.items():
        make(name, *row, language_inputs(name, not name.endswith(("tokens", "masked"))))
    for name, row in IMAGES.items():
        make(name, *row, image_inputs())
    for name, row in CLIPS.items():
        make(name, *row, clip_inputs())
    defaults()


main()
