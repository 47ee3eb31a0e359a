//! What people and programs see while a job runs: the only place that prints.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use onefold_runtime::{Control, Event, Observer};
use serde::Serialize;

use crate::cli::Cli;

/// Why a job ended without its result.
#[derive(Debug)]
pub enum Failure {
    /// Bad arguments or a bad recipe, found before anything was done.
    Usage(Vec<String>),
    /// The job failed.
    Job(String),
}

impl Failure {
    /// One usage problem.
    pub fn usage(problem: impl Into<String>) -> Self {
        Self::Usage(vec![problem.into()])
    }

    /// A failed job.
    pub fn job(error: impl std::fmt::Display) -> Self {
        Self::Job(error.to_string())
    }

    /// 2 for bad input, 1 for a failed job.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(if matches!(self, Self::Usage(_)) { 2 } else { 1 })
    }
}

/// The terminal, or whatever stands in for it.
#[derive(Debug)]
pub struct Shell {
    json: bool,
    quiet: bool,
    bar: Mutex<Option<ProgressBar>>,
    interrupted: Arc<AtomicBool>,
}

impl Shell {
    /// As the command line asks; from here on Ctrl-C ends the job at its next safe point.
    pub fn new(cli: &Cli) -> Self {
        let interrupted = Arc::new(AtomicBool::new(false));
        let flag = interrupted.clone();
        // Without the handler Ctrl-C ends the process at once, which is safe as well.
        let _ = ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed));
        Self { json: cli.common.json, quiet: cli.common.quiet, bar: Mutex::new(None), interrupted }
    }

    /// Whether results are wanted as JSON.
    pub fn json(&self) -> bool {
        self.json
    }

    /// A result: to standard output.
    pub fn result(&self, text: &str) {
        self.finish_bar();
        // A closed pipe (`onefold methods | head`) is no failure.
        let _ = writeln!(std::io::stdout().lock(), "{}", text.trim_end_matches('\n'));
    }

    /// A result as one JSON line, if JSON is wanted.
    pub fn event(&self, kind: &str, value: &impl Serialize) {
        if self.json {
            let line = serde_json::json!({"event": kind, "data": value});
            let _ = writeln!(std::io::stdout().lock(), "{line}");
        }
    }

    /// A line for people: to standard error.
    pub fn say(&self, line: &str) {
        if !self.quiet && !self.json {
            self.print(line);
        }
    }

    /// A warning.
    pub fn warn(&self, message: &str) {
        self.event("warning", &message);
        if !self.quiet && !self.json {
            self.print(&format!("warning: {message}"));
        }
    }

    /// The end of a job that failed.
    pub fn fail(&self, failure: &Failure) {
        self.finish_bar();
        let problems = match failure {
            Failure::Usage(problems) => problems.clone(),
            Failure::Job(error) => vec![error.clone()],
        };
        self.event("error", &problems);
        for problem in problems {
            let _ = writeln!(std::io::stderr().lock(), "error: {problem}");
        }
    }

    fn print(&self, line: &str) {
        let bar = self.bar.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match &*bar {
            Some(bar) => bar.suspend(|| drop(writeln!(std::io::stderr().lock(), "{line}"))),
            None => drop(writeln!(std::io::stderr().lock(), "{line}")),
        }
    }

    fn finish_bar(&self) {
        if let Some(bar) = self.bar.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take() {
            bar.finish_and_clear();
        }
    }

    fn start_bar(&self, name: &str, total: u64) {
        self.finish_bar();
        if self.quiet || self.json || !std::io::stderr().is_terminal() {
            return;
        }
        let style =
            ProgressStyle::with_template("{msg:8} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(8));
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(name.to_owned());
        *self.bar.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(bar);
    }
}

impl Observer for Shell {
    fn event(&self, event: &Event<'_>) -> Control {
        match event {
            Event::Phase { name, total } => {
                self.start_bar(name, *total);
                Self::event(self, "phase", &serde_json::json!({"name": name, "bytes": total}));
            }
            Event::Progress { bytes } => {
                if let Some(bar) = &*self.bar.lock().unwrap_or_else(std::sync::PoisonError::into_inner) {
                    bar.inc(*bytes);
                }
            }
            Event::Warning { message } => self.warn(message),
            Event::Note { message } => self.say(message),
            _ => {}
        }
        if self.interrupted.load(Ordering::Relaxed) { Control::Cancel } else { Control::Continue }
    }
}
