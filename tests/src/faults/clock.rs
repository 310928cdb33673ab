//! Wall clocks that jump, under the unmodified program: a few lines of C between it and the system's clock, and a file for each
//! node that says by how much its clock is off.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};

use super::bed::Bed;

const SOURCE: &str = include_str!("clock_shim.c");

/// How far a clock is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Off {
    /// By so many milliseconds, behind or ahead.
    ByMs(i64),
    /// It shows so long after the beginning of 1970, as a machine without a battery does when it boots.
    Boot1970(Duration),
}

impl Off {
    fn ns(self) -> anyhow::Result<i64> {
        match self {
            Self::ByMs(ms) => Ok(ms * 1_000_000),
            Self::Boot1970(after) => {
                let now =
                    SystemTime::now().duration_since(UNIX_EPOCH).context("this machine's clock is in the past")?;
                Ok(i64::try_from(after.as_nanos())? - i64::try_from(now.as_nanos())?)
            }
        }
    }
}

/// The clocks of a bed's nodes.
#[derive(Debug)]
pub struct Clocks {
    files: Vec<PathBuf>,
}

impl Clocks {
    /// Compiles the shim and gives it to every node, to be started after this. The reason why not, if there is no compiler.
    ///
    /// # Errors
    /// The compiler fails, or a file can't be written.
    pub fn install(bed: &mut Bed) -> anyhow::Result<Result<Self, String>> {
        let dir = bed.cluster.dir().to_owned();
        let library = match compile(&dir)? {
            Ok(library) => library,
            Err(reason) => return Ok(Err(reason)),
        };
        let mut files = Vec::new();
        for index in 0..bed.cluster.len() {
            let file = dir.join(format!("node-{}.clock", index + 1));
            std::fs::write(&file, 0_i64.to_ne_bytes()).with_context(|| format!("writing {}", file.display()))?;
            let node = bed.cluster.node_mut(index);
            node.set_environment("LD_PRELOAD", &library);
            node.set_environment("IRIS_FAULTS_CLOCK", &file);
            files.push(file);
        }
        Ok(Ok(Self { files }))
    }

    /// Sets a node's clock; it jumps at once.
    ///
    /// # Errors
    /// Its file can't be written.
    pub fn set(&self, node: usize, off: Off) -> anyhow::Result<()> {
        // In place: the program has this very file mapped.
        let file = OpenOptions::new().write(true).open(&self.files[node])?;
        file.write_all_at(&off.ns()?.to_ne_bytes(), 0).context("moving a clock")
    }

    /// Sets every clock right.
    ///
    /// # Errors
    /// As [`Self::set`].
    pub fn right(&self) -> anyhow::Result<()> {
        (0..self.files.len()).try_for_each(|node| self.set(node, Off::ByMs(0)))
    }
}

/// The shim as a shared library, or why there is none here.
fn compile(dir: &Path) -> anyhow::Result<Result<PathBuf, String>> {
    let (source, library) = (dir.join("clock_shim.c"), dir.join("clock_shim.so"));
    std::fs::write(&source, SOURCE).with_context(|| format!("writing {}", source.display()))?;
    let mut command = Command::new("cc");
    command.args(["-shared", "-fPIC", "-O2", "-o"]).arg(&library).arg(&source).arg("-ldl").stdin(Stdio::null());
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => return Ok(Err(format!("no C compiler here: {error}"))),
    };
    if !output.status.success() {
        bail!("compiling the clock's shim: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(Ok(library))
}
