//! Replays the corpus of every fuzz target (fuzz/README.md) without a fuzzer, so that what was found once stays fixed wherever
//! tests run.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::path::PathBuf;

use iris_tests::binaries::workspace_root;
use iris_tests::fuzz::TARGETS;

/// Beyond this, what reaches no code of its own wants to go: `scripts/fuzz --keep`.
const FILES_MAX: usize = 100;
const BYTES_MAX: u64 = 64 * 1024;

fn names(folder: &str) -> Vec<PathBuf> {
    let folder = workspace_root().join("fuzz").join(folder);
    let found = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = found.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

#[test]
fn every_file_of_the_corpus_keeps_its_promise() {
    let fixtures = names("../tests/fixtures/formats");
    for (name, target) in TARGETS {
        let files = names(&format!("corpus/{name}"));
        let bytes: u64 = files.iter().map(|file| file.metadata().unwrap().len()).sum();
        assert!((1..=FILES_MAX).contains(&files.len()), "{name}: {} files", files.len());
        assert!(bytes <= BYTES_MAX, "{name}: {bytes} bytes");
        for file in files.iter().chain(&fixtures) {
            // Shown only if the target panics.
            println!("{}", file.display());
            target(&std::fs::read(file).unwrap());
        }
    }
}

#[test]
fn every_target_has_its_file_and_its_corpus() {
    let known: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let stems = |folder: &str| -> BTreeSet<String> {
        names(folder).iter().map(|path| path.file_stem().unwrap().to_string_lossy().into_owned()).collect()
    };
    assert_eq!(stems("fuzz_targets"), known);
    assert_eq!(stems("corpus"), known);
}
