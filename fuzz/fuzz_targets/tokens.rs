//! Users' tokens, forged and signed. What must hold: tests/src/fuzz/tokens.rs.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| iris_fuzz::run(iris_tests::fuzz::tokens, input));
