//! Merges with statistics of the models' own inputs: `statistics: FILE` beside `model:`.

use std::fs;
use std::path::Path;

use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Array, Model, merge, merged, onefold, read_model, temp, testdata, write_model};

/// What a file of statistics says of itself.
type Said<'a> = &'a [(&'a str, &'a str)];

fn write_statistics(path: &Path, model: &Model, said: Said<'_>) {
    let views = model
        .iter()
        .map(|(name, a)| (name.clone(), TensorView::new(a.dtype, a.shape.clone(), &a.bytes).unwrap()));
    let metadata = said.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    fs::write(path, safetensors::serialize(views, Some(metadata)).unwrap()).unwrap();
}

fn golden(of: &str) -> Value {
    let text = fs::read_to_string(testdata("related/statistics.json")).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()[of].clone()
}

fn flat(value: &Value) -> Vec<f32> {
    match value {
        Value::Array(items) => items.iter().flat_map(flat).collect(),
        number => vec![number.as_f64().unwrap() as f32],
    }
}

fn model(tensors: &[(&str, &[usize], Vec<f32>)]) -> Model {
    tensors.iter().map(|(name, shape, values)| ((*name).to_owned(), Array::f32(shape, values))).collect()
}

#[track_caller]
fn close(found: &Array, expected: &Value) {
    let (found, expected) = (found.values(), flat(expected));
    assert_eq!(found.len(), expected.len());
    for (f, e) in found.iter().zip(&expected) {
        assert!((f - e).abs() < 1e-6, "{found:?}, expected {expected:?}");
    }
}

const FISHER: Said<'_> = &[("kind", "fisher"), ("examples", "3"), ("option.fisher", "exact")];
const GRAM: Said<'_> = &[("kind", "gram"), ("examples", "3")];

/// Models `a` and `b` of the goldens with the vector `w` and the map `h.weight`, and their statistics.
fn goldens() -> TempDir {
    let dir = temp();
    let (fisher, gram) = (golden("fisher"), golden("regmean"));
    for (m, name) in ["a", "b"].iter().enumerate() {
        let weights =
            [("w", &[3][..], flat(&fisher["theta"][m])), ("h.weight", &[2, 2], flat(&gram["W_out_in"][m]))];
        write_model(&dir.path().join(name), &model(&weights), &json!({"model_type": "none"}));
        let file = |kind: &str| dir.path().join(format!("{name}-{kind}.safetensors"));
        write_statistics(&file("fisher"), &model(&[("w", &[3], flat(&fisher["F"][m]))]), FISHER);
        write_statistics(&file("gram"), &model(&[("h.weight", &[2, 2], flat(&gram["G"][m]))]), GRAM);
    }
    dir
}

fn recipe(method: &str, kind: &str, parameters: &str) -> String {
    format!(
        "merge_method: {method}\nparameters: {{{parameters}}}\nmodels:\n\
         - {{model: a, statistics: a-{kind}.safetensors}}\n- {{model: b, statistics: b-{kind}.safetensors}}\n"
    )
}

#[test]
fn fisher_and_regmean_give_the_goldens() {
    let dir = goldens();
    let dir = dir.path();
    let golden_of = golden("fisher");
    let plain = merged(dir, &recipe("fisher", "fisher", ""), "plain", &[]);
    close(&plain["w"], &golden_of["merge_equal_eps1e-6"]);
    // Nothing was measured of the map: the mean.
    close(&plain["h.weight"], &json!([0.5, 0.5, 0.75, 0.25]));
    let normal = merged(dir, &recipe("fisher", "fisher", "normalize: true"), "normal", &[]);
    close(&normal["w"], &golden_of["merge_norm_coef_eps1e-6"]);
    let golden_of = golden("regmean");
    for (ratio, key) in [("1.0", "merged_ratio_1.0"), ("0.9", "merged_ratio_0.9"), ("0", "merged_ratio_0")] {
        let out =
            merged(dir, &recipe("regmean", "gram", &format!("ratio: {ratio}")), &format!("r{ratio}"), &[]);
        close(&out["h.weight"], &golden_of[key]);
        close(&out["w"], &json!([2.0, 1.0, 0.0]));
    }
    // What was measured tells how matrices are stored.
    for name in ["a", "b"] {
        let mut turned = read_model(&dir.join(name));
        let v = turned["h.weight"].values();
        turned.insert("h.weight".into(), Array::f32(&[2, 2], &[v[0], v[2], v[1], v[3]]));
        write_model(&dir.join(name), &turned, &json!({"model_type": "none"}));
        let file = dir.join(format!("{name}-gram.safetensors"));
        let gram = crate::support::read_file(&file);
        write_statistics(&file, &gram, &[GRAM, &[("transposed.h.weight", "")]].concat());
    }
    let v = merged(dir, &recipe("regmean", "gram", ""), "turned", &[])["h.weight"].values();
    close(&Array::f32(&[2, 2], &[v[0], v[2], v[1], v[3]]), &golden_of["merged_ratio_0.9"]);
}

