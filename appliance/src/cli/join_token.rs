//! `iris join-token`: what another machine needs to become a member.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use iris_appliance::calendar::utc;
use iris_protocol::admin::{IssuedJoinToken, JoinTokenRequest};

use super::duration;
use super::failure::Outcome;
use super::target::LocalArgs;

/// For how long, and how to print it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How long it is good for, 24h at most. It is a secret and works once
    #[arg(long, default_value = "1h", value_parser = duration::parse)]
    ttl: Duration,
    /// One JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    node: LocalArgs,
}

/// Prints one.
pub async fn run(args: Args) -> Outcome {
    let request = JoinTokenRequest { ttl_s: args.ttl.as_secs() };
    let issued = args.node.admin()?.join_token(&request).await?;
    let mut output = std::io::stdout();
    if args.json {
        return Ok(writeln!(output, "{}", serde_json::to_string(&issued).map_err(anyhow::Error::from)?)?);
    }
    writeln!(output, "{}", issued.token)?;
    if std::io::stderr().is_terminal() {
        // Nobody listening is no reason to fail: the token is out.
        let _ = writeln!(std::io::stderr(), "{}", hint(&issued));
    }
    Ok(())
}

fn hint(issued: &IssuedJoinToken) -> String {
    format!(
        "\nOn the new machine: iris up --join TOKEN\nIt works once, until {} UTC, and asks at {}.",
        utc(issued.expires_unix_ms),
        issued.addresses.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hint_says_where_and_until_when_and_not_the_secret() {
        let issued = IssuedJoinToken {
            token: "secret".into(),
            expires_unix_ms: 1_795_262_400_000,
            addresses: vec!["attic.lan:8443".into(), "10.0.0.7:8443".into()],
        };
        let hint = hint(&issued);
        assert!(hint.contains("until 2026-11-21 12:00:00 UTC, and asks at attic.lan:8443, 10.0.0.7:8443"), "{hint}");
        assert!(!hint.contains("secret") && !format!("{issued:?}").contains("secret"));
    }
}
