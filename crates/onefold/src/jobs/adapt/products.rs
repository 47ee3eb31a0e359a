//! The models that come out: merge recipes with the coefficients that were learnt or the statistics that were measured, streamed
//! as `onefold merge` does it.
//!
//! One model, if all that is told is told by the model's own words or by one head; else one for each head, in a directory of its
//! task's name.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use indexmap::IndexMap;
use onefold_checkpoint::output::{Opened, Output};
use onefold_merge::methods;
use onefold_merge::stream;
use onefold_train::adapt::{self, Adapted, Method};

use super::{Data, Session};
use crate::measured::Measured;
use crate::plan::{self, Options, Plan};
use crate::progress::Failure;
use crate::recipe::adapt::{Learning, Road};
use crate::recipe::coefficients::{Coefficients, Given};
use crate::recipe::setting::{Plain, Setting};
use crate::recipe::{At, Head, Layout, Located, ModelRef, Parameters, Place, Recipe, Source, statistics};
use crate::tokenizer::FileContent;

/// Name of the file of coefficients.
pub(super) const COEFFICIENTS: &str = "coefficients.json";
/// Name of the recipe that makes a product again.
const MERGE: &str = "merge.yaml";

/// Directory of the files of statistics.
pub(super) const STATISTICS: &str = "statistics";

/// What weighs the experts.
pub(super) enum Weights {
    /// Coefficients.
    Learnt(Coefficients),
    /// What was measured of each; nothing before it was.
    Measured(Vec<Option<Arc<Measured>>>),
}

impl Weights {
    /// What is known of experts that have still to be measured.
    pub(super) fn unmeasured(session: &Session<'_>) -> Self {
        Self::Measured(vec![None; session.recipe.models.len()])
    }
}

/// The file of an expert's statistics, in the output.
pub(super) fn statistics_name(session: &Session<'_>, expert: usize) -> String {
    let task = session.recipe.models[expert].1.as_deref().unwrap_or_default();
    format!("{STATISTICS}/{task}.safetensors")
}

/// A model of the result.
pub(super) struct Product {
    /// Its directory in the output; none: the output itself.
    pub(super) dir: Option<String>,
    /// The expert whose head it has, by number, with the names of the head's tensors.
    head: Option<(usize, Vec<String>)>,
}

impl Product {
    /// All models of the result.
    pub(super) fn all(session: &Session<'_>, data: &Data) -> Vec<Self> {
        let mut products: Vec<Self> = Vec::new();
        let experts = session.experts();
        for (task, teller) in session.recipe.tasks.iter().zip(&data.tellers) {
            let expert = teller.head();
            let head = expert.map(|expert| (expert, adapt::head_tensors(experts[expert].checkpoint.dir())));
            if products.iter().all(|product| product.expert() != expert) {
                let dir = head.as_ref().map_or_else(|| "language".to_owned(), |_| task.name.clone());
                products.push(Self { dir: Some(dir), head });
            }
        }
        if let [product] = &mut products[..] {
            product.dir = None;
        }
        products
    }

    /// The directory of a model that has all that is merged; none: the output itself.
    pub(super) fn trunk(products: &[Self]) -> Option<&str> {
        let found = products.iter().find(|product| product.head.is_none()).or(products.first());
        found.and_then(|product| product.dir.as_deref())
    }

    /// Where the model with the head of an expert lies in `made`, the directory of the whole output.
    pub(super) fn place(products: &[Self], expert: usize, made: &Path) -> PathBuf {
        let found = products.iter().find(|product| product.expert() == Some(expert));
        let dir = found.and_then(|product| product.dir.as_deref());
        dir.map_or_else(|| made.to_owned(), |dir| made.join(dir))
    }

    /// The expert whose head it has.
    pub(super) fn expert(&self) -> Option<usize> {
        self.head.as_ref().map(|(expert, _)| *expert)
    }

