//! PyTorch checkpoints: no input may panic, hang or exhaust memory.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| drop(onefold_checkpoint::pytorch::read_layout(bytes)));
