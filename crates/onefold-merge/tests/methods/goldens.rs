//! Every merging value of `testdata/golden/metagpt.json` and `merge_ops.json` (its README says how they were made).
//!
//! Tolerances: 1e-12 where a function takes f64; 1e-6 of the largest value where values pass through f32 tensors. The
//! bound U(λ) of `metagpt.json` belongs to the report and is checked there.

use onefold_merge::kernels::mix::{Votes, elect, keep_marked, mark};
use onefold_merge::kernels::reduce::l1;
use onefold_merge::methods::combine;
use onefold_merge::methods::metagpt::coefficients;
use onefold_runtime::Aligned;
use serde_json::Value;

use crate::harness::{Input, Job, close};

const F64: f64 = 1e-12;
const F32: f64 = 1e-6;

fn metagpt() -> Value {
    serde_json::from_str(include_str!("../../../../testdata/golden/metagpt.json")).unwrap()
}

fn merge_ops() -> Value {
    serde_json::from_str(include_str!("../../../../testdata/golden/merge_ops.json")).unwrap()
}

fn row(value: &Value) -> Vec<f64> {
    let number = |v: &Value| v.as_f64().expect("a number");
    value.as_array().unwrap_or_else(|| panic!("not a list: {value}")).iter().map(number).collect()
}

fn rows(value: &Value) -> Vec<Vec<f64>> {
    value.as_array().expect("a list of lists").iter().map(row).collect()
}

fn single(values: &[f64]) -> Vec<f32> {
    values.iter().map(|v| *v as f32).collect()
}

fn same(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (f, e) in found.iter().zip(expected) {
        assert!((f - e).abs() <= tolerance * e.abs().max(1.0), "{what}: {found:?}, expected {expected:?}");
    }
}

/// The example of two tensors.
fn example() -> (Value, Vec<Input>) {
    let golden = metagpt();
    let tensor = |name: &str| {
        let base = single(&row(&golden["base"][name]));
        let experts = golden["models"].as_array().unwrap().iter().map(|m| single(&row(&m[name]))).collect();
        Input::new(name, &[base.len()], Some(base), experts)
    };
    let inputs = vec![tensor("a"), tensor("b")];
    (golden, inputs)
}

/// Task vectors on a base of zeros: the merged tensor is the merged task vector.
fn of_deltas(deltas: &[Vec<f64>]) -> Vec<Input> {
    let n = deltas[0].len();
    vec![Input::new("w", &[n], Some(vec![0.0; n]), deltas.iter().map(|d| single(d)).collect())]
}

fn merged(job: &Job) -> Vec<f32> {
    job.values()
}

// ---- MetaGPT

#[test]
fn lambdas_in_f64() {
    let golden = metagpt();
    let norms = row(&golden["sq_norms"]);
    same("λ", &coefficients(&norms, &[1.0; 3]), &row(&golden["lambda"]), F64);
    let variant = &golden["delta_variant"];
    same("λ with δ", &coefficients(&norms, &row(&variant["delta"])), &row(&variant["lambda"]), F64);
    let variant = &golden["per_tensor_variant"];
    for name in ["a", "b"] {
        let lambda = coefficients(&row(&variant["sq_norms"][name]), &[1.0; 3]);
        same(name, &lambda, &row(&variant["lambda"][name]), F64);
    }
    let oblique = &golden["non_orthogonal"];
    let lambda = coefficients(&row(&oblique["sq_norms"]), &[1.0; 3]);
    same("not orthogonal", &lambda, &row(&oblique["lambda_formula"]), F64);
    same("not orthogonal, by least squares", &lambda, &row(&oblique["lambda_least_squares"]), F64);
    let equal = &golden["equal_norms"];
    same("equal norms", &coefficients(&row(&equal["sq_norms"]), &[1.0; 4]), &row(&equal["lambda"]), F64);
    // The golden's note on ties of zeros, in numbers.
    assert_eq!(coefficients(&[0.0, 3.0, 1.0], &[1.0; 3]), [0.0, 0.75, 0.25]);
    assert_eq!(coefficients(&[0.0; 4], &[1.0; 4]), [0.25; 4]);
}

#[test]
fn metagpt_of_the_whole_model() {
    let (golden, inputs) = example();
    let done = Job::new("metagpt", inputs).done();
    for (i, name) in ["a", "b"].into_iter().enumerate() {
        same(name, &done.coefficients(i).unwrap(), &row(&golden["lambda"]), F32);
        close(name, &done.values(i), &row(&golden["merged"][name]), 1.0, F32);
    }
}

