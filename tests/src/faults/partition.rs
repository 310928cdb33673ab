//! Kinds of partitions of a bed's network, as sets of one-way cuts.

use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;

use super::bed::Bed;
use crate::wait::let_pass;

/// How a network is broken around one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It hears nobody and nobody hears it.
    Symmetric,
    /// It hears the others, they don't hear it.
    Mute,
    /// They hear it, it does not hear them.
    Deaf,
    /// It and one other don't hear each other; both hear the third.
    NonTransitive,
    /// It is cut off and not, again and again.
    Flapping,
}

impl Kind {
    /// All of them, in the order a row goes through them.
    pub const ALL: [Self; 5] = [Self::Symmetric, Self::Mute, Self::NonTransitive, Self::Deaf, Self::Flapping];

    /// Whether the node is certainly cut off from a majority while it lasts.
    #[must_use]
    pub fn is_minority(self) -> bool {
        matches!(self, Self::Symmetric | Self::Mute | Self::Deaf)
    }

    /// Cuts. A flapping one is over when this returns, save for its last cut.
    ///
    /// # Errors
    /// nft's.
    pub async fn begin(self, bed: &Bed, node: usize, rng: &mut StdRng) -> anyhow::Result<()> {
        let others = || (0..bed.cluster.len()).filter(move |other| *other != node);
        match self {
            Self::Symmetric => bed.isolate(node),
            Self::Mute => others().try_for_each(|other| bed.cut(node, other)),
            Self::Deaf => others().try_for_each(|other| bed.cut(other, node)),
            Self::NonTransitive => {
                let other = others().nth(rng.random_range(0..bed.cluster.len() - 1)).unwrap_or(node);
                bed.cut_both(node, other)
            }
            Self::Flapping => {
                for _ in 0..rng.random_range(4..10) {
                    bed.isolate(node)?;
                    let_pass(Duration::from_millis(rng.random_range(100..1_500))).await;
                    bed.end_cuts()?;
                    let_pass(Duration::from_millis(rng.random_range(50..800))).await;
                }
                bed.isolate(node)
            }
        }
    }
}
