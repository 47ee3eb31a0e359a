//! `onefold merge`: recipe → plan → stream → commit → report.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use onefold_checkpoint::CheckpointError;
use onefold_checkpoint::output::{Layout, Opened, Output};
use onefold_merge::scan::BLOCK;
use onefold_merge::stream::{self, Work};
use onefold_merge::{METHODS, MergeError, methods};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{dir_of, hub_config, memory, on_pool, tell_hub, threads};
use crate::cli::{Common, MergeArgs};
use crate::models::{Library, Model};
use crate::plan::{self, Options, Plan};
use crate::progress::{Failure, Shell};
use crate::recipe::{self, ModelRef, Problems, Recipe};
use crate::report::{self, CardInfo, CardSource};
use crate::tokenizer::FileContent;

/// Runs the job.
///
/// # Errors
/// [`Failure::Usage`] with all problems of recipe and inputs, or [`Failure::Job`].
pub fn run(args: &MergeArgs, common: &Common, shell: &Shell) -> Result<(), Failure> {
    let recipes = read_recipes(args, common, shell)?;
    let intermediate = args.intermediate.clone().unwrap_or_else(|| with_suffix(&args.output, ".merges"));
    let alone = recipes.len() == 1;
    let mut named = BTreeMap::new();
    for recipe in &recipes {
        let target = match &recipe.name {
            Some(name) if !alone => intermediate.join(&name.value),
            _ => args.output.clone(),
        };
        one(recipe, &target, &named, args, common, shell)?;
        if let Some(name) = &recipe.name {
            named.insert(name.value.clone(), target);
        }
    }
    Ok(())
}

/// Reads and judges all recipes of the file, and opens the models that exist already, so that everything that is wrong
/// comes in one answer. Returns them in the order in which they run.
fn read_recipes(args: &MergeArgs, common: &Common, shell: &Shell) -> Result<Vec<Recipe>, Failure> {
    let file = args.recipe.display().to_string();
    let text = std::fs::read_to_string(&args.recipe)
        .map_err(|e| Failure::usage(format!("{file}: cannot read the recipe: {e}")))?;
    let mut problems = Problems::new(&file, &args.sets, args.lenient);
    let recipes = recipe::parse(&text, &args.sets, &mut problems);
    let names: Vec<&str> = METHODS.iter().map(|m| m.name).collect();
    for recipe in &recipes {
        if recipe::check_method(recipe, &names, &mut problems)
            && let Some(method) = methods::find(&recipe.method.value)
        {
            recipe::check_parameters(recipe, method.params, &mut problems);
        }
    }
    let order = if problems.is_empty() {
        recipe::order(&recipes, &mut problems).unwrap_or_default()
    } else {
        Vec::new()
    };
    let mut all: Vec<String> = if problems.is_empty() { Vec::new() } else { vec![problems.to_string()] };
    let merges: Vec<&str> =
        recipes.iter().filter_map(|r| r.name.as_ref()).map(|n| n.value.as_str()).collect();
    let external: Vec<&ModelRef> =
        recipes.iter().flat_map(Recipe::references).filter(|r| !merges.contains(&r.path.as_str())).collect();
    let opened = Library::open(
        &external,
        &BTreeMap::new(),
        dir_of(&args.recipe),
        &hub_config(common)?,
        &mut tell_hub(shell),
    );
    all.extend(opened.err().unwrap_or_default());
    if !all.is_empty() {
        return Err(Failure::Usage(all));
    }
    problems.warning_texts().iter().for_each(|w| shell.warn(w));
    let mut recipes: Vec<Option<Recipe>> = recipes.into_iter().map(Some).collect();
    Ok(order.into_iter().filter_map(|i| recipes[i].take()).collect())
}

