#!/usr/bin/env python3
"""Merges real weights with onefold, and holds the results against formulas in f64, mergekit, transformers and PEFT.

    python check.py --onefold target/release/onefold DIR

DIR holds what `finetune.py DIR` made. Prints tables; they and the recipes are written to DIR/merges.
Exit code: 0 if every check holds, 1 if not.
"""

import argparse
import json
import platform
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

import formulas
from encoder import Encoder, accuracy
from finetune import ADAPTERS
from tasks import tasks

EXPERTS = ("senses", "languages")
WEIGHTS, DENSITY = (0.7, 0.5), 0.5
# Largest difference of a weight, relative to the largest of its tensor (eight roundings of f32); of an embedding's
# component; share of elements that a random mask may be off.
WEIGHT_LIMIT, EMBEDDING_LIMIT, MASK_LIMIT = 1e-6, 1e-5, 2e-3

# Merge → (method, parameters of each model, parameters of the merge, does mergekit do the same?)
SPARSE = [{"weight": w, "density": DENSITY} for w in WEIGHTS]
WEIGHTED = [{"weight": w} for w in WEIGHTS]
MERGES = {
    "linear": (WEIGHTED, {}, True),
    "task_arithmetic": (WEIGHTED, {}, True),
    "metagpt": ([{}, {}], {}, False),
    "ties": (SPARSE, {}, True),
    "dare_ties": (SPARSE, {"rescale": "inverse_density"}, False),
}


class Run:
    """The models, the programs, and the checks so far."""

    def __init__(self, args):
        self.args, self.failed, self.checks = args, 0, []
        self.out = args.dir / "merges"
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()
        self.base = weights(args.dir / "minilm")
        self.experts = [weights(args.dir / "models" / name) for name in EXPERTS]
        self.tasks = tasks(args.dir)
        self.sentences = [text for task in self.tasks for text, _ in task.test[:25]]
        self.embeddings = {}

    def check(self, what, measured, limit, note=""):
        """Records `measured ≤ limit`."""
        holds = measured <= limit
        self.failed += not holds
        numbers = (f"{measured:.1e}", f"{limit:.0e}") if limit else (int(measured), 0)
        self.checks.append((what, *numbers, "yes" if holds else "**NO**", note))

    def onefold(self, name, recipe):
        """Merges and returns the directory."""
        (self.out / f"{name}.yaml").write_text(recipe, encoding="utf-8")
        command([self.args.onefold, "merge", self.out / f"{name}.yaml", "-o", self.out / name, "--offline", "--quiet"])
        return self.out / name

    def mergekit(self, name, each, parameters):
        """The same merge by mergekit. mergekit 0.1.5 fails on its own definition of `BertModel`; so it gets the weights
        under the names of a `BertLMHeadModel`, which it has no definition of and works out by itself."""
        root = (self.out / "for_mergekit").resolve()
        for model in ("minilm", *(f"models/{expert}" for expert in EXPERTS)):
            if not (root / model).exists():
                shutil.copytree(self.args.dir / model, root / model)
                config = json.loads((root / model / "config.json").read_text())
                (root / model / "config.json").write_text(json.dumps({**config, "architectures": ["BertLMHeadModel"]}))
                tensors = {f"bert.{key}": tensor.float() for key, tensor in weights(root / model).items()}
                save_file(tensors, root / model / "model.safetensors", {"format": "pt"})
        (root / f"{name}.yaml").write_text(recipe_of(root, name, each, parameters), encoding="utf-8")
        command([self.args.mergekit, root / f"{name}.yaml", root / name, "--quiet"])
        return {key.removeprefix("bert."): tensor for key, tensor in weights(root / name).items()}

    def load(self, what, path):
        """The model as transformers reads it; every tensor must be known to it, and every one of its own be there."""
        model, info = AutoModel.from_pretrained(path, output_loading_info=True)
        odd = [f"{kind}: {len(keys)}" for kind, keys in info.items() if keys]
        self.check(f"{what}: keys that transformers misses or does not know", len(odd), 0, ", ".join(odd))
        return model

    def embed(self, model):
        """Embeddings of the sentences."""
        return Encoder(model, self.args.dir / "minilm").embed_all(self.sentences)


