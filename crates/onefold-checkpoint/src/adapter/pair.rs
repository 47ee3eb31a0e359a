//! A pair of factors and the weight it belongs to: completeness, shapes, and which way round the weight is stored.

use std::collections::BTreeMap;

use super::AdapterError;
use super::names::{Module, Part};
use crate::{Dtype, Tensor};

pub(super) type Result<T> = std::result::Result<T, AdapterError>;

/// The pair of factors of a module with the weight they change.
pub(super) struct Pair<'a> {
    pub(super) path: &'a str,
    pub(super) module: &'a Module,
    pub(super) a: &'a Tensor,
    pub(super) b: &'a Tensor,
    pub(super) target: String,
    pub(super) weight: Tensor,
    /// Whether the weight is stored `[in, out]`; `None` if it is square and its shape does not say.
    pub(super) transposed: Option<bool>,
}

pub(super) fn need_float(name: &str, tensor: &Tensor) -> Result<()> {
    let (tensor, dtype): (_, Dtype) = (name.to_owned(), tensor.dtype);
    if dtype.is_float() {
        return Ok(());
    }
    Err(AdapterError::NotFloat { tensor, dtype, what: "a tensor of integers or codes" })
}

/// Two parts that only exist together.
pub(super) fn both<'p>(
    path: &str,
    module: &'p Module,
    first: Part,
    second: Part,
) -> Result<Option<(&'p Tensor, &'p Tensor)>> {
    let (present, missing) = match (module.get(first), module.get(second)) {
        (Some(a), Some(b)) => return Ok(Some((a, b))),
        (None, None) => return Ok(None),
        (Some(_), None) => (first.name(), second.name()),
        (None, Some(_)) => (second.name(), first.name()),
    };
    Err(AdapterError::Incomplete { module: path.to_owned(), present, missing })
}

/// A part that means nothing without factors.
pub(super) fn orphan(path: &str, module: &Module) -> Option<AdapterError> {
    let part = [Part::Bias, Part::Magnitude].into_iter().find(|part| module.get(*part).is_some())?;
    Some(AdapterError::Incomplete { module: path.to_owned(), present: part.name(), missing: Part::A.name() })
}

/// Shape of B·A for a weight that is not stored transposed.
pub(super) fn product_shape(a: &Tensor, b: &Tensor) -> Vec<usize> {
    b.shape.iter().take(1).chain(a.shape.iter().skip(1)).copied().collect()
}

/// `None` if B·A does not fit the weight at all; else whether it fits transposed, or `None` if both ways fit.
pub(super) fn orientation(a: &Tensor, b: &Tensor, weight: &Tensor, embedding: bool) -> Option<Option<bool>> {
    let product = product_shape(a, b);
    // A convolution's B has a kernel of one; a matrix has none.
    let pointwise = b.shape.len() == a.shape.len() && b.shape.iter().skip(2).all(|n| *n == 1);
    if !pointwise || product.len() < 2 {
        return None;
    }
    let reversed = product.len() == 2 && weight.shape == [product[1], product[0]];
    match (weight.shape == product && !embedding, reversed) {
        (true, true) => Some(None),
        (true, false) => Some(Some(false)),
        (false, true) => Some(Some(true)),
        (false, false) => None,
    }
}

/// How square weights are stored, by what the shapes of the others say.
///
/// PEFT corrects `fan_in_fan_out` for each module by its class and saves the last value, so that the flag of a GPT-2
/// adapter with an adapted head is wrong for all other modules. Modules of the same name are of the same class.
pub(super) struct Leaves<'p> {
    flag: bool,
    /// Last component of a module's path → what its shapes say; `None` if they disagree.
    known: BTreeMap<&'p str, Option<bool>>,
    contradicted: bool,
}

impl<'p> Leaves<'p> {
    pub(super) fn of(pairs: &[Pair<'p>], flag: bool) -> Self {
        let mut leaves = Self { flag, known: BTreeMap::new(), contradicted: false };
        for pair in pairs.iter().filter(|p| p.module.get(Part::A).is_some()) {
            let Some(transposed) = pair.transposed else { continue };
            leaves.contradicted |= transposed != flag && pair.weight.shape.len() == 2;
            let known = leaves.known.entry(leaf(pair.path)).or_insert(Some(transposed));
            if *known != Some(transposed) {
                *known = None;
            }
        }
        leaves
    }

    pub(super) fn orientation(&self, pair: &Pair<'_>) -> Result<bool> {
        let by_name = self.known.get(leaf(pair.path)).copied().flatten();
        match pair.transposed.or(by_name) {
            Some(transposed) => Ok(transposed),
            None if !self.contradicted => Ok(self.flag),
            None => Err(AdapterError::Orientation { module: pair.path.to_owned(), flag: self.flag }),
        }
    }
}

fn leaf(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}
