//! The environment as a second command line: which variables there are, and how their values are read.
//!
//! Unit files, Compose files and container platforms set variables, and each has its habits: `${NAME:-}` sets a variable to
//! nothing, and a flag is `1`, `yes` or `on`. So a variable that is empty counts as one that is not set, and a flag takes all of
//! these words, for every option of every command.

use std::ffi::{OsStr, OsString};
use std::str::FromStr;

use clap::builder::{BoolishValueParser, Resettable};
use clap::{Arg, ArgAction, Command};

use super::error::CliError;

/// Options whose values are secrets, by their long names: no help and no error shows a value of theirs.
pub(super) const SECRETS: [&str; 3] = ["auth", "daemon-rpc-url", "peer"];

/// The commands of which every option has a variable.
const SERVERS: [&str; 2] = ["serve", "node"];

/// The value of a variable, unless it is not set or empty.
pub(super) fn set(name: impl AsRef<OsStr>) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// The value of a variable, unless it is not set or empty.
///
/// # Errors
/// If it is no value of this kind: a sentence that names the variable.
pub(super) fn parsed<T: FromStr<Err: std::fmt::Display>>(name: &str) -> Result<Option<T>, CliError> {
    let Some(value) = set(name) else { return Ok(None) };
    let value = value.to_string_lossy();
    let wrong = |error| CliError::Usage(format!("the variable {name} is {value:?}: {error}"));
    value.parse().map(Some).map_err(wrong)
}

/// Gives the options of `command`, and of its commands, the variables that they are read from.
pub(super) fn attach(command: Command) -> Command {
    let has_all = SERVERS.contains(&command.get_name());
    let names: Vec<_> = command.get_subcommands().map(|inner| inner.get_name().to_owned()).collect();
    let command = command.mut_args(|argument| read(if has_all { named(argument) } else { argument }));
    names.into_iter().fold(command, |command, name| command.mut_subcommand(name, attach))
}

/// An option with the variable that is called after it.
fn named(argument: Arg) -> Arg {
    match argument.get_long() {
        Some(long) if argument.get_env().is_none() && !matches!(long, "help" | "version") => {
            let variable = format!("COFFERDAM_{}", long.to_uppercase().replace('-', "_"));
            argument.env(variable)
        }
        _ => argument,
    }
}

fn read(argument: Arg) -> Arg {
    let is_secret = argument.get_long().is_some_and(|long| SECRETS.contains(&long));
    let argument = argument.hide_env_values(is_secret).hide_default_value(is_secret);
    let argument = match argument.get_action() {
        ArgAction::SetTrue => argument.value_parser(BoolishValueParser::new()),
        _ => argument,
    };
    let is_empty = argument.get_env().is_some_and(|name| set(name).is_none());
    if is_empty && argument.get_env().and_then(std::env::var_os).is_some() {
        return argument.env(Resettable::Reset);
    }
    argument
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_that_is_no_value_is_named() {
        // Set by cargo for every test.
        let error = parsed::<u16>("CARGO_PKG_NAME").unwrap_err().to_string();
        assert!(error.starts_with("the variable CARGO_PKG_NAME is \"cofferdam\": "), "{error}");
        assert_eq!(parsed::<u16>("COFFERDAM_NO_SUCH_VARIABLE").unwrap(), None);
        assert_eq!(parsed::<String>("CARGO_PKG_NAME").unwrap().as_deref(), Some("cofferdam"));
    }
}
