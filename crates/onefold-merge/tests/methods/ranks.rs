//! Which elements the ranking methods keep when many magnitudes are equal: exactly as many as asked for, the lower
//! position first, whatever blocks, tensors and threads the equal ones are spread over.

use onefold_merge::MergeError;
use onefold_merge::scan::BLOCK;
use onefold_merge::stream::Planned;
use onefold_runtime::Stream;
use rayon::ThreadPoolBuilder;

use crate::harness::{Failure, Input, Job, Memory, close, run};

/// Tensors of deltas on a base of zeros, one expert.
fn inputs(tensors: &[Vec<f32>]) -> Vec<Input> {
    let one = |(i, x): (usize, &Vec<f32>)| {
        Input::new(&format!("t{i}"), &[x.len()], Some(vec![0.0; x.len()]), vec![x.clone()])
    };
    tensors.iter().enumerate().map(one).collect()
}

fn trim(method: &str, tensors: &[Vec<f32>], density: f64, scope: &str) -> Job {
    Job::new(method, inputs(tensors)).each("weight", &[1.0]).each("density", &[density]).with("scope", scope)
}

/// The sequence without what ranks outside of `top..top + target`.
fn expected(tensors: &[Vec<f32>], top: usize, target: usize) -> Vec<Vec<f32>> {
    let mut all: Vec<(f32, usize)> = tensors.concat().into_iter().enumerate().map(|(i, v)| (v, i)).collect();
    let values: Vec<f32> = all.iter().map(|(v, _)| *v).collect();
    all.sort_by(|a, b| b.0.abs().total_cmp(&a.0.abs()).then(a.1.cmp(&b.1)));
    let mut kept = vec![0.0; all.len()];
    all[top..top + target].iter().for_each(|(v, i)| kept[*i] = *v);
    assert_eq!(values.len(), kept.len());
    let mut rest = &kept[..];
    tensors
        .iter()
        .map(|t| {
            let (here, after) = rest.split_at(t.len());
            rest = after;
            here.to_vec()
        })
        .collect()
}

fn same(what: &str, job: &Job, expected: &[Vec<f32>]) {
    let done = job.done();
    for (i, expected) in expected.iter().enumerate() {
        let found = done.values(i);
        let wrong = (0..found.len()).find(|e| found[*e] != expected[*e]);
        assert!(wrong.is_none(), "{what}: tensor {i} differs at {wrong:?}");
    }
}

/// Few magnitudes, many of each, with both signs.
fn levels(seed: u64, n: usize) -> Vec<f32> {
    let mut numbers = vec![0; n];
    Stream::new(seed, "levels", "").fill(0, &mut numbers);
    let level = |r: &u32| [0.0, -0.25, 0.25, 0.5, -0.5, 0.500_000_06, 1.0, -2.0][(r % 8) as usize];
    numbers.iter().map(level).collect()
}

/// Tensors whose borders are not those of blocks, one of a single element, one empty.
fn model() -> Vec<Vec<f32>> {
    [40_000, 1, BLOCK, 0, 3 * BLOCK + 5, 7].iter().enumerate().map(|(i, n)| levels(i as u64, *n)).collect()
}

#[test]
fn ties_of_a_model_are_cut_in_its_order() {
    let tensors = model();
    let n = tensors.iter().map(Vec::len).sum::<usize>();
    for density in [0.0, 1e-5, 0.01, 0.124, 0.3, 0.5, 0.7, 0.9, 0.999_99] {
        let target = (density * n as f64) as usize;
        let kept = expected(&tensors, 0, target);
        same(&format!("density {density}"), &trim("ties", &tensors, density, "model"), &kept);
    }
}

#[test]
fn outliers_of_a_model_are_cut_in_its_order() {
    let tensors = model();
    let n = tensors.iter().map(Vec::len).sum::<usize>();
    for (density, gamma) in [(0.5, 0.0), (0.3, 0.05), (0.4, 0.3), (0.1, 0.12), (0.7, 0.6)] {
        let target = (density * n as f64) as usize;
        let top = ((gamma * n as f64) as usize).min(n - target);
        let job = trim("breadcrumbs", &tensors, density, "model").each("gamma", &[gamma]);
        same(&format!("{density} {gamma}"), &job, &expected(&tensors, top, target));
    }
}

#[test]
fn ties_of_a_tensor_are_cut_across_its_blocks() {
    let tensors = model();
    for tensor in tensors.iter().filter(|t| !t.is_empty()) {
        let one = std::slice::from_ref(tensor);
        for density in [0.01, 0.3, 0.6] {
            let target = (density * tensor.len() as f64) as usize;
            let kept = expected(one, 0, target);
            same(&format!("{} {density}", tensor.len()), &trim("ties", one, density, "tensor"), &kept);
        }
    }
}

