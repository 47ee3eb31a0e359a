//! The order in which the merges of one file run: each after those whose results it reads.

use super::Recipe;
use super::problems::Problems;

/// Positions of `recipes` in an order in which every merge comes after those it refers to by name, as far as
/// possible in the file's order. `None` if merges need each other, which is reported.
pub fn order(recipes: &[Recipe], problems: &mut Problems) -> Option<Vec<usize>> {
    let needs: Vec<Vec<usize>> = recipes.iter().map(|recipe| needs(recipe, recipes)).collect();
    let (mut order, mut done) = (Vec::with_capacity(recipes.len()), vec![false; recipes.len()]);
    loop {
        let ready = |at: &usize| !done[*at] && needs[*at].iter().all(|need| done[*need]);
        match (0..recipes.len()).find(ready) {
            Some(next) => {
                done[next] = true;
                order.push(next);
            }
            None if order.len() == recipes.len() => return Some(order),
            None => {
                report_cycle(recipes, &needs, &done, problems);
                return None;
            }
        }
    }
}

/// Positions of the merges whose results `recipe` reads.
fn needs(recipe: &Recipe, recipes: &[Recipe]) -> Vec<usize> {
    let references = recipe.references();
    let named = |other: &Recipe| {
        let name = other.name.as_ref().map(|name| name.value.as_str());
        name.is_some_and(|name| references.iter().any(|reference| reference.path == name))
    };
    (0..recipes.len()).filter(|at| named(&recipes[*at])).collect()
}

fn report_cycle(recipes: &[Recipe], needs: &[Vec<usize>], done: &[bool], problems: &mut Problems) {
    // Every merge that is left needs one that is left: following them must come back to one seen before.
    let mut trail: Vec<usize> = Vec::new();
    let mut next = (0..recipes.len()).find(|at| !done[*at]);
    while let Some(at) = next {
        if let Some(begin) = trail.iter().position(|seen| *seen == at) {
            let names = trail[begin..].iter().chain([&at]).filter_map(|at| recipes[*at].name.as_ref());
            let names: Vec<_> = names.map(|name| format!("`{}`", name.value)).collect();
            let message = format!("merges that need each other: {}", names.join(" needs "));
            let place = recipes[at].name.as_ref().map_or(recipes[at].method.place, |name| name.place);
            return problems.error(place, "name", message, None);
        }
        trail.push(at);
        next = needs[at].iter().copied().find(|need| !done[*need]);
    }
}
