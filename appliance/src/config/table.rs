//! How a section of the configuration is defined: once, with the words that explain it. The struct, its defaults, what may be
//! set by a variable and the commented example all come from that one definition.

/// One setting, for messages and the example.
pub(super) struct Field {
    /// Its name in the file.
    pub(super) name: &'static str,
    /// Its explanation, line by line.
    pub(super) doc: &'static [&'static str],
    /// Its type as written here.
    pub(super) kind: &'static str,
}

macro_rules! section {
    (
        $(#[doc = $about:literal])*
        $name:ident {
            $($(#[doc = $doc:literal])* $(#[serde($($serde:tt)*)])? $field:ident: $kind:ty = $default:expr;)*
        }
    ) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $($(#[doc = $doc])* $(#[serde($($serde)*)])? pub $field: $kind,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl $name {
            pub(in crate::config) const ABOUT: &'static [&'static str] = &[$($about),*];
            pub(in crate::config) const FIELDS: &'static [$crate::config::table::Field] = &[$(
                $crate::config::table::Field { name: stringify!($field), doc: &[$($doc),*], kind: stringify!($kind) },
            )*];
        }
    };
}

pub(super) use section;

/// A section as the file names it.
pub(super) struct Section {
    pub(super) name: &'static str,
    pub(super) about: &'static [&'static str],
    pub(super) fields: &'static [Field],
}

macro_rules! sections {
    ($($name:literal: $kind:ident),*) => {
        /// Every section, in the order of the example.
        pub(super) const SECTIONS: &[Section] = &[$(
            Section { name: $name, about: super::$kind::ABOUT, fields: super::$kind::FIELDS },
        )*];
    };
}

sections! {
    "node": NodeConfig, "shards": ShardsConfig, "limits": LimitsConfig, "edge": EdgeConfig, "raft": RaftConfig,
    "store": StoreConfig, "log": LogConfig
}

/// The setting of a section, if there is such a one.
pub(super) fn field(section: &str, name: &str) -> Option<&'static Field> {
    let section = SECTIONS.iter().find(|known| known.name == section)?;
    section.fields.iter().find(|known| known.name == name)
}
