//! Logical tensors: whatever can be read piece by piece as `f32`, wherever its values come from.
//!
//! A merge sees only this type. Stored bytes, strided views of a PyTorch storage, an adapter applied on the fly, rows
//! gathered for another vocabulary and cropped embeddings all look alike, and none is ever whole in memory.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::mapped::MappedFile;
use crate::{Dtype, convert};

/// Values that can be read by position.
pub trait Elements: Send + Sync + fmt::Debug {
    /// Writes the elements `start..start + out.len()` (row-major positions) to `out`.
    fn read(&self, start: usize, out: &mut [f32]);

    /// Writes the bytes of the elements from `start` on, in the tensor's own dtype, to `out`. Returns whether it can:
    /// computed tensors exist only as `f32`.
    fn read_bytes(&self, start: usize, out: &mut [u8]) -> bool {
        let Some(stored) = self.stored() else { return false };
        let first = start * stored.dtype.size();
        out.copy_from_slice(&stored.bytes[first..first + out.len()]);
        true
    }

    /// All elements as stored, when they lie in one piece in their own dtype.
    fn stored(&self) -> Option<Stored<'_>> {
        None
    }

    /// What is added to a base, if the tensor is such a sum.
    fn update(&self) -> Option<&dyn Update> {
        None
    }
}

/// A low-rank update of a weight: the tensor is `base + L · R`, seen as a matrix.
pub trait Update: Send + Sync {
    /// What it is added to.
    fn base(&self) -> &Tensor;

    /// Rows of L, the rank, columns of R.
    fn dimensions(&self) -> [usize; 3];

    /// Rows of L to `out`, turned: `[rank, rows]`; scaled so that nothing else has to be.
    fn read_left(&self, rows: Range<usize>, out: &mut [f32]);

    /// R to `out`, `[rank, columns]`.
    fn read_right(&self, out: &mut [f32]);
}

/// The bytes of a tensor as they lie in a file.
#[derive(Clone, Copy)]
pub struct Stored<'a> {
    /// Element type.
    pub dtype: Dtype,
    /// All bytes of the tensor.
    pub bytes: &'a [u8],
}

impl fmt::Debug for Stored<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stored({}, {} bytes)", self.dtype, self.bytes.len())
    }
}

/// A named tensor of a checkpoint, or one derived from it.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// Element type as stored; what is read is always `f32`.
    pub dtype: Dtype,
    /// Shape, row major.
    pub shape: Vec<usize>,
    elements: Arc<dyn Elements>,
}

impl Tensor {
    /// A tensor over any source of values.
    pub fn new(dtype: Dtype, shape: Vec<usize>, elements: Arc<dyn Elements>) -> Self {
        Self { dtype, shape, elements }
    }

    /// A contiguous tensor at `range` of a mapped file.
    ///
    /// # Panics
    /// If the range lies outside the file: the header was checked before.
    pub fn in_file(file: Arc<MappedFile>, dtype: Dtype, shape: Vec<usize>, range: Range<usize>) -> Self {
        assert!(range.end <= file.len(), "the header was validated against the file's length");
        Self::new(dtype, shape, Arc::new(FileRange { file, dtype, range }))
    }

    /// A strided view; `offset` is the byte of its first element, `strides` count elements.
    pub fn strided(
        file: Arc<MappedFile>,
        dtype: Dtype,
        shape: Vec<usize>,
        strides: Vec<usize>,
        offset: usize,
    ) -> Self {
        let elements = Arc::new(Strided { file, dtype, shape: shape.clone(), strides, offset });
        Self::new(dtype, shape, elements)
    }

    /// The same values, to be written as `dtype`.
    #[must_use]
    pub fn written_as(&self, dtype: Dtype) -> Self {
        if self.dtype == dtype {
            return self.clone();
        }
        Self::new(dtype, self.shape.clone(), Arc::new(Cast(self.clone())))
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the tensor in its dtype.
    pub fn bytes(&self) -> usize {
        self.len() * self.dtype.size()
    }

    /// Length of the last dimension (1 for scalars) and number of such rows.
    pub fn rows(&self) -> (usize, usize) {
        let width = self.shape.last().copied().unwrap_or(1);
        (width, self.len().checked_div(width).unwrap_or(0))
    }

    /// Reads `out.len()` elements from position `start`.
    pub fn read(&self, start: usize, out: &mut [f32]) {
        self.elements.read(start, out);
    }

    /// Reads the bytes of elements from position `start` on, in the tensor's dtype; `false` if they are computed.
    pub fn read_bytes(&self, start: usize, out: &mut [u8]) -> bool {
        self.elements.read_bytes(start, out)
    }

    /// The bytes as stored, if they lie in one piece.
    pub fn stored(&self) -> Option<Stored<'_>> {
        self.elements.stored()
    }

