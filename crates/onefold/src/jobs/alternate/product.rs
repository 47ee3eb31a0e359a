//! The models that come out: a round's model in the types of the first one, with the head of each task that has one.

use std::path::Path;

use onefold_checkpoint::output::write_file;
use onefold_checkpoint::{Checkpoint, CheckpointError, Tensor};
use onefold_train::alternate::merged;
use onefold_train::config::ModelConfig;
use onefold_train::tune::{self, Form, Prepared, Product, Source};

use super::round::{ADAPTER, several};
use super::setup::{World, refused};
use crate::progress::Failure;
use crate::recipe::alternate::Adapters;

/// A task as a product has it: its name, its classes, and where its head is kept; none if it writes.
pub(super) type Headed<'a> = (&'a str, Vec<String>, Option<&'a Path>);

/// The model of a round with all heads, in memory; tensors have the types of the first model.
pub(super) fn open(world: &World<'_>, model: &Path, tasks: &[Headed<'_>]) -> Result<Prepared, Failure> {
    let types = world.base().checkpoint.tensors();
    let checkpoint = Checkpoint::open(model).map_err(|errors| several(&errors))?;
    let of = |(name, tensor): (&String, &Tensor)| {
        let dtype = types.get(name).map_or(tensor.dtype, |first| first.dtype);
        (name.clone(), tensor.written_as(dtype))
    };
    let tensors = checkpoint.tensors().iter().map(of).collect();
    let config = ModelConfig::open(world.base_dir()).map_err(|error| Failure::usage(error.to_string()))?;
    merged(&config, &checkpoint.seen_as(tensors), tasks).map_err(refused)
}

/// The directories of the models that come out.
pub(super) fn products(tasks: &[Headed<'_>]) -> Vec<Product> {
    let names: Vec<String> = tasks.iter().map(|(name, ..)| (*name).to_owned()).collect();
    let heads: Vec<Option<u32>> =
        (0..).zip(tasks).map(|(number, (_, _, head))| head.is_some().then_some(number)).collect();
    tune::products(&names, &heads)
}

/// Writes them to `made`, which does not exist yet.
pub(super) fn write(
    world: &World<'_>,
    model: &Path,
    tasks: &[Headed<'_>],
    made: &Path,
) -> Result<(), Failure> {
    if world.recipe.merge.adapters == Adapters::Concatenate {
        return adapter(model, made).map_err(Failure::job);
    }
    let prepared = open(world, model, tasks)?;
    let (base, name) = (world.base_dir(), world.base().label.as_str());
    let source = Source { parameters: &prepared.parameters, base, name };
    let products = products(tasks);
    tune::save(&source, &products, Form::Model, made).map_err(Failure::job)?;
    let Some(text) = &world.recipe.tuning.chat_template else { return Ok(()) };
    for product in &products {
        let dir = product.dir.as_ref().map_or_else(|| made.to_owned(), |name| made.join(name));
        write_file(&dir.join("chat_template.jinja"), text.as_bytes(), true).map_err(Failure::job)?;
    }
    Ok(())
}

/// The adapter of a round.
fn adapter(model: &Path, made: &Path) -> Result<(), CheckpointError> {
    std::fs::create_dir(made).map_err(CheckpointError::io(made, "create"))?;
    for name in ["adapter_model.safetensors", "adapter_config.json"] {
        let from = model.join(ADAPTER).join(name);
        let bytes = std::fs::read(&from).map_err(CheckpointError::io(&from, "read"))?;
        write_file(&made.join(name), &bytes, false)?;
    }
    Ok(())
}
