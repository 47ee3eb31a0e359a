//! Images that cannot be decoded, found before training meets them.
//!
//! All images are decoded up to a number of them; of larger sets as many, evenly spread, and the message says so.

use rayon::prelude::*;

use crate::data::task::Task;

/// Images that are decoded: some minutes on one core.
const MOST: usize = 20_000;
/// Images that are named.
const SHOWN: usize = 5;

/// A message if there are broken images.
pub(super) fn broken(task: &Task) -> Option<String> {
    let rows: Vec<u32> = task.train.iter().chain(&task.validation).copied().collect();
    let step = rows.len().div_ceil(MOST).max(1);
    let looked: Vec<u32> = rows.iter().copied().step_by(step).collect();
    let error = |row: &u32| task.picture(*row).and_then(|picture| picture.decode().err());
    let errors: Vec<_> = looked.par_iter().filter_map(error).map(|error| error.to_string()).collect();
    if errors.is_empty() {
        return None;
    }
    let sample = if step > 1 { format!(" (of {} in all)", rows.len()) } else { String::new() };
    let first: Vec<_> = errors.iter().take(SHOWN).map(|error| format!("\n    {error}")).collect();
    Some(format!(
        "{} of {} images looked at{sample} cannot be read{}",
        errors.len(),
        looked.len(),
        first.concat()
    ))
}
