//! The result of `cofferdam audit`, for people and as JSON.

use std::fmt;

use serde::Serialize;

use cofferdam_node::agreement::audit::{Audit, AuditError, ChainDigest, Divergence, DivergenceCause};

/// The result as one JSON object.
#[derive(Debug, Serialize)]
pub(super) struct AuditReport {
    /// Whether the nodes agree; none if their digests cannot show it.
    agree: Option<bool>,
    profile: String,
    floor: u32,
    height: u32,
    nodes: Vec<NodeLine>,
    groups: Vec<GroupLine>,
    majority: bool,
    partings: Vec<PartingLine>,
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct NodeLine {
    node: String,
    version: Option<String>,
    start_height: u32,
    tip: Option<u32>,
}

#[derive(Debug, Serialize)]
struct GroupLine {
    nodes: Vec<String>,
    block: String,
    digest: String,
}

#[derive(Debug, Serialize)]
struct PartingLine {
    height: u32,
    agreed: Option<u32>,
    cause: &'static str,
    meaning: String,
    sides: Vec<SideLine>,
}

#[derive(Debug, Serialize)]
struct SideLine {
    node: String,
    block: String,
    digest: String,
}

impl AuditReport {
    pub(super) fn new(audit: &Audit) -> Self {
        let nodes = audit.nodes.iter().map(|node| NodeLine {
            node: node.name.clone(),
            version: node.info.version.clone(),
            start_height: node.info.start_height,
            tip: node.info.tip,
        });
        let groups = audit.groups.iter().map(|group| GroupLine {
            nodes: group.nodes.iter().map(|node| audit.nodes[*node].name.clone()).collect(),
            block: group.digest.block.to_string(),
            digest: group.digest.digest.to_string(),
        });
        Self {
            agree: audit.agrees(),
            profile: audit.profile.to_string(),
            floor: audit.floor,
            height: audit.height,
            nodes: nodes.collect(),
            groups: groups.collect(),
            majority: audit.has_majority(),
            partings: audit.divergences.iter().map(|parting| PartingLine::new(audit, parting)).collect(),
            error: None,
        }
    }
}

impl PartingLine {
    fn new(audit: &Audit, parting: &Divergence) -> Self {
        let sides = sides(audit, parting).map(|(node, digest)| SideLine {
            node: node.to_owned(),
            block: digest.block.to_string(),
            digest: digest.digest.to_string(),
        });
        Self {
            height: parting.height,
            agreed: parting.agreed,
            cause: name(parting.cause),
            meaning: meaning(parting),
            sides: sides.into(),
        }
    }
}

/// An audit without a result, as one JSON object.
#[derive(Debug, Serialize)]
pub(super) struct Failed {
    agree: Option<bool>,
    error: String,
}

impl Failed {
    pub(super) fn new(error: &AuditError) -> Self {
        Self { agree: None, error: error.to_string() }
    }
}

/// The result in words.
pub(super) struct Told<'a>(pub(super) &'a Audit);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let audit = self.0;
        let height = audit.height;
        if let (Some(true), Some(group)) = (audit.agrees(), audit.groups.first()) {
            writeln!(f, "agree up to height {height}, digest {}", group.digest.digest)?;
        }
        for parting in &audit.divergences {
            tell_parting(f, audit, parting)?;
        }
        if audit.groups.len() > 1 && audit.nodes.len() > 2 {
            tell_groups(f, audit)?;
        }
        tell_range(f, audit)?;
        write!(f, "profile {}", audit.profile)
    }
}

fn tell_parting(f: &mut fmt::Formatter<'_>, audit: &Audit, parting: &Divergence) -> fmt::Result {
    let sides = sides(audit, parting);
    writeln!(f, "{} and {} differ from height {} on", sides[0].0, sides[1].0, parting.height)?;
    for (node, digest) in sides {
        writeln!(f, "  {node}\n    block  {}\n    digest {}", digest.block, digest.digest)?;
    }
    if let Some(agreed) = parting.agreed {
        writeln!(f, "  they agree up to height {agreed}")?;
    }
    writeln!(f, "  {}", meaning(parting))
}

fn tell_groups(f: &mut fmt::Formatter<'_>, audit: &Audit) -> fmt::Result {
    let majority = if audit.has_majority() { "" } else { "; none has more than half of the nodes" };
    writeln!(f, "at height {} there are {} groups{majority}:", audit.height, audit.groups.len())?;
    for group in &audit.groups {
        let names: Vec<_> = group.nodes.iter().map(|node| audit.nodes[*node].name.as_str()).collect();
        writeln!(f, "  digest {}: {}", group.digest.digest, names.join(", "))?;
    }
    Ok(())
}

/// Which heights each node has, and which of them were compared.
fn tell_range(f: &mut fmt::Formatter<'_>, audit: &Audit) -> fmt::Result {
    let starts = audit.nodes.iter().map(|node| node.info.start_height);
    if starts.clone().min() != starts.max() {
        let latest = audit.nodes.iter().max_by_key(|node| node.info.start_height);
        let name = latest.map_or("", |node| node.name.as_str());
        writeln!(f, "the comparison begins at height {}, where {name} begins", audit.floor)?;
    }
    for node in &audit.nodes {
        if let Some(tip) = node.info.tip {
            writeln!(f, "{}: heights {} to {tip}", node.name, node.info.start_height)?;
        }
    }
    Ok(())
}

