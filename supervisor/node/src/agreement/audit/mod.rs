//! Whether nodes that index the same chain came to the same results, and if not, from which block on.
//!
//! A node's digest at a height covers everything up to it, so that one comparison at a common height settles agreement,
//! and a search by halves ([`bisect`]) finds the block at which two nodes part: some twenty questions for a chain of
//! 900,000 blocks. Every node is asked at the same time, and none twice about one height.
//!
//! Digests start from the profile's hash and go on from the first block that a node indexed. Nodes of different profiles
//! are therefore not compared at all; of nodes that began at different heights only one that took over a digest (from a
//! snapshot, say) can agree with the other, and what does not is told as [`Cause::Start`].
//!
//! A node is asked through [`Node`]: a [`Peer`] over JSON-RPC, or the [`OwnStore`].

mod answer;
pub mod bisect;
mod error;
mod node;
mod own;
mod panel;
mod peer;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use cofferdam_protocol::profile::Hash;

pub use error::{AuditError, OtherProfiles};
pub use node::{About, AboutProfile, ChainDigest, Node, NodeError, Terms};
pub use own::OwnStore;
pub use peer::Peer;

use bisect::Probe;
use panel::{Answer, Panel};

/// A node that took part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audited {
    /// What it is called.
    pub name: String,
    /// What it says of itself.
    pub about: About,
}

/// Nodes that agree with each other, up to the height of the audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Their places in [`Audit::nodes`].
    pub nodes: Vec<usize>,
    /// What they have at that height.
    pub digest: ChainDigest,
}

/// Why two nodes part where they do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The same block gave different results.
    Results,
    /// They indexed different blocks at that height.
    Blocks,
    /// They began at different heights, and nothing is known to agree: digests of such chains say nothing about results.
    Start,
}

/// Where two groups part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parting {
    /// A node of each group, by its place in [`Audit::nodes`]; the first is of the largest group.
    pub nodes: [usize; 2],
    /// The first height at which they differ.
    pub height: u32,
    /// What each has there.
    pub digests: [ChainDigest; 2],
    /// The height up to which they are known to agree; none if they differ from the first common height on.
    pub agreed: Option<u32>,
    /// Why.
    pub cause: Cause,
}

/// What an audit found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// The nodes, as they were given.
    pub nodes: Vec<Audited>,
    /// The profile that all of them have.
    pub profile: Hash,
    /// The first height that all of them have.
    pub floor: u32,
    /// The height up to which they were compared.
    pub height: u32,
    /// The nodes by what they have there, the largest group first. A single one means that all agree.
    pub groups: Vec<Group>,
    /// Where each further group parts from the first one.
    pub partings: Vec<Parting>,
}

impl Audit {
    /// Whether all nodes agree; none if digests cannot tell.
    pub fn agrees(&self) -> Option<bool> {
        match self.partings.as_slice() {
            [] => Some(true),
            partings if partings.iter().all(|parting| parting.cause == Cause::Start) => None,
            _ => Some(false),
        }
    }

    /// Whether more than half of the nodes are in the first group.
    pub fn has_majority(&self) -> bool {
        self.groups.first().is_some_and(|group| group.nodes.len() * 2 > self.nodes.len())
    }
}

/// Compares `nodes` up to the height `at`, by default the lowest of their newest heights.
///
/// # Errors
/// [`AuditError`]: nothing is known about their agreement then.
pub fn audit(nodes: &[&dyn Node], at: Option<u32>) -> Result<Audit, AuditError> {
    let names: Vec<_> = nodes.iter().map(|node| node.name()).collect();
    check_names(&names)?;
    let mut panel = Panel::new(nodes);
    let about = panel.about()?;
    error::check_networks(&names, &about)?;
    let profile = error::check_profiles(&names, &about)?;
    let (floor, top) = common_heights(&names, &about)?;
    let height = at.unwrap_or(top);
    if !(floor..=top).contains(&height) {
        return Err(AuditError::At { at: height, floor, top });
    }
    let groups = group(&names, &mut panel, height)?;
    let mut partings = Vec::new();
    if let [first, others @ ..] = groups.as_slice() {
        for other in others {
            partings.push(part(&mut panel, &about, [first, other], floor)?);
        }
    }
    let nodes = names.iter().zip(about).map(|(name, about)| Audited { name: (*name).to_owned(), about });
    Ok(Audit { nodes: nodes.collect(), profile, floor, height, groups, partings })
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
fn common_heights(names: &[&str], about: &[About]) -> Result<(u32, u32), AuditError> {
    let mut tips = Vec::new();
    for (name, about) in names.iter().zip(about) {
        tips.push(about.tip.ok_or_else(|| AuditError::NothingIndexed((*name).to_owned()))?);
    }
    let lowest = (0..tips.len()).min_by_key(|node| tips[*node]).ok_or(AuditError::TooFew)?;
    let latest = (0..about.len()).max_by_key(|node| about[*node].start_height).ok_or(AuditError::TooFew)?;
    let (floor, top) = (about[latest].start_height, tips[lowest]);
    if floor <= top {
        return Ok((floor, top));
    }
    let (low, high) = (names[latest].to_owned(), names[lowest].to_owned());
    Err(AuditError::NoCommonHeight { low, start: floor, high, tip: top })
}

/// The nodes by their digests at `height`, the largest group first, and of equal ones that which was given first.
fn group(names: &[&str], panel: &mut Panel<'_>, height: u32) -> Result<Vec<Group>, AuditError> {
    let all: Vec<_> = (0..names.len()).collect();
    let mut groups: Vec<Group> = Vec::new();
    for (node, answer) in panel.digests(height, &all)?.into_iter().enumerate() {
        let digest = match answer {
            Answer::Digest(digest) => digest,
            Answer::Before(start) => {
                let error = NodeError::BeforeStart { height, start };
                return Err(AuditError::Nodes(vec![(names[node].to_owned(), error)]));
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

/// Where the first nodes of two groups part, of which it is known that they differ at the height of the groups.
fn part(
    panel: &mut Panel<'_>,
    about: &[About],
    groups: [&Group; 2],
    floor: u32,
) -> Result<Parting, AuditError> {
    let nodes = groups.map(|group| group.nodes[0]);
    let mut digests = groups.map(|group| group.digest);
    let found = bisect::first_different(floor, groups[0].digest.height, |height| {
        let (left, right) = match panel.pair(height, nodes)? {
            [Answer::Digest(left), Answer::Digest(right)] => (left, right),
            [Answer::Before(left), Answer::Before(right)] => return Ok(Probe::Before(left.max(right))),
            [Answer::Before(start), _] | [_, Answer::Before(start)] => return Ok(Probe::Before(start)),
        };
        if left.digest == right.digest {
            return Ok(Probe::Same);
        }
        // The last one that is asked and differs is where they part.
        digests = [left, right];
        Ok::<_, AuditError>(Probe::Different)
    })?;
    let agreed = (found.height > found.floor).then(|| found.height - 1);
    let starts = nodes.map(|node| about[node].start_height);
    let begins_later = starts[0] != starts[1] || found.floor != floor;
    let cause = match agreed {
        _ if digests[0].block != digests[1].block => Cause::Blocks,
        None if begins_later => Cause::Start,
        _ => Cause::Results,
    };
    Ok(Parting { nodes, height: found.height, digests, agreed, cause })
}
