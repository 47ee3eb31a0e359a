//! The balancers of joint trainings.

use std::fmt::Write as _;

use onefold_balance::BALANCERS;
use onefold_balance::methods::Method;
use onefold_balance::settings::Param;
use onefold_merge::params::Default;
use serde_json::{Value, json};

/// A balancer for programs.
pub(super) fn facts(method: &Method) -> Value {
    let parameter = |p: &Param| {
        json!({
            "name": p.name,
            "values": p.kind.to_string(),
            "default": p.default.value(),
            "required": p.default == Default::Required,
            "help": p.help,
        })
    };
    json!({
        "name": method.name,
        "group": "balancer",
        "aliases": method.aliases,
        "summary": method.summary,
        "source": method.source,
        "cost": method.cost.to_string(),
        "validation": method.validation,
        "task_weights": method.task_weights,
        "parameters": method.params.iter().map(parameter).collect::<Value>(),
    })
}

/// What it asks of the tasks.
fn asks(method: &Method) -> &'static str {
    match (method.validation, method.task_weights) {
        (true, true) => "validation rows of every task; their `weight` counts",
        (true, false) => "validation rows of every task",
        (false, true) => "their `weight`",
        (false, false) => "nothing",
    }
}

/// Where it was published.
fn source(method: &Method) -> &'static str {
    if method.source.is_empty() { "none needed" } else { method.source }
}

/// A balancer for people.
pub(super) fn explain(method: &Method) -> String {
    let mut text = format!("{}: {}\n\n", method.name, method.summary);
    let _ = writeln!(text, "source      {}", source(method));
    let _ = writeln!(text, "step costs  {}", method.cost);
    let _ = writeln!(text, "of tasks    {}", asks(method));
    if !method.aliases.is_empty() {
        let _ = writeln!(text, "also called {}", method.aliases.join(", "));
    }
    let _ = writeln!(text, "\nin a recipe of `onefold tune`: `balancer: {{kind: {}, …}}`", method.name);
    for p in method.params {
        let _ = writeln!(text, "  {} ({}; default {})\n      {}", p.name, p.kind, p.default, p.help);
    }
    text
}

/// The reference of all balancers: `docs/balancers.md`.
pub(super) fn markdown() -> String {
    let mut text = String::from(
        "# Balancers\n\nGenerated from the table of balancers (`onefold methods --markdown balancers`); a test holds it up to \
         date. A balancer stands in a recipe of `onefold tune` as `balancer: coba` or `balancer: {kind: coba, warmup: 100}`.\n\n\
         | balancer | idea | a step costs beyond a plain one | asks of tasks | source |\n|---|---|---|---|---|\n",
    );
    for m in BALANCERS {
        let row = [m.summary, &m.cost.to_string(), asks(m), source(m)].join(" | ");
        let _ = writeln!(text, "| [`{0}`](#{0}) | {row} |", m.name);
    }
    for m in BALANCERS {
        let _ = writeln!(text, "\n## {}\n\n{}. Source: {}. Costs {}.", m.name, m.summary, source(m), m.cost);
        if !m.aliases.is_empty() {
            let _ = writeln!(text, "Also called `{}`.", m.aliases.join("`, `"));
        }
        text += "\n";
        if m.params.is_empty() {
            text += "No settings.\n";
            continue;
        }
        text += "| setting | values | default | meaning |\n|---|---|---|---|\n";
        for p in m.params {
            let _ = writeln!(text, "| `{}` | {} | {} | {} |", p.name, p.kind, p.default, p.help);
        }
    }
    text
}
