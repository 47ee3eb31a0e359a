//! One vector per sequence from its tokens, and vectors of length 1.

use rayon::prelude::*;

use super::{elementwise, math};
use crate::{Buffer, Write};

/// Which tokens speak for their sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The first token (BERT's and ViT's class token), masked or not.
    First,
    /// The last token that counts.
    Last,
    /// The mean of those that count.
    Mean,
    /// The maximum of those that count, column by column; of equal ones the first gets the gradient.
    Max,
}

/// Where sequences lie among the rows.
#[derive(Debug, Clone, Copy)]
pub struct Sequences<'a> {
    /// Sequence i is rows `bounds[i]..bounds[i + 1]`: equal steps for padded batches, any for packed ones.
    pub bounds: &'a [usize],
    /// Which rows count; all if absent.
    pub mask: Option<&'a [bool]>,
    /// Length of a row.
    pub width: usize,
}

impl Sequences<'_> {
    fn check(&self, rows: usize, pooled: usize) {
        assert!(self.width > 0 && !self.bounds.is_empty(), "bounds of sequences of rows of {}", self.width);
        assert!(self.bounds.is_sorted() && self.bounds[0] == 0, "bounds of sequences ascend from 0");
        let end = self.bounds[self.bounds.len() - 1];
        assert_eq!(rows, end * self.width, "length of the rows");
        assert_eq!(pooled, (self.bounds.len() - 1) * self.width, "length of the pooled rows");
        assert!(self.mask.is_none_or(|mask| mask.len() == end), "length of the mask");
    }

    /// The rows of a sequence that speak for it.
    fn rows(&self, pooling: Pooling, sequence: usize) -> impl Iterator<Item = usize> + Clone {
        let all = self.bounds[sequence]..self.bounds[sequence + 1];
        let counts = |row: &usize| self.mask.is_none_or(|mask| mask[*row]);
        let one = match pooling {
            Pooling::First => Some(all.clone().next()),
            Pooling::Last => Some(all.clone().rfind(counts)),
            Pooling::Mean | Pooling::Max => None,
        };
        let range = match one {
            None => all,
            Some(Some(row)) => row..row + 1,
            Some(None) => 0..0,
        };
        range.filter(move |row| one.is_some() || counts(row))
    }
}

/// y, `[sequences, width]`, from x, `[rows, width]`. A sequence without a row that counts becomes 0.
///
/// # Panics
/// If the shapes do not fit.
pub fn forward(pooling: Pooling, y: &mut Buffer, x: &Buffer, of: &Sequences<'_>) {
    of.check(x.len(), y.len());
    let (x, width) = (x.host(), of.width);
    y.host_mut().par_chunks_exact_mut(width).enumerate().for_each(|(sequence, y)| {
        let rows = of.rows(pooling, sequence);
        let count = rows.clone().count();
        y.fill(if pooling == Pooling::Max && count > 0 { f32::NEG_INFINITY } else { 0.0 });
        for row in rows {
            let x = &x[row * width..][..width];
            if pooling == Pooling::Max {
                y.iter_mut().zip(x).for_each(|(y, x)| *y = if *x > *y || x.is_nan() { *x } else { *y });
            } else {
                y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
            }
        }
        if count > 1 && pooling == Pooling::Mean {
            let share = 1.0 / count as f32;
            y.iter_mut().for_each(|y| *y *= share);
        }
    });
}

/// dx from dy; for [`Pooling::Max`] also from x and y.
///
/// # Panics
/// If the shapes do not fit.
pub fn backward(
    pooling: Pooling,
    dx: &mut Buffer,
    write: Write,
    dy: &Buffer,
    (x, y): (&Buffer, &Buffer),
    of: &Sequences<'_>,
) {
    of.check(dx.len(), dy.len());
    of.check(x.len(), y.len());
    if write == Write::Set {
        elementwise::fill(dx, 0.0);
    }
    let width = of.width;
    let (mut rest, mut parts) = (dx.host_mut(), Vec::with_capacity(of.bounds.len()));
    for pair in of.bounds.windows(2) {
        let (part, tail) = rest.split_at_mut((pair[1] - pair[0]) * width);
        parts.push(part);
        rest = tail;
    }
    let (dy, x, y) = (dy.host(), x.host(), y.host());
    parts.into_par_iter().enumerate().for_each(|(sequence, dx)| {
        let (start, at) = (of.bounds[sequence], sequence * width);
        let (rows, dy, y) = (of.rows(pooling, sequence), &dy[at..][..width], &y[at..][..width]);
        if pooling == Pooling::Max {
            for (column, dy) in dy.iter().enumerate() {
                if let Some(row) = rows.clone().find(|row| x[row * width + column] == y[column]) {
                    dx[(row - start) * width + column] += dy;
                }
            }
            return;
        }
        let share = 1.0 / rows.clone().count().max(1) as f32;
        for row in rows {
            let dx = &mut dx[(row - start) * width..][..width];
            dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx += dy * share);
        }
    });
}

/// Rows of x become rows of length 1, x / max(‖x‖, ε); the divisors are kept in `norms`, `[rows]`.
///
/// # Panics
/// If the shapes do not fit.
pub fn normalise(x: &mut Buffer, width: usize, epsilon: f32, norms: &mut Buffer) {
    assert!(width > 0 && x.len() == norms.len() * width, "rows of {width} to normalise");
    let rows = x.host_mut().par_chunks_exact_mut(width).zip(norms.host_mut().par_iter_mut());
    rows.for_each(|(x, norm)| {
        *norm = math::dot(x, x).sqrt().max(epsilon);
        let inverse = 1.0 / *norm;
        x.iter_mut().for_each(|x| *x *= inverse);
    });
}