    /// What is added to a base, if the tensor is computed as the sum of one and a low-rank update.
    pub fn update(&self) -> Option<&dyn Update> {
        self.elements.update()
    }

    /// Whether both tensors are the same bytes of the same file: tied weights.
    pub fn same_storage(&self, other: &Self) -> bool {
        match (self.stored(), other.stored()) {
            (Some(a), Some(b)) => {
                a.bytes.as_ptr() == b.bytes.as_ptr() && a.bytes.len() == b.bytes.len() && !a.bytes.is_empty()
            }
            _ => false,
        }
    }
}

#[derive(Debug)]
struct FileRange {
    file: Arc<MappedFile>,
    dtype: Dtype,
    range: Range<usize>,
}

impl Elements for FileRange {
    fn read(&self, start: usize, out: &mut [f32]) {
        let size = self.dtype.size();
        let first = self.range.start + start * size;
        convert::widen(self.dtype, &self.file[first..first + out.len() * size], out);
    }

    fn stored(&self) -> Option<Stored<'_>> {
        Some(Stored { dtype: self.dtype, bytes: &self.file[self.range.clone()] })
    }
}

#[derive(Debug)]
struct Strided {
    file: Arc<MappedFile>,
    dtype: Dtype,
    shape: Vec<usize>,
    strides: Vec<usize>,
    offset: usize,
}

impl Elements for Strided {
    fn read(&self, start: usize, out: &mut [f32]) {
        let size = self.dtype.size();
        for (i, o) in out.iter_mut().enumerate() {
            let first = self.offset + self.position(start + i) * size;
            convert::widen(self.dtype, &self.file[first..first + size], std::slice::from_mut(o));
        }
    }

    fn read_bytes(&self, start: usize, out: &mut [u8]) -> bool {
        let size = self.dtype.size();
        for (i, o) in out.chunks_mut(size).enumerate() {
            let first = self.offset + self.position(start + i) * size;
            o.copy_from_slice(&self.file[first..first + size]);
        }
        true
    }
}

impl Strided {
    /// Position in the storage, in elements, of row-major position `flat`.
    fn position(&self, mut flat: usize) -> usize {
        let mut position = 0;
        for (size, stride) in self.shape.iter().zip(&self.strides).rev() {
            position += (flat % size) * stride;
            flat /= size;
        }
        position
    }
}

/// The upper left corner of a two-dimensional tensor: how embeddings of different vocabularies are aligned when
/// the recipe has no tokenizer rule.
#[derive(Debug)]
pub struct Cropped {
    inner: Tensor,
    width: usize,
}

impl Cropped {
    /// The first `rows` rows and `cols` columns of `inner`.
    ///
    /// # Panics
    /// If `inner` is not two-dimensional or smaller.
    pub fn tensor(inner: Tensor, rows: usize, cols: usize) -> Tensor {
        assert!(
            inner.shape.len() == 2 && rows <= inner.shape[0] && cols <= inner.shape[1],
            "a corner of a matrix"
        );
        Tensor::new(inner.dtype, vec![rows, cols], Arc::new(Self { inner, width: cols }))
    }
}

impl Elements for Cropped {
    fn read(&self, start: usize, out: &mut [f32]) {
        let full = self.inner.shape[1];
        for_each_row_part(start, out, self.width, |row, column, part| {
            self.inner.read(row * full + column, part);
        });
    }
}

/// `Σ cᵢ xᵢ` of tensors of one shape, summed in f64 in their order and rounded once.
#[derive(Debug)]
pub struct Sum {
    terms: Vec<(f64, Tensor)>,
}

impl Sum {
    /// The sum, in f32; of one term with the factor 1 that tensor itself. None without terms, or if shapes differ.
    pub fn tensor(mut terms: Vec<(f64, Tensor)>) -> Option<Tensor> {
        let shape = terms.first()?.1.shape.clone();
        if terms.iter().any(|(_, tensor)| tensor.shape != shape) {
            return None;
        }
        if let [(factor, _)] = terms[..]
            && factor == 1.0
        {
            return terms.pop().map(|(_, tensor)| tensor);
        }
        Some(Tensor::new(Dtype::F32, shape, Arc::new(Self { terms })))
    }
}

