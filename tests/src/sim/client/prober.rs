//! A prober: asks any node, now and then, for what a user has from some entry on, and holds against it what had been acked when
//! it began to ask. Where a stale leader would be believed, it is the one that is told.

use std::io::Result;
use std::time::Duration;

use iris_protocol::frame::{ClientFrame, ServerFrame, SubscribeFrom};
use iris_protocol::{EntryId, UserId};
use rand::Rng;
use rand::rngs::StdRng;

use super::Parts;

/// Between two questions.
const EVERY_MS: std::ops::Range<u64> = 20..200;

/// Entries asked for: more than a world has.
const CREDIT: u32 = 10_000;

/// How long an answer may take; a leader may be away.
const PATIENCE: Duration = Duration::from_secs(3);

/// Asks for ever.
pub async fn probe(parts: Parts, users: Vec<UserId>, mut rng: StdRng) {
    loop {
        crate::wait::let_pass(parts.pause(&EVERY_MS, &mut rng)).await;
        let user = users[rng.random_range(0..users.len())].clone();
        // No answer is no answer.
        let _ = tokio::time::timeout(PATIENCE, one_look(&parts, &user, &mut rng)).await;
    }
}

async fn one_look(parts: &Parts, user: &UserId, rng: &mut StdRng) -> Result<()> {
    let mut talk = parts.connect(user, "probe", rng).await?;
    let all = parts.book.acked_for(user, EntryId::ZERO);
    let after = if all.is_empty() { EntryId::ZERO } else { all[rng.random_range(all.len() / 2..all.len())].0 };
    let mut missing = parts.book.acked_for(user, after);
    talk.say(&ClientFrame::Subscribe { from: SubscribeFrom::After(after), credit: CREDIT }).await?;
    loop {
        match talk.hear().await? {
            ServerFrame::Entry(entry) => missing.retain(|(id, _)| *id != entry.id),
            ServerFrame::Live { .. } => break,
            ServerFrame::Error { .. } | ServerFrame::GoAway { .. } => return Ok(()),
            _ => {}
        }
    }
    match missing.first() {
        None => parts.book.pages().fresh_reads += 1,
        // What its reader said it has may have been removed.
        Some((id, _)) if parts.trims && parts.book.is_received(user, *id) => {}
        Some((id, key)) => {
            let what = format!("{user}: a read said to be fresh lacks {id} ({key}), which was acked before it began");
            parts.book.broken("fresh reads", parts.time.now_ms(), what);
        }
    }
    talk.say(&ClientFrame::Bye).await
}
