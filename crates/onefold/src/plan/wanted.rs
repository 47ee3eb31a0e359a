//! Which tensors the output has, and under which name each model holds the input of each: whole models by name, `slices`
//! with their layers renumbered, `modules` by the parts of the names.

use std::collections::{BTreeMap, BTreeSet};

use super::names::{self, Name};
use super::sections::{Part, Section, Slice};
use super::{Found, Planner};

/// A tensor of the output, before its inputs were judged.
pub(super) struct Wanted<'r, 's> {
    pub(super) output: String,
    /// Position between the first (0) and the last (1) layer of its slice.
    pub(super) depth: f64,
    pub(super) section: &'s Section<'r>,
    pub(super) slice: &'s Slice<'r>,
    /// Name of the tensor in each model of the slice: the origin's, then the operands'.
    pub(super) origin: Option<String>,
    pub(super) operands: Vec<String>,
}

impl<'r> Planner<'r> {
    /// All tensors of the output with the names of their inputs.
    pub(super) fn wanted<'s>(&self, sections: &'s [Section<'r>]) -> Result<Vec<Wanted<'r, 's>>, Vec<String>> {
        let mut wanted = Vec::new();
        let mut problems = Vec::new();
        for section in sections {
            if section.cut {
                self.cut_section(section, &mut wanted, &mut problems);
            } else {
                self.whole_section(section, &mut wanted);
            }
        }
        if problems.is_empty() { Ok(wanted) } else { Err(problems) }
    }

    fn whole_section<'s>(&self, section: &'s Section<'r>, wanted: &mut Vec<Wanted<'r, 's>>) {
        let slice = &section.slices[0];
        let names = self.names_in(section, slice);
        let mut layers: BTreeMap<&str, usize> = BTreeMap::new();
        for name in names.iter().map(|n| Name::parse(n)) {
            let count = layers.entry(name.stack).or_default();
            *count = (*count).max(name.layer.map_or(0, |l| l + 1));
        }
        for output in &names {
            let name = Name::parse(output);
            let depth = name.layer.map_or(0.0, |layer| depth(layer, layers[name.stack]));
            wanted.push(by_one_name(section, slice, output, depth));
        }
    }

    fn cut_section<'s>(
        &self,
        section: &'s Section<'r>,
        wanted: &mut Vec<Wanted<'r, 's>>,
        problems: &mut Vec<String>,
    ) {
        let mut first = 0;
        let last = section.slices.len() - 1;
        for (number, slice) in section.slices.iter().enumerate() {
            let names = self.names_in(section, slice);
            let layers = slice.layers.unwrap_or(0);
            self.check_ranges(slice, layers, problems);
            if let Some(problem) = several_stacks(&names) {
                problems.push(problem);
                return;
            }
            self.cut_layers(section, slice, &names, first, wanted);
            let outside = names.iter().filter(|name| Name::parse(name).layer.is_none());
            let here = outside.filter(|name| match names::comes_before_layers(name) {
                true => number == 0,
                false => number == last,
            });
            wanted.extend(here.map(|name| by_one_name(section, slice, name, 0.0)));
            first += layers;
        }
    }

    /// The tensors of the layers of a slice, whose first is the output's layer `first`.
    fn cut_layers<'s>(
        &self,
        section: &'s Section<'r>,
        slice: &'s Slice<'r>,
        names: &BTreeSet<String>,
        first: usize,
        wanted: &mut Vec<Wanted<'r, 's>>,
    ) {
        let layers = slice.layers.unwrap_or(0);
        let has = |part: &Part<'_>, name: &String| self.names[part.model].contains_key(name);
        // Every name of a layer, with the number taken out, occurs in each layer of the slice that has it.
        let parsed = names.iter().map(|name| Name::parse(name)).filter(|name| name.layer.is_some());
        let templates: BTreeSet<(&str, &str)> = parsed.map(|name| (name.stack, name.rest)).collect();
        for (stack, rest) in templates {
            let template = Name { stack, layer: None, rest };
            for layer in 0..layers {
                let of = |part: &Part<'_>| template.with_layer(part.first_layer + layer);
                let origin: Option<String> = slice.origin.as_ref().map(of);
                let operands: Vec<String> = slice.operands.iter().map(of).collect();
                let any = slice.operands.iter().zip(&operands).any(|(part, name)| has(part, name))
                    || slice.origin.iter().zip(&origin).any(|(part, name)| has(part, name));
                let (output, depth) = (template.with_layer(first + layer), depth(layer, layers));
                wanted.extend(any.then_some(Wanted { output, depth, section, slice, origin, operands }));
            }
        }
    }

    fn check_ranges(&self, slice: &Slice<'_>, layers: usize, problems: &mut Vec<String>) {
        for part in slice.operands.iter().chain(&slice.origin) {
            let count =
                self.names[part.model].keys().filter_map(|n| Name::parse(n).layer).max().map_or(0, |l| l + 1);
            if part.first_layer + layers > count {
                problems.push(format!(
                    "layer_range [{}, {}] of {}: the model has {count} layers",
                    part.first_layer,
                    part.first_layer + layers,
                    self.models[part.model].label
                ));
            }
        }
    }

    /// Names that any model of the slice has, within the section.
    fn names_in(&self, section: &Section<'_>, slice: &Slice<'_>) -> BTreeSet<String> {
        if self.recipe.head.is_some() {
            // The model of the head says which tensors there are: the base and the others have none or other heads.
            return self.names[self.donor].keys().cloned().collect();
        }
        let parts = slice.operands.iter().chain(&slice.origin);
        let all = parts.flat_map(|p| self.names[p.model].keys());
        all.filter(|n| section.module.is_none_or(|m| in_module(m, n))).cloned().collect()
    }

    /// Modules must cover all tensors of the donor.
    pub(super) fn check_nothing_dropped(&self, sections: &[Section<'_>], found: &mut Found) {
        let modules: Vec<&str> = sections.iter().filter_map(|s| s.module).collect();
        if modules.is_empty() {
            return;
        }
        for name in self.names[self.donor].keys().filter(|n| !modules.iter().any(|m| in_module(m, n))) {
            found.problem(
                name,
                format!(
                    "belongs to none of the modules {}; name one by the first part of the tensor's name",
                    modules.join(", ")
                ),
            );
        }
    }
}

