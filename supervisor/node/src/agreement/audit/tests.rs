//! Audits of nodes that are made up, with every question counted.

use std::collections::BTreeMap;
use std::sync::Mutex;

use bitcoin::hashes::Hash as _;

use super::*;
use cofferdam_chain::blocks::BlockHash;

/// A node whose chain is like everybody's but for what is said of it.
struct Made {
    name: String,
    about: About,
    /// From this height on its digests are its own.
    parts_at: Option<u32>,
    /// From this height on its blocks are, too.
    forks_at: Option<u32>,
    /// What it says it begins at when it is asked for less.
    begins: u32,
    asked: Mutex<BTreeMap<u32, u32>>,
}

fn made(name: &str, tip: u32) -> Made {
    let profile = AboutProfile { hash: Hash([9; 32]), module: None, terms: None };
    let about = About { version: None, profile, start_height: 0, tip: Some(tip), network: None };
    let (name, asked) = (name.to_owned(), Mutex::default());
    Made { name, about, parts_at: None, forks_at: None, begins: 0, asked }
}

impl Made {
    fn from(mut self, start: u32) -> Self {
        (self.about.start_height, self.begins) = (start, start);
        self
    }

    fn parting(mut self, height: u32) -> Self {
        self.parts_at = Some(height);
        self
    }

    fn forking(self, height: u32) -> Self {
        Self { forks_at: Some(height), ..self.parting(height) }
    }

    fn most_asked(&self) -> u32 {
        self.asked.lock().unwrap().values().copied().max().unwrap_or(0)
    }

