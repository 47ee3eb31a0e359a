//! Several merges in one recipe: all of them are decided before the first one writes, so that a run of hours does not end
//! with the message that its last output exists already.
//!
//! What a merge makes has no headers yet when the next one is to be planned on it. But where it has the tensors of its donor,
//! by names and shapes, and its tokenizer, as nearly every merge has, the donor stands in for it: the plan on the donor has
//! the problems of the plan on the product. It is made again on the product once that is there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Instant;

use super::identity::is_done;
use super::{Prepared, Session, State, Step};
use crate::jobs::place;
use crate::progress::Failure;

/// What is to be done for a step, and where headers like those of its product are, if any are.
type Decided<'s> = (State<'s>, Option<PathBuf>);

impl Session<'_> {
    /// Decides all steps: their plans, and whether each may write where it is to.
    ///
    /// # Errors
    /// [`Failure::Usage`] with all problems of all steps.
    pub(super) fn judge<'s>(&self, steps: &'s [Step<'_>]) -> Result<Vec<State<'s>>, Failure> {
        let (mut states, mut problems, mut headers) = (Vec::new(), Vec::new(), BTreeMap::new());
        for step in steps {
            let is_made = |need: &PathBuf| {
                steps.iter().zip(&states).any(|(s, state)| s.out == *need && matches!(state, State::Done))
            };
            let made = step.needs.iter().all(is_made);
            let decided = if made { self.plan(step) } else { self.rehearse(step, &headers) };
            let (state, like) = match decided {
                Ok(decided) => decided,
                Err(Failure::Usage(more)) => {
                    problems.extend(more);
                    (State::Waiting, None)
                }
                Err(failure) => return Err(failure),
            };
            headers.extend(step.recipe.name.as_ref().map(|name| name.value.clone()).zip(like));
            states.push(state);
        }
        problems.extend(self.misplaced(steps, &states));
        if problems.is_empty() { Ok(states) } else { Err(Failure::Usage(problems)) }
    }

    /// Plans a step of which all inputs are there, unless its product is too.
    fn plan<'s>(&self, step: &'s Step<'_>) -> Result<Decided<'s>, Failure> {
        let merge = self.prepare(step)?;
        if is_done(&step.out, &merge.job, &merge.layout) && !self.args.force {
            return Ok((State::Done, Some(step.out.clone())));
        }
        let like = stand_in(&merge);
        Ok((State::Ready(Box::new(merge)), like))
    }

    /// Plans a step on the `headers` that stand in for what other steps have to make, if all have some, only to see what is
    /// wrong.
    fn rehearse<'s>(
        &self,
        step: &'s Step<'_>,
        headers: &BTreeMap<String, PathBuf>,
    ) -> Result<Decided<'s>, Failure> {
        let known = |path: &String| !self.named.contains_key(path) || headers.contains_key(path);
        if !step.recipe.references().iter().all(|reference| known(&reference.path)) {
            return Ok((State::Waiting, None));
        }
        let mut library = self.open_models(step, headers)?;
        library.set_places(&self.named);
        let like = stand_in(&self.decide(step, library, Instant::now())?);
        Ok((State::Waiting, like))
    }

    /// What is wrong with the places of the products that are still to be made.
    fn misplaced(&self, steps: &[Step<'_>], states: &[State<'_>]) -> Vec<String> {
        let inputs = || self.opened.all().flat_map(|model| &model.dirs);
        let to_make = steps.iter().enumerate().filter(|(i, _)| !matches!(states[*i], State::Done));
        let problem = |(at, step): (usize, &Step<'_>)| {
            // What any step reads or makes must outlast this one.
            let others = steps.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, other)| &other.out);
            let kept: Vec<PathBuf> = inputs().chain(others).cloned().collect();
            place::check(&step.out, &kept, self.args.force).err().map(|e| e.to_string())
        };
        to_make.filter_map(problem).collect()
    }
}

/// The directory of the donor, if the product will have its tensors by names and shapes, its architecture and its tokenizer.
fn stand_in(merge: &Prepared<'_>) -> Option<PathBuf> {
    let Prepared { recipe, plan, library, .. } = merge;
    let reference = recipe.donor()?;
    let donor = library.get(reference);
    let other_files = recipe.tokenizer.is_some() || recipe.chat_template.is_some() || plan.artefact.is_some();
    if other_files || donor.extracted || reference.lora.is_some() || reference.override_architecture.is_some()
    {
        return None;
    }
    let made: BTreeSet<_> = plan.tensors.iter().map(|t| (&t.output.name, &t.output.shape)).collect();
    let same = made.len() == donor.checkpoint.tensors().len()
        && donor.checkpoint.tensors().iter().all(|(name, tensor)| made.contains(&(name, &tensor.shape)));
    same.then(|| donor.checkpoint.dir().to_owned())
}
