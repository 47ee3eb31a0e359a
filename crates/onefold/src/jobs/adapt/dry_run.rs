//! `--dry-run`: what learning or measuring would do, as text or as one event; and whether it fits.

use onefold_train::adapt::Memory;
use serde_json::{Value, json};

use super::products::Product;
use super::surgery::Surgeries;
use super::{Data, Session};
use crate::jobs::show_bytes;
use crate::progress::Failure;

/// The program itself, its tables, stacks and buffers.
const FIXED: u64 = 32 << 20;

/// What it takes, by what it is for.
fn parts(memory: &Memory) -> Vec<(&'static str, u64)> {
    let Memory { parameters, gradients, activations, data, surgery } = *memory;
    let surgery = (surgery > 0).then_some(("features of the surgery", surgery));
    let always = [
        ("merged model", parameters),
        ("gradients and sums", gradients),
        ("activations", activations),
        ("data", data),
        ("the program", FIXED),
    ];
    always.into_iter().chain(surgery).collect()
}

/// All memory but that of mapped files.
pub(super) fn total(memory: &Memory) -> u64 {
    parts(memory).iter().map(|(_, bytes)| bytes).sum()
}

/// Refuses `what` takes more than `limit`, and says what to do.
pub(super) fn check(memory: &Memory, limit: Option<u64>, what: &str, remedy: &str) -> Result<(), Failure> {
    let Some(limit) = limit.filter(|limit| total(memory) > *limit) else { return Ok(()) };
    let parts: Vec<String> =
        parts(memory).iter().map(|(name, bytes)| format!("{name} {}", show_bytes(*bytes))).collect();
    let of_surgery =
        if memory.surgery > 0 { ", or fewer `surgery.steps`, which see fewer inputs" } else { "" };
    Err(Failure::usage(format!(
        "--max-memory {}: {what} needs {} ({}); {remedy}{of_surgery}",
        show_bytes(limit),
        show_bytes(total(memory)),
        parts.join(", ")
    )))
}

/// Shows the plan; lines and facts are of what is done on the way to the merge.
pub(super) fn show(
    session: &Session<'_>,
    data: &Data,
    products: &[Product],
    memory: &Memory,
    (lines, mut facts): (Vec<(&str, String)>, Value),
    surgeries: Option<&Surgeries>,
) {
    let shell = session.shell;
    let tasks: Vec<_> = (data.inputs.iter())
        .map(|task| {
            let test =
                data.tests.iter().find(|test| test.name == task.name).map_or(0, |test| test.train.len());
            (task, test)
        })
        .collect();
    if shell.json() {
        let tasks: Vec<_> = tasks
            .iter()
            .map(|(task, test)| json!({"task": task.name, "kind": task.kind, "inputs": task.train.len(), "test": test}))
            .collect();
        facts["tasks"] = json!(tasks);
        surgeries.iter().for_each(|surgeries| facts["surgery"] = surgeries.facts());
        facts["products"] = products.iter().map(|product| json!(product.dir)).collect();
        let parts: Vec<_> =
            parts(memory).iter().map(|(name, bytes)| json!({"what": name, "bytes": bytes})).collect();
        facts["memory"] = json!({"parts": parts, "total": total(memory)});
        shell.event("plan", &facts);
        return;
    }
    let mut text = String::from("plan (nothing was done)\n");
    let mut line = |name: &str, value: String| text += &format!("  {name:12} {value}\n");
    line("output", session.args.output.display().to_string());
    line("base", session.base().label.clone());
    line("experts", session.experts().iter().map(|model| model.label.clone()).collect::<Vec<_>>().join(", "));
    lines.into_iter().for_each(|(name, value)| line(name, value));
    surgeries.iter().for_each(|surgeries| line("surgery", surgeries.told()));
    for (task, test) in tasks {
        let of_test = if test == 0 { "not scored".to_owned() } else { format!("scored on {test}") };
        line(&task.name, format!("{}: {} inputs, {of_test}", task.kind.name(), task.train.len()));
    }
    line("memory", format!("{} at most, mapped files aside", show_bytes(total(memory))));
    for (name, bytes) in parts(memory) {
        text += &format!("    {name:30} {:>12}\n", show_bytes(bytes));
    }
    shell.result(&text);
}
