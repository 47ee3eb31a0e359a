//! Clip, told by texts.

use std::sync::Mutex;

use super::laws::derivatives;
use super::*;
use crate::model::{ClipModel, Origin};

/// A base with an image processor.
pub(super) fn base(at: &Path) -> PathBuf {
    let base = at.join("base");
    std::fs::create_dir(&base).unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(testdata().join("clip").join(name), base.join(name)).unwrap();
    }
    let processor = json!({
        "image_processor_type": "CLIPImageProcessor", "size": {"height": 16, "width": 16}, "do_center_crop": false,
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
    });
    write(&base, "preprocessor_config.json", processor.to_string());
    base
}

/// So many classes, the first of which has one text.
pub(super) fn texts(classes: u32) -> Teller {
    let class = |class: u32| (0..=class).map(|i| vec![62, 5 + 7 * class, 9 + 3 * i + classes, 63]).collect();
    Teller::Texts((0..classes).map(class).collect())
}

/// Pictures of noise; with classes those have labels.
pub(super) fn pictures(at: &Path, name: &str, classes: Option<u32>) -> Task {
    let dir = at.join(if classes.is_some() { "test-pictures" } else { "pictures" });
    std::fs::create_dir_all(&dir).unwrap();
    let row = |i: u32| {
        let file = format!("{name}-{i}.png");
        let mut bits = vec![0; 3 * 20 * 18];
        Stream::new(u64::from(i), "picture", name).fill(0, &mut bits);
        let level = |at: usize| (bits[at] >> (24 + i % 4)) as u8;
        let picture = image::RgbImage::from_fn(20, 18, |x, y| {
            let at = 3 * (y * 20 + x) as usize;
            image::Rgb([level(at), level(at + 1), level(at + 2)])
        });
        picture.save(dir.join(&file)).unwrap();
        match classes {
            Some(classes) => json!({"image": file, "label": i % classes}).to_string(),
            None => json!({"image": file}).to_string(),
        }
    };
    let rows: Vec<String> = (0..12).map(row).collect();
    let unlabelled = Unlabelled { kind: Kind::ImageClassify, may_have_labels: false };
    let settings = TaskSettings {
        name: name.to_owned(),
        train: vec![write(&dir, &format!("{name}.jsonl"), rows.join("\n"))],
        unlabelled: classes.is_none().then_some(unlabelled),
        ..TaskSettings::default()
    };
    Task::load(&settings, None, &Silent).unwrap()
}

/// Keeps warnings.
#[derive(Default)]
struct Warnings(Mutex<Vec<String>>);

impl Observer for Warnings {
    fn event(&self, event: &Event<'_>) -> Control {
        if let Event::Warning { message } = event {
            self.0.lock().unwrap().push((*message).to_owned());
        }
        Control::Continue
    }
}

#[test]
fn derivatives_of_the_tower_of_images() {
    derivatives(World::comparing());
    let mut world = World::comparing();
    world.settings.granularity = Granularity::Block;
    world.method = Method::Plus { density: 0.4 };
    derivatives(world);
}

#[test]
fn all_but_the_tower_of_images_stays_the_bases() {
    let mut world = World::comparing();
    world.settings.granularity = Granularity::Model;
    let warnings = Warnings::default();
    let mut blend = world.blended(&warnings).unwrap();
    let told = warnings.0.into_inner().unwrap();
    assert_eq!(told.len(), 2, "of each expert once: {told:?}");
    assert!(told[0].starts_with("expert a: `") && told[0].contains("the tower of images alone"), "{told:?}");
    // A label that no tensor of texts begins with.
    assert_eq!(blend.groups(), ["vision_model"]);
    blend.set_expert(1).unwrap();
    let [base, expert] = [&world.base, &world.experts[1].1].map(|dir| Checkpoint::open(dir).unwrap());
    let mut merged = 0;
    for (_, parameter) in blend.parameters.iter() {
        let Origin::Stored { spec, .. } = &parameter.origin else { unreachable!() };
        let is_merged = spec.name.starts_with("vision_model.");
        let from = &if is_merged { &expert } else { &base }.tensors()[&spec.name];
        let mut expected = vec![0.0; parameter.len()];
        from.read(0, &mut expected);
        let found = match parameter.weight() {
            onefold_engine::Weight::Full(buffer) => buffer.to_vec(),
            onefold_engine::Weight::Half(_) => unreachable!("it is stored in f32"),
        };
        assert_eq!(found, expected, "{}", spec.name);
        assert_eq!(parameter.trained().is_some(), is_merged, "{}", spec.name);
        merged += usize::from(is_merged);
    }
    assert!(merged > 30);
    world.experts = vec![("same".to_owned(), world.base.clone())];
    let warnings = Warnings::default();
    world.blended(&warnings).unwrap();
    assert_eq!(warnings.0.into_inner().unwrap(), [""; 0]);
}

