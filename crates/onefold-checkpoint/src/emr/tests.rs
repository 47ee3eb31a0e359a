//! Reading at any position, fingerprints, and manifests; whole artefacts are tested through the program.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::tensor::tests::InMemory;
use crate::{Dtype, Tensor};

fn tensor(shape: &[usize], values: Vec<f32>) -> Tensor {
    Tensor::new(Dtype::F32, shape.to_vec(), Arc::new(InMemory(values)))
}

proptest! {
    /// A piece is that piece of the whole, wherever it begins.
    #[test]
    fn pieces_are_parts_of_the_whole(cut in 0usize..40, bits in proptest::collection::vec(any::<u8>(), 5)) {
        let unified: Vec<f32> = (0..40).map(|i| i as f32 - 20.0).collect();
        let mut whole = vec![1.0; 40];
        add_task(&mut whole, &unified, &bits, 0, 0.5);
        let mut parts = vec![1.0; 40];
        let (left, right) = parts.split_at_mut(cut);
        add_task(left, &unified[..cut], &bits, 0, 0.5);
        add_task(right, &unified[cut..], &bits, cut, 0.5);
        prop_assert_eq!(&parts, &whole);
        for (i, value) in whole.iter().enumerate() {
            let kept = bits[i / 8] >> (i % 8) & 1 == 1;
            prop_assert_eq!(*value, if kept { 1.0 + 0.5 * unified[i] } else { 1.0 });
        }
    }
}

/// Outside of the mask the base stays bit for bit, −0 included.
#[test]
fn what_is_masked_out_stays() {
    let mut weights = [-0.0, f32::MIN_POSITIVE / 2.0];
    add_task(&mut weights, &[1.0, 1.0], &[0], 0, 2.0);
    assert_eq!(weights.map(f32::to_bits), [(-0.0f32).to_bits(), (f32::MIN_POSITIVE / 2.0).to_bits()]);
}

#[test]
fn a_fingerprint_sees_every_change_of_a_small_tensor_and_of_a_large_tensors_rows() {
    let small: Vec<f32> = (0..5000).map(|i| i as f32).collect();
    let print = Fingerprint::of(&tensor(&[5000], small.clone()));
    assert_eq!(print, Fingerprint::of(&tensor(&[5000], small.clone())));
    assert_ne!(print, Fingerprint::of(&tensor(&[50, 100], small.clone())), "shape");
    for at in [0, 1023, 1024, 2500, 4999] {
        let mut other = small.clone();
        other[at] += 1.0;
        assert_ne!(print.sha256, Fingerprint::of(&tensor(&[5000], other)).sha256, "{at}");
    }
    let large = vec![0.25; 200_000];
    let print = Fingerprint::of(&tensor(&[200_000], large.clone()));
    for at in [0, 199_999] {
        let mut other = large.clone();
        other[at] = 0.5;
        assert_ne!(print, Fingerprint::of(&tensor(&[200_000], other)), "{at}");
    }
    assert_eq!(Fingerprint::of(&tensor(&[0], vec![])).shape, [0]);
}

fn manifest() -> Manifest {
    let tasks = vec![Task { name: "code".into(), model: "a".into(), lambda: 0.1 + 0.2 }];
    let print = Fingerprint::of(&tensor(&[2], vec![1.0, 2.0]));
    let tensors = BTreeMap::from([("w".to_owned(), print)]);
    Manifest::new("1.0", "paper", tasks, Base { path: "b".into(), revision: None, adapter: None, tensors })
}

#[test]
fn a_manifest_reads_back_to_itself() {
    assert_eq!(Manifest::parse(&manifest().to_json()).unwrap(), manifest());
}

#[test]
fn what_is_no_manifest() {
    let text = String::from_utf8(manifest().to_json()).unwrap();
    let refused = |from: &str, to: &str| {
        assert!(text.contains(from), "{text}");
        Manifest::parse(text.replacen(from, to, 1).as_bytes()).unwrap_err()
    };
    assert!(matches!(refused("onefold.emr/1", "onefold.emr/2"), EmrError::Format { .. }));
    assert!(matches!(refused("\"format\"", "\"form\""), EmrError::Format { .. }));
    assert!(matches!(refused("\"rescaler\"", "\"scaler\""), EmrError::Invalid { .. }));
    assert!(matches!(refused("0.30000000000000004", "-1"), EmrError::Invalid { .. }));
    assert!(matches!(Manifest::parse(b"\xff"), Err(EmrError::Invalid { .. })));
    assert!(matches!(Manifest::parse(b"[]"), Err(EmrError::Format { .. })));
}
