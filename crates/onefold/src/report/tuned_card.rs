//! The model card (`README.md`) of a trained model, by the rules of the merged model's ([`super::card`]).

use std::fmt::Write as _;

use serde_json::Value;

use super::card::{CardSource, code, fenced, is_hub_name, mention, plain, yaml};
use super::show::counted;

/// What the card says.
#[derive(Debug, Clone, Default)]
pub struct TunedCard {
    /// Headline: name of the new model.
    pub title: String,
    /// The model that was trained.
    pub base: CardSource,
    /// The balancer; becomes a tag.
    pub balancer: String,
    /// Of a model that was tuned and merged in turns: rounds, and the merge method.
    pub rounds: Option<(u64, String)>,
    /// Whether it is an adapter of PEFT and no whole model.
    pub is_adapter: bool,
    /// Directories of its models, if there are several.
    pub products: Vec<String>,
    /// The tasks it has learnt.
    pub tasks: Vec<String>,
    /// Steps after which it is as it is.
    pub kept: u64,
    /// Loss and accuracy of each task on its validation rows, if that was measured.
    pub validation: Value,
    /// The recipe, verbatim.
    pub recipe: String,
    /// The command that reproduces the run.
    pub command: String,
    /// Version of onefold.
    pub version: String,
}

/// The card as Markdown with YAML front matter.
pub fn tuned_card(info: &TunedCard) -> String {
    let mut card = front_matter(info);
    let mut section = |heading: &str, body: &str| {
        if !body.is_empty() {
            // Writing to a String cannot fail.
            let _ = write!(card, "\n{heading}\n\n{}\n", body.trim_end_matches('\n'));
        }
    };
    section(&format!("# {}", plain(&info.title)), &introduction(info));
    section("## Models", &products(info));
    section("## Validation", &validation(info));
    section("## Training Details", &licence(info));
    section("### Configuration", &fenced("yaml", &info.recipe));
    section("## Reproduce", &fenced("sh", &info.command));
    card
}

fn front_matter(info: &TunedCard) -> String {
    let mut lines = Vec::new();
    if is_hub_name(&info.base) {
        lines.push(format!("base_model: {}", yaml(&info.base.name)));
        lines.push(format!("base_model_relation: {}", if info.is_adapter { "adapter" } else { "finetune" }));
    }
    lines.push(format!("library_name: {}", if info.is_adapter { "peft" } else { "transformers" }));
    lines.push("tags:\n- multi-task\n- onefold".to_owned());
    if info.rounds.is_some() {
        lines.push("- merge".to_owned());
    }
    if !info.balancer.is_empty() && info.balancer != "onefold" {
        lines.push(format!("- {}", yaml(&info.balancer)));
    }
    format!("---\n{}\n---\n", lines.join("\n"))
}

fn introduction(info: &TunedCard) -> String {
    let names: Vec<String> = info.tasks.iter().map(|name| code(name)).collect();
    let tasks = if names.len() == 1 { "the task" } else { "the tasks" };
    let what = if info.is_adapter { "An adapter of" } else { "A fine-tune of" };
    if let Some((rounds, method)) = &info.rounds {
        return format!(
            "{what} {} on {tasks} {}, tuned one by one and merged by {} in each of {}, by onefold {} (ATM, arXiv 2411.03055).",
            mention(&info.base),
            names.join(", "),
            code(method),
            counted(*rounds, "round"),
            plain(&info.version)
        );
    }
    format!(
        "{what} {} on {tasks} {}, trained together with the balancer {} for {} steps by onefold {}.",
        mention(&info.base),
        names.join(", "),
        code(&info.balancer),
        info.kept,
        plain(&info.version)
    )
}

fn products(info: &TunedCard) -> String {
    info.products.iter().map(|name| format!("* {}\n", code(&format!("{name}/")))).collect()
}

fn validation(info: &TunedCard) -> String {
    let Some(tasks) = info.validation.as_object().filter(|tasks| !tasks.is_empty()) else {
        return String::new();
    };
    let mut table = String::from("| task | loss | accuracy | rows or tokens |\n|---|---|---|---|\n");
    for (name, figures) in tasks {
        let number =
            |key: &str| figures[key].as_f64().map_or("–".to_owned(), |value| format!("{value:.4}"));
        let rows = figures["rows"].as_u64().unwrap_or_default();
        let _ = writeln!(table, "| {} | {} | {} | {rows} |", code(name), number("loss"), number("accuracy"));
    }
    table + "\nAccuracy is the share of rows with a class, or of learnt tokens, that are right.\n"
}

fn licence(info: &TunedCard) -> String {
    let license = info.base.license.as_deref().map_or_else(|| "not stated".to_owned(), code);
    format!(
        "Licence that the base states about itself, by which this is bound: {}: {license}\n",
        mention(&info.base)
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn whole_card() {
        let info = TunedCard {
            title: "tuned".into(),
            base: CardSource { name: "org/base".into(), local: false, license: Some("apache-2.0".into()) },
            balancer: "coba".into(),
            is_adapter: true,
            tasks: vec!["code".into(), "math".into()],
            kept: 120,
            validation: json!({"code": {"loss": 1.25, "accuracy": 0.5, "rows": 40}}),
            recipe: "base_model: org/base\n".into(),
            command: "onefold tune r.yaml -o tuned".into(),
            version: "0.1.0".into(),
            ..TunedCard::default()
        };
        let expected = "\
---
base_model: org/base
base_model_relation: adapter
library_name: peft
tags:
- multi-task
- onefold
- coba
---

# tuned

An adapter of [`org/base`](https://huggingface.co/org/base) on the tasks `code`, `math`, trained together with the balancer `coba` for 120 steps by onefold 0.1.0.

## Validation

| task | loss | accuracy | rows or tokens |
|---|---|---|---|
| `code` | 1.2500 | 0.5000 | 40 |

Accuracy is the share of rows with a class, or of learnt tokens, that are right.

## Training Details

Licence that the base states about itself, by which this is bound: [`org/base`](https://huggingface.co/org/base): `apache-2.0`

### Configuration

```yaml
base_model: org/base
```

## Reproduce

```sh
onefold tune r.yaml -o tuned
```
";
        assert_eq!(tuned_card(&info), expected);
        let local = TunedCard {
            base: CardSource { name: "/home/ann/base".into(), local: true, license: None },
            products: vec!["a".into(), "b".into()],
            ..info
        };
        let card = tuned_card(&local);
        assert!(!card.contains("base_model: /") && card.contains("`base` (local): not stated"), "{card}");
        assert!(card.contains("## Models\n\n* `a/`\n* `b/`\n"), "{card}");
        let card =
            tuned_card(&TunedCard { rounds: Some((3, "ties".into())), balancer: String::new(), ..local });
        assert!(
            card.contains("tuned one by one and merged by `ties` in each of 3 rounds")
                && card.contains("- merge\n")
        );
    }
}
