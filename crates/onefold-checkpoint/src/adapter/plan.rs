//! From the parts of an adapter to the changed tensors of the base: everything is checked here, from headers.
//!
//! Order: whole tensors first (saved modules, trained biases, resized embeddings), then replaced rows of embeddings,
//! then low-rank updates and their biases on top of what is there by then.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::delta::{Dora, Factor, LowRank, ReplacedRows, ScaledSum};
use super::names::{Module, Part, Parts, Targets, ends_with_path, lies_in};
use super::pair::{Leaves, Pair, Result, both, need_float, orientation, orphan, product_shape};
use super::{AdapterConfig, AdapterError};
use crate::Tensor;

/// Collects changes and problems.
pub(super) struct Plan<'a> {
    base: &'a BTreeMap<String, Tensor>,
    config: &'a AdapterConfig,
    targets: Targets<'a>,
    changed: BTreeMap<String, Tensor>,
    /// Tensor of the base → what changes it: the adapter's name, and whether it takes its place whole.
    by: BTreeMap<String, (String, bool)>,
    errors: Vec<AdapterError>,
}

impl<'a> Plan<'a> {
    pub(super) fn new(
        base: &'a BTreeMap<String, Tensor>,
        config: &'a AdapterConfig,
        errors: Vec<AdapterError>,
    ) -> Self {
        let (changed, by) = (BTreeMap::new(), BTreeMap::new());
        Self { base, config, targets: Targets::new(base), changed, by, errors }
    }

    /// The tensors that the adapter changes or adds, by their names in the base.
    pub(super) fn changed(
        mut self,
        parts: &Parts,
    ) -> std::result::Result<BTreeMap<String, Tensor>, Vec<AdapterError>> {
        for (name, tensor) in &parts.whole {
            let result = self.replace(name, tensor);
            self.note(result);
        }
        self.check_saved_modules();
        for (path, module) in &parts.modules {
            if let Some(saved) = module.get(Part::Tokens) {
                let result = self.replace_rows(path, saved);
                self.note(result);
            }
        }
        self.check_tokens(parts);
        let pairs: Vec<_> = parts.modules.iter().filter_map(|(path, m)| self.pair(path, m)).collect();
        let leaves = Leaves::of(&pairs, self.config.fan_in_fan_out);
        for pair in &pairs {
            let result = leaves.orientation(pair).and_then(|transposed| self.update(pair, transposed));
            self.note(result);
        }
        if self.errors.is_empty() { Ok(self.changed) } else { Err(self.errors) }
    }

    fn note(&mut self, result: Result<()>) {
        self.errors.extend(result.err());
    }

    /// The tensor of that name as it is by now.
    fn current(&self, target: &str) -> Option<&Tensor> {
        self.changed.get(target).or_else(|| self.base.get(target))
    }

    /// Notes that the part `name` changes `target`, by taking its place or on top of a tensor that did.
    fn claim(&mut self, target: &str, name: &str, whole: bool) -> Result<()> {
        match self.by.insert(target.to_owned(), (name.to_owned(), whole)) {
            Some((first, first_whole)) if whole || !first_whole => {
                let (target, second) = (target.to_owned(), name.to_owned());
                Err(AdapterError::Conflict { target, first, second })
            }
            _ => Ok(()),
        }
    }

    /// A whole tensor takes the place of the base's, or is added if its module is listed as saved.
    fn replace(&mut self, name: &str, tensor: &Tensor) -> Result<()> {
        let listed = self.config.modules_to_save.iter().any(|module| lies_in(name, module));
        let Some(target) = self.targets.find(name)? else {
            if !listed {
                return Err(AdapterError::NoTarget { tensor: name.to_owned(), wanted: name.to_owned() });
            }
            self.claim(name, name, true)?;
            self.changed.insert(name.to_owned(), tensor.clone());
            return Ok(());
        };
        self.claim(&target, name, true)?;
        let old = &self.base[&target].shape;
        let (found, base) = (&tensor.shape, old);
        // A head for other labels or an embedding for more tokens has other rows, and nothing else.
        let other_rows = found.len() == base.len() && found.get(1..) == base.get(1..);
        let may_resize = listed || found.len() == 2;
        if found != base && !(other_rows && may_resize) {
            let (tensor, found, base) = (name.to_owned(), found.clone(), base.clone());
            return Err(AdapterError::Shape { tensor, found, target, base });
        }
        self.changed.insert(target, tensor.clone());
        Ok(())
    }

    /// A module that is listed, exists in the base and was not saved would silently keep its old values. Names that
    /// do not exist are usual: PEFT lists `classifier` and `score` for any classifier.
    fn check_saved_modules(&mut self) {
        for module in &self.config.modules_to_save {
            let saved = self.changed.keys().any(|name| lies_in(name, module));
            let in_base = self.base.keys().find(|name| lies_in(name, module));
            if let (false, Some(tensor)) = (saved, in_base) {
                let (module, tensor) = (module.clone(), tensor.clone());
                self.errors.push(AdapterError::NotSaved { module, tensor });
            }
        }
    }

