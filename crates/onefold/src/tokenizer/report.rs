//! What happened to the tokens of a merge, for people and for programs.

use std::fmt;

use serde::Serialize;

/// How many examples a class of tokens keeps.
const EXAMPLES: usize = 5;

/// A class of tokens: how many, and the first of them in order of output rows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TokenClass {
    /// Number of tokens.
    pub count: usize,
    /// The first few.
    pub examples: Vec<String>,
}

impl TokenClass {
    pub(super) fn push(&mut self, text: &str) {
        self.count += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(text.to_owned());
        }
    }

    pub(super) fn collect<'t>(texts: impl IntoIterator<Item = &'t str>) -> Self {
        let mut class = Self::default();
        texts.into_iter().for_each(|text| class.push(text));
        class
    }
}

/// What one model brings to the output.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ModelTokens {
    /// The model.
    pub model: String,
    /// Rows of its stored embedding.
    pub rows: usize,
    /// Whether its embedding is used row for row as it is stored.
    pub identity: bool,
    /// Output tokens no other model has.
    pub only_here: TokenClass,
    /// Output tokens it lacks.
    pub missing: TokenClass,
    /// Output tokens it has in another row.
    pub moved: TokenClass,
    /// Tokens it has that the output does not.
    pub dropped: TokenClass,
    /// Tokens of its tokenizer with ids beyond its embedding; treated as absent.
    pub over_range: TokenClass,
    /// Tokens that share an id with another token, or have another id in the file than readers give them.
    pub id_conflicts: TokenClass,
    /// Padding rows of the output that become the mean of its token rows.
    pub padding_means: usize,
}

/// What happened to the tokens of a merge.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TokenReport {
    /// The model whose tokenizer files the output has.
    pub donor: String,
    /// Tokens of the output.
    pub tokens: usize,
    /// Rows of the output's embedding.
    pub rows: usize,
    /// Rows of the output without a token.
    pub padding: usize,
    /// Tokens all models have.
    pub shared: TokenClass,
    /// Tokens added to the donor's tokenizer.
    pub appended: TokenClass,
    /// Those of them that were ordinary tokens in their model: their merges are not merged, so that text is not
    /// split into them as it was there; they match wherever their text occurs.
    pub appended_ordinary: TokenClass,
    /// Ordinary tokens of the donor that became added tokens, because another model has them so.
    pub promoted: TokenClass,
    /// Tokens of the donor left out because they have no embedding row.
    pub removed: TokenClass,
    /// Added tokens that the models match in different ways; the first model's way was taken.
    pub attribute_conflicts: TokenClass,
    /// Tokens whose row is zero in at least one model.
    pub zero: TokenClass,
    /// Tokens whose row a rule forced on every model.
    pub forced: TokenClass,
    /// Each model's part, in the request's order.
    pub models: Vec<ModelTokens>,
    /// Files of the donor that were edited.
    pub edited: Vec<String>,
    /// Files of the donor that would contradict the output's vocabulary and were left out.
    pub left_out: Vec<String>,
    /// Settings of `tokenizer_config.json` that name a removed token.
    pub dangling: Vec<String>,
    /// What else a careful user should know.
    pub notes: Vec<String>,
}

impl fmt::Display for TokenClass {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.count)?;
        let examples: Vec<String> = self.examples.iter().map(|text| format!("{text:?}")).collect();
        if !examples.is_empty() {
            let more = if self.count > examples.len() { ", ..." } else { "" };
            write!(formatter, " ({}{more})", examples.join(", "))?;
        }
        Ok(())
    }
}

impl fmt::Display for TokenReport {
    /// A few lines: the size of the output and every class that is not empty.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { donor, tokens, rows, padding, .. } = self;
        write!(formatter, "tokenizer of {donor}: {tokens} tokens, {rows} rows ({padding} padding)")?;
        if self.models.iter().all(|model| model.identity) {
            write!(formatter, ", the same for all models")?;
        }
        let classes = [
            ("appended", &self.appended),
            ("appended without their merges", &self.appended_ordinary),
            ("now added tokens", &self.promoted),
            ("removed, they have no embedding row", &self.removed),
            ("matched differently by the models, first kept", &self.attribute_conflicts),
            ("zero rows", &self.zero),
            ("forced", &self.forced),
        ];
        lines(formatter, "", &classes)?;
        for model in &self.models {
            write_model(formatter, model)?;
        }
        let lists = [
            ("edited", &self.edited),
            ("left out", &self.left_out),
            ("name a removed token", &self.dangling),
        ];
        for (title, list) in lists.iter().filter(|(_, list)| !list.is_empty()) {
            write!(formatter, "\n  {title}: {}", list.join(", "))?;
        }
        self.notes.iter().try_for_each(|note| write!(formatter, "\n  note: {note}"))
    }
}

fn write_model(formatter: &mut fmt::Formatter<'_>, model: &ModelTokens) -> fmt::Result {
    let classes = [
        ("tokens only here", &model.only_here),
        ("tokens missing", &model.missing),
        ("tokens moved", &model.moved),
        ("tokens dropped", &model.dropped),
        ("tokens beyond its embedding", &model.over_range),
        ("ids in conflict", &model.id_conflicts),
    ];
    lines(formatter, &format!("{}: ", model.model), &classes)?;
    if model.padding_means > 0 {
        write!(formatter, "\n  {}: {} padding rows are means", model.model, model.padding_means)?;
    }
    Ok(())
}

fn lines(formatter: &mut fmt::Formatter<'_>, start: &str, classes: &[(&str, &TokenClass)]) -> fmt::Result {
    let filled = classes.iter().filter(|(_, class)| class.count > 0);
    filled.into_iter().try_for_each(|(title, class)| write!(formatter, "\n  {start}{title}: {class}"))
}
