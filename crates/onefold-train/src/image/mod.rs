//! From image files to the numbers a vision model is fed.
//!
//! [`Processor`] reads `preprocessor_config.json` and does, in this order, what it says: to RGB, resize, cut out the
//! middle, rescale, normalise. Results are those of transformers' image processors on Pillow: resampling is Pillow's own
//! fixed-point arithmetic, so it agrees to the bit; JPEG decoders may differ by a level or two.
//!
//! Every image becomes RGB, whether `do_convert_rgb` asks for it or not: the models that are read here have three
//! channels. Transparency is dropped, as Pillow does.

mod error;
mod processor;
pub mod resample;

use std::io::Cursor;
use std::path::Path;

use image::{ImageReader, Limits};

pub use error::ImageError;
pub use processor::{Pixels, Processor};
pub use resample::Filter;

/// An image of eight bits per channel: rows from top to bottom, RGB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rgb {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// [height, width, 3].
    pub levels: Vec<u8>,
}

/// The image in a PNG or JPEG file.
pub fn open(path: &Path) -> Result<Rgb, ImageError> {
    let bytes = std::fs::read(path).map_err(|source| ImageError::Io { path: path.to_owned(), source })?;
    decode(&bytes, path)
}

/// The image in `bytes`; `path` is for messages.
pub fn decode(bytes: &[u8], path: &Path) -> Result<Rgb, ImageError> {
    const LONGEST_SIDE: u32 = 1 << 15;
    let wrong = |message: String| ImageError::Decode { path: path.to_owned(), message };
    let mut reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|error| wrong(error.to_string()))?;
    if reader.format().is_none() {
        return Err(wrong("neither PNG nor JPEG".to_owned()));
    }
    let mut limits = Limits::default(); // half a GiB
    limits.max_image_width = Some(LONGEST_SIDE);
    limits.max_image_height = Some(LONGEST_SIDE);
    reader.limits(limits);
    let image = reader.decode().map_err(|error| wrong(error.to_string()))?.into_rgb8();
    let (width, height) = (image.width() as usize, image.height() as usize);
    if width == 0 || height == 0 {
        return Err(wrong("the image has no pixels".to_owned()));
    }
    Ok(Rgb { width, height, levels: image.into_raw() })
}

#[cfg(test)]
mod tests;
