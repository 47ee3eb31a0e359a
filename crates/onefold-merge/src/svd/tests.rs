//! Goldens, a naive twin that follows the papers line by line with full SVDs, and degenerate input.

use faer::{Mat, MatRef};
use proptest::prelude::*;

use super::*;

const METHODS: [SvdMethod; 4] = [
    SvdMethod::TsvM,
    SvdMethod::IsoC,
    SvdMethod::IsoCts { common_fraction: 0.5 },
    SvdMethod::IsoCts { common_fraction: 0.8 },
];

impl Scalar for f64 {
    fn to_f64(self) -> f64 {
        self
    }
    fn from_f64(value: f64) -> Self {
        value
    }
    fn is_finite(self) -> bool {
        f64::is_finite(self)
    }
}

fn run<T: Scalar>(method: SvdMethod, taus: &[Vec<T>], rows: usize, cols: usize) -> Vec<T> {
    let slices: Vec<&[T]> = taus.iter().map(Vec::as_slice).collect();
    merge(method, &slices, rows, cols).unwrap()
}

fn to_f32(taus: &[Vec<f64>]) -> Vec<Vec<f32>> {
    taus.iter().map(|t| t.iter().map(|&x| x as f32).collect()).collect()
}

fn to_f64(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

fn norm(a: &[f64]) -> f64 {
    a.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// ‖a − b‖_F / ‖b‖_F.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let difference: Vec<f64> = a.iter().zip(b).map(|(x, y)| x - y).collect();
    norm(&difference) / norm(b).max(f64::MIN_POSITIVE)
}

/// Pseudo-random numbers, uniform in (−1, 1).
fn random(count: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(2).wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn tasks(k: usize, rows: usize, cols: usize, seed: u64) -> Vec<Vec<f64>> {
    (0..k).map(|i| random(rows * cols, seed * 1000 + i as u64 + 1)).collect()
}

fn flat(m: MatRef<'_, f64>) -> Vec<f64> {
    (0..m.nrows()).flat_map(|i| (0..m.ncols()).map(move |j| m[(i, j)])).collect()
}

/// A rows×cols matrix with the given singular values.
fn with_spectrum(rows: usize, cols: usize, s: &[f64], seed: u64) -> (Vec<f64>, Mat<f64>, Mat<f64>) {
    let u =
        naive::procrustes(&Mat::from_fn(rows, s.len(), |i, j| random(rows * s.len(), seed)[i * s.len() + j]));
    let v = naive::procrustes(&Mat::from_fn(cols, s.len(), |i, j| {
        random(cols * s.len(), seed + 7)[i * s.len() + j]
    }));
    let scaled = Mat::from_fn(rows, s.len(), |i, j| u[(i, j)] * s[j]);
    (flat((&scaled * v.transpose()).as_ref()), u, v)
}

/// The formulas as printed, by economy SVDs in f64.
mod naive {
    use super::*;

    struct Svd {
        u: Mat<f64>,
        s: Vec<f64>,
        v: Mat<f64>,
    }

    fn svd(m: &Mat<f64>) -> Svd {
        let svd = m.thin_svd().unwrap();
        let s = svd.S().column_vector().iter().copied().collect();
        Svd { u: svd.U().to_owned(), s, v: svd.V().to_owned() }
    }

    pub(super) fn procrustes(m: &Mat<f64>) -> Mat<f64> {
        let Svd { u, v, .. } = svd(m);
        &u * v.transpose()
    }

    fn join(blocks: &[Mat<f64>]) -> Mat<f64> {
        let columns: Vec<(usize, usize)> =
            blocks.iter().enumerate().flat_map(|(b, m)| (0..m.ncols()).map(move |j| (b, j))).collect();
        Mat::from_fn(blocks[0].nrows(), columns.len(), |i, j| blocks[columns[j].0][(i, columns[j].1)])
    }

    fn rebuild(u: &[Mat<f64>], s: &[f64], v: &[Mat<f64>]) -> Mat<f64> {
        let (u, v) = (procrustes(&join(u)), procrustes(&join(v)));
        let scaled = Mat::from_fn(u.nrows(), s.len(), |i, j| u[(i, j)] * s[j]);
        &scaled * v.transpose()
    }

    pub(super) fn merge(method: SvdMethod, taus: &[Vec<f64>], rows: usize, cols: usize) -> Vec<f64> {
        let taus: Vec<Mat<f64>> =
            taus.iter().map(|t| Mat::from_fn(rows, cols, |i, j| t[i * cols + j])).collect();
        let (k, p) = (taus.len(), rows.min(cols));
        let sum = taus.iter().fold(Mat::zeros(rows, cols), |a, b| &a + b);
        let (mut u, mut s, mut v) = (Vec::new(), Vec::new(), Vec::new());
        let mut take = |of: Svd, count: usize| {
            u.push(of.u.get(.., ..count).to_owned());
            s.extend_from_slice(&of.s[..count]);
            v.push(of.v.get(.., ..count).to_owned());
        };
        match method {
            SvdMethod::TsvM => taus.iter().for_each(|t| take(svd(t), p / k)),
            SvdMethod::IsoC => take(svd(&sum), p),
            SvdMethod::IsoCts { common_fraction } => {
                let c0 = (p as f64 * common_fraction) as usize;
                let c = p - ((p - c0) as f64 / k as f64).round_ties_even() as usize * k;
                let common = svd(&sum);
                let uc = common.u.get(.., ..c).to_owned();
                for t in &taus {
                    take(svd(&(t - &uc * (uc.transpose() * t))), (p - c) / k);
                }
                take(common, c);
            }
        }
        if method != SvdMethod::TsvM {
            let mean = s.iter().sum::<f64>() / s.len() as f64;
            s.fill(mean);
        }
        flat(rebuild(&u, &s, &v).as_ref())
    }
}

#[derive(serde::Deserialize)]
struct Golden {
    taus: Vec<Vec<Vec<f64>>>,
    tsv_m: Vec<Vec<f64>>,
    iso_c: Vec<Vec<f64>>,
    #[serde(rename = "iso_cts_0.5")]
    iso_cts_5: Vec<Vec<f64>>,
    #[serde(rename = "iso_cts_0.8")]
    iso_cts_8: Vec<Vec<f64>>,
}

/// Tolerances: 1e-8 in f64 (numpy's own SVDs agree to about 1e-12), 1e-4 relative with f32 storage.
#[test]
fn goldens() {
    let text = include_str!("../../../../testdata/svd/svd_methods.json");
    let cases: Vec<Golden> = serde_json::from_str(text).unwrap();
    assert_eq!(cases.len(), 3);
    for case in cases {
        let (rows, cols) = (case.taus[0].len(), case.taus[0][0].len());
        let taus: Vec<Vec<f64>> = case.taus.iter().map(|t| t.concat()).collect();
        let wanted = [case.tsv_m, case.iso_c, case.iso_cts_5, case.iso_cts_8];
        for (method, wanted) in METHODS.into_iter().zip(wanted) {
            let wanted = wanted.concat();
            let worst = run(method, &taus, rows, cols)
                .iter()
                .zip(&wanted)
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f64::max);
            assert!(worst < 1e-8, "{method:?} {rows}×{cols} f64: {worst:e}");
            let got = to_f64(&run(method, &to_f32(&taus), rows, cols));
            let relative = distance(&got, &wanted);
            assert!(relative < 1e-4, "{method:?} {rows}×{cols} f32: {relative:e}");
        }
    }
}

/// Several blocks of columns, both orientations, more tasks than the goldens have.
#[test]
fn agrees_with_the_formulas_on_larger_matrices() {
    for (rows, cols) in [(40, 1100), (1100, 40), (64, 64), (70, 65)] {
        let taus = tasks(5, rows, cols, 3);
        for method in METHODS {
            let wanted = naive::merge(method, &taus, rows, cols);
            let error = distance(&run(method, &taus, rows, cols), &wanted);
            assert!(error < 1e-8, "{method:?} {rows}×{cols}: {error:e}");
            let error = distance(&to_f64(&run(method, &to_f32(&taus), rows, cols)), &wanted);
            assert!(error < 1e-4, "{method:?} {rows}×{cols} f32: {error:e}");
        }
    }
}

/// Singular values over six decades: the squared route alone would lose the small ones.
#[test]
fn graded_spectrum_needs_the_triangular_route() {
    let s: Vec<f64> = (0..31).map(|i| 10f64.powf(-0.2 * f64::from(i))).collect();
    let mean = s.iter().sum::<f64>() / 31.0;
    for (rows, cols) in [(31, 900), (900, 31), (31, 31)] {
        let (tau, u, v) = with_spectrum(rows, cols, &s, 5);
        let mut wanted = flat((&u * v.transpose()).as_ref());
        wanted.iter_mut().for_each(|x| *x *= mean);
        let error = distance(&run(SvdMethod::IsoC, std::slice::from_ref(&tau), rows, cols), &wanted);
        assert!(error < 1e-8, "{rows}×{cols}: {error:e}");
    }
}

#[test]
fn both_routes_find_the_same_singular_values() {
    let (p, n) = (37, 1500);
    let tau = random(p * n, 11);
    let slices = [tau.as_slice()];
    let deltas = Deltas { slices: &slices, p, n, transposed: false };
    let source = Combination::term(&deltas, columns::Term::Sum);
    let (a, b) = (orthonormal::by_eigenvalues(&source).unwrap(), orthonormal::by_triangle(&source).unwrap());
    for (x, y) in a.s.iter().zip(&b.s) {
        assert!((x - y).abs() < 1e-12 * a.s[0], "{x} {y}");
    }
    let overlap = a.u.transpose() * &b.u;
    for i in 0..p {
        assert!((overlap[(i, i)].abs() - 1.0).abs() < 1e-9, "{i}");
    }
}

#[test]
fn one_task() {
    for (rows, cols) in [(6, 9), (9, 6), (7, 7)] {
        let taus = tasks(1, rows, cols, 1);
        let taus32 = to_f32(&taus);
        assert_eq!(run(SvdMethod::TsvM, &taus32, rows, cols), taus32[0]);
        let iso_c = run(SvdMethod::IsoC, &taus, rows, cols);
        assert!(distance(&iso_c, &naive::merge(SvdMethod::IsoC, &taus, rows, cols)) < 1e-10);
        for common_fraction in [0.0, 0.3, 0.8, 1.0] {
            let iso_cts = run(SvdMethod::IsoCts { common_fraction }, &taus, rows, cols);
            assert!(distance(&iso_cts, &iso_c) < 1e-10, "{common_fraction}");
        }
    }
}

#[test]
fn order_of_tasks_does_not_matter() {
    for (rows, cols) in [(12, 30), (30, 12), (12, 12)] {
        let taus = tasks(3, rows, cols, 2);
        let turned = vec![taus[2].clone(), taus[0].clone(), taus[1].clone()];
        for method in METHODS {
            let error = distance(&run(method, &turned, rows, cols), &run(method, &taus, rows, cols));
            assert!(error < 1e-10, "{method:?} {rows}×{cols}: {error:e}");
        }
    }
}

/// Signs of singular vectors cancel: mirrored input gives mirrored output.
#[test]
fn signs_do_not_matter() {
    let (rows, cols) = (9, 14);
    let taus = tasks(3, rows, cols, 4);
    let flip_col = |i: usize| if (i % cols).is_multiple_of(3) { -1.0 } else { 1.0 };
    let flip_row = |i: usize| if (i / cols).is_multiple_of(2) { -1.0 } else { 1.0 };
    let mirror = |t: &Vec<f64>| -> Vec<f64> {
        t.iter().enumerate().map(|(i, x)| x * flip_col(i) * flip_row(i)).collect()
    };
    let mirrored: Vec<Vec<f64>> = taus.iter().map(mirror).collect();
    for method in METHODS {
        let wanted = mirror(&run(method, &taus, rows, cols));
        let error = distance(&run(method, &mirrored, rows, cols), &wanted);
        assert!(error < 1e-10, "{method:?}: {error:e}");
    }
}

#[test]
fn zero_tasks_contribute_nothing() {
    for (rows, cols) in [(8, 20), (20, 8)] {
        let zero = vec![0.0; rows * cols];
        let taus = tasks(1, rows, cols, 6);
        for method in METHODS {
            let nothing = run(method, &vec![zero.clone(); 3], rows, cols);
            assert!(nothing.iter().all(|&x| x == 0.0), "{method:?}");
        }
        // The first half of the task's triples, as if it were alone with that budget.
        let got = run(SvdMethod::TsvM, &[zero.clone(), taus[0].clone()], rows, cols);
        let m = Mat::from_fn(rows, cols, |i, j| taus[0][i * cols + j]);
        let svd = m.thin_svd().unwrap();
        let half =
            Mat::from_fn(rows, 4, |i, j| svd.U()[(i, j)] * svd.S()[j]) * svd.V().get(.., ..4).transpose();
        assert!(distance(&got, &flat(half.as_ref())) < 1e-10);
    }
}

/// Merged adapters of rank 2: everything stays in their joint row and column spaces, and finite.
#[test]
fn low_rank_tasks() {
    let null = |rows: usize, cols: usize, taus: &[Vec<f32>], delta: &[f32]| {
        // A vector orthogonal to all rows of all τ, from the SVD of their stack.
        let stack =
            Mat::from_fn(rows * taus.len(), cols, |i, j| f64::from(taus[i / rows][i % rows * cols + j]));
        let v = stack.svd().unwrap().V().to_owned();
        let last = v.col(cols - 1);
        (0..rows)
            .map(|i| (0..cols).map(|j| f64::from(delta[i * cols + j]) * last[j]).sum::<f64>().abs())
            .sum::<f64>()
    };
    for (rows, cols) in [(16, 40), (40, 16), (16, 16)] {
        let taus: Vec<Vec<f32>> = (0..3)
            .map(|k| with_spectrum(rows, cols, &[3.0, 1.0], 20 + k).0.iter().map(|&x| x as f32).collect())
            .collect();
        for method in METHODS {
            let delta = run(method, &taus, rows, cols);
            assert!(delta.iter().all(|x| x.is_finite()) && delta.iter().any(|&x| x != 0.0), "{method:?}");
            let leak = null(rows, cols, &taus, &delta);
            assert!(leak < 1e-4, "{method:?} {rows}×{cols}: {leak}");
        }
    }
}

/// Coinciding directions are shared, not fought over.
#[test]
fn equal_tasks() {
    let (rows, cols) = (9, 25);
    let tau = to_f32(&tasks(1, rows, cols, 8)).remove(0);
    let three = vec![tau.clone(); 3];
    let got = to_f64(&run(SvdMethod::TsvM, &three, rows, cols));
    let m = Mat::from_fn(rows, cols, |i, j| f64::from(tau[i * cols + j]));
    let svd = m.thin_svd().unwrap();
    let third = Mat::from_fn(rows, 3, |i, j| svd.U()[(i, j)] * svd.S()[j]) * svd.V().get(.., ..3).transpose();
    assert!(distance(&got, &flat(third.as_ref())) < 1e-6);
    let opposite: Vec<f32> = tau.iter().map(|x| -x).collect();
    assert!(run(SvdMethod::IsoC, &[tau, opposite], rows, cols).iter().all(|&x| x == 0.0));
}

#[test]
fn vectors_and_more_tasks_than_directions() {
    for (rows, cols) in [(1, 7), (7, 1), (1, 1), (2, 9)] {
        let taus = to_f32(&tasks(3, rows, cols, 9));
        let sum: Vec<f64> =
            (0..rows * cols).map(|i| taus.iter().map(|t| f64::from(t[i])).sum::<f64>()).collect();
        let mean: Vec<f64> = sum.iter().map(|x| x / 3.0).collect();
        assert!(distance(&to_f64(&run(SvdMethod::TsvM, &taus, rows, cols)), &mean) < 1e-6);
        for method in METHODS {
            let got = run(method, &taus, rows, cols);
            assert!(got.iter().all(|x| x.is_finite()));
            if rows.min(cols) == 1 && method != SvdMethod::TsvM {
                // σ̄UVᵀ of a vector is the vector; with K > p nothing is task-specific.
                assert!(distance(&to_f64(&got), &sum) < 1e-6, "{method:?}");
            }
        }
    }
    assert_eq!(merge_matrix(SvdMethod::IsoC, &[&[]], 0, 5), Ok(vec![]));
}

#[test]
fn any_scale() {
    let (rows, cols) = (10, 23);
    let taus = tasks(3, rows, cols, 10);
    for method in METHODS {
        let plain = to_f64(&run(method, &to_f32(&taus), rows, cols));
        for scale in [1e-20, 1e-30, 1e20, 1e35] {
            let scaled: Vec<Vec<f32>> = taus
                .iter()
                .map(|t| t.iter().map(|&x| (f64::from(x as f32) * scale) as f32).collect())
                .collect();
            let mut got = to_f64(&run(method, &scaled, rows, cols));
            got.iter_mut().for_each(|x| *x /= scale);
            let error = distance(&got, &plain);
            assert!(error < 1e-5, "{method:?} {scale:e}: {error:e}");
        }
        // Tasks forty decades apart.
        let mixed: Vec<Vec<f32>> = taus
            .iter()
            .zip([1e-20, 1.0, 1e20])
            .map(|(t, scale)| t.iter().map(|x| (x * scale) as f32).collect())
            .collect();
        assert!(run(method, &mixed, rows, cols).iter().all(|x| x.is_finite()), "{method:?}");
    }
}

#[test]
fn same_bits_whatever_the_threads() {
    for (rows, cols) in [(300, 700), (700, 300)] {
        let taus = to_f32(&tasks(2, rows, cols, 12));
        for method in [SvdMethod::TsvM, SvdMethod::IsoC, METHODS[3]] {
            let alone = run(method, &taus, rows, cols);
            let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
            let (a, b) = pool.install(|| {
                rayon::join(|| run(method, &taus, rows, cols), || run(method, &taus, rows, cols))
            });
            assert!(a == alone && b == alone, "{method:?}");
        }
    }
}

#[test]
fn directions_follow_the_formulas() {
    let cts = |f| SvdMethod::IsoCts { common_fraction: f };
    let of = |method, k, rows, cols| {
        let d = directions(method, k, rows, cols);
        (d.common, d.per_task)
    };
    assert_eq!(of(SvdMethod::TsvM, 3, 8, 100), (0, 2));
    assert_eq!(of(SvdMethod::TsvM, 9, 8, 100), (0, 0));
    assert_eq!(of(SvdMethod::IsoC, 3, 100, 8), (8, 0));
    assert_eq!(of(cts(0.8), 8, 768, 3072), (616, 19)); // 768 − 614 = 154, /8 = 19.25
    assert_eq!(of(cts(0.5), 4, 20, 20), (12, 2)); // 10/4 = 2.5 → 2, even
    assert_eq!(of(cts(0.3), 4, 20, 20), (4, 4)); // 14/4 = 3.5 → 4, even
    assert_eq!(of(cts(0.0), 3, 5, 9), (2, 1)); // 5/3 rounds to 2, but 6 > 5
    assert_eq!(of(cts(1.0), 3, 5, 9), (5, 0));
    assert_eq!(of(cts(0.0), 7, 5, 9), (5, 0));
}

#[test]
fn errors() {
    let (a, b): (&[f32], &[f32]) = (&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[1.0, 2.0]);
    let nan: &[f32] = &[1.0, 2.0, 3.0, 4.0, f32::NAN, f32::INFINITY];
    let huge: &[f32] = &[3e38; 6];
    let iso_c = SvdMethod::IsoC;
    assert_eq!(merge_matrix(iso_c, &[], 2, 3), Err(SvdError::NoTasks));
    let shape = SvdError::Shape { task: 1, found: 2, rows: 2, cols: 3 };
    assert_eq!(merge_matrix(iso_c, &[a, b], 2, 3), Err(shape));
    assert!(matches!(merge_matrix(iso_c, &[a], usize::MAX, 3), Err(SvdError::Shape { task: 0, .. })));
    assert_eq!(merge_matrix(iso_c, &[a, nan], 2, 3), Err(SvdError::NonFinite { task: 1, row: 1, col: 1 }));
    assert_eq!(merge_matrix(iso_c, &[huge, huge], 1, 6), Err(SvdError::Overflow { rows: 1, cols: 6 }));
    for found in [-0.1, 1.1, f64::INFINITY] {
        let method = SvdMethod::IsoCts { common_fraction: found };
        assert_eq!(merge_matrix(method, &[a], 2, 3), Err(SvdError::CommonFraction { found }));
    }
    let method = SvdMethod::IsoCts { common_fraction: f64::NAN };
    assert!(matches!(merge_matrix(method, &[a], 2, 3), Err(SvdError::CommonFraction { .. })));
}

#[test]
fn peak_bytes_counts_the_result_and_never_overflows() {
    for method in METHODS {
        assert_eq!(peak_bytes(method, 3, 0, 9), 0);
        assert_eq!(peak_bytes(method, 3, usize::MAX, usize::MAX), u64::MAX);
        let (small, large) = (peak_bytes(method, 3, 64, 1 << 16), peak_bytes(method, 3, 64, 1 << 20));
        assert_eq!(large - small, 4 * 64 * ((1 << 20) - (1 << 16)), "grows with n by the result only");
        assert_eq!(peak_bytes(method, 3, 10, 77), peak_bytes(method, 3, 77, 10));
    }
    assert_eq!(peak_bytes(SvdMethod::TsvM, 1, 10, 77), 10 * 77 * 4);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The cheap routes equal the full SVDs for any shape, number of tasks and fraction.
    #[test]
    fn twin(rows in 1usize..14, cols in 1usize..14, k in 1usize..5, tenths in 0u32..=10, seed in 1u64..1000) {
        let p = rows.min(cols);
        let common_fraction = f64::from(tenths) / 10.0;
        let taus = tasks(k, rows, cols, seed);
        let asked = ((p - (p as f64 * common_fraction) as usize) as f64 / k as f64).round_ties_even() as usize * k;
        for method in [SvdMethod::TsvM, SvdMethod::IsoC, SvdMethod::IsoCts { common_fraction }] {
            // Where the printed formulas have no answer there is nothing to compare.
            if (method == SvdMethod::TsvM && k > p) || (matches!(method, SvdMethod::IsoCts { .. }) && asked > p) {
                continue;
            }
            let error = distance(&run(method, &taus, rows, cols), &naive::merge(method, &taus, rows, cols));
            prop_assert!(error < 1e-6, "{:?}: {:e}", method, error);
        }
    }

    /// No finite input makes anything else than finite numbers or a stated overflow.
    #[test]
    fn hostile_values_stay_finite(
        rows in 1usize..6,
        cols in 1usize..6,
        k in 1usize..4,
        picks in proptest::collection::vec(0usize..8, 75),
    ) {
        let palette = [0.0, 1.0, -1.0, 1e-45, f32::MIN_POSITIVE, f32::MAX, f32::MIN, 0.5];
        let taus: Vec<Vec<f32>> =
            (0..k).map(|t| (0..rows * cols).map(|i| palette[picks[(t * 25 + i) % 75]]).collect()).collect();
        let slices: Vec<&[f32]> = taus.iter().map(Vec::as_slice).collect();
        for method in METHODS {
            match merge_matrix(method, &slices, rows, cols) {
                Ok(delta) => prop_assert!(delta.iter().all(|x| x.is_finite())),
                Err(error) => prop_assert_eq!(error, SvdError::Overflow { rows, cols }),
            }
        }
    }
}
