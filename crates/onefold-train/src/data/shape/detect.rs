//! What the keys of a row say of its shape.
//!
//! The first rule that fits counts, from the most particular to the least: a row with `messages` may also have a `prompt`,
//! and nearly everything has a `text`. What is not used is stated.

use serde_json::Value;

use super::columns::{Columns, Meaning, Tags};
use super::{Kind, Layout, Shape};
use crate::data::error::DataError;
use crate::data::source::Row;

/// Keys of two texts that are classified together, or of one.
const TEXTS: [&[&str]; 14] = [
    &["sentence1", "sentence2"],
    &["premise", "hypothesis"],
    &["question1", "question2"],
    &["text1", "text2"],
    &["text_a", "text_b"],
    &["question", "sentence"],
    &["question", "passage"],
    &["query", "passage"],
    &["text"],
    &["sentence"],
    &["content"],
    &["review"],
    &["question"],
    &["premise"],
];

/// Keys of a question and its answer, as MFTCoder knows them.
const PAIRS: [(&str, &str); 6] = [
    ("prompt", "answer"),
    ("prompt", "response"),
    ("input", "output"),
    ("question", "response"),
    ("question", "answer"),
    ("query", "answer"),
];

const LABELS: [&str; 3] = ["label", "labels", "class"];
const IMAGES: [&str; 5] = ["image", "img", "image_path", "file_name", "path"];

impl Layout {
    /// The layout of rows like `row`; `columns` are those that the recipe maps, and come before all rules.
    pub fn detect(row: &Row, columns: &Columns) -> Result<Self, DataError> {
        if let Some(missing) = columns_missing(row, columns) {
            let remedy = format!("`columns` names the key `{missing}`, which it does not have");
            return Err(no_shape(row, remedy));
        }
        let found = if columns.is_empty() { by_keys(row) } else { by_columns(row, columns) };
        let mut layout = found.ok_or_else(|| no_shape(row, remedy(row)))?;
        let unused = row.values.keys().filter(|key| !layout.columns.uses(key));
        layout.unused = unused.cloned().collect();
        Ok(layout)
    }
}

impl Layout {
    /// The layout of rows like `row` whose classes are to be told: texts or images. A label is not read; whether there is one
    /// shows in [`Layout::unused`].
    pub fn without_label(row: &Row, columns: &Columns, kind: Kind) -> Result<Self, DataError> {
        if let Some(missing) = columns_missing(row, columns) {
            let remedy = format!("`columns` names the key `{missing}`, which it does not have");
            return Err(no_shape(row, remedy));
        }
        let (shape, meaning) = match kind {
            Kind::ImageClassify => (Shape::Image, Meaning::Image),
            _ => (Shape::Classified, Meaning::Text),
        };
        let mut mapped = Columns::default();
        for key in columns.all(meaning) {
            mapped = mapped.with(meaning, key);
        }
        let found = match (mapped.is_empty(), meaning) {
            (false, _) => Some(mapped),
            (true, Meaning::Image) => image(row),
            (true, _) => texts(row),
        };
        let remedy = match kind {
            Kind::ImageClassify => "no image is named in it; say with `columns: {image: KEY}` where",
            _ => "no text is found in it; say with `columns: {text: KEY}` where",
        };
        let columns = found.ok_or_else(|| no_shape(row, remedy.to_owned()))?;
        let mut layout = Self::new(shape, columns, Tags::messages());
        let unused = row.values.keys().filter(|key| !layout.columns.uses(key));
        layout.unused = unused.cloned().collect();
        Ok(layout)
    }

    /// The key of a label that is there and not read.
    pub fn unread_label(&self) -> Option<&str> {
        let is_label = |key: &&String| LABELS.contains(&key.as_str());
        self.unused.iter().find(is_label).map(String::as_str)
    }
}

/// A mapped key that the row lacks; those that rows may leave out are not missed.
fn columns_missing<'a>(row: &Row, columns: &'a Columns) -> Option<&'a str> {
    use Meaning::{Completion, Image, Instruction, Label, Messages, Output, Prompt, Text};
    [Messages, Prompt, Completion, Instruction, Output, Text, Label, Image]
        .into_iter()
        .flat_map(|meaning| columns.all(meaning))
        .find(|key| !row.values.contains_key(*key))
}

fn no_shape(row: &Row, remedy: String) -> DataError {
    DataError::NoShape { place: row.place.clone(), keys: row.keys(), remedy }
}

fn remedy(row: &Row) -> String {
    if row.values.contains_key("chosen") || row.values.contains_key("rejected") {
        return "rows with `chosen` and `rejected` are preferences, which are not learnt here".to_owned();
    }
    "say with `columns` which key means what, for example {prompt: question, completion: answer}".to_owned()
}

