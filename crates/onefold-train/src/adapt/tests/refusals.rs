use super::*;

#[track_caller]
fn assert_refused(world: &World, parts: &[&str]) {
    let error = world.adapt(&world.out("refused"), &Silent).unwrap_err().to_string();
    parts.iter().for_each(|part| assert!(error.contains(part), "{part:?} is not in {error:?}"));
}

#[test]
fn batches_that_are_larger_than_the_data() {
    let mut world = World::classifying();
    world.settings.batch = 16;
    world.settings.batches = 2;
    assert_refused(&world, &["task `two`: 30 inputs", "takes 32", "batch.examples"]);
}

#[test]
fn experts_of_another_architecture() {
    let mut world = World::writing("llama");
    world.experts[1].1 = testdata().join("qwen2");
    assert_refused(&world, &["expert bb", "`qwen2`", "`llama`"]);
    world.experts[1].1 = testdata().join("llama_gqa");
    assert_refused(&world, &["expert bb"]);
}

#[test]
fn as_many_starts_as_experts() {
    let mut world = World::writing("llama");
    world.settings.start = Start::Each(vec![0.3]);
    assert_refused(&world, &["init", "1 values for 2 models"]);
}

#[test]
fn models_that_tell_nothing() {
    let told = |name: &str| {
        let checkpoint = Checkpoint::open(&testdata().join(name)).unwrap();
        tells(&Expert { name: "it", checkpoint: &checkpoint }).map_err(|error| error.to_string())
    };
    assert_eq!(told("llama").unwrap().0, Kind::Generate);
    assert_eq!(told("vit").unwrap().0, Kind::ImageClassify);
    assert!(told("bert_masked").unwrap_err().contains("expert it: a model of type `bert`"));
    let dir = tempfile::tempdir().unwrap();
    let one = dir.path().join("one");
    expert(&testdata().join("bert"), &one, 1, Some(1));
    let checkpoint = Checkpoint::open(&one).unwrap();
    let error = tells(&Expert { name: "it", checkpoint: &checkpoint }).unwrap_err().to_string();
    assert!(error.contains("a number; entropy needs classes"), "{error}");
}

#[test]
fn a_damaged_state_is_an_error() {
    let world = World::classifying();
    let out = world.out("damaged");
    world.adapt(&out, &After(AtomicU64::new(2))).unwrap_err();
    let state = out.with_extension("run").join("checkpoint-2/adapt.json");
    let text = std::fs::read_to_string(&state).unwrap();
    for damaged in
        ["", "{}", &text.replacen("\"format\":1", "\"format\":7", 1), &text.replacen("0.3", "[]", 1)]
    {
        write(state.parent().unwrap(), "adapt.json", damaged);
        let error = world.adapt(&out, &Silent).unwrap_err().to_string();
        assert!(error.contains("adapt.json") && error.contains("OUT.run"), "{error}");
    }
}

#[test]
fn labels_that_are_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let encoder = Encoder::new(tokenizer(dir.path()), None);
    let with = |rows: &str, may_have_labels: bool| {
        let settings = TaskSettings {
            name: "t".to_owned(),
            train: vec![write(dir.path(), "t.jsonl", rows)],
            unlabelled: Some(Unlabelled { kind: Kind::Classify, may_have_labels }),
            ..TaskSettings::default()
        };
        Task::load(&settings, Some(&encoder), &Silent).map_err(|error| error.to_string())
    };
    let labelled = json!({"text": "w1 w2", "label": 1}).to_string();
    let error = with(&labelled, false).unwrap_err();
    assert!(
        error.contains("`label`, which is not read") && error.contains("labels_in_inputs: ignore"),
        "{error}"
    );
    let task = with(&labelled, true).unwrap();
    assert_eq!((task.kind, task.label(0), task.target(0)), (Kind::Classify, None, Some(0)));
    let task = with(&json!({"sentence1": "w1", "sentence2": "w2"}).to_string(), false).unwrap();
    assert_eq!((task.kind, task.train.len()), (Kind::Classify, 1));
    assert!(with(&json!({"image": "w1"}).to_string(), false).unwrap_err().contains("no text is found"));
}
