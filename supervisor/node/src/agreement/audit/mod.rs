//! Compares nodes that index the same chain. An audit says whether the nodes came to the same results. If they did not, the audit
//! names the first block at which they differ.
//!
//! A node's digest at a height covers every block up to that height. One comparison at a common height therefore shows whether
//! the nodes agree. If they do not, a binary search ([`bisect`]) finds the first block at which two nodes differ: about twenty
//! calls for a chain of 900,000 blocks. All nodes are queried in parallel, and no node is queried twice for one height.
//!
//! A digest starts from the hash of the profile, and goes on from the first block that the node indexed. Two consequences:
//!
//! - Nodes of different profiles are not compared.
//! - Nodes that began at different heights can only agree if one of them took over a digest, from a snapshot for example. If
//!   they do not agree, nothing is known about their results; the cause is then [`DivergenceCause::Start`].
//!
//! A node is queried through a [`DigestSource`]: a [`Peer`] over JSON-RPC, or a [`LocalStore`].

mod answer;
pub mod bisect;
mod error;
mod local_store;
mod peer;
mod querier;
mod source;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use cofferdam_protocol::profile::Hash;

pub use error::{AuditError, DifferentProfiles};
pub use local_store::LocalStore;
pub use peer::Peer;
pub use source::{ChainDigest, DigestSource, ProfileInfo, ProfileSettings, SourceError, SourceInfo};

use bisect::Probe;
use querier::{Answer, Querier};

/// A node that took part in an audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditedNode {
    /// The name of the node.
    pub name: String,
    /// What the node says about itself.
    pub info: SourceInfo,
}

/// Nodes that agree with each other up to the height of the audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The nodes, as indices into [`Audit::nodes`].
    pub nodes: Vec<usize>,
    /// The digest that they have at that height.
    pub digest: ChainDigest,
}

/// Why two nodes differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DivergenceCause {
    /// The same block gave different results.
    Results,
    /// The nodes indexed different blocks at that height.
    Blocks,
    /// The nodes began at different heights, and agree at no height. The digests of such chains say nothing about results.
    Start,
}

/// The first difference of two groups of nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Divergence {
    /// A node of each group, as an index into [`Audit::nodes`]. The first one belongs to the largest group.
    pub nodes: [usize; 2],
    /// The first height at which the two nodes differ.
    pub height: u32,
    /// The digest that each node has at that height.
    pub digests: [ChainDigest; 2],
    /// The height up to which the nodes agree; `None` if they differ from the first common height on.
    pub agreed: Option<u32>,
    /// Why the nodes differ.
    pub cause: DivergenceCause,
}

/// The result of an audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// The nodes, in the given order.
    pub nodes: Vec<AuditedNode>,
    /// The profile of all nodes.
    pub profile: Hash,
    /// The first height that all nodes have.
    pub floor: u32,
    /// The height up to which the nodes were compared.
    pub height: u32,
    /// The nodes, grouped by their digest at that height, the largest group first. A single group means that all nodes agree.
    pub groups: Vec<Group>,
    /// The first difference of each further group from the first group.
    pub divergences: Vec<Divergence>,
}

impl Audit {
    /// Whether all nodes agree; `None` if their digests cannot tell.
    pub fn agrees(&self) -> Option<bool> {
        match self.divergences.as_slice() {
            [] => Some(true),
            divergences
                if divergences.iter().all(|divergence| divergence.cause == DivergenceCause::Start) =>
            {
                None
            }
            _ => Some(false),
        }
    }

    /// Whether more than half of the nodes are in the first group.
    pub fn has_majority(&self) -> bool {
        self.groups.first().is_some_and(|group| group.nodes.len() * 2 > self.nodes.len())
    }
}

/// Compares `nodes` up to the height `at`. Without `at`, they are compared up to the lowest of their newest heights.
///
/// # Errors
/// [`AuditError`]. Nothing is known about the agreement of the nodes then.
pub fn audit(nodes: &[&dyn DigestSource], at: Option<u32>) -> Result<Audit, AuditError> {
    let names: Vec<_> = nodes.iter().map(|node| node.name()).collect();
    check_names(&names)?;
    let mut querier = Querier::new(nodes);
    let info = querier.info()?;
    error::check_networks(&names, &info)?;
    let profile = error::check_profiles(&names, &info)?;
    let (floor, top) = common_heights(&names, &info)?;
    let height = at.unwrap_or(top);
    if !(floor..=top).contains(&height) {
        return Err(AuditError::At { at: height, floor, top });
    }
    let groups = group(&names, &mut querier, height)?;
    let mut divergences = Vec::new();
    if let [first, others @ ..] = groups.as_slice() {
        for other in others {
            divergences.push(find_divergence(&mut querier, &info, [first, other], floor)?);
        }
    }
    let nodes = names.iter().zip(info).map(|(name, info)| AuditedNode { name: (*name).to_owned(), info });
    Ok(Audit { nodes: nodes.collect(), profile, floor, height, groups, divergences })
}

