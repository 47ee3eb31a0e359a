//! Values → colour classes of the style sheet, and the legends that explain them.

use super::svg::escape;

/// Where the colour of a cosine changes: unrelated, slight, overlapping (the limit of the warning), and so on.
const COSINES: [f64; 5] = [0.05, 0.2, 0.4, 0.6, 0.8];

/// How a value becomes a colour class.
#[derive(Clone, Copy, Debug)]
pub(super) enum Scale {
    /// 0 … max in ten steps.
    Sequential { max: f64 },
    /// −max … 0 … max in eleven steps, linear.
    Diverging { max: f64 },
    /// Cosines: eleven steps at the limits [`COSINES`].
    Cosine,
}

impl Scale {
    /// Colour class; `nil` for what has no value.
    pub(super) fn class(self, value: f64) -> String {
        let step = |fraction: f64, steps: f64| (fraction.clamp(-1.0, 1.0) * steps).round();
        match self {
            _ if !value.is_finite() => "nil".to_owned(),
            Self::Sequential { max } if max > 0.0 => format!("s{}", step((value / max).max(0.0), 9.0)),
            Self::Sequential { .. } => "s0".to_owned(),
            Self::Diverging { max } if max > 0.0 => format!("d{}", 5.0 + step(value / max, 5.0)),
            Self::Diverging { .. } => "d5".to_owned(),
            Self::Cosine => {
                let steps = COSINES.iter().filter(|limit| value.abs() >= **limit).count();
                format!("d{}", if value < 0.0 { 5 - steps } else { 5 + steps })
            }
        }
    }

    /// Swatches in order, with the given words at the ends.
    pub(super) fn legend(self, low: &str, high: &str) -> String {
        let (prefix, steps) = if matches!(self, Self::Sequential { .. }) { ("s", 10) } else { ("d", 11) };
        let swatches: String = (0..steps)
            .map(|at| format!(r#"<rect class="{prefix}{at}" x="{}" width="14" height="10"/>"#, at * 14))
            .collect();
        let size = steps * 14;
        format!(
            r#"<span class="legend">{} <svg width="{size}" height="10" viewBox="0 0 {size} 10" aria-hidden="true">{swatches}</svg> {}</span>"#,
            escape(low),
            escape(high)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_reach_their_ends_and_survive_oddities() {
        let scale = Scale::Sequential { max: 2.0 };
        assert_eq!(
            [0.0, 1.0, 2.0, 9.0, -1.0, f64::NAN].map(|v| scale.class(v)),
            ["s0", "s5", "s9", "s9", "s0", "nil"]
        );
        assert_eq!(Scale::Sequential { max: 0.0 }.class(0.0), "s0");
        assert_eq!([-1.0, 0.0, 1.0].map(|v| Scale::Diverging { max: 1.0 }.class(v)), ["d0", "d5", "d10"]);
        assert_eq!(
            [-0.25, 0.004, 0.05, 0.3, 1.0].map(|v| Scale::Cosine.class(v)),
            ["d3", "d5", "d6", "d7", "d10"]
        );
    }
}
