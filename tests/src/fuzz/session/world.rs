//! The router of the `session` target: takes submissions and answers them when the script says so, has an inbox, and may be full
//! or unreachable.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use iris_appliance::auth::token::Login;
use iris_appliance::edge::EdgeRouter;
use iris_appliance::routing::{InboxPage, PageRequest, Reply, SessionId, Submission, SubmitOutcome, Unreachable, Work};
use iris_protocol::{DeviceId, EntryId, MessageKey, UserId};
use iris_store::Entry;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Lets in any name of a user, `user/device` for a token bound to a device.
pub(super) fn admit(token: &str) -> Option<Login> {
    let (user, device) = token.split_once('/').map_or((token, None), |(user, device)| (user, Some(device)));
    let device = device.map(DeviceId::new).transpose().ok()?;
    Some(Login { user: UserId::new(user).ok()?, device })
}

#[derive(Default)]
pub(super) struct State {
    submissions: VecDeque<Submission>,
    full: bool,
    unreachable: bool,
    entries: Vec<Entry>,
    cursor: EntryId,
    last_id: u64,
}

/// The scripted router.
#[derive(Clone, Default)]
pub(super) struct World {
    state: Arc<Mutex<State>>,
    news: Arc<Notify>,
}

impl World {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers one of the submissions that wait, in one of the ways there are.
    pub(super) fn answer(&self, which: usize, how: u8) {
        let mut state = self.state();
        let count = state.submissions.len().max(1);
        let Some(submission) = state.submissions.remove(which % count) else { return };
        state.last_id += 1;
        let id = EntryId(state.last_id);
        let outcome = match (&submission.work, how % 6) {
            (_, 0) => SubmitOutcome::Unavailable,
            (_, 1) => SubmitOutcome::Overloaded,
            (_, 2) => SubmitOutcome::Behind,
            (Work::Message { .. }, 3) => SubmitOutcome::KeyConflict,
            (Work::Message { .. }, more) => SubmitOutcome::Committed { id, duplicate: more == 4 },
            (Work::Cursor { cursor, .. }, _) => {
                state.cursor = state.cursor.max(*cursor);
                SubmitOutcome::CursorMoved { cursor: state.cursor }
            }
        };
        // One that was given up meanwhile has no room kept for it.
        let _ = submission.replies.try_send(Reply { ticket: submission.ticket, outcome });
    }

    /// Answers all of them well.
    pub(super) fn answer_all(&self) {
        while !self.state().submissions.is_empty() {
            self.answer(0, 5);
        }
    }

    /// Something arrives in the inbox.
    pub(super) fn append(&self, body_len: usize) {
        let mut state = self.state();
        state.last_id += 1;
        let (id, key) = (EntryId(state.last_id), MessageKey([state.last_id as u8; 16]));
        let sender = UserId::new("alice").expect("a name");
        state.entries.push(Entry { id, sender, kind: 0, key, body: Bytes::from(vec![0; body_len]) });
        self.news.notify_waiters();
    }

    /// Breaks or mends.
    pub(super) fn toggle(&self, what: u8) {
        let mut state = self.state();
        let flag = if what & 1 == 0 { &mut state.full } else { &mut state.unreachable };
        *flag = !*flag;
    }
}

impl EdgeRouter for World {
    fn new_session(&self) -> SessionId {
        SessionId(1)
    }

    fn submit(&self, submission: Submission) -> Result<(), Submission> {
        let mut state = self.state();
        if state.full {
            return Err(submission);
        }
        state.submissions.push_back(submission);
        Ok(())
    }

    async fn read_page(&self, _: &UserId, request: PageRequest) -> Result<InboxPage, Unreachable> {
        let give_up = Instant::now() + request.wait;
        loop {
            let news = self.news.notified();
            {
                let state = self.state();
                if state.unreachable {
                    return Err(Unreachable);
                }
                let beyond = state.entries.iter().filter(|entry| entry.id > request.after);
                let entries: Vec<Entry> = beyond.clone().take(request.entries_max).cloned().collect();
                let live = request.confirm && beyond.count() == entries.len();
                if live || !entries.is_empty() || Instant::now() >= give_up {
                    let scanned_to = entries.last().map_or(request.after, |last| last.id);
                    return Ok(InboxPage { entries, scanned_to, live });
                }
            }
            let _ = tokio::time::timeout_at(give_up, news).await;
        }
    }

    async fn stored_cursor(&self, _: &UserId, _: &DeviceId) -> Result<EntryId, Unreachable> {
        let state = self.state();
        if state.unreachable { Err(Unreachable) } else { Ok(state.cursor) }
    }
}
