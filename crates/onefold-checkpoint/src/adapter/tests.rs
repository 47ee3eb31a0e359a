#![allow(clippy::disallowed_methods, reason = "fixtures are written plainly")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::delta::{Dora, Factor, LowRank};
use super::*;
use crate::tensor::tests::InMemory;
use crate::{Checkpoint, Dtype, Tensor, header};

/// PEFT multiplies and norms in f32 in another order of summation; with at most 5 ranks and rows of at most 24 that
/// moves a result by a few units of 2^-24 of the largest term. The scale is the tensor's largest magnitude because
/// terms cancel.
const TOLERANCE: f32 = 1e-6;

const CASES: [(&str, &str); 16] = [
    ("plain", "llama"),
    ("rslora", "llama"),
    ("patterns", "llama"),
    ("dora", "llama"),
    ("modules_to_save", "llama"),
    ("embedding", "llama"),
    ("embedding_dora", "llama"),
    ("resized", "llama"),
    ("lora_bias", "llama"),
    ("bias_all", "llama"),
    ("tokens", "llama"),
    ("bf16_base", "llama_bf16"),
    ("gpt2", "gpt2"),
    ("gpt2_dora", "gpt2"),
    ("conv", "conv"),
    ("conv_dora", "conv"),
];

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/adapter")
}

fn whole(tensor: &Tensor) -> Vec<f32> {
    let mut values = vec![0.0; tensor.len()];
    tensor.read(0, &mut values);
    values
}

/// What is said of an update as factors, with what is computed.
#[test]
fn updates_are_a_base_and_a_product() {
    let mut found = BTreeMap::new();
    for (case, base) in CASES {
        let base = Checkpoint::open(&testdata().join(format!("base_{base}"))).unwrap();
        let merged = apply(base, &testdata().join(case)).unwrap();
        let updates = merged.tensors().values().filter_map(|tensor| Some((tensor, tensor.update()?)));
        for (tensor, update) in updates {
            let [rows, rank, cols] = update.dimensions();
            let (mut left, mut right) = (vec![0.0; rank * rows], vec![0.0; rank * cols]);
            update.read_left(0..rows, &mut left);
            update.read_right(&mut right);
            let (base, expected) = (whole(update.base()), whole(tensor));
            let largest = expected.iter().fold(0f32, |most, v| most.max(v.abs()));
            for (at, expected) in expected.iter().enumerate() {
                let sum: f32 =
                    (0..rank).map(|k| left[k * rows + at / cols] * right[k * cols + at % cols]).sum();
                assert!((base[at] + sum - expected).abs() <= TOLERANCE * largest, "{case}: {at}");
            }
            // Some rows alone.
            let mut part = vec![0.0; rank * (rows - 1)];
            update.read_left(1..rows, &mut part);
            let same = |k: usize| part[k * (rows - 1)..][..rows - 1] == left[k * rows + 1..(k + 1) * rows];
            assert!((0..rank).all(same), "{case}");
            *found.entry(case).or_insert(0) += 1;
        }
    }
    assert!(found["plain"] > 0 && found["gpt2"] > 0 && found["embedding"] > 0, "{found:?}");
    assert!(!found.contains_key("dora"), "it scales the base, too: {found:?}");
}

#[test]
fn merged_tensors_are_those_of_peft() {
    for (case, base) in CASES {
        let open = |path: PathBuf| Checkpoint::open(&path).unwrap();
        let base_path = testdata().join(format!("base_{base}"));
        let base = open(base_path.clone());
        let names: Vec<_> = base.tensors().keys().cloned().collect();
        let expected = open(testdata().join(case).join("expected.safetensors"));
        let merged = apply(open(base_path.clone()), &testdata().join(case)).unwrap();
        assert_eq!(merged.tensors().keys().cloned().collect::<Vec<_>>(), names, "{case}");
        assert_eq!((merged.dir(), merged.files().len()), (base_path.as_path(), 2), "{case}");
        for (name, tensor) in merged.tensors() {
            let Some(expected) = expected.tensors().get(name) else {
                assert_eq!(whole(tensor), whole(&base.tensors()[name]), "{case}: {name} must not change");
                continue;
            };
            assert_eq!(tensor.shape, expected.shape, "{case}: {name}");
            let (found, expected) = (whole(tensor), whole(expected));
            let scale = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
            let worst = found.iter().zip(&expected).map(|(f, e)| (f - e).abs()).fold(0f32, f32::max);
            assert!(worst <= TOLERANCE * scale, "{case}: {name}: {} of the largest", worst / scale);
        }
    }
}

