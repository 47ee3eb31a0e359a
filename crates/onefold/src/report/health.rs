//! The data behind every report: what one pass over the weights found, tensor by tensor.
//!
//! Filled by the jobs; nothing in it is derived. The survey keeps the Gramian of all vectors per tensor, because
//! every norm, cosine, share, coefficient and displacement in the report follows from it without another pass.

use serde::Serialize;

use super::ReportError;

/// Everything known about one merge, one comparison, or one inspected model.
///
/// One model alone is a `Health` with no base and one expert.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Health {
    /// Headline, for example the name of the output directory.
    pub title: String,
    /// Merge method; absent when nothing was merged.
    pub method: Option<String>,
    /// Whether the method leaves out task vectors against an elected sign.
    pub elects_signs: bool,
    /// Name of the base model θ₀.
    pub base: Option<String>,
    /// Names of the experts, in recipe order.
    pub experts: Vec<String>,
    /// The vectors of each Gramian, in order: with a base `base`, one delta per expert, then the merged model's delta
    /// if there is a result; without a base the models themselves. Empty when the weights were not read.
    pub vectors: Vec<String>,
    /// One entry per tensor that took part. Of tied tensors the first one present counts in whole-model figures.
    pub tensors: Vec<TensorHealth>,
    /// Tensors taken over unchanged, or left out of the arithmetic.
    pub copied: Vec<CopiedTensor>,
    /// Groups of names that share one storage.
    pub tied: Vec<Vec<String>>,
    /// Warnings of the job itself; the report adds its own (see [`super::derive`]).
    pub warnings: Vec<String>,
    /// The recipe, verbatim.
    pub recipe: Option<String>,
    /// The command that reproduces the run.
    pub command: Option<String>,
    /// Facts of the run in display order: time, peak memory, bytes read, versions.
    pub run: Vec<(String, String)>,
    /// Size of the described model: the result of a merge, or the model inspected.
    pub totals: Totals,
}

/// What the survey found in one tensor.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TensorHealth {
    /// Name in the checkpoint.
    pub name: String,
    /// Stored type in the output (or of the inspected model), for example `BF16`.
    pub dtype: String,
    /// Shape, row-major.
    pub shape: Vec<usize>,
    /// Number of elements.
    pub elements: u64,
    /// Upper triangle with diagonal, row by row, of the Gramian of [`Health::vectors`]: n(n+1)/2 inner products in f64.
    pub gramian: Vec<f64>,
    /// Positions where the non-zero deltas do not all have the same sign.
    pub sign_conflicts: u64,
    /// Positions where at least two deltas are non-zero.
    pub active: u64,
    /// NaN values per stored model in the order base, experts, merged; empty if not counted.
    pub nan: Vec<u64>,
    /// Infinities per stored model, like `nan`.
    pub inf: Vec<u64>,
    /// Effective λ per expert on this tensor, if the method has one.
    pub coefficients: Option<Vec<f64>>,
    /// Where each row has its own λ: the smallest and the greatest sum over the experts of a row's.
    pub row_sums: Option<[f64; 2]>,
}

/// A tensor that was not merged.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CopiedTensor {
    /// Name in the checkpoint.
    pub name: String,
    /// Stored type.
    pub dtype: String,
    /// Shape, row-major.
    pub shape: Vec<usize>,
    /// Why it was copied, for example `not floating point`.
    pub why: String,
}

/// Size of one model.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Totals {
    /// Parameters, tied ones once.
    pub parameters: u64,
    /// Bytes of tensor data.
    pub bytes: u64,
    /// Per stored type, in display order.
    pub dtypes: Vec<DtypeCount>,
}

/// Tensors of one stored type.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DtypeCount {
    /// For example `BF16`.
    pub dtype: String,
    /// Number of tensors.
    pub tensors: u64,
    /// Number of elements.
    pub elements: u64,
    /// Bytes of tensor data.
    pub bytes: u64,
}

/// Which index of the Gramian belongs to which model. Only [`Layout::of`] makes one, so its indices always fit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// Index 0 is the base.
    pub(crate) base: bool,
    /// Number of experts K.
    pub(crate) experts: usize,
    /// The last index is the merged model.
    pub(crate) merged: bool,
    /// Number of vectors n; 0 if the weights were not read.
    pub(crate) vectors: usize,
}

impl Layout {
    /// Checks `health` against itself, so that nobody has to afterwards.
    pub(crate) fn of(health: &Health) -> Result<Self, ReportError> {
        let inputs = usize::from(health.base.is_some()) + health.experts.len();
        let vectors = health.vectors.len();
        if vectors != 0 && vectors != inputs && vectors != inputs + 1 {
            return Err(ReportError::Vectors { inputs, found: vectors });
        }
        let layout = Self {
            base: health.base.is_some(),
            experts: health.experts.len(),
            merged: vectors > inputs,
            vectors,
        };
        health.tensors.iter().try_for_each(|tensor| layout.check(tensor))?;
        Ok(layout)
    }

    fn check(&self, tensor: &TensorHealth) -> Result<(), ReportError> {
        let length = |field, found, expected| match found == expected {
            true => Ok(()),
            false => Err(ReportError::Length { tensor: tensor.name.clone(), field, expected, found }),
        };
        length("gramian", tensor.gramian.len(), self.vectors.saturating_mul(self.vectors + 1) / 2)?;
        for (field, counts) in [("nan", &tensor.nan), ("inf", &tensor.inf)] {
            // A header-only look does not know whether there is a result: both lengths are then possible.
            let fits = counts.is_empty() || self.vectors == 0 && counts.len() == self.models() + 1;
            length(field, counts.len(), if fits { counts.len() } else { self.models() })?;
        }
        if let Some(coefficients) = &tensor.coefficients {
            length("coefficients", coefficients.len(), self.experts)?;
        }
        if tensor.sign_conflicts > tensor.active || tensor.active > tensor.elements {
            return Err(ReportError::Counts {
                tensor: tensor.name.clone(),
                conflicts: tensor.sign_conflicts,
                active: tensor.active,
                elements: tensor.elements,
            });
        }
        Ok(())
    }

