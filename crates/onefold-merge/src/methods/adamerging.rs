//! AdaMerging and AdaMerging++ (Yang et al., ICLR 2024, arXiv 2310.02575): task arithmetic whose coefficients were learnt.
//!
//! `θ* = θ₀ + Σₖ λₖ vₖ`, tensor by tensor, with λ learnt by `onefold adapt` (its `coefficients.json`, which a recipe names by
//! `coefficients:`) or given as weights. For AdaMerging v is the task vector τ. For AdaMerging++ it is Φ(τ), the first two steps of
//! TIES without its merging: each task vector is trimmed to its largest elements, ranked over the whole model; signs are elected
//! over all of them; and of each vector the elements that agree with the elected sign are kept, in a vector of its own.
//!
//! [`Vectors`] are v of one tensor. Learning and merging compute with the same ones, so that a merge makes what was learnt.
//!
//! Deviations: exactly ⌊density·n⌋ elements are kept (the published code keeps one more). Where the trimmed vectors cancel, the
//! majority sign is taken over the tensor; the published code takes it over the model.

use onefold_runtime::Aligned;

use super::{BaseRole, Kernel, Method, ModelSurvey, Needs, Rule, Scratch, WEIGHT, combine, gta};
use crate::MergeError;
use crate::direct::Direct;
use crate::kernels::mix::agreeing;
use crate::kernels::{add, reduce};
use crate::order::{self, Vectors as Ranked};
use crate::params::{Default, Param};
use crate::scan::{Grain, Scan, View};
use crate::sparsify::{Mask, Sparsifier};
use crate::task::Task;

/// The table entry.
pub static ADAMERGING: Method = Method {
    name: "adamerging",
    summary: "coefficients learnt by minimising entropy (`onefold adapt`)",
    source: "arXiv 2310.02575",
    base: BaseRole::Origin,
    operands: (1, usize::MAX),
    crops_embeddings: false,
    passes: "1",
    params: &[LEARNT],
    build: |task| build(task, &ADAMERGING, None),
};

/// The table entry.
pub static ADAMERGING_PLUS: Method = Method {
    name: "adamerging_plus",
    summary: "the same on trimmed task vectors that agree in sign",
    source: "arXiv 2310.02575",
    base: BaseRole::Origin,
    operands: (1, usize::MAX),
    crops_embeddings: false,
    passes: "5",
    params: &[LEARNT, KEPT],
    build: |task| build(task, &ADAMERGING_PLUS, Some("density")),
};

const LEARNT: Param =
    Param { help: "coefficient of the model's task vector; `coefficients` gives all of them", ..WEIGHT };
const KEPT: Param = Param {
    default: Default::Number(0.2),
    help: "share of each task vector that is kept, ranked over the whole model",
    ..gta::DENSITY
};

fn build(task: &Task, method: &'static Method, density: Option<&str>) -> Result<Box<dyn Rule>, String> {
    let sparsifier = |density: f64| match density {
        d if d >= 1.0 => Sparsifier::None,
        density => Sparsifier::Magnitude { density },
    };
    let sparsifiers = match density {
        Some(name) => Some(task.per_model(method, name)?.into_iter().map(sparsifier).collect()),
        None => None,
    };
    Ok(Box::new(AdaMerging { weights: task.per_model(method, "weight")?, sparsifiers }))
}

#[derive(Debug)]
struct AdaMerging {
    weights: Vec<f64>,
    /// Of AdaMerging++.
    sparsifiers: Option<Vec<Sparsifier>>,
}

impl Rule for AdaMerging {
    fn elects_signs(&self) -> bool {
        self.sparsifiers.is_some()
    }

    fn needs(&self) -> Needs {
        let ranked = self.sparsifiers.iter().flatten().any(|s| s.keep(1).is_some());
        Needs { norms: None, cuts: ranked }
    }

    fn ranks(&self, n: u64) -> Vec<Vec<u64>> {
        self.sparsifiers.iter().flatten().map(|s| s.keep(n).unwrap_or_default()).collect()
    }

    fn vectors(&self, scan: &Scan, survey: &ModelSurvey) -> Result<Option<Vectors>, MergeError> {
        let Some(sparsifiers) = &self.sparsifiers else { return Ok(Some(Vectors { filter: None })) };
        let cuts = match &survey.cuts {
            Some(cuts) => cuts.clone(),
            None => order::cuts(&[scan], Grain::Element, &Ranked, &self.ranks(scan.len() as u64))?,
        };
        let masks: Vec<Mask> =
            sparsifiers.iter().zip(&cuts).map(|(s, cuts)| s.mask(scan, cuts, false)).collect();
        let zero_sign = gta::majority(scan, &masks)?;
        Ok(Some(Vectors { filter: Some(Filter { masks, zero_sign }) }))
    }