/// The base counts where it is listed, and names may lack the donor's prefix, or have one more.
#[test]
fn a_listed_base_and_other_prefixes() {
    let dir = goldens();
    let dir = dir.path();
    let expected = &golden("fisher")["merge_equal_eps1e-6"];
    let text = recipe("fisher", "fisher", "");
    close(&merged(dir, &format!("base_model: a\n{text}"), "based", &[])["w"], expected);
    let prefixed = |model: Model| -> Model {
        model.into_iter().map(|(name, tensor)| (format!("model.{name}"), tensor)).collect()
    };
    write_model(&dir.join("c"), &prefixed(read_model(&dir.join("b"))), &json!({"model_type": "none"}));
    for kind in ["fisher", "gram"] {
        let file = |name: &str| dir.join(format!("{name}-{kind}.safetensors"));
        let said = if kind == "fisher" { FISHER } else { GRAM };
        write_statistics(&file("c"), &prefixed(crate::support::read_file(&file("b"))), said);
    }
    let of = |text: &str| text.replace("model: b, statistics: b", "model: c, statistics: c");
    close(&merged(dir, &of(&text), "prefixed", &[])["w"], expected);
    let text = recipe("regmean", "gram", "");
    close(&merged(dir, &of(&text), "maps", &[])["h.weight"], &golden("regmean")["merged_ratio_0.9"]);
    let turned = text.replace("models:\n", "base_model: c\nmodels:\n");
    close(
        &merged(dir, &of(&turned), "longer", &[])["model.h.weight"],
        &golden("regmean")["merged_ratio_0.9"],
    );
}

#[test]
fn a_merge_tells_what_was_measured() {
    let dir = goldens();
    let dir = dir.path();
    let text = recipe("fisher", "fisher", "");
    let ran = merge(dir, &text, "out", &["--dry-run"]).ok();
    assert!(
        ran.stdout.contains("a: statistics ./a-fisher.safetensors (3 examples, fisher exact)"),
        "{}",
        ran.stdout
    );
    assert!(!dir.join("out").exists());
    merge(dir, &text, "out", &[]).ok();
    let record = crate::support::json_file(&dir.join("out/onefold.json"));
    assert_eq!(record["statistics"].as_array().map(Vec::len), Some(2));
    assert!(merge(dir, &text, "out", &[]).ok().stderr.contains("is there already"));
    // Other numbers are another job.
    let file = dir.join("a-fisher.safetensors");
    write_statistics(&file, &model(&[("w", &[3], vec![1.0, 2.0, 3.0])]), FISHER);
    merge(dir, &text, "out", &[]).fails(2, &["exists already"]);
    // Several ways of measuring are worth a warning.
    let other = [("kind", "fisher"), ("examples", "3"), ("option.fisher", "empirical")];
    write_statistics(&file, &model(&[("w", &[3], vec![1.0, 2.0, 3.0])]), &other);
    assert!(merge(dir, &text, "other", &[]).ok().stderr.contains("in different ways"));
    // Its own file is no place for a result.
    merge(dir, &text, "a-fisher.safetensors", &["--force"]).fails(2, &["a-fisher.safetensors"]);
    let listed = onefold(dir, &["methods"]).ok().stdout;
    for name in ["  fisher ", "  fisher_nodes ", "  regmean "] {
        assert!(listed.contains(name), "{listed}");
    }
    let explained = onefold(dir, &["methods", "regmean"]).ok().stdout;
    assert!(
        explained.contains("Gram matrices of the inputs") && explained.contains("statistics: FILE"),
        "{explained}"
    );
}

