//! The files beside the weights: tokenizer, templates, code, generation settings, processors of images, modules of
//! sentence-transformers. Whoever writes a model that was made of another takes them over byte for byte.
//!
//! `config.json` is not among them: who writes weights has something to say about it ([`crate::json::Object`]).

mod links;
mod modules;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::CheckpointError;
use crate::output::Output;
pub use modules::{MODULES, Module, modules};

/// Endings of weight files, of whatever program.
const WEIGHTS: [&str; 10] =
    [".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf", ".npz"];
/// Directory of templates beside the default one.
const TEMPLATES: &str = "additional_chat_templates";

/// The files beside the weights of a model, and what one should know of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SideFiles {
    /// Their paths in the model's directory, with `/` between parts, in order.
    pub names: Vec<String>,
    /// Those that hold weights: of the modules behind the transformer.
    pub weights: Vec<String>,
    /// Folders that `modules.json` names and that are not there, though they have to be.
    pub absent: Vec<String>,
    /// Links that lead out of the model, and whereto.
    pub linked: Vec<(String, PathBuf)>,
}

impl SideFiles {
    /// Those of the model in `dir`: its plain files, its further chat templates, and the folders of its modules.
    ///
    /// # Errors
    /// If a directory cannot be listed, `modules.json` is not one, or a file in a folder is a link that leads out of `dir`.
    pub fn find(dir: &Path) -> Result<Self, CheckpointError> {
        let mut names: BTreeSet<String> = list(dir)?.into_iter().filter(|name| !is_left_out(name)).collect();
        if dir.join(TEMPLATES).is_dir() {
            names.extend(list_below(dir, TEMPLATES)?);
        }
        let (mut weights, mut absent) = (Vec::new(), Vec::new());
        if names.contains(MODULES) {
            let (files, missing) = module_files(dir)?;
            weights = files.iter().filter(|name| is_weight(name)).cloned().collect();
            absent = missing;
            names.extend(files);
        }
        let names: Vec<String> = names.into_iter().collect();
        let linked = links::judge(dir, &names)?;
        Ok(Self { names, weights, absent, linked })
    }

    /// Copies them from `dir`, where they were found, into an output.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn copy(&self, dir: &Path, output: &Output) -> Result<(), CheckpointError> {
        self.names.iter().try_for_each(|name| output.copy_file(name, &dir.join(name)))
    }
}

/// Files that a new model does not take over: weights, what we write ourselves, and traces of other programs.
fn is_left_out(name: &str) -> bool {
    let endings = [".index.json", ".lock", ".partial", ".incomplete", ".arrow", ".parquet", ".zip"];
    let names = [
        "README.md",
        "config.json",
        "onefold.json",
        "metrics.jsonl",
        "report.html",
        "recipe.yaml",
        "mergekit_config.yml",
        "trainer_state.json",
        "adapter_config.json",
        "all_results.json",
        "train_results.json",
        "eval_results.json",
        ".gitattributes",
        ".gitignore",
    ];
    name.starts_with('.')
        || names.contains(&name)
        || is_weight(name)
        || endings.iter().any(|e| name.ends_with(e))
        || name.starts_with("events.out")
}

/// The files of the modules behind the transformer, weights included: they are small, and the model is not whole without.
/// Beside them the folders that are missing.
fn module_files(dir: &Path) -> Result<(Vec<String>, Vec<String>), CheckpointError> {
    let path = dir.join(MODULES);
    let text = std::fs::read(&path).map_err(CheckpointError::io(&path, "read"))?;
    let named = modules(&text).map_err(|message| CheckpointError::Modules { path, message })?;
    let (mut files, mut absent) = (Vec::new(), Vec::new());
    for module in named {
        if dir.join(&module.folder).is_dir() {
            files.extend(list_below(dir, &module.folder)?.into_iter().filter(|name| !is_hidden(name)));
        } else if !module.may_be_absent {
            absent.push(module.folder);
        }
    }
    Ok((files, absent))
}

fn is_hidden(name: &str) -> bool {
    name.rsplit('/').next().is_some_and(|file| file.starts_with('.'))
}

fn is_weight(name: &str) -> bool {
    WEIGHTS.iter().any(|ending| name.ends_with(ending))
}

/// Whether a file name given by a server or a file stays below the folder it is joined to.
pub fn is_safe_file(name: &str) -> bool {
    let plain = |part: &str| !part.is_empty() && part != "." && part != ".." && part.len() <= 255;
    name.len() <= 1024
        && !name.contains(['\\', ':'])
        && !name.chars().any(char::is_control)
        && name.split('/').all(plain)
}

