//! `config.json` of the output: the donor's, byte for byte, but for the values that the merge changed.

use onefold_checkpoint::json::Object;
use serde_json::{Value, json};

/// Keys under which configs state their number of layers.
const LAYER_COUNTS: [&str; 5] =
    ["num_hidden_layers", "n_layer", "num_layers", "n_layers", "num_decoder_layers"];
/// Keys whose lists have one entry per layer.
const PER_LAYER: [&str; 4] = ["layer_types", "no_rope_layers", "mlp_layer_types", "attention_types"];

/// What a merge changes in the config.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Changes {
    /// Type of the weights, as torch names it.
    pub dtype: Option<&'static str>,
    /// For each layer of the output, the donor's layer whose entry in lists per layer it takes.
    pub layers: Option<Vec<usize>>,
    /// Rows of the embedding.
    pub vocab_size: Option<usize>,
    /// Set `tie_word_embeddings` to false: the output's head is not its embedding.
    pub untie: bool,
    /// The class that `transformers` loads it with, where the recipe overrides the donor's.
    pub architecture: Option<String>,
}

/// The edited text, and a sentence for every edit.
///
/// # Errors
/// If the text is not a JSON object.
pub fn edit(text: &str, changes: &Changes) -> Result<(String, Vec<String>), String> {
    let mut done = Vec::new();
    let edited = edit_object(text, changes, true, &mut done)?;
    Ok((edited.unwrap_or_else(|| text.to_owned()), done))
}

fn edit_object(
    text: &str,
    changes: &Changes,
    top: bool,
    done: &mut Vec<String>,
) -> Result<Option<String>, String> {
    let mut object = Object::parse(text).map_err(|e| format!("config.json is not a JSON object: {e}"))?;
    let before = done.len();
    if let Some(dtype) = changes.dtype {
        set_dtype(&mut object, dtype, top, done);
    }
    if let Some(layers) = &changes.layers {
        set_layers(&mut object, layers, done);
    }
    if let Some(rows) = changes.vocab_size
        && object.contains("vocab_size")
    {
        set(&mut object, "vocab_size", &json!(rows), done);
    }
    if changes.untie && (object.contains("tie_word_embeddings") || top) {
        set(&mut object, "tie_word_embeddings", &json!(false), done);
    }
    if let Some(architecture) = changes.architecture.as_ref().filter(|_| top) {
        set(&mut object, "architectures", &json!([architecture]), done);
    }
    if let Some(inner) = object.text("text_config").map(str::to_owned)
        && let Some(edited) = edit_object(&inner, changes, false, done)?
    {
        object.set_text("text_config", edited);
    }
    Ok((done.len() > before).then(|| object.print()))
}

fn set(object: &mut Object, key: &str, value: &Value, done: &mut Vec<String>) {
    let old = object.text(key).unwrap_or("absent").to_owned();
    if object.set(key, value) {
        done.push(format!("{key}: {old} → {value}"));
    }
}

fn set_dtype(object: &mut Object, dtype: &str, top: bool, done: &mut Vec<String>) {
    let keys: Vec<&str> = ["dtype", "torch_dtype"].into_iter().filter(|k| object.contains(k)).collect();
    for key in &keys {
        set(object, key, &json!(dtype), done);
    }
    if keys.is_empty() && top {
        set(object, "torch_dtype", &json!(dtype), done);
    }
}

fn set_layers(object: &mut Object, layers: &[usize], done: &mut Vec<String>) {
    for key in LAYER_COUNTS.into_iter().filter(|k| object.contains(k)).take(1).collect::<Vec<_>>() {
        set(object, key, &json!(layers.len()), done);
    }
    for key in PER_LAYER {
        let Some(Value::Array(old)) = object.value(key) else { continue };
        let new: Vec<&Value> = layers.iter().filter_map(|layer| old.get(*layer)).collect();
        if new.len() == layers.len() {
            set(object, key, &json!(new), done);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LLAMA: &str = "{\n  \"dtype\": \"float32\",\n  \"big\": 1000000000000000019884624838656,\n  \"layer_types\": [\n    \"a\",\n    \"b\"\n  ],\n  \"num_hidden_layers\": 2,\n  \"tie_word_embeddings\": true,\n  \"vocab_size\": 64\n}\n";

    #[test]
    fn nothing_to_change_keeps_every_byte() {
        let same = Changes { dtype: Some("float32"), vocab_size: Some(64), ..Changes::default() };
        assert_eq!(edit(LLAMA, &same).unwrap(), (LLAMA.to_owned(), vec![]));
    }

    #[test]
    fn only_what_changed_is_changed() {
        let changes = Changes {
            dtype: Some("bfloat16"),
            layers: Some(vec![0, 1, 1]),
            vocab_size: Some(66),
            untie: true,
            architecture: None,
        };
        let (text, done) = edit(LLAMA, &changes).unwrap();
        assert_eq!(done.len(), 5, "{done:?}");
        assert!(text.contains("1000000000000000019884624838656"));
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["layer_types"], json!(["a", "b", "b"]));
        assert_eq!((&value["num_hidden_layers"], &value["vocab_size"]), (&json!(3), &json!(66)));
        assert_eq!((&value["tie_word_embeddings"], &value["dtype"]), (&json!(false), &json!("bfloat16")));
        assert!(text.ends_with("}\n"));
    }

    #[test]
    fn nested_text_configs_are_reached() {
        let text = "{\n  \"model_type\": \"x\",\n  \"text_config\": {\n    \"vocab_size\": 5\n  }\n}";
        let (edited, done) = edit(text, &Changes { vocab_size: Some(7), ..Changes::default() }).unwrap();
        assert_eq!(edited, text.replace('5', "7"));
        assert_eq!(done, ["vocab_size: 5 → 7"]);
        assert!(edit("[1]", &Changes::default()).is_err());
    }
}
