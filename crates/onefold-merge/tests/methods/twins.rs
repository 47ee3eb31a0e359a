//! Each formula once more: naive, in f64, element by element, from the specification. Inputs have several blocks and rows
//! that do not divide a block. TSV-M and Iso-C(TS) have their twins (full SVDs) beside their code.
//!
//! Tolerance 1e-5 of the largest value in general; results pass through f32 (6e-8 per operation) with coefficients of
//! order 1, so most agree to 5e-7. The task vectors that are ranked and signed are those of f32, as specified, so that no
//! twin can differ in what it selects but where a test says so.

use onefold_merge::MergeError;
use onefold_merge::scan::BLOCK;
use onefold_runtime::Stream;
use onefold_runtime::random::{GROUP, threshold};

use crate::harness::{Failure, Input, Job, close, largest, normal};

const TOLERANCE: f64 = 1e-5;
const SHAPES: [&[usize]; 6] = [&[1], &[7], &[9, 31], &[130, 150], &[2, 3, 5, 7], &[3, BLOCK + 77]];

/// Runs `twin` on inputs of all shapes beside the job that `job` makes of them.
fn agree(k: usize, job: impl Fn(Vec<Input>) -> Job, twin: impl Fn(&Input) -> Vec<f64>) {
    for (seed, shape) in SHAPES.iter().enumerate() {
        let input = Input::random(100 + seed as u64, shape, k);
        let scale = largest(input.base.as_ref().unwrap());
        let job = job(vec![input]);
        let what = format!("{} {:?} {shape:?}", job.method.name, job.global);
        close(&what, &job.values(), &twin(&job.inputs[0]), scale, TOLERANCE);
    }
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v)).collect()
}

fn base(input: &Input) -> Vec<f64> {
    wide(input.base.as_ref().unwrap())
}

fn experts(input: &Input) -> Vec<Vec<f64>> {
    input.experts.iter().map(|x| wide(x)).collect()
}

