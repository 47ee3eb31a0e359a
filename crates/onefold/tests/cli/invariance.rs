//! What must not change a bit of the result: threads, shard layouts in and out, the container of the inputs. And what
//! must: the seed.

use std::path::Path;

use serde_json::json;
use tempfile::TempDir;

use crate::support::{Array, Model, Random, merged, temp, write_model, write_sharded, write_torch};

/// Larger than a block (16,384) and than a span (131,072) of elements, with every way of being odd.
fn model(random: &mut Random, of: Option<&Model>) -> Model {
    let shapes: [(&str, &[usize], bool); 8] = [
        ("model.embed_tokens.weight", &[200, 300], false),
        ("model.layers.0.mlp.up_proj.weight", &[520, 300], false),
        ("model.layers.0.mlp.down_proj.weight", &[300, 200], true),
        ("model.layers.0.norm.weight", &[300], false),
        ("model.layers.1.mlp.up_proj.weight", &[200, 300], true),
        ("model.layers.1.norm.weight", &[300], true),
        ("model.positions", &[70_000], false),
        ("model.scalar", &[], false),
    ];
    let mut model = Model::new();
    for (name, shape, half) in shapes {
        let count = shape.iter().product();
        let mut values = random.values(count, 0.1);
        if let Some(base) = of {
            values.iter_mut().zip(base[name].values()).for_each(|(v, b)| *v = b + *v * 0.2);
        }
        let array = if half { Array::bf16(shape, &values) } else { Array::f32(shape, &values) };
        model.insert(name.into(), array);
    }
    model.insert("model.position_ids".into(), Array::i64(&[1, 9], &[0, 1, 2, 3, 4, 5, 6, 7, 8]));
    model
}

struct Fixture {
    dir: TempDir,
}

impl Fixture {
    /// `base`, `a`, `b`, `c`: under `single/` as single files, under `sharded/` and `torch/` in other containers. Random
    /// masks belong to a model by the name in the recipe, so the names are the same.
    fn new() -> Self {
        let dir = temp();
        let mut random = Random(7);
        let base = model(&mut random, None);
        let config = json!({"model_type": "llama", "num_hidden_layers": 2, "vocab_size": 200, "torch_dtype": "float32"});
        for name in ["base", "a", "b", "c"] {
            let model = if name == "base" { base.clone() } else { model(&mut random, Some(&base)) };
            write_model(&dir.path().join("single").join(name), &model, &config);
            write_sharded(&dir.path().join("sharded").join(name), &model, &config);
            write_torch(&dir.path().join("torch").join(name), &model, &config);
        }
        Self { dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}

fn recipes() -> [(&'static str, String); 10] {
    let weighted = "models: [{model: a, parameters: {weight: 0.5, DENSITY}}, {model: b, parameters: {weight: 0.3, DENSITY}}, {model: c, parameters: {weight: 0.4, DENSITY}}]";
    let three = "models: [{model: a}, {model: b}, {model: c}]";
    let with = |method: &str, density: &str| {
        format!("merge_method: {method}\nbase_model: base\n{}", weighted.replace("DENSITY", density))
    };
    [
        ("metagpt", format!("merge_method: metagpt\nbase_model: base\n{three}")),
        ("metagpt_ties", format!("merge_method: metagpt\nbase_model: base\n{three}\nparameters: {{sparsify: magnitude, consensus: sum, density: 0.4}}")),
        ("ties", with("ties", "density: 0.4")),
        ("dare_ties", with("dare_ties", "density: 0.5")),
        ("della", with("della", "density: 0.5, epsilon: 0.2")),
        ("slerp", "merge_method: slerp\nbase_model: a\nmodels: [{model: a}, {model: b}]\nparameters: {t: 0.3}".into()),
        ("karcher", format!("merge_method: karcher\n{three}")),
        ("sce", format!("merge_method: sce\nbase_model: base\n{three}\nparameters: {{select_topk: 0.3}}")),
        ("nuslerp", "merge_method: nuslerp\nmodels: [{model: a, parameters: {weight: 0.6}}, {model: b, parameters: {weight: 0.2}}]\nparameters: {nuslerp_flatten: false, nuslerp_row_wise: true}".into()),
        ("tsv_m", format!("merge_method: tsv_m\nbase_model: base\n{three}")),
    ]
}

#[test]
fn threads_layouts_and_containers_change_no_bit() {
    let fixture = Fixture::new();
    let dir = fixture.path();
    let merge = |recipe: &str, inputs: &str, out: &str, more: &[&str]| {
        let mut args = vec!["--seed", "5", "--quiet"];
        args.extend(more);
        merged(&dir.join(inputs), recipe, out, &args)
    };
    for (name, recipe) in recipes() {
        let out = |variant: &str| format!("out/{name}-{variant}");
        let one = merge(&recipe, "single", &out("1"), &["--threads", "1"]);
        assert_ne!(
            one["model.layers.0.mlp.up_proj.weight"].values().iter().fold(0.0, |m: f32, v| m.max(*v)),
            0.0
        );
        let variants: [(&str, &str, &[&str]); 6] = [
            ("2-threads", "single", &["--threads", "2"]),
            ("3-threads", "single", &["--threads", "3"]),
            ("small-shards", "single", &["--threads", "2", "--max-shard-size", "100KB"]),
            ("sharded", "sharded", &["--threads", "2"]),
            ("torch", "torch", &["--threads", "2"]),
            ("tight-memory", "single", &["--threads", "3", "--max-memory", "52MB"]),
        ];
        for (variant, inputs, more) in variants {
            let other = merge(&recipe, inputs, &out(variant), more);
            assert_eq!(other.keys().collect::<Vec<_>>(), one.keys().collect::<Vec<_>>(), "{name} {variant}");
            for (tensor, array) in &one {
                assert!(other[tensor] == *array, "{name}, {variant}: {tensor} differs");
            }
        }
        let shards = |variant: &str| {
            crate::support::listing(&dir.join("single").join(out(variant)))
                .iter()
                .filter(|n| n.ends_with("safetensors"))
                .count()
        };
        assert_eq!(shards("1"), 1, "{name}");
        assert!(shards("small-shards") > 4, "{name}");
    }
}

#[test]
fn the_seed_decides_what_is_dropped() {
    let fixture = Fixture::new();
    let dir = fixture.path().join("single");
    for (name, recipe) in recipes() {
        let with = |seed: &str, n: u32| {
            merged(&dir, &recipe, &format!("out/{name}-{seed}-{n}"), &["--seed", seed, "-q"])
        };
        let (first, again, other) = (with("1", 0), with("1", 1), with("2", 0));
        assert!(first == again, "{name}: one seed, one result");
        let random = ["dare_ties", "della"].contains(&name);
        assert_eq!(first != other, random, "{name}: only random methods look at the seed");
    }
}
