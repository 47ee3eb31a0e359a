//! Which rows are for training and which are for validation, if the recipe names no file for the latter.
//!
//! The rows of a task are drawn in an order that depends on seed, the task's name and the number of rows; the first
//! `⌈fraction · n⌉` of it are for validation. Both parts keep the order of the files.

use super::error::DataError;
use super::shuffle::permutation;

/// How much is for validation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Held {
    /// Of all rows.
    Fraction(f64),
    /// Rows.
    Rows(usize),
}

impl Held {
    /// How many of `rows`.
    fn count(self, rows: usize) -> Result<usize, DataError> {
        let wrong = |message: String| Err(DataError::setting("validation", message));
        match self {
            Self::Fraction(fraction) if fraction > 0.0 && fraction < 1.0 => {
                Ok(((fraction * rows as f64).ceil() as usize).min(rows))
            }
            Self::Fraction(fraction) => {
                wrong(format!("expected a fraction between 0 and 1, found {fraction}"))
            }
            Self::Rows(0) => wrong("0 rows are no validation; leave the key out".to_owned()),
            Self::Rows(count) if count >= rows => wrong(format!(
                "{count} rows are to be held back, there are {rows}; nothing would be left to learn"
            )),
            Self::Rows(count) => Ok(count),
        }
    }
}

/// The rows for training and for validation, of `rows` rows.
pub fn split(rows: usize, held: Held, seed: u64, task: &str) -> Result<(Vec<u32>, Vec<u32>), DataError> {
    let count = held.count(rows)?;
    let order = permutation(rows, seed, task, "validation");
    let (validation, train) = order.split_at(count);
    let sorted = |part: &[u32]| {
        let mut part = part.to_vec();
        part.sort_unstable();
        part
    };
    Ok((sorted(train), sorted(validation)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_in_one_part() {
        let (train, validation) = split(101, Held::Fraction(0.05), 3, "code").unwrap();
        assert_eq!(validation.len(), 6);
        let mut all = [train.as_slice(), &validation].concat();
        assert!(train.is_sorted() && validation.is_sorted());
        all.sort_unstable();
        assert_eq!(all, (0..101).collect::<Vec<_>>());
        assert_eq!(split(101, Held::Fraction(0.05), 3, "code").unwrap().1, validation);
        assert_ne!(split(101, Held::Fraction(0.05), 4, "code").unwrap().1, validation);
        assert_ne!(split(101, Held::Fraction(0.05), 3, "math").unwrap().1, validation);
        assert_eq!(split(101, Held::Rows(7), 3, "code").unwrap().1.len(), 7);
    }

    #[test]
    fn parts_that_cannot_be() {
        for held in
            [Held::Fraction(0.0), Held::Fraction(1.0), Held::Fraction(f64::NAN), Held::Rows(0), Held::Rows(5)]
        {
            let error = split(5, held, 1, "a").unwrap_err().to_string();
            assert!(error.starts_with("validation: "), "{error}");
        }
    }
}
