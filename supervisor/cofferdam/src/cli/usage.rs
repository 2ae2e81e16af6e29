//! What is said of a command line that is wrong, or asks for help: clap's words, without the secrets that they may repeat.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command};
use cofferdam_protocol::exit::CommandExit;

use super::error::CliError;
use super::logging;
use super::variables::{self, SECRETS};

/// What stands for an argument that is not repeated.
const NOT_REPEATED: &str = "… (not repeated here, because it may be a secret)";

/// Says `error` of `arguments`, which `command` was to take.
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
        logging::say_as_it_is(&format!("\nThe value is that of the variable {variable}.\n"));
    }
    CommandExit::Usage
}

/// Takes out of `error` what a mistyped command line may have made of a secret.
fn hide_secrets(error: &mut clap::Error, arguments: &[OsString]) {
    let kinds = [ContextKind::InvalidArg, ContextKind::InvalidValue, ContextKind::InvalidSubcommand];
    for kind in kinds {
        let Some(ContextValue::String(text)) = error.get(kind) else { continue };
        // What clap knows by name it writes as its own words.
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
    // A part of a password that a shell has cut at a blank.
    let is_stray = kind == ContextKind::InvalidArg && !is_option && arguments.iter().any(names_secret);
    text.contains('@') || is_stray
}

/// Whether an argument is an option whose value is a secret.
fn names_secret(argument: &OsString) -> bool {
    let text = argument.to_string_lossy();
    let name = text.strip_prefix("--").map(|option| option.split('=').next().unwrap_or_default());
    name.is_some_and(|name| SECRETS.contains(&name))
}

/// The variable that a wrong value came from, if it came from one.
fn source(error: &clap::Error, command: &Command, arguments: &[OsString]) -> Option<String> {
    let Some(ContextValue::String(wrong)) = error.get(ContextKind::InvalidArg) else { return None };
    let Some(ContextValue::String(value)) = error.get(ContextKind::InvalidValue) else { return None };
    // Only then an argument knows how it is written.
    let mut command = command.clone();
    command.build();
    let inner = arguments.iter().find_map(|argument| command.find_subcommand(argument));
    let of = |command: &Command| command.get_arguments().find(|one| one.to_string() == *wrong).cloned();
    let argument: Arg = inner.and_then(of).or_else(|| of(&command))?;
    let option = format!("--{}", argument.get_long()?);
    let is_given = |one: &OsString| one.to_string_lossy().split('=').next() == Some(option.as_str());
    let variable = argument.get_env()?.to_string_lossy().into_owned();
    let has_it = variables::set(&variable)?.to_string_lossy().contains(value.as_str());
    (has_it && !arguments.iter().any(is_given)).then_some(variable)
}
