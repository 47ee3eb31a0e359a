//! Every key, every default, every kind of mistake.

use serde_json::{Value, json};

use super::TuneRecipe;
use crate::recipe::Problems;

const LEAST: &str = "base_model: base\ntasks:\n- {name: a, train: a.jsonl}\n- {name: b, train: b.jsonl}\n";

fn parse(text: &str, sets: &[&str], lenient: bool) -> Result<(TuneRecipe, Vec<String>), String> {
    let sets: Vec<_> = sets.iter().map(|set| (*set).to_owned()).collect();
    let mut problems = Problems::new("r.yml", &sets, lenient);
    let recipe = TuneRecipe::parse(text, &sets, 0, &mut problems);
    match recipe.filter(|_| problems.is_empty()) {
        Some(recipe) => Ok((recipe, problems.warning_texts())),
        None => Err(problems.to_string()),
    }
}

fn read(more: &str) -> TuneRecipe {
    parse(&format!("{LEAST}{more}"), &[], false).unwrap_or_else(|e| panic!("{e}")).0
}

fn value(recipe: &TuneRecipe) -> Value {
    serde_json::to_value(recipe).unwrap()
}

/// Asserts that a recipe with `more` in it is refused with all `parts`, and only for one reason.
#[track_caller]
fn refused(more: &str, parts: &[&str]) {
    let message = parse(&format!("{LEAST}{more}"), &[], false).expect_err(more);
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
    assert_eq!(message.matches("r.yml:").count(), 1, "{message}");
    let line = message.strip_prefix("r.yml:").and_then(|rest| rest.split(':').next()).unwrap();
    assert!(line.parse::<usize>().unwrap() >= 1, "{message}");
}

#[test]
fn a_recipe_that_says_little_has_defaults_for_the_rest() {
    let mut recipe = read("");
    let expected = json!({
        "base_model": "base",
        "tasks": [
            {"name": "a", "train": ["a.jsonl"], "share": 1.0, "max_bad_rows": 0, "turns": "allow"},
            {"name": "b", "train": ["b.jsonl"], "share": 1.0, "max_bad_rows": 0, "turns": "allow"},
        ],
        "balancer": {"kind": "uniform"},
        "optimizer": {"kind": "adamw", "lr": 2e-5, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "weight_decay": 0.0},
        "schedule": {"kind": "cosine", "warmup": 0.03, "min_lr_ratio": 0.1},
        "batch": {"examples": 32, "micro": 8, "packing": false},
        "sampling": {"strategy": "size", "floor": 0.0, "cap": 1.0, "order": "shuffled"},
        "epochs": 3.0,
        "clip": 1.0,
        "gradient_checkpointing": false,
        "loss": {"normalisation": "tasks", "smoothing": 0.0},
        "validation": {"every": {"epochs": 1.0}},
        "log": 10,
        "checkpoints": {"every": {"steps": 500}, "keep": 2},
        "best": {"by": "mean", "of": "loss", "min_delta": 0.0},
        "non_finite": "stop",
        "output": "model",
        "seed": 0,
    });
    assert_eq!(value(&recipe), expected);
    recipe.resolve_best(true);
    assert_eq!(value(&recipe)["best"]["keep"], true);
    let adapted = value(&read("adapter: {}\n"));
    assert_eq!((&adapted["optimizer"]["lr"], &adapted["output"]), (&json!(2e-4), &json!("adapter")));
    let adapter = json!({"kind": "lora", "r": 16, "alpha": 32.0, "dropout": 0.0, "targets": "all-linear"});
    assert_eq!(adapted["adapter"], adapter);
}

/// A recipe that gives every key another value than its default.
const FULL: &str = r#"
base_model: {model: {path: org/base, revision: main}}
tasks:
- name: code
  train: {paths: [code/a.jsonl, code/b.jsonl]}
  validation: [code/valid.jsonl]
  share: 2
  weight: 0.5
  samples: 1000
  columns: {prompt: question, completion: answer}
  max_bad_rows: 3
  turns: refuse