fn without_base(mut inputs: Vec<Input>) -> Vec<Input> {
    inputs.iter_mut().for_each(|i| i.base = None);
    inputs
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

fn norm(x: &[f64]) -> f64 {
    dot(x, x).sqrt()
}

fn sum(coefficients: &[f64], vectors: &[Vec<f64>]) -> Vec<f64> {
    let n = vectors[0].len();
    (0..n).map(|e| coefficients.iter().zip(vectors).map(|(c, v)| c * v[e]).sum()).collect()
}

fn plus(x: &[f64], y: &[f64]) -> Vec<f64> {
    x.iter().zip(y).map(|(x, y)| x + y).collect()
}

fn scaled(x: &[f64], c: f64) -> Vec<f64> {
    x.iter().map(|x| x * c).collect()
}

// ---- means

#[test]
fn linear() {
    let weights = [0.7, -0.2, 0.9];
    agree(
        3,
        |i| Job::new("linear", i).each("weight", &weights),
        |i| sum(&weights.map(|w| w / 1.4), &experts(i)),
    );
    agree(
        3,
        |i| Job::new("linear", i).each("weight", &weights).with("normalize", false),
        |i| sum(&weights, &experts(i)),
    );
}

#[test]
fn passthrough() {
    agree(1, |i| Job::new("passthrough", i).each("scale", &[-1.5]), |i| scaled(&experts(i)[0], -1.5));
}

#[test]
fn nearswap() {
    agree(
        1,
        |i| Job::new("nearswap", i).with("t", 0.04),
        |i| {
            let (b, x) = (base(i), &experts(i)[0]);
            let one = |(b, x): (&f64, &f64)| {
                let w = (0.04 / (b - x).abs().max(1e-6)).clamp(0.0, 1.0);
                w * x + (1.0 - w) * b
            };
            b.iter().zip(x).map(one).collect()
        },
    );
}

// ---- on the sphere

fn great_circle(x: &[f64], y: &[f64], t: f64, straight_above: f64, floor: f64) -> Vec<f64> {
    let cosine = (dot(x, y) / (norm(x).max(floor) * norm(y).max(floor))).clamp(-1.0, 1.0);
    let angle = cosine.acos();
    let (a, b) = if cosine.abs() > straight_above || angle.sin() < 1e-8 {
        (1.0 - t, t)
    } else {
        (((1.0 - t) * angle).sin() / angle.sin(), (t * angle).sin() / angle.sin())
    };
    plus(&scaled(x, a), &scaled(y, b))
}

#[test]
fn slerp() {
    for t in [0.3, -0.5, 1.7] {
        agree(
            1,
            |i| Job::new("slerp", i).with("t", t),
            |i| great_circle(&base(i), &experts(i)[0], t, 0.9995, 0.0),
        );
    }
    // Directions that differ much, and directions on the straight side of the threshold.
    for (factor, seed) in [(5.0f32, 1), (0.01, 2)] {
        let mut input = Input::random(seed, &[40, 60], 1);
        let b = input.base.clone().unwrap();
        input.experts[0].iter_mut().zip(&b).for_each(|(x, b)| *x = b + (*x - b) * 10.0 * factor);
        let twin = great_circle(&base(&input), &experts(&input)[0], 0.6, 0.9995, 0.0);
        close("slerp", &Job::new("slerp", vec![input]).with("t", 0.6).values(), &twin, 1.0, TOLERANCE);
    }
}

/// The vectors of a tensor along its first (`columns`) or last dimension, each with the positions of its elements.
fn lines(shape: &[usize], columns: bool) -> Vec<Vec<usize>> {
    let n: usize = shape.iter().product();
    let last = *shape.last().unwrap();
    if columns && shape.len() > 1 {
        let stride = n / shape[0];
        return (0..stride).map(|c| (c..n).step_by(stride).collect()).collect();
    }
    (0..n / last).map(|r| (r * last..(r + 1) * last).collect()).collect()
}

#[test]
fn nuslerp() {
    let weights = [0.9, 0.3];
    let of_lines = |x: &[Vec<f64>], shape: &[usize], columns: bool| {
        let mut out = vec![0.0; x[0].len()];
        for line in lines(shape, columns) {
            let part = |v: &Vec<f64>| -> Vec<f64> { line.iter().map(|e| v[*e]).collect() };
            let merged = great_circle(&part(&x[0]), &part(&x[1]), 0.25, 2.0, 1e-7);
            line.iter().zip(merged).for_each(|(e, m)| out[*e] = m);
        }
        out
    };
    agree(
        2,
        |i| Job::new("nuslerp", without_base(i)).each("weight", &weights),
        |i| {
            let x = experts(i);
            great_circle(&x[0], &x[1], 0.25, 2.0, 1e-7)
        },
    );
    agree(
        2,
        |i| Job::new("nuslerp", i).each("weight", &weights),
        |i| {
            let x = i.deltas();
            plus(&base(i), &great_circle(&x[0], &x[1], 0.25, 2.0, 1e-7))
        },
    );
    for columns in [false, true] {
        let job = |i| {
            let job = Job::new("nuslerp", i).each("weight", &weights).with("nuslerp_flatten", false);
            job.with("nuslerp_row_wise", columns)
        };
        agree(2, |i| job(without_base(i)), |i| of_lines(&experts(i), &i.shape, columns));
        agree(2, job, |i| plus(&base(i), &of_lines(&i.deltas(), &i.shape, columns)));
    }
}

fn multislerp_of(x: &[Vec<f64>], w: &[f64], eps: f64) -> Vec<f64> {
    let unit: Vec<Vec<f64>> = x.iter().map(|x| scaled(x, 1.0 / (norm(x) + eps))).collect();
    let mean = sum(w, &unit);
    let mean = scaled(&mean, 1.0 / norm(&mean));
    let tangents: Vec<Vec<f64>> = unit.iter().map(|u| plus(u, &scaled(&mean, -dot(u, &mean)))).collect();
    let tangent = sum(w, &tangents);
    let n = norm(&tangent) + eps;
    let size: f64 = w.iter().zip(x).map(|(w, x)| w * norm(x)).sum();
    scaled(&plus(&scaled(&mean, n.cos()), &scaled(&tangent, n.sin() / n)), size)
}

#[test]
fn multislerp() {
    let weights = [0.5, 0.9, 0.2];
    let shares = weights.map(|w| w / 1.6);
    agree(
        3,
        |i| Job::new("multislerp", without_base(i)).each("weight", &weights),
        |i| multislerp_of(&experts(i), &shares, 1e-8),
    );
    agree(
        3,
        |i| Job::new("multislerp", i).each("weight", &weights),
        |i| plus(&base(i), &multislerp_of(&i.deltas(), &shares, 1e-8)),
    );
    let raw = |i| Job::new("multislerp", i).each("weight", &weights).with("normalize_weights", false);
    agree(3, |i| raw(i).with("eps", 1e-3), |i| plus(&base(i), &multislerp_of(&i.deltas(), &weights, 1e-3)));
}

fn karcher_of(x: &[Vec<f64>], steps: usize, tol: f64) -> Vec<f64> {
    let norms: Vec<f64> = x.iter().map(|x| norm(x)).collect();
    let size = norms.iter().sum::<f64>() / x.len() as f64;
    let units: Vec<Vec<f64>> =
        x.iter().zip(&norms).filter(|(_, n)| **n > tol).map(|(x, n)| scaled(x, 1.0 / n)).collect();
    let share = 1.0 / units.len() as f64;
    let mut u = sum(&vec![share; units.len()], &units);
    u = if norm(&u) < tol { units[0].clone() } else { scaled(&u, 1.0 / norm(&u)) };
    for _ in 0..steps {
        let mut tangent = vec![0.0; u.len()];
        for unit in &units {
            let cosine = dot(&u, unit).clamp(-1.0, 1.0);
            let angle = cosine.acos();
            if angle >= tol {
                let towards = plus(unit, &scaled(&u, -cosine));
                tangent = plus(&tangent, &scaled(&towards, share * angle / angle.sin()));
            }
        }
        let length = norm(&tangent);
        if length < tol {
            break;
        }
        u = plus(&scaled(&u, length.cos()), &scaled(&tangent, length.sin() / length));
        u = scaled(&u, 1.0 / norm(&u));
    }
    scaled(&u, size)
}

#[test]
fn karcher() {
    // One element: directions are signs, which may be opposite, where a mean is a matter of convention.
    let shapes = &SHAPES[1..];
    for (seed, shape) in shapes.iter().enumerate() {
        for (steps, tol, with_base) in
            [(10, 1e-5, true), (10, 1e-5, false), (1, 1e-5, false), (40, 1e-3, true)]
        {
            let mut input = Input::random(200 + seed as u64, shape, 3);
            // Unequal lengths, and angles that matter.
            let b = input.base.clone().unwrap();
            for (i, x) in input.experts.iter_mut().enumerate() {
                x.iter_mut().zip(&b).for_each(|(x, b)| *x = (b + (*x - b) * 8.0) * (i + 1) as f32);
            }
            let mut all = experts(&input);
            if with_base {
                all.insert(0, base(&input));
            } else {
                input.base = None;
            }
            let job = Job::new("karcher", vec![input]).with("max_iter", f64::from(steps)).with("tol", tol);
            let twin = karcher_of(&all, steps as usize, tol);
            close(&format!("karcher {shape:?} {steps} {tol}"), &job.values(), &twin, 1.0, TOLERANCE);
        }
    }
}

/// Two opposite vectors span no plane: the result is on the line between them, not the rounding of huge coefficients.
#[test]
fn opposite_directions_do_not_explode() {
    for seed in 0..60 {
        let x = normal(seed, "x", 50);
        // Exactly opposite; and off by little more than f32 can tell, of another length.
        let exact: Vec<f32> = x.iter().map(|v| -v).collect();
        let nearly: Vec<f32> =
            x.iter().zip(normal(seed, "noise", 50)).map(|(v, d)| -1.5 * v + 1e-6 * d).collect();
        for (what, y) in [("exactly", exact), ("nearly", nearly)] {
            let input = Input::new("w", &[50], None, vec![x.clone(), y.clone()]);
            let line = sum(&[0.7, 0.3], &[wide(&x), wide(&y)]);
            let job = Job::new("nuslerp", vec![input.clone()]).each("weight", &[0.7, 0.3]);
            close(&format!("nuslerp {what} {seed}"), &job.values(), &line, 1.0, TOLERANCE);
            let mut based = input.clone();
            based.base = based.experts.drain(..1).next();
            let job = Job::new("slerp", vec![based]).with("t", 0.3);
            close(&format!("slerp {what} {seed}"), &job.values(), &line, 1.0, TOLERANCE);
            if what == "exactly" {
                let job = Job::new("multislerp", vec![input.clone()]).each("weight", &[0.5; 2]);
                close(&format!("multislerp {seed}"), &job.values(), &[0.0; 50], 1.0, TOLERANCE);
                // The convention where the mean vanishes: the first direction.
                let job = Job::new("karcher", vec![input]);
                close(&format!("karcher {seed}"), &job.values(), &wide(&x), 1.0, TOLERANCE);
            }
        }
    }
}

/// Three directions that cancel have no spherical mean, however rounding falls.
#[test]
fn directions_that_cancel_are_refused() {
    for seed in 0..60 {
        let (x, y) = (normal(seed, "x", 40), normal(seed, "y", 40));
        // At 120° to each other, of length 1, in a random plane: rounded to f32, their sum is some 1e-8.
        let (x, y) = (wide(&x), wide(&y));
        let u = scaled(&x, 1.0 / norm(&x));
        let v = plus(&y, &scaled(&u, -dot(&u, &y)));
        let v = scaled(&v, 1.0 / norm(&v));
        let at = |angle: f64| -> Vec<f32> {
            plus(&scaled(&u, angle.cos()), &scaled(&v, angle.sin())).iter().map(|v| *v as f32).collect()
        };
        let third = std::f64::consts::TAU / 3.0;
        let input = Input::new("w", &[40], None, vec![at(0.0), at(third), at(2.0 * third)]);
        match Job::new("multislerp", vec![input]).each("weight", &[1.0; 3]).run() {
            Err(Failure::Run(MergeError::Undefined { message, .. })) => assert!(message.contains("cancel")),
            other => panic!("{seed}: {other:?}"),
        }
    }
}

fn stock(x: &[Vec<f64>]) -> Vec<f64> {
    let n = x.len();
    let mut cosines = Vec::new();
    for i in 0..n {
        for j in i + 1..n {
            cosines.push((dot(&x[i], &x[j]) / (norm(&x[i]) * norm(&x[j])).max(1e-6)).clamp(-1.0, 1.0));
        }
    }
    let c = cosines.iter().sum::<f64>() / cosines.len() as f64;
    let t = n as f64 * c / (1.0 + (n as f64 - 1.0) * c);
    sum(&vec![t / n as f64; n], x)
}

#[test]
fn model_stock() {
    // Experts that share a part of their task vectors: the angles of unrelated ones are at the pole of the formula.
    let related = |shape: &[usize], seed: u64| {
        let mut input = Input::random(seed, shape, 4);
        let shared = input.experts.pop().unwrap();
        let b = input.base.clone().unwrap();
        for x in &mut input.experts {
            x.iter_mut().zip(&b).zip(&shared).for_each(|((x, b), s)| *x = *x * 0.4 + s - b * 0.4);
        }
        input
    };
    for shape in &SHAPES[2..] {
        let input = related(shape, 300);
        let twin = plus(&base(&input), &stock(&input.deltas()));
        close("model_stock", &Job::new("model_stock", vec![input]).values(), &twin, 1.0, TOLERANCE);
    }
    for shape in [&[6][..], &[4, 200], &[40, 300], &[2, BLOCK + 3]] {
        let input = related(shape, 301);
        let mut out = base(&input);
        let deltas = input.deltas();
        for line in lines(shape, false) {
            let part: Vec<Vec<f64>> = deltas.iter().map(|d| line.iter().map(|e| d[*e]).collect()).collect();
            line.iter().zip(stock(&part)).for_each(|(e, m)| out[*e] += m);
        }
        let job = Job::new("model_stock", vec![input]).with("filter_wise", true);
        close("model_stock by rows", &job.values(), &out, 1.0, TOLERANCE);
    }
}

// ---- generalised task arithmetic

/// Positions by descending magnitude, the lower first among equals.
fn ranking(x: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..x.len()).collect();
    order.sort_by(|a, b| x[*b].abs().total_cmp(&x[*a].abs()).then(a.cmp(b)));
    order
}

