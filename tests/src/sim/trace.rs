//! What happened, as one number: every byte on the network and everything the world does goes into a hash, so that two runs of
//! a seed can be compared. With a file to write to, also as text, to find where two runs part.

use std::fmt::{Arguments, Write as _};
use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

/// The trace. Shared by all of a world.
#[derive(Clone)]
pub struct Trace(Arc<Mutex<State>>);

struct State {
    hash: u64,
    text: String,
    file: Option<std::io::BufWriter<std::fs::File>>,
}

/// FNV-1a, eight bytes at a time: fast, and the same everywhere.
fn mix(hash: u64, bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(hash, |hash, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        (hash ^ u64::from_le_bytes(word)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23)
    })
}

impl Trace {
    /// An empty one.
    ///
    /// # Errors
    /// The file can't be made.
    pub fn new(file: Option<&std::path::Path>) -> std::io::Result<Self> {
        let file = file.map(std::fs::File::create).transpose()?.map(std::io::BufWriter::new);
        Ok(Self(Arc::new(Mutex::new(State { hash: 0xcbf2_9ce4_8422_2325, text: String::new(), file }))))
    }

    /// Something happened.
    pub fn note(&self, now_ms: u64, what: &Arguments<'_>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let State { hash, text, file } = &mut *state;
        text.clear();
        // Writing to a string can't fail.
        let _ = write!(text, "{now_ms} {what}");
        *hash = mix(*hash, text.as_bytes());
        if let Some(file) = file {
            let _ = writeln!(file, "{text}");
        }
    }

    /// Bytes left a host on a stream.
    pub fn bytes(&self, now_ms: u64, (pipe, from, to): (u64, u64, u64), bytes: &[u8]) {
        let sum = mix(0, bytes);
        self.note(now_ms, &format_args!("{pipe} {from}>{to} {} {sum:016x}", bytes.len()));
    }

    /// Everything so far, as a number.
    pub fn hash(&self) -> u64 {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &mut state.file {
            // For people; what is missing of it is missed by nobody else.
            let _ = file.flush();
        }
        state.hash
    }
}
