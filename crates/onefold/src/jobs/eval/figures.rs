//! What the answers are worth: scores with their errors, differences, shares of the experts, and what was forgotten.

use onefold_train::eval::statistics::{Difference, Draws};
use onefold_train::eval::{Metric, Outcome, Scored};

use super::subjects::Role;
use super::{Outcomes, Ready, Session};

/// All figures of a job.
#[derive(Debug, Default)]
pub(super) struct Figures {
    /// Of each task.
    pub(super) tasks: Vec<TaskFigures>,
    /// Of each model that was named how much of the experts' scores it has.
    pub(super) shares: Vec<Share>,
    /// What was asked not to be forgotten.
    pub(super) guard: Vec<Guard>,
}

/// Figures of a task.
#[derive(Debug, Default)]
pub(super) struct TaskFigures {
    pub(super) scores: Vec<Score>,
    pub(super) differences: Vec<Pair>,
    /// Of each model that was named its score over that of the task's expert.
    pub(super) of_expert: Vec<(usize, Option<f64>)>,
}

/// A score of a model.
#[derive(Debug)]
pub(super) struct Score {
    pub(super) model: usize,
    pub(super) metric: Metric,
    pub(super) filter: String,
    pub(super) value: Option<f64>,
    pub(super) error: Option<f64>,
}

/// How two models differ.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) models: [usize; 2],
    pub(super) metric: Metric,
    pub(super) filter: String,
    pub(super) difference: Difference,
}

/// How much of the experts' scores a model has.
#[derive(Debug)]
pub(super) struct Share {
    pub(super) model: usize,
    /// Weighted by the tasks' shares.
    pub(super) mean: f64,
    pub(super) worst: f64,
    pub(super) worst_task: usize,
}

/// What a model can still do of what the base could.
#[derive(Debug)]
pub(super) struct Guard {
    pub(super) task: usize,
    pub(super) model: usize,
    pub(super) metric: Metric,
    pub(super) before: Option<f64>,
    pub(super) after: Option<f64>,
    /// How much worse it is.
    pub(super) loss: Option<f64>,
    /// The most that is allowed.
    pub(super) limit: Option<f64>,
}

impl Guard {
    /// Whether the limit is kept; a score that is not defined keeps none.
    pub(super) fn held(&self) -> bool {
        match (self.limit, self.loss) {
            (None, _) => true,
            (Some(limit), Some(loss)) => loss <= limit,
            (Some(_), None) => false,
        }
    }
}

impl Figures {
    pub(super) fn of(session: &Session<'_>, ready: &Ready, outcomes: &Outcomes) -> Self {
        let mut figures = Self::default();
        let recipe = session.recipe;
        for (number, task) in ready.tasks.iter().enumerate() {
            let draws = Draws { seed: recipe.seed, task: task.name(), times: recipe.bootstrap };
            let scored: Vec<(usize, &Outcome)> = outcomes
                .iter()
                .enumerate()
                .filter_map(|(model, row)| Some((model, row[number].as_ref()?)))
                .collect();
            let mut of_task = TaskFigures::default();
            for (model, outcome) in &scored {
                of_task.scores.extend(outcome.scores.iter().map(|of| score(&draws, *model, of)));
            }
            for (at, (a, first)) in scored.iter().enumerate() {
                for (b, second) in &scored[at + 1..] {
                    of_task.differences.extend(pairs(&draws, ([*a, *b], [first, second])));
                }
            }
            let first_value = |model: usize| {
                of_task.scores.iter().find(|score| score.model == model).and_then(|score| score.value)
            };
            let metric = task.metrics[0];
            let expert = session.subjects.of_task(number, &|role| matches!(role, Role::Expert(_)));
            if let Some(expert) = expert.first() {
                let share = |model: usize| of_expert(metric, first_value(model)?, first_value(*expert)?);
                let models = session.subjects.of_task(number, &|role| *role == Role::Model);
                of_task.of_expert = models.into_iter().map(|model| (model, share(model))).collect();
            }
            if recipe.tasks[number].share == 0.0 {
                let base = session.subjects.of_task(number, &|role| *role == Role::Base);
                let models = session.subjects.of_task(number, &|role| *role == Role::Model);
                for model in base.first().into_iter().flat_map(|_| &models) {
                    let (before, after) =
                        (base.first().and_then(|base| first_value(*base)), first_value(*model));
                    let loss = before.zip(after).map(|(before, after)| worse(metric, before, after));
                    let limit = recipe.tasks[number].limit;
                    figures.guard.push(Guard {
                        task: number,
                        model: *model,
                        metric,
                        before,
                        after,
                        loss,
                        limit,
                    });
                }
            }
            figures.tasks.push(of_task);
        }
        figures.shares = figures.shares(session);
        figures
    }

