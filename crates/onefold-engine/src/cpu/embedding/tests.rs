use proptest::prelude::*;

use super::*;
use crate::HalfDtype;
use crate::cpu::linear::testing::{buffer, close, halved, inner, noise, threads_do_not_show, wide};

fn ids(len: usize, size: usize, seed: u32) -> Vec<u32> {
    noise(len, seed).into_iter().map(|v| ((v + 1.0) * 0.5 * size as f32) as u32).collect()
}

/// Adds scale · table[ids] to `out`, by definition.
fn twin(out: &mut [f64], table: &[f64], ids: &[u32], scale: f64) {
    let width = out.len() / ids.len();
    for (t, id) in ids.iter().enumerate() {
        (0..width).for_each(|j| out[t * width + j] += scale * table[*id as usize * width + j]);
    }
}

/// The gradient of the table by definition, the padding id left out.
fn twin_gradient(dout: &[f64], ids: &[u32], size: usize, scale: f64, padding: Option<u32>) -> Vec<f64> {
    let width = dout.len() / ids.len();
    let mut out = vec![0.0; size * width];
    for (t, id) in ids.iter().enumerate().filter(|(_, id)| Some(**id) != padding) {
        (0..width).for_each(|j| out[*id as usize * width + j] += scale * dout[t * width + j]);
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn agrees_with_the_definition(tokens in 1usize..60, width in 1usize..600, size in 1usize..30) {
        let (f16, tokens_wide) = halved(&noise(size * width, 1), HalfDtype::F16);
        let (bf16, types_wide) = halved(&noise(2 * width, 2), HalfDtype::Bf16);
        let positions = buffer(size * width, 3);
        let lists = [ids(tokens, size, 4), ids(tokens, size, 5), ids(tokens, 2, 6)];
        let lookups = [
            Lookup { name: "tokens", table: Weight::Half(&f16), size, ids: &lists[0], scale: 3.5 },
            Lookup { name: "positions", table: (&positions).into(), size, ids: &lists[1], scale: 1.0 },
            Lookup { name: "types", table: Weight::Half(&bf16), size: 2, ids: &lists[2], scale: 1.0 },
        ];
        let mut out = buffer(tokens * width, 7);
        forward(width, &lookups, &mut out).unwrap();
        let mut expected = vec![0.0; tokens * width];
        twin(&mut expected, &wide(&tokens_wide), &lists[0], 3.5);
        twin(&mut expected, &wide(&positions.to_vec()), &lists[1], 1.0);
        twin(&mut expected, &wide(&types_wide), &lists[2], 1.0);
        close(&out, &expected, 1e-6);
    }

    #[test]
    fn gradient_is_the_definition(tokens in 1usize..80, width in 1usize..200, size in 1usize..20, pad: bool) {
        let (ids, dout) = (ids(tokens, size, 1), buffer(tokens * width, 2));
        let padding = pad.then_some(ids[0]);
        let mut groups = Groups::default();
        groups.sort("tokens", &ids, size, padding).unwrap();
        let expected = twin_gradient(&wide(&dout.to_vec()), &ids, size, 1.5, padding);
        let mut dtable = buffer(size * width, 3);
        let sum: Vec<f64> = expected.iter().zip(dtable.to_vec()).map(|(e, b)| e + f64::from(b)).collect();
        backward(width, &groups, &dout, 1.5, &mut dtable, Write::Add);
        close(&dtable, &sum, 1e-6);
        backward(width, &groups, &dout, 1.5, &mut dtable, Write::Set);
        close(&dtable, &expected, 1e-6);
    }
}

/// The map is linear in the table: ⟨forward(T), dout⟩ = ⟨T, dtable⟩ for every T is what a derivative is.
#[test]
fn gradient_is_the_adjoint() {
    let (tokens, width, size) = (50, 17, 9);
    let (ids, dout, table) = (ids(tokens, size, 1), buffer(tokens * width, 2), buffer(size * width, 3));
    let lookup = Lookup { name: "tokens", table: (&table).into(), size, ids: &ids, scale: 0.25 };
    let (mut out, mut groups, mut dtable) =
        (Buffer::zeros(tokens * width), Groups::default(), Buffer::zeros(size * width));
    forward(width, &[lookup], &mut out).unwrap();
    groups.sort("tokens", &ids, size, None).unwrap();
    backward(width, &groups, &dout, 0.25, &mut dtable, Write::Set);
    let dot = |a: &Buffer, b: &Buffer| inner(&wide(&a.to_vec()), &wide(&b.to_vec()));
    assert!((dot(&out, &dout) - dot(&table, &dtable)).abs() < 1e-5);
}

/// Clearing the rows of the last step and adding is the same as setting the whole table.
#[test]
fn sparse_steps_equal_whole_ones() {
    let (width, size) = (70, 40);
    let (mut groups, mut whole, mut sparse) =
        (Groups::default(), buffer(size * width, 9), Buffer::zeros(size * width));
    for step in 0..4 {
        let (ids, dout) = (ids(12, size, 20 + step), buffer(12 * width, 30 + step));
        clear(width, &groups, &mut sparse);
        groups.sort("tokens", &ids, size, None).unwrap();
        backward(width, &groups, &dout, 1.0, &mut sparse, Write::Add);
        backward(width, &groups, &dout, 1.0, &mut whole, Write::Set);
        assert!(sparse == whole, "step {step}");
    }
}

#[test]
fn threads_change_no_bit() {
    let (tokens, width, size) = (300, 200, 7);
    let (ids, dout, table) = (ids(tokens, size, 1), buffer(tokens * width, 2), buffer(size * width, 3));
    threads_do_not_show(|| {
        let lookup = Lookup { name: "tokens", table: (&table).into(), size, ids: &ids, scale: 0.3 };
        let (mut out, mut dtable) = (Buffer::zeros(tokens * width), Buffer::zeros(size * width));
        forward(width, &[lookup], &mut out).unwrap();
        let mut groups = Groups::default();
        groups.sort("tokens", &ids, size, None).unwrap();
        backward(width, &groups, &dout, 0.3, &mut dtable, Write::Set);
        (out, dtable)
    });
}

/// The same error from both passes; what was there stays.
#[test]
fn unknown_ids_are_errors() {
    let table = Buffer::zeros(6);
    let lookup =
        Lookup { name: "token embeddings", table: (&table).into(), size: 3, ids: &[0, 2, 3], scale: 1.0 };
    let mut out = buffer(6, 1);
    let error = forward(2, &[lookup], &mut out).unwrap_err();
    assert_eq!(error, UnknownId { table: "token embeddings", position: 2, id: 3, size: 3 });
    assert!(out == buffer(6, 1));
    let text = "id 3 at position 2 is not one of the 3 rows of the table of token embeddings; ids and weights have to be \
                of the same tokenizer and model";
    assert_eq!(error.to_string(), text);
    let mut groups = Groups::default();
    groups.sort("token embeddings", &[1, 1], 3, None).unwrap();
    assert_eq!(groups.sort("token embeddings", &[0, 2, 3], 3, None), Err(error));
    assert_eq!(groups.rows, 2);
    assert!(groups.sort("token embeddings", &[u32::MAX], 3, Some(u32::MAX)).is_err());
}

#[test]
#[should_panic(expected = "larger table")]
fn groups_of_another_table_are_refused() {
    let mut groups = Groups::default();
    groups.sort("tokens", &[5], 6, None).unwrap();
    backward(2, &groups, &Buffer::zeros(2), 1.0, &mut Buffer::zeros(8), Write::Add);
}
