//! What a tensor's name tells: its layer. No list of architectures: the first part of a name that is a number is the layer,
//! and what stands before it names the stack of layers.

use std::cmp::Ordering;

/// A name taken apart: `model.layers.` `3` `.mlp.up_proj.weight`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name<'a> {
    /// Everything before the layer number: the stack. The whole name for a tensor outside of layers.
    pub stack: &'a str,
    /// Layer number.
    pub layer: Option<usize>,
    /// Everything behind it.
    pub rest: &'a str,
}

impl<'a> Name<'a> {
    /// Takes a name apart.
    pub fn parse(name: &'a str) -> Self {
        let mut start = 0;
        for part in name.split('.') {
            let end = start + part.len();
            let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
            // A number at the very beginning or end is not a layer: torch names the parts of a Sequential so.
            if digits
                && start > 0
                && end < name.len()
                && let Ok(layer) = part.parse()
            {
                return Self { stack: &name[..start], layer: Some(layer), rest: &name[end..] };
            }
            start = end + 1;
        }
        Self { stack: name, layer: None, rest: "" }
    }

    /// The name with another layer number.
    pub fn with_layer(&self, layer: usize) -> String {
        format!("{}{layer}{}", self.stack, self.rest)
    }

    /// Label of the group of tensors that share a layer: `model.layers.3`, or the tensor's module outside of layers.
    pub fn layer_label(&self) -> String {
        match self.layer {
            Some(layer) => format!("{}{layer}", self.stack),
            None => self.stack.rsplit_once('.').map_or(self.stack, |(module, _)| module).to_owned(),
        }
    }
}

/// Order in which people read names: part by part, numbers by value.
pub fn natural_order(a: &str, b: &str) -> Ordering {
    // Names that are neighbours share most of their parts: those need no second look.
    let same = a.bytes().zip(b.bytes()).take_while(|(x, y)| x == y).count();
    let start = a.as_bytes()[..same].iter().rposition(|c| *c == b'.').map_or(0, |dot| dot + 1);
    let (a, b) = (&a[start..], &b[start..]);
    let key = |part: &str| part.parse::<u64>().ok();
    let mut parts = a.split('.').zip(b.split('.')).map(|(a, b)| match (key(a), key(b)) {
        (Some(x), Some(y)) => x.cmp(&y).then(a.cmp(b)),
        _ => a.cmp(b),
    });
    parts.find(|o| o.is_ne()).unwrap_or_else(|| a.split('.').count().cmp(&b.split('.').count()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_found_in_every_family() {
        let cases = [
            ("model.layers.12.mlp.experts.3.w1.weight", Some(12), "model.layers."),
            ("transformer.h.0.attn.c_attn.weight", Some(0), "transformer.h."),
            ("encoder.layer.5.output.dense.bias", Some(5), "encoder.layer."),
            ("model.norm.weight", None, "model.norm.weight"),
            ("classifier.0", None, "classifier.0"),
            ("0.weight", None, "0.weight"),
        ];
        for (name, layer, stack) in cases {
            let parsed = Name::parse(name);
            assert_eq!((parsed.layer, parsed.stack), (layer, stack), "{name}");
        }
        assert_eq!(Name::parse("h.3.mlp").with_layer(11), "h.11.mlp");
        assert_eq!(Name::parse("model.layers.3.mlp.w").layer_label(), "model.layers.3");
        assert_eq!(Name::parse("model.norm.weight").layer_label(), "model.norm");
    }

    #[test]
    fn numbers_sort_by_value() {
        let mut names = ["l.10.b", "l.2.b", "l.2.a", "k", "l"];
        names.sort_by(|a, b| natural_order(a, b));
        assert_eq!(names, ["k", "l", "l.2.a", "l.2.b", "l.10.b"]);
    }
}
