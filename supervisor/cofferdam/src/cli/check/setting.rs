//! A setting of the pool, as an argument of `check`: `workers=2,reset=zero`.

use std::ffi::OsString;
use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// The settings that are compared by default: both ways to commit, with and without huge pages, and both ways to reset. Each
/// has one worker, because most of the default host limits have no room for two workers with 4 GiB.
pub(super) const DEFAULTS: [&str; 3] =
    ["workers=1,spares=0", "workers=1,spares=0,commit=touch,huge-pages=off", "workers=1,spares=0,reset=zero"];

/// The names of what can be set: the options of `run`.
const NAMES: [&str; 5] = ["workers", "spares", "commit", "huge-pages", "reset"];

/// A setting of the pool. `run` checks the values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting(Vec<(&'static str, String)>);

/// A text that is no setting.
#[derive(Debug, Error)]
#[error("'{0}' is not NAME=VALUE, where NAME is one of {names}", names = NAMES.join(", "))]
pub(super) struct SettingError(String);

impl FromStr for Setting {
    type Err = SettingError;

    fn from_str(text: &str) -> Result<Self, SettingError> {
        let part = |part: &str| {
            let (name, value) = part.split_once('=')?;
            let name = NAMES.into_iter().find(|known| *known == name.trim())?;
            let value = value.trim();
            (!value.is_empty()).then(|| (name, value.to_owned()))
        };
        text.split(',')
            .map(|text| part(text).ok_or_else(|| SettingError(text.to_owned())))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        f.write_str(&parts.join(","))
    }
}

impl Setting {
    /// The arguments of `run` for this setting.
    pub(super) fn to_arguments(&self) -> Vec<OsString> {
        self.0.iter().map(|(name, value)| format!("--{name}={value}").into()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_and_become_arguments() {
        let setting: Setting = "workers=2, reset=zero".parse().unwrap();
        assert_eq!(setting.to_string(), "workers=2,reset=zero");
        assert_eq!(setting.to_arguments(), ["--workers=2", "--reset=zero"]);
        for wrong in ["", "workers", "workers=", "memory=1GiB", "workers=2;spares=0", "workers=2,"] {
            assert_eq!(wrong.parse::<Setting>().is_ok(), wrong == "workers=2;spares=0", "{wrong}");
        }
    }

    #[test]
    fn the_defaults_are_settings() {
        for text in DEFAULTS {
            assert_eq!(text.parse::<Setting>().unwrap().to_string(), text);
        }
    }
}
