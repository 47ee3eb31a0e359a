//! Activation functions: plain, and gated as in the feed-forward layers of Llama, Gemma and Phi-3, m = act(g) · u.
//!
//! | | value | slope |
//! |---|---|---|
//! | SiLU | x·σ(x) | σ·(1 + x·(1 − σ)) |
//! | GELU | x·Φ(x) | Φ + x·φ |
//! | GELU, tanh form | x·σ(2v), v = √(2/π)·(x + 0.044715·x³) | σ + 2·x·v′·σ·(1 − σ) |
//! | quick GELU | x·σ(1.702·x) | σ + 1.702·x·σ·(1 − σ) |
//! | ReLU | max(x, 0) | 1 for x > 0, else 0 |
//! | tanh | tanh x | 1 − tanh² x |
//!
//! ½·(1 + tanh v) = σ(2v) saves the tanh and keeps the left tail. Errors against exact arithmetic are below
//! 10⁻⁶·max(|x|, 1) for values and slopes (tested). Backward passes overwrite the inputs they were given: x → dx, g → dg,
//! u → du.

use multiversion::multiversion;
use rayon::prelude::*;

use super::{math, parallel};
use crate::Buffer;

/// An activation function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x·σ(x), also called swish; gated: SwiGLU.
    Silu,
    /// GELU by the distribution function of the normal.
    Gelu,
    /// GELU in its tanh approximation; gated: GeGLU of Gemma.
    GeluTanh,
    /// x·σ(1.702·x), of CLIP.
    QuickGelu,
    /// max(x, 0).
    Relu,
    /// tanh x, of BERT's pooler.
    Tanh,
}

/// A name that no activation has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown activation '{name}': known are {}", known())]
pub struct UnknownActivation {
    /// The name as given.
    pub name: String,
}

/// Names in the configurations of Hugging Face. The forms of GELU by tanh differ there in their rounding only.
const NAMES: [(&str, Activation); 12] = [
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
    ("gelu", Activation::Gelu),
    ("gelu_python", Activation::Gelu),
    ("gelu_new", Activation::GeluTanh),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("gelu_python_tanh", Activation::GeluTanh),
    ("gelu_fast", Activation::GeluTanh),
    ("gelu_accurate", Activation::GeluTanh),
    ("quick_gelu", Activation::QuickGelu),
    ("relu", Activation::Relu),
    ("tanh", Activation::Tanh),
];

fn known() -> String {
    Activation::names().collect::<Vec<_>>().join(", ")
}

impl Activation {
    /// All names that [`Activation::from_name`] knows.
    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMES.iter().map(|(name, _)| *name)
    }

    /// The activation that a model's configuration names, e.g. in `hidden_act`.
    ///
    /// # Errors
    /// [`UnknownActivation`], which lists the known ones.
    pub fn from_name(name: &str) -> Result<Self, UnknownActivation> {
        let found = NAMES.iter().find(|(known, _)| *known == name);
        found.map(|(_, it)| *it).ok_or_else(|| UnknownActivation { name: name.to_owned() })
    }
}

/// y = act(x).
///
/// # Panics
/// If the lengths differ.
pub fn forward(act: Activation, y: &mut Buffer, x: &Buffer) {
    assert_eq!(y.len(), x.len(), "lengths of an activation's buffers");
    let x = x.host();
    parallel::for_rows(y.host_mut(), 1, |start, y| {
        let len = y.len();
        plain(act, y, &x[start..start + len]);
    });
}

/// x ← dx = act′(x) · dy.
///
/// # Panics
/// If the lengths differ.
pub fn backward(act: Activation, x: &mut Buffer, dy: &Buffer) {
    assert_eq!(x.len(), dy.len(), "lengths of an activation's buffers");
    let dy = dy.host();
    parallel::for_rows(x.host_mut(), 1, |start, x| {
        let len = x.len();
        plain_backward(act, x, &dy[start..start + len]);
    });
}

/// m = act(g) · u.
///
/// # Panics
/// If the lengths differ.
pub fn gated_forward(act: Activation, m: &mut Buffer, g: &Buffer, u: &Buffer) {
    assert!(m.len() == g.len() && m.len() == u.len(), "lengths of a gated activation's buffers");
    let (g, u) = (g.host(), u.host());
    parallel::for_rows(m.host_mut(), 1, |start, m| {
        let range = start..start + m.len();
        gated(act, m, &g[range.clone()], &u[range]);
    });
}

