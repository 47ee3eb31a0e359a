//! Which files of a repository are worth fetching.
//!
//! Weights in one form only: safetensors if there are any, else `.bin`; an index wins over a single file, as
//! mergekit and transformers read a folder. Beside them all small files at the top of the repository that a
//! tokenizer, a chat template, remote code or the licence may consist of. Weights for other frameworks,
//! precision variants and everything in sub-folders (`original/`, `onnx/`, `checkpoint-…/`) stay where they
//! are, save for `additional_chat_templates/` and the folders that sentence-transformers' `modules.json` names.

use onefold_checkpoint::beside::Module;

use super::Wanted;

/// Weight layouts of a model, best first: index of shards, single file.
const MODEL: &[(&str, &str)] = &[
    ("model.safetensors.index.json", "model.safetensors"),
    ("pytorch_model.bin.index.json", "pytorch_model.bin"),
];
const ADAPTER: &[&str] = &["adapter_model.safetensors", "adapter_model.bin"];

/// Endings of small files that are fetched with a model.
const SIDE_ENDINGS: &[&str] =
    &[".json", ".jinja", ".txt", ".model", ".py", ".tiktoken", ".vocab", ".bpe", ".spm", ".md"];
/// Beginnings of files, with or without ending, that carry the terms of use.
const TERMS: &[&str] = &["LICENSE", "LICENCE", "NOTICE", "USE_POLICY"];
/// Endings by which an error message recognises weights that cannot be used.
const WEIGHT_ENDINGS: &[&str] =
    &[".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf", ".ot"];

/// Where the weights are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Weights {
    /// One file.
    Single(&'static str),
    /// An index that names the shards.
    Indexed(&'static str),
}

/// The files to fetch, but for the shards that only the index knows.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) weights: Weights,
    pub(super) sides: Vec<String>,
}

/// The file without which a folder counts as nothing; fetched last, so that a partial download never counts.
pub(super) fn key_file(what: Wanted) -> &'static str {
    match what {
        Wanted::Model => "config.json",
        Wanted::Adapter => "adapter_config.json",
    }
}

/// Accepted weight files, for messages.
pub(super) fn expected(what: Wanted) -> &'static str {
    match what {
        Wanted::Model => "model.safetensors, pytorch_model.bin or their index",
        Wanted::Adapter => "adapter_model.safetensors, adapter_model.bin",
    }
}

/// Finds the weights among files for which `exists` holds.
pub(super) fn weights(what: Wanted, exists: impl Fn(&str) -> bool) -> Option<Weights> {
    match what {
        Wanted::Adapter => ADAPTER.iter().find(|name| exists(name)).map(|name| Weights::Single(name)),
        Wanted::Model => MODEL.iter().find_map(|(index, single)| {
            if exists(index) {
                return Some(Weights::Indexed(index));
            }
            exists(single).then_some(Weights::Single(single))
        }),
    }
}

/// Chooses among the files of a repository; `None` when it has no readable weights.
pub(super) fn choose(what: Wanted, files: &[String]) -> Option<Choice> {
    let weights = weights(what, |name| files.iter().any(|file| file == name))?;
    let sides = match what {
        Wanted::Adapter => Vec::new(),
        Wanted::Model => files.iter().filter(|file| is_side(file)).cloned().collect(),
    };
    Some(Choice { weights, sides })
}

fn is_side(file: &str) -> bool {
    let name = match file.rsplit_once('/') {
        None => file,
        Some(("additional_chat_templates", name)) => name,
        Some(_) => return false,
    };
    let ending = SIDE_ENDINGS.iter().any(|ending| name.ends_with(ending));
    let terms = TERMS.iter().any(|start| name.starts_with(start));
    (ending || terms)
        && !name.starts_with('.')
        && !name.ends_with(".index.json")
        && name != key_file(Wanted::Model)
}

/// The files in the folders of modules, weights included. Nothing below them and nothing hidden.
pub(super) fn in_modules(files: &[String], modules: &[Module]) -> Vec<String> {
    let belongs = |file: &&String| {
        let Some((folder, name)) = file.rsplit_once('/') else { return false };
        !name.starts_with('.') && modules.iter().any(|module| module.folder == folder)
    };
    files.iter().filter(belongs).cloned().collect()
}

/// Files that look like weights, for the message that none can be read.
pub(super) fn weight_like(files: &[String]) -> Vec<String> {
    files.iter().filter(|file| WEIGHT_ENDINGS.iter().any(|ending| file.ends_with(ending))).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(what: Wanted, files: &[&str]) -> Option<Choice> {
        choose(what, &files.iter().map(|file| file.to_string()).collect::<Vec<_>>())
    }

    #[test]
    fn safetensors_win_over_bin_and_an_index_over_one_file() {
        let weights = |files: &[&str]| choice(Wanted::Model, files).map(|choice| choice.weights);
        let all = [
            "pytorch_model.bin",
            "pytorch_model.bin.index.json",
            "model.safetensors",
            "model.safetensors.index.json",
        ];
        assert_eq!(weights(&all), Some(Weights::Indexed("model.safetensors.index.json")));
        assert_eq!(weights(&all[..3]), Some(Weights::Single("model.safetensors")));
        assert_eq!(weights(&all[..2]), Some(Weights::Indexed("pytorch_model.bin.index.json")));
        assert_eq!(weights(&all[..1]), Some(Weights::Single("pytorch_model.bin")));
        assert_eq!(weights(&["model.gguf", "sub/model.safetensors", "model.fp16.safetensors"]), None);
        assert_eq!(weights(&["adapter_model.safetensors"]), None);
    }

    #[test]
    fn all_small_files_but_no_other_weights() {
        let wanted = [
            "README.md",
            "LICENSE",
            "NOTICE.txt",
            "generation_config.json",
            "tokenizer.json",
            "tokenizer.model",
            "vocab.txt",
            "merges.txt",
            "chat_template.jinja",
            "additional_chat_templates/tool_use.jinja",
            "modeling_x.py",
            "qwen.tiktoken",
        ];
        let unwanted = [
            ".gitattributes",
            "tf_model.h5",
            "flax_model.msgpack",
            "model.onnx",
            "model.gguf",
            "original/params.json",
            "consolidated.00.pth",
            "consolidated.safetensors",
            "pytorch_model.bin",
            "pytorch_model.bin.index.json",
            "model.fp16.safetensors",
            "model.safetensors.index.fp16.bin",
            "onnx/config.json",
            "config.json",
            "training_args.bin",
            "checkpoint-5/additional_chat_templates/x.jinja",
        ];
        let files = [&wanted[..], &unwanted[..], &["model.safetensors"]].concat();
        assert_eq!(choice(Wanted::Model, &files).unwrap().sides, wanted);
    }

    #[test]
    fn an_adapter_is_two_files() {
        let files = ["README.md", "adapter_config.json", "adapter_model.bin", "tokenizer.json"];
        let got = choice(Wanted::Adapter, &files).unwrap();
        assert_eq!(got, Choice { weights: Weights::Single("adapter_model.bin"), sides: vec![] });
        let both = ["adapter_model.bin", "adapter_model.safetensors"];
        assert_eq!(
            choice(Wanted::Adapter, &both).unwrap().weights,
            Weights::Single("adapter_model.safetensors")
        );
    }
}
