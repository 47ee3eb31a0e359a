//! EMR-Merging: elect, mask, rescale (Huang et al., "EMR-Merging: Tuning-Free High-Performance Model Merging",
//! NeurIPS 2024). One unified task vector for all tasks, one bit per parameter and one factor per task; which
//! task an input belongs to must be known at inference.
//!
//! Per element γ = sign(Σ_t τ_t), −1 for 0; unified = γ·max |τ_t| over the tasks with sign(τ_t) = γ (0 if none);
//! M_t = [τ_t·γ > 0]; λ_t = Σ|τ_t| / Σ|M_t ∘ unified|; θ_t = θ₀ + λ_t · M_t ∘ unified.
//! The authors' code divides sums of per-tensor means instead of sums: [`Rescaler::Code`].
//!
//! Kernels on chunks of equal length; finite input is the caller's to check.
//! Everything but the sums is element-local, so chunking cannot show. Sums are f64, in index order.

pub mod stream;

pub use onefold_checkpoint::emr::mask_bytes;
use serde::{Deserialize, Serialize};

/// Elements that are elected at once: their accumulators stay in registers and the first-level cache.
const LANES: usize = 256;

/// Writes the unified task vector of one chunk. `deltas`: the K task vectors' chunks.
pub fn elect<V: AsRef<[f32]>>(deltas: &[V], unified: &mut [f32]) {
    for (part, out) in unified.chunks_mut(LANES).enumerate() {
        let (mut sum, mut above, mut below) = ([0f64; LANES], [0f32; LANES], [0f32; LANES]);
        for delta in deltas {
            let values = &delta.as_ref()[part * LANES..];
            // Largest and smallest value, clipped at 0: those of the other sign do not take part.
            for (i, &v) in values.iter().take(out.len()).enumerate() {
                sum[i] += f64::from(v);
                above[i] = above[i].max(v);
                below[i] = below[i].min(v);
            }
        }
        for (i, out) in out.iter_mut().enumerate() {
            *out = if sum[i] > 0.0 { above[i] } else { below[i] };
        }
    }
}

/// Whether the task keeps this element: M_t. Where `unified` is 0 no task agrees, so γ is not needed.
fn keeps(delta: f32, unified: f32) -> bool {
    (delta > 0.0 && unified > 0.0) || (delta < 0.0 && unified < 0.0)
}

/// Writes one task's mask of one chunk: element i is bit i mod 8 (least significant first) of byte i / 8.
/// Chunks that begin at multiples of 8 lie end to end. `bits`: [`mask_bytes`] of the chunk's length.
pub fn mask(delta: &[f32], unified: &[f32], bits: &mut [u8]) {
    for ((byte, delta), unified) in bits.iter_mut().zip(delta.chunks(8)).zip(unified.chunks(8)) {
        let pairs = delta.iter().zip(unified).enumerate();
        *byte = pairs.fold(0, |byte, (i, (&d, &u))| byte | (u8::from(keeps(d, u)) << i));
    }
}

/// What one task's λ needs of one tensor; chunks add up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sums {
    /// Σ|τ_t|.
    pub delta: f64,
    /// Σ|M_t ∘ unified|.
    pub kept: f64,
    /// Number of elements.
    pub elements: u64,
}

impl Sums {
    /// The sums of one chunk.
    pub fn of(delta: &[f32], unified: &[f32]) -> Self {
        delta.iter().zip(unified).fold(Self::default(), |sums, (&d, &u)| Self {
            delta: sums.delta + f64::from(d.abs()),
            kept: sums.kept + if keeps(d, u) { f64::from(u.abs()) } else { 0.0 },
            elements: sums.elements + 1,
        })
    }
}

impl std::ops::AddAssign for Sums {
    fn add_assign(&mut self, other: Self) {
        self.delta += other.delta;
        self.kept += other.kept;
        self.elements += other.elements;
    }
}

/// How λ_t weighs the tensors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rescaler {
    /// Sums over all elements, as printed: keeps the L1 norm of the task vector.
    #[default]
    Paper,
    /// Sums of per-tensor means, as the authors' code does.
    Code,
}

impl Rescaler {
    /// Its name in recipes and manifests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Paper => "paper",
            Self::Code => "code",
        }
    }
}

