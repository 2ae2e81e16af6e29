//! Blocks from files as a feed: what is given beside what is indexed already.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bitcoin::consensus::deserialize;
use bitcoin::{Block, Network};
use cofferdam::blocks::{BlockHash, BlockInput, Options};
use cofferdam::node::feed::{Feed, FeedError, FeedEvent, FileFeed};
use cofferdam_tests::support::regtest;

/// A directory of files.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn add(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).expect("a file");
        path
    }
}

fn input(path: impl AsRef<Path>) -> BlockInput {
    BlockInput::Path { path: path.as_ref().to_owned(), height: None }
}

/// Blk records of regtest.
fn records(blocks: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for block in blocks {
        bytes.extend(Network::Regtest.magic().to_bytes());
        bytes.extend(u32::try_from(block.len()).expect("a short block").to_le_bytes());
        bytes.extend(block);
    }
    bytes
}

fn hash(block: &[u8]) -> BlockHash {
    deserialize::<Block>(block).expect("a block of these tests").block_hash()
}

/// A chain of regtest blocks: `common` of them, then `own` of a branch.
fn chain(common: u32, branch: u32, own: u32) -> Vec<Vec<u8>> {
    regtest::extend(&regtest::chain(common), own, branch)
}

fn open(files: &Files, blocks: &[Vec<u8>], indexed: &[Vec<u8>], depth: u32) -> Result<FileFeed, FeedError> {
    open_from(files, blocks, 0, indexed, depth)
}

/// The chain `blocks` in a file, beside what is indexed from the height `first` on.
fn open_from(
    files: &Files,
    blocks: &[Vec<u8>],
    first: u32,
    indexed: &[Vec<u8>],
    depth: u32,
) -> Result<FileFeed, FeedError> {
    let path = files.add("blk00000.dat", records(blocks));
    let known: BTreeMap<u32, BlockHash> = (first..).zip(indexed.iter().map(|block| hash(block))).collect();
    let tip = known.last_key_value().map(|(height, hash)| (*height, *hash));
    FileFeed::open(
        &[input(path)],
        &Options::default(),
        tip,
        |height| Ok(known.get(&height).copied()),
        depth,
        &mut |_, _| {},
    )
}

/// What the feed gives: heights of blocks, and what else happens in words.
fn events(mut feed: FileFeed) -> Vec<String> {
    let mut events = Vec::new();
    loop {
        match feed.next(Duration::from_secs(60)) {
            Ok(Some(FeedEvent::Block(block))) => events.push(block.block.height.to_string()),
            Ok(Some(FeedEvent::Rollback { fork, depth })) => {
                events.push(format!("rewind to {fork:?}, {depth}"));
            }
            Ok(Some(FeedEvent::AtTip { height, .. })) => events.push(format!("tip {height}")),
            Ok(None) => events.push("nothing".to_owned()),
            Err(FeedError::Ended) => return events,
            Err(error) => {
                events.push(error.to_string());
                return events;
            }
        }
    }
}

#[test]
fn a_new_store_is_given_everything_and_an_old_one_what_it_lacks() {
    let files = Files::new();
    let blocks = chain(6, 0, 0);
    assert_eq!(events(open(&files, &blocks, &[], 100).unwrap()), ["0", "1", "2", "3", "4", "5", "tip 5"]);
    assert_eq!(events(open(&files, &blocks, &blocks[..4], 100).unwrap()), ["4", "5", "tip 5"]);
    assert_eq!(events(open(&files, &blocks, &blocks[..4], 1).unwrap()), ["4", "5", "tip 5"]);
    assert_eq!(events(open(&files, &blocks, &blocks, 100).unwrap()), ["tip 5"]);
    // Files that end below the tip take nothing back.
    assert_eq!(events(open(&files, &blocks[..3], &blocks, 100).unwrap()), ["tip 5"]);
}

#[test]
fn another_branch_is_rewound_to() {
    let files = Files::new();
    let (a, b) = (chain(5, 1, 3), chain(5, 2, 4));
    assert_eq!(
        events(open(&files, &b, &a, 100).unwrap()),
        ["rewind to Some(4), 3", "5", "6", "7", "8", "tip 8"]
    );
    assert_eq!(
        events(open(&files, &b, &a, 3).unwrap()),
        ["rewind to Some(4), 3", "5", "6", "7", "8", "tip 8"]
    );
    let error = open(&files, &b, &a, 2).unwrap_err();
    assert!(matches!(error, FeedError::TooDeep { height: 5, tip: 7, max_reorg_depth: 2, .. }), "{error}");
    // Nothing of what is indexed, from height 2 on, is common.
    let (a, b) = (chain(2, 1, 3), chain(2, 2, 2));
    assert_eq!(
        events(open_from(&files, &b, 2, &a[2..], 3).unwrap()),
        ["rewind to None, 3", "2", "3", "tip 3"]
    );
    assert!(matches!(open_from(&files, &b, 2, &a[2..], 2), Err(FeedError::TooDeep { .. })));
    // And all of it.
    assert_eq!(events(open_from(&files, &a, 2, &a[2..4], 3).unwrap()), ["4", "tip 4"]);
}

#[test]
fn an_error_of_who_is_asked_is_not_taken_for_no_block() {
    let files = Files::new();
    let (a, b) = (chain(5, 1, 3), chain(5, 2, 4));
    let path = files.add("blk00000.dat", records(&b));
    let tip = Some((7, hash(&a[7])));
    // At the block where the two part, at the one below it, and at one that both have.
    for failing in [5, 4, 2] {
        let known = |height| match height {
            _ if height == failing => Err("the disk fails".into()),
            height => Ok(a.get(height as usize).map(|block| hash(block))),
        };
        let inputs = [input(path.clone())];
        let error = FileFeed::open(&inputs, &Options::default(), tip, known, 100, &mut |_, _| {});
        let error = error.unwrap_err();
        assert!(matches!(error, FeedError::Lookup { height, .. } if height == failing), "{error}");
    }
}

#[test]
fn damage_is_told_after_what_is_good() {
    let files = Files::new();
    let mut bytes = chain(4, 0, 0);
    let last = bytes[3].len() - 1;
    bytes[3][last] ^= 1;
    let path = files.add("blk00000.dat", records(&bytes));
    let feed =
        FileFeed::open(&[input(path)], &Options::default(), None, |_| Ok(None), 100, &mut |_, _| {}).unwrap();
    let events = events(feed);
    assert_eq!(events[..3], ["0", "1", "2"]);
    assert!(events[3].contains("merkle root"), "{events:?}");
}
