//! The rules of this repository that no compiler knows (examples.md): files say what they own, stay short, hold nothing
//! half-done; crates see only those above them (docs/ARCHITECTURE.md); what the README names exists.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use iris_tests::binaries::workspace_root;

/// A file that needs more is two files.
const LINES_MAX: usize = 500;

/// Crates of the workspace, and which of them each may use.
const MAY_USE: [(&str, &[&str]); 6] = [
    ("protocol", &[]),
    ("client", &["iris-protocol"]),
    ("store", &["iris-protocol"]),
    ("p2p", &["iris-protocol"]),
    ("appliance", &["iris-protocol", "iris-client", "iris-store", "iris-p2p"]),
    ("tests", &["iris-protocol", "iris-client", "iris-store", "iris-p2p", "iris-appliance"]),
];

/// Every file below `folder` whose name ends so.
fn files(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, ending, found);
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
}

/// Every Rust file of the workspace with its text.
fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    // The fuzz targets are a workspace of their own, under the same rules.
    for crate_folder in MAY_USE.iter().map(|(folder, _)| *folder).chain(["fuzz"]) {
        for part in ["src", "tests", "benches", "examples", "fuzz_targets"] {
            let folder = workspace_root().join(crate_folder).join(part);
            if folder.is_dir() {
                files(&folder, ".rs", &mut found);
            }
        }
    }
    assert!(found.len() > 100, "only {} files were found: the rules would hold by not looking", found.len());
    found.sort();
    found.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

/// Fails with all offenders at once.
fn none(rule: &str, offenders: Vec<String>) {
    assert!(offenders.is_empty(), "{rule}:\n  {}", offenders.join("\n  "));
}

fn shown(path: &Path) -> String {
    path.strip_prefix(workspace_root()).unwrap_or(path).display().to_string()
}

#[test]
fn every_file_says_what_it_owns_and_is_short() {
    let mut silent = Vec::new();
    let mut long = Vec::new();
    for (path, text) in sources() {
        let first = text.lines().next().unwrap_or("");
        if !first.starts_with("//! ") || first.contains("placeholder") {
            silent.push(shown(&path));
        }
        let lines = text.lines().count();
        if lines > LINES_MAX {
            long.push(format!("{}: {lines} lines", shown(&path)));
        }
    }
    none("files that do not begin with a //! line", silent);
    none("files longer than 500 lines", long);
}

#[test]
fn nothing_is_half_done_or_switched_off() {
    // In pieces, so that this file does not name what it forbids.
    let forbidden = [
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("dbg", "!("),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
        concat!("TEMPORARY", " NOTE"),
        concat!("#[ig", "nore"),
    ];
    let mut offenders = Vec::new();
    for (path, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            if let Some(word) = forbidden.iter().find(|word| line.contains(**word)) {
                offenders.push(format!("{}:{}: {word}", shown(&path), number + 1));
            }
        }
    }
    none("half-done or switched off", offenders);
}

#[test]
fn cluster_tests_wait_for_conditions_and_never_sleep() {
    let sleep = concat!("sle", "ep(");
    let ours = workspace_root().join("tests");
    let sleeping = sources().into_iter().filter(|(path, text)| {
        let is_call = |at: usize| !text[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_');
        path.starts_with(&ours)
            && !path.ends_with("src/wait.rs")
            && text.match_indices(sleep).any(|(at, _)| is_call(at))
    });
    none("only wait.rs sleeps", sleeping.map(|(path, _)| shown(&path)).collect());
}

#[test]
fn crates_see_only_those_above_them_and_share_the_lints() {
    let own: BTreeSet<String> = MAY_USE.iter().map(|(folder, _)| format!("iris-{folder}")).collect();
    for (folder, may_use) in MAY_USE {
        let path = workspace_root().join(folder).join("Cargo.toml");
        let manifest: toml::Table = std::fs::read_to_string(&path).unwrap().parse().unwrap();
        assert_eq!(manifest["lints"]["workspace"].as_bool(), Some(true), "{} inherits the lints", shown(&path));
        // What a crate needs for its own tests must not lead around the layers either.
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let used = manifest.get(kind).and_then(toml::Value::as_table);
            let strangers: Vec<&String> = used
                .into_iter()
                .flat_map(toml::Table::keys)
                .filter(|name| own.contains(*name) && !may_use.contains(&name.as_str()))
                .collect();
            let itself = format!("iris-{folder}");
            let strangers: Vec<_> = strangers.into_iter().filter(|name| **name != itself).collect();
            assert!(strangers.is_empty(), "{} [{kind}] may not use {strangers:?}", shown(&path));
        }
    }
}

#[test]
fn the_workspace_forbids_unsafe_code_and_panics() {
    let manifest: toml::Table = std::fs::read_to_string(workspace_root().join("Cargo.toml")).unwrap().parse().unwrap();
    let lints = &manifest["workspace"]["lints"];
    assert_eq!(lints["rust"]["unsafe_code"].as_str(), Some("forbid"));
    for lint in ["unwrap_used", "panic", "todo", "unimplemented", "dbg_macro", "await_holding_lock"] {
        assert_eq!(lints["clippy"][lint].as_str(), Some("deny"), "{lint}");
    }
    let members: BTreeSet<&str> =
        manifest["workspace"]["members"].as_array().unwrap().iter().filter_map(toml::Value::as_str).collect();
    assert_eq!(members, MAY_USE.iter().map(|(folder, _)| *folder).collect(), "this file knows every crate");
}

#[test]
fn every_fixture_of_a_format_is_read_by_a_test() {
    let mut fixtures = Vec::new();
    files(&workspace_root().join("tests/fixtures/formats"), ".bin", &mut fixtures);
    assert!(!fixtures.is_empty(), "there are none");
    let sources = sources();
    let is_read = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy();
        let quoted = format!("\"{}\"", name.split('.').next().unwrap());
        sources.iter().any(|(_, text)| text.contains(&quoted))
    };
    none(
        "fixtures that nothing reads",
        fixtures.iter().filter(|path| !is_read(path)).map(|path| shown(path)).collect(),
    );
}

#[test]
fn what_the_documents_link_to_exists() {
    let mut documents = vec![workspace_root().join("README.md"), workspace_root().join("CHANGELOG.md")];
    files(&workspace_root().join("docs"), ".md", &mut documents);
    let mut broken = Vec::new();
    for document in documents {
        let text = std::fs::read_to_string(&document).unwrap_or_else(|error| panic!("{}: {error}", document.display()));
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap_or("");
            let outside = target.is_empty() || target.contains("://") || target.starts_with("mailto:");
            if !outside && !document.parent().unwrap().join(target).exists() {
                broken.push(format!("{} links to {target}", shown(&document)));
            }
        }
    }
    none("links to nowhere", broken);
}
