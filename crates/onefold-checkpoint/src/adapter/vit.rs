//! Names of vit's modules. transformers 5 calls the modules of its layers otherwise than its files do, and PEFT names
//! adapters by modules.

/// Modules of a layer: as files name them, and as they are called.
const MODULES: [(&str, &str); 6] = [
    ("attention.attention.query", "attention.q_proj"),
    ("attention.attention.key", "attention.k_proj"),
    ("attention.attention.value", "attention.v_proj"),
    ("attention.output.dense", "attention.o_proj"),
    ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
];

/// What files call a tensor that is named by its module, `vit.layers.0.mlp.fc1.weight`; `None` if it is not in a layer.
pub(super) fn in_files(name: &str) -> Option<String> {
    let (prefix, inner) = name.strip_prefix("vit.").map_or(("", name), |inner| ("vit.", inner));
    let (layer, tensor) = inner.strip_prefix("layers.")?.split_once('.')?;
    let (module, part) = tensor.rsplit_once('.')?;
    let module = MODULES.iter().find(|(_, now)| *now == module).map_or(module, |(file, _)| *file);
    Some(format!("{prefix}encoder.layer.{layer}.{module}.{part}"))
}

/// What the module is called that files name `path`, `vit.encoder.layer.0.intermediate.dense`; `path` itself if it is not in a
/// layer.
pub fn vit_module(path: &str) -> String {
    let renamed = || {
        let (layer, module) = path.strip_prefix("vit.encoder.layer.")?.split_once('.')?;
        let now = MODULES.iter().find(|(file, _)| *file == module).map_or(module, |(_, now)| *now);
        Some(format!("vit.layers.{layer}.{now}"))
    };
    renamed().unwrap_or_else(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for (file, now) in MODULES {
            let module = vit_module(&format!("vit.encoder.layer.3.{file}"));
            assert_eq!(module, format!("vit.layers.3.{now}"));
            assert_eq!(in_files(&format!("{module}.bias")), Some(format!("vit.encoder.layer.3.{file}.bias")));
        }
        assert_eq!(in_files("layers.0.norm.weight").unwrap(), "encoder.layer.0.norm.weight");
        assert_eq!(
            (in_files("classifier.weight"), vit_module("classifier")),
            (None, "classifier".to_owned())
        );
    }
}
