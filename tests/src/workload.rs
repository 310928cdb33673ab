//! Who sends what to whom: plans made from a seed. Pure; sending is `traffic`'s.

use bytes::Bytes;
use iris_client::UserId;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use crate::corpus;

/// One message to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// To whom.
    pub recipient: UserId,
    /// What.
    pub body: Bytes,
}

/// A sender and all its messages, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Errand {
    /// Who sends.
    pub sender: UserId,
    /// What, in order.
    pub messages: Vec<Message>,
}

/// The users of a test: `prefix0`, `prefix1` and so on.
///
/// # Errors
/// The prefix is no part of a name.
pub fn users(prefix: &str, count: usize) -> anyhow::Result<Vec<UserId>> {
    (0..count).map(|number| Ok(UserId::new(format!("{prefix}{number}"))?)).collect()
}

/// Deals the first `count` messages of the corpus out to the users: everybody sends, to a few correspondents each, so that
/// every pair has an order that can break.
#[must_use]
pub fn correspondence(rng: &mut StdRng, users: &[UserId], count: usize) -> Vec<Errand> {
    let mut bodies: Vec<Bytes> = corpus::messages().iter().cycle().take(count).cloned().collect();
    bodies.shuffle(rng);
    let friends: Vec<Vec<UserId>> = users.iter().map(|user| correspondents(rng, users, user)).collect();
    let mut errands: Vec<Errand> =
        users.iter().map(|sender| Errand { sender: sender.clone(), messages: Vec::new() }).collect();
    for (at, body) in bodies.into_iter().enumerate() {
        let who = at % users.len();
        let recipient = friends[who][rng.random_range(0..friends[who].len())].clone();
        errands[who].messages.push(Message { recipient, body });
    }
    errands
}

/// Correspondents of one user: up to four, itself among them now and then.
fn correspondents(rng: &mut StdRng, users: &[UserId], _user: &UserId) -> Vec<UserId> {
    (0..4).map(|_| users[rng.random_range(0..users.len())].clone()).collect()
}

/// Messages without end to random users: the corpus from a random place on.
pub fn chatter(mut rng: StdRng, users: Vec<UserId>) -> impl Iterator<Item = Message> + Send + 'static {
    let start = rng.random_range(0..corpus::CORPUS_LEN);
    corpus::messages()
        .iter()
        .cycle()
        .skip(start)
        .map(move |body| Message { recipient: users[rng.random_range(0..users.len())].clone(), body: body.clone() })
}

/// Messages of `len` incompressible bytes without end to random users: for tests that need bytes rather than texts.
pub fn bulk(mut rng: StdRng, users: Vec<UserId>, len: usize) -> impl Iterator<Item = Message> + Send + 'static {
    std::iter::repeat_with(move || {
        let mut body = vec![0; len];
        rng.fill(&mut body[..]);
        Message { recipient: users[rng.random_range(0..users.len())].clone(), body: body.into() }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::rng;

    #[test]
    fn everything_is_sent_once_by_everybody_and_replays() {
        let users = users("u", 100).unwrap();
        let plan = correspondence(&mut rng(1, "plan"), &users, corpus::CORPUS_LEN);
        let mut sent: Vec<&Bytes> =
            plan.iter().flat_map(|errand| errand.messages.iter().map(|message| &message.body)).collect();
        let mut all: Vec<&Bytes> = corpus::messages().iter().collect();
        sent.sort();
        all.sort();
        assert_eq!(sent, all);
        assert!(plan.iter().all(|errand| errand.messages.len() >= 55));
        assert_eq!(plan, correspondence(&mut rng(1, "plan"), &users, corpus::CORPUS_LEN));
        assert_ne!(plan, correspondence(&mut rng(2, "plan"), &users, corpus::CORPUS_LEN));
    }

    #[test]
    fn chatter_replays() {
        let users = users("u", 5).unwrap();
        let some = |seed| chatter(rng(seed, "chatter"), users.clone()).take(50).collect::<Vec<_>>();
        assert_eq!(some(3), some(3));
        assert_ne!(some(3), some(4));
    }
}
