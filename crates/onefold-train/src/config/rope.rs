//! Rotary position embeddings, in the spelling of both major versions of transformers.
//!
//! Version 5 has one object `rope_parameters` {`rope_type`, `rope_theta`, `factor` …}, or one per layer type; version 4
//! has `rope_theta` (and gemma3's `rope_local_base_freq`) with `rope_scaling`, whose type stands under `rope_type` or,
//! older, `type`. If both are there, `rope_parameters` is taken.
//!
//! The dimension rotated is `⌊head_dim · partial_rotary_factor⌋`; the rest of a head passes unchanged. Plain frequencies are
//! `f_i = θ^(−2i/d)`; what a type does to them stands at its variant.

use serde_json::Value;

use super::ConfigError;
use super::fields::Fields;

/// Rotation of queries and keys by position.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Base θ of the frequencies.
    pub theta: f64,
    /// How many dimensions of a head are rotated; even.
    pub rotary_dim: usize,
    /// What happens to the frequencies.
    pub scaling: RopeScaling,
}

/// How frequencies are changed for texts longer than those of pre-training.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// `f_i / factor`.
    Linear {
        /// By how much.
        factor: f64,
    },
    /// NTK: from `original` positions on, `θ' = θ · (factor · n / original − factor + 1)^(d/(d−2))` for n positions.
    Dynamic {
        /// By how much.
        factor: f64,
        /// Positions before scaling begins: `max_position_embeddings`.
        original: usize,
    },
    /// YaRN (arXiv 2309.00071): between the dimensions that turn `beta_fast` and `beta_slow` times within `original`
    /// positions, a ramp from `f_i` to `f_i / factor`; cosine and sine times an attention factor.
    Yarn {
        /// By how much.
        factor: f64,
        /// Positions of pre-training.
        original: usize,
        /// Factor of cosine and sine; none: from `factor`, `mscale` and `mscale_all_dim`.
        attention_factor: Option<f64>,
        /// Turns above which a dimension is left alone.
        beta_fast: f64,
        /// Turns below which a dimension is scaled fully.
        beta_slow: f64,
        /// Numerator of the attention factor.
        mscale: Option<f64>,
        /// Denominator of the attention factor.
        mscale_all_dim: Option<f64>,
        /// Whether the ends of the ramp are whole dimensions.
        truncate: bool,
    },
    /// LongRoPE (arXiv 2402.13753): `f_i / short_i`, or `f_i / long_i` for more than `original` positions; cosine and
    /// sine times the attention factor.
    LongRope {
        /// Divisors within `original` positions, one per frequency.
        short: Vec<f64>,
        /// Divisors beyond, one per frequency.
        long: Vec<f64>,
        /// Positions of pre-training.
        original: usize,
        /// Factor of cosine and sine: as given, else `√(1 + ln s / ln original)` with `s` the `factor` or
        /// `max_position_embeddings / original`, and 1 if `s` ≤ 1.
        attention_factor: f64,
    },
    /// Llama 3: wavelengths below `original / high` stay, above `original / low` are divided by `factor`, between them
    /// a ramp.
    Llama3 {
        /// By how much.
        factor: f64,
        /// Lower bound of the ramp, in turns.
        low: f64,
        /// Upper bound of the ramp, in turns.
        high: f64,
        /// Positions of pre-training.
        original: usize,
    },
}

const TYPES: &str = "default, linear, dynamic, yarn, longrope, llama3";

/// What a family adds to the keys.
#[derive(Debug, Clone, Copy)]
pub(super) struct RopeDefaults {
    /// Base of layers with full attention, if no key names it.
    pub(super) theta: f64,
    /// Base of layers with a window, if it differs by family (gemma3).
    pub(super) local_theta: Option<f64>,
    /// Dimension of a head.
    pub(super) head_dim: usize,
    /// `max_position_embeddings`.
    pub(super) positions: usize,
    /// Positions of pre-training that the family keeps outside of the object (phi3); it wins.
    pub(super) original: Option<usize>,
    /// Old names of the type that mean longrope (phi3: `su` and `yarn`).
    pub(super) old_longrope: bool,
}

/// The rotation of layers with full attention, and of those with a window.
pub(super) fn read(fields: &Fields<'_>, defaults: &RopeDefaults) -> Result<(Rope, Rope), ConfigError> {
    let new = fields.object("rope_parameters")?;
    let old = fields.object("rope_scaling")?;
    let theta = fields.positive("rope_theta", defaults.theta)?;
    let local_theta = fields.positive_if_there("rope_local_base_freq")?.or(defaults.local_theta);
    let partial = fields.positive_if_there("partial_rotary_factor")?;
    let one = |part: Option<&Fields<'_>>, theta| rope(fields, part, theta, partial, defaults);
    let (full, sliding) = match &new {
        Some(new) => (new.object("full_attention")?, new.object("sliding_attention")?),
        None => (None, None),
    };
    if full.is_some() || sliding.is_some() {
        let local = local_theta.unwrap_or(theta);
        return Ok((one(full.as_ref(), theta)?, one(sliding.as_ref(), local)?));
    }
    let full = one(new.as_ref().or(old.as_ref()), theta)?;
    let sliding = match local_theta {
        Some(local) => one(None, local)?,
        None => full.clone(),
    };
    Ok((full, sliding))
}

