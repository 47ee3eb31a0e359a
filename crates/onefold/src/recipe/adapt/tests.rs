use onefold_train::adapt::{Measure, Settings};
use onefold_train::statistics::{FisherKind, FisherSettings, SurgerySettings};

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
    let Road::Learn(Learning { method, settings }) = &recipe.road else { panic!("coefficients are learnt") };
    assert_eq!(*method, Method::Plus { density: 0.3 });
    assert_eq!((recipe.expert_of("math"), recipe.seed()), (Some(1), 7));
    assert_eq!(settings.weights, [1.0, 2.0]);
    let again = parse(&recipe.to_yaml(), false).unwrap();
    assert_eq!(AdaptRecipe { text: recipe.text.clone(), ..again }, recipe);
}

#[test]
fn classes_are_told_by_texts() {
    let text =
        "base_model: b\nmodels: [{model: a}]\ntasks: [{name: t, inputs: i.jsonl, classes: [cat, dog]}]\n";
    let recipe = parse(text, false).unwrap();
    let names = |names: &[&str]| Classes::Names(names.iter().map(|name| (*name).to_owned()).collect());
    let templates = vec!["a photo of a {}.".to_owned()];
    assert_eq!(recipe.tasks[0].telling, Telling::Texts { classes: names(&["cat", "dog"]), templates });
    let again = parse(&recipe.to_yaml(), false).unwrap();
    assert_eq!(AdaptRecipe { text: recipe.text.clone(), ..again }, recipe);
    let dir = tempfile::tempdir().unwrap();
    let of_file = text.replace("[cat, dog]", "names.txt, templates: ['{}', 'a {}']");
    let recipe = parse(&of_file, false).unwrap();
    let mut problems = Problems::new("r.yaml", &[], false);
    assert!(recipe.clone().with_classes(dir.path(), &mut problems).is_none());
    assert!(problems.to_string().contains("tasks[0].classes"), "{problems}");
    #[allow(clippy::disallowed_methods, reason = "a test")]
    std::fs::write(dir.path().join("names.txt"), "cat\n dog \n\n").unwrap();
    let recipe = recipe.with_classes(dir.path(), &mut Problems::new("r.yaml", &[], false)).unwrap();
    let templates = vec!["{}".to_owned(), "a {}".to_owned()];
    assert_eq!(recipe.tasks[0].telling, Telling::Texts { classes: names(&["cat", "dog"]), templates });
}

