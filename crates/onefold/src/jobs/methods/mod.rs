//! `onefold methods`: the tables of merge methods and balancers, one of them in full, or a reference as Markdown.

#[cfg(feature = "train")]
mod balancers;
mod merging;

use std::fmt::Write as _;

use serde_json::Value;

use crate::cli::{Group, MethodsArgs};
use crate::progress::{Failure, Shell};
use crate::recipe::did_you_mean;

/// Runs the job.
///
/// # Errors
/// If there is nothing of that name.
pub fn run(args: &MethodsArgs, shell: &Shell) -> Result<(), Failure> {
    let text = match (&args.markdown, &args.name) {
        (Some(Group::Merge), _) => merging::markdown(),
        #[cfg(feature = "train")]
        (Some(Group::Balancers), _) => balancers::markdown(),
        (None, None) if shell.json() => all().map(|found| found.facts()).collect::<Value>().to_string(),
        (None, None) => table(),
        (None, Some(name)) if shell.json() => find(name)?.facts().to_string(),
        (None, Some(name)) => find(name)?.explain(),
    };
    shell.result(&text);
    Ok(())
}

/// An entry of one of the tables.
#[derive(Debug, Clone, Copy)]
enum Found {
    Merge(&'static onefold_merge::methods::Method),
    #[cfg(feature = "train")]
    Balancer(&'static onefold_balance::methods::Method),
}

impl Found {
    fn name(self) -> &'static str {
        match self {
            Self::Merge(method) => method.name,
            #[cfg(feature = "train")]
            Self::Balancer(method) => method.name,
        }
    }

    fn summary(self) -> &'static str {
        match self {
            Self::Merge(method) => method.summary,
            #[cfg(feature = "train")]
            Self::Balancer(method) => method.summary,
        }
    }

    fn facts(self) -> Value {
        match self {
            Self::Merge(method) => merging::facts(method),
            #[cfg(feature = "train")]
            Self::Balancer(method) => balancers::facts(method),
        }
    }

    fn explain(self) -> String {
        match self {
            Self::Merge(method) => merging::explain(method),
            #[cfg(feature = "train")]
            Self::Balancer(method) => balancers::explain(method),
        }
    }
}

/// All entries: methods of merging, then balancers.
fn all() -> impl Iterator<Item = Found> {
    let merging = onefold_merge::methods::all().map(Found::Merge);
    #[cfg(feature = "train")]
    let merging = merging.chain(onefold_balance::BALANCERS.iter().map(|method| Found::Balancer(method)));
    merging
}

/// The entry of a name or an alias.
fn find(name: &str) -> Result<Found, Failure> {
    let merging = onefold_merge::methods::find(name).map(Found::Merge);
    #[cfg(feature = "train")]
    let merging = merging.or_else(|| onefold_balance::methods::find(name).map(Found::Balancer));
    merging.ok_or_else(|| {
        let hint = did_you_mean(name, all().map(Found::name)).map_or_else(
            || "`onefold methods` lists them".to_owned(),
            |close| format!("did you mean `{close}`?"),
        );
        let what = if cfg!(feature = "train") { "merge method or balancer" } else { "merge method" };
        Failure::usage(format!("no {what} is called `{name}`; {hint}"))
    })
}

fn table() -> String {
    let mut text = String::from("Merge methods (`merge_method` of `onefold merge`)\n");
    for found in all() {
        #[cfg(feature = "train")]
        if found.name() == onefold_balance::BALANCERS.first().map_or("", |first| first.name) {
            text += "\nBalancers of losses (`balancer` of `onefold tune`)\n";
        }
        let _ = writeln!(text, "  {:19} {}", found.name(), found.summary());
    }
    text + "\n`onefold methods NAME` explains one."
}
