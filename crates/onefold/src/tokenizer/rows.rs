//! Where every row of an output embedding comes from.
//!
//! A merge over differing vocabularies first rebuilds each model's embedding (and head) in the output's row
//! order; the merge method then runs on matrices of equal shape. A [`RowMap`] is that rebuilding as data.
//! Fine-tunes mostly share their ids, so a map is held as runs of neighbouring rows: identity is one run of
//! 12 bytes, and a wholly shuffled vocabulary of 250,000 tokens costs 3 MB per model. Means are listed once for
//! all models of a merge.

use std::sync::Arc;

/// Where one row of one model's rebuilt embedding comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Row<'a> {
    /// This row of the model's own stored embedding.
    Own(u32),
    /// A row of another model's stored embedding.
    From {
        /// Index of the model in the request.
        model: u32,
        /// Row of that model's stored embedding.
        row: u32,
    },
    /// The mean of these `(model, row)` stored rows.
    Mean(&'a [(u32, u32)]),
    /// Zeros.
    Zero,
    /// The mean of the rows of this same rebuilt matrix that hold a token (`Built::token_rows`).
    PaddingMean,
}

/// A stretch of output rows of one kind. Within it `Own` and `From` advance by one stored row per output row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run<'a> {
    /// First output row.
    pub start: u32,
    /// Number of output rows, at least one.
    pub len: u32,
    /// The source of the first row.
    pub first: Row<'a>,
}

impl<'a> Run<'a> {
    /// The source of the row `offset` rows into the run.
    fn at(&self, offset: u32) -> Row<'a> {
        match self.first {
            Row::Own(row) => Row::Own(row + offset),
            Row::From { model, row } => Row::From { model, row: row + offset },
            other => other,
        }
    }
}

/// What a run holds; `first` of the run is the stored row, or the mean's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Own,
    From(u16),
    Mean,
    Zero,
    PaddingMean,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Packed {
    start: u32,
    first: u32,
    kind: Kind,
}

/// The `(model, row)` lists behind [`Row::Mean`], shared by the maps of all models.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Means {
    ends: Vec<u32>,
    members: Vec<(u32, u32)>,
}

impl Means {
    /// Adds a list and returns its number.
    pub(super) fn push(&mut self, members: impl IntoIterator<Item = (u32, u32)>) -> u32 {
        self.members.extend(members);
        self.ends.push(index(self.members.len()));
        index(self.ends.len() - 1)
    }

    fn get(&self, number: u32) -> &[(u32, u32)] {
        let number = number as usize;
        let start = if number == 0 { 0 } else { self.ends[number - 1] };
        &self.members[start as usize..self.ends[number] as usize]
    }
}

/// The source of every output row for one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowMap {
    rows: u32,
    own_rows: u32,
    runs: Vec<Packed>,
    means: Arc<Means>,
}

impl RowMap {
    /// The map that changes nothing.
    pub fn identity(rows: u32) -> Self {
        let runs = if rows == 0 { Vec::new() } else { vec![Packed { start: 0, first: 0, kind: Kind::Own }] };
        Self { rows, own_rows: rows, runs, means: Arc::default() }
    }

    /// Number of output rows.
    pub fn rows(&self) -> usize {
        self.rows as usize
    }

    /// Whether the rebuilt embedding is the stored one, row for row.
    pub fn is_identity(&self) -> bool {
        let one_run = matches!(self.runs[..], [] | [Packed { start: 0, first: 0, kind: Kind::Own }]);
        self.rows == self.own_rows && one_run
    }

    /// The source of output row `row`, `None` beyond the end.
    pub fn get(&self, row: usize) -> Option<Row<'_>> {
        let row = u32::try_from(row).ok().filter(|row| *row < self.rows)?;
        let number = self.runs.partition_point(|run| run.start <= row) - 1;
        Some(self.run(number).at(row - self.runs[number].start))
    }

    /// The runs in order of output rows; together they cover every row once.
    pub fn runs(&self) -> impl ExactSizeIterator<Item = Run<'_>> {
        (0..self.runs.len()).map(|number| self.run(number))
    }

    /// The source of each output row in turn.
    pub fn iter(&self) -> impl Iterator<Item = Row<'_>> {
        self.runs().flat_map(|run| (0..run.len).map(move |offset| run.at(offset)))
    }

    fn run(&self, number: usize) -> Run<'_> {
        let packed = self.runs[number];
        let end = self.runs.get(number + 1).map_or(self.rows, |next| next.start);
        let first = match packed.kind {
            Kind::Own => Row::Own(packed.first),
            Kind::From(model) => Row::From { model: u32::from(model), row: packed.first },
            Kind::Mean => Row::Mean(self.means.get(packed.first)),
            Kind::Zero => Row::Zero,
            Kind::PaddingMean => Row::PaddingMean,
        };
        Run { start: packed.start, len: end - packed.start, first }
    }
}