/// g ← dg = act′(g) · u · dm and u ← du = act(g) · dm.
///
/// # Panics
/// If the lengths differ.
pub fn gated_backward(act: Activation, g: &mut Buffer, u: &mut Buffer, dm: &Buffer) {
    assert!(dm.len() == g.len() && dm.len() == u.len(), "lengths of a gated activation's buffers");
    let step = parallel::rows_per_task(1);
    let parts = g.host_mut().par_chunks_mut(step).zip(u.host_mut().par_chunks_mut(step));
    parts.zip(dm.host().par_chunks(step)).for_each(|((g, u), dm)| gated_backward_of(act, g, u, dm));
}

/// [`gated_forward`] of one buffer `[rows, 2 · width]` whose rows hold g, then u (Phi-3's `gate_up_proj`).
///
/// # Panics
/// If `gu` is not twice as long as `m`, or not of whole rows.
pub fn fused_gated_forward(act: Activation, m: &mut Buffer, gu: &Buffer, width: usize) {
    check_fused(m.len(), gu.len(), width);
    let gu = gu.host();
    parallel::for_rows(m.host_mut(), width, |row, m| {
        for (m, gu) in m.chunks_exact_mut(width).zip(gu[row * 2 * width..].chunks_exact(2 * width)) {
            let (g, u) = gu.split_at(width);
            gated(act, m, g, u);
        }
    });
}

/// [`gated_backward`] in the layout of [`fused_gated_forward`].
///
/// # Panics
/// If `gu` is not twice as long as `dm`, or not of whole rows.
pub fn fused_gated_backward(act: Activation, gu: &mut Buffer, dm: &Buffer, width: usize) {
    check_fused(dm.len(), gu.len(), width);
    let dm = dm.host();
    parallel::for_rows(gu.host_mut(), 2 * width, |row, gu| {
        for (gu, dm) in gu.chunks_exact_mut(2 * width).zip(dm[row * width..].chunks_exact(width)) {
            let (g, u) = gu.split_at_mut(width);
            gated_backward_of(act, g, u, dm);
        }
    });
}

fn check_fused(m: usize, gu: usize, width: usize) {
    assert!(width > 0 && m.is_multiple_of(width), "{m} values in rows of {width}");
    assert_eq!(gu, 2 * m, "length of the fused gate");
}

/// A function with its slope.
trait Curve {
    fn value(x: f32) -> f32;
    fn both(x: f32) -> (f32, f32);
}

struct Silu;
struct Gelu;
struct GeluTanh;
struct QuickGelu;
struct Relu;
struct Tanh;

impl Curve for Silu {
    #[inline(always)]
    fn value(x: f32) -> f32 {
        x * math::sigmoid(x)
    }

    #[inline(always)]
    fn both(x: f32) -> (f32, f32) {
        let s = math::sigmoid(x);
        (x * s, s + x * s * (1.0 - s))
    }
}

impl Curve for Gelu {
    #[inline(always)]
    fn value(x: f32) -> f32 {
        x * math::normal(x).0
    }

    #[inline(always)]
    fn both(x: f32) -> (f32, f32) {
        let (below, density) = math::normal(x);
        (x * below, below + x * density)
    }
}

/// 2·√(2/π) and the factor of x³.
const TANH_FORM: (f32, f32) = (1.595_769, 0.044_715);

impl Curve for GeluTanh {
    #[inline(always)]
    fn value(x: f32) -> f32 {
        x * math::sigmoid(TANH_FORM.0 * x * (1.0 + TANH_FORM.1 * x * x))
    }

    #[inline(always)]
    fn both(x: f32) -> (f32, f32) {
        let square = TANH_FORM.1 * x * x;
        let s = math::sigmoid(TANH_FORM.0 * x * (1.0 + square));
        (x * s, s + x * s * (1.0 - s) * (TANH_FORM.0 * (1.0 + 3.0 * square)))
    }
}

impl Curve for QuickGelu {
    #[inline(always)]
    fn value(x: f32) -> f32 {
        x * math::sigmoid(1.702 * x)
    }

    #[inline(always)]
    fn both(x: f32) -> (f32, f32) {
        let s = math::sigmoid(1.702 * x);
        (x * s, s + 1.702 * x * s * (1.0 - s))
    }
}

impl Curve for Relu {
    #[inline(always)]
    fn value(x: f32) -> f32 {
        // Written so that NaN stays.
        if x < 0.0 { 0.0 } else { x }
    }

    #[inline(always)]
    fn both(x: f32) -> (f32, f32) {
        (Self::value(x), if x > 0.0 { 1.0 } else { 0.0 })
    }
}

