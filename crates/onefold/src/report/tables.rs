//! The tables on the page, each one section: experts, displacement, bounds, sizes, what was copied, the recipe.

use minijinja::{Value, context};

use super::blocks::{Kind, kinds};
use super::bounds::Bound;
use super::derived::{Derived, ExpertFigures};
use super::health::{CopiedTensor, DtypeCount, Health, Layout};
use super::html::{NAME, ROWS, safe};
use super::show::{bytes, cosine, count, counted, lambda, number, percent, range, shape, tidy};
use super::svg::{self, COLOURS};

/// One cell; `fraction` draws a bar below the text.
pub(super) fn cell(text: impl Into<String>, fraction: Option<(f64, String)>) -> Value {
    let bar = fraction.map(|(fraction, class)| safe(svg::bar(fraction, &class)));
    context! { text => text.into(), bar => bar.unwrap_or_else(|| Value::from("")), mark => "", title => "" }
}

pub(super) fn plain(text: impl Into<String>) -> Value {
    cell(text, None)
}

/// An expert's name after its colour.
fn expert_cell(t: usize, short: &str, full: &str) -> Value {
    let mark = safe(format!(r#"<i class="dot b{}"></i>"#, t % COLOURS));
    context! { text => tidy(short, 60), title => tidy(full, NAME), mark, bar => "" }
}

/// `head` names columns, a leading `<` aligns left. `stack` lets rows become small cards on a phone.
pub(super) fn table(head: &[&str], rows: Vec<Vec<Value>>, stack: bool) -> Value {
    let head = head
        .iter()
        .map(|name| context! { text => name.trim_start_matches('<'), left => name.starts_with('<') });
    context! { head => head.collect::<Vec<_>>(), rows, stack }
}

/// "and n more", if there are.
pub(super) fn more(all: usize, shown: usize, thing: &str) -> String {
    match all.saturating_sub(shown) {
        0 => String::new(),
        rest => format!("and {}; the JSON report lists all", counted(rest as u64, &format!("more {thing}"))),
    }
}

pub(super) fn experts(
    health: &Health,
    layout: &Layout,
    derived: &Derived,
    names: &[String],
) -> Option<Value> {
    let figures = &derived.experts;
    let highest = |of: fn(&ExpertFigures) -> Option<f64>| {
        figures
            .iter()
            .filter_map(of)
            .map(f64::abs)
            .filter(|value| value.is_finite())
            .fold(f64::MIN_POSITIVE, f64::max)
    };
    let own = |expert: &ExpertFigures| expert.coefficient.map(|own| own.mean);
    let (relative, metagpt, used) = (highest(|of| of.relative), highest(|of| of.metagpt), highest(own));
    let has_used = figures.iter().any(|expert| expert.coefficient.is_some());
    let row = |(t, expert): (usize, &ExpertFigures)| {
        let bar = |value: f64, highest: f64| Some((value.abs() / highest, format!("k{}", t % COLOURS)));
        let mut row = vec![expert_cell(t, &names[t], &health.experts[t]), plain(number(expert.norm))];
        row.extend(expert.relative.map(|value| cell(percent(value), bar(value, relative))));
        row.extend(expert.metagpt.map(|value| cell(lambda(value), bar(value, metagpt))));
        row.extend(has_used.then(|| match expert.coefficient {
            Some(own) if own.min == own.max => cell(lambda(own.mean), bar(own.mean, used)),
            Some(own) => cell(range(own.min, own.max), bar(own.mean, used)),
            None => plain("–"),
        }));
        row
    };
    let rows: Vec<_> = figures.iter().enumerate().take(ROWS).map(row).collect();
    let mut head = if layout.base {
        vec!["<Expert", "‖τ‖", "‖τ‖ ÷ ‖θ₀‖", "λ by MetaGPT"]
    } else {
        vec!["<Model", "‖θ‖"]
    };
    head.extend(has_used.then_some("λ used"));
    let note = match layout.base {
        true => {
            "τ is what fine-tuning changed: expert minus base θ₀. λ scales τ in the merge; MetaGPT's closed form \
                 makes it proportional to ‖τ‖²."
        }
        false => "No base was given, so whole models are compared, not what fine-tuning changed.",
    };
    (!rows.is_empty()).then(|| {
        context! {
            title => if layout.base { "Experts" } else { "Models" }, note,
            table => table(&head, rows, true), more => more(figures.len(), ROWS, "expert"),
        }
    })
}

pub(super) fn displacement(layout: &Layout, derived: &Derived, names: &[String]) -> Option<Value> {
    let to = derived.displacement.as_ref()?;
    let row = |t: usize| {
        let (value, distance) = (to.cosines[t], to.distances[t]);
        let bar = value.map(|value| (value.abs(), format!("k{}", t % COLOURS)));
        let mut row =
            vec![expert_cell(t, &names[t], &names[t]), cell(cosine(value), bar), plain(number(distance))];
        row.extend(layout.base.then(|| plain(percent(distance / derived.experts[t].norm))));
        row
    };
    let rows: Vec<_> = (0..names.len()).take(ROWS).map(row).collect();
    let head: &[&str] = match layout.base {
        true => &["<Expert", "cos(θ*−θ₀, τ)", "‖θ*−θₜ‖", "of the base's own distance"],
        false => &["<Model", "cos(θ*, θₜ)", "‖θ*−θₜ‖"],
    };
    let note = match layout.base {
        true => {
            "How far the merged model θ* shares each expert's direction, and how far from each expert it ends. \
                 Above 100 % it is further from that expert than the base is."
        }
        false => "How close the merged model θ* is to each of the models.",
    };
    Some(context! {
        title => "Where the merged model lies", note,
        table => table(head, rows, true), more => more(names.len(), ROWS, "expert"),
    })
}

pub(super) fn bounds(derived: &Derived) -> Option<Value> {
    let least = derived.bounds.first().filter(|_| derived.experts.len() > 1)?.value;
    let worst = derived.bounds.iter().map(|bound| bound.value).fold(f64::MIN_POSITIVE, f64::max);
    let row = |bound: &Bound| {
        let name = match bound.label.as_str() {
            "metagpt" => "λ by MetaGPT".to_owned(),
            "this run" => "λ of this run".to_owned(),
            "uniform" => format!("1/{} each", bound.lambda.len()),
            constant => format!("{constant} each"),
        };
        let class = if bound.label == "this run" { "k1" } else { "a" };
        let above = match bound.label.as_str() {
            "metagpt" => "the minimum".to_owned(),
            _ => bound.excess(least).map_or_else(|| "–".to_owned(), |above| format!("+{}", percent(above))),
        };
        vec![
            plain(name),
            cell(number(bound.value), Some((bound.value / worst, class.to_owned()))),
            plain(above),
        ]
    };
    Some(context! {
        title => "Loss bound U(λ)",
        note => "MetaGPT's upper bound on the loss that merging adds, up to a constant: for comparing coefficients, \
                 not for predicting scores. Lower is better.",
        table => table(&["<Coefficients", "U(λ)", "above minimum"], derived.bounds.iter().map(row).collect(), false),
    })
}

pub(super) fn types(health: &Health) -> Option<Value> {
    let total = health.totals.bytes.max(1) as f64;
    let row = |of: &DtypeCount| {
        let share = Some((of.bytes as f64 / total, "a".to_owned()));
        vec![
            plain(tidy(&of.dtype, 24)),
            plain(of.tensors.to_string()),
            plain(count(of.elements)),
            cell(bytes(of.bytes), share),
        ]
    };
    let rows: Vec<_> = health.totals.dtypes.iter().take(ROWS).map(row).collect();
    (!rows.is_empty()).then(|| {
        context! { title => "Stored types", table => table(&["<Type", "Tensors", "Parameters", "Bytes"], rows, false) }
    })
}

pub(super) fn largest(health: &Health) -> Option<Value> {
    let kinds = kinds(&health.tensors);
    let row = |kind: &Kind| {
        let name = cell(tidy(&kind.pattern, NAME), None);
        let form = format!("{} · {}", shape(&kind.shape), tidy(&kind.dtype, 12));
        vec![name, plain(form), plain(kind.copies.to_string()), plain(count(kind.elements))]
    };
    let rows: Vec<_> = kinds.iter().take(30).map(row).collect();
    (!rows.is_empty()).then(|| {
        context! {
            title => "Largest tensors", note => "Tensors that differ only in numbers stand on one line, * for each number.",
            table => table(&["<Tensor", "Shape", "Copies", "Parameters"], rows, true), more => more(kinds.len(), 30, "kind"),
        }
    })
}

pub(super) fn tied(health: &Health) -> Option<Value> {
    let row = |names: &Vec<String>| {
        let names: Vec<String> = names.iter().take(20).map(|name| tidy(name, NAME)).collect();
        vec![plain(names.join(" = "))]
    };
    let rows: Vec<_> = health.tied.iter().take(ROWS).map(row).collect();
    (!rows.is_empty()).then(|| {
        context! {
            title => "Tied tensors", note => "Stored once, used under several names; counted once in every figure.",
            table => table(&["<Names"], rows, false), more => more(health.tied.len(), ROWS, "group"),
        }
    })
}

pub(super) fn copied(health: &Health) -> Option<Value> {
    let row = |of: &CopiedTensor| {
        let form = format!("{} · {}", shape(&of.shape), tidy(&of.dtype, 12));
        vec![plain(tidy(&of.name, NAME)), plain(form), plain(tidy(&of.why, NAME))]
    };
    let rows: Vec<_> = health.copied.iter().take(ROWS).map(row).collect();
    (!rows.is_empty()).then(|| {
        context! {
            title => "Copied, not merged",
            table => table(&["<Tensor", "Shape", "<Why"], rows, true), more => more(health.copied.len(), ROWS, "tensor"),
        }
    })
}

pub(super) fn code(title: &str, note: &str, text: Option<&str>) -> Option<Value> {
    text.map(|text| context! { title, note, code => text })
}
