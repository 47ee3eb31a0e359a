//! Recipes as users write them: mergekit's own, its traps, and typical errors with their exact texts.

use std::fs;
use std::path::PathBuf;

use onefold_merge::params::{Default, Kind, Level, Param, Value};
use proptest::prelude::*;

use super::*;

/// A table like a method's: the settings of the recipes below.
const PARAMS: [Param; 12] = [
    Param { default: Default::Required, ..number("weight", Level::Model) },
    Param { kind: Kind::DENSITY, ..number("density", Level::Model) },
    Param { kind: UNIT, ..number("gamma", Level::Model) },
    number("scale", Level::Model),
    number("lambda", Level::Global),
    number("t", Level::Global),
    flag("normalize"),
    flag("rescale"),
    flag("int8_mask"),
    Param { kind: Kind::Integer { min: 1, max: i64::MAX }, ..number("max_iter", Level::Global) },
    Param { kind: Kind::Choice(&["model", "tensor"]), ..flag("scope") },
    Param { kind: Kind::TextList, ..flag("exclude") },
];
const UNIT: Kind = Kind::Number { min: 0.0, max: 1.0, min_open: false };

const fn number(name: &'static str, level: Level) -> Param {
    Param { name, level, kind: Kind::NUMBER, default: Default::Optional, help: "" }
}

const fn flag(name: &'static str) -> Param {
    Param { name, level: Level::Global, kind: Kind::Flag, default: Default::Flag(false), help: "" }
}

fn read_ok(text: &str) -> Recipe {
    let reading = read(text, "r.yml", &[], false).unwrap_or_else(|problems| panic!("{problems}"));
    reading.recipes.into_iter().next().expect("one recipe")
}

/// What the user sees: reading and judging with [`PARAMS`].
fn judged(text: &str, sets: &[&str], lenient: bool) -> Result<Vec<String>, String> {
    let sets: Vec<_> = sets.iter().map(|set| (*set).to_owned()).collect();
    let mut problems = Problems::new("r.yml", &sets, lenient);
    for recipe in parse(text, &sets, &mut problems) {
        check_parameters(&recipe, &PARAMS, &mut problems);
    }
    let warnings = problems.warning_texts();
    problems.or(()).map(|_| warnings).map_err(|problems| problems.to_string())
}

/// The error text of a recipe that is `body` after a harmless beginning.
fn error(body: &str) -> String {
    judged(&format!("merge_method: ties\nbase_model: base\n{body}"), &[], false).expect_err("a problem")
}

const MODELS: &str = "models: [{model: a, parameters: {weight: 1}}]\n";

fn with_models(body: &str) -> String {
    error(&format!("{MODELS}{body}"))
}

fn cases() -> Vec<(PathBuf, String)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/mergekit/cases");
    let mut files: Vec<_> =
        fs::read_dir(folder).expect("testdata").map(|e| e.expect("entry").path()).collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), fs::read_to_string(path).expect("text"))).collect()
}

#[test]
fn every_mergekit_case_is_read_and_written_back() {
    let cases = cases();
    assert!(cases.len() >= 37);
    for (path, text) in cases {
        let recipe = read(&text, "case", &[], false).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let recipe = recipe.recipes.into_iter().next().expect("one recipe");
        assert_eq!(recipe.text, text);
        let again = Recipe { text: text.clone(), ..read_ok(&recipe.to_yaml()) };
        assert_eq!(again, recipe, "{}", path.display());
    }
}

#[test]
fn a_recipe_is_what_it_says() {
    let recipe = read_ok(
        "merge_method: slerp\nbase_model: org/m@main\ndtype: torch.bfloat16\nout_dtype: float16\nslices:\n\
         - sources:\n  - {model: org/m@main, layer_range: [0, 3]}\n  - {model: b+lora@v1, layer_range: [1, 4], task: code}\n  \
         base_model: c\n  parameters: {t: 0.25}\nparameters: {t: [0, 1], lambda: 2}\n",
    );
    assert_eq!((recipe.dtype, recipe.out_dtype), (Some(Dtype::BF16), Some(Dtype::F16)));
    let Layout::Slices(slices) = &recipe.layout else { panic!("slices") };
    let source = &slices[0].sources[1];
    assert_eq!((source.layer_range, source.model.task.as_deref()), (Some((1, 4)), Some("code")));
    assert_eq!(source.model.lora, Some(AdapterRef { path: "lora".into(), revision: Some("v1".into()) }));
    let levels = [&slices[0].parameters, &recipe.parameters];
    assert_eq!(resolve("t", &levels, "x", 1.0), Some(Value::Number(0.25)));
    assert_eq!(resolve("lambda", &levels, "x", 1.0), Some(Value::Number(2.0)));
    let names: Vec<_> = recipe.references().iter().map(ToString::to_string).collect();
    assert_eq!(names, ["org/m@main", "org/m@main", "b+lora@v1#code", "c"]);
    assert_eq!(recipe.donor().map(ToString::to_string).as_deref(), Some("org/m@main"));
}

