//! The `iris` command as a script runs it: arguments in, exit code and output out.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;

use crate::binaries::Binary;
use crate::wait::within;

/// Longest a command that ends by itself may take on a loaded machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// What a command came to.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it said besides.
    pub stderr: String,
}

impl Ran {
    /// Its output as one JSON value a line.
    ///
    /// # Panics
    /// A line is none.
    #[must_use]
    pub fn json(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }
}

/// A command, to be spawned; it dies with its handle.
///
/// # Panics
/// The program was not built.
#[must_use]
pub fn iris(arguments: &[&str]) -> Command {
    let mut command = Command::new(Binary::Iris.path().expect("the program was built"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// Runs a command to its end and shows what it said.
///
/// # Panics
/// It did not end in time, or printed something else than text.
pub async fn run(arguments: &[&str]) -> Ran {
    let what = format!("iris {}", arguments.join(" "));
    let output = within(&what, DEADLINE, iris(arguments).output()).await.expect("in time").expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    let ran = Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) };
    eprintln!("{what}: {:?}\n{}{}", ran.code, ran.stdout, ran.stderr);
    ran
}
