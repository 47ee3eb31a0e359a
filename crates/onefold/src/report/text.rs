//! Tables for a terminal: at most [`WIDTH`](super::lines::WIDTH) columns, readable without colour, warnings last where the eye rests.

use std::collections::BTreeMap;

use super::ReportError;
use super::blocks::kinds;
use super::bounds::Bound;
use super::derived::Derived;
use super::health::{Health, Layout};
use super::lines::{Table, listed, wrapped};
use super::show::{
    bytes, cosine, count, counted, elided, lambda, number, percent, range, shape, short_names, shortened,
    tidy,
};

/// A wider cosine matrix would not fit; the closest pairs are listed instead.
const MATRIX: usize = 10;
/// Experts, pairs, blocks or tensors listed before the rest is only counted.
const ROWS: usize = 8;
/// Experts whose shares fit beside each other.
const SHARES: usize = 6;

/// The report as aligned plain text; ends with a line break.
pub fn to_text(health: &Health, derived: &Derived) -> Result<String, ReportError> {
    let layout = Layout::of(health)?;
    let mut sections = vec![headline(health, &layout)];
    if layout.single() {
        sections.extend([dtypes(health), largest(health), ties(health)]);
        sections.push(finite(health).to_owned());
    } else {
        sections.extend([
            experts(health, derived),
            cosines(health, derived),
            (facts(derived) + &copied(health)).trim_start().to_owned(),
            moved(health, derived),
        ]);
    }
    sections.extend([run(health), warnings(derived)]);
    sections.retain(|section| !section.is_empty());
    Ok(sections.iter().map(|section| section.trim_end()).collect::<Vec<_>>().join("\n\n") + "\n")
}