#[test]
fn statistics_that_do_not_fit_are_refused_by_name() {
    let dir = goldens();
    let dir = dir.path();
    let w = |shape: &[usize], values: Vec<f32>| model(&[("w", shape, values)]);
    let write = |name: &str, model: &Model, said: Said<'_>| write_statistics(&dir.join(name), model, said);
    write("wide.st", &w(&[4], vec![1.0; 4]), FISHER);
    write("strange.st", &model(&[("v", &[3], vec![1.0; 3])]), FISHER);
    write("nan.st", &w(&[3], vec![1.0, f32::NAN, 1.0]), FISHER);
    write("negative.st", &w(&[3], vec![1.0, 1.0, -1.0]), FISHER);
    write("nothing.st", &w(&[3], vec![1.0; 3]), &[]);
    write("map.st", &model(&[("h.weight", &[2, 2], vec![1.0; 4])]), FISHER);
    let fisher = recipe("fisher", "fisher", "");
    let b = ", statistics: b-fisher.safetensors";
    let of = |name: &str| format!(", statistics: {name}");
    for (text, code, parts) in [
        (fisher.replace(b, ""), 2, &["no `statistics` for the model `b`", "onefold adapt"][..]),
        (
            format!("base_model: a\n{}", fisher.replace(", statistics: a-fisher.safetensors", "")),
            2,
            &["no `statistics` for the model `a`"],
        ),
        (fisher.replace(b, &of("none.st")), 2, &["models[1].statistics", "none.st"]),
        (fisher.replace(b, &of("b/model.safetensors")), 2, &["no statistics of a model"]),
        (fisher.replace(b, &of("nothing.st")), 2, &["nothing.st", "no statistics of a model"]),
        (fisher.replace(b, &of("b-gram.safetensors")), 2, &["holds statistics of kind `gram`, expected `fisher`"]),
        (fisher.replace(b, &of("wide.st")), 2, &["the statistics of b have shape [4], expected [3]"]),
        (fisher.replace(b, &of("strange.st")), 2, &["not of the model b: it has no tensor v"]),
        (fisher.replace(b, &of("map.st")), 2, &["tensor `w`", "measured of other models, and not of b"]),
        (fisher.replace(b, &of("nan.st")), 1, &["tensor `w`", "statistics of b is NaN"]),
        (fisher.replace(b, &of("negative.st")), 1, &["tensor `w`", "statistics of b is -1"]),
        (fisher.replace("fisher\np", "linear\np").replace("{}", "{weight: 1}"), 2, &["`linear` needs no statistics"]),
        (fisher.replace("{}", "{ratio: 1}"), 2, &["`fisher` has no setting"]),
        (recipe("fisher_nodes", "fisher", ""), 2, &["kind `fisher`, expected `nodes`"]),
        (
            "merge_method: fisher\nslices:\n- sources:\n  - {model: a, layer_range: [0, 1], statistics: a-fisher.safetensors}\n"
                .into(),
            2,
            &["`fisher` merges whole models"],
        ),
        (format!("{fisher}statistics: a-fisher.safetensors\n"), 2, &["`statistics` stands beside `model`"]),
    ] {
        let ran = merge(dir, &text, "out", &[]);
        ran.fails(code, parts);
        assert!(!dir.join("out").exists(), "{text}");
    }
}

