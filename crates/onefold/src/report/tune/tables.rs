//! The summary and the table of tasks.

use minijinja::{Value, context};

use super::super::chart::{Unit, shown, swatch};
use super::super::html::{NAME, ROWS, safe};
use super::super::show::{bytes, count, number, tidy};
use super::super::tables::{more, plain, table};
use super::super::thin::Series;
use super::metrics::{Metrics, Named, Task};
use super::record::Record;

/// Steps, tokens, time, the best step, memory.
pub(super) fn cards(metrics: &Metrics, record: &Record) -> Vec<Value> {
    let card = |name: &str, value: String, note: String| context! { name, value, note };
    let totals = &metrics.totals;
    let mut cards = Vec::new();
    if totals.lines == (0, 0) {
        return cards;
    }
    let skipped = if totals.skipped > 0 { format!(", {} left out", totals.skipped) } else { String::new() };
    cards.push(card("Steps", count(totals.steps), format!("{:.2} epochs{skipped}", totals.epochs)));
    let rate = totals.tokens as f64 / totals.seconds;
    let rate = if rate.is_finite() { format!("{} per second", count(rate as u64)) } else { String::new() };
    cards.push(card("Tokens", count(totals.tokens), rate));
    if totals.seconds > 0.0 {
        cards.push(card("Time", duration(totals.seconds), "with validation, up to the last line".to_owned()));
    }
    if let Some((step, aggregate)) = metrics.best {
        let note = aggregate.map_or_else(String::new, |value| format!("{} there", number(value)));
        cards.push(card("Best step", step.to_string(), note));
    }
    let seen = totals.memory.map(|memory| (bytes(memory), "most resident at a line".to_owned()));
    let peak = record.peak.clone().map(|peak| (tidy(&peak, 16), "of the whole process".to_owned()));
    cards.extend(peak.or(seen).map(|(memory, note)| card("Peak memory", memory, note)));
    cards
}

/// Two largest units: `4.2 s`, `3 min 20 s`, `5 h 7 min`.
fn duration(seconds: f64) -> String {
    let whole = seconds.min(1e15).round() as u64;
    match whole {
        _ if seconds < 60.0 => format!("{seconds:.1} s"),
        0..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

/// First, best and last of every task.
pub(super) fn tasks(metrics: &Metrics) -> Option<Value> {
    let validated = metrics.tasks.values().any(|task| !task.validation.is_empty());
    let head: &[&str] = match validated {
        true => &[
            "<Task",
            "First loss",
            "Best loss",
            "Last loss",
            "First accuracy",
            "Best accuracy",
            "Last accuracy",
            "Training loss",
            "Last weight ω",
        ],
        false => &["<Task", "First training loss", "Training loss", "Training accuracy", "Last weight ω"],
    };
    let row = |(at, (name, task)): (usize, (&String, &Task))| {
        let mut row = vec![
            context! { text => tidy(name, 60), title => tidy(name, NAME), mark => safe(swatch(at)), bar => "" },
        ];
        row.extend(if validated { of_validation(task) } else { of_training(task) });
        row.push(plain(value(last(&task.train, "weight"), Unit::Number)));
        row
    };
    let rows: Vec<_> = metrics.tasks.iter().enumerate().take(ROWS).map(row).collect();
    let note = match validated {
        true => "Mean loss and accuracy over all validation rows. Hover over a best value for its step.",
        false => "No task was validated; these are the means since the line before in the log.",
    };
    (!rows.is_empty()).then(|| {
        context! {
            title => "Tasks", note, table => table(head, rows, true),
            more => more(metrics.tasks.len(), ROWS, "task").replace("the JSON report", "`metrics.jsonl`"),
        }
    })
}

fn of_validation(task: &Task) -> Vec<Value> {
    let mut row = Vec::new();
    for (key, unit, is_better) in
        [("loss", Unit::Number, f64::lt as fn(&f64, &f64) -> bool), ("accuracy", Unit::Share, f64::gt)]
    {
        let best = known(&task.validation, key).reduce(|a, b| if is_better(&b.1, &a.1) { b } else { a });
        let text = value(best.map(|(_, value)| value), unit);
        let title = best.map_or_else(String::new, |(step, _)| format!("after step {step}"));
        row.push(plain(value(first(&task.validation, key), unit)));
        row.push(context! { text, title, mark => "", bar => "" });
        row.push(plain(value(last(&task.validation, key), unit)));
    }
    row.push(plain(value(last(&task.train, "loss"), Unit::Number)));
    row
}

fn of_training(task: &Task) -> Vec<Value> {
    vec![
        plain(value(first(&task.train, "loss"), Unit::Number)),
        plain(value(last(&task.train, "loss"), Unit::Number)),
        plain(value(last(&task.train, "accuracy"), Unit::Share)),
    ]
}

/// Steps and values of a series, without its gaps.
fn known(series: &Named, key: &str) -> impl DoubleEndedIterator<Item = (f64, f64)> {
    let series: &[_] = series.get(key).map_or(&[], Series::as_slice);
    series.iter().filter_map(|(step, value)| Some((*step, (*value)?)))
}

fn first(series: &Named, key: &str) -> Option<f64> {
    known(series, key).next().map(|(_, value)| value)
}

fn last(series: &Named, key: &str) -> Option<f64> {
    known(series, key).next_back().map(|(_, value)| value)
}

fn value(value: Option<f64>, unit: Unit) -> String {
    value.map_or_else(|| "–".to_owned(), |value| shown(value, unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_words() {
        assert_eq!(
            [0.04, 59.9, 200.0, 18_420.0].map(duration),
            ["0.0 s", "59.9 s", "3 min 20 s", "5 h 7 min"]
        );
    }

    #[test]
    fn first_best_and_last() {
        let metrics = Metrics::read(
            r#"{"kind":"validation","step":0,"tasks":{"a":{"loss":3.0,"accuracy":0.5}}}
{"kind":"validation","step":10,"tasks":{"a":{"loss":1.0,"accuracy":0.25}}}
{"kind":"validation","step":20,"tasks":{"a":{"loss":2.0,"accuracy":null},"b":{}}}"#,
        );
        let section = tasks(&metrics).unwrap();
        let cell = |row: usize, at: usize, key: &str| {
            let table = section.get_attr("table").unwrap();
            let rows = table.get_attr("rows").unwrap();
            let row = rows.get_item_by_index(row).unwrap();
            row.get_item_by_index(at).unwrap().get_attr(key).unwrap().to_string()
        };
        let texts: Vec<String> = (1..9).map(|at| cell(0, at, "text")).collect();
        assert_eq!(texts, ["3.000", "1.000", "2.000", "50.0 %", "50.0 %", "25.0 %", "–", "–"]);
        assert_eq!(
            (cell(0, 2, "title"), cell(0, 5, "title")),
            ("after step 10".to_owned(), "after step 0".to_owned())
        );
        assert!((1..9).all(|at| cell(1, at, "text") == "–"));
    }
}