impl Curve for Tanh {
    #[inline(always)]
    fn value(x: f32) -> f32 {
        math::tanh(x)
    }

    #[inline(always)]
    fn both(x: f32) -> (f32, f32) {
        let t = math::tanh(x);
        (t, (1.0 - t) * (1.0 + t))
    }
}

/// Calls the loop for the curve of an activation, so that the choice is made outside of it.
macro_rules! with_curve {
    ($act:expr, $loop:ident($($argument:expr),*)) => {
        match $act {
            Activation::Silu => $loop::<Silu>($($argument),*),
            Activation::Gelu => $loop::<Gelu>($($argument),*),
            Activation::GeluTanh => $loop::<GeluTanh>($($argument),*),
            Activation::QuickGelu => $loop::<QuickGelu>($($argument),*),
            Activation::Relu => $loop::<Relu>($($argument),*),
            Activation::Tanh => $loop::<Tanh>($($argument),*),
        }
    };
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn plain(act: Activation, y: &mut [f32], x: &[f32]) {
    with_curve!(act, plain_loop(y, x));
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn plain_backward(act: Activation, x: &mut [f32], dy: &[f32]) {
    with_curve!(act, plain_backward_loop(x, dy));
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn gated(act: Activation, m: &mut [f32], g: &[f32], u: &[f32]) {
    with_curve!(act, gated_loop(m, g, u));
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn gated_backward_of(act: Activation, g: &mut [f32], u: &mut [f32], dm: &[f32]) {
    with_curve!(act, gated_backward_loop(g, u, dm));
}

#[inline(always)]
fn plain_loop<C: Curve>(y: &mut [f32], x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = C::value(*x);
    }
}

#[inline(always)]
fn plain_backward_loop<C: Curve>(x: &mut [f32], dy: &[f32]) {
    for (x, dy) in x.iter_mut().zip(dy) {
        *x = C::both(*x).1 * dy;
    }
}

#[inline(always)]
fn gated_loop<C: Curve>(m: &mut [f32], g: &[f32], u: &[f32]) {
    for ((m, g), u) in m.iter_mut().zip(g).zip(u) {
        *m = C::value(*g) * u;
    }
}

#[inline(always)]
fn gated_backward_loop<C: Curve>(g: &mut [f32], u: &mut [f32], dm: &[f32]) {
    for ((g, u), dm) in g.iter_mut().zip(u).zip(dm) {
        let (value, slope) = C::both(*g);
        *g = slope * *u * dm;
        *u = value * dm;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::probe::{check_gradient, on_pools, wave};
    use super::*;

    const ALL: [Activation; 6] = [
        Activation::Silu,
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::QuickGelu,
        Activation::Relu,
        Activation::Tanh,
    ];

    /// Φ by the alternating series of erf near 0, by Mills' ratio elsewhere.
    fn normal(x: f64) -> f64 {
        let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
        if x.abs() < 4.0 {
            let mut term = x;
            let mut sum = x;
            for k in 1..200 {
                term *= x * x / f64::from(2 * k + 1);
                sum += term;
            }
            return 0.5 + density * sum;
        }
        let tail = density / (1..200).rev().fold(x.abs(), |f, k| x.abs() + f64::from(k) / f);
        if x < 0.0 { tail } else { 1.0 - tail }
    }

    /// Value in f64, by the definitions.
    fn exact(act: Activation, x: f64) -> f64 {
        match act {
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::Gelu => x * normal(x),
            Activation::GeluTanh => {
                0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
            }
            Activation::QuickGelu => x / (1.0 + (-1.702 * x).exp()),
            Activation::Relu => x.max(0.0),
            Activation::Tanh => x.tanh(),
        }
    }

    fn slope(act: Activation, x: f64) -> f64 {
        (exact(act, x + 1e-5) - exact(act, x - 1e-5)) / 2e-5
    }

    #[test]
    fn values_and_slopes_are_within_their_bound() {
        let x: Vec<f32> = (-20_000..20_000).map(|i| i as f32 * 1e-3 + 3e-4).collect();
        for act in ALL {
            let mut y = Buffer::zeros(x.len());
            forward(act, &mut y, &x.clone().into());
            let mut dx = Buffer::from(x.clone());
            backward(act, &mut dx, &vec![1.0; x.len()].into());
            for ((x, y), dx) in x.iter().zip(y.to_vec()).zip(dx.to_vec()) {
                let (d, bound) = (f64::from(*x), 1e-6 * f64::from(x.abs().max(1.0)));
                assert!((f64::from(y) - exact(act, d)).abs() < bound, "{act:?} {x}: {y} {}", exact(act, d));
                assert!(
                    (f64::from(dx) - slope(act, d)).abs() < bound,
                    "{act:?}' {x}: {dx} {}",
                    slope(act, d)
                );
            }
        }
    }

    #[test]
    fn the_far_ends_are_finite_and_nan_stays() {
        for act in ALL {
            let x = Buffer::from(vec![1e4, -1e4, 0.0, -0.0, f32::NAN]);
            let mut y = Buffer::zeros(5);
            forward(act, &mut y, &x);
            let mut dx = x.clone();
            backward(act, &mut dx, &vec![1.0; 5].into());
            for values in [y.to_vec(), dx.to_vec()] {
                assert!(values[..4].iter().all(|v| v.is_finite()), "{act:?} {values:?}");
            }
            assert!(y.to_vec()[4].is_nan(), "{act:?}");
        }
    }

    #[test]
    fn names_of_configurations() {
        assert_eq!(Activation::from_name("gelu_new"), Ok(Activation::GeluTanh));
        assert_eq!(Activation::from_name("silu"), Ok(Activation::Silu));
        let message = Activation::from_name("SiLU").unwrap_err().to_string();
        assert!(message.starts_with("unknown activation 'SiLU': known are silu, swish, gelu"), "{message}");
    }

    #[test]
    fn threads_do_not_show() {
        let (g, u, dm) = (wave(50_001, 0.7), wave(50_001, 1.1), wave(50_001, 0.3));
        on_pools(|| {
            let (mut m, mut dg, mut du) =
                (Buffer::zeros(g.len()), Buffer::from(g.clone()), Buffer::from(u.clone()));
            gated_forward(Activation::Gelu, &mut m, &dg, &du);
            gated_backward(Activation::Gelu, &mut dg, &mut du, &dm.clone().into());
            [m.to_vec(), dg.to_vec(), du.to_vec()].concat()
        });
    }

    #[test]
    #[should_panic(expected = "length of the fused gate")]
    fn a_gate_of_another_length_is_refused() {
        fused_gated_forward(Activation::Silu, &mut Buffer::zeros(6), &Buffer::zeros(6), 3);
    }

    proptest! {
        #[test]
        fn gates_agree_with_their_definition(rows in 0usize..5, width in 1usize..70, which in 0usize..6) {
            let (act, len) = (ALL[which], rows * width);
            let (g, u, dm) = (wave(len, 2.7), wave(len, 1.3), wave(len, 0.4));
            let mut m = Buffer::zeros(len);
            gated_forward(act, &mut m, &g.clone().into(), &u.clone().into());
            let (mut dg, mut du) = (Buffer::from(g.clone()), Buffer::from(u.clone()));
            gated_backward(act, &mut dg, &mut du, &dm.clone().into());
            for i in 0..len {
                let (g, u, dm) = (f64::from(g[i]), f64::from(u[i]), f64::from(dm[i]));
                prop_assert!((f64::from(m.host()[i]) - exact(act, g) * u).abs() < 1e-6);
                prop_assert!((f64::from(dg.host()[i]) - slope(act, g) * u * dm).abs() < 1e-6);
                prop_assert!((f64::from(du.host()[i]) - exact(act, g) * dm).abs() < 1e-6);
            }
            let pair = |a: &[f32], b: &[f32]| -> Vec<f32> {
                let rows = a.chunks(width).zip(b.chunks(width));
                rows.flat_map(|(a, b)| [a, b].concat()).collect()
            };
            let mut gu = Buffer::from(pair(&g, &u));
            let mut fused = Buffer::zeros(len);
            fused_gated_forward(act, &mut fused, &gu, width);
            prop_assert!(fused == m);
            fused_gated_backward(act, &mut gu, &dm.into(), width);
            prop_assert_eq!(gu.to_vec(), pair(dg.host(), du.host()));
        }

        #[test]
        fn the_gradient_is_that_of_the_value(which in 0usize..6) {
            let act = ALL[which];
            check_gradient(&wave(97, 1.9), 1e-2, |x| {
                let (mut y, c) = (Buffer::zeros(x.len()), wave(x.len(), 0.6));
                forward(act, &mut y, &x.to_vec().into());
                let value = y.host().iter().zip(&c).map(|(y, c)| f64::from(*y) * f64::from(*c)).sum();
                let mut dx = Buffer::from(x.to_vec());
                backward(act, &mut dx, &c.into());
                (value, dx.to_vec())
            });
        }
    }
}
