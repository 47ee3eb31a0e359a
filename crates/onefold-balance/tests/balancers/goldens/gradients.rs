//! Balancers by gradients, on the example of three tasks.

use super::*;

#[test]
fn mgda_weights() {
    let e = example();
    let expected = &e.golden["mgda"];
    let w = e.published(&json!({"kind": "mgda"}));
    same("w", &w, &row(&expected["w"]));
    same("min norm", &min_norm::weights(&e.gramian), &w);
    same("direction", &e.combined(&w), &row(&expected["direction"]));
    same("norm²", &[e.gramian.length(&w).powi(2)], &[number(&expected["norm2"])]);
}

#[test]
fn cagrad_directions() {
    let e = example();
    for (key, c) in [("cagrad_c.5", 0.5), ("cagrad_c.1", 0.1)] {
        let expected = &e.golden[key];
        let (w, coefficients) = cagrad::solve(&e.gramian, c);
        same("w", &w, &row(&expected["w"]));
        same("direction", &e.combined(&coefficients), &row(&expected["direction_rescale0"]));
    }
    let expected = &e.golden["cagrad_c.5"];
    let found = e.published(&json!({"kind": "cagrad"}));
    same("rescaled", &e.combined(&found), &row(&expected["direction_rescale1"]));
    let each = [1.0 / 3.0; 3];
    let length = (e.gramian.length(&each).powi(2) + 1e-8).sqrt();
    same("length", &[length], &[number(&expected["g0_norm"])]);
    let (w, _) = cagrad::solve(&e.gramian, 0.5);
    let inner: f64 = e.gramian.times(&each).iter().zip(&w).map(|(g, w)| g * w).sum();
    let objective = inner + (0.5 * length + 1e-8) * (e.gramian.length(&w).powi(2) + 1e-8).sqrt();
    same("objective", &[objective], &[number(&expected["objective"])]);
}

#[test]
fn nash_and_fairgrad() {
    let e = example();
    let expected = &e.golden["nash"];
    let alpha = e.published(&json!({"kind": "nash_mtl", "scale": "paper"}));
    same("alpha", &alpha, &row(&expected["alpha_raw_gram"]));
    same("K", &[e.gramian.length(&alpha).powi(2)], &[number(&expected["norm2_equals_K"])]);
    let root = number(&expected["sqrt_fro"]);
    same("normalised", &times(&alpha, root), &row(&expected["alpha_normalised_gram"]));
    same("direction", &times(&e.combined(&alpha), root), &row(&expected["direction_normalised"]));
    for (key, degree) in [("alpha_1", 1.0), ("alpha_2", 2.0), ("alpha_0.5", 0.5)] {
        let found = e.published(&json!({"kind": "fairgrad", "alpha": degree, "scale": "paper"}));
        same(key, &found, &row(&e.golden["fairgrad"][key]));
    }
}

#[test]
fn imtl_g_projections() {
    let e = example();
    let alpha = e.published(&json!({"kind": "imtl_g"}));
    same("alpha", &alpha, &row(&e.golden["imtl_g"]["alpha"]));
    let inner = e.gramian.times(&alpha);
    let projections: Vec<f64> =
        inner.iter().zip(e.gramian.diagonal()).map(|(v, square)| v / square.sqrt()).collect();
    same("projections", &projections, &row(&e.golden["imtl_g"]["equal_projections"]));
}

#[test]
fn aligned_mtl_coefficients() {
    let e = example();
    let expected = &e.golden["aligned_mtl"];
    let mut values: Vec<f64> = eigen::symmetric(&e.gramian).into_iter().map(|pair| pair.0).collect();
    values.sort_by(f64::total_cmp);
    same("eigenvalues", &values, &row(&expected["eigenvalues"]));
    let b = aligned_mtl::balance(&e.gramian);
    same_rows("B", &(0..3).map(|i| b.row(i).to_vec()).collect::<Vec<_>>(), &expected["B"]);
    let found = e.published(&json!({"kind": "aligned_mtl", "scale": "paper"}));
    same("alpha", &found, &row(&expected["alpha"]));
}

#[test]
fn upgrad_projections() {
    let e = example();
    let expected = &e.golden["upgrad"];
    let projections = upgrad::projections(&e.gramian);
    same_rows("projections", &projections, &expected["per_task_coefficients"]);
    let inner: Vec<Vec<f64>> = projections.iter().map(|p| e.gramian.times(p)).collect();
    same_rows("products", &inner, &expected["min_projection"]);
    let w = e.published(&json!({"kind": "upgrad"}));
    same("w", &w, &row(&expected["w"]));
    same("direction", &e.combined(&w), &row(&expected["direction"]));
}

