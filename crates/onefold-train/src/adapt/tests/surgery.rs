//! Corrections of features: whose they are, how far they come, and what has none.

use super::*;
use crate::model::TextModel;
use crate::statistics::{Surgery, SurgerySettings};
use crate::tune::learner::Learner;

const SETTINGS: SurgerySettings =
    SurgerySettings { rank: 8, steps: 300, batch: 16, learning_rate: 1e-2, seed: 3 };

impl World {
    fn corrections(&self) -> Result<Vec<Correction>, AdaptError> {
        corrections(&self.blend()?, &self.inputs, &SETTINGS, &self.base)
    }

    /// Corrects the features of a task where the merged model is the first expert, into `out`.
    fn correct(&self, out: &str, task: usize) -> Corrected {
        let (correction, run) = (self.corrections().unwrap().swap_remove(task), self.out(out));
        std::fs::create_dir(&run).unwrap();
        let tasks = (&self.inputs[..], &self.tests[..]);
        let blend = self.blend().unwrap();
        let mut scoring = Scoring::go_on(blend, tasks, 64, &self.base, &run, &Silent).unwrap();
        let merged = Checkpoint::open(&self.experts[0].1).unwrap();
        let (correction, merged) = (&correction, &merged);
        let operation = Operation { correction, task, expert: task, merged, settings: &SETTINGS };
        scoring.surgery(&operation, &run.join("made")).unwrap()
    }
}

#[test]
fn features_come_closer_to_the_experts() {
    let world = World::classifying();
    let found = world.correct("run", 1);
    let Distance { before, after } = found.distance;
    assert!(after < 0.8 * before, "{before} {after}");
    assert_eq!((found.correction.module.as_str(), found.correction.examples), ("classifier", 30));
    assert!(found.score.is_some());
    let log = std::fs::read_to_string(world.out("run").join(METRICS)).unwrap();
    let line: Value = serde_json::from_str(&log).unwrap();
    assert_eq!((&line["kind"], &line["task"]), (&json!("surgery"), &json!("four")));
    // The merged model is the first expert: it has nothing to learn from itself.
    let found = world.correct("own", 0);
    assert_eq!(found.distance, Distance { before: 0.0, after: 0.0 });
    // Thread by thread the same bytes.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    pool.install(|| world.correct("one", 1));
    let bytes = |out: &str| std::fs::read(world.out(out).join("made/statistics.safetensors")).unwrap();
    assert!(bytes("one") == bytes("run"));
}

/// The file says how far the features of two models are from each other, each run by itself.
#[test]
fn features_are_those_of_the_models_by_themselves() {
    let world = World::classifying();
    let found = world.correct("run", 1);
    let surgery = Surgery::open(&world.out("run").join("made")).unwrap();
    let rows: Vec<_> =
        world.inputs[1].train.iter().map(|row| crate::tune::micro::Row::of(&world.inputs, 1, *row)).collect();
    let features = |trunk: usize| {
        let mut parameters = Parameters::open(&world.experts[trunk].1, |_| false).unwrap();
        if trunk != 1 {
            // The merged model of a task has its expert's head.
            let checkpoint = Checkpoint::open(&world.experts[1].1).unwrap();
            let config = crate::config::ModelConfig::open(checkpoint.dir()).unwrap();
            parameters = Parameters::load(
                &parameters.config().with_head(Head::None, Vec::new(), Problem::SingleLabel),
                &Checkpoint::open(&world.experts[trunk].1).unwrap(),
                |_| false,
            )
            .unwrap();
            parameters.take_head(7, &config, &checkpoint).unwrap();
        }
        let mut learner = Learner::new(&parameters, &world.base).unwrap();
        learner.select_head((trunk != 1).then_some(7)).unwrap();
        learner.fill(&world.inputs, &rows, &vec![1.0; rows.len()]).unwrap();
        let mut found = Vec::new();
        learner.classify_through(&parameters, &mut |x| found.extend_from_slice(x)).unwrap();
        found
    };
    let (merged, expert) = (features(0), features(1));
    let width =
        TextModel::new(&Parameters::open(&world.experts[1].1, |_| false).unwrap()).unwrap().feature_width();
    assert_eq!(merged.len(), rows.len() * width.unwrap());
    let after = surgery.loss(&merged, &expert).unwrap();
    assert!((after - found.distance.after).abs() < 1e-6, "{after} {:?}", found.distance);
}

#[test]
fn as_many_rows_as_steps_can_see() {
    let world = World::classifying();
    let few = SurgerySettings { steps: 2, batch: 5, ..SETTINGS };
    let found = corrections(&world.blend().unwrap(), &world.inputs, &few, &world.base).unwrap();
    assert_eq!(found.iter().map(|of| of.examples).collect::<Vec<_>>(), [10, 10]);
    let width = found[0].width;
    assert_eq!(found[0].parameters, 2 * 8 * width);
    assert_eq!(found[0].bytes, (8 * width * 10 + 32 * 2 * 8 * width) as u64);
}

#[test]
fn words_have_no_features() {
    let error = World::writing("llama").corrections().unwrap_err().to_string();
    for part in ["surgery: task `a`", "the model's own words", "leave `surgery` out"] {
        assert!(error.contains(part), "{error}");
    }
}
