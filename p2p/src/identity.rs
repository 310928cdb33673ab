//! Who this node is: its ed25519 key pair and the file that keeps it. Owns the file's format and rights; who may join
//! is decided elsewhere.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use libp2p::identity::{Keypair, ed25519};

use crate::PeerKey;

/// First bytes of an identity file; the last one is the format's version.
const MAGIC_V1: [u8; 8] = *b"IRISKEY\x01";
/// Secret and public half of an ed25519 key, as RFC 8032 writes them one after the other.
const KEYPAIR_LEN: usize = 64;
const FILE_LEN: usize = MAGIC_V1.len() + KEYPAIR_LEN;

/// A node's key pair. Losing the file means being a new node; leaking it means that another machine can be this node.
#[derive(Clone)]
pub struct Identity(Keypair);

/// Why a node has no identity to start with.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file could not be read or written.
    #[error("cannot {action} the identity file {path}: {source}; check the data folder's owner and free space")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Other users of the machine may read the secret.
    #[error(
        "{path} may be read by others (mode {mode:o}); run `chmod 600 {path}`, and make a new identity if in doubt"
    )]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Written by a newer Iris.
    #[error("{path} has identity format {found}, this Iris reads format 1; start the version that wrote it")]
    Version {
        /// The file.
        path: PathBuf,
        /// The version found.
        found: u8,
    },
    /// Not an identity file, cut short, or damaged.
    #[error("{path} is not a valid identity file; restore it from a backup, or move it away to join as a new node")]
    Damaged {
        /// The file.
        path: PathBuf,
    },
}

impl Identity {
    /// A new identity that is kept nowhere, for tests and short-lived tools.
    pub fn ephemeral() -> Identity {
        Identity(Keypair::generate_ed25519())
    }

    /// Reads the identity at `path`, or makes one there (mode 0600, durable before it is returned).
    pub fn load_or_create(path: &Path) -> Result<Identity, IdentityError> {
        match File::open(path) {
            Ok(file) => load(path, file),
            Err(source) if source.kind() == io::ErrorKind::NotFound => create(path),
            Err(source) => Err(IdentityError::Io { action: "open", path: path.to_owned(), source }),
        }
    }

    /// The public name that belongs to this identity.
    pub fn peer_id(&self) -> PeerKey {
        PeerKey::from_id(self.0.public().to_peer_id())
    }

    pub(crate) fn keypair(&self) -> &Keypair {
        &self.0
    }
}

impl std::fmt::Debug for Identity {
    // Never the secret, wherever the value is logged.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.peer_id())
    }
}

fn load(path: &Path, file: File) -> Result<Identity, IdentityError> {
    refuse_if_open_to_others(path, &file)?;
    let mut bytes = Vec::with_capacity(FILE_LEN + 1);
    // One byte more than the format has, so that a longer file shows as damaged.
    file.take(FILE_LEN as u64 + 1).read_to_end(&mut bytes).map_err(|source| IdentityError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    let damaged = || IdentityError::Damaged { path: path.to_owned() };
    let (magic, key) = bytes.split_at_checked(MAGIC_V1.len()).ok_or_else(damaged)?;
    match magic {
        [name @ .., version] if *name == MAGIC_V1[..7] => {
            if *version != MAGIC_V1[7] {
                return Err(IdentityError::Version { path: path.to_owned(), found: *version });
            }
        }
        _ => return Err(damaged()),
    }
    let mut key: [u8; KEYPAIR_LEN] = key.try_into().map_err(|_| damaged())?;
    // Checks that the public half belongs to the secret one, so a flipped bit does not make a silent stranger.
    let keypair = ed25519::Keypair::try_from_bytes(&mut key).map_err(|_| damaged())?;
    Ok(Identity(keypair.into()))
}

fn create(path: &Path) -> Result<Identity, IdentityError> {
    let keypair = ed25519::Keypair::generate();
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut tmp = path.as_os_str().to_owned();
    tmp.push(".tmp");
    let tmp = PathBuf::from(tmp);
    write_durably(path, parent, &tmp, &keypair.to_bytes()).map_err(|source| {
        let _ = fs::remove_file(&tmp);
        IdentityError::Io { action: "create", path: path.to_owned(), source }
    })?;
    Ok(Identity(keypair.into()))
}

fn write_durably(path: &Path, parent: &Path, tmp: &Path, key: &[u8; KEYPAIR_LEN]) -> io::Result<()> {
    // Left over from a crash in the middle; created anew below so that its mode is ours.
    match fs::remove_file(tmp) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = private_new_file(tmp)?;
    file.write_all(&MAGIC_V1)?;
    file.write_all(key)?;
    file.sync_all()?;
    drop(file);
    fs::rename(tmp, path)?;
    File::open(parent)?.sync_all()
}

#[cfg(unix)]
fn private_new_file(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

#[cfg(not(unix))]
fn private_new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).open(path)
}

#[cfg(unix)]
fn refuse_if_open_to_others(path: &Path, file: &File) -> Result<(), IdentityError> {
    use std::os::unix::fs::PermissionsExt;
    let meta =
        file.metadata().map_err(|source| IdentityError::Io { action: "inspect", path: path.to_owned(), source })?;
    match meta.permissions().mode() & 0o777 {
        mode if mode & 0o077 != 0 => Err(IdentityError::TooOpen { path: path.to_owned(), mode }),
        _ => Ok(()),
    }
}

#[cfg(not(unix))]
fn refuse_if_open_to_others(_: &Path, _: &File) -> Result<(), IdentityError> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn created_once_then_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        let first = Identity::load_or_create(&path).unwrap();
        let second = Identity::load_or_create(&path).unwrap();
        assert_eq!(first.peer_id(), second.peer_id());
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["node.key"], "no temporary file stays behind");
    }

    #[cfg(unix)]
    #[test]
    fn a_file_open_to_others_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        Identity::load_or_create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        for mode in [0o640, 0o604, 0o660] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = Identity::load_or_create(&path).unwrap_err();
            assert!(matches!(error, IdentityError::TooOpen { .. }), "{mode:o}: {error}");
        }
    }

    #[test]
    fn damage_is_told_apart_from_a_newer_version() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        Identity::load_or_create(&path).unwrap();
        let good = fs::read(&path).unwrap();
        let newer: Vec<u8> = [&good[..7], &[2], &good[8..]].concat();
        let mut flipped = good.clone();
        flipped[FILE_LEN - 1] ^= 1;
        let longer = [&good[..], b"x"].concat();
        for (bytes, is_version) in
            [(newer, true), (flipped, false), (longer, false), (good[..70].to_vec(), false), (vec![], false)]
        {
            fs::write(&path, bytes).unwrap();
            match Identity::load_or_create(&path).unwrap_err() {
                IdentityError::Version { found: 2, .. } => assert!(is_version),
                IdentityError::Damaged { .. } => assert!(!is_version),
                other => panic!("{other}"),
            }
        }
    }
}
