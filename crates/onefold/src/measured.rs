//! What was measured of a model on its own inputs, as a merge reads it: opened files, and the numbers of each of the model's
//! tensors. Numbers are mapped and not read here.
//!
//! What runs models also writes and reads these files, so without the feature `train` there are none.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use onefold_checkpoint::Tensor;
use onefold_merge::methods::measured::Statistic;

use crate::models::Model;

/// A file of statistics.
#[derive(Debug)]
pub struct Measured {
    /// The file.
    pub file: PathBuf,
    /// Of how many examples.
    pub examples: u64,
    /// How it was measured, in the words of whoever did.
    pub options: BTreeMap<String, String>,
    #[cfg(feature = "train")]
    statistics: onefold_train::statistics::Statistics,
}

/// The statistics of a model's tensors, by the names that these have in its checkpoint.
#[derive(Debug, Default)]
pub struct OfTensors {
    /// Statistics of each tensor that was measured.
    pub tensors: BTreeMap<String, Tensor>,
    /// The same, where what belongs to no head and no neuron has the mean of all as factor; only of mask nodes.
    pub mean_elsewhere: Option<BTreeMap<String, Tensor>>,
    /// Names of weights that are stored [in, out].
    pub transposed: BTreeSet<String>,
}

impl Measured {
    /// How it was measured, in one line.
    pub fn describe(&self) -> String {
        let options = self.options.iter().map(|(key, value)| format!(", {key} {value}"));
        format!(
            "{} ({}{})",
            self.file.display(),
            crate::report::counted(self.examples, "example"),
            options.collect::<String>()
        )
    }
}

#[cfg(not(feature = "train"))]
impl Measured {
    /// Opens a file of statistics.
    ///
    /// # Errors
    /// Always: this build does not know them.
    pub fn open(path: &Path, _: Statistic) -> Result<Self, String> {
        Err(format!("{}: this build of onefold cannot read statistics; use one with `train`", path.display()))
    }

    /// The statistics of each tensor of `model`.
    ///
    /// # Errors
    /// Never: there are none.
    pub fn of_tensors(&self, _: &Model) -> Result<OfTensors, Vec<String>> {
        Ok(OfTensors::default())
    }
}

#[cfg(feature = "train")]
impl Measured {
    /// Opens a file of statistics, or the one in a directory, that holds what a method needs.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn open(path: &Path, needs: Statistic) -> Result<Self, String> {
        use onefold_train::statistics::{Kind, Statistics};
        let kind = match needs {
            Statistic::Fisher => Kind::Fisher,
            Statistic::Gram => Kind::Gram,
            Statistic::Nodes => Kind::Nodes,
        };
        let file = Statistics::file(path);
        let statistics = Statistics::open(&file).and_then(|found| found.of_kind(kind, &file));
        let statistics = statistics.map_err(|error| error.to_string())?;
        let (examples, options) = (statistics.examples, statistics.options.clone());
        Ok(Self { file, examples, options, statistics })
    }

    /// The statistics of each tensor of `model`.
    ///
    /// # Errors
    /// Sentences that say why they are of another model.
    pub fn of_tensors(&self, model: &Model) -> Result<OfTensors, Vec<String>> {
        use onefold_train::statistics::Kind;
        if self.statistics.kind == Kind::Nodes {
            return self.of_nodes(model).map_err(|message| vec![self.of_another(model, &message)]);
        }
        let theirs = model.checkpoint.tensors();
        let strange: Vec<&String> =
            self.statistics.tensors.keys().filter(|name| !theirs.contains_key(*name)).collect();
        if !strange.is_empty() {
            let names = crate::report::elided(strange.into_iter());
            return Err(vec![self.of_another(model, &format!("it has no tensor {names}"))]);
        }
        let (tensors, transposed) = (self.statistics.tensors.clone(), self.statistics.transposed.clone());
        Ok(OfTensors { tensors, mean_elsewhere: None, transposed })
    }

    fn of_another(&self, model: &Model, message: &str) -> String {
        format!(
            "the statistics {} are not of the model {}: {message}; measure them on the model that is merged",
            self.file.display(),
            model.label
        )
    }

    /// One number of each head and neuron becomes a factor of every element.
    fn of_nodes(&self, model: &Model) -> Result<OfTensors, String> {
        use onefold_train::config::ModelConfig;
        use onefold_train::families::find;
        use onefold_train::statistics::{LayerNodes, NodeFactors};
        let layers = LayerNodes::of(&self.statistics).map_err(|error| error.to_string())?;
        let (checkpoint, dir) = (&model.checkpoint, model.checkpoint.dir());
        let config = ModelConfig::open(dir).map_err(|error| error.to_string())?;
        let found = find(&config, checkpoint.tensors(), dir).map_err(|error| error.to_string())?;
        let factors = |mean_elsewhere: bool| -> Result<BTreeMap<String, Tensor>, String> {
            let factors = NodeFactors { layers: &layers, mean_elsewhere };
            let mut tensors = factors.expand(&found.tensors).map_err(|error| error.to_string())?;
            // Tied matrices that are stored once more, among others.
            let others = found.unused.iter().map(|name| {
                let shape = checkpoint.tensors()[name].shape.clone();
                (name.clone(), factors.of_no_node(shape))
            });
            tensors.extend(others);
            Ok(tensors)
        };
        let mean_elsewhere = Some(factors(true)?);
        Ok(OfTensors { tensors: factors(false)?, mean_elsewhere, transposed: BTreeSet::new() })
    }
}
