//! The two ways bytes travel: TCP with noise and yamux, and QUIC. Owns their limits; who may use them is the gate's.

use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{Boxed, OrTransport, Transport, timeout::TransportTimeout};
use libp2p::core::upgrade;
use libp2p::identity::Keypair;
use libp2p::{PeerId, noise, quic, tcp, yamux};

use crate::config::{LinkConfig, MUXER_STREAMS_MAX};
use crate::muxer::{Ending, OnClose};

/// QUIC's own idle limit stands behind the heartbeat, which is the one that decides.
const QUIC_IDLE_SLACK_MS: u32 = 1_000;

pub(crate) fn build(keypair: &Keypair, config: &LinkConfig) -> Result<Boxed<(PeerId, StreamMuxerBox)>, noise::Error> {
    let mut muxer = yamux::Config::default();
    muxer.set_max_num_streams(MUXER_STREAMS_MAX);
    let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
        .upgrade(upgrade::Version::V1Lazy)
        .authenticate(noise::Config::new(keypair)?)
        .multiplex(muxer)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(Ending::new(muxer, OnClose::Drop))));

    let mut quic = quic::Config::new(keypair);
    quic.handshake_timeout = config.dial_timeout;
    let silent_ms = u32::try_from(config.silent_after.as_millis()).unwrap_or(u32::MAX);
    quic.max_idle_timeout = silent_ms.saturating_add(QUIC_IDLE_SLACK_MS);
    quic.keep_alive_interval = config.silent_after / 2;
    quic.max_concurrent_stream_limit = u32::try_from(MUXER_STREAMS_MAX).unwrap_or(u32::MAX);
    let quic = quic::tokio::Transport::new(quic)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(Ending::new(muxer, OnClose::Announce))));

    let either = OrTransport::new(quic, tcp).map(|either, _| either.into_inner());
    Ok(TransportTimeout::new(either, config.dial_timeout).boxed())
}
