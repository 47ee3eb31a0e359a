//! What a recipe says about the output's vocabulary: `tokenizer`, the older `tokenizer_source`, and
//! `chat_template`.

use indexmap::IndexMap;
use serde::{Serialize, Serializer};

use super::fields::{self, Fields, join};
use super::model_ref::ModelRef;
use super::node::{Data, Node, shortened};
use super::problems::{Problems, listed, suggestion};
use super::scalar::Meaning;

/// How the output's tokenizer and embeddings are built.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TokenizerSpec {
    /// Whose vocabulary.
    pub source: TokenizerSource,
    /// Tokens with an embedding of their own, in the recipe's order.
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub tokens: IndexMap<String, TokenSpec>,
    /// The number of embedding rows is rounded up to a multiple of this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pad_to_multiple_of: Option<usize>,
}

/// Whose vocabulary the output has.
#[derive(Debug, Clone, PartialEq)]
pub enum TokenizerSource {
    /// The base's, and then every other model's tokens.
    Union,
    /// The base model's.
    Base,
    /// This model's.
    Model(ModelRef),
}

/// What is set for one token.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TokenSpec {
    /// Where its embedding comes from for models without the token; by rule if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<TokenSource>,
    /// Whether models that have the token get that embedding too.
    pub force: bool,
}

/// Where a token's embedding comes from.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum TokenSource {
    /// The same token in this model.
    Model(ModelRef),
    /// A token of a model's vocabulary, by name or number.
    #[serde(serialize_with = "model_token")]
    ModelToken {
        /// The model.
        model: ModelRef,
        /// Which of its tokens.
        token: TokenName,
    },
    /// All zeros.
    #[serde(serialize_with = "zero")]
    Zero,
}

/// A token of a vocabulary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenName {
    /// By its text.
    Text(String),
    /// By its number.
    Id(u32),
}

/// Chat templates that are known by name.
pub const CHAT_TEMPLATES: [&str; 6] = ["auto", "alpaca", "chatml", "exaone", "llama3", "mistral"];

/// Reads `tokenizer` or `tokenizer_source`.
pub fn read(top: &mut Fields<'_>, problems: &mut Problems) -> Option<TokenizerSpec> {
    let (modern, legacy) = (top.get("tokenizer"), top.get("tokenizer_source"));
    if let (Some(_), Some(legacy)) = (modern, legacy) {
        let help = "`tokenizer: {source: …}` says the same as `tokenizer_source: …`; keep one".to_owned();
        let message = "`tokenizer` and `tokenizer_source` are both given";
        problems.error(legacy.place, "tokenizer_source", message, Some(help));
    }
    if let Some(node) = modern {
        return spec(node, problems);
    }
    let source = source(legacy?, "tokenizer_source", problems)?;
    Some(TokenizerSpec { source, tokens: IndexMap::new(), pad_to_multiple_of: None })
}

/// Reads `chat_template`: a known name, or a template.
pub fn chat_template(top: &mut Fields<'_>, problems: &mut Problems) -> Option<String> {
    let path = "chat_template";
    let node = top.get(path)?;
    let text = fields::text(node, path, "a template or the name of one", problems)?;
    let template = text.chars().count() >= 20 && text.contains('{');
    if !template && !CHAT_TEMPLATES.contains(&text) {
        let message = format!("{} is neither a known chat template nor a Jinja template", shortened(text));
        let known = || format!("known templates are {}", listed(CHAT_TEMPLATES));
        let help = suggestion(text, CHAT_TEMPLATES).unwrap_or_else(known);
        problems.error(node.place, path, message, Some(help));
    }
    Some(text.to_owned())
}

fn spec(node: &Node, problems: &mut Problems) -> Option<TokenizerSpec> {
    let path = "tokenizer";
    let mut fields = Fields::of(node, path, "how the tokenizer is built", problems)?;
    let source_path = fields.path("source");
    let source = fields.get("source").map(|node| source(node, &source_path, problems));
    let tokens = fields.get("tokens").map(|node| tokens(node, &join(path, "tokens"), problems));
    let multiple = fields.get("pad_to_multiple_of").map(|node| {
        let path = join(path, "pad_to_multiple_of");
        let what = "a whole number of at least 1";
        let number = fields::count(node, &path, what, problems)?;
        if number == 0 {
            fields::unexpected(node, &path, what, problems);
        }
        Some(number)
    });
    fields.finish(problems);
    Some(TokenizerSpec {
        source: source.unwrap_or(Some(TokenizerSource::Union))?,
        tokens: tokens.unwrap_or_default(),
        pad_to_multiple_of: multiple.flatten(),
    })
}

