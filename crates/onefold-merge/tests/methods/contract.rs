//! What every method of the table must keep. Parameters come from the table (`settings`); a method that is exempt from a
//! rule stands in that rule's list with the reason.

use onefold_merge::METHODS;
use onefold_merge::kernels::reduce::{packed_index, packed_len};
use onefold_merge::methods::{BaseRole, Method};
use onefold_merge::params::{Default, Kind, Level, Value};
use onefold_merge::scan::{BLOCK, ScanOptions};
use onefold_merge::stream::Work;
use rayon::ThreadPoolBuilder;

use crate::harness::{Failure, Input, Job, Memory, bits, close, largest, operand, planned, run};
use crate::settings::{Variant, expert_counts, has_origin, pairs, variants};

/// A list of methods that a rule does not bind, each with the reason.
type Exempt = &'static [(&'static str, &'static str)];

fn exempt(list: Exempt, method: &Method) -> bool {
    assert!(list.iter().all(|(name, _)| METHODS.iter().any(|m| m.name == *name)), "{list:?}");
    list.iter().any(|(name, _)| *name == method.name)
}

/// Every method with a number of experts and a way to call it.
fn calls(
    wanted: &'static [usize],
    ways: fn(&Method) -> Vec<Variant>,
) -> impl Iterator<Item = (&'static Method, usize, Variant)> {
    METHODS.iter().copied().flat_map(move |method| {
        let counts = expert_counts(method, wanted);
        let variants = ways(method);
        counts.into_iter().flat_map(move |k| variants.clone().into_iter().map(move |v| (method, k, v)))
    })
}

/// Sets a parameter wherever it belongs.
fn set(job: &mut Job, name: &'static str, value: &Value) {
    match job.method.param(name).map(|p| p.level) {
        Some(Level::Global) => drop(job.global.insert(name, value.clone())),
        Some(Level::Model) => job.experts.iter_mut().for_each(|e| drop(e.values.insert(name, value.clone()))),
        None => {}
    }
}

fn number(value: f64) -> Value {
    Value::Number(value)
}

// ---- (a) nothing of the experts gives the base

/// Parameters whose zero switches the experts off.
const SCALES: [&str; 4] = ["lambda", "alpha", "weight", "t"];

/// (method, parameter) that only look like a scale.
const NOT_A_SCALE: [(&str, &str, &str); 2] = [
    ("ramplus_tl", "alpha", "bounds the boost of unique changes"),
    ("nuslerp", "weight", "only the ratio of the weights counts, ½ where they cancel"),
];

#[test]
fn a_scale_of_zero_gives_the_base_bit_for_bit() {
    let mut checked = 0;
    for (method, k, variant) in calls(&[1, 3], variants) {
        let based = has_origin(method, variant.base) || method.base == BaseRole::Operand;
        for scale in SCALES {
            let alone = k == 1 && method.name == "multislerp"; // One model is returned as it is, as in mergekit.
            let looks = alone || NOT_A_SCALE.iter().any(|(m, p, _)| (*m, *p) == (method.name, scale));
            if !based || looks || method.param(scale).is_none() {
                continue;
            }
            let mut input = Input::random(1, &[7, 33], k);
            let base = input.base.as_mut().expect("random inputs have one");
            base[..2].copy_from_slice(&[0.0, 1e-42]);
            if has_origin(method, variant.base) {
                // Where the base is an operand, +0 of the other is added to it.
                base[2] = -0.0;
            }
            let base = base.clone();
            let mut job = variant.job(method, vec![input]);
            set(&mut job, scale, &number(0.0));
            match job.run() {
                Ok(done) => assert_eq!(bits(&done.values(0)), bits(&base), "{} {scale}=0", variant.label),
                // Weights that cannot be normalised.
                Err(Failure::Build(sentence)) => assert!(sentence.contains("add up to 0"), "{sentence}"),
                Err(other) => panic!("{} {scale}=0: {other:?}", variant.label),
            }
            checked += 1;
        }
    }
    assert!(checked > 100, "{checked}");
}

/// A density that keeps nothing is a scale of zero, too.
#[test]
fn a_density_of_zero_gives_the_base() {
    for (method, k, variant) in calls(&[1, 3], pairs) {
        let sparsifies = method.param("sparsify").is_none()
            || variant.global.get("sparsify").is_some_and(|v| *v != Value::Text("none".into()));
        if method.param("density").is_none() || !sparsifies {
            continue;
        }
        let input = Input::random(2, &[40], k);
        let base = input.base.clone().expect("random inputs have one");
        let mut job = variant.job(method, vec![input]);
        set(&mut job, "density", &number(0.0));
        assert_eq!(bits(&job.values()), bits(&base), "{}", variant.label);
    }
}