#[test]
fn computed_tensors_keep_the_dtype_of_the_base() {
    let base = Checkpoint::open(&testdata().join("base_llama_bf16")).unwrap();
    let merged = apply(base, &testdata().join("bf16_base")).unwrap();
    assert!(merged.tensors().values().all(|t| t.dtype == Dtype::BF16));
    assert_eq!(merged.tensors().values().filter(|t| t.stored().is_none()).count(), 6);
}

/// A base and an adapter on disk, made of zeros except where a test does not care.
struct Fixture {
    dir: tempfile::TempDir,
    base: BTreeMap<String, (Dtype, Vec<usize>)>,
    adapter: BTreeMap<String, (Dtype, Vec<usize>)>,
    config: Value,
}

const ROOT: &str = "base_model.model.";

impl Fixture {
    /// `model.q` `[4, 6]` and `model.s` `[5, 5]`, each with a pair of rank 2.
    fn new() -> Self {
        let config = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4});
        let dir = tempfile::tempdir().unwrap();
        let fixture = Self { dir, base: BTreeMap::new(), adapter: BTreeMap::new(), config };
        let fixture = fixture.base("model.q.weight", &[4, 6]).base("model.s.weight", &[5, 5]);
        fixture.pair("model.q", &[4, 2], &[2, 6]).pair("model.s", &[5, 2], &[2, 5])
    }

    fn base(mut self, name: &str, shape: &[usize]) -> Self {
        self.base.insert(name.into(), (Dtype::F32, shape.to_vec()));
        self
    }

    fn adapter(mut self, name: &str, shape: &[usize]) -> Self {
        self.adapter.insert(format!("{ROOT}{name}"), (Dtype::F32, shape.to_vec()));
        self
    }

    fn pair(self, path: &str, b: &[usize], a: &[usize]) -> Self {
        self.adapter(&format!("{path}.lora_A.weight"), a).adapter(&format!("{path}.lora_B.weight"), b)
    }

    fn without(mut self, name: &str) -> Self {
        self.adapter.remove(&format!("{ROOT}{name}")).unwrap();
        self
    }

    fn set(mut self, key: &str, value: Value) -> Self {
        self.config[key] = value;
        self
    }

    fn apply(&self) -> Result<Checkpoint, Vec<crate::CheckpointError>> {
        let (base, adapter) = (self.dir.path().join("base"), self.dir.path().join("adapter"));
        fs::create_dir_all(&base).unwrap();
        fs::create_dir_all(&adapter).unwrap();
        write(&base.join("model.safetensors"), &self.base);
        write(&adapter.join("adapter_model.safetensors"), &self.adapter);
        fs::write(adapter.join("adapter_config.json"), self.config.to_string()).unwrap();
        super::apply(Checkpoint::open(&base).unwrap(), &adapter)
    }

    fn accepted(&self) -> Checkpoint {
        self.apply().unwrap()
    }

    /// The one error, as text.
    #[track_caller]
    fn refused(&self) -> String {
        let errors = self.apply().expect_err("must be refused");
        let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), 1, "{texts:#?}");
        texts[0].clone()
    }
}

fn write(path: &Path, tensors: &BTreeMap<String, (Dtype, Vec<usize>)>) {
    let bytes = |(dtype, shape): &(Dtype, Vec<usize>)| dtype.size() * shape.iter().product::<usize>();
    let entries = tensors.iter().map(|(name, t)| (name.as_str(), t.0, &t.1[..], bytes(t) as u64));
    let mut file = header::encode(entries, &BTreeMap::new());
    let total: usize = tensors.values().map(bytes).sum();
    // 0x3c3c3c3c is 0.0115 as F32 and 1.06 as F16: no zeros, so that reading the wrong place can be seen.
    file.resize(file.len() + total, 0x3c);
    fs::write(path, file).unwrap();
}

#[track_caller]
fn contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}

#[test]
fn a_fitting_adapter_changes_only_its_modules() {
    let merged = Fixture::new().base("norm.weight", &[3]).accepted();
    let computed: Vec<_> =
        merged.tensors().iter().filter(|(_, t)| t.stored().is_none()).map(|(n, _)| n).collect();
    assert_eq!(computed, ["model.q.weight", "model.s.weight"]);
    let value = f32::from_bits(0x3c3c_3c3c);
    let values = whole(&merged.tensors()["model.q.weight"]);
    // alpha / r = 2, two ranks
    assert!(values.iter().all(|v| (v - (value + 2.0 * 2.0 * value * value)).abs() < 1e-9), "{values:?}");
}

