//! Embeddings rebuilt for another vocabulary, row by row, as they are read.

use std::sync::{Arc, OnceLock};

use onefold_checkpoint::Tensor;
use onefold_checkpoint::tensor::{Elements, for_each_row_part};

use crate::tokenizer::{Built, Row};

/// One model's embedding in the output's vocabulary.
#[derive(Debug)]
pub struct Gathered {
    /// The same tensor of every model, for rows that come from another.
    tensors: Vec<Option<Tensor>>,
    model: usize,
    width: usize,
    built: Arc<Built>,
    padding: OnceLock<Vec<f32>>,
}

impl Gathered {
    /// The tensor of `model` rebuilt according to `built`; as it is if no row moves.
    pub fn tensor(tensors: &[Option<Tensor>], model: usize, built: &Arc<Built>) -> Option<Tensor> {
        let own = tensors[model].clone()?;
        let rows = own.shape[0];
        if built.maps[model].is_identity() && built.rows == rows {
            return Some(own);
        }
        let width = own.len() / rows.max(1);
        let mut shape = own.shape.clone();
        shape[0] = built.rows;
        let gathered =
            Self { tensors: tensors.to_vec(), model, width, built: built.clone(), padding: OnceLock::new() };
        Some(Tensor::new(own.dtype, shape, Arc::new(gathered)))
    }

    fn row(&self, row: usize, column: usize, out: &mut [f32]) {
        match self.built.maps[self.model].get(row) {
            Some(Row::Own(from)) => self.stored(self.model, from as usize, column, out),
            Some(Row::From { model, row }) => self.stored(model as usize, row as usize, column, out),
            Some(Row::Mean(rows)) => self.mean(rows, column, out),
            Some(Row::PaddingMean) => {
                let padding = self.padding.get_or_init(|| self.mean_row());
                out.copy_from_slice(&padding[column..column + out.len()]);
            }
            Some(Row::Zero) | None => out.fill(0.0),
        }
    }

    fn stored(&self, model: usize, row: usize, column: usize, out: &mut [f32]) {
        match &self.tensors[model] {
            Some(tensor) => tensor.read(row * self.width + column, out),
            None => out.fill(0.0),
        }
    }

    fn mean(&self, rows: &[(u32, u32)], column: usize, out: &mut [f32]) {
        let (mut sum, mut part) = (vec![0.0f64; out.len()], vec![0.0; out.len()]);
        for (model, row) in rows {
            self.stored(*model as usize, *row as usize, column, &mut part);
            sum.iter_mut().zip(&part).for_each(|(s, p)| *s += f64::from(*p));
        }
        out.iter_mut().zip(&sum).for_each(|(o, s)| *o = (s / rows.len().max(1) as f64) as f32);
    }

    /// The mean of all rows that hold a token.
    fn mean_row(&self) -> Vec<f32> {
        let (mut sum, mut row, mut count) = (vec![0.0f64; self.width], vec![0.0; self.width], 0usize);
        for token in self.built.token_rows.iter().cloned().flatten() {
            self.row(token as usize, 0, &mut row);
            sum.iter_mut().zip(&row).for_each(|(s, r)| *s += f64::from(*r));
            count += 1;
        }
        sum.iter().map(|s| (s / count.max(1) as f64) as f32).collect()
    }
}

impl Elements for Gathered {
    fn read(&self, start: usize, out: &mut [f32]) {
        for_each_row_part(start, out, self.width.max(1), |row, column, part| self.row(row, column, part));
    }
}
