//! Low-rank adapters: further parameters beside frozen weights.
//!
//! Begin: A uniform in ±1/√inputs (as PEFT, whose Kaiming initialisation with a = √5 is this), B = 0, and DoRA's magnitude
//! the length of each row of W: the adapted model is the model.

use onefold_engine::Buffer;
use onefold_engine::cpu::linear::Layout;
use onefold_engine::cpu::{dora, lora};
use onefold_runtime::Stream;

use super::{Factor, Origin, Parameter, ParameterId, Parameters, Part, Value};
use crate::families::{Role, TensorSpec};

/// Adapters to be made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdapterSettings {
    /// r.
    pub rank: usize,
    /// α; the product of the factors is multiplied with α/r.
    pub alpha: f64,
    /// With α/√r instead (rsLoRA).
    pub rank_stabilised: bool,
    /// With trained lengths of rows (DoRA).
    pub decomposed: bool,
    /// Probability of dropping elements of the input, in training.
    pub dropout: f64,
    /// Of A.
    pub seed: u64,
}

/// Adapters that cannot be made.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AdaptError {
    /// A setting out of range.
    #[error("adapter: `{key}` is {found}, expected {expected}")]
    Setting {
        /// Which.
        key: &'static str,
        /// Its value.
        found: f64,
        /// What it may be.
        expected: &'static str,
    },
    /// The choice names no tensor.
    #[error(
        "adapter: no weight of the model is among the targets; name modules such as `q_proj`, or all linear maps"
    )]
    NoTarget,
    /// The choice names a tensor that is no adaptable linear map.
    #[error(
        "adapter: `{tensor}` cannot be adapted: adapters are for linear maps of layers, not for {role:?}"
    )]
    NotLinear {
        /// The tensor.
        tensor: String,
        /// What it does.
        role: Role,
    },
    /// The weight is itself trained.
    #[error("adapter: `{tensor}` is trained itself; freeze it, or take it out of the targets")]
    Trained {
        /// The tensor.
        tensor: String,
    },
}

/// An adapter of a linear map.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct Adapter {
    pub(in crate::model) a: ParameterId,
    pub(in crate::model) b: ParameterId,
    pub(in crate::model) magnitude: Option<ParameterId>,
    pub(in crate::model) rank: usize,
    /// α and rsLoRA, from which the scale is made.
    pub(super) alpha: f64,
    pub(super) rank_stabilised: bool,
    pub(in crate::model) scale: f32,
    pub(in crate::model) dropout: f64,
}

/// Linear maps that adapters know.
const LINEAR: [Role; 11] = [
    Role::Query,
    Role::Key,
    Role::Value,
    Role::QueryKeyValue,
    Role::AttentionOutput,
    Role::Gate,
    Role::Up,
    Role::GateUp,
    Role::Down,
    Role::Pooler,
    Role::HeadDense,
];

impl TensorSpec {
    /// Whether it is the weight of a linear map that can be adapted: PEFT's `all-linear`.
    pub fn is_adaptable(&self) -> bool {
        self.part != Part::Bias && LINEAR.contains(&self.role)
    }

    /// Outputs and inputs of a linear map, and how its weight lies.
    pub(crate) fn linear_dims(&self) -> (usize, usize, Layout) {
        let (first, rest) = (self.shape.first().copied().unwrap_or(1), self.shape.iter().skip(1).product());
        match self.part {
            Part::Transposed => (rest, first, Layout::InputsOutputs),
            Part::Weight | Part::Bias => (first, rest, Layout::OutputsInputs),
        }
    }
}

impl Factor {
    /// As PEFT calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::A => "lora_A.weight",
            Self::B => "lora_B.weight",
            Self::Magnitude => "lora_magnitude_vector",
        }
    }
}

impl Parameters {
    /// Gives every weight for which `chosen` holds an adapter; before the model is built from these parameters.
    ///
    /// # Errors
    /// If a setting is out of range, nothing is chosen, or something that cannot be adapted.
    pub fn adapt(
        &mut self,
        settings: &AdapterSettings,
        chosen: impl Fn(&TensorSpec) -> bool,
    ) -> Result<(), AdaptError> {
        check(settings)?;
        let targets: Vec<(ParameterId, TensorSpec)> = (self.iter())
            .filter_map(|(id, parameter)| Some((id, parameter.spec()?.clone())))
            .filter(|(_, spec)| chosen(spec))
            .collect();
        if targets.is_empty() {
            return Err(AdaptError::NoTarget);
        }
        for (id, spec) in &targets {
            let tensor = spec.name.clone();
            if !spec.is_adaptable() {
                return Err(AdaptError::NotLinear { tensor, role: spec.role });
            }
            if self.is_trainable(*id) {
                return Err(AdaptError::Trained { tensor });
            }
        }
        targets.iter().for_each(|(id, spec)| self.add_adapter(settings, *id, spec));
        Ok(())
    }