/// The plain files in a folder of `dir`, named from `dir`.
fn list_below(dir: &Path, folder: &str) -> Result<Vec<String>, CheckpointError> {
    Ok(list(&dir.join(folder))?.into_iter().map(|name| format!("{folder}/{name}")).collect())
}

/// Names of the plain files in a directory.
fn list(dir: &Path) -> Result<Vec<String>, CheckpointError> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(CheckpointError::io(dir, "list"))? {
        let entry = entry.map_err(CheckpointError::io(dir, "list"))?;
        // Follows links: files of the hub's cache are links to blobs.
        if entry.path().is_file()
            && let Some(name) = entry.file_name().to_str()
        {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "fixtures are written plainly")]
mod tests {
    use std::fs;

    use super::*;
    use crate::output::{Layout, Opened};

    const LIST: &str = r#"[{"path": "", "type": "Transformer"}, {"path": "1_Pooling", "type": "Pooling"},
        {"path": "2_Dense", "type": "Dense"}, {"path": "3_Absent", "type": "Dense"},
        {"path": "4_Normalize", "type": "Normalize"}]"#;

    fn model(dir: &Path) {
        for (name, text) in [
            ("config.json", "{}"),
            ("model.safetensors", ""),
            ("model.safetensors.index.json", "{}"),
            ("README.md", "# model"),
            ("onefold.json", "{}"),
            ("metrics.jsonl", "{}"),
            (".gitattributes", ""),
            ("events.out.tfevents.1", ""),
            ("tokenizer.json", "{\"a\": 1}"),
            ("generation_config.json", "{ }"),
            ("preprocessor_config.json", "{\n}"),
            ("chat_template.jinja", "{{ x }}"),
            ("additional_chat_templates/tool.jinja", "tool"),
            ("checkpoint-5/tokenizer.json", "other"),
            ("modules.json", LIST),
            ("1_Pooling/config.json", "{}"),
            ("2_Dense/model.safetensors", "dense"),
            ("2_Dense/.hidden", ""),
        ] {
            fs::create_dir_all(dir.join(name).parent().unwrap()).unwrap();
            fs::write(dir.join(name), text).unwrap();
        }
    }

    #[test]
    fn what_belongs_to_a_model_is_found_and_copied_byte_for_byte() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("in"), dir.path().join("out"));
        model(&from);
        let found = SideFiles::find(&from).unwrap();
        let names = [
            "1_Pooling/config.json",
            "2_Dense/model.safetensors",
            "additional_chat_templates/tool.jinja",
            "chat_template.jinja",
            "generation_config.json",
            "modules.json",
            "preprocessor_config.json",
            "tokenizer.json",
        ];
        assert_eq!(found.names, names);
        assert_eq!((found.weights, found.absent), (vec![names[1].to_owned()], vec!["3_Absent".to_owned()]));
        let Opened { output, .. } =
            Output::create(&to, Layout::new(Vec::new(), 1), "job", &[], false).unwrap();
        SideFiles::find(&from).unwrap().copy(&from, &output).unwrap();
        assert!(!to.exists(), "nothing is there before the output is complete");
        output.commit(None).unwrap();
        for name in names {
            assert_eq!(fs::read(from.join(name)).unwrap(), fs::read(to.join(name)).unwrap(), "{name}");
        }
        for name in ["config.json", "README.md", "onefold.json", "checkpoint-5", "2_Dense/.hidden"] {
            assert!(!to.join(name).exists(), "{name}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let error = SideFiles::find(&dir.path().join("none")).unwrap_err().to_string();
        assert!(error.contains("none: cannot list"), "{error}");
        fs::write(dir.path().join("modules.json"), "{}").unwrap();
        let error = SideFiles::find(dir.path()).unwrap_err().to_string();
        assert!(error.contains("modules.json: not a list of sentence-transformers modules"), "{error}");
    }

    #[test]
    fn file_names_cannot_climb() {
        for good in ["config.json", "a/b.txt", "..hidden", "model-00001-of-00002.safetensors"] {
            assert!(is_safe_file(good), "{good}");
        }
        for bad in ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", "a\\b", "c:x", "a\nb", "."] {
            assert!(!is_safe_file(bad), "{bad}");
        }
    }
}
