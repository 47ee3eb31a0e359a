//! Drawings as inline SVG text: heat maps, stacked bars, small bars in tables, colour-scale legends.
//!
//! Colours are classes (`s0`…`s9` sequential, `d0`…`d10` diverging, `k0`…`k7` for experts) that the page's style sheet
//! defines once for light and once for dark, so a drawing needs no script and no second copy per theme.
//! The scales keep their order for colour-blind readers and in grey; each value stands in a `<title>`, and in print
//! inside its cell where there is room.

use super::scale::Scale;
use super::show::{tidy, width};

/// Pixels per character at the 11 px of labels and at the 10 px of numbers in cells.
pub(super) const LABEL: f64 = 6.4;
const DIGIT: f64 = 5.9;
/// Colour classes for experts; they repeat after that.
pub(super) const COLOURS: usize = 8;

/// One cell of a heat map.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    /// Decides the colour; NaN for "no value".
    pub(super) value: f64,
    /// Printed in the cell if it fits.
    pub(super) text: String,
    /// Shown on hover.
    pub(super) title: String,
}

/// Rows × columns of coloured cells.
#[derive(Clone, Debug)]
pub(super) struct HeatMap {
    /// Spoken in place of the drawing.
    pub(super) label: String,
    pub(super) rows: Vec<String>,
    pub(super) columns: Vec<String>,
    /// \[rows, columns\].
    pub(super) cells: Vec<Vec<Cell>>,
    pub(super) scale: Scale,
}

impl HeatMap {
    /// Rows become columns.
    pub(super) fn transposed(&self) -> Self {
        let column = |at: usize| self.cells.iter().filter_map(|row| row.get(at).cloned()).collect();
        Self {
            cells: (0..self.columns.len()).map(column).collect(),
            rows: self.columns.clone(),
            columns: self.rows.clone(),
            ..self.clone()
        }
    }

    /// Draws into `room` pixels of width, with cells at most `cell` wide.
    pub(super) fn draw(&self, class: &str, room: f64, cell: f64) -> String {
        let left = gutter(&self.rows, room);
        let wide = ((room - left) / self.columns.len().max(1) as f64).min(cell);
        let high = match self.rows.len() {
            0..=6 => 32.0,
            7..=16 => 25.0,
            17..=40 => 17.0,
            _ => 9.0,
        };
        let (head, top) = column_labels(&self.columns, left, wide, Side::Above);
        let mut body = head;
        for (r, (row, name)) in self.cells.iter().zip(&self.rows).enumerate() {
            let y = top + r as f64 * high;
            if high > 10.0 || r % 3 == 0 {
                body += &label(left - 10.0, y + high / 2.0, "end", &fit(name, left - 10.0), name);
            }
            for (c, cell) in row.iter().enumerate() {
                body += &self.cell(cell, [left + c as f64 * wide, y, wide, high]);
            }
        }
        let width = left + wide * self.columns.len() as f64 + overhang(&self.columns, wide);
        frame(class, &self.label, width, top + high * self.rows.len() as f64 + 2.0, &body)
    }