    /// Rows of an embedding that were trained alone: PEFT stores their new values, not differences.
    fn replace_rows(&mut self, path: &str, saved: &Tensor) -> Result<()> {
        let tensor = format!("{path}.{}", Part::Tokens.name());
        let (target, weight) = self.parameter(path, "weight", &tensor)?;
        self.claim(&target, &tensor, false)?;
        let problem = |message: String| AdapterError::Tokens { tensor: tensor.clone(), message };
        let tokens = self.config.tokens.iter();
        let lists: Vec<_> =
            tokens.filter(|t| t.module.as_ref().is_none_or(|m| ends_with_path(path, m))).collect();
        let [list] = lists[..] else {
            let message = format!("{} entries of trainable_token_indices name it, expected one", lists.len());
            return Err(problem(message));
        };
        let shape = [list.indices.len(), weight.shape.get(1).copied().unwrap_or(0)];
        if weight.shape.len() != 2 || saved.shape != shape {
            let (found, base) = (saved.shape.clone(), weight.shape.clone());
            return Err(AdapterError::Shape { tensor, found, target, base });
        }
        need_float(&tensor, saved)?;
        let mut rows = BTreeMap::new();
        for (position, row) in list.indices.iter().enumerate() {
            if *row >= weight.shape[0] {
                let count = weight.shape[0];
                return Err(problem(format!("token {row} is beyond the {count} rows of `{target}`")));
            }
            if rows.insert(*row, position).is_some() {
                return Err(problem(format!("token {row} is listed twice in trainable_token_indices")));
            }
        }
        let (dtype, shape, width) = (weight.dtype, weight.shape.clone(), weight.shape[1]);
        let elements = ReplacedRows { base: weight, saved: saved.clone(), rows, width };
        self.changed.insert(target, Tensor::new(dtype, shape, Arc::new(elements)));
        Ok(())
    }

    /// Listed tokens whose rows are not in the file would keep their old values.
    fn check_tokens(&mut self, parts: &Parts) {
        for tokens in &self.config.tokens {
            let there = parts.modules.iter().any(|(path, module)| {
                module.get(Part::Tokens).is_some()
                    && tokens.module.as_ref().is_none_or(|m| ends_with_path(path, m))
            });
            // PEFT saves the rows of tied modules once, under the name of the embedding.
            let stored = tokens.module.as_ref().is_none_or(|m| {
                let modules = self.base.keys().filter_map(|name| name.strip_suffix(".weight"));
                modules.into_iter().any(|path| ends_with_path(path, m))
            });
            if !there && stored {
                let module = tokens.module.clone().unwrap_or_else(|| "(input embedding)".into());
                let (key, value) = ("trainable_token_indices", format!("{} tokens", tokens.indices.len()));
                let part = Part::Tokens.name();
                self.errors.push(AdapterError::Contradiction { module, part, state: "not in", key, value });
            }
        }
    }

    /// A parameter of the module at `path` with its name in the base, for the adapter's `tensor`.
    fn parameter(&mut self, path: &str, parameter: &str, tensor: &str) -> Result<(String, Tensor)> {
        let wanted = format!("{path}.{parameter}");
        let found = self
            .targets
            .find(&wanted)?
            .or_else(|| self.changed.contains_key(&wanted).then(|| wanted.clone()));
        let missing = || AdapterError::NoTarget { tensor: tensor.to_owned(), wanted };
        let target = found.ok_or_else(missing)?;
        let current = self.current(&target).cloned();
        let current = current.expect("a name that was found is in the base or among the changed tensors");
        need_float(&target, &current)?;
        self.need_no_scales(&target, &current)?;
        Ok((target, current))
    }

    /// Eight-bit weights with block scales beside them are codes, not values.
    fn need_no_scales(&self, target: &str, tensor: &Tensor) -> Result<()> {
        let scale = format!("{target}_scale");
        let next = self.base.range(scale.clone()..).next();
        let what = "a quantised weight with scales";
        if next.is_some_and(|(name, _)| name.starts_with(&scale)) {
            return Err(AdapterError::NotFloat { tensor: target.to_owned(), dtype: tensor.dtype, what });
        }
        Ok(())
    }

    /// The factors of a module and the weight they belong to; notes what does not fit.
    fn pair<'p>(&mut self, path: &'p str, module: &'p Module) -> Option<Pair<'p>> {
        let result = self.checked_pair(path, module);
        result.unwrap_or_else(|error| {
            self.errors.push(error);
            None
        })
    }