/// One magnitude everywhere: the cut is a position, here at and around the borders of blocks and tensors.
#[test]
fn a_cut_at_a_border_keeps_what_lies_before() {
    let tensors: Vec<Vec<f32>> = [2 * BLOCK, BLOCK + 100, 50].iter().map(|n| vec![-0.75; *n]).collect();
    let n = tensors.iter().map(Vec::len).sum::<usize>();
    for border in [1, BLOCK, 2 * BLOCK, 3 * BLOCK, 3 * BLOCK + 100, n - 1] {
        for target in [border - 1, border, border + 1] {
            // Halfway between two counts, so that rounding of the product cannot change it.
            let density = (target as f64 + 0.5) / n as f64;
            let job = trim("ties", &tensors, density.min(1.0), "model");
            same(&format!("{target} of {n}"), &job, &expected(&tensors, 0, target.min(n)));
        }
    }
}

/// More equal magnitudes than are ever collected: they are counted instead. On one and on three threads.
#[test]
fn crowds_of_equal_magnitudes_are_cut_exactly() {
    let mut tensors = vec![vec![0.25f32; 700_000], vec![-0.25; 500_000], levels(9, 1000)];
    // Others in the same bin of the histogram, above and below the crowd.
    tensors[0][123_456] = 0.250_001;
    tensors[1][5] = -0.250_000_03;
    tensors[1][7] = 0.25 + 0.000_9;
    let n = tensors.iter().map(Vec::len).sum::<usize>();
    for density in [1e-6, 0.0005, 0.4, 0.65] {
        let kept = expected(&tensors, 0, (density * n as f64) as usize);
        for threads in [1, 3] {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| same(&format!("{density}"), &trim("ties", &tensors, density, "model"), &kept));
        }
    }
    // A crowd of zeros: which of them are kept does not show.
    let zeros = vec![vec![0.0f32; 1_200_000], levels(3, 100)];
    let kept = expected(&zeros, 0, 600_050);
    same("zeros", &trim("ties", &zeros, 600_050.5 / 1_200_100.0, "model"), &kept);
}

/// Plans whose tensors have densities of their own.
fn of_densities(tensors: &[Vec<f32>], densities: &[f64]) -> Vec<Planned> {
    let one = |(input, density): (Input, &f64)| {
        let job = Job::new("ties", vec![input]).each("weight", &[1.0]).each("density", &[*density]);
        job.with("scope", "model").plan().unwrap().remove(0)
    };
    inputs(tensors).into_iter().zip(densities).map(one).collect()
}

#[test]
fn a_model_is_ranked_by_one_density() {
    let tensors = [levels(1, 50), levels(2, 70)];
    let plan = of_densities(&tensors, &[0.5, 0.6]);
    match run(&plan, &[None, None], Memory::new(&plan)) {
        Err(MergeError::Undefined { tensor, message }) => {
            assert_eq!(tensor, "t1");
            assert!(message.contains("model 0") && message.contains("scope: model"), "{message}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_tensor_of_density_one_is_kept_and_not_ranked() {
    let tensors = [levels(1, 50), levels(2, 70), levels(3, 30)];
    let plan = of_densities(&tensors, &[0.5, 1.0, 0.5]);
    let done = run(&plan, &[None, None, None], Memory::new(&plan)).unwrap();
    let kept = expected(&[tensors[0].clone(), tensors[2].clone()], 0, 40);
    assert_eq!(done.values(0), kept[0]);
    assert_eq!(done.values(1), tensors[1]);
    assert_eq!(done.values(2), kept[1]);
}

/// The same where one expert is ranked in a tensor and the other is not.
#[test]
fn experts_are_ranked_each_for_itself() {
    let first = [levels(1, 50), levels(2, 70)];
    let second = [levels(3, 50), levels(4, 70)];
    let planned = |t: usize, densities: &[f64]| {
        let experts = vec![first[t].clone(), second[t].clone()];
        let input = Input::new(&format!("t{t}"), &[first[t].len()], Some(vec![0.0; first[t].len()]), experts);
        let job =
            Job::new("breadcrumbs", vec![input]).each("weight", &[1.0, 100.0]).each("density", densities);
        job.each("gamma", &[0.0; 2]).with("scope", "model").plan().unwrap().remove(0)
    };
    // The first is ranked over both tensors, the second in tensor 0 alone.
    let plan = [planned(0, &[0.5, 0.4]), planned(1, &[0.5, 1.0])];
    let done = run(&plan, &[None, None], Memory::new(&plan)).unwrap();
    let of_first = expected(&first, 0, 60);
    let of_second = [expected(&second[..1], 0, 20).remove(0), second[1].clone()];
    for t in 0..2 {
        let both = of_first[t].iter().zip(&of_second[t]).map(|(a, b)| f64::from(*a) + 100.0 * f64::from(*b));
        close(&format!("tensor {t}"), &done.values(t), &both.collect::<Vec<_>>(), 0.0, 1e-6);
    }
}

/// DELLA has no probabilities outside of (0, 1).
#[test]
fn della_refuses_what_it_cannot_do() {
    for density in [0.9, 0.85, 0.15, 0.05] {
        let job =
            Job::new("della", inputs(&[levels(1, 20)])).each("weight", &[1.0]).each("density", &[density]);
        match job.run() {
            Err(Failure::Build(sentence)) => assert!(sentence.contains("choose density in"), "{sentence}"),
            other => panic!("{density}: {other:?}"),
        }
    }
}