// ---- (b), (c) one expert, equal experts

/// Everything of every expert: densities and interpolations at 1, no threshold, given weights.
fn whole(job: &mut Job, weight: f64) {
    set(job, "weight", &number(weight));
    set(job, "density", &number(1.0));
    set(job, "t", &number(1.0));
    set(job, "epsilon", &number(0.0));
    set(job, "select_topk", &number(1.0));
}

const NOT_ITSELF_ALONE: Exempt = &[
    ("arcee_fusion", "takes over the most important changes only"),
    ("iso_c", "makes all singular values equal"),
    ("iso_cts", "makes all singular values equal"),
    ("model_stock", "needs an angle between two experts"),
];

#[test]
fn one_expert_of_weight_one_is_given_back() {
    let mut checked = 0;
    for (method, k, variant) in calls(&[1], pairs) {
        // A base that is an operand of equal rank pulls.
        let pulled = method.base == BaseRole::OptionalOperand && variant.base;
        if exempt(NOT_ITSELF_ALONE, method) || pulled {
            continue;
        }
        assert_eq!(k, 1, "{}", method.name);
        let input = Input::random(3, &[9, 31], 1);
        let scale = largest(input.base.as_ref().expect("given"));
        let expert: Vec<f64> = input.experts[0].iter().map(|v| f64::from(*v)).collect();
        let mut job = variant.job(method, vec![input]);
        whole(&mut job, 1.0);
        close(&variant.label, &job.values(), &expert, scale, 1e-6);
        checked += 1;
    }
    assert!(checked > 100, "{checked}");
}

const NO_FIXED_POINT: Exempt = &[
    ("tsv_m", "keeps the first ⌊p/K⌋ directions of each expert"),
    ("iso_c", "makes all singular values equal"),
    ("iso_cts", "makes all singular values equal"),
];

#[test]
fn equal_experts_are_a_fixed_point() {
    for (method, k, variant) in calls(&[2, 3, 5], pairs) {
        if exempt(NO_FIXED_POINT, method) {
            continue;
        }
        let mut input = Input::random(4, &[9, 31], 1);
        input.experts = vec![input.experts[0].clone(); k];
        if matches!(method.base, BaseRole::Operand | BaseRole::OptionalOperand) {
            input.base = Some(input.experts[0].clone());
        }
        let scale = largest(input.base.as_ref().expect("given"));
        let expert: Vec<f64> = input.experts[0].iter().map(|v| f64::from(*v)).collect();
        let mut job = variant.job(method, vec![input]);
        whole(&mut job, 1.0 / k as f64);
        close(&variant.label, &job.values(), &expert, scale, 2e-6);
    }
}

// ---- (d) order

#[test]
fn the_order_of_experts_changes_only_rounding() {
    for (method, k, variant) in calls(&[2, 4], variants) {
        let input = Input::random(5, &[12, 20], k);
        let scale = largest(input.base.as_ref().expect("given"));
        let mut job = variant.job(method, vec![input]);
        let before = job.done();
        job.experts.rotate_left(1);
        job.inputs[0].experts.rotate_left(1);
        if k > 2 {
            job.experts.swap(0, 1);
            job.inputs[0].experts.swap(0, 1);
        }
        let after = job.done();
        let values: Vec<f64> = before.values(0).iter().map(|v| f64::from(*v)).collect();
        close(&variant.label, &after.values(0), &values, scale, 1e-6);
        if let (Some(a), Some(b)) = (before.coefficients(0), after.coefficients(0)) {
            let sorted = |mut c: Vec<f64>| {
                c.sort_by(f64::total_cmp);
                c
            };
            for (a, b) in sorted(a).iter().zip(sorted(b)) {
                assert!((a - b).abs() <= 1e-9, "{}: {a} {b}", variant.label);
            }
        }
    }
}

// ---- (e) spans and threads

/// Tensors of several blocks, of rows that do not divide a block, of rows longer than a block, and small ones.
fn model(k: usize, seed: u64) -> Vec<Input> {
    let shapes: [&[usize]; 4] = [&[170, 260], &[2, BLOCK + 500], &[BLOCK + 1], &[5, 3]];
    shapes.iter().enumerate().map(|(i, shape)| Input::random(seed + i as u64, shape, k)).collect()
}

