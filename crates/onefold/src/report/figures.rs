//! Which drawings stand on the page: cosines, change per block, shares, coefficients per block.
//!
//! Each heat map is drawn twice, lying for wide pages and standing for phones; the style sheet shows one.
//! Blocks of a deep model are pooled and long lists of experts cut, so that no drawing exceeds [`CELLS`].

use minijinja::{Value, context};

use super::derived::{Block, Derived};
use super::health::Layout;
use super::html::safe;
use super::scale::Scale;
use super::show::{cosine, count, number, percent, tidy};
use super::svg::{COLOURS, Cell, HeatMap, StackedBars};

/// Cells of one drawing.
const CELLS: usize = 400;
/// Experts in one drawing.
const EXPERTS: usize = 24;
/// Widths of drawings on wide pages and on phones.
const WIDE: f64 = 976.0;
const NARROW: f64 = 350.0;

/// The drawings of a merge or comparison.
pub(super) fn all(layout: &Layout, derived: &Derived, names: &[String]) -> Vec<Option<Value>> {
    let names: Vec<String> = names.iter().take(EXPERTS).map(|name| tidy(name, 40)).collect();
    let blocks = pooled(&derived.blocks, CELLS / (names.len() + 1));
    if derived.experts.is_empty() {
        return Vec::new();
    }
    vec![
        cosines(layout, derived, &names),
        change(layout, &blocks, &names),
        shares(layout, derived, &blocks, &names),
        coefficients(derived, &blocks, &names),
    ]
}

/// The drawing of one model alone: parameters by block.
pub(super) fn sizes(derived: &Derived) -> Option<Value> {
    let blocks = pooled(&derived.blocks, CELLS / 4);
    let bars = StackedBars {
        label: "Parameters per block".to_owned(),
        columns: blocks.iter().map(|block| block.label.clone()).collect(),
        values: blocks.iter().map(|block| vec![block.elements as f64]).collect(),
        titles: blocks
            .iter()
            .map(|block| vec![format!("{}: {}", place(block), count(block.elements))])
            .collect(),
        axis: |value| count(value as u64),
    };
    let figures = vec![safe(bars.upright("wide", WIDE, 60.0)), safe(bars.lying("narrow", NARROW))];
    (!blocks.is_empty()).then(|| context! { title => "Parameters per block", figures })
}

/// Neighbouring blocks put together until at most `most` remain.
fn pooled(blocks: &[Block], most: usize) -> Vec<Block> {
    blocks.chunks(blocks.len().div_ceil(most.max(1)).max(1)).map(pool).collect()
}

fn pool(blocks: &[Block]) -> Block {
    let (first, last) = (&blocks[0], &blocks[blocks.len() - 1]);
    let norm = |of: &dyn Fn(&Block) -> f64| blocks.iter().map(|block| of(block).powi(2)).sum::<f64>().sqrt();
    let per_expert = |sum: &dyn Fn(usize) -> f64| (0..first.norms.len()).map(sum).collect::<Vec<f64>>();
    let weight: f64 =
        blocks.iter().filter(|block| block.coefficients.is_some()).map(|block| block.elements as f64).sum();
    let lambda = |t: usize| {
        let of = |block: &Block| {
            block.coefficients.as_ref().map_or(0.0, |lambda| lambda[t] * block.elements as f64)
        };
        blocks.iter().map(of).sum::<f64>() / weight
    };
    if blocks.len() == 1 {
        return Block { label: tidy(&first.label, 40), ..first.clone() };
    }
    Block {
        label: format!("{}–{}", tidy(&first.label, 18), tidy(&last.label, 18)),
        layer: first.layer.and(last.layer),
        tensors: blocks.iter().map(|block| block.tensors).sum(),
        elements: blocks.iter().fold(0, |sum, block| sum.saturating_add(block.elements)),
        base_norm: first.base_norm.map(|_| norm(&|block| block.base_norm.unwrap_or(0.0))),
        norms: per_expert(&|t| norm(&|block| block.norms[t])),
        shares: per_expert(&|t| blocks.iter().map(|block| block.shares[t]).sum()),
        coefficients: (weight > 0.0)
            .then(|| (0..first.coefficients.as_ref().map_or(0, Vec::len)).map(lambda).collect()),
        sign_conflict_rate: None,
        merged_norm: first.merged_norm.map(|_| norm(&|block| block.merged_norm.unwrap_or(0.0))),
    }
}

/// `layer 7`, or the label of a part.
fn place(block: &Block) -> String {
    if block.layer.is_some() { format!("layer {}", block.label) } else { block.label.clone() }
}

/// Both drawings of a heat map with blocks as columns.
fn both(map: &HeatMap) -> Vec<Value> {
    vec![safe(map.draw("wide", WIDE, 62.0)), safe(map.transposed().draw("narrow", NARROW, 90.0))]
}

