//! Images as rows of patches, and the class token and positions that go with them.
//!
//! A convolution whose stride is its kernel is a linear map of patches: with the weight `[width, channels · kernel · kernel]`
//! as stored, a row is one patch `[channels, kernel, kernel]`. Patches are counted row by row; pixels beyond the last whole
//! patch are not seen, as in a convolution without padding.

use rayon::prelude::*;

use crate::{Buffer, Write};

/// Shape of a batch of images `[images, channels, height, width]` and of its patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Images {
    /// Number of images.
    pub images: usize,
    /// Channels of each.
    pub channels: usize,
    /// Pixels, downwards.
    pub height: usize,
    /// Pixels, across.
    pub width: usize,
    /// Pixels of a patch, both ways.
    pub kernel: usize,
}

impl Images {
    /// Patches of an image.
    pub fn patches(&self) -> usize {
        (self.height / self.kernel) * (self.width / self.kernel)
    }

    /// Length of a row: the pixels of a patch.
    pub fn row(&self) -> usize {
        self.channels * self.kernel * self.kernel
    }

    fn image(&self) -> usize {
        self.channels * self.height * self.width
    }

    fn check(&self, pixels: usize, rows: usize) {
        assert!(self.kernel > 0 && self.patches() > 0 && self.channels > 0, "patches of {self:?}");
        assert_eq!(pixels, self.images * self.image(), "pixels of {self:?}");
        assert_eq!(rows, self.images * self.patches() * self.row(), "patches of {self:?}");
    }

    /// Calls `each(start of a line of a patch in its image, in the image's rows)`; a line is `kernel` long in both.
    fn lines(&self, mut each: impl FnMut(usize, usize)) {
        let (kernel, across) = (self.kernel, self.width / self.kernel);
        for patch in 0..self.patches() {
            let corner = patch / across * kernel * self.width + patch % across * kernel;
            for line in 0..self.channels * kernel {
                let (channel, y) = (line / kernel, line % kernel);
                let pixel = (channel * self.height + y) * self.width + corner;
                each(pixel, patch * self.row() + line * kernel);
            }
        }
    }
}

/// rows, `[images · patches, channels · kernel · kernel]`, from pixels.
///
/// # Panics
/// If the shapes do not fit.
pub fn forward(rows: &mut Buffer, pixels: &Buffer, of: &Images) {
    of.check(pixels.len(), rows.len());
    let images = pixels.host().par_chunks_exact(of.image());
    let rows = rows.host_mut().par_chunks_exact_mut(of.patches() * of.row());
    rows.zip(images).for_each(|(rows, image)| {
        of.lines(|pixel, row| {
            rows[row..row + of.kernel].copy_from_slice(&image[pixel..pixel + of.kernel]);
        });
    });
}

/// The gradient of the pixels from that of the rows; 0 for pixels that are not seen.
///
/// # Panics
/// If the shapes do not fit.
pub fn backward(pixels: &mut Buffer, write: Write, rows: &Buffer, of: &Images) {
    of.check(pixels.len(), rows.len());
    let images = pixels.host_mut().par_chunks_exact_mut(of.image());
    images.zip(rows.host().par_chunks_exact(of.patches() * of.row())).for_each(|(image, rows)| {
        if write == Write::Set {
            image.fill(0.0);
        }
        of.lines(|pixel, row| {
            let line = image[pixel..pixel + of.kernel].iter_mut().zip(&rows[row..]);
            line.for_each(|(pixel, row)| *pixel += row);
        });
    });
}

/// Embedded patches with a class token before those of each image and positions added: y, `[images · (1 + patches), width]`,
/// from x, `[images · patches, width]`, class, `[width]`, and positions, `[1 + patches, width]`.
///
/// # Panics
/// If the shapes do not fit.
pub fn embed(y: &mut Buffer, x: &Buffer, class: &Buffer, positions: &Buffer) {
    let (width, image) = check_embedding(y.len(), x.len(), class, positions.len());
    let (class, positions) = (class.host(), positions.host());
    let images = y.host_mut().par_chunks_exact_mut(image).zip(x.host().par_chunks(image - width));
    images.for_each(|(y, x)| {
        for ((y, x), position) in y.iter_mut().zip(class.iter().chain(x)).zip(positions) {
            *y = x + position;
        }
    });
}

