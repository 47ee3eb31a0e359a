use std::path::Path;

use onefold_checkpoint::output::{Layout, Opened, Output};
use onefold_checkpoint::{Checkpoint, Dtype};

use super::*;
use crate::config::ModelConfig;
use crate::model::testing::{Golden, Stored, converted, stored, testdata, write};

fn save(parameters: &Parameters, dir: &Path, max_shard: u64) -> Result<Checkpoint, SaveError> {
    let layout = Layout::new(parameters.output_tensors(), max_shard);
    let Opened { output, .. } = Output::create(dir, layout, "job", &[], true)?;
    parameters.write(&output)?;
    output.commit(Some(b"{}"))?;
    Ok(Checkpoint::open(dir).unwrap())
}

fn load(config: &ModelConfig, checkpoint: &Checkpoint, trainable: bool) -> Parameters {
    Parameters::load(config, checkpoint, |_| trainable).unwrap()
}

#[test]
fn what_is_not_trained_comes_back_byte_for_byte() {
    for name in ["llama_gqa", "gpt2", "roberta", "bert_masked", "distilbert", "vit", "clip"] {
        let golden = Golden::open(name);
        for dtype in [Dtype::F32, Dtype::BF16, Dtype::F16, Dtype::F64] {
            let dir = tempfile::tempdir().unwrap();
            let mut before = converted(&stored(&golden.checkpoint), dtype);
            // A buffer that the model does not compute with.
            before.insert("old.position_ids".into(), (Dtype::I64, vec![2], vec![7; 16]));
            let checkpoint = write(&dir.path().join("in"), &before);
            for trainable in [false, true] {
                let parameters = load(&golden.config, &checkpoint, trainable);
                let saved = save(&parameters, &dir.path().join("out"), 4096).unwrap();
                assert!(stored(&saved) == before, "{name} {dtype} {trainable}");
                assert!(saved.files().len() > 1);
            }
        }
    }
}

#[test]
fn order_and_roles_are_those_of_the_family() {
    let golden = Golden::open("gpt2");
    let parameters = golden.parameters(|spec| spec.layer == Some(1));
    let names: Vec<_> = parameters.iter().map(|(_, parameter)| parameter.name.clone()).collect();
    let specs: Vec<_> = crate::families::tensors(&golden.config).into_iter().map(|spec| spec.name).collect();
    assert_eq!(names, specs);
    let id = parameters.find(Half::Whole, Some(1), Role::Up, Part::Transposed).unwrap();
    assert_eq!(parameters[id].name, "transformer.h.1.mlp.c_fc.weight");
    assert!(
        parameters.is_trainable(id) && parameters.find(Half::Text, Some(1), Role::Up, Part::Bias).is_none()
    );
    assert_eq!(parameters.trainable().count(), 12);
    assert_eq!(parameters.first_trained(Half::Whole), Trained::Layer(1));
    assert_eq!(golden.parameters(|_| true).first_trained(Half::Whole), Trained::Embeddings);
    assert_eq!(golden.parameters(|_| true).first_trained(Half::Text), Trained::Head);
    assert_eq!(golden.parameters(|_| false).first_trained(Half::Whole), Trained::Head);
}

#[test]
fn frozen_matrices_stay_in_16_bits_in_their_file() {
    let golden = Golden::open("llama");
    let dir = tempfile::tempdir().unwrap();
    let checkpoint =
        write(dir.path().join("in").as_path(), &converted(&stored(&golden.checkpoint), Dtype::BF16));
    let parameters = load(&golden.config, &checkpoint, false);
    let norms: usize = parameters.iter().filter(|(_, p)| p.shape.len() == 1).map(|(_, p)| p.len()).sum();
    assert_eq!(parameters.bytes(), norms * 4);
    assert!(parameters.iter().all(|(id, _)| !parameters.is_trainable(id)));
    let all: usize = parameters.iter().map(|(_, parameter)| parameter.len()).sum();
    assert_eq!(load(&golden.config, &checkpoint, true).bytes(), all * 4);
}