#[test]
fn a_prefix_more_or_less_is_bridged() {
    let more = Fixture::new().base("lm_head.weight", &[2, 6]);
    let mut fewer = Fixture::new();
    fewer.base = [("q.weight", vec![4, 6]), ("s.weight", vec![5, 5])]
        .map(|(name, shape)| (name.to_owned(), (Dtype::F32, shape)))
        .into();
    assert!(fewer.accepted().tensors()["q.weight"].stored().is_none());
    let mut longer = more;
    longer.base = longer.base.into_iter().map(|(name, t)| (format!("language_model.{name}"), t)).collect();
    let longer = longer.pair("lm_head", &[2, 2], &[2, 6]).accepted();
    assert!(longer.tensors()["language_model.model.q.weight"].stored().is_none());
    assert!(longer.tensors()["language_model.lm_head.weight"].stored().is_none());
}

/// PEFT names modules as they run, and transformers 5 runs vit's under other names than it stores them.
#[test]
fn modules_of_vit_are_found_in_its_files() {
    let attention = "vit.encoder.layer.1.attention";
    let files = [
        (format!("{attention}.attention.query.weight"), "vit.layers.1.attention.q_proj"),
        (format!("{attention}.output.dense.weight"), "vit.layers.1.attention.o_proj"),
        ("vit.encoder.layer.1.output.dense.weight".to_owned(), "vit.layers.1.mlp.fc2"),
    ];
    for prefix in ["", "vit."] {
        let mut fixture = Fixture::new();
        (fixture.base, fixture.adapter) = Default::default();
        for (file, module) in &files {
            fixture = fixture.base(file, &[4, 6]);
            fixture = fixture.pair(&format!("{prefix}{}", &module[4..]), &[4, 2], &[2, 6]);
        }
        let merged = fixture.accepted();
        assert!(files.iter().all(|(file, _)| merged.tensors()[file].stored().is_none()), "{prefix}");
    }
    let other = Fixture::new().pair("vit.layers.1.attention.k_proj", &[4, 2], &[2, 6]);
    contains(&other.refused(), &["vit.layers.1.attention.k_proj"]);
}

#[test]
fn names_that_fit_twice_or_in_different_ways_are_refused() {
    let mut twice = Fixture::new().base("a.model.q.weight", &[4, 6]).base("b.model.q.weight", &[4, 6]);
    twice.base.remove("model.q.weight");
    contains(&twice.refused(), &["model.q.weight", "a.model.q.weight", "b.model.q.weight"]);
    let mut mixed = Fixture::new().base("a.model.q.weight", &[4, 6]).base("b.model.s.weight", &[5, 5]);
    mixed.base.remove("model.q.weight");
    mixed.base.remove("model.s.weight");
    contains(&mixed.refused(), &["model.q.weight -> a.model.q.weight", "model.s.weight -> b.model.s.weight"]);
}

#[test]
fn tensors_without_a_place_are_refused_with_both_names() {
    let lost = Fixture::new().pair("model.lost", &[4, 2], &[2, 6]);
    contains(&lost.refused(), &["model.lost.lora_A.weight", "base tensor `model.lost.weight`"]);
    let whole = Fixture::new().adapter("score.weight", &[3, 6]);
    contains(&whole.refused(), &["`score.weight`"]);
    let added = whole.set("modules_to_save", json!(["classifier", "score"])).accepted();
    assert_eq!(added.tensors()["score.weight"].shape, [3, 6]);
    let mut foreign = Fixture::new();
    foreign.adapter.insert("model.q.lora_A.weight".into(), (Dtype::F32, vec![2, 6]));
    contains(&foreign.refused(), &["`model.q.lora_A.weight` has a name that is not known"]);
    for name in
        ["model.q.lora_A.default.weight", "model.q.lora_C.weight", "model.q.lora_E", "e.trainable_tokens_x"]
    {
        contains(&Fixture::new().adapter(name, &[2, 6]).refused(), &[name, "not known"]);
    }
}

