//! What the operators' tests share: reproducible numbers, gradient checks, pools of several sizes.

/// n numbers between −2 and 2 with no pattern that an operator could share.
pub(crate) fn wave(n: usize, frequency: f32) -> Vec<f32> {
    (0..n).map(|i| 2.0 * ((i as f32 + 0.3) * frequency + 0.05 * (i as f32).sqrt()).sin()).collect()
}

/// Compares the gradient that `run` returns with the central difference of its value, along the gradient and along two
/// other directions. `step` is the length of the difference per element.
pub(crate) fn check_gradient(x: &[f32], step: f64, run: impl Fn(&[f32]) -> (f64, Vec<f32>)) {
    let gradient = run(x).1;
    let norm = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
    let size = norm.max(1e-12) / (x.len() as f64).sqrt();
    let along: Vec<f64> = gradient.iter().map(|g| f64::from(*g) / size).collect();
    let other = |f| wave(x.len(), f).into_iter().map(f64::from).collect::<Vec<_>>();
    for direction in [along, other(0.77), other(3.1)] {
        let moved = |sign: f64| -> Vec<f32> {
            x.iter().zip(&direction).map(|(x, d)| (f64::from(*x) + sign * step * d) as f32).collect()
        };
        let (plus, minus) = (moved(1.0), moved(-1.0));
        // The step that was really made: x + step·d rounds.
        let pairs = gradient.iter().zip(plus.iter().zip(&minus));
        let expected: f64 = pairs.map(|(g, (p, m))| f64::from(*g) * (f64::from(*p) - f64::from(*m))).sum();
        let found = run(&plus).0 - run(&minus).0;
        let scale = norm * step * (x.len() as f64).sqrt();
        assert!(
            (found - expected).abs() <= 2e-2 * expected.abs() + 2e-3 * scale + 1e-9,
            "{found} {expected}"
        );
    }
}

/// Runs on pools of 1, 2 and 3 threads and asserts the same bits; returns them.
pub(crate) fn on_pools(run: impl Fn() -> Vec<f32> + Sync) -> Vec<f32> {
    let answers = [1, 2, 3]
        .map(|threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(&run));
    let bits = |x: &[f32]| x.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    assert!(answers.iter().all(|a| bits(a) == bits(&answers[0])), "results depend on the number of threads");
    answers.into_iter().next().unwrap()
}