def main():
    """Everything, then the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--onefold", required=True, type=Path, help="the program")
    parser.add_argument("--mergekit", default="mergekit-yaml", help="the peer's program (default: from PATH)")
    parser.add_argument("dir", type=Path, help="where finetune.py wrote")
    args = parser.parse_args()
    torch.set_num_threads(1)
    run = Run(args)
    merged = {name: merge(run, name) for name in MERGES}
    for name in ADAPTERS:
        adapter(run, name)
    text = "\n\n".join([versions(args), checks(run), quality(run, merged)]) + "\n"
    (run.out / "result.md").write_text(text, encoding="utf-8")
    print(text, end="")
    return 1 if run.failed else 0


def merge(run, name):
    """One merge, against its formula, mergekit, and transformers. Returns the model."""
    each, parameters, mergekit = MERGES[name]
    path = run.onefold(name, recipe_of(run.args.dir.resolve(), name, each, parameters))
    found = weights(path)
    expected = dare(run, found) if name == "dare_ties" else own(run, name, path)
    run.check(f"{name}: weights, formula in f64", *distance(found, expected))
    if mergekit:
        against_mergekit(run, name, found)
    if name != "linear":  # which here has no model that stores any
        changed = integers(path) != integers(run.args.dir / "minilm")
        run.check(f"{name}: integer tensors that are not the base's", changed, 0)
    model = run.load(name, path)
    twin = AutoModel.from_pretrained(path)
    twin.load_state_dict({key: tensor.float() for key, tensor in expected.items()})
    off = (run.embed(model) - run.embed(twin)).abs().max().item()
    run.check(f"{name}: embeddings of 50 sentences, weights by the formula", off, EMBEDDING_LIMIT)
    return model


def against_mergekit(run, name, found):
    """The same merge by mergekit, without the pooler, which the architecture it is given has not."""
    each, parameters, _ = MERGES[name]
    peer = run.mergekit(name, each, parameters)
    found = {key: tensor for key, tensor in found.items() if not key.startswith("pooler.")}
    worst, limit, note = distance(found, peer)
    if name == "ties" and found.keys() == peer.keys():
        # Where magnitudes tie at the cut-off, mergekit keeps any of them; what it chose is not compared.
        for key, base in ((key, run.base[key]) for key in found):
            free = torch.stack([formulas.at_cutoff(t[key] - base, DENSITY) for t in run.experts]).any(0)
            peer[key] = torch.where(free, found[key], peer[key])
        worst, limit, alike = distance(found, peer)
        note = f"{alike}; ties at the cut-off included: {note}"
    run.check(f"{name}: weights, mergekit", worst, limit, note)


def recipe_of(root, name, each, parameters):
    """The recipe as YAML, which JSON is a part of."""
    models = [{"model": str(root / "models" / m), "parameters": p} for m, p in zip(EXPERTS, each)]
    base = {} if name == "linear" else {"base_model": str(root / "minilm")}
    recipe = {"merge_method": name, **base, "models": models, "parameters": parameters, "dtype": "float32"}
    return json.dumps(recipe, indent=1)


def own(run, name, path):
    """The merged weights by the formula."""
    lambdas, arguments, formula = WEIGHTS, (), getattr(formulas, name, formulas.task_arithmetic)
    if name == "metagpt":
        lambdas = formulas.metagpt_weights(run.base, run.experts)
        health = json.loads((path / "onefold.json").read_text(encoding="utf-8"))["health"]
        said = [expert["coefficient"]["mean"] for expert in health["experts"]]
        run.check("metagpt: coefficients, formula in f64", max(abs(a - b) for a, b in zip(said, lambdas)), 1e-7)
    if name == "ties":
        arguments = (DENSITY,)
    return {k: formula(b, [t[k] for t in run.experts], lambdas, *arguments) for k, b in run.base.items()}


def dare(run, found):
    """Of all that DARE's masks can give, what is nearest to the result; and how often masks drop everything."""
    expected, both, dropped = {}, 0, 0
    for key, base in run.base.items():
        experts = [t[key] for t in run.experts]
        masks, choices = formulas.dare_ties(base, experts, WEIGHTS, DENSITY)
        choices = torch.stack(choices)
        nearest = (choices - found[key]).abs().argmin(0)
        expected[key] = choices.gather(0, nearest[None])[0]
        agree = (experts[0] - base) * (experts[1] - base) > 0
        both += int(agree.sum())
        dropped += int((nearest[agree] == masks.index((0.0, 0.0))).sum())
    share = dropped / both
    off, note = abs(share - (1 - DENSITY) ** 2), f"of those with equal signs {100 * share:.2f} %"
    run.check("dare_ties: share of elements that both masks drop, (1 − density)²", off, MASK_LIMIT, note)
    return expected


