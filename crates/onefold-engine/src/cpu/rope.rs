//! Rotary position embeddings (Su et al., arXiv 2104.09864) and the ways in which models stretch them to longer texts.
//!
//! A head of d rotary elements at position p is d/2 pairs (xᵢ, xᵢ₊d/2), each turned by the angle p·fᵢ; fᵢ = θ^(−2i/d) where
//! nothing is stretched. The pairs are those of transformers (`rotate_half`), in which all families that the engine is used
//! for store their weights. Elements beyond the d first ones of a head are left alone (partial rotation).
//! The turned head is multiplied by the attention factor of the kind.
//!
//! Formulas are those of transformers' `modeling_rope_utils`, with two deviations: all is computed in f64 until the table
//! is written (transformers: f32, which at position 10⁵ is off by some 10⁻³ rad), and frequencies that depend on the length
//! (`Dynamic`, `LongRope`) follow from the length at hand alone (transformers' `dynamic` keeps those of the longest text seen
//! until a short one comes).

use std::f64::consts::TAU;

use multiversion::multiversion;

use super::parallel;
use crate::Buffer;

/// How frequencies are stretched.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// Not at all.
    Default,
    /// All alike: f / factor (position interpolation, arXiv 2306.15595).
    Linear {
        /// How many times longer texts are.
        factor: f64,
    },
    /// By a larger θ for texts longer than `max_positions` ("NTK-aware").
    Dynamic {
        /// Strength.
        factor: f64,
        /// `max_position_embeddings`.
        max_positions: usize,
    },
    /// Low frequencies divided by `factor`, high ones kept, a ramp between them (arXiv 2309.00071).
    Yarn(Yarn),
    /// Each frequency has its own divisor, from one of two lists (arXiv 2402.13753).
    LongRope {
        /// Divisors for texts of at most `original_positions`; one per pair.
        short: Vec<f64>,
        /// Divisors for longer texts.
        long: Vec<f64>,
        /// How many times longer texts are: `factor`, or the ratio of `max_position_embeddings` to the original.
        factor: f64,
        /// `original_max_position_embeddings`.
        original_positions: usize,
        /// Given attention factor; otherwise √(1 + ln factor / ln original).
        attention_factor: Option<f64>,
    },
    /// Wavelengths beyond `original_positions / low` divided by `factor`, those below `original_positions / high` kept, between
    /// them a mixture (Llama 3.1, arXiv 2407.21783).
    Llama3 {
        /// Divisor.
        factor: f64,
        /// `low_freq_factor`.
        low: f64,
        /// `high_freq_factor`.
        high: f64,
        /// `original_max_position_embeddings`.
        original_positions: usize,
    },
}

/// Parameters of [`Kind::Yarn`].
#[derive(Debug, Clone, PartialEq)]
pub struct Yarn {
    /// How many times longer texts are: `factor`, or the ratio of `max_position_embeddings` to the original.
    pub factor: f64,
    /// `original_max_position_embeddings`.
    pub original_positions: usize,
    /// Turns over the original length above which a frequency is kept; 32 by default.
    pub beta_fast: f64,
    /// Turns below which it is divided; 1 by default.
    pub beta_slow: f64,
    /// Whether the ramp begins and ends at whole pairs; true by default.
    pub truncate: bool,
    /// Given attention factor; otherwise 0.1 ln factor + 1, see also `mscale`.
    pub attention_factor: Option<f64>,
    /// `mscale` and `mscale_all_dim`, where both are given and not 0: the attention factor is the ratio of 0.1 m ln factor + 1
    /// of the two.
    pub mscale: Option<(f64, f64)>,
}

/// The rotation of a model, or of those of its layers that share one.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// `rope_theta`.
    pub theta: f64,
    /// Rotary elements of a head, an even number (see [`rotary_dims`]).
    pub dims: usize,
    /// How it is stretched.
    pub kind: Kind,
}

