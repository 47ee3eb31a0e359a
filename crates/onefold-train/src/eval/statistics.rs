//! How sure a score is, and whether two differ by more than chance.
//!
//! Of means the standard error is s/√n with the rows' sample deviation s; of everything else the deviation of the values of
//! rows that are drawn again and again (bootstrap; Efron 1979). Two models see the same rows, so they are compared row by row: where
//! rows are right or wrong by McNemar's exact test (Dietterich 1998), else by drawing rows for both together.
//!
//! What is drawn is a function of seed and task, so a figure does not depend on what else is scored, nor on the number of threads.

use onefold_runtime::random::Stream;
use rayon::prelude::*;

use super::metrics::Series;

/// Which rows are drawn: the same for all models and metrics of a task.
#[derive(Debug, Clone, Copy)]
pub struct Draws<'a> {
    /// Seed of everything random.
    pub seed: u64,
    /// The task.
    pub task: &'a str,
    /// How often as many rows are drawn as there are.
    pub times: u32,
}

/// A value with its standard error.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figure {
    /// None where the metric is not defined for these rows.
    pub value: Option<f64>,
    /// None for a single row.
    pub error: Option<f64>,
}

/// How two models differ.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Difference {
    /// The first one's value minus the second's.
    pub value: f64,
    /// Its standard error.
    pub error: Option<f64>,
    /// How likely at least such a difference is if there is none, in both directions.
    pub p: f64,
    /// How that is known.
    pub test: Test,
}

/// A test of rows in pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Test {
    /// Of rows that one alone has right.
    McNemar,
    /// Of rows that are drawn.
    Bootstrap,
}

impl Test {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::McNemar => "mcnemar",
            Self::Bootstrap => "bootstrap",
        }
    }
}

impl Draws<'_> {
    /// The value of a series with its standard error; and, where that needs them, its values over what is drawn.
    pub fn figure(&self, series: &Series) -> Figure {
        let value = series.value();
        let error = match series {
            Series::Mean(values) => deviation(values).map(|s| s / (values.len() as f64).sqrt()),
            _ if series.len() < 2 => None,
            _ => deviation(&self.values(series).into_iter().flatten().collect::<Vec<f64>>()),
        };
        Figure { value, error: error.filter(|_| value.is_some()) }
    }

    /// How two models differ of whose rows these are the series; none if one has no value, or they are of other rows.
    pub fn difference(&self, a: &Series, b: &Series) -> Option<Difference> {
        let value = a.value()? - b.value()?;
        if a.len() != b.len() {
            return None;
        }
        let error_of_mean = |a: &[f64], b: &[f64]| {
            let each: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
            deviation(&each).map(|s| s / (each.len() as f64).sqrt())
        };
        if let (Some(a), Some(b)) = (a.right_or_wrong(), b.right_or_wrong()) {
            let alone = |x: &[f64], y: &[f64]| x.iter().zip(y).filter(|(x, y)| x > y).count() as u64;
            let p = mcnemar(alone(a, b), alone(b, a));
            return Some(Difference { value, error: error_of_mean(a, b), p, test: Test::McNemar });
        }
        let drawn = self.values(a).into_iter().zip(self.values(b));
        let drawn: Vec<f64> = drawn.filter_map(|(a, b)| Some(a? - b?)).collect();
        let error = match (a, b) {
            (Series::Mean(a), Series::Mean(b)) => error_of_mean(a, b),
            _ => deviation(&drawn),
        };
        Some(Difference { value, error, p: beyond_zero(&drawn), test: Test::Bootstrap })
    }

    /// The value of each drawing.
    fn values(&self, series: &Series) -> Vec<Option<f64>> {
        let stream = Stream::new(self.seed, self.task, "bootstrap");
        let rows = series.len();
        let value = |time: u32| {
            let mut drawn = vec![0; rows];
            stream.fill(u64::from(time) * rows as u64, &mut drawn);
            // Of 2³² numbers: as good as even for any number of rows that is scored.
            drawn.iter_mut().for_each(|word| *word = ((u64::from(*word) * rows as u64) >> 32) as u32);
            series.value_of(&drawn)
        };
        (0..self.times).into_par_iter().map(value).collect()
    }
}

/// The sample deviation, with n − 1.
fn deviation(values: &[f64]) -> Option<f64> {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt())
}

/// The exact test of `first` rows that the first one alone has right and `second` that the second alone has: under the hypothesis
/// that both are as likely each falls to one of the two like a coin.
pub fn mcnemar(first: u64, second: u64) -> f64 {
    let (few, all) = (first.min(second), first + second);
    let half = all as f64 * std::f64::consts::LN_2;
    let (mut choices, mut sum) = (0.0f64, 0.0f64);
    for i in 0..=few {
        if i > 0 {
            choices += ((all - i + 1) as f64).ln() - (i as f64).ln();
        }
        sum += (choices - half).exp();
    }
    (2.0 * sum).min(1.0)
}

/// Twice the share of drawn differences on the rarer side of 0, which lie on both if there is none; at least what so many drawings
/// can tell.
fn beyond_zero(drawn: &[f64]) -> f64 {
    let count = |side: fn(&f64) -> bool| drawn.iter().filter(|value| side(value)).count();
    let rarer = count(|value| *value <= 0.0).min(count(|value| *value >= 0.0));
    (2.0 * (rarer as f64 + 1.0) / (drawn.len() as f64 + 1.0)).min(1.0)
}

#[cfg(test)]
mod tests;