- {name: pairs, train: pairs.csv, validation: 0.05, labels: [1, two], columns: {text: [left, right], label: class}}
- {name: held, train: held.jsonl, validation: {rows: 20}}
- {name: alpaca, train: {dataset: alpaca_en, dataset_info: data}}
- {name: mft, train: {mftcoder: data/mft}}
balancer: {kind: static}
adapter: {kind: rslora, r: 8, alpha: 12, dropout: 0.1, targets: [q_proj, v_proj]}
freeze: [embeddings, "layers.0."]
optimizer: {kind: sgd, lr: 1e-2, weight_decay: 1e-3, momentum: 0.9, nesterov: true, decay: everything}
schedule: {kind: wsd, warmup: 100, min_lr_ratio: 0.2, decay: 0.25}
batch: {examples: 64, micro: 2, length: 512, packing: next_fit, too_long: keep_end}
sampling: {strategy: temperature, temperature: 3, floor: 0.05, cap: 0.5, samples: 5000, order: blended}
steps: 700
clip: false
gradient_checkpointing: true
loss: {normalisation: tasks_rows, smoothing: 0.1}
validation: {every: {steps: 50}, batch: 16}
log: 5
checkpoints: {every: {epochs: 0.5}, keep: 4}
best: {by: code, of: accuracy, keep: false, patience: 3, task_patience: 2, min_delta: 0.001}
non_finite: skip
output: both
chat_template: "{% for m in messages %}{{ m.content }}{% endfor %}"
template_variables: {enable_thinking: false, date: "1 Jan"}
seed: 7
"#;

#[test]
fn every_key_is_read_and_written_back() {
    let (recipe, _) = parse(FULL, &[], false).unwrap_or_else(|e| panic!("{e}"));
    let written = recipe.to_yaml();
    let (mut again, _) = parse(&written, &[], false).unwrap_or_else(|e| panic!("{e}\n{written}"));
    again.text.clone_from(&recipe.text);
    assert_eq!(again, recipe, "{written}");
    let value = value(&recipe);
    for (pointer, expected) in [
        ("/tasks/0/columns", json!({"prompt": ["question"], "completion": ["answer"]})),
        ("/tasks/0/turns", json!("refuse")),
        ("/tasks/0/train", json!(["code/a.jsonl", "code/b.jsonl"])),
        ("/tasks/1/labels", json!(["1", "two"])),
        ("/tasks/1/columns/text", json!(["left", "right"])),
        ("/tasks/1/validation", json!(0.05)),
        ("/tasks/2/validation", json!({"rows": 20})),
        ("/tasks/3/train", json!({"dataset": "alpaca_en", "dataset_info": "data"})),
        ("/tasks/4/train", json!({"mftcoder": "data/mft"})),
        ("/balancer", json!({"kind": "static"})),
        ("/adapter/targets", json!(["q_proj", "v_proj"])),
        ("/adapter/kind", json!("rslora")),
        ("/freeze", json!(["embeddings", "layers.0."])),
        ("/optimizer/lr", json!(0.01)),
        ("/optimizer/nesterov", json!(true)),
        ("/schedule/warmup", json!(100)),
        ("/schedule/decay", json!(0.25)),
        ("/batch/packing", json!("next_fit")),
        ("/batch/too_long", json!("keep_end")),
        ("/sampling/temperature", json!(3.0)),
        ("/steps", json!(700)),
        ("/clip", json!(false)),
        ("/loss", json!({"normalisation": "tasks_rows", "smoothing": 0.1})),
        ("/validation", json!({"every": {"steps": 50}, "batch": 16})),
        ("/checkpoints", json!({"every": {"epochs": 0.5}, "keep": 4})),
        ("/best/by", json!("code")),
        ("/best/keep", json!(false)),
        ("/output", json!("both")),
        ("/template_variables/enable_thinking", json!(false)),
        ("/seed", json!(7)),
    ] {
        assert_eq!(value.pointer(pointer), Some(&expected), "{pointer}");
    }
}

#[test]
fn short_forms_and_sets() {
    assert_eq!(value(&read("balancer: coba\n"))["balancer"], json!({"kind": "coba"}));
    let coba = read("balancer: {kind: coba, warmup: 5, tau: 1e0}\n");
    assert_eq!(value(&coba)["balancer"], json!({"kind": "coba", "warmup": 5, "tau": "1e0"}));
    assert_eq!(value(&read("validation: false\n"))["validation"], false);
    assert_eq!(value(&read("batch: {length: 64, packing: true}\n"))["batch"]["packing"], "best_fit");
    assert_eq!(value(&read("adapter: {targets: '.*q_proj'}\n"))["adapter"]["targets"], ".*q_proj");
    assert_eq!(value(&read("optimizer: {kind: lion}\n"))["optimizer"]["lr"], 2e-6);
    assert_eq!(value(&read("schedule: {kind: constant, warmup: 0}\n"))["schedule"]["warmup"], 0.0);
    let sets = ["optimizer.lr=3e-4", "tasks.1.share=2", "batch.micro=4"];
    let (recipe, _) = parse(LEAST, &sets, false).unwrap();
    let value = value(&recipe);
    assert_eq!((&value["optimizer"]["lr"], &value["tasks"][1]["share"]), (&json!(3e-4), &json!(2.0)));
    assert_eq!(value["batch"]["micro"], 4);
}

