//! The methods of `MEASURED`: goldens of `testdata/related/statistics.json`, and what they must keep: the contract of
//! `METHODS` where it applies, with statistics.

use onefold_merge::MergeError;
use onefold_merge::methods::measured::{MEASURED, Statistic as Kind};
use onefold_merge::methods::{METHODS, measured};
use onefold_merge::params::Value as Parameter;
use onefold_merge::scan::BLOCK;
use proptest::prelude::*;
use rayon::ThreadPoolBuilder;
use serde_json::Value;

use crate::harness::{Failure, Input, Job, Memory, Statistic, bits, close, largest, normal, run};

fn golden() -> Value {
    serde_json::from_str(include_str!("../../../../testdata/related/statistics.json")).unwrap()
}

fn flat(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(items) => items.iter().flat_map(flat).collect(),
        number => vec![number.as_f64().expect("a number")],
    }
}

fn each(value: &Value) -> Vec<Vec<f32>> {
    let single = |v: &Value| flat(v).iter().map(|x| *x as f32).collect();
    value.as_array().expect("a list").iter().map(single).collect()
}

fn statistics(shape: &[usize], values: Vec<Vec<f32>>) -> Vec<Statistic> {
    values.into_iter().map(|values| Statistic { shape: shape.to_vec(), values }).collect()
}

/// XᵀX / samples of random inputs, and what is like a square of gradients.
fn random_statistic(kind: Kind, seed: u64, model: usize, shape: &[usize]) -> Statistic {
    let n: usize = shape.iter().product();
    if kind != Kind::Gram {
        let values = normal(seed, &format!("fisher {model}"), n).iter().map(|v| v * v * 1e-3).collect();
        return Statistic { shape: shape.to_vec(), values };
    }
    let (d, samples) = (shape[1], 3 * shape[1]);
    let x = normal(seed, &format!("inputs {model}"), samples * d);
    let inner = |i: usize, j: usize| -> f64 {
        (0..samples).map(|s| f64::from(x[s * d + i]) * f64::from(x[s * d + j])).sum::<f64>() / samples as f64
    };
    Statistic { shape: vec![d, d], values: (0..d * d).map(|at| inner(at / d, at % d) as f32).collect() }
}

fn input(kind: Kind, seed: u64, shape: &[usize], k: usize) -> Input {
    let statistics = (0..k).map(|m| random_statistic(kind, seed, m, shape)).collect();
    Input { statistics, ..Input::random(seed, shape, k) }
}

/// Every method with inputs that it can use.
fn jobs(shape: &[usize], k: usize) -> impl Iterator<Item = Job> {
    MEASURED.iter().map(move |m| {
        let inputs = (1..4).map(|seed| input(m.statistic, seed, shape, k)).collect();
        Job::new(m.method.name, inputs)
    })
}

#[test]
fn names_are_their_own() {
    for m in MEASURED {
        assert!(METHODS.iter().all(|other| other.name != m.method.name), "{}", m.method.name);
        assert_eq!(measured::find(m.method.name).map(|m| m.statistic), Some(m.statistic));
        assert!(m.method.source.contains("arXiv"));
    }
    assert!(measured::find("linear").is_none());
}

#[test]
fn fisher_goldens() {
    let golden = &golden()["fisher"];
    let (theta, fisher) = (each(&golden["theta"]), each(&golden["F"]));
    let input = Input { statistics: statistics(&[3], fisher), ..Input::new("w", &[3], None, theta.clone()) };
    let job = Job::new("fisher", vec![input.clone()]);
    close("equal", &job.values(), &flat(&golden["merge_equal_eps1e-6"]), 0.0, 6e-8);
    let normalised = job.clone().with("normalize", true);
    close("normalised", &normalised.values(), &flat(&golden["merge_norm_coef_eps1e-6"]), 0.0, 6e-8);
    // The same by given weights, of any scale.
    let weights: Vec<f64> = flat(&golden["norm_coef"]).iter().map(|c| 5.0 * c).collect();
    close(
        "given",
        &job.each("weight", &weights).values(),
        &flat(&golden["merge_norm_coef_eps1e-6"]),
        0.0,
        6e-8,
    );
    // No floor and no information: the mean.
    assert_eq!(Job::new("fisher", vec![input]).with("floor", 0.0).values(), [2.5, 1.0, -0.6]);
    let unmeasured = Input::new("w", &[3], None, theta);
    assert_eq!(Job::new("fisher", vec![unmeasured.clone()]).values(), [2.0, 1.0, 0.0]);
    let weighed = Job::new("fisher", vec![unmeasured]).each("weight", &[1.0, 3.0]).with("normalize", true);
    assert_eq!(weighed.values(), [2.5, 0.5, 0.5]);
}

