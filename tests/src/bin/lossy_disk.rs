//! Serves one lossy disk (`iris_tests::lossy_disk`) at the folder it is given, for the process that started it: orders come in
//! on standard input, and with its end it unmounts.

use std::path::PathBuf;

use anyhow::Context;
use iris_tests::lossy_disk::serve;

fn main() -> anyhow::Result<()> {
    let at: PathBuf = std::env::args_os().nth(1).context("usage: lossy_disk FOLDER")?.into();
    serve(&at, std::io::stdin().lock(), std::io::stdout().lock())
}
