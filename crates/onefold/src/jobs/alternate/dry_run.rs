//! `--dry-run`: what the rounds would do, as text or as one event; and whether it fits.

use onefold_train::tune::Memory;
use serde_json::{Map, Value, json};

use super::part::has_head;
use super::rounds::{Ready, Session, total};
use crate::jobs::show_bytes;
use crate::jobs::tune::dry_run::epochs;
use crate::jobs::tune::memory::FIXED;
use crate::progress::Failure;
use crate::recipe::alternate::{AlternateRecipe, Rows, Split};
use crate::report::counted;

fn parts(memory: &Memory) -> [(&'static str, u64); 7] {
    let Memory { files, parameters, gradients, state, activations, data } = *memory;
    [
        ("model files, as they are read", files),
        ("parameters", parameters),
        ("gradients", gradients),
        ("optimizer", state),
        ("activations", activations),
        ("data", data),
        ("the program", FIXED),
    ]
}

/// Refuses tuning that takes more than `limit`.
pub(super) fn check(memory: &Memory, limit: Option<u64>) -> Result<(), Failure> {
    let Some(limit) = limit.filter(|limit| total(memory) > *limit) else { return Ok(()) };
    let parts = parts(memory).map(|(name, bytes)| format!("{name} {}", show_bytes(bytes)));
    Err(Failure::usage(format!(
        "--max-memory {}: tuning needs {} ({}); take a smaller `batch.micro` or `batch.length`, `gradient_checkpointing: true`, or an \
         `adapter`",
        show_bytes(limit),
        show_bytes(total(memory)),
        parts.join(", ")
    )))
}

/// Shows the plan.
pub(super) fn show(session: &Session<'_>, ready: &Ready) {
    let (world, shell) = (session.world, session.world.shell);
    let recipe = &world.recipe;
    let of_round: f64 = ready.plans.iter().map(epochs).sum();
    let (rounds, tasks) = (recipe.rounds, ready.tasks.len() as u64);
    let products = products(ready);
    if shell.json() {
        let of_tasks: Vec<Value> = (ready.tasks.iter().zip(&ready.plans))
            .map(|(task, plan)| {
                json!({"task": task.name, "kind": task.kind, "rows": task.train.len(), "scored": task.validation.len(),
                    "steps": plan.steps, "epochs": epochs(plan), "own_head": has_head(task)})
            })
            .collect();
        shell.event(
            "plan",
            &json!({
                "output": session.output.display().to_string(),
                "model": world.base().label,
                "recipe": recipe,
                "rounds": rounds,
                "tasks": of_tasks,
                "task_epochs": of_round * rounds as f64,
                "tunings": rounds * tasks,
                "merges": rounds,
                "transfers": 2 * rounds * tasks,
                "trained_parameters": ready.trained,
                "parameters": ready.parameters,
                "products": products,
                "memory": parts(&ready.memory).into_iter().map(|(name, bytes)| (name.to_owned(), json!(bytes))).collect::<Map<_, _>>(),
                "peak_memory": total(&ready.memory),
                "findings": ready.report.findings,
            }),
        );
        return;
    }
    let mut text = String::from("plan (nothing was done)\n");
    let mut line = |name: &str, value: String| text += &format!("  {name:12} {value}\n");
    line("output", session.output.display().to_string());
    line("model", world.base().label.clone());
    line("rounds", format!("{}, {} each", counted(rounds, "round"), counted(tasks, "tuning")));
    let most = if recipe.stop.is_some() { " at most" } else { "" };
    line("budget", format!("{:.2} task-epochs{most}", of_round * rounds as f64));
    line("merge", format!("{}, a step of {}", recipe.merge.method, recipe.merge.alpha));
    for (task, plan) in ready.tasks.iter().zip(&ready.plans) {
        let steps = counted(plan.steps, "step");
        let rows = format!("{} rows, {steps} ({:.2} epochs) in a round", task.train.len(), epochs(plan));
        line(&task.name, format!("{}: {rows}, {}", task.kind.name(), scored(recipe, task.validation.len())));
    }
    let share = 100.0 * ready.trained as f64 / ready.parameters.max(1) as f64;
    line("trained", format!("{} of {} numbers ({share:.2} %)", ready.trained, ready.parameters));
    line(
        "to write",
        products
            .iter()
            .map(|dir| dir.clone().unwrap_or("one model".to_owned()))
            .collect::<Vec<_>>()
            .join(", "),
    );
    line("memory", format!("{} at most", show_bytes(total(&ready.memory))));
    for (name, bytes) in parts(&ready.memory) {
        text += &format!("    {name:30} {:>12}\n", show_bytes(bytes));
    }
    shell.result(&text);
}

fn scored(recipe: &AlternateRecipe, rows: usize) -> String {
    let dev =
        recipe.rows == Rows::Validation || recipe.stop.as_ref().is_some_and(|stop| stop.split == Split::Dev);
    let split = if dev { "dev" } else { "validation" };
    if rows == 0 { "not scored".to_owned() } else { format!("scored on {rows} of `{split}`") }
}

/// The directories that are made.
fn products(ready: &Ready) -> Vec<Option<String>> {
    let names: Vec<String> = ready.tasks.iter().map(|task| task.name.clone()).collect();
    let heads: Vec<Option<u32>> =
        (0..).zip(&ready.tasks).map(|(number, task)| has_head(task).then_some(number)).collect();
    onefold_train::tune::products(&names, &heads).into_iter().map(|product| product.dir).collect()
}