fn keep_only(x: &[f64], kept: &[usize]) -> Vec<f64> {
    let mut out = vec![0.0; x.len()];
    kept.iter().for_each(|e| out[*e] = x[*e]);
    out
}

fn magnitude(x: &[f64], density: f64) -> Vec<f64> {
    keep_only(x, &ranking(x)[..(density * x.len() as f64) as usize])
}

fn outliers(x: &[f64], density: f64, gamma: f64) -> Vec<f64> {
    let n = x.len() as f64;
    let target = (density * n) as usize;
    let top = ((gamma * n) as usize).min(x.len() - target);
    keep_only(x, &ranking(x)[top..top + target])
}

/// What DARE's mask keeps of the tensor `name` of `model`.
fn tossed(x: &[f64], seed: u64, model: &str, name: &str, density: f64) -> Vec<f64> {
    let mut marks = Vec::new();
    Stream::new(seed, model, name).toss(threshold(density), 0, x.len(), &mut marks);
    let kept = |e: usize| marks[e / GROUP * (GROUP / 8) + e % 32] >> (e % GROUP / 32) & 1 == 1;
    (0..x.len()).map(|e| if kept(e) { x[e] } else { 0.0 }).collect()
}

/// What DELLA's mask keeps of the tensor `name` of `model`.
fn random(x: &[f64], seed: u64, model: &str, name: &str, density: impl Fn(usize) -> f64) -> Vec<f64> {
    let mut numbers = vec![0; x.len()];
    Stream::new(seed, model, name).fill(0, &mut numbers);
    let kept = |e: usize| u64::from(numbers[e]) < threshold(density(e));
    (0..x.len()).map(|e| if kept(e) { x[e] } else { 0.0 }).collect()
}