/// One merge from recipe to output.
fn one(
    recipe: &Recipe,
    out: &Path,
    named: &BTreeMap<String, PathBuf>,
    args: &MergeArgs,
    common: &Common,
    shell: &Shell,
) -> Result<(), Failure> {
    let begin = Instant::now();
    if args.dry_run
        && let Some(name) =
            recipe.references().iter().find_map(|r| named.get(&r.path)).filter(|dir| !dir.exists())
    {
        shell.say(&format!("{}: planned once {} exists", out.display(), name.display()));
        return Ok(());
    }
    let library = Library::open(
        &recipe.references(),
        named,
        dir_of(&args.recipe),
        &hub_config(common)?,
        &mut tell_hub(shell),
    )
    .map_err(Failure::Usage)?;
    let method = methods::find(&recipe.method.value).expect("the method was checked");
    let options = Options {
        seed: common.seed,
        allow_missing: args.allow_missing,
        crop_embeddings: args.crop_embeddings,
        allow_non_finite: common.allow_non_finite,
    };
    let plan = plan::plan(recipe, method, &library, options).map_err(Failure::Usage)?;
    let layout = Layout::new(plan.tensors.iter().map(|t| t.output.clone()).collect(), args.max_shard_size);
    let budget = Budget::of(&plan, threads(common), common.max_memory)?;
    if args.dry_run {
        dry_run(&plan, &layout, &budget, &library, out, shell);
        return Ok(());
    }
    plan.warnings.iter().for_each(|w| shell.warn(w));
    plan.notes.iter().for_each(|n| shell.say(n));
    let inputs: Vec<PathBuf> = library.all().flat_map(|m| m.dirs.clone()).collect();
    let job = identity(recipe, &library, args, common);
    if is_done(out, &job, &layout) && !args.force {
        shell.event("done", &out.display().to_string());
        shell.say(&format!("{} is there already, made from the same recipe and inputs", out.display()));
        return Ok(());
    }
    if let Some(parent) = out.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent)
            .map_err(|e| Failure::job(CheckpointError::io(parent, "create")(e)))?;
    }
    let Opened { output, finished } =
        Output::create(out, layout, &job, &inputs, args.force).map_err(|e| Failure::usage(e.to_string()))?;
    let resumed = finished.iter().flatten().count();
    if resumed > 0 {
        shell.say(&format!("resuming: {resumed} of {} tensors are done", finished.len()));
    }
    let streamed = on_pool(budget.threads, || Ok(stream::run(&plan.tensors, &finished, &output, shell)))?;
    let statistics = match streamed {
        Ok(statistics) => statistics,
        Err(error) => return Err(give_up(output, error)),
    };
    let run =
        Run { recipe, plan: &plan, library: &library, out, job: &job, args, common, budget: &budget, begin };
    run.finish(output, &statistics, shell).map_err(Failure::job)
}

