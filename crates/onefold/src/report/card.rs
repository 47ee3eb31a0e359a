//! The model card (`README.md`) of a merged model: front matter that the Hugging Face hub reads, then the headings
//! that people know from merge cards.
//!
//! Two rules. Nothing is guessed: no licence unless one was given, only the licences of the sources are listed.
//! And nothing local leaks by itself: of a source that is not a hub name only the last part of its path is printed
//! (the recipe and the command stand verbatim, as they must to reproduce the run).

use std::fmt::Write as _;

use super::show::{lambda, percent, tidy};

/// What the card says.
#[derive(Clone, Debug, Default)]
pub struct CardInfo {
    /// Headline: name of the new model.
    pub title: String,
    /// Merge method as named in recipes; becomes a tag.
    pub method: String,
    /// The base model, if the method has one.
    pub base: Option<CardSource>,
    /// The experts, in recipe order.
    pub experts: Vec<CardSource>,
    /// Coefficients in the order of `experts`, if there is one per model; otherwise empty.
    pub coefficients: Vec<f64>,
    /// Of an EMR artefact: its tasks with their factors, in the order of `experts`.
    pub tasks: Vec<(String, f64)>,
    /// What the tasks score, if they were scored.
    pub scores: Vec<CardScores>,
    /// The new model's licence as a hub identifier; never inferred.
    pub license: Option<String>,
    /// Hub task, for example `text-generation`, if known.
    pub pipeline_tag: Option<String>,
    /// The recipe, verbatim.
    pub recipe: String,
    /// The command that reproduces the run.
    pub command: Option<String>,
    /// Version of onefold.
    pub version: String,
}

/// Accuracies of a task.
#[derive(Clone, Debug, Default)]
pub struct CardScores {
    /// The task.
    pub task: String,
    /// Of its expert.
    pub expert: Option<f64>,
    /// Of what was before the merge.
    pub before: Option<f64>,
    /// Of the merged model.
    pub after: Option<f64>,
    /// Of the merged model with its features corrected.
    pub surgery: Option<f64>,
}

/// One model that went in.
#[derive(Clone, Debug, Default)]
pub struct CardSource {
    /// Hub name or path.
    pub name: String,
    /// True for a local directory. `models/expert` could be either, so whoever resolved it has to say.
    pub local: bool,
    /// Licence that the source states about itself.
    pub license: Option<String>,
}

/// The card as Markdown with YAML front matter.
pub fn model_card(info: &CardInfo) -> String {
    let mut card = front_matter(info);
    let mut section = |heading: &str, body: &str| {
        if !body.is_empty() {
            // Writing to a String cannot fail.
            let _ = write!(card, "\n{heading}\n\n{}\n", body.trim_end_matches('\n'));
        }
    };
    section(&format!("# {}", plain(&info.title)), &introduction(info));
    section("## Use", &usage(info));
    section("## Merge Details", &licences(info));
    section("### Merge Method", &method(info));
    section("### Models Merged", &models(info));
    section("### Scores", &scores(info));
    section("### Configuration", &fenced("yaml", &info.recipe));
    section("## Reproduce", &reproduce(info));
    card
}

fn front_matter(info: &CardInfo) -> String {
    let hub: Vec<&str> =
        sources(info).filter(|source| is_hub_name(source)).map(|source| source.name.as_str()).collect();
    let mut lines = Vec::new();
    if !hub.is_empty() {
        lines.push("base_model:".to_owned());
        let mut seen = std::collections::BTreeSet::new();
        lines.extend(
            hub.into_iter().filter(|name| seen.insert(*name)).map(|name| format!("- {}", yaml(name))),
        );
        lines.push("base_model_relation: merge".to_owned());
    }
    // An artefact is nothing that transformers loads.
    lines.extend(info.tasks.is_empty().then(|| "library_name: transformers".to_owned()));
    lines.extend(info.pipeline_tag.as_ref().map(|tag| format!("pipeline_tag: {}", yaml(tag))));
    lines.extend(info.license.as_ref().map(|license| format!("license: {}", yaml(license))));
    lines.push("tags:\n- merge\n- onefold".to_owned());
    let method = !info.method.is_empty() && info.method != "merge" && info.method != "onefold";
    lines.extend(method.then(|| format!("- {}", yaml(&info.method))));
    format!("---\n{}\n---\n", lines.join("\n"))
}

