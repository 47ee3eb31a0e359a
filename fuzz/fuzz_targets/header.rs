//! Any bytes as a safetensors file: refused, or every tensor lies inside the file, and none overlaps another. What is
//! accepted, the `safetensors` rules of `header::encode` can write again.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use onefold_checkpoint::header;

fuzz_target!(|bytes: &[u8]| {
    let path = Path::new("fuzz.safetensors");
    match header::parse(path, bytes) {
        Err(errors) => assert!(!errors.is_empty()),
        Ok(read) => {
            let mut end = 0;
            for entry in &read.entries {
                assert!(entry.len == 0 || entry.start >= end, "overlap");
                end = end.max(entry.start + entry.len);
                assert!(end <= bytes.len(), "out of range");
                assert_eq!(entry.shape.iter().product::<usize>() * entry.dtype.size(), entry.len);
            }
            let tensors = read.entries.iter();
            let tensors = tensors.map(|e| (e.name.as_str(), e.dtype, &e.shape[..], e.len as u64));
            let mut again = header::encode(tensors, &read.metadata);
            again.resize(again.len() + read.entries.iter().map(|e| e.len).sum::<usize>(), 0);
            let again = header::parse(path, &again).expect("a written header is valid");
            let facts = |e: &header::Entry| (e.name.clone(), e.dtype, e.shape.clone(), e.len);
            assert!(again.entries.iter().map(facts).eq(read.entries.iter().map(facts)));
        }
    }
});
