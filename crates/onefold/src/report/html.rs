//! The page: one HTML file that needs no network and no script, in light and dark, on a phone and on paper.
//!
//! The layout is `page.html` (minijinja with autoescape) and `page.css`; this file chooses what stands on the page.
//! A content security policy in the page forbids scripts and network besides, as names and recipes are hostile input.
//! Lists are cut and layers are pooled where a huge model would make the page huge; the JSON has everything.

use minijinja::{AutoEscape, Environment, Value, context};

use super::ReportError;
use super::derived::Derived;
use super::figures;
use super::health::{Health, Layout};
use super::show::{bytes, cosine, count, counted, percent, short_names, shortened, tidy};
use super::{svg, tables};

/// Rows of any table; the rest is counted.
pub(super) const ROWS: usize = 100;
/// Characters of a name or sentence before its middle is left out.
pub(super) const NAME: usize = 160;
const SENTENCE: usize = 2000;

/// The report as one self-contained HTML file; well below 1 MB whatever the model (the recipe, verbatim, apart).
pub fn to_html(health: &Health, derived: &Derived) -> Result<String, ReportError> {
    let layout = Layout::of(health)?;
    let warnings: Vec<Value> =
        derived.warnings.iter().take(ROWS).map(|warning| prose(&warning.message)).collect();
    Ok(render(context! {
        title => tidy(&health.title, NAME),
        kind => kind(health, &layout),
        facts => pairs(&header(health, &layout)),
        warnings_title => counted(derived.warnings.len() as u64, "warning"),
        warnings,
        cards => cards(health, &layout, derived),
        sections => sections(health, &layout, derived),
        run => pairs(&health.run),
    })?)
}

/// The page of what `page.html` asks for: `title`, `kind`, `facts`, `warnings_title`, `warnings`, `cards`, `sections`, `run`.
pub(super) fn render(content: Value) -> Result<String, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.add_template("page", include_str!("page.html"))?;
    let style = safe(include_str!("page.css").to_owned());
    environment.get_template("page")?.render(context! { style, ..content })
}

fn kind(health: &Health, layout: &Layout) -> &'static str {
    match () {
        () if layout.single() => "model",
        () if health.method.is_some() => "merge",
        () => "comparison",
    }
}

fn header(health: &Health, layout: &Layout) -> Vec<(String, String)> {
    let facts = [("method", &health.method), ("base", if layout.single() { &None } else { &health.base })];
    facts.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value.clone()?))).collect()
}

pub(super) fn pairs(facts: &[(String, String)]) -> Vec<Value> {
    let fact =
        |(key, value): &(String, String)| context! { key => tidy(key, NAME), value => tidy(value, NAME) };
    facts.iter().take(ROWS).map(fact).collect()
}

/// Markup made by this crate, from escaped parts.
pub(super) fn safe(markup: String) -> Value {
    Value::from_safe_string(markup)
}

/// A sentence in which `backticks` in pairs mark code.
pub(super) fn prose(sentence: &str) -> Value {
    let sentence = shortened(sentence, SENTENCE);
    let parts: Vec<String> = sentence.split('`').map(svg::escape).collect();
    let marked = |(at, part): (usize, &String)| {
        if at % 2 == 1 { format!("<code>{part}</code>") } else { part.clone() }
    };
    safe(if parts.len() % 2 == 1 { parts.iter().enumerate().map(marked).collect() } else { parts.join("`") })
}

