//! A whole session of `iris/2` against a scripted router. What must hold: tests/src/fuzz/session.rs.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| iris_fuzz::run(iris_tests::fuzz::session, input));