/// The shape that follows from what a recipe maps.
fn by_columns(row: &Row, columns: &Columns) -> Option<Layout> {
    use Meaning::{Completion, Image, Instruction, Label, Messages, Output, Prompt, Text};
    let has = |meaning| columns.get(meaning).is_some();
    let shape = match () {
        () if has(Messages) => return chat(row, columns.get(Messages)?, columns.clone()),
        () if has(Prompt) && has(Completion) => Shape::PromptCompletion,
        () if has(Instruction) && has(Output) => Shape::Alpaca,
        () if has(Image) && has(Label) => Shape::Image,
        () if has(Text) && has(Label) => Shape::Classified,
        () if has(Text) => Shape::Text,
        () => return None,
    };
    Some(Layout::new(shape, columns.clone(), Tags::messages()))
}

fn by_keys(row: &Row) -> Option<Layout> {
    let list = |key: &&str| row.values.get(*key).is_some_and(Value::is_array);
    if let Some(key) = ["messages", "conversations", "chat_rounds", "conversation"].into_iter().find(list) {
        return chat(row, key, beside(row, Columns::default().with(Meaning::Messages, key)));
    }
    two_keys(row).or_else(|| classified(row)).or_else(|| pair(row)).or_else(|| text(row))
}

fn has(row: &Row, key: &str) -> bool {
    row.values.contains_key(key)
}

/// With the keys that any conversation may have.
fn beside(row: &Row, columns: Columns) -> Columns {
    columns
        .with_some(Meaning::System, ["system", "system_prompt"].into_iter().find(|key| has(row, key)))
        .with_some(Meaning::Tools, Some("tools").filter(|key| has(row, key)))
}

/// Lists of messages: which keys and names they have is seen in the first of them.
fn chat(row: &Row, key: &str, columns: Columns) -> Option<Layout> {
    let messages = row.values.get(key)?.as_array()?;
    let first = messages.first().and_then(Value::as_object);
    let share_gpt = first.map_or(key == "conversations", |first| first.contains_key("from"));
    let shape = match (share_gpt, key) {
        (true, _) => Shape::ShareGpt,
        (false, "chat_rounds") => Shape::ChatRounds,
        (false, _) => Shape::Messages,
    };
    let tags = if share_gpt { Tags::share_gpt() } else { Tags::messages() };
    Some(Layout::new(shape, columns, tags))
}

/// Prompts with completions, instructions with outputs.
fn two_keys(row: &Row) -> Option<Layout> {
    if has(row, "prompt") && has(row, "completion") {
        let columns =
            Columns::default().with(Meaning::Prompt, "prompt").with(Meaning::Completion, "completion");
        let columns = columns.with_some(Meaning::Tools, Some("tools").filter(|key| has(row, key)));
        return Some(Layout::new(Shape::PromptCompletion, columns, Tags::messages()));
    }
    let output = ["output", "response"].into_iter().find(|key| has(row, key) && has(row, "instruction"))?;
    // Rows may leave the input out, so that the first row says nothing.
    let input = if has(row, "context") && !has(row, "input") { "context" } else { "input" };
    let columns = Columns::default()
        .with(Meaning::Instruction, "instruction")
        .with(Meaning::Input, input)
        .with(Meaning::Output, output)
        .with(Meaning::History, "history");
    Some(Layout::new(Shape::Alpaca, beside(row, columns), Tags::messages()))
}

fn classified(row: &Row) -> Option<Layout> {
    let label = LABELS.into_iter().find(|key| has(row, key))?;
    let (shape, columns) = match image(row) {
        Some(columns) => (Shape::Image, columns),
        None => (Shape::Classified, texts(row)?),
    };
    Some(Layout::new(shape, columns.with(Meaning::Label, label), Tags::messages()))
}

fn image(row: &Row) -> Option<Columns> {
    let key = IMAGES.into_iter().find(|key| has(row, key))?;
    Some(Columns::default().with(Meaning::Image, key))
}

fn texts(row: &Row) -> Option<Columns> {
    let texts = TEXTS.iter().find(|keys| keys.iter().all(|key| has(row, key)))?;
    Some(texts.iter().fold(Columns::default(), |columns, key| columns.with(Meaning::Text, key)))
}

fn pair(row: &Row) -> Option<Layout> {
    let (question, answer) =
        PAIRS.into_iter().find(|(question, answer)| has(row, question) && has(row, answer))?;
    let columns = Columns::default().with(Meaning::Instruction, question).with(Meaning::Output, answer);
    Some(Layout::new(Shape::Pair, beside(row, columns), Tags::messages()))
}

fn text(row: &Row) -> Option<Layout> {
    let key = ["text", "content"].into_iter().find(|key| has(row, key))?;
    if has(row, "chosen") || has(row, "rejected") {
        return None;
    }
    Some(Layout::new(Shape::Text, Columns::default().with(Meaning::Text, key), Tags::messages()))
}
