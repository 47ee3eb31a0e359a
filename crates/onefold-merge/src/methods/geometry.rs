//! Methods whose result lies in the span of their inputs: one pass takes the Gramian (all inner products, f64), the
//! method's whole iteration runs on that small matrix, one pass combines. Slerp, nuslerp, multislerp, Karcher mean and
//! Model Stock differ only in how they turn a Gramian into coefficients.

use std::fmt::Debug;
use std::sync::Arc;

use super::{Combination, Kernel, ModelSurvey, Rule, Scratch, combine};
use crate::MergeError;
use crate::kernels::reduce::{gramian, packed_index, packed_len, sum_in_order};
use crate::scan::{Grain, Scan, View};

/// Inner products of the operands of one vector.
#[derive(Debug, Clone)]
pub struct Gramian {
    k: usize,
    packed: Vec<f64>,
}

impl Gramian {
    /// From the packed upper triangle of a k×k matrix.
    pub fn new(k: usize, packed: Vec<f64>) -> Self {
        debug_assert_eq!(packed.len(), packed_len(k));
        Self { k, packed }
    }

    /// The Gramian of some vectors.
    pub fn of<V: AsRef<[f32]>>(vectors: &[V]) -> Self {
        let mut packed = vec![0.0; packed_len(vectors.len())];
        gramian(vectors, &mut packed);
        Self { k: vectors.len(), packed }
    }

    /// Number of vectors.
    pub fn k(&self) -> usize {
        self.k
    }

    /// `⟨xᵢ, xⱼ⟩`.
    pub fn dot(&self, i: usize, j: usize) -> f64 {
        self.packed[packed_index(self.k, i.min(j), i.max(j))]
    }

    /// `‖xᵢ‖`.
    pub fn norm(&self, i: usize) -> f64 {
        self.dot(i, i).max(0.0).sqrt()
    }

    /// `⟨Σ aᵢ xᵢ, Σ bⱼ xⱼ⟩`.
    pub fn product(&self, a: &[f64], b: &[f64]) -> f64 {
        (0..self.k).map(|i| a[i] * (0..self.k).map(|j| self.dot(i, j) * b[j]).sum::<f64>()).sum()
    }
}

/// Turns the inner products of k vectors into the coefficients of their merge.
pub trait Geometry: Send + Sync + Debug {
    /// One coefficient per vector.
    ///
    /// # Errors
    /// If the merge is undefined for such vectors; the sentence says why.
    fn coefficients(&self, gramian: &Gramian) -> Result<Vec<f64>, String>;
}

/// Which vectors a geometry sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The whole tensor as one vector.
    Tensor,
    /// Each vector along the last dimension.
    Rows,
    /// Each vector along the first dimension.
    Columns,
}

/// A geometry applied to each vector of a tensor.
#[derive(Debug)]
pub struct Geometric {
    /// From inner products to coefficients.
    pub geometry: Arc<dyn Geometry>,
    /// What is a vector.
    pub scope: Scope,
}

impl Rule for Geometric {
    fn prepare(&self, scan: &Scan, _: &ModelSurvey) -> Result<Box<dyn Kernel>, MergeError> {
        let undefined = |message| MergeError::Undefined { tensor: scan.name.clone(), message };
        match self.scope {
            Scope::Tensor => {
                let gramian = tensor_gramian(scan)?;
                Ok(Combination::kernel(self.geometry.coefficients(&gramian).map_err(undefined)?))
            }
            // A vector has one row: itself; so has the tensor of one dimension along its first. An empty one has none.
            Scope::Columns if scan.shape.len() > 1 && !scan.is_empty() => {
                let coefficients =
                    column_coefficients(scan, &*self.geometry).map_err(|e| e.unwrap_or_else(undefined))?;
                Ok(Box::new(PerColumn { coefficients, columns: scan.len() / scan.shape[0] }))
            }
            Scope::Rows | Scope::Columns => {
                // Undefined rows must be known before anything is written.
                let sums = |view: &View<'_>| row_sums(view, scan.width(), &*self.geometry);
                let parts: Result<Vec<_>, String> =
                    scan.map(Grain::Rows(scan.width()), sums)?.into_iter().collect();
                let sums = parts.map_err(undefined)?.into_iter().flatten().reduce(widened);
                Ok(Box::new(PerRow { geometry: self.geometry.clone(), width: scan.width(), sums }))
            }
        }
    }
}

/// The Gramian of whole tensors.
pub fn tensor_gramian(scan: &Scan) -> Result<Gramian, MergeError> {
    let k = scan.k();
    let parts = scan.map(Grain::Element, |view| {
        let mut packed = vec![0.0; packed_len(k)];
        gramian(view.vectors, &mut packed);
        packed
    })?;
    Ok(Gramian::new(k, sum_in_order(parts, packed_len(k))))
}

