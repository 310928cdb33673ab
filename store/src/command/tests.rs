//! The encoding: pinned bytes, every cut, any bytes.

use proptest::prelude::*;

use super::*;

fn message() -> NewMessage {
    NewMessage {
        sender: UserId::new("sender").unwrap(),
        key: MessageKey([7; 16]),
        recipient: UserId::new("ünï").unwrap(),
        kind: 3,
        stamp: EntryId(99),
        body: Bytes::from_static(b"body"),
    }
}

fn cursor() -> Item {
    let (user, device) = (UserId::new("u").unwrap(), DeviceId::new("phone").unwrap());
    Item::Cursor { user, device, cursor: EntryId(5), seen: EntryId(6) }
}

fn others() -> [Item; 3] {
    let (user, device) = (UserId::new("u").unwrap(), DeviceId::new("phone").unwrap());
    [
        Item::Known { first: EntryId(7), conflict: true },
        Item::Trim { user: user.clone(), up_to: EntryId(8), entries: 9 },
        Item::Expire { user, device, before: EntryId(10) },
    ]
}

#[test]
fn bodies_share_the_commands_buffer() {
    let [known, trim, expire] = others();
    let all = [Item::Message(message()), cursor(), known, trim, expire];
    let command = encode_batch(&all);
    let items = decode_batch(&command).unwrap();
    assert_eq!(items, all);
    let Item::Message(decoded) = &items[0] else { panic!() };
    assert!(command.as_ptr_range().contains(&decoded.body.as_ptr()));
    assert_eq!(decode_batch(&encode_batch(&[])).unwrap(), []);
}

// The bytes on disk are for ever: this pins them.
#[test]
fn the_layout_is_pinned() {
    let bytes = encode_command(&[cursor()], KeysSeen(3));
    let head = b"\x02\x03\0\0\0\0\0\0\0\x01\0\0\0";
    assert_eq!(&bytes[..head.len()], head);
    let item = b"\x02\x05\0\0\0\0\0\0\0\x06\0\0\0\0\0\0\0\x01\0\x05\0uphone";
    assert_eq!(&bytes[head.len()..], item);
    let bytes = encode_batch(&others());
    let items =
        b"\x03\x07\0\0\0\0\0\0\0\x01\x04\x08\0\0\0\0\0\0\0\x09\0\0\0\x01\0u\x05\x0a\0\0\0\0\0\0\0\x01\0\x05\0uphone";
    assert_eq!(&bytes[head.len()..], items);
    let bytes = encode_batch(&[Item::Message(message())]);
    let head = b"\x02\xff\xff\xff\xff\xff\xff\xff\xff\x01\0\0\0\x01\x03\0\x63\0\0\0\0\0\0\0\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07";
    assert_eq!(&bytes[..head.len()], head);
    assert_eq!(&bytes[head.len()..], "\x06\0\x05\0\x04\0\0\0senderünïbody".as_bytes());
}

#[test]
fn every_cut_and_another_version_are_refused() {
    let [known, trim, expire] = others();
    let command = encode_batch(&[Item::Message(message()), cursor(), known, trim, expire]);
    for len in 0..command.len() {
        assert!(decode_batch(&command.slice(..len)).is_err(), "{len}");
    }
    let mut other = command.to_vec();
    other.push(0);
    assert!(decode_batch(&Bytes::from(other.clone())).is_err());
    other[0] = 1;
    assert_eq!(decode_batch(&Bytes::from(other)), Err(CommandError::Version { found: 1 }));
    let mut known = encode_batch(&others()[..1]).to_vec();
    *known.last_mut().unwrap() = 2;
    assert!(decode_batch(&Bytes::from(known)).is_err(), "a flag that is none");
    let huge = Item::Message(NewMessage { stamp: EntryId(1 << 63), ..message() });
    assert!(decode_batch(&encode_batch(&[huge])).is_err());
}

proptest! {
    #[test]
    fn any_bytes_are_a_command_or_an_error(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Some(version) = bytes.first_mut() {
            *version = VERSION;
        }
        if let Some(count) = bytes.get_mut(9..13) {
            count.copy_from_slice(&1u32.to_le_bytes());
        }
        let _ = decode_batch(&Bytes::from(bytes));
    }

    // Apply relies on it: what decodes can be made a name.
    #[test]
    fn the_rule_of_names_is_the_protocols(name in "[ -~\u{0}-\u{ff}]{0,8}") {
        let mut bytes = encode_batch(&[cursor()]).to_vec();
        bytes[30..32].copy_from_slice(&(name.len() as u16).to_le_bytes());
        bytes.splice(34..35, name.bytes());
        prop_assert_eq!(decode_command(&Bytes::from(bytes)).is_ok(), UserId::new(&name).is_ok());
    }
}
