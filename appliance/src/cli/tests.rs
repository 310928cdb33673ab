//! What can be typed, and what is refused.

use clap::CommandFactory as _;
use clap::error::ErrorKind;

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split(' '))
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn the_contract_parses() {
    for line in [
        "iris up",
        "iris up --data /d --config /c --listen 127.0.0.1:0 --p2p 127.0.0.1:0 --name a",
        "iris up --data /d --join iris-join-abc",
        "iris up --join @/run/secrets/join",
        "iris up --join -",
        "iris join-token",
        "iris join-token --ttl 30m --json --data /d",
        "iris token user alice",
        "iris token user alice --ttl 90m --device phone --data /d",
        "iris send --to bob hello",
        "iris send --to bob --as alice - --json --data /d",
        "iris send --connect a:1,b:2 --token /t --ca /ca --to bob hello",
        "iris tail --as bob --follow --json --from stored --ack --data /d",
        "iris tail --connect a:1 --token /t --from 12",
        "iris status --json --watch --data /d",
        "iris config check --config /c",
        "iris config show --data /d",
        "iris config example",
        "iris identity --data /d",
    ] {
        assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
    }
}

#[test]
fn what_does_not_go_together_is_refused_with_exit_2() {
    for (line, kind) in [
        ("iris send hello", ErrorKind::MissingRequiredArgument),
        ("iris send --to bob --connect a:1 hello", ErrorKind::MissingRequiredArgument),
        ("iris tail --token /t", ErrorKind::MissingRequiredArgument),
        ("iris tail --connect a:1 --token /t --data /d", ErrorKind::ArgumentConflict),
        ("iris tail --from yesterday", ErrorKind::ValueValidation),
        ("iris token user alice --ttl soon", ErrorKind::ValueValidation),
        ("iris join-token --ttl soon", ErrorKind::ValueValidation),
        ("iris config check --join iris-join-abc", ErrorKind::UnknownArgument),
        ("iris token user alice --ttl 0s", ErrorKind::ValueValidation),
        ("iris frobnicate", ErrorKind::InvalidSubcommand),
    ] {
        let error = parse(line).unwrap_err();
        assert_eq!((error.kind(), error.exit_code()), (kind, 2), "{line}");
    }
}

#[test]
fn exit_codes_say_what_happened() {
    let code = |failure: Failure| format!("{:?}", failure.report());
    assert_eq!(code(Failure::failed("x")), format!("{:?}", ExitCode::from(1)));
    assert_eq!(code(Failure::Usage("x".into())), format!("{:?}", ExitCode::from(2)));
    assert_eq!(code(Failure::Unreachable("x".into())), format!("{:?}", ExitCode::from(3)));
    assert_eq!(code(Failure::ReaderGone), format!("{:?}", ExitCode::SUCCESS));
}
