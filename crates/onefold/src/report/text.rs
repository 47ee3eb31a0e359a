//! Tables for a terminal: at most [`WIDTH`] columns, readable without colour, warnings last where the eye rests.

use super::ReportError;
use super::derived::{Derived, derive};
use super::health::{Health, Layout, TensorHealth};
use super::show::{bytes, cosine, count, counted, lambda, number, percent, shape, short_names, tidy, width};

/// Columns that every line fits into.
const WIDTH: usize = 100;
/// A wider cosine matrix would not fit; the closest pairs are listed instead.
const MATRIX: usize = 10;
/// Experts, pairs, blocks or tensors listed before the rest is only counted.
const ROWS: usize = 8;

/// The report as aligned plain text; ends with a line break.
pub fn to_text(health: &Health) -> Result<String, ReportError> {
    let derived = derive(health)?;
    let layout = Layout::of(health)?;
    let mut sections = vec![headline(health, &layout)];
    if layout.single() {
        sections.extend([dtypes(health), largest(health), ties(health)]);
        sections.push(finite(health).to_owned());
    } else {
        sections.extend([
            experts(health, &derived),
            cosines(health, &derived),
            facts(&derived),
            moved(health, &derived),
        ]);
    }
    sections.extend([run(health), warnings(&derived)]);
    sections.retain(|section| !section.is_empty());
    Ok(sections.iter().map(|section| section.trim_end()).collect::<Vec<_>>().join("\n\n") + "\n")
}

fn headline(health: &Health, layout: &Layout) -> String {
    let method = health.method.as_ref().map(|method| format!(" · {}", tidy(method, 30))).unwrap_or_default();
    let mut lines = vec![format!("{}{method}", tidy(&health.title, 60))];
    lines.extend(
        health.base.as_ref().filter(|_| !layout.single()).map(|base| format!("base {}", tidy(base, 90))),
    );
    let mut parts = Vec::new();
    if !layout.single() {
        parts.push(counted(layout.experts as u64, "expert"));
    }
    parts.push(format!("{} parameters", count(health.totals.parameters)));
    parts.push(bytes(health.totals.bytes));
    parts.push(counted(health.tensors.len() as u64, "tensor"));
    parts.extend((!health.copied.is_empty()).then(|| format!("{} copied", health.copied.len())));
    lines.push(parts.join(" · "));
    lines.join("\n")
}

fn experts(health: &Health, derived: &Derived) -> String {
    let (base, displacement) = (health.base.is_some(), &derived.displacement);
    let mut table = Table::new(if base {
        "#|expert|‖τ‖|‖τ‖/‖θ₀‖|λ MetaGPT"
    } else {
        "#|model|‖θ‖"
    });
    let used = derived.experts.iter().any(|expert| expert.coefficient.is_some());
    table.head_if(used, "λ used");
    table.head_if(displacement.is_some(), if base { "cos(Δ,τ)|‖θ*−θ_t‖" } else { "cos(θ*,θ)|‖θ*−θ_t‖" });
    let names = short_names(&health.experts);
    for (t, (expert, name)) in derived.experts.iter().zip(&names).enumerate().take(4 * ROWS) {
        let mut row = vec![(t + 1).to_string(), tidy(name, 28), number(expert.norm)];
        row.extend(expert.relative.map(percent));
        row.extend(expert.metagpt.map(lambda));
        let own = expert.coefficient.map(|own| match own.min == own.max {
            true => lambda(own.mean),
            false => format!("{:.2}…{:.2}", own.min, own.max),
        });
        row.extend(used.then(|| own.unwrap_or_else(|| "–".to_owned())));
        row.extend(displacement.iter().flat_map(|to| [cosine(to.cosines[t]), number(to.distances[t])]));
        table.rows.push(row);
    }
    let rest = more(names.len(), 4 * ROWS, "expert");
    table.left = &[1];
    table.titled(if base { "Experts" } else { "Models" }) + &rest
}

