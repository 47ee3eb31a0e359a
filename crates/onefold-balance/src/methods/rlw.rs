//! RLW: random loss weighting (Lin et al., TMLR 2022, arXiv 2111.10603).
//!
//! At each step w = softmax(z) with z standard normal. The normals are functions of seed, step and the task's name, so a
//! resumed run draws the same ones and the order of tasks does not matter. Of an incomplete batch the weights are those of the
//! tasks present, over their sum. The weights sum to one; the reference implementation does not multiply them by K either.

use onefold_runtime::Stream;

use super::{Cost, Method};
use crate::contract::Needs;
use crate::numeric::vector::softmax;
use crate::rule::{Rule, View};

/// The table entry.
pub static RLW: Method = Method {
    name: "rlw",
    aliases: &["random"],
    summary: "random weights, drawn anew at each step",
    source: "arXiv 2111.10603",
    cost: Cost::Nothing,
    validation: false,
    task_weights: false,
    simplex: true,
    params: &[],
    build: |context| {
        let stream = |task: &crate::Task| Stream::new(context.seed, &task.name, "rlw");
        Ok(Box::new(Random { streams: context.tasks.iter().map(stream).collect() }))
    },
};

#[derive(Debug)]
struct Random {
    streams: Vec<Stream>,
}

impl Rule for Random {
    fn needs(&self, _: u64) -> Needs {
        Needs::default()
    }

    fn weights(&mut self, view: &View<'_>) -> Vec<f64> {
        let streams = view.of(&self.streams);
        softmax(&streams.iter().map(|stream| normal(stream, view.step)).collect::<Vec<_>>())
    }
}

/// The number at a position of a standard normal sequence (Box and Muller, 1958).
fn normal(stream: &Stream, at: u64) -> f64 {
    let mut draws = [0; 2];
    stream.fill(at.saturating_mul(2), &mut draws);
    // In the middle of its 2⁻³²: never 0 or 1.
    let [radius, angle] = draws.map(|draw| (f64::from(draw) + 0.5) / 4_294_967_296.0);
    (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normals_have_the_moments_of_normals() {
        let stream = Stream::new(1, "task", "rlw");
        let n = 100_000;
        let moment = |power: i32| (0..n).map(|i| normal(&stream, i).powi(power)).sum::<f64>() / n as f64;
        // Six standard deviations of each mean.
        for (power, expected, deviation) in [(1, 0.0, 1.0), (2, 1.0, 2f64.sqrt()), (4, 3.0, 96f64.sqrt())] {
            let found = moment(power);
            assert!((found - expected).abs() < 6.0 * deviation / (n as f64).sqrt(), "{power}: {found}");
        }
    }
}
