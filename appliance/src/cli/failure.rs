//! How a command ends when it is not done: a sentence for people and a code for scripts.

use std::fmt::Display;
use std::io;
use std::process::ExitCode;

use iris_client::{AdminClientError, ClientError};

/// How a command ends.
pub type Outcome = Result<(), Failure>;

/// Why a command is not done.
#[derive(Debug)]
pub enum Failure {
    /// The command can't do that, or did some of it only: exit 1.
    Failed(String),
    /// The arguments don't go together: exit 2, as for clap's own complaints.
    Usage(String),
    /// Nobody answers: exit 3.
    Unreachable(String),
    /// Whoever read our output went away: nothing to complain about, exit 0.
    ReaderGone,
}

impl Failure {
    /// With a sentence.
    pub fn failed(why: impl Display) -> Self {
        Self::Failed(why.to_string())
    }

    /// Says it and gives the exit code.
    pub fn report(&self) -> ExitCode {
        let (code, why) = match self {
            Self::Failed(why) => (1, why),
            Self::Usage(why) => (2, why),
            Self::Unreachable(why) => (3, why),
            Self::ReaderGone => return ExitCode::SUCCESS,
        };
        complain(why);
        ExitCode::from(code)
    }
}

/// Says something on stderr. Not with `eprintln`, which panics when nobody listens.
pub fn complain(why: &str) {
    let _ = io::Write::write_fmt(&mut io::stderr(), format_args!("iris: {why}\n"));
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(format!("{error:#}"))
    }
}

/// The only I/O commands do by themselves is to their output.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::ReaderGone,
            _ => Self::Failed(format!("can't write the output: {error}")),
        }
    }
}

impl From<AdminClientError> for Failure {
    fn from(error: AdminClientError) -> Self {
        match error {
            AdminClientError::Unreachable { .. } => {
                Self::Unreachable(format!("{error}; `iris up` starts one, --data names another folder"))
            }
            AdminClientError::Deadline => Self::Unreachable(format!("{error}; see its log")),
            AdminClientError::Refused(why) => Self::Failed(why),
            AdminClientError::BadAnswer(_) => {
                Self::Failed(format!("{error}; are this command and the node of the same version?"))
            }
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Untrusted(_) => {
                Self::Unreachable(format!("{error}; is the address, or the token's file, another cluster's?"))
            }
            ClientError::Deadline => Self::Unreachable(error.to_string()),
            ClientError::Config(why) => Self::Usage(why),
            error => Self::failed(error),
        }
    }
}