/// Rotary elements of a head of `head_dim`, of which the `partial` first are turned.
pub fn rotary_dims(head_dim: usize, partial: f64) -> usize {
    (head_dim as f64 * partial) as usize
}

impl Rope {
    /// The frequencies of all pairs for texts of `length` positions, and the attention factor.
    ///
    /// # Panics
    /// If `dims` is odd, or a list of divisors does not fit it.
    pub fn frequencies(&self, length: usize) -> (Vec<f64>, f64) {
        assert!(self.dims.is_multiple_of(2), "rotary elements come in pairs, not {}", self.dims);
        let plain = |theta: f64| -> Vec<f64> {
            (0..self.dims / 2).map(|i| theta.powf(-2.0 * i as f64 / self.dims as f64)).collect()
        };
        let each = |f: &dyn Fn(f64) -> f64| plain(self.theta).into_iter().map(f).collect();
        match &self.kind {
            Kind::Default => (plain(self.theta), 1.0),
            Kind::Linear { factor } => (each(&|f| f / factor), 1.0),
            Kind::Dynamic { factor, max_positions } => {
                let ratio = length.max(*max_positions) as f64 / *max_positions as f64;
                let dims = self.dims as f64;
                (plain(self.theta * (factor * ratio - (factor - 1.0)).powf(dims / (dims - 2.0))), 1.0)
            }
            Kind::Yarn(yarn) => (yarn.ramp(self.theta, plain(self.theta)), yarn.attention_factor()),
            Kind::LongRope { short, long, factor, original_positions, attention_factor } => {
                let divisors = if length > *original_positions { long } else { short };
                assert_eq!(divisors.len(), self.dims / 2, "divisors of rotary frequencies, one per pair");
                let original = *original_positions as f64;
                let natural = if *factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original.ln()).sqrt() };
                let frequencies = plain(self.theta).into_iter().zip(divisors).map(|(f, d)| f / d).collect();
                (frequencies, attention_factor.unwrap_or(natural))
            }
            Kind::Llama3 { factor, low, high, original_positions } => {
                let turns = |f: f64| *original_positions as f64 * f / TAU;
                let mixed = |f: f64| {
                    let share = ((turns(f) - low) / (high - low)).clamp(0.0, 1.0);
                    (1.0 - share) * f / factor + share * f
                };
                // Where both bounds are one, there is nothing between them.
                let stepped = |f: f64| if turns(f) < *low { f / factor } else { f };
                (if low == high { each(&stepped) } else { each(&mixed) }, 1.0)
            }
        }
    }
}

impl Yarn {
    fn attention_factor(&self) -> f64 {
        let scale = |m: f64| if self.factor <= 1.0 { 1.0 } else { 0.1 * m * self.factor.ln() + 1.0 };
        match (self.attention_factor, self.mscale) {
            (Some(factor), _) => factor,
            (None, Some((mscale, all_dim))) if mscale != 0.0 && all_dim != 0.0 => {
                scale(mscale) / scale(all_dim)
            }
            _ => scale(1.0),
        }
    }

    fn ramp(&self, theta: f64, frequencies: Vec<f64>) -> Vec<f64> {
        let dims = 2 * frequencies.len();
        // The pair that makes so many turns over the original length.
        let pair = |turns: f64| {
            dims as f64 * (self.original_positions as f64 / (turns * TAU)).ln() / (2.0 * theta.ln())
        };
        let (mut low, mut high) = (pair(self.beta_fast), pair(self.beta_slow));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(dims as f64 - 1.0));
        if low == high {
            high += 0.001;
        }
        let stretched = |(i, f): (usize, f64)| {
            let share = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
            f / self.factor * share + f * (1.0 - share)
        };
        frequencies.into_iter().enumerate().map(stretched).collect()
    }
}

