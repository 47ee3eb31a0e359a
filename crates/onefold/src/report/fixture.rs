//! Test data: three experts over twelve layers, made from small vectors so that every Gramian is a true one.

use super::health::{CopiedTensor, DtypeCount, Health, TensorHealth, Totals};

/// A survey entry from actual vectors (one per model, equal lengths).
pub(super) fn tensor(name: &str, vectors: &[Vec<f64>]) -> TensorHealth {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let pairs = (0..vectors.len()).flat_map(|i| (i..vectors.len()).map(move |j| (i, j)));
    let elements = vectors.first().map_or(0, Vec::len);
    TensorHealth {
        name: name.to_owned(),
        dtype: "BF16".to_owned(),
        shape: vec![elements],
        elements: elements as u64,
        gramian: pairs.map(|(i, j)| dot(&vectors[i], &vectors[j])).collect(),
        ..TensorHealth::default()
    }
}

/// One tensor; vectors as given.
pub(super) fn plain(base: Option<&[f64]>, experts: &[&[f64]]) -> Health {
    let vectors: Vec<Vec<f64>> = base.iter().chain(experts).map(|vector| vector.to_vec()).collect();
    let names: Vec<String> = (1..=experts.len()).map(|t| format!("expert-{t}")).collect();
    Health {
        base: base.map(|_| "base".to_owned()),
        vectors: base.map(|_| "base".to_owned()).into_iter().chain(names.clone()).collect(),
        experts: names,
        tensors: vec![tensor("model.layers.0.weight", &vectors)],
        ..Health::default()
    }
}

/// Uniform numbers in [−1, 1) by a linear congruential generator: the same on every machine.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    }

    fn vector(&mut self, n: usize, scale: f64) -> Vec<f64> {
        (0..n).map(|_| self.next() * scale).collect()
    }
}

const LAMBDA: [f64; 3] = [0.3, 0.45, 0.25];
const PARTS: [(&str, [usize; 2]); 4] = [
    ("self_attn.qkv_proj", [1536, 512]),
    ("mlp.up_proj", [1408, 512]),
    ("mlp.down_proj", [512, 1408]),
    ("input_layernorm", [1, 512]),
];

fn entry(noise: &mut Noise, name: &str, shape: [usize; 2], depth: f64) -> TensorHealth {
    let root = ((shape[0] * shape[1]) as f64).sqrt() * 0.02;
    let base = noise.vector(64, root);
    // Code changes late layers, maths the middle, chat the early ones: distinct rows in the heat map.
    let profile = [0.008 + 0.030 * depth, 0.012 + 0.08 * depth * (1.0 - depth), 0.026 - 0.02 * depth];
    let deltas = profile.map(|size| noise.vector(64, root * size));
    let merged: Vec<f64> = (0..64).map(|i| (0..3).map(|t| LAMBDA[t] * deltas[t][i]).sum()).collect();
    let elements = (shape[0] * shape[1]) as u64;
    let vectors: Vec<Vec<f64>> = [base].into_iter().chain(deltas).chain([merged]).collect();
    TensorHealth {
        shape: shape.to_vec(),
        elements,
        active: elements / 10 * 9,
        sign_conflicts: (elements as f64 * (0.3 + 0.2 * depth)) as u64,
        nan: vec![0; 5],
        inf: vec![0; 5],
        coefficients: Some(LAMBDA.to_vec()),
        ..tensor(name, &vectors)
    }
}