    /// ‖ΔW‖² of all adapters together, from Gram matrices of their factors: ‖s B A‖² = s² ⟨BᵀB, A Aᵀ⟩. None if one is
    /// decomposed, whose ΔW is no product.
    pub(crate) fn adapted_square(&self) -> Option<f64> {
        let square = |adapter: &Adapter| {
            let (a, b) = (self.full(adapter.a).to_vec(), self.full(adapter.b).to_vec());
            let (r, inputs) = (adapter.rank, a.len() / adapter.rank);
            let mut sum = 0.0;
            for i in 0..r {
                for j in 0..r {
                    let of_a =
                        (0..inputs).map(|n| f64::from(a[i * inputs + n]) * f64::from(a[j * inputs + n]));
                    let of_b = b.chunks(r).map(|row| f64::from(row[i]) * f64::from(row[j]));
                    sum += of_a.sum::<f64>() * of_b.sum::<f64>();
                }
            }
            adapter.magnitude.is_none().then(|| f64::from(adapter.scale).powi(2) * sum)
        };
        self.adapters.values().map(square).sum()
    }

    fn add_adapter(&mut self, settings: &AdapterSettings, of: ParameterId, spec: &TensorSpec) {
        let AdapterSettings { rank, alpha, rank_stabilised, seed, dropout, .. } = *settings;
        let (outputs, inputs, layout) = spec.linear_dims();
        let root = if rank_stabilised { (rank as f64).sqrt() } else { rank as f64 };
        let scale = (alpha / root) as f32;
        let module = spec.name.trim_end_matches(".weight");
        let a = uniform(Stream::new(seed, "adapter", &spec.name), rank * inputs, inputs);
        let a = self.push(of, Factor::A, module, vec![rank, inputs], a);
        let b = self.push(of, Factor::B, module, vec![outputs, rank], Buffer::zeros(outputs * rank));
        let magnitude = settings.decomposed.then(|| {
            let mut norms = Buffer::zeros(outputs);
            let dims = lora::Dims { rows: 0, inputs, outputs, rank };
            let factors = lora::Factors { a: self.full(a), b: self.full(b), scale };
            dora::norms(&dims, self[of].weight(), layout, &factors, &mut norms);
            self.push(of, Factor::Magnitude, module, vec![outputs], norms)
        });
        let adapter = Adapter { a, b, magnitude, rank, alpha, rank_stabilised, scale, dropout };
        self.adapters.insert(of, adapter);
    }

    fn push(
        &mut self,
        of: ParameterId,
        factor: Factor,
        module: &str,
        shape: Vec<usize>,
        values: Buffer,
    ) -> ParameterId {
        let name = format!("base_model.model.{module}.{}", factor.name());
        let origin = Origin::Adapter { of, factor };
        self.entries.push(Parameter { name, shape, origin, value: Value::Trainable(values) });
        ParameterId(self.entries.len() - 1)
    }
}

fn check(settings: &AdapterSettings) -> Result<(), AdaptError> {
    let AdapterSettings { rank, alpha, dropout, .. } = *settings;
    let wrong = |key, found, expected| Err(AdaptError::Setting { key, found, expected });
    if rank == 0 || rank > 1 << 16 {
        return wrong("r", rank as f64, "an integer from 1 to 65536");
    }
    if !alpha.is_finite() || alpha <= 0.0 {
        return wrong("alpha", alpha, "a positive number");
    }
    if !(0.0..1.0).contains(&dropout) {
        return wrong("dropout", dropout, "a probability in [0, 1)");
    }
    Ok(())
}

/// Numbers in ±1/√inputs.
fn uniform(stream: Stream, len: usize, inputs: usize) -> Buffer {
    let mut bits = vec![0; len];
    stream.fill(0, &mut bits);
    let bound = 1.0 / (inputs as f64).sqrt();
    // The middle of each of 2³² steps.
    let number = |bits: u32| ((f64::from(bits) + 0.5) / 2f64.powi(31) - 1.0) * bound;
    Buffer::from(bits.into_iter().map(|bits| number(bits) as f32).collect::<Vec<_>>())
}
