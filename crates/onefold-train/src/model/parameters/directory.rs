//! Whole model directories: what [`Parameters::save`] and [`Parameters::save_task`] write loads in transformers as it is.
//!
//! Weights come from the parameters. Everything else comes from the model that was trained: `config.json` with what the
//! head of a task changes in it, and the files beside the weights byte for byte.

use std::fs::read_to_string;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use onefold_checkpoint::beside::SideFiles;
use onefold_checkpoint::json::Object;
use onefold_checkpoint::output::{Layout, Opened, Output};
use onefold_checkpoint::{Checkpoint, CheckpointError, Dtype};
use onefold_engine::Buffer;
use serde_json::{Value, json};

use super::save::{Source, laid_out, write};
use super::{Parameters, SaveError};
use crate::config::{Head, ModelConfig, Problem};
use crate::families::architecture;

/// Where a model goes, and what it was made of.
#[derive(Debug, Clone, Copy)]
pub struct Destination<'a> {
    /// The directory of the model that was trained.
    pub source: &'a Path,
    /// The directory to be made.
    pub out: &'a Path,
    /// Whether a model that is there already is replaced.
    pub replace: bool,
}

/// Writes the tensors of a checkpoint as they are, computed ones among them, as a model with the configuration and the files of
/// `to.source`.
///
/// # Errors
/// As [`Parameters::save`].
pub fn save_checkpoint(checkpoint: &Checkpoint, to: &Destination<'_>) -> Result<SideFiles, SaveError> {
    let config = read_config(to.source)?;
    let sources: Vec<_> =
        checkpoint.tensors().iter().map(|(name, tensor)| (name.clone(), Source::Stored(tensor))).collect();
    let layout = Layout::new(laid_out(sources.clone()), SHARD);
    to.build(layout, Some(&config), |output| write(sources, output))
}

/// Writes vectors of numbers to `dir/STEM.safetensors`, with other files beside it.
///
/// # Errors
/// If the system refuses, the place is taken, or a number is not finite; nothing is left there then.
pub fn save_buffers(
    dir: &Path,
    stem: &str,
    buffers: &[(String, &Buffer)],
    files: &[(&str, Vec<u8>)],
) -> Result<(), SaveError> {
    let shapes: Vec<[usize; 1]> = buffers.iter().map(|(_, buffer)| [buffer.len()]).collect();
    let mut sources: Vec<_> = (buffers.iter().zip(&shapes))
        .map(|((name, buffer), shape)| (name.clone(), Source::Added(buffer, Dtype::F32, shape)))
        .collect();
    sources.sort_by(|(a, _), (b, _)| a.cmp(b));
    let layout = Layout::with_stem(stem, laid_out(sources.clone()), u64::MAX);
    let to = Destination { source: dir, out: dir, replace: false };
    to.build_from(&[], layout, None, |output| {
        write(sources, output)?;
        Ok(files.iter().try_for_each(|(name, bytes)| output.add_file(name, bytes))?)
    })?;
    Ok(())
}

/// Most bytes of a file of weights, as transformers has it.
const SHARD: u64 = 5_000_000_000;

impl Parameters {
    /// Writes the model: weights, `config.json`, and the files beside them, which are returned.
    ///
    /// # Errors
    /// If the system refuses, the place is taken, or a number does not fit the type in which it is stored; nothing is left
    /// there then.
    pub fn save(&self, to: &Destination<'_>) -> Result<SideFiles, SaveError> {
        let config = read_config(to.source)?;
        let layout = Layout::new(self.output_tensors(), SHARD);
        to.build(layout, Some(&config), |output| self.write(output))
    }

    /// Writes the trunk with the head of a task as the model of that task.
    ///
    /// # Errors
    /// As [`Parameters::save`]; and if the task has no head.
    pub fn save_task(&self, task: u32, to: &Destination<'_>) -> Result<SideFiles, SaveError> {
        let tensors = self.task_tensors(task).ok_or(SaveError::NoTaskHead { task })?;
        let text = read_config(to.source)?;
        let edited = with_head(&text, &self.heads[&task]);
        let config =
            edited.map_err(|source| SaveError::Config { path: to.source.join("config.json"), source })?;
        to.build(Layout::new(tensors, SHARD), Some(&config), |output| self.write_task(task, output))
    }
}

impl Destination<'_> {
    /// Writes weights with what stands beside them; all of it is there, or nothing.
    pub(super) fn build(
        &self,
        layout: Layout,
        config: Option<&str>,
        write: impl FnOnce(&Output) -> Result<(), SaveError>,
    ) -> Result<SideFiles, SaveError> {
        self.build_from(&[self.source.to_owned()], layout, config, write)
    }

    fn build_from(
        &self,
        inputs: &[PathBuf],
        layout: Layout,
        config: Option<&str>,
        write: impl FnOnce(&Output) -> Result<(), SaveError>,
    ) -> Result<SideFiles, SaveError> {
        let beside = if config.is_some() { SideFiles::find(self.source)? } else { SideFiles::default() };
        // Like no other: what an interrupted run left is never gone on with.
        let job = format!("save {:?}", SystemTime::now());
        let Opened { output, .. } = Output::create(self.out, layout, &job, inputs, self.replace)?;
        let written = write(&output).and_then(|()| Ok(beside.copy(self.source, &output)?));
        if let Err(error) = written {
            output.discard();
            return Err(error);
        }
        output.commit(config.map(str::as_bytes))?;
        Ok(beside)
    }
}

fn read_config(source: &Path) -> Result<String, CheckpointError> {
    let path = source.join("config.json");
    read_to_string(&path).map_err(CheckpointError::io(&path, "read"))
}

/// The text of a `config.json` with what belongs to a head: the class that loads it, its labels, what scores mean.
fn with_head(text: &str, config: &ModelConfig) -> Result<String, serde_json::Error> {
    let mut object = Object::parse(text)?;
    let common = config.common();
    object.set("architectures", &json!([architecture(config)]));
    let (Head::Classes(count) | Head::Tokens(count)) = common.head else { return Ok(object.print()) };
    let name = |id: usize| common.labels.get(id).cloned().unwrap_or_else(|| format!("LABEL_{id}"));
    let names: Vec<(String, usize)> = (0..count).map(|id| (name(id), id)).collect();
    let by_id: serde_json::Map<String, Value> =
        names.iter().map(|(name, id)| (id.to_string(), json!(name))).collect();
    let by_name: serde_json::Map<String, Value> =
        names.into_iter().map(|(name, id)| (name, json!(id))).collect();
    object.set("id2label", &by_id.into());
    object.set("label2id", &by_name.into());
    if object.contains("num_labels") {
        object.set("num_labels", &json!(count));
    }
    match (common.head, common.problem) {
        (Head::Tokens(_), _) => drop(object.remove("problem_type")),
        (_, Problem::SingleLabel) => drop(object.set("problem_type", &json!("single_label_classification"))),
        (_, Problem::MultiLabel) => drop(object.set("problem_type", &json!("multi_label_classification"))),
        (_, Problem::Regression) => drop(object.set("problem_type", &json!("regression"))),
    }
    Ok(object.print())
}

#[cfg(test)]
mod tests;
