//! Lines for a terminal: items side by side, wrapped prose, aligned tables. Only a word wider than a line is cut.

use super::show::{tidy, width};

/// Columns that every line fits into.
pub(super) const WIDTH: usize = 100;

/// Items side by side, broken between them; within one only if it fills more than a line.
pub(super) fn listed(items: &[String]) -> String {
    let mut lines: Vec<String> = Vec::new();
    for item in items {
        match lines.last_mut().filter(|line| width(line) + 3 + width(item) <= WIDTH) {
            Some(line) => *line += &format!(" · {item}"),
            None => lines.extend(wrapped("", item).lines().map(str::to_owned)),
        }
    }
    lines.join("\n")
}

/// Breaks at spaces so that no line exceeds [`WIDTH`]; later lines are indented below the text.
pub(super) fn wrapped(first: &str, text: &str) -> String {
    let indent = " ".repeat(width(first));
    let (mut out, mut used) = (first.to_owned(), width(first));
    for (at, word) in text.split(' ').enumerate() {
        let word = tidy(word, WIDTH - width(first));
        if at > 0 && used + 1 + width(&word) > WIDTH {
            out += &format!("\n{indent}");
            used = width(first);
        } else if at > 0 {
            out.push(' ');
            used += 1;
        }
        used += width(&word);
        out += &word;
    }
    if text.is_empty() { String::new() } else { out }
}

/// Right-aligned columns, but for those in `left`.
#[derive(Default)]
pub(super) struct Table {
    /// Titles of the columns.
    pub(super) header: Vec<String>,
    /// Cells.
    pub(super) rows: Vec<Vec<String>>,
    /// Numbers of the columns of words.
    pub(super) left: &'static [usize],
}

impl Table {
    /// A table with these titles, separated by `|`.
    pub(super) fn new(header: &str) -> Self {
        Self { header: header.split('|').map(str::to_owned).collect(), ..Self::default() }
    }

    /// Adds titles if `condition` holds.
    pub(super) fn head_if(&mut self, condition: bool, header: &str) {
        self.header.extend(header.split('|').filter(|_| condition).map(str::to_owned));
    }

    /// Title, header, rows; nothing for an empty table.
    pub(super) fn titled(&self, title: &str) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let lines = || std::iter::once(&self.header).chain(&self.rows);
        let widths: Vec<usize> = (0..self.header.len())
            .map(|at| lines().filter_map(|line| line.get(at)).map(|cell| width(cell)).max().unwrap_or(0))
            .collect();
        let cell = |(at, cell): (usize, &String)| {
            let pad = " ".repeat(widths[at].saturating_sub(width(cell)));
            if self.left.contains(&at) { format!("{cell}{pad}") } else { format!("{pad}{cell}") }
        };
        let line = |line: &Vec<String>| {
            let cells: Vec<String> = line.iter().take(widths.len()).enumerate().map(cell).collect();
            format!("  {}", cells.join("  ")).trim_end().to_owned()
        };
        std::iter::once(title.to_owned()).chain(lines().map(line)).collect::<Vec<_>>().join("\n")
    }
}
