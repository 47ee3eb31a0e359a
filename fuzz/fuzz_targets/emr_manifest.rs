//! Any bytes as `emr.json`: a manifest that is written as it was read, or an error, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use onefold_checkpoint::emr::Manifest;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = Manifest::parse(bytes) {
        assert!(!manifest.tasks.is_empty());
        let again = Manifest::parse(&manifest.to_json());
        assert_eq!(again.expect("what was read is written in the same form"), manifest);
    }
});
