//! Square matrices of numbers that are known exactly enough: Gramians and tables of inner products.

use super::vector::dot;

/// A square matrix, by rows.
///
/// A *Gramian* is the symmetric one of inner products, `A[i][j] = ⟨gᵢ, gⱼ⟩`; that it is positive semidefinite is not checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    size: usize,
    values: Vec<f64>,
}

impl Matrix {
    /// From `size · size` values by rows; nothing if that is not their number.
    pub fn new(size: usize, values: Vec<f64>) -> Option<Self> {
        (size.checked_mul(size) == Some(values.len())).then_some(Self { size, values })
    }

    /// From a function of row and column.
    pub fn of(size: usize, value: impl Fn(usize, usize) -> f64) -> Self {
        let values = (0..size * size).map(|at| value(at / size, at % size)).collect();
        Self { size, values }
    }

    /// The Gramian of vectors of the same length. For tests and small examples; a trainer takes inner products in blocks.
    pub fn gramian(vectors: &[Vec<f64>]) -> Self {
        Self::of(vectors.len(), |i, j| dot(&vectors[i], &vectors[j]))
    }

    /// Number of rows.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The value at a row and a column.
    pub fn at(&self, row: usize, column: usize) -> f64 {
        self.values[row * self.size + column]
    }

    /// A row.
    pub fn row(&self, row: usize) -> &[f64] {
        &self.values[row * self.size..(row + 1) * self.size]
    }

    /// The diagonal.
    pub fn diagonal(&self) -> Vec<f64> {
        (0..self.size).map(|i| self.at(i, i)).collect()
    }

    /// `Σ A[i][i] / K`; 0 if there are no rows.
    pub fn mean_diagonal(&self) -> f64 {
        self.diagonal().iter().sum::<f64>() / self.size.max(1) as f64
    }

    /// `A x`.
    pub fn times(&self, x: &[f64]) -> Vec<f64> {
        (0..self.size).map(|i| dot(self.row(i), x)).collect()
    }

    /// `√(xᵀ A x)`: the length of `Σ xᵢ gᵢ` if this is a Gramian.
    pub fn length(&self, x: &[f64]) -> f64 {
        dot(x, &self.times(x)).max(0.0).sqrt()
    }

    /// The rows and columns of these numbers.
    pub fn select(&self, rows: &[usize]) -> Self {
        Self::of(rows.len(), |i, j| self.at(rows[i], rows[j]))
    }

    /// Row and column of the first value that is NaN or infinite.
    pub fn non_finite(&self) -> Option<(usize, usize)> {
        self.values.iter().position(|v| !v.is_finite()).map(|at| (at / self.size, at % self.size))
    }

    /// With something added to the diagonal.
    pub fn ridged(&self, ridge: f64) -> Self {
        Self::of(self.size, |i, j| self.at(i, j) + if i == j { ridge } else { 0.0 })
    }

    /// Of a Gramian: lengths s of the vectors, and the Gramian of gᵢ/sᵢ (cosines). All diagonal entries must be positive.
    ///
    /// Solvers work on cosines, because tasks whose gradients differ by orders of magnitude would cost them their digits.
    pub fn cosines(&self) -> (Vec<f64>, Self) {
        let lengths: Vec<f64> = self.diagonal().iter().map(|d| d.sqrt()).collect();
        let cosine = |i: usize, j: usize| {
            if i == j { 1.0 } else { (self.at(i, j) / lengths[i] / lengths[j]).clamp(-1.0, 1.0) }
        };
        let cosines = Self::of(self.size, cosine);
        (lengths, cosines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_checked() {
        assert!(Matrix::new(2, vec![0.0; 3]).is_none());
        assert!(Matrix::new(usize::MAX, vec![]).is_none());
        let empty = Matrix::new(0, vec![]).unwrap();
        assert_eq!((empty.mean_diagonal(), empty.length(&[]), empty.non_finite()), (0.0, 0.0, None));
    }

    #[test]
    fn cosines_of_very_different_lengths() {
        let vectors = [vec![1e-9, 0.0], vec![1e9, 1e9]];
        let (lengths, cosines) = Matrix::gramian(&vectors).cosines();
        assert!((lengths[0] - 1e-9).abs() < 1e-24);
        assert!((cosines.at(0, 1) - 0.5f64.sqrt()).abs() < 1e-15);
    }
}
