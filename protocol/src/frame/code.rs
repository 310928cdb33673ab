//! Why a frame or a connection was refused: numbers for programs, names for people (docs/protocol.md, Codes).

use std::fmt;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal, $retry:literal;)*) => {
        /// A refusal's or an error's code. Numbers are never reused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Code { $($(#[$doc])* $name,)* /** A code this version does not know. */ Other(u16) }

        impl Code {
            /// Every code this version knows.
            pub const ALL: &'static [Code] = &[$(Code::$name),*];

            /// The number on the wire.
            #[must_use]
            pub fn number(self) -> u16 {
                match self { $(Code::$name => $number,)* Code::Other(number) => number }
            }

            /// The code of a number.
            #[must_use]
            pub fn from_number(number: u16) -> Self {
                match number { $($number => Code::$name,)* other => Code::Other(other) }
            }

            /// The name in the document, in CLI output and in metrics.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Code::$name => $text,)* Code::Other(_) => "other" }
            }

            /// Whether the same request may succeed later, unchanged. Unknown codes are taken as final.
            #[must_use]
            pub fn is_retryable(self) -> bool {
                match self { $(Code::$name => $retry,)* Code::Other(_) => false }
            }
        }
    };
}

codes! {
    /// Bytes that are no frame, or a frame where it has no place.
    Malformed = 1, "malformed", false;
    /// No protocol version in common.
    UnsupportedVersion = 2, "unsupported_version", false;
    /// The token was refused. Why goes to the node's log, not to the stranger.
    AuthFailed = 3, "auth_failed", false;
    /// Something other than HELLO before login.
    NotLoggedIn = 4, "not_logged_in", false;
    /// More unanswered sends than WELCOME allows.
    TooManyInFlight = 5, "too_many_in_flight", false;
    /// A deadline passed: login, idle, or a client that takes no bytes.
    Timeout = 6, "timeout", true;
    /// The node is going down or full of connections; another one serves.
    ShuttingDown = 7, "shutting_down", true;
    /// The node failed; nothing is known about what was unanswered.
    Internal = 8, "internal", true;
    /// The key was used before, for another recipient, kind or body.
    KeyConflict = 20, "key_conflict", false;
    /// An earlier send to the same recipient was refused; that one has to be sent again first (A6).
    Behind = 21, "behind", true;
    /// Too many messages; `retry_after_ms` says when to go on (B4).
    RateLimited = 22, "rate_limited", true;
    /// The recipient's shard has more work than it can take.
    Overloaded = 23, "overloaded", true;
    /// The recipient's shard has no leader that can commit now. The message may or may not be committed.
    Unavailable = 24, "unavailable", true;
    /// The recipient's inbox is full (A9).
    InboxFull = 25, "inbox_full", true;
    /// A durability, or another choice, that this version does not have.
    Unsupported = 26, "unsupported", false;
    /// A body over 64 KiB.
    BodyTooLong = 27, "body_too_long", false;
    /// The disks that hold the recipient's inbox are full. The message may or may not be committed.
    DiskFull = 28, "disk_full", true;
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Other(number) => write!(f, "code {number}"),
            known => f.write_str(known.name()),
        }
    }
}
