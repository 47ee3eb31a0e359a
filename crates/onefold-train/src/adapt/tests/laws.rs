use super::*;

/// Σ_t w_t · mean loss of all rows of task t, at some coefficients.
fn loss(world: &World, blend: &mut Blend, lambda: &[Vec<f64>], rows: &[crate::tune::micro::Row]) -> f64 {
    blend.set(lambda).unwrap();
    let mut learner = blend.learner(&world.base).unwrap();
    let mut losses = Losses::new(world.inputs.len());
    let mut total = 0.0;
    for task in 0..world.inputs.len() {
        let of: Vec<_> = rows.iter().copied().filter(|row| row.task as usize == task).collect();
        learner.select_head(blend.heads[task]).unwrap();
        learner.fill(&world.inputs, &of, &vec![0.0; of.len()]).unwrap();
        learner.evaluate(&blend.parameters, step::objective(&world.settings), &mut losses).unwrap();
        let sum = losses.tasks[task];
        total += world.settings.weights[task] * sum.loss / sum.rows as f64;
    }
    total
}

/// ∂L/∂λ of every group against differences, for what passes at once and for what is added up.
pub(super) fn derivatives(mut world: World) {
    for tokens in [1 << 20, 24] {
        world.settings.tokens = tokens;
        let mut blend = world.blend().unwrap();
        let lambda = blend.start(&Start::Value(0.3)).unwrap();
        blend.set(&lambda).unwrap();
        let mut learner = blend.learner(&world.base).unwrap();
        let rows = Draws::new(2, &world.settings).rows(&world.inputs, 5);
        let mut stepper = Stepper::new(2);
        let stepped =
            stepper.step(&blend, &mut learner, (&world.inputs, rows.clone()), &world.settings, 5).unwrap();
        let largest = stepped.gradients.iter().flatten().fold(0.0f64, |most, g| most.max(g.abs()));
        assert!(largest > 1e-4);
        for group in (0..lambda.len()).step_by(3) {
            for k in 0..2 {
                let mut at = |by: f64| {
                    let mut moved = lambda.clone();
                    moved[group][k] += by;
                    loss(&world, &mut blend, &moved, &rows)
                };
                // Of the fourth order: the loss has the rounding of f32.
                let h = 0.1;
                let slope = (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * h);
                let found = stepped.gradients[group][k];
                let label = &blend.groups()[group];
                assert!((slope - found).abs() < 2e-2 * largest, "{label} {k}: {slope} {found}");
            }
        }
    }
}

#[test]
fn derivatives_of_an_encoder() {
    derivatives(World::classifying());
}

#[test]
fn derivatives_of_decoders() {
    derivatives(World::writing("llama"));
    derivatives(World::writing("gpt2"));
}

#[test]
fn derivatives_of_filtered_vectors() {
    let mut world = World::classifying();
    world.method = Method::Plus { density: 0.4 };
    derivatives(world);
}

#[test]
fn derivatives_of_cross_entropy_by_layers() {
    let mut world = World::writing("qwen3");
    world.settings.aim = Aim::CrossEntropy;
    world.settings.granularity = Granularity::Block;
    derivatives(world);
}

/// With it the mean prediction keeps more of its entropy.
#[test]
fn diversity_keeps_predictions_apart() {
    let mut world = World::classifying();
    world.settings.steps = 40;
    let spread = |world: &World, name: &str| {
        let out = world.out(name);
        world.adapt(&out, &Silent).unwrap();
        let text = std::fs::read_to_string(out.with_extension("run").join(METRICS)).unwrap();
        let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        ["two", "four"]
            .map(|task| last["tasks"][task]["predictions"]["spread"].as_f64().unwrap())
            .iter()
            .sum::<f64>()
    };
    let plain = spread(&world, "plain");
    world.settings.diversity = 2.0;
    assert!(spread(&world, "diverse") > plain + 0.01);
    let mut world = World::writing("llama");
    world.settings.diversity = 0.1;
    let error = world.adapt(&world.out("words"), &Silent).unwrap_err().to_string();
    assert!(error.contains("diversity") && error.contains("is written"), "{error}");
}

#[test]
fn no_step_is_task_arithmetic() {
    let mut world = World::classifying();
    world.settings.steps = 0;
    for lambda in world.learnt("none") {
        assert_eq!(lambda, [0.3, 0.3]);
    }
}

#[test]
fn learning_lowers_the_entropy_and_leaves_heads_alone() {
    let mut world = World::classifying();
    world.settings.steps = 40;
    let mut blend = world.blend().unwrap();
    let heads = |blend: &Blend| -> Vec<Vec<f32>> {
        let of = |(_, p): (_, &crate::model::Parameter)| {
            p.name.starts_with("heads.").then(|| match p.weight() {
                onefold_engine::Weight::Full(buffer) => buffer.to_vec(),
                onefold_engine::Weight::Half(_) => unreachable!("heads are widened"),
            })
        };
        blend.parameters.iter().filter_map(of).collect()
    };
    let before = heads(&blend);
    assert_eq!(before.len(), 8, "pooler and classifier of two tasks");
    let rows: Vec<_> =
        (0..2).flat_map(|step| Draws::new(2, &world.settings).rows(&world.inputs, step)).collect();
    let start = blend.start(&Start::default()).unwrap();
    let first = loss(&world, &mut blend, &start, &rows);
    let learnt = world.learnt("some");
    let last = loss(&world, &mut blend, &learnt, &rows);
    assert!(last < 0.97 * first, "{first} {last}");
    assert_eq!(heads(&blend), before);
    assert!(learnt.iter().flatten().all(|v| (0.0..=1.0).contains(v)));
}

