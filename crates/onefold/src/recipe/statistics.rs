//! `statistics: FILE` beside `model:`: what was measured of the model on its own inputs, for methods that need it.

use std::path::Path;
use std::sync::Arc;

use onefold_merge::methods::measured::Statistic;

use super::fields::join;
use super::problems::{Located, Place, Problems};
use super::{Layout, Recipe};
use crate::measured::Measured;

/// The file that a recipe names, and what stands in it once it was opened. Two are equal if their paths are.
#[derive(Debug, Clone)]
pub struct Given {
    /// Path of the file or its directory, relative to the recipe.
    pub path: Located<String>,
    /// What stands in it.
    pub read: Option<Arc<Measured>>,
}

impl Given {
    /// A file that was not opened yet.
    pub fn new(path: &str, place: Place) -> Self {
        Self { path: Located::new(path.to_owned(), place), read: None }
    }
}

impl PartialEq for Given {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path
    }
}

impl Recipe {
    /// The files of statistics that were opened, in the order of the models.
    pub fn statistics(&self) -> impl Iterator<Item = &Measured> {
        let sources = self.layout.sources().into_iter();
        sources.filter_map(|source| source.statistics.as_ref()?.read.as_deref())
    }

    /// Opens the files of statistics, which are looked up in `dir`. All models need one if the method `needs` some, and none
    /// has any use for one if it does not.
    pub fn read_statistics(&mut self, dir: &Path, needs: Option<Statistic>, problems: &mut Problems) {
        let method = self.method.value.clone();
        let Some(needs) = needs else {
            for source in self.layout.sources() {
                let Some(given) = &source.statistics else { continue };
                let message = format!("`{method}` needs no statistics");
                let help = "leave `statistics` out".to_owned();
                let path = join(&source.at.path, "statistics");
                problems.ineffective(given.path.place, &path, message, Some(help));
            }
            return;
        };
        let Layout::Models(models) = &mut self.layout else {
            let message = format!("`{method}` merges whole models: statistics are of these");
            let help = "list them under `models`".to_owned();
            return problems.error(self.method.place, "merge_method", message, Some(help));
        };
        for source in models {
            let Some(given) = &mut source.statistics else {
                let message = format!("no `statistics` for the model `{}`", source.model);
                let help = format!(
                    "`{method}` needs {}: measure them with `onefold adapt`, and name the file",
                    needs.describe()
                );
                problems.error(source.at.place, &source.at.path, message, Some(help));
                continue;
            };
            match Measured::open(&dir.join(&given.path.value), needs) {
                Ok(read) => given.read = Some(Arc::new(read)),
                Err(message) => {
                    let path = join(&source.at.path, "statistics");
                    problems.error(given.path.place, &path, message, None);
                }
            }
        }
    }
}
