//! Requests that arrive twice. Follows the frames of a stream of calls (`len u32` and so much more, after one byte of version)
//! so that what is doubled is whole.

use bytes::{Bytes, BytesMut};

const LEN_FIELD: usize = 4;

/// Follows one direction of a stream of calls.
#[derive(Default)]
pub(super) struct Doubling {
    /// The byte of version is gone.
    begun: bool,
    /// The frame that is being written.
    frame: BytesMut,
}

impl Doubling {
    /// Takes note of what passes; if `twice`, and a frame ends exactly with it, that frame.
    pub(super) fn pass(&mut self, bytes: &[u8], twice: bool) -> Option<Bytes> {
        let rest = if self.begun { bytes } else { bytes.get(1..).unwrap_or_default() };
        self.begun |= !bytes.is_empty();
        self.frame.extend_from_slice(rest);
        loop {
            let len = LEN_FIELD + u32::from_be_bytes(*self.frame.first_chunk::<LEN_FIELD>()?) as usize;
            if self.frame.len() < len {
                return None;
            }
            let frame = self.frame.split_to(len).freeze();
            if self.frame.is_empty() {
                return twice.then_some(frame);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(body: &[u8]) -> Vec<u8> {
        [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], body].concat()
    }

    #[test]
    fn only_whole_frames_are_doubled() {
        let mut doubling = Doubling::default();
        assert_eq!(doubling.pass(&[1], true), None);
        assert_eq!(doubling.pass(&frame(b"abc"), true).as_deref(), Some(&frame(b"abc")[..]));
        let (head, tail) = (&frame(b"defgh")[..6], &frame(b"defgh")[6..]);
        assert_eq!(doubling.pass(head, true), None);
        assert_eq!(doubling.pass(tail, true).as_deref(), Some(&frame(b"defgh")[..]));
        assert_eq!(doubling.pass(&[frame(b"i"), frame(b"jk")].concat(), true).as_deref(), Some(&frame(b"jk")[..]));
        assert_eq!(doubling.pass(&frame(b"l"), false), None);
    }
}
