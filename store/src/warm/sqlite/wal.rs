//! Whether SQLite's log (the WAL) is whole. SQLite reads it up to the first frame whose checksum is wrong and ignores the rest
//! without a word, which is right after a power cut and hides damage at any other time. Owns the reading of frames as
//! <https://www.sqlite.org/fileformat2.html#walformat> has them; knows nothing of pages.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::Path;

const HEADER_LEN: usize = 32;
const FRAME_HEAD_LEN: usize = 24;
/// The first word; its last bit says in which order words are summed.
const MAGIC: u32 = 0x377f_0682;
/// SQLite's own bounds.
const PAGE_LEN_MIN: u32 = 512;
const PAGE_LEN_MAX: u32 = 65_536;

/// Where the two words of salt stand in the head.
pub(super) const SALT_AT: u64 = 16;

/// What is in the file.
pub(super) enum Walked {
    /// It isn't there, or nothing is in it.
    Empty,
    /// Its head can't be read, so everything in it would be ignored.
    BadHead(&'static str),
    /// It has so many whole frames of this round; what is wrong with the next, if it looks like one.
    Frames { salt: u64, whole: u64, broken: Option<String> },
}

/// What is wrong with the file, if anything is. One that isn't there or is empty is fine.
pub(super) fn check(path: &Path) -> std::io::Result<Option<String>> {
    Ok(match walk(path)? {
        Walked::Empty => None,
        Walked::BadHead(why) => Some(why.to_owned()),
        Walked::Frames { broken, .. } => broken,
    })
}

/// Reads it to the end of what counts.
pub(super) fn walk(path: &Path) -> std::io::Result<Walked> {
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Walked::Empty),
        file => file?,
    };
    let len = file.metadata()?.len();
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut header = [0; HEADER_LEN];
    // A crash while it was made, before anything was in it; a file of zeros is one that was given space and no more.
    if !read(&mut reader, &mut header)? || header == [0; HEADER_LEN] {
        return Ok(Walked::Empty);
    }
    let word = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let (magic, page_len, salt) = (word(0), word(8), [word(16), word(20)]);
    if magic & !1 != MAGIC || !(PAGE_LEN_MIN..=PAGE_LEN_MAX).contains(&page_len) {
        return Ok(Walked::BadHead("its head is not one of SQLite's"));
    }
    let big_endian = magic & 1 == 1;
    let mut sum = add([0, 0], &header[..24], big_endian);
    if sum != [word(24), word(28)] {
        return Ok(Walked::BadHead("the checksum of its head is wrong, so everything in it would be ignored"));
    }
    let mut frame = vec![0; FRAME_HEAD_LEN + page_len as usize];
    let (mut whole, frames) = (0, (len - HEADER_LEN as u64) / frame.len() as u64);
    let salts = u64::from(salt[0]) << 32 | u64::from(salt[1]);
    let walked = |whole, broken| Ok(Walked::Frames { salt: salts, whole, broken });
    while read(&mut reader, &mut frame)? {
        let word = |at: usize| u32::from_be_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]]);
        if [word(8), word(12)] != salt {
            // Of an earlier round through the file: what counts has ended. A damaged salt would look the same, so the frame
            // must not fit in otherwise.
            let mut fits = frame.clone();
            fits[8..12].copy_from_slice(&salt[0].to_be_bytes());
            fits[12..16].copy_from_slice(&salt[1].to_be_bytes());
            let continued = add(add(sum, &fits[..8], big_endian), &fits[FRAME_HEAD_LEN..], big_endian);
            let is_damaged = continued == [word(16), word(20)];
            return walked(whole, is_damaged.then(|| broken(whole + 1, frames)));
        }
        sum = add(add(sum, &frame[..8], big_endian), &frame[FRAME_HEAD_LEN..], big_endian);
        if sum != [word(16), word(20)] {
            return walked(whole, Some(broken(whole + 1, frames)));
        }
        whole += 1;
    }
    walked(whole, None)
}

fn broken(number: u64, frames: u64) -> String {
    format!(
        "frame {number} of {frames} is damaged, or is where a power cut broke off a checkpoint that had not returned; what \
         follows it is ignored"
    )
}

/// Fills the buffer; false if the file ends before.
fn read(reader: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<bool> {
    match reader.read_exact(buffer) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        other => other.map(|()| true),
    }
}

/// SQLite's running checksum over pairs of words.
fn add([mut first, mut second]: [u32; 2], bytes: &[u8], big_endian: bool) -> [u32; 2] {
    let word = |bytes: &[u8]| {
        let word = [bytes[0], bytes[1], bytes[2], bytes[3]];
        if big_endian { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) }
    };
    for pair in bytes.chunks_exact(8) {
        first = first.wrapping_add(word(pair)).wrapping_add(second);
        second = second.wrapping_add(word(&pair[4..])).wrapping_add(first);
    }
    [first, second]
}