#[test]
fn shapes_of_another_base_are_refused_with_both_shapes() {
    let wrong = Fixture::new().pair("model.q", &[4, 2], &[2, 7]).refused();
    contains(&wrong, &["adapter for another base", "[4, 7]", "[4, 6]"]);
    for (b, a) in [(&[4, 2, 1][..], &[2, 6][..]), (&[4, 2, 1, 1], &[2, 6, 1, 1]), (&[4, 2], &[2])] {
        contains(&Fixture::new().pair("model.q", b, a).refused(), &["another base"]);
    }
    let rank = Fixture::new().pair("model.q", &[4, 3], &[3, 6]).refused();
    contains(&rank, &["rank 2", "[4, 3]", "[3, 6]"]);
    contains(&Fixture::new().pair("model.q", &[4], &[2, 6]).refused(), &["rank 2", "[4]"]);
    contains(&Fixture::new().pair("model.q", &[4, 2], &[]).refused(), &["rank 2", "[]"]);
    let grouped = Fixture::new().base("c.weight", &[4, 3, 2, 2]).pair("c", &[4, 1, 1, 1], &[2, 6, 2, 2]);
    contains(&grouped.refused(), &["lora_B [4, 1, 1, 1]"]);
}

#[test]
fn whole_tensors_may_have_other_rows_but_not_other_columns() {
    let rows = Fixture::new().base("e.weight", &[4, 6]).adapter("e.weight", &[9, 6]).accepted();
    assert_eq!(rows.tensors()["e.weight"].shape, [9, 6]);
    assert_eq!(rows.tensors()["e.weight"].len(), 54);
    let columns = Fixture::new().base("e.weight", &[4, 6]).adapter("e.weight", &[4, 7]).refused();
    contains(&columns, &["[4, 7]", "[4, 6]"]);
    let bias = || Fixture::new().base("h.bias", &[4]).adapter("h.bias", &[5]);
    contains(&bias().refused(), &["[5]", "[4]"]);
    assert_eq!(bias().set("modules_to_save", json!(["h"])).accepted().tensors()["h.bias"].shape, [5]);
}

#[test]
fn listed_modules_must_be_in_the_file_if_the_base_has_them() {
    let fixture =
        || Fixture::new().base("lm_head.weight", &[3, 6]).set("modules_to_save", json!(["lm_head"]));
    contains(&fixture().refused(), &["`lm_head`", "lm_head.weight", "does not hold"]);
    fixture().adapter("lm_head.weight", &[3, 6]).accepted();
}

#[test]
fn parts_must_be_complete_and_agree_with_the_configuration() {
    let half = Fixture::new().without("model.q.lora_B.weight").refused();
    contains(&half, &["model.q", "`lora_A.weight` but no `lora_B.weight`"]);
    let magnitude = Fixture::new().adapter("model.q.lora_magnitude_vector", &[4]).refused();
    contains(&magnitude, &["lora_magnitude_vector", "use_dora: false"]);
    let dora = || {
        let fixture =
            Fixture::new().set("use_dora", json!(true)).adapter("model.s.lora_magnitude_vector", &[5]);
        fixture.adapter("model.q.lora_magnitude_vector.weight", &[4])
    };
    dora().accepted();
    contains(&dora().without("model.s.lora_magnitude_vector").refused(), &["not in", "use_dora: true"]);
    let length = dora().without("model.q.lora_magnitude_vector.weight");
    contains(&length.adapter("model.q.lora_magnitude_vector", &[6]).refused(), &["[6]", "[4, 6]"]);
    let alone = Fixture::new().adapter("model.z.lora_magnitude_vector", &[4]).refused();
    contains(&alone, &["model.z", "no `lora_A.weight`"]);
    let twice = dora().adapter("model.q.lora_magnitude_vector", &[4]).refused();
    contains(&twice, &["lora_magnitude_vector.weight"]);
}

#[test]
fn biases_of_factors_need_a_bias_in_the_base() {
    let fixture = || {
        let fixture = Fixture::new().without("model.s.lora_A.weight").without("model.s.lora_B.weight");
        fixture.set("lora_bias", json!(true)).adapter("model.q.lora_B.bias", &[4])
    };
    contains(&fixture().refused(), &["model.q.lora_B.bias", "model.q.bias"]);
    contains(&fixture().base("model.q.bias", &[5]).refused(), &["another base", "[5]"]);
    fixture().base("model.q.bias", &[4]).accepted();
    let contradiction = fixture().base("model.q.bias", &[4]).set("lora_bias", json!(false)).refused();
    contains(&contradiction, &["lora_B.bias", "lora_bias: false"]);
}