def adapter(run, name):
    """An adapter on its base, through onefold, against what PEFT merged."""
    model = f"{run.args.dir.resolve() / 'minilm'}+{run.args.dir.resolve() / 'models' / name}"
    peft = run.args.dir / "models" / f"{name}_by_peft"
    for method, parameters in (("passthrough", {}), ("linear", {"weight": 1.0})):
        recipe = json.dumps({"merge_method": method, "models": [{"model": model, "parameters": parameters}]})
        path = run.onefold(f"{name}_{method}", recipe)
        run.check(f"{name} through {method}: weights, PEFT", *distance(weights(path), weights(peft)))
    off = (run.embed(run.load(name, path)) - run.embed(AutoModel.from_pretrained(peft))).abs().max().item()
    run.check(f"{name}: embeddings of 50 sentences, PEFT", off, EMBEDDING_LIMIT)


def distance(found, expected):
    """The largest difference relative to its tensor's largest magnitude; the limit; and what it is in numbers."""
    if found.keys() != expected.keys():
        return float("inf"), WEIGHT_LIMIT, f"other tensors: {sorted(found.keys() ^ expected.keys())}"
    off = {key: (found[key] - expected[key]).abs() for key in found}
    size = {key: expected[key].abs().max().clamp(min=1e-30) for key in found}
    worst = max((off[key].max() / size[key]).item() for key in found)
    beyond = sum(int((off[key] > WEIGHT_LIMIT * size[key]).sum()) for key in found)
    note = f"absolute {max(x.max().item() for x in off.values()):.1e}"
    return worst, WEIGHT_LIMIT, note + f", {beyond} elements beyond" * bool(beyond)


def weights(path):
    """Floating-point tensors of a checkpoint, widened to f64."""
    files = [load_file(file) for file in sorted(Path(path).glob("*.safetensors"))]
    return {key: tensor.double() for file in files for key, tensor in file.items() if tensor.is_floating_point()}


def integers(path):
    """Every other tensor, as lists."""
    tensors = load_file(Path(path) / "model.safetensors")
    return {key: tensor.tolist() for key, tensor in tensors.items() if not tensor.is_floating_point()}


def quality(run, merged):
    """What became of embeddings and accuracies."""
    heads = torch.load(run.args.dir / "models" / "heads.pt")
    models = {name: AutoModel.from_pretrained(run.args.dir / "models" / name) for name in ("base", *EXPERTS)}
    origin = {name: run.embed(model) for name, model in models.items()}
    rows = []
    for name, model in {**models, **merged}.items():
        found = run.embed(model)
        cosines = [f"{(found * other).sum(1).mean().item():.3f}" for other in origin.values()]
        rows.append((name, *cosines, *(f"{100 * score(run, model, task, heads):.1f} %" for task in run.tasks)))
    header = ("model", *(f"cosine with {name}" for name in origin), *(f"accuracy {task.name}" for task in run.tasks))
    return table(header, rows)


def score(run, model, task, heads):
    """Accuracy with the task's head."""
    state = heads[task.name]
    head = torch.nn.Linear(*reversed(state["weight"].shape))
    head.load_state_dict(state)
    texts = [text for text, _ in task.test]
    return accuracy(head, Encoder(model, run.args.dir / "minilm").embed_all(texts), task.test)


def checks(run):
    """The table of checks."""
    return table(("check", "difference", "limit", "holds", "note"), run.checks)


def versions(args):
    """What was run."""
    packages = [f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "mergekit", "safetensors")]
    onefold = subprocess.run([args.onefold, "--version"], check=True, capture_output=True, text=True).stdout.strip()
    return ", ".join([onefold, f"Python {platform.python_version()}", *packages])


def table(header, rows):
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def command(words):
    """Runs a program; what it says is shown if it fails."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, words))}\nfailed:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    sys.exit(main())
