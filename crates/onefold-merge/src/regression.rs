//! The linear map that is closest to several others on the inputs of each: the mathematics of RegMean.
//!
//! With `Gₘ` the Gram matrix of model m's inputs and `Wₘ` its map [out, in], the minimiser of `Σ ‖XₘWᵀ − XₘWₘᵀ‖²` is
//! `Wᵀ = (Σ G̃ₘ)⁻¹ Σ G̃ₘWₘᵀ` (Jin et al., ICLR 2023, arXiv 2212.09849, equation 2), where `G̃` is `G` with all but its
//! diagonal multiplied by a ratio.
//!
//! All in f64, by the Cholesky factors of `ΣG̃` scaled to a diagonal of ones. Maps are cut into panels of outputs that run
//! in parallel; a panel's numbers depend on no other panel and on no thread.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::factor::{cholesky_in_place, cholesky_in_place_scratch};
use faer::linalg::cholesky::llt::solve::solve_in_place;
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

/// Outputs of a panel.
const PANEL: usize = 64;

/// The sum of the Gram matrices has no inverse: some inputs are combinations of others in everything that was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("input {input} of {inputs} is a combination of others in all samples of all models")]
pub struct Singular {
    /// The first such input.
    pub input: usize,
    /// How many there are.
    pub inputs: usize,
}

/// The sums over models.
#[derive(Debug)]
pub struct Regression {
    inputs: usize,
    /// Inputs that no model ever saw.
    unseen: Vec<bool>,
    /// ΣG̃, [in, in].
    gram: Vec<f64>,
    /// Σ WG̃, [out, in].
    product: Vec<f64>,
}

impl Regression {
    /// Nothing yet. `diagonal` is the sum of the diagonals of all Gram matrices that will be added: an input of which it is 0
    /// was 0 in all samples of all models. Nothing can be learnt of its weights, and they are averaged.
    pub fn new(outputs: usize, diagonal: &[f64]) -> Self {
        let inputs = diagonal.len();
        let unseen = diagonal.iter().map(|d| *d == 0.0).collect();
        Self { inputs, unseen, gram: vec![0.0; inputs * inputs], product: vec![0.0; inputs * outputs] }
    }

    /// Adds a model: its Gram matrix [in, in], which is symmetric, and its map [out, in]. All but the diagonal is multiplied
    /// by `ratio`.
    ///
    /// # Panics
    /// If the lengths do not fit.
    pub fn add(&mut self, mut gram: Vec<f64>, ratio: f64, map: &[f64]) {
        let n = self.inputs;
        assert!(gram.len() == n * n && map.len() == self.product.len(), "sizes of a model's matrices");
        for (i, row) in gram.chunks_exact_mut(n.max(1)).enumerate() {
            let diagonal = if self.unseen[i] { 1.0 } else { row[i] };
            row.iter_mut().for_each(|g| *g *= ratio);
            row[i] = diagonal;
        }
        self.gram.iter_mut().zip(&gram).for_each(|(sum, g)| *sum += g);
        let gram = MatRef::from_column_major_slice(&gram, n, n);
        let panels = self.product.par_chunks_mut(PANEL * n.max(1)).zip(map.par_chunks(PANEL * n.max(1)));
        panels.for_each(|(sum, map)| {
            let outputs = map.len() / n;
            // Rows of a map are columns of its transpose.
            let map = MatRef::from_column_major_slice(map, n, outputs);
            let sum = MatMut::from_column_major_slice_mut(sum, n, outputs);
            matmul(sum, Accum::Add, gram, map, 1.0, Par::Seq);
        });
    }

    /// The merged map, [out, in].
    ///
    /// # Errors
    /// If the sum of the Gram matrices has no inverse, or none that their rounding to f32 leaves meaningful.
    pub fn solve(mut self) -> Result<Vec<f64>, Singular> {
        let n = self.inputs;
        if n == 0 || self.product.is_empty() {
            return Ok(self.product);
        }
        let scale: Vec<f64> = (0..n).map(|i| 1.0 / self.gram[i * n + i].sqrt()).collect();
        for (row, by) in self.gram.chunks_exact_mut(n).zip(&scale) {
            row.iter_mut().zip(&scale).for_each(|(g, s)| *g *= by * s);
        }
        factor(&mut self.gram, n)?;
        let factors = MatRef::from_column_major_slice(&self.gram, n, n);
        self.product.par_chunks_mut(PANEL * n).for_each(|panel| {
            let outputs = panel.len() / n;
            scale_rows(panel, &scale);
            let right = MatMut::from_column_major_slice_mut(panel, n, outputs);
            solve_in_place(factors, right, Par::Seq, MemStack::new(&mut []));
            scale_rows(panel, &scale);
        });
        Ok(self.product)
    }
}

fn scale_rows(rows: &mut [f64], scale: &[f64]) {
    for row in rows.chunks_exact_mut(scale.len()) {
        row.iter_mut().zip(scale).for_each(|(x, s)| *x *= s);
    }
}

/// Cholesky factors of a matrix with a diagonal of ones, in its place.
fn factor(gram: &mut [f64], n: usize) -> Result<(), Singular> {
    let mut matrix = MatMut::from_column_major_slice_mut(&mut *gram, n, n);
    let mut memory = MemBuffer::new(cholesky_in_place_scratch::<f64>(n, Par::Seq, Default::default()));
    let stack = MemStack::new(&mut memory);
    let done = cholesky_in_place(matrix.as_mut(), Default::default(), Par::Seq, stack, Default::default());
    if let Err(faer::linalg::cholesky::llt::factor::LltError::NonPositivePivot { index }) = done {
        return Err(Singular { input: index.min(n - 1), inputs: n });
    }
    // What is left of an input after all before it are taken out of it, as a share of its square. Gram matrices come in
    // f32, whose rounding moves the eigenvalues of n inputs by some √n·2⁻²⁴.
    let noise = (n as f64).sqrt() / f64::from(1 << 24);
    let enough = |i: &usize| gram[i * n + i].powi(2) > noise;
    match (0..n).find(|i| !enough(i)) {
        None => Ok(()),
        Some(input) => Err(Singular { input, inputs: n }),
    }
}

