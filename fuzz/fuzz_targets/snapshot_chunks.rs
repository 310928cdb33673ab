//! Snapshots on their way in, and as files. What must hold: tests/src/fuzz/snapshot_chunks.rs.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| iris_fuzz::run(iris_tests::fuzz::snapshot_chunks, input));
