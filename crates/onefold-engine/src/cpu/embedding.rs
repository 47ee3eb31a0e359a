//! Rows of tables by number: token, position and type embeddings, and their gradient.
//!
//! Forward: `out[t] = Σ over tables of scale · table[ids[t]]`, in one pass. Backward: `dtable[i] = scale · Σ dout[t]` over the
//! t with `ids[t] = i`. Its order is fixed by sorting the rows by id ([`Groups`]); tasks own columns, so that neither a frequent
//! id nor two tasks with the same id matter.
//!
//! Ids come from data, so an id that is not in its table is an error, found before anything is written.

#[cfg(test)]
mod tests;

use multiversion::multiversion;

use crate::cpu::gemm::ViewMut;
use crate::cpu::parallel::for_rows;
use crate::cpu::widen::Source;
use crate::{Buffer, Weight, Write};

/// Columns of one task of the gradient: four cache lines.
const COLUMNS: usize = 64;
/// Numbers that are widened at a time.
const PIECE: usize = 512;

/// An id that its table does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "id {id} at position {position} is not one of the {size} rows of the table of {table}; ids and weights have to be of \
     the same tokenizer and model"
)]
pub struct UnknownId {
    /// Which table, in words.
    pub table: &'static str,
    /// Index of the id among all ids.
    pub position: usize,
    /// The id.
    pub id: u32,
    /// Rows of the table.
    pub size: usize,
}

/// One table, and which of its rows are wanted.
#[derive(Debug, Clone, Copy)]
pub struct Lookup<'a> {
    /// What the table holds, for errors, such as "token embeddings".
    pub name: &'static str,
    /// `[size, width]`.
    pub table: Weight<'a>,
    /// Rows of the table.
    pub size: usize,
    /// One per row of the result.
    pub ids: &'a [u32],
    /// Factor of the rows (Gemma: √width); 1 for none.
    pub scale: f32,
}