/// Names of the colours of experts.
fn keys(names: &[String]) -> Vec<Value> {
    names.iter().enumerate().map(|(t, name)| context! { colour => t % COLOURS, name }).collect()
}

fn cosines(layout: &Layout, derived: &Derived, names: &[String]) -> Option<Value> {
    let cell = |i: usize, j: usize| {
        let mean = derived.cosine_block_mean[i][j];
        let value = if i >= j { derived.cosine[i][j] } else { mean };
        let title = format!(
            "{} and {}: {}, mean over blocks {}",
            names[i],
            names[j],
            cosine(derived.cosine[i][j]),
            cosine(mean)
        );
        let (value, text) =
            if i == j { (f64::NAN, String::new()) } else { (value.unwrap_or(f64::NAN), cosine(value)) };
        Cell { value, text, title }
    };
    let k = names.len();
    let rows: Vec<String> = names.iter().enumerate().map(|(t, name)| format!("{} {name}", t + 1)).collect();
    let map = HeatMap {
        label: "Cosines between experts".to_owned(),
        rows,
        columns: (1..=k).map(|t| t.to_string()).collect(),
        cells: (0..k).map(|i| (0..k).map(|j| cell(i, j)).collect()).collect(),
        scale: Scale::Cosine,
    };
    let figures = vec![safe(map.draw("wide", 700.0, 72.0)), safe(map.draw("narrow", NARROW, 64.0))];
    let (title, note) = match layout.base {
        true => (
            "Are the experts independent?",
            "cos(τᵢ, τⱼ) between what two experts changed. Lower left: whole model; upper right: mean over blocks. \
             Near zero they do not disturb each other; above 0.2 they overlap, below −0.2 they work against each other.",
        ),
        false => (
            "How alike are the models?",
            "cos(θᵢ, θⱼ). Lower left: whole model; upper right: mean over blocks.",
        ),
    };
    let legend = safe(Scale::Cosine.legend("−1", "1"));
    let more = match derived.experts.len() {
        all if all > k => format!("The drawings show the first {k} of {all}; the JSON report has all."),
        _ => String::new(),
    };
    (k > 1).then(|| context! { title, note, figures, legend, more })
}

fn change(layout: &Layout, blocks: &[Block], names: &[String]) -> Option<Value> {
    let against = |block: &Block, norm: f64| block.base_norm.map_or(norm, |base| norm / base);
    let cell = |block: &Block, name: &str, norm: f64, share: Option<f64>| {
        let value = against(block, norm);
        let share = share.map(|share| format!(", {} of its ‖τ‖²", percent(share))).unwrap_or_default();
        let (text, title) = match block.base_norm {
            Some(base) => (
                percent(value).replace(" %", ""),
                format!(
                    "{name}, {}: {} of the base; ‖τ‖ = {}, ‖θ₀‖ = {}{share}",
                    place(block),
                    percent(value),
                    number(norm),
                    number(base)
                ),
            ),
            None => (number(norm), format!("{name}, {}: ‖θ‖ = {}", place(block), number(norm))),
        };
        Cell { value, text, title }
    };
    let row = |t: usize| {
        blocks.iter().map(|block| cell(block, &names[t], block.norms[t], Some(block.shares[t]))).collect()
    };
    let mut rows = names.to_vec();
    let mut cells: Vec<Vec<Cell>> = (0..names.len()).map(row).collect();
    let merged: Option<Vec<Cell>> =
        blocks.iter().map(|block| Some(cell(block, "merged", block.merged_norm?, None))).collect();
    if let Some(merged) = merged.filter(|merged| !merged.is_empty()) {
        rows.push("merged".to_owned());
        cells.push(merged);
    }
    let highest =
        cells.iter().flatten().map(|cell| cell.value).filter(|value| value.is_finite()).fold(0.0, f64::max);
    let scale = Scale::Sequential { max: highest };
    let columns = blocks.iter().map(|block| block.label.clone()).collect();
    let (title, note, high) = match layout.base {
        true => (
            "What did each expert change?",
            "‖τ‖ ÷ ‖θ₀‖ in percent, block by block, and the same for the merged model. Blocks run from input to output; \
             numbers are layers.",
            percent(highest),
        ),
        false => {
            ("Norms per block", "‖θ‖ of each model, block by block, from input to output.", number(highest))
        }
    };
    let map = HeatMap { label: title.to_owned(), rows, columns, cells, scale };
    (!blocks.is_empty())
        .then(|| context! { title, note, figures => both(&map), legend => safe(scale.legend("0", &high)) })
}

