//! Any bytes as `adapter_config.json`: an answer or a list of errors, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use onefold_checkpoint::adapter::parse_config;

fuzz_target!(|bytes: &[u8]| {
    match parse_config(bytes) {
        Ok(config) => {
            let (rank, _) = config.rank_and_scaling("model.layers.0.self_attn.q_proj");
            assert!(rank > 0);
        }
        Err(errors) => assert!(!errors.is_empty()),
    }
});
