//! Any bytes as the index of a sharded checkpoint: refused, or every shard is a plain name beside the index.
#![no_main]

use std::path::{Component, Path};

use libfuzzer_sys::fuzz_target;
use onefold_checkpoint::checkpoint::parse_index;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(map) = parse_index(Path::new("model.safetensors.index.json"), bytes) {
        assert!(!map.is_empty());
        for shard in map.values() {
            let mut parts = Path::new(shard).components();
            assert!(matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)), "{shard:?}");
        }
    }
});
