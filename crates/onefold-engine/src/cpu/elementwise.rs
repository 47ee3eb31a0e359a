//! Small operators between the large ones: sums, copies of rows and columns, bias rows, the soft cap.
//!
//! Everything is bound by memory; where an operator can be part of a neighbour (a product that adds to its destination, a
//! norm that adds its input) that is better.

use multiversion::multiversion;
use rayon::prelude::*;

use super::{math, parallel};
use crate::{Buffer, Write};

/// y += x.
///
/// # Panics
/// If the lengths differ.
pub fn add(y: &mut Buffer, x: &Buffer) {
    assert_eq!(y.len(), x.len(), "lengths of a sum");
    let x = x.host();
    parallel::for_rows(y.host_mut(), 1, |start, y| {
        y.iter_mut().zip(&x[start..]).for_each(|(y, x)| *y += x);
    });
}

/// y = a + b.
///
/// # Panics
/// If the lengths differ.
pub fn sum(y: &mut Buffer, a: &Buffer, b: &Buffer) {
    assert!(y.len() == a.len() && y.len() == b.len(), "lengths of a sum");
    let (a, b) = (a.host(), b.host());
    parallel::for_rows(y.host_mut(), 1, |start, y| {
        y.iter_mut().zip(&a[start..]).zip(&b[start..]).for_each(|((y, a), b)| *y = a + b);
    });
}

/// y = factor · x, or y += factor · x.
///
/// # Panics
/// If the lengths differ.
pub fn add_scaled(y: &mut Buffer, write: Write, x: &Buffer, factor: f32) {
    assert_eq!(y.len(), x.len(), "lengths of a sum");
    let x = x.host();
    parallel::for_rows(y.host_mut(), 1, |start, y| {
        let pairs = y.iter_mut().zip(&x[start..]);
        match write {
            Write::Set => pairs.for_each(|(y, x)| *y = factor * x),
            Write::Add => pairs.for_each(|(y, x)| *y += factor * x),
        }
    });
}

/// y = factor · x², or y += factor · x², element by element.
///
/// # Panics
/// If the lengths differ.
pub fn add_square(y: &mut Buffer, write: Write, x: &Buffer, factor: f32) {
    assert_eq!(y.len(), x.len(), "lengths of a sum");
    let x = x.host();
    parallel::for_rows(y.host_mut(), 1, |start, y| {
        let pairs = y.iter_mut().zip(&x[start..]);
        match write {
            Write::Set => pairs.for_each(|(y, x)| *y = factor * (x * x)),
            Write::Add => pairs.for_each(|(y, x)| *y += factor * (x * x)),
        }
    });
}

/// y = factor · y.
pub fn scale(y: &mut Buffer, factor: f32) {
    parallel::for_rows(y.host_mut(), 1, |_, y| y.iter_mut().for_each(|y| *y *= factor));
}

/// y = value.
pub fn fill(y: &mut Buffer, value: f32) {
    parallel::for_rows(y.host_mut(), 1, |_, y| y.fill(value));
}

/// y = x.
///
/// # Panics
/// If the lengths differ.
pub fn copy(y: &mut Buffer, x: &Buffer) {
    assert_eq!(y.len(), x.len(), "lengths of a copy");
    let x = x.host();
    parallel::for_rows(y.host_mut(), 1, |start, y| {
        let len = y.len();
        y.copy_from_slice(&x[start..start + len]);
    });
}

/// Row i of y = row `rows[i]` of x, of `width`.
///
/// # Panics
/// If the shapes do not fit or a row does not exist.
pub fn gather_rows(y: &mut Buffer, x: &Buffer, width: usize, rows: &[u32]) {
    check_rows(x, width, rows);
    assert_eq!(y.len(), rows.len() * width, "gathered rows");
    let x = x.host();
    parallel::for_rows(y.host_mut(), width, |first, y| {
        for (y, row) in y.chunks_exact_mut(width).zip(&rows[first..]) {
            y.copy_from_slice(&x[*row as usize * width..][..width]);
        }
    });
}

/// The backward pass of [`gather_rows`]: dx becomes 0, or stays, and gets row i of dy added at `rows[i]`.
///
/// # Panics
/// If the shapes do not fit or a row does not exist.
pub fn scatter_rows(dx: &mut Buffer, write: Write, dy: &Buffer, width: usize, rows: &[u32]) {
    check_rows(dx, width, rows);
    assert_eq!(dy.len(), rows.len() * width, "scattered rows");
    if write == Write::Set {
        fill(dx, 0.0);
    }
    let dx = dx.host_mut();
    for (dy, row) in dy.host().chunks_exact(width).zip(rows) {
        dx[*row as usize * width..][..width].iter_mut().zip(dy).for_each(|(dx, dy)| *dx += dy);
    }
}

