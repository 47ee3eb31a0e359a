//! One row of a task: from what stands in the file to tokens.

use super::TaskSettings;
use crate::data::error::{DataError, Place, RowError, RowProblem};
use crate::data::shape::{Example, Label, Layout, Picture, Shape, Turns, turns};
use crate::data::source::Row;
use crate::data::tokenize::{Encoded, Encoder, TooLong};

/// A row that can be used.
pub(super) struct Prepared {
    pub(super) place: Place,
    pub(super) label: Option<Label>,
    pub(super) picture: Option<Picture>,
    pub(super) encoded: Encoded,
    /// Whether the roles of a conversation do not alternate.
    pub(super) turns: bool,
}

/// Whether rows of this layout can be encoded.
pub(super) fn check(
    layout: &Layout,
    settings: &TaskSettings,
    encoder: Option<&Encoder>,
) -> Result<(), DataError> {
    let name = &settings.name;
    let shape = layout.shape.name();
    let Some(encoder) = encoder else {
        let message = format!("task `{name}` has rows of {shape}, for which there is none");
        let needed = layout.shape != Shape::Image;
        return if needed { Err(DataError::setting("tokenizer", message)) } else { Ok(()) };
    };
    if layout.shape.is_chat() && encoder.template.is_none() {
        let message = format!("task `{name}`, shape {shape}: {}", RowProblem::NoTemplate);
        return Err(DataError::setting("chat_template", message));
    }
    let ends = !encoder.tokenizer.special().eos.is_empty();
    if matches!(layout.shape, Shape::PromptCompletion | Shape::Text) && !ends {
        let path = encoder.tokenizer.path().display();
        let message = format!("{path}: no end token is named, so what is learnt would never end");
        return Err(DataError::setting("eos_token", message));
    }
    if encoder.too_long == TooLong::Split && layout.shape != Shape::Text {
        let message = format!("split is for texts; task `{name}` has rows of {shape}");
        return Err(DataError::setting("too_long", message));
    }
    Ok(())
}

/// The row, shaped and tokenised.
pub(super) fn prepare(
    row: Row,
    layout: &Layout,
    settings: &TaskSettings,
    encoder: Option<&Encoder>,
) -> Result<Prepared, RowError> {
    let place = row.place.clone();
    let example = layout.read(row)?;
    let problem = match &example {
        Example::Chat(chat) => turns(chat).err(),
        _ => None,
    };
    let wrong = |problem| RowError { place: place.clone(), problem };
    let turns = problem.is_some();
    if let Some(problem) = problem.filter(|_| settings.turns == Turns::Refuse) {
        return Err(wrong(problem));
    }
    let encoded = encoder.map_or(Ok(Encoded::default()), |encoder| encoder.encode(&example));
    let encoded = encoded.map_err(wrong)?;
    let (label, picture) = match example {
        Example::Classified { label, .. } => (label, None),
        Example::Image { label, picture } => (label, Some(picture)),
        _ => (None, None),
    };
    Ok(Prepared { place, label, picture, encoded, turns })
}
