//! Any text as a recipe: reading never panics, and a recipe that was read is written back to an equal one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use onefold::recipe::{Recipe, read};

fuzz_target!(|text: &str| {
    // The first line is a `--set`, the rest the recipe.
    let (set, body) = text.split_once('\n').unwrap_or(("", text));
    let sets = if set.is_empty() { Vec::new() } else { vec![set.to_owned()] };
    match read(body, "fuzz.yml", &sets, true) {
        Err(problems) => assert!(!problems.to_string().is_empty()),
        Ok(reading) => {
            for recipe in reading.recipes {
                let yaml = recipe.to_yaml();
                let again = read(&yaml, "again.yml", &[], false).expect("a written recipe is valid");
                let again = again.recipes.into_iter().next().expect("one recipe");
                assert_eq!(Recipe { text: recipe.text.clone(), ..again }, recipe);
            }
        }
    }
});
