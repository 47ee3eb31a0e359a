//! Memory that operators work on, and weights as they are stored.

use std::fmt;
use std::sync::Arc;

use onefold_runtime::Aligned;

/// A run of f32 numbers in the engine's memory. Callers copy in and out; operators work in place.
#[derive(Clone, Default, PartialEq)]
pub struct Buffer {
    values: Aligned,
}

impl Buffer {
    /// A buffer of zeros.
    pub fn zeros(len: usize) -> Self {
        Self { values: Aligned::zeros(len) }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Changes the length; new elements are 0, old ones are kept. Shrinking keeps the memory for later.
    pub fn resize(&mut self, len: usize) {
        self.values.resize(len);
    }

    /// Bytes that it holds, also those that shrinking has left.
    pub fn bytes(&self) -> usize {
        self.values.bytes()
    }

    /// Bytes that a buffer of so many elements takes.
    pub fn bytes_of(len: usize) -> usize {
        Aligned::bytes_of(len)
    }

    /// Copies `values` in, from element `start` on.
    ///
    /// # Panics
    /// If they reach beyond the end.
    pub fn write(&mut self, start: usize, values: &[f32]) {
        self.values[start..start + values.len()].copy_from_slice(values);
    }

    /// Copies elements out, from element `start` on.
    ///
    /// # Panics
    /// If they reach beyond the end.
    pub fn read(&self, start: usize, out: &mut [f32]) {
        out.copy_from_slice(&self.values[start..start + out.len()]);
    }

    /// All elements.
    pub fn to_vec(&self) -> Vec<f32> {
        self.values.to_vec()
    }

    /// The numbers in the host's memory, for what is made of files and goes back to files: merges.
    pub fn as_slice(&self) -> &[f32] {
        &self.values
    }

    /// The same, to be changed.
    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        &mut self.values
    }

    pub(crate) fn host(&self) -> &[f32] {
        &self.values
    }

    pub(crate) fn host_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }
}

impl From<Vec<f32>> for Buffer {
    fn from(values: Vec<f32>) -> Self {
        Self { values: values.as_slice().into() }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} values)", self.len())
    }
}

/// A format of 16 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HalfDtype {
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
}

/// Where 16-bit numbers lie: in memory, or in a mapped file.
pub trait HalfBits: Send + Sync {
    /// All of them, little-endian.
    fn bits(&self) -> &[u16];
}

impl HalfBits for Vec<u16> {
    fn bits(&self) -> &[u16] {
        self
    }
}

/// A frozen weight as stored, in 16 bits. It is widened piece by piece when it is used.
#[derive(Clone)]
pub struct Half {
    /// Format.
    pub dtype: HalfDtype,
    /// Numbers.
    pub source: Arc<dyn HalfBits>,
}

impl fmt::Debug for Half {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Half({:?}, {} values)", self.dtype, self.source.bits().len())
    }
}

/// A weight that operators read.
#[derive(Debug, Clone, Copy)]
pub enum Weight<'a> {
    /// In f32: trainable, or merged in memory.
    Full(&'a Buffer),
    /// Frozen, in 16 bits.
    Half(&'a Half),
}

impl Weight<'_> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::Full(buffer) => buffer.len(),
            Self::Half(half) => half.source.bits().len(),
        }
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<'a> From<&'a Buffer> for Weight<'a> {
    fn from(buffer: &'a Buffer) -> Self {
        Self::Full(buffer)
    }
}
