//! Why nodes could not be compared: nothing is known then about their agreement.

use std::fmt::Write as _;
use std::io;

use cofferdam_protocol::profile::Hash;
use thiserror::Error;

use super::node::{About, AboutProfile, NodeError};
use cofferdam_base::size::Bytes;

/// Why nodes could not be compared.
#[derive(Error)]
pub enum AuditError {
    /// There is nothing to compare.
    #[error("an audit takes two nodes or more: give --peer twice, or --peer and --db-path")]
    TooFew,
    /// A node is there twice, and would only agree with itself.
    #[error("{0} is given twice")]
    Twice(String),
    /// A URL that is none.
    #[error("--peer number {number}: {reason}; give http://HOST:PORT")]
    Url {
        /// Which one, from 1 on. The URL is not repeated, because it may have a password.
        number: usize,
        /// What is wrong.
        reason: String,
    },
    /// Nodes did not answer.
    #[error("{}", unanswered(.0))]
    Nodes(Vec<(String, NodeError)>),
    /// Digests of different profiles start differently, and so never agree.
    #[error("{0}")]
    Profiles(Box<OtherProfiles>),
    /// Nodes of different networks have no block in common.
    #[error(
        "{} is on {} and {} is on {}: chains of two networks have no block in common, so there is nothing to compare; give \
         nodes of one network",
        names[0], networks[0], names[1], networks[1]
    )]
    Networks {
        /// What the two nodes are called.
        names: [String; 2],
        /// The network of each.
        networks: [String; 2],
    },
    /// A node has no block yet.
    #[error("{0} has not indexed any block yet")]
    NothingIndexed(String),
    /// No height is in all chains.
    #[error(
        "there is no common height: {low} begins at height {start}, and {high} has only come to height {tip}"
    )]
    NoCommonHeight {
        /// The node that begins last.
        low: String,
        /// Where.
        start: u32,
        /// The node that ends first.
        high: String,
        /// Where.
        tip: u32,
    },
    /// The height that was asked for is not in all chains.
    #[error("--at {at}: all nodes have the heights from {floor} to {top}")]
    At {
        /// What was asked for.
        at: u32,
        /// The first height that all have.
        floor: u32,
        /// The last one.
        top: u32,
    },
    /// A thread could not be started.
    #[error("a thread to ask a node: {0}")]
    Thread(#[source] io::Error),
    /// A thread panicked.
    #[error("internal error: a thread that asks a node has panicked")]
    Panicked,
}

cofferdam_protocol::debug_as_display!(AuditError);

/// Two nodes of different profiles.
#[derive(Debug)]
pub struct OtherProfiles {
    /// What they are called.
    pub names: [String; 2],
    /// What they say of themselves.
    pub about: [About; 2],
}

impl std::fmt::Display for OtherProfiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [left, right] = &self.names;
        let profiles = self.about.each_ref().map(|about| &about.profile);
        writeln!(f, "{left} and {right} have different profiles, so their digests cannot be compared:")?;
        let parts = differing(profiles);
        if !parts.is_empty() {
            return f.write_str(&parts.join("\n"));
        }
        writeln!(f, "  profile: {} and {}", profiles[0].hash, profiles[1].hash)?;
        let known = profiles.iter().all(|profile| profile.module.is_some());
        let versions = self.about.each_ref().map(|about| about.version.as_deref().unwrap_or("unknown"));
        let [left, right] = versions;
        let what = if known { "the module is the same: a limit" } else { "the module, a limit" };
        write!(f, "  {what} (memory, fuel or output) or the engine differs")?;
        write!(f, "; versions {left} and {right}")
    }
}

/// The parts that are known to differ, one a line.
fn differing([left, right]: [&AboutProfile; 2]) -> Vec<String> {
    let mut parts = Vec::new();
    let mut add = |what: &str, left: String, right: String| {
        if left != right {
            parts.push(format!("  {what}: {left} and {right}"));
        }
    };
    if let (Some(left), Some(right)) = (left.module, right.module) {
        add("module", left.to_string(), right.to_string());
    }
    if let (Some(left), Some(right)) = (&left.terms, &right.terms) {
        let fuel = |fuel: Option<u64>| fuel.map_or("not metered".to_owned(), |fuel| fuel.to_string());
        // Sizes are not rounded: a difference of a page is one.
        let bytes = |bytes: u64| format!("{} ({bytes} bytes)", Bytes(bytes));
        add("memory limit", bytes(left.memory_bytes), bytes(right.memory_bytes));
        add("fuel", fuel(left.fuel), fuel(right.fuel));
        add("output limit", bytes(left.output_bytes), bytes(right.output_bytes));
        add("engine", left.engine.clone(), right.engine.clone());
    }
    parts
}

/// All that did not answer: an operator who mends one at a time would ask as often.
fn unanswered(nodes: &[(String, NodeError)]) -> String {
    let mut text = String::new();
    for (index, (name, error)) in nodes.iter().enumerate() {
        let separator = if index == 0 { "" } else { "\n" };
        // Writing to a string does not fail.
        let _ = write!(text, "{separator}{name}: {error}");
    }
    text
}

