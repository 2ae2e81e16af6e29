//! Options from a TOML file. They become defaults of the command line, so variables and the command line count for more.
//!
//! A key is a long name of an option of any command. A key that belongs to another command is ignored with a warning. One file,
//! which COFFERDAM_CONFIG names, can therefore have the options of every command in a container.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::builder::{BoolishValueParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, Command};
use toml::{Table, Value};

use super::error::CliError;
use super::suggest;
use super::variables::{self, Conflicts, SECRETS};

/// The most bytes of a file of options.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The option that names the file.
const OPTION: &str = "config";

/// The variable that names the file.
const VARIABLE: &str = "COFFERDAM_CONFIG";

/// If the arguments or the environment name a file of options, makes its options the defaults of `command`. The second value is
/// a sentence for the log about keys that were ignored.
///
/// # Errors
/// [`CliError::File`] if the file cannot be read; [`CliError::Usage`] if the file has a wrong option. The error names the file
/// and the key.
pub(super) fn apply(command: Command, arguments: &[OsString]) -> Result<(Command, Option<String>), CliError> {
    let Some(path) = file_of(arguments) else { return Ok((command, None)) };
    let table = read(&path)?;
    let file = OptionsFile { path: &path, table: &table, arguments };
    let names = subcommands_of(&command, arguments);
    let passed_over = file.check(&command, &names)?;
    Ok((file.with_defaults(command, &names), passed_over))
}

/// The path of the file. It is found before clap parses the command line, because the file changes the defaults of the parser.
fn file_of(arguments: &[OsString]) -> Option<PathBuf> {
    let mut rest = arguments.iter().skip(1).take_while(|argument| *argument != "--");
    while let Some(argument) = rest.next() {
        let text = argument.to_str().unwrap_or_default();
        match text.strip_prefix("--").and_then(|text| text.strip_prefix(OPTION)) {
            Some("") => return rest.next().map(PathBuf::from),
            Some(value) if value.starts_with('=') => return Some(value[1..].into()),
            _ => {}
        }
    }
    variables::set(VARIABLE).map(PathBuf::from)
}

/// The names of the subcommand that the arguments ask for, for example `["snapshot", "take"]`.
fn subcommands_of(command: &Command, arguments: &[OsString]) -> Vec<String> {
    let (mut command, mut names) = (command, Vec::new());
    for argument in arguments.iter().skip(1) {
        if let Some(inner) = command.find_subcommand(argument) {
            names.push(inner.get_name().to_owned());
            command = inner;
        }
    }
    names
}

fn read(path: &Path) -> Result<Table, CliError> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text));
    read.map_err(|source| CliError::File { path: path.to_owned(), source })?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(wrong(path, "the file has more than 1 MiB"));
    }
    text.parse().map_err(|error: toml::de::Error| {
        // The error's own text shows the line, which may have a password.
        let line = error.span().map(|span| 1 + text[..span.start.min(text.len())].matches('\n').count());
        let place = line.map_or_else(String::new, |line| format!("line {line}: "));
        wrong(path, &format!("{place}{}", error.message()))
    })
}

fn wrong(path: &Path, reason: &str) -> CliError {
    CliError::Usage(format!("{}: {reason}", path.display()))
}

/// A file of options, and the command line beside it.
struct OptionsFile<'a> {
    path: &'a Path,
    table: &'a Table,
    arguments: &'a [OsString],
}