/// Upper bound of the bytes that the merge of maps [out, in] holds, input and result included.
pub fn peak_bytes(inputs: usize, outputs: usize) -> u64 {
    let (n, m) = (inputs as u64, outputs as u64);
    // ΣG̃, one G̃ and its tensor; the sum of products, one map as read and in f64.
    let grams = n.saturating_mul(n).saturating_mul(8 + 8 + 4);
    let maps = n.saturating_mul(m).saturating_mul(8 + 8 + 8);
    grams.saturating_add(maps).saturating_add(2 << 20) // packing buffers of the matrix product
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn flat(value: &Value) -> Vec<f64> {
        match value {
            Value::Array(items) => items.iter().flat_map(flat).collect(),
            number => vec![number.as_f64().unwrap()],
        }
    }

    fn merge(grams: &[Vec<f64>], ratio: f64, maps: &[Vec<f64>]) -> Result<Vec<f64>, Singular> {
        let n = grams[0].len().isqrt();
        let diagonal: Vec<f64> = (0..n).map(|i| grams.iter().map(|g| g[i * n + i]).sum()).collect();
        let mut sums = Regression::new(maps[0].len() / n, &diagonal);
        for (gram, map) in grams.iter().zip(maps) {
            sums.add(gram.clone(), ratio, map);
        }
        sums.solve()
    }

    fn close(found: &[f64], expected: &[f64], tolerance: f64) {
        assert_eq!(found.len(), expected.len());
        for (f, e) in found.iter().zip(expected) {
            assert!((f - e).abs() <= tolerance, "{found:?}, expected {expected:?}");
        }
    }

    #[test]
    fn goldens() {
        let golden: Value =
            serde_json::from_str(include_str!("../../../testdata/related/statistics.json")).unwrap();
        let golden = &golden["regmean"];
        let of = |key: &str| golden[key].as_array().unwrap().iter().map(flat).collect::<Vec<_>>();
        for (ratio, key) in [(1.0, "merged_ratio_1.0"), (0.9, "merged_ratio_0.9"), (0.0, "merged_ratio_0")] {
            close(&merge(&of("G"), ratio, &of("W_out_in")).unwrap(), &flat(&golden[key]), 1e-12);
        }
    }

    /// A model of one input direction has nothing to say about the others.
    #[test]
    fn singular_sums_name_an_input_and_unseen_inputs_are_averaged() {
        let dependent = vec![1.0, 2.0, 2.0, 4.0];
        let maps = [vec![1.0, 2.0, 3.0, 4.0], vec![3.0, 6.0, 5.0, 0.0]];
        let error = merge(&[dependent.clone(), dependent.clone()], 1.0, &maps).unwrap_err();
        assert_eq!(error, Singular { input: 1, inputs: 2 });
        assert!(merge(&[dependent.clone(), dependent], 0.9, &maps).is_ok());
        let unseen = vec![2.0, 0.0, 0.0, 0.0];
        close(&merge(&[unseen.clone(), unseen], 0.9, &maps).unwrap(), &[2.0, 4.0, 4.0, 2.0], 1e-12);
        // Seen by one model only: that model's weights.
        let both = [vec![2.0, 0.0, 0.0, 0.0], vec![2.0, 0.0, 0.0, 3.0]];
        close(&merge(&both, 1.0, &maps).unwrap(), &[2.0, 6.0, 4.0, 0.0], 1e-12);
        assert!(merge(&[vec![0.0, 1.0, 1.0, 1.0]], 1.0, &maps[..1]).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// The gradient of the squared differences of outputs is 0 at the merged map, and equal maps give themselves.
        #[test]
        fn minimises_the_differences_of_outputs(
            n in 1usize..7,
            outputs in 1usize..90,
            k in 1usize..4,
            seed in 0u64..1000,
        ) {
            let numbers = |what: &str, count: usize| -> Vec<f64> {
                let mut bits = vec![0u32; count];
                onefold_runtime::Stream::new(seed, "test", what).fill(0, &mut bits);
                bits.iter().map(|b| f64::from(*b) / f64::from(u32::MAX) - 0.5).collect()
            };
            let gram = |m: usize| {
                let x = numbers(&format!("x{m}"), 3 * n * n);
                let dot = |i: usize, j: usize| (0..3 * n).map(|s| x[s * n + i] * x[s * n + j]).sum::<f64>();
                (0..n * n).map(|at| dot(at / n, at % n)).collect::<Vec<f64>>()
            };
            let grams: Vec<Vec<f64>> = (0..k).map(gram).collect();
            let maps: Vec<Vec<f64>> = (0..k).map(|m| numbers(&format!("w{m}"), n * outputs)).collect();
            let merged = merge(&grams, 1.0, &maps).unwrap();
            for o in 0..outputs {
                for i in 0..n {
                    let slope: f64 = (0..k).map(|m| {
                        (0..n).map(|j| grams[m][i * n + j] * (merged[o * n + j] - maps[m][o * n + j])).sum::<f64>()
                    }).sum();
                    prop_assert!(slope.abs() < 1e-9, "{slope}");
                }
            }
            let equal = vec![maps[0].clone(); k];
            close(&merge(&grams, 0.7, &equal).unwrap(), &maps[0], 1e-8);
        }
    }
}