fn sources(info: &CardInfo) -> impl Iterator<Item = &CardSource> {
    info.base.iter().chain(&info.experts)
}

/// `owner/name` in the hub's alphabet. Only such names are listed: the hub rejects a card that names anything else.
pub(super) fn is_hub_name(source: &CardSource) -> bool {
    let part = |part: &str| {
        let first = part.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let rest = part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        first && rest && !part.ends_with(['.', '-']) && !part.contains("..") && !part.contains("--")
    };
    let parts: Vec<&str> = source.name.split('/').collect();
    !source.local
        && source.name.len() <= 96
        && matches!(parts[..], [owner, name] if part(owner) && part(name))
}

/// A YAML scalar: plain where nothing could be misread, else double-quoted.
pub(super) fn yaml(text: &str) -> String {
    let letters = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic());
    let harmless = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte));
    let reserved = ["null", "true", "false", "yes", "no", "on", "off", "y", "n"];
    if letters && harmless && !reserved.contains(&text.to_ascii_lowercase().as_str()) {
        return text.to_owned();
    }
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            ' '..='~' => quoted.push(character),
            _ => {
                let _ = write!(quoted, "\\U{:08X}", u32::from(character));
            }
        }
    }
    quoted + "\""
}

fn introduction(info: &CardInfo) -> String {
    let version = if info.version.is_empty() { String::new() } else { format!(" {}", plain(&info.version)) };
    if !info.tasks.is_empty() {
        return format!(
            "The task vectors of {} fine-tuned models, unified, with a mask and a factor for each, made with onefold{version}. \
             This is no model: it gives one for each task when it is put on its base.",
            info.tasks.len()
        );
    }
    format!("A merge of {} fine-tuned models into one, made with onefold{version}.", info.experts.len())
}

/// How to get a model out of an artefact.
fn usage(info: &CardInfo) -> String {
    let Some((task, _)) = info.tasks.first() else { return String::new() };
    // JSON strings are YAML strings.
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let recipe = format!(
        "merge_method: passthrough\nmodels:\n- model: {}\n  task: {}\n",
        quoted(&format!("./{}", info.title)),
        quoted(task)
    );
    format!(
        "The model of one task, by `onefold merge` of this recipe (`base_model` names the base if it has moved):\n\n{}",
        fenced("yaml", &recipe)
    )
}

fn method(info: &CardInfo) -> String {
    let base = info.base.as_ref().map(|base| format!(", on the base {}", mention(base))).unwrap_or_default();
    format!("{}{base}.", code(&info.method))
}

fn models(info: &CardInfo) -> String {
    let line = |(t, expert): (usize, &CardSource)| {
        let weight =
            info.coefficients.get(t).map(|&value| format!(", λ = {}", lambda(value))).unwrap_or_default();
        let task =
            info.tasks.get(t).map(|(name, value)| format!(": task {}, λ = {}", code(name), lambda(*value)));
        format!("* {}{weight}{}\n", mention(expert), task.unwrap_or_default())
    };
    info.experts.iter().enumerate().map(line).collect()
}

