//! Folders of sentence-transformers: `modules.json` lists what follows the transformer (pooling, dense layers), each with the
//! folder that it is loaded from. Such a model is not whole without these folders, so they go where the model goes.
//!
//! The module at path `""` is the transformer itself, whose files lie at the top like those of any model.

use serde::Deserialize;

use super::is_safe_file;

/// The file that lists the modules.
pub const MODULES: &str = "modules.json";

/// A module that lies in a folder of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Its folder, relative to that of `modules.json`.
    pub folder: String,
    /// Whether it can do without files: git keeps no empty folders, so that of `Normalize` is often absent.
    pub may_be_absent: bool,
}

/// One entry of the list; what else it says (`idx`, `name`) is of no use here.
#[derive(Deserialize)]
struct Entry {
    path: String,
    #[serde(default, rename = "type")]
    class: String,
}

/// The modules with folders that `text`, the content of a `modules.json`, names.
///
/// # Errors
/// If it is no such list, or names a folder that does not lie within its own.
pub fn modules(text: &[u8]) -> Result<Vec<Module>, String> {
    let entries: Vec<Entry> = serde_json::from_slice(text)
        .map_err(|e| format!("not a list of sentence-transformers modules with a `path` each: {e}"))?;
    let mut modules: Vec<Module> = Vec::new();
    for Entry { path, class } in entries {
        let folder = path.trim_end_matches('/').to_owned();
        if folder.is_empty() && path.is_empty() {
            continue;
        }
        if !is_safe_file(&folder) || folder.split('/').any(|part| part.starts_with('.')) {
            return Err(format!(
                "names the folder `{}`, which is not one below its own",
                path.escape_debug()
            ));
        }
        if modules.iter().all(|module| module.folder != folder) {
            modules.push(Module { folder, may_be_absent: class.rsplit('.').next() == Some("Normalize") });
        }
    }
    Ok(modules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_modules() {
        let text = br#"[
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
            {"idx": 2, "name": "2", "path": "2_Dense/", "type": "sentence_transformers.models.Dense"},
            {"idx": 3, "name": "3", "path": "2_Dense"},
            {"idx": 4, "name": "4", "path": "3_Normalize", "type": "sentence_transformers.models.Normalize"}]"#;
        let found = modules(text).unwrap();
        let shown: Vec<(&str, bool)> = found.iter().map(|m| (m.folder.as_str(), m.may_be_absent)).collect();
        assert_eq!(shown, [("1_Pooling", false), ("2_Dense", false), ("3_Normalize", true)]);
    }

    #[test]
    fn folders_elsewhere_are_refused() {
        for path in ["..", "../x", "/etc", "a/../../x", "a//b", "a\\b", "c:x", ".git", "a/.ssh", "/", "."] {
            let text = serde_json::json!([{"path": path}]).to_string();
            let problem = modules(text.as_bytes()).unwrap_err();
            assert!(problem.contains("not one below its own"), "{path}: {problem}");
        }
        for text in ["{}", "[{}]", "[{\"path\": 1}]", "[", ""] {
            assert!(modules(text.as_bytes()).unwrap_err().contains("not a list"), "{text}");
        }
    }
}
