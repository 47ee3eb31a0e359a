//! From a base and experts to a model whose weights are a function of coefficients.
//!
//! Tensors are matched by what they do in their family, so a base that lacks the prefix of its experts' names is no obstacle.
//! The merged model is in memory, in f32; the experts stay in their mapped files and are read block by block, as often as
//! coefficients have moved. Heads that score classes are not merged: each task has its expert's, frozen. Of clip the tower of
//! images is merged; class vectors are made of the base's text tower once.

use std::collections::BTreeMap;
use std::path::Path;

use onefold_checkpoint::names::{Name, natural_order};
use onefold_checkpoint::output::OutputTensor;
use onefold_checkpoint::{Checkpoint, Dtype, Tensor};
use onefold_merge::kernels::reduce;
use onefold_merge::methods::adamerging::{ADAMERGING, ADAMERGING_PLUS, Vectors};
use onefold_merge::methods::metagpt;
use onefold_merge::scan::{BLOCK, Operand, Scan, ScanOptions};
use onefold_merge::stream::{self, Merge, Planned, Work};
use onefold_merge::task::{Task as MergeTask, Values};
use onefold_runtime::events::{Event, Observer};
use onefold_runtime::params::Value;

use super::error::AdaptError;
use super::settings::{Granularity, Start};
use super::teller::{Teller, is_merged, vectors};
use crate::config::{Head, ModelConfig, Problem};
use crate::data::shape::Kind;
use crate::families::{Half, Role, TensorSpec, find};
use crate::model::{ClassVectors, Origin, Parameter, ParameterId, Parameters, Part, is_head};
use crate::tune::learner::Learner;

/// A model whose task vector is merged.
#[derive(Debug, Clone, Copy)]
pub struct Expert<'a> {
    /// What the recipe calls it.
    pub name: &'a str,
    /// Its tensors.
    pub checkpoint: &'a Checkpoint,
}

/// What an expert can tell of inputs: what is done with them, and the names of its classes.
///
/// # Errors
/// If its `config.json` cannot be read, or it has neither classes nor words to tell.
pub fn tells(expert: &Expert<'_>) -> Result<(Kind, Vec<String>), AdaptError> {
    let config = ModelConfig::open(expert.checkpoint.dir())?;
    let common = config.common();
    match (common.head, &config) {
        (Head::Classes(1), _) => {
            Err(AdaptError::expert(expert.name, "its head gives one score, a number; entropy needs classes"))
        }
        (Head::Classes(classes), _) => {
            let numbered = || (0..classes).map(|class| class.to_string()).collect();
            let names = if common.labels.is_empty() { numbered() } else { common.labels.clone() };
            let is_vision = matches!(config, ModelConfig::Vision(_));
            Ok((if is_vision { Kind::ImageClassify } else { Kind::Classify }, names))
        }
        (Head::Language, ModelConfig::Decoder(_)) => Ok((Kind::Generate, Vec::new())),
        _ => Err(AdaptError::expert(
            expert.name,
            format!(
                "a model of type `{}` without a head that scores classes or the next token (`architectures` in its \
                 config.json) tells nothing",
                common.model_type
            ),
        )),
    }
}

/// Names of the modules of the head of the model in `dir`, as its family has them; empty if there is none.
pub fn head_tensors(dir: &Path) -> Vec<String> {
    let Ok(config) = ModelConfig::open(dir) else { return Vec::new() };
    let heads = crate::families::tensors(&config).into_iter().filter(is_head);
    let mut names: Vec<String> = heads
        .map(|spec| spec.name.rsplit_once('.').map_or(spec.name.clone(), |(module, _)| module.to_owned()))
        .collect();
    names.dedup();
    names
}

/// Which vectors coefficients multiply.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Method {
    /// Task vectors.
    AdaMerging,
    /// Task vectors trimmed to this share of their elements, as far as signs agree.
    Plus {
        /// The share.
        density: f64,
    },
}

