//! What the fuzz targets of fuzz/ do with their input, one file a target: the file's first lines say what must hold. They live
//! here so that a plain test replays the corpus through the same functions. A target never fails on time, only by a panic,
//! which is a broken promise.

mod client_frames;
mod log_records;
mod peer_frames;
mod quiet;
mod session;
mod snapshot_chunks;
mod tokens;
mod versioned;

pub use client_frames::client_frames;
pub use log_records::log_records;
pub use peer_frames::peer_frames;
pub use session::session;
pub use snapshot_chunks::snapshot_chunks;
pub use tokens::tokens;
pub use versioned::versioned;

/// A target: what it does with an input, whatever its bytes.
pub type Target = fn(&[u8]);

/// Every target by its name, which is also that of its file in fuzz/fuzz_targets and of its folder in fuzz/corpus.
pub const TARGETS: [(&str, Target); 7] = [
    ("client_frames", client_frames),
    ("log_records", log_records),
    ("peer_frames", peer_frames),
    ("session", session),
    ("snapshot_chunks", snapshot_chunks),
    ("tokens", tokens),
    ("versioned", versioned),
];

/// What is read and written again is read as the same: whoever relays or stores a value changes nothing. The first bytes may
/// differ, because a number has more than one encoding.
fn settles<E>(what: &str, bytes: &[u8], mut again: impl FnMut(&[u8]) -> Result<Vec<u8>, E>) {
    let Ok(written) = again(bytes) else { return };
    assert_eq!(again(&written).ok().as_ref(), Some(&written), "{what}: what was written is not read as itself");
}
