//! Recipes of tuning and merging in turns: what is read, and what is written back.

use onefold_train::tune::{Aggregate, Measure};

use super::*;

const RECIPE: &str = "base_model: ./base
tasks:
- {name: math, train: math.jsonl, validation: 0.1, labels: [a, b], head: ./head}
- {name: code, train: code.jsonl, validation: valid.jsonl, dev: dev.jsonl}
rounds: 4
budget: {fraction: 0.1}
merge: {method: ties, parameters: {density: 0.2}, alpha: 0.5, reference: original, clip_norms: true}
heads: {train: true, fit: {steps: 50, lr: 0.1}}
early_stop: {patience: 2, by: code, of: accuracy, split: validation}
optimizer: {lr: 1e-5, weight_decay: 0.1}
";

fn parse(text: &str) -> Result<AlternateRecipe, String> {
    let mut problems = Problems::new("r.yaml", &[], true);
    AlternateRecipe::parse(text, &[], 7, &mut problems).ok_or_else(|| problems.to_string())
}

#[test]
fn a_recipe_reads_and_writes_itself() {
    let adapted = "adapter: {r: 4}\nkeep_rounds: true\n";
    let start = RECIPE.replace(
        "base_model: ./base",
        "start: {merge_method: linear, models: [{model: a, parameters: {weight: 1.5}}, {model: b}]}",
    );
    for text in [
        RECIPE.to_owned(),
        format!("{RECIPE}{adapted}"),
        start,
        RECIPE.replace("base_model: ./base", "start: m.yaml"),
    ] {
        let recipe = parse(&text).unwrap();
        let mut again = parse(&recipe.to_yaml()).unwrap_or_else(|e| panic!("{e}\n{}", recipe.to_yaml()));
        again.tuning.text.clone_from(&recipe.tuning.text);
        assert_eq!(again, recipe);
    }
    let recipe = parse(RECIPE).unwrap();
    assert_eq!(recipe.names(), ["code", "math"], "in the order of names");
    assert_eq!(recipe.tasks[1].head.as_ref().map(|head| head.path.as_str()), Some("./head"));
    assert_eq!(recipe.tuning.settings.duration, Duration::Epochs(0.1));
    assert_eq!(recipe.merge.parameters.len(), 2, "a weight of 1/T beside the density");
    let stop = recipe.stop.unwrap();
    assert_eq!((stop.by, stop.of, stop.patience), (Aggregate::Task("code".into()), Measure::Accuracy, 2));
}

#[test]
fn defaults_are_the_papers() {
    let recipe = parse("base_model: b\ntasks: [{name: t, train: t.jsonl}]\n").unwrap();
    assert_eq!((recipe.rounds, recipe.rows, recipe.carried), (10, Rows::Train, false));
    assert_eq!(recipe.tuning.settings.duration, Duration::Epochs(1.0));
    assert_eq!(recipe.tuning.settings.schedule, CONSTANT);
    assert_eq!((recipe.merge.method.as_str(), recipe.merge.alpha), ("task_arithmetic", 1.0));
    let recipe = parse("base_model: b\ntasks: [{name: t, validation: t.jsonl}]\ndata: validation\n").unwrap();
    assert_eq!((recipe.rounds, recipe.rows), (5, Rows::Validation));
}

/// What owners agree on holds no place and no data.
#[test]
fn places_and_data_are_each_owners_own() {
    let shared = parse(RECIPE).unwrap().shared();
    let other = RECIPE
        .replace("./base", "elsewhere")
        .replace("train: code.jsonl", "train: [x.jsonl, y.jsonl], samples: 5")
        .replace("head: ./head", "columns: {text: body}");
    assert_eq!(parse(&other).unwrap().shared(), shared);
    for (from, to) in
        [("lr: 1e-5", "lr: 2e-5"), ("name: math", "name: maths"), ("rounds: 4", "rounds: 5"), ("0.2", "0.3")]
    {
        assert_ne!(parse(&RECIPE.replace(from, to)).unwrap().shared(), shared, "{to}");
    }
    assert!(!shared.contains("jsonl") && !shared.contains("base"), "{shared}");
}
