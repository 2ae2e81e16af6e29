//! Audits of invented nodes, with every call counted.

use std::collections::BTreeMap;
use std::sync::Mutex;

use bitcoin::hashes::Hash as _;

use super::*;
use cofferdam_chain::blocks::BlockHash;

/// An invented node, whose chain equals that of all others except as its fields say.
struct InventedNode {
    name: String,
    info: SourceInfo,
    /// From this height on its digests differ from those of all others.
    diverges_at: Option<u32>,
    /// From this height on its blocks differ, too.
    forks_at: Option<u32>,
    /// The start that it reports when it is queried for a lower height.
    begins: u32,
    queried: Mutex<BTreeMap<u32, u32>>,
}

fn invented(name: &str, tip: u32) -> InventedNode {
    let profile = ProfileInfo { hash: Hash([9; 32]), module: None, settings: None };
    let info = SourceInfo { version: None, profile, start_height: 0, tip: Some(tip), network: None };
    let (name, queried) = (name.to_owned(), Mutex::default());
    InventedNode { name, info, diverges_at: None, forks_at: None, begins: 0, queried }
}

impl InventedNode {
    fn from(mut self, start: u32) -> Self {
        (self.info.start_height, self.begins) = (start, start);
        self
    }

    fn diverging(mut self, height: u32) -> Self {
        self.diverges_at = Some(height);
        self
    }

    fn forking(self, height: u32) -> Self {
        Self { forks_at: Some(height), ..self.diverging(height) }
    }

    fn most_queried(&self) -> u32 {
        self.queried.lock().unwrap().values().copied().max().unwrap_or(0)
    }

    fn calls(&self) -> usize {
        self.queried.lock().unwrap().len()
    }
}

impl DigestSource for InventedNode {
    fn name(&self) -> &str {
        &self.name
    }

    fn info(&self) -> Result<SourceInfo, SourceError> {
        Ok(self.info.clone())
    }

    fn digest(&self, height: u32) -> Result<ChainDigest, SourceError> {
        *self.queried.lock().unwrap().entry(height).or_default() += 1;
        if height < self.begins {
            return Err(SourceError::BeforeStart { height, start: self.begins });
        }
        if self.info.tip.is_none_or(|tip| height > tip) {
            return Err(SourceError::Gone { height });
        }
        let differs =
            |from: Option<u32>| from.is_some_and(|from| height >= from).then_some(self.name.as_str());
        let of = |what, whose: Option<&str>| Hash::of(format!("{what} {height} {whose:?}").as_bytes());
        let block = BlockHash::from_byte_array(of("block", differs(self.forks_at)).0);
        Ok(ChainDigest { height, block, digest: of("digest", differs(self.diverges_at)) })
    }
}

fn audited(nodes: &[&InventedNode]) -> Result<Audit, AuditError> {
    let sources: Vec<&dyn DigestSource> = nodes.iter().map(|node| *node as &dyn DigestSource).collect();
    let found = audit(&sources, None);
    assert!(nodes.iter().all(|node| node.most_queried() <= 1), "no height is queried twice");
    found
}

fn refused(nodes: &[&InventedNode]) -> String {
    audited(nodes).unwrap_err().to_string()
}

#[test]
fn nodes_that_agree_are_queried_once() {
    let (a, b, c) = (invented("a", 900_000), invented("b", 899_990), invented("c", 900_001));
    let found = audited(&[&a, &b, &c]).unwrap();
    assert_eq!((found.agrees(), found.floor, found.height), (Some(true), 0, 899_990));
    assert_eq!(found.groups.len(), 1);
    assert_eq!(found.groups[0].nodes, [0, 1, 2]);
    assert_eq!([a, b, c].map(|node| node.calls()), [1, 1, 1]);
}

#[test]
fn the_first_different_block_is_found_in_few_calls() {
    for at in [0, 1, 17, 449_999, 450_000, 899_999, 900_000] {
        let (a, b) = (invented("a", 900_000), invented("b", 900_005).diverging(at));
        let found = audited(&[&a, &b]).unwrap();
        assert_eq!((found.agrees(), found.has_majority()), (Some(false), false));
        let [divergence] = found.divergences.as_slice() else { panic!("{:?}", found.divergences) };
        assert_eq!((divergence.height, divergence.agreed), (at, at.checked_sub(1)));
        assert_eq!(divergence.cause, DivergenceCause::Results);
        let expected = [&a, &b].map(|node| node.digest(at).unwrap());
        assert_eq!(divergence.digests, expected);
        // ⌈log2(900,001)⌉ calls, one for the upper end, and one by this test.
        assert!(a.calls() <= 20 + 2 && b.calls() <= 20 + 2, "{} and {}", a.calls(), b.calls());
    }
}

#[test]
fn different_blocks_are_not_different_results() {
    let (a, b) = (invented("a", 1000), invented("b", 1000).forking(990));
    let found = audited(&[&a, &b]).unwrap();
    assert_eq!(found.divergences[0].cause, DivergenceCause::Blocks);
    assert_eq!((found.divergences[0].height, found.divergences[0].agreed), (990, Some(989)));
}