#[test]
fn spans_and_threads_change_no_bit() {
    let pools: Vec<_> =
        (1..=3).map(|n| ThreadPoolBuilder::new().num_threads(n).build().expect("threads")).collect();
    for (method, _, variant) in calls(&[3], variants) {
        let k = expert_counts(method, &[3])[0];
        let mut job = variant.job(method, model(k, 10));
        if method.name.starts_with("iso") || method.name.starts_with("tsv") {
            // The second tensor's Gramian of f64 takes seconds in a test build; one matrix of three blocks is enough.
            job.inputs.remove(1);
        }
        let mut outcomes = Vec::new();
        for (span, threads) in [(8, 1), (1, 2), (2, 3), (8, 2)] {
            job.options = ScanOptions { span: span * BLOCK, ..ScanOptions::default() };
            outcomes.push(pools[threads - 1].install(|| job.done()));
        }
        for (i, outcome) in outcomes.iter().enumerate() {
            assert!(*outcome == outcomes[0], "{} run {i}", variant.label);
        }
    }
}

// ---- (f) degenerate inputs

const SHAPES: [&[usize]; 12] =
    [&[], &[0], &[1], &[2], &[5], &[0, 4], &[4, 0], &[6, 1], &[1, 6], &[3, 4], &[2, 3, 4], &[2, 1, 3, 2]];

