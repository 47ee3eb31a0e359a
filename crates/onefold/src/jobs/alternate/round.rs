//! The merge of a round: the vectors of all tasks become one step of the model, by the plan and the stream of `onefold merge`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use onefold_checkpoint::output::{Opened, Output};
use onefold_checkpoint::tensor::Sum;
use onefold_checkpoint::{Checkpoint, Dtype, Tensor, header};
use onefold_merge::methods::geometry::{Gramian, tensor_gramian};
use onefold_merge::methods::scaled::Scaled;
use onefold_merge::methods::{self, Method};
use onefold_merge::scan::{Operand, Scan, ScanOptions};
use onefold_merge::stream::{self, Merge, Planned, Statistics, Work};
use onefold_train::alternate::Vector;
use serde_json::{Value, json};

use super::part::{Begin, RECORD, pretty};
use super::setup::World;
use crate::models::{Library, Model};
use crate::plan::{self, Options, Plan};
use crate::progress::Failure;
use crate::recipe::ModelRef;
use crate::recipe::alternate::{Adapters, Reference};
use crate::tokenizer::FileContent;

/// What came of a round.
pub(super) const ROUND: &str = "round.json";
/// Where adapters of all rounds stand side by side.
pub(super) const ADAPTER: &str = "adapter";

/// A round to be merged.
pub(super) struct Merging<'a> {
    pub(super) world: &'a World<'a>,
    pub(super) round: u64,
    pub(super) begin: &'a Begin,
    /// In the order of the tasks.
    pub(super) vectors: &'a [Vector],
    /// Of the round before.
    pub(super) previous: Option<&'a [Vector]>,
}

/// The vectors as they are merged: by task, by tensor.
type Vectors = Vec<BTreeMap<String, Tensor>>;

