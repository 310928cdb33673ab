//! What all fuzz targets share: the bound on memory. What they check is in tests/src/fuzz.

use std::alloc::System;

use cap::Cap;

/// Memory of a whole process; an allocation beyond it ends the process, which libFuzzer reports with the input. Inputs have some
/// kilobytes, so that only a length believed before it was checked comes near it.
const MEMORY_MAX: usize = 256 * 1024 * 1024;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, MEMORY_MAX);

/// Runs a target on an input.
pub fn run(target: fn(&[u8]), input: &[u8]) {
    target(input);
}