fn sides<'a>(audit: &'a Audit, parting: &Divergence) -> [(&'a str, ChainDigest); 2] {
    let [left, right] = parting.nodes.map(|node| audit.nodes[node].name.as_str());
    [(left, parting.digests[0]), (right, parting.digests[1])]
}

fn name(cause: DivergenceCause) -> &'static str {
    match cause {
        DivergenceCause::Results => "results",
        DivergenceCause::Blocks => "blocks",
        DivergenceCause::Start => "start",
    }
}

/// What the difference between two nodes means, and what to do.
fn meaning(parting: &Divergence) -> String {
    let height = parting.height;
    match parting.cause {
        DivergenceCause::Results => format!(
            "the same block gave different results: one of the two nodes is wrong about block {height}, and about every block \
             after it. Run the block again with `cofferdam run` to find out which one, and index that node again"
        ),
        DivergenceCause::Blocks => format!(
            "they indexed different blocks at height {height}: they follow different branches of the chain, and their results \
             cannot be compared there. Run the audit again when both have caught up"
        ),
        DivergenceCause::Start => format!(
            "they began at different heights, and already differ at height {height}, the first that both have: a digest \
             covers every block since the first block of its node, so these digests say nothing about results. Index both \
             nodes from the same height"
        ),
    }
}

#[cfg(test)]
mod tests {
    use bitcoin::hashes::Hash as _;
    use cofferdam_protocol::profile::Hash;

    use super::*;
    use cofferdam_chain::blocks::BlockHash;
    use cofferdam_node::agreement::audit::{AuditedNode, Group, ProfileInfo, SourceInfo};

    fn digest(height: u32, block: u8, digest: u8) -> ChainDigest {
        ChainDigest { height, block: BlockHash::from_byte_array([block; 32]), digest: Hash([digest; 32]) }
    }

    fn audit(starts: &[u32], groups: &[&[usize]], cause: DivergenceCause) -> Audit {
        let profile = ProfileInfo { hash: Hash([9; 32]), module: None, settings: None };
        let nodes = starts.iter().zip('a'..).map(|(start, name)| AuditedNode {
            name: name.to_string(),
            info: SourceInfo {
                version: None,
                profile: profile.clone(),
                start_height: *start,
                tip: Some(50),
                network: None,
            },
        });
        let groups: Vec<_> = (0..)
            .zip(groups)
            .map(|(number, nodes)| Group { nodes: nodes.to_vec(), digest: digest(50, 1, number) })
            .collect();
        let agreed = (cause != DivergenceCause::Start).then_some(6);
        let partings = groups.iter().skip(1).map(|group| Divergence {
            nodes: [groups[0].nodes[0], group.nodes[0]],
            height: 7,
            digests: [digest(7, 1, 1), digest(7, if cause == DivergenceCause::Blocks { 2 } else { 1 }, 2)],
            agreed,
            cause,
        });
        let partings = partings.collect();
        let floor = starts.iter().copied().max().unwrap_or(0);
        Audit {
            nodes: nodes.collect(),
            profile: Hash([9; 32]),
            floor,
            height: 50,
            groups,
            divergences: partings,
        }
    }

    #[test]
    fn agreement_is_one_sentence_and_the_heights() {
        let text = Told(&audit(&[0, 0], &[&[0, 1]], DivergenceCause::Results)).to_string();
        let expected = format!(
            "agree up to height 50, digest {}\na: heights 0 to 50\nb: heights 0 to 50\nprofile {}",
            "00".repeat(32),
            "09".repeat(32)
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn a_difference_is_told_with_what_it_means() {
        for (cause, part) in [
            (
                DivergenceCause::Results,
                "the same block gave different results: one of the two nodes is wrong about block 7",
            ),
            (DivergenceCause::Blocks, "they indexed different blocks at height 7"),
        ] {
            let text = Told(&audit(&[0, 0], &[&[0], &[1]], cause)).to_string();
            assert!(text.starts_with("a and b differ from height 7 on\n  a\n    block  0101"), "{text}");
            assert!(text.contains("they agree up to height 6") && text.contains(part), "{text}");
            assert!(!text.contains("groups"), "{text}");
        }
        let text = Told(&audit(&[0, 7], &[&[0], &[1]], DivergenceCause::Start)).to_string();
        assert!(
            text.contains("they began at different heights") && !text.contains("they agree up"),
            "{text}"
        );
        assert!(text.contains("the comparison begins at height 7, where b begins"), "{text}");
    }

    #[test]
    fn groups_are_told_where_there_are_more_than_two_nodes() {
        let text = Told(&audit(&[0; 3], &[&[0, 2], &[1]], DivergenceCause::Results)).to_string();
        assert!(text.contains("at height 50 there are 2 groups:\n") && text.contains(": a, c\n"), "{text}");
        let text = Told(&audit(&[0; 4], &[&[0, 2], &[1, 3]], DivergenceCause::Results)).to_string();
        assert!(text.contains("2 groups; none has more than half of the nodes:"), "{text}");
    }
}