/// Cosines and sines of positions, times the attention factor. Grows with the positions that are asked for.
#[derive(Debug)]
pub struct Table {
    rope: Rope,
    frequencies: Vec<f64>,
    positions: usize,
    /// Per position: cosines of all pairs, then sines.
    turns: Buffer,
}

impl Table {
    /// A table without positions.
    pub fn new(rope: Rope) -> Self {
        Self { rope, frequencies: Vec::new(), positions: 0, turns: Buffer::default() }
    }

    /// Sees to it that positions below `length`, the length of the longest text at hand, can be turned.
    pub fn prepare(&mut self, length: usize) {
        let follows_length = matches!(self.rope.kind, Kind::Dynamic { .. } | Kind::LongRope { .. });
        if length <= self.positions && !follows_length {
            return;
        }
        let (frequencies, factor) = self.rope.frequencies(length);
        let known = if frequencies == self.frequencies { self.positions } else { 0 };
        if length <= known {
            return;
        }
        let half = frequencies.len();
        self.turns.resize(length * 2 * half);
        for position in known..length {
            let row = &mut self.turns.host_mut()[position * 2 * half..][..2 * half];
            let (cosines, sines) = row.split_at_mut(half);
            for ((f, cosine), sine) in frequencies.iter().zip(cosines).zip(sines) {
                let (s, c) = (position as f64 * f).sin_cos();
                (*cosine, *sine) = ((c * factor) as f32, (s * factor) as f32);
            }
        }
        (self.frequencies, self.positions) = (frequencies, length);
    }
}

/// Which heads of a matrix are turned: `heads` of `head_dim` elements, side by side from element `offset` on, of rows that are
/// `stride` long. In a fused `[q | k | v]` the heads of q and k are turned at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Heads of a row.
    pub heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Element of a row where the first head begins.
    pub offset: usize,
    /// Elements of a row.
    pub stride: usize,
}

impl Heads {
    /// Heads that fill their rows.
    pub fn only(heads: usize, head_dim: usize) -> Self {
        Self { heads, head_dim, offset: 0, stride: heads * head_dim }
    }
}

/// Which way heads are turned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// As the model does.
    Forward,
    /// The transposed map, which takes the gradient of the turned heads to that of the heads.
    Backward,
}

