//! Whether an adapter is put on the base that it was trained on, as far as names tell.
//!
//! Names and shapes of tensors are judged elsewhere and are errors; two models of one architecture have the same ones, so
//! only the name in `adapter_config.json` tells an adapter of the one from an adapter of the other. It is what the user
//! typed when training: a hub name, a folder of another machine, a path into the hub's cache. So only last components are
//! compared, whatever their case, and a difference is a warning.

use std::path::Path;

use serde_json::Value;

/// What to tell the user of an adapter that was trained on `trained_on`, if that is none of the names of its base: the
/// reference as written, the folder, and what its `config.json` says of itself.
pub(super) fn warning(
    label: &str,
    trained_on: Option<&str>,
    reference: &str,
    dir: &Path,
    config: Option<&Value>,
) -> Option<String> {
    let trained_on = trained_on.filter(|name| !last_part(name).is_empty())?;
    let real = dir.canonicalize().ok();
    let folders = [Some(dir), real.as_deref()].into_iter().flatten().filter_map(Path::to_str);
    let own = config.and_then(|config| config.get("_name_or_path")).and_then(Value::as_str);
    let mut names = folders.chain([reference]).chain(own).map(last_part);
    let wanted = last_part(trained_on).to_lowercase();
    if names.any(|name| name.to_lowercase() == wanted) {
        return None;
    }
    Some(format!(
        "model {label}: its adapter was trained on {trained_on} (adapter_config.json), and {reference} does not look like \
         that model: on another one its changes are noise, whatever the shapes say"
    ))
}

/// The name at the end of a path or hub name; of a snapshot in the hub's cache that of its repository.
fn last_part(path: &str) -> &str {
    let parts: Vec<&str> = path.split(['/', '\\']).filter(|part| !part.is_empty() && *part != ".").collect();
    if let [.., repo, "snapshots", _] = parts[..]
        && let Some(repo) = repo.strip_prefix("models--")
    {
        return repo.rsplit("--").next().unwrap_or(repo);
    }
    parts.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn warns(trained_on: &str, reference: &str, dir: &str, own: Option<&str>) -> bool {
        let config = own.map(|own| json!({"_name_or_path": own}));
        warning("x", Some(trained_on), reference, Path::new(dir), config.as_ref()).is_some()
    }

    #[test]
    fn one_model_has_many_names() {
        let cached = "/c/hub/models--meta-llama--Llama-2-7b-hf/snapshots/0123";
        for trained_on in [
            "meta-llama/Llama-2-7b-hf",
            "mirror/llama-2-7B-HF",
            "/data/models/Llama-2-7b-hf/",
            "C:\\models\\Llama-2-7b-hf",
            cached,
        ] {
            assert!(!warns(trained_on, "meta-llama/Llama-2-7b-hf", cached, None), "{trained_on}");
            assert!(!warns(trained_on, "./Llama-2-7b-hf", "/r/Llama-2-7b-hf", None), "{trained_on}");
            assert!(!warns(trained_on, cached, cached, None), "{trained_on}");
            assert!(
                !warns(trained_on, "./base", "/r/base", Some("meta-llama/Llama-2-7b-hf")),
                "{trained_on}"
            );
            assert!(warns(trained_on, "./base", "/r/base", None), "{trained_on}");
            assert!(warns(trained_on, "o/Llama-2-7b-chat-hf", "/r/x", Some("o/Llama-2-7b-chat-hf")));
        }
    }

    #[test]
    fn an_adapter_that_names_no_base_is_not_judged() {
        for nothing in [None, Some(""), Some("/"), Some("./")] {
            assert_eq!(warning("x", nothing, "./base", Path::new("/r/base"), None), None);
        }
    }
}
