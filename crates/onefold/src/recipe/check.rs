//! Settings of a recipe against what its merge method declares.

use onefold_merge::params::{Default, Kind, Level, Param, Value};

use super::Recipe;
use super::fields::{TOP, join};
use super::layout::{Layout, ModuleContent, OutputSlice, Source};
use super::model_ref::ModelRef;
use super::problems::{Located, Place, Problems, did_you_mean, listed};
use super::setting::{Case, Parameters, Plain, Setting};

/// Reports a `merge_method` that is none of `methods`; says whether it is one.
pub fn check_method(recipe: &Recipe, methods: &[&str], problems: &mut Problems) -> bool {
    let method = &recipe.method;
    let known = methods.contains(&method.value.as_str());
    if !known {
        let help = match did_you_mean(&method.value, methods.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("known methods are {}", listed(methods.iter().copied())),
        };
        let message = format!("unknown merge method {}", super::node::shortened(&method.value));
        problems.error(method.place, "merge_method", message, Some(help));
    }
    known
}

/// Reports every setting that the method with these `params` does not take, does not take there, or not with
/// that value, and every required one that is missing.
///
/// A required setting that is only given for some tensors (a list of cases without one for all) passes: which
/// tensors there are is known when the merge is planned.
pub fn check_parameters(recipe: &Recipe, params: &[Param], problems: &mut Problems) {
    let check = Check { recipe, params };
    check.whole_models(problems);
    check.level(&recipe.parameters, "parameters", Level::Global, problems);
    match &recipe.layout {
        Layout::Models(models) => check.models(models, &[&recipe.parameters], problems),
        Layout::Slices(slices) => check.slices(slices, &[&recipe.parameters], problems),
        Layout::Modules(modules) => {
            for module in modules {
                let path = join(&join("modules", &module.name), "parameters");
                check.level(&module.parameters, &path, Level::Global, problems);
                let above = [&module.parameters, &recipe.parameters];
                match &module.content {
                    ModuleContent::Models(models) => check.models(models, &above, problems),
                    ModuleContent::Slices(slices) => check.slices(slices, &above, problems),
                }
            }
        }
    }
}

struct Check<'r> {
    recipe: &'r Recipe,
    params: &'r [Param],
}

impl Check<'_> {
    /// What goes with whole models alone, or with weights.
    fn whole_models(&self, problems: &mut Problems) {
        let whole = matches!(self.recipe.layout, Layout::Models(_));
        if let Some(given) = &self.recipe.coefficients {
            let place = given.path.place;
            if !self.params.iter().any(|param| param.name == "weight" && param.level == Level::Model) {
                let message = format!("`{}` takes no weights of models", self.method());
                problems.error(place, "coefficients", message, None);
            }
            if !whole {
                let message = "coefficients are of whole models (`models`)".to_owned();
                problems.error(place, "coefficients", message, None);
            }
        }
        if self.recipe.head.is_some() && !whole {
            let place = self.recipe.method.place;
            problems.error(place, "head", "a head is put on whole models (`models`)".to_owned(), None);
        }
    }

    fn slices(&self, slices: &[OutputSlice], above: &[&Parameters], problems: &mut Problems) {
        for slice in slices {
            self.level(&slice.parameters, &join(&slice.at.path, "parameters"), Level::Global, problems);
            let above: Vec<_> = [&slice.parameters].into_iter().chain(above.iter().copied()).collect();
            let base = slice.base_model.as_ref().or(self.recipe.base_model.as_ref());
            self.sources(&slice.sources, base, &above, problems);
            self.required_for_all(&above, slice.at.place, &slice.at.path, problems);
        }
    }

    fn models(&self, models: &[Source], above: &[&Parameters], problems: &mut Problems) {
        self.sources(models, self.recipe.base_model.as_ref(), above, problems);
        self.required_for_all(above, self.recipe.method.place, "parameters", problems);
    }

    fn sources(
        &self,
        sources: &[Source],
        base: Option<&ModelRef>,
        above: &[&Parameters],
        problems: &mut Problems,
    ) {
        for source in sources {
            let path = join(&source.at.path, "parameters");
            self.level(&source.parameters, &path, Level::Model, problems);
            if base == Some(&source.model) {
                continue;
            }
            for param in self.required(Level::Model) {
                let of_file = param.name == "weight" && self.recipe.coefficients.is_some();
                let given = of_file || source.parameters.contains_key(param.name) || has(above, param.name);
                if !given && !problems.mentions(&format!("parameters.{}", param.name)) {
                    let message = format!("no `{}` for the model `{}`", param.name, source.model);
                    let help = format!(
                        "`{}` requires `parameters: {{{}: …}}`, here or for all",
                        self.method(),
                        param.name
                    );
                    problems.error(source.at.place, &source.at.path, message, Some(help));
                }
            }
        }
    }

    fn required_for_all(&self, levels: &[&Parameters], place: Place, path: &str, problems: &mut Problems) {
        for param in self.required(Level::Global) {
            if !has(levels, param.name) && !problems.mentions(&format!("parameters.{}", param.name)) {
                let help = format!("`{}` requires `parameters: {{{}: …}}`", self.method(), param.name);
                problems.error(place, path, format!("no `{}`", param.name), Some(help));
            }
        }
    }

    fn required(&self, level: Level) -> impl Iterator<Item = &Param> {
        let wanted = move |param: &&Param| param.level == level && param.default == Default::Required;
        self.params.iter().filter(wanted)
    }

    fn method(&self) -> &str {
        &self.recipe.method.value
    }

    /// The settings of one level; `level` is [`Level::Model`] for those of a source.
    fn level(&self, parameters: &Parameters, path: &str, level: Level, problems: &mut Problems) {
        for (name, setting) in parameters {
            let path = join(path, name);
            let Some(param) = self.params.iter().find(|param| param.name == name) else {
                self.unknown(name, setting.place, &path, problems);
                continue;
            };
            if level == Level::Model && param.level == Level::Global {
                let message = format!("`{name}` has no effect on a single model");
                let help =
                    "it holds for all models of a tensor: move it to the recipe's `parameters`".to_owned();
                problems.ineffective(setting.place, &path, message, Some(help));
            }
            self.setting(param, setting, &path, problems);
        }
    }

    fn unknown(&self, name: &str, place: Place, path: &str, problems: &mut Problems) {
        let names = || self.params.iter().map(|param| param.name);
        let help = if TOP.contains(&name) {
            format!("`{name}` stands at the top level of the recipe")
        } else if let Some(near) = did_you_mean(name, names()) {
            format!("did you mean `{near}`?")
        } else if self.params.is_empty() {
            format!("`{}` takes no settings", self.method())
        } else {
            format!("the settings of `{}` are {}", self.method(), listed(names()))
        };
        let message = format!("`{}` has no setting {}", self.method(), super::node::shortened(name));
        problems.ineffective(place, path, message, Some(help));
    }

    fn setting(&self, param: &Param, setting: &Located<Setting>, path: &str, problems: &mut Problems) {
        match &setting.value {
            Setting::Plain(plain) => {
                if let Err(message) = check_plain(&param.kind, plain) {
                    problems.error(setting.place, path, message, hint(plain));
                }
            }
            Setting::Conditional(cases) => {
                for (i, case) in cases.iter().enumerate() {
                    let path = format!("{path}[{i}]");
                    if let Err(message) = check_plain(&param.kind, &case.value.value) {
                        problems.error(case.value.place, &path, message, hint(&case.value.value));
                    }
                    if let Some(earlier) = cases[..i].iter().find(|earlier| hides(earlier, case)) {
                        report_hidden(earlier, case, &path, problems);
                    }
                }
            }
        }
    }
}