#[test]
fn the_donor_without_a_base_is_the_first_listed_model() {
    let recipe = read_ok("merge_method: linear\nmodels: [{model: z}, {model: a}]");
    assert_eq!(recipe.donor().map(ToString::to_string).as_deref(), Some("z"));
}

// Section 1.5: references to models

#[test]
fn model_references_have_two_forms() {
    let model = |yaml: &str| read_ok(&format!("merge_method: linear\nmodels: [{{model: {yaml}}}]"));
    let first = |yaml: &str| model(yaml).donor().expect("one").clone();
    let full = first("p@r+l@s");
    assert_eq!((full.path.as_str(), full.revision.as_deref()), ("p", Some("r")));
    assert_eq!(full.to_string(), "p@r+l@s");
    assert_eq!(first("{model: p@r, lora: {path: l, revision: s}}"), full);
    let odd = first("{model: {path: ./a+b@c}, override_architecture: LlamaForCausalLM}");
    assert_eq!(
        (odd.path.as_str(), odd.override_architecture.as_deref()),
        ("./a+b@c", Some("LlamaForCausalLM"))
    );
    let json = serde_json::to_string(&odd).expect("json");
    assert_eq!(json, r#"{"model":{"path":"./a+b@c"},"override_architecture":"LlamaForCausalLM"}"#);
    assert_eq!(serde_json::to_string(&full).expect("json"), r#""p@r+l@s""#);
}

#[test]
fn malformed_references_are_refused() {
    for bad in ["a+b+c", "a@b@c", "a@", "+l", "a+", "a+l@", "@r"] {
        assert!(ModelRef::parse(bad).is_err(), "{bad}");
    }
    assert_eq!(
        error("models: [{model: a+b+c}]"),
        "r.yml:3:18: models[0].model: \"a+b+c\" is not `path[@revision][+adapter[@revision]]`: more than one `+`\n  \
         help: a path that holds `+` or `@` is written as `{model: {path: …, revision: …}}`"
    );
    assert_eq!(
        error("models: [{model: 13}]"),
        "r.yml:3:18: models[0].model: expected a model (path, hub name or mapping), found the number `13`\n  \
         help: write it in quotes: \"13\""
    );
}

// Section 1.6: settings

fn setting(yaml: &str) -> Setting {
    let recipe = read_ok(&format!("merge_method: x\nmodels: [{{model: a}}]\nparameters: {{p: {yaml}}}"));
    recipe.parameters["p"].value.clone()
}

fn value(yaml: &str, tensor: &str, t: f64) -> Option<Value> {
    setting(yaml).evaluate(tensor, t)
}

fn num(x: f64) -> Option<Value> {
    Some(Value::Number(x))
}

#[test]
fn scalars_are_yaml_11_and_numeric_text_is_a_number() {
    assert_eq!(value("yes", "", 0.0), Some(Value::Flag(true)));
    assert_eq!(value("off", "", 0.0), Some(Value::Flag(false)));
    assert_eq!(value("1e-5", "", 0.0), num(1e-5));
    assert_eq!(value("'0.5'", "", 0.0), num(0.5));
    assert_eq!(value("010", "", 0.0), num(8.0));
    assert_eq!(value("'yes'", "", 0.0), Some(Value::Text("yes".into())));
    assert_eq!(value("y", "", 0.0), Some(Value::Text("y".into())));
    assert_eq!(value("[a, b]", "", 0.0), Some(Value::TextList(vec!["a".into(), "b".into()])));
}

#[test]
fn gradients_interpolate_between_equal_distances() {
    for (t, expected) in [(0.0, 0.0), (0.25, 0.25), (0.5, 0.5), (0.75, 0.75), (1.0, 1.0)] {
        assert_eq!(value("[0, 0.5, 1]", "", t), num(expected));
    }
    assert_eq!(value("[0, 10, 4]", "", 0.75), num(7.0));
    assert_eq!(value("[3]", "", 1.0), num(3.0));
    assert_eq!(value("[true, 0.5, 1e-1]", "", 0.0), num(1.0));
    for odd in [f64::NAN, -1.0, 2.0, f64::INFINITY] {
        assert!(value("[0, 1]", "", odd).is_some());
    }
    let flags: Vec<_> =
        [0.0, 0.49, 0.5, 1.0].map(|t| value("[no, yes, no]", "", t)).into_iter().flatten().collect();
    assert_eq!(flags, [false, false, true, false].map(Value::Flag));
}

#[test]
fn the_first_case_that_fits_counts() {
    let cases = "[{filter: self_attn, value: [0, 1]}, {filter: mlp, value: 3}, {filter: '*', value: 4}]";
    assert_eq!(value(cases, "model.layers.0.self_attn.q_proj", 0.25), num(0.25));
    assert_eq!(value(cases, "model.layers.0.mlp.up_proj", 0.25), num(3.0));
    assert_eq!(value(cases, "model.norm", 0.25), num(4.0));
    assert_eq!(value("[{filter: 'm*p', value: 1}]", "mlp", 0.0), None, "not a glob");
    assert_eq!(value("[{filter: '^mlp', value: 1}]", "mlp", 0.0), None, "not a regular expression");
    assert_eq!(value("{filter: mlp, value: 1}", "x.mlp.y", 0.0), num(1.0), "a single mapping");
    assert_eq!(value("{value: [1, 2]}", "x", 1.0), num(2.0));
}

#[test]
fn a_level_without_a_fitting_case_is_skipped() {
    let parameters = |yaml: &str| {
        read_ok(&format!("merge_method: x\nmodels: [{{model: a}}]\nparameters: {yaml}")).parameters
    };
    let (near, far) = (parameters("{w: [{filter: mlp, value: 1}]}"), parameters("{w: 2, v: 3}"));
    assert_eq!(resolve("w", &[&near, &far], "a.mlp", 0.0), num(1.0));
    assert_eq!(resolve("w", &[&near, &far], "a.norm", 0.0), num(2.0));
    assert_eq!(resolve("w", &[&near], "a.norm", 0.0), None);
    assert_eq!(resolve("v", &[&near, &far], "a.mlp", 0.0), num(3.0));
}

#[test]
fn malformed_settings_are_refused() {
    for (yaml, column, message) in [
        ("[]", 17, "an empty list has no value"),
        ("", 15, "no value\n  help: give it a value or remove the key"),
        (".inf", 17, "expected a finite number, found the number `.inf`"),
        (
            "[{filter: a, value: 1}, 0.5]",
            17,
            "expected a list of numbers or a list of `{filter, value}`, found a mixture",
        ),
        ("[0.1, high]", 23, "expected finite numbers in the list, found the text \"high\""),
        ("[0.1, [1]]", 23, "expected finite numbers in the list, found a list"),
        ("[0.1, ~]", 23, "expected finite numbers in the list, found nothing"),
        ("[0.1, .nan]", 23, "expected finite numbers in the list, found the number `.nan`"),
        ("nan", 14, "expected a number, found the text \"nan\""),
    ] {
        let expected = format!("r.yml:4:{column}: parameters.t: {message}");
        assert_eq!(with_models(&format!("parameters: {{t: {yaml}}}")), expected);
    }
    assert_eq!(
        with_models("parameters: {t: [{filter: a}]}"),
        "r.yml:4:18: parameters.t[0]: no `value`\n  help: a case is `{filter: part of a tensor name, value: …}`"
    );
    assert_eq!(
        with_models("parameters: {t: [{filters: a, value: 1}]}"),
        "r.yml:4:19: parameters.t[0]: unknown key `filters`\n  help: did you mean `filter`?"
    );
}

// What users get wrong, with the texts they see

#[test]
fn a_weight_beside_the_model_is_explained() {
    assert_eq!(
        error("models:\n- model: a\n  weight: 0.5\n"),
        "r.yml:4:3: models[0]: no `weight` for the model `a`\n  \
         help: `ties` requires `parameters: {weight: …}`, here or for all\n\
         r.yml:5:3: models[0]: unknown key `weight`\n  \
         help: settings of the merge method stand under `parameters:`"
    );
}

#[test]
fn a_setting_at_the_top_level_is_explained() {
    assert_eq!(
        with_models("lambda: 0.5"),
        "r.yml:4:1: unknown key `lambda`\n  help: settings of the merge method stand under `parameters:`"
    );
    assert_eq!(
        error("model: a\nmodels: [{model: a, parameters: {weight: 1}}]"),
        "r.yml:3:1: unknown key `model`\n  help: `model` stands in an entry of `models`, as in `models: [{model: …}]`"
    );
}

#[test]
fn typing_errors_are_recognised() {
    assert_eq!(
        judged("mergemethod: ties\nmodels: [{model: a}]", &[], false),
        Err("r.yml:1:1: no `merge_method`\n\
             r.yml:1:1: unknown key `mergemethod`\n  help: did you mean `merge_method`?"
            .into())
    );
    assert_eq!(
        with_models("parameters: {normalise: true}"),
        "r.yml:4:14: parameters.normalise: `ties` has no setting \"normalise\"\n  help: did you mean `normalize`?"
    );
    assert_eq!(
        with_models("dtype: bfloat\n"),
        "r.yml:4:8: dtype: unknown type \"bfloat\"\n  help: did you mean `bfloat16`?"
    );
    assert_eq!(
        with_models("out_dtype: int4"),
        "r.yml:4:12: out_dtype: unknown type \"int4\"\n  help: did you mean `int64`?"
    );
    assert_eq!(
        with_models("out_dtype: q8"),
        "r.yml:4:12: out_dtype: unknown type \"q8\"\n  help: known types are `bfloat16`, `float16`, `float32`, \
         `float64`, `float8_e4m3fn`, `float8_e5m2`, `int64`"
    );
    assert_eq!(
        with_models("chat_template: lama3"),
        "r.yml:4:16: chat_template: \"lama3\" is neither a known chat template nor a Jinja template\n  \
         help: did you mean `llama3`?"
    );
}

#[test]
fn keys_at_the_wrong_level_are_sent_home() {
    assert_eq!(
        with_models("parameters: {dtype: float32}"),
        "r.yml:4:14: parameters.dtype: `ties` has no setting \"dtype\"\n  \
         help: `dtype` stands at the top level of the recipe"
    );
    assert_eq!(
        error("models: [{model: a, layer_range: [0, 1], parameters: {weight: 1}}]"),
        "r.yml:3:21: models[0]: unknown key `layer_range`\n  \
         help: `layer_range` stands in the `sources` of `slices`"
    );
    assert_eq!(
        error("models: [{model: a, parameters: {weight: 1, lambda: 2}}]"),
        "r.yml:3:45: models[0].parameters.lambda: `lambda` has no effect on a single model\n  \
         help: it holds for all models of a tensor: move it to the recipe's `parameters`"
    );
    assert_eq!(
        error("models: [{model: a, base_model: b, parameters: {weight: 1}}]"),
        "r.yml:3:21: models[0]: unknown key `base_model`\n  help: `base_model` stands at the top level of the recipe"
    );
    assert_eq!(
        error("models: [a]"),
        "r.yml:3:10: models[0]: expected an entry with `model`, found the text \"a\"\n  help: write `- model: a`"
    );
}

#[test]
fn values_are_held_to_the_methods_table() {
    assert_eq!(
        error("models: [{model: a, parameters: {weight: 1, density: 1.5}}]"),
        "r.yml:3:45: models[0].parameters.density: expected a number in (0, 1], found 1.5"
    );
    assert_eq!(
        error("models: [{model: a, parameters: {weight: 1, density: 50%}}]"),
        "r.yml:3:45: models[0].parameters.density: expected a number in (0, 1], found the text \"50%\"\n  help: write 0.5"
    );
    assert_eq!(
        error("models: [{model: a, parameters: {weight: 1, density: [0.5, 0]}}]"),
        "r.yml:3:45: models[0].parameters.density: value 2 of the gradient: expected a number in (0, 1], found 0"
    );
    assert_eq!(
        error("models: [{model: a, parameters: {weight: .nan}}]"),
        "r.yml:3:42: models[0].parameters.weight: expected a finite number, found the number `.nan`"
    );
    assert_eq!(
        with_models("parameters: {gamma: [{filter: mlp, value: 2}]}"),
        "r.yml:4:43: parameters.gamma[0]: expected a number in [0, 1], found 2"
    );
    assert_eq!(
        with_models("parameters: {normalize: [0, 1], max_iter: 1.5, scope: models}"),
        "r.yml:4:14: parameters.normalize: expected true or false, found a gradient of 2 numbers\n\
         r.yml:4:33: parameters.max_iter: expected a whole number of at least 1, found 1.5\n\
         r.yml:4:48: parameters.scope: expected `model` or `tensor`, found the text \"models\""
    );
    let fine =
        "parameters: {normalize: [no, yes], int8_mask: 1, max_iter: 20, scope: model, exclude: [a, b]}";
    assert_eq!(judged(&format!("merge_method: x\n{MODELS}{fine}"), &[], false), Ok(vec![]));
}

#[test]
fn cases_that_are_never_reached_are_problems() {
    assert_eq!(
        with_models("parameters:\n  t:\n  - value: 1\n  - filter: mlp\n    value: 2"),
        "r.yml:8:12: parameters.t[1]: never used: the case before it is for all tensors\n  \
         help: the first case that fits counts; put the special ones first"
    );
    assert!(
        with_models("parameters: {t: [{filter: mlp, value: 1}, {filter: mlp.down, value: 2}]}").contains(
            "parameters.t[1]: never used: the case with the filter `mlp` comes first and fits as well"
        )
    );
    let fine = "parameters: {t: [{filter: mlp.down, value: 1}, {filter: mlp, value: 2}, {value: 3}]}";
    assert_eq!(judged(&format!("merge_method: x\n{MODELS}{fine}"), &[], false), Ok(vec![]));
}

#[test]
fn required_settings_may_stand_at_any_level_and_not_at_the_base() {
    let recipe = |body: &str| judged(&format!("merge_method: ties\nbase_model: base\n{body}"), &[], false);
    assert!(recipe("models: [{model: base}, {model: a, parameters: {weight: 1}}]").is_ok());
    assert!(recipe("models: [{model: base}, {model: a}]\nparameters: {weight: 1}").is_ok());
    assert!(recipe("models: [{model: base}, {model: a}]").is_err());
    let slice = "slices: [{base_model: a, sources: [{model: a, layer_range: [0, 1]}]}]";
    assert!(recipe(slice).is_ok(), "the slice's base counts");
    let mut problems = Problems::new("r.yml", &[], false);
    let params = [Param { default: Default::Required, ..number("t", Level::Global) }];
    let missing = read_ok("merge_method: slerp\nmodels: [{model: a}]");
    check_parameters(&missing, &params, &mut problems);
    assert_eq!(
        problems.to_string(),
        "r.yml:1:15: parameters: no `t`\n  help: `slerp` requires `parameters: {t: …}`"
    );
}

// Sections 1.1 to 1.4: structure

#[test]
fn exactly_one_layout() {
    assert_eq!(error(""), "r.yml:1:1: expected one of `models`, `slices` and `modules`, found none");
    assert_eq!(
        with_models("modules: {default: {models: [{model: a}]}}"),
        "r.yml:4:10: expected one of `models`, `slices` and `modules`, found 2"
    );
    assert_eq!(error("models: []"), "r.yml:3:9: models: expected a list of models, found an empty list");
    assert_eq!(
        error("modules: {text_decoder: {parameters: {t: 1}}}"),
        "r.yml:3:25: modules.text_decoder: expected one of `models` and `slices`, found none"
    );
}

#[test]
fn slices_fit_together() {
    let slice =
        |sources: &str| error(&format!("parameters: {{weight: 1}}\nslices: [{{sources: [{sources}]}}]"));
    assert_eq!(
        slice("{model: a, layer_range: [0, 3]}, {model: b, layer_range: [0, 2]}"),
        "r.yml:4:54: slices[0].sources[1].layer_range: 2 layers, but the slice's first source has 3\n  \
         help: all sources of a slice need the same number of layers"
    );
    assert_eq!(
        slice("{model: a, layer_range: [3, 3]}"),
        "r.yml:4:45: slices[0].sources[0].layer_range: [3, 3] holds no layers\n  \
         help: the end is the number of the first layer that is not included"
    );
    assert_eq!(
        slice("{model: a, layer_range: [0, -1]}"),
        "r.yml:4:49: slices[0].sources[0].layer_range: expected a layer number (a whole number, not negative), \
         found the number `-1`"
    );
    assert_eq!(
        slice("{model: a}"),
        "r.yml:4:21: slices[0].sources[0]: no `layer_range`\n  help: write `layer_range: [first, last + 1]`"
    );
    assert_eq!(
        slice("{model: a, layer_range: [0, 1]}, {model: a, layer_range: [1, 2]}"),
        "r.yml:4:54: slices[0].sources[1]: the model `a` is already listed in slices[0].sources[0]\n  \
         help: list each model once; to count it twice, double its weight"
    );
    assert!(slice("{model: a, layer_range: [0, 1, 2]}").contains("found 3 values"));
    assert!(slice("").contains("expected a list of sources, found an empty list"));
}

#[test]
fn a_residual_weight_does_nothing() {
    let text = "merge_method: passthrough\nparameters: {weight: 1}\n\
                slices: [{sources: [{model: a, layer_range: [0, 1]}], residual_weight: 1}]";
    let expected = "r.yml:3:55: slices[0].residual_weight: `residual_weight` has no effect\n  \
                    help: mergekit reads it and does nothing with it; remove it";
    assert_eq!(judged(text, &[], false), Err(expected.into()));
    assert_eq!(judged(text, &[], true), Ok(vec![expected.into()]));
}

#[test]
fn lenient_warns_of_keys_and_still_refuses_values() {
    let text = "merge_method: ties\nquantize: 4\nmodels: [{model: a, parameters: {weight: 1, density: 7}}]";
    let strict = judged(text, &[], false).expect_err("two problems");
    assert_eq!(strict.lines().filter(|line| line.starts_with("r.yml")).count(), 2);
    let lenient = judged(text, &[], true).expect_err("one problem");
    assert_eq!(lenient, "r.yml:3:45: models[0].parameters.density: expected a number in (0, 1], found 7");
}

#[test]
fn modules_have_models_or_slices() {
    let recipe = read_ok(
        "merge_method: linear\nmodules:\n  text_decoder: {models: [{model: a}], parameters: {w: 1}}\n  \
         vision_tower: {slices: [{sources: [{model: b, layer_range: [0, 1]}]}]}",
    );
    let Layout::Modules(modules) = &recipe.layout else { panic!("modules") };
    assert_eq!(modules.iter().map(|m| m.name.as_str()).collect::<Vec<_>>(), ["text_decoder", "vision_tower"]);
    assert!(matches!(&modules[1].content, ModuleContent::Slices(slices) if slices.len() == 1));
    assert_eq!(Recipe { text: recipe.text.clone(), ..read_ok(&recipe.to_yaml()) }, recipe);
}

#[test]
fn hostile_recipes_are_judged_quickly() {
    let keys: String = (0..60_000).map(|i| format!("k{i}: 1\n")).collect();
    let message = with_models(&keys);
    assert!(message.ends_with("and 59800 more problems"));
    let cases: String = (0..20_000).map(|i| format!("{{filter: f{i}, value: 1}}, ")).collect();
    assert!(
        with_models(&format!("parameters: {{t: [{cases}]}}")).contains("20000 cases, more than the 1000")
    );
    let models: String = (0..20_000).map(|i| format!("- model: m{i}\n")).collect();
    assert!(error(&format!("models:\n{models}")).contains("no `weight` for the model `m0`"));
}

#[test]
fn long_and_strange_texts_are_written_back() {
    let long = "x".repeat(2000);
    for token in [
        long.as_str(),
        "a: b",
        "- a",
        "1e-5",
        "~",
        "\u{85}\u{2028}\u{feff}\u{1}",
        "\"\\\n\t",
        "é😀",
        "<<",
        "=",
    ] {
        let mut recipe = read_ok("merge_method: x\nmodels: [{model: a}]\ntokenizer: {source: union}");
        let tokenizer = recipe.tokenizer.as_mut().expect("a tokenizer");
        tokenizer.tokens.insert(token.to_owned(), TokenSpec { source: Some(TokenSource::Zero), force: true });
        recipe.name = Some(Located::new(token.replace(['/', '\\'], ""), Place::START));
        let again = read_ok(&recipe.to_yaml());
        assert_eq!(Recipe { text: recipe.text.clone(), ..again }, recipe, "{token:?}");
    }
}

// Sections 5.1 and 5.6: vocabulary

#[test]
fn tokenizers_in_both_forms() {
    let spec = |body: &str| read_ok(&format!("merge_method: x\nmodels: [{{model: a}}]\n{body}")).tokenizer;
    let source = |body: &str| spec(body).expect("a tokenizer").source;
    assert_eq!(source("tokenizer_source: union"), TokenizerSource::Union);
    assert_eq!(source("tokenizer_source: base"), TokenizerSource::Base);
    assert_eq!(source("tokenizer: {pad_to_multiple_of: 64}"), TokenizerSource::Union);
    assert!(
        matches!(source("tokenizer: {source: org/m@v2}"), TokenizerSource::Model(m) if m.path == "org/m")
    );
    let full = "tokenizer:\n  source: base\n  pad_to_multiple_of: 8\n  tokens:\n    <|im_start|>: {source: a, force: yes}\n    \
                <s>: {source: {kind: zero}}\n    'no': {source: {kind: model_token, model: a, token_id: 7}}\n    \
                b: {source: {kind: model_token, model: a, token: c}}\n    d: {}\n";
    let tokenizer = spec(full).expect("a tokenizer");
    let keys: Vec<_> = tokenizer.tokens.keys().map(String::as_str).collect();
    assert_eq!(keys, ["<|im_start|>", "<s>", "no", "b", "d"]);
    assert!(tokenizer.tokens["<|im_start|>"].force);
    assert!(matches!(
        tokenizer.tokens["no"].source,
        Some(TokenSource::ModelToken { token: TokenName::Id(7), .. })
    ));
    let recipe = read_ok(&format!("merge_method: x\nmodels: [{{model: a}}]\n{full}"));
    assert_eq!(Recipe { text: recipe.text.clone(), ..read_ok(&recipe.to_yaml()) }, recipe);
    assert_eq!(recipe.references().len(), 4);
}

#[test]
fn malformed_tokenizers_are_refused() {
    assert_eq!(
        with_models("tokenizer: {source: base}\ntokenizer_source: union"),
        "r.yml:5:19: tokenizer_source: `tokenizer` and `tokenizer_source` are both given\n  \
         help: `tokenizer: {source: …}` says the same as `tokenizer_source: …`; keep one"
    );
    for (body, part) in [
        (
            "{tokens: {a: {source: {kind: model_token, model: m}}}}",
            "expected exactly one of `token` and `token_id`",
        ),
        (
            "{tokens: {a: {source: {kind: model_token, model: m, token: x, token_id: 1}}}}",
            "expected exactly one of",
        ),
        ("{tokens: {a: {source: {kind: model_token, token: x}}}}", "no `model`: whose token is it"),
        (
            "{tokens: {a: {source: {kind: model_tokens, model: m, token: x}}}}",
            "expected `kind: model_token` or `kind: zero`",
        ),
        ("{tokens: {a: {source: {model: m, token: x}}}}", "no `kind`"),
        ("{tokens: {a: {source: {kind: zero, model: m}}}}", "unknown key `model`"),
        (
            "{tokens: {a: {source: {kind: model_token, model: m, token_id: 5000000000}}}}",
            "expected a token's number",
        ),
        ("{tokens: {a: ~}}", "expected what is set for the token (a mapping), found nothing"),
        ("{tokens: {1: {}}}", "a key must be text, found the number `1`"),
        ("{tokens: {a: {force: maybe}}}", "expected true or false"),
        ("{pad_to_multiple_of: 0}", "expected a whole number of at least 1, found the number `0`"),
        ("{sources: base}", "unknown key `sources`"),
    ] {
        let found = with_models(&format!("tokenizer: {body}"));
        assert!(found.contains(part), "{body}: {found}");
    }
}

#[test]
fn chat_templates_are_names_or_templates() {
    for good in ["auto", "chatml", "'{% for m in messages %}{{ m.content }}{% endfor %}'"] {
        read_ok(&format!("merge_method: x\nmodels: [{{model: a}}]\nchat_template: {good}"));
    }
    for bad in ["'{{ short }}'", "a long text without any braces in it"] {
        assert!(
            with_models(&format!("chat_template: {bad}")).contains("neither a known chat template"),
            "{bad}"
        );
    }
}

// Several merges in one file

#[test]
fn merges_run_after_those_they_need() {
    let text = "merge_method: linear\nmodels: [{model: two}, {model: one+l}]\n---\nname: two\nmerge_method: linear\n\
                models: [{model: one}]\n---\nname: one\nmerge_method: linear\nmodels: [{model: a}]\n";
    let reading = read(text, "r.yml", &[], false).expect("no problems");
    let mut problems = Problems::new("r.yml", &[], false);
    assert_eq!(order(&reading.recipes, &mut problems), Some(vec![2, 1, 0]));
    assert!(reading.recipes[1].text.starts_with("---\nname: two"));
    assert!(reading.recipes[1].text.ends_with("models: [{model: one}]\n"));
    assert_eq!(reading.recipes.iter().map(|r| r.text.as_str()).collect::<String>(), text);
}

#[test]
fn merges_that_need_each_other_are_reported() {
    let merge = |name: &str, model: &str| {
        format!("---\nname: {name}\nmerge_method: linear\nmodels: [{{model: {model}}}]\n")
    };
    let text = [merge("x", "a"), merge("a", "b"), merge("b", "c"), merge("c", "a")].concat();
    assert_eq!(
        read(&text, "r.yml", &[], false).expect_err("a cycle").to_string(),
        "r.yml:6:7: name: merges that need each other: `a` needs `b` needs `c` needs `a`"
    );
    assert!(read(&merge("a", "a"), "r.yml", &[], false).is_err(), "a merge that needs itself");
}

#[test]
fn names_are_unique_and_usable() {
    let merge = |name: &str| format!("---\n{name}\nmerge_method: linear\nmodels: [{{model: m}}]\n");
    let text = [merge("name: a"), merge("name: a"), merge(""), merge(""), merge("name: a/b")].concat();
    assert_eq!(
        read(&text, "r.yml", &[], false).expect_err("problems").to_string(),
        "r.yml:6:7: name: two merges are named `a`\n\
         r.yml:15:15: a second merge without `name`\n  \
         help: every merge needs a `name`, except the one that makes the final model\n\
         r.yml:18:7: name: \"a/b\" cannot name a directory\n  help: use a name without `/`, `\\`, `@` and `+`"
    );
}

// --set

#[test]
fn sets_change_the_recipe_before_it_is_judged() {
    let text = format!("merge_method: ties\n{MODELS}");
    let sets = ["parameters.lambda=0.5".to_owned(), "models.0.parameters.weight=0.3".to_owned()];
    let recipe = read(&text, "r.yml", &sets, false).expect("no problems").recipes.remove(0);
    assert_eq!(resolve("lambda", &[&recipe.parameters], "", 0.0), num(0.5));
    let Layout::Models(models) = &recipe.layout else { panic!("models") };
    assert_eq!(resolve("weight", &[&models[0].parameters], "", 0.0), num(0.3));
    assert_eq!(recipe.text, text);
    assert_eq!(
        judged(&text, &["parameters.lamda=0.5", "models[0].parameters.density=2"], false),
        Err("--set parameters.lamda=0.5: parameters.lamda: `ties` has no setting \"lamda\"\n  \
             help: did you mean `lambda`?\n\
             --set models[0].parameters.density=2: models[0].parameters.density: \
             expected a number in (0, 1], found 2"
            .into())
    );
}

#[test]
fn methods_are_known_by_name() {
    let mut problems = Problems::new("r.yml", &[], false);
    let recipe = read_ok("merge_method: task_arithmatic\nmodels: [{model: a}]");
    assert!(!check_method(&recipe, &["ties", "task_arithmetic"], &mut problems));
    assert_eq!(
        problems.to_string(),
        "r.yml:1:15: merge_method: unknown merge method \"task_arithmatic\"\n  help: did you mean `task_arithmetic`?"
    );
    assert!(check_method(&recipe, &["task_arithmatic"], &mut problems));
}

// Any text at all

fn read_anything(text: &str) {
    let _ = judged(text, &["models.0.model=x", "parameters.t=[1"], true);
    if let Ok(reading) = read(text, "r.yml", &[], true) {
        for recipe in reading.recipes {
            let mut problems = Problems::new("r.yml", &[], true);
            check_parameters(&recipe, &PARAMS, &mut problems);
            let again = read(&recipe.to_yaml(), "again", &[], true);
            if problems.is_empty() {
                let again = again.unwrap_or_else(|e| panic!("{e}\n{}", recipe.to_yaml())).recipes.remove(0);
                assert_eq!(Recipe { text: recipe.text.clone(), ..again }, recipe);
            }
        }
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,200}") {
        read_anything(&text);
    }

    #[test]
    fn no_yaml_like_text_panics(text in "([-?:,\\[\\]{}#&*!|>'\"%@ \n\ta01.~<=+]|merge_method|models|model: |- |\r\n){0,80}") {
        read_anything(&text);
    }

    #[test]
    fn no_damaged_recipe_panics(case in 0usize..37, at in 0.0f64..1.0, insert in "\\PC{0,3}", cut in 0usize..20) {
        let text = &cases()[case].1;
        let at = (at * text.len() as f64) as usize;
        let end = (at + cut).min(text.len());
        if let (Some(head), Some(tail)) = (text.get(..at), text.get(end..)) {
            read_anything(&format!("{head}{insert}{tail}"));
        }
    }

    #[test]
    fn gradients_stay_between_their_ends(values in prop::collection::vec(-1e3f64..1e3, 1..6), t in 0.0f64..=1.0) {
        let plain = setting::Plain::Gradient(values.clone());
        let Some(Value::Number(x)) = plain.evaluate(t) else { panic!("a number") };
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        prop_assert!(x >= low - 1e-9 && x <= high + 1e-9);
    }
}
