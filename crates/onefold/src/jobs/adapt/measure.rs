//! Experts are measured: inputs → statistics of each expert → the merge that they make.
//!
//! A task that is measured is a part of the run (`OUT.run/part-TASK/`), so that a run that was killed measures the others alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use onefold_checkpoint::output::{RunDir, link};
use onefold_checkpoint::{Checkpoint, CheckpointError};
use onefold_merge::methods::measured::{self, Statistic};
use onefold_train::adapt::{self, Granularity, Measure, Measuring, Method, Scoring};
use onefold_train::data::Task;
use onefold_train::statistics::{FisherKind, Statistics};
use serde_json::{Value, json};

use super::products::{Product, STATISTICS, Weights, statistics_name};
use super::record::{Failed, Record};
use super::surgery::{Surgeries, unreadable};
use super::{Ready, Session, dry_run, expert, refused};
use crate::jobs::fingerprint::of_file;
use crate::jobs::place;
use crate::measured::Measured as File;
use crate::progress::Failure;
use crate::recipe::adapt::Measured;
use crate::report::{self, counted};

/// Measures and merges.
pub(super) fn run(session: &Session<'_>, measured: &Measured, ready: &Ready) -> Result<(), Failure> {
    let Session { args, .. } = *session;
    let data = &ready.data;
    // The trunk that is scored; it says what is wrong with the models, too.
    let blend = || session.blend(data, Method::AdaMerging, Granularity::Model);
    let products = Product::all(session, data);
    products.iter().try_for_each(|product| product.plan(session, &Weights::unmeasured(session)).map(drop))?;
    let (measure, tokens, source) = (measured.measure, measured.tokens, session.source());
    let merged = blend()?;
    let mut memory =
        adapt::measuring_memory(measure, &merged, &data.inputs, tokens, source).map_err(refused)?;
    let surgeries = Surgeries::of(session, &merged, data)?;
    drop(merged);
    memory.surgery = surgeries.as_ref().map_or(0, Surgeries::bytes);
    let remedy = "take a smaller `batch.tokens`, `batch.length` or `statistics.batch`";
    dry_run::check(&memory, session.common.max_memory, "measuring", remedy)?;
    if args.dry_run {
        let (what, options) = told(measured);
        let facts = json!({"measured": what, "how": options, "experts": session.experts().len()});
        let how = options.as_object().into_iter().flatten();
        let how: Vec<String> = how.map(|(key, value)| format!("{key} {value}").replace('"', "")).collect();
        let how = if how.is_empty() { String::new() } else { format!(" ({})", how.join(", ")) };
        let told = (vec![("measured", format!("{what}{how}"))], facts);
        dry_run::show(session, data, &products, &memory, told, surgeries.as_ref());
        return Ok(());
    }
    let run = place::open_run(&args.output, &ready.job, &ready.read, args.force)?;
    let files = measure_all(session, measured, ready, &run)?;
    let mut scoring =
        Scoring::open(blend()?, (&data.inputs, &data.tests), tokens, source, run.path(), session.shell)
            .map_err(refused)?;
    let experts = experts(session, &data.inputs);
    for (task, expert) in experts.iter().enumerate() {
        scoring.measured(task, files[*expert].examples).map_err(refused)?;
    }
    scoring.before(&experts).map_err(refused)?;
    let record = Record { session, ready, products: &products, memory: &memory, kept: 1 };
    finish(&record, run, &files, scoring, surgeries.as_ref())
}

/// Refuses tasks without inputs.
pub(super) fn check(inputs: &[Task]) -> Result<(), Failure> {
    match inputs.iter().find(|task| task.train.is_empty()) {
        None => Ok(()),
        Some(task) => Err(Failure::usage(format!("task `{}`: it has no inputs", task.name))),
    }
}

/// What is measured, and how.
fn told(measured: &Measured) -> (&'static str, Value) {
    let statistic = measured::find(measured.method).map_or("", |found| found.statistic.describe());
    let options = match measured.measure {
        Measure::Fisher(settings, batch) if settings.kind == FisherKind::BatchSummed => {
            json!({"kind": settings.kind.name(), "batch": batch})
        }
        Measure::Fisher(settings, _) => json!({"kind": settings.kind.name()}),
        Measure::Nodes(batch) => json!({"batch": batch}),
        Measure::Grams => json!({}),
    };
    (statistic, options)
}

