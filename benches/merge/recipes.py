"""The merges that are compared: one recipe per method, which tool can run it, and how long it may take.

Recipes name models relative to the directory they stand in. `limit` is the longest time allowed, in units of the
physical reference (reading the inputs once, writing and syncing one output): 1.5 for methods that read their inputs once,
2.5 for those that read them twice, 4 for exact order statistics per task vector, 6 for every other static method.
"""

from dataclasses import dataclass, field

BASE = "./base"
EXPERTS = ["./expert1", "./expert2", "./expert3"]
WEIGHTS = [0.5, 0.3, 0.4]

ONE_PASS, TWO_PASS, ORDER, STATIC = 1.5, 2.5, 4.0, 6.0


@dataclass(frozen=True)
class Merge:
    """One row of the comparison."""

    name: str
    method: str
    limit: float
    models: tuple = tuple(EXPERTS)
    base: bool = True
    # Parameters of every model, and of the merge.
    each: dict = field(default_factory=dict)
    parameters: dict = field(default_factory=dict)
    # The row whose mergekit time stands beside this one: its own, another's (same method), or none.
    peer: str | None = ""
    # Random masks: outputs of two tools cannot be compared element by element.
    random: bool = False

    def inputs(self):
        """Every model that is read, each once, without the leading `./`."""
        names = [BASE] * self.base + list(self.models)
        return [name.removeprefix("./") for name in dict.fromkeys(names)]

    def peer_row(self):
        """Name of the row that mergekit runs for this one."""
        return self.name if self.peer == "" else self.peer

    def recipe(self):
        """The recipe as YAML."""
        lines = [f"merge_method: {self.method}"]
        lines += [f"base_model: {BASE}"] * self.base
        lines.append("models:")
        for i, model in enumerate(self.models):
            lines.append(f"- model: {model}")
            settings = {k: v[i] if isinstance(v, list) else v for k, v in self.each.items()}
            lines += [f"  parameters: {flow(settings)}"] * bool(settings)
        lines += [f"parameters: {flow(self.parameters)}"] * bool(self.parameters)
        return "\n".join([*lines, "dtype: bfloat16", ""])


def flow(settings):
    """A mapping in YAML's flow style."""
    words = {True: "true", False: "false"}
    text = ", ".join(f"{k}: {words[v] if isinstance(v, bool) else v}" for k, v in settings.items())
    return "{" + text + "}"


def rows():
    """Every row by name, in the order of the table."""
    weight = {"weight": WEIGHTS}
    sparse = {**weight, "density": 0.5}
    inverse = {"rescale": "inverse_density"}
    pair = (BASE, EXPERTS[0])
    merges = [
        Merge("linear", "linear", ONE_PASS, base=False, each=weight),
        Merge("task_arithmetic", "task_arithmetic", ONE_PASS, each=weight),
        Merge("dare_linear_inverse", "dare_linear", ONE_PASS, each=sparse, parameters=inverse, peer="dare_linear"),
        Merge("dare_ties_inverse", "dare_ties", ONE_PASS, each=sparse, parameters=inverse, peer="dare_ties"),
        Merge("passthrough", "passthrough", ONE_PASS, models=(EXPERTS[0],), base=False),
        Merge("nearswap", "nearswap", ONE_PASS, models=pair, parameters={"t": 0.0001}),
        Merge("ram", "ram", ONE_PASS, parameters={"epsilon": 0.00001}),
        Merge("metagpt", "metagpt", TWO_PASS, peer=None),
        Merge("model_stock", "model_stock", TWO_PASS),
        Merge("slerp", "slerp", TWO_PASS, models=pair, parameters={"t": 0.3}),
        Merge("nuslerp", "nuslerp", TWO_PASS, models=tuple(EXPERTS[:2]), base=False, each={"weight": [0.6, 0.4]}),
        Merge("multislerp", "multislerp", TWO_PASS, base=False, each=weight),
        Merge("karcher", "karcher", TWO_PASS, base=False),
        Merge("ramplus_tl", "ramplus_tl", TWO_PASS, parameters={"epsilon": 0.00001}),
        Merge("dare_linear", "dare_linear", TWO_PASS, each=sparse, random=True),
        Merge("dare_ties", "dare_ties", TWO_PASS, each=sparse, random=True),
        Merge("ties", "ties", ORDER, each=sparse),
        Merge("breadcrumbs", "breadcrumbs", ORDER, each={**sparse, "gamma": 0.01}),
        Merge("breadcrumbs_ties", "breadcrumbs_ties", ORDER, each={**sparse, "gamma": 0.01}),
        Merge("della", "della", STATIC, each={**sparse, "epsilon": 0.15}, random=True),
        Merge("della_linear", "della_linear", STATIC, each={**sparse, "epsilon": 0.15}, random=True),
        Merge("sce_all", "sce", STATIC, parameters={"select_topk": 1.0}),
        Merge("sce_half", "sce", STATIC, parameters={"select_topk": 0.5}),
        Merge("arcee_fusion", "arcee_fusion", STATIC, models=pair, random=True),
        Merge(
            "metagpt_ties",
            "metagpt",
            STATIC,
            each={"density": 0.5},
            parameters={"sparsify": "magnitude", "consensus": "sum"},
            peer=None,
        ),
    ]
    return {merge.name: merge for merge in merges}