impl Elements for Sum {
    fn read(&self, start: usize, out: &mut [f32]) {
        let mut sum = vec![0f64; out.len()];
        for (factor, tensor) in &self.terms {
            tensor.read(start, out);
            sum.iter_mut().zip(&*out).for_each(|(sum, value)| *sum += factor * f64::from(*value));
        }
        out.iter_mut().zip(sum).for_each(|(out, sum)| *out = sum as f32);
    }
}

/// A tensor that is written in another type than it is stored in; what is read of it stays as it is.
#[derive(Debug)]
struct Cast(Tensor);

impl Elements for Cast {
    fn read(&self, start: usize, out: &mut [f32]) {
        self.0.read(start, out);
    }
}

/// Splits `out`, which covers row-major positions from `start` on, at row ends: calls `each(row, first column, part)`.
pub fn for_each_row_part(
    start: usize,
    out: &mut [f32],
    width: usize,
    mut each: impl FnMut(usize, usize, &mut [f32]),
) {
    let mut position = start;
    let mut rest = out;
    while !rest.is_empty() {
        let (row, column) = (position / width, position % width);
        let count = rest.len().min(width - column);
        let (part, tail) = rest.split_at_mut(count);
        each(row, column, part);
        position += count;
        rest = tail;
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A tensor over values in memory.
    #[derive(Debug)]
    pub(crate) struct InMemory(pub(crate) Vec<f32>);

    impl Elements for InMemory {
        fn read(&self, start: usize, out: &mut [f32]) {
            out.copy_from_slice(&self.0[start..start + out.len()]);
        }
    }

    fn file(bytes: &[u8]) -> (tempfile::TempDir, Arc<MappedFile>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        #[allow(clippy::disallowed_methods, reason = "a fixture")]
        std::fs::write(&path, bytes).unwrap();
        let file = Arc::new(MappedFile::open(&path).unwrap());
        (dir, file)
    }

    #[test]
    fn strided_views_read_in_row_major_order() {
        let bytes: Vec<u8> = (0..7u8).flat_map(|v| f32::from(v).to_le_bytes()).collect();
        let (_dir, file) = file(&bytes);
        let transposed = Tensor::strided(file, Dtype::F32, vec![3, 2], vec![1, 3], 4);
        let mut out = [0.0; 6];
        transposed.read(0, &mut out);
        assert_eq!(out, [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        let mut two = [0.0; 2];
        transposed.read(3, &mut two);
        assert_eq!(two, [5.0, 3.0]);
    }

    #[test]
    fn cropping_keeps_the_corner_at_any_start() {
        let inner =
            Tensor::new(Dtype::F32, vec![3, 4], Arc::new(InMemory((0..12).map(|v| v as f32).collect())));
        let corner = Cropped::tensor(inner, 2, 3);
        let mut out = [0.0; 4];
        corner.read(1, &mut out);
        assert_eq!(out, [1.0, 2.0, 4.0, 5.0]);
        assert_eq!((corner.len(), corner.rows()), (6, (3, 2)));
    }

    #[test]
    fn sums_are_rounded_once_and_one_term_is_itself() {
        let of =
            |values: &[f32]| Tensor::new(Dtype::F32, vec![values.len()], Arc::new(InMemory(values.to_vec())));
        let (a, b) = (of(&[1.0, 2.0, 3.0]), of(&[1e-8, -2.0, 5.0]));
        let mut out = [0.0; 2];
        Sum::tensor(vec![(1.0, a.clone()), (0.5, b.clone()), (-1.0, a.clone())]).unwrap().read(0, &mut out);
        assert_eq!(out, [0.5e-8, -1.0]);
        let mut whole = [0.0; 3];
        let one = Sum::tensor(vec![(1.0, b.clone())]).unwrap();
        one.written_as(Dtype::BF16).read(0, &mut whole);
        assert_eq!((whole, one.written_as(Dtype::BF16).dtype), ([1e-8, -2.0, 5.0], Dtype::BF16));
        assert!(
            Sum::tensor(Vec::new()).is_none() && Sum::tensor(vec![(1.0, a), (1.0, of(&[1.0]))]).is_none()
        );
    }

    #[test]
    fn tied_weights_share_their_bytes() {
        let (_dir, file) = file(&[0; 16]);
        let tensor = |range| Tensor::in_file(file.clone(), Dtype::F32, vec![2], range);
        assert!(tensor(0..8).same_storage(&tensor(0..8)));
        assert!(!tensor(0..8).same_storage(&tensor(8..16)));
    }
}
