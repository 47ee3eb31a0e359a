//! Numbers in memory that begins at a cache line: a vector register then never straddles two of them, which halves the
//! time of loops that wait for loads.

use std::ops::{Deref, DerefMut};

use bytemuck::{Pod, Zeroable};

/// Numbers in a cache line.
const WIDTH: usize = 16;

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([f32; WIDTH]);

/// A growable run of `f32` that begins at a cache line. Used as the slice it dereferences to.
#[derive(Debug, Clone, Default)]
pub struct Aligned {
    lines: Vec<Line>,
    len: usize,
}

impl Aligned {
    /// A run of zeros.
    pub fn zeros(len: usize) -> Self {
        Self { lines: bytemuck::zeroed_vec(len.div_ceil(WIDTH)), len }
    }

    /// Bytes that a run of so many numbers takes.
    pub fn bytes_of(len: usize) -> usize {
        len.div_ceil(WIDTH) * size_of::<Line>()
    }

    /// Bytes that it holds, also those that shrinking has left.
    pub fn bytes(&self) -> usize {
        self.lines.capacity() * size_of::<Line>()
    }

    /// Changes the length: new elements are 0, old ones stay. Shrinking keeps the memory for later.
    pub fn resize(&mut self, len: usize) {
        let old = std::mem::replace(&mut self.len, len);
        let lines = len.div_ceil(WIDTH);
        // Exactly: runs are large, and grow to what the largest call needs.
        self.lines.reserve_exact(lines.saturating_sub(self.lines.len()));
        self.lines.resize(lines, Line::zeroed());
        if old < len {
            // The rest of the line in which the old end lay may hold what was there before a shrinking.
            let rest = len.min(old.next_multiple_of(WIDTH));
            self[old..rest].fill(0.0);
        }
    }
}

impl Deref for Aligned {
    type Target = [f32];

    #[inline]
    fn deref(&self) -> &[f32] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }
}

impl DerefMut for Aligned {
    #[inline]
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}

impl AsRef<[f32]> for Aligned {
    #[inline]
    fn as_ref(&self) -> &[f32] {
        self
    }
}

impl<'a> IntoIterator for &'a Aligned {
    type Item = &'a f32;
    type IntoIter = std::slice::Iter<'a, f32>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl From<&[f32]> for Aligned {
    fn from(values: &[f32]) -> Self {
        let mut run = Self::zeros(values.len());
        run.copy_from_slice(values);
        run
    }
}

impl PartialEq for Aligned {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn begins_at_a_line_and_grows_with_zeros() {
        let mut run = Aligned::from(&[1.0f32; 40][..]);
        run.resize(3);
        assert_eq!(*run, [1.0; 3]);
        run.resize(50);
        assert_eq!(run[..3], [1.0; 3]);
        assert_eq!(run[3..], [0.0; 47]);
        assert_eq!(run.as_ptr().align_offset(64), 0);
        assert_eq!(run.bytes(), Aligned::bytes_of(50));
        run.resize(0);
        assert_eq!((run.bytes(), Aligned::bytes_of(0), Aligned::bytes_of(1)), (256, 0, 64));
        assert!(run.is_empty());
        assert_eq!(run, Aligned::zeros(0));
    }
}
