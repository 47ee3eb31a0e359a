//! Sums over the vectors of a tensor that are used as they are read, and not kept: for what is done again and again with the same
//! files, as in every step of learning coefficients. [`Scan::load`] takes a strip of every file in turn and writes all vectors of a
//! block before anything is done with them. Here a whole block of one file is widened and used before the next file is
//! read: long runs of each file, and half as much written.
//!
//! What is computed of an element is computed in the order of the loops over loaded blocks: a merge has the same bits.
//!
//! The inner product with a low-rank update needs no dense one: `⟨G, L·R⟩ = ⟨G·Rᵀ, L⟩`.

mod low_rank;

use std::ops::Range;

use onefold_checkpoint::tensor::Update;
use rayon::prelude::*;

use crate::kernels::{add_to_origin, difference, reduce};
use crate::scan::{BLOCK, Grain, Operand, Scan, with_scratch};

/// A scan of task vectors, whose numbers are known to be finite or need not be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Direct<'a> {
    scan: &'a Scan,
    origin: &'a Operand,
}

impl<'a> Direct<'a> {
    /// None if vectors are not differences from an origin, or have still to be checked: then blocks are loaded.
    pub(crate) fn new(scan: &'a Scan) -> Option<Self> {
        let origin = scan.origin.as_ref().filter(|_| scan.options.allow_non_finite && !scan.deltas)?;
        Some(Self { scan, origin })
    }

    /// `origin + Σₖ λₖ (xₖ − origin)` to `out`; where the sum is zero the origin stays as it is.
    ///
    /// # Panics
    /// If `out` is of another length.
    pub(crate) fn merge(&self, lambda: &[f64], out: &mut [f32]) {
        assert_eq!(out.len(), self.scan.len(), "the destination of `{}`", self.scan.name);
        // As long as the spans of `Scan::spans`.
        let span = (self.scan.options.span / BLOCK).max(1) * BLOCK;
        let of = |(number, out): (usize, &mut [f32])| {
            let starts = (number * span..).step_by(BLOCK);
            starts.zip(out.chunks_mut(BLOCK)).for_each(|(start, out)| self.merge_block(start, lambda, out));
        };
        if out.len() <= span {
            return of((0, out));
        }
        out.par_chunks_mut(span).enumerate().for_each(of);
    }

    fn merge_block(&self, start: usize, lambda: &[f64], out: &mut [f32]) {
        with_scratch(|[origin, x]| {
            read(self.origin, start, out.len(), origin);
            for (number, (operand, lambda)) in self.scan.operands.iter().zip(lambda).enumerate() {
                read(operand, start, out.len(), x);
                match number {
                    0 => difference::scaled(out, *lambda as f32, x, origin),
                    _ => difference::add_scaled(out, *lambda as f32, x, origin),
                }
            }
            add_to_origin(out, origin);
        });
    }

    /// `⟨gradient, xₖ − origin⟩` of each operand, to some 1e-7; the same on any number of threads.
    ///
    /// # Panics
    /// If `gradient` is of another length.
    pub(crate) fn products(&self, gradient: &[f32]) -> Vec<f64> {
        assert_eq!(gradient.len(), self.scan.len(), "the gradient of `{}`", self.scan.name);
        let (updates, dense) = self.updates();
        let mut products = vec![0.0; self.scan.k()];
        for (at, product) in dense.iter().zip(self.dense_products(&dense, gradient)) {
            products[*at] = product;
        }
        let (at, updates): (Vec<usize>, Vec<&dyn Update>) = updates.into_iter().unzip();
        for (at, product) in at.into_iter().zip(low_rank::products(&updates, gradient)) {
            products[at] = product;
        }
        products
    }

    /// Operands that are a low-rank update of the origin, and all others but those that are the origin.
    fn updates(&self) -> (Vec<(usize, &'a dyn Update)>, Vec<usize>) {
        let (mut updates, mut dense) = (Vec::new(), Vec::new());
        let operands = self.scan.operands.iter().enumerate();
        // What an adapter leaves as it is.
        let changed = |operand: &Operand| !operand.tensor.same_storage(&self.origin.tensor);
        for (at, operand) in operands.filter(|(_, operand)| changed(operand)) {
            match operand.tensor.update().filter(|update| update.base().same_storage(&self.origin.tensor)) {
                Some(update) => updates.push((at, update)),
                None => dense.push(at),
            }
        }
        (updates, dense)
    }

    /// The products of some operands, block by block.
    fn dense_products(&self, operands: &[usize], gradient: &[f32]) -> Vec<f64> {
        if operands.is_empty() {
            return Vec::new();
        }
        let of = |span: &Range<usize>| -> Vec<Vec<f64>> {
            let blocks = self.scan.blocks_of(span.clone(), Grain::Element).into_iter();
            blocks.map(|block| self.products_of_block(operands, block.start, &gradient[block])).collect()
        };
        let parts: Vec<Vec<Vec<f64>>> = match &self.scan.spans(Grain::Element)[..] {
            [span] => vec![of(span)],
            spans => spans.par_iter().map(of).collect(),
        };
        reduce::sum_in_order(parts.into_iter().flatten(), operands.len())
    }

    fn products_of_block(&self, operands: &[usize], start: usize, gradient: &[f32]) -> Vec<f64> {
        with_scratch(|[origin, x]| {
            read(self.origin, start, gradient.len(), origin);
            let product = |at: &usize| {
                read(&self.scan.operands[*at], start, gradient.len(), x);
                difference::rough_dot(gradient, x, origin)
            };
            operands.iter().map(product).collect()
        })
    }
}

/// Reads `len` elements.
fn read(operand: &Operand, start: usize, len: usize, to: &mut onefold_runtime::Aligned) {
    to.resize(len);
    operand.tensor.read(start, to);
}

#[cfg(test)]
mod tests {
    use onefold_checkpoint::Dtype;

