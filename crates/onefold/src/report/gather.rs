//! From the statistics of a merge to the data of its report.

use onefold_merge::kernels::reduce::{packed_index, packed_len};
use onefold_merge::stream::{Planned, Statistics, Work};
use rayon::prelude::*;

use super::health::{CopiedTensor, DtypeCount, Health, TensorHealth, Totals};
use crate::plan::Plan;

/// The report's data of a merge; `statistics` are in the plan's order.
pub fn of_merge(plan: &Plan, statistics: &[Option<Statistics>], title: &str) -> Health {
    let merged = plan.tensors.par_iter().zip(statistics);
    let tensors = merged.filter_map(|(planned, s)| tensor(plan, planned, s.as_ref()?)).collect();
    let base = plan.origin.clone();
    let vectors = base
        .iter()
        .map(|_| "base".to_owned())
        .chain(plan.operands.iter().cloned())
        .chain(["merged".to_owned()])
        .collect();
    let copied = plan.tensors.iter().filter(|t| plan.is_copy(t)).map(|t| copied(plan, t)).collect();
    Health {
        title: title.to_owned(),
        method: Some(plan.method.name.to_owned()),
        elects_signs: plan
            .tensors
            .iter()
            .any(|t| matches!(&t.work, Work::Merge(merge) if merge.rule.elects_signs())),
        base,
        experts: plan.operands.clone(),
        vectors,
        tensors,
        copied,
        tied: plan.tied.clone(),
        warnings: plan.warnings.clone(),
        totals: totals(plan),
        ..Health::default()
    }
}

fn tensor(plan: &Plan, planned: &Planned, statistics: &Statistics) -> Option<TensorHealth> {
    let Work::Merge(merge) = &planned.work else { return None };
    if plan.is_copy(planned) {
        return None;
    }
    // A tensor may have fewer models than the recipe, or others (slices): its vectors take their places among all.
    let places: Vec<usize> = merge
        .scan
        .operands
        .iter()
        .filter_map(|o| plan.operand_names.iter().position(|m| *m == o.model))
        .collect();
    let has_origin = usize::from(plan.origin.is_some());
    if places.len() != merge.scan.k() || merge.scan.origin.is_some() != (has_origin == 1) {
        return None;
    }
    let n = plan.operands.len() + has_origin + 1;
    let place = |i: usize| match i {
        0 if has_origin == 1 => 0,
        i if i == places.len() + has_origin => n - 1,
        i => places[i - has_origin] + has_origin,
    };
    let own = places.len() + has_origin + 1;
    let mut gramian = vec![0.0; packed_len(n)];
    for i in 0..own {
        for j in i..own {
            let (a, b) = (place(i).min(place(j)), place(i).max(place(j)));
            gramian[packed_index(n, a, b)] = *statistics.gramian.get(packed_index(own, i, j))?;
        }
    }
    let spread = |coefficients: &Vec<f64>| {
        let mut all = vec![0.0; plan.operands.len()];
        places.iter().zip(coefficients).for_each(|(p, c)| all[*p] = *c);
        all
    };
    Some(TensorHealth {
        name: planned.output.name.clone(),
        dtype: planned.output.dtype.to_string(),
        shape: planned.output.shape.clone(),
        elements: merge.scan.len() as u64,
        gramian,
        sign_conflicts: statistics.conflicts,
        active: statistics.active,
        nan: Vec::new(),
        inf: Vec::new(),
        coefficients: statistics.coefficients.as_ref().map(spread),
        row_sums: statistics.row_sums,
    })
}

fn copied(plan: &Plan, planned: &Planned) -> CopiedTensor {
    let why = plan.copied.get(&planned.output.name).map_or("taken over as they are", String::as_str);
    let (name, shape) = (planned.output.name.clone(), planned.output.shape.clone());
    CopiedTensor { name, dtype: planned.output.dtype.to_string(), shape, why: why.to_owned() }
}

fn totals(plan: &Plan) -> Totals {
    let mut totals = Totals::default();
    for planned in &plan.tensors {
        let elements = planned.output.shape.iter().product::<usize>() as u64;
        let bytes = elements * planned.output.dtype.size() as u64;
        count(&mut totals, &planned.output.dtype.to_string(), elements, bytes, !planned.repeats);
    }
    totals
}

/// Adds one tensor to the totals.
pub fn count(totals: &mut Totals, dtype: &str, elements: u64, bytes: u64, counts: bool) {
    totals.parameters += if counts { elements } else { 0 };
    totals.bytes += bytes;
    let at = totals.dtypes.iter().position(|d| d.dtype == dtype).unwrap_or_else(|| {
        totals.dtypes.push(DtypeCount { dtype: dtype.to_owned(), ..DtypeCount::default() });
        totals.dtypes.len() - 1
    });
    let entry = &mut totals.dtypes[at];
    entry.tensors += 1;
    entry.elements += elements;
    entry.bytes += bytes;
}