#[test]
fn one_tensor_is_changed_once() {
    let both = Fixture::new().base("model.s.bias", &[5]).adapter("model.s.bias", &[5]);
    contains(&both.adapter("model.s.base_layer.bias", &[5]).refused(), &["model.s.bias", "two parts"]);
    let two = Fixture::new()
        .adapter("model.q.lora_embedding_A", &[2, 4])
        .adapter("model.q.lora_embedding_B", &[6, 2]);
    contains(&two.refused(), &["lora_embedding_A", "model.q"]);
    let bias = Fixture::new().base("model.q.bias", &[4]).adapter("model.q.bias", &[4]).accepted();
    assert!(bias.tensors()["model.q.bias"].stored().is_some());
    let mut prefixed = Fixture::new().pair("x.model.q", &[4, 2], &[2, 6]);
    contains(&prefixed.refused(), &["two parts", "x.model.q.lora_A.weight"]);
    prefixed = prefixed.without("model.q.lora_A.weight").without("model.q.lora_B.weight");
    prefixed.accepted();
}

#[test]
fn orientation_comes_from_shapes_then_from_equal_names_then_from_the_flag() {
    // Two square modules and one that is not; the flag is right, contradicted, and overruled by a module of that name.
    let conv1d = || Fixture::new().base("model.q.weight", &[6, 4]);
    conv1d().set("fan_in_fan_out", json!(true)).accepted();
    contains(&conv1d().refused(), &["model.s", "square", "fan_in_fan_out: false"]);
    conv1d().base("mlp.s.weight", &[7, 3]).pair("mlp.s", &[3, 2], &[2, 7]).accepted();
    let torn = conv1d().base("a.s.weight", &[7, 3]).pair("a.s", &[3, 2], &[2, 7]);
    contains(&torn.base("b.s.weight", &[3, 7]).pair("b.s", &[3, 2], &[2, 7]).refused(), &["model.s"]);
}

#[test]
fn what_is_not_floating_point_takes_no_delta() {
    let mut base = Fixture::new();
    base.base.insert("model.q.weight".into(), (Dtype::U8, vec![4, 6]));
    contains(&base.refused(), &["model.q.weight", "U8", "unquantised"]);
    let mut scaled = Fixture::new().base("model.q.weight_scale_inv", &[1]);
    scaled.base.insert("model.q.weight".into(), (Dtype::F8E4M3, vec![4, 6]));
    contains(&scaled.refused(), &["scales", "F8_E4M3"]);
    let mut factor = Fixture::new();
    factor.adapter.insert(format!("{ROOT}model.q.lora_A.weight"), (Dtype::I64, vec![2, 6]));
    contains(&factor.refused(), &["I64"]);
}

#[test]
fn replaced_rows_must_fit_their_list() {
    let fixture = |indices: Value| {
        let fixture = Fixture::new().base("e.weight", &[8, 6]).set("trainable_token_indices", indices);
        fixture.adapter("e.token_adapter.trainable_tokens_delta", &[2, 6])
    };
    fixture(json!([7, 0])).accepted();
    fixture(json!({"e": [7, 0]})).accepted();
    contains(&fixture(json!([8, 0])).refused(), &["token 8", "8 rows"]);
    contains(&fixture(json!([3, 3])).refused(), &["token 3", "twice"]);
    contains(&fixture(json!([3])).refused(), &["[2, 6]", "[8, 6]"]);
    contains(&fixture(json!([])).refused(), &["0 entries"]);
    contains(&fixture(json!({"f": [7, 0]})).refused(), &["0 entries"]);
    // A tied head is listed but neither stored nor saved; one that is stored would keep its old rows.
    let tied = || fixture(json!({"e": [7, 0], "lm_head": [7, 0]}));
    tied().accepted();
    let untied = tied().base("lm_head.weight", &[8, 6]).refused();
    contains(&untied, &["module `lm_head`", "not in the file"]);
    let twice = fixture(json!([7, 0])).pair("e", &[8, 2], &[2, 6]).apply().expect_err("must be refused");
    contains(&twice[0].to_string(), &["two parts"]);
}

#[test]
fn missing_files_and_empty_adapters_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let apply = |dir: &Path| {
        let base = Checkpoint::open(&testdata().join("base_conv")).unwrap();
        super::apply(base, dir).expect_err("must be refused")[0].to_string()
    };
    contains(&apply(dir.path()), &["adapter_config.json"]);
    fs::create_dir(dir.path().join("named")).unwrap();
    fs::write(dir.path().join("named/adapter_config.json"), "{}").unwrap();
    contains(&apply(dir.path()), &["sub-directories", "named"]);
    fs::write(dir.path().join("adapter_config.json"), r#"{"peft_type": "LORA"}"#).unwrap();
    contains(&apply(dir.path()), &["adapter_model.safetensors or adapter_model.bin"]);
    write(&dir.path().join("adapter_model.safetensors"), &BTreeMap::new());
    contains(&apply(dir.path()), &["no tensors"]);
    fs::write(dir.path().join("adapter_model.safetensors"), "no").unwrap();
    contains(&apply(dir.path()), &["adapter_model.safetensors"]);
    let large = fs::File::create(dir.path().join("adapter_config.json")).unwrap();
    large.set_len((16 << 20) + 1).unwrap();
    contains(&apply(dir.path()), &["more than the limit"]);
}

