//! Any rule on task vectors, with its result multiplied: a step of another length in the same direction.

use super::adamerging::Vectors;
use super::{Kernel, ModelSurvey, Needs, Rule, Scratch};
use crate::MergeError;
use crate::emr::Rescaler;
use crate::kernels::scale;
use crate::scan::{Grain, Scan, View};

/// A rule whose merged task vector is multiplied.
#[derive(Debug)]
pub struct Scaled {
    rule: Box<dyn Rule>,
    factor: f64,
}

impl Scaled {
    /// `rule` with its merged task vector multiplied with `factor`; the rule itself if that is 1. With a factor of 0 the result
    /// is the origin, bit for bit.
    pub fn rule(rule: Box<dyn Rule>, factor: f64) -> Box<dyn Rule> {
        if factor == 1.0 { rule } else { Box::new(Self { rule, factor }) }
    }
}

impl Rule for Scaled {
    fn artefact(&self) -> Option<Rescaler> {
        self.rule.artefact()
    }

    fn recorded_bytes(&self, scan: &Scan) -> u64 {
        self.rule.recorded_bytes(scan)
    }

    fn elects_signs(&self) -> bool {
        self.rule.elects_signs()
    }

    fn needs(&self) -> Needs {
        self.rule.needs()
    }

    fn weighs_elements(&self) -> bool {
        self.rule.weighs_elements()
    }

    fn squared_norms(&self, scan: &Scan, survey: &ModelSurvey) -> Result<Vec<f64>, MergeError> {
        self.rule.squared_norms(scan, survey)
    }

    fn ranks(&self, n: u64) -> Vec<Vec<u64>> {
        self.rule.ranks(n)
    }

    fn whole_tensor_bytes(&self, scan: &Scan) -> u64 {
        self.rule.whole_tensor_bytes(scan)
    }

    fn vectors(&self, _: &Scan, _: &ModelSurvey) -> Result<Option<Vectors>, MergeError> {
        Ok(None)
    }

    fn prepare(&self, scan: &Scan, survey: &ModelSurvey) -> Result<Box<dyn Kernel>, MergeError> {
        let kernel = self.rule.prepare(scan, survey)?;
        Ok(Box::new(ScaledKernel { kernel, factor: self.factor }))
    }
}

#[derive(Debug)]
struct ScaledKernel {
    kernel: Box<dyn Kernel>,
    factor: f64,
}

impl Kernel for ScaledKernel {
    fn grain(&self) -> Grain {
        self.kernel.grain()
    }

    fn coefficients(&self) -> Option<Vec<f64>> {
        let all = self.kernel.coefficients()?;
        Some(all.into_iter().map(|coefficient| coefficient * self.factor).collect())
    }

    fn row_sums(&self) -> Option<[f64; 2]> {
        let [a, b] = self.kernel.row_sums()?.map(|sum| sum * self.factor);
        Some([a.min(b), a.max(b)])
    }

    fn merge(&self, block: &View<'_>, scratch: &mut Scratch, out: &mut [f32]) {
        self.kernel.merge(block, scratch, out);
        scale(out, self.factor as f32);
    }
}
