//! Which token comes next.
//!
//! Nucleus sampling (Holtzman et al., arXiv 1904.09751): from softmax(scores / temperature), of the fewest likeliest tokens
//! whose probabilities sum to at least `top_p`. The random number is a function of seed, text and step, so that a text does
//! not depend on what it is generated beside.

use onefold_runtime::Stream;

use crate::model::error::ModelError;

/// How tokens are chosen from scores.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sampling {
    /// The likeliest, of several the first.
    Greedy,
    /// At random.
    Nucleus {
        /// Above 0; the smaller the likelier the likeliest.
        temperature: f64,
        /// Share of the probability that takes part, above 0, at most 1.
        top_p: f64,
        /// Of the random numbers.
        seed: u64,
    },
}

impl Sampling {
    pub(super) fn check(&self) -> Result<(), ModelError> {
        let Self::Nucleus { temperature, top_p, .. } = *self else { return Ok(()) };
        let wrong =
            |key, found: f64, expected| Err(ModelError::Sampling { key, found: found.to_string(), expected });
        if !(temperature > 0.0 && temperature.is_finite()) {
            return wrong(
                "temperature",
                temperature,
                "a positive number; for the likeliest token, greedy choice",
            );
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return wrong("top_p", top_p, "a number above 0, at most 1");
        }
        Ok(())
    }

    /// The token for step number `step` of a text.
    pub(super) fn choose(&self, scores: &[f32], text: usize, step: usize) -> u32 {
        match *self {
            Self::Greedy => likeliest(scores),
            Self::Nucleus { temperature, top_p, seed } => {
                let mut bits = [0; 2];
                Stream::new(seed, "generate", &text.to_string()).fill(2 * step as u64, &mut bits);
                let number = (f64::from(bits[0]) + f64::from(bits[1]) / 2f64.powi(32)) / 2f64.powi(32);
                nucleus(scores, temperature, top_p, number)
            }
        }
    }
}

fn likeliest(scores: &[f32]) -> u32 {
    let best = |best: (u32, f32), next: (u32, &f32)| if *next.1 > best.1 { (next.0, *next.1) } else { best };
    (0..).zip(scores).fold((0, f32::NEG_INFINITY), best).0
}

/// The token at `number`, from 0 to 1, of the nucleus.
fn nucleus(scores: &[f32], temperature: f64, top_p: f64, number: f64) -> u32 {
    let largest = f64::from(scores[likeliest(scores) as usize]);
    let weight = |score: &f32| ((f64::from(*score) - largest) / temperature).exp();
    let mut tokens: Vec<(u32, f64)> = (0..).zip(scores.iter().map(weight)).collect();
    // Stable: of equal ones the first stays first.
    tokens.sort_by(|a, b| b.1.total_cmp(&a.1));
    let all: f64 = tokens.iter().map(|(_, weight)| weight).sum();
    let mut inside = 0.0;
    let size = tokens.iter().position(|(_, weight)| {
        inside += weight;
        inside >= top_p * all
    });
    let tokens = &tokens[..size.map_or(tokens.len(), |last| last + 1)];
    let mut rest = number * inside;
    let chosen = tokens.iter().find(|(_, weight)| {
        rest -= weight;
        rest < 0.0
    });
    chosen.unwrap_or(&tokens[tokens.len() - 1]).0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_drawn_in_proportion_within_the_nucleus() {
        // Probabilities 0.5, 0.3, 0.15, 0.05.
        let scores = [0.15f32.ln(), 0.5f32.ln(), 0.05f32.ln(), 0.3f32.ln()];
        let draw = |top_p, number| nucleus(&scores, 1.0, top_p, number);
        for (number, expected) in
            [(0.0, 1), (0.49, 1), (0.51, 3), (0.79, 3), (0.81, 0), (0.94, 0), (0.96, 2), (1.0, 2)]
        {
            assert_eq!(draw(1.0, number), expected, "{number}");
        }
        // 0.5 + 0.3 is enough for 0.7: the rest is shared by these.
        for (number, expected) in [(0.0, 1), (0.62, 1), (0.63, 3), (0.999, 3)] {
            assert_eq!(draw(0.7, number), expected, "{number}");
        }
        assert_eq!((draw(0.5 - 1e-6, 0.999), draw(1e-9, 0.999)), (1, 1));
        assert_eq!(nucleus(&scores, 0.01, 1.0, 0.999), 1);
    }

    #[test]
    fn counts_follow_probabilities_and_texts_differ() {
        let sampling = Sampling::Nucleus { temperature: 1.0, top_p: 1.0, seed: 3 };
        let scores = [0.75f32.ln(), 0.25f32.ln()];
        let draws =
            |text: usize| (0..2000).map(|step| sampling.choose(&scores, text, step)).collect::<Vec<_>>();
        let first = draws(0);
        let ones = first.iter().filter(|id| **id == 1).count();
        assert!((420..580).contains(&ones), "{ones}");
        assert!(first == draws(0) && first != draws(1));
    }

    #[test]
    fn ties_go_to_the_first_and_nan_does_not_win() {
        assert_eq!(Sampling::Greedy.choose(&[1.0, 2.0, 2.0, f32::NAN], 0, 0), 1);
    }

    #[test]
    fn settings_out_of_range() {
        for (temperature, top_p, key) in [
            (0.0, 1.0, "temperature"),
            (f64::NAN, 1.0, "temperature"),
            (1.0, 0.0, "top_p"),
            (1.0, 1.1, "top_p"),
        ] {
            let error = Sampling::Nucleus { temperature, top_p, seed: 0 }.check().unwrap_err().to_string();
            assert!(error.starts_with(&format!("generation: `{key}` is ")), "{error}");
        }
    }
}