#[test]
fn the_seed_of_the_command_counts_if_the_recipe_has_none() {
    let seed = |text: &str, seed: u64| {
        let mut problems = Problems::new("r.yml", &[], false);
        let recipe = TuneRecipe::parse(text, &[], seed, &mut problems);
        recipe.map(|recipe| recipe.settings.seed).ok_or_else(|| problems.to_string())
    };
    assert_eq!(seed(LEAST, 5), Ok(5));
    assert_eq!(seed(&format!("{LEAST}seed: 3\n"), 0), Ok(3));
    assert!(seed(&format!("{LEAST}seed: 3\n"), 5).is_err_and(|e| e.contains("--seed 5")));
}

#[test]
fn wrong_values_are_refused_where_they_stand() {
    for (more, parts) in [
        ("adapter: {kind: lorra}", &["r.yml:5:17", "adapter.kind", "did you mean `lora`?"][..]),
        ("adapter: {r: 0}", &["adapter.r: expected a whole number from 1 to 65536, found the number `0`"]),
        ("adapter: {alpha: -1}", &["adapter.alpha"]),
        ("adapter: {dropout: 1}", &["adapter.dropout"]),
        ("adapter: {targets: []}", &["adapter.targets"]),
        ("adapter: [lora]", &["expected an adapter"]),
        ("freeze: 3", &["freeze", "write it in quotes"]),
        ("optimizer: {kind: sgd}", &["optimizer: no `lr`"]),
        ("optimizer: {kind: adam}", &["did you mean `adamw`?"]),
        ("optimizer: {lr: 0}", &["optimizer.lr: expected"]),
        ("optimizer: {lr: fast}", &["optimizer.lr: expected", "fast"]),
        ("optimizer: {lr: .nan}", &["optimizer.lr"]),
        ("optimizer: {lr: 1e400}", &["out of range"]),
        ("optimizer: {beta1: 1}", &["optimizer.beta1"]),
        ("optimizer: {momentum: 0.9}", &["`momentum` has no effect", "`beta1`"]),
        ("optimizer: {kind: sgd, lr: 1, beta2: 0.9}", &["`beta2` has no effect"]),
        ("optimizer: {kind: sgd, lr: 1, nesterov: true}", &["`nesterov` has no effect"]),
        ("optimizer: {kind: lion, epsilon: 1e-8}", &["`epsilon` has no effect"]),
        ("optimizer: {decay: everything}", &["`decay` has no effect", "`weight_decay` is 0"]),
        ("schedule: {kind: cos}", &["did you mean `cosine`?"]),
        ("schedule: {warmup: 1.5}", &["schedule.warmup: expected a share below 1, or a whole number"]),
        ("schedule: {warmup: -1}", &["schedule.warmup"]),
        ("schedule: {decay: 0.1}", &["`decay` has no effect", "wsd"]),
        ("schedule: {kind: constant, min_lr_ratio: 0.1}", &["`min_lr_ratio` has no effect"]),
        ("schedule: {min_lr_ratio: 2}", &["min_lr_ratio"]),
        ("batch: {examples: 0}", &["batch.examples"]),
        ("batch: {examples: 4, micro: 8}", &["8 rows at once of a step of 4"]),
        ("batch: {packing: true}", &["batch.packing: no `length`"]),
        ("batch: {length: 64, packing: tight}", &["`best_fit`, `next_fit`"]),
        ("batch: {length: 1}", &["batch.length"]),
        ("batch: {too_long: split}", &["`too_long` has no effect"]),
        ("batch: {length: 9, too_long: cut}", &["`keep_start`"]),
        ("sampling: {temperature: 2}", &["`temperature` has no effect"]),
        ("sampling: {strategy: random}", &["sampling.strategy"]),
        ("sampling: {floor: 2}", &["sampling.floor"]),
        ("sampling: {samples: 0}", &["sampling.samples"]),
        ("epochs: 0", &["epochs: expected"]),
        ("epochs: 1\nsteps: 5", &["both `epochs` and `steps`"]),
        ("steps: 1.5", &["steps: expected a whole number"]),
        ("clip: 0", &["clip"]),
        ("clip: true", &["clip", "the boolean `true`"]),
        ("gradient_checkpointing: maybe", &["true or false"]),
        ("loss: {normalisation: task}", &["did you mean `tasks`?"]),
        ("loss: {smoothing: 1.5}", &["loss.smoothing"]),
        ("validation: {every: 100}", &["validation.every", "say of what"]),
        ("validation: {every: {steps: 1, epochs: 1}}", &["expected one of `steps`, `epochs`"]),
        ("validation: {every: {}}", &["expected one of `steps`, `epochs`"]),
        ("validation: {every: {epochs: -1}}", &["validation.every.epochs"]),
        ("validation: 0.05", &["expected when to validate"]),
        ("validation: false\nbest: {patience: 2}", &["`best` has no effect", "`validation` is off"]),
        ("log: 0", &["log"]),
        ("checkpoints: {keep: 0}", &["checkpoints.keep"]),
        ("checkpoints: {every: often}", &["checkpoints.every"]),
        ("best: {by: c}", &["best.by", "there are `mean`, `worst`, `a`, `b`"]),
        ("best: {of: f1}", &["`loss`, `accuracy`"]),
        ("best: {patience: 0}", &["best.patience"]),
        ("best: {of: accuracy, min_delta: 3}", &["best.min_delta"]),
        ("non_finite: ignore", &["`stop`, `skip`"]),
        ("output: adapter", &["there is no adapter"]),
        ("output: modl", &["did you mean `model`?"]),
        ("chat_template: 3", &["chat_template"]),
        ("template_variables: [1]", &["a mapping of variables"]),
        ("seed: -1", &["seed"]),
        ("balancer: cob", &["no balancer is called", "did you mean `coba`?"]),
        ("balancer: [coba]", &["expected a balancer"]),
        ("balancer: {kind: coba, warmpu: 3}", &["r.yml:5:24", "no such setting", "did you mean `warmup`?"]),
        ("balancer: {kind: coba, tau: -3}", &["r.yml:5:24", "balancer.tau"]),
        ("balancer: {warmup: 3}", &["balancer.kind"]),
        ("optmizer: {lr: 1}", &["unknown key `optmizer`", "did you mean `optimizer`?"]),
        ("optimizer: {rate: 1}", &["unknown key `rate`", "the keys here are `kind`"]),
    ] {
        refused(&format!("{more}\n"), parts);
    }
}