/// A tensor that all models of a slice hold under the output's name.
fn by_one_name<'r, 's>(
    section: &'s Section<'r>,
    slice: &'s Slice<'r>,
    name: &str,
    depth: f64,
) -> Wanted<'r, 's> {
    let origin = slice.origin.map(|_| name.to_owned());
    let operands = vec![name.to_owned(); slice.operands.len()];
    Wanted { output: name.to_owned(), depth, section, slice, origin, operands }
}

/// Why `slices` cannot be cut from a model with more than one stack of layers.
fn several_stacks(names: &BTreeSet<String>) -> Option<String> {
    let layered = names.iter().map(|name| Name::parse(name)).filter(|name| name.layer.is_some());
    let stacks: BTreeSet<&str> = layered.map(|name| name.stack).collect();
    (stacks.len() > 1).then(|| {
        format!(
            "`slices` cuts one stack of layers, the model has {}: {}; use `modules`",
            stacks.len(),
            stacks.into_iter().collect::<Vec<_>>().join(", ")
        )
    })
}

fn depth(layer: usize, layers: usize) -> f64 {
    if layers <= 1 { 1.0 } else { layer as f64 / (layers - 1) as f64 }
}

/// mergekit's names of modules, and the parts of tensor names that they stand for.
const MODULE_ALIASES: [(&str, &[&str]); 3] = [
    ("text_decoder", &["language_model", "text_model"]),
    ("vision_tower", &["vision_tower", "visual", "vision_model"]),
    ("multi_modal_projector", &["multi_modal_projector", "connector", "mm_projector"]),
];

fn in_module(module: &str, name: &str) -> bool {
    if module == "default" {
        return true;
    }
    let aliases = MODULE_ALIASES.iter().find(|(m, _)| *m == module).map_or(&[][..], |(_, a)| a);
    name.split('.').any(|part| part == module || aliases.contains(&part))
        || name.strip_prefix(module).is_some_and(|r| r.starts_with('.'))
}