#[test]
fn the_highest_start_is_the_lower_end() {
    let (a, b) = (invented("a", 1000), invented("b", 1000).from(300).diverging(700));
    let found = audited(&[&a, &b]).unwrap();
    assert_eq!(
        (found.floor, found.divergences[0].height, found.divergences[0].cause),
        (300, 700, DivergenceCause::Results)
    );
    // The digests differ from the start on: they cannot tell whether the results differ.
    let (a, b) = (invented("a", 1000), invented("b", 1000).from(300).diverging(300));
    let found = audited(&[&a, &b]).unwrap();
    assert_eq!((found.agrees(), found.divergences[0].cause), (None, DivergenceCause::Start));
    assert_eq!((found.divergences[0].height, found.divergences[0].agreed), (300, None));
    // Different blocks are a difference wherever a node begins.
    let (a, b) = (invented("a", 1000), invented("b", 1000).from(300).forking(300));
    assert_eq!(audited(&[&a, &b]).unwrap().divergences[0].cause, DivergenceCause::Blocks);
    // Both nodes began at that height, so that the results of the block differ.
    let (a, b) = (invented("a", 1000).from(300), invented("b", 1000).from(300).diverging(300));
    assert_eq!(audited(&[&a, &b]).unwrap().divergences[0].cause, DivergenceCause::Results);
}

#[test]
fn a_start_that_only_a_query_shows_raises_the_lower_end() {
    let mut b = invented("b", 1000).diverging(800);
    b.begins = 300;
    let found = audited(&[&invented("a", 1000), &b]).unwrap();
    assert_eq!((found.divergences[0].height, found.divergences[0].cause), (800, DivergenceCause::Results));
    let mut b = invented("b", 1000).diverging(0);
    b.begins = 900;
    let found = audited(&[&invented("a", 1000), &b]).unwrap();
    assert_eq!((found.divergences[0].height, found.divergences[0].cause), (900, DivergenceCause::Start));
}

#[test]
fn others_are_compared_with_the_majority() {
    let nodes = [
        invented("odd", 1000).diverging(10),
        invented("good", 1000),
        invented("other", 1000).forking(640),
        invented("fine", 1000),
        invented("well", 1001),
    ];
    let found = audited(&nodes.iter().collect::<Vec<_>>()).unwrap();
    let groups: Vec<_> = found.groups.iter().map(|group| group.nodes.clone()).collect();
    assert_eq!(groups, [vec![1, 3, 4], vec![0], vec![2]]);
    assert!(found.has_majority());
    let divergences: Vec<_> =
        found.divergences.iter().map(|divergence| (divergence.nodes, divergence.height)).collect();
    assert_eq!(divergences, [([1, 0], 10), ([1, 2], 640)]);
    // A node that agrees with the majority is queried for the upper end alone.
    assert_eq!((nodes[3].calls(), nodes[4].calls()), (1, 1));
}

#[test]
fn the_upper_end_can_be_chosen() {
    let (a, b) = (invented("a", 1000), invented("b", 1000).from(5).diverging(700));
    let nodes: [&dyn DigestSource; 2] = [&a, &b];
    let found = audit(&nodes, Some(699)).unwrap();
    assert_eq!((found.agrees(), found.height), (Some(true), 699));
    for at in [4, 1001] {
        let error = audit(&nodes, Some(at)).unwrap_err().to_string();
        assert_eq!(error, format!("--at {at} is out of range: all nodes have the heights from 5 to 1000"));
    }
}

#[test]
fn nodes_that_cannot_be_compared_are_refused() {
    let a = || invented("a", 10);
    assert!(refused(&[]).contains("two nodes or more"));
    assert!(refused(&[&a()]).contains("two nodes or more"));
    assert_eq!(refused(&[&a(), &a()]), "a is given twice");
    let mut empty = invented("b", 0);
    empty.info.tip = None;
    assert_eq!(refused(&[&a(), &empty]), "b has not indexed any block yet");
    let late = invented("b", 30).from(20);
    let expected = "there is no common height: b begins at height 20, but a is only at height 10";
    assert_eq!(refused(&[&a(), &late]), expected);
    let mut other = invented("b", 10);
    other.info.profile.hash = Hash([8; 32]);
    assert!(refused(&[&a(), &other]).contains("a and b have different profiles"));
    assert_eq!((a().calls(), other.calls()), (0, 0), "no digest is queried in vain");
}

#[test]
fn a_reorganisation_during_the_audit_is_reported() {
    struct Shorter(InventedNode);
    impl DigestSource for Shorter {
        fn name(&self) -> &str {
            "b"
        }
        fn info(&self) -> Result<SourceInfo, SourceError> {
            Ok(SourceInfo { tip: Some(12), ..self.0.info.clone() })
        }
        fn digest(&self, height: u32) -> Result<ChainDigest, SourceError> {
            self.0.digest(height)
        }
    }
    let (a, b) = (invented("a", 20), Shorter(invented("b", 11)));
    let error = audit(&[&a, &b], None).unwrap_err().to_string();
    assert_eq!(
        error,
        "b: height 12 is no longer there: a reorganisation rolled it back meanwhile; run the audit again"
    );
}
