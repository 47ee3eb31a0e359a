//! `surgery`: whether features of the merged model are corrected, and how.

use onefold_runtime::params::Kind;
use onefold_train::statistics::SurgerySettings;
use serde_json::{Value, json};

use super::super::keys::{Keys, POSITIVE};
use crate::recipe::node::Data;
use crate::recipe::scalar::Meaning;

/// Most that a correction is wide inside; features are a few thousand wide.
const WIDEST: i64 = 1 << 16;

/// Reads the key: `true`, `false`, or settings of which those that are left out are the paper's.
pub(super) fn read(top: &mut Keys<'_, '_>, seed: u64) -> Option<SurgerySettings> {
    let plain = SurgerySettings { seed, ..SurgerySettings::default() };
    let node = top.node("surgery")?;
    if let Data::Scalar { meaning: Meaning::Bool(wanted), .. } = node.data {
        return wanted.then_some(plain);
    }
    let mut keys = top.mapping("surgery", "`true`, or settings as in `{rank: 16, steps: 1000}`")?;
    let count = |found: Option<u64>, plain: usize| found.map_or(plain, |n| n as usize);
    let rank = keys.number("rank", &Kind::Integer { min: 1, max: WIDEST });
    let settings = SurgerySettings {
        rank: rank.map_or(plain.rank, |rank| rank as usize),
        steps: count(keys.count("steps", 1), plain.steps),
        batch: count(keys.count("batch", 1), plain.batch),
        learning_rate: keys.number("lr", &POSITIVE).unwrap_or(plain.learning_rate),
        seed,
    };
    keys.finish();
    Some(settings)
}

/// The settings as they are read.
pub(super) fn written(settings: &SurgerySettings) -> Value {
    let SurgerySettings { rank, steps, batch, learning_rate, .. } = settings;
    json!({"rank": rank, "steps": steps, "lr": learning_rate, "batch": batch})
}
