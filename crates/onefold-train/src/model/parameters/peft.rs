//! Adapters as PEFT saves them: `adapter_model.safetensors` and `adapter_config.json`.
//!
//! Modules are named as in the running model of transformers 5 (vit's are called otherwise in its files). What was trained
//! beside the adapters, heads above all, is saved whole, under `modules_to_save`; the head of a classifier always, since
//! PEFT takes it for a part of such an adapter.

use std::collections::{BTreeMap, BTreeSet};

use onefold_checkpoint::Dtype;
use onefold_checkpoint::output::Layout;
use serde_json::{Map, Value, json};

use super::adapt::Adapter;
use super::directory::Destination;
use super::heads::is_head;
use super::save::{Source, laid_out, write};
use super::{Factor, Origin, Parameter, ParameterId, Parameters, Part, SaveError};
use crate::config::{Head, ModelConfig};
use crate::families::{Half, Role, TensorSpec, architecture, base_prefix, library, module, tensors};

/// What every name begins with.
const ROOT: &str = "base_model.model";

/// An adapted module.
struct Adapted<'a> {
    path: String,
    spec: &'a TensorSpec,
    adapter: &'a Adapter,
}

/// What goes into the directory.
struct Content<'a> {
    adapted: Vec<Adapted<'a>>,
    /// Modules that are saved whole, by the names that `modules_to_save` has.
    whole: BTreeSet<String>,
    tensors: BTreeMap<String, Source<'a>>,
}

impl Parameters {
    /// Writes the adapters, and what else was trained, as a directory that PEFT opens on the model called `base`: with the
    /// model's own head, or that of a task.
    ///
    /// # Errors
    /// If there is no adapter, PEFT cannot hold what was trained, the system refuses, the place is taken, or a number is
    /// not finite; nothing is left there then.
    pub fn save_adapter(&self, task: Option<u32>, base: &str, to: &Destination<'_>) -> Result<(), SaveError> {
        let config = match task {
            None => &self.config,
            Some(task) => self.heads.get(&task).ok_or(SaveError::NoTaskHead { task })?,
        };
        let mut content =
            Content { adapted: self.adapted(config, task), whole: BTreeSet::new(), tensors: BTreeMap::new() };
        check_alike(&content.adapted)?;
        self.add_factors(&mut content);
        self.add_whole(&mut content, config, task)?;
        let settings = settings(config, &content, base);
        let sources: Vec<_> = content.tensors.into_iter().collect();
        let layout = Layout::with_stem("adapter_model", laid_out(sources.clone()), u64::MAX);
        to.build(layout, None, |output| {
            write(sources, output)?;
            Ok(output.add_file("adapter_config.json", settings.as_bytes())?)
        })?;
        Ok(())
    }

    fn adapted(&self, config: &ModelConfig, task: Option<u32>) -> Vec<Adapted<'_>> {
        let adapted = |(id, adapter): (&ParameterId, _)| {
            let spec = self[*id].spec().expect("adapters are of weights");
            let path = module(config, &spec.name).expect("weights are of modules");
            // With the head of a task goes nothing of the model's own.
            (task.is_none() || !is_head(spec)).then_some(Adapted { path, spec, adapter })
        };
        self.adapters.iter().filter_map(adapted).collect()
    }

    fn add_factors<'a>(&'a self, content: &mut Content<'a>) {
        for Adapted { path, adapter, .. } in &content.adapted {
            let Adapter { a, b, magnitude, .. } = **adapter;
            let factors = [(Factor::A, Some(a)), (Factor::B, Some(b)), (Factor::Magnitude, magnitude)];
            for (factor, id) in factors.into_iter().filter_map(|(factor, id)| Some((factor, id?))) {
                content.tensors.insert(format!("{ROOT}.{path}.{}", factor.name()), self.numbers(id));
            }
        }
    }

    /// The modules that are saved whole, each with all that it has.
    fn add_whole<'a>(
        &'a self,
        content: &mut Content<'a>,
        config: &ModelConfig,
        task: Option<u32>,
    ) -> Result<(), SaveError> {
        let specs = || self.iter().filter_map(|(id, entry)| Some((id, entry, entry.spec()?)));
        let used = |spec: &TensorSpec| match (spec.half, task) {
            (Half::Task(of), _) => Some(of) == task,
            (_, Some(_)) => !is_head(spec),
            (_, None) => true,
        };
        for (id, entry, spec) in specs().filter(|(_, _, spec)| used(spec)) {
            if self.is_trainable(id) || is_class_head(config, spec) {
                content.whole.insert(self.whole_module(config, entry, spec)?);
            }
        }
        for (id, _, spec) in specs().filter(|(_, _, spec)| used(spec)) {
            let Some(path) = module(config, &spec.name) else { continue };
            if content.whole.iter().any(|whole| lies_in(&path, whole)) {
                let part = if spec.part == Part::Bias { "bias" } else { "weight" };
                content.tensors.insert(format!("{ROOT}.{path}.{part}"), self.numbers(id));
            }
        }
        match content.adapted.iter().find(|one| content.whole.iter().any(|whole| lies_in(&one.path, whole))) {
            Some(one) => Err(refused(&one.spec.name, "PEFT saves its module whole")),
            None => Ok(()),
        }
    }

    /// The name under which PEFT saves the module of a tensor whole.
    fn whole_module(
        &self,
        config: &ModelConfig,
        entry: &Parameter,
        spec: &TensorSpec,
    ) -> Result<String, SaveError> {
        let refused = |why| refused(&entry.name, why);
        let of_language = is_head(spec) && config.common().head == Head::Language;
        let (tied, encoder) = match config {
            ModelConfig::Decoder(config) => (config.tied, false),
            ModelConfig::Encoder(config) => (config.tied, true),
            ModelConfig::Vision(_) | ModelConfig::Clip(_) => (false, false),
        };
        if of_language && encoder {
            return Err(refused("the head that scores masked words is no module of its own"));
        }
        if spec.role == Role::TokenEmbedding && tied && config.common().head == Head::Language {
            return Err(refused("the head is tied to it, and PEFT would part them"));
        }
        let path = module(config, &spec.name).ok_or_else(|| refused("it is no part of a module"))?;
        // The heads of classifiers are modules at the top, some with layers in them.
        let top = is_class_head(config, spec).then(|| path.split('.').next().map(str::to_owned)).flatten();
        Ok(top.unwrap_or(path))
    }

    fn numbers(&self, id: ParameterId) -> Source<'_> {
        match &self[id].origin {
            Origin::Stored { tensor, .. } if !self.is_trainable(id) => Source::Stored(tensor),
            _ => Source::Added(self.full(id), Dtype::F32, &self[id].shape),
        }
    }
}