#[test]
fn changed_tensors_are_rounded_once() {
    let golden = Golden::open("llama");
    let dir = tempfile::tempdir().unwrap();
    let before = converted(&stored(&golden.checkpoint), Dtype::BF16);
    let checkpoint = write(&dir.path().join("in"), &before);
    let mut parameters = load(&golden.config, &checkpoint, true);
    let id = parameters.find(Half::Whole, None, Role::FinalNorm, Part::Weight).unwrap();
    parameters.value_mut(id).unwrap().write(3, &[1.003_906_4]);
    let saved = save(&parameters, &dir.path().join("out"), 1 << 30).unwrap();
    let mut expected = before;
    // Above the middle of 1 and the next number, 1 + 2⁻⁷.
    expected.get_mut("model.norm.weight").unwrap().2[6..8].copy_from_slice(&0x3f81u16.to_le_bytes());
    assert!(stored(&saved) == expected);
}

#[test]
fn numbers_that_do_not_fit_are_not_written() {
    let golden = Golden::open("llama");
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = write(&dir.path().join("in"), &converted(&stored(&golden.checkpoint), Dtype::F16));
    for (value, shown) in [(f32::NAN, "NaN"), (1e5, "100000")] {
        let mut parameters = load(&golden.config, &checkpoint, true);
        let id = parameters.find(Half::Whole, None, Role::FinalNorm, Part::Weight).unwrap();
        parameters.value_mut(id).unwrap().write(2, &[value]);
        let error = save(&parameters, &dir.path().join("out"), 1 << 30).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("tensor `model.norm.weight`: element 2 is {shown}, which F16")),
            "{error}"
        );
        assert!(!dir.path().join("out").exists());
    }
}

#[test]
fn tied_heads_follow_their_embedding() {
    let golden = Golden::open("llama_gqa");
    let dir = tempfile::tempdir().unwrap();
    let embedding = stored(&golden.checkpoint)["model.embed_tokens.weight"].clone();
    for differs in [false, true] {
        let mut before = stored(&golden.checkpoint);
        let mut head = embedding.clone();
        head.2[0] ^= u8::from(differs);
        before.insert("lm_head.weight".into(), head);
        let checkpoint = write(&dir.path().join("in"), &before);
        let mut parameters = load(&golden.config, &checkpoint, true);
        assert_eq!(parameters.notes.len(), usize::from(differs), "{:?}", parameters.notes);
        let id = parameters.find(Half::Whole, None, Role::TokenEmbedding, Part::Weight).unwrap();
        parameters.value_mut(id).unwrap().write(0, &[2.0]);
        assert_eq!(parameters.names(id), ["model.embed_tokens.weight", "lm_head.weight"]);
        let saved = stored(&save(&parameters, &dir.path().join("out"), 1 << 30).unwrap());
        assert_eq!(saved["lm_head.weight"].2, saved["model.embed_tokens.weight"].2);
        assert_eq!(saved["lm_head.weight"].2[..4], 2f32.to_le_bytes());
    }
}

#[test]
fn checkpoints_that_cannot_be_run() {
    let golden = Golden::open("llama");
    let dir = tempfile::tempdir().unwrap();
    let refused = |change: &dyn Fn(&mut Stored), trainable: bool, message: &str| {
        let mut tensors = converted(&stored(&golden.checkpoint), Dtype::BF16);
        change(&mut tensors);
        let checkpoint = write(&dir.path().join("in"), &tensors);
        let error = Parameters::load(&golden.config, &checkpoint, |_| trainable).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    };
    let (norm, head) = ("model.norm.weight", "lm_head.weight");
    refused(&|tensors| drop(tensors.remove(norm)), true, "`model.norm.weight` of shape [32] is missing");
    let integers = |tensors: &mut Stored| tensors.get_mut(norm).unwrap().0 = Dtype::I16;
    refused(&integers, true, "computes with `model.norm.weight` (I16)");
    for trainable in [false, true] {
        let damaged = |tensors: &mut Stored| {
            for name in [norm, head] {
                tensors.get_mut(name).unwrap().2[10..12].copy_from_slice(&0xff80u16.to_le_bytes());
            }
        };
        let both = "NaN or infinity in `model.norm.weight` (element 5), `lm_head.weight` (element 5)";
        refused(&damaged, trainable, both);
    }
}

