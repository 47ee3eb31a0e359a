"""Scores of the rows beside this file by the Language Model Evaluation Harness itself.

    onefold eval a b --tasks tasks.yaml -o OUT      (with models and tasks as in `crates/onefold/tests/cli/eval`)
    python make_harness.py OUT a=MODEL b=MODEL

Runs the harness on the tasks that were exported to OUT/lm_eval, with the models in transformers, and writes `harness.json`: of each
model and task what the harness gives, but for standard errors. Versions are in testdata/README.md.
"""

import json
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main():
    """Writes the file."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    import lm_eval
    from lm_eval.tasks import TaskManager

    out, *models = sys.argv[1:]
    models = {name: str(Path(path).resolve()) for name, path in (model.split("=") for model in models)}
    os.chdir(out)
    names = sorted(path.stem for path in Path("lm_eval").glob("*.yaml"))
    manager = TaskManager(include_path="lm_eval", include_defaults=False)
    golden = {}
    for name, path in models.items():
        arguments = f"pretrained={path},dtype=float32"
        found = lm_eval.simple_evaluate("hf", arguments, tasks=names, task_manager=manager, batch_size=1, bootstrap_iters=0, device="cpu")
        figures = {}
        for task, scores in found["results"].items():
            figures[task] = {key: value for key, value in scores.items() if "," in key and "_stderr" not in key}
        golden[name] = figures
    (HERE / "harness.json").write_text(json.dumps(golden, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
