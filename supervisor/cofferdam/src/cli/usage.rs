//! The message for a command line that is wrong or asks for help. It is the message of clap, without secrets of the command line.

use std::ffi::OsString;
use std::path::Path;

use clap::Command;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use cofferdam_protocol::exit::CommandExit;

use super::error::CliError;
use super::logging;
use super::variables::{self, SECRETS};

/// The text that replaces an argument in a message, if the argument may be a secret.
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
    let (source, sources) = (source(&error, command, arguments), sources(&error, command, arguments));
    hide_secrets(&mut error, arguments);
    let words = error.render();
    let words = if logging::has_colour() { words.ansi().to_string() } else { words.to_string() };
    logging::say_as_it_is(&words);
    if let Some(variable) = source {
        logging::say_as_it_is(&format!("\nThe value comes from the variable {variable}.\n"));
    }
    for (option, variable) in sources {
        logging::say_as_it_is(&format!("\n{option} comes from the variable {variable}.\n"));
    }
    CommandExit::Usage
}

/// Removes from `error` the parts of a mistyped command line that may be secrets.
fn hide_secrets(error: &mut clap::Error, arguments: &[OsString]) {
    let kinds = [ContextKind::InvalidArg, ContextKind::InvalidValue, ContextKind::InvalidSubcommand];
    for kind in kinds {
        let Some(ContextValue::String(text)) = error.get(kind) else { continue };
        // If clap knows the argument, the text is the argument's declaration and not a text of the user.
        let is_stray = kind != ContextKind::InvalidArg || error.kind() == ErrorKind::UnknownArgument;
        let text = text.clone();
        if is_stray && may_be_secret(&text, kind, arguments) {
            error.insert(kind, ContextValue::String(NOT_REPEATED.to_owned()));
            // clap's suggestions repeat the text: "to pass '…' as a value, use '-- …'".
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

/// Refuses a first argument that names no file and may be a part of a secret, for example of a password that the shell has
/// split at a blank. Otherwise the command would repeat the argument in an error.
///
/// # Errors
/// [`CliError::Usage`], which does not repeat the argument.
pub(super) fn check_stray(first: &Path, arguments: &[OsString]) -> Result<(), CliError> {
    let is_given = arguments.iter().any(|argument| argument == first.as_os_str());
    let may_be_secret = may_be_secret(&first.to_string_lossy(), ContextKind::InvalidArg, arguments);
    if !is_given || !may_be_secret || first.exists() {
        return Ok(());
    }
    let reason =
        "it names no file; put quotes around a password that has a blank, and name a module by --module";
    Err(CliError::Usage(format!("unexpected argument {NOT_REPEATED}: {reason}")))
}

/// Whether an argument is an option whose value is a secret.
fn names_secret(argument: &OsString) -> bool {
    let text = argument.to_string_lossy();
    let name = text.strip_prefix("--").map(|option| option.split('=').next().unwrap_or_default());
    name.is_some_and(|name| SECRETS.contains(&name))
}

/// If the error is that options exclude each other: those of them that come from variables, each with its variable.
fn sources(error: &clap::Error, command: &Command, arguments: &[OsString]) -> Vec<(String, String)> {
    if error.kind() != ErrorKind::ArgumentConflict {
        return Vec::new();
    }
    let mut named = Vec::new();
    for kind in [ContextKind::InvalidArg, ContextKind::PriorArg] {
        match error.get(kind) {
            Some(ContextValue::String(name)) => named.push(name.clone()),
            Some(ContextValue::Strings(names)) => named.extend(names.iter().cloned()),
            _ => {}
        }
    }
    let mut root = command.clone();
    root.build();
    let options = asked(&root, arguments).get_arguments().filter(|one| named.contains(&one.to_string()));
    let said = options.filter(|option| !variables::is_given(option, arguments)).filter_map(|option| {
        let variable = option.get_env()?.to_string_lossy().into_owned();
        variables::set(&variable).map(|_| (format!("--{}", option.get_long().unwrap_or_default()), variable))
    });
    said.collect()
}

/// The subcommand that the arguments ask for.
fn asked<'c>(root: &'c Command, arguments: &[OsString]) -> &'c Command {
    arguments
        .iter()
        .skip(1)
        .fold(root, |command, argument| command.find_subcommand(argument).unwrap_or(command))
}

/// The variable that a wrong value comes from, if it comes from one.
fn source(error: &clap::Error, command: &Command, arguments: &[OsString]) -> Option<String> {
    let Some(ContextValue::String(wrong)) = error.get(ContextKind::InvalidArg) else { return None };
    let Some(ContextValue::String(value)) = error.get(ContextKind::InvalidValue) else { return None };
    // An argument knows how it is written only after the command is built.
    let mut command = command.clone();
    command.build();
    let argument = asked(&command, arguments).get_arguments().find(|one| one.to_string() == *wrong)?;
    let variable = argument.get_env()?.to_string_lossy().into_owned();
    let has_it = variables::set(&variable)?.to_string_lossy().contains(value.as_str());
    (has_it && !variables::is_given(argument, arguments)).then_some(variable)
}
