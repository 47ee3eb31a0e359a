//! RegMean (Jin et al., "Dataless Knowledge Fusion by Merging Weights of Language Models", ICLR 2023, arXiv 2212.09849):
//! linear maps that reproduce each model's outputs on that model's own inputs. The mathematics is in [`crate::regression`].
//!
//! `W*ᵀ = (Σ G̃ₘ)⁻¹ Σ G̃ₘWₘᵀ`, equation 2 and section 4.2 of the paper, where `Gₘ = XₘᵀXₘ / samples` are the statistics of
//! the tensor, [in, in], and `G̃` has all but its diagonal multiplied by `ratio`. At 1 the plain least squares are solved, at
//! 0 each input is averaged by its mean square. The default of 0.9 stands between what is published, and leaves no sum
//! without inverse:
//!
//! | where | ratio |
//! |---|---|
//! | the paper's code, `bloomberg/dataless-model-merging`, `src/configs/exps`: GLUE with DistilBERT and RoBERTa | 1 |
//! | the same: emotions with RoBERTa, DeBERTa and T5; entities with RoBERTa | 0.1 |
//! | FusionBench, `config/method/regmean`: CLIP | 0.95 |
//! | the same: GPT-2 | 0.6 |
//! | the same: its configuration for no model in particular | 0.1 |
//!
//! Tensors without statistics take the plain mean. Weights of linear maps are [out, in], or [in, out] where a name contains
//! one of `transposed` (GPT-2's); where the matrix is not square its shape decides, whatever `transposed` says.
//!
//! Dividing by samples makes models count alike, however much was measured of each. (The paper's equation has sums; which of
//! the two its experiments took makes no difference there, as all models have as many samples.) An input that was 0 in all
//! samples of all models is averaged. A sum without inverse is an error; below a ratio of 1 that cannot happen otherwise.
//! A matrix is held in memory, with one model's matrices, one tensor at a time.

use onefold_checkpoint::Tensor;

use super::svd::Merged;
use super::{BaseRole, Combination, Kernel, Method, ModelSurvey, Rule};
use crate::MergeError;
use crate::params::{Default, Kind, Level, Param};
use crate::regression::{Regression, peak_bytes};
use crate::scan::{BLOCK, Grain, Scan};
use crate::task::Task;

/// The table entry.
pub static REGMEAN: Method = Method {
    name: "regmean",
    summary: "linear maps that keep each model's outputs on its own inputs",
    source: "arXiv 2212.09849",
    base: BaseRole::Donor,
    operands: (1, usize::MAX),
    crops_embeddings: false,
    passes: "2",
    params: &[
        Param {
            name: "ratio",
            level: Level::Global,
            kind: Kind::Number { min: 0.0, max: 1.0, min_open: false },
            default: Default::Number(0.9),
            help: "factor of inner products between different inputs",
        },
        Param {
            name: "transposed",
            level: Level::Global,
            kind: Kind::TextList,
            default: Default::Optional,
            help: "square weights whose name contains one of these are stored [in, out]",
        },
    ],
    build,
};

/// How a matrix holds a linear map.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Stored {
    /// [out, in]
    ByOutput,
    /// [in, out]
    ByInput,
}

#[derive(Debug)]
struct RegMean {
    /// Of each operand; empty: the tensor is averaged.
    grams: Vec<Tensor>,
    stored: Stored,
    ratio: f64,
}

fn build(task: &Task) -> Result<Box<dyn Rule>, String> {
    let ratio = task.required(&REGMEAN, "ratio")?;
    let transposed =
        task.words(&REGMEAN, "transposed").iter().any(|part| task.scan.name.contains(part.as_str()));
    let Some(first) = task.statistics.first() else {
        return Ok(Box::new(RegMean { grams: Vec::new(), stored: Stored::ByOutput, ratio }));
    };
    let (&[rows, cols], &[inputs, ..]) = (&task.scan.shape[..], &first.shape[..]) else {
        return Err(format!(
            "Gram matrices were measured for a tensor of shape {:?}, which is no linear map",
            task.scan.shape
        ));
    };
    let by_input = inputs == rows && (transposed || inputs != cols);
    let stored = if by_input { Stored::ByInput } else { Stored::ByOutput };
    let inputs = if by_input { rows } else { cols };
    let grams = task.statistics_of(&[inputs, inputs])?.to_vec();
    Ok(Box::new(RegMean { grams, stored, ratio }))
}

