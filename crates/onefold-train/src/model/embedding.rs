//! Tokens to rows: token, position and type embeddings, their norm and dropout.

use onefold_engine::cpu::attention::Segment;
use onefold_engine::cpu::embedding::{self, Groups, Lookup};
use onefold_engine::cpu::norm::{Input, Kind};
use onefold_engine::{Buffer, Write};

use super::batch::{Batch, BatchError, Limits};
use super::gradients::{Backward, Lent};
use super::memory::{BatchShape, held, size};
use super::norm::Norm;
use super::parameters::{ParameterId, Parameters, Part};
use super::pass::{Pass, Site};
use super::targets::Targets;
use super::tower::Embed;
use crate::families::{Half, Role};

/// What a configuration says of the embedding.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct EmbeddingSettings {
    /// Factor of token embeddings.
    pub scale: Option<f32>,
    /// Kind and epsilon of the norm behind it.
    pub norm: Option<(Kind, f64)>,
    /// Probability of dropping elements.
    pub dropout: f64,
    /// A token whose embedding gets no gradient here.
    pub padding: Option<u32>,
    /// The first row of the position table that is used.
    pub first_position: u32,
}

/// The embedding of a model of text. Which tables there are is a matter of the parameters.
#[derive(Debug, Clone)]
pub struct Embedding {
    tables: Vec<Table>,
    norm: Option<Norm>,
    width: usize,
    dropout: f64,
    first_position: u32,
    limits: Limits,
}

#[derive(Debug, Clone, Copy)]
struct Table {
    id: ParameterId,
    of: Of,
    size: usize,
    scale: f32,
    padding: Option<u32>,
}

/// By which numbers rows are looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Tokens,
    Positions,
    Types,
}

/// What the forward pass leaves, and memory.
#[derive(Debug, Default)]
pub struct EmbeddingSaved {
    /// Rows of the position table.
    positions: Vec<u32>,
    /// What was normalised.
    sum: Buffer,
    statistics: Buffer,
    d_sum: Buffer,
    groups: Groups,
}

impl EmbeddingSaved {
    /// Bytes that it holds.
    pub(super) fn bytes(&self) -> usize {
        let Self { positions, sum, statistics, d_sum, groups } = self;
        held([sum, statistics, d_sum]) + groups.bytes() + positions.capacity() * size_of::<u32>()
    }
}

impl Of {
    fn name(self) -> &'static str {
        match self {
            Self::Tokens => "token embeddings",
            Self::Positions => "position embeddings",
            Self::Types => "token type embeddings",
        }
    }
}

impl Embedding {
    /// The embedding of a half; `None` if the parameters lack a part of it.
    pub fn find(parameters: &Parameters, half: Half, settings: &EmbeddingSettings) -> Option<Self> {
        let EmbeddingSettings { scale, norm, dropout, padding, first_position } = *settings;
        let table = |role, of| {
            let id = parameters.find(half, None, role, Part::Weight)?;
            let size = parameters[id].shape.first().copied()?;
            Some(Table { id, of, size, scale: 1.0, padding: None })
        };
        let tokens = table(Role::TokenEmbedding, Of::Tokens)?;
        let positions = table(Role::PositionEmbedding, Of::Positions);
        let types = table(Role::TypeEmbedding, Of::Types);
        let norm = match norm {
            Some((kind, epsilon)) => {
                Some(Norm::find(parameters, (half, None), Role::EmbeddingNorm, kind, epsilon)?)
            }
            None => None,
        };
        let limits = Limits {
            vocabulary: tokens.size,
            positions: positions.map(|table| table.size.saturating_sub(first_position as usize)),
            types: types.map_or(0, |table| table.size),
        };
        let width = parameters[tokens.id].shape.get(1).copied()?;
        let tokens = Table { scale: scale.unwrap_or(1.0), padding, ..tokens };
        let tables = [Some(tokens), positions, types].into_iter().flatten().collect();
        Some(Self { tables, norm, width, dropout, first_position, limits })
    }

    /// What a batch may contain.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }
}

impl Embed for Embedding {
    type Batch = Batch;
    type Saved = EmbeddingSaved;

    fn lay_out(&self, batch: &Batch, segments: &mut Vec<Segment>) -> Result<(), BatchError> {
        batch.check(&self.limits)?;
        segments.clear();
        segments.extend_from_slice(batch.segments());
        Ok(())
    }

    fn positions(batch: &Batch) -> &[u32] {
        batch.positions()
    }

    fn targets_mut(batch: &mut Batch) -> &mut Targets {
        batch.targets_mut()
    }

    fn targets(batch: &Batch) -> &Targets {
        batch.targets()
    }

    fn width(&self) -> usize {
        self.width
    }

    fn held_bytes(saved: &EmbeddingSaved) -> usize {
        saved.bytes()
    }

    fn bytes_for(&self, shape: &BatchShape) -> usize {
        let matrix = size(shape.rows * self.width);
        let norm = self.norm.map_or(0, |norm| {
            let gradient = if shape.training() { matrix } else { 0 };
            matrix + gradient + norm.saved_bytes(shape.rows * self.width)
        });
        let groups = if shape.training() { shape.rows * size_of::<u64>() } else { 0 };
        norm + groups + shape.rows * size_of::<u32>()
    }

    fn forward(&self, pass: &Pass<'_>, batch: &Batch, y: &mut Buffer, saved: &mut EmbeddingSaved) {
        let EmbeddingSaved { positions, sum, statistics, .. } = saved;
        positions.clear();
        positions.extend(batch.positions().iter().map(|position| position + self.first_position));
        let lookup = |table: &Table| Lookup {
            name: table.of.name(),
            table: pass.parameters[table.id].weight(),
            size: table.size,
            ids: ids(table.of, batch, positions),
            scale: table.scale,
        };
        let lookups: Vec<Lookup<'_>> = self.tables.iter().map(lookup).collect();
        let to = if self.norm.is_some() { &mut *sum } else { &mut *y };
        to.resize(batch.rows() * self.width);
        embedding::forward(self.width, &lookups, to).expect("the batch was judged");
        if let Some(norm) = &self.norm {
            norm.forward(pass, Input::Ready(sum), y, statistics);
        }
        if let Some(dropout) = pass.dropout(self.dropout, Site::Embeddings) {
            dropout.apply(y);
        }
    }

    fn backward(&self, back: &mut Backward<'_>, batch: &Batch, d: &mut Buffer, saved: &mut EmbeddingSaved) {
        let EmbeddingSaved { positions, sum, statistics, d_sum, groups } = saved;
        if let Some(dropout) = back.pass.dropout(self.dropout, Site::Embeddings) {
            dropout.apply(d);
        }
        let mut d = &*d;
        if let Some(norm) = &self.norm {
            norm.backward(back, sum, statistics, d, (d_sum, Write::Set));
            d = d_sum;
        }
        for table in &self.tables {
            let mut lent = back.lend(Some(table.id));
            if let Some((gradient, write)) = lent.as_mut().map(Lent::parts) {
                let ids = ids(table.of, batch, positions);
                let sorted = groups.sort(table.of.name(), ids, table.size, table.padding);
                sorted.expect("the batch was judged");
                embedding::backward(self.width, groups, d, table.scale, gradient, write);
            }
            back.complete(lent);
        }
    }
}

fn ids<'a>(of: Of, batch: &'a Batch, positions: &'a [u32]) -> &'a [u32] {
    match of {
        Of::Tokens => batch.ids(),
        Of::Positions => positions,
        Of::Types => batch.types(),
    }
}
