//! Counting where task vectors pull in opposite directions.

use multiversion::multiversion;
use onefold_runtime::Aligned;

/// Numbers of positions at which at least two vectors are not zero, and of those at which their signs differ.
pub fn count(vectors: &[Aligned]) -> (u64, u64) {
    let n = vectors.first().map_or(0, |v| v.len());
    let mut totals = (0, 0);
    let (mut plus, mut minus) = ([0u8; CHUNK], [0u8; CHUNK]);
    for start in (0..n).step_by(CHUNK) {
        let len = CHUNK.min(n - start);
        plus[..len].fill(0);
        minus[..len].fill(0);
        for vector in vectors {
            tally(&vector[start..start + len], &mut plus[..len], &mut minus[..len]);
        }
        let (active, conflicts) = judge(&plus[..len], &minus[..len]);
        totals = (totals.0 + u64::from(active), totals.1 + u64::from(conflicts));
    }
    totals
}

const CHUNK: usize = 1024;

#[multiversion(targets("x86_64+avx512f+avx512bw", "x86_64+avx2", "aarch64+neon"))]
fn tally(vector: &[f32], plus: &mut [u8], minus: &mut [u8]) {
    for ((v, p), m) in vector.iter().zip(plus).zip(minus) {
        // Saturating: more than 255 models change no answer.
        *p = p.saturating_add(u8::from(*v > 0.0));
        *m = m.saturating_add(u8::from(*v < 0.0));
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw", "x86_64+avx2", "aarch64+neon"))]
fn judge(plus: &[u8], minus: &[u8]) -> (u32, u32) {
    let (mut active, mut conflicts) = (0, 0);
    for (p, m) in plus.iter().zip(minus) {
        active += u32::from(p.saturating_add(*m) >= 2);
        conflicts += u32::from((*p != 0) & (*m != 0));
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