/// Refuses nodes that say that they are on different networks.
pub(super) fn check_networks(names: &[&str], about: &[About]) -> Result<(), AuditError> {
    let mut known =
        names.iter().zip(about).filter_map(|(name, about)| Some((*name, about.network.as_deref()?)));
    let Some((first, network)) = known.next() else { return Ok(()) };
    match known.find(|(_, other)| *other != network) {
        None => Ok(()),
        Some((name, other)) => Err(AuditError::Networks {
            names: [first, name].map(str::to_owned),
            networks: [network, other].map(str::to_owned),
        }),
    }
}

/// The first node whose profile is another than the first node's.
pub(super) fn check_profiles(names: &[&str], about: &[About]) -> Result<Hash, AuditError> {
    let first = about.first().ok_or(AuditError::TooFew)?;
    match about.iter().position(|other| other.profile.hash != first.profile.hash) {
        None => Ok(first.profile.hash),
        Some(other) => Err(AuditError::Profiles(Box::new(OtherProfiles {
            names: [names[0].to_owned(), names[other].to_owned()],
            about: [first.clone(), about[other].clone()],
        }))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::node::Terms;
    use super::*;

    fn about(hash: u8, module: Option<u8>, terms: Option<Terms>) -> About {
        let profile =
            AboutProfile { hash: Hash([hash; 32]), module: module.map(|byte| Hash([byte; 32])), terms };
        About { version: Some("0.1.0".to_owned()), profile, start_height: 0, tip: Some(1), network: None }
    }

    fn terms() -> Terms {
        Terms { memory_bytes: 4 << 30, fuel: None, output_bytes: 128 << 20, engine: "wasmtime 48".to_owned() }
    }

    fn told(left: About, right: About) -> String {
        check_profiles(&["a", "b"], &[left, right]).unwrap_err().to_string()
    }

    #[test]
    fn equal_profiles_are_fine() {
        let both = [about(1, Some(1), None), about(1, None, Some(terms()))];
        assert_eq!(check_profiles(&["a", "b"], &both).unwrap(), Hash([1; 32]));
    }

    #[test]
    fn what_differs_is_named_as_far_as_it_is_known() {
        let text = told(about(1, Some(1), None), about(2, Some(2), None));
        let expected = format!("  module: {} and {}", "01".repeat(32), "02".repeat(32));
        assert!(text.starts_with("a and b have different profiles") && text.ends_with(&expected), "{text}");
        let text = told(about(1, Some(1), None), about(2, Some(1), None));
        assert!(text.contains("the module is the same: a limit"), "{text}");
        assert!(text.contains(&format!("profile: {} and {}", "01".repeat(32), "02".repeat(32))), "{text}");
        let text = told(about(1, Some(1), None), about(2, None, None));
        assert!(text.contains("  the module, a limit"), "{text}");
        let other = Terms { memory_bytes: (4 << 30) - 65536, fuel: Some(5), ..terms() };
        let text = told(about(1, Some(1), Some(terms())), about(2, Some(1), Some(other)));
        let lines: Vec<_> = text.lines().skip(1).collect();
        assert_eq!(
            lines,
            [
                "  memory limit: 4 GiB (4294967296 bytes) and 4 GiB (4294901760 bytes)",
                "  fuel: not metered and 5"
            ]
        );
        let other = Terms { output_bytes: 1, engine: "wasmtime 49".to_owned(), ..terms() };
        let text = told(about(1, Some(1), Some(terms())), about(2, Some(1), Some(other)));
        assert!(text.contains("output limit: 128 MiB (134217728 bytes) and 1 B (1 bytes)"), "{text}");
        assert!(text.contains("engine: wasmtime 48 and wasmtime 49"), "{text}");
    }

    #[test]
    fn nodes_of_two_networks_are_named_with_both() {
        let on =
            |network: Option<&str>| About { network: network.map(str::to_owned), ..about(1, None, None) };
        let all = [on(None), on(Some("bitcoin")), on(Some("bitcoin")), on(Some("signet"))];
        check_networks(&["a", "b", "c"], &all[..3]).unwrap();
        let text = check_networks(&["a", "b", "c", "d"], &all).unwrap_err().to_string();
        assert!(text.starts_with("b is on bitcoin and d is on signet: "), "{text}");
    }

    #[test]
    fn every_node_that_did_not_answer_is_named() {
        let error = AuditError::Nodes(vec![
            ("http://a".to_owned(), NodeError::Unreachable("refused".to_owned())),
            ("http://b".to_owned(), NodeError::TooLong(5)),
        ]);
        let text = error.to_string();
        assert!(
            text.starts_with("http://a: it cannot be reached: refused\nhttp://b: its answer is longer"),
            "{text}"
        );
    }
}
