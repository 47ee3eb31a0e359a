//! MetaGPT's coefficients and the bound that they minimise, as formulas of squared norms.

use serde::Serialize;

use super::derived::ExpertFigures;

/// U(λ) for one choice of λ.
#[derive(Clone, Debug, Serialize)]
pub struct Bound {
    /// `metagpt`, `this run`, `uniform`, `0.3`, `1.0`.
    pub label: String,
    /// λ per expert.
    pub lambda: Vec<f64>,
    /// U(λ); lower is better.
    pub value: f64,
}

impl Bound {
    /// By what share of `least` it exceeds it; nothing is a share of 0, which is the least where one expert alone moved.
    pub(super) fn excess(&self, least: f64) -> Option<f64> {
        // Below a millionth of a per cent it is rounding.
        let share = |above: f64| if above > 1e-8 { above } else { 0.0 };
        (least > 0.0).then(|| share(self.value / least - 1.0))
    }
}

/// λ_t = ‖τ_t‖²/Σ_k‖τ_k‖² from squared norms; 1/K each if all are zero (any coefficient then gives the base).
pub fn metagpt_lambda(squared_norms: &[f64]) -> Vec<f64> {
    let sum: f64 = squared_norms.iter().sum();
    let uniform = 1.0 / squared_norms.len().max(1) as f64;
    squared_norms.iter().map(|&squared| if sum == 0.0 { uniform } else { squared / sum }).collect()
}

/// U(λ) = ½ Σ_t ‖τ_t‖² · {Σ_{k≠t} λ_k²‖τ_k‖² + (1−λ_t)²‖τ_t‖²}; both slices have one entry per expert.
pub fn upper_bound(squared_norms: &[f64], lambda: &[f64]) -> f64 {
    let moved: Vec<f64> =
        squared_norms.iter().zip(lambda).map(|(squared, lambda)| lambda * lambda * squared).collect();
    let term = |t: usize| {
        let others: f64 = moved.iter().enumerate().filter(|(k, _)| *k != t).map(|(_, value)| value).sum();
        squared_norms[t] * (others + (1.0 - lambda[t]).powi(2) * squared_norms[t])
    };
    0.5 * (0..moved.len()).map(term).sum::<f64>()
}

/// U(λ) at the choices people compare; this run's only if it used one coefficient per model.
pub(super) fn bounds(experts: &[ExpertFigures]) -> Vec<Bound> {
    let squared: Vec<f64> = experts.iter().map(|expert| expert.norm * expert.norm).collect();
    let constant = |lambda: f64| vec![lambda; experts.len()];
    let own =
        experts.iter().map(|expert| expert.coefficient.filter(|own| own.min == own.max).map(|own| own.mean));
    let choices = [
        ("metagpt", experts.iter().map(|expert| expert.metagpt).collect()),
        ("this run", own.collect::<Option<Vec<f64>>>()),
        ("uniform", Some(constant(1.0 / experts.len().max(1) as f64))),
        ("0.3", Some(constant(0.3))),
        ("1.0", Some(constant(1.0))),
    ];
    let bound = |(label, lambda): (&str, Option<Vec<f64>>)| {
        let lambda = lambda.filter(|lambda| !lambda.is_empty())?;
        Some(Bound { label: label.to_owned(), value: upper_bound(&squared, &lambda), lambda })
    };
    choices.into_iter().filter_map(bound).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture::{self, close, numbers};

    #[test]
    fn metagpt_golden() {
        let golden: serde_json::Value = fixture::metagpt_golden();
        let squared = numbers(&golden["sq_norms"]);
        let lambda = metagpt_lambda(&squared);
        lambda.iter().zip(numbers(&golden["lambda"])).for_each(|(found, expected)| close(*found, expected));
        let bounds = &golden["upper_bound"];
        close(upper_bound(&squared, &lambda), bounds["at_metagpt"].as_f64().unwrap());
        close(upper_bound(&squared, &[1.0 / 3.0; 3]), bounds["at_uniform_third"].as_f64().unwrap());
        close(upper_bound(&squared, &[0.3; 3]), bounds["at_0.3"].as_f64().unwrap());
        close(upper_bound(&squared, &[1.0; 3]), bounds["at_1"].as_f64().unwrap());
        for case in ["non_orthogonal", "equal_norms"] {
            let key = if case == "equal_norms" { "lambda" } else { "lambda_formula" };
            let found = metagpt_lambda(&numbers(&golden[case]["sq_norms"]));
            found
                .iter()
                .zip(numbers(&golden[case][key]))
                .for_each(|(found, expected)| close(*found, expected));
        }
        assert_eq!(metagpt_lambda(&[0.0, 0.0]), [0.5, 0.5]);
        assert_eq!(metagpt_lambda(&[0.0, 2.0]), [0.0, 1.0]);
    }

    #[test]
    fn an_excess_is_of_something() {
        let bound = |value| Bound { label: String::new(), lambda: Vec::new(), value };
        assert_eq!(bound(3.0).excess(2.0), Some(0.5));
        assert_eq!(bound(2.0 * (1.0 - 1e-12)).excess(2.0), Some(0.0));
        assert_eq!(bound(1.0).excess(0.0), None);
    }
}
