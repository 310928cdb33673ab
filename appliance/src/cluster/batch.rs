//! What goes into one Raft entry: requests that wait, taken whole and in order, their items stamped, and several moves of one
//! device's cursor made one. Knows which outcome answers which request. Pure but for the channel it takes from.

use std::collections::HashMap;

use iris_protocol::limits::{BATCH_BYTES_MAX, BATCH_MESSAGES_MAX};
use iris_protocol::{DeviceId, EntryId, UserId};
use iris_store::{Item, Outcome};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Duration, Instant};

use super::refused::Refused;

/// A request that waited this long is dropped: its edge has given up on it and may have had it done elsewhere.
const REQUEST_AGE_MAX: Duration = Duration::from_secs(5);

/// Where a request's outcomes go.
type Answer = oneshot::Sender<Result<Vec<Outcome>, Refused>>;

/// What an edge wants appended, in order.
pub struct AppendRequest {
    pub(super) items: Vec<Item>,
    pub(super) since: Instant,
    pub(super) answer: Answer,
}

/// The items of one entry.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) items: Vec<Item>,
    pub(super) waiting: Waiting,
}

/// Who waits for the outcomes of an entry.
#[derive(Default)]
pub(super) struct Waiting {
    /// Requests that share the entry, and how many items each asked for.
    shares: Vec<(usize, Answer)>,
    /// The place of each asked item among the entry's; none if they are the same.
    places: Option<Vec<usize>>,
}

impl Batch {
    /// Takes `first` and everything behind it that fits one entry and isn't refused. What does not fit begins the next.
    pub(super) fn gather(
        first: AppendRequest,
        requests: &mut mpsc::Receiver<AppendRequest>,
        left_over: &mut Option<AppendRequest>,
        refuse: impl Fn(&[Item]) -> Option<Refused>,
        mut stamp: impl FnMut() -> EntryId,
    ) -> Self {
        let mut items: Vec<Item> = Vec::with_capacity(first.items.len());
        let mut shares = Vec::new();
        let mut bytes = 0;
        let mut taken = Some(first);
        while let Some(request) = taken {
            let more = request.items.iter().map(item_len).sum::<usize>();
            if !items.is_empty()
                && (items.len() + request.items.len() > BATCH_MESSAGES_MAX || bytes + more > BATCH_BYTES_MAX)
            {
                *left_over = Some(request);
                break;
            }
            if request.since.elapsed() < REQUEST_AGE_MAX && !request.answer.is_closed() {
                bytes += more;
                shares.push((request.items.len(), request.answer));
                items.extend(request.items);
            }
            taken = std::iter::from_fn(|| requests.try_recv().ok()).find_map(|request| match refuse(&request.items) {
                None => Some(request),
                Some(refused) => {
                    let _ = request.answer.send(Err(refused));
                    None
                }
            });
        }
        let places = merge_cursors(&mut items);
        for item in &mut items {
            match item {
                Item::Message(message) => message.stamp = stamp(),
                Item::Cursor { seen, .. } => *seen = stamp(),
                Item::Known { .. } | Item::Trim { .. } | Item::Expire { .. } => {}
            }
        }
        Self { items, waiting: Waiting { shares, places } }
    }
}

impl Waiting {
    /// Gives every request its outcomes, or the reason why it has none.
    pub(super) fn answer(self, result: Result<Vec<Outcome>, Refused>) {
        match result {
            Ok(outcomes) => {
                let asked: Vec<Outcome> = match self.places {
                    Some(places) => places.into_iter().filter_map(|at| outcomes.get(at).copied()).collect(),
                    None => outcomes,
                };
                let mut asked = asked.into_iter();
                for (len, answer) in self.shares {
                    // An edge that has gone away will ask again, and find its keys.
                    let _ = answer.send(Ok(asked.by_ref().take(len).collect()));
                }
            }
            Err(refused) => {
                for (_, answer) in self.shares {
                    let _ = answer.send(Err(refused.clone()));
                }
            }
        }
    }
}

/// Makes several moves of one device's cursor the last of them, at the furthest they say: acks of many sessions cost one item
/// and one row. Returns the places of the old items among the new, unless nothing changed.
fn merge_cursors(items: &mut Vec<Item>) -> Option<Vec<usize>> {
    let is_cursor = |item: &&Item| matches!(item, Item::Cursor { .. });
    items.iter().filter(is_cursor).nth(1)?;
    let mut last: HashMap<(UserId, DeviceId), (usize, EntryId)> = HashMap::new();
    let (mut into, mut merged) = ((0..items.len()).collect::<Vec<_>>(), false);
    for (at, item) in items.iter().enumerate().rev() {
        if let Item::Cursor { user, device, cursor, .. } = item {
            let (kept, furthest) = last.entry((user.clone(), device.clone())).or_insert((at, *cursor));
            *furthest = (*cursor).max(*furthest);
            into[at] = *kept;
            merged |= *kept != at;
        }
    }
    if !merged {
        return None;
    }
    for (at, furthest) in last.into_values() {
        if let Some(Item::Cursor { cursor, .. }) = items.get_mut(at) {
            *cursor = furthest;
        }
    }
    let (mut places, mut len) = (vec![0; items.len()], 0);
    for (at, place) in places.iter_mut().enumerate() {
        if into[at] == at {
            *place = len;
            len += 1;
        }
    }
    let old = std::mem::take(items);
    items.extend(old.into_iter().enumerate().filter(|(at, _)| into[*at] == *at).map(|(_, item)| item));
    Some(into.into_iter().map(|kept| places[kept]).collect())
}

