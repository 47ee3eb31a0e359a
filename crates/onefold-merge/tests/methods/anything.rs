//! Random calls: any method, number of experts, shape, values and parameters of its table end in a finite result or in an
//! error that says why; and an input that is not finite is named.

use onefold_checkpoint::Dtype;
use onefold_merge::methods::Method;
use onefold_merge::params::{Kind, Level, Param, Value};
use onefold_merge::{METHODS, MergeError};
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::harness::{Failure, Input, Job};
use crate::settings::{expert_counts, model_values, variants};

/// A value of a parameter's kind from two random numbers.
fn value(param: &Param, pick: Index, share: f64) -> Option<Value> {
    let number = Value::Number;
    let value = match param.kind {
        Kind::Number { min, max, .. } => {
            let (low, high) = (min.max(-3.0), max.min(3.0));
            let ends = [low, high, 1e-9, 1.0, 0.5, low + share * (high - low), min.max(-1e30), max.min(1e30)];
            number(ends[pick.index(ends.len())])
        }
        Kind::Integer { min, max } => number((min + pick.index(20) as i64).min(max) as f64),
        Kind::Flag => Value::Flag(share < 0.5),
        Kind::Choice(words) => Value::Text((*words.get(pick.index(words.len().max(1)))?).to_owned()),
        Kind::FlagOr(words) if share < 0.6 => Value::Text(words[pick.index(words.len())].to_owned()),
        Kind::FlagOr(_) => Value::Flag(share < 0.8),
        Kind::TextList => Value::TextList(vec![if share < 0.5 { "w" } else { "other" }.to_owned()]),
    };
    param.kind.check(&value).ok()
}

/// One element, ordinary or not; all finite.
fn element() -> impl Strategy<Value = f32> {
    prop_oneof![
        8 => -2f32..2.0,
        2 => select(vec![0.0f32, -0.0, 1.0, -1.0, 0.5]),
        1 => select(vec![1e30f32, -1e30, 1e-30, -1e-42, f32::MAX, f32::MIN, f32::MIN_POSITIVE]),
    ]
}

#[derive(Debug)]
struct Call {
    method: &'static Method,
    k: usize,
    base: bool,
    shape: Vec<usize>,
    values: Vec<f32>,
    picks: Vec<(Index, f64)>,
    dtype: Dtype,
}

fn call() -> impl Strategy<Value = Call> {
    let shape = prop_oneof![
        6 => prop::collection::vec(0usize..9, 0..4),
        1 => (1usize..3, 100usize..400).prop_map(|(a, b)| vec![a, b]),
    ];
    let dtype = select(vec![Dtype::F32, Dtype::F32, Dtype::BF16, Dtype::F16]);
    let picks = prop::collection::vec((any::<Index>(), 0.0..1.0f64), 40);
    let parts = (select(METHODS.to_vec()), 1usize..5, any::<bool>(), shape, picks, dtype);
    parts.prop_flat_map(|(method, k, base, shape, picks, dtype)| {
        let k = expert_counts(method, &[k])[0];
        let n = shape.iter().product::<usize>() * (k + 1);
        // Whole tensors of ordinary values must be as likely as those with a few odd ones.
        let values = prop_oneof![prop::collection::vec(-1f32..1.0, n), prop::collection::vec(element(), n)];
        values.prop_map(move |values| {
            let (shape, picks) = (shape.clone(), picks.clone());
            Call { method, k, base, shape, values, picks, dtype }
        })
    })
}

impl Call {
    fn job(&self) -> Job {
        let n: usize = self.shape.iter().product();
        let part = |i: usize| self.values[i * n..(i + 1) * n].to_vec();
        let input = Input::new("w", &self.shape, Some(part(0)), (1..=self.k).map(part).collect());
        let variants = variants(self.method);
        let variant = variants.iter().find(|v| v.base == self.base).unwrap_or(&variants[0]);
        let mut job = variant.job(self.method, vec![input]);
        let mut picks = self.picks.iter().cycle();
        let mut next = |param: &Param| {
            let (pick, share) = picks.next().expect("an endless cycle");
            // Every third parameter stays as it is.
            if pick.index(3) == 0 { None } else { value(param, *pick, *share) }
        };
        for param in self.method.params.iter().filter(|p| p.level == Level::Global) {
            next(param).map(|v| job.global.insert(param.name, v));
        }
        for (i, expert) in job.experts.iter_mut().enumerate() {
            expert.values = model_values(self.method, i);
            for param in self.method.params.iter().filter(|p| p.level == Level::Model) {
                next(param).map(|v| expert.values.insert(param.name, v));
            }
        }
        job.dtype = self.dtype;
        job
    }
}

/// The largest finite number has all but the lowest bit of the exponent: anything above is an infinity or NaN.
fn finite(dtype: Dtype, bytes: &[u8]) -> bool {
    let mut values = vec![0.0f32; bytes.len() / dtype.size()];
    onefold_checkpoint::convert::widen(dtype, bytes, &mut values);
    values.iter().all(|v| v.is_finite())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn ends_in_a_finite_result_or_a_clear_error(call in call()) {
        let job = call.job();
        match job.run() {
            Ok(done) => prop_assert!(finite(job.dtype, &done.bytes[0]), "{:?}", done.bytes),
            Err(Failure::Build(sentence)) => prop_assert!(sentence.len() > 20, "{sentence}"),
            Err(Failure::Run(MergeError::Overflow { .. } | MergeError::Undefined { .. })) => {}
            Err(Failure::Run(other)) => prop_assert!(false, "{other}"),
        }
    }

    #[test]
    fn what_is_not_finite_is_named(
        call in call(),
        at in any::<Index>(),
        bad in select(vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY]),
    ) {
        let mut job = call.job();
        let (expert, n) = (at.index(call.k), job.inputs[0].experts[0].len());
        if n == 0 {
            return Ok(());
        }
        let element = at.index(n);
        job.inputs[0].experts[expert][element] = bad;
        match job.run() {
            Err(Failure::Run(MergeError::NonFinite { tensor, model, index, value })) => {
                prop_assert_eq!((tensor.as_str(), model), ("w", format!("model {expert}")));
                prop_assert_eq!((index, value.to_bits()), (element, bad.to_bits()));
            }
            Err(Failure::Build(_)) => {}
            other => prop_assert!(false, "{other:?}"),
        }
        // Asked to, the merge goes on, whatever comes out.
        job.options.allow_non_finite = true;
        if let Err(Failure::Run(e)) = job.run() {
            prop_assert!(matches!(e, MergeError::Undefined { .. }), "{e}");
        }
    }
}