impl RegMean {
    /// Numbers of inputs and outputs of the map.
    fn sizes(&self, scan: &Scan) -> (usize, usize) {
        match (&scan.shape[..], self.stored) {
            (&[outputs, inputs], Stored::ByOutput) | (&[inputs, outputs], Stored::ByInput) => {
                (inputs, outputs)
            }
            _ => (0, 0),
        }
    }

    /// The sum of the diagonals.
    fn diagonal(&self, scan: &Scan, inputs: usize) -> Result<Vec<f64>, MergeError> {
        let mut sum = vec![0.0; inputs];
        for m in 0..self.grams.len() {
            for (i, sum) in sum.iter_mut().enumerate() {
                let mut value = [0.0];
                self.grams[m].read(i * inputs + i, &mut value);
                if !(0.0..=f32::MAX).contains(&value[0]) {
                    return Err(bad_gram(scan, m, i * inputs + i, value[0]));
                }
                *sum += f64::from(value[0]);
            }
        }
        Ok(sum)
    }

    /// The Gram matrix of an operand.
    fn gram(&self, scan: &Scan, m: usize, inputs: usize) -> Result<Vec<f64>, MergeError> {
        let mut gram = Vec::with_capacity(inputs * inputs);
        let mut block = vec![0.0f32; BLOCK];
        while gram.len() < inputs * inputs {
            let (start, count) = (gram.len(), BLOCK.min(inputs * inputs - gram.len()));
            self.grams[m].read(start, &mut block[..count]);
            if let Some(at) = crate::kernels::check::first_non_finite(&block[..count]) {
                return Err(bad_gram(scan, m, start + at, block[at]));
            }
            gram.extend(block[..count].iter().map(|v| f64::from(*v)));
        }
        for i in 0..inputs {
            for j in 0..i {
                let (a, b) = (gram[i * inputs + j], gram[j * inputs + i]);
                // A product of the same numbers in another order.
                if (a - b).abs() > 1e-3 * (gram[i * inputs + i] * gram[j * inputs + j]).sqrt() {
                    return Err(undefined(
                        scan,
                        format!(
                            "the statistics of {} are not symmetric at row {i}, column {j} ({a}, {b}) and so no Gram \
                             matrix; measure them again",
                            scan.operands[m].model
                        ),
                    ));
                }
            }
        }
        Ok(gram)
    }

    /// The map of an operand, [out, in].
    fn map(&self, scan: &Scan, m: usize, inputs: usize) -> Result<Vec<f64>, MergeError> {
        let parts = scan.only(m).map(Grain::Element, |view| view.vectors[0].to_vec())?;
        let values = parts.iter().flatten().map(|v| f64::from(*v));
        Ok(match self.stored {
            Stored::ByOutput => values.collect(),
            Stored::ByInput => {
                let outputs = scan.len() / inputs.max(1);
                let mut map = vec![0.0; scan.len()];
                values.enumerate().for_each(|(at, v)| map[at % outputs * inputs + at / outputs] = v);
                map
            }
        })
    }
}

fn undefined(scan: &Scan, message: String) -> MergeError {
    MergeError::Undefined { tensor: scan.name.clone(), message }
}

fn bad_gram(scan: &Scan, m: usize, index: usize, value: f32) -> MergeError {
    MergeError::Statistic { tensor: scan.name.clone(), model: scan.operands[m].model.clone(), index, value }
}

impl Rule for RegMean {
    fn whole_tensor_bytes(&self, scan: &Scan) -> u64 {
        let (inputs, outputs) = self.sizes(scan);
        if self.grams.is_empty() { 0 } else { peak_bytes(inputs, outputs) }
    }

    fn prepare(&self, scan: &Scan, _: &ModelSurvey) -> Result<Box<dyn Kernel>, MergeError> {
        if self.grams.is_empty() {
            return Ok(Combination::kernel(vec![1.0 / scan.k() as f64; scan.k()]));
        }
        let (inputs, outputs) = self.sizes(scan);
        let mut sums = Regression::new(outputs, &self.diagonal(scan, inputs)?);
        for m in 0..scan.k() {
            sums.add(self.gram(scan, m, inputs)?, self.ratio, &self.map(scan, m, inputs)?);
        }
        let merged = sums.solve().map_err(|singular| {
            let remedy = "set `ratio` below 1, or measure the Gram matrices on more samples";
            undefined(scan, format!("the sum of the Gram matrices has no inverse: {singular}; {remedy}"))
        })?;
        let at = |i: usize| match self.stored {
            Stored::ByOutput => merged[i],
            Stored::ByInput => merged[i % outputs * inputs + i / outputs],
        };
        let values = (0..scan.len()).map(|i| at(i) as f32).collect();
        Ok(Box::new(Merged { values, alpha: 1.0 }))
    }
}