    fn cell(&self, cell: &Cell, [x, y, wide, high]: [f64; 4]) -> String {
        let class = self.scale.class(cell.value);
        // A seam of one pixel, unless cells are so small that seams would be all one sees.
        let seam = if wide.min(high) > 8.0 { 1.5 } else { 0.0 };
        let (w, h) = (px(wide - seam), px(high - seam));
        let rect = format!(r#"<rect x="{}" y="{}" width="{w}" height="{h}""#, px(x), px(y));
        let title = escape(&cell.title);
        if width(&cell.text) as f64 * DIGIT + 5.0 > wide || high < 14.0 {
            return rect.replacen("<rect", &format!(r#"<rect class="{class}""#), 1)
                + &format!("><title>{title}</title></rect>");
        }
        let (cx, cy) = (px(x + (wide - seam) / 2.0), px(y + high / 2.0 + 3.0));
        let text = escape(&cell.text);
        format!(
            r#"<g class="{class}"><title>{title}</title>{rect} rx="2"/><text x="{cx}" y="{cy}">{text}</text></g>"#
        )
    }
}

/// One bar per column, made of one segment per series.
#[derive(Clone, Debug)]
pub(super) struct StackedBars {
    /// Spoken in place of the drawing.
    pub(super) label: String,
    pub(super) columns: Vec<String>,
    /// \[columns, series\], none negative.
    pub(super) values: Vec<Vec<f64>>,
    /// \[columns, series\], shown on hover.
    pub(super) titles: Vec<Vec<String>>,
    /// A value as words, for the axis.
    pub(super) axis: fn(f64) -> String,
}

impl StackedBars {
    fn highest(&self) -> f64 {
        let sum = |values: &Vec<f64>| values.iter().filter(|value| value.is_finite()).sum::<f64>();
        self.values.iter().map(sum).fold(0.0, f64::max)
    }

    /// Upright bars over a value axis, for wide pages.
    pub(super) fn upright(&self, class: &str, room: f64, left: f64) -> String {
        let (high, head) = (170.0, 8.0);
        let wide = ((room - left) / self.columns.len().max(1) as f64).min(72.0);
        let step = tick(self.highest());
        let ticks = (self.highest() / step).ceil().max(1.0);
        let y = |value: f64| head + high - value / (ticks * step) * high;
        let right = left + wide * self.columns.len() as f64;
        let mut body = String::new();
        for at in 0..=ticks as usize {
            let value = at as f64 * step;
            body += &format!(r#"<path class="grid" d="M{} {}H{}"/>"#, px(left), px(y(value)), px(right));
            body += &label(left - 8.0, y(value), "end", &(self.axis)(value), "");
        }
        for (c, values) in self.values.iter().enumerate() {
            let (x, inner) = (left + (c as f64 + 0.14) * wide, wide * 0.72);
            let mut from = 0.0;
            for (k, &value) in values.iter().enumerate().filter(|(_, value)| **value > 0.0) {
                let area = [x, y(from + value), inner, y(from) - y(from + value)];
                body += &self.segment(c, k, area);
                from += value;
            }
        }
        let (foot, height) = column_labels(&self.columns, left, wide, Side::Below);
        body += &format!(r#"<g transform="translate(0 {})">{foot}</g>"#, px(head + high + 2.0));
        frame(class, &self.label, right + 2.0, head + high + height + 4.0, &body)
    }

    /// Lying bars, one line per column, for narrow pages.
    pub(super) fn lying(&self, class: &str, room: f64) -> String {
        let left = gutter(&self.columns, room);
        let high = if self.columns.len() > 40 { 9.0 } else { 20.0 };
        let scale = (room - left - 2.0) / self.highest().max(f64::MIN_POSITIVE);
        let mut body = String::new();
        for (c, values) in self.values.iter().enumerate() {
            let y = c as f64 * high;
            if high > 10.0 || c % 3 == 0 {
                body += &label(
                    left - 8.0,
                    y + high / 2.0,
                    "end",
                    &fit(&self.columns[c], left - 8.0),
                    &self.columns[c],
                );
            }
            let mut x = left;
            for (k, &value) in values.iter().enumerate().filter(|(_, value)| **value > 0.0) {
                body += &self.segment(c, k, [x, y + high * 0.14, value * scale, high * 0.72]);
                x += value * scale;
            }
        }
        frame(class, &self.label, room, high * self.columns.len() as f64 + 2.0, &body)
    }

    fn segment(&self, c: usize, k: usize, [x, y, w, h]: [f64; 4]) -> String {
        let title = escape(&self.titles[c][k]);
        let (x, y, w, h) = (px(x), px(y), px(w), px(h));
        let class = k % COLOURS;
        format!(
            r#"<rect class="k{class}" x="{x}" y="{y}" width="{w}" height="{h}"><title>{title}</title></rect>"#
        )
    }
}

/// A bar for a table cell: `fraction` of its track, clamped to 0 … 1.
pub(super) fn bar(fraction: f64, class: &str) -> String {
    let length = if fraction.is_finite() { fraction.clamp(0.0, 1.0) * 100.0 } else { 0.0 };
    format!(
        r#"<svg class="bar" viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true"><rect class="track" width="100" height="6"/><rect class="{class}" width="{}" height="6"/></svg>"#,
        px(length)
    )
}

/// Text for element content and quoted attributes.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            _ => out.push(character),
        }
    }
    out
}

pub(super) fn frame(class: &str, label: &str, width: f64, height: f64, body: &str) -> String {
    let (w, h, label) = (width.ceil(), height.ceil(), escape(label));
    format!(
        r#"<svg class="{class}" viewBox="0 0 {w} {h}" width="{w}" height="{h}" role="img" aria-label="{label}">{body}</svg>"#
    )
}

pub(super) fn label(x: f64, y: f64, anchor: &str, text: &str, title: &str) -> String {
    let full = if title.is_empty() || title == text {
        String::new()
    } else {
        format!("<title>{}</title>", escape(title))
    };
    format!(
        r#"<text class="l" x="{}" y="{}" text-anchor="{anchor}">{full}{}</text>"#,
        px(x),
        px(y + 4.0),
        escape(text)
    )
}

/// Space left of the cells for the row names: what they need, at most 38 % of the drawing.
fn gutter(names: &[String], room: f64) -> f64 {
    let longest = names.iter().map(|name| width(name)).max().unwrap_or(0);
    (longest as f64 * LABEL + 14.0).clamp(34.0, (room * 0.38).min(190.0))
}

/// `name` shortened to `room` pixels.
pub(super) fn fit(name: &str, room: f64) -> String {
    tidy(name, ((room / LABEL) as usize).max(3))
}

/// Where column labels stand, as slanted ones must end or begin at their column.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    Above,
    Below,
}

/// Column labels and their height. Long ones are slanted; short ones that would collide are thinned out.
fn column_labels(columns: &[String], left: f64, wide: f64, side: Side) -> (String, f64) {
    let slanted = |name: &String| width(name) > 4 && width(name) as f64 * LABEL > wide;
    let longest =
        columns.iter().filter(|name| slanted(name)).map(|name| width(name).min(16)).max().unwrap_or(0);
    let top = if longest > 0 { longest as f64 * LABEL * 0.68 + 14.0 } else { 20.0 };
    let short = columns.iter().filter(|name| !slanted(name)).map(|name| width(name)).max().unwrap_or(1);
    let every = ((short as f64 * LABEL + 5.0) / wide).ceil().max(1.0) as usize;
    let mut last_slanted = None;
    let mut out = String::new();
    for (at, name) in columns.iter().enumerate() {
        let x = left + (at as f64 + 0.5) * wide;
        if slanted(name) {
            if last_slanted.is_some_and(|last| (at - last) as f64 * wide < 13.0) {
                continue;
            }
            last_slanted = Some(at);
            let text = escape(&tidy(name, 16));
            let (anchor, x, y) = match side {
                Side::Above => ("start", px(x - 2.0), px(top - 7.0)),
                Side::Below => ("end", px(x + 5.0), "13".to_owned()),
            };
            out += &format!(
                r#"<text class="l" text-anchor="{anchor}" transform="translate({x} {y}) rotate(-43)">{text}</text>"#
            );
        } else if at % every == 0 {
            let y = if side == Side::Above { top - 11.0 } else { 10.0 };
            out += &label(x, y, "middle", name, "");
        }
    }
    (out, top)
}

/// How far a slanted label of the last columns reaches beyond the cells.
fn overhang(columns: &[String], wide: f64) -> f64 {
    let reach = |(back, name): (usize, &String)| match width(name) as f64 * LABEL > wide && width(name) > 4 {
        true => width(name).min(16) as f64 * LABEL * 0.74 - (back as f64 + 0.5) * wide,
        false => 0.0,
    };
    columns.iter().rev().enumerate().map(reach).fold(2.0, f64::max)
}

/// A round distance between grid lines, for two to five of them.
pub(super) fn tick(highest: f64) -> f64 {
    if !(highest > 0.0 && highest.is_finite()) {
        return 1.0;
    }
    let power = 10_f64.powf((highest / 4.0).log10().floor());
    let factor =
        [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().find(|factor| factor * power >= highest / 4.0).unwrap_or(10.0);
    factor * power
}

/// A coordinate with at most one decimal.
pub(super) fn px(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(rows: usize, columns: usize) -> HeatMap {
        let cell = |r: usize, c: usize| Cell {
            value: (r + c) as f64,
            text: "0.5".into(),
            title: format!("<{r},{c}>"),
        };
        HeatMap {
            label: "\"quoted\" & <b>".into(),
            rows: (0..rows).map(|r| format!("row <{r}>")).collect(),
            columns: (0..columns).map(|c| c.to_string()).collect(),
            cells: (0..rows).map(|r| (0..columns).map(|c| cell(r, c)).collect()).collect(),
            scale: Scale::Sequential { max: (rows + columns) as f64 },
        }
    }

    #[test]
    fn drawings_are_balanced_and_escaped() {
        let drawing = map(3, 14).draw("wide", 960.0, 60.0);
        assert!(drawing.contains(r#"role="img" aria-label="&quot;quoted&quot; &amp; &lt;b&gt;""#));
        assert!(drawing.contains("row &lt;2&gt;") && !drawing.contains("row <2>"));
        for tag in ["g", "title", "text", "svg"] {
            let opened =
                drawing.matches(&format!("<{tag} ")).count() + drawing.matches(&format!("<{tag}>")).count();
            assert_eq!(opened, drawing.matches(&format!("</{tag}>")).count(), "{tag}");
        }
        assert_eq!(drawing.matches("<title>&lt;").count(), 42);
    }

    #[test]
    fn numbers_are_printed_only_where_they_fit() {
        assert!(map(3, 10).draw("", 960.0, 60.0).contains(">0.5</text>"));
        assert!(!map(3, 100).draw("", 960.0, 60.0).contains(">0.5</text>"));
    }

    #[test]
    fn transposing_twice_changes_nothing() {
        let map = map(2, 5);
        assert_eq!(map.transposed().transposed().draw("", 300.0, 40.0), map.draw("", 300.0, 40.0));
        assert_eq!(map.transposed().rows.len(), 5);
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!([1.0, 0.13, 4.0, 0.0, f64::NAN].map(tick), [0.25, 0.05, 1.0, 1.0, 1.0]);
    }

    #[test]
    fn bars_stay_in_their_track() {
        assert!(bar(7.0, "k0").contains(r#"class="k0" width="100""#));
        assert!(bar(f64::NAN, "k0").contains(r#"class="k0" width="0""#));
    }

    #[test]
    fn empty_drawings_do_not_fail() {
        map(0, 0).draw("", 100.0, 10.0);
        let bars = StackedBars {
            label: String::new(),
            columns: vec![],
            values: vec![],
            titles: vec![],
            axis: |_| String::new(),
        };
        assert!(bars.upright("", 100.0, 30.0).contains("<svg") && bars.lying("", 100.0).contains("<svg"));
    }
}
