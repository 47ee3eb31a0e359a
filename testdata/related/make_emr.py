"""Golden values of EMR-Merging (elect, mask, rescale) straight from the paper's formulas; standard library only.

Run with any Python 3 (written with 3.11) in this directory; writes emr.json.
"""
import json
import math

TASKS = [{"a": [0.5, -0.2, 0.1], "b": [0.3, -0.4]}, {"a": [-0.1, -0.6, 0.3], "b": [0.2, 0.5]},
         {"a": [0.2, 0.1, -0.7], "b": [-0.1, -0.3]}]


def sign(x):
    return (x > 0) - (x < 0)


def emr(tasks):
    unified, masks = {}, [dict() for _ in tasks]
    for key in tasks[0]:
        values = []
        for i in range(len(tasks[0][key])):
            gamma = sign(math.fsum(t[key][i] for t in tasks)) or -1
            values.append(gamma * max([abs(t[key][i]) for t in tasks if sign(t[key][i]) == gamma] or [0.0]))
            for t, m in zip(tasks, masks):
                m.setdefault(key, []).append(1 if t[key][i] * gamma > 0 else 0)
        unified[key] = values
    paper, code = [], []
    for t, m in zip(tasks, masks):
        delta = {k: math.fsum(abs(x) for x in t[k]) for k in t}
        kept = {k: math.fsum(abs(x) * y for x, y in zip(unified[k], m[k])) for k in t}
        paper.append(math.fsum(delta.values()) / math.fsum(kept.values()))
        code.append(math.fsum(delta[k] / len(t[k]) for k in t) / math.fsum(kept[k] / len(t[k]) for k in t))
    rebuilt = [{k: [l * x * y for x, y in zip(unified[k], m[k])] for k in unified} for l, m in zip(paper, masks)]
    return {"task_vectors": tasks, "unified": unified, "masks": masks, "rescaler_paper": paper,
            "rescaler_code_sum_of_tensor_means": code, "task_vectors_rebuilt_paper": rebuilt}


with open("emr.json", "w") as f:
    json.dump(emr(TASKS), f, indent=1)
