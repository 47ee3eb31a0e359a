//! Heads of several tasks on one trunk.
//!
//! A checkpoint has one head, a model of several tasks one per task. The others are added here: as parameters like all
//! others, in the part [`Half::Task`] of the model. Saved is the trunk with one of them, under the names of the family, so
//! that transformers loads each as the model of its task.
//!
//! Weights begin normal with a deviation that is given (transformers: 0.02), biases with 0; a layer that the checkpoint
//! has, such as bert's pooler, begins as it is there.

use onefold_checkpoint::{Checkpoint, Dtype};
use onefold_engine::Buffer;
use onefold_runtime::Stream;

use super::load::finite;
use super::{Kept, Origin, Parameter, ParameterId, Parameters, ParametersError, Part, Value};
use crate::config::{Head, ModelConfig};
use crate::families::{Half, Role, TensorSpec, base_prefix, find, tensors};

/// How the weights of a new head begin.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeadStart {
    /// Of the random numbers.
    pub seed: u64,
    /// Their standard deviation.
    pub deviation: f64,
}

impl Default for HeadStart {
    fn default() -> Self {
        Self { seed: 0, deviation: 0.02 }
    }
}

/// A head that cannot be added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeadError {
    /// It is there.
    #[error("task {task} has a head already")]
    Twice {
        /// The task.
        task: u32,
    },
    /// It scores no classes.
    #[error("the head of task {task} scores no classes: only such heads can share a trunk")]
    NoClasses {
        /// The task.
        task: u32,
    },
    /// Its model has another trunk.
    #[error(
        "the configuration of task {task} is of another trunk: `{tensor}` is not a tensor of both, in one shape; change \
         nothing but the head and its labels"
    )]
    OtherTrunk {
        /// The task.
        task: u32,
        /// The first tensor that differs.
        tensor: String,
    },
}

/// Whether a tensor belongs to the head.
pub(crate) fn is_head(spec: &TensorSpec) -> bool {
    matches!(spec.role, Role::Pooler | Role::HeadDense | Role::HeadNorm | Role::Head)
}

impl Parameters {
    /// Adds the head of a task, trainable; before the model is built from these parameters. `config` is that of the task: the
    /// trunk's, but for `architectures`, labels and problem.
    ///
    /// # Errors
    /// If the task has a head, the head scores no classes, or the trunk is another.
    pub fn add_head(&mut self, task: u32, config: &ModelConfig, start: HeadStart) -> Result<(), HeadError> {
        self.check_new(task, config)?;
        let (head, trunk): (Vec<_>, Vec<_>) = tensors(config).into_iter().partition(is_head);
        self.check_trunk(task, &trunk)?;
        let dtype = self.dtype();
        for spec in head {
            let value = Value::Trainable(self.begin(task, &spec, start));
            self.put_head(task, spec, dtype, value);
        }
        self.heads.insert(task, config.clone());
        Ok(())
    }

    /// Adds the head of a task as it stands in the checkpoint of a model of that task, frozen; before the model is built from
    /// these parameters. `config` is that of the checkpoint.
    ///
    /// # Errors
    /// If the task has a head, the head scores no classes, the trunk is another, or the head's tensors are missing, misshapen
    /// or not finite.
    pub fn take_head(
        &mut self,
        task: u32,
        config: &ModelConfig,
        checkpoint: &Checkpoint,
    ) -> Result<(), ParametersError> {
        self.check_new(task, config)?;
        let (head, trunk): (Vec<_>, Vec<_>) = tensors(config).into_iter().partition(is_head);
        self.check_trunk(task, &trunk)?;
        let stored = find(config, checkpoint.tensors(), checkpoint.dir())?;
        let name =
            |spec: &TensorSpec| stored.tensors.iter().find(|(found, _)| found == spec).map(|(_, name)| name);
        for spec in head {
            let tensor = &checkpoint.tensors()[name(&spec).expect("all that is looked for is found")];
            let values = finite(tensor).map_err(|at| ParametersError::NonFinite {
                dir: checkpoint.dir().to_owned(),
                tensors: vec![format!("`{}` (element {at})", spec.name)],
            })?;
            self.put_head(task, spec, tensor.dtype, Value::Frozen(values));
        }
        self.heads.insert(task, config.clone());
        Ok(())
    }

    /// Whether the head of a task is trained from now on.
    pub fn train_head(&mut self, task: u32, trained: bool) {
        for entry in &mut self.entries {
            let is_its = matches!(&entry.origin, Origin::Head { spec, .. } if spec.half == Half::Task(task));
            if let (true, Value::Trainable(buffer) | Value::Frozen(buffer)) = (is_its, &mut entry.value) {
                let buffer = std::mem::take(buffer);
                entry.value = if trained { Value::Trainable(buffer) } else { Value::Frozen(buffer) };
            }
        }
    }

