//! Frames of `iris/2`, both directions. Must hold: any bytes are frames or an error; what decodes encodes and decodes to
//! itself; frames are the same however the bytes are cut, before as after login; a length over the limit is refused as soon as it is there, and
//! nothing is taken for a frame that is not all there.

use bytes::{Buf, BytesMut};
use iris_protocol::frame::{ClientFrame, FrameError, ServerFrame};
use iris_protocol::limits::{FRAME_LEN_MAX, FRAME_LEN_MAX_BEFORE_LOGIN};

/// The target. The first byte says where the rest is cut.
pub fn client_frames(input: &[u8]) {
    let Some((&cut, bytes)) = input.split_first() else { return };
    let cut = usize::from(cut) * bytes.len() / 256;
    let from_client = |buf: &mut BytesMut| ClientFrame::decode(buf, FRAME_LEN_MAX);
    check(bytes, cut, FRAME_LEN_MAX, from_client, ClientFrame::encode);
    let from_stranger = |buf: &mut BytesMut| ClientFrame::decode(buf, FRAME_LEN_MAX_BEFORE_LOGIN);
    check(bytes, cut, FRAME_LEN_MAX_BEFORE_LOGIN, from_stranger, ClientFrame::encode);
    check(bytes, cut, FRAME_LEN_MAX, ServerFrame::decode, ServerFrame::encode);
}

fn check<F: PartialEq + std::fmt::Debug>(
    bytes: &[u8],
    cut: usize,
    len_max: usize,
    decode: impl Fn(&mut BytesMut) -> Result<Option<F>, FrameError>,
    encode: impl Fn(&F, &mut BytesMut),
) {
    let (mut whole, mut frames) = (Vec::new(), Vec::new());
    let whole_error = read(&mut BytesMut::from(bytes), &mut whole, &decode);
    let mut input = BytesMut::from(&bytes[..cut]);
    let mut error = read(&mut input, &mut frames, &decode);
    if error.is_none() {
        input.extend_from_slice(&bytes[cut..]);
        error = read(&mut input, &mut frames, &decode);
    }
    assert_eq!((&whole, &whole_error), (&frames, &error), "cut at {cut}");
    if error.is_none() {
        assert!(input.len() < 4 || input.clone().get_u32() as usize + 4 > input.len(), "a whole frame is left");
        assert!(input.len() < len_max + 4, "more is waited for than a frame may have");
    }
    for frame in &frames {
        let mut written = BytesMut::new();
        encode(frame, &mut written);
        let again = decode(&mut written);
        assert_eq!(again.as_ref().ok().and_then(Option::as_ref), Some(frame), "{again:?}");
        assert!(written.is_empty(), "{frame:?} left bytes over");
    }
}

/// Takes all frames there are; why it stopped, if not for want of more.
fn read<F>(
    input: &mut BytesMut,
    frames: &mut Vec<F>,
    decode: impl Fn(&mut BytesMut) -> Result<Option<F>, FrameError>,
) -> Option<FrameError> {
    loop {
        match decode(input) {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) => return None,
            Err(error) => return Some(error),
        }
    }
}
