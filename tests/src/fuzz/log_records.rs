//! What lies in the log: raft-engine's record, the entry in it, the batch of items in that. Must hold: any bytes are one or an
//! error; what is read and written again is the same; whatever batch a leader can make is read back as it was, and its bodies are not
//! copied.

use arbitrary::{Arbitrary, Unstructured};
use bytes::Bytes;
use iris_appliance::cluster::fuzzing::{command, log_entry};
use iris_protocol::hlc::ENTRY_ID_MAX;
use iris_protocol::{DeviceId, EntryId, MessageKey, UserId};
use iris_store::fuzzing::{read_command, read_record, write_record};
use iris_store::{Item, KeysSeen, NewMessage, encode_command};

use super::settles;

/// Items of a made batch: enough for every mixture.
const ITEMS_MAX: usize = 64;

/// The target: the bytes as each of these, then as a recipe for a batch.
pub fn log_records(input: &[u8]) {
    let bytes = Bytes::copy_from_slice(input);
    settles("log record", input, |bytes| {
        let (index, entry) = read_record(bytes)?;
        write_record(index, entry)
    });
    settles("log entry", input, |bytes| log_entry(&Bytes::copy_from_slice(bytes)).map(Vec::from));
    if let Ok((_, entry)) = read_record(input) {
        read_entry(&entry);
    }
    read_entry(&bytes);
    batch(&bytes);
    let mut recipe = Unstructured::new(input);
    let made: arbitrary::Result<Vec<Item>> = (0..ITEMS_MAX)
        .take_while(|_| !input.is_empty())
        .map_while(|_| (!recipe.is_empty()).then(|| item(&mut recipe)))
        .collect();
    if let Ok(items) = made {
        let seen = KeysSeen(items.len() as u64);
        assert_eq!(read_command(&encode_command(&items, seen)), Ok((items, seen)));
    }
}

fn read_entry(entry: &Bytes) {
    if let Ok(Some(command)) = command(entry) {
        batch(&command);
    }
}

fn batch(bytes: &Bytes) {
    let Ok((items, seen)) = read_command(bytes) else { return };
    // Unlike postcard's numbers, these have one encoding only.
    assert_eq!(encode_command(&items, seen), *bytes);
    for item in &items {
        if let Item::Message(message) = item {
            let body = message.body.as_ptr_range();
            let whole = bytes.as_ptr_range();
            assert!(
                message.body.is_empty() || (whole.start <= body.start && body.end <= whole.end),
                "a body was copied"
            );
        }
    }
}

fn item(recipe: &mut Unstructured<'_>) -> arbitrary::Result<Item> {
    Ok(match recipe.int_in_range(0..=4)? {
        0 => Item::Message(NewMessage {
            sender: user(recipe)?,
            key: MessageKey(<[u8; 16]>::arbitrary(recipe)?),
            recipient: user(recipe)?,
            kind: recipe.arbitrary()?,
            stamp: id(recipe)?,
            body: Bytes::from(<Vec<u8>>::arbitrary(recipe)?),
        }),
        1 => Item::Cursor { user: user(recipe)?, device: device(recipe)?, cursor: id(recipe)?, seen: id(recipe)? },
        2 => Item::Known { first: id(recipe)?, conflict: recipe.arbitrary()? },
        3 => Item::Trim { user: user(recipe)?, up_to: id(recipe)?, entries: recipe.arbitrary()? },
        _ => Item::Expire { user: user(recipe)?, device: device(recipe)?, before: id(recipe)? },
    })
}

fn id(recipe: &mut Unstructured<'_>) -> arbitrary::Result<EntryId> {
    Ok(EntryId(recipe.int_in_range(0..=ENTRY_ID_MAX.0)?))
}

fn user(recipe: &mut Unstructured<'_>) -> arbitrary::Result<UserId> {
    UserId::new(<&str>::arbitrary(recipe)?).map_err(|_| arbitrary::Error::IncorrectFormat)
}

fn device(recipe: &mut Unstructured<'_>) -> arbitrary::Result<DeviceId> {
    DeviceId::new(<&str>::arbitrary(recipe)?).map_err(|_| arbitrary::Error::IncorrectFormat)
}