/// The expert of each task.
fn experts(session: &Session<'_>, inputs: &[Task]) -> Vec<usize> {
    inputs.iter().map(|task| session.recipe.expert_of(&task.name).unwrap_or_default()).collect()
}

/// Measures what is not measured yet; the files, in the order of the models.
fn measure_all(
    session: &Session<'_>,
    measured: &Measured,
    ready: &Ready,
    run: &RunDir,
) -> Result<Vec<Arc<File>>, Failure> {
    let models = session.experts();
    let inputs = &ready.data.inputs;
    let mut places: Vec<PathBuf> = vec![PathBuf::new(); models.len()];
    for (task, of) in experts(session, inputs).into_iter().enumerate() {
        let name = &inputs[task].name;
        places[of] = match run.part(name) {
            Some(place) => {
                session.shell.say(&format!("the expert of {name} is measured already"));
                place
            }
            None => {
                let measuring = Measuring {
                    measure: measured.measure,
                    expert: expert(models[of]),
                    inputs,
                    task,
                    tokens: measured.tokens,
                    source: session.source(),
                    observer: session.shell,
                };
                run.add_part(name, |place| measuring.write(place)).map_err(refused)?
            }
        };
    }
    let needs = measured::find(measured.method).map_or(Statistic::Fisher, |found| found.statistic);
    let open = |place: &PathBuf| File::open(place, needs).map(Arc::new).map_err(Failure::Job);
    places.iter().map(open).collect()
}

/// Merges, scores, writes all that explains it, and moves the output to its place.
fn finish(
    record: &Record<'_>,
    run: RunDir,
    files: &[Arc<File>],
    mut scoring: Scoring<'_>,
    surgeries: Option<&Surgeries>,
) -> Result<(), Failure> {
    let place = run.path().to_owned();
    let weights = Weights::Measured(files.iter().cloned().map(Some).collect());
    let mut told = Value::Null;
    record.finish(run, |made| {
        record.write_products(&weights, made)?;
        let merged = Product::trunk(record.products).map_or_else(|| made.to_owned(), |dir| made.join(dir));
        let checkpoint = Checkpoint::open(&merged).map_err(|errors| Failed::Merged(unreadable(&errors)))?;
        scoring.after(&checkpoint).map_err(|error| Failed::Merged(refused(error)))?;
        if let Some(surgeries) = surgeries {
            surgeries.operate(record, &mut scoring, made)?;
        }
        let metrics = record.metrics(&place).map_err(Failed::Merged)?;
        keep(record, files, made)?;
        told = record.json(&metrics, result(record, files));
        let page = report::adapt::page(&metrics, &told, None);
        record.explain(made, &metrics, &page, &told, Vec::new())
    })?;
    let text = format!("{} measured", counted(files.len() as u64, "expert"));
    record.tell(&text, &told);
    Ok(())
}

/// Gives the files of statistics their places in the output.
fn keep(record: &Record<'_>, files: &[Arc<File>], made: &Path) -> Result<(), CheckpointError> {
    let dir = made.join(STATISTICS);
    std::fs::create_dir(&dir).map_err(CheckpointError::io(&dir, "create"))?;
    files.iter().enumerate().try_for_each(|(expert, file)| {
        link(&Statistics::file(&file.file), &made.join(statistics_name(record.session, expert)))
    })
}

/// What was measured, for `onefold.json`.
fn result(record: &Record<'_>, files: &[Arc<File>]) -> Value {
    let of = |(expert, file): (usize, &Arc<File>)| {
        let (model, task) = &record.session.recipe.models[expert];
        json!({
            "model": model,
            "task": task,
            "file": statistics_name(record.session, expert),
            "bytes": of_file(&file.file)["bytes"],
            "examples": file.examples,
            "options": file.options,
        })
    };
    json!({"measured": files.iter().enumerate().map(of).collect::<Vec<_>>()})
}