/// The backward pass of [`normalise`] in the place of dy, from its results y: dx = (dy − y·⟨y, dy⟩) / norm, and dy / ε where
/// the row was shorter than ε.
///
/// # Panics
/// If the shapes do not fit.
pub fn normalise_backward(dy: &mut Buffer, y: &Buffer, width: usize, epsilon: f32, norms: &Buffer) {
    assert!(
        width > 0 && y.len() == norms.len() * width && dy.len() == y.len(),
        "rows of {width} to normalise"
    );
    let rows = dy.host_mut().par_chunks_exact_mut(width).zip(y.host().par_chunks_exact(width));
    rows.zip(norms.host()).for_each(|((dy, y), norm)| {
        let (inverse, along) = (1.0 / norm, if *norm > epsilon { math::dot(y, dy) } else { 0.0 });
        dy.iter_mut().zip(y).for_each(|(dy, y)| *dy = (*dy - y * along) * inverse);
    });
}

#[cfg(test)]
mod tests {
    use super::super::probe::{check_gradient, on_pools, wave};
    use super::*;

    const ALL: [Pooling; 4] = [Pooling::First, Pooling::Last, Pooling::Mean, Pooling::Max];
    /// Three sequences: with a hole and padding, whole, and without any row that counts.
    const BOUNDS: [usize; 4] = [0, 4, 6, 8];
    const MASK: [bool; 8] = [true, false, true, false, true, true, false, false];

    fn pooled(pooling: Pooling, x: &[f32], width: usize) -> Vec<f32> {
        let mut y = Buffer::zeros(3 * width);
        let of = Sequences { bounds: &BOUNDS, mask: Some(&MASK), width };
        forward(pooling, &mut y, &x.to_vec().into(), &of);
        y.to_vec()
    }

    #[test]
    fn pooling_follows_its_definition() {
        for width in [1, 7, 40] {
            let x = wave(8 * width, 0.7);
            for i in 0..width {
                let at = |row: usize| x[row * width + i];
                let column = |p| -> Vec<f32> { pooled(p, &x, width).chunks(width).map(|y| y[i]).collect() };
                assert_eq!(column(Pooling::First), [at(0), at(4), at(6)]);
                assert_eq!(column(Pooling::Last), [at(2), at(5), 0.0]);
                assert_eq!(column(Pooling::Mean), [(at(0) + at(2)) * 0.5, (at(4) + at(5)) * 0.5, 0.0]);
                assert_eq!(column(Pooling::Max), [at(0).max(at(2)), at(4).max(at(5)), 0.0]);
            }
        }
    }

    fn gradient(pooling: Pooling, write: Write, x: &[f32], width: usize, c: &[f32]) -> Vec<f32> {
        let of = Sequences { bounds: &BOUNDS, mask: Some(&MASK), width };
        let (mut dx, x, y) =
            (Buffer::from(vec![1.0; x.len()]), Buffer::from(x.to_vec()), pooled(pooling, x, width));
        backward(pooling, &mut dx, write, &c.to_vec().into(), (&x, &y.into()), &of);
        dx.to_vec()
    }

    #[test]
    fn pooling_has_its_gradient() {
        let width = 9;
        let c = wave(3 * width, 0.31);
        for pooling in ALL {
            check_gradient(&wave(8 * width, 0.7), 1e-3, |x| {
                let y = pooled(pooling, x, width);
                let value = y.iter().zip(&c).map(|(y, c)| f64::from(*y) * f64::from(*c)).sum();
                (value, gradient(pooling, Write::Set, x, width, &c))
            });
            let x = wave(8 * width, 0.7);
            let (set, add) =
                (gradient(pooling, Write::Set, &x, width, &c), gradient(pooling, Write::Add, &x, width, &c));
            assert!(set.iter().zip(&add).all(|(s, a)| (s + 1.0 - a).abs() < 1e-6));
            on_pools(|| gradient(pooling, Write::Set, &x, width, &c));
        }
    }

    #[test]
    #[should_panic(expected = "length of the rows")]
    fn rows_that_do_not_fit_are_refused() {
        let of = Sequences { bounds: &[0, 3], mask: None, width: 2 };
        forward(Pooling::Mean, &mut Buffer::zeros(2), &Buffer::zeros(4), &of);
    }

    #[test]
    fn normalised_rows_have_their_gradient() {
        let width = 7;
        let c = wave(5 * width, 0.31);
        let run = |x: &[f32], epsilon: f32| {
            let (mut y, mut norms) = (Buffer::from(x.to_vec()), Buffer::zeros(x.len() / width));
            normalise(&mut y, width, epsilon, &mut norms);
            let mut dx = Buffer::from(c[..x.len()].to_vec());
            normalise_backward(&mut dx, &y, width, epsilon, &norms);
            (y.to_vec(), dx.to_vec())
        };
        let x = wave(5 * width, 0.7);
        for row in run(&x, 1e-12).0.chunks(width) {
            assert!((row.iter().map(|v| f64::from(v * v)).sum::<f64>() - 1.0).abs() < 1e-6);
        }
        for epsilon in [1e-12, 100.0] {
            check_gradient(&x, 1e-3, |x| {
                let (y, dx) = run(x, epsilon);
                (y.iter().zip(&c).map(|(y, c)| f64::from(*y) * f64::from(*c)).sum(), dx)
            });
        }
        let (y, dx) = run(&[0.0; 7], 1e-12);
        assert!(y.iter().all(|v| *v == 0.0) && dx.iter().all(|v| v.is_finite()));
    }
}