/// Whether a tensor belongs to the module at the top that scores classes.
fn is_class_head(config: &ModelConfig, spec: &TensorSpec) -> bool {
    let classes = matches!(config.common().head, Head::Classes(_) | Head::Tokens(_));
    classes && is_head(spec) && spec.role != Role::Pooler
}

fn lies_in(path: &str, whole: &str) -> bool {
    path.strip_prefix(whole).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn refused(tensor: &str, why: &'static str) -> SaveError {
    SaveError::NotInAdapter { tensor: tensor.to_owned(), why }
}

/// PEFT has one variant and one dropout for all.
fn check_alike(adapted: &[Adapted<'_>]) -> Result<(), SaveError> {
    let variant = |one: &Adapted<'_>| {
        let Adapter { magnitude, rank_stabilised, dropout, .. } = *one.adapter;
        (magnitude.is_some(), rank_stabilised, dropout.to_bits())
    };
    let first = adapted.first().ok_or(SaveError::NoAdapter)?;
    match adapted.iter().find(|one| variant(one) != variant(first)) {
        Some(other) => {
            Err(SaveError::MixedAdapters { first: first.path.clone(), second: other.path.clone() })
        }
        None => Ok(()),
    }
}

/// The text of `adapter_config.json`.
fn settings(config: &ModelConfig, content: &Content<'_>, base: &str) -> String {
    let adapted = &content.adapted;
    let Adapter { magnitude, rank, alpha, rank_stabilised, dropout, .. } = *adapted[0].adapter;
    let different = |differs: fn(&Adapter, &Adapter) -> bool, value: fn(&Adapter) -> Value| -> Value {
        let others = adapted.iter().filter(|one| differs(one.adapter, adapted[0].adapter));
        others.map(|one| (one.path.clone(), value(one.adapter))).collect::<Map<_, _>>().into()
    };
    let kind = task_type(config);
    let auto = kind
        .is_none()
        .then(|| json!({"base_model_class": architecture(config), "parent_library": library(config)}));
    let settings = BTreeMap::from([
        ("alpha_pattern", different(|a, b| a.alpha.to_bits() != b.alpha.to_bits(), |a| number(a.alpha))),
        ("auto_mapping", json!(auto)),
        ("base_model_name_or_path", json!(base)),
        ("bias", json!("none")),
        ("fan_in_fan_out", json!(adapted[0].spec.part == Part::Transposed)),
        ("inference_mode", json!(true)),
        ("init_lora_weights", json!(true)),
        ("lora_alpha", number(alpha)),
        ("lora_dropout", json!(dropout)),
        ("modules_to_save", json!((!content.whole.is_empty()).then_some(&content.whole))),
        ("peft_type", json!("LORA")),
        ("r", json!(rank)),
        ("rank_pattern", different(|a, b| a.rank != b.rank, |a| json!(a.rank))),
        ("revision", Value::Null),
        ("target_modules", json!(targets(config, adapted))),
        ("task_type", json!(kind)),
        ("use_dora", json!(magnitude.is_some())),
        ("use_rslora", json!(rank_stabilised)),
    ]);
    format!("{:#}\n", json!(settings))
}

/// PEFT's alpha is an integer in all but rare files.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value < 1e15 { json!(value as u64) } else { json!(value) }
}

fn task_type(config: &ModelConfig) -> Option<&'static str> {
    let decoder = matches!(config, ModelConfig::Decoder(_));
    match config {
        ModelConfig::Decoder(_) | ModelConfig::Encoder(_) => match config.common().head {
            Head::None => Some("FEATURE_EXTRACTION"),
            Head::Language => decoder.then_some("CAUSAL_LM"),
            Head::Classes(_) => Some("SEQ_CLS"),
            Head::Tokens(_) => Some("TOKEN_CLS"),
        },
        ModelConfig::Vision(_) | ModelConfig::Clip(_) => None,
    }
}

/// Names that match the adapted modules and no others: the last parts of their paths, if these will do.
fn targets(config: &ModelConfig, adapted: &[Adapted<'_>]) -> BTreeSet<String> {
    let last = |path: &str| path.rsplit('.').next().unwrap_or(path).to_owned();
    let paths: BTreeSet<String> = adapted.iter().map(|one| one.path.clone()).collect();
    let ends: BTreeSet<String> = paths.iter().map(|path| last(path)).collect();
    // Some classes have a pooler that nothing here computes with.
    let pooler = format!("{}pooler.dense.weight", base_prefix(config));
    let names = tensors(config).into_iter().map(|spec| spec.name).chain([pooler]);
    let mut others = names.filter_map(|name| module(config, &name)).filter(|path| !paths.contains(path));
    if others.any(|path| ends.contains(&last(&path))) { paths } else { ends }
}

#[cfg(test)]
mod tests;
