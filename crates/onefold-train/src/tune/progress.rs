//! What counts as progress, which step was best, and when it is enough.

use onefold_engine::cpu::loss::TaskLoss;
use serde::{Deserialize, Serialize};

use super::settings::{Aggregate, Measure, ProgressSettings};

/// What validations have shown so far.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Progress {
    /// The best aggregate, and the step after which it was seen.
    pub(super) best: Option<(f64, u64)>,
    /// Validations since then.
    pub(super) stalls: u64,
    /// The same of each task.
    tasks: Vec<(Option<f64>, u64)>,
}

/// What a validation says.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Verdict {
    /// The aggregate; none if it is of nothing.
    pub(super) aggregate: Option<f64>,
    /// Whether it is the best so far.
    pub(super) is_best: bool,
    /// Why the training is to end, if it is.
    pub(super) end: Option<String>,
}

impl Verdict {
    /// Of a validation before the first step, which is no progress: what is not trained is no result.
    pub(super) fn of_beginning(settings: &ProgressSettings, names: &[String], sums: &[TaskLoss]) -> Self {
        let values: Vec<_> = sums.iter().map(|sum| value(settings.measure, sum)).collect();
        Self { aggregate: aggregate(settings, names, &values), is_best: false, end: None }
    }
}

impl Progress {
    /// Takes the validation after `step`.
    pub(super) fn take(
        &mut self,
        settings: &ProgressSettings,
        names: &[String],
        sums: &[TaskLoss],
        step: u64,
    ) -> Verdict {
        let values: Vec<_> = sums.iter().map(|sum| value(settings.measure, sum)).collect();
        let aggregate = aggregate(settings, names, &values);
        let better = |new: f64, old: Option<f64>| match (old, settings.measure) {
            (None, _) => true,
            (Some(old), Measure::Loss) => new < old - settings.least,
            (Some(old), Measure::Accuracy) => new > old + settings.least,
        };
        self.tasks.resize(sums.len(), (None, 0));
        for ((best, stalls), value) in self.tasks.iter_mut().zip(&values) {
            match value {
                Some(value) if better(*value, *best) => (*best, *stalls) = (Some(*value), 0),
                _ => *stalls += 1,
            }
        }
        let is_best = aggregate.is_some_and(|new| better(new, self.best.map(|(best, _)| best)));
        if let (Some(new), true) = (aggregate, is_best) {
            (self.best, self.stalls) = (Some((new, step)), 0);
        } else {
            self.stalls += 1;
        }
        Verdict { aggregate, is_best, end: self.end(settings) }
    }

    fn end(&self, settings: &ProgressSettings) -> Option<String> {
        if settings.patience.is_some_and(|most| self.stalls >= most) {
            return Some(format!("no progress in {} validations", self.stalls));
        }
        let most = settings.task_patience?;
        let done = !self.tasks.is_empty() && self.tasks.iter().all(|(_, stalls)| *stalls >= most);
        done.then(|| format!("no task has made progress in {most} validations"))
    }
}

/// What is measured of a task; none without validation rows.
fn value(measure: Measure, sum: &TaskLoss) -> Option<f64> {
    let part = match measure {
        Measure::Loss => sum.loss,
        Measure::Accuracy => sum.correct as f64,
    };
    (sum.rows > 0).then(|| part / sum.rows as f64)
}

fn aggregate(settings: &ProgressSettings, names: &[String], values: &[Option<f64>]) -> Option<f64> {
    let known = || values.iter().flatten().copied();
    match &settings.aggregate {
        Aggregate::Mean => (known().count() > 0).then(|| known().sum::<f64>() / known().count() as f64),
        Aggregate::Worst if settings.measure == Measure::Loss => known().reduce(f64::max),
        Aggregate::Worst => known().reduce(f64::min),
        Aggregate::Task(name) => names.iter().position(|of| of == name).and_then(|at| values[at]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(aggregate: Aggregate) -> ProgressSettings {
        ProgressSettings { aggregate, keep_best: true, patience: Some(2), ..ProgressSettings::default() }
    }

    fn sums(losses: [f64; 2]) -> [TaskLoss; 2] {
        losses.map(|loss| TaskLoss { loss: 4.0 * loss, rows: 4, correct: 1 })
    }

    fn names() -> Vec<String> {
        vec!["a".to_owned(), "b".to_owned()]
    }

    #[test]
    fn the_best_is_that_of_the_aggregate() {
        for (aggregate, best) in [
            (Aggregate::Mean, (1.5, 20)),
            (Aggregate::Worst, (2.0, 10)),
            (Aggregate::Task("a".into()), (0.5, 20)),
        ] {
            let (settings, mut progress) = (settings(aggregate), Progress::default());
            assert!(progress.take(&settings, &names(), &sums([2.0, 2.0]), 10).is_best);
            progress.take(&settings, &names(), &sums([0.5, 2.5]), 20);
            let last = progress.take(&settings, &names(), &sums([1.0, 3.0]), 30);
            assert!(!last.is_best);
            assert_eq!(progress.best, Some(best));
            assert_eq!(last.end.is_some(), best.1 == 10);
        }
    }

    #[test]
    fn all_tasks_have_to_run_out_of_patience() {
        let settings =
            ProgressSettings { patience: None, task_patience: Some(2), ..settings(Aggregate::Mean) };
        let mut progress = Progress::default();
        for (step, losses, ends) in
            [(1, [1.0, 1.0], false), (2, [1.0, 0.9], false), (3, [1.0, 0.9], false), (4, [1.0, 0.9], true)]
        {
            let end = progress.take(&settings, &names(), &sums(losses), step).end;
            assert_eq!(end.is_some(), ends, "{step}: {end:?}");
        }
    }

    #[test]
    fn more_is_better_of_what_is_right() {
        let settings =
            ProgressSettings { measure: Measure::Accuracy, least: 0.1, ..settings(Aggregate::Mean) };
        let mut progress = Progress::default();
        let seen = |correct| [TaskLoss { loss: f64::from(9), rows: 10, correct }];
        let names = ["a".to_owned()];
        assert!(progress.take(&settings, &names, &seen(5), 1).is_best);
        assert!(!progress.take(&settings, &names, &seen(6), 2).is_best);
        assert!(progress.take(&settings, &names, &seen(7), 3).is_best);
        assert_eq!(progress.take(&settings, &names, &[TaskLoss::default()], 4).aggregate, None);
    }
}