fn refused(config: &Value) -> Vec<AdapterError> {
    parse_config(config.to_string().as_bytes()).expect_err("must be refused")
}

fn with(key: &str, value: Value) -> Value {
    let mut config = json!({"peft_type": "LORA"});
    config[key] = value;
    config
}

#[test]
fn other_methods_are_refused_by_name() {
    let error = |config: Value| refused(&config)[0].clone();
    let loha = error(json!({"peft_type": "LOHA", "rank_dropout": 0.1}));
    assert_eq!(loha, AdapterError::PeftType { found: "LOHA".into() });
    assert_eq!(error(json!({})), AdapterError::PeftType { found: "(not given)".into() });
    assert!(matches!(error(json!({"peft_type": 3})), AdapterError::Value { .. }));
    for text in ["", "[]", "nul", "{\"peft_type\": \"LORA\"", "\u{feff}{}"] {
        let errors = parse_config(text.as_bytes()).expect_err("must be refused");
        assert!(matches!(errors[0], AdapterError::ConfigInvalid { .. }), "{text}");
    }
}

#[test]
fn every_unsupported_feature_is_refused_and_neutral_values_are_not() {
    let features = [
        ("layer_replication", json!([[0, 4], [2, 5]])),
        ("target_parameters", json!(["experts.gate_up_proj"])),
        ("ensure_weight_tying", json!(true)),
        ("alora_invocation_tokens", json!([1])),
        ("arrow_config", json!({"top_k": 2})),
        ("use_qalora", json!(true)),
        ("use_bdlora", json!({"nblocks": 2})),
        ("kasa_config", json!({"beta": 1})),
        ("velora_config", json!({"scale": 1})),
        ("monteclora_config", json!({"num_samples": 1})),
        ("init_lora_weights", json!("pissa")),
        ("init_lora_weights", json!("pissa_niter_4")),
        ("init_lora_weights", json!("olora")),
        ("init_lora_weights", json!("corda")),
        ("init_lora_weights", json!("loftq")),
        ("init_lora_weights", json!("lora_ga")),
        ("init_lora_weights", json!("next_year")),
        ("init_lora_weights", json!(1)),
    ];
    for (key, value) in features {
        let errors = refused(&with(key, value.clone()));
        let named = matches!(&errors[..], [AdapterError::Unsupported { key: k, .. }] if k == key);
        assert!(named, "{key} {value}: {errors:?}");
        for neutral in [json!(null), json!(false)] {
            parse_config(with(key, neutral).to_string().as_bytes()).unwrap();
        }
    }
    for start in [json!(true), json!("gaussian"), json!("eva"), json!("orthogonal"), json!("mica")] {
        parse_config(with("init_lora_weights", start).to_string().as_bytes()).unwrap();
    }
    let both = refused(&json!({"peft_type": "LORA", "use_dora": true, "lora_bias": true}));
    assert!(matches!(both[..], [AdapterError::Unsupported { .. }]));
    let unknown = refused(&with("use_magic", json!(0.5)));
    assert_eq!(unknown, [AdapterError::UnknownKey { key: "use_magic".into(), found: "0.5".into() }]);
    for neutral in [json!(null), json!(false), json!([]), json!({})] {
        parse_config(with("use_magic", neutral).to_string().as_bytes()).unwrap();
    }
    for informational in ["task_type", "target_modules", "eva_config", "megatron_core"] {
        parse_config(with(informational, json!(["x"])).to_string().as_bytes()).unwrap();
    }
}

