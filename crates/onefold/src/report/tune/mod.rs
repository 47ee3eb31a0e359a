//! The report of a joint training: one page in the form of a merge's, made of `metrics.jsonl` and `onefold.json` alone.
//!
//! So it can be made again from the directory of a run, also from one that was made by another version or that ended early: what
//! is missing is left out, and what cannot be read is told on the page.

pub(super) mod curves;
mod metrics;
mod record;
mod tables;

use minijinja::context;
use serde_json::Value;

use self::metrics::Metrics;
use self::record::Record;
use super::html::{NAME, pairs, prose, render};
use super::show::{counted, tidy};
use super::tables::code;

/// Faulty lines that are named.
const NAMED: usize = 5;
/// Warnings that are shown.
const WARNINGS: usize = 100;

/// The report as one self-contained HTML file, from the text of `metrics.jsonl` and the value of `onefold.json`.
///
/// `record` may lack any key. Names and numbers of both are taken for hostile.
#[must_use]
pub fn page(metrics: &str, record: &Value) -> String {
    let metrics = Metrics::read(metrics);
    let record = Record::of(record);
    let warnings = warnings(&metrics, &record);
    render(context! {
        title => tidy(&record.title, NAME),
        kind => "tune",
        facts => pairs(&record.facts),
        warnings_title => counted(warnings.len() as u64, "warning"),
        warnings => warnings.iter().take(WARNINGS).map(|warning| prose(warning)).collect::<Vec<_>>(),
        cards => tables::cards(&metrics, &record),
        sections => sections(&metrics, &record),
        run => pairs(&record.run),
    })
    .expect("the template is part of the program, and shows whatever it is given")
}

/// Those of the run, and what is wrong with its metrics.
fn warnings(metrics: &Metrics, record: &Record) -> Vec<String> {
    let mut warnings = record.warnings.clone();
    let (train, validation) = metrics.totals.lines;
    if train + validation == 0 {
        warnings.push("`metrics.jsonl` tells of no step, so there is nothing to draw.".to_owned());
    }
    if !metrics.bad.is_empty() {
        let named: Vec<String> =
            metrics.bad.iter().take(NAMED).map(|(line, why)| format!("line {line} ({why})")).collect();
        let more = metrics.bad.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(", and {more} more") } else { String::new() };
        let count = counted(metrics.bad.len() as u64, "line");
        warnings
            .push(format!("{count} of `metrics.jsonl` left out, not readable: {}{more}.", named.join(", ")));
    }
    warnings
}