fn source(node: &Node, path: &str, problems: &mut Problems) -> Option<TokenizerSource> {
    match &node.data {
        Data::Scalar { text, meaning: Meaning::Text } if text == "union" => Some(TokenizerSource::Union),
        Data::Scalar { text, meaning: Meaning::Text } if text == "base" => Some(TokenizerSource::Base),
        _ => ModelRef::read(node, path, problems).map(TokenizerSource::Model),
    }
}

fn tokens(node: &Node, path: &str, problems: &mut Problems) -> IndexMap<String, TokenSpec> {
    let Data::Map(entries) = &node.data else {
        fields::unexpected(node, path, "a mapping from tokens to their sources", problems);
        return IndexMap::new();
    };
    let tokens = entries.iter().filter_map(|(token, entry)| {
        Some((token.clone(), token_spec(&entry.value, &join(path, token), problems)?))
    });
    tokens.collect()
}

fn token_spec(node: &Node, path: &str, problems: &mut Problems) -> Option<TokenSpec> {
    let mut fields = Fields::of(node, path, "what is set for the token", problems)?;
    let source_path = fields.path("source");
    let source = fields.get("source").map(|node| token_source(node, &source_path, problems));
    let force_path = fields.path("force");
    let force = fields.get("force").map(|node| fields::flag(node, &force_path, problems));
    fields.finish(problems);
    let source = match source {
        Some(source) => Some(source?),
        None => None,
    };
    Some(TokenSpec { source, force: force.unwrap_or(Some(false))? })
}

fn token_source(node: &Node, path: &str, problems: &mut Problems) -> Option<TokenSource> {
    let Data::Map(entries) = &node.data else {
        return ModelRef::read(node, path, problems).map(TokenSource::Model);
    };
    if !["kind", "token", "token_id"].iter().any(|key| entries.contains_key(*key)) {
        return ModelRef::read(node, path, problems).map(TokenSource::Model);
    }
    let mut fields = Fields::of(node, path, "a source", problems)?;
    let kinds = "`kind: model_token` or `kind: zero`";
    let Some(kind) = fields.get("kind") else {
        problems.error(node.place, path, format!("no `kind`; expected {kinds}"), None);
        return None;
    };
    match fields::text(kind, &join(path, "kind"), kinds, problems)? {
        "zero" => {
            fields.finish(problems);
            Some(TokenSource::Zero)
        }
        "model_token" => token_of_model(node, fields, path, problems),
        _ => {
            fields::unexpected(kind, &join(path, "kind"), kinds, problems);
            None
        }
    }
}

fn token_of_model(
    node: &Node,
    mut fields: Fields<'_>,
    path: &str,
    problems: &mut Problems,
) -> Option<TokenSource> {
    let model = fields.get("model").map(|node| ModelRef::read(node, &join(path, "model"), problems));
    let (token, id) = (fields.get("token"), fields.get("token_id"));
    fields.finish(problems);
    if model.is_none() {
        problems.error(node.place, path, "no `model`: whose token is it", None);
    }
    let token = match (token, id) {
        (Some(token), None) => fields::text(token, &join(path, "token"), "a token", problems)
            .map(|t| TokenName::Text(t.to_owned())),
        (None, Some(id)) => {
            let what = "a token's number";
            let number = fields::count(id, &join(path, "token_id"), what, problems)?;
            let number = u32::try_from(number).ok();
            if number.is_none() {
                fields::unexpected(id, &join(path, "token_id"), what, problems);
            }
            number.map(TokenName::Id)
        }
        _ => {
            problems.error(node.place, path, "expected exactly one of `token` and `token_id`", None);
            None
        }
    };
    Some(TokenSource::ModelToken { model: model??, token: token? })
}

impl Serialize for TokenizerSource {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Union => serializer.serialize_str("union"),
            Self::Base => serializer.serialize_str("base"),
            Self::Model(model) => model.serialize(serializer),
        }
    }
}

fn zero<S: Serializer>(serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map([("kind", "zero")])
}

fn model_token<S: Serializer>(model: &ModelRef, token: &TokenName, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Form<'a> {
        kind: &'static str,
        model: &'a ModelRef,
        #[serde(skip_serializing_if = "Option::is_none")]
        token: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        token_id: Option<u32>,
    }
    let (token, token_id) = match token {
        TokenName::Text(text) => (Some(text.as_str()), None),
        TokenName::Id(id) => (None, Some(*id)),
    };
    Form { kind: "model_token", model, token, token_id }.serialize(serializer)
}

impl TokenizerSpec {
    /// The models it refers to.
    pub fn references(&self) -> impl Iterator<Item = &ModelRef> {
        let source = if let TokenizerSource::Model(model) = &self.source { Some(model) } else { None };
        let tokens = self.tokens.values().filter_map(|token| match token.source.as_ref()? {
            TokenSource::Model(model) | TokenSource::ModelToken { model, .. } => Some(model),
            TokenSource::Zero => None,
        });
        source.into_iter().chain(tokens)
    }
}