fn cards(health: &Health, layout: &Layout, derived: &Derived) -> Vec<Value> {
    let card = |name: &str, value: String, note: String| context! { name, value, note };
    let totals = &health.totals;
    let types: Vec<String> = totals.dtypes.iter().take(3).map(|of| tidy(&of.dtype, 12)).collect();
    let types = if types.is_empty() { String::new() } else { format!(", {}", types.join(" + ")) };
    let mut cards =
        vec![card("Parameters", count(totals.parameters), format!("{}{types}", bytes(totals.bytes)))];
    if layout.single() {
        cards.push(card("Tensors", health.tensors.len().to_string(), tied_note(health)));
        let layers = derived.blocks.iter().filter(|block| block.layer.is_some()).count();
        cards.push(card(
            "Layers",
            layers.to_string(),
            format!("{} in all", counted(derived.blocks.len() as u64, "block")),
        ));
        cards.extend(not_finite(health).map(|places| match places {
            0 => card("NaN or Inf", "none".to_owned(), "all weights are finite".to_owned()),
            _ => card("NaN or Inf", count(places), "weights are not finite".to_owned()),
        }));
        return cards;
    }
    let tensors = format!(
        "{} compared, {} copied",
        counted(health.tensors.len() as u64, "tensor"),
        health.copied.len()
    );
    cards.push(card(if layout.base { "Experts" } else { "Models" }, layout.experts.to_string(), tensors));
    if let Some(relative) = derived.displacement.as_ref().and_then(|to| to.relative) {
        cards.push(card("Moved", percent(relative), "of the base's length".to_owned()));
    }
    if let Some(largest) = largest_cosine(derived) {
        let of = if layout.base { "between two task vectors" } else { "between two models" };
        cards.push(card("Largest |cos|", cosine(Some(largest)), of.to_owned()));
    }
    if let Some(rate) = derived.sign_conflict_rate {
        cards.push(card("Sign conflicts", percent(rate), "where experts overlap".to_owned()));
    }
    let own = derived.bounds.iter().find(|bound| bound.label == "this run").filter(|_| layout.experts > 1);
    if let Some(above) = own.and_then(|own| own.excess(derived.bounds[0].value)) {
        let of = "above its minimum, MetaGPT's λ".to_owned();
        cards.push(card("Loss bound", format!("+{}", percent(above)), of));
    }
    cards
}

fn tied_note(health: &Health) -> String {
    match health.tied.len() {
        0 => "none tied".to_owned(),
        groups => format!("{} tied", counted(groups as u64, "group")),
    }
}

/// Weights that are NaN or infinite; none if nobody counted.
fn not_finite(health: &Health) -> Option<u64> {
    let counts = || health.tensors.iter().flat_map(|tensor| tensor.nan.iter().chain(&tensor.inf));
    counts().next().map(|_| counts().fold(0, |sum: u64, count| sum.saturating_add(*count)))
}

fn largest_cosine(derived: &Derived) -> Option<f64> {
    let pairs = derived.cosine.iter().enumerate().flat_map(|(i, row)| row.iter().take(i));
    pairs.flatten().map(|value| value.abs()).max_by(f64::total_cmp)
}

