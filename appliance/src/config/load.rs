//! Reads a configuration: the TOML file, then `IRIS_SECTION__FIELD` from the environment, then flags; later ones win. Every
//! error names the place a value came from.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::{Config, table};

/// What starts the names of variables that set fields: `IRIS_RAFT__HEARTBEAT_MS`.
const VARIABLE_PREFIX: &str = "IRIS_";

/// Between section and field; a single underscore is part of many fields' names. Variables without it, such as `IRIS_CONFIG`,
/// are not fields.
const VARIABLE_SEPARATOR: &str = "__";

/// A configuration has some kilobytes; something longer is another file.
const FILE_LEN_MAX: u64 = 1024 * 1024;

/// What the command line says; each beats the file and the environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// The file to read; without one, none is.
    pub file: Option<PathBuf>,
    /// `node.data`.
    pub data: Option<PathBuf>,
    /// `node.listen`.
    pub listen: Option<String>,
    /// `node.p2p`.
    pub p2p: Option<Vec<String>>,
    /// `node.name`.
    pub name: Option<String>,
}

/// Why a configuration can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there, or not readable.
    #[error("the configuration file {} can't be read: {why}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
    /// It is no TOML, or sets what does not exist, or to a value of the wrong kind.
    #[error("the configuration file {} is wrong: {why}\n`iris config example` shows every setting.", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// What and where.
        why: String,
    },
    /// An environment variable sets what does not exist, or to a value of the wrong kind.
    #[error("the environment variable {name} can't be used: {why}; correct it or unset it")]
    Variable {
        /// Its name.
        name: String,
        /// What is wrong.
        why: String,
    },
}

impl Config {
    /// Reads file, environment and flags. The result is well-formed, not yet judged: see [`Config::check`].
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn load(flags: Overrides) -> anyhow::Result<Self> {
        let variables = std::env::vars_os().filter_map(|(name, text)| {
            // A name that is not UTF-8 is none of ours; a text that is not is one no setting takes.
            Some((name.into_string().ok()?, text.to_string_lossy().into_owned()))
        });
        Ok(Self::load_with(flags, variables)?)
    }

    /// As [`Config::load`], with the environment passed in.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn load_with(
        flags: Overrides,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut config = match &flags.file {
            Some(path) => read_file(path)?,
            None => Self::default(),
        };
        for (name, text) in variables {
            if let Some((section, field)) = setting_of(&name) {
                config = set(&config, &section, &field, &text).map_err(|why| ConfigError::Variable { name, why })?;
            }
        }
        let node = &mut config.node;
        override_with(&mut node.data, flags.data);
        override_with(&mut node.listen, flags.listen);
        override_with(&mut node.p2p, flags.p2p);
        override_with(&mut node.name, flags.name);
        Ok(config)
    }
}

fn override_with<T>(setting: &mut T, flag: Option<T>) {
    if let Some(flag) = flag {
        *setting = flag;
    }
}

fn read_file(path: &Path) -> Result<Config, ConfigError> {
    let unreadable = |why: String| ConfigError::Unreadable { path: path.to_owned(), why };
    let len = std::fs::metadata(path).map_err(|error| unreadable(error.to_string()))?.len();
    if len > FILE_LEN_MAX {
        return Err(unreadable(format!("it has {len} bytes, at most {FILE_LEN_MAX} make sense")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
    toml::from_str(&text).map_err(|error| ConfigError::Wrong { path: path.to_owned(), why: error.to_string() })
}

/// `IRIS_RAFT__HEARTBEAT_MS` is (`raft`, `heartbeat_ms`); a variable of another shape is none of ours.
fn setting_of(name: &str) -> Option<(String, String)> {
    let (section, field) = name.strip_prefix(VARIABLE_PREFIX)?.split_once(VARIABLE_SEPARATOR)?;
    Some((section.to_ascii_lowercase(), field.to_ascii_lowercase()))
}

/// The configuration with one setting changed. The text is taken as the setting's kind says, so that a name of `123` stays text.
fn set(config: &Config, section: &str, name: &str, text: &str) -> Result<Config, String> {
    let field = table::field(section, name).ok_or_else(|| format!("there is no setting {section}.{name}"))?;
    let value = match field.kind {
        "String" | "PathBuf" | "Option<String>" => Value::String(text.to_owned()),
        "Vec<String>" => Value::Array(text.split(',').map(|item| Value::String(item.trim().to_owned())).collect()),
        "bool" => text.trim().parse().map(Value::Boolean).map_err(|_| format!("{text:?} is not true or false"))?,
        _ => text.trim().parse().map(Value::Integer).map_err(|_| format!("{text:?} is not a whole number"))?,
    };
    let mut whole = Table::try_from(config).map_err(|error| error.to_string())?;
    let known = whole.get_mut(section).and_then(Value::as_table_mut);
    known.ok_or_else(|| format!("there is no section {section}"))?.insert(name.to_owned(), value);
    whole.try_into().map_err(|error: toml::de::Error| error.message().to_owned())
}
