//! Inverted dropout without a stored mask: an element is kept with probability 1 − p and divided by it, else it is 0.
//!
//! The mask is a pure function of (stream, position): the backward pass tosses the same coins again, and neither threads
//! nor chunks show. Give each operator its own stream and each call its own positions (its length further on), or masks
//! repeat.

use std::cell::RefCell;

use multiversion::multiversion;
use onefold_runtime::random::{GROUP, Stream, threshold};

use super::parallel;
use crate::{Buffer, Write};

/// The coins of one call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    rate: f64,
    stream: Stream,
    start: u64,
}

/// A rate that is no probability.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("a dropout rate of {rate} is no probability: give one from 0 to 1")]
pub struct BadRate {
    /// The rate as given.
    pub rate: f64,
}

impl Dropout {
    /// Drops with probability `rate`, by the coins of `stream` from position `start` on, rounded up to a whole group of
    /// [`GROUP`]; see [`Dropout::after`].
    ///
    /// # Errors
    /// [`BadRate`] outside of 0 to 1.
    pub fn new(rate: f64, stream: Stream, start: u64) -> Result<Self, BadRate> {
        if (0.0..=1.0).contains(&rate) {
            Ok(Self { rate, stream, start: start.next_multiple_of(GROUP as u64) })
        } else {
            Err(BadRate { rate })
        }
    }

    /// The coins after those of a call on `len` elements.
    #[must_use]
    pub fn after(self, len: usize) -> Self {
        Self { start: (self.start + len as u64).next_multiple_of(GROUP as u64), ..self }
    }

    /// x ← mask · x / (1 − p): forward, and with the gradient for x the backward pass.
    pub fn apply(&self, x: &mut Buffer) {
        if self.rate > 0.0 {
            self.pieces(x.host_mut(), |_, x, marks, scale| apply(x, marks, scale));
        }
    }

    /// y = residual + mask · x / (1 − p). Backward: dresidual = dy, and dx is [`Dropout::apply_to`] of dy.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn add(&self, y: &mut Buffer, residual: &Buffer, x: &Buffer) {
        assert!(y.len() == x.len() && y.len() == residual.len(), "lengths of a dropout's buffers");
        let (residual, x) = (residual.host(), x.host());
        self.pieces(y.host_mut(), |start, y, marks, scale| {
            let range = start..start + y.len();
            add(y, &residual[range.clone()], &x[range], marks, scale);
        });
    }

    /// out = mask · x / (1 − p), or adds that: forward from x, or backward from dy.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn apply_to(&self, out: &mut Buffer, x: &Buffer, write: Write) {
        assert_eq!(out.len(), x.len(), "lengths of a dropout's buffers");
        let x = x.host();
        self.pieces(out.host_mut(), |start, out, marks, scale| {
            let x = &x[start..start + out.len()];
            match write {
                Write::Set => {
                    out.copy_from_slice(x);
                    apply(out, marks, scale);
                }
                Write::Add => accumulate(out, x, marks, scale),
            }
        });
    }

    /// Calls `each(first element, elements, their marks, factor of the kept)`, in parallel.
    fn pieces(&self, out: &mut [f32], each: impl Fn(usize, &mut [f32], &[u8], f32) + Sync) {
        thread_local! {
            // Of fixed size after the first piece, so that nothing is allocated later.
            static MARKS: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        let keep = 1.0 - self.rate;
        let scale = if keep > 0.0 { (1.0 / keep) as f32 } else { 0.0 };
        // In "rows" of a group, so that pieces begin with one.
        let whole = out.len() / GROUP * GROUP;
        let (groups, rest) = out.split_at_mut(whole);
        let piece = |start: usize, out: &mut [f32]| {
            MARKS.with_borrow_mut(|marks| {
                self.stream.toss(threshold(keep), self.start + start as u64, out.len(), marks);
                each(start, out, marks, scale);
            });
        };
        parallel::for_rows(groups, GROUP, |group, out| piece(group * GROUP, out));
        piece(whole, rest);
    }
}

/// Elements that share a bit of their bytes.
const LANES: usize = GROUP / 8;

