//! The message for a command line that is wrong or asks for help: the words of clap, without the secrets that they may repeat.

use std::ffi::OsString;

use clap::Command;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use cofferdam_protocol::exit::CommandExit;

use super::error::CliError;
use super::logging;
use super::variables::{self, SECRETS};

/// Stands in a message for an argument that is not repeated.
const NOT_REPEATED: &str = "… (not repeated here, because it may be a secret)";

/// Prints `error`, with which `command` refused `arguments`, and returns the exit code.
pub(super) fn tell(mut error: clap::Error, command: &Command, arguments: &[OsString]) -> CommandExit {
    if !error.use_stderr() {
        // Help, or the version.
        return match error.print().map_err(CliError::io("standard output")) {
            Ok(()) | Err(CliError::StdoutClosed) => CommandExit::Success,
            Err(error) => {
                logging::say(&error);
                error.exit()
            }
        };
    }
    let source = source(&error, command, arguments);
    hide_secrets(&mut error, arguments);
    let words = error.render();
    let words = if logging::has_colour() { words.ansi().to_string() } else { words.to_string() };
    logging::say_as_it_is(&words);
    if let Some(variable) = source {
        logging::say_as_it_is(&format!("\nThe value comes from the variable {variable}.\n"));
    }
    CommandExit::Usage
}

/// Removes from `error` what may be a secret on a mistyped command line.
fn hide_secrets(error: &mut clap::Error, arguments: &[OsString]) {
    let kinds = [ContextKind::InvalidArg, ContextKind::InvalidValue, ContextKind::InvalidSubcommand];
    for kind in kinds {
        let Some(ContextValue::String(text)) = error.get(kind) else { continue };
        // For an argument that clap knows, the text is the argument's declaration.
        let is_stray = kind != ContextKind::InvalidArg || error.kind() == ErrorKind::UnknownArgument;
        let text = text.clone();
        if is_stray && may_be_secret(&text, kind, arguments) {
            error.insert(kind, ContextValue::String(NOT_REPEATED.to_owned()));
            // "to pass '…' as a value, use '-- …'"
            error.insert(ContextKind::Suggested, ContextValue::None);
            error.insert(ContextKind::SuggestedValue, ContextValue::None);
            error.insert(ContextKind::SuggestedSubcommand, ContextValue::None);
        }
    }
}

fn may_be_secret(text: &str, kind: ContextKind, arguments: &[OsString]) -> bool {
    let is_option = text.strip_prefix("--").is_some_and(|name| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    });
    // A part of a password, which the shell has split at a blank.
    let is_stray = kind == ContextKind::InvalidArg && !is_option && arguments.iter().any(names_secret);
    text.contains('@') || is_stray
}

/// Whether an argument is an option whose value is a secret.
fn names_secret(argument: &OsString) -> bool {
    let text = argument.to_string_lossy();
    let name = text.strip_prefix("--").map(|option| option.split('=').next().unwrap_or_default());
    name.is_some_and(|name| SECRETS.contains(&name))
}

/// The variable that a wrong value comes from, if it comes from one.
fn source(error: &clap::Error, command: &Command, arguments: &[OsString]) -> Option<String> {
    let Some(ContextValue::String(wrong)) = error.get(ContextKind::InvalidArg) else { return None };
    let Some(ContextValue::String(value)) = error.get(ContextKind::InvalidValue) else { return None };
    // An argument knows how it is written only after the command is built.
    let mut command = command.clone();
    command.build();
    let mut inner = &command;
    for argument in arguments.iter().skip(1) {
        inner = inner.find_subcommand(argument).unwrap_or(inner);
    }
    let argument = inner.get_arguments().find(|one| one.to_string() == *wrong)?;
    let variable = argument.get_env()?.to_string_lossy().into_owned();
    let has_it = variables::set(&variable)?.to_string_lossy().contains(value.as_str());
    (has_it && !variables::is_given(argument, arguments)).then_some(variable)
}
