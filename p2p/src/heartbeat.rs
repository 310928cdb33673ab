//! The beat on its own stream: proves that both directions of a connection work and notices when they stop. Owns the beat's
//! frame and timing; what follows from silence is `peer`'s.
//!
//! Both sides send `version, sequence, highest sequence seen` (a byte and two big-endian u64) every interval. A frame that acknowledges one of
//! ours proves the peer reads what we write, which an open socket does not. The first two frames are answered at once,
//! so that a new link is up after one and a half round trips.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, oneshot};
use tokio::time::{sleep, timeout};

use crate::DownCause;

/// The format of the frame. Another one ends the link: two sides that read each other's beats wrongly would both believe in
/// it. What a later version wants to say differently it has to agree on in the hello first.
const VERSION: u8 = 1;
const FRAME_LEN: usize = 1 + 2 * size_of::<u64>();

/// What one frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Beat {
    pub(crate) sequence: u64,
    /// The peer's highest sequence that was seen.
    pub(crate) seen: u64,
}

impl Beat {
    pub(crate) fn encode(self) -> [u8; FRAME_LEN] {
        let mut frame = [VERSION; FRAME_LEN];
        frame[1..9].copy_from_slice(&self.sequence.to_be_bytes());
        frame[9..].copy_from_slice(&self.seen.to_be_bytes());
        frame
    }

    pub(crate) fn decode(frame: [u8; FRAME_LEN]) -> Option<Beat> {
        let (version, numbers) = frame.split_first()?;
        let (sequence, seen) = numbers.split_at(size_of::<u64>());
        let number = |bytes: &[u8]| bytes.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
        (*version == VERSION).then(|| Beat { sequence: number(sequence), seen: number(seen) })
    }
}

/// When the peer last proved that it was on this connection. Shared with the one who has to choose between two.
#[derive(Debug, Default)]
pub(crate) struct Pulse(Mutex<Option<Instant>>);

impl Pulse {
    /// Whether a beat sent after `moment` was answered.
    pub(crate) fn answered_since(&self, moment: Instant) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|sent_at| sent_at > moment)
    }

    pub(crate) fn answered(&self, sent_at: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(sent_at);
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    pub(crate) interval: Duration,
    pub(crate) silent_after: Duration,
}

/// Beats until the link is lost, and says why it was. `up` is told once the first of our beats was acknowledged.
pub(crate) async fn run<S>(stream: S, timing: Timing, pulse: Arc<Pulse>, up: oneshot::Sender<()>) -> DownCause
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (reader, writer) = stream.split();
    let shared = Shared {
        seen: AtomicU64::new(0),
        sent: AtomicU64::new(0),
        answer_now: Notify::new(),
        pulse,
        probe: Mutex::new(None),
    };
    // Side by side: a write that waits behind bulk data must not keep us from hearing the peer.
    tokio::select! {
        cause = listen(reader, timing, &shared, up) => cause,
        cause = beat(writer, timing, &shared) => cause,
    }
}

struct Shared {
    seen: AtomicU64,
    sent: AtomicU64,
    answer_now: Notify,
    pulse: Arc<Pulse>,
    /// The beat whose answer is awaited; one at a time is all that the pulse needs.
    probe: Mutex<Option<(u64, Instant)>>,
}

impl Shared {
    fn sending(&self, sequence: u64) {
        self.sent.store(sequence, Ordering::Release);
        self.probe.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert((sequence, Instant::now()));
    }

    fn acknowledged(&self, sequence: u64) {
        let mut probe = self.probe.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((awaited, sent_at)) = *probe
            && sequence >= awaited
        {
            self.pulse.answered(sent_at);
            *probe = None;
        }
    }
}

async fn beat<W: AsyncWrite + Unpin>(mut writer: W, timing: Timing, shared: &Shared) -> DownCause {
    for sequence in 1_u64.. {
        shared.sending(sequence);
        let frame = Beat { sequence, seen: shared.seen.load(Ordering::Acquire) }.encode();
        let sending = async {
            writer.write_all(&frame).await?;
            writer.flush().await
        };
        match timeout(timing.silent_after, sending).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return DownCause::Closed,
            Err(_) => return DownCause::Silent,
        }
        tokio::select! {
            () = sleep(timing.interval) => {}
            () = shared.answer_now.notified() => {}
        }
    }
    DownCause::Closed
}