#[test]
fn classes_are_told_by_words() {
    let task = "{name: t, inputs: i.jsonl, label_words: {positive: ' great', negative: ' bad'}}";
    let text = format!("base_model: b\nmodels: [{{model: a}}]\ntasks: [{task}]\n");
    let recipe = parse(&text, false).unwrap();
    let words = [("positive", " great"), ("negative", " bad")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    assert_eq!(recipe.tasks[0].telling, Telling::LabelWords(words.into()));
    let again = parse(&recipe.to_yaml(), false).unwrap();
    assert_eq!(AdaptRecipe { text: recipe.text.clone(), ..again }, recipe);
}

#[test]
fn defaults_are_the_papers() {
    let text = "base_model: b\nmodels: [{model: a, task: t}]\ntasks: [{name: t, inputs: i.jsonl}]\n";
    let recipe = parse(text, false).unwrap();
    let weights = vec![1.0];
    let settings = Settings { seed: 7, weights, ..Settings::default() };
    assert_eq!(recipe.road, Road::Learn(Learning { method: Method::AdaMerging, settings }));
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
        (
            "adamerging_plus\ndensity: 0.3",
            "ties",
            "expected one of `adamerging`, `adamerging_plus`, `fisher`",
        ),
        ("adamerging_plus", "adamerging", "`adamerging` keeps whole task vectors"),
        ("inputs: math/in.jsonl, ", "", "no `inputs`"),
        ("[0.1, 0.2, 0.3]", "fisher", "expected one of"),
        ("patience: 3", "min_delta: 0.1", "no `patience`"),
        (", test: code/test.jsonl", "", "no task has rows to score with"),
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

const MEASURED: &str = "merge_method: fisher
base_model: ./base
models:
- {model: ./a, task: code, weight: 2}
- {model: ./b, task: math}
tasks:
- {name: code, inputs: code.jsonl}
- {name: math, inputs: math.jsonl, samples: 9}
floor: 1e-4
normalize: true
statistics: {kind: batch_summed, batch: 4}
batch: {length: 64}
";

#[test]
fn the_other_road_reads_and_writes_itself() {
    let recipe = parse(MEASURED, false).unwrap();
    let Road::Measure(measured) = &recipe.road else { panic!("experts are measured") };
    let settings = FisherSettings { kind: FisherKind::BatchSummed, seed: 7, ..FisherSettings::default() };
    assert_eq!(measured.measure, Measure::Fisher(settings, 4));
    assert_eq!(measured.parameters.len(), 2);
    assert_eq!(measured.of_models.iter().map(Parameters::len).collect::<Vec<_>>(), [1, 0]);
    assert_eq!(recipe.tasks.iter().map(|task| task.samples).collect::<Vec<_>>(), [Some(256), Some(9)]);
    let again = parse(&recipe.to_yaml(), false).unwrap();
    assert_eq!(AdaptRecipe { text: recipe.text.clone(), ..again }, recipe);
    for (from, to) in [
        ("statistics: {kind: batch_summed, batch: 4}", "statistics: {kind: empirical}"),
        ("fisher\nbase", "fisher_nodes\nmean_elsewhere: true\nbase"),
        ("kind: batch_summed, batch: 4", "draws: 3"),
    ] {
        let text = MEASURED.replace(from, to).replace("mean_elsewhere: true", "");
        let text =
            if text.contains("fisher_nodes") { text.replace("kind: batch_summed, ", "") } else { text };
        let recipe = parse(&text, false).unwrap();
        let again = parse(&recipe.to_yaml(), false).unwrap();
        assert_eq!(AdaptRecipe { text: recipe.text.clone(), ..again }, recipe);
    }
}

#[test]
fn each_road_has_its_keys() {
    for (from, to, part) in [
        ("floor", "ratio", "`ratio` has no effect"),
        ("floor", "steps: 3\nfloor", "`fisher` measures the experts and learns nothing"),
        ("floor", "optimizer: {lr: 1}\nfloor", "`optimizer` has no effect"),
        ("floor: 1e-4", "floor: -1", "floor"),
        ("batch_summed, ", "exact, ", "each example is measured by itself"),
        ("batch_summed, ", "empirical, draws: 2, ", "`draws` has no effect"),
        ("batch_summed", "exakt", "did you mean `exact`?"),
        ("length: 64", "examples: 8", "there are no steps"),
        (", weight: 2", ", statistics: a.safetensors", "they are measured"),
        (", task: math", "", "no `task` for the model `./b`"),
        ("{model: ./b, task: math}", "{model: ./b, task: code}", "two models are of the task `code`"),
        ("samples: 9", "weight: 3", "no loss is learnt that it could weigh"),
        ("merge_method: fisher", "merge_method: regmean\nratio: 0.5", "the method has no weights of models"),
        ("merge_method: fisher", "merge_method: regmean", "there is one way to measure Gram matrices"),
        ("merge_method: fisher", "merge_method: adamerging", "`statistics` has no effect"),
        ("merge_method: fisher", "merge_method: adamerging", "`floor` has no effect"),
        ("merge_method: fisher", "merge_method: fisher_nodes", "mask nodes are measured with the labels"),
    ] {
        let found = parse(&MEASURED.replacen(from, to, 1), false).unwrap_err();
        assert!(found.contains(part), "{part}: {found}");
    }
}

#[test]
fn surgery_goes_with_both_roads() {
    let with = |road: &str, surgery: &str| parse(&format!("{road}surgery: {surgery}\n"), false);
    let learnt = RECIPE.replace("- ./c\n", "- {model: ./c}\n");
    let plain = SurgerySettings { seed: 7, ..SurgerySettings::default() };
    let own = SurgerySettings { rank: 4, steps: 20, batch: 8, learning_rate: 0.01, seed: 7 };
    for road in [&learnt, MEASURED] {
        for (text, expected) in [
            ("true", Some(plain)),
            ("{}", Some(plain)),
            ("false", None),
            ("{rank: 4, steps: 20, batch: 8, lr: 1e-2}", Some(own)),
        ] {
            let recipe = with(road, text).unwrap();
            assert_eq!(recipe.surgery, expected, "{text}");
            let again = parse(&recipe.to_yaml(), false).unwrap();
            assert_eq!(AdaptRecipe { text: recipe.text.clone(), ..again }, recipe);
        }
        for (text, part) in [
            ("{rnk: 3}", "did you mean `rank`?"),
            ("{rank: 0}", "surgery.rank"),
            ("{rank: 1000000}", "surgery.rank"),
            ("{steps: 0}", "surgery.steps"),
            ("{lr: 0}", "surgery.lr"),
            ("16", "settings as in"),
            ("[true]", "settings as in"),
        ] {
            let found = with(road, text).unwrap_err();
            assert!(found.contains(part), "{text}: {found}");
        }
    }
}
