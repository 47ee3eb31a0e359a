//! Coefficients are learnt: inputs → coefficients → the merge that they make.

use onefold_checkpoint::output::RunDir;
use onefold_train::adapt::{self, AdaptError, Adapted, Blend, Granularity, Job, Method, Scoring};
use serde_json::{Map, Value, json};

use super::products::{self, COEFFICIENTS, Product, Weights};
use super::record::{Failed, Record};
use super::surgery::Surgeries;
use super::{Data, Ready, Session, dry_run, refused};
use crate::jobs::{place, show_bytes};
use crate::progress::Failure;
use crate::recipe::adapt::Learning;
use crate::report::{self, counted};

/// Learns and merges.
pub(super) fn run(session: &Session<'_>, learning: &Learning, ready: &Ready) -> Result<(), Failure> {
    let Session { args, shell, .. } = *session;
    let (data, settings) = (&ready.data, &learning.settings);
    let blend = session.blend(data, learning.method, settings.granularity)?;
    let products = Product::all(session, data);
    // What cannot be merged is known before anything is learnt.
    let any = Weights::Learnt(products::none(session, blend.groups()));
    products.iter().try_for_each(|product| product.plan(session, &any).map(drop))?;
    let mut memory = adapt::memory(&blend, &data.inputs, settings, session.source()).map_err(refused)?;
    let surgeries = Surgeries::of(session, &blend, data)?;
    memory.surgery = surgeries.as_ref().map_or(0, Surgeries::bytes);
    let remedy = "take a smaller `batch.tokens` or `batch.length`, or `gradient_checkpointing: true`";
    dry_run::check(&memory, session.common.max_memory, "learning", remedy)?;
    if args.dry_run {
        let told = told(learning, &blend, data);
        dry_run::show(session, data, &products, &memory, told, surgeries.as_ref());
        return Ok(());
    }
    let run = place::open_run(&args.output, &ready.job, &ready.read, args.force)?;
    let adapted = adapt::run(Job {
        settings,
        blend,
        inputs: &data.inputs,
        tests: &data.tests,
        experts: &data.experts,
        source: session.source(),
        run: &run,
        observer: shell,
    });
    let adapted = adapted.map_err(|error| interrupted(&run, error))?;
    let record = Record { session, ready, products: &products, memory: &memory, kept: adapted.kept };
    finish(&record, run, &adapted, settings.tokens, surgeries.as_ref())
}

/// What will be done, for people and for programs.
fn told(learning: &Learning, blend: &Blend, data: &Data) -> (Vec<(&'static str, String)>, Value) {
    let settings = &learning.settings;
    let rows = settings.batch * settings.batches;
    let (groups, experts) = (blend.groups().len(), blend.experts());
    let learnt = format!("{} ({groups} × {experts})", counted((groups * experts) as u64, "coefficient"));
    let read = 2 * blend.expert_bytes();
    let lines = vec![
        ("learnt", learnt),
        ("steps", format!("{}, {rows} rows of each task", settings.steps)),
        ("read", format!("{} of experts in a step", show_bytes(read))),
    ];
    let facts = json!({
        "steps": settings.steps,
        "rows_of_a_task_per_step": rows,
        "groups": groups,
        "experts": experts,
        "expert_bytes_per_step": read,
        "inputs": data.inputs.len(),
    });
    (lines, facts)
}

/// Learning that ended before its time.
fn interrupted(run: &RunDir, error: AdaptError) -> Failure {
    match (&error, run.checkpoints().last()) {
        (AdaptError::Cancelled { .. } | AdaptError::State { .. }, _) | (_, None) => Failure::job(error),
        (_, Some(step)) => {
            let place = run.checkpoint(*step);
            Failure::Job(format!("{error}; the state in {} is intact", place.display()))
        }
    }
}

/// Writes the output and all that explains it, and moves it to its place.
fn finish(
    record: &Record<'_>,
    run: RunDir,
    adapted: &Adapted,
    tokens: u64,
    surgeries: Option<&Surgeries>,
) -> Result<(), Failure> {
    let Record { session, ready: Ready { data, .. }, .. } = *record;
    let place = run.path().to_owned();
    let learnt = products::learnt(session, adapted);
    let result = json!({"steps": adapted.steps, "kept": adapted.kept, "ended": adapted.ended});
    let one = if adapted.lambda.len() == 1 { adapted.lambda[0].clone() } else { Vec::new() };
    let weights = Weights::Learnt(learnt.clone());
    let mut told = Value::Null;
    record.finish(run, |made| {
        record.write_products(&weights, made)?;
        if let Some(surgeries) = surgeries {
            let blend =
                session.blend(data, Method::AdaMerging, Granularity::Model).map_err(Failed::Merged)?;
            let (tasks, source) = ((&data.inputs[..], &data.tests[..]), session.source());
            let scoring = Scoring::go_on(blend, tasks, tokens, source, &place, session.shell);
            let mut scoring = scoring.map_err(|error| Failed::Merged(refused(error)))?;
            surgeries.operate(record, &mut scoring, made)?;
        }
        let metrics = record.metrics(&place).map_err(Failed::Merged)?;
        told = record.json(&metrics, result);
        record.add(made, COEFFICIENTS, learnt.to_json(&about(record, adapted)).as_bytes())?;
        let page = report::adapt::page(&metrics, &told, Some(&learnt));
        record.explain(made, &metrics, &page, &told, one)
    })?;
    let mut text = counted(adapted.steps, "step");
    if let Some(why) = &adapted.ended {
        text += &format!("; ended early: {why}; the coefficients are those of step {}", adapted.kept);
    }
    record.tell(&text, &told);
    Ok(())
}

/// How the coefficients came about, for their file.
fn about(record: &Record<'_>, adapted: &Adapted) -> Map<String, Value> {
    let recipe = record.session.recipe;
    let written = json!(recipe);
    let tasks: Vec<_> = recipe.models.iter().map(|(_, task)| task).collect();
    let mut about = Map::new();
    about.insert("onefold".to_owned(), json!(env!("CARGO_PKG_VERSION")));
    about.insert("method".to_owned(), written["merge_method"].clone());
    if let Some(density) = written.get("density") {
        about.insert("density".to_owned(), density.clone());
    }
    about.insert("base_model".to_owned(), written["base_model"].clone());
    about.insert("tasks".to_owned(), json!(tasks));
    about.insert("granularity".to_owned(), written["granularity"].clone());
    about.insert("objective".to_owned(), written["objective"].clone());
    about.insert("steps".to_owned(), json!(adapted.steps));
    about.insert("kept".to_owned(), json!(adapted.kept));
    about
}