#[test]
fn pcgrad_and_gradvac_in_ascending_order() {
    let e = example();
    let found = e.published(&json!({"kind": "pcgrad", "order": "given", "scale": "paper"}));
    same("pcgrad", &e.combined(&found), &row(&e.golden["pcgrad_ascending"]["sum"]));

    let expected = &e.golden["gradvac_first_step"];
    let mut gradvac = balancer(&json!({"kind": "gradvac", "order": "given", "scale": "paper"}));
    let found = weights(&mut gradvac, 0, 0, &e.losses, Measured::Gramian(&e.gramian));
    same("gradvac", &e.combined(&found), &row(&expected["sum"]));
    same_rows("rho", &rows(&gradvac.state()["state"]["solver"]["rho"]), &expected["rho"]);
}

#[test]
fn db_mtl_updates() {
    let e = example();
    let mut balancer = balancer(&json!({"kind": "db_mtl", "scale": "paper"}));
    let mut averages = vec![vec![0.0f64; 4]; 3];
    for (step, expected) in e.golden["db_mtl"].as_array().unwrap().iter().enumerate() {
        let Gradients::Averages { keep } = balancer.needs(step as u64).gradients else { panic!() };
        same("keep", &[keep], &[number(&expected["beta_eff"])]);
        for (task, average) in averages.iter_mut().enumerate() {
            let scale = 1.0 / (e.losses[task] + 1e-8);
            let new = e.gradients[task].iter().map(|g| g * scale);
            average.iter_mut().zip(new).for_each(|(v, new)| *v = keep * *v + (1.0 - keep) * new);
        }
        let gramian = Matrix::gramian(&averages);
        let alpha = weights(&mut balancer, step as u64, 0, &e.losses, Measured::Gramian(&gramian));
        same("alpha", &alpha, &row(&expected["alpha"]));
        let update: Vec<f64> =
            (0..4).map(|at| (0..3).map(|task| alpha[task] * averages[task][at]).sum()).collect();
        same("update", &update, &row(&expected["update"]));
    }
}

/// The kernel that a trainer averages with, against the same in f64.
#[test]
fn averages_are_averages() {
    let mut found = [1.0f32, -2.0, 0.5];
    average(&mut found, &[4.0, 4.0, 4.0], 0.5, 0.25);
    assert_eq!(found, [1.75, 1.0, 1.625]);
}

#[test]
fn graddrop_elements() {
    let e = example();
    let expected = &e.golden["graddrop"];
    let (rep, u, purities) = (row(&expected["rep"]), row(&expected["u"]), row(&expected["P"]));
    for at in 0..4 {
        let gradients: Vec<f64> = e.gradients.iter().map(|g| g[at]).collect();
        let signed: Vec<f64> = gradients.iter().map(|g| g * rep[at].signum()).collect();
        same("purity", &[sign_purity(&signed)], &[purities[at]]);
        same("sum", &[kept_sum(&gradients, &signed, u[at], 0.0)], &[row(&expected["sum"])[at]]);
    }
}

/// Whatever the chunks, the drop is the same; with a leak of one it is the plain sum.
#[test]
fn graddrop_chunks() {
    let e = example();
    let gradients: Vec<Vec<f32>> =
        e.gradients.iter().map(|g| g.iter().cycle().take(700).map(|v| *v as f32).collect()).collect();
    let part = |from: usize, to: usize| -> Vec<&[f32]> { gradients.iter().map(|g| &g[from..to]).collect() };
    let dropping = Dropping { seed: 3, step: 11, leak: 0.0, mean: false };
    let (mut whole, mut pieces) = (vec![0.0; 700], vec![0.0; 700]);
    dropping.combine("w", 40, &part(0, 700), &mut whole);
    for (from, to) in [(0, 1), (1, 333), (333, 700)] {
        dropping.combine("w", 40 + from as u64, &part(from, to), &mut pieces[from..to]);
    }
    assert_eq!(whole, pieces);
    let other = Dropping { step: 12, ..dropping };
    other.combine("w", 40, &part(0, 700), &mut pieces);
    assert_ne!(whole, pieces);
    let plain = Dropping { leak: 1.0, mean: true, ..dropping };
    plain.combine("w", 40, &part(0, 700), &mut pieces);
    let mean = |at: usize| gradients.iter().map(|g| f64::from(g[at])).sum::<f64>() / 3.0;
    assert!((0..700).all(|at| (f64::from(pieces[at]) - mean(at)).abs() < 1e-7));
}
