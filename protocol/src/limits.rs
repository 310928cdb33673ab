//! Every limit of the wire and of a message, each a named constant with its reason (A16, B5). Limits of one node's memory
//! or disk live beside what they bound.

/// Bytes of one message's body (A16): a text, a receipt, a small picture; media go by reference (A17).
pub const BODY_LEN_MAX: usize = 64 * 1024;

/// Bytes around a body in a frame: names, key, flags (A16).
pub const ENVELOPE_LEN_MAX: usize = 4 * 1024;

/// Bytes of a user's name (A16).
pub const USER_LEN_MAX: usize = 256;

/// Bytes of a device's name: a UUID with a prefix, or a host name.
pub const DEVICE_LEN_MAX: usize = 64;

/// Bytes of a login token: a real JWT with a certificate fingerprint in it has some 400 (protocol-v1.md asks for 4 KiB too).
pub const TOKEN_LEN_MAX: usize = 4 * 1024;

/// Bytes of a reason or an address in a frame: a sentence a person reads.
pub const REASON_LEN_MAX: usize = 512;

/// Other nodes' addresses in one GOAWAY: more than a home has machines.
pub const ADDRESSES_MAX: usize = 32;

/// Messages in one Raft entry (A16): large enough that one fsync is shared widely, small enough to apply in a few ms.
pub const BATCH_MESSAGES_MAX: usize = 1_000;

/// Payload bytes in one Raft entry (A16).
pub const BATCH_BYTES_MAX: usize = 1024 * 1024;

/// Bytes after the length field of any frame: the largest body and its envelope.
pub const FRAME_LEN_MAX: usize = BODY_LEN_MAX + ENVELOPE_LEN_MAX;

/// Bytes after the length field of a frame before login: a token and a device name. A stranger can make us hold no more.
pub const FRAME_LEN_MAX_BEFORE_LOGIN: usize = TOKEN_LEN_MAX + 512;

/// Unacked sends one session may have on their way. A client that pipelines more must wait: it bounds what an edge holds.
pub const SENDS_IN_FLIGHT_MAX: usize = 1_024;

/// Credit a client can hold: entries it is ready to receive. More than this can't be in flight anyway.
pub const CREDIT_MAX: u32 = 65_536;