/// DELLA's probability of each element.
fn probabilities(x: &[f64], shape: &[usize], density: f64, epsilon: f64) -> Vec<f64> {
    let row = if shape.len() > 1 { x.len() / shape[0] } else { x.len() };
    let mut out = Vec::new();
    for x in x.chunks(row) {
        let mut ascending: Vec<usize> = (0..x.len()).collect();
        ascending.sort_by(|a, b| x[*a].abs().total_cmp(&x[*b].abs()).then(a.cmp(b)));
        let mut p = vec![density; x.len()];
        if x.len() > 1 {
            for (rank, e) in ascending.into_iter().enumerate() {
                p[e] = density - epsilon + 2.0 * epsilon * rank as f64 / (x.len() - 1) as f64;
            }
        }
        out.extend(p);
    }
    out
}

fn l1(x: &[f64], kept: &[f64]) -> Vec<f64> {
    let length = |v: &[f64]| v.iter().map(|v| v.abs()).sum::<f64>();
    let (before, after) = (length(x), length(kept));
    scaled(kept, if before < 1e-7 || after < 1e-7 { 1.0 } else { before / after })
}

#[derive(Clone, Copy, PartialEq)]
enum Election {
    Sum,
    Weighted,
    Paper,
}

fn mix(rows: &[Vec<f64>], w: &[f64], election: Election, normalize: bool, lambda: f64) -> Vec<f64> {
    mix_by(rows, rows, w, election, normalize, lambda)
}