/// A bert of one layer with two heads of one number, and the map `query` (and `value`) of the golden.
fn bert(map: &Value) -> (Model, Value) {
    let config = json!({"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 2, "intermediate_size": 3,
        "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 5, "max_position_embeddings": 4,
        "type_vocab_size": 1, "hidden_act": "gelu"});
    let mut weights = Model::new();
    let mut put = |name: &str, shape: &[usize]| {
        let (n, first) = (shape.iter().product(), flat(map)[0]);
        weights.insert(name.to_owned(), Array::f32(shape, &vec![first; n]));
    };
    for (name, rows) in [("word", 5), ("position", 4), ("token_type", 1)] {
        put(&format!("embeddings.{name}_embeddings.weight"), &[rows, 2]);
    }
    let layer = |part: &str| format!("encoder.layer.0.{part}");
    let maps = [
        ("attention.self.query", 2, 2),
        ("attention.self.key", 2, 2),
        ("attention.self.value", 2, 2),
        ("attention.output.dense", 2, 2),
        ("intermediate.dense", 3, 2),
        ("output.dense", 2, 3),
    ];
    for (name, outputs, inputs) in maps {
        put(&layer(&format!("{name}.weight")), &[outputs, inputs]);
        put(&layer(&format!("{name}.bias")), &[outputs]);
    }
    put("pooler.dense.weight", &[2, 2]);
    put("pooler.dense.bias", &[2]);
    for name in
        ["embeddings.LayerNorm".to_owned(), layer("attention.output.LayerNorm"), layer("output.LayerNorm")]
    {
        put(&format!("{name}.weight"), &[2]);
        put(&format!("{name}.bias"), &[2]);
    }
    for name in ["query", "value"] {
        weights.insert(layer(&format!("attention.self.{name}.weight")), Array::f32(&[2, 2], &flat(map)));
    }
    (weights, config)
}

#[test]
fn mask_nodes_give_the_goldens() {
    let dir = temp();
    let golden_of = golden("fisher_nodes");
    for (m, name) in ["a", "b"].iter().enumerate() {
        let (weights, config) = bert(&golden_of["W"][m]);
        write_model(&dir.path().join(name), &weights, &config);
        let nodes = [
            ("0.heads", &[2][..], flat(&golden_of["head_fisher"][m])),
            ("0.neurons", &[3], vec![0.5, 0.0, 1.0 + m as f32]),
        ];
        let file = dir.path().join(format!("{name}-nodes.safetensors"));
        write_statistics(&file, &model(&nodes), &[("kind", "nodes"), ("examples", "8")]);
    }
    let dir = dir.path();
    let out = merged(dir, &recipe("fisher_nodes", "nodes", ""), "out", &[]);
    let part = |name: &str| &out[&format!("encoder.layer.0.{name}")];
    close(part("attention.self.query.weight"), &golden_of["merged_query_rows_per_head"]);
    close(part("attention.self.value.weight"), &golden_of["merged_value_or_output_layer_mean"]);
    // Weights are 1 and 2: F of neurons 0.5 each, none, 1 and 2.
    close(part("intermediate.dense.bias"), &json!([1.5, 1.5, 5.0 / 3.0]));
    close(&out["pooler.dense.bias"], &json!([1.5, 1.5]));
    // Both means of both models: (0.25 + 0.5) / 2 and (0.4 + 2.5 / 3) / 2.
    let elsewhere = merged(dir, &recipe("fisher_nodes", "nodes", "mean_elsewhere: true"), "elsewhere", &[]);
    let (a, b) = (0.375, (0.4 + 2.5 / 3.0) / 2.0);
    let mean = (a + 2.0 * b) / (a + b);
    close(&elsewhere["pooler.dense.bias"], &json!([mean, mean]));
    close(
        &elsewhere["encoder.layer.0.attention.self.query.weight"],
        &golden_of["merged_query_rows_per_head"],
    );
    let few = model(&[("0.heads", &[3], vec![1.0; 3]), ("0.neurons", &[3], vec![1.0; 3])]);
    write_statistics(&dir.join("b-nodes.safetensors"), &few, &[("kind", "nodes"), ("examples", "8")]);
    merge(dir, &recipe("fisher_nodes", "nodes", ""), "few", &[])
        .fails(2, &["b-nodes", "not of the model b", "heads"]);
}
