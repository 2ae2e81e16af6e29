//! Why nodes could not be compared. After such an error nothing is known about their agreement.

use std::fmt::Write as _;
use std::io;

use cofferdam_protocol::profile::Hash;
use thiserror::Error;

use super::source::{ProfileInfo, SourceError, SourceInfo};
use cofferdam_base::size::Bytes;

/// Why nodes could not be compared.
#[derive(Error)]
pub enum AuditError {
    /// Fewer than two nodes were given.
    #[error("an audit needs two nodes or more: give --peer twice, or --peer and --db-path")]
    TooFew,
    /// A node was given twice. The node would be compared with itself, which shows nothing.
    #[error("{0} is given twice")]
    Twice(String),
    /// A URL is wrong.
    #[error("--peer number {number} is wrong: {reason}; give http://HOST:PORT")]
    Url {
        /// The number of the option, from 1 on. The URL is not repeated, because it may hold a password.
        number: usize,
        /// What is wrong with the URL.
        reason: String,
    },
    /// Nodes did not answer. Every one of them is named.
    #[error("{}", unanswered(.0))]
    NotAnswered(Vec<(String, SourceError)>),
    /// Two nodes have different profiles. Digests start from the profile, and so cannot be compared.
    #[error("{0}")]
    Profiles(Box<DifferentProfiles>),
    /// Two nodes are on different networks. Their chains have no block in common.
    #[error(
        "{} is on {} and {} is on {}: chains of two networks have no block in common, so there is nothing to compare; give \
         nodes of one network",
        names[0], networks[0], names[1], networks[1]
    )]
    Networks {
        /// The names of the nodes.
        names: [String; 2],
        /// The network of each node.
        networks: [String; 2],
    },
    /// A node has not indexed any block yet.
    #[error("{0} has not indexed any block yet")]
    NothingIndexed(String),
    /// There is no height that all nodes have.
    #[error("there is no common height: {low} begins at height {start}, but {high} is only at height {tip}")]
    NoCommonHeight {
        /// The node that begins at the highest height.
        low: String,
        /// The height at which it begins.
        start: u32,
        /// The node whose newest height is the lowest.
        high: String,
        /// Its newest height.
        tip: u32,
    },
    /// Not all nodes have the requested height.
    #[error("--at {at} is out of range: all nodes have the heights from {floor} to {top}")]
    At {
        /// The requested height.
        at: u32,
        /// The first height that all nodes have.
        floor: u32,
        /// The last height that all nodes have.
        top: u32,
    },
    /// A thread could not be started.
    #[error("cannot start a thread that asks a node: {0}")]
    Thread(#[source] io::Error),
    /// A thread panicked, which is a defect.
    #[error("internal error: a thread that asks a node panicked")]
    Panicked,
}

cofferdam_protocol::debug_as_display!(AuditError);

/// Two nodes of different profiles.
#[derive(Debug)]
pub struct DifferentProfiles {
    /// The names of the nodes.
    pub names: [String; 2],
    /// What the nodes say about themselves.
    pub info: [SourceInfo; 2],
}

impl std::fmt::Display for DifferentProfiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [left, right] = &self.names;
        let profiles = self.info.each_ref().map(|info| &info.profile);
        writeln!(f, "{left} and {right} have different profiles, so their digests cannot be compared:")?;
        let parts = differing(profiles);
        if !parts.is_empty() {
            return f.write_str(&parts.join("\n"));
        }
        writeln!(f, "  profile: {} and {}", profiles[0].hash, profiles[1].hash)?;
        let known = profiles.iter().all(|profile| profile.module.is_some());
        let versions = self.info.each_ref().map(|info| info.version.as_deref().unwrap_or("unknown"));
        let [left, right] = versions;
        let what = if known { "the module is the same: a limit" } else { "the module, a limit" };
        write!(f, "  {what} (memory, fuel or output) or the engine differs")?;
        write!(f, "; versions {left} and {right}")
    }
}

/// The parts of two profiles that are known to differ, each on a line.
fn differing([left, right]: [&ProfileInfo; 2]) -> Vec<String> {
    let mut parts = Vec::new();
    let mut add = |what: &str, left: String, right: String| {
        if left != right {
            parts.push(format!("  {what}: {left} and {right}"));
        }
    };
    if let (Some(left), Some(right)) = (left.module, right.module) {
        add("module", left.to_string(), right.to_string());
    }
    if let (Some(left), Some(right)) = (&left.settings, &right.settings) {
        let fuel = |fuel: Option<u64>| fuel.map_or("not metered".to_owned(), |fuel| fuel.to_string());
        // The exact number of bytes is shown, too: sizes that differ by one page must not look equal.
        let bytes = |bytes: u64| format!("{} ({bytes} bytes)", Bytes(bytes));
        add("memory limit", bytes(left.memory_bytes), bytes(right.memory_bytes));
        add("fuel", fuel(left.fuel), fuel(right.fuel));
        add("output limit", bytes(left.output_bytes), bytes(right.output_bytes));
        add("engine", left.engine.clone(), right.engine.clone());
    }
    parts
}

