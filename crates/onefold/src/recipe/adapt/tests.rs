use super::*;

const RECIPE: &str = "merge_method: adamerging_plus
density: 0.3
base_model: ./base
models:
- {model: ./a, task: code}
- {model: ./b, task: math}
- ./c
tasks:
- {name: code, inputs: [code/in.jsonl, more.jsonl], test: code/test.jsonl, columns: {text: [first, second]}}
- {name: math, inputs: math/in.jsonl, weight: 2, labels_in_inputs: ignore, samples: 100}
granularity: block
init: [0.1, 0.2, 0.3]
steps: 50
batch: {examples: 8, length: 64, too_long: keep_end}
optimizer: {lr: 1e-2}
clamp: none
score: {every: 10}
early_stopping: {patience: 3}
";

fn parse(text: &str, transductive: bool) -> Result<AdaptRecipe, String> {
    let mut problems = Problems::new("r.yaml", &[], false);
    AdaptRecipe::parse(text, &[], (7, transductive), &mut problems).ok_or_else(|| problems.to_string())
}

#[test]
fn a_recipe_reads_and_writes_itself() {
    let text = RECIPE.replace("- ./c\n", "- {model: ./c}\n");
    let recipe = parse(&text, false).unwrap();
    assert_eq!(recipe.method, Method::Plus { density: 0.3 });
    assert_eq!((recipe.expert_of("math"), recipe.settings.seed), (Some(1), 7));
    assert_eq!(recipe.settings.weights, [1.0, 2.0]);
    let again = parse(&recipe.to_yaml(), false).unwrap();
    assert_eq!(AdaptRecipe { text: recipe.text.clone(), ..again }, recipe);
}

#[test]
fn defaults_are_the_papers() {
    let text = "base_model: b\nmodels: [{model: a, task: t}]\ntasks: [{name: t, inputs: i.jsonl}]\n";
    let recipe = parse(text, false).unwrap();
    let weights = vec![1.0];
    assert_eq!(recipe.settings, Settings { seed: 7, weights, ..Settings::default() });
    assert_eq!(recipe.method, Method::AdaMerging);
}

#[test]
fn mistakes_are_told_together() {
    let text =
        RECIPE.replace("task: math}", "task: maths}").replace("lr:", "rate:").replace("block", "layer");
    let found = parse(&text, false).unwrap_err();
    for part in ["no task `maths`", "did you mean `math`?", "`rate`", "granularity", "expected an entry"] {
        assert!(found.contains(part), "{part}: {found}");
    }
    for (from, to, part) in [
        ("adamerging_plus\ndensity: 0.3", "ties", "expected one of `adamerging`, `adamerging_plus`"),
        ("adamerging_plus", "adamerging", "`adamerging` keeps whole task vectors"),
        ("inputs: math/in.jsonl, ", "", "no `inputs`"),
        ("[0.1, 0.2, 0.3]", "fisher", "expected one of"),
        ("patience: 3", "min_delta: 0.1", "no `patience`"),
        ("clamp: none", "clamp: none\nnormalize: true", "within [0, 1] by themselves"),
        ("task: math}", "task: code}", "two models are of the task `code`"),
        ("weight: 2", "weight: 0", "weight"),
        ("steps: 50", "steps: -1", "steps"),
        ("examples: 8", "examples: 0", "batch.examples"),
    ] {
        let text = RECIPE.replace("- ./c\n", "- {model: ./c}\n").replace(from, to);
        let found = parse(&text, false).unwrap_err();
        assert!(found.contains(part), "{part}: {found}");
    }
}

#[test]
fn inputs_may_be_those_of_the_tests() {
    let text = "base_model: b\nmodels: [{model: a, task: t}]\ntasks: [{name: t, test: i.jsonl}]\n";
    let recipe = parse(text, true).unwrap();
    assert_eq!(recipe.tasks[0].inputs, recipe.tasks[0].test);
    assert!(recipe.tasks[0].may_have_labels);
    assert!(parse(&text.replace("test", "inputs"), true).unwrap_err().contains("no `test`"));
}
