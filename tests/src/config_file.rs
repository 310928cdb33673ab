//! The configuration file of a node under test, as text. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

/// Settings that differ from the product's defaults: section, field, TOML value.
#[derive(Debug, Clone, Default)]
pub struct Settings(BTreeMap<&'static str, BTreeMap<&'static str, String>>);

impl Settings {
    /// Limits that no load of a test reaches: what a load test measures is not the rate limiter.
    #[must_use]
    pub fn raised() -> Self {
        Self::default().with("limits", "messages_per_s", 1_000_000).with("limits", "messages_burst", 1_000_000)
    }

    /// Sets one field; the value is written as TOML.
    #[must_use]
    pub fn with(mut self, section: &'static str, field: &'static str, value: impl ToString) -> Self {
        self.0.entry(section).or_default().insert(field, value.to_string());
        self
    }
}

/// One member, as every node's file lists it.
#[derive(Debug, Clone)]
pub struct MemberLine {
    /// Its number.
    pub id: u64,
    /// Its key, as `iris identity` prints it.
    pub key: String,
    /// Where peers connect.
    pub p2p: String,
    /// Where clients connect.
    pub client: String,
}

/// The name of a node under test.
#[must_use]
pub fn node_name(id: u64) -> String {
    format!("node-{id}")
}

/// The file of node `own`; without members it founds a cluster alone, or joins one.
#[must_use]
pub fn render(own: &MemberLine, data: &Path, members: &[MemberLine], settings: &Settings) -> String {
    let MemberLine { id, client, p2p, .. } = own;
    let mut text = String::new();
    // Writing to a String can't fail.
    let _ = writeln!(
        text,
        "[node]\nid = {id}\nname = {:?}\ndata = {:?}\nlisten = {client:?}\np2p = [{p2p:?}]\nadvertise = {client:?}",
        node_name(*id),
        data.display().to_string(),
    );
    for member in members {
        let MemberLine { id, key, p2p, client } = member;
        let name = node_name(*id);
        let _ = writeln!(
            text,
            "\n[[members]]\nid = {id}\nname = {name:?}\nkey = {key:?}\np2p = [{p2p:?}]\nclient = {client:?}"
        );
    }
    for (section, fields) in &settings.0 {
        let _ = writeln!(text, "\n[{section}]");
        for (field, value) in fields {
            let _ = writeln!(text, "{field} = {value}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_names_the_node_its_members_and_what_differs() {
        let member = |id| MemberLine {
            id,
            key: format!("key{id}"),
            p2p: format!("127.0.0.1:1{id}"),
            client: format!("127.0.0.1:2{id}"),
        };
        let settings = Settings::raised().with("raft", "heartbeat_ms", 50);
        let text = render(&member(2), Path::new("/tmp/d"), &[member(1), member(2)], &settings);
        assert!(text.contains("id = 2\nname = \"node-2\"\ndata = \"/tmp/d\"\nlisten = \"127.0.0.1:22\""), "{text}");
        assert_eq!(text.matches("[[members]]").count(), 2);
        assert!(text.contains("[raft]\nheartbeat_ms = 50"), "{text}");
        assert!(text.contains("messages_per_s = 1000000"), "{text}");
        let alone = render(&member(2), Path::new("/tmp/d"), &[], &settings);
        assert!(alone.contains("127.0.0.1:22") && !alone.contains("members"), "{alone}");
    }
}
