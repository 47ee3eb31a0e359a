//! Resizing by separable filters that widen when they shrink (antialiasing), in Pillow's arithmetic.
//!
//! For output pixel i of m from n inputs, with scale s = n/m and stretch t = max(s, 1): the centre is c = (i + ½)s, the
//! filter of radius r covers inputs from ⌊c − rt + ½⌋ to ⌊c + rt + ½⌋, with weights f((x − c + ½)/t), scaled to sum one.
//! Weights are rounded to 22 fractional bits, sums to whole levels and clipped, one direction after the other: with the same
//! rounding as Pillow's, levels are equal to its levels, not only close.

/// How a resized pixel is made of those around it. The numbers are Pillow's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// 0: the nearest pixel alone.
    Nearest,
    /// 1: windowed sinc of radius 3.
    Lanczos,
    /// 2: a triangle of radius 1.
    Bilinear,
    /// 3: cubic convolution with a = −½, radius 2.
    Bicubic,
    /// 4: the mean.
    Box,
}

impl Filter {
    /// The filter of Pillow's number.
    pub fn from_number(number: u64) -> Option<Self> {
        [Self::Nearest, Self::Lanczos, Self::Bilinear, Self::Bicubic, Self::Box]
            .get(usize::try_from(number).ok()?)
            .copied()
    }

    fn radius(self) -> f64 {
        match self {
            Self::Nearest | Self::Box => 0.5,
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        let distance = x.abs();
        match self {
            Self::Nearest | Self::Box => f64::from(x > -0.5 && x <= 0.5),
            Self::Bilinear => (1.0 - distance).max(0.0),
            Self::Bicubic if distance < 1.0 => ((A + 2.0) * distance - (A + 3.0)) * distance * distance + 1.0,
            Self::Bicubic if distance < 2.0 => (((distance - 5.0) * distance + 8.0) * distance - 4.0) * A,
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Self::Bicubic | Self::Lanczos => 0.0,
        }
    }
}

fn sinc(x: f64) -> f64 {
    let x = x * std::f64::consts::PI;
    if x == 0.0 { 1.0 } else { x.sin() / x }
}

/// Fractional bits of weights.
const BITS: u32 = 22;

/// The inputs of one output pixel: the first, and the weight of each.
struct Window {
    first: usize,
    weights: Vec<i64>,
}

fn windows(filter: Filter, from: usize, to: usize) -> Vec<Window> {
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0);
    let reach = filter.radius() * stretch;
    let window = |i: usize| {
        let centre = (i as f64 + 0.5) * scale;
        if filter == Filter::Nearest {
            return Window { first: (centre as usize).min(from - 1), weights: vec![1 << BITS] };
        }
        let first = ((centre - reach + 0.5) as usize).min(from - 1); // casts saturate at 0
        let last = ((centre + reach + 0.5) as usize).clamp(first + 1, from);
        let raw: Vec<f64> =
            (first..last).map(|x| filter.weight((x as f64 - centre + 0.5) * (1.0 / stretch))).collect();
        let sum: f64 = raw.iter().sum();
        let sum = if sum == 0.0 { 1.0 } else { sum };
        let fixed = |weight: &f64| (weight / sum * f64::from(1 << BITS)).round() as i64;
        Window { first, weights: raw.iter().map(fixed).collect() }
    };
    (0..to).map(window).collect()
}

/// The weighted sum of `levels`, as a level.
fn blend(weights: &[i64], levels: impl Iterator<Item = u8>) -> u8 {
    let sum: i64 = weights.iter().zip(levels).map(|(weight, level)| weight * i64::from(level)).sum();
    ((sum + (1 << (BITS - 1))) >> BITS).clamp(0, 255) as u8
}

/// `levels` of [height, width, C] at another size; all sizes at least 1.
///
/// Since version 13 Pillow resizes columns first if the height shrinks by more than twice as much as the width (earlier
/// ones never do, which changes single levels by one).
pub fn resize(
    levels: &[u8],
    (height, width): (usize, usize),
    channels: usize,
    (new_height, new_width): (usize, usize),
    filter: Filter,
) -> Vec<u8> {
    let shrinks = |old: usize, new: usize| old as i64 - new as i64;
    let (fewer_rows, fewer_columns) = (shrinks(height, new_height), shrinks(width, new_width));
    if fewer_rows > 0 && fewer_rows > 2 * fewer_columns {
        let between = along_columns(levels, height, width * channels, new_height, filter);
        return along_rows(&between, width, channels, new_width, filter);
    }
    let between = along_rows(levels, width, channels, new_width, filter);
    along_columns(&between, height, new_width * channels, new_height, filter)
}

/// Rows of `width` pixels become rows of `new_width`.
fn along_rows(levels: &[u8], width: usize, channels: usize, new_width: usize, filter: Filter) -> Vec<u8> {
    if new_width == width {
        return levels.to_vec();
    }
    let windows = windows(filter, width, new_width);
    let mut out = Vec::with_capacity(levels.len() / width * new_width);
    for row in levels.chunks_exact(width * channels) {
        for window in &windows {
            for channel in 0..channels {
                let inputs = row[window.first * channels + channel..].iter().step_by(channels).copied();
                out.push(blend(&window.weights, inputs));
            }
        }
    }
    out
}

/// Columns of `height` become columns of `new_height`; a row has `stride` levels.
fn along_columns(levels: &[u8], height: usize, stride: usize, new_height: usize, filter: Filter) -> Vec<u8> {
    if new_height == height {
        return levels.to_vec();
    }
    let mut out = Vec::with_capacity(new_height * stride);
    for window in &windows(filter, height, new_height) {
        for column in 0..stride {
            let inputs = levels[window.first * stride + column..].iter().step_by(stride).copied();
            out.push(blend(&window.weights, inputs));
        }
    }
    out
}