/// The paper's signs come from `voters`: the trimmed vectors before rescaling.
fn mix_by(
    voters: &[Vec<f64>],
    rows: &[Vec<f64>],
    w: &[f64],
    election: Election,
    normalize: bool,
    lambda: f64,
) -> Vec<f64> {
    let n = rows[0].len();
    let plain: Vec<f64> = (0..n).map(|e| voters.iter().map(|r| r[e]).sum()).collect();
    let signs = |v: f64| {
        if v > 0.0 {
            1.0
        } else if v < 0.0 {
            -1.0
        } else {
            0.0
        }
    };
    let majority = if plain.iter().map(|v| signs(*v)).sum::<f64>() < 0.0 { -1.0 } else { 1.0 };
    let element = |e: usize| {
        let column: Vec<f64> = rows.iter().zip(w).map(|(r, w)| r[e] * w).collect();
        if election == Election::Sum {
            let divisor = w.iter().sum::<f64>();
            let divisor = if normalize && divisor.abs() >= 1e-8 { divisor } else { 1.0 };
            return lambda * column.iter().sum::<f64>() / divisor;
        }
        let sign = match election {
            Election::Paper if signs(plain[e]) == 0.0 => majority,
            Election::Paper => signs(plain[e]),
            _ if column.iter().sum::<f64>() >= 0.0 => 1.0,
            _ => -1.0,
        };
        let agreeing: Vec<usize> = (0..column.len()).filter(|i| signs(column[*i]) == sign).collect();
        let total: f64 = agreeing.iter().map(|i| column[*i]).sum();
        let weight: f64 = agreeing.iter().map(|i| w[*i]).sum();
        lambda * total / if normalize && weight != 0.0 { weight } else { 1.0 }
    };
    (0..n).map(element).collect()
}

const W: [f64; 3] = [0.5, 0.8, -0.3];
const DENSITY: [f64; 3] = [0.3, 0.55, 1.0];

#[test]
fn task_arithmetic() {
    for normalize in [false, true] {
        agree(
            3,
            |i| {
                Job::new("task_arithmetic", i)
                    .each("weight", &W)
                    .with("lambda", 1.3)
                    .with("normalize", normalize)
            },
            |i| plus(&base(i), &mix(&i.deltas(), &W, Election::Sum, normalize, 1.3)),
        );
    }
}

