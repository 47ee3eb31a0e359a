//! `--dry-run`: what a merge would do, as text or as one event.

use std::path::Path;

use onefold_checkpoint::output::Layout;
use onefold_merge::stream::Work;
use serde_json::json;

use super::budget::{Budget, show_bytes};
use crate::models::Library;
use crate::plan::Plan;
use crate::progress::Shell;

/// Shows the plan.
pub(super) fn dry_run(
    plan: &Plan,
    layout: &Layout,
    budget: &Budget,
    library: &Library,
    out: &Path,
    shell: &Shell,
) {
    let merged = plan.tensors.iter().filter(|t| matches!(t.work, Work::Merge(_))).count();
    let read: u64 = library.all().map(|m| m.checkpoint.size()).sum();
    let facts = [
        ("output", out.display().to_string()),
        ("method", plan.method.name.to_owned()),
        ("base", plan.origin.clone().unwrap_or_else(|| "none".into())),
        ("models", plan.operands.join(", ")),
        ("tensors", format!("{merged} merged, {} copied", plan.tensors.len() - merged)),
        (
            "inputs",
            format!(
                "{} in {} models, {} pass(es)",
                show_bytes(read),
                library.all().count(),
                plan.method.passes
            ),
        ),
        (
            "to write",
            format!("{} in {} file(s)", show_bytes(layout.file_bytes()), layout.shard_names().count()),
        ),
        ("memory", format!("{} at most, {} thread(s)", show_bytes(budget.bytes), budget.threads)),
        ("files", plan.files.iter().map(|f| f.name.as_str()).collect::<Vec<_>>().join(", ")),
    ];
    if shell.json() {
        let tensors: Vec<_> = plan.tensors.iter().map(|t| json!({"name": t.output.name, "dtype": t.output.dtype.safetensors_name(), "shape": t.output.shape, "copied": matches!(t.work, Work::Copy(_))})).collect();
        let facts: serde_json::Map<String, serde_json::Value> =
            facts.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect();
        shell.event("plan", &json!({"facts": facts, "tensors": tensors, "bytes_to_read": read, "bytes_to_write": layout.file_bytes(), "peak_memory": budget.bytes, "notes": plan.notes, "warnings": plan.warnings}));
        return;
    }
    let mut text = String::from("plan (nothing was done)\n");
    for (name, value) in facts {
        text += &format!("  {name:9} {value}\n");
    }
    plan.notes.iter().for_each(|n| text += &format!("  {n}\n"));
    if let Some(built) = &plan.vocabulary {
        text += &format!("{}\n", built.report);
    }
    plan.warnings.iter().for_each(|w| text += &format!("warning: {w}\n"));
    shell.result(&text);
}