    /// The numbers of the head of a task, under the names that its family has for them.
    pub fn head_values(&self, task: u32) -> Vec<(String, &Buffer)> {
        let of = |entry: &'_ Parameter| match &entry.origin {
            Origin::Head { spec, .. } if spec.half == Half::Task(task) => Some(spec.name.clone()),
            _ => None,
        };
        (0..self.entries.len())
            .filter_map(|index| Some((of(&self.entries[index])?, self.full(ParameterId(index)))))
            .collect()
    }

    /// Puts numbers in the place of those of a task's head. Says which tensor there is none for, or of another size.
    ///
    /// # Errors
    /// That tensor's name.
    pub fn put_head_values(
        &mut self,
        task: u32,
        mut values: impl FnMut(&str, usize) -> Option<Buffer>,
    ) -> Result<(), String> {
        for entry in &mut self.entries {
            let Origin::Head { spec, .. } = &entry.origin else { continue };
            if spec.half != Half::Task(task) {
                continue;
            }
            let len = entry.shape.iter().product();
            let found = values(&spec.name, len).filter(|found| found.len() == len);
            let found = found.ok_or_else(|| spec.name.clone())?;
            entry.value = match entry.value {
                Value::Trainable(_) => Value::Trainable(found),
                Value::Frozen(_) | Value::Half(_) => Value::Frozen(found),
            };
        }
        Ok(())
    }

    /// The tasks whose heads were added, each with the configuration of its model.
    pub fn heads(&self) -> impl Iterator<Item = (u32, &ModelConfig)> {
        self.heads.iter().map(|(task, config)| (*task, config))
    }

    fn check_new(&self, task: u32, config: &ModelConfig) -> Result<(), HeadError> {
        if self.heads.contains_key(&task) {
            return Err(HeadError::Twice { task });
        }
        match config.common().head {
            Head::Classes(_) | Head::Tokens(_) => Ok(()),
            Head::None | Head::Language => Err(HeadError::NoClasses { task }),
        }
    }

    fn put_head(&mut self, task: u32, spec: TensorSpec, dtype: Dtype, value: Value) {
        let spec = TensorSpec { half: Half::Task(task), ..spec };
        let (name, shape) = (format!("heads.{task}.{}", spec.name), spec.shape.clone());
        let place = (spec.half, spec.layer, spec.role, spec.part);
        self.places.insert(place, ParameterId(self.entries.len()));
        self.entries.push(Parameter { name, shape, origin: Origin::Head { spec, dtype }, value });
    }

    fn check_trunk(&self, task: u32, trunk: &[TensorSpec]) -> Result<(), HeadError> {
        let own = tensors(&self.config);
        let mut own = own.iter().filter(|spec| !is_head(spec));
        let differs = |tensor: &TensorSpec| HeadError::OtherTrunk { task, tensor: tensor.name.clone() };
        for spec in trunk {
            if own.next() != Some(spec) {
                return Err(differs(spec));
            }
        }
        own.next().map_or(Ok(()), |spec| Err(differs(spec)))
    }

    /// The type in which the trunk is stored.
    fn dtype(&self) -> Dtype {
        let stored = self.entries.iter().find_map(|entry| match &entry.origin {
            Origin::Stored { tensor, .. } => Some(tensor.dtype),
            Origin::Adapter { .. } | Origin::Head { .. } => None,
        });
        stored.unwrap_or(Dtype::F32)
    }

    fn begin(&self, task: u32, spec: &TensorSpec, start: HeadStart) -> Buffer {
        let len = spec.shape.iter().product();
        if spec.role == Role::Pooler
            && let Some(values) = self.stored_values(spec)
        {
            return values;
        }
        match spec.part {
            Part::Bias => Buffer::zeros(len),
            Part::Weight | Part::Transposed => {
                normal(Stream::new(start.seed, &format!("head {task}"), &spec.name), len, start.deviation)
            }
        }
    }

    /// What the checkpoint has under a name of the family.
    fn stored_values(&self, spec: &TensorSpec) -> Option<Buffer> {
        let bare = spec.name.strip_prefix(base_prefix(&self.config)).unwrap_or(&spec.name);
        let named = |name: &str| name == spec.name || name == bare;
        let kept = self.kept.iter().find_map(|(name, kept)| match kept {
            Kept::AsStored(tensor) if named(name) => Some(tensor),
            _ => None,
        });
        let entry = self.entries.iter().find_map(|entry| match &entry.origin {
            Origin::Stored { tensor, .. } if named(&entry.name) => Some(tensor),
            _ => None,
        });
        let tensor = kept.or(entry).filter(|tensor| tensor.shape == spec.shape && tensor.dtype.is_float())?;
        let mut values = vec![0.0; tensor.len()];
        tensor.read(0, &mut values);
        Some(Buffer::from(values))
    }

    /// The name under which the trunk with a task's head has a tensor of the checkpoint that it does not compute with; none
    /// for parts of other heads.
    pub(super) fn trunk_name(&self, name: &str) -> Option<String> {
        let prefix = base_prefix(&self.config);
        let bare = self.entries.iter().any(|entry| {
            entry.spec().is_some_and(|spec| !is_head(spec) && spec.name == format!("{prefix}{}", entry.name))
        });
        let full = if bare { format!("{prefix}{name}") } else { name.to_owned() };
        // A pooler is part of a head: transformers has none where the task's head does without.
        let inner = full.strip_prefix(prefix)?;
        (!inner.starts_with("pooler.")).then_some(full)
    }
}

/// Normal numbers (Box and Muller 1958).
fn normal(stream: Stream, len: usize, deviation: f64) -> Buffer {
    let mut bits = vec![0; len.next_multiple_of(2)];
    stream.fill(0, &mut bits);
    let uniform = |bits: u32| (f64::from(bits) + 0.5) / 2f64.powi(32);
    let two = |pair: &[u32]| {
        let (radius, angle) =
            ((-2.0 * uniform(pair[0]).ln()).sqrt(), std::f64::consts::TAU * uniform(pair[1]));
        [radius * angle.cos(), radius * angle.sin()].map(|number| (number * deviation) as f32)
    };
    let numbers = bits.chunks_exact(2).flat_map(two);
    Buffer::from(numbers.take(len).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests;