    fn prepare(&self, scan: &Scan, survey: &ModelSurvey) -> Result<Box<dyn Kernel>, MergeError> {
        let vectors = self.vectors(scan, survey)?.expect("it has vectors");
        Ok(Box::new(Sum { vectors, weights: self.weights.clone() }))
    }
}

/// The vectors of one tensor that coefficients multiply.
#[derive(Debug, Clone)]
pub struct Vectors {
    filter: Option<Filter>,
}

/// Φ of AdaMerging++.
#[derive(Debug, Clone)]
struct Filter {
    masks: Vec<Mask>,
    /// Elected where the trimmed vectors cancel.
    zero_sign: f32,
}

impl Vectors {
    /// The vectors in a block: its task vectors, or what Φ leaves of them, in `scratch`.
    fn of<'s>(&self, view: &'s View<'_>, scratch: &'s mut Scratch) -> &'s [Aligned] {
        let Some(Filter { masks, zero_sign }) = &self.filter else { return view.vectors };
        let Scratch { rows, a, mask, .. } = scratch;
        rows.resize_with(masks.len(), Aligned::default);
        a.resize(view.len());
        a.fill(0.0);
        for (i, (row, of_model)) in rows.iter_mut().zip(masks).enumerate() {
            row.resize(view.len());
            of_model.apply(view, i, mask, row);
            add(a, row);
        }
        agreeing(rows, a, *zero_sign);
        rows
    }

    /// The shorter way, for task vectors as they are.
    fn direct<'a>(&self, scan: &'a Scan) -> Option<Direct<'a>> {
        Direct::new(scan).filter(|_| self.filter.is_none())
    }

    /// `Σₖ λₖ vₖ` of a block.
    fn sum(&self, view: &View<'_>, lambda: &[f64], scratch: &mut Scratch, out: &mut [f32]) {
        combine(lambda, self.of(view, scratch), out);
    }

    /// `θ₀ + Σₖ λₖ vₖ`, the whole tensor, to `out`. The bits are those of a merge into f32.
    ///
    /// # Errors
    /// If an input is not finite.
    ///
    /// # Panics
    /// If `out` is of another length.
    pub fn merge(&self, scan: &Scan, lambda: &[f64], out: &mut [f32]) -> Result<(), MergeError> {
        if let Some(direct) = self.direct(scan) {
            direct.merge(lambda, out);
            return Ok(());
        }
        scan.fill(out, |view, out| {
            let mut scratch = SCRATCH.take();
            self.sum(view, lambda, &mut scratch, out);
            SCRATCH.set(scratch);
            if let Some(origin) = view.origin {
                crate::kernels::add_to_origin(out, origin);
            }
        })
    }

    /// `⟨gradient, vₖ⟩` of each vector, to some 1e-7; the same on any number of threads.
    ///
    /// # Errors
    /// If an input is not finite.
    ///
    /// # Panics
    /// If `gradient` is of another length.
    pub fn products(&self, scan: &Scan, gradient: &[f32]) -> Result<Vec<f64>, MergeError> {
        if let Some(direct) = self.direct(scan) {
            return Ok(direct.products(gradient));
        }
        assert_eq!(gradient.len(), scan.len(), "the gradient of `{}`", scan.name);
        let parts = scan.map_runs(|view| {
            let mut scratch = SCRATCH.take();
            let here = &gradient[view.start..view.start + view.len()];
            let products = self.of(view, &mut scratch).iter().map(|v| reduce::rough_dot(here, v)).collect();
            SCRATCH.set(scratch);
            products
        })?;
        Ok(reduce::sum_in_order(parts, scan.k()))
    }
}

thread_local! {
    /// Kept between blocks.
    static SCRATCH: std::cell::Cell<Scratch> = std::cell::Cell::default();
}

#[derive(Debug)]
struct Sum {
    vectors: Vectors,
    weights: Vec<f64>,
}

impl Kernel for Sum {
    fn coefficients(&self) -> Option<Vec<f64>> {
        Some(self.weights.clone())
    }

    fn merge(&self, block: &View<'_>, scratch: &mut Scratch, out: &mut [f32]) {
        self.vectors.sum(block, &self.weights, scratch, out);
    }
}

#[cfg(test)]
mod tests;