impl OptionsFile<'_> {
    /// Refuses a key that is no option of any command, a value that its option does not take, and options that exclude each
    /// other. Returns a sentence about the keys of other commands, if the file has such keys.
    fn check(&self, root: &Command, names: &[String]) -> Result<Option<String>, CliError> {
        let command =
            names.iter().try_fold(root, |command, name| command.find_subcommand(name)).unwrap_or(root);
        let mut passed_over = Vec::new();
        for (key, value) in self.table {
            match options(root).chain(options(command)).find(|argument| has_name(argument, key)) {
                Some(argument) => self.check_value(root, names, (key, value), argument)?,
                None if all_options(root).iter().any(|argument| has_name(argument, key)) => {
                    passed_over.push(key);
                }
                None => return Err(self.unknown(root, command, key)),
            }
        }
        self.check_conflicts(command)?;
        let keys: Vec<_> = passed_over.iter().map(|key| format!("`{key}`")).collect();
        Ok((!keys.is_empty()).then(|| {
            let (path, command) = (self.path.display(), names.join(" "));
            format!("{path}: {} not used: `cofferdam {command}` has no such option", keys.join(", "))
        }))
    }

    fn unknown(&self, root: &Command, command: &Command, key: &str) -> CliError {
        let (own, all): (Vec<_>, Vec<_>) =
            (options(root).chain(options(command)).collect(), all_options(root));
        let named =
            |options: &[&Arg]| options.iter().flat_map(|option| variables::names(option)).collect::<Vec<_>>();
        let name = key.replace('_', "-");
        let near = [named(&own), named(&all)]
            .iter()
            .find_map(|known| suggest::nearest(&name, known.iter().map(String::as_str)));
        let suggestion = near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
        wrong(self.path, &format!("`{key}` is not an option that a file can set{suggestion}"))
    }

    /// Checks the value: clap parses it as if it were on the command line.
    fn check_value(
        &self,
        root: &Command,
        names: &[String],
        (key, value): (&str, &Value),
        argument: &Arg,
    ) -> Result<(), CliError> {
        let refused = |reason: &str| Err(wrong(self.path, &format!("`{key}`: {reason}")));
        let Some(texts) = texts(value) else {
            return refused("expected text, a number, true, false, or a list of these");
        };
        if matches!(argument.get_action(), ArgAction::SetTrue) {
            // The argument is not passed, because an argument has no display name before its command is built.
            let parse = |text: &String| BoolishValueParser::new().parse_ref(root, None, text.as_ref());
            return match texts.as_slice() {
                [] => Ok(()),
                [text] if parse(text).is_ok() => Ok(()),
                _ => refused("expected true or false"),
            };
        }
        let takes_several = matches!(argument.get_action(), ArgAction::Append)
            || argument.get_num_args().is_some_and(|count| count.max_values() > 1);
        if texts.len() > 1 && !takes_several {
            return refused("expected one value, and this is a list");
        }
        let long = argument.get_long().unwrap_or_default();
        for text in texts {
            let word = format!("--{long}={text}");
            let line = std::iter::once("cofferdam".to_owned()).chain(names.iter().cloned()).chain([word]);
            match root.clone().try_get_matches_from(line) {
                Err(error) if is_about_value(error.kind()) => {
                    return match SECRETS.contains(&long) {
                        true => refused("the value is wrong (not repeated here, because it may be a secret)"),
                        false => refused(&reason_of(&error)),
                    };
                }
                // Any other error, for example a missing option, is not about this value.
                _ => {}
            }
        }
        Ok(())
    }

    fn check_conflicts(&self, command: &Command) -> Result<(), CliError> {
        let conflicts = Conflicts::of(command);
        for argument in options(command).filter(|argument| self.value_of(argument).is_some()) {
            if let Some(other) = conflicts.of_argument(argument).find(|other| self.value_of(other).is_some())
            {
                let [left, right] = [argument, other].map(|one| one.get_long().unwrap_or_default());
                return Err(wrong(
                    self.path,
                    &format!("`{left}` and `{right}` exclude each other: remove one"),
                ));
            }
        }
        Ok(())
    }

    /// `command` and the subcommand with these names, with the values of the file as defaults.
    fn with_defaults(&self, command: Command, names: &[String]) -> Command {
        let conflicts = Conflicts::of(&command);
        let command = command.mut_args(|argument| {
            // The command line and variables count for more than the file, even if they have an option that excludes this one.
            let excluded =
                conflicts.of_argument(&argument).any(|other| variables::is_said(other, self.arguments));
            match self.value_of(&argument).filter(|_| !excluded) {
                // A key with an empty list is ignored. A required option with a default is not missing.
                Some(texts) if !texts.is_empty() => argument.required(false).default_values(texts),
                _ => argument,
            }
        });
        match names {
            [] => command,
            [name, rest @ ..] => command.mut_subcommand(name, |inner| self.with_defaults(inner, rest)),
        }
    }

    /// The values that the file has for an option.
    fn value_of(&self, argument: &Arg) -> Option<Vec<String>> {
        self.table
            .iter()
            .find(|(key, _)| is_settable(argument) && has_name(argument, key))
            .and_then(|(_, value)| texts(value))
    }
}