/// The norm is that of the model: of all tensors, each once.
#[test]
fn norms_are_of_the_whole_model() {
    let mut inputs: Vec<Input> = (1..4).map(|seed| input(Kind::Fisher, seed, &[5, 7], 2)).collect();
    inputs.push(Input { repeats: true, name: "tied".into(), ..inputs[0].clone() });
    let norm = |m: usize| -> f64 {
        let all = inputs[..3].iter().flat_map(|i| &i.statistics[m].values);
        all.map(|f| (f64::from(*f) + 1e-6).powi(2)).sum::<f64>().sqrt()
    };
    let given = Job::new("fisher", inputs.clone()).each("weight", &[1.0 / norm(0), 1.0 / norm(1)]).done();
    let normalised = Job::new("fisher", inputs).with("normalize", true).done();
    for i in 0..4 {
        let expected: Vec<f64> = given.values(i).iter().map(|v| f64::from(*v)).collect();
        close("normalised", &normalised.values(i), &expected, 0.0, 1e-7);
    }
    assert_eq!(bits(&normalised.values(0)), bits(&normalised.values(3)));
}

#[test]
fn regmean_goldens() {
    let golden = &golden()["regmean"];
    let (maps, grams) = (each(&golden["W_out_in"]), each(&golden["G"]));
    let input = Input { statistics: statistics(&[2, 2], grams), ..Input::new("h.w", &[2, 2], None, maps) };
    let transpose = |v: &[f32]| vec![v[0], v[2], v[1], v[3]];
    for (ratio, key) in [(1.0, "merged_ratio_1.0"), (0.9, "merged_ratio_0.9"), (0.0, "merged_ratio_0")] {
        let job = Job::new("regmean", vec![input.clone()]).with("ratio", ratio);
        close(key, &job.values(), &flat(&golden[key]), 0.0, 6e-8);
        let mut turned = input.clone();
        turned.experts.iter_mut().for_each(|map| *map = transpose(map));
        let job = Job::new("regmean", vec![turned]).with("ratio", ratio);
        let job = job.with("transposed", Parameter::TextList(vec!["h.".into()]));
        close(key, &transpose(&job.values()), &flat(&golden[key]), 0.0, 6e-8);
    }
    let vector = Input::new("norm", &[2], None, vec![vec![1.0, 2.0], vec![3.0, 6.0]]);
    assert_eq!(Job::new("regmean", vec![vector]).values(), [2.0, 4.0]);
}

/// Where a matrix is not square its shape says which side the inputs are on.
#[test]
fn shapes_decide_the_orientation() {
    let by_output = input(Kind::Gram, 5, &[3, 4], 2);
    let mut by_input = by_output.clone();
    let turn = |v: &Vec<f32>, rows: usize, cols: usize| -> Vec<f32> {
        (0..rows * cols).map(|at| v[at % rows * cols + at / rows]).collect()
    };
    by_input.shape = vec![4, 3];
    by_input.experts.iter_mut().for_each(|map| *map = turn(map, 3, 4));
    let expected = Job::new("regmean", vec![by_output]).values();
    let found = Job::new("regmean", vec![by_input]).values();
    assert_eq!(bits(&turn(&expected, 3, 4)), bits(&found));
}

#[test]
fn one_model_and_equal_models_give_themselves() {
    for k in [1, 3] {
        for mut job in jobs(&[7, 11], k) {
            for input in &mut job.inputs {
                input.experts = vec![input.experts[0].clone(); k];
            }
            let done = job.done();
            for (i, input) in job.inputs.iter().enumerate() {
                let expected: Vec<f64> = input.experts[0].iter().map(|v| f64::from(*v)).collect();
                close(job.method.name, &done.values(i), &expected, 0.0, 2e-7);
                if job.method.name == "fisher" {
                    assert_eq!(bits(&done.values(i)), bits(&input.experts[0]));
                }
            }
        }
    }
}

#[test]
fn the_order_of_models_does_not_matter() {
    for job in jobs(&[7, 11], 3) {
        let mut turned = job.clone();
        for input in &mut turned.inputs {
            input.experts.reverse();
            input.statistics.reverse();
        }
        let (a, b) = (job.done(), turned.done());
        for i in 0..3 {
            let expected: Vec<f64> = a.values(i).iter().map(|v| f64::from(*v)).collect();
            close(job.method.name, &b.values(i), &expected, largest(&a.values(i)), 2e-7);
        }
    }
}

/// Threads, spans, and what was finished before change no bit.
#[test]
fn cutting_and_resuming_change_nothing() {
    for (kind, shape) in [(Kind::Fisher, vec![3 * BLOCK + 100]), (Kind::Gram, vec![150, 40])] {
        let method = MEASURED.iter().find(|m| m.statistic == kind).expect("each kind has one").method;
        let inputs = (1..4).map(|seed| input(kind, seed, &shape, 3)).collect();
        let mut job = Job::new(method.name, inputs);
        if kind != Kind::Gram {
            job = job.with("normalize", true);
        }
        let whole = job.done();
        for threads in [1, 3] {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            job.options.span = BLOCK * threads;
            assert_eq!(pool.install(|| job.done()), whole, "{threads} threads");
        }
        let plan = job.plan().unwrap();
        let finished = vec![None, Some(whole.notes[1].clone()), None];
        let resumed = run(&plan, &finished, Memory::resumed(&plan, &finished, &whole)).unwrap();
        assert_eq!(resumed, whole);
    }
}