/// Accuracies as a table, with a column for corrected features where there are some.
fn scores(info: &CardInfo) -> String {
    if info.scores.is_empty() {
        return String::new();
    }
    let corrected = info.scores.iter().any(|scores| scores.surgery.is_some());
    let mut head = vec!["task", "expert", "before", "after"];
    head.extend(corrected.then_some("with surgery"));
    let rule: Vec<&str> = head.iter().enumerate().map(|(i, _)| if i == 0 { "---" } else { "---:" }).collect();
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let text = |cells: &[&str]| line(&cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>());
    let row = |scores: &CardScores| {
        let share = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), percent);
        let mut cells = vec![code(&scores.task).replace('|', "\\|")];
        cells.extend([scores.expert, scores.before, scores.after].map(share));
        cells.extend(corrected.then(|| share(scores.surgery)));
        line(&cells)
    };
    let rows: String = info.scores.iter().map(row).collect();
    let note = if corrected {
        "\nWith surgery: with the correction of features in `surgery.safetensors` beside the task's model, which transformers does not \
         apply by itself: z − relu(z·downᵀ)·upᵀ of what the head's last linear map reads.\n"
    } else {
        ""
    };
    format!("Accuracy on the rows of `test`.\n\n{}{}{rows}{note}", text(&head), text(&rule))
}

fn licences(info: &CardInfo) -> String {
    if sources(info).next().is_none() {
        return String::new();
    }
    let line = |source: &CardSource| {
        let license = source.license.as_deref().map_or_else(|| "not stated".to_owned(), code);
        format!("* {}: {license}\n", mention(source))
    };
    let lines: String = sources(info).map(line).collect();
    format!(
        "Licences that the sources state about themselves; the merged model is bound by all of them:\n\n{lines}"
    )
}

fn reproduce(info: &CardInfo) -> String {
    info.command.as_deref().map(|command| fenced("sh", command)).unwrap_or_default()
}

/// A link for hub names; for a local model the last part of its path.
pub(super) fn mention(source: &CardSource) -> String {
    if is_hub_name(source) {
        // The alphabet of hub names needs escaping neither in Markdown code nor in a URL.
        return format!("[`{name}`](https://huggingface.co/{name})", name = source.name);
    }
    let trimmed = source.name.trim_end_matches(['/', '\\']);
    format!("{} (local)", code(trimmed.rsplit(['/', '\\']).next().unwrap_or(trimmed)))
}

/// Words that Markdown and HTML read as nothing but words.
pub(super) fn plain(text: &str) -> String {
    let mut out = String::new();
    for character in tidy(text, 200).chars() {
        if character.is_ascii_punctuation() && !"-._/,:()".contains(character) {
            out.push('\\');
        }
        out.push(character);
    }
    out
}

/// A code span around any text on one line.
pub(super) fn code(text: &str) -> String {
    let text = tidy(text, 200);
    let ticks = "`".repeat(longest_run(&text) + 1);
    let pad = if text.starts_with('`') || text.ends_with('`') || text.trim().is_empty() { " " } else { "" };
    format!("{ticks}{pad}{text}{pad}{ticks}")
}

/// A code block whose fence is longer than any run of backticks in the text.
pub(super) fn fenced(language: &str, text: &str) -> String {
    let fence = "`".repeat((longest_run(text) + 1).max(3));
    let end = if text.ends_with('\n') { "" } else { "\n" };
    format!("{fence}{language}\n{text}{end}{fence}")
}

