//! `--dry-run`: what a merge would do, as text or as one event.

use std::path::{Path, PathBuf};

use onefold_checkpoint::output::Layout;
use serde_json::json;

use super::budget::Budget;
use crate::jobs::show_bytes;
use crate::models::Library;
use crate::plan::Plan;
use crate::progress::Shell;
use crate::report::counted;

/// Shows the plan.
pub(super) fn dry_run(
    plan: &Plan,
    layout: &Layout,
    budget: &Budget,
    library: &Library,
    out: &Path,
    shell: &Shell,
) {
    let merged = plan.tensors.iter().filter(|t| !plan.is_copy(t)).count();
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
                "{} in {}, {}",
                show_bytes(read),
                counted(library.all().count() as u64, "model"),
                passes(plan.method.passes)
            ),
        ),
        (
            "to write",
            format!(
                "{} in {}",
                show_bytes(layout.file_bytes()),
                counted(layout.shard_names().count() as u64, "file")
            ),
        ),
        (
            "memory",
            format!("{} at most, {}", show_bytes(budget.bytes), counted(budget.threads as u64, "thread")),
        ),
        ("files", plan.files.iter().map(|f| f.name.as_str()).collect::<Vec<_>>().join(", ")),
    ];
    if shell.json() {
        let tensors: Vec<_> = plan.tensors.iter().map(|t| json!({"name": t.output.name, "dtype": t.output.dtype.safetensors_name(), "shape": t.output.shape, "copied": plan.is_copy(t)})).collect();
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
    shell.result(&text);
    plan.warnings.iter().for_each(|w| shell.warn(w));
}

/// Shows a merge that cannot be planned before the merges that it `needs` were made.
pub(super) fn show_waiting(out: &Path, needs: &[PathBuf], shell: &Shell) {
    let shown: Vec<String> = needs.iter().map(|dir| dir.display().to_string()).collect();
    if shell.json() {
        shell.event("waiting", &json!({"output": out.display().to_string(), "needs": shown}));
    } else {
        let verb = if shown.len() == 1 { "exists" } else { "exist" };
        shell.result(&format!("{}: planned once {} {verb}", out.display(), shown.join(", ")));
    }
}

/// A method's number of passes as a phrase: `2 to 5` are passes, and so are `2, more if sparsified`.
fn passes(number: &str) -> String {
    let (number, condition) = number.split_at(number.find(',').unwrap_or(number.len()));
    let noun = if number == "1" { "pass" } else { "passes" };
    format!("{number} {noun}{condition}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_are_a_phrase() {
        let shown = ["1", "2", "2 to 5", "2, more if sparsified"].map(passes);
        assert_eq!(shown, ["1 pass", "2 passes", "2 to 5 passes", "2 passes, more if sparsified"]);
    }
}
