//! Values with a version, as they lie on disk, and the commands that change the meta state. What must hold: tests/src/fuzz/versioned.rs.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| iris_fuzz::run(iris_tests::fuzz::versioned, input));