/// A merge of three experts of a twelve-layer model, with nothing wrong.
pub(super) fn merge() -> Health {
    let mut noise = Noise(1);
    let mut tensors = vec![entry(&mut noise, "model.embed_tokens.weight", [4096, 512], 0.0)];
    for layer in 0..12 {
        for (part, shape) in PARTS {
            let name = format!("model.layers.{layer}.{part}.weight");
            tensors.push(entry(&mut noise, &name, shape, f64::from(layer) / 11.0));
        }
    }
    tensors.push(entry(&mut noise, "model.norm.weight", [1, 512], 1.0));
    let parameters = tensors.iter().map(|tensor| tensor.elements).sum();
    Health {
        title: "merged-7x3".to_owned(),
        method: Some("ties".to_owned()),
        base: Some("tiny-org/llama-30m".to_owned()),
        experts: ["tiny-org/llama-30m-code", "tiny-org/llama-30m-math", "/data/runs/chat <v2> & co"]
            .map(String::from)
            .to_vec(),
        vectors: ["base", "code", "math", "chat", "merged"].map(String::from).to_vec(),
        tensors,
        copied: vec![CopiedTensor {
            name: "model.rotary_emb.inv_freq".to_owned(),
            dtype: "F32".to_owned(),
            shape: vec![32],
            why: "buffer, equal in all models".to_owned(),
        }],
        tied: vec![vec!["model.embed_tokens.weight".to_owned(), "lm_head.weight".to_owned()]],
        recipe: Some(RECIPE.to_owned()),
        command: Some("onefold merge recipe.yaml -o merged-7x3 --seed 7".to_owned()),
        run: [("onefold", "0.1.0"), ("time", "4.2 s"), ("peak memory", "212 MB"), ("bytes read", "239 MB")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .to_vec(),
        totals: totals(parameters),
        ..Health::default()
    }
}

const RECIPE: &str = "merge_method: ties
base_model: tiny-org/llama-30m
models:
- {model: tiny-org/llama-30m-code, parameters: {weight: 0.3, density: 0.55}}
- {model: tiny-org/llama-30m-math, parameters: {weight: 0.45, density: 0.55}}
- {model: \"/data/runs/chat <v2> & co\", parameters: {weight: 0.25, density: 0.55}}
";

fn totals(parameters: u64) -> Totals {
    let dtype = |dtype: &str, tensors, elements, bytes| DtypeCount {
        dtype: dtype.to_owned(),
        tensors,
        elements,
        bytes,
    };
    let bytes = 2 * parameters + 4 * 32;
    Totals {
        parameters,
        bytes,
        dtypes: vec![dtype("BF16", 50, parameters, 2 * parameters), dtype("F32", 1, 32, 128)],
    }
}

/// One model, looked at alone.
pub(super) fn single() -> Health {
    let merge = merge();
    let tensors = merge.tensors.into_iter().map(|tensor| TensorHealth {
        gramian: tensor.gramian[..1].to_vec(),
        nan: vec![0],
        inf: vec![0],
        coefficients: None,
        active: 0,
        sign_conflicts: 0,
        ..tensor
    });
    Health {
        title: "tiny-org/llama-30m".to_owned(),
        experts: vec!["tiny-org/llama-30m".to_owned()],
        vectors: vec!["tiny-org/llama-30m".to_owned()],
        tensors: tensors.collect(),
        tied: merge.tied,
        totals: merge.totals,
        ..Health::default()
    }
}

/// Coefficients that differ by layer, and everything a warning can be about.
pub(super) fn troubled() -> Health {
    let mut health = merge();
    health.method = Some("adamerging".to_owned());
    let count = health.tensors.len();
    for (at, tensor) in health.tensors.iter_mut().enumerate() {
        let depth = at as f64 / count as f64;
        tensor.coefficients = Some(vec![0.1 + 0.5 * depth, 0.45 - 0.3 * depth, 0.25]);
    }
    health.tensors[7].nan = vec![0, 0, 3, 0, 3];
    health.warnings = vec![
        "`density` has no effect with `merge_method: adamerging`; it was ignored (--lenient).".to_owned(),
    ];
    health
}

/// MetaGPT's worked example.
pub(crate) fn metagpt_golden() -> serde_json::Value {
    serde_json::from_str(include_str!("../../../../testdata/golden/metagpt.json")).unwrap()
}

pub(crate) fn numbers(value: &serde_json::Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

pub(crate) fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() <= 1e-12 * expected.abs().max(1.0), "{found} is not {expected}");
}

/// Every `<tag` that the page opens, with its attributes.
pub(super) fn tags(html: &str) -> Vec<&str> {
    html.split('<').skip(1).filter_map(|rest| rest.split('>').next()).collect()
}

/// Every element that is opened is closed.
pub(super) fn balanced(html: &str) {
    for tag in [
        "section",
        "table",
        "tr",
        "td",
        "div",
        "svg",
        "g",
        "text",
        "title",
        "ul",
        "li",
        "dl",
        "pre",
        "span",
        "figure",
        "figcaption",
        "p",
    ] {
        let open = tags(html).iter().filter(|t| **t == tag || t.starts_with(&format!("{tag} "))).count();
        let close = tags(html).iter().filter(|t| **t == format!("/{tag}")).count();
        assert_eq!(open, close, "<{tag}>");
    }
}