impl Merging<'_> {
    /// Merges into `out`, which is a model of its own, in f32 where it was trained.
    pub(super) fn run(&self, out: &Path) -> Result<(), Failure> {
        let now = Instant::now();
        let model = self.open(&self.begin.dir)?;
        self.check(&model)?;
        let vectors = self.vectors(&model)?;
        let (vectors, factors) = self.clipped(vectors)?;
        let origin = match self.world.recipe.merge.reference {
            Reference::Current => model,
            Reference::Original => self.world.base().clone(),
        };
        let plan = self.plan(&origin, &vectors)?;
        let layout = plan.layout(u64::MAX);
        let job = format!("round {} {}", self.round, self.begin.hash);
        let Opened { output, finished } =
            Output::create(out, layout, &job, &[], true).map_err(Failure::job)?;
        let made = self.fill(&plan, &finished, &output, &factors, now);
        if let Err(failure) = made {
            output.discard();
            return Err(failure);
        }
        output.commit(plan.config.as_deref().map(str::as_bytes)).map_err(Failure::job)?;
        Ok(())
    }

    fn fill(
        &self,
        plan: &Plan,
        finished: &[Option<String>],
        output: &Output,
        factors: &[f64],
        now: Instant,
    ) -> Result<(), Failure> {
        let wrong = |error: &dyn std::fmt::Display| Failure::Job(format!("round {}: {error}", self.round));
        let statistics =
            stream::run(&plan.tensors, finished, output, self.world.shell).map_err(|e| wrong(&e))?;
        let ours = [ROUND, RECORD];
        for file in plan.files.iter().filter(|file| !ours.contains(&file.name.as_str())) {
            match &file.content {
                FileContent::Copied(from) => output.copy_file(&file.name, from),
                FileContent::New(bytes) => output.add_file(&file.name, bytes),
            }
            .map_err(Failure::job)?;
        }
        if self.world.recipe.merge.adapters == Adapters::Concatenate {
            // What is copied has a coefficient of its own.
            let k = self.vectors.len();
            let found = statistics.iter().flatten().filter_map(|found| found.coefficients.as_ref());
            let weights = found.into_iter().find(|weights| weights.len() == k).cloned();
            let weights = weights.unwrap_or_else(|| vec![0.0; k]);
            let weights: Vec<f64> =
                weights.iter().zip(factors).map(|(weight, factor)| weight * factor).collect();
            for (name, bytes) in self.adapter(&weights)? {
                output.add_file(&format!("{ADAPTER}/{name}"), &bytes).map_err(Failure::job)?;
            }
        }
        let record = self.record(plan, &statistics, factors, now)?;
        output.add_file(ROUND, &pretty(&record)).map_err(Failure::job)
    }

    fn open(&self, dir: &Path) -> Result<Model, Failure> {
        let checkpoint = Checkpoint::open(dir).map_err(|errors| several(&errors))?;
        Ok(self.world.base().moved_to(dir, checkpoint))
    }

    /// Refuses vectors that are not all of this model.
    fn check(&self, model: &Model) -> Result<(), Failure> {
        let theirs = model.checkpoint.tensors();
        let first = &self.vectors[0];
        for vector in self.vectors.iter().chain(self.previous.unwrap_or_default()) {
            let task = &vector.stamp.task;
            let tensors = vector.checkpoint.tensors();
            let names = || tensors.keys();
            if !names().eq(first.checkpoint.tensors().keys()) {
                return Err(Failure::usage(format!(
                    "the vectors of `{}` and `{task}` are of different tensors; tune all tasks by one recipe",
                    first.stamp.task
                )));
            }
            for (name, tensor) in tensors {
                let wrong = match theirs.get(name) {
                    None => "the model does not have".to_owned(),
                    Some(found) if found.shape != tensor.shape => {
                        format!("is {:?} there, {:?} in the model", tensor.shape, found.shape)
                    }
                    Some(_) => continue,
                };
                return Err(Failure::usage(format!("the vector of `{task}`: tensor `{name}` {wrong}")));
            }
        }
        Ok(())
    }

    /// Each task's vector against the reference, with the momentum of the round before.
    fn vectors(&self, model: &Model) -> Result<Vectors, Failure> {
        let merge = &self.world.recipe.merge;
        let momentum = if self.previous.is_some() { merge.momentum } else { 0.0 };
        let original = &self.world.base().checkpoint;
        let moved = merge.reference == Reference::Original && self.round > 1;
        let of_task = |(number, vector): (usize, &Vector)| -> Option<BTreeMap<String, Tensor>> {
            let of_tensor = |(name, tensor): (&String, &Tensor)| {
                let mut terms = vec![(1.0 - momentum, tensor.clone())];
                if momentum > 0.0 {
                    let before = self.previous?.get(number)?.checkpoint.tensors().get(name)?;
                    terms.push((momentum, before.clone()));
                }
                if moved {
                    terms.push((1.0, model.checkpoint.tensors().get(name)?.clone()));
                    terms.push((-1.0, original.tensors().get(name)?.clone()));
                }
                Some((name.clone(), Sum::tensor(terms)?))
            };
            vector.checkpoint.tensors().iter().map(of_tensor).collect()
        };
        let all: Option<Vectors> = self.vectors.iter().enumerate().map(of_task).collect();
        all.ok_or_else(|| Failure::usage("the vectors of this round and of the one before differ".to_owned()))
    }

    /// The vectors, those longer than the mean shortened to it if that is wanted; and the factor of each.
    fn clipped(&self, vectors: Vectors) -> Result<(Vectors, Vec<f64>), Failure> {
        let k = vectors.len();
        if !self.world.recipe.merge.clip_norms {
            return Ok((vectors, vec![1.0; k]));
        }
        let products = products(&vectors)?;
        let norms: Vec<f64> = (0..k).map(|task| products.norm(task)).collect();
        let factors = clip_factors(&norms);
        let scaled = |(tensors, factor): (BTreeMap<String, Tensor>, &f64)| -> BTreeMap<String, Tensor> {
            let of = |(name, tensor)| Some((name, Sum::tensor(vec![(*factor, tensor)])?));
            tensors.into_iter().filter_map(of).collect()
        };
        Ok((vectors.into_iter().zip(&factors).map(scaled).collect(), factors))
    }

    /// The plan of the merge, with the step's length in it.
    fn plan(&self, origin: &Model, vectors: &Vectors) -> Result<Plan, Failure> {
        let World { recipe, common, .. } = self.world;
        let named = |name: &str| ModelRef {
            path: name.to_owned(),
            revision: None,
            lora: None,
            override_architecture: None,
            task: None,
        };
        // No task has a blank in its name.
        let base = named("the model");
        let references: Vec<ModelRef> = self.vectors.iter().map(|vector| named(&vector.stamp.task)).collect();
        let expert = |((vector, tensors), reference): ((&Vector, &BTreeMap<String, Tensor>), &ModelRef)| {
            let place: PathBuf = vector.place().to_owned();
            let seen = vector.checkpoint.clone().seen_as(tensors.clone());
            (reference.clone(), Model::of_vector(&vector.stamp.task, &place, seen))
        };
        let experts = self.vectors.iter().zip(vectors).zip(&references).map(expert);
        let library = Library::of(experts.chain([(base.clone(), origin.clone())]));
        let merge = recipe.merge.recipe(base, references);
        let method: &'static Method = methods::find(&recipe.merge.method).expect("the recipe was judged");
        let options = Options {
            seed: recipe.tuning.settings.seed.wrapping_add(self.round - 1),
            // What no task has trained is copied.
            allow_missing: true,
            allow_non_finite: common.allow_non_finite,
            deltas: true,
            ..Options::default()
        };
        let mut plan = plan::plan(&merge, method, &library, options).map_err(Failure::Usage)?;
        let tensors = std::mem::take(&mut plan.tensors).into_iter();
        plan.tensors = tensors.map(|planned| stepped(planned, recipe.merge.alpha)).collect();
        Ok(plan)
    }

    /// What the round was.
    fn record(
        &self,
        plan: &Plan,
        statistics: &[Option<Statistics>],
        factors: &[f64],
        now: Instant,
    ) -> Result<Value, Failure> {
        let k = self.vectors.len();
        let seen = Seen::of(plan, statistics, k);
        let names: Vec<&str> = self.vectors.iter().map(|vector| vector.stamp.task.as_str()).collect();
        let by_task = |of: &dyn Fn(usize) -> Value| -> Value {
            names
                .iter()
                .enumerate()
                .map(|(task, name)| ((*name).to_owned(), of(task)))
                .collect::<serde_json::Map<_, _>>()
                .into()
        };
        let along = self.along()?;
        Ok(json!({
            "round": self.round,
            "base": self.begin.hash,
            "recipe": self.world.shared,
            "tasks": names,
            "norms": by_task(&|task| json!(seen.products.norm(task + 1))),
            "cosines": (0..k).map(|i| (0..k).map(|j| json!(seen.cosine(i, j))).collect::<Vec<_>>()).collect::<Vec<_>>(),
            "mean_cosine": seen.mean_cosine(k),
            "sign_agreement": seen.sign_agreement,
            "previous": by_task(&|task| json!(along.as_ref().and_then(|along| along[task]))),
            "clipped": by_task(&|task| json!(factors[task])),
            "update": seen.products.norm(k + 1),
            "coefficients": seen.coefficients,
            "seconds": now.elapsed().as_secs_f64(),
        }))
    }

    /// Cosines of the vectors with those of the round before.
    fn along(&self) -> Result<Option<Vec<Option<f64>>>, Failure> {
        let Some(previous) = self.previous else { return Ok(None) };
        let of = |(now, before): (&Vector, &Vector)| {
            let pair = vec![now.checkpoint.tensors().clone(), before.checkpoint.tensors().clone()];
            products(&pair).map(|products| cosine(&products, 0, 1))
        };
        self.vectors.iter().zip(previous).map(of).collect::<Result<Vec<_>, _>>().map(Some)
    }

    /// All rounds' adapters side by side: `A` below one another, `α w B` beside one another, so that their product is the sum.
    fn adapter(&self, weights: &[f64]) -> Result<Vec<(&'static str, Vec<u8>)>, Failure> {
        let before = self.begin.dir.join(ADAPTER).join("adapter_model.safetensors");
        let before = match before.is_file() {
            true => Some(Checkpoint::open(&before).map_err(|errors| several(&errors))?),
            false => None,
        };
        let mut config = Value::Null;
        let mut stacked: BTreeMap<String, Stacked> = BTreeMap::new();
        for (name, tensor) in before.iter().flat_map(Checkpoint::tensors) {
            stacked.entry(name.clone()).or_default().add(name, tensor, 1.0);
        }
        for (vector, weight) in self.vectors.iter().zip(weights) {
            let lacks = || Failure::usage(format!("the vector of `{}` has no factors", vector.stamp.task));
            let (factors, text) = vector.factors.as_ref().ok_or_else(lacks)?;
            config = serde_json::from_str(text).map_err(Failure::job)?;
            let scale = scale(&config).ok_or_else(lacks)?;
            for (name, tensor) in factors {
                stacked.entry(name.clone()).or_default().add(name, tensor, weight * scale);
            }
        }
        let rank = stacked.values().map(|factor| factor.rank).max().unwrap_or_default();
        for (key, value) in [
            ("r", json!(rank)),
            ("lora_alpha", json!(rank)),
            ("lora_dropout", json!(0.0)),
            ("use_rslora", json!(false)),
            ("rank_pattern", json!({})),
            ("alpha_pattern", json!({})),
        ] {
            config[key] = value;
        }
        Ok(vec![("adapter_model.safetensors", file(&stacked)), ("adapter_config.json", pretty(&config))])
    }
}

