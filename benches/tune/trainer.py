#!/usr/bin/env python3
"""The side of transformers in peer.py: its Trainer, with PEFT if adapters are trained, as a line of JSON. Called by peer.py.

    python trainer.py SETTINGS

SETTINGS is a JSON object: `base`, `train`, `valid` (JSONL of prompt and completion), `steps`, `examples`, `micro`, `lr`,
`weight_decay`, `warmup`, `clip`, `rank` (0: all weights), `seed`, `threads`, `every` (steps between validations; 0: none).

It prints `losses` (of every step, before it), `seconds` (of every step), `validation` ([step, mean loss over learnt tokens]) and
`tokens` (of a training row in the mean, end token included, no padding).
"""

import json
import sys
import tempfile
import time

import torch
import transformers


def main():
    """Trains and prints."""
    settings = json.loads(sys.argv[1])
    torch.set_num_threads(settings["threads"])
    transformers.set_seed(settings["seed"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(settings["base"])
    train = rows(settings["train"], tokenizer)
    valid = rows(settings["valid"], tokenizer) if settings["every"] else []
    trainer = transformers.Trainer(
        model=model(settings), args=arguments(settings), train_dataset=train, data_collator=Collator(tokenizer.pad_token_id),
    )
    watch = Watch(settings["every"], valid, trainer)
    trainer.add_callback(watch)
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    tokens = sum(len(row["input_ids"]) for row in train) / len(train)
    print(json.dumps({"losses": losses, "seconds": watch.seconds, "validation": watch.losses, "tokens": tokens}))


def model(settings):
    """The base, or the base with adapters."""
    base = transformers.AutoModelForCausalLM.from_pretrained(settings["base"], attn_implementation="sdpa", dtype=torch.float32)
    if not settings["rank"]:
        return base
    from peft import LoraConfig, get_peft_model

    rank = settings["rank"]
    config = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(base, config)


def arguments(settings):
    """As onefold's recipe has it; what is not named is the Trainer's own."""
    return transformers.TrainingArguments(
        output_dir=tempfile.gettempdir(), use_cpu=True, report_to="none", save_strategy="no", eval_strategy="no", disable_tqdm=True,
        logging_steps=1, logging_nan_inf_filter=False, remove_unused_columns=False, seed=settings["seed"],
        max_steps=settings["steps"], per_device_train_batch_size=settings["micro"],
        gradient_accumulation_steps=settings["examples"] // settings["micro"], learning_rate=settings["lr"],
        weight_decay=settings["weight_decay"], lr_scheduler_type="linear", warmup_steps=settings["warmup"],
        max_grad_norm=settings["clip"], optim="adamw_torch_fused", dataloader_num_workers=0,
    )


def rows(path, tokenizer):
    """Prompt and completion as one text, the completion and the end token learnt."""
    out = []
    with open(path, encoding="utf-8") as file:
        for row in map(json.loads, file):
            coded = tokenizer(row["prompt"] + row["completion"], return_offsets_mapping=True, add_special_tokens=False)
            ids = [*coded["input_ids"], tokenizer.eos_token_id]
            learnt = [end > len(row["prompt"]) for _, end in coded["offset_mapping"]] + [True]
            out.append({"input_ids": ids, "labels": [i if yes else -100 for i, yes in zip(ids, learnt)]})
    return out


class Collator:
    """Rows of a micro-batch, padded to the longest."""

    def __init__(self, pad):
        self.pad = pad

    def __call__(self, batch):
        width = max(len(row["input_ids"]) for row in batch)
        filled = lambda key, value: torch.tensor([row[key] + [value] * (width - len(row[key])) for row in batch])
        mask = torch.tensor([[1] * len(row["input_ids"]) + [0] * (width - len(row["input_ids"])) for row in batch])
        return {"input_ids": filled("input_ids", self.pad), "labels": filled("labels", -100), "attention_mask": mask}


class Watch(transformers.TrainerCallback):
    """Seconds of steps, and validation between them, outside of their time."""

    def __init__(self, every, valid, trainer):
        self.every, self.valid, self.trainer = every, valid, trainer
        self.seconds, self.losses, self.start = [], [], None

    def on_train_begin(self, args, state, control, **_):
        """Before the first step."""
        self.validate(0)
        self.start = time.perf_counter()

    def on_step_end(self, args, state, control, **_):
        """From the end of a step to the end of the next: loading of rows and all that the Trainer does are in it."""
        self.seconds.append(time.perf_counter() - self.start)
        if self.every and (state.global_step % self.every == 0 or state.global_step == state.max_steps):
            self.validate(state.global_step)
        self.start = time.perf_counter()

    def validate(self, step):
        """Mean loss over the learnt tokens of all validation rows."""
        if not self.valid:
            return
        model, collate, total, count = self.trainer.model, self.trainer.data_collator, 0.0, 0
        model.eval()
        with torch.inference_mode():
            for at in range(0, len(self.valid), 32):
                batch = collate(self.valid[at : at + 32])
                labels = batch.pop("labels")[:, 1:]
                logits = model(**batch).logits[:, :-1]
                total += torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), reduction="sum").item()
                count += (labels != -100).sum().item()
        model.train()
        self.losses.append([step, total / count])


if __name__ == "__main__":
    main()
