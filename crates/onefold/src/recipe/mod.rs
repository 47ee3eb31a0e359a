//! Recipes: mergekit's YAML, read completely and judged completely before anything else happens.
//!
//! ```text
//! text ─ yaml ─▶ tree ─ edit (--set) ─▶ tree ─ layout, setting, tokenizer, model_ref ─▶ Recipe ─ check, order ─▶ jobs
//! ```
//!
//! [`parse`] and every check write what is wrong to one [`Problems`], so that the user sees all of it at once.
//! mergekit ignores keys it does not know; here they are errors, because a recipe that says `weight:` in the
//! wrong place merges something else than was meant. Nothing outside this folder knows the YAML form.

#[cfg(feature = "train")]
pub mod adapt;
#[cfg(feature = "train")]
pub mod alternate;
pub mod check;
pub mod coefficients;
pub mod edit;
#[cfg(feature = "train")]
pub mod eval;
pub mod fields;
#[cfg(feature = "train")]
mod keys;
pub mod layout;
mod loader;
pub mod model_ref;
pub mod node;
pub mod order;
pub mod problems;
mod read_layout;
pub mod scalar;
pub mod setting;
pub mod statistics;
pub mod tokenizer;
#[cfg(feature = "train")]
pub mod tune;
mod write;
pub mod yaml;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use onefold_checkpoint::Dtype;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

pub use check::{check_method, check_parameters};
pub use layout::{At, Layout, Module, ModuleContent, OutputSlice, Source};
pub use model_ref::{AdapterRef, ModelRef};
pub use order::order;
pub use problems::{Located, Place, Problem, Problems, did_you_mean, listed};
pub use setting::{Parameters, Setting, resolve};
pub use tokenizer::{TokenName, TokenSource, TokenSpec, TokenizerSource, TokenizerSpec};
#[cfg(feature = "train")]
pub(crate) use write::yaml as to_yaml;

use fields::Fields;
use node::{Document, Node};

/// One merge.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    /// Name by which other merges of the same file refer to its result.
    pub name: Option<Located<String>>,
    /// The merge method (`merge_method`).
    pub method: Located<String>,
    /// The base θ₀.
    pub base_model: Option<ModelRef>,
    /// What the output is put together from.
    pub layout: Layout,
    /// Settings for everything.
    pub parameters: Parameters,
    /// Where the models' weights stand, tensor by tensor.
    pub coefficients: Option<coefficients::Given>,
    /// The model whose head the output has.
    pub head: Option<Head>,
    /// Type the inputs are converted to.
    pub dtype: Option<Dtype>,
    /// Type the output is stored in.
    pub out_dtype: Option<Dtype>,
    /// The output's vocabulary.
    pub tokenizer: Option<TokenizerSpec>,
    /// The output's chat template: a known name or a template.
    pub chat_template: Option<String>,
    /// The text it was read from, verbatim, before any `--set`.
    pub text: String,
}

/// A model of which some tensors are taken as they are, with everything beside the weights: one task's head on a merged trunk.
#[derive(Debug, Clone, PartialEq)]
pub struct Head {
    /// The model.
    pub model: ModelRef,
    /// Parts of the names of those tensors: whole parts between dots, from the left of the name or behind its first part.
    pub tensors: Vec<String>,
}

impl Head {
    /// Whether a tensor is part of the head.
    pub fn has(&self, tensor: &str) -> bool {
        let without = tensor.split_once('.').map_or("", |(_, rest)| rest);
        let begins = |name: &str, part: &str| {
            name == part || name.strip_prefix(part).is_some_and(|rest| rest.starts_with('.'))
        };
        self.tensors.iter().any(|part| begins(tensor, part) || begins(without, part))
    }
}

/// The recipes of a file, without problems.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// The merges, in the file's order; [`order()`] says in which order to run them.
    pub recipes: Vec<Recipe>,
    /// Warnings, one line each; only if lenient.
    pub warnings: Vec<String>,
}