#[test]
fn a_model_of_one_coefficient_per_expert() {
    let mut world = World::writing("llama");
    world.settings.granularity = Granularity::Model;
    world.settings.start = Start::Each(vec![0.2, 0.4]);
    let adapted = world.adapt(&world.out("model"), &Silent).unwrap();
    assert_eq!(adapted.groups, ["*"]);
    assert!(adapted.lambda[0][0] < 0.35 && adapted.lambda[0][1] > 0.25, "{:?}", adapted.lambda);
    world.settings.start = Start::MetaGpt;
    let blend = world.blend().unwrap();
    let start = blend.start(&world.settings.start).unwrap();
    assert!((start[0].iter().sum::<f64>() - 1.0).abs() < 1e-12);
    world.settings.granularity = Granularity::Block;
    let groups = world.blend().unwrap().groups().to_vec();
    assert!(
        groups.contains(&"model.layers.0".to_owned()) && groups.contains(&"model.norm".to_owned()),
        "{groups:?}"
    );
}

#[test]
fn threads_do_not_show() {
    let world = World::classifying();
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| world.learnt(&format!("threads-{threads}")))
    };
    assert_eq!(on(1), on(3));
}

#[test]
fn a_stopped_run_goes_on_as_if_nothing_had_been() {
    let world = World::classifying();
    let whole = world.out("whole");
    let expected = world.adapt(&whole, &Silent).unwrap();
    for steps in [1, 3, 5] {
        let out = world.out(&format!("stopped-{steps}"));
        let error = world.adapt(&out, &After(AtomicU64::new(steps))).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("stopped after step {steps}; the same command goes on from there")
        );
        let adapted = world.adapt(&out, &Silent).unwrap();
        assert_eq!(adapted.lambda, expected.lambda);
        let lines = |out: &Path| -> Vec<Value> {
            let text = std::fs::read_to_string(out.with_extension("run").join(METRICS)).unwrap();
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        };
        let scores = |out: &Path| -> Vec<Value> {
            lines(out).into_iter().filter(|line| line["kind"] != "train").collect()
        };
        assert_eq!(scores(&out), scores(&whole));
    }
}

#[test]
fn scores_are_of_labelled_rows_and_experts_are_scored_too() {
    let world = World::classifying();
    let out = world.out("scored");
    world.adapt(&out, &Silent).unwrap();
    let text = std::fs::read_to_string(out.with_extension("run").join(METRICS)).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<_> = lines.iter().map(|line| line["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["expert", "expert", "score", "train", "score", "train", "train", "score"]);
    let score = &lines[2]["tasks"]["four"];
    assert_eq!(score["rows"], 20);
    let told: u64 =
        score["predictions"]["counts"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(told, 20);
    let entropy = score["entropy"].as_f64().unwrap();
    assert!(entropy > 0.0 && entropy <= 4f64.ln());
}

#[test]
fn patience_ends_learning_and_keeps_the_best() {
    let mut world = World::classifying();
    world.settings.steps = 40;
    world.settings.patience = Some(Patience { lines: 1, least: 10.0 });
    let adapted = world.adapt(&world.out("short"), &Silent).unwrap();
    assert_eq!((adapted.steps, adapted.kept), (4, 2));
    assert!(adapted.ended.unwrap().contains("no lower loss in 1 lines"));
}

#[test]
fn a_collapse_is_told() {
    let even = Predictions { spread: 0.9, counts: vec![5, 5], expected: vec![5, 5] };
    assert_eq!(even.collapse(), None);
    let one = Predictions { spread: 0.2, counts: vec![10, 0], expected: vec![5, 5] };
    assert!(one.collapse().unwrap().contains("class 0 is told for 100 %"));
    // Where labels are as uneven it is right to be so.
    let uneven = Predictions { spread: 0.2, counts: vec![100, 0], expected: vec![97, 3] };
    assert_eq!(uneven.collapse(), None);
}

/// Entropies of huge scores are numbers.
#[test]
fn huge_scores_are_no_danger() {
    let mut losses = Losses::new(1);
    let mut logits = onefold_engine::Buffer::from(vec![1e4, -1e4, 0.0, 1e4, 1e4, -1e4]);
    let rows = onefold_engine::cpu::loss::Rows { targets: &[0, 0], weights: None, tasks: None };
    onefold_engine::cpu::loss::small::classification(
        &mut logits,
        3,
        Objective::Entropy,
        &rows,
        onefold_engine::cpu::loss::small::Gradient::InPlace,
        &mut losses,
    );
    assert!(
        losses.rows.iter().all(|row| row.loss.is_finite()) && logits.to_vec().iter().all(|g| g.is_finite())
    );
    assert!((losses.rows[1].loss - 2f32.ln()).abs() < 1e-6);
}
