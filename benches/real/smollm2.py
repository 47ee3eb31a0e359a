"""Greedy text of SmolLM2-135M-Instruct: onefold against transformers, tokens and speed.

    cargo build --release -p onefold-train --example generate
    python benches/real/smollm2.py --generate target/release/examples/generate target/real/smollm2

The directory holds what was unpacked from the package, a GGUF; `README.md` says how. Its weights are dequantised once, by
transformers, to `hf` in that directory, which both sides then read. What the reference writes is left in `expected.json`.
Ends with 0 if onefold writes the same tokens, each prompt alone and all in one batch.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
# Two candidates nearer than this may change places by rounding.
TIE = 1e-4
PROMPTS = [
    "The capital of France is",
    "def fibonacci(n):\n    \"\"\"The n-th number, from 0 to 1984, e.g. fibonacci(10) == 55 – naïve.\"\"\"\n",
    [{"role": "user", "content": "Explain in two sentences why the sky is blue."}],
    [
        {"role": "system", "content": "You answer briefly."},
        {"role": "user", "content": "What is 12 + 30?"},
        {"role": "assistant", "content": "42"},
        {"role": "user", "content": "Name three animals that can fly."},
    ],
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--generate", required=True, type=Path, help="the example program `generate` of onefold-train")
    parser.add_argument("--most", type=int, default=48, help="tokens per prompt")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="how often each side is timed, in turns")
    parser.add_argument("directory", type=Path, help=f"where {GGUF} is")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.model = args.directory / "hf"
    if not (args.model / "tokenizer.json").exists():
        dequantise(args.directory, args.model)
    reference = Reference(args.model, args.most)
    texts = [reference.write(prompt) for prompt in PROMPTS]
    (args.directory / "expected.json").write_text(json.dumps(texts, indent=1) + "\n")
    alone = [onefold(args, [prompt])["texts"][0] for prompt in PROMPTS]
    together = onefold(args, PROMPTS)["texts"]
    same = [agree(*row) for row in zip(texts * 2, alone + together, ["alone"] * 4 + ["in a batch"] * 4)]
    speed(args, reference, PROMPTS[:1])
    speed(args, reference, PROMPTS)
    sys.exit(not all(same))


def dequantise(source, target):
    """The GGUF as a directory of f32 that every library reads."""
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    print("dequantising …", flush=True)
    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.float32)
    # Such a model does not let itself be saved: its weights go to one of the same shape.
    config = model.config
    del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(model.state_dict())
    plain.save_pretrained(target)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF)
    # The file says `smollm`, which splits digits; transformers takes every byte-level tokenizer for GPT-2's.
    splits = [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence(splits)
    tokenizer.save_pretrained(target)


class Reference:
    """The model in transformers."""

    def __init__(self, directory, most):
        self.model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(directory, padding_side="left")
        self.options = {"max_new_tokens": most, "do_sample": False}

    def text(self, prompt):
        """A prompt as text."""
        if isinstance(prompt, str):
            return prompt
        return self.tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)

    def encode(self, prompts):
        """Tokens of prompts, padded."""
        return self.tokenizer([self.text(prompt) for prompt in prompts], return_tensors="pt", padding=True)

    def write(self, prompt):
        """What follows a prompt, and how far the best token was ahead of the second at each step."""
        encoded = self.encode([prompt])
        out = self.model.generate(**encoded, **self.options, output_logits=True, return_dict_in_generate=True)
        begin = encoded["input_ids"].shape[1]
        best = torch.cat(out.logits).topk(2).values
        ids = out.sequences[0, begin:].tolist()
        ids = ids[:-1] if ids[-1] == self.tokenizer.eos_token_id else ids
        gaps = (best[:, 0] - best[:, 1]).tolist()
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        return {"prompt": encoded["input_ids"][0].tolist(), "ids": ids, "text": text, "gaps": gaps}

    def seconds(self, prompts):
        """How long prompts take, in one batch."""
        encoded = self.encode(prompts)
        start = time.perf_counter()
        self.model.generate(**encoded, **self.options)
        return time.perf_counter() - start


def onefold(args, prompts):
    """What the program says of prompts, in one batch."""
    lines = "\n".join(map(json.dumps, prompts))
    environment = os.environ | {"RAYON_NUM_THREADS": str(args.threads)}
    command = [args.generate.resolve(), args.model, str(args.most)]
    run = subprocess.run(command, input=lines, capture_output=True, text=True, check=True, env=environment)
    return json.loads(run.stdout)


def agree(expected, found, how):
    """Whether a text is the reference's; says where not."""
    if found["prompt"] != expected["prompt"]:
        print(f"{how}: another prompt: {found['prompt']}, expected {expected['prompt']}")
        return False
    same = found["ids"] == expected["ids"] and found["text"] == expected["text"]
    print(f"{how}: {len(expected['ids'])} tokens after {len(expected['prompt'])}, smallest lead of a best token"
          f" {min(expected['gaps']):.1e}: {'same' if same else 'DIFFERENT'}: {found['text'][:60]!r} …")
    if same or found["ids"] == expected["ids"]:
        return same
    pairs = enumerate(zip(found["ids"] + [None], expected["ids"] + [None]))
    step = next(step for step, (a, b) in pairs if a != b)
    gap = expected["gaps"][step]
    print(f"  first at token {step}, where the best leads by {gap:.1e}: {'a tie' if gap < TIE else 'wrong'}")
    return gap < TIE


def speed(args, reference, prompts):
    """Tokens per second of both sides, in turns; loading does not count."""
    ours, theirs = [], []
    for _ in range(args.rounds):
        found = onefold(args, prompts)
        ours.append(found["seconds"])
        theirs.append(reference.seconds(prompts))
    count = sum(len(text["ids"]) for text in found["texts"])
    ours, theirs = statistics.median(ours), statistics.median(theirs)
    print(f"batch of {len(prompts)}, {args.threads} threads: onefold {count / ours:.1f} tokens/s,"
          f" transformers {count / theirs:.1f} tokens/s, {theirs / ours:.2f} times as fast")


main()
