//! Environment variables as a second command line: every option of every command has a variable that is named after the option.
//!
//! Unit files, Compose files and container platforms set variables in different ways: `${NAME:-}` sets a variable to an empty
//! value, and a flag is `1`, `yes` or `on`. Therefore an empty variable counts as not set, and a flag takes all of these words.
//! The command line counts for more: a variable has no effect if the command line has its option or an option that excludes it.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::str::FromStr;

use clap::builder::{BoolishValueParser, Resettable};
use clap::{Arg, ArgAction, Command};

use super::error::CliError;
use super::suggest;

/// Options whose values are secrets, by their long names: no help and no error shows their values.
pub(super) const SECRETS: [&str; 3] = ["auth", "daemon-rpc-url", "peer"];

/// The prefix of every variable that the commands read.
const PREFIX: &str = "COFFERDAM_";

/// A part of the rest of the name, if Kubernetes or Docker set the variable for a service whose name begins with cofferdam.
const SERVICE_LINKS: [&str; 3] = ["SERVICE_HOST", "SERVICE_PORT", "PORT_"];

/// Variables of this repository's tests and scripts, which the commands do not read.
const OF_TESTS: [&str; 8] =
    ["BIN", "SHARED", "SKIPS", "SKIP_4GIB", "DEPLOY_TOOLS", "LB_REQUESTS", "NETWORKS", "WRITE_OPERATIONS"];

/// The value of a variable. None if the variable is not set or empty.
pub(super) fn set(name: impl AsRef<OsStr>) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// The parsed value of a variable. None if the variable is not set or empty.
///
/// # Errors
/// [`CliError::Usage`], which names the variable, if its value does not parse.
pub(super) fn parsed<T: FromStr<Err: std::fmt::Display>>(name: &str) -> Result<Option<T>, CliError> {
    let Some(value) = set(name) else { return Ok(None) };
    let value = value.to_string_lossy();
    let wrong = |error| CliError::Usage(format!("the variable {name} is {value:?}: {error}"));
    value.parse().map(Some).map_err(wrong)
}

/// Whether the name of a variable has the prefix of the variables that the commands read.
pub(super) fn is_ours(name: &OsStr) -> bool {
    name.to_string_lossy().starts_with(PREFIX)
}

/// Gives every option of `command` and of its subcommands its variable. `arguments` is the command line.
pub(super) fn attach(command: Command, arguments: &[OsString]) -> Command {
    let names: Vec<_> = command.get_subcommands().map(|inner| inner.get_name().to_owned()).collect();
    let all: Vec<Arg> = command.get_arguments().cloned().collect();
    let conflicts = Conflicts::of(&command);
    let command = command.mut_args(|argument| {
        let variable = variable_of(&argument, &all);
        let excluded = conflicts.of_argument(&argument).any(|other| is_given(other, arguments));
        read(argument, variable, excluded)
    });
    names
        .into_iter()
        .fold(command, |command, name| command.mut_subcommand(name, |inner| attach(inner, arguments)))
}

/// The variable that an argument of a command is read from. Each name of the argument gives a variable. The first of these
/// variables that is set is used. If none is set, the variable of the main name is used.
fn variable_of(argument: &Arg, all: &[Arg]) -> Option<String> {
    let own = match (argument.get_env(), argument.get_long()) {
        (Some(variable), _) => variable.to_string_lossy().into_owned(),
        (None, Some(long)) if !is_read_elsewhere(long, all) => variable_for(long),
        _ => return None,
    };
    // A positional argument has no name. It has the same variables as the option with the same meaning.
    let option = all.iter().find(|other| other.get_long().is_some_and(|long| variable_for(long) == own));
    let other_names = option.map(aliases).unwrap_or_default();
    let candidates = std::iter::once(own.clone()).chain(other_names.iter().map(|name| variable_for(name)));
    Some(candidates.into_iter().find(|name| set(name).is_some()).unwrap_or(own))
}

/// Whether another argument has the variable that is named after `long`.
fn is_read_elsewhere(long: &str, all: &[Arg]) -> bool {
    all.iter().any(|other| other.get_env().is_some_and(|variable| *variable == *variable_for(long)))
}

fn variable_for(long: &str) -> String {
    format!("{PREFIX}{}", long.to_uppercase().replace('-', "_"))
}

fn aliases(argument: &Arg) -> Vec<String> {
    argument.get_all_aliases().unwrap_or_default().into_iter().map(str::to_owned).collect()
}

/// The long name of an option, and its aliases.
pub(super) fn names(argument: &Arg) -> Vec<String> {
    argument.get_long().map(str::to_owned).into_iter().chain(aliases(argument)).collect()
}