#[test]
fn ties() {
    for (word, election) in [("weighted", Election::Weighted), ("paper", Election::Paper)] {
        for (normalize, rescale) in [(true, false), (false, true)] {
            // The paper knows no weights: with one sign they do not matter to what agrees.
            let w = if election == Election::Paper { [0.5, 0.8, 0.3] } else { W };
            agree(
                3,
                |i| {
                    let job = Job::new("ties", i)
                        .each("weight", &w)
                        .each("density", &DENSITY)
                        .with("election", word);
                    job.with("normalize", normalize).with("rescale", rescale).with("lambda", 0.9)
                },
                |i| {
                    let x = i.deltas();
                    let trimmed: Vec<Vec<f64>> =
                        x.iter().zip(DENSITY).map(|(x, d)| magnitude(x, d)).collect();
                    let rows: Vec<Vec<f64>> = if rescale {
                        x.iter().zip(&trimmed).map(|(x, kept)| l1(x, kept)).collect()
                    } else {
                        trimmed.clone()
                    };
                    plus(&base(i), &mix_by(&trimmed, &rows, &w, election, normalize, 0.9))
                },
            );
        }
    }
}

#[test]
fn breadcrumbs() {
    let gamma = [0.1, 0.02, 0.3];
    for (method, election) in [("breadcrumbs", Election::Sum), ("breadcrumbs_ties", Election::Weighted)] {
        agree(
            3,
            |i| Job::new(method, i).each("weight", &W).each("density", &DENSITY).each("gamma", &gamma),
            |i| {
                let kept = |(x, (d, g)): (&Vec<f64>, (f64, f64))| {
                    // A density of 1 keeps everything, outliers too.
                    if d >= 1.0 { x.clone() } else { outliers(x, d, g) }
                };
                let rows: Vec<Vec<f64>> =
                    i.deltas().iter().zip(DENSITY.into_iter().zip(gamma)).map(kept).collect();
                plus(&base(i), &mix(&rows, &W, election, false, 1.0))
            },
        );
    }
}

#[test]
fn dare() {
    for (method, election) in [("dare_linear", Election::Sum), ("dare_ties", Election::Weighted)] {
        for rescale in ["l1", "inverse_density", "none"] {
            agree(
                3,
                |i| Job::new(method, i).each("weight", &W).each("density", &DENSITY).with("rescale", rescale),
                |i| {
                    let one = |(m, x): (usize, &Vec<f64>)| {
                        let d = DENSITY[m];
                        let kept = tossed(x, 7, &format!("model {m}"), &i.name, d);
                        match rescale {
                            "l1" => l1(x, &kept),
                            "inverse_density" => scaled(&kept, 1.0 / d),
                            _ => kept,
                        }
                    };
                    let rows: Vec<Vec<f64>> = i.deltas().iter().enumerate().map(one).collect();
                    plus(&base(i), &mix(&rows, &W, election, false, 1.0))
                },
            );
        }
    }
}

#[test]
fn della() {
    let (density, epsilon) = ([0.4, 0.5, 0.7], [0.15, 0.3, 0.05]);
    for (method, election, normalize) in
        [("della_linear", Election::Sum, false), ("della", Election::Weighted, true)]
    {
        for rescale in ["l1", "inverse_density", "none"] {
            agree(
                3,
                |i| {
                    let job = Job::new(method, i).each("weight", &W).each("density", &density);
                    job.each("epsilon", &epsilon).with("rescale", rescale)
                },
                |i| {
                    let one = |(m, x): (usize, &Vec<f64>)| {
                        let p = probabilities(x, &i.shape, density[m], epsilon[m]);
                        let kept = random(x, 7, &format!("model {m}"), &i.name, |e| p[e]);
                        match rescale {
                            "l1" => l1(x, &kept),
                            // The paper's form: each by its own probability.
                            "inverse_density" => kept.iter().zip(&p).map(|(x, p)| x / p).collect(),
                            _ => kept,
                        }
                    };
                    let rows: Vec<Vec<f64>> = i.deltas().iter().enumerate().map(one).collect();
                    plus(&base(i), &mix(&rows, &W, election, normalize, 1.0))
                },
            );
        }
    }
}

