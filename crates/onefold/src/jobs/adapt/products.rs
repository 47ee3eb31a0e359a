//! The models that come out: merge recipes with the coefficients that were learnt, streamed as `onefold merge` does it.
//!
//! One model, if all that is told is told by the model's own words or by one head; else one for each head, in a directory of its
//! task's name.

use std::path::Path;

use indexmap::IndexMap;
use onefold_checkpoint::output::{Opened, Output};
use onefold_merge::methods;
use onefold_merge::stream;
use onefold_train::adapt::{self, Adapted, Method};

use super::{Data, Session};
use crate::plan::{self, Options, Plan};
use crate::progress::Failure;
use crate::recipe::coefficients::{Coefficients, Given};
use crate::recipe::setting::{Plain, Setting};
use crate::recipe::{At, Head, Layout, Located, ModelRef, Parameters, Place, Recipe, Source};
use crate::tokenizer::FileContent;

/// Name of the file of coefficients.
pub(super) const COEFFICIENTS: &str = "coefficients.json";
/// Name of the recipe that makes a product again.
const MERGE: &str = "merge.yaml";

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
        for (task, expert) in session.recipe.tasks.iter().zip(&data.experts) {
            let head = expert.map(|expert| (expert, adapt::head_tensors(experts[expert].checkpoint.dir())));
            if products.iter().all(|product| product.expert() != *expert) {
                let dir = head.as_ref().map_or_else(|| "language".to_owned(), |_| task.name.clone());
                products.push(Self { dir: Some(dir), head });
            }
        }
        if let [product] = &mut products[..] {
            product.dir = None;
        }
        products
    }

    fn expert(&self) -> Option<usize> {
        self.head.as_ref().map(|(expert, _)| *expert)
    }

    /// The merge that makes it; with `origin`, models are named so that they are found from anywhere.
    fn recipe(&self, session: &Session<'_>, read: Coefficients, origin: bool) -> Recipe {
        let recipe = session.recipe;
        let reference = |model: &ModelRef| match origin {
            true => session.library.get(model).origin.clone(),
            false => model.clone(),
        };
        let source = |(model, _): &(ModelRef, Option<String>)| Source {
            model: reference(model),
            layer_range: None,
            parameters: Parameters::default(),
            statistics: None,
            at: At { place: Place::START, path: String::new() },
        };
        let (method, parameters) = match recipe.method {
            Method::AdaMerging => ("adamerging", Parameters::default()),
            Method::Plus { density } => {
                let density = Setting::Plain(Plain::Number(density));
                let all = ("density".to_owned(), Located::new(density, Place::START));
                ("adamerging_plus", Parameters::from_iter([all]))
            }
        };
        let path = if self.dir.is_some() { format!("../{COEFFICIENTS}") } else { COEFFICIENTS.to_owned() };
        let head = self.head.as_ref().map(|(expert, tensors)| Head {
            model: reference(&recipe.models[*expert].0),
            tensors: tensors.clone(),
        });
        Recipe {
            name: None,
            method: Located::new(method.to_owned(), Place::START),
            base_model: Some(reference(&recipe.base_model)),
            layout: Layout::Models(recipe.models.iter().map(source).collect()),
            parameters,
            coefficients: Some(Given { path: Located::new(path, Place::START), read: Some(read) }),
            head,
            dtype: None,
            out_dtype: None,
            tokenizer: None,
            chat_template: None,
            text: String::new(),
        }
    }

    /// The plan of the merge, whatever the coefficients will be, to see what is wrong with it.
    pub(super) fn plan(&self, session: &Session<'_>, groups: &[String]) -> Result<Plan, Failure> {
        let none = vec![0.0; session.recipe.models.len()];
        let values = groups.iter().map(|group| (group.clone(), none.clone())).collect();
        self.planned(session, &self.recipe(session, Coefficients { models: names(session), values }, false))
    }

    fn planned(&self, session: &Session<'_>, recipe: &Recipe) -> Result<Plan, Failure> {
        let method = methods::find(&recipe.method.value).expect("AdaMerging is a method");
        let allow_non_finite = session.common.allow_non_finite;
        let options = Options { seed: session.common.seed, allow_non_finite, ..Options::default() };
        plan::plan(recipe, method, session.library, options).map_err(Failure::Usage)
    }

    /// Writes the model into `made`, the directory of the whole output, with the recipe that makes it again.
    pub(super) fn write(
        &self,
        session: &Session<'_>,
        learnt: &Coefficients,
        made: &Path,
    ) -> Result<(), Failure> {
        let out = self.dir.as_ref().map_or_else(|| made.to_owned(), |dir| made.join(dir));
        let plan = self.planned(session, &self.recipe(session, learnt.clone(), false))?;
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
        let again = self.recipe(session, learnt.clone(), true).to_yaml();
        output.add_file(MERGE, again.as_bytes()).map_err(Failure::job)?;
        output.commit(plan.config.as_deref().map(str::as_bytes)).map_err(Failure::job)?;
        Ok(())
    }
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
