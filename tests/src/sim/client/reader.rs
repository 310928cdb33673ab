//! A reader: one device that follows its inbox, moves its cursor now and then, and comes back to another node as a real one
//! would: sometimes from its stored cursor, as after losing everything but its name, sometimes from where it was.

use std::io::Result;

use iris_protocol::frame::{ClientFrame, Delivery, ServerFrame, SubscribeFrom};
use iris_protocol::{DeviceId, EntryId, UserId};
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::Instant;

use super::super::book::Pages;
use super::{Parts, Talk};
use crate::oracle::{Seen, hash};

/// Entries asked for at once.
const CREDIT: u32 = 32;

/// How long one connection is kept.
const STAY_MS: std::ops::Range<u64> = 200..4_000;

/// Follows an inbox for ever.
pub async fn read(parts: Parts, user: UserId, device: DeviceId, mut rng: StdRng) {
    let mut reader = Reader { parts, user, device, last: EntryId::ZERO, acked: EntryId::ZERO };
    reader.parts.book.pages().received.entry((reader.user.clone(), reader.device.clone())).or_default();
    loop {
        // A connection that broke, or was refused: the next one.
        let _ = reader.one_connection(&mut rng).await;
    }
}

struct Reader {
    parts: Parts,
    user: UserId,
    device: DeviceId,
    /// The last entry received.
    last: EntryId,
    /// As far as was said to have been received.
    acked: EntryId,
}

impl Reader {
    async fn one_connection(&mut self, rng: &mut StdRng) -> Result<()> {
        let (user, device) = (self.user.clone(), self.device.clone());
        let mut talk = self.parts.connect(&user, device.as_str(), rng).await?;
        let (from, mut before) = if rng.random_bool(0.5) {
            (SubscribeFrom::Stored, EntryId::ZERO)
        } else {
            (SubscribeFrom::After(self.last), self.last)
        };
        // What was promised to be there before this look began must come before LIVE (C7).
        let promised = self.parts.book.acked_for(&user, self.last);
        let mut missing = Some(promised);
        talk.say(&ClientFrame::Subscribe { from, credit: CREDIT }).await?;
        let leave_at = Instant::now() + self.parts.pause(&STAY_MS, rng);
        let mut owed = 0;
        while Instant::now() < leave_at {
            let frame = tokio::select! {
                biased;
                frame = talk.hear_whenever() => frame?,
                () = tokio::time::sleep_until(leave_at) => break,
            };
            match frame {
                ServerFrame::Entry(entry) => {
                    self.on_entry(&entry, &mut before);
                    if let Some(missing) = &mut missing {
                        missing.retain(|(id, _)| *id != entry.id);
                    }
                    owed += 1;
                    if owed >= CREDIT / 2 {
                        talk.say(&ClientFrame::Credit { entries: owed }).await?;
                        owed = 0;
                    }
                    if rng.random_bool(0.2) {
                        self.ack(&mut talk).await?;
                    }
                }
                ServerFrame::Live { .. } => self.on_live(missing.take()),
                ServerFrame::Acked { cursor } => self.on_acked(cursor),
                ServerFrame::Error { .. } | ServerFrame::GoAway { .. } => break,
                _ => {}
            }
        }
        if rng.random_bool(0.5) {
            self.ack(&mut talk).await?;
        }
        talk.say(&ClientFrame::Bye).await
    }

    fn broken(&self, invariant: &'static str, what: &str) {
        let what = format!("{} on {}: {what}", self.user, self.device);
        self.parts.book.broken(invariant, self.parts.time.now_ms(), what);
    }

    fn on_entry(&mut self, entry: &Delivery, before: &mut EntryId) {
        if entry.id <= *before {
            self.broken("ids increase", &format!("entry {} came after {before}", entry.id));
        }
        *before = entry.id;
        let seen = Seen { id: entry.id, key: entry.key, sender: entry.sender.clone(), hash: hash(&entry.body) };
        let now_ms = self.parts.time.now_ms();
        self.parts.book.trace().note(now_ms, &format_args!("received {} {}", self.user, entry.id.0));
        let mut pages = self.parts.book.pages();
        let Some(known) = pages.received.get_mut(&(self.user.clone(), self.device.clone())) else { return };
        if entry.id > self.last {
            known.push(seen);
            self.last = entry.id;
        } else if !known.contains(&seen) {
            drop(pages);
            self.broken("cursor", &format!("entry {} appeared behind {}, which came before", entry.id, self.last));
        }
    }

    fn on_live(&self, missing: Option<Vec<(EntryId, iris_protocol::MessageKey)>>) {
        match missing.as_deref() {
            Some([]) => self.parts.book.pages().fresh_reads += 1,
            Some([(id, key), ..]) => {
                let what = format!("a read said to be fresh lacks {id} ({key}), which was acked before it began");
                self.broken("fresh reads", &what);
            }
            None => {}
        }
    }

    async fn ack(&mut self, talk: &mut Talk) -> Result<()> {
        if self.last > self.acked {
            self.acked = self.last;
            let at = (self.user.clone(), self.device.clone());
            let Pages { cursors, .. } = &mut *self.parts.book.pages();
            cursors.insert(at, self.acked);
        }
        talk.say(&ClientFrame::Ack { cursor: self.acked }).await
    }

    fn on_acked(&self, cursor: EntryId) {
        if cursor > self.acked {
            self.broken("cursor", &format!("it stands at {cursor}, but was moved to {} only", self.acked));
        }
    }
}