fn rope(
    config: &Fields<'_>,
    part: Option<&Fields<'_>>,
    theta: f64,
    partial: Option<f64>,
    defaults: &RopeDefaults,
) -> Result<Rope, ConfigError> {
    let (theta, partial) = match part {
        None => (theta, partial),
        Some(part) => (
            part.positive("rope_theta", theta)?,
            part.positive_if_there("partial_rotary_factor")?.or(partial),
        ),
    };
    let partial = partial.unwrap_or(1.0);
    let rotary_dim = (defaults.head_dim as f64 * partial) as usize;
    if partial > 1.0 || rotary_dim == 0 || rotary_dim % 2 == 1 {
        return Err(config.contradiction(format!(
            "`head_dim` {} and `partial_rotary_factor` {partial} rotate {rotary_dim} dimensions; expected an even \
             number of at most `head_dim`",
            defaults.head_dim
        )));
    }
    let scaling = match part {
        None => RopeScaling::None,
        Some(part) => scaling(part, rotary_dim, defaults)?,
    };
    Ok(Rope { theta, rotary_dim, scaling })
}

fn scaling(
    part: &Fields<'_>,
    rotary_dim: usize,
    defaults: &RopeDefaults,
) -> Result<RopeScaling, ConfigError> {
    // Some files keep keys of other types, or notes.
    for key in ["original_max_position_embeddings", "finetuned"] {
        part.get(key);
    }
    let old = part.text("type")?;
    let name = part.text("rope_type")?.or(old).unwrap_or("default");
    let factor = || part.positive_if_there("factor")?.ok_or_else(|| part.missing("factor"));
    let original = || {
        let inside = part.size_if_there("original_max_position_embeddings")?;
        Ok::<_, ConfigError>(defaults.original.or(inside).unwrap_or(defaults.positions))
    };
    let scaling = match name {
        "default" => {
            part.get("factor"); // which gemma3's class leaves behind
            RopeScaling::None
        }
        "su" | "longrope" => longrope(part, rotary_dim, original()?, defaults)?,
        "yarn" if defaults.old_longrope => longrope(part, rotary_dim, original()?, defaults)?,
        "linear" => RopeScaling::Linear { factor: factor()? },
        "dynamic" => RopeScaling::Dynamic { factor: factor()?, original: defaults.positions },
        "yarn" => yarn(part, factor()?, original()?)?,
        "llama3" => llama3(part, factor()?, original()?)?,
        other => {
            let key = if part.get("rope_type").is_some() { "rope_type" } else { "type" };
            return Err(part.unsupported(key, &Value::from(other), TYPES));
        }
    };
    match part.unread().next() {
        None => Ok(scaling),
        Some(key) => Err(config_key(part, &key, name)),
    }
}

/// A key that this type of rope does not have: it might change the result.
fn config_key(part: &Fields<'_>, key: &str, name: &str) -> ConfigError {
    part.contradiction(format!(
        "key `{key}`: not a setting of rope type {name:?}; remove it if it has no effect"
    ))
}

fn yarn(part: &Fields<'_>, factor: f64, original: usize) -> Result<RopeScaling, ConfigError> {
    let (beta_fast, beta_slow) = (part.positive("beta_fast", 32.0)?, part.positive("beta_slow", 1.0)?);
    if beta_fast < beta_slow {
        return Err(
            part.contradiction(format!("rope: `beta_fast` {beta_fast} is below `beta_slow` {beta_slow}"))
        );
    }
    Ok(RopeScaling::Yarn {
        factor,
        original,
        attention_factor: part.positive_if_there("attention_factor")?,
        beta_fast,
        beta_slow,
        mscale: part.number_if_there("mscale")?,
        mscale_all_dim: part.number_if_there("mscale_all_dim")?,
        truncate: part.flag("truncate", true)?,
    })
}

fn longrope(
    part: &Fields<'_>,
    rotary_dim: usize,
    original: usize,
    defaults: &RopeDefaults,
) -> Result<RopeScaling, ConfigError> {
    let list = |key: &str| {
        let list = part.numbers(key)?.ok_or_else(|| part.missing(key))?;
        if list.len() == rotary_dim / 2 {
            return Ok(list);
        }
        let found = Value::from(format!("{} numbers", list.len()));
        Err(part.wrong(key, format!("{} numbers, half of the rotated dimensions", rotary_dim / 2), &found))
    };
    let factor = part.positive_if_there("factor")?;
    let factor = factor.unwrap_or(defaults.positions as f64 / original as f64);
    let usual = if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / (original as f64).ln()).sqrt() };
    let attention_factor = part.positive("attention_factor", usual)?;
    if !attention_factor.is_finite() {
        return Err(
            part.contradiction(format!("rope: longrope with {original} original positions has no scale"))
        );
    }
    Ok(RopeScaling::LongRope {
        short: list("short_factor")?,
        long: list("long_factor")?,
        original,
        attention_factor,
    })
}

fn llama3(part: &Fields<'_>, factor: f64, original: usize) -> Result<RopeScaling, ConfigError> {
    let bound = |key: &str| part.positive_if_there(key)?.ok_or_else(|| part.missing(key));
    let (low, high) = (bound("low_freq_factor")?, bound("high_freq_factor")?);
    if low >= high {
        return Err(part
            .contradiction(format!("rope: `low_freq_factor` {low} is not below `high_freq_factor` {high}")));
    }
    Ok(RopeScaling::Llama3 { factor, low, high, original })
}
