//! Long series → few points that look the same: the extremes of every stretch stay, so no spike is lost.

/// A series over steps; none where there is no value.
pub(super) type Series = Vec<(f64, Option<f64>)>;

/// At most `most` points (at least 4) of `series`: the first, the last, and of equal stretches between them the least and the
/// greatest value, in their order. A stretch without any value stays one gap; a gap beside values is not kept.
///
/// Depends on nothing but its arguments.
pub(super) fn thin(series: &[(f64, Option<f64>)], most: usize) -> Series {
    let most = most.max(4);
    if series.len() <= most {
        return series.to_vec();
    }
    let (first, last) = (series[0], series[series.len() - 1]);
    let inner = &series[1..series.len() - 1];
    let stretch = inner.len().div_ceil((most - 2) / 2);
    let mut kept = vec![first];
    inner.chunks(stretch).for_each(|stretch| kept.extend(extremes(stretch)));
    kept.push(last);
    kept
}

/// The least and the greatest value, in their order; one point if they are the same, or if there is no value.
fn extremes(stretch: &[(f64, Option<f64>)]) -> impl Iterator<Item = (f64, Option<f64>)> {
    let values = || stretch.iter().enumerate().filter_map(|(at, (_, value))| Some((at, (*value)?)));
    // Of equal values the first, whichever end of the order is looked for.
    let least = values().reduce(|a, b| if b.1 < a.1 { b } else { a }).map_or(0, |(at, _)| at);
    let greatest = values().reduce(|a, b| if b.1 > a.1 { b } else { a }).map_or(0, |(at, _)| at);
    let second = (least != greatest).then(|| least.max(greatest));
    std::iter::once(least.min(greatest)).chain(second).map(|at| stretch[at])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long(count: usize) -> Series {
        (0..count).map(|at| (at as f64, Some(((at * 7919) % 1009) as f64))).collect()
    }

    #[test]
    fn ends_and_extremes_stay() {
        let mut series = long(100_000);
        (series[31_415].1, series[77_777].1) = (Some(-5.0), Some(1e6));
        for most in [4, 5, 100, 400] {
            let thinned = thin(&series, most);
            assert!(thinned.len() <= most, "{} of {most}", thinned.len());
            assert!(thinned.len() > most / 2);
            assert!(thinned.contains(&series[31_415]) && thinned.contains(&series[77_777]));
            assert_eq!((thinned[0], thinned[thinned.len() - 1]), (series[0], series[99_999]));
            assert!(thinned.windows(2).all(|pair| pair[0].0 < pair[1].0), "in order");
            assert_eq!(thinned, thin(&series, most));
        }
    }

    #[test]
    fn short_series_stay_as_they_are() {
        for count in [0, 1, 4, 400] {
            assert_eq!(thin(&long(count), 400), long(count));
        }
    }

    #[test]
    fn a_stretch_without_values_stays_a_gap() {
        let mut series = long(10_000);
        series[2000..8000].iter_mut().for_each(|point| point.1 = None);
        let thinned = thin(&series, 100);
        assert!(thinned.iter().filter(|point| point.1.is_none()).count() > 10);
        assert!(thinned.iter().all(|point| series.contains(point)));
        let none: Series = (0..1000).map(|at| (at as f64, None)).collect();
        assert!(thin(&none, 10).iter().all(|point| point.1.is_none()));
    }
}
