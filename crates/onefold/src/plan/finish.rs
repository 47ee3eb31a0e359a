//! What stands beside the tensors: the config's edits, the files, the labels for the report.

use std::collections::BTreeMap;

use onefold_checkpoint::Dtype;
use onefold_merge::stream::Planned;

use super::sections::{Part, Section};
use super::{Found, Plan, Planner, files, measured, names};
use crate::config::Changes;
use crate::models::Model;
use crate::recipe::ModelRef;
use crate::report::elided;

impl<'r> Planner<'r> {
    pub(super) fn finish(
        &self,
        sections: &[Section<'r>],
        tensors: Vec<Planned>,
        found: Found,
    ) -> Result<Plan, Vec<String>> {
        let donor = self.models[self.donor];
        let mut notes: Vec<String> = found.notes.into_iter().collect();
        notes.extend(measured::notes(self.recipe));
        let missing = found.missing.iter().map(|(what, names)| format!("{}: {what}", elided(names.iter())));
        let of_models = self.models.iter().flat_map(|model| model.warnings.iter().cloned());
        let mut warnings: Vec<String> = of_models.chain(missing).chain(found.warnings).collect();
        let dtype = self.recipe.out_dtype.or(self.recipe.dtype).map(Dtype::torch_name);
        let tied = donor.config_value("tie_word_embeddings").and_then(serde_json::Value::as_bool);
        let has_head = tensors.iter().any(|t| names::is_head(&t.output.name));
        warnings.extend(self.added_by_adapter());
        warnings.extend(measured::ways(self.recipe));
        let changes = Changes {
            dtype,
            layers: self.layer_sources(sections),
            architecture: self.references[self.donor].override_architecture.clone(),
            vocab_size: self.vocabulary.as_ref().map(|b| b.rows).or(found.cropped),
            untie: has_head
                && found.untie
                && (tied == Some(true)
                    || (tied.is_none() && !self.names[self.donor].keys().any(|n| names::is_head(n)))),
        };
        let config = files::config(donor, &changes, &mut notes).map_err(|e| vec![e])?;
        if config.is_none() {
            warnings.push(format!(
                "model {} has no config.json, so the output has none and transformers does not load it; add one beside \
                 its weights",
                donor.label
            ));
        }
        self.check_architectures()?;
        let files = files::beside(
            self.recipe,
            &self.models,
            donor,
            self.vocabulary.as_deref(),
            &mut notes,
            &mut warnings,
        )?;
        let roles = &sections[0].slices[0];
        let label = |p: &Part<'_>| self.models[p.model].label.clone();
        // Slices may merge different models: the report then speaks of them by position.
        let mut operands: Vec<&Model> = Vec::new();
        for part in sections.iter().flat_map(|s| &s.slices).flat_map(|s| &s.operands) {
            let model = self.models[part.model];
            if operands.iter().all(|other| other.label != model.label) {
                operands.push(model);
            }
        }
        Ok(Plan {
            method: self.method,
            tensors,
            origin: roles.origin.as_ref().map(label),
            operands: operands.iter().map(|m| m.label.clone()).collect(),
            operand_names: operands.iter().map(|m| m.mask_name.clone()).collect(),
            config,
            files,
            copied: found.copied,
            tied: tied_groups(donor),
            vocabulary: self.vocabulary.clone(),
            notes,
            warnings,
            artefact: None,
        })
    }

    /// Warns of tensors that the donor has from its adapter only (a classifier beside a base without one): the config is the
    /// base's, and the class that it names does not load them.
    fn added_by_adapter(&self) -> Option<String> {
        let (donor, reference) = (self.models[self.donor], self.references[self.donor]);
        if donor.added.is_empty() {
            return None;
        }
        let listed = || donor.config.as_ref()?.get("architectures")?.get(0)?.as_str();
        let remedy = match (&reference.override_architecture, listed()) {
            (Some(_), _) => String::new(),
            (None, listed) => format!(
                "; its `architectures` ({}) stays too: merge on a base that has these tensors, or give the model as \
                 `{{model: …, override_architecture: …}}` with the class that loads them",
                listed.unwrap_or("not stated")
            ),
        };
        Some(format!(
            "the adapter of {} adds {}, which its base does not have. config.json stays the base's: what they need there \
             (for a classifier `id2label` or `num_labels`) is yours to add{remedy}",
            donor.label,
            elided(donor.added.iter())
        ))
    }

    /// The output has one architecture, the donor's: `override_architecture` states it there, and must agree elsewhere, as
    /// tensors match by name and shape and nothing else depends on it.
    fn check_architectures(&self) -> Result<(), Vec<String>> {
        let donor = self.models[self.donor];
        let stated = self.references[self.donor].override_architecture.as_deref();
        if let (Some(name), None) = (stated, &donor.config) {
            return Err(vec![format!(
                "model {}: `override_architecture: {name}` replaces `architectures` in config.json, and it has no config.json",
                donor.label
            )]);
        }
        let listed = || donor.config.as_ref()?.get("architectures")?.get(0)?.as_str();
        let output = stated.or_else(listed);
        let differs = |(reference, model): (&&ModelRef, &&Model)| {
            let name = reference.override_architecture.as_deref().filter(|name| Some(*name) != output)?;
            let output = output.unwrap_or("not stated");
            Some(format!(
                "model {}: `override_architecture: {name}`, but the architecture of the output is {output}, that of {donor}; \
                 state it for {donor} too, or leave it out",
                model.label,
                donor = donor.label
            ))
        };
        let problems: Vec<String> = self.references.iter().zip(&self.models).filter_map(differs).collect();
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// For `slices`: the donor's layer behind each layer of the output (the first source's position).
    fn layer_sources(&self, sections: &[Section<'_>]) -> Option<Vec<usize>> {
        let [section] = sections else { return None };
        if !section.cut {
            return None;
        }
        let layers = section.slices.iter().flat_map(|slice| {
            let first = slice.origin.or(slice.operands.first().copied()).map_or(0, |p| p.first_layer);
            first..first + slice.layers.unwrap_or(0)
        });
        Some(layers.collect())
    }
}

/// Groups of the donor's names that are one piece of storage.
pub fn tied_groups(donor: &Model) -> Vec<Vec<String>> {
    let mut groups: BTreeMap<(usize, usize), Vec<String>> = BTreeMap::new();
    for (name, tensor) in donor.checkpoint.tensors() {
        if let Some(stored) = tensor.stored().filter(|s| !s.bytes.is_empty()) {
            groups
                .entry((stored.bytes.as_ptr() as usize, stored.bytes.len()))
                .or_default()
                .push(name.clone());
        }
    }
    groups.into_values().filter(|g| g.len() > 1).collect()
}
