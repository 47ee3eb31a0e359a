//! `--dry-run`: what a training would do, as text or as one event.

use onefold_train::data::doctor::Report;
use onefold_train::tune::{Duration, Form, Plan, Prepared, ScheduleKind};
use serde_json::{Value, json};

use super::Session;
use super::memory::Predicted;
use crate::jobs::show_bytes;
use crate::recipe::tune::TuneRecipe;
use crate::report::counted;

/// Shows the plan.
pub(super) fn dry_run(
    session: &Session<'_>,
    recipe: &TuneRecipe,
    plan: &Plan,
    prepared: &Prepared,
    predicted: &Predicted,
    report: &Report,
) {
    let shell = session.shell;
    if shell.json() {
        shell.event("plan", &plan_json(session, recipe, plan, prepared, predicted, report));
        return;
    }
    let mut text = String::from("plan (nothing was done)\n");
    for (name, value) in facts(session, recipe, plan, predicted) {
        text += &format!("  {name:12} {value}\n");
    }
    for (name, bytes) in predicted.parts() {
        text += &format!("    {name:30} {:>12}\n", show_bytes(bytes));
    }
    text += "an epoch\n";
    plan.preview.to_string().lines().for_each(|line| text += &format!("  {line}\n"));
    shell.result(&text);
}

fn facts(
    session: &Session<'_>,
    recipe: &TuneRecipe,
    plan: &Plan,
    predicted: &Predicted,
) -> Vec<(&'static str, String)> {
    let settings = &plan.settings;
    let batch = settings.batch;
    let epochs = epochs(plan);
    let often = |every: Option<u64>| every.map_or("at the end".to_owned(), |n| format!("every {n} steps"));
    let share = 100.0 * predicted.trained as f64 / predicted.all.max(1) as f64;
    let unit = if recipe.mixture.packing.is_some() { "packed rows" } else { "rows" };
    vec![
        ("output", session.args.output.display().to_string()),
        ("model", session.model.label.clone()),
        ("balancer", kind(plan).to_owned()),
        (
            "steps",
            format!(
                "{} of {} {unit}, {} at once; {epochs:.2} epochs",
                plan.steps, batch.examples, batch.micro
            ),
        ),
        ("schedule", schedule(plan)),
        ("trained", format!("{} of {} numbers ({share:.2} %)", predicted.trained, predicted.all)),
        ("validation", plan.validate_every.map_or("never".to_owned(), |_| often(plan.validate_every))),
        (
            "checkpoints",
            format!(
                "{}, {} each, {} kept",
                often(plan.checkpoint_every),
                show_bytes(predicted.checkpoint),
                settings.checkpoints.keep
            ),
        ),
        ("to write", products(plan, recipe.output).join(", ")),
        ("memory", format!("{} at most", show_bytes(predicted.total()))),
    ]
}

/// Passes over the mixture.
pub(in crate::jobs) fn epochs(plan: &Plan) -> f64 {
    match plan.settings.duration {
        Duration::Epochs(epochs) => epochs,
        Duration::Steps(steps) => steps as f64 / plan.steps_per_epoch,
    }
}

fn kind(plan: &Plan) -> &str {
    plan.settings.balancer.get("kind").and_then(Value::as_str).unwrap_or_default()
}

fn schedule(plan: &Plan) -> String {
    let kind = match plan.settings.schedule.kind {
        ScheduleKind::Constant => "constant",
        ScheduleKind::Linear => "linear",
        ScheduleKind::Cosine => "cosine",
        ScheduleKind::Wsd { .. } => "warm-up, stable, decay",
    };
    let warmup = counted(plan.schedule.warmup, "step");
    format!(
        "{kind} after a warm-up of {warmup}, down to {} of the rate",
        plan.schedule.at(plan.schedule.steps)
    )
}

/// The directories that are made, and what they hold.
pub(super) fn products(plan: &Plan, form: Form) -> Vec<String> {
    let what = match form {
        Form::Model => "a model",
        Form::Adapter => "an adapter",
        Form::Both => "a model with its adapter in adapter/",
    };
    let of = |dir: &Option<String>| dir.as_ref().map_or(what.to_owned(), |dir| format!("{what} in {dir}/"));
    plan.products.iter().map(|product| of(&product.dir)).collect()
}

fn plan_json(
    session: &Session<'_>,
    recipe: &TuneRecipe,
    plan: &Plan,
    prepared: &Prepared,
    predicted: &Predicted,
    report: &Report,
) -> Value {
    let heads: Vec<_> = prepared.heads.iter().map(Option::is_some).collect();
    json!({
        "output": session.args.output.display().to_string(),
        "model": session.model.label,
        "recipe": recipe,
        "tasks": plan.preview.tasks,
        "own_heads": heads,
        "steps": plan.steps,
        "epochs": epochs(plan),
        "steps_per_epoch": plan.steps_per_epoch,
        "warmup_steps": plan.schedule.warmup,
        "validate_every": plan.validate_every,
        "checkpoint_every": plan.checkpoint_every,
        "trained_parameters": predicted.trained,
        "parameters": predicted.all,
        "products": plan.products.iter().map(|product| product.dir.clone()).collect::<Vec<_>>(),
        "memory": predicted.json(),
        "peak_memory": predicted.total(),
        "checkpoint_bytes": predicted.checkpoint,
        "findings": report.findings,
    })
}