/// λ_t from the sums of each tensor; 0 when the task's mask is empty (any factor gives the same model).
pub fn rescaler(tensors: &[Sums], rule: Rescaler) -> f64 {
    let (mut delta, mut kept) = (0.0, 0.0);
    for tensor in tensors.iter().filter(|tensor| tensor.elements > 0) {
        let count = if rule == Rescaler::Code { tensor.elements as f64 } else { 1.0 };
        delta += tensor.delta / count;
        kept += tensor.kept / count;
    }
    if kept > 0.0 { delta / kept } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use onefold_checkpoint::emr::add_task;
    use proptest::prelude::*;

    use super::*;

    type Tensors<T> = BTreeMap<String, Vec<T>>;

    #[derive(serde::Deserialize)]
    struct Golden {
        task_vectors: Vec<Tensors<f32>>,
        unified: Tensors<f32>,
        masks: Vec<Tensors<u8>>,
        rescaler_paper: Vec<f64>,
        rescaler_code_sum_of_tensor_means: Vec<f64>,
        task_vectors_rebuilt_paper: Vec<Tensors<f32>>,
    }

    fn packed(mask: &[u8]) -> Vec<u8> {
        mask.chunks(8).map(|c| c.iter().enumerate().fold(0, |byte, (i, bit)| byte | bit << i)).collect()
    }

    fn unify(tasks: &[&[f32]]) -> Vec<f32> {
        let mut unified = vec![f32::NAN; tasks[0].len()];
        elect(tasks, &mut unified);
        unified
    }

    /// Tolerance 1e-6 relative: the golden is f64, the storage f32.
    #[test]
    fn golden() {
        let text = include_str!("../../../../testdata/related/emr.json");
        let golden: Golden = serde_json::from_str(text).unwrap();
        let mut sums = vec![Vec::new(); golden.task_vectors.len()];
        for (name, wanted) in &golden.unified {
            let taus: Vec<&[f32]> = golden.task_vectors.iter().map(|t| t[name].as_slice()).collect();
            let unified = unify(&taus);
            assert_eq!(&unified, wanted, "{name}");
            for (t, tau) in taus.iter().enumerate() {
                let mut bits = vec![0xFF; mask_bytes(tau.len())];
                mask(tau, &unified, &mut bits);
                assert_eq!(bits, packed(&golden.masks[t][name]), "{name} {t}");
                sums[t].push(Sums::of(tau, &unified));
                let mut rebuilt = vec![0.0; tau.len()];
                add_task(&mut rebuilt, &unified, &bits, 0, golden.rescaler_paper[t]);
                for (a, b) in rebuilt.iter().zip(&golden.task_vectors_rebuilt_paper[t][name]) {
                    assert!((a - b).abs() <= 1e-6 * b.abs(), "{name} {t}: {a} {b}");
                }
            }
        }
        for (t, sums) in sums.iter().enumerate() {
            let (paper, code) = (golden.rescaler_paper[t], golden.rescaler_code_sum_of_tensor_means[t]);
            assert!((rescaler(sums, Rescaler::Paper) / paper - 1.0).abs() < 1e-6);
            assert!((rescaler(sums, Rescaler::Code) / code - 1.0).abs() < 1e-6);
        }
    }

    #[test]
    fn a_tie_is_negative_and_zero_belongs_to_nobody() {
        assert_eq!(unify(&[&[0.5, 0.0, 1.0], &[-0.5, 0.0, -3.0]]), [-0.5, 0.0, -3.0]);
        let mut bits = [0xFF];
        mask(&[0.5, 0.0, 0.0], &[-0.5, 0.0, -3.0], &mut bits);
        assert_eq!(bits, [0]);
        assert_eq!(rescaler(&[Sums::of(&[0.5, 0.0], &[-0.5, 0.0])], Rescaler::Paper), 0.0);
        assert_eq!(rescaler(&[], Rescaler::Code), 0.0);
    }

    /// Products of tiny values would underflow and sums of huge ones overflow in f32.
    #[test]
    fn extreme_values() {
        assert_eq!(unify(&[&[f32::MAX, 1e-45], &[f32::MAX, 2e-45]]), [f32::MAX, 2e-45]);
        let mut bits = [0];
        mask(&[1e-45], &[2e-45], &mut bits);
        assert_eq!(bits, [1]);
    }

    proptest! {
        /// One task is its own merge; chunks (multiples of 8) change nothing; λ keeps the L1 norm.
        #[test]
        fn contract(
            taus in proptest::collection::vec(proptest::collection::vec(-1.0f32..1.0, 41), 1..5),
            cut in 0usize..6,
        ) {
            let slices: Vec<&[f32]> = taus.iter().map(Vec::as_slice).collect();
            let (unified, cut) = (unify(&slices), cut * 8);
            let parts: Vec<Vec<f32>> = [0..cut, cut..41]
                .map(|range| unify(&slices.iter().map(|s| &s[range.clone()]).collect::<Vec<_>>())).into();
            prop_assert_eq!(&parts.concat(), &unified);
            for tau in &taus {
                let (mut whole, mut halves) = (vec![0; mask_bytes(41)], vec![0; mask_bytes(41)]);
                mask(tau, &unified, &mut whole);
                mask(&tau[..cut], &unified[..cut], &mut halves[..cut / 8]);
                mask(&tau[cut..], &unified[cut..], &mut halves[cut / 8..]);
                prop_assert_eq!(&whole, &halves);
                let mut sums = Sums::of(&tau[..cut], &unified[..cut]);
                sums += Sums::of(&tau[cut..], &unified[cut..]);
                let lambda = rescaler(&[sums], Rescaler::Paper);
                let mut rebuilt = vec![0.0; 41];
                add_task(&mut rebuilt, &unified, &whole, 0, lambda);
                if sums.kept > 0.0 {
                    let l1: f64 = rebuilt.iter().map(|x| f64::from(x.abs())).sum();
                    prop_assert!((l1 / sums.delta - 1.0).abs() < 1e-5);
                }
                if taus.len() == 1 {
                    prop_assert_eq!(&rebuilt, tau);
                }
            }
        }
    }
}
