//! A whole session of `iris/2` against a scripted router. Must hold, whatever the client says, however it is cut, and whatever
//! the router does meanwhile: the session ends, and says nothing but frames; WELCOME comes first and ERROR last; each SEND is answered at most
//! once, each PING with its own nonce; no more entries come than there was credit for, in order.
//!
//! An input: how the client connects (a byte), the length of the script (a byte), the script, what the client says.

mod client;
mod world;

use std::sync::Arc;
use std::time::Duration;

use iris_appliance::edge::EdgeOptions;
use iris_appliance::edge::testing::Node;
use iris_appliance::surroundings::{Clock, RandomSource, Surroundings};

use super::quiet;
use client::Client;
use world::World;

/// Steps of a script: more would only repeat.
const STEPS_MAX: usize = 64;

/// The target.
pub fn session(input: &[u8]) {
    let Some((&[how, steps], rest)) = input.split_first_chunk::<2>() else { return };
    let (script, says) = rest.split_at(usize::from(steps).min(rest.len()).min(STEPS_MAX));
    let (logs_in, pipe, limited) = (how & 1 != 0, 16 << (how >> 1 & 0x0f), how & 0x20 != 0);
    quiet::run(async {
        let world = World::default();
        let node = Node::new(world::admit, world.clone(), options(limited), surroundings());
        let (ours, theirs) = tokio::io::duplex(pipe);
        let mut client = Client::new(ours, says, logs_in);
        let acting = async {
            for step in script {
                client.step(*step, &world, || node.drain()).await;
            }
            client.finish().await
        };
        let (heard, ()) = tokio::join!(acting, node.serve(theirs));
        heard.check();
    });
}

fn options(limited: bool) -> EdgeOptions {
    EdgeOptions {
        messages_per_s: u32::from(limited),
        messages_burst: u32::from(limited),
        connections_max: 1,
        handshake: Duration::from_secs(10),
        login: Duration::from_secs(10),
        idle: Duration::from_secs(300),
        write: Duration::from_secs(30),
        drain: Duration::from_secs(30),
    }
}

/// The same in every run: an input that failed fails again.
struct Always;

impl Clock for Always {
    fn unix_ms(&self) -> u64 {
        1_795_000_000_000
    }
}

impl RandomSource for Always {
    fn next_u64(&self) -> u64 {
        42
    }
}

fn surroundings() -> Surroundings {
    Surroundings { clock: Arc::new(Always), random: Arc::new(Always), ..Surroundings::system() }
}