fn refused(job: &Job) -> String {
    match job.run() {
        Err(Failure::Build(sentence)) => sentence,
        Err(Failure::Run(error)) => error.to_string(),
        Ok(_) => panic!("{} accepts it", job.method.name),
    }
}

#[test]
fn statistics_that_cannot_be_are_refused() {
    for job in jobs(&[4, 6], 2) {
        let mut few = job.clone();
        few.inputs[1].statistics.pop();
        assert!(refused(&few).contains("1 statistics for 2 models"), "{}", refused(&few));
        let mut other = job.clone();
        other.inputs[1].statistics[1] = Statistic { shape: vec![5, 5], values: vec![1.0; 25] };
        assert!(refused(&other).contains("model 1 have shape [5, 5]"), "{}", refused(&other));
        for bad in [f32::NAN, f32::INFINITY, -1.0] {
            let mut job = job.clone();
            job.inputs[0].statistics[1].values[0] = bad;
            job.options.allow_non_finite = true;
            let Err(Failure::Run(MergeError::Statistic { model, index, value, .. })) = job.run() else {
                panic!("{} accepts {bad}", job.method.name)
            };
            assert_eq!((model.as_str(), index, value.to_bits()), ("model 1", 0, bad.to_bits()));
        }
    }
    let zero = Job::new("fisher", vec![Input::random(1, &[3], 2)]).each("weight", &[0.0, 0.0]);
    assert!(refused(&zero).contains("weights of all models are 0"));
    let mut silent = input(Kind::Fisher, 1, &[4, 6], 2);
    silent.statistics[1].values.fill(0.0);
    let silent = Job::new("fisher", vec![silent]).with("normalize", true).with("floor", 0.0);
    assert!(refused(&silent).contains("model 1 is 0 everywhere"), "{}", refused(&silent));
    let mut vector = Input::random(1, &[6], 2);
    vector.statistics = statistics(&[6, 6], vec![vec![1.0; 36]; 2]);
    assert!(refused(&Job::new("regmean", vec![vector])).contains("no linear map"));
    let mut asymmetric = input(Kind::Gram, 1, &[4, 6], 2);
    asymmetric.statistics[0].values[1] += 0.5;
    assert!(refused(&Job::new("regmean", vec![asymmetric])).contains("not symmetric at row 1, column 0"));
}

#[test]
fn a_singular_sum_names_the_tensor_and_the_remedy() {
    let mut input = input(Kind::Gram, 1, &[4, 6], 2);
    for statistic in &mut input.statistics {
        statistic.values = (0..36).map(|at| ((at / 6 + 1) * (at % 6 + 1)) as f32).collect();
    }
    let sentence = refused(&Job::new("regmean", vec![input.clone()]).with("ratio", 1.0));
    assert!(sentence.contains("tensor `w1`: the sum of the Gram matrices has no inverse"), "{sentence}");
    assert!(sentence.contains("set `ratio` below 1"), "{sentence}");
    assert!(Job::new("regmean", vec![input]).run().is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Every element lies between the smallest and the greatest of the models', whatever the statistics.
    #[test]
    fn fisher_is_a_mean(
        rows in prop::collection::vec((-1e30f32..1e30, 0f32..1e30, -2f32..2.0, 0f32..1e-30), 1..40),
        k in 1usize..5,
        floor in prop::sample::select(vec![0.0, 1e-6, 1.0]),
        normalize in any::<bool>(),
    ) {
        let n = rows.len();
        let theta = |m: usize| rows.iter().enumerate().map(|(i, r)| if (i + m).is_multiple_of(2) { r.0 } else { r.2 }).collect();
        let fisher = |m: usize| rows.iter().enumerate().map(|(i, r)| [r.1, r.3, 0.0][(i + m) % 3]).collect();
        let models: Vec<Vec<f32>> = (0..k).map(theta).collect();
        let input = Input {
            statistics: statistics(&[n], (0..k).map(fisher).collect()),
            ..Input::new("w", &[n], None, models.clone())
        };
        match Job::new("fisher", vec![input]).with("floor", floor).with("normalize", normalize).run() {
            Ok(done) => for (i, v) in done.values(0).iter().enumerate() {
                let all = models.iter().map(|m| m[i]);
                let (low, high) = (all.clone().fold(f32::MAX, f32::min), all.fold(f32::MIN, f32::max));
                prop_assert!((low..=high).contains(v), "{low} {v} {high}");
            },
            Err(Failure::Run(MergeError::Undefined { .. })) => prop_assert!(floor == 0.0 && normalize),
            Err(other) => prop_assert!(false, "{other:?}"),
        }
    }
}