/// The model, and how its weights follow from coefficients.
#[derive(Debug)]
pub struct Blend {
    /// The merged model, with the heads of tasks.
    pub parameters: Parameters,
    /// For each task whose head it has, or whose classes; none: the model's own words.
    pub heads: Vec<Option<u32>>,
    /// Of clip: the classes of each task.
    vectors: BTreeMap<u32, ClassVectors>,
    /// Of language models: the tokens of each task's classes.
    label_words: BTreeMap<u32, Vec<u32>>,
    /// Bytes that it took to make class vectors.
    vectors_bytes: usize,
    tensors: Vec<Blended>,
    /// Of each group of tensors its label: `*`, a layer or a tensor.
    groups: Vec<String>,
    experts: usize,
}

/// A tensor that follows from coefficients.
#[derive(Debug)]
struct Blended {
    id: ParameterId,
    scan: Scan,
    vectors: Vectors,
    group: usize,
}

/// Where in a model a tensor stands.
type Place = (Half, Option<usize>, Role, Part);

impl Blend {
    /// Matches `base` and `experts`; the merged model is still the base. `tellers` says for each task what tells it.
    ///
    /// # Errors
    /// If a model cannot be read or is of another architecture, a head is missing, or texts of classes do not fit.
    pub fn open(
        base: &Checkpoint,
        experts: &[Expert<'_>],
        tellers: &[Teller],
        method: Method,
        granularity: Granularity,
        observer: &dyn Observer,
    ) -> Result<Self, AdaptError> {
        let config = ModelConfig::open(base.dir())?;
        let config = match config.common().head {
            // Words are those of the merged model itself.
            Head::Language if tellers.iter().any(Teller::needs_words) => config,
            _ => config.with_head(Head::None, Vec::new(), Problem::SingleLabel),
        };
        let parameters = Parameters::load(&config, base, |spec| is_merged(&config, spec))?;
        let trunk = |expert| trunk(expert, &parameters, observer);
        let names = experts.iter().map(trunk).collect::<Result<Vec<_>, _>>()?;
        let planned = planned(&parameters, experts, &names, method)?;
        let whole = if matches!(config, ModelConfig::Clip(_)) { "vision_model" } else { "*" };
        let (tensors, groups) = blended(planned, (granularity, whole), observer)?;
        let mut blend = Self {
            parameters,
            heads: Vec::new(),
            vectors: BTreeMap::new(),
            label_words: BTreeMap::new(),
            vectors_bytes: 0,
            tensors,
            groups,
            experts: experts.len(),
        };
        (0..).zip(tellers).try_for_each(|(task, teller)| blend.add_teller(task, teller, experts))?;
        Ok(blend)
    }

    /// Takes what tells a task.
    fn add_teller(&mut self, task: u32, teller: &Teller, experts: &[Expert<'_>]) -> Result<(), AdaptError> {
        match teller {
            Teller::Words => {}
            Teller::LabelWords(words) => drop(self.label_words.insert(task, words.clone())),
            Teller::Head(expert) => {
                let of = experts[*expert].checkpoint;
                self.parameters.take_head(task, &ModelConfig::open(of.dir())?, of)?;
            }
            Teller::Texts(texts) => {
                let (vectors, bytes) = vectors(&self.parameters, texts)?;
                self.vectors.insert(task, vectors);
                self.vectors_bytes = self.vectors_bytes.max(bytes);
            }
        }
        self.heads.push((*teller != Teller::Words).then_some(task));
        Ok(())
    }

    /// What passes rows, with all that tells them; `source` has the image processor's files.
    ///
    /// # Errors
    /// If the model cannot be built, or `source` has no image processor where one is needed.
    pub(super) fn learner(&self, source: &Path) -> Result<Learner, AdaptError> {
        Ok(match self.parameters.config() {
            ModelConfig::Clip(_) => Learner::zero_shot(&self.parameters, source, self.vectors.clone())?,
            _ => {
                let mut learner = Learner::new(&self.parameters, source)?;
                let mut words = self.label_words.iter();
                words.try_for_each(|(task, words)| learner.add_label_words(*task, words))?;
                learner
            }
        })
    }

    /// Bytes that class vectors took when they were made.
    pub(super) fn vectors_bytes(&self) -> usize {
        self.vectors_bytes
    }

    /// Labels of the groups of tensors that share coefficients.
    pub fn groups(&self) -> &[String] {
        &self.groups
    }

    /// Number of experts.
    pub fn experts(&self) -> usize {
        self.experts
    }

    /// Coefficients `[group][expert]` to begin with.
    ///
    /// # Errors
    /// If there is not one for each expert, or an expert cannot be read.
    pub fn start(&self, start: &Start) -> Result<Vec<Vec<f64>>, AdaptError> {
        let k = self.experts;
        let one = match start {
            Start::Value(value) => vec![*value; k],
            Start::Uniform => vec![1.0 / k as f64; k],
            Start::Each(values) if values.len() == k => values.clone(),
            Start::Each(values) => {
                let message = format!("{} values for {k} models", values.len());
                return Err(AdaptError::setting("init", message));
            }
            Start::MetaGpt => metagpt::coefficients(&self.squared_norms()?, &vec![1.0; k]),
        };
        Ok(vec![one; self.groups.len()])
    }

    /// ‖τ_k‖² over all tensors.
    fn squared_norms(&self) -> Result<Vec<f64>, AdaptError> {
        let mut sums = vec![0.0; self.experts];
        for tensor in &self.tensors {
            let square = |view: &onefold_merge::scan::View<'_>| {
                view.vectors.iter().map(|v| reduce::dot(v, v)).collect::<Vec<_>>()
            };
            let parts = tensor.scan.map_runs(square)?;
            let norms = reduce::sum_in_order(parts, self.experts);
            sums.iter_mut().zip(norms).for_each(|(sum, norm)| *sum += norm);
        }
        Ok(sums)
    }

    /// Sets the weights of the merged model: θ₀ + Σₖ λₖ vₖ with `lambda[group][expert]`.
    ///
    /// # Errors
    /// If an input is not finite.
    pub fn set(&mut self, lambda: &[Vec<f64>]) -> Result<(), AdaptError> {
        for Blended { id, scan, vectors, group } in &mut self.tensors {
            let value = self.parameters.value_mut(*id).expect("what is merged is not frozen");
            vectors.merge(scan, &lambda[*group], value.as_mut_slice())?;
            // Files do not change while they are mapped: once is enough.
            scan.options.allow_non_finite = true;
        }
        Ok(())
    }

    /// Sets the weights to those of one expert.
    ///
    /// # Errors
    /// As [`Blend::set`].
    pub fn set_expert(&mut self, expert: usize) -> Result<(), AdaptError> {
        for Blended { id, scan, .. } in &self.tensors {
            let value = self.parameters.value_mut(*id).expect("what is merged is not frozen");
            scan.operands[expert].tensor.read(0, value.as_mut_slice());
        }
        Ok(())
    }

    /// Sets the weights to those of a model whose trunk is the merged one.
    ///
    /// # Errors
    /// If it cannot be read, or has other tensors.
    pub fn set_from(&mut self, model: &Expert<'_>) -> Result<(), AdaptError> {
        let (checkpoint, dir) = (model.checkpoint, model.checkpoint.dir());
        let found = find(&ModelConfig::open(dir)?, checkpoint.tensors(), dir)?;
        let names: BTreeMap<Place, String> =
            found.tensors.into_iter().map(|(spec, name)| (place(&spec), name)).collect();
        for Blended { id, scan, .. } in &self.tensors {
            let stored = self.parameters[*id].spec().and_then(|spec| names.get(&place(spec)));
            let tensor = stored.and_then(|name| checkpoint.tensors().get(name));
            let Some(tensor) = tensor.filter(|tensor| tensor.shape == scan.shape) else {
                return Err(AdaptError::expert(model.name, format!("`{}` is missing in it", scan.name)));
            };
            let value = self.parameters.value_mut(*id).expect("what is merged is not frozen");
            tensor.read(0, value.as_mut_slice());
        }
        Ok(())
    }

    /// Adds ⟨gradient, vₖ⟩ of a tensor to `sums[group][expert]`; nothing for what is not merged.
    pub(super) fn add_products(
        &self,
        id: ParameterId,
        gradient: &[f32],
        sums: &mut [Vec<f64>],
    ) -> Result<(), AdaptError> {
        // As many tensors as parameters, but for frozen heads behind them.
        let Ok(at) = self.tensors.binary_search_by_key(&id, |tensor| tensor.id) else { return Ok(()) };
        let Blended { scan, vectors, group, .. } = &self.tensors[at];
        let products = vectors.products(scan, gradient)?;
        sums[*group].iter_mut().zip(products).for_each(|(sum, product)| *sum += product);
        Ok(())
    }

    /// Sums of products before any was added.
    pub(super) fn no_products(&self) -> Vec<Vec<f64>> {
        vec![vec![0.0; self.experts]; self.groups.len()]
    }

    /// Bytes of the experts' files that are read again in every step.
    pub fn expert_bytes(&self) -> u64 {
        let of = |tensor: &Blended| tensor.scan.operands.iter().map(|o| o.tensor.bytes() as u64).sum::<u64>();
        self.tensors.iter().map(of).sum()
    }
}

fn place(spec: &TensorSpec) -> Place {
    (spec.half, spec.layer, spec.role, spec.part)
}

/// The tensors of an expert by what they do; those of the merged model have to be among them, and no others but a head.
fn trunk(
    expert: &Expert<'_>,
    base: &Parameters,
    observer: &dyn Observer,
) -> Result<BTreeMap<Place, Tensor>, AdaptError> {
    let checkpoint = expert.checkpoint;
    let config = ModelConfig::open(checkpoint.dir())?;
    let (theirs, ours) = (&config.common().model_type, &base.config().common().model_type);
    if theirs != ours {
        return Err(AdaptError::expert(
            expert.name,
            format!(
                "it is a model of type `{theirs}`, the base is `{ours}`; all have to be fine-tuned from one base"
            ),
        ));
    }
    let found = find(&config, checkpoint.tensors(), checkpoint.dir())?;
    let merged: BTreeMap<Place, &TensorSpec> =
        base.iter().filter_map(|(_, parameter)| parameter.spec()).map(|spec| (place(spec), spec)).collect();
    let mut tensors = BTreeMap::new();
    for (spec, name) in found.tensors {
        match merged.get(&place(&spec)) {
            Some(of_base) if of_base.shape == spec.shape => {
                tensors.insert(place(&spec), checkpoint.tensors()[&name].clone());
            }
            Some(of_base) => {
                let message =
                    format!("`{name}` has shape {:?}, that of the base {:?}", spec.shape, of_base.shape);
                return Err(AdaptError::expert(expert.name, message));
            }
            None if is_head(&spec) => {}
            None => {
                let message = format!("`{name}` is no tensor of the base: they have different architectures");
                return Err(AdaptError::expert(expert.name, message));
            }
        }
    }
    match merged.iter().find(|(place, _)| !tensors.contains_key(place)) {
        None => {
            tell_of_others(expert, base, &tensors, observer);
            Ok(tensors)
        }
        Some((_, spec)) => {
            Err(AdaptError::expert(expert.name, format!("`{}` of the base is missing in it", spec.name)))
        }
    }
}

/// Warns of what an expert has learnt beside what is merged: it is lost.
fn tell_of_others(
    expert: &Expert<'_>,
    base: &Parameters,
    tensors: &BTreeMap<Place, Tensor>,
    observer: &dyn Observer,
) {
    let kept = base.iter().filter_map(|(_, parameter)| stored(parameter));
    let mut kept = kept.filter(|(spec, _)| !is_merged(base.config(), spec));
    let other =
        kept.find(|(spec, tensor)| tensors.get(&place(spec)).is_some_and(|theirs| !equal(tensor, theirs)));
    if let Some((spec, _)) = other {
        let message = format!(
            "expert {}: `{}` is not that of the base; of clip the tower of images alone is merged, all else stays the base's",
            expert.name, spec.name
        );
        observer.event(&Event::Warning { message: &message });
    }
}

fn stored(parameter: &Parameter) -> Option<(&TensorSpec, &Tensor)> {
    match &parameter.origin {
        Origin::Stored { spec, tensor } => Some((spec, tensor)),
        _ => None,
    }
}

/// Whether two tensors of one shape have the same numbers.
fn equal(a: &Tensor, b: &Tensor) -> bool {
    let (mut ours, mut theirs) = (vec![0.0; BLOCK], vec![0.0; BLOCK]);
    let len: usize = a.shape.iter().product();
    (0..len).step_by(BLOCK).all(|start| {
        let count = BLOCK.min(len - start);
        a.read(start, &mut ours[..count]);
        b.read(start, &mut theirs[..count]);
        ours[..count] == theirs[..count]
    })
}

/// The merge of each tensor, in the order in which `onefold merge` ranks them.
fn planned(
    parameters: &Parameters,
    experts: &[Expert<'_>],
    names: &[BTreeMap<Place, Tensor>],
    method: Method,
) -> Result<Vec<(ParameterId, Planned)>, AdaptError> {
    let (rule, density) = match method {
        Method::AdaMerging => (&ADAMERGING, None),
        Method::Plus { density } => (&ADAMERGING_PLUS, Some(density)),
    };
    let mut values = Values::from([("weight", Value::Number(0.0))]);
    values.extend(density.map(|density| ("density", Value::Number(density))));
    let mut planned = Vec::new();
    for (id, parameter) in parameters.iter() {
        let Some((spec, tensor)) = stored(parameter).filter(|(spec, _)| is_merged(parameters.config(), spec))
        else {
            continue;
        };
        let operand = |(expert, tensors): (&Expert<'_>, &BTreeMap<Place, Tensor>)| Operand {
            model: expert.name.to_owned(),
            tensor: tensors[&place(spec)].clone(),
        };
        let scan = Scan {
            name: spec.name.clone(),
            shape: tensor.shape.clone(),
            origin: Some(Operand { model: "the base".to_owned(), tensor: tensor.clone() }),
            operands: experts.iter().zip(names).map(operand).collect(),
            statistics: Vec::new(),
            deltas: false,
            // Short spans: a tensor of a few hundred thousand numbers should be work for all threads alike.
            options: ScanOptions { span: 2 * BLOCK, ..ScanOptions::default() },
        };
        let models = vec![values.clone(); experts.len()];
        let task = MergeTask { scan, global: Values::new(), models, statistics: Vec::new(), seed: 0 };
        let merge = Merge::new(rule, task).map_err(|message| AdaptError::setting("density", message))?;
        let (name, shape) = (spec.name.clone(), tensor.shape.clone());
        let output = OutputTensor { name, dtype: Dtype::F32, shape };
        let layer = Name::parse(&spec.name).layer_label();
        planned.push((id, Planned { output, work: Work::Merge(merge), layer, repeats: false }));
    }
    planned.sort_by(|(_, a), (_, b)| natural_order(&a.output.name, &b.output.name));
    Ok(planned)
}

/// Vectors and groups of tensors; `whole` is the label of all of them together.
fn blended(
    planned: Vec<(ParameterId, Planned)>,
    (granularity, whole): (Granularity, &str),
    observer: &dyn Observer,
) -> Result<(Vec<Blended>, Vec<String>), AdaptError> {
    let (ids, planned): (Vec<_>, Vec<_>) = planned.into_iter().unzip();
    let surveys = stream::survey(&planned, observer)?;
    let (mut groups, mut known) = (Vec::new(), BTreeMap::new());
    let mut tensors = Vec::new();
    for ((id, planned), survey) in ids.into_iter().zip(planned).zip(&surveys) {
        let label = match granularity {
            Granularity::Model => whole.to_owned(),
            Granularity::Block => planned.layer,
            Granularity::Tensor => planned.output.name,
        };
        let group = *known.entry(label).or_insert_with_key(|label| {
            groups.push(label.clone());
            groups.len() - 1
        });
        let Work::Merge(merge) = planned.work else { continue };
        let vectors = merge.rule.vectors(&merge.scan, survey)?.expect("AdaMerging has vectors");
        tensors.push(Blended { id, scan: merge.scan, vectors, group });
    }
    tensors.sort_by_key(|tensor| tensor.id);
    Ok((tensors, groups))
}