fn cosines(health: &Health, derived: &Derived) -> String {
    let k = derived.experts.len();
    let of = if health.base.is_some() { "task vectors" } else { "models" };
    if k < 2 {
        return String::new();
    }
    if k > MATRIX {
        return closest(health, derived, of);
    }
    let mut table = Table { header: vec![String::new()], ..Table::default() };
    table.header.extend((1..=k).map(|t| t.to_string()));
    for i in 0..k {
        let cell = |j: usize| match i >= j {
            true => cosine(derived.cosine[i][j]),
            false => cosine(derived.cosine_block_mean[i][j]),
        };
        table.rows.push(std::iter::once((i + 1).to_string()).chain((0..k).map(cell)).collect());
    }
    table.titled(&format!("Cosines of the {of} (upper right: mean over layers)"))
}

fn closest(health: &Health, derived: &Derived, of: &str) -> String {
    let names = short_names(&health.experts);
    let k = names.len();
    let pairs = (0..k).flat_map(|i| (i + 1..k).map(move |j| (i, j)));
    let mut found: Vec<(f64, usize, usize)> =
        pairs.filter_map(|(i, j)| Some((derived.cosine[i][j]?, i, j))).collect();
    found.sort_by(|a, b| b.0.abs().total_cmp(&a.0.abs()));
    let mut table = Table { left: &[0, 1], ..Table::new("expert|expert|cos|layer mean") };
    for &(value, i, j) in found.iter().take(ROWS) {
        let mean = cosine(derived.cosine_block_mean[i][j]);
        table.rows.push(vec![tidy(&names[i], 34), tidy(&names[j], 34), cosine(Some(value)), mean]);
    }
    table.titled(&format!("Closest {of}")) + &more(found.len(), ROWS, "pair")
}

fn facts(derived: &Derived) -> String {
    let mut lines = Vec::new();
    if let Some(to) = &derived.displacement {
        let relative =
            to.relative.map(|relative| format!(", {} of ‖θ₀‖", percent(relative))).unwrap_or_default();
        let what = if to.relative.is_some() { "‖θ*−θ₀‖" } else { "‖θ*‖" };
        lines.push(format!("Merged model     {what} = {}{relative}", number(to.norm)));
    }
    lines.extend(derived.sign_conflict_rate.map(|rate| {
        format!("Sign conflicts   {} of the positions that two or more experts changed", percent(rate))
    }));
    if derived.experts.len() > 1 && !derived.bounds.is_empty() {
        let bounds: Vec<String> =
            derived.bounds.iter().map(|bound| format!("{} {}", bound.label, number(bound.value))).collect();
        lines.push(format!("Loss bound U(λ)  {}", bounds.join(" · ")));
    }
    lines.join("\n")
}

/// Blocks by their mean share of ‖τ‖².
fn moved(health: &Health, derived: &Derived) -> String {
    let k = derived.experts.len();
    if k == 0 || health.base.is_none() || derived.blocks.len() < 2 {
        return String::new();
    }
    let mut blocks: Vec<_> = derived.blocks.iter().collect();
    blocks.sort_by(|a, b| b.shares.iter().sum::<f64>().total_cmp(&a.shares.iter().sum()));
    let mut table = Table { left: &[0], ..Table::new("block|parameters|conflicts") };
    table.header.extend((1..=k.min(ROWS)).map(|t| t.to_string()));
    for block in blocks.iter().take(ROWS) {
        let label =
            if block.layer.is_some() { format!("layer {}", block.label) } else { block.label.clone() };
        let conflicts = block.sign_conflict_rate.map_or_else(|| "–".to_owned(), percent);
        let mut row = vec![tidy(&label, 24), count(block.elements), conflicts];
        row.extend(block.shares.iter().take(ROWS).map(|share| format!("{:.1} %", share * 100.0)));
        table.rows.push(row);
    }
    table.titled("Where the experts changed most (share of ‖τ‖² per expert)")
        + &more(blocks.len(), ROWS, "block")
}

