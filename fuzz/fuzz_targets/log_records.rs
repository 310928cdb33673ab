//! Records, entries and batches of the log. What must hold: tests/src/fuzz/log_records.rs.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| iris_fuzz::run(iris_tests::fuzz::log_records, input));