/// Turns the heads of `x` in place. `positions` has one position per row: rows may be padded, packed, or continue a text.
///
/// # Panics
/// If a position is not in the table ([`Table::prepare`]), or the shape does not fit.
pub fn apply(table: &Table, positions: &[u32], heads: Heads, x: &mut Buffer, turn: Turn) {
    let Heads { heads: count, head_dim, offset, stride } = heads;
    assert!(offset + count * head_dim <= stride, "{heads:?} reach beyond their row");
    assert!(table.rope.dims <= head_dim, "{} rotary elements in heads of {head_dim}", table.rope.dims);
    assert_eq!(x.len(), positions.len() * stride, "heads to be turned have one position per row");
    let last = positions.iter().max().map_or(0, |p| *p as usize + 1);
    assert!(last <= table.positions, "position {last} of a table of {}", table.positions);
    if table.rope.dims == 0 || x.is_empty() {
        return;
    }
    let sign = if turn == Turn::Forward { 1.0 } else { -1.0 };
    parallel::for_rows(x.host_mut(), stride, |first, x| {
        turn_rows(table.turns.host(), table.rope.dims, &positions[first..], heads, x, sign);
    });
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn turn_rows(turns: &[f32], dims: usize, positions: &[u32], heads: Heads, x: &mut [f32], sign: f32) {
    for (row, position) in x.chunks_exact_mut(heads.stride).zip(positions) {
        let (cosines, sines) = turns[*position as usize * dims..][..dims].split_at(dims / 2);
        let row = &mut row[heads.offset..][..heads.heads * heads.head_dim];
        for head in row.chunks_exact_mut(heads.head_dim) {
            let (a, b) = head[..dims].split_at_mut(dims / 2);
            for (((a, b), c), s) in a.iter_mut().zip(b).zip(cosines).zip(sines) {
                let (u, v, s) = (*a, *b, s * sign);
                (*a, *b) = (u * c - v * s, v * c + u * s);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::cpu::probe::{
        assert_close, assert_derivative, buffer, golden, noise, numbers, on_any_pool, wide,
    };

    fn kind(record: &Value) -> Kind {
        let parameters = &record["parameters"];
        let max_positions = record["max_position_embeddings"].as_u64().unwrap() as usize;
        let number = |key: &str| parameters[key].as_f64();
        let original_positions = number("original_max_position_embeddings").unwrap_or(0.0) as usize;
        let factor = number("factor").unwrap_or(1.0);
        match parameters["rope_type"].as_str().unwrap() {
            "default" => Kind::Default,
            "linear" => Kind::Linear { factor },
            "dynamic" => Kind::Dynamic { factor, max_positions },
            "yarn" => Kind::Yarn(Yarn {
                factor,
                original_positions,
                beta_fast: number("beta_fast").unwrap_or(32.0),
                beta_slow: number("beta_slow").unwrap_or(1.0),
                truncate: parameters["truncate"].as_bool().unwrap_or(true),
                attention_factor: number("attention_factor"),
                mscale: number("mscale").zip(number("mscale_all_dim")),
            }),
            "longrope" => Kind::LongRope {
                short: numbers(&parameters["short_factor"]),
                long: numbers(&parameters["long_factor"]),
                factor,
                original_positions,
                attention_factor: number("attention_factor"),
            },
            "llama3" => Kind::Llama3 {
                factor,
                low: number("low_freq_factor").unwrap(),
                high: number("high_freq_factor").unwrap(),
                original_positions,
            },
            other => panic!("{other}"),
        }
    }

    #[test]
    fn frequencies_are_those_of_transformers() {
        let records = golden("rope");
        let names =
            ["default", "linear", "dynamic", "yarn", "yarn_mscale", "yarn_given", "longrope", "llama3"];
        for name in names {
            let record = &records[name];
            let theta = record["parameters"]["rope_theta"].as_f64().unwrap();
            let dims = record["dims"].as_u64().unwrap() as usize;
            let rope = Rope { theta, dims, kind: kind(record) };
            for case in record["by_length"].as_array().unwrap() {
                let (found, factor) = rope.frequencies(case["length"].as_u64().unwrap() as usize);
                assert!((factor - case["factor"].as_f64().unwrap()).abs() < 1e-12, "{name}");
                for (found, expected) in found.iter().zip(numbers(&case["frequencies"])) {
                    // transformers computes these in f32.
                    assert!((found / expected - 1.0).abs() < 1e-6, "{name}: {found} instead of {expected}");
                }
            }
        }
    }

    #[test]
    fn a_part_of_the_head_may_turn() {
        let record = golden("rope")["partial"].clone();
        let dims = rotary_dims(32, record["factor"].as_f64().unwrap());
        let rope = Rope { theta: 1e4, dims, kind: Kind::Linear { factor: 2.0 } };
        let expected = numbers(&record["frequencies"]);
        assert_eq!(rope.frequencies(1).0.len(), expected.len());
        for (found, expected) in rope.frequencies(1).0.iter().zip(expected) {
            assert!((found / expected - 1.0).abs() < 1e-6);
        }
    }

    #[test]
    fn turns_as_transformers_does() {
        let record = golden("rope")["apply"].clone();
        let number = |key: &str| record[key].as_f64().unwrap();
        let (heads, head_dim) = (number("heads") as usize, number("head_dim") as usize);
        let kind = Kind::Yarn(Yarn {
            factor: number("factor"),
            original_positions: number("original") as usize,
            beta_fast: 32.0,
            beta_slow: 1.0,
            truncate: true,
            attention_factor: None,
            mscale: None,
        });
        let mut table = Table::new(Rope { theta: number("theta"), dims: head_dim, kind });
        table.prepare(78);
        let positions: Vec<u32> = numbers(&record["positions"]).iter().map(|p| *p as u32).collect();
        for (from, to, turn) in [("x", "y", Turn::Forward), ("d_y", "d_x", Turn::Backward)] {
            let mut x = buffer(&record[from]);
            apply(&table, &positions, Heads::only(heads, head_dim), &mut x, turn);
            // transformers' angles are f32: 77 rad to about 4e-6.
            assert_close(to, &x, &numbers(&record[to]), 1e-5);
        }
    }

    fn table(dims: usize) -> Table {
        let mut table = Table::new(Rope { theta: 1e4, dims, kind: Kind::Default });
        table.prepare(5);
        table.prepare(300);
        table
    }

    /// The definition, in f64.
    fn twin(positions: &[u32], heads: Heads, dims: usize, x: &[f64]) -> Vec<f64> {
        let mut y = x.to_vec();
        for (token, position) in positions.iter().enumerate() {
            for head in 0..heads.heads {
                let start = token * heads.stride + heads.offset + head * heads.head_dim;
                for i in 0..dims / 2 {
                    let angle = f64::from(*position) * 1e4f64.powf(-2.0 * i as f64 / dims as f64);
                    let (a, b) = (x[start + i], x[start + i + dims / 2]);
                    y[start + i] = a * angle.cos() - b * angle.sin();
                    y[start + i + dims / 2] = b * angle.cos() + a * angle.sin();
                }
            }
        }
        y
    }

    #[test]
    fn agrees_with_the_definition_in_any_layout() {
        for (dims, heads) in [
            (8, Heads::only(3, 8)),
            (6, Heads { heads: 2, head_dim: 10, offset: 5, stride: 40 }),
            (64, Heads { heads: 5, head_dim: 80, offset: 0, stride: 500 }),
            (0, Heads::only(1, 4)),
        ] {
            let tokens = 150;
            let positions: Vec<u32> = (0..tokens).map(|i| (i * 37 % 300) as u32).collect();
            let (table, x) = (table(dims), noise(tokens * heads.stride, 3));
            let expected = twin(&positions, heads, dims, &wide(&x));
            let turned = |values: &[f32], turn| {
                on_any_pool(|| {
                    let mut x = Buffer::from(values.to_vec());
                    apply(&table, &positions, heads, &mut x, turn);
                    x
                })
            };
            assert_close("y", &turned(&x, Turn::Forward), &expected, 1e-6);
            let d_y = noise(x.len(), 4);
            let f = |x: &[f64]| {
                let y = twin(&positions, heads, dims, x);
                y.iter().zip(&d_y).map(|(y, d)| y * f64::from(*d)).sum()
            };
            assert_derivative("dx", f, &x, &turned(&d_y, Turn::Backward), 1e-6);
        }
    }

    /// Frequencies that follow the length are followed in both directions.
    #[test]
    fn long_texts_change_the_table() {
        let kind = Kind::Dynamic { factor: 2.0, max_positions: 10 };
        let rope = Rope { theta: 1e4, dims: 8, kind };
        let turned = |lengths: &[usize]| {
            let mut table = Table::new(rope.clone());
            lengths.iter().for_each(|length| table.prepare(*length));
            let mut x = Buffer::from(noise(8, 1));
            apply(&table, &[7], Heads::only(1, 8), &mut x, Turn::Forward);
            x
        };
        assert!(turned(&[10]) == turned(&[40, 9]));
        assert!(turned(&[10]) != turned(&[10, 40]));
    }

    #[test]
    #[should_panic(expected = "position 301 of a table of 300")]
    fn a_position_beyond_the_table_is_refused() {
        apply(&table(4), &[300], Heads::only(1, 4), &mut Buffer::zeros(4), Turn::Forward);
    }
}