fn headline(health: &Health, layout: &Layout) -> String {
    let method = health.method.as_ref().map(|method| format!(" · {}", tidy(method, 30))).unwrap_or_default();
    let title = format!("{}{method}", tidy(&health.title, 60));
    let mut lines: Vec<String> = std::iter::once(title).filter(|title| !title.is_empty()).collect();
    lines.extend(
        health.base.as_ref().filter(|_| !layout.single()).map(|base| format!("base {}", tidy(base, 90))),
    );
    let mut parts = Vec::new();
    if !layout.single() {
        parts.push(counted(layout.experts as u64, "expert"));
    }
    parts.push(format!("{} parameters", count(health.totals.parameters)));
    parts.push(bytes(health.totals.bytes));
    let merged = if health.method.is_some() { " merged" } else { "" };
    parts.push(counted(health.tensors.len() as u64, "tensor") + merged);
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
    table.head_if(displacement.is_some(), if base { "cos(Δ,τ)|‖θ*−θₜ‖" } else { "cos(θ*,θ)|‖θ*−θₜ‖" });
    let names = short_names(&health.experts);
    for (t, (expert, name)) in derived.experts.iter().zip(&names).enumerate().take(4 * ROWS) {
        let mut row = vec![(t + 1).to_string(), tidy(name, 28), number(expert.norm)];
        row.extend(expert.relative.map(percent));
        row.extend(expert.metagpt.map(lambda));
        let own = expert.coefficient.map(|own| match own.min == own.max {
            true => lambda(own.mean),
            false => range(own.min, own.max),
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
    table.titled(&format!("Cosines of the {of} (upper right: mean over blocks)"))
}

fn closest(health: &Health, derived: &Derived, of: &str) -> String {
    let names = short_names(&health.experts);
    let k = names.len();
    let pairs = (0..k).flat_map(|i| (i + 1..k).map(move |j| (i, j)));
    let mut found: Vec<(f64, usize, usize)> =
        pairs.filter_map(|(i, j)| Some((derived.cosine[i][j]?, i, j))).collect();
    found.sort_by(|a, b| b.0.abs().total_cmp(&a.0.abs()));
    let mut table = Table { left: &[0, 1], ..Table::new("expert|expert|cos|block mean") };
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
        // All but the first as an excess over it: the value itself has no unit that means anything.
        let least = derived.bounds[0].value;
        let excess = |bound: &Bound| match bound.excess(least) {
            Some(above) => format!("{} +{}", bound.label, percent(above)),
            None => format!("{} {}", bound.label, number(bound.value)),
        };
        let bounds: Vec<String> = std::iter::once(format!("metagpt {}", number(least)))
            .chain(derived.bounds.iter().skip(1).map(excess))
            .collect();
        lines.push(format!("Loss bound U(λ)  {}", bounds.join(" · ")));
    }
    lines.join("\n")
}

/// The tensors that took no part, by reason: no norm or cosine counts them.
fn copied(health: &Health) -> String {
    let mut reasons: BTreeMap<&str, Vec<&String>> = BTreeMap::new();
    for tensor in &health.copied {
        reasons.entry(&tensor.why).or_default().push(&tensor.name);
    }
    let first = if health.method.is_some() { "Copied           " } else { "Not compared     " };
    let line = |(why, names): (&&str, &Vec<&String>)| {
        let names_shown = elided(names.iter().copied());
        let count = counted(names.len() as u64, "tensor");
        "\n".to_owned()
            + &wrapped(first, &format!("{count}, in no figure here ({}): {names_shown}", tidy(why, 200)))
    };
    reasons.iter().take(ROWS).map(line).collect::<String>() + &more(reasons.len(), ROWS, "reason")
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
    table.header.extend((1..=k.min(SHARES)).map(|t| t.to_string()));
    for block in blocks.iter().take(ROWS) {
        let label =
            if block.layer.is_some() { format!("layer {}", block.label) } else { block.label.clone() };
        let conflicts = block.sign_conflict_rate.map_or_else(|| "–".to_owned(), percent);
        let mut row = vec![tidy(&label, 18), count(block.elements), conflicts];
        row.extend(block.shares.iter().take(SHARES).map(|share| format!("{:.1} %", share * 100.0)));
        table.rows.push(row);
    }
    let whose = if k > SHARES { format!("of the first {SHARES} experts") } else { "per expert".to_owned() };
    table.titled(&format!("Where the experts changed most (share of ‖τ‖² {whose})"))
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

fn largest(health: &Health) -> String {
    let kinds = kinds(&health.tensors);
    let mut table = Table { left: &[0, 1, 2], ..Table::new("tensor|type|shape|copies|parameters") };
    for kind in kinds.iter().take(ROWS) {
        let form = tidy(&shape(&kind.shape), 24);
        let mut row = vec![tidy(&kind.pattern, 42), tidy(&kind.dtype, 8), form, kind.copies.to_string()];
        row.push(count(kind.elements));
        table.rows.push(row);
    }
    table.titled("Largest tensors (* for each number)") + &more(kinds.len(), ROWS, "kind")
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
        .map(|(key, value)| format!("{} {}", tidy(key, 20), shortened(value, 400)))
        .collect();
    listed(&facts)
}

fn warnings(derived: &Derived) -> String {
    let shown = derived.warnings.iter().take(4 * ROWS);
    let lines: Vec<String> = shown.map(|warning| wrapped("! ", &shortened(&warning.message, 2000))).collect();
    lines.join("\n") + &more(derived.warnings.len(), 4 * ROWS, "warning")
}

/// "and n more", if there are.
fn more(all: usize, shown: usize, thing: &str) -> String {
    match all.saturating_sub(shown) {
        0 => String::new(),
        rest => format!("\nand {}", counted(rest as u64, &format!("more {thing}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::derive;
    use super::*;

    fn text_of(health: &Health) -> Result<String, ReportError> {
        to_text(health, &derive(health)?)
    }
    use crate::report::lines::WIDTH;
    use crate::report::show::width;
    use crate::report::{TensorHealth, fixture};

    #[test]
    fn merge() {
        let expected = "\
merged-7x3 · ties
base tiny-org/llama-30m
3 experts · 28.8 M parameters · 57.7 MB · 50 tensors merged · 1 copied

Experts
  #  expert            ‖τ‖  ‖τ‖/‖θ₀‖  λ MetaGPT  λ used  cos(Δ,τ)  ‖θ*−θₜ‖
  1  llama-30m-code  11.78    2.39 %     0.3821  0.3000     0.516    10.12
  2  llama-30m-math  12.08    2.45 %     0.4017  0.4500     0.794    7.834
  3  chat <v2> & co  8.860    1.80 %     0.2162  0.2500     0.318    9.315

Cosines of the task vectors (upper right: mean over blocks)
          1       2       3
  1   1.000   0.010  -0.007
  2   0.003   1.000   0.018
  3  -0.006  -0.003   1.000

Merged model     ‖θ*−θ₀‖ = 6.847, 1.39 % of ‖θ₀‖
Sign conflicts   43.6 % of the positions that two or more experts changed
Loss bound U(λ)  metagpt 14728 · this run +1.68 % · uniform +2.58 % · 0.3 +3.69 % · 1.0 +189 %
Copied           1 tensor, in no figure here (buffer, equal in all models):
                 model.rotary_emb.inv_freq

Where the experts changed most (share of ‖τ‖² per expert)
  block     parameters  conflicts       1       2       3
  layer 6       2.23 M     45.5 %   8.7 %  14.3 %   5.5 %
  layer 7       2.23 M     47.5 %   9.2 %  12.6 %   4.1 %
  layer 5       2.23 M     43.4 %   5.6 %  12.8 %   6.7 %
  layer 8       2.23 M     49.5 %  12.1 %   9.3 %   3.1 %
  layer 3       2.23 M     39.4 %   3.5 %  10.2 %  10.5 %
  layer 4       2.23 M     41.4 %   4.9 %  11.1 %   7.8 %
  layer 9       2.23 M     51.5 %  14.2 %   7.4 %   2.1 %
  layer 11      2.23 M     55.6 %  20.5 %   2.0 %   0.9 %
and 6 more blocks

onefold 0.1.0 · time 4.2 s · peak memory 212 MB · bytes read 239 MB
";
        assert_eq!(text_of(&fixture::merge()).unwrap(), expected);
    }

    #[test]
    fn one_model() {
        let expected = "\
tiny-org/llama-30m
28.8 M parameters · 57.7 MB · 50 tensors

Stored types
  type  tensors  parameters    bytes
  BF16       50      28.8 M  57.7 MB
  F32         1          32    128 B

Largest tensors (* for each number)
  tensor                                    type  shape       copies  parameters
  model.layers.*.self_attn.qkv_proj.weight  BF16  1536 × 512      12      9.44 M
  model.layers.*.mlp.down_proj.weight       BF16  512 × 1408      12      8.65 M
  model.layers.*.mlp.up_proj.weight         BF16  1408 × 512      12      8.65 M
  model.embed_tokens.weight                 BF16  4096 × 512       1      2.10 M
  model.layers.*.input_layernorm.weight     BF16  1 × 512         12        6144
  model.norm.weight                         BF16  1 × 512          1         512

Tied  model.embed_tokens.weight = lm_head.weight

No NaN, no Inf
";
        assert_eq!(text_of(&fixture::single()).unwrap(), expected);
    }

    #[test]
    fn warnings_come_last() {
        let text = text_of(&fixture::troubled()).unwrap();
        let tail = "\n\n! `density` has no effect with `merge_method: adamerging`; it was ignored (--lenient).\n\
                    ! Weights that are not finite: 3 NaN and 0 Inf in model.layers.1.mlp.down_proj.weight of\n  \
                    tiny-org/llama-30m-math, and 1 more place. Every figure that includes them is void; find out which\n  \
                    training run broke before using this model.\n";
        assert!(text.ends_with(tail), "{text}");
        assert!(text.contains("0.10…0.59"), "{text}");
    }

    #[test]
    fn no_line_is_too_wide_whatever_the_names() {
        let long = "組織/".to_owned() + &"very-long-model-name 模型\u{1b}[2J\n".repeat(40);
        for k in [1, 3, 12] {
            let vectors: Vec<Vec<f64>> =
                (0..k).map(|t| (0..k).map(|i| if i == t { 1e-30 } else { 1e-31 }).collect()).collect();
            let vectors: Vec<&[f64]> = vectors.iter().map(Vec::as_slice).collect();
            let base = vec![1e30; k];
            let mut health = fixture::plain(Some(&base), &vectors);
            (health.title, health.method, health.base) =
                (long.clone(), Some(long.clone()), Some(long.clone()));
            health.experts = (0..k).map(|t| format!("{long}{t}")).collect();
            health.tensors.push(TensorHealth { name: long.clone(), ..health.tensors[0].clone() });
            health.tensors[0].coefficients = Some(vec![-1e300; k]);
            health.run = vec![(long.clone(), long.clone()); 3];
            health.warnings = vec![long.clone(), "x".repeat(500)];
            let text = text_of(&health).unwrap();
            assert!(!text.contains('\u{1b}'));
            let widest = text.lines().max_by_key(|line| width(line)).unwrap();
            assert!(width(widest) <= WIDTH, "{k}: {} {widest}", width(widest));
        }
    }

    #[test]
    fn the_facts_of_a_run_keep_their_words() {
        let mut health = fixture::plain(None, &[&[1.0]]);
        let peak = "1.23 GB (3.15 MB of it anonymous at the end, the rest mapped files)";
        let facts =
            [("time", "0.02 s"), ("inputs", "175.58 kB"), ("written", "43.90 kB"), ("peak memory", peak)];
        health.run = facts.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
        health.run.push(("command".to_owned(), "word ".repeat(500)));
        let text = text_of(&health).unwrap();
        let facts = &text[text.find("time 0.02").unwrap()..];
        assert!(facts.starts_with(&format!(
            "time 0.02 s · inputs 175.58 kB · written 43.90 kB\npeak memory {peak}\n"
        )));
        assert!(facts.trim_end().ends_with("word …") && facts.split_whitespace().count() < 120, "{facts}");
        assert!(facts.lines().all(|line| width(line) <= WIDTH), "{facts}");
    }

    #[test]
    fn nothing_is_a_multiple_of_no_loss() {
        let text = text_of(&fixture::plain(Some(&[9.0, 0.0]), &[&[0.0, 0.0], &[0.0, 1.0]])).unwrap();
        assert!(text.contains("metagpt 0 · uniform 0.1250 · 0.3 0.2450 · 1.0 0\n"), "{text}");
    }

    #[test]
    fn many_experts_show_the_closest_pairs() {
        let vectors: Vec<Vec<f64>> = (0..11)
            .map(|t| (0..12).map(|i| f64::from(u8::from(i == t || (t == 4 && i == 2)))).collect())
            .collect();
        let vectors: Vec<&[f64]> = vectors.iter().map(Vec::as_slice).collect();
        let text = text_of(&fixture::plain(Some(&[100.0; 12]), &vectors)).unwrap();
        assert!(
            text.contains(
                "Closest task vectors\n  expert    expert      cos  block mean\n  expert-3  expert-5  0.707"
            ),
            "{text}"
        );
        assert!(text.contains("and 47 more pairs"), "{text}");
    }

    #[test]
    fn nothing_known_is_not_an_error() {
        assert_eq!(text_of(&Health::default()).unwrap(), "0 parameters · 0 B · 0 tensors\n");
    }
}