/// `out[t] = Σ scale · table[ids[t]]` over all lookups; at least one is needed.
///
/// # Errors
/// [`UnknownId`] for the first id beyond its table; `out` is unchanged then.
///
/// # Panics
/// If a length does not fit the others.
pub fn forward(width: usize, lookups: &[Lookup<'_>], out: &mut Buffer) -> Result<(), UnknownId> {
    assert!(width > 0 && !lookups.is_empty(), "an embedding of no width or no table");
    for lookup in lookups {
        assert_eq!(lookup.table.len(), lookup.size * width, "elements of the table of {}", lookup.name);
        assert_eq!(out.len(), lookup.ids.len() * width, "elements of the result for {}", lookup.name);
        check(lookup.name, lookup.ids, lookup.size)?;
    }
    for_rows(out.host_mut(), width, |first, rows| {
        for (write, lookup) in std::iter::once(Write::Set).chain(std::iter::repeat(Write::Add)).zip(lookups) {
            let ids = &lookup.ids[first..first + rows.len() / width];
            gather(rows, width, write, lookup.table.into(), lookup.scale, ids);
        }
    });
    Ok(())
}

fn check(table: &'static str, ids: &[u32], size: usize) -> Result<(), UnknownId> {
    match ids.iter().position(|id| *id as usize >= size) {
        Some(position) => Err(UnknownId { table, position, id: ids[position], size }),
        None => Ok(()),
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn gather(rows: &mut [f32], width: usize, write: Write, table: Source<'_>, scale: f32, ids: &[u32]) {
    let mut scratch = [0.0; PIECE];
    for (row, id) in rows.chunks_exact_mut(width).zip(ids) {
        for (i, out) in row.chunks_mut(PIECE).enumerate() {
            let values = table.piece(*id as usize * width + i * PIECE, out.len(), &mut scratch);
            match write {
                Write::Set => out.iter_mut().zip(values).for_each(|(o, v)| *o = scale * v),
                Write::Add => out.iter_mut().zip(values).for_each(|(o, v)| *o += scale * v),
            }
        }
    }
}

/// Rows by id: the plan of a backward pass. It keeps its memory from step to step.
#[derive(Debug, Clone, Default)]
pub struct Groups {
    /// (id, row) in one number, sorted.
    pairs: Vec<u64>,
    /// Of all ids, also the left-out ones.
    rows: usize,
}

impl Groups {
    /// Sorts the rows by their ids. Rows whose id is `padding` are left out: as PyTorch's `padding_idx` they have no gradient.
    ///
    /// # Errors
    /// [`UnknownId`] for the first id beyond a table of `size` rows; the groups are unchanged then.
    ///
    /// # Panics
    /// If there are 2³² rows or more.
    pub fn sort(
        &mut self,
        name: &'static str,
        ids: &[u32],
        size: usize,
        padding: Option<u32>,
    ) -> Result<(), UnknownId> {
        check(name, ids, size)?;
        let rows = u32::try_from(ids.len()).expect("a batch has fewer than 2^32 tokens");
        let kept = ids.iter().zip(0..rows).filter(|(id, _)| Some(**id) != padding);
        self.pairs.clear();
        self.pairs.reserve_exact(ids.len());
        self.pairs.extend(kept.map(|(id, row)| u64::from(*id) << 32 | u64::from(row)));
        self.pairs.sort_unstable();
        self.rows = ids.len();
        Ok(())
    }

    /// Bytes that they hold.
    pub fn bytes(&self) -> usize {
        self.pairs.capacity() * size_of::<u64>()
    }

    /// The id of each group, with its rows in ascending order.
    fn iter(&self) -> impl Iterator<Item = (usize, impl Iterator<Item = usize>)> {
        self.pairs.chunk_by(|a, b| a >> 32 == b >> 32).map(|group| {
            let rows = group.iter().map(|pair| (pair & 0xffff_ffff) as usize);
            ((group[0] >> 32) as usize, rows)
        })
    }

    /// Whether the last group, and so every one, lies in a table of `len` elements.
    fn fit(&self, width: usize, len: usize) -> bool {
        self.pairs.last().is_none_or(|pair| (*pair >> 32) < (len / width) as u64)
    }
}

/// `dtable[i] = scale · Σ dout[t]` over the rows t of group i, and 0 for rows of the table without a group; or adds that.
///
/// A table is large and few of its rows are seen. To spare writing all of it, keep it zero but for the last step's rows:
/// [`clear`] those, then add.
///
/// # Panics
/// If a length does not fit the others or the groups.
pub fn backward(width: usize, groups: &Groups, dout: &Buffer, scale: f32, dtable: &mut Buffer, write: Write) {
    assert_eq!(dout.len(), groups.rows * width, "elements of the gradient of an embedding's result");
    let size = check_table(width, groups, dtable);
    if write == Write::Set {
        for_rows(dtable.host_mut(), width, |_, rows| rows.fill(0.0));
    }
    let dtable = ViewMut::new(dtable.host_mut(), size, width, width);
    dtable
        .for_columns(COLUMNS, |start, mut columns| scatter(&mut columns, start, width, groups, dout, scale));
}

/// Sets the rows of the table that `groups` has to 0.
///
/// # Panics
/// If the groups do not fit the table.
pub fn clear(width: usize, groups: &Groups, dtable: &mut Buffer) {
    check_table(width, groups, dtable);
    for (id, _) in groups.iter() {
        dtable.host_mut()[id * width..][..width].fill(0.0);
    }
}

/// Rows of the table.
fn check_table(width: usize, groups: &Groups, dtable: &Buffer) -> usize {
    assert!(width > 0 && dtable.len().is_multiple_of(width), "elements of the gradient of a table");
    assert!(groups.fit(width, dtable.len()), "the groups are of a larger table");
    dtable.len() / width
}

/// Sums are f64: the group of a padding token or of a token type has as many terms as the batch has rows.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn scatter(
    columns: &mut ViewMut<'_>,
    start: usize,
    width: usize,
    groups: &Groups,
    dout: &Buffer,
    scale: f32,
) {
    for (id, rows) in groups.iter() {
        let out = columns.row(id);
        let mut sums = [0.0f64; COLUMNS];
        for row in rows {
            let dout = &dout.host()[row * width + start..][..out.len()];
            sums.iter_mut().zip(dout).for_each(|(s, d)| *s += f64::from(*d));
        }
        out.iter_mut().zip(sums).for_each(|(o, s)| *o += scale * s as f32);
    }
}
