//! Properties of the codec, and the hex examples of docs/protocol.md, which are decoded here so that the document can't lie.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::*;
use crate::ids::{DeviceId, EntryId, MessageKey, NodeId, UserId};
use crate::limits::{BODY_LEN_MAX, FRAME_LEN_MAX, FRAME_LEN_MAX_BEFORE_LOGIN};

fn user() -> impl Strategy<Value = UserId> {
    "[a-z0-9@. é]{1,40}".prop_map(|text| UserId::new(text).unwrap())
}

fn client_frame() -> impl Strategy<Value = ClientFrame> {
    let send =
        (any::<u64>(), any::<[u8; 16]>(), 0..3u8, any::<u16>(), user(), prop::collection::vec(any::<u8>(), 0..300))
            .prop_map(|(seq, key, durability, kind, recipient, body)| {
                ClientFrame::Send(Send {
                    seq,
                    key: MessageKey(key),
                    durability: [Durability::Quorum, Durability::Guaranteed, Durability::BestEffort]
                        [usize::from(durability)],
                    kind,
                    recipient,
                    body: body.into(),
                })
            });
    prop_oneof![
        (any::<u16>(), any::<u16>(), "[a-zA-Z0-9._-]{0,200}", prop::option::of("[a-z]{1,64}"), "[a-z/0-9]{0,60}")
            .prop_map(|(version_min, version_max, token, device, software)| ClientFrame::Hello {
                version_min,
                version_max,
                token,
                device: device.map(|text| DeviceId::new(text).unwrap()),
                software
            }),
        send,
        any::<u64>().prop_map(|id| ClientFrame::Ack { cursor: EntryId(id) }),
        (0..u64::MAX, any::<u32>())
            .prop_map(|(id, credit)| ClientFrame::Subscribe { from: SubscribeFrom::After(EntryId(id)), credit }),
        any::<u32>().prop_map(|credit| ClientFrame::Subscribe { from: SubscribeFrom::Stored, credit }),
        any::<u32>().prop_map(|entries| ClientFrame::Credit { entries }),
        any::<u64>().prop_map(|nonce| ClientFrame::Ping { nonce }),
        Just(ClientFrame::Bye),
    ]
}

fn server_frame() -> impl Strategy<Value = ServerFrame> {
    let code = (0..Code::ALL.len()).prop_map(|at| Code::ALL[at]);
    prop_oneof![
        (any::<u64>(), user(), any::<u32>(), any::<u32>()).prop_map(
            |(node, user, sends_in_flight_max, idle_ms_max)| {
                let device = DeviceId::new("laptop").unwrap();
                ServerFrame::Welcome { version: 2, node: NodeId(node), user, device, sends_in_flight_max, idle_ms_max }
            }
        ),
        (any::<u64>(), any::<bool>(), any::<u64>(), any::<bool>()).prop_map(|(seq, queued, id, duplicate)| {
            let status = if queued { Status::Queued } else { Status::Committed };
            ServerFrame::Accepted { seq, status, duplicate, id: EntryId(id) }
        }),
        (any::<u64>(), code.clone(), any::<u32>(), "[ -~]{0,100}")
            .prop_map(|(seq, code, retry_after_ms, reason)| ServerFrame::Refused { seq, code, retry_after_ms, reason }),
        (any::<u64>(), any::<u16>(), any::<[u8; 16]>(), user(), prop::collection::vec(any::<u8>(), 0..300)).prop_map(
            |(id, kind, key, sender, body)| ServerFrame::Entry(Delivery {
                id: EntryId(id),
                kind,
                key: MessageKey(key),
                sender,
                body: body.into()
            })
        ),
        any::<u64>().prop_map(|id| ServerFrame::Live { cursor: EntryId(id) }),
        any::<u64>().prop_map(|id| ServerFrame::Acked { cursor: EntryId(id) }),
        any::<u64>().prop_map(|nonce| ServerFrame::Pong { nonce }),
        (any::<u32>(), "[ -~]{0,50}", prop::collection::vec("[a-z.:0-9]{1,30}", 0..4))
            .prop_map(|(delay_ms, reason, addresses)| ServerFrame::GoAway { delay_ms, reason, addresses }),
        (code, any::<u32>(), "[ -~]{0,100}").prop_map(|(code, retry_after_ms, reason)| ServerFrame::Error {
            code,
            retry_after_ms,
            reason
        }),
    ]
}