async fn listen<R: AsyncRead + Unpin>(
    mut reader: R,
    timing: Timing,
    shared: &Shared,
    up: oneshot::Sender<()>,
) -> DownCause {
    let mut up = Some(up);
    loop {
        let Beat { sequence, seen: acknowledged } = match next_beat(&mut reader, timing).await {
            Ok(beat) => beat,
            Err(cause) => return cause,
        };
        let before = shared.seen.swap(sequence, Ordering::AcqRel);
        if sequence <= before || acknowledged > shared.sent.load(Ordering::Acquire) {
            // Never from an honest peer: its program is broken, so the link starts over.
            return DownCause::Closed;
        }
        if before == 0 {
            shared.answer_now.notify_one();
        }
        if acknowledged > 0 {
            shared.acknowledged(acknowledged);
            if let Some(up) = up.take() {
                shared.answer_now.notify_one();
                // Gone only when the links' task is: then this one ends as well.
                let _ = up.send(());
            }
        }
    }
}

/// Waits for one frame. Silence is counted in slices of one interval: a process that was stopped for a minute finds
/// one slice used up and the peer's beats waiting, instead of a deadline long past.
async fn next_beat<R: AsyncRead + Unpin>(reader: &mut R, timing: Timing) -> Result<Beat, DownCause> {
    let mut frame = [0; FRAME_LEN];
    let mut reading = reader.read_exact(&mut frame);
    let mut silent_for = Duration::ZERO;
    loop {
        match timeout(timing.interval, &mut reading).await {
            Ok(Ok(())) => break,
            Ok(Err(_)) => return Err(DownCause::Closed),
            Err(_) => silent_for += timing.interval,
        }
        if silent_for >= timing.silent_after {
            return Err(DownCause::Silent);
        }
    }
    // Never from a peer that accepted this version's hello: its program is broken.
    Beat::decode(frame).ok_or(DownCause::Closed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_util::compat::TokioAsyncReadCompatExt;

    const TIMING: Timing = Timing { interval: Duration::from_millis(250), silent_after: Duration::from_secs(2) };

    #[tokio::test(start_paused = true)]
    async fn both_sides_come_up_at_once_and_silence_is_noticed_in_time() {
        let (left, right) = tokio::io::duplex(1024);
        let (left_up, is_left_up) = oneshot::channel();
        let (right_up, is_right_up) = oneshot::channel();
        let start = tokio::time::Instant::now();
        let pulse = Arc::new(Pulse::default());
        let left = tokio::spawn(run(left.compat(), TIMING, Arc::clone(&pulse), left_up));
        // Keeps its end open for ever once cut: silence, not an end of file.
        let (mut held, relayed) = tokio::io::duplex(1024);
        let mut right_end = right;
        let right = tokio::spawn(run(relayed.compat(), TIMING, Arc::default(), right_up));
        let relay = tokio::spawn(async move {
            let cut = sleep(Duration::from_secs(10));
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut right_end, &mut held) => {}
                () = cut => {}
            }
            (right_end, held)
        });
        is_left_up.await.unwrap();
        is_right_up.await.unwrap();
        assert!(start.elapsed() < TIMING.interval, "up without waiting for a tick: {:?}", start.elapsed());
        let cause = left.await.unwrap();
        assert_eq!(cause, DownCause::Silent);
        let noticed = start.elapsed() - Duration::from_secs(10);
        assert!(noticed <= Duration::from_millis(2_300), "{noticed:?}");
        assert_eq!(right.await.unwrap(), DownCause::Silent);
        drop(relay.await.unwrap());
    }

    #[test]
    fn a_beat_is_what_it_always_was_and_another_version_is_none() {
        let beat = Beat { sequence: 0x0102, seen: u64::MAX };
        let frame = [1, 0, 0, 0, 0, 0, 0, 1, 2, 255, 255, 255, 255, 255, 255, 255, 255];
        assert_eq!((beat.encode(), Beat::decode(frame)), (frame, Some(beat)));
        for version in (0..=255).filter(|version| *version != VERSION) {
            let mut other = frame;
            other[0] = version;
            assert_eq!(Beat::decode(other), None);
        }
    }

    #[tokio::test]
    async fn a_beat_of_another_version_ends_the_link() {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let (up, is_up) = oneshot::channel();
        let ours = tokio::spawn(run(ours.compat(), TIMING, Arc::default(), up));
        let mut frame = Beat { sequence: 1, seen: 1 }.encode();
        frame[0] = VERSION + 1;
        tokio::io::AsyncWriteExt::write_all(&mut theirs, &frame).await.unwrap();
        assert_eq!(ours.await.unwrap(), DownCause::Closed);
        assert!(is_up.await.is_err());
    }

    #[tokio::test]
    async fn a_peer_that_makes_up_acknowledgements_is_dropped() {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let (up, is_up) = oneshot::channel();
        let ours = tokio::spawn(run(ours.compat(), TIMING, Arc::default(), up));
        let frame = Beat { sequence: 1, seen: u64::MAX }.encode();
        tokio::io::AsyncWriteExt::write_all(&mut theirs, &frame).await.unwrap();
        assert_eq!(ours.await.unwrap(), DownCause::Closed);
        assert!(is_up.await.is_err());
    }
}