    /// Number of stored models: base, experts, merged.
    pub(crate) fn models(&self) -> usize {
        usize::from(self.base) + self.experts + usize::from(self.merged)
    }

    /// Gramian index of expert `t`.
    pub(crate) fn expert(&self, t: usize) -> usize {
        usize::from(self.base) + t
    }

    /// Gramian index of the merged model.
    pub(crate) fn merged(&self) -> Option<usize> {
        self.merged.then(|| self.vectors - 1)
    }

    /// One model alone: nothing to compare it with.
    pub(crate) fn single(&self) -> bool {
        self.models() <= 1
    }

    /// Name of stored model `index` (base, experts, merged).
    pub(crate) fn model_name(&self, health: &Health, index: usize) -> String {
        match (&health.base, index) {
            (Some(base), 0) => base.clone(),
            _ => match health.experts.get(index - usize::from(self.base)) {
                Some(expert) => expert.clone(),
                None => "the merged model".to_owned(),
            },
        }
    }
}

/// A symmetric matrix of inner products, summed over tensors; packed like [`TensorHealth::gramian`].
#[derive(Clone, Debug)]
pub(crate) struct Gramian {
    n: usize,
    packed: Vec<f64>,
}

impl Gramian {
    pub(crate) fn zero(n: usize) -> Self {
        Self { n, packed: vec![0.0; n * (n + 1) / 2] }
    }

    pub(crate) fn add(&mut self, packed: &[f64]) {
        for (sum, value) in self.packed.iter_mut().zip(packed) {
            *sum += value;
        }
    }

    /// ⟨v_i, v_j⟩.
    pub(crate) fn at(&self, i: usize, j: usize) -> f64 {
        let (row, column) = (i.min(j), i.max(j));
        // Rows before `row` hold n, n−1, … entries; 2·row·n ≥ row² keeps the difference unsigned.
        self.packed[(2 * row * self.n + row - row * row) / 2 + column - row]
    }

    /// ‖v_i‖.
    pub(crate) fn norm(&self, i: usize) -> f64 {
        self.at(i, i).sqrt()
    }

    /// cos(v_i, v_j), clamped to [−1, 1]; none if a vector is zero or not finite.
    pub(crate) fn cosine(&self, i: usize, j: usize) -> Option<f64> {
        let product = self.norm(i) * self.norm(j);
        let cosine = self.at(i, j) / product;
        (product > 0.0 && cosine.is_finite()).then(|| cosine.clamp(-1.0, 1.0))
    }

    /// ‖v_i − v_j‖, from G_ii + G_jj − 2·G_ij; rounding below zero counts as zero.
    pub(crate) fn distance(&self, i: usize, j: usize) -> f64 {
        let squared = self.at(i, i) + self.at(j, j) - 2.0 * self.at(i, j);
        if squared < 0.0 { 0.0 } else { squared.sqrt() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;

    #[test]
    fn packed_index_matches_a_full_matrix() {
        for n in 1..6 {
            let mut gramian = Gramian::zero(n);
            let packed: Vec<f64> = (0..n).flat_map(|i| (i..n).map(move |j| (10 * i + j) as f64)).collect();
            gramian.add(&packed);
            for i in 0..n {
                for j in 0..n {
                    assert_eq!(gramian.at(i, j), (10 * i.min(j) + i.max(j)) as f64, "{n} {i} {j}");
                }
            }
        }
    }

    #[test]
    fn geometry_by_hand() {
        // v0 = (3, 4), v1 = (4, 3): norms 5, cosine 24/25, distance √2.
        let mut gramian = Gramian::zero(2);
        gramian.add(&[25.0, 24.0, 25.0]);
        assert_eq!((gramian.norm(0), gramian.cosine(0, 1)), (5.0, Some(0.96)));
        assert_eq!(gramian.distance(0, 1), 2.0_f64.sqrt());
        assert_eq!(Gramian::zero(2).cosine(0, 1), None);
    }

    #[test]
    fn contradictions_are_named() {
        let message = |change: fn(&mut Health)| {
            let mut health = fixture::merge();
            change(&mut health);
            Layout::of(&health).unwrap_err().to_string()
        };
        assert!(message(|h| h.vectors.truncate(2)).contains("lists 2 vectors, expected 4"));
        assert!(
            message(|h| h.tensors[3].gramian.truncate(1)).contains("`gramian` has 1 values, expected 15")
        );
        assert!(message(|h| h.tensors[3].nan.truncate(1)).contains("`nan` has 1 values, expected 5"));
        assert!(message(|h| h.tensors[3].inf.push(1)).contains("`inf` has 6 values, expected 5"));
        assert!(
            message(|h| h.tensors[3].coefficients = Some(vec![])).contains("`coefficients` has 0 values")
        );
        assert!(message(|h| h.tensors[3].active = u64::MAX).contains("each count must not exceed the next"));
        assert!(message(|h| h.tensors[3].sign_conflicts = u64::MAX).contains("sign conflicts among"));
    }

    #[test]
    fn a_header_only_look_needs_no_gramian() {
        let mut health = fixture::merge();
        health.vectors.clear();
        health.tensors.iter_mut().for_each(|tensor| tensor.gramian.clear());
        assert!(Layout::of(&health).is_ok());
    }
}
