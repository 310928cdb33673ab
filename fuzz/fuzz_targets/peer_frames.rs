//! What nodes say to each other. What must hold: tests/src/fuzz/peer_frames.rs.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| iris_fuzz::run(iris_tests::fuzz::peer_frames, input));
