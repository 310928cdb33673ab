//! The example that `iris config example` prints, made from the definitions: every setting, its words and its default.

use std::fmt::Write as _;

use super::{Config, table};

const HEAD: &str = "\
# Iris: the configuration of one node. Every line shows the default; leave out what you don't change.
# Any setting can also be given in the environment as IRIS_SECTION__FIELD, for example IRIS_LOG__FILTER=debug: that counts
# more than this file, and the flags of `iris up` count more than both. `iris config check` finds mistakes.
";

/// After the last section, because everything after `[[members]]` would belong to it.
const MEMBERS: &str = "
# The members to found a cluster with, this node included, with the same list in every node's file. Leave it out for a cluster
# of this node alone, which other machines join (`iris join-token` here, `iris up --join` there), and on machines that join.
# `iris identity` prints a node's key; list each node once.
# [[members]]
# id = 1
# name = \"nas\"
# key = \"12D3KooW...\"
# p2p = [\"nas.local:8444\"]
# client = \"nas.local:8443\"
";

/// What stands for defaults that depend on the machine: commented out, so that the file means the same everywhere.
const MACHINE_DEPENDENT: &[(&str, &str)] =
    &[("name", "\"nas\""), ("data", "\"/srv/iris\""), ("advertise", "\"nas.local:8443\"")];

impl Config {
    /// A commented file that parses to the defaults.
    #[must_use]
    pub fn example() -> String {
        let defaults = toml::Table::try_from(Self::default()).unwrap_or_default();
        let mut text = HEAD.to_owned();
        for section in table::SECTIONS {
            for line in section.about {
                let _ = write!(text, "\n#{line}");
            }
            let _ = writeln!(text, "\n[{}]", section.name);
            for field in section.fields {
                for line in field.doc {
                    let _ = writeln!(text, "#{line}");
                }
                let sample = MACHINE_DEPENDENT.iter().find(|(name, _)| section.name == "node" && *name == field.name);
                let default = defaults.get(section.name).and_then(|fields| fields.get(field.name));
                let _ = match (sample, default) {
                    (Some((name, sample)), _) => writeln!(text, "# {name} = {sample}"),
                    (None, Some(default)) => writeln!(text, "{} = {default}", field.name),
                    // A setting without a default is one of the samples above; the tests would tell.
                    (None, None) => Ok(()),
                };
            }
        }
        text + MEMBERS
    }
}
