//! What has memory over steps, and its file: `checkpoint-N/adapt.json`. Rows follow from the number of the step.

use std::path::Path;

use onefold_checkpoint::CheckpointError;
use onefold_checkpoint::output::write_file;
use serde::{Deserialize, Serialize};

use super::coefficients::Coefficients;
use super::error::AdaptError;
use super::log::LogState;
use super::settings::Settings;

/// The file.
const FILE: &str = "adapt.json";
/// Its form.
const FORMAT: u32 = 1;

/// The state after a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    format: u32,
    /// Steps that were made.
    pub(super) step: u64,
    pub(super) coefficients: Coefficients,
    /// The least mean loss between two lines of the log, the step of the later one, and what was used then.
    pub(super) best: Option<Best>,
    /// Lines since then.
    stalls: u64,
    /// Why learning is over, if it is.
    pub(super) ended: Option<String>,
    pub(super) log: LogState,
}

/// The coefficients with the least mean loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Best {
    loss: f64,
    pub(super) step: u64,
    pub(super) lambda: Vec<Vec<f64>>,
}

impl State {
    pub(super) fn new(coefficients: Coefficients) -> Self {
        let (best, ended, log) = Default::default();
        Self { format: FORMAT, step: 0, coefficients, best, stalls: 0, ended, log }
    }

    /// Takes the mean loss of the steps since the last line of the log; ends learning if there is patience and it has run out.
    pub(super) fn judge(&mut self, loss: f64, settings: &Settings) {
        let Some(patience) = settings.patience else { return };
        if self.best.as_ref().is_none_or(|best| loss < best.loss - patience.least) {
            let (step, lambda) = (self.step, self.coefficients.used(settings));
            self.best = Some(Best { loss, step, lambda });
            self.stalls = 0;
            return;
        }
        self.stalls += 1;
        if self.stalls >= patience.lines {
            self.ended = Some(format!("no lower loss in {} lines of the log", self.stalls));
        }
    }

    /// Writes the state to a directory, which does not exist yet.
    pub(super) fn save(&self, dir: &Path) -> Result<(), CheckpointError> {
        std::fs::create_dir(dir).map_err(CheckpointError::io(dir, "create"))?;
        let mut text = serde_json::to_vec(self).expect("numbers are always text");
        text.push(b'\n');
        write_file(&dir.join(FILE), &text, false)
    }

    /// Reads a state of learning that begins with `start`.
    pub(super) fn load(dir: &Path, start: &Coefficients) -> Result<Self, AdaptError> {
        let path = dir.join(FILE);
        let wrong = |message: String| AdaptError::State { path: path.clone(), message };
        let text =
            std::fs::read_to_string(&path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
        let state: Self = serde_json::from_str(&text).map_err(|error| wrong(format!("no state: {error}")))?;
        if state.format != FORMAT {
            return Err(wrong(format!("form {}, expected {FORMAT}", state.format)));
        }
        if !start.fits(&state.coefficients) {
            let (groups, experts) = start.shape();
            return Err(wrong(format!("not coefficients of {groups} groups and {experts} experts")));
        }
        Ok(state)
    }
}