    fn calls(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

impl Node for Made {
    fn name(&self) -> &str {
        &self.name
    }

    fn about(&self) -> Result<About, NodeError> {
        Ok(self.about.clone())
    }

    fn digest(&self, height: u32) -> Result<ChainDigest, NodeError> {
        *self.asked.lock().unwrap().entry(height).or_default() += 1;
        if height < self.begins {
            return Err(NodeError::BeforeStart { height, start: self.begins });
        }
        if self.about.tip.is_none_or(|tip| height > tip) {
            return Err(NodeError::Gone { height });
        }
        let own = |from: Option<u32>| from.is_some_and(|from| height >= from).then_some(self.name.as_str());
        let of = |what, whose: Option<&str>| Hash::of(format!("{what} {height} {whose:?}").as_bytes());
        let block = BlockHash::from_byte_array(of("block", own(self.forks_at)).0);
        Ok(ChainDigest { height, block, digest: of("digest", own(self.parts_at)) })
    }
}

fn audited(nodes: &[&Made]) -> Result<Audit, AuditError> {
    let asked: Vec<&dyn Node> = nodes.iter().map(|node| *node as &dyn Node).collect();
    let found = audit(&asked, None);
    assert!(nodes.iter().all(|node| node.most_asked() <= 1), "no height is asked for twice");
    found
}

fn refused(nodes: &[&Made]) -> String {
    audited(nodes).unwrap_err().to_string()
}

#[test]
fn nodes_that_agree_are_asked_once() {
    let (a, b, c) = (made("a", 900_000), made("b", 899_990), made("c", 900_001));
    let found = audited(&[&a, &b, &c]).unwrap();
    assert_eq!((found.agrees(), found.floor, found.height), (Some(true), 0, 899_990));
    assert_eq!(found.groups.len(), 1);
    assert_eq!(found.groups[0].nodes, [0, 1, 2]);
    assert_eq!([a, b, c].map(|node| node.calls()), [1, 1, 1]);
}

#[test]
fn the_block_that_two_part_at_is_found_in_few_questions() {
    for at in [0, 1, 17, 449_999, 450_000, 899_999, 900_000] {
        let (a, b) = (made("a", 900_000), made("b", 900_005).parting(at));
        let found = audited(&[&a, &b]).unwrap();
        assert_eq!((found.agrees(), found.has_majority()), (Some(false), false));
        let [parting] = found.partings.as_slice() else { panic!("{:?}", found.partings) };
        assert_eq!((parting.height, parting.agreed), (at, at.checked_sub(1)));
        assert_eq!(parting.cause, Cause::Results);
        let expected = [&a, &b].map(|node| node.digest(at).unwrap());
        assert_eq!(parting.digests, expected);
        // ⌈log2(900,001)⌉, the upper end, and the one of this test.
        assert!(a.calls() <= 20 + 2 && b.calls() <= 20 + 2, "{} and {}", a.calls(), b.calls());
    }
}

#[test]
fn other_blocks_are_no_other_results() {
    let (a, b) = (made("a", 1000), made("b", 1000).forking(990));
    let found = audited(&[&a, &b]).unwrap();
    assert_eq!(found.partings[0].cause, Cause::Blocks);
    assert_eq!((found.partings[0].height, found.partings[0].agreed), (990, Some(989)));
}

#[test]
fn the_last_to_begin_is_the_lower_end() {
    let (a, b) = (made("a", 1000), made("b", 1000).from(300).parting(700));
    let found = audited(&[&a, &b]).unwrap();
    assert_eq!((found.floor, found.partings[0].height, found.partings[0].cause), (300, 700, Cause::Results));
    // From its start on another digest: nobody can tell from digests whether results differ.
    let (a, b) = (made("a", 1000), made("b", 1000).from(300).parting(300));
    let found = audited(&[&a, &b]).unwrap();
    assert_eq!((found.agrees(), found.partings[0].cause), (None, Cause::Start));
    assert_eq!((found.partings[0].height, found.partings[0].agreed), (300, None));
    // Other blocks are a difference wherever a node begins.
    let (a, b) = (made("a", 1000), made("b", 1000).from(300).forking(300));
    assert_eq!(audited(&[&a, &b]).unwrap().partings[0].cause, Cause::Blocks);
    // Both began there: the block itself is what differs.
    let (a, b) = (made("a", 1000).from(300), made("b", 1000).from(300).parting(300));
    assert_eq!(audited(&[&a, &b]).unwrap().partings[0].cause, Cause::Results);
}

#[test]
fn a_start_that_only_shows_when_it_is_asked_for_raises_the_lower_end() {
    let mut b = made("b", 1000).parting(800);
    b.begins = 300;
    let found = audited(&[&made("a", 1000), &b]).unwrap();
    assert_eq!((found.partings[0].height, found.partings[0].cause), (800, Cause::Results));
    let mut b = made("b", 1000).parting(0);
    b.begins = 900;
    let found = audited(&[&made("a", 1000), &b]).unwrap();
    assert_eq!((found.partings[0].height, found.partings[0].cause), (900, Cause::Start));
}

#[test]
fn of_many_the_majority_is_what_others_are_held_against() {
    let nodes = [
        made("odd", 1000).parting(10),
        made("good", 1000),
        made("other", 1000).forking(640),
        made("fine", 1000),
        made("well", 1001),
    ];
    let found = audited(&nodes.iter().collect::<Vec<_>>()).unwrap();
    let groups: Vec<_> = found.groups.iter().map(|group| group.nodes.clone()).collect();
    assert_eq!(groups, [vec![1, 3, 4], vec![0], vec![2]]);
    assert!(found.has_majority());
    let partings: Vec<_> = found.partings.iter().map(|parting| (parting.nodes, parting.height)).collect();
    assert_eq!(partings, [([1, 0], 10), ([1, 2], 640)]);
    // Whoever agrees with the majority is asked about the upper end alone.
    assert_eq!((nodes[3].calls(), nodes[4].calls()), (1, 1));
}

#[test]
fn the_upper_end_can_be_chosen() {
    let (a, b) = (made("a", 1000), made("b", 1000).from(5).parting(700));
    let nodes: [&dyn Node; 2] = [&a, &b];
    let found = audit(&nodes, Some(699)).unwrap();
    assert_eq!((found.agrees(), found.height), (Some(true), 699));
    for at in [4, 1001] {
        let error = audit(&nodes, Some(at)).unwrap_err().to_string();
        assert_eq!(error, format!("--at {at}: all nodes have the heights from 5 to 1000"));
    }
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let a = || made("a", 10);
    assert!(refused(&[]).contains("two nodes or more"));
    assert!(refused(&[&a()]).contains("two nodes or more"));
    assert_eq!(refused(&[&a(), &a()]), "a is given twice");
    let mut empty = made("b", 0);
    empty.about.tip = None;
    assert_eq!(refused(&[&a(), &empty]), "b has not indexed any block yet");
    let late = made("b", 30).from(20);
    let expected = "there is no common height: b begins at height 20, and a has only come to height 10";
    assert_eq!(refused(&[&a(), &late]), expected);
    let mut other = made("b", 10);
    other.about.profile.hash = Hash([8; 32]);
    assert!(refused(&[&a(), &other]).contains("a and b have different profiles"));
    assert_eq!((a().calls(), other.calls()), (0, 0), "no digest is asked for in vain");
}

#[test]
fn a_reorganisation_in_between_is_told() {
    struct Shorter(Made);
    impl Node for Shorter {
        fn name(&self) -> &str {
            "b"
        }
        fn about(&self) -> Result<About, NodeError> {
            Ok(About { tip: Some(12), ..self.0.about.clone() })
        }
        fn digest(&self, height: u32) -> Result<ChainDigest, NodeError> {
            self.0.digest(height)
        }
    }
    let (a, b) = (made("a", 20), Shorter(made("b", 11)));
    let error = audit(&[&a, &b], None).unwrap_err().to_string();
    assert_eq!(
        error,
        "b: it no longer has height 12: a reorganisation took blocks away meanwhile; ask again"
    );
}