    fn checked_pair<'p>(&mut self, path: &'p str, module: &'p Module) -> Result<Option<Pair<'p>>> {
        let linear = both(path, module, Part::A, Part::B)?;
        let embedding = both(path, module, Part::EmbeddingA, Part::EmbeddingB)?;
        let (a, b, part) = match (linear, embedding) {
            (Some((a, b)), None) => (a, b, Part::A),
            (None, Some((a, b))) => (a, b, Part::EmbeddingA),
            (Some(_), Some(_)) => {
                let (first, second) = (format!("{path}.lora_A"), format!("{path}.lora_embedding_A"));
                return Err(AdapterError::Conflict { target: format!("{path}.weight"), first, second });
            }
            (None, None) => return orphan(path, module).map_or(Ok(None), Err),
        };
        self.check_flags(path, module)?;
        let tensor = format!("{path}.{}", part.name());
        let (target, weight) = self.parameter(path, "weight", &tensor)?;
        self.claim(&target, &tensor, false)?;
        for factor in [a, b] {
            need_float(&tensor, factor)?;
        }
        let transposed = orientation(a, b, &weight, part == Part::EmbeddingA);
        let shape_error = || {
            let (found, base) = (product_shape(a, b), weight.shape.clone());
            AdapterError::Shape { tensor: format!("{path} (B·A)"), found, target: target.clone(), base }
        };
        let rank = self.config.rank_and_scaling(path).0;
        if a.shape.first() != Some(&rank) || b.shape.get(1) != Some(&rank) {
            let (module, a, b) = (path.to_owned(), a.shape.clone(), b.shape.clone());
            return Err(AdapterError::Rank { module, a, b, rank });
        }
        let transposed = transposed.ok_or_else(shape_error)?;
        Ok(Some(Pair { path, module, a, b, target, weight, transposed }))
    }

    /// Parts that must be there exactly when the configuration says so.
    fn check_flags(&self, path: &str, module: &Module) -> Result<()> {
        let embedding = module.get(Part::EmbeddingA).is_some();
        let expected = [
            (Part::Magnitude, "use_dora", self.config.dora),
            (Part::Bias, "lora_bias", self.config.lora_bias && !embedding),
        ];
        for (part, key, on) in expected {
            let there = module.get(part).is_some();
            if there != on {
                let state = if there { "in" } else { "not in" };
                let (module, value) = (path.to_owned(), on.to_string());
                return Err(AdapterError::Contradiction { module, part: part.name(), state, key, value });
            }
        }
        Ok(())
    }

    /// Puts the computed tensors in place of the weight and, with `lora_bias`, of the bias.
    fn update(&mut self, pair: &Pair<'_>, transposed: bool) -> Result<()> {
        let (rank, scaling) = self.config.rank_and_scaling(pair.path);
        let outputs = pair.b.shape[0];
        let inputs = pair.a.len() / rank;
        let a = Factor { tensor: pair.a.clone(), rank_major: true, count: inputs };
        let b = Factor { tensor: pair.b.clone(), rank_major: false, count: outputs };
        let (left, right) = if transposed { (a, b) } else { (b, a) };
        let dora = match pair.module.get(Part::Magnitude) {
            Some(magnitude) => Some(Dora::new(self.vector(pair, Part::Magnitude, magnitude)?, !transposed)),
            None => None,
        };
        let weight = pair.weight.clone();
        let (dtype, shape) = (weight.dtype, weight.shape.clone());
        let elements = LowRank { base: weight, left, right, rank, scaling, dora };
        self.changed.insert(pair.target.clone(), Tensor::new(dtype, shape, Arc::new(elements)));
        match pair.module.get(Part::Bias) {
            Some(addend) => self.update_bias(pair, addend, scaling),
            None => Ok(()),
        }
    }

    fn update_bias(&mut self, pair: &Pair<'_>, addend: &Tensor, scaling: f32) -> Result<()> {
        let addend = self.vector(pair, Part::Bias, addend)?;
        let name = format!("{}.{}", pair.path, Part::Bias.name());
        let (target, base) = self.parameter(pair.path, "bias", &name)?;
        if base.shape != addend.shape {
            let (found, base) = (addend.shape.clone(), base.shape.clone());
            return Err(AdapterError::Shape { tensor: name, found, target, base });
        }
        self.claim(&target, &name, false)?;
        let (dtype, shape) = (base.dtype, base.shape.clone());
        let elements = ScaledSum { base, addend, scaling };
        self.changed.insert(target, Tensor::new(dtype, shape, Arc::new(elements)));
        Ok(())
    }

    /// One value per output; convolutions store magnitudes as `[1, out, 1, 1]`.
    fn vector(&self, pair: &Pair<'_>, part: Part, tensor: &Tensor) -> Result<Tensor> {
        let name = format!("{}.{}", pair.path, part.name());
        need_float(&name, tensor)?;
        if tensor.len() != pair.b.shape[0] {
            let (found, base) = (tensor.shape.clone(), pair.weight.shape.clone());
            return Err(AdapterError::Shape { tensor: name, found, target: pair.target.clone(), base });
        }
        Ok(tensor.clone())
    }
}
