//! All tokens of all models, numbered once, so that everything after the parsing works on arrays.

use std::borrow::Cow;
use std::sync::Arc;

use indexmap::IndexSet;

use super::vocabulary::{Vocabulary, narrow};

/// No token, or no row.
pub(super) const ABSENT: u32 = u32::MAX;

/// The tokens of all models and the rows they have in each.
#[derive(Debug, Default)]
pub(super) struct Table<'a> {
    /// Every token of every model, and those only the recipe names.
    pub(super) tokens: IndexSet<Cow<'a, str>>,
    pub(super) models: Vec<Arc<ModelRows>>,
}

/// The tokens of one model by token and by row.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct ModelRows {
    /// For each token its row in the model's embedding, or [`ABSENT`].
    row_of: Vec<u32>,
    /// For each stored row its token, or [`ABSENT`]; of several the first in the file.
    pub(super) token_at: Vec<u32>,
    /// Tokens whose id is beyond the embedding: as good as absent.
    pub(super) over_range: Vec<(u32, u32)>,
    /// Tokens that share a row with an earlier token.
    pub(super) shared_row: Vec<u32>,
}

impl ModelRows {
    /// The token's row in the model's embedding.
    pub(super) fn row_of(&self, token: u32) -> Option<u32> {
        self.row_of.get(token as usize).copied().filter(|row| *row != ABSENT)
    }

    /// Whether a stored row holds no token.
    pub(super) fn is_padding(&self, row: u32) -> bool {
        self.token_at.get(row as usize).is_some_and(|token| *token == ABSENT)
    }
}

impl<'a> Table<'a> {
    /// The text of a token.
    pub(super) fn text(&self, token: u32) -> &str {
        self.tokens.get_index(token as usize).map_or("", |text| text)
    }

    /// The number of a token's text.
    pub(super) fn find(&self, text: &str) -> Option<u32> {
        self.tokens.get_index_of(text).and_then(|index| u32::try_from(index).ok())
    }

    /// Numbers a token.
    pub(super) fn intern(&mut self, text: Cow<'a, str>) -> u32 {
        u32::try_from(self.tokens.insert_full(text).0)
            .expect("fewer than 2^32 tokens fit in the capped files")
    }

    /// Adds a model with `rows` embedding rows. Of a token named twice the last id counts, as in any JSON map.
    pub(super) fn model(&mut self, vocabulary: &Vocabulary<'a>, rows: u32) -> ModelRows {
        let mut model = ModelRows { token_at: vec![ABSENT; rows as usize], ..ModelRows::default() };
        let mut ids: Vec<(u32, u32)> = Vec::with_capacity(vocabulary.entries.len());
        for (text, id) in &vocabulary.entries {
            ids.push((self.intern(text.clone()), *id));
        }
        for added in &vocabulary.added {
            let id = narrow(added.id);
            ids.push((self.intern(Cow::Owned(added.content.clone())), id));
        }
        model.row_of = vec![ABSENT; self.tokens.len()];
        for (token, id) in &ids {
            model.row_of[*token as usize] = *id;
        }
        for (token, _) in ids {
            model.place(token);
        }
        model.shared_row.sort_unstable();
        model.shared_row.dedup();
        model
    }
}

impl ModelRows {
    /// Puts a token on its row, once.
    fn place(&mut self, token: u32) {
        let row = self.row_of[token as usize];
        match self.token_at.get_mut(row as usize) {
            Some(holder) if *holder == ABSENT => *holder = token,
            Some(holder) if *holder == token => {}
            Some(_) => self.shared_row.push(token),
            // Seen before, as a token of the vocabulary and as an added one.
            None if row == ABSENT => {}
            None => {
                self.over_range.push((token, row));
                self.row_of[token as usize] = ABSENT;
            }
        }
    }
}