#[test]
fn other_tools_spellings_are_explained() {
    for (key, here) in [
        ("per_device_train_batch_size", "`batch.micro` here"),
        ("gradient_accumulation_steps", "`batch.examples` here: rows of a whole step"),
        ("learning_rate", "`optimizer.lr` here"),
        ("num_train_epochs", "`epochs` here"),
        ("lora_rank", "`adapter.r` here"),
        ("output_dir", "is the option -o"),
        ("save_total_limit", "`checkpoints.keep` here"),
        ("coba_warmup_steps", "`balancer.warmup` here"),
    ] {
        refused(&format!("{key}: 8\n"), &[&format!("unknown key `{key}`"), here]);
    }
    refused("merge_method: linear\n", &["`merge_method` is a key of merges"]);
}

#[test]
fn wrong_tasks_are_refused() {
    for (task, parts) in [
        ("{train: a}", &["tasks[0]: no `name`"][..]),
        ("{name: a}", &["tasks[0]: no `train`", "name files"]),
        ("{name: a b, train: a}", &["cannot name a task"]),
        ("{name: .., train: a}", &["cannot name a task"]),
        ("{name: a/b, train: a}", &["cannot name a task"]),
        ("{name: language, train: a}", &["means something else"]),
        ("{name: worst, train: a}", &["means something else"]),
        ("{name: checkpoint-5, train: a}", &["means something else"]),
        ("{name: recipe.yaml, train: a}", &["means something else"]),
        ("{name: 3, train: a}", &["write it in quotes"]),
        ("{name: a, train: 3}", &["tasks[0].train"]),
        ("{name: a, train: []}", &["an empty list"]),
        ("{name: a, train: {}}", &["expected one of `path`", "found 0"]),
        ("{name: a, train: {path: x, dataset: y}}", &["found 2"]),
        ("{name: a, train: {path: x, dataset_info: y}}", &["`dataset_info` has no effect"]),
        ("{name: a, train: {file: x}}", &["found 0", "unknown key `file`"]),
        ("{name: a, train: a, validation: 1.0}", &["tasks[0].validation"]),
        ("{name: a, train: a, validation: 0}", &["tasks[0].validation"]),
        ("{name: a, train: a, validation: {rows: 0}}", &["tasks[0].validation.rows"]),
        ("{name: a, train: a, validation: {}}", &["no `rows`"]),
        ("{name: a, train: a, share: 0}", &["tasks[0].share"]),
        ("{name: a, train: a, weight: -1}", &["tasks[0].weight"]),
        ("{name: a, train: a, weight: 2}", &["`weight` has no effect with the balancer `uniform`", "static"]),
        ("{name: a, train: a, labels: x}", &["tasks[0].labels"]),
        ("{name: a, train: a, labels: [x, x]}", &["stands twice"]),
        ("{name: a, train: a, samples: 0}", &["tasks[0].samples"]),
        ("{name: a, train: a, columns: {txt: x}}", &["tasks[0].columns.txt", "unknown; known are"]),
        ("{name: a, train: a, columns: {label: [x, y]}}", &["at most 1 key"]),
        ("{name: a, train: a, columns: text}", &["a mapping from meanings"]),
        ("{name: a, train: {dataset: x}, columns: {text: x}}", &["`columns` has no effect"]),
        ("{name: a, train: a, max_bad_rows: -1}", &["tasks[0].max_bad_rows"]),
        ("{name: a, train: a, turns: warn}", &["`allow`, `refuse`"]),
        ("{name: a, train: a, valdation: b}", &["did you mean `validation`?"]),
        ("a.jsonl", &["expected a task"]),
    ] {
        let message = parse(&format!("base_model: base\ntasks: [{task}]\n"), &[], false).expect_err(task);
        for part in parts {
            assert!(message.contains(part), "`{part}` is not in: {message}");
        }
    }
    let twice = "base_model: b\ntasks: [{name: a, train: a}, {name: a, train: b}]\n";
    assert!(parse(twice, &[], false).expect_err("twice").contains("two tasks are called `a`"));
}