fn rows<'v>(view: &'v View<'_>, width: usize) -> impl Iterator<Item = Vec<&'v [f32]>> {
    let starts = (0..view.len()).step_by(width);
    starts.map(move |start| view.vectors.iter().map(|v| &v[start..start + width]).collect())
}

/// The smallest and the greatest sum of a row's coefficients in a block; none without rows.
fn row_sums(view: &View<'_>, width: usize, geometry: &dyn Geometry) -> Result<Option<[f64; 2]>, String> {
    let mut found: Option<[f64; 2]> = None;
    for row in rows(view, width) {
        let sum: f64 = geometry.coefficients(&Gramian::of(&row))?.iter().sum();
        found = Some(widened(found.unwrap_or([sum; 2]), [sum; 2]));
    }
    Ok(found)
}

/// The range around two.
fn widened(a: [f64; 2], b: [f64; 2]) -> [f64; 2] {
    [a[0].min(b[0]), a[1].max(b[1])]
}

#[derive(Debug)]
struct PerRow {
    geometry: Arc<dyn Geometry>,
    width: usize,
    sums: Option<[f64; 2]>,
}

impl Kernel for PerRow {
    fn row_sums(&self) -> Option<[f64; 2]> {
        self.sums
    }

    fn grain(&self) -> Grain {
        Grain::Rows(self.width)
    }

    fn merge(&self, block: &View<'_>, _: &mut Scratch, out: &mut [f32]) {
        for (row, out) in rows(block, self.width).zip(out.chunks_mut(self.width)) {
            let coefficients =
                self.geometry.coefficients(&Gramian::of(&row)).expect("every row was checked in `prepare`");
            combine(&coefficients, &row, out);
        }
    }
}

#[derive(Debug)]
struct PerColumn {
    /// Per operand, per column.
    coefficients: Vec<Vec<f32>>,
    columns: usize,
}

impl Kernel for PerColumn {
    fn merge(&self, block: &View<'_>, _: &mut Scratch, out: &mut [f32]) {
        out.fill(0.0);
        for (x, c) in block.vectors.iter().zip(&self.coefficients) {
            for (i, (o, x)) in out.iter_mut().zip(x).enumerate() {
                *o += c[(block.start + i) % self.columns] * x;
            }
        }
    }
}

/// Coefficients of every column. Columns are accumulated in block order, a span of blocks at a time.
fn column_coefficients(
    scan: &Scan,
    geometry: &dyn Geometry,
) -> Result<Vec<Vec<f32>>, Result<MergeError, String>> {
    let (k, columns) = (scan.k(), scan.len() / scan.shape[0]);
    let pairs = packed_len(k);
    let mut sums = vec![0.0f64; pairs * columns];
    crate::scan::with_buffers(|buffers| {
        for block in scan.blocks(Grain::Element) {
            let view = scan.load(block, buffers)?;
            add_column_products(&view, k, columns, &mut sums);
        }
        Ok(())
    })
    .map_err(Ok)?;
    let mut coefficients = vec![vec![0.0; columns]; k];
    for column in 0..columns {
        let packed = sums[column * pairs..(column + 1) * pairs].to_vec();
        for (row, c) in
            coefficients.iter_mut().zip(geometry.coefficients(&Gramian::new(k, packed)).map_err(Err)?)
        {
            row[column] = c as f32;
        }
    }
    Ok(coefficients)
}

fn add_column_products(view: &View<'_>, k: usize, columns: usize, sums: &mut [f64]) {
    let pairs = packed_len(k);
    for e in 0..view.len() {
        let column = (view.start + e) % columns;
        let sums = &mut sums[column * pairs..(column + 1) * pairs];
        for i in 0..k {
            for j in i..k {
                sums[packed_index(k, i, j)] += f64::from(view.vectors[i][e]) * f64::from(view.vectors[j][e]);
            }
        }
    }
}

/// Sums of unit vectors shorter than this (of the sum of their weights) cancel as far as inner products can tell: a
/// length taken from them is known to about 1e-8.
pub const CANCELS: f64 = 1e-7;

/// Whether two directions are opposite. They then span no plane: coefficients grow like 1/sin θ, and their rounding to
/// f32 would be all that is left of the result.
pub fn opposite(cosine: f64, sine: f64) -> bool {
    cosine < 0.0 && sine < 1e-4
}

/// `sin((1−t)θ)/sin θ` and `sin(tθ)/sin θ`, or the straight line where that is undefined.
pub fn slerp_weights(cosine: f64, t: f64) -> (f64, f64) {
    let angle = cosine.clamp(-1.0, 1.0).acos();
    let sine = angle.sin();
    if sine.abs() < 1e-8 || opposite(cosine, sine) {
        return (1.0 - t, t);
    }
    (((1.0 - t) * angle).sin() / sine, (t * angle).sin() / sine)
}