fn sections(metrics: &Metrics, record: &Record) -> Vec<minijinja::Value> {
    let mut sections = vec![tables::tasks(metrics)];
    sections.extend(curves::all(metrics));
    sections.push(code("Recipe", "", record.recipe.as_deref()));
    let note = "With the inputs and the version named here, this gives the same bytes, whatever the number of threads.";
    sections.push(code("Reproduce", note, record.command.as_deref()));
    sections.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fixture::{balanced, tags};
    use super::*;

    /// A training of three tasks over so many steps, a line per step, one validation in ten.
    fn training(tasks: [&str; 3], steps: u64) -> String {
        let mut lines = String::new();
        for step in 0..=steps {
            let at = step as f64 / steps as f64;
            let loss = |t: usize| 0.3 + 3.0 * (-at * 3.0 * (t + 1) as f64).exp();
            let noise = |t: usize| ((step * 7919 + t as u64 * 31) % 101) as f64 / 400.0;
            let of = |f: &dyn Fn(usize) -> Value| -> Value {
                tasks
                    .iter()
                    .enumerate()
                    .map(|(t, name)| ((*name).to_owned(), f(t)))
                    .collect::<serde_json::Map<_, _>>()
                    .into()
            };
            if step % (steps / 10).max(1) == 0 {
                let tasks =
                    of(&|t| json!({"loss": loss(t) + 0.05, "accuracy": 1.0 - loss(t) / 3.5, "rows": 40}));
                let line = json!({"kind": "validation", "step": step, "epoch": at * 3.0, "aggregate": loss(0),
                    "best": step < steps, "tasks": tasks});
                lines += &format!("{line}\n");
            }
            if step > 0 {
                let tasks = of(&|t| {
                    json!({"loss": loss(t) + noise(t), "accuracy": 0.5, "weight": 0.2 + 0.1 * t as f64 + 0.1 * at,
                    "ratio": at, "rcs": 0.3 + noise(t) * 0.1, "acs": if step < steps / 5 { Value::Null } else { json!(0.33) }})
                });
                let line = json!({"kind": "train", "step": step, "epoch": at * 3.0, "loss": loss(1), "lr": 1e-3 * (1.0 - at),
                    "grad_norm": 1.0 + noise(0), "tokens": step * 2048, "skipped": 0, "tasks": tasks,
                    "balancer": {"df": 1.0 - 0.5 * at}, "seconds": 0.25, "tokens_per_second": 8192.0 + noise(1), "memory": 210_000_000});
                lines += &format!("{line}\n");
            }
        }
        lines
    }

    fn record() -> Value {
        json!({
            "format": "onefold.run/1",
            "command": "onefold tune recipe.yaml -o out --seed 7",
            "recipe": "base_model: ./base # \"<b>\"\ntasks: []\n",
            "run": {"onefold": "0.1.0", "seed": "7", "time": "1 min", "peak memory": "210 MB"},
            "warnings": ["task `gloss`: 3 rows left out", {"message": "second"}],
        })
    }

    fn parts(html: &str, text: &str) -> usize {
        html.matches(text).count()
    }

    #[test]
    fn a_whole_training() {
        let html = page(&training(["language", "gloss", "phonemes"], 200), &record());
        balanced(&html);
        assert!(html.starts_with("<!DOCTYPE html>") && html.trim_end().ends_with("</html>"));
        for title in [
            "Tasks",
            "Validation loss",
            "Validation accuracy",
            "Training loss",
            "Weights",
            "The balancer",
            "Optimiser",
            "Recipe",
        ] {
            assert_eq!(parts(&html, &format!(">{title}</h2>")), 1, "{title}");
        }
        assert!(html.contains("<dt>Steps</dt><dd class=\"big\">200</dd>"));
        assert!(html.contains("<dt>Best step</dt><dd class=\"big\">180</dd>"));
        assert!(html.contains("onefold tune recipe.yaml") && html.contains("2 warnings"));
        assert!(html.contains("<code>gloss</code>: 3 rows left out"));
        // Three tasks in the table, each with its mark.
        assert_eq!(parts(&html, r#"data-head="Task""#), 3);
        for name in ["rcs", "acs", "df", "Learning rate", "Gradient norm"] {
            assert!(html.to_lowercase().contains(&format!("<figcaption>{}", name.to_lowercase())), "{name}");
        }
    }

    #[test]
    fn the_page_needs_nothing_from_outside() {
        let html = page(&training(["a", "b", "c"], 20), &record());
        for word in
            ["http://", "https://", "<script", "<link", "<img", "<iframe", "url(", "@import", " onload"]
        {
            assert!(!tags(&html).into_iter().any(|tag| format!("<{tag}").contains(word)), "{word}");
        }
        assert!(html.contains("default-src 'none'"));
    }

    #[test]
    fn hostile_names_stay_text() {
        let evil = "</title></svg><script>alert('x')</script>\" onload=\"y\u{202e}{{ 7 * 7 }}";
        let metrics =
            training([evil, "b", "c"], 20).replace("grad_norm", "<script>").replace("\"df\"", "\"<script>\"");
        let record = json!({"title": evil, "command": evil, "recipe": evil, "warnings": [evil], "run": {evil: evil},
            "seed": evil, "versions": {evil: evil}, "balancer": evil, "base_model": evil, "name": evil});
        let html = page(&(metrics + "{\"kind\":\"<script>\",\"step\":1}\n<script>\n"), &record);
        assert!(!html.contains("<script") && !html.contains("\" onload"), "markup escaped");
        assert!(html.contains("{{ 7 * 7 }}"), "templates are not evaluated");
        balanced(&html);
    }

    #[test]
    fn nothing_and_hardly_anything() {
        let empty = page("", &Value::Null);
        balanced(&empty);
        assert!(empty.contains("tells of no step") && parts(&empty, "<svg") == 0);
        let one = page(
            "{\"kind\":\"train\",\"step\":1,\"tasks\":{\"a\":{\"loss\":2.5,\"weight\":1.0}},\"balancer\":{}}",
            &json!({}),
        );
        balanced(&one);
        assert!(one.contains("Training loss") && !one.contains("Validation") && parts(&one, "<circle") > 0);
        assert!(!one.contains("class=\"warnings\""), "no warning without cause");
        for record in [json!([]), json!("x"), json!({"recipe": 3, "warnings": 1, "run": [], "command": {}})] {
            balanced(&page("", &record));
        }
    }

    #[test]
    fn lines_that_cannot_be_read_are_counted_and_named() {
        let good = training(["a", "b", "c"], 20);
        let lines = good.lines().count();
        let html = page(&format!("{good}{{\"kind\":\"tra\nNaN\n{}", "?\n".repeat(6)), &json!({}));
        assert!(html.contains("8 lines of <code>metrics.jsonl</code> left out"));
        assert!(html.contains(&format!("line {} (no JSON", lines + 1)) && html.contains("and 3 more."));
        assert!(html.contains(">20</dd>"), "the others are shown");
    }

    #[test]
    fn values_that_are_none_are_gaps() {
        let metrics = training(["a", "b", "c"], 20).replace("\"accuracy\":0.5", "\"accuracy\":null");
        let html = page(&metrics, &json!({}));
        balanced(&html);
        assert!(!html.contains("NaN") && !html.contains("inf\""));
    }

    #[test]
    fn a_long_training_of_many_tasks_stays_small() {
        let mut lines = training(["a", "b", "c"], 50_000);
        let html = page(&lines, &record());
        assert!(html.len() < 400_000, "{} bytes", html.len());
        assert_eq!(html, page(&lines, &record()), "the same bytes");
        let tasks: serde_json::Map<String, Value> = (0..500)
            .map(|t| (format!("{}{t}", "long-name-".repeat(9)), json!({"loss": t, "weight": 0.1})))
            .collect();
        lines.clear();
        for step in 1..400 {
            lines += &format!("{}\n", json!({"kind": "train", "step": step, "tasks": tasks}));
        }
        let html = page(&lines, &record());
        assert!(html.len() < 1_000_000, "{} bytes", html.len());
        assert!(html.contains("and 400 more tasks"));
    }

    #[test]
    fn a_page_to_look_at() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report.html");
        let html = page(&training(["language", "gloss", "phonemes"], 3000), &record());
        onefold_checkpoint::output::write_file(&path, html.as_bytes(), false).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), html);
    }
}
