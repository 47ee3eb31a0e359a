use std::path::Path;

use onefold_checkpoint::Checkpoint;
use onefold_checkpoint::output::{Layout, Opened, Output};

use super::*;
use crate::model::testing::{Golden, PLAIN, Stored, losses, stored, write};
use crate::model::{Batch, Gradients, ModelError, Sequence, TextModel};

fn save(parameters: &Parameters, task: u32, dir: &Path) -> Checkpoint {
    let layout = Layout::new(parameters.task_tensors(task).unwrap(), 1 << 30);
    let Opened { output, .. } = Output::create(dir, layout, "job", &[], true).unwrap();
    parameters.write_task(task, &output).unwrap();
    output.commit(Some(b"{}")).unwrap();
    Checkpoint::open(dir).unwrap()
}

fn batch(targets: &[i32]) -> Batch {
    let mut batch = Batch::default();
    batch.push(&Sequence { ids: &[5, 6, 7], targets, weight: 1.0, ..Sequence::default() });
    batch
}

/// Trained heads of two tasks on one trunk, and what each of them answers.
fn trained(parameters: &mut Parameters) -> [Vec<f32>; 2] {
    let mut model = TextModel::new(parameters).unwrap();
    let cases = [(7, batch(&[1])), (9, batch(&[0, -1, 2]))];
    for (task, batch) in &cases {
        let (mut gradients, mut losses) = (Gradients::default(), losses());
        model.select_head(Some(*task)).unwrap();
        model.train(parameters, batch, &PLAIN, &mut losses, &mut gradients).unwrap();
        for (id, gradient) in gradients.iter() {
            assert!(
                matches!(&parameters[id].origin, Origin::Head { spec, .. } if spec.half == Half::Task(*task))
            );
            let value = parameters.value_mut(id).unwrap();
            let values = value.to_vec().into_iter().zip(gradient.to_vec());
            value.write(0, &values.map(|(v, g)| v - 0.1 * g).collect::<Vec<_>>());
        }
    }
    cases.map(|(task, batch)| {
        model.select_head(Some(task)).unwrap();
        model.classify(parameters, &batch).unwrap().to_vec()
    })
}

/// The trunk with each head loads as the model of its task, and answers the same.
#[test]
fn each_task_is_saved_as_a_model_of_its_own() {
    let [sequences, tokens] = ["bert", "bert_tokens"].map(Golden::open);
    for bare in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let mut before: Stored = stored(&sequences.checkpoint);
        before.insert("bert.embeddings.position_ids".into(), (Dtype::I64, vec![2], vec![7; 16]));
        if bare {
            before.retain(|name, _| name.starts_with("bert."));
            before =
                before.into_iter().map(|(name, tensor)| (name["bert.".len()..].to_owned(), tensor)).collect();
        }
        let mut config = sequences.config.clone();
        let ModelConfig::Encoder(encoder) = &mut config else { panic!() };
        encoder.common.head = Head::None;
        let checkpoint = write(&dir.path().join("in"), &before);
        let mut parameters = Parameters::load(&config, &checkpoint, |_| false).unwrap();
        parameters.add_head(7, &sequences.config, HeadStart::default()).unwrap();
        parameters.add_head(9, &tokens.config, HeadStart { seed: 1, deviation: 0.05 }).unwrap();
        let answers = trained(&mut parameters);
        for ((task, golden), answers) in [(7, &sequences), (9, &tokens)].into_iter().zip(answers) {
            let saved = save(&parameters, task, &dir.path().join(format!("{bare}{task}")));
            assert!(saved.tensors().contains_key("bert.embeddings.position_ids"));
            let again = Parameters::load(&golden.config, &saved, |_| false).unwrap();
            // The buffer is not computed with; the pooler is no part of the second.
            assert_eq!(again.iter().count() + 1, saved.tensors().len());
            let mut model = TextModel::new(&again).unwrap();
            assert_eq!(model.classify(&again, &batch(&[])).unwrap().to_vec(), answers);
        }
        assert!(parameters.task_tensors(8).is_none());
    }
}

#[test]
fn heads_begin_small_and_poolers_as_stored() {
    let golden = Golden::open("bert");
    let mut parameters = golden.parameters(|_| false);
    parameters.add_head(0, &golden.config, HeadStart { seed: 3, deviation: 0.5 }).unwrap();
    let find = |half, role, part| {
        let id = parameters.find(half, None, role, part).unwrap();
        parameters.full(id).to_vec()
    };
    let task = Half::Task(0);
    assert_eq!(find(task, Role::Pooler, Part::Weight), find(Half::Whole, Role::Pooler, Part::Weight));
    assert_eq!(find(task, Role::Head, Part::Bias), [0.0; 3]);
    let weight = find(task, Role::Head, Part::Weight);
    assert!(weight.iter().all(|v| v.abs() < 2.5) && weight.iter().any(|v| v.abs() > 0.5));
    // The checkpoint as a whole is still what it was.
    assert_eq!(parameters.output_tensors().len(), golden.checkpoint.tensors().len());
}

/// Mean, variance and fourth moment, each within five deviations of its estimate.
#[test]
fn random_numbers_are_normal() {
    let numbers = normal(Stream::new(1, "task", "tensor"), 99_999, 2.0).to_vec();
    let moment = |k: i32| {
        let powers = numbers.iter().map(|v| (f64::from(*v) / 2.0).powi(k));
        powers.sum::<f64>() / numbers.len() as f64
    };
    let root = (numbers.len() as f64).sqrt();
    for (k, expected, deviation) in
        [(1, 0.0, 1.0), (2, 1.0, 2f64.sqrt()), (3, 0.0, 15f64.sqrt()), (4, 3.0, 96f64.sqrt())]
    {
        let found = moment(k);
        assert!((found - expected).abs() < 5.0 * deviation / root, "{k}: {found}");
    }
    let product = numbers.windows(2).map(|pair| f64::from(pair[0] * pair[1]) / 4.0).sum::<f64>();
    assert!(product.abs() / root < 5.0, "{product}");
}

#[test]
fn heads_that_cannot_be_added_are_refused() {
    let [golden, masked, other] = ["bert", "bert_masked", "roberta"].map(Golden::open);
    let mut parameters = golden.parameters(|_| false);
    let mut add = |task, golden: &Golden| parameters.add_head(task, &golden.config, HeadStart::default());
    assert_eq!(add(1, &golden), Ok(()));
    assert_eq!(add(1, &golden), Err(HeadError::Twice { task: 1 }));
    assert_eq!(add(2, &masked), Err(HeadError::NoClasses { task: 2 }));
    let error = add(2, &other).unwrap_err().to_string();
    assert!(error.contains("`roberta.embeddings.word_embeddings.weight` is not a tensor of both"), "{error}");
    let mut model = TextModel::new(&parameters).unwrap();
    assert_eq!(model.select_head(Some(1)), Ok(()));
    assert_eq!(model.select_head(Some(4)), Err(ModelError::NoTaskHead { task: 4 }));
}