#[test]
fn metagpt_with_curvatures() {
    let (golden, inputs) = example();
    let variant = &golden["delta_variant"];
    let job = Job::new("metagpt", inputs).each("delta", &row(&variant["delta"]));
    same("λ with δ", &job.done().coefficients(1).unwrap(), &row(&variant["lambda"]), F32);
}

#[test]
fn metagpt_per_tensor() {
    let (golden, inputs) = example();
    let variant = &golden["per_tensor_variant"];
    // Each tensor is a layer here, so that both granularities must agree.
    for granularity in ["tensor", "layer"] {
        let done = Job::new("metagpt", inputs.clone()).with("granularity", granularity).done();
        for (i, name) in ["a", "b"].into_iter().enumerate() {
            same(name, &done.coefficients(i).unwrap(), &row(&variant["lambda"][name]), F32);
            close(name, &done.values(i), &row(&variant["merged"][name]), 1.0, F32);
        }
    }
}

#[test]
fn metagpt_does_not_need_orthogonality() {
    let golden = &metagpt()["non_orthogonal"];
    let deltas = rows(&golden["task_vectors"]);
    let done = Job::new("metagpt", of_deltas(&deltas)).done();
    let lambda = row(&golden["lambda_least_squares"]);
    same("λ", &done.coefficients(0).unwrap(), &lambda, F32);
    let sum = |i: usize| (0..3).map(|t| lambda[t] * deltas[t][i]).sum();
    close("merged", &done.values(0), &[sum(0), sum(1), sum(2)], 0.0, F32);
    // The packed Gramian has the origin first: rows 1 to 3 are the task vectors.
    let gramian = &done.statistics[0].as_ref().unwrap().gramian;
    let inner = |i: usize, j: usize| gramian[onefold_merge::kernels::reduce::packed_index(5, i + 1, j + 1)];
    for (i, cosines) in rows(&golden["cosine"]).iter().enumerate() {
        same("‖τ‖²", &[inner(i, i)], &[row(&golden["sq_norms"])[i]], F32);
        for (j, cosine) in cosines.iter().enumerate().skip(i) {
            same("cosine", &[inner(i, j) / (inner(i, i) * inner(j, j)).sqrt()], &[*cosine], F32);
        }
    }
}

/// `‖s·BA‖²` of an adapter: what MetaGPT sees of it is the trace formula of the small factors.
#[test]
fn the_norm_of_a_low_rank_update() {
    let golden = &metagpt()["lora_norm"];
    let (b, a) = (rows(&golden["B"]), rows(&golden["A"]));
    let s = golden["scale"].as_f64().unwrap();
    let (r, n) = (a.len(), a[0].len());
    let entry = |i: usize, j: usize| s * (0..r).map(|k| b[i][k] * a[k][j]).sum::<f64>();
    let dense: Vec<f64> = (0..b.len() * n).map(|e| entry(e / n, e % n)).collect();
    let aat = |i: usize, j: usize| (0..n).map(|e| a[i][e] * a[j][e]).sum::<f64>();
    let btb = |i: usize, j: usize| b.iter().map(|row| row[i] * row[j]).sum::<f64>();
    let trace: f64 = (0..r * r).map(|e| s * s * aat(e / r, e % r) * btb(e % r, e / r)).sum();
    same("trace", &[trace], &[golden["norm2_trace"].as_f64().unwrap()], F64);
    let done = Job::new("metagpt", of_deltas(&[dense])).done();
    let norm =
        done.statistics[0].as_ref().unwrap().gramian[onefold_merge::kernels::reduce::packed_index(3, 1, 1)];
    same("dense", &[norm], &[golden["norm2_dense"].as_f64().unwrap()], F32);
}

// ---- TIES

/// The task vectors of `merge_ops.json`, trimmed by `ties` to a density.
fn trims(deltas: &[Vec<f64>], density: f64) -> Vec<Vec<f32>> {
    let alone = |d: &Vec<f64>| {
        merged(
            &Job::new("ties", of_deltas(std::slice::from_ref(d)))
                .each("weight", &[1.0])
                .each("density", &[density]),
        )
    };
    deltas.iter().map(alone).collect()
}