/// A row source while the maps are made: means by number, because their table is still growing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    Stored { model: u16, row: u32 },
    Mean(u32),
    Zero,
    PaddingMean,
}

/// Makes the map of `model`, which has `own_rows` stored rows, from the sources of its output rows in order.
pub(super) fn collect(
    model: u16,
    own_rows: u32,
    origins: impl Iterator<Item = Origin>,
    means: &Arc<Means>,
) -> RowMap {
    let mut runs: Vec<Packed> = Vec::new();
    let mut rows = 0;
    for origin in origins {
        let (kind, first) = match origin {
            Origin::Stored { model: of, row } if of == model => (Kind::Own, row),
            Origin::Stored { model: of, row } => (Kind::From(of), row),
            Origin::Mean(number) => (Kind::Mean, number),
            Origin::Zero => (Kind::Zero, 0),
            Origin::PaddingMean => (Kind::PaddingMean, 0),
        };
        if !runs.last().is_some_and(|run| continues(run, kind, first, rows)) {
            runs.push(Packed { start: rows, first, kind });
        }
        rows += 1;
    }
    runs.shrink_to_fit();
    RowMap { rows, own_rows, runs, means: Arc::clone(means) }
}

/// Whether output row `row` extends `run`. Each mean is a run of its own: lists do not advance.
fn continues(run: &Packed, kind: Kind, first: u32, row: u32) -> bool {
    run.kind == kind
        && match kind {
            Kind::Own | Kind::From(_) => {
                u64::from(run.first) + u64::from(row - run.start) == u64::from(first)
            }
            Kind::Mean => run.first == first,
            Kind::Zero | Kind::PaddingMean => true,
        }
}

/// A count as an index: a mean has one member per token and model.
fn index(count: usize) -> u32 {
    u32::try_from(count).expect("fewer than 2^32 tokens fit in the capped tokenizer files")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(model: u16, own: u32, origins: &[Origin], means: Means) -> RowMap {
        collect(model, own, origins.iter().copied(), &Arc::new(means))
    }

    #[test]
    fn runs_join_only_what_advances() {
        let mut means = Means::default();
        let first = means.push([(0, 1), (1, 2)]);
        let second = means.push([(1, 7)]);
        let stored = |model, row| Origin::Stored { model, row };
        let origins = [
            stored(0, 0),
            stored(0, 1),
            stored(0, 5),
            stored(1, 6),
            stored(1, 7),
            Origin::Mean(first),
            Origin::Mean(second),
            Origin::Zero,
            Origin::Zero,
            Origin::PaddingMean,
        ];
        let map = map(0, 8, &origins, means);
        let lengths: Vec<_> = map.runs().map(|run| (run.start, run.len)).collect();
        assert_eq!(lengths, [(0, 2), (2, 1), (3, 2), (5, 1), (6, 1), (7, 2), (9, 1)]);
        let rows: Vec<_> = map.iter().collect();
        assert_eq!(rows[1], Row::Own(1));
        assert_eq!(rows[4], Row::From { model: 1, row: 7 });
        assert_eq!(rows[5], Row::Mean(&[(0, 1), (1, 2)]));
        assert_eq!(rows[6], Row::Mean(&[(1, 7)]));
        for (row, expected) in rows.iter().enumerate() {
            assert_eq!(map.get(row), Some(*expected));
        }
        assert_eq!(map.get(10), None);
        assert!(!map.is_identity());
    }

    #[test]
    fn identity_needs_all_own_rows() {
        let origins: Vec<_> = (0..4).map(|row| Origin::Stored { model: 2, row }).collect();
        assert!(map(2, 4, &origins, Means::default()).is_identity());
        assert!(
            !map(2, 5, &origins, Means::default()).is_identity(),
            "a cropped matrix is not the stored one"
        );
        assert!(!map(1, 4, &origins, Means::default()).is_identity(), "another model's rows");
        assert!(RowMap::identity(0).is_identity() && RowMap::identity(3).is_identity());
        assert_eq!(RowMap::identity(3).iter().count(), 3);
    }

    #[test]
    fn a_run_is_twelve_bytes() {
        assert_eq!(size_of::<Packed>(), 12);
    }
}