fn has(levels: &[&Parameters], name: &str) -> bool {
    levels.iter().any(|level| level.contains_key(name))
}

/// Whether every tensor that `later` is for goes to `earlier` already.
fn hides(earlier: &Case, later: &Case) -> bool {
    match (&earlier.filter, &later.filter) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(earlier), Some(later)) => later.contains(earlier.as_str()),
    }
}

fn report_hidden(earlier: &Case, later: &Case, path: &str, problems: &mut Problems) {
    let message = match &earlier.filter {
        None => "never used: the case before it is for all tensors".to_owned(),
        Some(filter) => {
            format!("never used: the case with the filter `{filter}` comes first and fits as well")
        }
    };
    let help = "the first case that fits counts; put the special ones first".to_owned();
    problems.ineffective(later.value.place, path, message, Some(help));
}

fn check_plain(kind: &Kind, plain: &Plain) -> Result<(), String> {
    let value = match plain {
        Plain::Number(number) => Value::Number(*number),
        Plain::Flag(flag) => Value::Flag(*flag),
        Plain::Text(text) => Value::Text(text.clone()),
        Plain::TextList(texts) => Value::TextList(texts.clone()),
        Plain::Flags(_) if *kind == Kind::Flag => return Ok(()),
        Plain::Flags(flags) => {
            return Err(format!("expected {kind}, found a list of {} booleans", flags.len()));
        }
        Plain::Gradient(values) => return check_gradient(kind, values),
    };
    kind.check(&value).map(|_| ())
}

fn check_gradient(kind: &Kind, values: &[f64]) -> Result<(), String> {
    if !matches!(kind, Kind::Number { .. }) {
        return Err(format!("expected {kind}, found a gradient of {} numbers", values.len()));
    }
    for (i, value) in values.iter().enumerate() {
        kind.check(&Value::Number(*value))
            .map_err(|message| format!("value {} of the gradient: {message}", i + 1))?;
    }
    Ok(())
}

/// `50%` is a common way to write a share.
fn hint(plain: &Plain) -> Option<String> {
    let Plain::Text(text) = plain else { return None };
    let percent: f64 = text.strip_suffix('%')?.trim().parse().ok()?;
    percent.is_finite().then(|| format!("write {}", percent / 100.0))
}
