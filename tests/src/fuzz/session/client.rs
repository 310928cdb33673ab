//! The client of the `session` target: says its bytes in pieces, reads when the script says so, and judges what it heard.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use bytes::BytesMut;
use iris_protocol::EntryId;
use iris_protocol::frame::{ClientFrame, ServerFrame};
use iris_protocol::limits::{CREDIT_MAX, FRAME_LEN_MAX, FRAME_LEN_MAX_BEFORE_LOGIN};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::world::World;

pub(super) struct Client {
    stream: DuplexStream,
    says: BytesMut,
    said: BytesMut,
    heard: BytesMut,
}

impl Client {
    pub(super) fn new(stream: DuplexStream, bytes: &[u8], logs_in: bool) -> Self {
        let mut says = BytesMut::new();
        if logs_in {
            let (token, software) = ("bob".to_owned(), String::new());
            ClientFrame::Hello { version_min: 2, version_max: 2, token, device: None, software }.encode(&mut says);
        }
        says.extend_from_slice(bytes);
        Self { stream, says, said: BytesMut::new(), heard: BytesMut::new() }
    }

    /// One step of the script: what to do in the low bits, how much of it in the high ones.
    pub(super) async fn step(&mut self, step: u8, world: &World, drain: impl Fn()) {
        let much = usize::from(step >> 3);
        match step & 0x07 {
            0 => self.say(much * much + 1).await,
            1 => world.answer(much / 6, (much % 6) as u8),
            2 => world.append(much * 64),
            3 if much == 31 => drain(),
            3 => world.toggle(much as u8),
            4 => tokio::time::advance(Duration::from_millis(1 << much.min(17))).await,
            5 => self.hear(much * much + 1).await,
            6 => world.answer_all(),
            _ => self.say(usize::MAX).await,
        }
        // The session gets to see it.
        tokio::task::yield_now().await;
    }

    async fn say(&mut self, len: usize) {
        let piece = self.says.split_to(len.min(self.says.len()));
        // What it can't take any more, because it has ended, is not said.
        if self.stream.write_all(&piece).await.is_err() {
            self.says.clear();
        }
        self.said.unsplit(piece);
    }

    async fn hear(&mut self, len: usize) {
        let mut piece = vec![0; len];
        let reading = tokio::time::timeout(Duration::from_millis(1), self.stream.read(&mut piece));
        if let Ok(Ok(len)) = reading.await {
            self.heard.extend_from_slice(&piece[..len]);
        }
    }

    /// Says what is left, and hears everything until the session ends, which idleness makes it.
    pub(super) async fn finish(self) -> Heard {
        let Self { stream, says, mut said, mut heard } = self;
        let (mut reader, mut writer) = tokio::io::split(stream);
        let speaking = async {
            // As above.
            let _ = writer.write_all(&says).await;
        };
        let hearing = async { while reader.read_buf(&mut heard).await.is_ok_and(|len| len > 0) {} };
        tokio::join!(speaking, hearing);
        said.unsplit(says);
        Heard { said, heard }
    }
}

/// A whole session as its client saw it.
pub(super) struct Heard {
    said: BytesMut,
    heard: BytesMut,
}

/// What the client may expect of what it said.
#[derive(Default)]
struct Owed {
    seqs: BTreeSet<u64>,
    credit: u64,
    nonces: VecDeque<u64>,
    acked: EntryId,
    /// It began to read anew: entries may come again.
    subscriptions: usize,
}

impl Owed {
    /// What the session can have understood of `said`: everything up to the first thing that is no frame.
    fn of(mut said: BytesMut) -> Self {
        let mut owed = Self::default();
        let mut len_max = FRAME_LEN_MAX_BEFORE_LOGIN;
        while let Ok(Some(frame)) = ClientFrame::decode(&mut said, len_max) {
            len_max = FRAME_LEN_MAX;
            match frame {
                ClientFrame::Send(send) => drop(owed.seqs.insert(send.seq)),
                ClientFrame::Subscribe { credit, .. } => {
                    owed.credit += u64::from(credit.min(CREDIT_MAX));
                    owed.subscriptions += 1;
                }
                ClientFrame::Credit { entries } => owed.credit += u64::from(entries.min(CREDIT_MAX)),
                ClientFrame::Ping { nonce } => owed.nonces.push_back(nonce),
                ClientFrame::Ack { cursor } => owed.acked = owed.acked.max(cursor),
                ClientFrame::Hello { .. } | ClientFrame::Bye => {}
            }
        }
        owed
    }
}

impl Heard {
    /// Panics where the session broke a promise.
    pub(super) fn check(self) {
        let mut owed = Owed::of(self.said);
        let mut heard = self.heard;
        let (mut first, mut last_entry, mut went_back) = (true, EntryId::ZERO, 0);
        let mut ended = false;
        // It may have been cut off in the middle of a frame: a client that does not read.
        while let Some(frame) = ServerFrame::decode(&mut heard).expect("a session says nothing but frames") {
            assert!(!ended, "after ERROR came {frame:?}");
            let is_welcome = matches!(frame, ServerFrame::Welcome { .. });
            ended = matches!(frame, ServerFrame::Error { .. });
            let in_place = if std::mem::take(&mut first) { is_welcome || ended } else { !is_welcome };
            assert!(in_place, "WELCOME comes first and once, not {frame:?}");
            match frame {
                ServerFrame::Accepted { seq, .. } | ServerFrame::Refused { seq, .. } => {
                    assert!(owed.seqs.remove(&seq), "{seq} was answered, but not asked, or not once");
                }
                ServerFrame::Entry(entry) => {
                    owed.credit = owed.credit.checked_sub(1).expect("an entry for which there was no credit");
                    went_back += usize::from(entry.id <= last_entry);
                    last_entry = entry.id;
                }
                ServerFrame::Pong { nonce } => assert_eq!(owed.nonces.pop_front(), Some(nonce)),
                ServerFrame::Acked { cursor } => assert!(cursor <= owed.acked, "more was acked than asked"),
                ServerFrame::Welcome { .. } | ServerFrame::Error { .. } => {}
                ServerFrame::Live { .. } | ServerFrame::GoAway { .. } => {}
            }
        }
        assert!(went_back <= owed.subscriptions, "entries came out of order");
    }
}
