//! What usually goes wrong with data, and how it is seen. The table of codes stands in the module above.

use super::same::Same;
use super::{Finding, Severity, classes, images};
use crate::data::shape::Kind;
use crate::data::store::RowTokens;
use crate::data::task::Task;
use crate::data::tokenize::Encoder;
use crate::model::Limits;
use crate::text::Tokenizer;

/// What is found in a task.
pub(super) fn of(task: &Task, encoder: Option<&Encoder>, limits: Option<&Limits>) -> Vec<Finding> {
    let mut list = List { task: &task.name, findings: Vec::new() };
    list.counted(task);
    if let Some(encoder) = encoder {
        list.beginnings(task, &encoder.tokenizer);
        list.unknown(task, &encoder.tokenizer);
        if task.kind == Kind::Generate {
            list.ends(task, &encoder.tokenizer);
        }
    }
    if let Some(limits) = limits {
        list.beyond(task, limits);
    }
    list.same(&Same::of(task), task);
    list.classes(task);
    if let Some(message) = images::broken(task) {
        list.add(Severity::Fatal, "images", message);
    }
    list.findings
}

struct List<'a> {
    task: &'a str,
    findings: Vec<Finding>,
}

impl List<'_> {
    fn add(&mut self, severity: Severity, code: &'static str, message: String) {
        self.findings.push(Finding { severity, task: self.task.to_owned(), code, message });
    }

    fn warn_if(&mut self, some: usize, code: &'static str, message: impl FnOnce() -> String) {
        if some > 0 {
            self.add(Severity::Warning, code, message());
        }
    }

    /// What was counted while rows were read.
    fn counted(&mut self, task: &Task) {
        let counts = &task.counts;
        let read = counts.read;
        self.warn_if(counts.bad, "bad_rows", || {
            format!(
                "{} of {read} rows cannot be used, the first: {}",
                counts.bad,
                counts.first_bad.join("; ")
            )
        });
        self.warn_if(counts.too_long, "too_long", || {
            format!("{} of {read} rows are longer than the limit and left out", counts.too_long)
        });
        self.warn_if(counts.cut, "cut", || {
            format!("{} of {read} rows were cut by {} tokens in all", counts.cut, counts.tokens_cut)
        });
        self.warn_if(counts.masked, "masked", || {
            format!(
                "{} of {read} rows have nothing to learn and are left out: no answer, or it was cut off",
                counts.masked
            )
        });
        self.warn_if(counts.turns, "turns", || {
            format!("the roles of {} of {read} conversations do not alternate", counts.turns)
        });
        self.warn_if(counts.merged, "merged", || {
            format!(
                "in {} of {read} rows one token holds the end of the prompt and the beginning of the completion; begin \
                 completions with the blank, do not end prompts with it",
                counts.merged
            )
        });
        if task.validation.is_empty() {
            self.add(Severity::Note, "no_validation", "there are no validation rows".to_owned());
        }
    }

    /// Texts that begin twice: a template that writes the token, tokenised with special tokens.
    fn beginnings(&mut self, task: &Task, tokenizer: &Tokenizer) {
        let Some(bos) = tokenizer.special().bos else { return };
        let (rows, of) = count(task, |tokens| tokens.ids().starts_with(&[bos, bos]));
        let severity = if 2 * rows > of { Severity::Fatal } else { Severity::Warning };
        if rows > 0 {
            let message = format!(
                "{rows} of {of} rows begin with the beginning token twice; take it out of the template or the texts"
            );
            self.add(severity, "double_bos", message);
        }
    }

    /// Answers after which the model would not learn to stop.
    fn ends(&mut self, task: &Task, tokenizer: &Tokenizer) {
        let ends = &tokenizer.special().eos;
        let (rows, of) = count(task, |tokens| !ends_well(tokens, ends));
        self.warn_if(rows, "no_end", || {
            format!(
                "in {rows} of {of} rows the last answer has no end token that is learnt (they were cut, or the template \
                 ends answers with a token that is not in `eos_token_id` of generation_config.json)"
            )
        });
    }

    fn unknown(&mut self, task: &Task, tokenizer: &Tokenizer) {
        let token = tokenizer.special().named.get("unk_token").and_then(|token| tokenizer.id(token));
        let Some(token) = token else { return };
        let ids = || task.train.iter().filter_map(|row| task.tokens(*row)).flat_map(|tokens| tokens.ids());
        let (unknown, all) = (ids().filter(|id| **id == token).count(), ids().count());
        self.warn_if(usize::from(100 * unknown > all), "unknown", || {
            let percent = 100.0 * unknown as f64 / all as f64;
            format!("{percent:.1} % of the tokens are unknown to the tokenizer; is it of another language?")
        });
    }

    /// Ids and lengths that the model does not have.
    fn beyond(&mut self, task: &Task, limits: &Limits) {
        let vocabulary = limits.vocabulary;
        let beyond = |tokens: &RowTokens<'_>| tokens.ids().iter().any(|id| *id as usize >= vocabulary);
        self.fatal_rows(task, beyond, "vocabulary", |rows, place| {
            format!(
                "{rows} rows have token ids beyond the model's {vocabulary}, the first: {place}; tokenizer and model have to \
                 belong together"
            )
        });
        let Some(positions) = limits.positions else { return };
        let beyond = |tokens: &RowTokens<'_>| tokens.ids().len() > positions;
        self.fatal_rows(task, beyond, "positions", |rows, place| {
            format!(
                "{rows} rows have more tokens than the model has positions ({positions}), the first: {place}; set a length"
            )
        });
    }

    fn fatal_rows(
        &mut self,
        task: &Task,
        is: impl Fn(&RowTokens<'_>) -> bool,
        code: &'static str,
        message: impl Fn(usize, String) -> String,
    ) {
        let both = task.train.iter().chain(&task.validation);
        let rows: Vec<_> = both.filter(|row| task.tokens(**row).is_some_and(|tokens| is(&tokens))).collect();
        if let Some(first) = rows.first() {
            self.add(Severity::Fatal, code, message(rows.len(), task.place(**first).to_string()));
        }
    }

    fn same(&mut self, same: &Same, task: &Task) {
        let of = task.train.len();
        let example = |pair: Option<(u32, u32)>| {
            pair.map(|(a, b)| format!(", the first: {} and {}", task.place(a), task.place(b)))
                .unwrap_or_default()
        };
        self.warn_if(same.duplicates, "duplicates", || {
            format!("{} of {of} rows stand there already{}", same.duplicates, example(same.first_duplicate))
        });
        self.warn_if(same.conflicts, "conflicts", || {
            format!(
                "{} of {of} rows stand there already with another class{}",
                same.conflicts,
                example(same.first_conflict)
            )
        });
        let validation = task.validation.len();
        let severity = if same.overlap == validation { Severity::Fatal } else { Severity::Warning };
        if same.overlap > 0 {
            let (overlap, first) = (same.overlap, example(same.first_overlap));
            let message = format!("{overlap} of {validation} validation rows are also learnt{first}");
            self.add(severity, "overlap", message);
        }
    }

    fn classes(&mut self, task: &Task) {
        let classes = classes(task);
        let names = |none: &dyn Fn(&super::ClassCount) -> bool| {
            let names: Vec<_> =
                classes.iter().filter(|class| none(class)).map(|class| class.name.as_str()).collect();
            (names.len(), names.into_iter().take(10).collect::<Vec<_>>().join(", "))
        };
        let learnt = classes.iter().filter(|class| class.train > 0).count();
        if learnt == 1 {
            self.add(Severity::Fatal, "one_class", "all rows to learn from have the same class".to_owned());
        }
        let (count, absent) = names(&|class| class.train == 0);
        self.warn_if(count, "no_rows_of_class", || {
            format!("{count} classes have no row to learn from: {absent}")
        });
        let (count, absent) = names(&|class| class.validation == 0 && class.train > 0);
        let count = if task.validation.is_empty() { 0 } else { count };
        self.warn_if(count, "no_rows_of_class", || {
            format!("{count} classes have no row to validate on: {absent}")
        });
    }
}

/// How many training rows are so, and how many there are.
fn count(task: &Task, is: impl Fn(&RowTokens<'_>) -> bool) -> (usize, usize) {
    let rows = task.train.iter().filter(|row| task.tokens(**row).is_some_and(|tokens| is(&tokens))).count();
    (rows, task.train.len())
}

/// Whether the last learnt tokens in a row hold an end token. Some templates write a line break after it.
fn ends_well(tokens: &RowTokens<'_>, ends: &[u32]) -> bool {
    let ids = tokens.ids();
    let learnt = (0..ids.len()).rev().skip_while(|token| !tokens.is_learnt(*token));
    learnt.take_while(|token| tokens.is_learnt(*token)).take(3).any(|token| ends.contains(&ids[token]))
}