fn longest_run(text: &str) -> usize {
    text.split(|character| character != '`').map(str::len).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use saphyr::{LoadableYamlNode, Yaml};

    use super::*;

    fn source(name: &str, local: bool, license: Option<&str>) -> CardSource {
        CardSource { name: name.into(), local, license: license.map(String::from) }
    }

    fn info() -> CardInfo {
        CardInfo {
            title: "merged-7x3".into(),
            method: "metagpt".into(),
            base: Some(source("org/base", false, Some("apache-2.0"))),
            experts: vec![
                source("org/code", false, Some("llama2")),
                source("/home/ann/runs/math/", true, None),
            ],
            coefficients: vec![0.25, 0.75],
            recipe: "merge_method: metagpt\nbase_model: org/base\n".into(),
            command: Some("onefold merge recipe.yaml -o merged-7x3".into()),
            version: "0.1.0".into(),
            ..CardInfo::default()
        }
    }

    #[test]
    fn whole_card() {
        let expected = "\
---
base_model:
- org/base
- org/code
base_model_relation: merge
library_name: transformers
tags:
- merge
- onefold
- metagpt
---

# merged-7x3

A merge of 2 fine-tuned models into one, made with onefold 0.1.0.

## Merge Details

Licences that the sources state about themselves; the merged model is bound by all of them:

* [`org/base`](https://huggingface.co/org/base): `apache-2.0`
* [`org/code`](https://huggingface.co/org/code): `llama2`
* `math` (local): not stated

### Merge Method

`metagpt`, on the base [`org/base`](https://huggingface.co/org/base).

### Models Merged

* [`org/code`](https://huggingface.co/org/code), λ = 0.2500
* `math` (local), λ = 0.7500

### Configuration

```yaml
merge_method: metagpt
base_model: org/base
```

## Reproduce

```sh
onefold merge recipe.yaml -o merged-7x3
```
";
        assert_eq!(model_card(&info()), expected);
    }

    #[test]
    fn a_licence_stands_only_if_given() {
        assert!(!model_card(&info()).contains("\nlicense:"));
        let card = model_card(&CardInfo { license: Some("apache-2.0".into()), ..info() });
        assert!(card.contains("\nlicense: apache-2.0\n"));
    }

    #[test]
    fn only_hub_names_are_listed() {
        let listed = |name: &str| is_hub_name(&source(name, false, None));
        assert!(["org/name", "a/b", "01-ai/Yi-6B", "o_o/x.y"].into_iter().all(listed));
        let no = [
            "",
            "name",
            "/a/b",
            "./a",
            "../a",
            "a/..",
            "a/b/c",
            "a b/c",
            "a/b\n- c/d",
            "~/x",
            "-a/b",
            "a/b.",
            "C:\\m/x",
        ];
        assert!(!no.into_iter().any(listed));
        assert!(!is_hub_name(&source("models/expert", true, None)));
        assert!(!listed(&format!("o/{}", "x".repeat(100))));
    }

    #[test]
    fn front_matter_is_yaml_whatever_the_words() {
        let words = ["null", "1e3", "a: b", "x\n---\nevil: true", "\"\\", "é\u{2028}", "#c", "- d", "", "No"];
        for word in words {
            let info = CardInfo {
                method: word.into(),
                license: Some(word.into()),
                pipeline_tag: Some(word.into()),
                ..info()
            };
            let card = model_card(&info);
            let front = card.strip_prefix("---\n").and_then(|rest| rest.split_once("\n---\n")).unwrap().0;
            let parsed = Yaml::load_from_str(front).unwrap();
            assert_eq!(parsed.len(), 1, "{word:?}");
            let text = |key: &str| parsed[0].as_mapping_get(key).and_then(Yaml::as_str).map(String::from);
            assert_eq!(
                (text("license").as_deref(), text("pipeline_tag").as_deref()),
                (Some(word), Some(word))
            );
            let tags = parsed[0].as_mapping_get("tags").and_then(Yaml::as_vec).unwrap();
            assert_eq!(tags.get(2).and_then(Yaml::as_str), Some(word).filter(|word| !word.is_empty()));
        }
    }

    #[test]
    fn fences_and_spans_survive_backticks() {
        let card = model_card(&CardInfo { recipe: "# ````\na: 1".into(), ..info() });
        assert!(card.contains("`````yaml\n# ````\na: 1\n`````\n"));
        assert_eq!(
            (code("a`b"), code("`"), code("a``")),
            ("``a`b``".into(), "`` ` ``".into(), "``` a`` ```".into())
        );
        assert_eq!(plain("<b>[x](y)\n# *z*"), "\\<b\\>\\[x\\](y)\u{FFFD}\\# \\*z\\*");
    }
}