#[test]
fn impossible_values_are_refused_with_their_key() {
    let values = [
        ("r", json!(0)),
        ("r", json!(-1)),
        ("r", json!(2.5)),
        ("r", json!("8")),
        ("lora_alpha", json!("16")),
        ("use_dora", json!("yes")),
        ("use_rslora", json!(1)),
        ("bias", json!("some")),
        ("modules_to_save", json!("lm_head")),
        ("modules_to_save", json!([""])),
        ("rank_pattern", json!([1])),
        ("rank_pattern", json!({"q": 0})),
        ("alpha_pattern", json!({"q": "x"})),
        ("trainable_token_indices", json!([-1])),
        ("trainable_token_indices", json!({"e": 1})),
        ("base_model_name_or_path", json!(7)),
    ];
    for (key, value) in values {
        let errors = refused(&with(key, value.clone()));
        let named = matches!(&errors[..], [AdapterError::Value { key: k, .. }] if k.starts_with(key));
        assert!(named, "{key} {value}: {errors:?}");
    }
    let pattern = refused(&with("rank_pattern", json!({"(?=a)": 1, "(": 2})));
    assert!(matches!(pattern[..], [AdapterError::Pattern { .. }, AdapterError::Pattern { .. }]));
    let many: BTreeMap<String, usize> = (0..1001).map(|i| (format!("a{i}+"), 1)).collect();
    assert!(matches!(refused(&with("rank_pattern", json!(many)))[..], [AdapterError::Pattern { .. }]));
    let many = refused(&json!({"peft_type": "LORA", "r": 0, "bias": 1, "magic": 1}));
    assert_eq!(many.len(), 3, "all problems together: {many:?}");
}

#[test]
fn scaling_is_alpha_over_r_and_the_first_pattern_wins() {
    let parse = |config: Value| parse_config(config.to_string().as_bytes()).unwrap();
    assert_eq!(parse(json!({"peft_type": "LORA"})).rank_and_scaling("x"), (8, 1.0));
    let config = parse(json!({
        "peft_type": "LORA", "r": 4, "lora_alpha": 2.5, "use_rslora": true, "base_model_name_or_path": "org/base",
        "rank_pattern": {"q": 16, "a.q": 9}, "alpha_pattern": {"a.q": 12},
    }));
    assert_eq!(config.rank_and_scaling("v"), (4, 1.25));
    assert_eq!(config.rank_and_scaling("a.q"), (16, 3.0));
    assert_eq!(config.base_model.as_deref(), Some("org/base"));
}

/// Values in (-1, 1) from a counter.
fn values(seed: u64, count: usize) -> Vec<f32> {
    let mix = |i: usize| (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15 ^ seed).rotate_left(29);
    (0..count).map(|i| ((mix(i).wrapping_mul(seed | 1) >> 40) as f32 / (1u64 << 23) as f32) - 1.0).collect()
}

fn tensor(seed: u64, shape: &[usize]) -> Tensor {
    Tensor::new(Dtype::F32, shape.to_vec(), Arc::new(InMemory(values(seed, shape.iter().product()))))
}

#[derive(Debug, Clone)]
struct Sizes {
    rows: usize,
    cols: usize,
    rank: usize,
    transposed: bool,
    dora: bool,
}

impl Sizes {
    fn low_rank(&self) -> Tensor {
        let (outputs, inputs) = if self.transposed { (self.cols, self.rows) } else { (self.rows, self.cols) };
        let a = Factor { tensor: tensor(2, &[self.rank, inputs]), rank_major: true, count: inputs };
        let b = Factor { tensor: tensor(3, &[outputs, self.rank]), rank_major: false, count: outputs };
        let (left, right) = if self.transposed { (a, b) } else { (b, a) };
        let dora = self.dora.then(|| Dora::new(tensor(4, &[outputs]), !self.transposed));
        let base = tensor(1, &[self.rows, self.cols]);
        let elements = LowRank { base, left, right, rank: self.rank, scaling: 0.7, dora };
        Tensor::new(Dtype::F32, vec![self.rows, self.cols], Arc::new(elements))
    }

    /// The same in f64, by the formula; and by how much errors of rows grow when these get their length.
    fn twin(&self) -> (Vec<f64>, f64) {
        let (rows, cols, rank) = (self.rows, self.cols, self.rank);
        let outputs = if self.transposed { cols } else { rows };
        let (a, b) = (values(2, rank * (rows + cols - outputs)), values(3, outputs * rank));
        let inputs = a.len() / rank;
        let output_input = |i: usize, j: usize| if self.transposed { (j, i) } else { (i, j) };
        let mut result: Vec<f64> = values(1, rows * cols).into_iter().map(f64::from).collect();
        let mut norms = vec![0.0; outputs];
        for (p, w) in result.iter_mut().enumerate() {
            let (o, i) = output_input(p / cols, p % cols);
            let product = |k: usize| f64::from(b[o * rank + k]) * f64::from(a[k * inputs + i]);
            *w += f64::from(0.7f32) * (0..rank).map(product).sum::<f64>();
            norms[o] += *w * *w;
        }
        let mut growth = 1.0;
        if self.dora {
            let magnitude = values(4, outputs);
            let factors = magnitude.iter().zip(&norms).map(|(m, norm)| f64::from(m.abs()) / norm.sqrt());
            growth = factors.fold(growth, f64::max);
            for (p, w) in result.iter_mut().enumerate() {
                let (o, _) = output_input(p / cols, p % cols);
                *w *= f64::from(magnitude[o]) / norms[o].sqrt();
            }
        }
        (result, growth)
    }
}