/// A tensor of the plan with the step's length in its rule, and its result in f32.
fn stepped(mut planned: Planned, alpha: f64) -> Planned {
    planned.work = match planned.work {
        Work::Merge(merge) if merge.scan.deltas => {
            planned.output.dtype = Dtype::F32;
            let Merge { scan, rule } = *merge;
            Work::Merge(Box::new(Merge { scan, rule: Scaled::rule(rule, alpha) }))
        }
        work => work,
    };
    planned
}

/// By how much each vector is multiplied so that none is longer than all are in the mean.
pub(super) fn clip_factors(norms: &[f64]) -> Vec<f64> {
    let mean = norms.iter().sum::<f64>() / norms.len().max(1) as f64;
    norms.iter().map(|norm| if *norm > mean { mean / norm } else { 1.0 }).collect()
}

/// Inner products of vectors over all their tensors.
fn products(vectors: &[BTreeMap<String, Tensor>]) -> Result<Gramian, Failure> {
    let k = vectors.len();
    let mut sum = vec![0.0; k * (k + 1) / 2];
    for (name, first) in vectors.first().into_iter().flatten() {
        let operand = |tensors: &BTreeMap<String, Tensor>| {
            Some(Operand { model: name.clone(), tensor: tensors.get(name)?.clone() })
        };
        let operands: Vec<Operand> = vectors.iter().filter_map(operand).collect();
        let scan = Scan {
            name: name.clone(),
            shape: first.shape.clone(),
            origin: None,
            operands,
            statistics: Vec::new(),
            deltas: false,
            options: ScanOptions::default(),
        };
        let found = tensor_gramian(&scan).map_err(Failure::job)?;
        let pairs = (0..k).flat_map(|i| (i..k).map(move |j| (i, j)));
        sum.iter_mut().zip(pairs).for_each(|(sum, (i, j))| *sum += found.dot(i, j));
    }
    Ok(Gramian::new(k, sum))
}

