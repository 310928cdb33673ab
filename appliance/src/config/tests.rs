//! The layers in their order, the example against the definitions, and every check.

use super::*;

fn load(file: &str, variables: &[(&str, &str)], flags: Overrides) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("iris.toml");
    std::fs::write(&path, file).unwrap();
    let flags = Overrides { file: Some(path), ..flags };
    Config::load_with(flags, variables.iter().map(|(name, text)| ((*name).into(), (*text).into())))
}

#[test]
fn the_defaults_are_fine() {
    assert_eq!(Config::default().check(), Vec::<String>::new());
}

#[test]
fn the_example_is_the_defaults_and_explains_every_setting() {
    let text = Config::example();
    assert_eq!(toml::from_str::<Config>(&text).unwrap(), Config::default());
    let values = toml::Table::try_from(Config::default()).unwrap();
    for section in table::SECTIONS {
        assert!(text.contains(&format!("\n[{}]\n", section.name)));
        for field in section.fields {
            assert!(!field.doc.is_empty(), "{}.{} has no explanation", section.name, field.name);
            assert!(text.contains(&format!("{} = ", field.name)), "{}.{}", section.name, field.name);
        }
        let known = values.get(section.name).and_then(toml::Value::as_table).unwrap();
        assert!(known.keys().all(|name| section.fields.iter().any(|field| field.name == name)));
    }
    assert_eq!(values.len(), table::SECTIONS.len() + 1, "a section is missing from the table");
}

#[test]
fn a_shown_configuration_reads_back() {
    let config = load("[node]\nname = \"a\"\nadvertise = \"a:1\"\n", &[], Overrides::default()).unwrap();
    assert_eq!(toml::from_str::<Config>(&config.show().unwrap()).unwrap(), config);
}

#[test]
fn variables_overrule_the_file_and_flags_overrule_both() {
    let file = "[node]\nname = \"file\"\nlisten = \"127.0.0.1:1\"\n[limits]\nmessages_per_s = 7\n[shards]\ncount = 3\n";
    let variables = [
        ("IRIS_NODE__NAME", "123"),
        ("IRIS_NODE__LISTEN", "127.0.0.1:2"),
        ("IRIS_NODE__P2P", "127.0.0.1:3, 127.0.0.1:4"),
        ("IRIS_NODE__ADVERTISE", "example:5"),
        ("IRIS_LIMITS__MESSAGES_PER_S", "8"),
        ("IRIS_LOG__JSON", "true"),
        ("IRIS_SOMETHING_ELSE", "x"),
        ("PATH", "/bin"),
    ];
    let flags = Overrides { listen: Some("127.0.0.1:9".into()), data: Some("/d".into()), ..Overrides::default() };
    let config = load(file, &variables, flags).unwrap();
    assert_eq!((config.node.name.as_str(), config.node.listen.as_str()), ("123", "127.0.0.1:9"));
    assert_eq!(config.node.p2p, ["127.0.0.1:3", "127.0.0.1:4"]);
    assert_eq!((config.shards.count, config.limits.messages_per_s, config.log.json), (3, 8, true));
    assert_eq!((config.node.data, config.node.advertise), ("/d".into(), Some("example:5".into())));
}

#[test]
fn what_does_not_exist_is_not_silently_ignored() {
    for file in ["[nodes]\n", "[node]\nlisten_on = \"a\"\n", "[node]\nid = \"one\"\n", "[[members]]\nid = 1\n", "]"] {
        let error = load(file, &[], Overrides::default()).unwrap_err();
        assert!(error.to_string().contains("iris config example"), "{error}");
    }
    for (name, text) in [("IRIS_NODE__LISTNE", "x"), ("IRIS_LIMITS__MESSAGES_PER_S", "many"), ("IRIS_LOG__JSON", "1")] {
        let error = load("", &[(name, text)], Overrides::default()).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
    }
    let error =
        Config::load_with(Overrides { file: Some("/no/such/file".into()), ..Overrides::default() }, []).unwrap_err();
    assert!(error.to_string().contains("/no/such/file"), "{error}");
}

fn problems(file: &str) -> Vec<String> {
    toml::from_str::<Config>(file).unwrap().check()
}

#[test]
fn all_problems_are_told_at_once() {
    let found = problems(
        "[node]\nid = 0\nname = \"a b\"\nlisten = \"here\"\np2p = [\"x\"]\nadvertise = \"x\"\n\
         [shards]\ncount = 0\n[limits]\nmessages_per_s = 0\n\
         [edge]\nidle_ms = 0\ndrain_ms = 60000\n[raft]\nelection_ms_min = 100\n[store]\nengine = \"x\"\ndedup_window_h = 24\n\
         retention_ms = 999999999999\ndevice_expiry_ms = 999\n\
         [log]\nfilter = \"a=b=c\"\n",
    );
    for setting in [
        "node.id",
        "node.name",
        "node.listen",
        "node.p2p",
        "node.advertise",
        "shards.count",
        "limits.messages_per_s",
        "edge.idle_ms",
        "edge.drain_ms",
        "raft.election_ms_min",
        "store.engine",
        "store.dedup_window_h",
        "store.retention_ms",
        "store.device_expiry_ms",
        "log.filter",
    ] {
        assert_eq!(found.iter().filter(|problem| problem.starts_with(setting)).count(), 1, "{setting}: {found:#?}");
    }
    assert_eq!(found.len(), 15, "{found:#?}");
    let election = "raft.election_ms_min is 100; it must be at least twice raft.heartbeat_ms (100)";
    assert!(found.contains(&election.to_owned()), "{found:#?}");
    assert!(found.contains(&"edge.idle_ms is 0; it must be from 100 to 86400000".to_owned()), "{found:#?}");
}

fn member(id: u64, key: &str) -> String {
    format!(
        "[[members]]\nid = {id}\nname = \"n{id}\"\nkey = \"{key}\"\np2p = [\"127.0.0.1:1\"]\nclient = \"n{id}:8443\"\n"
    )
}

#[test]
fn a_member_list_must_be_one() {
    let key = || iris_p2p::Identity::ephemeral().peer_id().to_string();
    let (first, second) = (key(), key());
    assert_eq!(problems(&(member(1, &first) + &member(2, &second))), Vec::<String>::new());
    let check = |file: String, expect: &str| {
        let found = problems(&file);
        assert!(found.len() == 1 && found[0].contains(expect), "{found:#?}");
    };
    check(member(2, &first), "node.id is 1; it must be one of the members (2)");
    check(member(1, &first) + &member(2, &first), "another member's too");
    check(member(1, &first) + &member(1, &second), "listed twice");
    check(member(1, "nonsense"), "iris status");
    check(member(1, &first).replace("127.0.0.1:1", "nowhere"), "node 1: p2p");
    check(member(1, &first).replace("n1:8443", "n1"), "node 1: client");
}

#[test]
fn the_example_lists_a_member_that_parses_once_uncommented() {
    let text = Config::example();
    let (_, sample) = text.split_once("# [[members]]").unwrap();
    let sample = format!("[[members]]{}", sample.replace("\n# ", "\n"));
    assert_eq!(toml::from_str::<Config>(&sample).unwrap().members[0].client, "nas.local:8443");
}
