//! `--dry-run`: what learning would do, as text or as one event; and whether it fits.

use onefold_train::adapt::{Blend, Memory};
use serde_json::json;

use super::products::Product;
use super::{Data, Session};
use crate::jobs::show_bytes;
use crate::progress::Failure;
use crate::report::counted;

/// The program itself, its tables, stacks and buffers.
const FIXED: u64 = 32 << 20;

/// What learning takes, by what it is for.
fn parts(memory: &Memory) -> [(&'static str, u64); 5] {
    let Memory { parameters, gradients, activations, data } = *memory;
    [
        ("merged model", parameters),
        ("gradients", gradients),
        ("activations", activations),
        ("data", data),
        ("the program", FIXED),
    ]
}

/// All memory but that of mapped files.
pub(super) fn total(memory: &Memory) -> u64 {
    parts(memory).iter().map(|(_, bytes)| bytes).sum()
}

/// Refuses what takes more than `limit`.
pub(super) fn check(memory: &Memory, limit: Option<u64>) -> Result<(), Failure> {
    let Some(limit) = limit.filter(|limit| total(memory) > *limit) else { return Ok(()) };
    let parts: Vec<String> =
        parts(memory).iter().map(|(name, bytes)| format!("{name} {}", show_bytes(*bytes))).collect();
    Err(Failure::usage(format!(
        "--max-memory {}: learning needs {} ({}); take a smaller `batch.tokens` or `batch.length`, or \
         `gradient_checkpointing: true`",
        show_bytes(limit),
        show_bytes(total(memory)),
        parts.join(", ")
    )))
}

/// Shows the plan.
pub(super) fn show(session: &Session<'_>, data: &Data, blend: &Blend, products: &[Product], memory: &Memory) {
    let (shell, settings) = (session.shell, &session.recipe.settings);
    let rows = settings.batch * settings.batches;
    let tasks: Vec<_> = (data.inputs.iter())
        .map(|task| {
            let test =
                data.tests.iter().find(|test| test.name == task.name).map_or(0, |test| test.train.len());
            (task, test)
        })
        .collect();
    let dirs: Vec<_> = products.iter().map(|product| &product.dir).collect();
    if shell.json() {
        let tasks: Vec<_> = tasks
            .iter()
            .map(|(task, test)| json!({"task": task.name, "kind": task.kind, "inputs": task.train.len(), "test": test}))
            .collect();
        shell.event(
            "plan",
            &json!({
                "steps": settings.steps,
                "rows_of_a_task_per_step": rows,
                "groups": blend.groups().len(),
                "experts": blend.experts(),
                "expert_bytes_per_step": 2 * blend.expert_bytes(),
                "tasks": tasks,
                "products": dirs,
                "memory": {"parts": parts(memory).map(|(name, bytes)| json!({"what": name, "bytes": bytes})), "total": total(memory)},
            }),
        );
        return;
    }
    let mut text = String::from("plan (nothing was done)\n");
    let mut line = |name: &str, value: String| text += &format!("  {name:12} {value}\n");
    line("output", session.args.output.display().to_string());
    line("base", session.base().label.clone());
    line("experts", session.experts().iter().map(|model| model.label.clone()).collect::<Vec<_>>().join(", "));
    let count = blend.groups().len() * blend.experts();
    line(
        "learnt",
        format!("{} ({} × {})", counted(count as u64, "coefficient"), blend.groups().len(), blend.experts()),
    );
    line("steps", format!("{}, {rows} rows of each task", settings.steps));
    for (task, test) in tasks {
        let of_test = if test == 0 { "not scored".to_owned() } else { format!("scored on {test}") };
        line(&task.name, format!("{}: {} inputs, {of_test}", task.kind.name(), task.train.len()));
    }
    line("read", format!("{} of experts in a step", show_bytes(2 * blend.expert_bytes())));
    line("memory", format!("{} at most, mapped files aside", show_bytes(total(memory))));
    for (name, bytes) in parts(memory) {
        text += &format!("    {name:30} {:>12}\n", show_bytes(bytes));
    }
    shell.result(&text);
}
