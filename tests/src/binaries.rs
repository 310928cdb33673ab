//! Where the programs under test lie: beside the test's own binary, in `target/<profile>`. Building them is not this crate's
//! business.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// A program of the workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binary {
    /// The product.
    Iris,
    /// A folder as a disk that can lose power.
    LossyDisk,
    /// Links of a node and nothing else.
    LinkNode,
    /// Made-up announcements without end.
    MdnsFlood,
}

impl Binary {
    fn name(self) -> &'static str {
        match self {
            Self::Iris => "iris",
            Self::LossyDisk => "lossy_disk",
            Self::LinkNode => "link_node",
            Self::MdnsFlood => "mdns_flood",
        }
    }

    /// Its path.
    ///
    /// # Errors
    /// It was not built; says how to.
    pub fn path(self) -> anyhow::Result<PathBuf> {
        let own = std::env::current_exe().context("this process can't find its own binary")?;
        // A test lies in target/<profile>/deps, the demo in target/<profile>.
        let folders = own.ancestors().skip(1).take(2);
        let candidates: Vec<PathBuf> = folders.map(|folder| folder.join(self.name())).collect();
        match candidates.iter().find(|path| path.is_file()) {
            Some(path) => Ok(path.clone()),
            None => bail!(
                "the program `{}` is not built: neither {} exists. Run `cargo build --workspace --bins` (with the same profile) first",
                self.name(),
                candidates.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" nor "),
            ),
        }
    }
}

/// The workspace's root folder, as it was when this was built.
#[must_use]
pub fn workspace_root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}