/// Bytes an item adds to an entry.
#[must_use]
pub fn item_len(item: &Item) -> usize {
    match item {
        Item::Message(message) => {
            message.body.len() + message.sender.as_bytes().len() + message.recipient.as_bytes().len() + 40
        }
        Item::Cursor { user, device, .. } | Item::Expire { user, device, .. } => {
            user.as_bytes().len() + device.as_bytes().len() + 24
        }
        Item::Known { .. } => 10,
        Item::Trim { user, .. } => user.as_bytes().len() + 16,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use iris_protocol::MessageKey;
    use iris_store::NewMessage;

    fn message(n: u8) -> Item {
        let user = UserId::new("u").unwrap();
        let body = Bytes::new();
        let key = MessageKey([n; 16]);
        Item::Message(NewMessage { sender: user.clone(), key, recipient: user, kind: 0, stamp: EntryId::ZERO, body })
    }

    fn cursor(device: &str, cursor: u64, seen: u64) -> Item {
        let (user, device) = (UserId::new("u").unwrap(), DeviceId::new(device).unwrap());
        Item::Cursor { user, device, cursor: EntryId(cursor), seen: EntryId(seen) }
    }

    type Answered = oneshot::Receiver<Result<Vec<Outcome>, Refused>>;

    fn request(items: Vec<Item>) -> (AppendRequest, Answered) {
        let (answer, answered) = oneshot::channel();
        (AppendRequest { items, since: Instant::now(), answer }, answered)
    }

    fn gather(requests: Vec<AppendRequest>) -> Batch {
        let (sender, mut receiver) = mpsc::channel(8);
        requests.into_iter().for_each(|request| sender.try_send(request).unwrap());
        let first = receiver.try_recv().unwrap();
        let mut stamps = 100..;
        Batch::gather(first, &mut receiver, &mut None, |_| None, || EntryId(stamps.next().unwrap()))
    }

    #[tokio::test]
    async fn many_acks_of_one_device_are_one_item_and_each_is_answered() {
        let (one, mut first) = request(vec![cursor("phone", 7, 0), message(1), cursor("desk", 3, 0)]);
        let (two, mut second) = request(vec![cursor("phone", 5, 0), message(2)]);
        let (three, mut third) = request(vec![cursor("phone", 6, 0)]);
        let batch = gather(vec![one, two, three]);
        let shapes: Vec<_> = batch.items.iter().map(|item| matches!(item, Item::Message(_))).collect();
        assert_eq!(shapes, [true, false, true, false]);
        assert_eq!(batch.items[1], cursor("desk", 3, 101));
        assert_eq!(batch.items[3], cursor("phone", 7, 103), "the furthest of all, in the place of the last");
        let outcome = |id| Outcome::Appended(EntryId(id));
        let moved = |id| Outcome::CursorMoved(EntryId(id));
        batch.waiting.answer(Ok(vec![outcome(1), moved(3), outcome(2), moved(7)]));
        assert_eq!(first.try_recv().unwrap().unwrap(), [moved(7), outcome(1), moved(3)]);
        assert_eq!(second.try_recv().unwrap().unwrap(), [moved(7), outcome(2)]);
        assert_eq!(third.try_recv().unwrap().unwrap(), [moved(7)]);
    }

    #[tokio::test]
    async fn what_is_not_merged_keeps_its_place() {
        let (one, mut first) = request(vec![cursor("phone", 7, 0), cursor("desk", 3, 0), message(1)]);
        let batch = gather(vec![one]);
        assert!(batch.waiting.places.is_none() && batch.items.len() == 3);
        let outcomes = vec![Outcome::KeyConflict, Outcome::Done, Outcome::Appended(EntryId(1))];
        batch.waiting.answer(Ok(outcomes.clone()));
        assert_eq!(first.try_recv().unwrap().unwrap(), outcomes);
    }

    #[tokio::test]
    async fn what_is_refused_does_not_join_those_that_are_not() {
        let (sender, mut receiver) = mpsc::channel(8);
        let (one, _first) = request(vec![cursor("phone", 7, 0)]);
        let (refused, mut second) = request(vec![message(1)]);
        let (three, _third) = request(vec![cursor("desk", 3, 0)]);
        sender.try_send(refused).unwrap();
        sender.try_send(three).unwrap();
        let is_message = |item: &Item| matches!(item, Item::Message(_));
        let refuse = |items: &[Item]| items.iter().any(is_message).then_some(Refused::DiskFull);
        let batch = Batch::gather(one, &mut receiver, &mut None, refuse, || EntryId(1));
        assert_eq!(batch.items.len(), 2, "both cursors");
        assert!(matches!(second.try_recv().unwrap(), Err(Refused::DiskFull)));
    }

    #[tokio::test]
    async fn what_does_not_fit_is_left_whole_and_the_late_are_dropped() {
        let (sender, mut receiver) = mpsc::channel(8);
        let (one, _first) = request((0..600).map(|_| message(1)).collect());
        let (gone, late) = request(vec![message(2)]);
        drop(late);
        let (two, _second) = request((0..600).map(|_| message(3)).collect());
        sender.try_send(gone).unwrap();
        sender.try_send(two).unwrap();
        let mut left_over = None;
        let batch = Batch::gather(one, &mut receiver, &mut left_over, |_| None, || EntryId(1));
        assert_eq!((batch.items.len(), left_over.unwrap().items.len()), (600, 600));
    }
}
