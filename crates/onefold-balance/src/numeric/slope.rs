//! Slopes of short curves.

/// The slope of the ordinary least-squares line through points `(x, y)`; 0 of fewer than two different x.
pub fn least_squares(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let (x, y) = points.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0, y + point.1));
    let (x, y) = (x / count, y / count);
    let above: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    let below: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    if points.len() < 2 || below == 0.0 { 0.0 } else { above / below }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_too_few_points() {
        let line: Vec<_> = (1000..1010).map(|x| (f64::from(x), 2.0 - 0.25 * f64::from(x))).collect();
        assert!((least_squares(&line) + 0.25).abs() < 1e-12);
        for few in [&[][..], &[(1.0, 5.0)], &[(1.0, 5.0), (1.0, 7.0)]] {
            assert_eq!(least_squares(few), 0.0);
        }
    }
}
