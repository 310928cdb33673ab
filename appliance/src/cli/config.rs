//! `iris config`: what a node would run with, before it runs.

use std::io::Write as _;

use clap::Subcommand;
use iris_appliance::config::Config;

use super::failure::{Failure, Outcome};
use super::up;

/// Which question.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    question: Question,
}

#[derive(Debug, Subcommand)]
enum Question {
    /// Say everything that is wrong with it; exit 1 if something is.
    Check(up::Args),
    /// Print it as it holds: defaults, file, environment, flags.
    Show(up::Args),
    /// Print a commented file with every setting and its default.
    Example,
}

/// Answers.
pub fn run(args: Args) -> Outcome {
    let answer = match args.question {
        Question::Check(flags) => {
            refuse_problems(&flags.load()?)?;
            "The configuration is fine.\n".to_owned()
        }
        Question::Show(flags) => flags.load()?.show()?,
        Question::Example => Config::example(),
    };
    Ok(std::io::stdout().write_all(answer.as_bytes())?)
}

/// All problems at once, so that nobody has to come back for the next one.
pub fn refuse_problems(config: &Config) -> Outcome {
    let problems = config.check();
    match problems.as_slice() {
        [] => Ok(()),
        [problem] => Err(Failure::Failed(format!("the configuration is wrong: {problem}"))),
        problems => Err(Failure::Failed(format!("the configuration is wrong:\n  {}", problems.join("\n  ")))),
    }
}