    use super::*;
    use crate::methods::combine;
    use crate::scan::fixtures::{stored_operand, updated_operand};
    use crate::scan::{ScanOptions, View};

    fn numbers(len: usize, seed: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 37 + seed * 101) % 977) as f32 / 977.0 - 0.5).collect()
    }

    /// Three experts of a base; every fifth number of an expert is the base's.
    fn scan(len: usize, dtype: Dtype, allow_non_finite: bool) -> Scan {
        let base = numbers(len, 0);
        let expert = |k: usize| -> Vec<f32> {
            let of = numbers(len, k);
            (0..len).map(|i| if i % 5 == 0 { base[i] } else { of[i] }).collect()
        };
        Scan {
            name: "w".into(),
            shape: vec![len],
            origin: Some(stored_operand("base", Dtype::F32, &base)),
            operands: (1..4).map(|k| stored_operand(&format!("m{k}"), dtype, &expert(k))).collect(),
            statistics: Vec::new(),
            deltas: false,
            options: ScanOptions { span: 2 * BLOCK, allow_non_finite },
        }
    }

    const LENGTHS: [usize; 6] = [0, 1, 63, BLOCK, 2 * BLOCK + 1, 5 * BLOCK - 1];

    #[test]
    fn a_merge_has_the_bits_of_one_with_loaded_blocks() {
        let lambda = [0.3, -0.7, 1.1];
        for (len, dtype) in LENGTHS.into_iter().flat_map(|len| [(len, Dtype::F32), (len, Dtype::BF16)]) {
            let (mut found, mut expected) = (vec![7.0; len], vec![9.0; len]);
            Direct::new(&scan(len, dtype, true)).unwrap().merge(&lambda, &mut found);
            let loaded = |view: &View<'_>, out: &mut [f32]| {
                combine(&lambda, view.vectors, out);
                add_to_origin(out, view.origin.unwrap());
            };
            scan(len, dtype, false).fill(&mut expected, loaded).unwrap();
            let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&found), bits(&expected), "{len} of {dtype}");
        }
    }

    #[test]
    fn products_are_those_of_exact_sums_on_any_number_of_threads() {
        for len in LENGTHS {
            let (scan, gradient) = (scan(len, Dtype::F32, true), numbers(len, 9));
            let on = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| Direct::new(&scan).unwrap().products(&gradient))
            };
            assert_eq!(on(1), on(2), "{len}");
            let parts = scan.map(Grain::Element, |view| {
                let here = &gradient[view.start..view.start + view.len()];
                view.vectors.iter().map(|v| reduce::dot(here, v)).collect()
            });
            for (found, exact) in on(1).iter().zip(reduce::sum_in_order(parts.unwrap(), 3)) {
                assert!((found - exact).abs() <= 1e-6 * len as f64, "{len}: {found} {exact}");
            }
        }
    }

    #[test]
    fn products_with_low_rank_updates_are_those_with_what_they_add() {
        for (rows, cols) in [(1, 5), (300, 70), (128, 33)] {
            let mut scan = scan(rows * cols, Dtype::F32, true);
            scan.shape = vec![rows, cols];
            let number = |i: usize| ((i * 31) % 17) as f32 / 17.0 - 0.5;
            let origin = scan.origin.clone().unwrap();
            // Of another base it is no update of the origin.
            for (base, rank) in [(&origin, 1), (&scan.operands[1].clone(), 4), (&origin, 19)] {
                scan.operands.push(updated_operand("adapter", base, [rows, rank, cols], number));
            }
            scan.operands.push(origin);
            let gradient = numbers(rows * cols, 9);
            let parts = scan.map(Grain::Element, |view| {
                let here = &gradient[view.start..view.start + view.len()];
                view.vectors.iter().map(|v| reduce::dot(here, v)).collect()
            });
            let expected = reduce::sum_in_order(parts.unwrap(), scan.k());
            let direct = Direct::new(&scan).unwrap();
            assert_eq!(direct.updates().1, [0, 1, 2, 4]);
            assert_eq!(expected.last(), Some(&0.0));
            for (found, expected) in direct.products(&gradient).iter().zip(expected) {
                let bound = 1e-6 * (rows * cols) as f64;
                assert!((found - expected).abs() <= bound, "{rows} {cols}: {found} {expected}");
            }
        }
    }

    #[test]
    fn gradients_that_are_tiny_are_not_lost() {
        let (scan, len) = (scan(100, Dtype::F32, true), 100);
        let of = |scale: f32| {
            let gradient: Vec<f32> = numbers(len, 9).iter().map(|v| v * scale).collect();
            Direct::new(&scan).unwrap().products(&gradient)
        };
        for (tiny, plain) in of(2f32.powi(-110)).iter().zip(of(1.0)) {
            assert!((tiny * 2f64.powi(110) / plain - 1.0).abs() < 1e-5, "{tiny} {plain}");
        }
    }

    #[test]
    fn what_has_still_to_be_checked_is_loaded() {
        assert!(Direct::new(&scan(4, Dtype::F32, false)).is_none());
        assert!(Direct::new(&Scan { origin: None, ..scan(4, Dtype::F32, true) }).is_none());
        assert!(Direct::new(&Scan { deltas: true, ..scan(4, Dtype::F32, true) }).is_none());
    }
}