/// Reads the recipe file `file_name` with the given text, changed by the `--set` texts.
///
/// `lenient` turns unknown and ineffective keys into warnings. Settings are judged against a method by
/// [`check_parameters`]; to see those problems together with these, use [`parse`] with one [`Problems`].
pub fn read(text: &str, file_name: &str, sets: &[String], lenient: bool) -> Result<Reading, Problems> {
    let mut problems = Problems::new(file_name, sets, lenient);
    let recipes = parse(text, sets, &mut problems);
    let (recipes, problems) = problems.or(recipes)?;
    Ok(Reading { recipes, warnings: problems.warning_texts() })
}

/// Reads what can be read of a recipe file and reports the rest. The recipes are whole only if there are no
/// problems; with problems they serve for further checks.
pub fn parse(text: &str, sets: &[String], problems: &mut Problems) -> Vec<Recipe> {
    let Some(mut documents) = yaml::parse(text, problems) else { return Vec::new() };
    if documents.is_empty() {
        problems.error(Place::START, "", "the recipe is empty", None);
        return Vec::new();
    }
    edit::apply(&mut documents, sets, problems);
    let recipes: Vec<_> = documents.iter().filter_map(|document| recipe(document, problems)).collect();
    names(&recipes, problems);
    if recipes.len() == documents.len() {
        order(&recipes, problems);
    }
    recipes
}

fn recipe(document: &Document, problems: &mut Problems) -> Option<Recipe> {
    let root = &document.root;
    let mut top = Fields::of(root, "", "a recipe", problems)?;
    let text = |node: &Node, key: &str, what: &str, problems: &mut Problems| {
        let text = fields::text(node, key, what, problems)?;
        Some(Located::new(text.to_owned(), node.place))
    };
    let method = top.get("merge_method").map(|n| text(n, "merge_method", "a merge method", problems));
    if method.is_none() {
        problems.error(root.place, "", "no `merge_method`", None);
    }
    let base_model = top.get("base_model").and_then(|n| ModelRef::read(n, "base_model", problems));
    let layout = read_layout::read(&mut top, root.place, problems);
    let parameters = setting::read(top.get("parameters"), "parameters", problems);
    let given = top.get("coefficients").map(|n| text(n, "coefficients", "a file of coefficients", problems));
    let coefficients = given.flatten().map(|path| coefficients::Given { path, read: None });
    let head = top.get("head").and_then(|node| head(node, problems));
    let dtype = dtype(&mut top, "dtype", problems);
    let out_dtype = self::dtype(&mut top, "out_dtype", problems);
    let tokenizer = tokenizer::read(&mut top, problems);
    let chat_template = tokenizer::chat_template(&mut top, problems);
    let name = top.get("name").and_then(|n| text(n, "name", "a name", problems));
    top.finish(problems);
    Some(Recipe {
        name,
        method: method??,
        base_model,
        layout: layout.unwrap_or(Layout::Models(Vec::new())),
        parameters,
        coefficients,
        head,
        dtype,
        out_dtype,
        tokenizer,
        chat_template,
        text: document.text.clone(),
    })
}

/// `{model: …, tensors: [classifier, …]}`.
fn head(node: &Node, problems: &mut Problems) -> Option<Head> {
    let mut fields = Fields::of(node, "head", "a model with the tensors of its head", problems)?;
    let model = fields.get("model").map(|node| ModelRef::read(node, "head.model", problems));
    let tensors = fields.get("tensors").map(|node| {
        let items = fields::list(node, "head.tensors", "a list of names", problems)?;
        let named = |item: &Node| Some(fields::text(item, "head.tensors", "a name", problems)?.to_owned());
        items.iter().map(named).collect::<Option<Vec<String>>>()
    });
    fields.finish(problems);
    for (key, given) in [("model", model.is_some()), ("tensors", tensors.is_some())] {
        if !given {
            let help = "as in `head: {model: ./expert, tensors: [classifier]}`".to_owned();
            problems.error(node.place, "head", format!("no `{key}`"), Some(help));
        }
    }
    Some(Head { model: model??, tensors: tensors?? })
}

/// Types a recipe may name.
const DTYPES: [&str; 7] =
    ["bfloat16", "float16", "float32", "float64", "float8_e4m3fn", "float8_e5m2", "int64"];