/// One line for each node that did not answer, so that an operator can mend all of them at once.
fn unanswered(nodes: &[(String, SourceError)]) -> String {
    let mut text = String::new();
    for (index, (name, error)) in nodes.iter().enumerate() {
        let separator = if index == 0 { "" } else { "\n" };
        // Writing to a string does not fail.
        let _ = write!(text, "{separator}{name}: {error}");
    }
    text
}

/// Refuses nodes that say that they are on different networks.
pub(super) fn check_networks(names: &[&str], info: &[SourceInfo]) -> Result<(), AuditError> {
    let mut known = names.iter().zip(info).filter_map(|(name, info)| Some((*name, info.network.as_deref()?)));
    let Some((first, network)) = known.next() else { return Ok(()) };
    match known.find(|(_, other)| *other != network) {
        None => Ok(()),
        Some((name, other)) => Err(AuditError::Networks {
            names: [first, name].map(str::to_owned),
            networks: [network, other].map(str::to_owned),
        }),
    }
}

/// Returns the profile that all nodes have. The error names the first node with another profile.
pub(super) fn check_profiles(names: &[&str], info: &[SourceInfo]) -> Result<Hash, AuditError> {
    let first = info.first().ok_or(AuditError::TooFew)?;
    match info.iter().position(|other| other.profile.hash != first.profile.hash) {
        None => Ok(first.profile.hash),
        Some(other) => Err(AuditError::Profiles(Box::new(DifferentProfiles {
            names: [names[0].to_owned(), names[other].to_owned()],
            info: [first.clone(), info[other].clone()],
        }))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::source::ProfileSettings;
    use super::*;

    fn info(hash: u8, module: Option<u8>, settings: Option<ProfileSettings>) -> SourceInfo {
        let profile =
            ProfileInfo { hash: Hash([hash; 32]), module: module.map(|byte| Hash([byte; 32])), settings };
        SourceInfo {
            version: Some("0.1.0".to_owned()),
            profile,
            start_height: 0,
            tip: Some(1),
            network: None,
        }
    }

    fn settings() -> ProfileSettings {
        ProfileSettings {
            memory_bytes: 4 << 30,
            fuel: None,
            output_bytes: 128 << 20,
            engine: "wasmtime 48".to_owned(),
        }
    }

    fn message(left: SourceInfo, right: SourceInfo) -> String {
        check_profiles(&["a", "b"], &[left, right]).unwrap_err().to_string()
    }

    #[test]
    fn nodes_of_two_networks_are_named_with_both() {
        let on =
            |network: Option<&str>| SourceInfo { network: network.map(str::to_owned), ..info(1, None, None) };
        let all = [on(None), on(Some("bitcoin")), on(Some("bitcoin")), on(Some("signet"))];
        check_networks(&["a", "b", "c"], &all[..3]).unwrap();
        let text = check_networks(&["a", "b", "c", "d"], &all).unwrap_err().to_string();
        assert!(text.starts_with("b is on bitcoin and d is on signet: "), "{text}");
    }

    #[test]
    fn equal_profiles_are_accepted() {
        let both = [info(1, Some(1), None), info(1, None, Some(settings()))];
        assert_eq!(check_profiles(&["a", "b"], &both).unwrap(), Hash([1; 32]));
    }

    #[test]
    fn what_differs_is_named_as_far_as_it_is_known() {
        let text = message(info(1, Some(1), None), info(2, Some(2), None));
        let expected = format!("  module: {} and {}", "01".repeat(32), "02".repeat(32));
        assert!(text.starts_with("a and b have different profiles") && text.ends_with(&expected), "{text}");
        let text = message(info(1, Some(1), None), info(2, Some(1), None));
        assert!(text.contains("the module is the same: a limit"), "{text}");
        assert!(text.contains(&format!("profile: {} and {}", "01".repeat(32), "02".repeat(32))), "{text}");
        let text = message(info(1, Some(1), None), info(2, None, None));
        assert!(text.contains("  the module, a limit"), "{text}");
        let other = ProfileSettings { memory_bytes: (4 << 30) - 65536, fuel: Some(5), ..settings() };
        let text = message(info(1, Some(1), Some(settings())), info(2, Some(1), Some(other)));
        let lines: Vec<_> = text.lines().skip(1).collect();
        assert_eq!(
            lines,
            [
                "  memory limit: 4 GiB (4294967296 bytes) and 4 GiB (4294901760 bytes)",
                "  fuel: not metered and 5"
            ]
        );
        let other = ProfileSettings { output_bytes: 1, engine: "wasmtime 49".to_owned(), ..settings() };
        let text = message(info(1, Some(1), Some(settings())), info(2, Some(1), Some(other)));
        assert!(text.contains("output limit: 128 MiB (134217728 bytes) and 1 B (1 bytes)"), "{text}");
        assert!(text.contains("engine: wasmtime 48 and wasmtime 49"), "{text}");
    }

    #[test]
    fn every_node_that_did_not_answer_is_named() {
        let error = AuditError::NotAnswered(vec![
            ("http://a".to_owned(), SourceError::Unreachable("refused".to_owned())),
            ("http://b".to_owned(), SourceError::TooLong(5)),
        ]);
        let text = error.to_string();
        assert!(
            text.starts_with("http://a: the node cannot be reached: refused\nhttp://b: the answer is longer"),
            "{text}"
        );
    }
}