fn check_rows(x: &Buffer, width: usize, rows: &[u32]) {
    assert!(width > 0 && x.len().is_multiple_of(width), "{} values in rows of {width}", x.len());
    assert!(rows.iter().all(|row| (*row as usize) < x.len() / width), "a row of {}", x.len() / width);
}

/// y += bias, in every row.
///
/// # Panics
/// If y is not of whole rows.
pub fn add_bias(y: &mut Buffer, bias: &Buffer) {
    let bias = bias.host();
    assert!(!bias.is_empty() && y.len().is_multiple_of(bias.len()), "rows of a bias of {}", bias.len());
    parallel::for_rows(y.host_mut(), bias.len(), |_, y| {
        for y in y.chunks_exact_mut(bias.len()) {
            y.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
        }
    });
}

/// The backward pass of [`add_bias`]: the sum of the rows of dy, in their order.
///
/// # Panics
/// If dy is not of whole rows.
pub fn bias_gradient(bias: &mut Buffer, write: Write, dy: &Buffer) {
    let width = bias.len();
    assert!(width > 0 && dy.len().is_multiple_of(width), "rows of a bias of {width}");
    let dy = dy.host();
    // Split by columns: no partial sums to store, and one order whatever the threads.
    bias.host_mut().par_chunks_mut(COLUMNS).enumerate().for_each(|(part, bias)| {
        if write == Write::Set {
            bias.fill(0.0);
        }
        for dy in dy.chunks_exact(width) {
            bias.iter_mut().zip(&dy[part * COLUMNS..]).for_each(|(b, dy)| *b += dy);
        }
    });
}

/// Columns of one task.
const COLUMNS: usize = 256;

/// x = cap · tanh(x / cap).
///
/// # Panics
/// If the cap is not positive.
pub fn soft_cap(x: &mut Buffer, cap: f32) {
    assert!(cap > 0.0, "a cap of {cap}");
    parallel::for_rows(x.host_mut(), 1, |_, x| soft_cap_of(x, cap));
}