fn sizes() -> impl Strategy<Value = Sizes> {
    let small = (1usize..40, 1usize..40, 1usize..20);
    let long = (1usize..5, 500usize..1100, 1usize..40);
    let tall = (60usize..100, 1usize..6, 1usize..40);
    (prop_oneof![small, long, tall], any::<bool>(), any::<bool>())
        .prop_map(|((rows, cols, rank), transposed, dora)| Sizes { rows, cols, rank, transposed, dora })
}

/// Within roundings of sums of `rank` products, which are below 1.
#[track_caller]
fn assert_agrees(sizes: &Sizes) {
    let (found, (expected, growth)) = (whole(&sizes.low_rank()), sizes.twin());
    let scale = expected.iter().fold(0f64, |m, v| m.max(v.abs()));
    let most = 1e-6 * scale + growth * sizes.rank as f64 * f64::from(f32::EPSILON);
    for (f, e) in found.iter().zip(&expected) {
        assert!((f64::from(*f) - e).abs() <= most, "{sizes:?}: {f} {e}, at most {most} apart");
    }
}

/// Rows that all but vanish before DoRA gives them their length: errors grow with them.
#[test]
fn short_rows_agree_with_the_formula() {
    assert_agrees(&Sizes { rows: 2, cols: 995, rank: 11, transposed: true, dora: true });
}

proptest! {
    #[test]
    fn the_kernel_agrees_with_the_formula(sizes in sizes()) {
        assert_agrees(&sizes);
    }

    #[test]
    fn pieces_have_the_bits_of_the_whole(sizes in sizes(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6)) {
        let tensor = sizes.low_rank();
        let expected = whole(&tensor);
        let mut ends: Vec<usize> = cuts.iter().map(|c| c.index(tensor.len() + 1)).collect();
        ends.push(tensor.len());
        ends.sort_unstable();
        let fresh = sizes.low_rank();
        let mut start = 0;
        for end in ends {
            let mut piece = vec![f32::NAN; end - start];
            fresh.read(start, &mut piece);
            let same = piece.iter().zip(&expected[start..end]).all(|(a, b)| a.to_bits() == b.to_bits());
            prop_assert!(same, "{}..{}", start, end);
            start = end;
        }
    }

    #[test]
    fn no_configuration_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), key in "[a-z_]{1,12}", number in any::<i64>()) {
        let _ = parse_config(&bytes);
        let _ = parse_config(with(&key, json!(number)).to_string().as_bytes());
    }
}

#[test]
fn goldens_read_in_pieces_like_the_whole() {
    for (case, base) in CASES {
        let base = Checkpoint::open(&testdata().join(format!("base_{base}"))).unwrap();
        let merged = apply(base, &testdata().join(case)).unwrap();
        for (name, tensor) in merged.tensors() {
            let expected = whole(tensor);
            for size in [1, 7, 23] {
                for (i, expected) in expected.chunks(size).enumerate() {
                    let mut piece = vec![f32::NAN; expected.len()];
                    tensor.read(i * size, &mut piece);
                    assert_eq!(piece, expected, "{case}: {name} by {size}");
                }
            }
        }
    }
}

#[test]
fn an_adapter_may_lie_on_an_adapter() {
    let open = || Checkpoint::open(&testdata().join("base_llama")).unwrap();
    let once = apply(open(), &testdata().join("plain")).unwrap();
    let twice = apply(apply(open(), &testdata().join("plain")).unwrap(), &testdata().join("plain")).unwrap();
    let name = "model.layers.0.self_attn.q_proj.weight";
    let of = |checkpoint: &Checkpoint| whole(&checkpoint.tensors()[name]);
    for ((base, one), two) in of(&open()).iter().zip(of(&once)).zip(of(&twice)) {
        assert!((two - base - 2.0 * (one - base)).abs() < 1e-6);
    }
}