fn cosine(products: &Gramian, i: usize, j: usize) -> Option<f64> {
    let norms = products.norm(i) * products.norm(j);
    (norms > 0.0).then(|| products.dot(i, j) / norms)
}

/// What was seen of the vectors while they were merged: of the origin, each task and the step.
struct Seen {
    products: Gramian,
    sign_agreement: Option<f64>,
    coefficients: Option<Vec<f64>>,
}

impl Seen {
    fn of(plan: &Plan, statistics: &[Option<Statistics>], k: usize) -> Self {
        let n = k + 2;
        let len = n * (n + 1) / 2;
        let mut sum = vec![0.0; len];
        let (mut active, mut conflicts) = (0, 0);
        let merged = || plan.tensors.iter().zip(statistics).filter(|(planned, _)| !planned.repeats);
        for found in merged().filter_map(|(_, found)| found.as_ref()).filter(|f| f.gramian.len() == len) {
            sum.iter_mut().zip(&found.gramian).for_each(|(sum, part)| *sum += part);
            active += found.active;
            conflicts += found.conflicts;
        }
        // Where all tensors have the same.
        let all: Vec<_> = merged()
            .filter_map(|(_, found)| found.as_ref()?.coefficients.clone())
            .filter(|c| c.len() == k)
            .collect();
        let same = all.windows(2).all(|pair| pair[0] == pair[1]);
        Self {
            products: Gramian::new(n, sum),
            sign_agreement: (active > 0).then(|| 1.0 - conflicts as f64 / active as f64),
            coefficients: all.into_iter().next().filter(|_| same),
        }
    }

