//! Which layers of which models make up the output: `models`, `slices` or `modules`. Read by
//! `read_layout.rs`.

use indexmap::IndexMap;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::model_ref::ModelRef;
use super::problems::Place;
use super::setting::Parameters;
use super::statistics::Given;

/// What the output is put together from.
#[derive(Debug, Clone, PartialEq)]
pub enum Layout {
    /// Whole models.
    Models(Vec<Source>),
    /// Runs of layers, one after the other.
    Slices(Vec<OutputSlice>),
    /// Each part of a composite model by itself.
    Modules(Vec<Module>),
}

/// A model, or some of its layers, as one input.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// The model.
    pub model: ModelRef,
    /// Its layers `[start, end)`, with `start < end`; `None` (all) exactly in `models`.
    pub layer_range: Option<(usize, usize)>,
    /// Settings of this model.
    pub parameters: Parameters,
    /// What was measured of it on its own inputs.
    pub statistics: Option<Given>,
    /// Where the entry stands.
    pub at: At,
}

/// A run of layers of the output.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OutputSlice {
    /// Its inputs, all with the same number of layers.
    pub sources: Vec<Source>,
    /// Its base, in place of the recipe's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_model: Option<ModelRef>,
    /// Settings of this slice.
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub parameters: Parameters,
    /// Where the entry stands.
    #[serde(skip)]
    pub at: At,
}

/// Where an entry stands. All are equal, so that recipes compare by content.
#[derive(Debug, Clone)]
pub struct At {
    /// Its place.
    pub place: Place,
    /// Its key path, such as `slices[0].sources[1]`.
    pub path: String,
}

impl PartialEq for At {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// A part of a composite model.
#[derive(Debug, Clone, PartialEq)]
pub struct Module {
    /// Its name in the architecture, such as `text_decoder`.
    pub name: String,
    /// What it is put together from.
    pub content: ModuleContent,
    /// Settings of this module.
    pub parameters: Parameters,
}

/// What a module is put together from.
#[derive(Debug, Clone, PartialEq)]
pub enum ModuleContent {
    /// Whole modules.
    Models(Vec<Source>),
    /// Runs of layers.
    Slices(Vec<OutputSlice>),
}

impl Layout {
    /// All sources, in the recipe's order.
    pub fn sources(&self) -> Vec<&Source> {
        match self {
            Self::Models(models) => models.iter().collect(),
            Self::Slices(slices) => slices.iter().flat_map(|slice| &slice.sources).collect(),
            Self::Modules(modules) => modules.iter().flat_map(|module| module.content.sources()).collect(),
        }
    }

    /// All slices, in the recipe's order; none in `models`.
    pub fn slices(&self) -> Vec<&OutputSlice> {
        match self {
            Self::Models(_) => Vec::new(),
            Self::Slices(slices) => slices.iter().collect(),
            Self::Modules(modules) => modules
                .iter()
                .flat_map(|module| match &module.content {
                    ModuleContent::Models(_) => [].as_slice(),
                    ModuleContent::Slices(slices) => slices,
                })
                .collect(),
        }
    }
}

impl ModuleContent {
    fn sources(&self) -> Vec<&Source> {
        match self {
            Self::Models(models) => models.iter().collect(),
            Self::Slices(slices) => slices.iter().flat_map(|slice| &slice.sources).collect(),
        }
    }
}

impl Serialize for Source {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("model", &self.model)?;
        if let Some((start, end)) = self.layer_range {
            map.serialize_entry("layer_range", &[start, end])?;
        }
        if let Some(task) = &self.model.task {
            map.serialize_entry("task", task)?;
        }
        if let Some(given) = &self.statistics {
            map.serialize_entry("statistics", &given.path)?;
        }
        if !self.parameters.is_empty() {
            map.serialize_entry("parameters", &self.parameters)?;
        }
        map.end()
    }
}

impl Serialize for Module {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match &self.content {
            ModuleContent::Models(models) => map.serialize_entry("models", models)?,
            ModuleContent::Slices(slices) => map.serialize_entry("slices", slices)?,
        }
        if !self.parameters.is_empty() {
            map.serialize_entry("parameters", &self.parameters)?;
        }
        map.end()
    }
}
