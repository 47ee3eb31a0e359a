//! What a training leaves: models that transformers loads, or adapters that PEFT loads.
//!
//! One model, if the tasks share a head or there is only one; else one for each head, in a directory of its task's name.

use std::path::{Path, PathBuf};

use onefold_checkpoint::{Checkpoint, adapter};

use super::error::TuneError;
use crate::model::{Destination, Parameters, ParametersError, save_checkpoint};

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Whole models; adapters are merged into them.
    Model,
    /// Adapters alone.
    Adapter,
    /// Whole models, with the adapters in `adapter/`.
    Both,
}

/// A model of the result: the trunk with a head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Product {
    /// Its directory in the output; none: the output itself.
    pub dir: Option<String>,
    /// The task whose head it has; none: the model's own.
    pub head: Option<u32>,
}

/// What is trained, with the model it came from.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The numbers.
    pub parameters: &'a Parameters,
    /// Directory of the model that was trained.
    pub base: &'a Path,
    /// What the recipe calls it.
    pub name: &'a str,
}

/// The models of a result. `heads` says for each of the `names` whose head it has.
pub fn products(names: &[String], heads: &[Option<u32>]) -> Vec<Product> {
    let mut products: Vec<Product> = Vec::new();
    for (name, head) in names.iter().zip(heads) {
        if products.iter().all(|product| product.head != *head) {
            let dir = head.map_or_else(|| "language".to_owned(), |_| name.clone());
            products.push(Product { dir: Some(dir), head: *head });
        }
    }
    if let [product] = &mut products[..] {
        product.dir = None;
    }
    products
}

/// Writes all models to `out`, which does not exist yet.
///
/// # Errors
/// If the system refuses, or a number does not fit the type in which it is stored.
pub fn save(source: &Source<'_>, products: &[Product], form: Form, out: &Path) -> Result<(), TuneError> {
    for product in products {
        let dir = product.dir.as_ref().map_or_else(|| out.to_owned(), |name| out.join(name));
        source.save(product.head, form, &dir)?;
    }
    Ok(())
}

impl Source<'_> {
    fn save(&self, head: Option<u32>, form: Form, out: &Path) -> Result<(), TuneError> {
        match form {
            Form::Adapter => self.save_adapter(head, out),
            Form::Model if self.parameters.has_adapters() => {
                let aside = beside(out, "adapter");
                self.save_adapter(head, &aside)?;
                self.save_merged(head, &aside, out)?;
                remove(&aside)
            }
            Form::Model => self.save_plain(head, out),
            Form::Both => {
                let aside = beside(out, "adapter");
                self.save_adapter(head, &aside)?;
                self.save_merged(head, &aside, out)?;
                let inside = out.join("adapter");
                std::fs::rename(&aside, &inside)
                    .map_err(onefold_checkpoint::CheckpointError::io(&inside, "move"))?;
                Ok(())
            }
        }
    }

    fn save_adapter(&self, head: Option<u32>, out: &Path) -> Result<(), TuneError> {
        let to = Destination { source: self.base, out, replace: false };
        Ok(self.parameters.save_adapter(head, self.name, &to)?)
    }

    fn save_plain(&self, head: Option<u32>, out: &Path) -> Result<(), TuneError> {
        let to = Destination { source: self.base, out, replace: false };
        match head {
            Some(task) => self.parameters.save_task(task, &to)?,
            None => self.parameters.save(&to)?,
        };
        Ok(())
    }

    /// The model with the adapter of `dir` merged into it.
    fn save_merged(&self, head: Option<u32>, dir: &Path, out: &Path) -> Result<(), TuneError> {
        // With its own head the model is there already; with that of a task it has to be written first.
        let aside = beside(out, "unmerged");
        let plain = if head.is_some() { aside.as_path() } else { self.base };
        if head.is_some() {
            self.save_plain(head, plain)?;
        }
        let open = || -> Result<Checkpoint, Vec<onefold_checkpoint::CheckpointError>> {
            adapter::apply(Checkpoint::open(plain)?, dir)
        };
        let merged = open().map_err(ParametersError::Checkpoint)?;
        save_checkpoint(&merged, &Destination { source: plain, out, replace: false })?;
        drop(merged);
        if head.is_some() { remove(&aside) } else { Ok(()) }
    }
}

/// A place beside `out`, for what is moved or removed again.
fn beside(out: &Path, what: &str) -> PathBuf {
    let mut name = out.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{what}"));
    out.with_file_name(name)
}

fn remove(dir: &Path) -> Result<(), TuneError> {
    Ok(std::fs::remove_dir_all(dir).map_err(onefold_checkpoint::CheckpointError::io(dir, "remove"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_model_for_each_head() {
        let names = ["a", "b", "c"].map(str::to_owned);
        let dirs = |heads: &[Option<u32>]| -> Vec<_> {
            products(&names[..heads.len()], heads)
                .into_iter()
                .map(|product| (product.dir, product.head))
                .collect()
        };
        assert_eq!(dirs(&[None, None, None]), [(None, None)]);
        assert_eq!(dirs(&[Some(0)]), [(None, Some(0))]);
        let two = [(Some("language".to_owned()), None), (Some("b".to_owned()), Some(1))];
        assert_eq!(dirs(&[None, Some(1), None]), two);
    }
}