fn check_names(names: &[&str]) -> Result<(), AuditError> {
    let mut seen = BTreeSet::new();
    match names.iter().find(|name| !seen.insert(**name)) {
        Some(name) => Err(AuditError::Twice((*name).to_owned())),
        None if names.len() < 2 => Err(AuditError::TooFew),
        None => Ok(()),
    }
}

/// The first and the last height that all nodes have.
fn common_heights(names: &[&str], info: &[SourceInfo]) -> Result<(u32, u32), AuditError> {
    let mut tips = Vec::new();
    for (name, info) in names.iter().zip(info) {
        tips.push(info.tip.ok_or_else(|| AuditError::NothingIndexed((*name).to_owned()))?);
    }
    let lowest = (0..tips.len()).min_by_key(|node| tips[*node]).ok_or(AuditError::TooFew)?;
    let latest = (0..info.len()).max_by_key(|node| info[*node].start_height).ok_or(AuditError::TooFew)?;
    let (floor, top) = (info[latest].start_height, tips[lowest]);
    if floor <= top {
        return Ok((floor, top));
    }
    let (low, high) = (names[latest].to_owned(), names[lowest].to_owned());
    Err(AuditError::NoCommonHeight { low, start: floor, high, tip: top })
}

/// Groups the nodes by their digests at `height`, the largest group first. Of groups of equal size, the group whose node was
/// given first comes first.
fn group(names: &[&str], querier: &mut Querier<'_>, height: u32) -> Result<Vec<Group>, AuditError> {
    let all: Vec<_> = (0..names.len()).collect();
    let mut groups: Vec<Group> = Vec::new();
    for (node, answer) in querier.digests(height, &all)?.into_iter().enumerate() {
        let digest = match answer {
            Answer::Digest(digest) => digest,
            Answer::BeginsAt(start) => {
                let error = SourceError::BeforeStart { height, start };
                return Err(AuditError::NotAnswered(vec![(names[node].to_owned(), error)]));
            }
        };
        match groups.iter_mut().find(|group| group.digest.digest == digest.digest) {
            Some(group) => group.nodes.push(node),
            None => groups.push(Group { nodes: vec![node], digest }),
        }
    }
    groups.sort_by_key(|group| std::cmp::Reverse(group.nodes.len()));
    Ok(groups)
}

/// Finds the first difference of the first nodes of two groups. The caller knows that they differ at the height of the groups.
fn find_divergence(
    querier: &mut Querier<'_>,
    info: &[SourceInfo],
    groups: [&Group; 2],
    floor: u32,
) -> Result<Divergence, AuditError> {
    let nodes = groups.map(|group| group.nodes[0]);
    let mut digests = groups.map(|group| group.digest);
    let found = bisect::first_different(floor, groups[0].digest.height, |height| {
        let (left, right) = match querier.pair(height, nodes)? {
            [Answer::Digest(left), Answer::Digest(right)] => (left, right),
            [Answer::BeginsAt(left), Answer::BeginsAt(right)] => return Ok(Probe::Before(left.max(right))),
            [Answer::BeginsAt(start), _] | [_, Answer::BeginsAt(start)] => return Ok(Probe::Before(start)),
        };
        if left.digest == right.digest {
            return Ok(Probe::Same);
        }
        // The last probe that differs is the first difference.
        digests = [left, right];
        Ok::<_, AuditError>(Probe::Different)
    })?;
    let agreed = (found.height > found.floor).then(|| found.height - 1);
    let starts = nodes.map(|node| info[node].start_height);
    let begins_later = starts[0] != starts[1] || found.floor != floor;
    let cause = match agreed {
        _ if digests[0].block != digests[1].block => DivergenceCause::Blocks,
        None if begins_later => DivergenceCause::Start,
        _ => DivergenceCause::Results,
    };
    Ok(Divergence { nodes, height: found.height, digests, agreed, cause })
}