#[test]
fn metagpt() {
    let delta = [1.0, 0.5, 2.0];
    let shares = |norms: &[f64]| {
        let terms: Vec<f64> = norms.iter().zip(delta).map(|(n, d)| d * d * n).collect();
        terms.iter().map(|t| t / terms.iter().sum::<f64>()).collect::<Vec<f64>>()
    };
    let squares = |x: &[Vec<f64>]| x.iter().map(|x| dot(x, x)).collect::<Vec<f64>>();
    // Norms before and after trimming, with and without election.
    for norms_from in ["raw", "pruned"] {
        for (consensus, election) in [("none", Election::Sum), ("sum", Election::Weighted)] {
            agree(
                3,
                |i| {
                    let job = Job::new("metagpt", i).each("delta", &delta).each("density", &DENSITY);
                    let job = job.with("sparsify", "magnitude").with("consensus", consensus);
                    job.with("norms_from", norms_from).with("rescale", "l1").with("lambda", 1.1)
                },
                |i| {
                    let x = i.deltas();
                    let pruned: Vec<Vec<f64>> = x.iter().zip(DENSITY).map(|(x, d)| magnitude(x, d)).collect();
                    let w = shares(&squares(if norms_from == "raw" { &x } else { &pruned }));
                    let rows: Vec<Vec<f64>> = x.iter().zip(&pruned).map(|(x, p)| l1(x, p)).collect();
                    plus(&base(i), &mix(&rows, &w, election, false, 1.1))
                },
            );
        }
    }
}

/// λ over all tensors, over layers, per tensor; a repeated tensor does not count.
#[test]
fn metagpt_granularities() {
    let shapes: [(&str, &[usize], bool); 4] =
        [("a", &[40, 50], false), ("b", &[300], false), ("b", &[20, 20], false), ("c", &[40, 50], true)];
    let inputs: Vec<Input> = shapes
        .iter()
        .enumerate()
        .map(|(i, (layer, shape, repeats))| {
            let mut input = Input::random(400 + i as u64, shape, 2);
            input.layer = (*layer).to_owned();
            input.repeats = *repeats;
            // Every tensor favours another expert.
            let b = input.base.clone().unwrap();
            input.experts[i % 2].iter_mut().zip(&b).for_each(|(x, b)| *x += (*x - b) * (i + 1) as f32);
            input
        })
        .collect();
    let norms: Vec<Vec<f64>> =
        inputs.iter().map(|i| i.deltas().iter().map(|d| dot(d, d)).collect()).collect();
    let share = |members: &[usize]| {
        let total = |m: usize| members.iter().map(|t| norms[*t][m]).sum::<f64>();
        [total(0) / (total(0) + total(1)), total(1) / (total(0) + total(1))]
    };
    for (granularity, groups) in [
        ("model", vec![vec![0, 1, 2]; 4]),
        // A repetition alone in its layer has but its own norms.
        ("layer", vec![vec![0], vec![1, 2], vec![1, 2], vec![3]]),
        ("tensor", vec![vec![0], vec![1], vec![2], vec![3]]),
    ] {
        let done = Job::new("metagpt", inputs.clone()).with("granularity", granularity).done();
        for (t, members) in groups.iter().enumerate() {
            let expected = share(members);
            let found = done.coefficients(t).unwrap();
            let off = (found[0] - expected[0]).abs().max((found[1] - expected[1]).abs());
            assert!(off < 1e-12, "{granularity} {t}: {found:?}, expected {expected:?}");
            let twin = plus(&base(&inputs[t]), &sum(&expected, &inputs[t].deltas()));
            close(granularity, &done.values(t), &twin, 1.0, TOLERANCE);
        }
    }
}

// ---- selective methods

fn variances(x: &[Vec<f64>]) -> Vec<f64> {
    let k = x.len() as f64;
    let at = |e: usize| {
        let mean = x.iter().map(|x| x[e]).sum::<f64>() / k;
        x.iter().map(|x| (x[e] - mean).powi(2)).sum::<f64>() / k
    };
    (0..x[0].len()).map(at).collect()
}

