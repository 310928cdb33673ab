//! `iris send`: one message from the command line, or one per line of stdin, many on their way at once and answered in order.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read as _, Write as _};

use iris_client::{Client, MessageKey, Outgoing, Pending, Receipt, SendError, Status, UserId};
use iris_protocol::limits::BODY_LEN_MAX;
use tokio::sync::mpsc;

use super::failure::{Failure, Outcome, complain};
use super::target::{self, TargetArgs};

/// Messages on their way at once: enough to fill the cluster's batches, few enough to answer for after a Ctrl-C.
const IN_FLIGHT_MAX: usize = 1_000;

/// Lines read ahead of the sending.
const LINES_AHEAD_MAX: usize = 64;

/// What, to whom, from whom.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The recipient
    #[arg(long, value_name = "USER")]
    to: UserId,
    /// The sender, by a token from the node on this machine [default: your login name]
    #[arg(long = "as", value_name = "USER")]
    sender: Option<UserId>,
    /// The message; - for one message per line of stdin
    text: String,
    /// One JSON object per message
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: TargetArgs,
}

/// A message whose answer is awaited.
struct Sent {
    key: MessageKey,
    pending: Pending,
}

/// Sends.
pub async fn run(args: Args) -> Outcome {
    let client = args.target.client(args.sender.as_ref()).await?;
    let outcome = if args.text == "-" {
        send_lines(&client, &args).await
    } else {
        let sent = send_one(&client, &args.to, args.text.clone().into_bytes()).await?;
        show(sent.key, sent.pending.await, args.json).and_then(|committed| all_committed(usize::from(!committed), 1))
    };
    target::close(client).await;
    outcome
}

async fn send_one(client: &Client, to: &UserId, body: Vec<u8>) -> Result<Sent, Failure> {
    let message = Outgoing::new(to.clone(), body);
    let key = message.key;
    Ok(Sent { key, pending: client.send(message).await? })
}

async fn send_lines(client: &Client, args: &Args) -> Outcome {
    let mut lines = read_lines()?;
    let mut in_flight: VecDeque<Sent> = VecDeque::new();
    let (mut all, mut lost, mut at_end) = (0usize, 0usize, false);
    let mut unread = None;
    loop {
        tokio::select! {
            line = lines.recv(), if !at_end && in_flight.len() < IN_FLIGHT_MAX => match line {
                Some(Ok(line)) => {
                    all += 1;
                    in_flight.push_back(send_one(client, &args.to, line).await?);
                }
                // What was read before it still gets its answers.
                Some(Err(why)) => (at_end, unread) = (true, Some(why)),
                None => at_end = true,
            },
            answer = front(&mut in_flight), if !in_flight.is_empty() => {
                if let Some(sent) = in_flight.pop_front() {
                    lost += usize::from(!show(sent.key, answer, args.json)?);
                }
            }
            else => break,
        }
    }
    if let Some(why) = unread {
        return Err(Failure::Failed(format!("{why}; {} of the {all} messages before it are committed", all - lost)));
    }
    all_committed(lost, all)
}

/// The answer to the oldest message; may be dropped and called again.
async fn front(in_flight: &mut VecDeque<Sent>) -> Result<Receipt, SendError> {
    match in_flight.front_mut() {
        Some(sent) => (&mut sent.pending).await,
        None => std::future::pending().await,
    }
}

/// Reads stdin on a thread of its own, which nobody waits for: a terminal that says nothing must not keep the command from ending.
fn read_lines() -> Result<mpsc::Receiver<Result<Vec<u8>, String>>, Failure> {
    let (lines, receiver) = mpsc::channel(LINES_AHEAD_MAX);
    let reader = std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        let mut stdin = io::stdin().lock();
        loop {
            let line = match next_line(&mut stdin) {
                Ok(Some(line)) => Ok(line),
                Ok(None) => return,
                Err(why) => Err(why),
            };
            let last = line.is_err();
            if lines.blocking_send(line).is_err() || last {
                return;
            }
        }
    });
    reader.map_err(|error| Failure::failed(format!("can't read stdin: {error}")))?;
    Ok(receiver)
}

/// The next line without its end; `None` after the last.
fn next_line(input: &mut impl BufRead) -> Result<Option<Vec<u8>>, String> {
    let mut line = Vec::new();
    let len_max = BODY_LEN_MAX as u64 + 2;
    let read = input.by_ref().take(len_max).read_until(b'\n', &mut line);
    if read.map_err(|error| format!("stdin can't be read: {error}"))? == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
    }
    match line.len() {
        len if len > BODY_LEN_MAX => {
            Err(format!("a line of stdin is longer than a message may be ({BODY_LEN_MAX} bytes)"))
        }
        _ => Ok(Some(line)),
    }
}

/// Says what became of a message: commits on stdout, the rest on stderr. Whether it is committed.
fn show(key: MessageKey, answer: Result<Receipt, SendError>, json: bool) -> Result<bool, Failure> {
    match answer {
        Ok(receipt) => {
            let status = match receipt.status {
                Status::Committed => "committed",
                Status::Queued => "queued",
            };
            let mut stdout = io::stdout().lock();
            if json {
                let line = serde_json::json!({
                    "status": status, "id": receipt.id, "duplicate": receipt.duplicate, "key": key.to_string(),
                });
                writeln!(stdout, "{line}")?;
            } else {
                writeln!(stdout, "{status} {}", receipt.id)?;
            }
            Ok(true)
        }
        Err(error) => {
            complain(&format!("message {key}: {error}"));
            Ok(false)
        }
    }
}

fn all_committed(lost: usize, all: usize) -> Outcome {
    match (lost, all) {
        (0, _) => Ok(()),
        (_, 1) => Err(Failure::Failed("the message is not committed".to_owned())),
        (lost, all) => Err(Failure::Failed(format!("{lost} of {all} messages are not committed"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_messages() {
        let mut input = &b"one\r\n\ntwo\nlast"[..];
        for expect in ["one", "", "two", "last"] {
            assert_eq!(next_line(&mut input).unwrap().unwrap(), expect.as_bytes());
        }
        assert_eq!(next_line(&mut input).unwrap(), None);
    }

    #[test]
    fn the_longest_message_fits_and_a_longer_line_is_refused() {
        let longest = [vec![b'x'; BODY_LEN_MAX], b"\r\n".to_vec()].concat();
        assert_eq!(next_line(&mut &longest[..]).unwrap().unwrap().len(), BODY_LEN_MAX);
        let longer = [vec![b'x'; BODY_LEN_MAX + 1], b"\n".to_vec()].concat();
        assert!(next_line(&mut &longer[..]).unwrap_err().contains("longer than a message"));
    }
}