    /// Means over tasks whose experts are there, weighted by the tasks' shares.
    fn shares(&self, session: &Session<'_>) -> Vec<Share> {
        let share = |model: usize| {
            let each = self.tasks.iter().enumerate().filter_map(|(number, task)| {
                let weight = session.recipe.tasks[number].share;
                let (_, share) = task.of_expert.iter().find(|(of, _)| *of == model)?;
                Some((number, weight, (*share)?)).filter(|_| weight > 0.0)
            });
            let each: Vec<(usize, f64, f64)> = each.collect();
            let weights: f64 = each.iter().map(|(_, weight, _)| weight).sum();
            let worst = each.iter().min_by(|a, b| a.2.total_cmp(&b.2))?;
            let mean = each.iter().map(|(_, weight, share)| weight * share).sum::<f64>() / weights;
            Some(Share { model, mean, worst: worst.2, worst_task: worst.0 })
        };
        let named = session.subjects.all().filter(|(_, entry)| entry.role == Role::Model);
        named.filter_map(|(model, _)| share(model)).collect()
    }
}

fn score(draws: &Draws<'_>, model: usize, of: &Scored) -> Score {
    let figure = draws.figure(&of.series);
    Score { model, metric: of.metric, filter: of.filter.clone(), value: figure.value, error: figure.error }
}

/// How two models differ in every metric.
fn pairs(draws: &Draws<'_>, (models, outcomes): ([usize; 2], [&Outcome; 2])) -> Vec<Pair> {
    let [first, second] = outcomes.map(|outcome| &outcome.scores);
    let pair = |(a, b): (&Scored, &Scored)| {
        let difference = draws.difference(&a.series, &b.series)?;
        Some(Pair { models, metric: a.metric, filter: a.filter.clone(), difference })
    };
    first.iter().zip(second).filter_map(pair).collect()
}

/// A score over its expert's, so that more is better; none where that is no share.
fn of_expert(metric: Metric, score: f64, expert: f64) -> Option<f64> {
    let (above, below) = if metric.higher_is_better() { (score, expert) } else { (expert, score) };
    (below > 0.0).then(|| above / below)
}

/// How much worse `after` is than `before`.
fn worse(metric: Metric, before: f64, after: f64) -> f64 {
    if metric.higher_is_better() { before - after } else { after - before }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_losses_know_which_way_is_better() {
        assert_eq!(of_expert(Metric::Accuracy, 0.4, 0.8), Some(0.5));
        assert_eq!(of_expert(Metric::BitsPerByte, 4.0, 2.0), Some(0.5));
        assert_eq!(of_expert(Metric::Mcc, 0.4, -0.1), None);
        assert_eq!(worse(Metric::Accuracy, 0.75, 0.5), 0.25);
        assert_eq!(worse(Metric::BitsPerByte, 2.0, 2.5), 0.5);
    }

    #[test]
    fn a_limit_is_kept_by_what_is_no_worse() {
        let guard = |loss, limit| Guard {
            task: 0,
            model: 0,
            metric: Metric::Accuracy,
            before: None,
            after: None,
            loss,
            limit,
        };
        assert!(guard(Some(0.1), Some(0.1)).held() && guard(Some(-0.2), Some(0.0)).held());
        assert!(!guard(Some(0.11), Some(0.1)).held() && !guard(None, Some(0.1)).held());
        assert!(guard(Some(0.9), None).held());
    }
}
