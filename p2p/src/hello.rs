//! The first bytes of every stream: the opener says what the stream is for, the other side says whether it takes it.
//! Owns this exchange and its encoding; not what follows, and not the queue a stream ends in.
//!
//! Hello: `version, class, kind`. Answer: `version, verdict`. Both have a fixed length, so nothing from the network is
//! ever allocated for. The deadline is that of the stream's negotiation.

use std::io;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::StreamKind;

/// Raised when the exchange below changes, or what follows it on a heartbeat's stream.
pub(crate) const VERSION: u8 = 1;

const CLASS_HEARTBEAT: u8 = 0;
const CLASS_CALLER: u8 = 1;

/// What a stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Heartbeat,
    Caller(StreamKind),
}

/// What the accepting side says to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accepted,
    /// Its queue of accepted streams, or the number of open ones, is at the limit.
    Busy,
    /// It takes no streams: shutting down, or this purpose is not for it to accept.
    NotAccepting,
    /// It speaks another version of this exchange.
    Version(u8),
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum HelloError {
    #[error("the stream broke during its hello: {0}")]
    Io(#[from] io::Error),
    #[error("the peer's hello or answer has an unknown value {0}")]
    Unknown(u8),
    #[error("the stream was refused: {0:?}")]
    Refused(Verdict),
}

impl Verdict {
    pub(crate) fn encode(self) -> [u8; 2] {
        let code = match self {
            Verdict::Accepted => 0,
            Verdict::Busy => 1,
            Verdict::NotAccepting => 2,
            Verdict::Version(_) => 3,
        };
        [VERSION, code]
    }

    pub(crate) fn decode([version, code]: [u8; 2]) -> Result<Verdict, HelloError> {
        match code {
            // The one answer that every version must be able to give and to read.
            3 => Ok(Verdict::Version(version)),
            _ if version != VERSION => Ok(Verdict::Version(version)),
            0 => Ok(Verdict::Accepted),
            1 => Ok(Verdict::Busy),
            2 => Ok(Verdict::NotAccepting),
            other => Err(HelloError::Unknown(other)),
        }
    }
}

/// The opener's half: returns once the other side has accepted.
pub(crate) async fn offer<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    purpose: Purpose,
) -> Result<(), HelloError> {
    let (class, kind) = match purpose {
        Purpose::Heartbeat => (CLASS_HEARTBEAT, 0),
        Purpose::Caller(StreamKind(kind)) => (CLASS_CALLER, kind),
    };
    stream.write_all(&[VERSION, class, kind]).await?;
    stream.flush().await?;
    let mut answer = [0; 2];
    stream.read_exact(&mut answer).await?;
    match Verdict::decode(answer)? {
        Verdict::Accepted => Ok(()),
        refusal => Err(HelloError::Refused(refusal)),
    }
}

/// The accepting side's first half: what does the opener want? A version we don't know is answered here.
pub(crate) async fn read<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> Result<Purpose, HelloError> {
    let mut hello = [0; 3];
    stream.read_exact(&mut hello).await?;
    match hello {
        [VERSION, CLASS_HEARTBEAT, _] => Ok(Purpose::Heartbeat),
        [VERSION, CLASS_CALLER, kind] => Ok(Purpose::Caller(StreamKind(kind))),
        [VERSION, class, _] => {
            answer(stream, Verdict::NotAccepting).await?;
            Err(HelloError::Unknown(class))
        }
        [other, _, _] => {
            answer(stream, Verdict::Version(other)).await?;
            Err(HelloError::Refused(Verdict::Version(other)))
        }
    }
}

/// The accepting side's second half.
pub(crate) async fn answer<S: AsyncWrite + Unpin>(stream: &mut S, verdict: Verdict) -> Result<(), HelloError> {
    stream.write_all(&verdict.encode()).await?;
    Ok(stream.flush().await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_util::compat::TokioAsyncReadCompatExt;

    async fn exchange(purpose: Purpose, verdict: Verdict) -> (Result<(), HelloError>, Purpose) {
        let (opener, acceptor) = tokio::io::duplex(64);
        let (mut opener, mut acceptor) = (opener.compat(), acceptor.compat());
        let accepting = async {
            let seen = read(&mut acceptor).await.unwrap();
            answer(&mut acceptor, verdict).await.unwrap();
            seen
        };
        tokio::join!(offer(&mut opener, purpose), accepting)
    }

    /// The bytes of this version, for as long as a node of it may call.
    #[tokio::test]
    async fn a_hello_is_what_it_always_was() {
        for (purpose, bytes) in [(Purpose::Heartbeat, [1, 0, 0]), (Purpose::Caller(StreamKind(7)), [1, 1, 7])] {
            let (opener, acceptor) = tokio::io::duplex(64);
            let (mut opener, mut acceptor) = (opener.compat(), acceptor.compat());
            let answering = async {
                let mut hello = [0; 3];
                acceptor.read_exact(&mut hello).await.unwrap();
                acceptor.write_all(&[1, 0]).await.unwrap();
                hello
            };
            let (offered, hello) = tokio::join!(offer(&mut opener, purpose), answering);
            offered.unwrap();
            assert_eq!(hello, bytes);
        }
        let answers =
            [Verdict::Accepted, Verdict::Busy, Verdict::NotAccepting, Verdict::Version(2)].map(Verdict::encode);
        assert_eq!(answers, [[1, 0], [1, 1], [1, 2], [1, 3]]);
    }

    #[tokio::test]
    async fn purpose_and_verdict_arrive() {
        for purpose in [Purpose::Heartbeat, Purpose::Caller(StreamKind(0)), Purpose::Caller(StreamKind(255))] {
            let (result, seen) = exchange(purpose, Verdict::Accepted).await;
            assert!(result.is_ok());
            assert_eq!(seen, purpose);
            let (result, _) = exchange(purpose, Verdict::Busy).await;
            assert!(matches!(result, Err(HelloError::Refused(Verdict::Busy))));
        }
    }

    #[test]
    fn no_answer_from_the_network_panics() {
        for version in 0..=255 {
            for code in 0..=255 {
                match Verdict::decode([version, code]) {
                    Ok(Verdict::Accepted) => assert_eq!((version, code), (VERSION, 0)),
                    Ok(Verdict::Version(said)) => assert_eq!(said, version),
                    Ok(_) | Err(_) => {}
                }
            }
        }
    }

    #[tokio::test]
    async fn another_version_is_told_ours() {
        let (opener, acceptor) = tokio::io::duplex(64);
        let (mut opener, mut acceptor) = (opener.compat(), acceptor.compat());
        opener.write_all(&[9, CLASS_CALLER, 1]).await.unwrap();
        assert!(matches!(read(&mut acceptor).await, Err(HelloError::Refused(Verdict::Version(9)))));
        let mut said = [0; 2];
        opener.read_exact(&mut said).await.unwrap();
        assert_eq!(said, [VERSION, 3]);
    }
}
