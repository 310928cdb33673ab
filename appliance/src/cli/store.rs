//! `iris store`: what a node has on its disk, without the node.

use std::io::Write as _;

use clap::Subcommand;
use iris_appliance::admin::take_data_folder;
use iris_appliance::cluster::check_store;
use iris_appliance::quarantine::folder;
use iris_appliance::quarantine::note::NOTE_NAME;
use iris_appliance::surroundings::{Clock, SystemClock};
use iris_store::check::AreaReport;
use serde_json::{Value, json};

use super::failure::{Failure, Outcome};
use super::target::LocalArgs;

/// What to do.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Check everything a stopped node has on disk; changes nothing, exit 1 if something is wrong.
    Check(CheckArgs),
    /// Give up the data of a stopped node that is in quarantine: all of it is moved aside, nothing is deleted.
    Discard(DiscardArgs),
}

#[derive(Debug, clap::Args)]
struct DiscardArgs {
    /// Yes, really
    #[arg(long)]
    confirm: bool,
    #[command(flatten)]
    node: LocalArgs,
}

#[derive(Debug, clap::Args)]
struct CheckArgs {
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    node: LocalArgs,
}

/// Does it.
pub fn run(args: Args) -> Outcome {
    match args.action {
        Action::Check(args) => check(&args),
        Action::Discard(args) => discard(&args),
    }
}

/// Moves everything of a quarantined node aside.
fn discard(args: &DiscardArgs) -> Outcome {
    let data = args.node.data()?;
    let _lock = take_data_folder(&data)?;
    if !data.join(NOTE_NAME).exists() {
        return Err(Failure::Failed(format!(
            "the node of {} is in no quarantine, and only one that is has data to give up. `iris store check` tells whether its data \
             are well",
            data.display()
        )));
    }
    if !args.confirm {
        return Err(Failure::Failed(format!(
            "this gives up the data of the node in {}: messages that only this node has are lost to the cluster, though all files are \
             kept aside there. If that is meant, add --confirm",
            data.display()
        )));
    }
    let aside = folder::discard(&data, SystemClock.unix_ms())?;
    let text = format!(
        "This node's data are in {} now; nothing was deleted. To come back to its cluster as a new node: `iris join-token` on another \
         machine, then `iris up --join TOKEN --name NEW_NAME` here. To begin a cluster of its own: `iris up`.\n",
        aside.display()
    );
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

fn check(CheckArgs { json, node }: &CheckArgs) -> Outcome {
    let json = *json;
    let data = node.data()?;
    // Until the end: no node starts while its files are read.
    let _lock = take_data_folder(&data)?;
    let areas = check_store(&data);
    let fine = areas.iter().all(AreaReport::is_fine);
    let answer = if json { as_json(&areas, fine) } else { as_text(&areas) };
    std::io::stdout().write_all(answer.as_bytes())?;
    if fine {
        return Ok(());
    }
    Err(Failure::Failed(
        "this node's data is damaged. Keep a copy of the data folder. If the other nodes of the cluster are well, start this \
         machine: what it can't read it refuses, and it comes back by itself as a new node, with these data kept aside. If it is the \
         only node, it stays as it is and says what it needs: `iris status`"
            .to_owned(),
    ))
}

/// A line an area, and one for each thing that is wrong.
fn as_text(areas: &[AreaReport]) -> String {
    let mut text = String::new();
    for area in areas {
        let counts: Vec<String> = area.counts.iter().map(|(what, count)| format!("{count} {what}")).collect();
        let counts = if counts.is_empty() { "nothing could be read".to_owned() } else { counts.join(", ") };
        let verdict = match area.findings.len() as u64 + area.more_findings {
            0 => "OK".to_owned(),
            wrong => format!("{wrong} WRONG"),
        };
        text.push_str(&format!("{:<24} {verdict:<8} {counts}\n", area.area));
        for finding in &area.findings {
            text.push_str(&format!("  {}: {}\n", finding.what, finding.why));
        }
        if area.more_findings > 0 {
            text.push_str(&format!("  and {} more\n", area.more_findings));
        }
    }
    text
}

fn as_json(areas: &[AreaReport], fine: bool) -> String {
    let area = |area: &AreaReport| {
        let counts: serde_json::Map<String, Value> =
            area.counts.iter().map(|(what, count)| (what.replace(' ', "_"), json!(count))).collect();
        let findings: Vec<Value> =
            area.findings.iter().map(|finding| json!({"what": finding.what, "why": finding.why})).collect();
        json!({
            "area": area.area, "ok": area.is_fine(), "counts": counts, "findings": findings,
            "more_findings": area.more_findings,
        })
    };
    let areas: Vec<Value> = areas.iter().map(area).collect();
    json!({"ok": fine, "areas": areas}).to_string() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_told_and_what_is_fine_is_short() {
        let mut log = AreaReport::new("log");
        log.counts = vec![("groups", 9), ("entries", 1_234)];
        let mut inboxes = AreaReport::new("inboxes");
        for n in 0..23 {
            inboxes.wrong(format!("entry {n} of alice"), "checksum");
        }
        let text = as_text(&[log.clone(), inboxes.clone()]);
        assert!(text.starts_with("log                      OK       9 groups, 1234 entries\n"), "{text}");
        assert!(text.contains("23 WRONG nothing could be read\n  entry 0 of alice: checksum\n"), "{text}");
        assert!(text.ends_with("  and 3 more\n"), "{text}");
        let json: Value = serde_json::from_str(&as_json(&[log, inboxes], false)).unwrap();
        assert_eq!(json["areas"][0]["counts"]["entries"], 1_234);
        assert_eq!(
            (&json["ok"], &json["areas"][0]["ok"], &json["areas"][1]["ok"]),
            (&json!(false), &json!(true), &json!(false))
        );
    }
}
