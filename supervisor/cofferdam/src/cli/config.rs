//! Options from a TOML file: as defaults of the command line, so that the environment and the command line count for more.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Command;
use toml::{Table, Value};

use super::error::CliError;
use super::variables;

/// A file of options has no reason to be longer, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The variable of the environment that names the file.
const VARIABLE: &str = "COFFERDAM_CONFIG";

/// Gives `command`'s subcommand `name` the options of the file that the arguments or the environment name, if they do.
pub(super) fn apply(
    command: Command,
    name: &'static str,
    arguments: &[OsString],
) -> Result<Command, CliError> {
    match file_of(name, arguments) {
        Some(path) => {
            let table = read(&path)?;
            check(command.find_subcommand(name), &table, &path)?;
            Ok(command.mut_subcommand(name, |command| with_defaults(command, &table)))
        }
        None => Ok(command),
    }
}

/// The file, before anything is parsed: what is in it decides how the rest parses.
fn file_of(name: &str, arguments: &[OsString]) -> Option<PathBuf> {
    const OPTION: &str = "--config";
    let mut rest = arguments.iter().skip_while(|argument| *argument != name);
    // Of another command, nothing.
    rest.next()?;
    while let Some(argument) = rest.next() {
        if argument == OPTION {
            return rest.next().map(PathBuf::from);
        }
        let text = argument.to_str().unwrap_or_default();
        if let Some(path) = text.strip_prefix(OPTION).and_then(|rest| rest.strip_prefix('=')) {
            return Some(path.into());
        }
    }
    variables::set(VARIABLE).map(PathBuf::from)
}

fn read(path: &Path) -> Result<Table, CliError> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text));
    read.map_err(|source| CliError::File { path: path.to_owned(), source })?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(wrong(path, "it has more than 1 MiB"));
    }
    text.parse().map_err(|error: toml::de::Error| {
        // Its own words would show the line, which may have a password.
        let line = error.span().map(|span| 1 + text[..span.start.min(text.len())].matches('\n').count());
        let place = line.map_or_else(String::new, |line| format!("line {line}: "));
        wrong(path, &format!("{place}{}", error.message()))
    })
}

fn wrong(path: &Path, reason: &str) -> CliError {
    CliError::Usage(format!("{}: {reason}", path.display()))
}

/// Refuses what is no option, and what is no value of one.
fn check(command: Option<&Command>, table: &Table, path: &Path) -> Result<(), CliError> {
    let options: Vec<&str> =
        command.into_iter().flat_map(Command::get_arguments).filter_map(clap::Arg::get_long).collect();
    for (key, value) in table {
        let name = key.replace('_', "-");
        if !options.contains(&name.as_str()) || name == "config" {
            return Err(wrong(path, &format!("`{key}` is no option that a file can set")));
        }
        if texts(value).is_none() {
            return Err(wrong(
                path,
                &format!("`{key}` is neither text, a number, true, false, nor a list of these"),
            ));
        }
    }
    Ok(())
}

fn with_defaults(command: Command, table: &Table) -> Command {
    command.mut_args(|argument| {
        let long = argument.get_long().unwrap_or_default();
        let value = table.get(long).or_else(|| table.get(&long.replace('-', "_")));
        match value.and_then(texts) {
            // A list of nothing is as if it were not there.
            // What has a default is not missing.
            Some(texts) if !texts.is_empty() => argument.required(false).default_values(texts),
            _ => argument,
        }
    })
}

/// A value, or the values of a list, as they would stand on the command line.
fn texts(value: &Value) -> Option<Vec<String>> {
    let one = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::Boolean(flag) => Some(flag.to_string()),
        Value::Array(_) | Value::Table(_) | Value::Datetime(_) => None,
    };
    match value {
        Value::Array(values) => values.iter().map(one).collect(),
        value => Some(vec![one(value)?]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Arg, ArgAction};

    fn command() -> Command {
        let node = Command::new("node")
            .arg(Arg::new("config").long("config"))
            .arg(Arg::new("db-path").long("db-path").required(true))
            .arg(Arg::new("port").long("port").default_value("8080"))
            .arg(Arg::new("mlock").long("mlock").action(ArgAction::SetTrue))
            .arg(Arg::new("blocks").long("blocks").num_args(1..));
        Command::new("cofferdam").subcommand(node)
    }

    /// What a file, and arguments after its name, come to; or why not.
    fn parse(text: &str, arguments: &[&str]) -> Result<(String, String, bool, Vec<String>), String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node.toml");
        std::fs::write(&path, text).unwrap();
        let first = ["cofferdam", "node", "--config", path.to_str().unwrap()];
        let all: Vec<OsString> = first.iter().chain(arguments).map(OsString::from).collect();
        let command = apply(command(), "node", &all).map_err(|error| error.to_string())?;
        let matches = command.try_get_matches_from(&all).map_err(|error| error.to_string())?;
        let node = matches.subcommand_matches("node").unwrap();
        let text = |name: &str| node.get_one::<String>(name).cloned().unwrap_or_default();
        let blocks = node.get_many::<String>("blocks").unwrap_or_default().cloned().collect();
        Ok((text("db-path"), text("port"), node.get_flag("mlock"), blocks))
    }

    #[test]
    fn a_file_says_what_the_command_line_does_not() {
        let file = "db-path = \"here\"\nport = 9000\nmlock = true\nblocks = [\"a\", \"b\"]";
        assert_eq!(parse(file, &[]), Ok(("here".into(), "9000".into(), true, vec!["a".into(), "b".into()])));
        let said = parse(file, &["--db-path=there", "--blocks", "c"]);
        assert_eq!(said, Ok(("there".into(), "9000".into(), true, vec!["c".into()])));
        assert_eq!(parse("db_path = \"x\"", &[]), Ok(("x".into(), "8080".into(), false, vec![])));
    }

    #[test]
    fn what_is_no_option_is_refused_with_its_name() {
        for (file, named) in [
            ("prot = 1", "`prot`"),
            ("config = \"other\"", "`config`"),
            ("port = { a = 1 }", "`port`"),
            ("port = ", "node.toml"),
        ] {
            let error = parse(file, &["--db-path=x"]).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
        // And what is missing is still missing.
        assert!(parse("port = 1", &[]).unwrap_err().contains("--db-path"));
    }

    #[test]
    fn what_is_no_toml_is_refused_by_its_line_and_not_shown() {
        for file in ["port = 1\nauth = user:hunter2\n", "\nauth = \"user:hunter2\n", "\nauth: user:hunter2"] {
            let error = parse(file, &[]).unwrap_err();
            assert!(error.contains("node.toml: line 2: ") && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_an_error() {
        let arguments = ["cofferdam", "node", "--config=/nowhere/node.toml"].map(OsString::from);
        assert!(apply(command(), "node", &arguments).unwrap_err().to_string().contains("/nowhere/node.toml"));
    }
}