proptest! {
    #[test]
    fn client_frames_read_back_however_they_are_cut(frames in prop::collection::vec(client_frame(), 1..8), cut in any::<prop::sample::Index>()) {
        let mut out = BytesMut::new();
        frames.iter().for_each(|frame| frame.encode(&mut out));
        let rest = out.split_off(cut.index(out.len()));
        let mut read = Vec::new();
        while let Some(frame) = ClientFrame::decode(&mut out, FRAME_LEN_MAX).unwrap() { read.push(frame); }
        out.unsplit(rest);
        while let Some(frame) = ClientFrame::decode(&mut out, FRAME_LEN_MAX).unwrap() { read.push(frame); }
        prop_assert_eq!(read, frames);
        prop_assert!(out.is_empty());
    }

    #[test]
    fn server_frames_read_back(frames in prop::collection::vec(server_frame(), 1..8)) {
        let mut out = BytesMut::new();
        frames.iter().for_each(|frame| frame.encode(&mut out));
        let mut read = Vec::new();
        while let Some(frame) = ServerFrame::decode(&mut out).unwrap() { read.push(frame); }
        prop_assert_eq!(read, frames);
    }

    #[test]
    fn any_bytes_are_a_frame_or_an_error_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), kind in 0u8..0x50) {
        let _ = ClientFrame::decode(&mut BytesMut::from(&bytes[..]), FRAME_LEN_MAX);
        let _ = ServerFrame::decode(&mut BytesMut::from(&bytes[..]));
        let mut framed = BytesMut::from(&(bytes.len() as u32 + 1).to_be_bytes()[..]);
        framed.extend_from_slice(&[kind]);
        framed.extend_from_slice(&bytes);
        let _ = ClientFrame::decode(&mut framed.clone(), FRAME_LEN_MAX);
        let _ = ServerFrame::decode(&mut framed);
    }
}

#[test]
fn a_length_over_the_limit_is_refused_before_the_rest_is_there() {
    let mut four = BytesMut::from(&[0xff, 0xff, 0xff, 0xff][..]);
    assert_eq!(
        ClientFrame::decode(&mut four, FRAME_LEN_MAX_BEFORE_LOGIN),
        Err(FrameError::TooLong { len: 0xffff_ffff, max: FRAME_LEN_MAX_BEFORE_LOGIN })
    );
    assert_eq!(ClientFrame::decode(&mut BytesMut::from(&[0, 0, 0, 0][..]), FRAME_LEN_MAX), Err(FrameError::Empty));
}

#[test]
fn the_largest_message_fits_both_ways() {
    let body = Bytes::from(vec![7u8; BODY_LEN_MAX]);
    let name = UserId::new("x".repeat(256)).unwrap();
    let mut out = BytesMut::new();
    let key = MessageKey([1; 16]);
    let send =
        Send { seq: 1, key, durability: Durability::Quorum, kind: 0, recipient: name.clone(), body: body.clone() };
    ClientFrame::Send(send).encode(&mut out);
    assert!(ClientFrame::decode(&mut out, FRAME_LEN_MAX).unwrap().is_some());
    ServerFrame::Entry(Delivery { id: EntryId(1), kind: 0, key, sender: name, body }).encode(&mut out);
    assert!(ServerFrame::decode(&mut out).unwrap().is_some());
}

/// Every block that begins with "```hex" is one frame, its first line names it: `client NAME` or `server NAME`.
#[test]
fn the_documents_examples_are_what_the_codec_reads_and_writes() {
    let document = include_str!("../../../docs/protocol.md");
    let mut seen = Vec::new();
    for block in document.split("```hex\n").skip(1) {
        let block = block.split("```").next().unwrap();
        let (title, hex) = block.split_once('\n').unwrap();
        let digits: String =
            hex.lines().map(|line| line.split('#').next().unwrap()).collect::<String>().split_whitespace().collect();
        let bytes: Vec<u8> =
            (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect();
        let mut buf = BytesMut::from(&bytes[..]);
        let mut again = BytesMut::new();
        let shown = if title.starts_with("client") {
            let frame = ClientFrame::decode(&mut buf, FRAME_LEN_MAX).unwrap().unwrap();
            frame.encode(&mut again);
            format!("{frame:?}")
        } else {
            let frame = ServerFrame::decode(&mut buf).unwrap().unwrap();
            frame.encode(&mut again);
            format!("{frame:?}")
        };
        assert!(buf.is_empty(), "{title}: bytes left over");
        assert_eq!(&again[..], &bytes[..], "{title}: encodes differently");
        let name = title.split_whitespace().nth(1).unwrap().to_lowercase();
        assert!(shown.to_lowercase().starts_with(&name), "{title} decoded as {shown}");
        seen.push(name);
    }
    assert_eq!(seen.len(), 16, "one example for each of the frames: {seen:?}");
}

#[test]
fn every_code_is_in_the_document_with_its_number() {
    let document = include_str!("../../../docs/protocol.md");
    for code in Code::ALL {
        let row =
            format!("| {} | `{}` | {} |", code.number(), code.name(), if code.is_retryable() { "yes" } else { "no" });
        assert!(document.contains(&row), "docs/protocol.md lacks the row {row}");
        assert_eq!(Code::from_number(code.number()), *code);
    }
}