#[test]
fn sce() {
    for topk in [1.0, 0.6, 0.1] {
        agree(
            3,
            |i| Job::new("sce", i).with("select_topk", topk),
            |i| {
                let mut x = i.deltas();
                if topk < 1.0 {
                    let v = variances(&x);
                    let varying = v.iter().filter(|v| **v != 0.0).count();
                    // Variances are ranked in f32 by the product: with these seeds no pair at the cut is so close.
                    let kept = &ranking(&v)[..(varying as f64 * topk) as usize];
                    x = x.iter().map(|x| keep_only(x, kept)).collect();
                }
                let n = x[0].len() as f64;
                let energy: Vec<f64> = x.iter().map(|x| dot(x, x) / n).collect();
                let total: f64 = energy.iter().sum();
                let w: Vec<f64> =
                    energy.iter().map(|e| if total < 1e-6 { 1.0 / 3.0 } else { e / total }).collect();
                let votes: Vec<f64> = (0..x[0].len()).map(|e| x.iter().map(|x| x[e]).sum()).collect();
                let element = |e: usize| {
                    let agreeing: Vec<usize> =
                        (0..3).filter(|m| x[*m][e] != 0.0 && (x[*m][e] > 0.0) == (votes[e] >= 0.0)).collect();
                    let weight: f64 = agreeing.iter().map(|m| w[*m]).sum();
                    agreeing.iter().map(|m| w[*m] * x[*m][e]).sum::<f64>() / weight.max(1e-6)
                };
                plus(&base(i), &(0..x[0].len()).map(element).collect::<Vec<_>>())
            },
        );
    }
}

#[test]
fn ram() {
    let epsilon = 0.06;
    let twin = |i: &Input, boost: Option<(f64, f64)>| {
        // The threshold is compared in f32, like the task vectors.
        let active = |x: f64| x.abs() > f64::from(epsilon as f32);
        let x = i.deltas();
        let n = x[0].len();
        let count: Vec<usize> = (0..n).map(|e| x.iter().filter(|x| active(x[e])).count()).collect();
        let factor: Vec<f64> = x
            .iter()
            .map(|x| {
                let shared = (0..n).filter(|e| active(x[*e]) && count[*e] > 1).count() as f64;
                let unique = (0..n).filter(|e| active(x[*e]) && count[*e] == 1).count() as f64;
                boost.map_or(1.0, |(r, alpha)| 1.0 + r * (shared / unique.max(epsilon)).clamp(0.0, alpha))
            })
            .collect();
        let element = |e: usize| {
            let terms = x.iter().zip(&factor).filter(|(x, _)| active(x[e]));
            match count[e] {
                0 => 0.0,
                1 => terms.map(|(x, f)| x[e] * f).sum(),
                c => terms.map(|(x, _)| x[e]).sum::<f64>() / c as f64,
            }
        };
        plus(&base(i), &(0..n).map(element).collect::<Vec<_>>())
    };
    agree(3, |i| Job::new("ram", i).with("epsilon", epsilon), |i| twin(i, None));
    for (r, alpha) in [(0.1, 0.2), (0.7, 10.0)] {
        agree(
            3,
            |i| Job::new("ramplus_tl", i).with("epsilon", epsilon).with("r", r).with("alpha", alpha),
            |i| twin(i, Some((r, alpha))),
        );
    }
}

#[test]
fn arcee_fusion() {
    let mut taken = 0;
    for (seed, shape) in SHAPES.iter().enumerate() {
        let input = Input::random(500 + seed as u64, shape, 1);
        let (b, x) = (base(&input), experts(&input).remove(0));
        let width = *shape.last().unwrap();
        let softmax = |v: &[f64]| {
            let total: f64 = v.iter().map(|v| v.exp()).sum();
            v.iter().map(|v| v.exp() / total + 1e-8).collect::<Vec<f64>>()
        };
        let mut importance = Vec::new();
        for (b, x) in b.chunks(width).zip(x.chunks(width)) {
            let (p, q) = (softmax(x), softmax(b));
            let divergence: f64 = p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum();
            importance.extend(b.iter().zip(x).map(|(b, x)| (x - b).abs() * divergence));
        }
        let mut sorted = importance.clone();
        sorted.sort_by(f64::total_cmp);
        let quantile = |q: f64| sorted[(q * (sorted.len() - 1) as f64) as usize];
        let threshold = quantile(0.5) + 1.5 * (quantile(0.75) - quantile(0.25));
        for (e, found) in Job::new("arcee_fusion", vec![input]).values().iter().enumerate() {
            let expected = if importance[e] >= threshold { x[e] } else { b[e] };
            // Importances are f32 in the product: at the threshold itself either side is right.
            let at_threshold = (importance[e] - threshold).abs() <= 1e-5 * threshold;
            assert!(at_threshold || f64::from(*found) == expected, "{shape:?} {e}");
            taken += usize::from(f64::from(*found) != b[e]);
        }
    }
    assert!(taken > 1000, "{taken}");
}
