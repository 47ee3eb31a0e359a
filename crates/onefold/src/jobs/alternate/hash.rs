//! By what models and recipes are known to all who take part.

use onefold_checkpoint::Checkpoint;
use sha2::{Digest, Sha256};

use crate::jobs::fingerprint::hex;
use crate::recipe::alternate::AlternateRecipe;

/// The hash of a model: that of the content of its files of weights, in the order of their names.
pub(super) fn of_model(checkpoint: &Checkpoint) -> String {
    let mut hash = Sha256::new();
    checkpoint.files().iter().for_each(|file| hash.update(&file[..]));
    hex(&hash.finalize())
}

/// The hash of all that owners have to agree on: the recipe without where things lie.
pub(super) fn of_recipe(recipe: &AlternateRecipe) -> String {
    let text = format!("{}\0{}", env!("CARGO_PKG_VERSION"), recipe.shared());
    hex(&Sha256::digest(text.as_bytes()))
}