#[test]
fn wholes_that_are_no_recipe() {
    for (text, part) in [
        ("", "the recipe is empty"),
        ("- a", "expected a recipe"),
        ("a: [", "not valid YAML"),
        ("tasks: [{name: a, train: a}]", "no `base_model`"),
        ("base_model: b", "no `tasks`"),
        ("base_model: b\ntasks: []", "an empty list"),
        ("base_model: b+c\ntasks: [{name: a, train: a}]", "a model with an adapter cannot be trained"),
        (
            "base_model: {model: b, override_architecture: X}\ntasks: [{name: a, train: a}]",
            "`override_architecture` is for merges",
        ),
        ("base_model: b\ntasks: [{name: a, train: a}]\n---\nbase_model: b", "a second recipe"),
    ] {
        let message = parse(text, &[], false).expect_err(text);
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let text = "base_model: 3\ntasks: [{name: a b}]\nbalancer: cob\noptimizer: {lr: 0, x: 1}\nepoch: 3\n";
    let message = parse(text, &[], false).expect_err("wrong");
    for part in [
        "base_model",
        "cannot name",
        "no `train`",
        "coba",
        "optimizer.lr",
        "key `x`",
        "did you mean `epochs`?",
    ] {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

#[test]
fn lenient_leaves_out_what_has_no_effect() {
    let text = "base_model: b\ntasks: [{name: a, train: a, weight: 3}]\nschedule: {decay: 0.1}\nlearning_rate: 1\n\
                optimizer: {decay: everything}\nbatch: {too_long: split}\n";
    let (recipe, warnings) = parse(text, &[], true).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(warnings.len(), 5, "{warnings:?}");
    let value = value(&recipe);
    assert_eq!((&value["tasks"][0]["weight"], &value["optimizer"]["lr"]), (&Value::Null, &json!(2e-5)));
    let (again, warnings) = parse(&recipe.to_yaml(), &[], false).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((again.to_yaml(), warnings.len()), (recipe.to_yaml(), 0));
    assert!(parse("base_model: b\ntasks: [{name: a, train: a}]\nlog: 0\n", &[], true).is_err());
}
