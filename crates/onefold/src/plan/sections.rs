//! The recipe's layout as one form: sections of the model, each a list of output slices with their sources.

use indexmap::IndexMap;
use onefold_merge::methods::{BaseRole, Method};

use crate::recipe::{Layout, ModelRef, Module, ModuleContent, OutputSlice, Parameters, Recipe, Source};
use crate::report::counted;

/// A part of the model that has its own layout: all of it, or one module.
#[derive(Debug)]
pub struct Section<'r> {
    /// Name of the module; `None` for the whole model.
    pub module: Option<&'r str>,
    /// Settings of the module.
    pub parameters: &'r Parameters,
    /// Output slices in their order.
    pub slices: Vec<Slice<'r>>,
    /// Whether layers are cut and renumbered (`slices`), or all taken as they are (`models`).
    pub cut: bool,
}

/// Consecutive layers of the output.
#[derive(Debug)]
pub struct Slice<'r> {
    /// Settings of the slice.
    pub parameters: &'r Parameters,
    /// The base, where the method subtracts it.
    pub origin: Option<Part<'r>>,
    /// What is merged, in order.
    pub operands: Vec<Part<'r>>,
    /// Number of layers; unknown for `models`.
    pub layers: Option<usize>,
}

/// A source within a slice.
#[derive(Debug, Clone, Copy)]
pub struct Part<'r> {
    /// Index of the model.
    pub model: usize,
    /// Its first layer in the slice.
    pub first_layer: usize,
    /// Settings at the source.
    pub parameters: &'r Parameters,
}

static NO_PARAMETERS: std::sync::LazyLock<Parameters> = std::sync::LazyLock::new(IndexMap::default);

/// Brings the recipe's layout into sections. `index` numbers the models.
///
/// # Errors
/// Sentences about bases and numbers of models that do not suit the method.
pub fn sections<'r>(
    recipe: &'r Recipe,
    method: &Method,
    index: &dyn Fn(&ModelRef) -> usize,
) -> Result<Vec<Section<'r>>, Vec<String>> {
    let context = Context { recipe, method, index };
    let mut problems = Vec::new();
    let sections = match &recipe.layout {
        Layout::Models(models) => vec![context.whole(None, &NO_PARAMETERS, models, &mut problems)],
        Layout::Slices(slices) => vec![context.cut(None, &NO_PARAMETERS, slices, &mut problems)],
        Layout::Modules(modules) => modules.iter().map(|m| context.module(m, &mut problems)).collect(),
    };
    problems.dedup();
    if problems.is_empty() { Ok(sections) } else { Err(problems) }
}

struct Context<'r, 'c> {
    recipe: &'r Recipe,
    method: &'c Method,
    index: &'c dyn Fn(&ModelRef) -> usize,
}

impl<'r> Context<'r, '_> {
    fn module(&self, module: &'r Module, problems: &mut Vec<String>) -> Section<'r> {
        match &module.content {
            ModuleContent::Models(models) => {
                self.whole(Some(&module.name), &module.parameters, models, problems)
            }
            ModuleContent::Slices(slices) => {
                self.cut(Some(&module.name), &module.parameters, slices, problems)
            }
        }
    }

    fn whole(
        &self,
        module: Option<&'r str>,
        parameters: &'r Parameters,
        models: &'r [Source],
        problems: &mut Vec<String>,
    ) -> Section<'r> {
        let parts: Vec<Part<'r>> = models.iter().map(|s| self.part(s)).collect();
        let base = self.recipe.base_model.as_ref();
        let slice = self.slice(parts, base, &NO_PARAMETERS, None, true, problems);
        Section { module, parameters, slices: vec![slice], cut: false }
    }

    fn cut(
        &self,
        module: Option<&'r str>,
        parameters: &'r Parameters,
        slices: &'r [OutputSlice],
        problems: &mut Vec<String>,
    ) -> Section<'r> {
        let slice = |slice: &'r OutputSlice| {
            let parts: Vec<Part<'r>> = slice.sources.iter().map(|s| self.part(s)).collect();
            let layers = slice.sources.first().and_then(|s| s.layer_range).map(|(a, b)| b - a);
            let base = slice.base_model.as_ref().or(self.recipe.base_model.as_ref());
            self.slice(parts, base, &slice.parameters, layers, false, problems)
        };
        Section { module, parameters, slices: slices.iter().map(slice).collect(), cut: true }
    }

    fn part(&self, source: &'r Source) -> Part<'r> {
        let first_layer = source.layer_range.map_or(0, |(first, _)| first);
        Part { model: (self.index)(&source.model), first_layer, parameters: &source.parameters }
    }

    /// Gives the base its role. It need not be listed where whole models are merged (`implicit`); in `slices` only a
    /// listed base says which of its layers is meant.
    fn slice(
        &self,
        mut parts: Vec<Part<'r>>,
        base: Option<&ModelRef>,
        parameters: &'r Parameters,
        layers: Option<usize>,
        implicit: bool,
        problems: &mut Vec<String>,
    ) -> Slice<'r> {
        let method = self.method;
        let base_index = base.map(|b| (self.index)(b));
        let listed = parts.iter().position(|p| Some(p.model) == base_index);
        let takes_base = method.base != BaseRole::Donor;
        let base_part = match (takes_base, base_index, listed) {
            (true, _, Some(at)) => Some(parts.remove(at)),
            (true, Some(model), None) if implicit => {
                Some(Part { model, first_layer: 0, parameters: &NO_PARAMETERS })
            }
            (true, Some(_), None) if matches!(method.base, BaseRole::Origin | BaseRole::Operand) => {
                problems.push(format!(
                    "{}: the base model {} is no source of every slice; list it with the layer_range to compare with",
                    method.name,
                    base.map(ToString::to_string).unwrap_or_default()
                ));
                None
            }
            _ => None,
        };
        if base_part.is_none()
            && base.is_none()
            && matches!(method.base, BaseRole::Origin | BaseRole::Operand)
        {
            problems.push(format!("{} needs `base_model`", method.name));
        }
        let (origin, operands) = match method.base {
            BaseRole::Origin | BaseRole::OptionalOrigin => (base_part, parts),
            BaseRole::Operand | BaseRole::OptionalOperand => {
                (None, base_part.into_iter().chain(parts).collect())
            }
            BaseRole::Donor => (None, parts),
        };
        self.check_count(&operands, problems);
        Slice { parameters, origin, operands, layers }
    }

    fn check_count(&self, operands: &[Part<'r>], problems: &mut Vec<String>) {
        let (least, most) = self.method.operands;
        if (least..=most).contains(&operands.len()) {
            return;
        }
        let expected = match (least, most) {
            (a, b) if a == b => format!("exactly {}", counted(a as u64, "model")),
            (a, usize::MAX) => format!("at least {}", counted(a as u64, "model")),
            (a, b) => format!("{a} to {}", counted(b as u64, "model")),
        };
        let which =
            if self.method.base == BaseRole::Operand { "(the base counts)" } else { "besides the base" };
        problems.push(format!("{}: {expected} {which} expected, found {}", self.method.name, operands.len()));
    }
}