    fn cosine(&self, i: usize, j: usize) -> Option<f64> {
        cosine(&self.products, i + 1, j + 1)
    }

    /// Mean |cos| over pairs.
    fn mean_cosine(&self, k: usize) -> Option<f64> {
        let pairs = (0..k).flat_map(|i| (i + 1..k).map(move |j| (i, j)));
        let all: Vec<f64> = pairs.filter_map(|(i, j)| self.cosine(i, j)).map(f64::abs).collect();
        (!all.is_empty()).then(|| all.iter().sum::<f64>() / all.len() as f64)
    }
}

/// Factors of several adapters of a weight.
#[derive(Default)]
struct Stacked {
    rank: usize,
    /// The dimension that is not the rank.
    other: usize,
    is_a: bool,
    /// Of A its rows; of B its columns.
    ranks: Vec<Vec<f32>>,
}

impl Stacked {
    /// Adds A `[r, n]`, or B `[n, r]` times a scale.
    fn add(&mut self, name: &str, tensor: &Tensor, scale: f64) {
        let mut values = vec![0.0; tensor.len()];
        tensor.read(0, &mut values);
        self.is_a = name.contains(".lora_A.");
        let (first, second) =
            (tensor.shape.first().copied().unwrap_or(1), tensor.shape.get(1).copied().unwrap_or(1));
        let (rank, other) = if self.is_a { (first, second) } else { (second, first) };
        for r in 0..rank {
            let of = |n: usize| match self.is_a {
                true => values[r * other + n],
                false => (f64::from(values[n * rank + r]) * scale) as f32,
            };
            self.ranks.push((0..other).map(of).collect());
        }
        (self.rank, self.other) = (self.rank + rank, other);
    }

    fn shape(&self) -> [usize; 2] {
        if self.is_a { [self.rank, self.other] } else { [self.other, self.rank] }
    }

    fn values(&self) -> Vec<f32> {
        match self.is_a {
            true => self.ranks.concat(),
            false => (0..self.other).flat_map(|n| self.ranks.iter().map(move |rank| rank[n])).collect(),
        }
    }
}

/// The file of an adapter.
fn file(stacked: &BTreeMap<String, Stacked>) -> Vec<u8> {
    let shapes: Vec<[usize; 2]> = stacked.values().map(Stacked::shape).collect();
    let entries = stacked.keys().zip(&shapes);
    let entries = entries
        .map(|(name, shape)| (name.as_str(), Dtype::F32, &shape[..], (4 * shape[0] * shape[1]) as u64));
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let mut bytes = header::encode(entries, &metadata);
    bytes.extend(stacked.values().flat_map(Stacked::values).flat_map(f32::to_le_bytes));
    bytes
}

/// What an adapter's product is multiplied with.
fn scale(config: &Value) -> Option<f64> {
    let (alpha, r) = (config["lora_alpha"].as_f64()?, config["r"].as_f64()?);
    Some(alpha / if config["use_rslora"] == true { r.sqrt() } else { r })
}

