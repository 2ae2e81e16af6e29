//! "Did you mean …?": the known name that is most similar to a wrong name.

use clap::error::{ContextKind, ContextValue};
use clap::{Arg, Command};

/// The name in `known` that is most similar to `name`, if one is similar. clap makes the suggestion, as it does for a wrong
/// option, so that files, variables and the command line get the same suggestions.
pub(super) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let command =
        Command::new("names").disable_help_flag(true).disable_version_flag(true).no_binary_name(true);
    let mut seen = std::collections::BTreeSet::new();
    let names = known.into_iter().filter(|known| seen.insert((*known).to_owned()));
    let command = names.fold(command, |command, known| {
        let known = known.to_owned();
        command.arg(Arg::new(known.clone()).long(known))
    });
    let error = command.try_get_matches_from([format!("--{name}")]).err()?;
    match error.get(ContextKind::SuggestedArg)? {
        ContextValue::String(option) => option.strip_prefix("--").map(str::to_owned),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_like_a_known_one_is_found() {
        let known = ["port", "db-path", "exit-at"];
        assert_eq!(nearest("prot", known).as_deref(), Some("port"));
        assert_eq!(nearest("exit-att", known).as_deref(), Some("exit-at"));
        assert_eq!(nearest("zzz", known), None);
    }
}