/// The backward pass of [`soft_cap`], from the capped values y: dx = dy · (1 − (y/cap)²), in the place of dy.
///
/// # Panics
/// If the lengths differ or the cap is not positive.
pub fn soft_cap_backward(dy: &mut Buffer, y: &Buffer, cap: f32) {
    assert!(cap > 0.0, "a cap of {cap}");
    assert_eq!(dy.len(), y.len(), "lengths of a cap");
    let (y, inverse) = (y.host(), 1.0 / cap);
    parallel::for_rows(dy.host_mut(), 1, |start, dy| {
        for (dy, y) in dy.iter_mut().zip(&y[start..]) {
            let t = y * inverse;
            *dy *= (1.0 - t) * (1.0 + t);
        }
    });
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn soft_cap_of(x: &mut [f32], cap: f32) {
    let inverse = 1.0 / cap;
    x.iter_mut().for_each(|x| *x = cap * math::tanh(*x * inverse));
}

/// Row `rows[i]` of `y`, of `width`, becomes the elements from `offset` on of row i of `x`, of `stride`: how keys and values
/// enter a cache. Other rows of `y` stay.
///
/// # Panics
/// If the shapes do not fit or a row does not exist.
pub fn place_rows(y: &mut Buffer, width: usize, rows: &[u32], x: &Buffer, (offset, stride): (usize, usize)) {
    check_rows(y, width, rows);
    assert!(offset + width <= stride, "{width} elements from {offset} on of rows of {stride}");
    assert_eq!(x.len(), rows.len() * stride, "rows to be placed");
    let y = y.host_mut();
    for (x, row) in x.host().chunks_exact(stride).zip(rows) {
        y[*row as usize * width..][..width].copy_from_slice(&x[offset..offset + width]);
    }
}

/// Copies `part`, `[rows, its width]`, into the columns from `first` on of `whole`, `[rows, width]`: the concatenation of
/// columns, and the backward pass of [`split_columns`].
///
/// # Panics
/// If the shapes do not fit.
pub fn join_columns(whole: &mut Buffer, width: usize, first: usize, part: &Buffer, part_width: usize) {
    check_columns(whole, width, first, part, part_width);
    let part = part.host();
    parallel::for_rows(whole.host_mut(), width, |row, whole| {
        for (whole, part) in
            whole.chunks_exact_mut(width).zip(part[row * part_width..].chunks_exact(part_width))
        {
            whole[first..first + part_width].copy_from_slice(part);
        }
    });
}

/// Copies the columns from `first` on of `whole`, `[rows, width]`, into `part`, `[rows, its width]`.
///
/// # Panics
/// If the shapes do not fit.
pub fn split_columns(part: &mut Buffer, part_width: usize, whole: &Buffer, width: usize, first: usize) {
    check_columns(whole, width, first, part, part_width);
    let whole = whole.host();
    parallel::for_rows(part.host_mut(), part_width, |row, part| {
        for (part, whole) in part.chunks_exact_mut(part_width).zip(whole[row * width..].chunks_exact(width)) {
            part.copy_from_slice(&whole[first..first + part_width]);
        }
    });
}

fn check_columns(whole: &Buffer, width: usize, first: usize, part: &Buffer, part_width: usize) {
    assert!(part_width > 0 && first + part_width <= width, "columns {first} + {part_width} of {width}");
    assert!(whole.len().is_multiple_of(width), "{} values in rows of {width}", whole.len());
    assert_eq!(part.len(), whole.len() / width * part_width, "length of a part");
}

/// y = the columns `columns` of x, `[rows, width]`. y gets its length.
///
/// # Panics
/// If x is not of whole rows or a column does not exist.
pub fn gather_columns(y: &mut Buffer, x: &Buffer, width: usize, columns: &[u32]) {
    check_column_numbers(x, width, columns);
    y.resize(x.len() / width * columns.len());
    let rows = y.host_mut().chunks_exact_mut(columns.len()).zip(x.host().chunks_exact(width));
    rows.for_each(|(y, x)| y.iter_mut().zip(columns).for_each(|(y, column)| *y = x[*column as usize]));
}

/// The backward pass of [`gather_columns`]: dx is 0 but for `columns`, which get dy; a column that is named twice gets both.
///
/// # Panics
/// If the shapes do not fit or a column does not exist.
pub fn scatter_columns(dx: &mut Buffer, dy: &Buffer, width: usize, columns: &[u32]) {
    check_column_numbers(dx, width, columns);
    assert_eq!(dy.len(), dx.len() / width * columns.len(), "scattered columns");
    fill(dx, 0.0);
    let rows = dx.host_mut().chunks_exact_mut(width).zip(dy.host().chunks_exact(columns.len()));
    rows.for_each(|(dx, dy)| dy.iter().zip(columns).for_each(|(dy, column)| dx[*column as usize] += dy));
}

fn check_column_numbers(x: &Buffer, width: usize, columns: &[u32]) {
    assert!(width > 0 && x.len().is_multiple_of(width), "{} values in rows of {width}", x.len());
    assert!(!columns.is_empty() && columns.iter().all(|c| (*c as usize) < width), "columns of {width}");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::probe::{check_gradient, on_pools, wave};
    use super::*;

    #[test]
    fn placed_rows_replace_and_leave_the_others() {
        let x = Buffer::from((0..8).map(|v| v as f32).collect::<Vec<_>>());
        let mut y = Buffer::from(vec![-1.0; 6]);
        place_rows(&mut y, 2, &[2, 0], &x, (1, 4));
        assert_eq!(y.to_vec(), [5.0, 6.0, -1.0, -1.0, 1.0, 2.0]);
    }

    #[test]
    #[should_panic(expected = "a row of 3")]
    fn placed_rows_have_to_exist() {
        place_rows(&mut Buffer::zeros(6), 2, &[3], &Buffer::zeros(2), (0, 2));
    }

    #[test]
    fn sums_and_copies() {
        let (a, b) = (wave(40_000, 0.7), wave(40_000, 1.3));
        on_pools(|| {
            let mut y = Buffer::zeros(a.len());
            sum(&mut y, &a.clone().into(), &b.clone().into());
            add(&mut y, &a.clone().into());
            scale(&mut y, 0.5);
            let found = y.to_vec();
            assert!((0..a.len()).all(|i| found[i] == 0.5 * (a[i] + b[i] + a[i])));
            copy(&mut y, &b.clone().into());
            assert_eq!(y.to_vec(), b);
            fill(&mut y, 2.0);
            assert!(y.to_vec().iter().all(|v| *v == 2.0));
            found
        });
    }

    #[test]
    fn squares_are_added() {
        let x = wave(40_000, 0.7);
        on_pools(|| {
            let mut y = Buffer::from(vec![9.0; x.len()]);
            add_square(&mut y, Write::Set, &x.clone().into(), 0.5);
            add_square(&mut y, Write::Add, &x.clone().into(), 2.0);
            let found = y.to_vec();
            let close = |(y, x): (&f32, &f32)| (f64::from(*y) - 2.5 * f64::from(*x).powi(2)).abs() < 1e-6;
            assert!(found.iter().zip(&x).all(close));
            found
        });
    }

    #[test]
    fn rows_and_columns_come_and_go() {
        let x = Buffer::from(vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let mut y = Buffer::zeros(6);
        gather_rows(&mut y, &x, 2, &[2, 0, 2]);
        assert_eq!(y.to_vec(), [5.0, 6.0, 1.0, 2.0, 5.0, 6.0]);
        let mut dx = x.clone();
        scatter_rows(&mut dx, Write::Add, &y, 2, &[2, 0, 2]);
        assert_eq!(dx.to_vec(), [2.0, 4.0, 3.0, 4.0, 15.0, 18.0]);
        scatter_rows(&mut dx, Write::Set, &y, 2, &[2, 0, 2]);
        assert_eq!(dx.to_vec(), [1.0, 2.0, 0.0, 0.0, 10.0, 12.0]);
        gather_columns(&mut y, &x, 3, &[2, 0]);
        assert_eq!(y.to_vec(), [3.0, 1.0, 6.0, 4.0]);
        scatter_columns(&mut dx, &y, 3, &[2, 2]);
        assert_eq!(dx.to_vec(), [0.0, 0.0, 4.0, 0.0, 0.0, 10.0]);
    }

    #[test]
    #[should_panic(expected = "a row of 3")]
    fn a_row_beyond_the_end_is_refused() {
        gather_rows(&mut Buffer::zeros(2), &Buffer::zeros(6), 2, &[3]);
    }

    #[test]
    #[should_panic(expected = "columns 2 + 2 of 3")]
    fn columns_beyond_the_end_are_refused() {
        split_columns(&mut Buffer::zeros(4), 2, &Buffer::zeros(6), 3, 2);
    }

    #[test]
    fn the_cap_has_its_gradient() {
        check_gradient(&wave(70, 1.7), 1e-2, |x| {
            let (c, mut y) = (wave(x.len(), 0.3), Buffer::from(x.to_vec()));
            soft_cap(&mut y, 1.5);
            let value = y.host().iter().zip(&c).map(|(y, c)| f64::from(*y) * f64::from(*c)).sum();
            let mut dy = Buffer::from(c);
            soft_cap_backward(&mut dy, &y, 1.5);
            (value, dy.to_vec())
        });
        let mut y = Buffer::from(vec![1e4, -1e4]);
        soft_cap(&mut y, 30.0);
        assert_eq!(y.to_vec(), [30.0, -30.0]);
    }

    proptest! {
        #[test]
        fn a_bias_and_its_gradient(rows in 0usize..9, width in 1usize..70) {
            let (x, bias) = (wave(rows * width, 0.7), wave(width, 1.9));
            let mut y = Buffer::from(x.clone());
            add_bias(&mut y, &bias.clone().into());
            for (i, y) in y.host().iter().enumerate() {
                prop_assert_eq!(*y, x[i] + bias[i % width]);
            }
            for write in [Write::Set, Write::Add] {
                let mut found = Buffer::from(bias.clone());
                bias_gradient(&mut found, write, &x.clone().into());
                for column in 0..width {
                    let before = if write == Write::Add { f64::from(bias[column]) } else { 0.0 };
                    let exact = before + (0..rows).map(|r| f64::from(x[r * width + column])).sum::<f64>();
                    prop_assert!((f64::from(found.host()[column]) - exact).abs() < 1e-5);
                }
            }
        }

        #[test]
        fn columns_joined_are_split(rows in 0usize..9, a in 1usize..20, b in 1usize..20) {
            let (left, right) = (Buffer::from(wave(rows * a, 0.7)), Buffer::from(wave(rows * b, 1.1)));
            let mut whole = Buffer::zeros(rows * (a + b));
            join_columns(&mut whole, a + b, 0, &left, a);
            join_columns(&mut whole, a + b, a, &right, b);
            let (mut l, mut r) = (Buffer::zeros(rows * a), Buffer::zeros(rows * b));
            split_columns(&mut l, a, &whole, a + b, 0);
            split_columns(&mut r, b, &whole, a + b, a);
            prop_assert!(l == left && r == right);
        }
    }
}
