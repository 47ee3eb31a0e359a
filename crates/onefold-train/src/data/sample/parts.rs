//! How much of an epoch each task gives, and in which order tasks take turns.

use super::{Mixture, Strategy};
use crate::data::error::DataError;

/// The part of each task in an epoch; they add up to 1. See the formula of the module above.
pub fn parts(sizes: &[usize], shares: &[f64], mixture: &Mixture) -> Result<Vec<f64>, DataError> {
    let power = match mixture.strategy {
        Strategy::Size => 1.0,
        Strategy::Share => 0.0,
        Strategy::Temperature(t) if t.is_finite() && t > 0.0 => 1.0 / t,
        Strategy::Temperature(t) => {
            return Err(DataError::setting("temperature", format!("expected a number above 0, found {t}")));
        }
    };
    let weights: Vec<f64> =
        sizes.iter().zip(shares).map(|(n, share)| share * (*n as f64).powf(power)).collect();
    let sum: f64 = weights.iter().sum();
    if !(sum.is_finite() && weights.iter().all(|weight| *weight > 0.0)) {
        return Err(DataError::setting(
            "temperature",
            "so low that the parts of tasks cannot be computed; raise it",
        ));
    }
    let parts: Vec<f64> = weights.iter().map(|weight| weight / sum).collect();
    bounded(&parts, mixture.floor, mixture.cap)
}

/// `min(max(s·p, floor), cap)` for the `s` with which they add up to 1.
fn bounded(parts: &[f64], floor: f64, cap: f64) -> Result<Vec<f64>, DataError> {
    let tasks = parts.len() as f64;
    // A third of three tasks is a floor, whatever the rounding.
    let slack = 1e-9;
    if !(floor >= 0.0 && floor * tasks <= 1.0 + slack) {
        return Err(DataError::setting("floor", format!("expected 0 to 1/{tasks}, found {floor}")));
    }
    if !(cap <= 1.0 && cap * tasks >= 1.0 - slack) {
        return Err(DataError::setting("cap", format!("expected 1/{tasks} to 1, found {cap}")));
    }
    if parts.iter().all(|part| (floor..=cap).contains(part)) {
        return Ok(parts.to_vec());
    }
    let at = |s: f64| parts.iter().map(|part| (s * part).max(floor).min(cap)).collect::<Vec<_>>();
    let sum = |s: f64| at(s).iter().sum::<f64>();
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..1100 {
        if sum(high) >= 1.0 {
            break;
        }
        high *= 2.0;
    }
    for _ in 0..200 {
        let middle = low + (high - low) / 2.0;
        if sum(middle) < 1.0 { low = middle } else { high = middle }
    }
    Ok(at(high))
}

/// Whole rows of each task: `samples` in all, at least one of each.
pub fn quotas(parts: &[f64], samples: usize) -> Result<Vec<usize>, DataError> {
    if samples < parts.len() || samples > u32::MAX as usize {
        let message =
            format!("expected {} (a row for each task) to {}, found {samples}", parts.len(), u32::MAX);
        return Err(DataError::setting("samples", message));
    }
    let exact: Vec<f64> = parts.iter().map(|part| part * samples as f64).collect();
    let mut quotas: Vec<usize> = exact.iter().map(|exact| (*exact as usize).max(1)).collect();
    let off = |quotas: &[usize], i: usize| exact[i] - quotas[i] as f64;
    let all = 0..parts.len();
    while quotas.iter().sum::<usize>() < samples {
        let least = all.clone().rev().max_by(|a, b| off(&quotas, *a).total_cmp(&off(&quotas, *b)));
        quotas[least.expect("there are tasks")] += 1;
    }
    while quotas.iter().sum::<usize>() > samples {
        let most = all.clone().filter(|i| quotas[*i] > 1);
        let most = most.min_by(|a, b| off(&quotas, *a).total_cmp(&off(&quotas, *b)));
        quotas[most.expect("there are at least as many samples as tasks")] -= 1;
    }
    Ok(quotas)
}