/// Whether the command line has this option.
pub(super) fn is_given(argument: &Arg, arguments: &[OsString]) -> bool {
    let names = names(argument);
    let given = arguments.iter().take_while(|argument| *argument != "--").filter_map(|argument| {
        let text = argument.to_str()?.strip_prefix("--")?;
        text.split('=').next().map(str::to_owned)
    });
    given.into_iter().any(|given| names.contains(&given))
}

/// Whether the command line or a variable has this option.
pub(super) fn is_said(argument: &Arg, arguments: &[OsString]) -> bool {
    is_given(argument, arguments) || names(argument).iter().any(|name| set(variable_for(name)).is_some())
}

/// Which options of a command exclude each other.
pub(super) struct Conflicts(Vec<(Arg, Arg)>);

impl Conflicts {
    /// The options of `command` that exclude each other.
    pub(super) fn of(command: &Command) -> Self {
        let pairs = command.get_arguments().flat_map(|argument| {
            let others = command.get_arg_conflicts_with(argument);
            others.into_iter().map(|other| (argument.clone(), other.clone()))
        });
        Self(pairs.collect())
    }

    /// The options that exclude `argument`.
    pub(super) fn of_argument(&self, argument: &Arg) -> impl Iterator<Item = &Arg> {
        let id = argument.get_id().clone();
        self.0.iter().filter_map(move |(left, right)| match (*left.get_id() == id, *right.get_id() == id) {
            (true, _) => Some(right),
            (_, true) => Some(left),
            _ => None,
        })
    }
}

/// `argument`, read from `variable`. An empty variable is not read, and no variable is read if `excluded` is true.
fn read(argument: Arg, variable: Option<String>, excluded: bool) -> Arg {
    let is_secret = argument.get_long().is_some_and(|long| SECRETS.contains(&long));
    let argument = argument.hide_env_values(is_secret).hide_default_value(is_secret);
    let argument = match argument.get_action() {
        ArgAction::SetTrue => argument.value_parser(BoolishValueParser::new()),
        _ => argument,
    };
    match variable {
        Some(variable)
            if !excluded && (set(&variable).is_some() || std::env::var_os(&variable).is_none()) =>
        {
            argument.env(variable)
        }
        _ => argument.env(Resettable::Reset),
    }
}

/// A sentence for each variable of the environment that has the prefix and belongs to no option of `command`.
pub(super) fn unknown(command: &Command) -> Vec<String> {
    let mut known = BTreeSet::new();
    collect(command, &mut known);
    let set = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let ours = set.filter_map(|name| name.strip_prefix(PREFIX).map(str::to_owned));
    let unknown = ours.filter(|name| {
        !known.contains(name)
            && !OF_TESTS.contains(&name.as_str())
            && !name.starts_with("TEST_")
            && !SERVICE_LINKS.iter().any(|part| name.contains(part))
    });
    let mut sentences: Vec<_> = unknown.map(|name| sentence(&name, &known)).collect();
    sentences.sort();
    sentences
}

fn sentence(name: &str, known: &BTreeSet<String>) -> String {
    let suggestion = suggest::nearest(name, known.iter().map(String::as_str));
    let suggestion = suggestion.map_or_else(String::new, |near| format!("; did you mean {PREFIX}{near}?"));
    format!("the variable {PREFIX}{name} has no effect, because no option has that name{suggestion}")
}

/// Adds the names of the variables of a command and its subcommands, without the prefix.
fn collect(command: &Command, known: &mut BTreeSet<String>) {
    let long_names = command.get_arguments().flat_map(names);
    known.extend(long_names.map(|name| variable_for(&name)[PREFIX.len()..].to_owned()));
    command.get_subcommands().for_each(|inner| collect(inner, known));
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

    #[test]
    fn an_option_is_found_on_the_command_line_by_any_of_its_names() {
        let module = Arg::new("m").long("module").visible_alias("indexer");
        let line = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        for given in [&["run", "--module", "x"], &["run", "--indexer=x", "y"]] {
            assert!(is_given(&module, &line(given)), "{given:?}");
        }
        for other in [&["run", "module", "x"], &["run", "--", "--module"], &["run", "--modules", "x"]] {
            assert!(!is_given(&module, &line(other)), "{other:?}");
        }
    }

    #[test]
    fn an_unknown_variable_gets_a_suggestion() {
        let known = BTreeSet::from(["DB_PATH".to_owned(), "WORKERS".to_owned()]);
        let said = sentence("DP_PATH", &known);
        assert!(said.ends_with("did you mean COFFERDAM_DB_PATH?"), "{said}");
        let said = sentence("ZZZ", &known);
        assert!(said.ends_with("no option has that name"), "{said}");
    }
}