const SETTINGS: AdapterSettings =
    AdapterSettings { rank: 4, alpha: 8.0, rank_stabilised: false, decomposed: true, dropout: 0.0, seed: 1 };

#[test]
fn adapters_have_the_names_and_shapes_of_peft() {
    let golden = Golden::open("gpt2");
    let mut parameters = golden.parameters(|_| false);
    let stored = parameters.len();
    parameters
        .adapt(&SETTINGS, |spec| spec.role == Role::Up && spec.layer == Some(1) && spec.is_adaptable())
        .unwrap();
    let found: Vec<_> = (parameters.trainable()).map(|(_, p)| (p.name.as_str(), p.shape.clone())).collect();
    let module = "base_model.model.transformer.h.1.mlp.c_fc";
    let names =
        ["lora_A.weight", "lora_B.weight", "lora_magnitude_vector"].map(|end| format!("{module}.{end}"));
    let shapes = [vec![4, 32], vec![40, 4], vec![40]];
    assert_eq!(found, names.iter().map(String::as_str).zip(shapes).collect::<Vec<_>>());
    assert_eq!(parameters.len(), stored + 3);
    assert_eq!(parameters.output_tensors().len(), stored);
    assert_eq!(parameters.first_trained(Half::Whole), Trained::Layer(1));
    let a = parameters.full(ParameterId(stored)).to_vec();
    let bound = 1.0 / 32f32.sqrt();
    assert!(a.iter().all(|v| v.abs() <= bound) && a.iter().any(|v| v.abs() > 0.9 * bound));
    assert!(parameters.full(ParameterId(stored + 1)).to_vec().iter().all(|v| *v == 0.0));
}

#[test]
fn adapters_that_cannot_be_made() {
    let golden = Golden::open("llama");
    let refused =
        |trainable: bool, settings: AdapterSettings, chosen: fn(&TensorSpec) -> bool, message: &str| {
            let mut parameters = golden.parameters(|_| trainable);
            let error = parameters.adapt(&settings, chosen).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
            assert_eq!(parameters.len(), golden.parameters(|_| false).len());
        };
    let all = TensorSpec::is_adaptable;
    refused(false, AdapterSettings { rank: 0, ..SETTINGS }, all, "adapter: `r` is 0");
    refused(false, AdapterSettings { alpha: f64::NAN, ..SETTINGS }, all, "adapter: `alpha` is NaN");
    refused(false, AdapterSettings { dropout: 1.0, ..SETTINGS }, all, "adapter: `dropout` is 1");
    refused(false, SETTINGS, |_| false, "adapter: no weight of the model");
    refused(false, SETTINGS, |_| true, "adapter: `model.embed_tokens.weight` cannot be adapted");
    refused(true, SETTINGS, all, "adapter: `model.layers.0.self_attn.q_proj.weight` is trained itself");
}

#[test]
#[allow(clippy::disallowed_methods, reason = "fixtures are written plainly")]
fn a_directory_is_opened_or_all_that_is_wrong_with_it_is_told() {
    let golden = Golden::open("llama");
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    drop(write(&model, &stored(&golden.checkpoint)));
    let config = std::fs::read_to_string(testdata().join("llama/config.json")).unwrap();
    let open = |text: &str| {
        std::fs::write(model.join("config.json"), text).unwrap();
        Parameters::open(&model, |_| true).map(|parameters| parameters.len())
    };
    assert_eq!(open(&config).unwrap(), golden.parameters(|_| true).len());
    let error = open(&config.replace("\"llama\"", "\"mamba\"")).unwrap_err().to_string();
    assert!(error.contains("model_type") && error.contains("mamba"), "{error}");
    let weights = model.join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..200]).unwrap();
    let error = open(&config).unwrap_err().to_string();
    assert!(error.contains("model.safetensors: truncated") && !error.contains("Checkpoint"), "{error}");
}
