//! Which round was best, and whether it is enough.

use std::collections::BTreeMap;

use onefold_train::tune::{Aggregate, Measure, Scored};

use crate::recipe::alternate::Stop;

/// Scores of all tasks, by name.
pub(super) type Scores = BTreeMap<String, Scored>;

/// What the rounds so far say, the first model among them as round 0.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Judged {
    /// The aggregate of each round that was measured.
    pub(super) values: BTreeMap<u64, f64>,
    pub(super) best: Option<u64>,
    /// Rounds since then.
    pub(super) stalls: u64,
}

/// Judges rounds by their scores.
pub(super) fn judge(stop: Option<&Stop>, history: &BTreeMap<u64, Scores>) -> Judged {
    let (measure, least) = stop.map_or((Measure::Loss, 0.0), |stop| (stop.of, stop.least));
    let by = stop.map_or(&Aggregate::Mean, |stop| &stop.by);
    let mut judged = Judged { values: BTreeMap::new(), best: None, stalls: 0 };
    let mut best: Option<f64> = None;
    for (round, scores) in history {
        let Some(value) = aggregate(by, measure, scores) else { continue };
        judged.values.insert(*round, value);
        let better = match (best, measure) {
            (None, _) => true,
            (Some(best), Measure::Loss) => value < best - least,
            (Some(best), Measure::Accuracy) => value > best + least,
        };
        if better {
            (best, judged.best, judged.stalls) = (Some(value), Some(*round), 0);
        } else {
            judged.stalls += 1;
        }
    }
    judged
}

fn aggregate(by: &Aggregate, measure: Measure, scores: &Scores) -> Option<f64> {
    let of = |scored: &Scored| match measure {
        Measure::Loss => scored.loss,
        Measure::Accuracy => scored.accuracy,
    };
    let known: Vec<f64> = scores.values().filter_map(of).collect();
    match by {
        Aggregate::Mean => (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64),
        Aggregate::Worst if measure == Measure::Loss => known.into_iter().reduce(f64::max),
        Aggregate::Worst => known.into_iter().reduce(f64::min),
        Aggregate::Task(name) => scores.get(name).and_then(of),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::alternate::Split;

    fn history(losses: &[[f64; 2]]) -> BTreeMap<u64, Scores> {
        let of = |loss: f64| Scored { rows: 4, loss: Some(loss), accuracy: Some(1.0 - loss) };
        let round = |[a, b]: &[f64; 2]| Scores::from([("a".to_owned(), of(*a)), ("b".to_owned(), of(*b))]);
        (0..).zip(losses.iter().map(round)).collect()
    }

    #[test]
    fn the_best_round_is_that_of_the_aggregate() {
        let rounds = history(&[[0.9, 0.9], [0.5, 0.6], [0.2, 0.8], [0.4, 0.7]]);
        for (by, of, least, best, stalls) in [
            (Aggregate::Mean, Measure::Loss, 0.0, 2, 1),
            (Aggregate::Worst, Measure::Loss, 0.0, 1, 2),
            (Aggregate::Worst, Measure::Accuracy, 0.0, 1, 2),
            (Aggregate::Task("a".into()), Measure::Accuracy, 0.0, 2, 1),
            (Aggregate::Mean, Measure::Loss, 0.1, 1, 2),
        ] {
            let stop = Stop { patience: 2, split: Split::Validation, by, of, least };
            let judged = judge(Some(&stop), &rounds);
            assert_eq!((judged.best, judged.stalls), (Some(best), stalls), "{stop:?}");
        }
        let judged = judge(None, &rounds);
        assert_eq!((judged.best, judged.values[&0]), (Some(2), 0.9));
        assert_eq!(judge(None, &BTreeMap::new()).best, None);
    }
}
