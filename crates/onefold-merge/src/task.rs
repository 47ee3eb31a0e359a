//! One output tensor to be merged: its inputs, and the values of the method's parameters that hold for it.

use std::collections::BTreeMap;

use onefold_checkpoint::Tensor;

use crate::methods::Method;
use crate::params::{Default, Level, Value};
use crate::scan::Scan;

/// Values by parameter name.
pub type Values = BTreeMap<&'static str, Value>;

/// What a method is built from for one tensor. Values were checked against the method's table before.
#[derive(Debug, Clone)]
pub struct Task {
    /// The inputs.
    pub scan: Scan,
    /// Values that hold for all models.
    pub global: Values,
    /// Values of each operand, in the order of `scan.operands`.
    pub models: Vec<Values>,
    /// What was measured on each operand's own inputs for this tensor, in the order of `scan.operands`; empty if nothing
    /// was. Which statistic that is, and so its shape, depends on the method: [`crate::methods::measured`].
    pub statistics: Vec<Tensor>,
    /// Seed of random masks.
    pub seed: u64,
}

impl Task {
    /// A number that holds for all models, or the method's default.
    pub fn number(&self, method: &Method, name: &str) -> Option<f64> {
        lookup(&self.global, method, name).and_then(|v| v.as_number())
    }

    /// A required or defaulted number that holds for all models.
    ///
    /// # Errors
    /// If the recipe gives none and the method has no default.
    pub fn required(&self, method: &Method, name: &str) -> Result<f64, String> {
        self.number(method, name).ok_or_else(|| missing(name))
    }

    /// A flag that holds for all models.
    pub fn flag(&self, method: &Method, name: &str) -> bool {
        lookup(&self.global, method, name).and_then(|v| v.as_flag()).unwrap_or(false)
    }

    /// A word that holds for all models.
    pub fn word(&self, method: &Method, name: &str) -> Option<String> {
        match lookup(&self.global, method, name) {
            Some(Value::Text(word)) => Some(word),
            _ => None,
        }
    }

    /// A list of words; empty if none is given.
    pub fn words(&self, method: &Method, name: &str) -> Vec<String> {
        match lookup(&self.global, method, name) {
            Some(Value::TextList(words)) => words,
            _ => Vec::new(),
        }
    }

    /// The statistics, which are none or one of this shape for each operand.
    ///
    /// # Errors
    /// If there are others.
    pub fn statistics_of(&self, shape: &[usize]) -> Result<&[Tensor], String> {
        let (found, k) = (self.statistics.len(), self.scan.k());
        if found != 0 && found != k {
            return Err(format!(
                "{found} statistics for {k} models: measure all models, or none, for a tensor"
            ));
        }
        match self.scan.operands.iter().zip(&self.statistics).find(|(_, s)| s.shape != shape) {
            None => Ok(&self.statistics),
            Some((operand, other)) => Err(format!(
                "the statistics of {} have shape {:?}, expected {shape:?} for weights of shape {:?}: measure them on the \
                 model that is merged",
                operand.model, other.shape, self.scan.shape
            )),
        }
    }

    /// A parameter of each model, in the order of the operands.
    ///
    /// # Errors
    /// If a model has no value and the method no default.
    pub fn per_model(&self, method: &Method, name: &str) -> Result<Vec<f64>, String> {
        let of = |(i, values): (usize, &Values)| {
            let number = lookup(values, method, name).and_then(|v| v.as_number());
            number.ok_or_else(|| format!("{} for {}", missing(name), self.scan.operands[i].model))
        };
        self.models.iter().enumerate().map(of).collect()
    }
}

fn missing(name: &str) -> String {
    format!("the required parameter `{name}` has no value")
}

fn lookup(values: &Values, method: &Method, name: &str) -> Option<Value> {
    let param = method
        .param(name)
        .unwrap_or_else(|| panic!("{} reads a parameter `{name}` that it does not declare", method.name));
    debug_assert!(matches!(param.level, Level::Global | Level::Model));
    values.get(name).cloned().or_else(|| match param.default {
        Default::Required | Default::Optional => None,
        ref default => default.value(),
    })
}
