//! The methods of merging.

use std::fmt::Write as _;

use onefold_merge::methods::{self, BaseRole, Method, measured};
use onefold_merge::params::{Default, Level, Param};
use serde_json::{Value, json};

/// A method for programs.
pub(super) fn facts(method: &Method) -> Value {
    let (fewest, most) = method.operands;
    let parameter = |p: &Param| {
        json!({
            "name": p.name,
            "level": level_word(p.level),
            "values": p.kind.to_string(),
            "default": p.default.value(),
            "required": p.default == Default::Required,
            "help": p.help,
        })
    };
    json!({
        "name": method.name,
        "group": "merge",
        "summary": method.summary,
        "source": method.source,
        "base_model": base_words(method),
        "models": {"min": fewest, "max": (most < usize::MAX).then_some(most)},
        "passes": method.passes,
        "statistics": needs(method),
        "parameters": method.params.iter().map(parameter).collect::<Value>(),
    })
}

fn level_word(level: Level) -> &'static str {
    if level == Level::Model { "model" } else { "merge" }
}

fn base_words(method: &Method) -> &'static str {
    match method.base {
        BaseRole::Donor => "not used, unless listed as a model",
        BaseRole::Operand => "required; one of the models that are merged",
        BaseRole::OptionalOperand => "optional; one of the models that are merged",
        BaseRole::OptionalOrigin => "optional; task vectors are taken from it",
        BaseRole::Origin => "required; task vectors are taken from it",
    }
}

/// What has to be measured of the models before.
fn needs(method: &Method) -> Option<&'static str> {
    measured::find(method.name).map(|m| m.statistic.describe())
}

fn count_words(method: &Method) -> String {
    match method.operands {
        (a, b) if a == b => format!("exactly {a}"),
        (a, usize::MAX) => format!("{a} or more"),
        (a, b) => format!("{a} to {b}"),
    }
}

/// A method for people.
pub(super) fn explain(method: &Method) -> String {
    let mut text = format!("{}: {}\n\n", method.name, method.summary);
    let _ = writeln!(text, "source      {}", method.source);
    let _ = writeln!(text, "base_model  {}", base_words(method));
    let _ = writeln!(text, "models      {}", count_words(method));
    let _ = writeln!(text, "passes      {}", method.passes);
    if let Some(needs) = needs(method) {
        let _ = writeln!(text, "statistics  {needs}: `statistics: FILE` of each model");
    }
    for (level, title) in
        [(Level::Model, "Parameters of each model"), (Level::Global, "Parameters of the merge")]
    {
        let params: Vec<_> = method.params.iter().filter(|p| p.level == level).collect();
        if params.is_empty() {
            continue;
        }
        let _ = writeln!(text, "\n{title}:");
        for p in params {
            let _ = writeln!(text, "  {} ({}; default {})\n      {}", p.name, p.kind, p.default, p.help);
        }
    }
    text
}

/// The reference of all methods: `docs/methods.md`.
pub(super) fn markdown() -> String {
    let mut text = String::from(
        "# Merge methods\n\nGenerated from the table of methods (`onefold methods --markdown`); a test holds it up to date.\n\n\
         | method | idea | base model | models | passes | source |\n|---|---|---|---|---|---|\n",
    );
    for m in methods::all() {
        let row = [m.summary, base_words(m), &count_words(m), m.passes, m.source].join(" | ");
        let _ = writeln!(text, "| [`{0}`](#{0}) | {row} |", m.name);
    }
    for m in methods::all() {
        let _ = writeln!(
            text,
            "\n## {}\n\n{}. Source: {}. Base model: {}.\n",
            m.name,
            m.summary,
            m.source,
            base_words(m)
        );
        if let Some(needs) = needs(m) {
            let _ = writeln!(
                text,
                "Needs {needs}: each model's entry has `statistics: FILE`, which `onefold adapt` measures.\n"
            );
        }
        if m.params.is_empty() {
            text += "No parameters.\n";
            continue;
        }
        text += "| parameter | level | values | default | meaning |\n|---|---|---|---|---|\n";
        for p in m.params {
            let level = level_word(p.level);
            let _ = writeln!(text, "| `{}` | {level} | {} | {} | {} |", p.name, p.kind, p.default, p.help);
        }
    }
    text
}
