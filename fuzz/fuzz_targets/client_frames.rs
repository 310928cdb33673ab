//! Frames of `iris/2`, both directions, in pieces. What must hold: tests/src/fuzz/client_frames.rs.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| iris_fuzz::run(iris_tests::fuzz::client_frames, input));
