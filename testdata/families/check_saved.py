"""Opens with transformers and PEFT what onefold-train saves, and compares the answers.

Seen to pass with torch 2.15.0 (CPU), transformers 5.23.0, peft 0.21.2. Not run by the tests, which have no Python. Run in the
root of the repository:

    cargo build -p onefold-train --example saved
    CUDA_VISIBLE_DEVICES= HF_HUB_OFFLINE=1 python testdata/families/check_saved.py target/debug/examples/saved

Per family: each head's model loads in its class without missing, unexpected or misshapen tensors, with the labels of its
task; each adapter loads without missing keys and answers the same apart and merged. Logits agree to 1e-5.
"""

import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import torch
import transformers as tf
from peft import PeftModel

tf.logging.set_verbosity_error()
tf.logging.disable_progress_bar()
HERE = Path(__file__).parent
TEXT = [
    "bert", "bert_tokens", "roberta", "roberta_masked", "distilbert", "llama_gqa", "llama_classify", "mistral", "qwen2",
    "qwen3", "gemma2", "phi3", "gpt2",
]
IMAGES = ["vit", "vit_unbiased"]
LABELS = [{0: "no", 1: "yes"}, {0: "LABEL_0"}]
PROBLEMS = ["single_label_classification", "regression"]
worst = 0.0


def answer(model, given):
    model.eval()
    with torch.no_grad():
        if "ids" in given:
            return model(torch.tensor([given["ids"]])).logits
        return model(torch.tensor(given["pixels"]).reshape(1, *given["shape"])).logits


def compare(what, model, noted):
    global worst
    found, expected = answer(model, noted["input"]).flatten(), torch.tensor(noted["logits"])
    assert found.shape == expected.shape, (what, found.shape, expected.shape)
    off = ((found - expected).abs() / expected.abs().clamp(min=1.0)).max().item()
    worst = max(worst, off)
    assert off <= 1e-5, (what, off)


def loaded(kind, path):
    model, info = kind.from_pretrained(path, output_loading_info=True)
    wrong = {key: value for key, value in info.items() if value}
    assert not wrong, (path, wrong)
    return model


def check(family, images, saved, tmp):
    source, out = HERE / family, Path(tmp) / family
    kind = tf.AutoModelForImageClassification if images else tf.AutoModelForSequenceClassification
    subprocess.run([saved, source, out], check=True)
    for task in range(2):
        name = f"head{task}"
        noted = json.loads((out / f"{name}.json").read_text())
        model = loaded(kind, out / name)
        config = model.config
        assert config.id2label == LABELS[task] and config.num_labels == len(LABELS[task]), config
        assert config.label2id == {label: id for id, label in LABELS[task].items()}, config.label2id
        assert config.architectures == [type(model).__name__], config.architectures
        assert config.problem_type == PROBLEMS[task], config.problem_type
        compare((family, name), model, noted)
    own = getattr(tf, json.loads((source / "config.json").read_text())["architectures"][0])
    for name in ["lora", "rslora", "dora", "lora0"]:
        noted = json.loads((out / f"{name}.json").read_text())
        base = kind if name == "lora0" else own
        more = dict(num_labels=2, ignore_mismatched_sizes=True) if name == "lora0" else {}
        model = PeftModel.from_pretrained(base.from_pretrained(source, **more), out / name)
        result = model.load_adapter(out / name, adapter_name="again")
        missing = [key for key in result.missing_keys if "again" in key]
        assert not missing and not result.unexpected_keys, (family, name, missing, result.unexpected_keys)
        compare((family, name), model, noted)
        compare((family, name, "merged"), model.merge_and_unload(), noted)
    print(family, "agrees")


def main():
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as tmp:
        for family in TEXT + IMAGES:
            check(family, family in IMAGES, sys.argv[1], tmp)
    print(f"largest difference {worst:.1e}")


if __name__ == "__main__":
    main()
