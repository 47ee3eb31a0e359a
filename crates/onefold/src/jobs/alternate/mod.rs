//! `onefold alternate`: rounds of tuning and merging. The loop is in `rounds`; its steps are `part` (one task is tuned), `round` (the
//! vectors are merged) and `product` (the models that come out). `split` runs each of them alone, for owners of data that stay
//! apart; the loop is those steps in sequence.

mod dry_run;
mod hash;
mod part;
mod product;
mod record;
mod round;
mod rounds;
mod setup;
mod split;
mod stop;

use std::time::Instant;

use super::{on_pool, threads};
use crate::cli::{AlternateArgs, AlternatePart, Common};
use crate::progress::{Failure, Shell};
use rounds::Session;
use setup::World;

/// Runs the job.
///
/// # Errors
/// [`Failure::Usage`] with what is wrong with recipe, model, data, vectors or place, or [`Failure::Job`].
pub fn run(args: &AlternateArgs, common: &Common, shell: &Shell) -> Result<(), Failure> {
    let begin = Instant::now();
    let pool = |work: &(dyn Fn() -> Result<(), Failure> + Sync)| on_pool(threads(common), work);
    match &args.part {
        Some(AlternatePart::TuneTask(args)) => pool(&|| split::tune_task(args, common, shell)),
        Some(AlternatePart::MergeRound(args)) => pool(&|| split::merge_round(args, common, shell)),
        Some(AlternatePart::Product(args)) => pool(&|| split::product(args, common, shell)),
        None => {
            let (Some(recipe), Some(output)) = (&args.recipe, &args.output) else {
                return Err(Failure::usage("a recipe and `-o OUT` are needed".to_owned()));
            };
            let Some(world) =
                World::open(recipe, &args.reading, common, shell, Some((output, args.dry_run)))?
            else {
                return Ok(());
            };
            pool(&|| Session { args, output, world: &world, begin }.alternate())
        }
    }
}