fn dtypes(health: &Health) -> String {
    let mut table = Table { left: &[0], ..Table::new("type|tensors|parameters|bytes") };
    for of in health.totals.dtypes.iter().take(4 * ROWS) {
        table.rows.push(vec![
            tidy(&of.dtype, 16),
            of.tensors.to_string(),
            count(of.elements),
            bytes(of.bytes),
        ]);
    }
    table.titled("Stored types")
}

/// The largest tensors, largest first; equal ones in the order of the checkpoint.
pub(super) fn by_size(health: &Health) -> Vec<&TensorHealth> {
    let mut tensors: Vec<_> = health.tensors.iter().collect();
    tensors.sort_by_key(|tensor| std::cmp::Reverse(tensor.elements));
    tensors
}

fn largest(health: &Health) -> String {
    let mut table = Table { left: &[0, 1, 2], ..Table::new("tensor|type|shape|parameters") };
    for tensor in by_size(health).into_iter().take(ROWS) {
        let form = tidy(&shape(&tensor.shape), 26);
        table.rows.push(vec![tidy(&tensor.name, 46), tidy(&tensor.dtype, 8), form, count(tensor.elements)]);
    }
    table.titled("Largest tensors") + &more(health.tensors.len(), ROWS, "tensor")
}

fn ties(health: &Health) -> String {
    let line = |names: &Vec<String>| {
        let names: Vec<String> = names.iter().take(3).map(|name| tidy(name, 44)).collect();
        wrapped("Tied  ", &names.join(" = "))
    };
    health.tied.iter().take(ROWS).map(line).collect::<Vec<_>>().join("\n")
        + &more(health.tied.len(), ROWS, "group")
}

/// Says that all is well; what is not is a warning.
fn finite(health: &Health) -> &'static str {
    let counted = health.tensors.iter().any(|tensor| !tensor.nan.is_empty());
    let clean =
        health.tensors.iter().all(|tensor| tensor.nan.iter().chain(&tensor.inf).all(|&count| count == 0));
    if counted && clean { "No NaN, no Inf" } else { "" }
}

fn run(health: &Health) -> String {
    let facts: Vec<String> = health
        .run
        .iter()
        .take(4 * ROWS)
        .map(|(key, value)| format!("{} {}", tidy(key, 20), tidy(value, 60)))
        .collect();
    wrapped("", &facts.join(" · "))
}

fn warnings(derived: &Derived) -> String {
    let shown = derived.warnings.iter().take(4 * ROWS);
    let lines: Vec<String> = shown.map(|warning| wrapped("! ", &tidy(&warning.message, 2000))).collect();
    lines.join("\n") + &more(derived.warnings.len(), 4 * ROWS, "warning")
}

/// "and n more", if there are.
fn more(all: usize, shown: usize, thing: &str) -> String {
    match all.saturating_sub(shown) {
        0 => String::new(),
        rest => format!("\nand {}", counted(rest as u64, &format!("more {thing}"))),
    }
}

/// Breaks at spaces so that no line exceeds [`WIDTH`]; later lines are indented below the text.
fn wrapped(first: &str, text: &str) -> String {
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
struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
    left: &'static [usize],
}

impl Table {
    fn new(header: &str) -> Self {
        Self { header: header.split('|').map(str::to_owned).collect(), ..Self::default() }
    }

    fn head_if(&mut self, condition: bool, header: &str) {
        self.header.extend(header.split('|').filter(|_| condition).map(str::to_owned));
    }

    /// Title, header, rows; nothing for an empty table.
    fn titled(&self, title: &str) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;

    #[test]
    fn show() {
        for h in [fixture::merge(), fixture::single(), fixture::troubled()] {
            println!("{}\n=====", to_text(&h).unwrap());
        }
    }
}
