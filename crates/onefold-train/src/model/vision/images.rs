//! Images side by side, and what is to be learnt from them.

use onefold_engine::Buffer;

use crate::model::batch::{BatchError, MOST_ROWS};
use crate::model::targets::Targets;

/// An image to be added to a batch.
#[derive(Debug, Clone, Copy, Default)]
pub struct Image<'a> {
    /// Channels, rows and columns.
    pub shape: [usize; 3],
    /// Normalised pixels of that shape.
    pub pixels: &'a [f32],
    /// The class to be learnt, below 0 for none; absent if there is nothing to learn, or numbers.
    pub target: Option<i32>,
    /// Numbers to be learnt instead of a class: one per score of the head.
    pub values: &'a [f32],
    /// Weight of the target in the objective.
    pub weight: f32,
    /// The learning task.
    pub task: u32,
}

/// Images of one shape.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ImageBatch {
    pixels: Buffer,
    /// Shape and number of values of each.
    images: Vec<([usize; 3], usize)>,
    targets: Targets,
}

impl ImageBatch {
    /// Takes everything out; the memory stays.
    pub fn clear(&mut self) {
        let Self { pixels, images, targets } = self;
        pixels.resize(0);
        images.clear();
        targets.clear();
    }

    /// Adds an image behind the others.
    pub fn push(&mut self, image: &Image<'_>) {
        let Image { shape, pixels, target, values, weight, task } = *image;
        let start = self.pixels.len();
        self.pixels.resize(start + pixels.len());
        self.pixels.write(start, pixels);
        self.images.push((shape, pixels.len()));
        self.targets.push((target.as_slice(), values), weight, task);
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// What is to be learnt.
    pub fn targets(&self) -> &Targets {
        &self.targets
    }

    pub(super) fn targets_mut(&mut self) -> &mut Targets {
        &mut self.targets
    }

    pub(super) fn pixels(&self) -> &Buffer {
        &self.pixels
    }

    /// Judges the images: each of the shape, and of `rows` rows.
    pub(super) fn check(&self, expected: [usize; 3], rows: usize) -> Result<(), BatchError> {
        if self.is_empty() {
            return Err(BatchError::Empty);
        }
        let rows = self.len().saturating_mul(rows);
        if rows > MOST_ROWS {
            return Err(BatchError::TooManyRows { rows, most: MOST_ROWS });
        }
        for (image, (found, len)) in self.images.iter().enumerate() {
            if *found != expected {
                return Err(BatchError::ImageSize { image, found: *found, expected });
            }
            if *len != expected.iter().product::<usize>() {
                return Err(BatchError::Pixels { image, found: *len, shape: *found });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_model_cannot_take_is_refused() {
        let mut batch = ImageBatch::default();
        assert_eq!(batch.check([1, 2, 2], 5), Err(BatchError::Empty));
        let image = Image { shape: [1, 2, 2], pixels: &[0.5; 4], ..Image::default() };
        batch.push(&image);
        assert_eq!(batch.check([1, 2, 2], 5), Ok(()));
        let refused = |batch: &ImageBatch, rows, message: &str| {
            let error = batch.check([1, 2, 2], rows).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        };
        refused(&batch, MOST_ROWS + 1, "the batch has 16777217 tokens, at most 16777216 are possible");
        batch.push(&Image { pixels: &[0.5; 3], ..image });
        refused(&batch, 5, "image 1 has 3 values, its shape [1, 2, 2] has 4");
        batch.clear();
        batch.push(&Image { shape: [1, 2, 3], pixels: &[0.5; 6], ..image });
        refused(&batch, 5, "image 0 has [1, 2, 3] channels, rows and columns, the model takes [1, 2, 2]");
        batch.clear();
        assert_eq!(batch, ImageBatch::default());
    }
}