fn dtype(top: &mut Fields<'_>, key: &'static str, problems: &mut Problems) -> Option<Dtype> {
    let node = top.get(key)?;
    let text = fields::text(node, key, "a type", problems)?;
    let dtype = Dtype::from_torch(text).filter(|dtype| dtype.is_float() || *dtype == Dtype::I64);
    if dtype.is_none() {
        let known = || format!("known types are {}", problems::listed(DTYPES));
        let help = problems::suggestion(text, DTYPES).unwrap_or_else(known);
        problems.error(node.place, key, format!("unknown type {}", node::shortened(text)), Some(help));
    }
    dtype
}

/// Names are unique, and can be referred to and used as directory names; at most one merge has none.
fn names(recipes: &[Recipe], problems: &mut Problems) {
    let mut seen = BTreeMap::new();
    for name in recipes.iter().filter_map(|recipe| recipe.name.as_ref()) {
        if seen.insert(&name.value, ()).is_some() {
            problems.error(name.place, "name", format!("two merges are named `{}`", name.value), None);
        }
        let usable =
            !name.value.contains(['/', '\\', '@', '+', '\0']) && !matches!(name.value.as_str(), "." | "..");
        if !usable {
            let message = format!("{} cannot name a directory", node::shortened(&name.value));
            let help = "use a name without `/`, `\\`, `@` and `+`".to_owned();
            problems.error(name.place, "name", message, Some(help));
        }
    }
    for recipe in recipes.iter().filter(|recipe| recipe.name.is_none()).skip(1) {
        let message = "a second merge without `name`";
        let help = "every merge needs a `name`, except the one that makes the final model".to_owned();
        problems.error(recipe.method.place, "", message, Some(help));
    }
}

impl Recipe {
    /// All models it refers to, repetitions included: base, sources, bases of slices, tokenizers.
    pub fn references(&self) -> Vec<&ModelRef> {
        let bases = self.layout.slices().into_iter().filter_map(|slice| slice.base_model.as_ref());
        let sources = self.layout.sources().into_iter().map(|source| &source.model);
        let tokenizers = self.tokenizer.iter().flat_map(TokenizerSpec::references);
        let head = self.head.iter().map(|head| &head.model);
        self.base_model.iter().chain(sources).chain(bases).chain(tokenizers).chain(head).collect()
    }

    /// The model whose config and tokenizer the output takes: that of the head, else the base, else the first listed model.
    pub fn donor(&self) -> Option<&ModelRef> {
        if let Some(head) = &self.head {
            return Some(&head.model);
        }
        let first = || self.layout.sources().first().map(|source| &source.model);
        self.base_model.as_ref().or_else(first)
    }

    /// The recipe as it was understood, as YAML that reads back to an equal recipe (but for `text`).
    pub fn to_yaml(&self) -> String {
        write::yaml(&serde_json::to_value(self).unwrap_or_default())
    }
}

/// The recipe as it was understood, in the form it is read in; without `text`.
impl Serialize for Recipe {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if let Some(name) = &self.name {
            map.serialize_entry("name", name)?;
        }
        map.serialize_entry("merge_method", &self.method)?;
        if let Some(base) = &self.base_model {
            map.serialize_entry("base_model", base)?;
        }
        match &self.layout {
            Layout::Models(models) => map.serialize_entry("models", models)?,
            Layout::Slices(slices) => map.serialize_entry("slices", slices)?,
            Layout::Modules(modules) => {
                let modules: indexmap::IndexMap<_, _> = modules.iter().map(|m| (&m.name, m)).collect();
                map.serialize_entry("modules", &modules)?;
            }
        }
        if !self.parameters.is_empty() {
            map.serialize_entry("parameters", &self.parameters)?;
        }
        if let Some(given) = &self.coefficients {
            map.serialize_entry("coefficients", &given.path)?;
        }
        if let Some(head) = &self.head {
            let entry = serde_json::json!({"model": head.model, "tensors": head.tensors});
            map.serialize_entry("head", &entry)?;
        }
        for (key, dtype) in [("dtype", self.dtype), ("out_dtype", self.out_dtype)] {
            if let Some(dtype) = dtype {
                map.serialize_entry(key, dtype.torch_name())?;
            }
        }
        if let Some(tokenizer) = &self.tokenizer {
            map.serialize_entry("tokenizer", tokenizer)?;
        }
        if let Some(template) = &self.chat_template {
            map.serialize_entry("chat_template", template)?;
        }
        map.end()
    }
}
