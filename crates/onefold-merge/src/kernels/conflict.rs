//! Counting where task vectors pull in opposite directions.

use multiversion::multiversion;
use onefold_runtime::Aligned;

/// Numbers of positions at which at least two vectors are not zero, and of those at which their signs differ.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
pub fn count(vectors: &[Aligned]) -> (u64, u64) {
    let n = vectors.first().map_or(0, |v| v.len());
    let mut totals = (0, 0);
    let mut add = |(active, conflicts): (u32, u32)| {
        totals = (totals.0 + u64::from(active), totals.1 + u64::from(conflicts));
    };
    let whole = n / AT_ONCE * AT_ONCE;
    (0..whole).step_by(AT_ONCE).for_each(|at| add(judge::<AT_ONCE>(vectors, at)));
    (whole..n).for_each(|at| add(judge::<1>(vectors, at)));
    totals
}

/// Positions whose extremes stay in registers while the vectors go by.
const AT_ONCE: usize = 64;

#[inline(always)]
fn judge<const N: usize>(vectors: &[Aligned], at: usize) -> (u32, u32) {
    let (mut highest, mut lowest, mut changes) = ([0.0f32; N], [0.0f32; N], [0u32; N]);
    for vector in vectors {
        let x: &[f32; N] = vector[at..].first_chunk().expect("vectors are equally long");
        for lane in 0..N {
            highest[lane] = if x[lane] > highest[lane] { x[lane] } else { highest[lane] };
            lowest[lane] = if x[lane] < lowest[lane] { x[lane] } else { lowest[lane] };
            changes[lane] += u32::from(x[lane] != 0.0);
        }
    }
    let (mut active, mut conflicts) = (0, 0);
    for lane in 0..N {
        active += u32::from(changes[lane] >= 2);
        conflicts += u32::from((highest[lane] > 0.0) & (lowest[lane] < 0.0));
    }
    (active, conflicts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_take_no_side() {
        let of = |rows: &[Vec<f32>]| count(&rows.iter().map(|r| Aligned::from(&r[..])).collect::<Vec<_>>());
        let a = [vec![1.0, 0.0, -1.0, 2.0, 0.0], vec![1.0, 5.0, 1.0, 0.0, -0.0]];
        assert_eq!(of(&a), (2, 1));
        let long = [vec![1.0; 3000], vec![-1.0; 3000], vec![0.0; 3000]];
        assert_eq!(of(&long), (3000, 3000));
        assert_eq!(of(&[]), (0, 0));
    }
}