/// Gradients of [`embed`]; each is written as told.
#[derive(Debug)]
pub struct EmbedGradients<'a> {
    /// Of the embedded patches.
    pub x: (&'a mut Buffer, Write),
    /// Of the class token; absent if frozen.
    pub class: Option<(&'a mut Buffer, Write)>,
    /// Of the positions; absent if frozen.
    pub positions: Option<(&'a mut Buffer, Write)>,
}

/// The backward pass of [`embed`], for class tokens of `width`.
///
/// # Panics
/// If the shapes do not fit.
pub fn embed_backward(to: EmbedGradients<'_>, dy: &Buffer, images: usize, width: usize) {
    assert!(
        images > 0 && width > 0 && dy.len().is_multiple_of(images * width),
        "gradients of {images} images"
    );
    let (dy, image) = (dy.host(), dy.len() / images);
    let (x, write) = to.x;
    assert!(image > width && x.len() == dy.len() - images * width, "gradient of the patches");
    let parts = x.host_mut().par_chunks_exact_mut(image - width).zip(dy.par_chunks_exact(image));
    parts.for_each(|(x, dy)| match write {
        Write::Set => x.copy_from_slice(&dy[width..]),
        Write::Add => x.iter_mut().zip(&dy[width..]).for_each(|(x, dy)| *x += dy),
    });
    for (part, len) in [(to.class, width), (to.positions, image)] {
        let Some((sum, write)) = part else { continue };
        assert_eq!(sum.len(), len, "gradient of the class token or the positions");
        let sum = sum.host_mut();
        if write == Write::Set {
            sum.fill(0.0);
        }
        for dy in dy.chunks_exact(image) {
            sum.iter_mut().zip(dy).for_each(|(sum, dy)| *sum += dy);
        }
    }
}

fn check_embedding(y: usize, x: usize, class: &Buffer, positions: usize) -> (usize, usize) {
    let width = class.len();
    assert!(
        width > 0 && positions > width && positions.is_multiple_of(width),
        "positions of rows of {width}"
    );
    assert!(y.is_multiple_of(positions), "images of {positions} values");
    assert_eq!(x, y / positions * (positions - width), "patches before the class token is added");
    (width, positions)
}

/// Numbers of positions of padded sequences of `length`: `first`, `first + 1`, … for the tokens that count, and `padding`
/// for the others. RoBERTa counts from its padding number + 1, with that number as padding.
///
/// # Panics
/// If the mask is not of whole sequences.
pub fn position_ids(out: &mut Vec<u32>, mask: &[bool], length: usize, first: u32, padding: u32) {
    assert!(length > 0 && mask.len().is_multiple_of(length), "sequences of {length}");
    out.clear();
    for sequence in mask.chunks_exact(length) {
        let mut next = first;
        out.extend(sequence.iter().map(|counts| if *counts { (next, next += 1).0 } else { padding }));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::probe::wave;
    use super::*;

    fn inner(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    }

    proptest! {
        /// Also heights and widths that are no multiple of the kernel.
        #[test]
        fn patches_are_where_they_were(n in 0usize..3, c in 1usize..4, k in 1usize..5, h in 0usize..9, w in 0usize..9) {
            let of = Images { images: n, channels: c, height: k + h, width: k + w, kernel: k };
            let pixels = wave(n * of.image(), 0.7);
            let mut rows = Buffer::zeros(n * of.patches() * of.row());
            forward(&mut rows, &pixels.clone().into(), &of);
            let across = of.width / k;
            for (i, found) in rows.host().iter().enumerate() {
                let (row, at) = (i / of.row(), i % of.row());
                let (image, patch) = (row / of.patches(), row % of.patches());
                let (channel, y, x) = (at / (k * k), at / k % k, at % k);
                let (y, x) = (patch / across * k + y, patch % across * k + x);
                let pixel = ((image * c + channel) * of.height + y) * of.width + x;
                prop_assert_eq!(*found, pixels[pixel]);
            }
            // The map is linear: its backward pass is its transpose.
            let (dy, mut dx) = (wave(rows.len(), 0.3), Buffer::from(vec![1.0; pixels.len()]));
            backward(&mut dx, Write::Set, &dy.clone().into(), &of);
            prop_assert!((inner(rows.host(), &dy) - inner(&pixels, dx.host())).abs() < 1e-4);
            let mut added = Buffer::from(vec![1.0; pixels.len()]);
            backward(&mut added, Write::Add, &dy.into(), &of);
            prop_assert!(added.host().iter().zip(dx.host()).all(|(a, d)| *a == 1.0 + d));
        }

        #[test]
        fn class_token_and_positions(n in 1usize..4, patches in 1usize..5, width in 1usize..9) {
            let (x, class) = (wave(n * patches * width, 0.7), wave(width, 0.3));
            let positions = wave((1 + patches) * width, 1.1);
            let mut y = Buffer::zeros(n * (1 + patches) * width);
            embed(&mut y, &x.clone().into(), &class.clone().into(), &positions.clone().into());
            let dy = wave(y.len(), 0.9);
            for write in [Write::Set, Write::Add] {
                let ones = |n: usize| Buffer::from(vec![1.0; n]);
                let (mut dx, mut dc, mut dp) = (ones(x.len()), ones(width), ones(positions.len()));
                let to = EmbedGradients {
                    x: (&mut dx, write),
                    class: Some((&mut dc, write)),
                    positions: Some((&mut dp, write)),
                };
                embed_backward(to, &dy.clone().into(), n, width);
                let before = if write == Write::Add { 1.0 } else { 0.0 };
                for image in 0..n {
                    for i in 0..(1 + patches) * width {
                        let at = image * (1 + patches) * width + i;
                        let expected = if i < width { class[i] } else { x[image * patches * width + i - width] };
                        prop_assert_eq!(y.host()[at], expected + positions[i]);
                        if i >= width {
                            let dx = dx.host()[image * patches * width + i - width];
                            prop_assert_eq!(dx, before + dy[at]);
                        }
                    }
                }
                for i in 0..(1 + patches) * width {
                    let sum: f32 = (0..n).map(|image| dy[image * (1 + patches) * width + i]).sum();
                    prop_assert!((dp.host()[i] - before - sum).abs() < 1e-5);
                    prop_assert!(i >= width || dc.host()[i] == dp.host()[i]);
                }
            }
        }
    }

    #[test]
    fn positions_skip_what_does_not_count() {
        let mut ids = Vec::new();
        position_ids(&mut ids, &[true, true, false, false, true, true], 3, 2, 1);
        assert_eq!(ids, [2, 3, 1, 1, 2, 3]);
    }

    #[test]
    #[should_panic(expected = "patches of Images")]
    fn a_kernel_larger_than_the_image_is_refused() {
        let of = Images { images: 1, channels: 1, height: 2, width: 2, kernel: 3 };
        forward(&mut Buffer::zeros(0), &Buffer::zeros(4), &of);
    }
}
