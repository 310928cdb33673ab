//! `iris tail`: a user's inbox, from a position to now, or on and on.

use std::io::{self, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use iris_appliance::calendar::utc;
use iris_client::{Client, Delivery, EntryId, Event, SubscribeFrom, UserId};
use tokio::signal::unix::{SignalKind, signal};

use super::failure::{Failure, Outcome};
use super::output::readable;
use super::target::{self, TargetArgs};

/// Entries the cluster may send ahead of the printing, and entries printed between two flushes and acks.
const AHEAD_MAX: u32 = 256;

/// Whose, from where, for how long.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Whose inbox, by a token from the node on this machine [default: your login name]
    #[arg(long = "as", value_name = "USER")]
    user: Option<UserId>,
    /// Go on with what comes in, until Ctrl-C
    #[arg(long)]
    follow: bool,
    /// One JSON object per message, with its body in base64
    #[arg(long)]
    json: bool,
    /// Where to begin: 0 for the first message, stored for what this device has not acked, or after the message with this ID
    #[arg(long, value_name = "0|stored|ID", default_value = "stored", value_parser = parse_from)]
    from: SubscribeFrom,
    /// Ack what was printed, so that `--from stored` goes on after it
    #[arg(long)]
    ack: bool,
    #[command(flatten)]
    target: TargetArgs,
}

fn parse_from(text: &str) -> Result<SubscribeFrom, String> {
    match text {
        "stored" => Ok(SubscribeFrom::Stored),
        id => id
            .parse()
            .map(|id| SubscribeFrom::After(EntryId(id)))
            .map_err(|_| "write 0, stored, or the ID of a message".to_owned()),
    }
}

/// Reads.
pub async fn run(args: Args) -> Outcome {
    let client = args.target.client(args.user.as_ref()).await?;
    let read = read(&client, &args).await;
    // Whatever ended the reading, what was printed is acked.
    let flushed = if args.ack { target::flush_acks(&client).await } else { Ok(()) };
    target::close(client).await;
    read.and(flushed)
}

async fn read(client: &Client, args: &Args) -> Outcome {
    let failed = |error| Failure::failed(format!("can't listen for signals: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut inbox = client.subscribe(args.from, AHEAD_MAX)?;
    let mut output = io::BufWriter::new(io::stdout());
    loop {
        let mut next = tokio::select! {
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
            event = inbox.next() => Some(event?),
        };
        let (mut printed, mut taken, mut is_live) = (None, 0, false);
        while let Some(event) = next {
            match event {
                Event::Entry(entry) => {
                    print(&mut output, &entry, args.json)?;
                    printed = Some(entry.id);
                }
                Event::Live(_) => is_live = true,
            }
            taken += 1;
            next = if taken < AHEAD_MAX && !is_live { inbox.try_next()? } else { None };
        }
        output.flush()?;
        // Only now: an ack says that the reader has it.
        if let Some(id) = printed.filter(|_| args.ack) {
            client.ack(id);
        }
        if is_live && !args.follow {
            return Ok(());
        }
    }
}

fn print(output: &mut impl Write, entry: &Delivery, json: bool) -> io::Result<()> {
    if json {
        let line = serde_json::json!({
            "id": entry.id,
            "unix_ms": entry.id.unix_ms(),
            "sender": entry.sender,
            "key": entry.key.to_string(),
            "kind": entry.kind,
            "body_base64": STANDARD.encode(&entry.body),
        });
        return writeln!(output, "{line}");
    }
    let sender = readable(entry.sender.as_bytes());
    writeln!(output, "{}  {sender}: {}", utc(entry.id.unix_ms()), readable(&entry.body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use iris_client::MessageKey;

    fn printed(body: &'static [u8], json: bool) -> String {
        let id = EntryId(1_795_262_400_000 << 16);
        let sender = UserId::new("bob").unwrap();
        let entry = Delivery { id, kind: 0, key: MessageKey([0; 16]), sender, body: body.into() };
        let mut output = Vec::new();
        print(&mut output, &entry, json).unwrap();
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn an_entry_is_one_line() {
        assert_eq!(printed(b"hi\nthere", false), "2026-11-21 12:00:00  bob: hi\\nthere\n");
    }

    #[test]
    fn json_keeps_every_byte() {
        let line: serde_json::Value = serde_json::from_str(&printed(b"\xff\x00", true)).unwrap();
        assert_eq!(line["body_base64"], "/wA=");
        assert_eq!(line["id"], 1_795_262_400_000u64 << 16);
        assert_eq!(line["sender"], "bob");
    }

    #[test]
    fn positions_are_understood() {
        assert_eq!(parse_from("stored"), Ok(SubscribeFrom::Stored));
        assert_eq!(parse_from("0"), Ok(SubscribeFrom::After(EntryId::ZERO)));
        assert_eq!(parse_from("77"), Ok(SubscribeFrom::After(EntryId(77))));
        assert!(parse_from("yesterday").is_err() && parse_from("-1").is_err());
    }
}
