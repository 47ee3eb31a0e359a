//! A language model, told by a word for each class.

use super::laws::derivatives;
use super::*;

/// Rows with classes instead of rows that are written.
fn world(model: &str) -> World {
    let mut world = World::writing(model);
    let at = world.dir.path();
    let load_in = |part: &str, unlabelled| {
        let dir = at.join(part);
        std::fs::create_dir(&dir).unwrap();
        ["a", "bb"].map(|name| load(&dir, name, &classified(name, 20, 2), unlabelled)).into()
    };
    world.inputs = load_in("unlabelled", Some(UNLABELLED));
    world.tests = load_in("labelled", None);
    world.tellers = vec![Teller::LabelWords(vec![7, 21]), Teller::LabelWords(vec![5, 7, 30])];
    world
}

#[test]
fn derivatives_of_tied_and_untied_heads() {
    derivatives(world("llama"));
    derivatives(world("gpt2"));
    // Its scores are capped.
    let mut world = world("gemma2");
    world.settings.granularity = Granularity::Block;
    derivatives(world);
}

#[test]
fn beside_tasks_that_are_written() {
    let mut mixed = World::writing("llama");
    let labelled = world("llama");
    mixed.inputs.truncate(1);
    mixed.inputs.extend(labelled.inputs.into_iter().skip(1));
    mixed.tellers[1] = Teller::LabelWords(vec![5, 7, 30]);
    derivatives(mixed);
}

/// Scores are those of the vocabulary at the last token, of the words alone.
#[test]
fn scores_are_those_of_the_language_head() {
    for model in ["llama", "gpt2", "gemma2"] {
        let world = world(model);
        let blend = world.blend().unwrap();
        let mut learner = blend.learner(&world.base).unwrap();
        let rows = Draws::new(2, &world.settings).rows(&world.inputs, 0);
        let of: Vec<_> = rows.iter().copied().filter(|row| row.task == 1).collect();
        learner.select_head(Some(1)).unwrap();
        learner.fill(&world.inputs, &of, &[0.0; 4]).unwrap();
        let found = learner.classify_through(&blend.parameters, &mut |_| {}).unwrap().to_vec();
        let Learner::Text(text, batch) = &mut learner else { unreachable!() };
        text.select_head(None).unwrap();
        let ends: Vec<u32> = batch.segments().iter().map(|s| (s.query + s.queries - 1) as u32).collect();
        let all = text.logits(&blend.parameters, batch, &ends).unwrap().to_vec();
        let vocabulary = all.len() / ends.len();
        let expected = (0..4).flat_map(|row| [5, 7, 30].map(|word| all[row * vocabulary + word]));
        for (a, b) in found.iter().zip(expected) {
            assert!((a - b).abs() < 1e-5, "{model}: {a} {b}");
        }
    }
}

#[test]
fn learning_lowers_the_entropy_and_classes_are_scored() {
    let mut world = world("llama");
    world.settings.steps = 20;
    world.settings.diversity = 0.1;
    let out = world.out("plain");
    world.adapt(&out, &Silent).unwrap();
    let text = std::fs::read_to_string(out.with_extension("run").join(METRICS)).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let scores: Vec<&Value> = lines.iter().filter(|line| line["kind"] == "score").collect();
    let entropy = |line: &Value| line["tasks"]["a"]["entropy"].as_f64().unwrap();
    assert!(entropy(scores[scores.len() - 1]) < entropy(scores[0]));
    assert_eq!(scores[0]["tasks"]["bb"]["predictions"]["counts"].as_array().unwrap().len(), 3);
    assert!(scores[0]["tasks"]["a"]["accuracy"].is_f64());
    world.tellers[0] = Teller::LabelWords(vec![7, 1 << 20]);
    let error = world.adapt(&world.out("beyond"), &Silent).unwrap_err().to_string();
    assert!(error.contains("the token 1048576 stands for a class"), "{error}");
}