fn sections(health: &Health, layout: &Layout, derived: &Derived) -> Vec<Value> {
    let names = short_names(&health.experts);
    let mut sections = Vec::new();
    if layout.single() {
        sections.extend([figures::sizes(derived), tables::types(health), tables::largest(health)]);
    } else {
        sections.push(tables::experts(health, layout, derived, &names));
        sections.extend(figures::all(layout, derived, &names));
        sections.extend([
            tables::displacement(layout, derived, &names),
            tables::bounds(derived),
            tables::types(health),
        ]);
    }
    sections.extend([
        tables::tied(health),
        tables::copied(health),
        tables::code("Recipe", "", health.recipe.as_deref()),
    ]);
    sections.push(tables::code(
        "Reproduce",
        "With the inputs and the version named here, this gives the same bytes.",
        health.command.as_deref(),
    ));
    sections.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::super::derive;
    use super::*;

    fn html_of(health: &Health) -> Result<String, ReportError> {
        to_html(health, &derive(health)?)
    }
    use crate::report::fixture::{balanced, tags};
    use crate::report::{CopiedTensor, TensorHealth, fixture};

    #[test]
    fn every_kind_of_page_is_whole() {
        let no_base = fixture::plain(None, &[&[1.0, 2.0], &[2.0, 1.0]]);
        let one = fixture::plain(Some(&[1.0]), &[&[0.1]]);
        for health in
            [fixture::merge(), fixture::single(), fixture::troubled(), no_base, one, Health::default()]
        {
            let html = html_of(&health).unwrap();
            balanced(&html);
            assert!(html.starts_with("<!DOCTYPE html>") && html.trim_end().ends_with("</html>"));
        }
    }

    #[test]
    fn the_page_needs_nothing_from_outside() {
        let html = html_of(&fixture::troubled()).unwrap();
        for word in ["http://", "https://", "<script", "<link", "<img", "<iframe", "url(", "@import", " on"] {
            let inside = tags(&html).into_iter().any(|tag| format!("<{tag}").contains(word));
            assert!(!inside, "{word}");
        }
        assert!(html.contains("default-src 'none'"));
    }

    #[test]
    fn hostile_names_stay_text() {
        let evil = "</title></code><script>alert('x')</script>\" onload=\"y\u{202e}{{ 7 * 7 }}";
        let mut health = fixture::troubled();
        (health.title, health.recipe, health.command) = (evil.into(), Some(evil.into()), Some(evil.into()));
        (health.base, health.method) = (Some(evil.into()), Some(evil.into()));
        health.experts = (0..3).map(|t| format!("{evil}{t}")).collect();
        health.run = vec![(evil.into(), evil.into())];
        health.warnings = vec![evil.into()];
        health.tied = vec![vec![evil.into()]];
        health.copied =
            vec![CopiedTensor { name: evil.into(), dtype: evil.into(), why: evil.into(), shape: vec![] }];
        for tensor in &mut health.tensors {
            tensor.name += evil;
            tensor.dtype = evil.into();
        }
        health.totals.dtypes[0].dtype = evil.into();
        let mut single = fixture::single();
        single.tensors.iter_mut().for_each(|tensor| tensor.name.insert_str(0, evil));
        for health in [health, single] {
            let html = html_of(&health).unwrap();
            assert!(!html.contains("<script") && !html.contains("\" onload"), "markup escaped");
            assert!(!html.contains(" 49"), "templates are not evaluated");
            balanced(&html);
        }
    }

    #[test]
    fn recipes_are_verbatim() {
        let html = html_of(&fixture::merge()).unwrap();
        assert!(
            html.contains("base_model: tiny-org&#x2f;llama-30m\nmodels:")
                || html.contains("base_model: tiny-org/llama-30m\nmodels:")
        );
        assert!(html.contains("chat &lt;v2&gt; &amp; co"));
    }

    #[test]
    fn a_huge_mixture_of_experts_stays_small() {
        let k = 24;
        let tensor = |layer: usize, at: usize| TensorHealth {
            name: format!("model.layers.{layer}.mlp.experts.{at}.{}", "long_name_".repeat(10)),
            dtype: "BF16".into(),
            shape: vec![8, 8],
            elements: 64,
            gramian: vec![0.5; (k + 2) * (k + 3) / 2],
            coefficients: Some((0..k).map(|t| 0.01 * (t * layer) as f64).collect()),
            ..TensorHealth::default()
        };
        let names: Vec<String> =
            (0..k).map(|t| format!("organisation/{}-{t}", "expert-with-a-long-name-".repeat(8))).collect();
        let mut health = Health {
            base: Some("base".into()),
            experts: names.clone(),
            vectors: vec![String::new(); k + 2],
            tensors: (0..250).flat_map(|layer| (0..20).map(move |at| tensor(layer, at))).collect(),
            ..Health::default()
        };
        health.copied = (0..50_000)
            .map(|at| CopiedTensor { name: format!("buffer.{at}"), ..CopiedTensor::default() })
            .collect();
        let html = html_of(&health).unwrap();
        assert!(html.len() < 1_000_000, "{} bytes", html.len());
        assert!(html.contains("and 49900 more tensors"));
    }
}