#[test]
fn ties_keeps_exactly_k() {
    let golden = merge_ops();
    let deltas = rows(&golden["task_vectors"]);
    let mut cases = vec![(0.55, &golden["mergekit_ties"]["trimmed"])];
    // The reference code keeps one more than K·d asks for.
    cases.extend([
        (0.2, &golden["ties"]["0.2"]["trim_exact_k"]),
        (0.3, &golden["ties"]["0.2"]["trim_reference_code"]),
    ]);
    cases.extend([
        (0.5, &golden["ties"]["0.5"]["trim_exact_k"]),
        (0.6, &golden["ties"]["0.5"]["trim_reference_code"]),
    ]);
    for (density, expected) in cases {
        for (found, expected) in trims(&deltas, density).iter().zip(rows(expected)) {
            assert_eq!(found, &single(&expected), "density {density}");
        }
    }
    let counts = |key: &str, k: &str| row(&golden["ties"][k][key]);
    for (density, key, k) in [
        (0.2, "kept_exact_k", "0.2"),
        (0.3, "kept_reference_code", "0.2"),
        (0.5, "kept_exact_k", "0.5"),
        (0.6, "kept_reference_code", "0.5"),
    ] {
        let kept = trims(&deltas, density);
        let count: Vec<f64> = kept.iter().map(|r| r.iter().filter(|v| **v != 0.0).count() as f64).collect();
        assert_eq!(count, counts(key, k), "density {density}");
    }
    assert_eq!(golden["mergekit_ties"]["kept"].as_u64(), Some((0.55f64 * 10.0) as u64));
}

/// The paper's merge, through the method: at a density of one element more, trims equal the reference code's.
#[test]
fn ties_as_in_the_paper() {
    let golden = merge_ops();
    let deltas = rows(&golden["task_vectors"]);
    for (k, density) in [("0.2", 0.3), ("0.5", 0.6)] {
        for (normalize, key) in [(true, "merged_dis_mean"), (false, "merged_dis_sum")] {
            let job = Job::new("ties", of_deltas(&deltas))
                .each("weight", &[1.0; 3])
                .each("density", &[density; 3])
                .with("election", "paper")
                .with("normalize", normalize);
            close(key, &merged(&job), &row(&golden["ties"][k][key]), 0.0, F32);
        }
    }
}

/// The elected signs and the parts that agree with them (Φ of AdaMerging++), through the kernel.
#[test]
fn elected_signs() {
    let golden = merge_ops();
    for k in ["0.2", "0.5"] {
        let case = &golden["ties"][k];
        let trimmed: Vec<Vec<f32>> = rows(&case["trim_reference_code"]).iter().map(|r| single(r)).collect();
        let mut votes = vec![0.0; 10];
        combine(&[1.0; 3], &trimmed, &mut votes);
        let sum: f32 = votes.iter().map(|v| if *v == 0.0 { 0.0 } else { v.signum() }).sum();
        let majority = if sum < 0.0 { -1.0 } else { 1.0 };
        let signs: Vec<f64> =
            votes.iter().map(|v| f64::from(if *v == 0.0 { majority } else { v.signum() })).collect();
        assert_eq!(signs, row(&case["sign_reference_code"]), "K = {k}");
        for (x, expected) in trimmed.iter().zip(rows(&case["adamerging_pp_phi"])) {
            let mut out = vec![9.0; 10];
            elect(&[x[..].into()], Votes::Of(&votes, majority), None, &mut out);
            assert_eq!(out, single(&expected), "K = {k}");
        }
    }
}

#[test]
fn ties_with_the_weights_of_metagpt() {
    let golden = merge_ops();
    let deltas = rows(&golden["task_vectors"]);
    let case = &golden["mergekit_ties"];
    same("λ raw", &row(&golden["metagpt_lambda_raw"]), &row(&case["lambda_raw"]), F64);
    for (norms, normalize, lambda, key) in [
        ("raw", true, "lambda_raw", "ties_lambda_raw_normalize_true"),
        ("raw", false, "lambda_raw", "ties_lambda_raw_normalize_false"),
        ("pruned", true, "lambda_pruned", "ties_lambda_pruned_normalize_true"),
    ] {
        let job = Job::new("metagpt", of_deltas(&deltas))
            .each("density", &[0.55; 3])
            .with("sparsify", "magnitude")
            .with("consensus", "sum")
            .with("norms_from", norms)
            .with("normalize", normalize);
        let done = job.done();
        same(lambda, &done.coefficients(0).unwrap(), &row(&case[lambda]), F32);
        close(key, &done.values(0), &row(&case[key]), 0.0, F32);
        // The same with the weights given, by mergekit's own method.
        let job = Job::new("ties", of_deltas(&deltas))
            .each("density", &[0.55; 3])
            .each("weight", &row(&case[lambda]))
            .with("normalize", normalize);
        close(key, &merged(&job), &row(&case[key]), 0.0, F32);
    }
}