/// Ends a failed run: what can be resumed is kept, what would fail again is not.
fn give_up(output: Output, error: MergeError) -> Failure {
    if matches!(error, MergeError::Cancelled | MergeError::Checkpoint(_)) {
        let kept = output
            .suspend()
            .map(|dir| format!("; the finished part is kept in {}, the same command resumes", dir.display()));
        return Failure::Job(format!("{error}{}", kept.unwrap_or_default()));
    }
    output.discard();
    Failure::job(error)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

// ---- memory

/// Threads and anonymous memory of a run.
#[derive(Debug)]
struct Budget {
    threads: usize,
    bytes: u64,
}

/// The program itself, its tables and stacks.
const FIXED: u64 = 24 << 20;

impl Budget {
    /// As many threads as asked for and as fit into `limit`.
    fn of(plan: &Plan, threads: usize, limit: Option<u64>) -> Result<Self, Failure> {
        let merges = || {
            plan.tensors.iter().filter_map(|t| match &t.work {
                Work::Merge(merge) => Some((merge, t.output.dtype)),
                Work::Copy(_) => None,
            })
        };
        // Per worker: inputs, masked copies, results and temporaries as blocks, one span of output, one histogram.
        let rows = merges().map(|(m, _)| m.scan.width().max(BLOCK)).max().unwrap_or(BLOCK) as u64;
        let worker = merges()
            .map(|(m, dtype)| {
                (2 * m.scan.k() as u64 + 8) * 4 * rows.min(1 << 22)
                    + (m.scan.options.span * dtype.size()) as u64
                    + (1 << 19)
            })
            .max()
            .unwrap_or(1 << 20);
        let whole = merges().map(|(m, _)| m.rule.whole_tensor_bytes(&m.scan)).max().unwrap_or(0);
        let tables = plan.tensors.len() as u64 * 2048;
        let total = |threads: usize| FIXED + whole + tables + worker * threads as u64;
        let fits = |threads: &usize| limit.is_none_or(|limit| total(*threads) <= limit);
        match (1..=threads).rev().find(fits) {
            Some(threads) => Ok(Self { threads, bytes: total(threads) }),
            None => Err(Failure::usage(format!(
                "--max-memory {}: the merge needs {} even with one thread",
                show_bytes(limit.unwrap_or(0)),
                show_bytes(total(1))
            ))),
        }
    }
}

fn show_bytes(bytes: u64) -> String {
    indicatif::DecimalBytes(bytes).to_string()
}

// ---- dry run

fn dry_run(plan: &Plan, layout: &Layout, budget: &Budget, library: &Library, out: &Path, shell: &Shell) {
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

// ---- identity of a job

/// A hash of everything that the result depends on: version, recipe, options, and the files' names, sizes and times.
fn identity(recipe: &Recipe, library: &Library, args: &MergeArgs, common: &Common) -> String {
    let mut hash = Sha256::new();
    let options = format!(
        "{} {} {} {} {}",
        common.seed, args.max_shard_size, args.allow_missing, args.crop_embeddings, common.allow_non_finite
    );
    for part in [env!("CARGO_PKG_VERSION"), &recipe.to_yaml(), &options] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    for model in library.all() {
        for fingerprint in fingerprints(model) {
            hash.update(fingerprint.to_string().as_bytes());
        }
        for (name, text) in settings(model) {
            hash.update(name.as_bytes());
            hash.update(Sha256::digest(&text));
        }
    }
    hex(&hash.finalize())
}

/// The files beside the weights that decide about the result (an adapter's scale, the config, the vocabulary), by path.
/// One that cannot be read counts as empty: whoever needs it says so.
fn settings(model: &Model) -> BTreeMap<String, Vec<u8>> {
    let decides = |path: &Path| {
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        path.is_file() && ["json", "jinja", "model", "txt", "py"].contains(&extension)
    };
    let listed = |dir: &PathBuf| std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
    let paths = model.dirs.iter().flat_map(listed).filter(|path| decides(path));
    paths.map(|path| (path.display().to_string(), std::fs::read(&path).unwrap_or_default())).collect()
}

/// Of each weight file: path, size, time of change, and the SHA-256 of its first megabyte (header included).
fn fingerprints(model: &Model) -> Vec<serde_json::Value> {
    let of = |file: &std::sync::Arc<onefold_checkpoint::mapped::MappedFile>| {
        let head = &file[..file.len().min(1 << 20)];
        let changed = file.path().metadata().and_then(|m| m.modified()).ok();
        let changed = changed
            .and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok())
            .map_or(0, |d| d.as_nanos() as u64);
        json!({"file": file.path().display().to_string(), "bytes": file.len(), "modified_ns": changed, "sha256_of_first_mib": hex(&Sha256::digest(head))})
    };
    model.checkpoint.files().iter().map(of).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Whether `out` is the finished result of the same job, with all its weights still there.
fn is_done(out: &Path, job: &str, layout: &Layout) -> bool {
    if !layout.shard_names().all(|name| out.join(name).is_file()) {
        return false;
    }
    let Ok(text) = std::fs::read(out.join("onefold.json")) else { return false };
    serde_json::from_slice::<serde_json::Value>(&text).is_ok_and(|v| v["job"] == job)
}

// ---- the files that explain the result

struct Run<'a> {
    recipe: &'a Recipe,
    plan: &'a Plan,
    library: &'a Library,
    out: &'a Path,
    job: &'a str,
    args: &'a MergeArgs,
    common: &'a Common,
    budget: &'a Budget,
    begin: Instant,
}

impl Run<'_> {
    /// Writes everything beside the weights, commits, and shows the health of the result.
    fn finish(
        &self,
        output: Output,
        statistics: &[Option<stream::Statistics>],
        shell: &Shell,
    ) -> Result<(), String> {
        let failed = |e: CheckpointError| e.to_string();
        for file in &self.plan.files {
            match &file.content {
                FileContent::Copied(from) => output.copy_file(&file.name, from).map_err(failed)?,
                FileContent::New(bytes) => output.add_file(&file.name, bytes).map_err(failed)?,
            }
        }
        let mut health = report::of_merge(self.plan, statistics, &self.title());
        health.recipe = Some(self.recipe.text.clone());
        health.command = Some(self.command());
        health.run = self.facts(&output);
        let text = report::to_text(&health).map_err(|e| e.to_string())?;
        output
            .add_file("report.html", report::to_html(&health).map_err(|e| e.to_string())?.as_bytes())
            .map_err(failed)?;
        output.add_file("recipe.yaml", self.recipe.text.as_bytes()).map_err(failed)?;
        output
            .add_file("README.md", report::model_card(&self.card(statistics)).as_bytes())
            .map_err(failed)?;
        let facts: serde_json::Value =
            serde_json::from_str(&report::to_json(&health).map_err(|e| e.to_string())?)
                .map_err(|e| e.to_string())?;
        let record =
            serde_json::to_vec_pretty(&self.record(&health, &facts["derived"])).map_err(|e| e.to_string())?;
        output.add_file("onefold.json", &record).map_err(failed)?;
        let done = output.commit(self.plan.config.as_deref().map(str::as_bytes)).map_err(failed)?;
        shell.event("health", &facts);
        shell.say(&text);
        shell.event("done", &done.display().to_string());
        shell.say(&format!("{} ({:.1} s)", done.display(), self.begin.elapsed().as_secs_f64()));
        Ok(())
    }

    fn title(&self) -> String {
        let name = self.out.file_name().map_or_else(|| "merged".into(), |n| n.to_string_lossy().into_owned());
        self.recipe.name.as_ref().map_or(name, |n| n.value.clone())
    }

    fn command(&self) -> String {
        let mut command =
            format!("onefold merge {} -o {}", self.args.recipe.display(), self.args.output.display());
        self.args.sets.iter().for_each(|s| command += &format!(" --set '{s}'"));
        if self.common.seed != 0 {
            command += &format!(" --seed {}", self.common.seed);
        }
        for (flag, set) in [
            ("--lenient", self.args.lenient),
            ("--allow-missing", self.args.allow_missing),
            ("--crop-embeddings", self.args.crop_embeddings),
            ("--allow-non-finite", self.common.allow_non_finite),
        ] {
            if set {
                command += &format!(" {flag}");
            }
        }
        command
    }

    fn facts(&self, output: &Output) -> Vec<(String, String)> {
        let read: u64 = self.library.all().map(|m| m.checkpoint.size()).sum();
        let mut facts = vec![
            ("time".to_owned(), format!("{:.2} s", self.begin.elapsed().as_secs_f64())),
            ("inputs".to_owned(), show_bytes(read)),
            ("written".to_owned(), show_bytes(output.layout().file_bytes())),
            ("threads".to_owned(), self.budget.threads.to_string()),
            ("seed".to_owned(), self.common.seed.to_string()),
            ("onefold".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ];
        if let Some((peak, anonymous)) = memory() {
            facts.push((
                "peak memory".to_owned(),
                format!(
                    "{} ({} of it anonymous at the end, the rest mapped files)",
                    show_bytes(peak),
                    show_bytes(anonymous)
                ),
            ));
        }
        facts
    }

    fn card(&self, statistics: &[Option<stream::Statistics>]) -> CardInfo {
        let source = |label: &String| {
            let model = self.library.all().find(|m| m.label == *label);
            CardSource { name: label.clone(), local: model.is_none_or(|m| m.local), license: None }
        };
        // One coefficient per model if all tensors agree.
        let mut per_tensor = statistics.iter().flatten().filter_map(|s| s.coefficients.clone());
        let first = per_tensor.next().unwrap_or_default();
        let coefficients = if per_tensor.all(|c| c == first) && first.len() == self.plan.operands.len() {
            first
        } else {
            Vec::new()
        };
        CardInfo {
            title: self.title(),
            method: self.plan.method.name.to_owned(),
            base: self.plan.origin.as_ref().map(source),
            experts: self.plan.operands.iter().map(source).collect(),
            coefficients,
            recipe: self.recipe.text.clone(),
            command: Some(self.command()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..CardInfo::default()
        }
    }

    /// `onefold.json`.
    fn record(&self, health: &report::Health, derived: &serde_json::Value) -> serde_json::Value {
        let inputs: BTreeMap<&str, Vec<serde_json::Value>> =
            self.library.all().map(|m| (m.label.as_str(), fingerprints(m))).collect();
        let facts: BTreeMap<&str, &str> = health.run.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        json!({
            "format": "onefold.run/1",
            "job": self.job,
            "command": self.command(),
            "recipe": self.recipe,
            "set": self.args.sets,
            "inputs": inputs,
            "run": facts,
            "notes": self.plan.notes,
            "warnings": self.plan.warnings,
            "health": derived,
            "tokens": self.plan.vocabulary.as_ref().map(|b| &b.report),
        })
    }
}