/// What the experts may look like: given the element and the expert, the base and the expert.
type Look = (&'static str, fn(f32, f32, usize) -> (f32, f32));

/// `d` is the random delta of the expert, `b` the random base.
const KINDS: [Look; 12] = [
    ("zeros everywhere", |_, _, _| (0.0, 0.0)),
    ("experts equal to the base", |b, _, _| (b, b)),
    ("one expert equal to the base", |b, d, i| (b, if i == 0 { b } else { b + d })),
    ("a base of zeros", |_, d, _| (0.0, d)),
    ("one expert of zeros", |b, d, i| (b, if i == 0 { 0.0 } else { b + d })),
    ("one large outlier of sign", |b, _, i| (b, if i == 0 { -b } else { b })),
    ("constant", |_, _, i| (1.0, 1.0 + i as f32)),
    ("huge", |b, d, _| (b * 1e30, (b + d) * 1e30)),
    ("nearly too large", |b, d, i| (b.signum() * f32::MAX, (d + i as f32 - 1.0).signum() * f32::MAX)),
    ("tiny", |b, d, _| (b * 1e-30, (b + d) * 1e-30)),
    ("subnormal", |b, d, _| (b * 1e-42, (b + d) * 1e-42)),
    ("huge and tiny", |b, d, i| (b, if i == 0 { d * 1e30 } else { b + d * 1e-30 })),
];

/// Experts with deltas τ and −τ, then zero; and the same without a base.
fn opposite(input: &mut Input) {
    let base = input.base.clone().expect("given");
    let delta =
        |sign: f32| -> Vec<f32> { base.iter().map(|b| sign * (b * 4096.0).round() / 65536.0).collect() };
    let sign = |i: usize| if i.is_multiple_of(2) { 1.0 } else { -1.0 };
    input.base = Some(vec![0.0; base.len()]);
    for (i, expert) in input.experts.iter_mut().enumerate() {
        *expert = delta(sign(i));
    }
}

fn degenerate(kind: usize, seed: u64, shape: &[usize], k: usize) -> (String, Input) {
    let mut input = Input::random(seed, shape, k);
    let what = format!("{} {shape:?}", KINDS.get(kind).map_or("opposite", |k| k.0));
    let Some((_, values)) = KINDS.get(kind) else {
        opposite(&mut input);
        return (what, input);
    };
    let base = input.base.clone().expect("given");
    for (i, expert) in input.experts.iter_mut().enumerate() {
        for (x, b) in expert.iter_mut().zip(&base) {
            *x = values(*b, *x - b, i).1;
        }
    }
    input.base = Some(base.iter().map(|b| values(*b, 0.1, 0).0).collect());
    (what, input)
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt()
}

/// Finite and no longer than `factor` times all inputs together, or an error that says why.
fn sound(what: &str, job: &Job, factor: f64) {
    match job.run() {
        Ok(done) => {
            for (i, input) in job.inputs.iter().enumerate() {
                let values = done.values(i);
                assert!(values.iter().all(|v| v.is_finite()), "{what}: {values:?}");
                let reach = input.base.iter().chain(&input.experts).map(|v| norm(v)).sum::<f64>();
                assert!(norm(&values) <= factor * reach, "{what}: {values:?} from {input:?}");
            }
        }
        Err(Failure::Build(sentence)) => assert!(sentence.len() > 20, "{what}: {sentence}"),
        Err(Failure::Run(error)) => assert!(!error.to_string().ends_with('.'), "{what}: {error}"),
    }
}

#[test]
fn degenerate_inputs_stay_finite() {
    for (method, k, variant) in calls(&[1, 2, 3], variants) {
        // Model Stock's t = Nc/(1 + (N−1)c) has a pole at obtuse angles; only the pole itself is guarded, as documented.
        let factor = if method.name == "model_stock" { 1e7 } else { 10.0 };
        for shape in SHAPES {
            for kind in 0..=KINDS.len() {
                let (what, input) = degenerate(kind, 20, shape, k);
                sound(&format!("{} k={k} {what}", variant.label), &variant.job(method, vec![input]), factor);
            }
        }
    }
}

/// Inputs that are ordinary in all but one way have a result, not an error.
#[test]
fn ordinary_degenerate_inputs_have_a_result() {
    let allowed = |method: &Method, kind: &str| {
        // Documented: three directions that cancel have no spherical mean.
        method.name == "multislerp" && kind.starts_with("opposite")
    };
    for (method, k, variant) in calls(&[1, 2, 3], variants).chain(calls(&[2], pairs)) {
        for shape in SHAPES {
            for kind in [0, 1, 2, 3, 4, 6, 7, 9, 10, KINDS.len()] {
                let (what, input) = degenerate(kind, 21, shape, k);
                let what = format!("{what} k={k} {}", variant.label);
                if let Err(e) = variant.job(method, vec![input]).run() {
                    assert!(allowed(method, &what), "{what}: {e:?}");
                }
            }
        }
    }
}

#[test]
fn extreme_parameters_stay_finite() {
    for (method, k, variant) in calls(&[1, 3], variants) {
        for param in method.params {
            let values = match param.kind {
                Kind::Number { min, max, min_open } => {
                    let mut values =
                        vec![if min_open { min + 1e-12 } else { min }, max, 1e-12, 0.5, 1.0, -1.0, 1e30];
                    values.retain(|v| param.kind.check(&number(*v)).is_ok());
                    values
                }
                Kind::Integer { min, .. } => vec![min as f64, min as f64 + 1.0],
                _ => continue,
            };
            for value in values {
                for shape in [&[1][..], &[7], &[3, 5]] {
                    let mut job = variant.job(method, vec![Input::random(22, shape, k)]);
                    set(&mut job, param.name, &number(value));
                    sound(
                        &format!("{} {}={value} {shape:?}", variant.label, param.name),
                        &job,
                        f64::INFINITY,
                    );
                }
            }
        }
    }
}

/// A method that was given too little says so.
#[test]
fn missing_required_parameters_are_refused() {
    for method in METHODS {
        let required = method.params.iter().filter(|p| p.default == Default::Required);
        for param in required {
            let k = expert_counts(method, &[2])[0];
            let mut job = variants(method)[0].job(method, vec![Input::random(23, &[4], k)]);
            job.global.remove(param.name);
            job.experts.iter_mut().for_each(|e| drop(e.values.remove(param.name)));
            match job.run() {
                Err(Failure::Build(sentence)) => assert!(sentence.contains(param.name), "{sentence}"),
                other => panic!("{} without {}: {other:?}", method.name, param.name),
            }
        }
    }
}

// ---- (g) statistics

/// Methods without one coefficient per operand and tensor.
const NO_COEFFICIENTS: Exempt = &[
    ("arcee_fusion", "chooses element by element"),
    ("nearswap", "weighs element by element"),
    ("emr", "chooses element by element; its factors are of the whole model"),
    ("ram", "counts element by element"),
    ("ramplus_tl", "counts element by element"),
    ("tsv_m", "a matrix is merged as a whole"),
    ("iso_c", "a matrix is merged as a whole"),
    ("iso_cts", "a matrix is merged as a whole"),
];

#[test]
fn statistics_are_what_they_say() {
    for (method, k, variant) in calls(&[3], variants) {
        let input = Input::random(30, &[130, 150], k);
        let job = variant.job(method, vec![input.clone()]);
        let done = job.done();
        let found = done.statistics[0].as_ref().expect("a merge has statistics");
        let origin = has_origin(method, variant.base).then(|| input.base.clone().expect("given"));
        let mut vectors: Vec<Vec<f32>> = input.experts.clone();
        let takes_base = matches!(method.base, BaseRole::Operand | BaseRole::OptionalOperand);
        if takes_base && variant.base {
            vectors.insert(0, input.base.clone().expect("given"));
        }
        vectors.push(done.values(0));
        let operands = vectors.len() - 1;
        if let Some(origin) = &origin {
            vectors.iter_mut().for_each(|v| v.iter_mut().zip(origin).for_each(|(x, b)| *x -= b));
            vectors.insert(0, origin.clone());
        }
        let n = vectors.len();
        assert_eq!(found.gramian.len(), packed_len(n), "{}", variant.label);
        for i in 0..n {
            for j in i..n {
                let pairs = || vectors[i].iter().zip(&vectors[j]).map(|(a, b)| f64::from(*a) * f64::from(*b));
                let scale: f64 = pairs().map(f64::abs).sum();
                // The report's sums take products and 16 additions in f32. The result was taken before it was added to
                // the base and rounded, an error of 6e-8 of the base's size against deltas of a tenth of it.
                let tolerance = if j == n - 1 { 3e-6 } else { 1e-6 };
                let entry = found.gramian[packed_index(n, i, j)];
                assert!(
                    (entry - pairs().sum::<f64>()).abs() <= tolerance * scale,
                    "{} ({i}, {j}): {entry}, expected {}",
                    variant.label,
                    pairs().sum::<f64>()
                );
            }
        }
        let (mut active, mut conflicts) = (0, 0);
        if origin.is_some() {
            for e in 0..vectors[0].len() {
                let signs: Vec<bool> =
                    vectors[1..n - 1].iter().filter(|v| v[e] != 0.0).map(|v| v[e] > 0.0).collect();
                active += u64::from(signs.len() >= 2);
                conflicts += u64::from(signs.iter().any(|s| *s != signs[0]));
            }
        }
        assert_eq!((found.active, found.conflicts), (active, conflicts), "{}", variant.label);
        let by_rows = ["filter_wise", "nuslerp_flatten"].map(|p| variant.global.get(p).cloned());
        let local = by_rows == [Some(Value::Flag(true)), None] || by_rows == [None, Some(Value::Flag(false))];
        match &found.coefficients {
            Some(c) => assert!(c.len() == operands && c.iter().all(|c| c.is_finite()), "{c:?}"),
            None => assert!(exempt(NO_COEFFICIENTS, method) || local, "{}", variant.label),
        }
    }
}

/// Where a method is a linear combination, the reported coefficients are those of the result.
#[test]
fn coefficients_reproduce_the_result() {
    for name in
        ["metagpt", "task_arithmetic", "linear", "slerp", "multislerp", "karcher", "model_stock", "nuslerp"]
    {
        let method = onefold_merge::methods::find(name).expect("listed above");
        let k = expert_counts(method, &[2])[0];
        let variant = &variants(method)[0];
        let input = Input::random(31, &[11, 13], k);
        let done = variant.job(method, vec![input.clone()]).done();
        let coefficients = done.coefficients(0).expect("a combination");
        let base = input.base.clone().expect("given");
        let origin = has_origin(method, variant.base);
        let mut operands = input.experts.clone();
        if matches!(method.base, BaseRole::Operand | BaseRole::OptionalOperand) {
            operands.insert(0, base.clone());
        }
        let expected: Vec<f64> = (0..base.len())
            .map(|e| {
                let b = if origin { f64::from(base[e]) } else { 0.0 };
                let term = |(c, x): (&f64, &Vec<f32>)| c * (f64::from(x[e]) - b);
                b + coefficients.iter().zip(&operands).map(term).sum::<f64>()
            })
            .collect();
        close(name, &done.values(0), &expected, 1.0, 1e-6);
    }
}

// ---- (h) resuming

#[test]
fn a_resumed_run_writes_the_same_bytes() {
    for (method, k, variant) in calls(&[2], variants) {
        let shapes: [&[usize]; 4] = [&[30, 40], &[17], &[BLOCK + 9], &[2, 3, 4]];
        let inputs: Vec<Input> =
            shapes.iter().enumerate().map(|(i, s)| Input::random(40 + i as u64, s, k)).collect();
        let job = variant.job(method, inputs.clone());
        let plan = || {
            let mut plan = job.plan().expect("sensible parameters");
            // A tensor that is copied stands among the merged ones.
            let copied = &inputs[1];
            let tensor = operand("donor", &copied.shape, &copied.experts[0]).tensor;
            plan[1] = planned(copied, job.dtype, Work::Copy(tensor));
            plan
        };
        let fresh = plan();
        let whole = run(&fresh, &vec![None; 4], Memory::new(&fresh)).expect("sensible inputs");
        for pattern in [0b0001, 0b0110, 0b1011, 0b1111] {
            let finished: Vec<Option<String>> =
                (0..4).map(|i| (pattern >> i & 1 == 1).then(|| whole.notes[i].clone())).collect();
            let again = plan();
            let resumed =
                run(&again, &finished, Memory::resumed(&again, &finished, &whole)).expect("as before");
            assert!(resumed == whole, "{} {pattern:04b}", variant.label);
        }
    }
}