/// The entropy of scores of the model by itself, as a step has it.
#[test]
fn pictures_are_compared_with_the_texts_of_each_task() {
    let world = World::comparing();
    let blend = world.blend().unwrap();
    let mut learner = blend.learner(&world.base).unwrap();
    let rows = Draws::new(2, &world.settings).rows(&world.inputs, 0);
    for task in [1, 0] {
        let of: Vec<_> = rows.iter().copied().filter(|row| row.task == task).collect();
        learner.select_head(Some(task)).unwrap();
        learner.fill(&world.inputs, &of, &[0.0; 4]).unwrap();
        let scores = learner.classify_through(&blend.parameters, &mut |_| {}).unwrap().to_vec();
        let Teller::Texts(texts) = &world.tellers[task as usize] else { unreachable!() };
        assert_eq!(scores.len(), 4 * texts.len());
        let mut model = ClipModel::new(&blend.parameters).unwrap();
        let mut batch = crate::model::Batch::default();
        // Of one text alone the vector is that of the text.
        batch.push(&crate::model::Sequence { ids: &texts[0][0], ..crate::model::Sequence::default() });
        let Learner::Pairs(_) = &learner else { unreachable!() };
        let vector = model.embed_texts(&blend.parameters, &batch).unwrap().to_vec();
        let own = teller::vectors(&blend.parameters, texts).unwrap().0;
        let close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-6;
        assert!(own.vectors().to_vec()[..16].iter().zip(&vector).all(close));
    }
    assert!(learner.select_head(Some(2)).is_err());
}

#[test]
fn learning_lowers_the_entropy_and_scores_are_of_classes() {
    let mut world = World::comparing();
    world.settings.steps = 20;
    let out = world.out("plain");
    let lambda = world.adapt(&out, &Silent).unwrap().lambda;
    assert!(lambda.iter().flatten().any(|v| (v - 0.3).abs() > 0.05));
    let text = std::fs::read_to_string(out.with_extension("run").join(METRICS)).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (first, last) = (&lines[0], &lines[lines.len() - 1]);
    let entropy = |line: &Value| line["tasks"]["three"]["entropy"].as_f64().unwrap();
    assert_eq!(first["kind"], "score", "the expert has no rows to score with");
    assert!(entropy(last) < entropy(first));
    assert_eq!(last["tasks"]["three"]["predictions"]["expected"], json!([4, 4, 4]));
    // Stopped and gone on with, on other threads: the same.
    let out = world.out("stopped");
    world.adapt(&out, &After(AtomicU64::new(7))).unwrap_err();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    assert_eq!(pool.install(|| world.adapt(&out, &Silent).unwrap().lambda), lambda);
}

#[test]
fn diversity_and_memory() {
    let mut world = World::comparing();
    world.settings.diversity = 1.0;
    world.settings.steps = 3;
    let plain = memory(&world.blend().unwrap(), &world.inputs, &world.settings, &world.base).unwrap();
    assert!(plain.activations > 0 && plain.parameters > 0);
    world.learnt("diverse");
    world.tellers[0] = Teller::Texts(vec![vec![vec![62, 5]], vec![vec![62, 63]]]);
    let error = world.blend().unwrap_err().to_string();
    assert!(error.contains("does not contain the token 63"), "{error}");
}