/// MFTCoder's order: draw i goes to the first task with the largest `weight · max(i, 1) − count`, as long as it has any of
/// its `quotas` left.
pub fn blend(weights: &[f64], quotas: &[usize]) -> Vec<u32> {
    let mut counts = vec![0usize; weights.len()];
    let total = quotas.iter().sum();
    let mut order = Vec::with_capacity(total);
    for i in 0..total {
        let short = |d: usize| weights[d] * i.max(1) as f64 - counts[d] as f64;
        let open = (0..weights.len()).filter(|d| counts[*d] < quotas[*d]);
        // From the back, because of equals the last one is taken.
        let next = open.rev().max_by(|a, b| short(*a).total_cmp(&short(*b)));
        let next = next.expect("as many draws as quotas");
        counts[next] += 1;
        order.push(next as u32);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::tests::golden;

    #[test]
    fn blends_agree_with_mftcoder() {
        for key in ["blend", "blend_2"] {
            let case = &golden("mft_data.json")[key];
            let weights: Vec<f64> = serde_json::from_value(case["weights"].clone()).unwrap();
            let draws: Vec<(u32, usize)> = serde_json::from_value(case["order"].clone()).unwrap();
            let order: Vec<u32> = draws.iter().map(|(task, _)| *task).collect();
            let quotas: Vec<_> = (0..weights.len() as u32)
                .map(|task| order.iter().filter(|found| **found == task).count())
                .collect();
            assert_eq!(blend(&weights, &quotas), order, "{key}");
        }
    }

    fn mixture(strategy: Strategy, floor: f64, cap: f64) -> Mixture {
        Mixture { strategy, floor, cap, ..Mixture::default() }
    }

    fn assert_close(found: &[f64], expected: &[f64]) {
        assert!(
            found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12),
            "{found:?} against {expected:?}"
        );
    }

    #[test]
    fn parts_by_size_share_and_temperature() {
        let of = |mixture: &Mixture| parts(&[900, 100], &[1.0, 1.0], mixture).unwrap();
        assert_close(&of(&mixture(Strategy::Size, 0.0, 1.0)), &[0.9, 0.1]);
        assert_close(&of(&mixture(Strategy::Share, 0.0, 1.0)), &[0.5, 0.5]);
        assert_close(&of(&mixture(Strategy::Temperature(2.0), 0.0, 1.0)), &[0.75, 0.25]);
        assert_close(&of(&mixture(Strategy::Size, 0.2, 1.0)), &[0.8, 0.2]);
        assert_close(&of(&mixture(Strategy::Size, 0.0, 0.6)), &[0.6, 0.4]);
        let three = parts(&[900, 60, 40], &[1.0; 3], &mixture(Strategy::Size, 0.0, 0.5)).unwrap();
        assert_close(&three, &[0.5, 0.3, 0.2]);
        let shared = parts(&[900, 100], &[1.0, 9.0], &mixture(Strategy::Size, 0.0, 1.0)).unwrap();
        assert_close(&shared, &[0.5, 0.5]);
        assert_close(
            &parts(&[9, 1, 1], &[1.0; 3], &mixture(Strategy::Size, 1.0 / 3.0, 1.0)).unwrap(),
            &[1.0 / 3.0; 3],
        );
    }

    #[test]
    fn settings_that_cannot_be_met() {
        for (strategy, floor, cap, key) in [
            (Strategy::Size, 0.6, 1.0, "floor"),
            (Strategy::Size, f64::NAN, 1.0, "floor"),
            (Strategy::Size, 0.0, 0.4, "cap"),
            (Strategy::Size, 0.0, 1.1, "cap"),
            (Strategy::Temperature(0.0), 0.0, 1.0, "temperature"),
            (Strategy::Temperature(1e-300), 0.0, 1.0, "temperature"),
        ] {
            let error = parts(&[9, 1], &[1.0; 2], &mixture(strategy, floor, cap)).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{key}: ")), "{error}");
        }
        assert!(quotas(&[0.5, 0.5], 1).unwrap_err().to_string().starts_with("samples: expected 2"));
    }

    #[test]
    fn quotas_add_up_and_leave_no_task_out() {
        assert_eq!(quotas(&[0.5, 0.3, 0.2], 10).unwrap(), [5, 3, 2]);
        assert_eq!(quotas(&[1.0 / 3.0; 3], 10).unwrap(), [4, 3, 3]);
        assert_eq!(quotas(&[0.998, 0.001, 0.001], 10).unwrap(), [8, 1, 1]);
        assert_eq!(quotas(&[0.9, 0.1], 2).unwrap(), [1, 1]);
    }
}