/// x, or 0 where bit `bit` of `mark` is 0: a mask of bits, so that a dropped infinity is no NaN.
#[inline(always)]
fn kept(x: f32, mark: u8, bit: usize, scale: f32) -> f32 {
    f32::from_bits(x.to_bits() & 0u32.wrapping_sub(u32::from(mark >> bit & 1))) * scale
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn apply(x: &mut [f32], marks: &[u8], scale: f32) {
    for (x, marks) in x.chunks_mut(GROUP).zip(marks.chunks_exact(LANES)) {
        for (bit, x) in x.chunks_mut(LANES).enumerate() {
            x.iter_mut().zip(marks).for_each(|(x, mark)| *x = kept(*x, *mark, bit, scale));
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn add(y: &mut [f32], residual: &[f32], x: &[f32], marks: &[u8], scale: f32) {
    let groups = y.chunks_mut(GROUP).zip(residual.chunks(GROUP)).zip(x.chunks(GROUP));
    for (((y, residual), x), marks) in groups.zip(marks.chunks_exact(LANES)) {
        let lanes = y.chunks_mut(LANES).zip(residual.chunks(LANES)).zip(x.chunks(LANES));
        for (bit, ((y, residual), x)) in lanes.enumerate() {
            for (((y, r), x), mark) in y.iter_mut().zip(residual).zip(x).zip(marks) {
                *y = r + kept(*x, *mark, bit, scale);
            }
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn accumulate(out: &mut [f32], x: &[f32], marks: &[u8], scale: f32) {
    for ((out, x), marks) in out.chunks_mut(GROUP).zip(x.chunks(GROUP)).zip(marks.chunks_exact(LANES)) {
        for (bit, (out, x)) in out.chunks_mut(LANES).zip(x.chunks(LANES)).enumerate() {
            for ((out, x), mark) in out.iter_mut().zip(x).zip(marks) {
                *out += kept(*x, *mark, bit, scale);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::probe::{on_pools, wave};
    use super::*;

    fn dropout(rate: f64, start: u64) -> Dropout {
        Dropout::new(rate, Stream::new(3, "task", "layer.0"), start).unwrap()
    }

    /// Whether element i is kept, from the layout that `GROUP` documents.
    fn coin(d: &Dropout, len: usize) -> Vec<bool> {
        let mut marks = Vec::new();
        d.stream.toss(threshold(1.0 - d.rate), d.start, len, &mut marks);
        (0..len).map(|i| marks[i / GROUP * LANES + i % LANES] >> (i % GROUP / LANES) & 1 == 1).collect()
    }

    #[test]
    fn rates_at_and_beyond_the_ends() {
        let x = wave(1000, 0.7);
        let applied = |rate| {
            let mut y = Buffer::from(x.clone());
            dropout(rate, 0).apply(&mut y);
            y.to_vec()
        };
        assert_eq!(applied(0.0), x);
        assert!(applied(1.0).iter().all(|v| *v == 0.0));
        for rate in [-0.1, 1.1, f64::NAN] {
            let message = Dropout::new(rate, Stream::new(0, "", ""), 0).unwrap_err().to_string();
            assert!(message.contains("is no probability"), "{message}");
        }
    }

    #[test]
    fn the_mean_stays() {
        let mut ones = Buffer::from(vec![1.0; 1 << 18]);
        dropout(0.3, 0).apply(&mut ones);
        let mean = ones.host().iter().map(|v| f64::from(*v)).sum::<f64>() / ones.len() as f64;
        assert!((mean - 1.0).abs() < 6.0 * (0.3f64 / 0.7 / ones.len() as f64).sqrt(), "{mean}");
    }

    #[test]
    fn the_next_call_has_other_coins() {
        let (first, len) = (dropout(0.5, 0), 1000);
        let whole = coin(&first, 2048);
        assert_eq!(coin(&first.after(len), len), whole[1024..1024 + len]);
    }

    #[test]
    fn threads_do_not_show_and_infinities_drop() {
        let x = wave(100_001, 0.7);
        on_pools(|| {
            let mut y = Buffer::from(x.clone());
            dropout(0.1, 512).apply(&mut y);
            y.to_vec()
        });
        let mut y = Buffer::from(vec![f32::INFINITY; 300]);
        dropout(0.5, 0).apply(&mut y);
        assert!(y.host().iter().all(|v| *v == 0.0 || v.is_infinite()));
    }

    proptest! {
        #[test]
        fn masks_are_the_coins(len in 0usize..1500, start in 0u64..2000, rate in 0.0f64..1.0) {
            let d = dropout(rate, start);
            let (x, residual) = (wave(len, 0.7), wave(len, 1.1));
            let mask: Vec<f32> =
                coin(&d, len).iter().map(|c| if *c { (1.0 / (1.0 - rate)) as f32 } else { 0.0 }).collect();
            let (mut in_place, mut y, mut dx) =
                (Buffer::from(x.clone()), Buffer::zeros(len), Buffer::zeros(len));
            let mut sum = Buffer::from(residual.clone());
            d.apply(&mut in_place);
            d.apply_to(&mut dx, &x.clone().into(), Write::Set);
            d.apply_to(&mut sum, &x.clone().into(), Write::Add);
            d.add(&mut y, &residual.clone().into(), &x.clone().into());
            for i in 0..len {
                prop_assert_eq!(in_place.host()[i], x[i] * mask[i]);
                prop_assert_eq!(dx.host()[i], x[i] * mask[i]);
                prop_assert_eq!(y.host()[i], residual[i] + x[i] * mask[i]);
                prop_assert_eq!(sum.host()[i], y.host()[i]);
            }
        }
    }
}