/// Whether this kind of error says that the value of an option is wrong.
fn is_about_value(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::InvalidValue
            | ErrorKind::ValueValidation
            | ErrorKind::TooManyValues
            | ErrorKind::TooFewValues
            | ErrorKind::WrongNumberOfValues
            | ErrorKind::NoEquals
            | ErrorKind::InvalidUtf8
    )
}

/// The reason in clap's error, without the prefix and the hints around it.
fn reason_of(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    text.split("\n\n").next().unwrap_or(text).trim_end().to_owned()
}

/// Whether a file can set this option.
fn is_settable(argument: &Arg) -> bool {
    argument.get_long().is_some_and(|long| !matches!(long, OPTION | "join-cgroup" | "help" | "version"))
}

/// The options of a command that a file can set.
fn options(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|argument| is_settable(argument))
}

/// The options of a command and its subcommands that a file can set.
fn all_options(command: &Command) -> Vec<&Arg> {
    let inner = command.get_subcommands().flat_map(all_options);
    options(command).chain(inner).collect()
}

/// Whether an option has this name, in which underscores count as hyphens.
fn has_name(argument: &Arg, key: &str) -> bool {
    variables::names(argument).contains(&key.replace('_', "-"))
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

    fn is_port(text: &str) -> Result<String, std::num::ParseIntError> {
        text.parse::<u16>().map(|port| port.to_string())
    }

    fn command() -> Command {
        let node = Command::new("node")
            .arg(Arg::new("config").long("config"))
            .arg(Arg::new("db-path").long("db-path").required(true))
            .arg(Arg::new("port").long("port").default_value("8080").value_parser(is_port))
            .arg(Arg::new("mlock").long("mlock").action(ArgAction::SetTrue))
            .arg(Arg::new("blocks").long("blocks").num_args(1..));
        let serve = Command::new("serve").arg(Arg::new("listen").long("listen"));
        Command::new("cofferdam").subcommand(node).subcommand(serve)
    }

    /// What a file, and arguments after its name, come to; or why not.
    fn parse(text: &str, arguments: &[&str]) -> Result<(String, String, bool, Vec<String>), String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node.toml");
        std::fs::write(&path, text).unwrap();
        let first = ["cofferdam", "node", "--config", path.to_str().unwrap()];
        let all: Vec<OsString> = first.iter().chain(arguments).map(OsString::from).collect();
        let (command, _) = apply(command(), &all).map_err(|error| error.to_string())?;
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
            ("prot = 1", "`prot` is not an option that a file can set; did you mean `port`?"),
            ("listn = 1", "did you mean `listen`?"),
            (
                "port = 99999",
                "node.toml: `port`: invalid value '99999' for '--port <port>': number too large",
            ),
            ("mlock = \"perhaps\"", "node.toml: `mlock`: expected true or false"),
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
    fn an_option_of_another_command_is_passed_over_and_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node.toml");
        std::fs::write(&path, "listen = \"x\"\nport = 1").unwrap();
        let all = ["cofferdam", "node", "--config", path.to_str().unwrap()].map(OsString::from);
        let (_, passed_over) = apply(command(), &all).unwrap();
        assert!(passed_over.unwrap().ends_with("`listen` not used: `cofferdam node` has no such option"));
    }

    #[test]
    fn a_file_that_is_not_there_is_an_error() {
        let arguments = ["cofferdam", "node", "--config=/nowhere/node.toml"].map(OsString::from);
        assert!(apply(command(), &arguments).unwrap_err().to_string().contains("/nowhere/node.toml"));
    }
}