// ---- DARE: the golden's masks go in as random numbers

/// The kept part of each task vector, and its factors by density and by L1 norm.
fn dare(golden: &Value) -> Vec<(Vec<f32>, f64, f64)> {
    let density = golden["dare"]["density"].as_f64().unwrap();
    let pairs = rows(&golden["task_vectors"]).into_iter().zip(rows(&golden["dare"]["masks"]));
    let one = |(delta, mask): (Vec<f64>, Vec<f64>)| {
        let x = single(&delta);
        let mut marks = vec![0; onefold_runtime::random::GROUP / 8];
        mark(&single(&mask), &mut marks);
        let mut kept = vec![9.0; x.len()];
        keep_marked(&x, &marks, 1.0, &mut kept);
        let by_norm = l1(&x) / l1(&kept);
        (kept, 1.0 / density, by_norm)
    };
    pairs.map(one).collect()
}

#[test]
fn dare_with_given_masks() {
    let golden = merge_ops();
    let case = &golden["dare"];
    let lambda = row(&golden["metagpt_lambda_raw"]);
    let parts = dare(&golden);
    let kept: Vec<Vec<f32>> = parts.iter().map(|p| p.0.clone()).collect();
    for (key, linear, factors) in [
        (
            "dare_1_over_density",
            "metagpt_dare_linear_1_over_density",
            parts.iter().map(|p| p.1).collect::<Vec<_>>(),
        ),
        ("dare_l1_match", "metagpt_dare_linear_l1", parts.iter().map(|p| p.2).collect()),
    ] {
        for ((x, factor), expected) in kept.iter().zip(&factors).zip(rows(&case[key])) {
            let mut out = vec![9.0; x.len()];
            combine(&[*factor], std::slice::from_ref(x), &mut out);
            close(key, &out, &expected, 0.0, F32);
        }
        let scales: Vec<f64> = lambda.iter().zip(&factors).map(|(l, f)| l * f).collect();
        let mut out = vec![9.0; 10];
        combine(&scales, &kept, &mut out);
        close(linear, &out, &row(&case[linear]), 0.0, F32);
    }
    let weighted: Vec<Aligned> = parts
        .iter()
        .zip(&lambda)
        .map(|((x, factor, _), l)| x.iter().map(|v| (l * factor) as f32 * v).collect::<Vec<f32>>()[..].into())
        .collect();
    let mut out = vec![9.0; 10];
    elect(&weighted, Votes::Sum, None, &mut out);
    let key = "metagpt_dare_ties_1_over_density";
    close(key, &out, &row(&case[key]), 0.0, F32);
}

// ---- the others

#[test]
fn breadcrumbs_drops_outliers_and_small_fry() {
    let golden = merge_ops();
    let delta = &rows(&golden["task_vectors"])[..1];
    let case = &golden["breadcrumbs_mergekit"];
    let kept = |gamma: f64| {
        let job = Job::new("breadcrumbs", of_deltas(delta)).each("weight", &[1.0]).each("density", &[0.5]);
        merged(&job.each("gamma", &[gamma]))
    };
    assert_eq!(kept(0.2), single(&row(&case["row0_density_.5_gamma_.2"])));
    // No outlier to drop: mergekit's slice is then empty and drops all; here it drops none.
    assert_eq!(kept(0.01), single(&row(&case["row0_density_.5_gamma_.01_fixed"])));
    assert!(row(&case["row0_density_.5_gamma_.01_published_slice"]).iter().all(|v| *v == 0.0));
}

#[test]
fn task_arithmetic_and_mean() {
    let golden = merge_ops();
    let inputs = of_deltas(&rows(&golden["task_vectors"]));
    let sum = Job::new("task_arithmetic", inputs.clone()).each("weight", &[0.3; 3]);
    close("λ = 0.3", &merged(&sum), &row(&golden["task_arithmetic_.3"]), 0.0, F32);
    let sum = Job::new("task_arithmetic", inputs.clone()).each("weight", &[1.0; 3]).with("lambda", 0.3);
    close("λ = 0.3", &merged(&sum), &row(&golden["task_arithmetic_.3"]), 0.0, F32);
    let mean = Job::new("linear", inputs).each("weight", &[1.0; 3]);
    close("mean", &merged(&mean), &row(&golden["mean"]), 0.0, F32);
}