    /// The merge that makes it; with `origin`, models are named so that they are found from anywhere.
    fn recipe(&self, session: &Session<'_>, weights: &Weights, origin: bool) -> Recipe {
        let recipe = session.recipe;
        let reference = |model: &ModelRef| match origin {
            true => session.library.get(model).origin.clone(),
            false => model.clone(),
        };
        // From the product's own directory.
        let path = |name: &str| if self.dir.is_some() { format!("../{name}") } else { name.to_owned() };
        let source = |(number, (model, _)): (usize, &(ModelRef, Option<String>))| Source {
            model: reference(model),
            layer_range: None,
            parameters: match &recipe.road {
                Road::Learn(_) => Parameters::default(),
                Road::Measure(measured) => measured.of_models[number].clone(),
            },
            statistics: match weights {
                Weights::Learnt(_) => None,
                Weights::Measured(files) => Some(statistics::Given {
                    read: files[number].clone(),
                    ..statistics::Given::new(&path(&statistics_name(session, number)), Place::START)
                }),
            },
            at: At { place: Place::START, path: String::new() },
        };
        let (method, parameters) = method(&recipe.road);
        let coefficients = match weights {
            Weights::Learnt(read) => {
                Some(Given { path: Located::new(path(COEFFICIENTS), Place::START), read: Some(read.clone()) })
            }
            Weights::Measured(_) => None,
        };
        let head = self.head.as_ref().map(|(expert, tensors)| Head {
            model: reference(&recipe.models[*expert].0),
            tensors: tensors.clone(),
        });
        Recipe {
            name: None,
            method: Located::new(method.to_owned(), Place::START),
            base_model: Some(reference(&recipe.base_model)),
            layout: Layout::Models(recipe.models.iter().enumerate().map(source).collect()),
            parameters,
            coefficients,
            head,
            dtype: None,
            out_dtype: None,
            tokenizer: None,
            chat_template: None,
            text: String::new(),
        }
    }

    /// The plan of the merge, to see what is wrong with it.
    pub(super) fn plan(&self, session: &Session<'_>, weights: &Weights) -> Result<Plan, Failure> {
        self.planned(session, &self.recipe(session, weights, false))
    }

    fn planned(&self, session: &Session<'_>, recipe: &Recipe) -> Result<Plan, Failure> {
        let method = methods::find(&recipe.method.value).expect("the road ends at a method");
        let allow_non_finite = session.common.allow_non_finite;
        let options = Options { seed: session.common.seed, allow_non_finite, ..Options::default() };
        plan::plan(recipe, method, session.library, options).map_err(Failure::Usage)
    }

    /// Writes the model into `made`, the directory of the whole output, with the recipe that makes it again.
    pub(super) fn write(&self, session: &Session<'_>, weights: &Weights, made: &Path) -> Result<(), Failure> {
        let out = self.dir.as_ref().map_or_else(|| made.to_owned(), |dir| made.join(dir));
        let plan = self.plan(session, weights)?;
        let layout = plan.layout(session.args.max_shard_size);
        let Opened { output, finished } =
            Output::create(&out, layout, "adapt", &[], true).map_err(Failure::job)?;
        stream::run(&plan.tensors, &finished, &output, session.shell).map_err(Failure::job)?;
        for file in &plan.files {
            match &file.content {
                FileContent::Copied(from) => output.copy_file(&file.name, from),
                FileContent::New(bytes) => output.add_file(&file.name, bytes),
            }
            .map_err(Failure::job)?;
        }
        let again = self.recipe(session, weights, true).to_yaml();
        output.add_file(MERGE, again.as_bytes()).map_err(Failure::job)?;
        output.commit(plan.config.as_deref().map(str::as_bytes)).map_err(Failure::job)?;
        Ok(())
    }
}

/// The method at the end of a road, with its settings.
fn method(road: &Road) -> (&'static str, Parameters) {
    match road {
        Road::Learn(Learning { method: Method::AdaMerging, .. }) => ("adamerging", Parameters::default()),
        Road::Learn(Learning { method: Method::Plus { density }, .. }) => {
            let density = Setting::Plain(Plain::Number(*density));
            let all = ("density".to_owned(), Located::new(density, Place::START));
            ("adamerging_plus", Parameters::from_iter([all]))
        }
        Road::Measure(measured) => (measured.method, measured.parameters.clone()),
    }
}

/// Coefficients before anything was learnt.
pub(super) fn none(session: &Session<'_>, groups: &[String]) -> Coefficients {
    let none = vec![0.0; session.recipe.models.len()];
    let values = groups.iter().map(|group| (group.clone(), none.clone())).collect();
    Coefficients { models: names(session), values }
}

/// What the recipe calls the experts.
fn names(session: &Session<'_>) -> Vec<String> {
    session.recipe.models.iter().map(|(model, _)| model.to_string()).collect()
}

/// The coefficients that were learnt, as the file has them.
pub(super) fn learnt(session: &Session<'_>, adapted: &Adapted) -> Coefficients {
    let values: IndexMap<String, Vec<f64>> =
        adapted.groups.iter().cloned().zip(adapted.lambda.iter().cloned()).collect();
    Coefficients { models: names(session), values }
}
