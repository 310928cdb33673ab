//! The log of a node: to stderr, where systemd, containers and terminals all look for it.

use std::io::IsTerminal as _;

use iris_appliance::config::LogConfig;
use tracing_subscriber::EnvFilter;

use super::failure::Failure;

/// From here on events are written.
pub fn init(config: &LogConfig) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(&config.filter)
        .map_err(|error| Failure::Failed(format!("log.filter {:?} can't be used: {error}", config.filter)))?;
    // https://no-color.org: present and not empty.
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let ansi = std::io::stderr().is_terminal() && !no_color;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ansi);
    let set = if config.json { log.json().try_init() } else { log.try_init() };
    set.map_err(|error| Failure::Failed(format!("the log can't be started: {error}")))
}