pub(super) fn several(errors: &[onefold_checkpoint::CheckpointError]) -> Failure {
    Failure::Job(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use onefold_checkpoint::tensor::Elements;

    use super::*;

    #[derive(Debug)]
    struct InMemory(Vec<f32>);

    impl Elements for InMemory {
        fn read(&self, start: usize, out: &mut [f32]) {
            out.copy_from_slice(&self.0[start..start + out.len()]);
        }
    }

    fn tensor(shape: &[usize], values: &[f32]) -> Tensor {
        Tensor::new(Dtype::F32, shape.to_vec(), Arc::new(InMemory(values.to_vec())))
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        let mut values = vec![0.0; tensor.len()];
        tensor.read(0, &mut values);
        values
    }

    /// `testdata/golden/atm.json`.
    #[test]
    fn a_momentum_is_the_goldens() {
        let text = include_str!("../../../../../testdata/golden/atm.json");
        let golden: Value = serde_json::from_str(text).unwrap();
        let golden = &golden["momentum"];
        let row = |key: &str| -> Vec<f32> {
            golden[key].as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32).collect()
        };
        let m = golden["m"].as_f64().unwrap();
        let terms = vec![(1.0 - m, tensor(&[2], &row("tau"))), (m, tensor(&[2], &row("tau_prev")))];
        assert_eq!(values(&Sum::tensor(terms).unwrap()), row("out"));
    }

    #[test]
    fn vectors_longer_than_the_mean_are_shortened_to_it() {
        assert_eq!(clip_factors(&[1.0, 2.0, 6.0]), [1.0, 1.0, 0.5]);
        assert_eq!(clip_factors(&[0.0, 0.0]), [1.0, 1.0]);
        let vectors = [tensor(&[2], &[3.0, 4.0]), tensor(&[2], &[-4.0, 3.0])];
        let vectors = vectors.map(|tensor| BTreeMap::from([("w".to_owned(), tensor)]));
        let found = products(&vectors).unwrap();
        assert_eq!((found.norm(0), found.norm(1), cosine(&found, 0, 1)), (5.0, 5.0, Some(0.0)));
    }

    /// A of 1 × 2 and 2 × 2, B of 3 × 1 and 3 × 2: the product of what stands side by side is the sum of the products.
    #[test]
    fn factors_side_by_side_make_the_sum() {
        let (a, b) = ("m.lora_A.weight", "m.lora_B.weight");
        let first = (tensor(&[1, 2], &[1.0, 2.0]), tensor(&[3, 1], &[1.0, 0.0, -1.0]));
        let second =
            (tensor(&[2, 2], &[0.0, 1.0, 3.0, 0.0]), tensor(&[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
        let (mut all_a, mut all_b) = (Stacked::default(), Stacked::default());
        for ((of_a, of_b), weight) in [(&first, 0.5), (&second, 2.0)].map(|((a, b), weight)| ((a, b), weight))
        {
            all_a.add(a, of_a, 7.0);
            all_b.add(b, of_b, weight);
        }
        assert_eq!((all_a.shape(), all_b.shape()), ([3, 2], [3, 3]));
        let (a, b) = (all_a.values(), all_b.values());
        let product = |i: usize, j: usize| (0..3).map(|r| b[i * 3 + r] * a[r * 2 + j]).sum::<f32>();
        // 0.5 · B₁A₁ + 2 · B₂A₂
        assert_eq!([product(0, 0), product(0, 1), product(2, 0)], [0.5 + 12.0, 1.0 + 2.0, -0.5 + 36.0]);
    }

    #[test]
    fn an_adapters_scale_is_alpha_over_its_rank_or_the_root_of_it() {
        assert_eq!(scale(&json!({"lora_alpha": 16, "r": 4, "use_rslora": false})), Some(4.0));
        assert_eq!(scale(&json!({"lora_alpha": 16, "r": 4, "use_rslora": true})), Some(8.0));
        assert_eq!(scale(&json!({})), None);
    }
}
