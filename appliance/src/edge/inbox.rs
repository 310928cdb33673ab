//! A subscription: reads the user's inbox page by page at its shard's leader and hands out what the client has credit for (A7).
//! At most one page is on its way to the client at a time, so that a slow client costs one page and loses nothing: the log
//! holds the rest.

use std::pin::Pin;
use std::time::Duration;

use iris_protocol::EntryId;
use iris_protocol::frame::{Delivery, ServerFrame, SubscribeFrom};
use iris_protocol::hlc::ENTRY_ID_MAX;
use iris_protocol::limits::CREDIT_MAX;
use tokio::time::Instant;

use super::login::Who;
use super::transfer::Output;
use super::{EdgeRouter, Shared};
use crate::routing::{InboxPage, PageRequest, Unreachable};

/// Entries in a page: with 256 KiB of bodies, which the leader keeps to, what one slow client may hold here.
const PAGE_ENTRIES: u32 = 256;

/// How long a read at the end of the inbox waits for news before it is made anew.
const NEWS_WAIT: Duration = Duration::from_secs(25);

/// A subscription that lasts says that often that its device is there: twice in the time after which the leader writes that
/// down.
const SEEN_EVERY: Duration = Duration::from_secs(12 * 3600);

/// After a read that failed or said nothing new, wait this and up to as much again.
const PAUSE_MS: u64 = 100;

/// What a read brought.
pub(super) enum Read {
    Cursor(Result<EntryId, Unreachable>),
    Page(Result<InboxPage, Unreachable>),
}

type Reading = Pin<Box<dyn Future<Output = Read> + Send>>;

/// One subscription.
pub(super) struct Inbox {
    /// Where to read on; none until the stored cursor is known.
    after: Option<EntryId>,
    /// The last entry delivered, or where it began.
    delivered: EntryId,
    credit: u32,
    live_sent: bool,
    /// Without credit, one look at whether there is anything; LIVE needs no credit, entries do.
    saw_entries: bool,
    /// The last read brought nothing to go on with.
    pause: bool,
    reading: Option<Reading>,
    /// When the leader was last told which device reads.
    told_at: Option<Instant>,
}

impl Inbox {
    pub(super) fn new(from: SubscribeFrom, credit: u32) -> Self {
        let after = match from {
            SubscribeFrom::Stored => None,
            SubscribeFrom::After(id) => Some(id.min(ENTRY_ID_MAX)),
        };
        Self {
            after,
            delivered: after.unwrap_or_default(),
            credit: credit.min(CREDIT_MAX),
            live_sent: false,
            saw_entries: false,
            pause: false,
            reading: None,
            told_at: None,
        }
    }

    pub(super) fn add_credit(&mut self, entries: u32) {
        self.credit = self.credit.saturating_add(entries).min(CREDIT_MAX);
    }

    /// Begins the next read if it is time for one: the last page is out, and there is credit or LIVE is still owed.
    pub(super) fn begin_read<R: EdgeRouter>(&mut self, edge: &Shared<R>, who: &Who, out: &Output) {
        let owed = self.credit > 0 || (!self.live_sent && !self.saw_entries);
        if self.reading.is_some() || !out.takes_page() || !(owed || self.after.is_none()) {
            return;
        }
        let pause = if self.pause {
            Duration::from_millis(PAUSE_MS + edge.surroundings.random.below(PAUSE_MS))
        } else {
            Duration::ZERO
        };
        let tell = self.told_at.is_none_or(|told| told.elapsed() >= SEEN_EVERY);
        if tell {
            self.told_at = Some(Instant::now());
        }
        let (router, who) = (edge.router.clone(), who.clone());
        let request = self.after.map(|after| PageRequest {
            after,
            entries_max: self.credit.clamp(1, PAGE_ENTRIES) as usize,
            wait: if self.live_sent { NEWS_WAIT } else { Duration::ZERO },
            confirm: !self.live_sent,
            device: tell.then(|| who.device.clone()),
        });
        self.reading = Some(Box::pin(async move {
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            match request {
                None => Read::Cursor(router.stored_cursor(&who.user, &who.device).await),
                Some(request) => Read::Page(router.read_page(&who.user, request).await),
            }
        }));
    }

    /// What the read under way brings; pending for ever if there is none. Nothing is lost if it is dropped while it waits.
    pub(super) async fn read(&mut self) -> Read {
        match &mut self.reading {
            Some(reading) => {
                let read = reading.await;
                self.reading = None;
                read
            }
            None => std::future::pending().await,
        }
    }

    /// Takes what a read brought; returns the number of entries put into `out`.
    pub(super) fn on_read(&mut self, read: Read, out: &mut Output) -> u64 {
        self.pause = true;
        match read {
            Read::Cursor(Ok(cursor)) => {
                (self.after, self.delivered, self.pause) = (Some(cursor), cursor, false);
                0
            }
            Read::Page(Ok(page)) => self.on_page(page, out),
            // Nobody leads the shard right now; the client waits, and pings.
            Read::Cursor(Err(Unreachable)) | Read::Page(Err(Unreachable)) => {
                self.told_at = None;
                0
            }
        }
    }

    fn on_page(&mut self, page: InboxPage, out: &mut Output) -> u64 {
        let count = page.entries.len().min(self.credit as usize);
        let whole = count == page.entries.len();
        self.saw_entries = !whole;
        for entry in page.entries.into_iter().take(count) {
            self.delivered = entry.id;
            let delivery =
                Delivery { id: entry.id, kind: entry.kind, key: entry.key, sender: entry.sender, body: entry.body };
            out.put(&ServerFrame::Entry(delivery));
        }
        self.credit -= count as u32;
        let next = if whole { page.scanned_to.max(self.delivered) } else { self.delivered };
        let waited = self.live_sent;
        // An empty page is no reason to hurry, unless it was waited for.
        self.pause = count == 0 && !waited && self.after.is_some_and(|after| next <= after) && !page.live;
        self.after = self.after.max(Some(next));
        if page.live && whole && !self.live_sent {
            self.live_sent = true;
            out.put(&ServerFrame::Live { cursor: self.delivered });
        }
        out.end_page();
        count as u64
    }
}