fn shares(layout: &Layout, derived: &Derived, blocks: &[Block], names: &[String]) -> Option<Value> {
    let total: f64 = derived.experts.iter().map(|expert| expert.norm * expert.norm).sum();
    let of_all = |block: &Block, t: usize| block.norms[t] * block.norms[t] / total;
    let title = |block: &Block, t: usize| {
        format!(
            "{}, {}: {} of all change, {} of its own",
            names[t],
            place(block),
            percent(of_all(block, t)),
            percent(block.shares[t])
        )
    };
    let each = 0..names.len();
    let bars = StackedBars {
        label: "Share of each block and expert in all change".to_owned(),
        columns: blocks.iter().map(|block| block.label.clone()).collect(),
        values: blocks.iter().map(|block| each.clone().map(|t| of_all(block, t)).collect()).collect(),
        titles: blocks.iter().map(|block| each.clone().map(|t| title(block, t)).collect()).collect(),
        axis: percent_axis,
    };
    let figures = vec![safe(bars.upright("wide", WIDE, 60.0)), safe(bars.lying("narrow", NARROW))];
    let drawn = layout.base && total > 0.0 && total.is_finite() && blocks.len() > 1;
    drawn.then(|| {
        context! {
            title => "Where is the change, and whose is it?",
            note => "Each block's share of Σ‖τ‖², split by expert. A block in one colour is decided by one expert.",
            figures, keys => keys(names),
        }
    })
}

fn percent_axis(value: f64) -> String {
    let text = format!("{:.1}", value * 100.0);
    format!("{} %", text.strip_suffix(".0").unwrap_or(&text))
}

/// Coefficients as used, if they are not the same everywhere.
fn coefficients(derived: &Derived, blocks: &[Block], names: &[String]) -> Option<Value> {
    let varied = derived.experts.iter().any(|expert| expert.coefficient.is_some_and(|own| own.min < own.max));
    let values = || {
        blocks
            .iter()
            .filter_map(|block| block.coefficients.as_ref())
            .flat_map(|lambda| lambda.iter().take(names.len()))
    };
    let highest = values().map(|lambda| lambda.abs()).filter(|lambda| lambda.is_finite()).fold(0.0, f64::max);
    let negative = values().any(|lambda| *lambda < 0.0);
    let scale = if negative { Scale::Diverging { max: highest } } else { Scale::Sequential { max: highest } };
    let cell = |t: usize, block: &Block| {
        let value = block.coefficients.as_ref().map(|lambda| lambda[t]);
        let text = value.map_or_else(|| "–".to_owned(), |value| format!("{value:.2}"));
        let title =
            format!("{}, {}: λ = {}", names[t], place(block), value.map_or_else(|| "–".to_owned(), number));
        Cell { value: value.unwrap_or(f64::NAN), text, title }
    };
    let map = HeatMap {
        label: "Coefficients per block".to_owned(),
        rows: names.to_vec(),
        columns: blocks.iter().map(|block| block.label.clone()).collect(),
        cells: (0..names.len()).map(|t| blocks.iter().map(|block| cell(t, block)).collect()).collect(),
        scale,
    };
    let low = if negative { format!("−{}", number(highest)) } else { "0".to_owned() };
    varied.then(|| {
        context! {
            title => "Coefficients per block",
            note => "λ as used by this run, mean over each block's elements.",
            figures => both(&map), legend => safe(scale.legend(&low, &number(highest))),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{derive, fixture};

    #[test]
    fn pooling_keeps_sums() {
        let derived = derive(&fixture::merge()).unwrap();
        let pools = pooled(&derived.blocks, 4);
        assert_eq!(pools.len(), 4);
        let share: f64 = pools.iter().map(|block| block.shares[1]).sum();
        let squares: f64 = pools.iter().map(|block| block.norms[1].powi(2)).sum();
        assert!((share - 1.0).abs() < 1e-12 && (squares.sqrt() - derived.experts[1].norm).abs() < 1e-9);
        assert_eq!(pools.iter().map(|block| block.elements).sum::<u64>(), fixture::merge().totals.parameters);
        assert!((pools[0].coefficients.as_ref().unwrap()[1] - 0.45).abs() < 1e-12);
        assert_eq!(pools[0].label, "embed_tokens–2");
        assert_eq!(pooled(&[], 4).len(), 0);
    }

    #[test]
    fn equal_coefficients_are_not_drawn() {
        let titles = |health| {
            let derived = derive(&health).unwrap();
            let layout = Layout::of(&health).unwrap();
            let sections: Vec<Value> =
                all(&layout, &derived, &health.experts).into_iter().flatten().collect();
            sections.iter().map(|section| section.get_attr("title").unwrap().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(titles(fixture::merge()).len(), 3);
        assert_eq!(titles(fixture::troubled()).last().map(String::as_str), Some("Coefficients per block"));
    }
}
