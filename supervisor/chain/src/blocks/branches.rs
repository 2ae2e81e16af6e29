//! The branches that an index of headers holds. Bitcoind stores stale blocks too, and a file that is missing or damaged
//! leaves blocks whose ancestors nobody has; of all these the chain is chosen here.

use bitcoin::hashes::Hash;
use bitcoin::{BlockHash, CompactTarget, Target};

use super::scan::{Entry, Index};

/// How many trees beside that of the chain are listed. The directory of a node that is not yet done with its first download
/// may have a thousand.
const MOST_OTHERS: usize = 64;

/// All blocks of an index as trees, each from a root whose parent is not there.
#[derive(Debug)]
pub(super) struct Branches<'a> {
    index: &'a Index,
    /// The work of each block and of all below it.
    total: Vec<u128>,
    /// The root of the tree that each block is in.
    root: Vec<u32>,
}

impl<'a> Branches<'a> {
    pub(super) fn of(index: &'a Index) -> Self {
        // Zero is "not summed up yet": every block has some work.
        let mut total = vec![0u128; index.entries.len()];
        let mut root = vec![0; index.entries.len()];
        let mut branch = Vec::new();
        for start in 0..count(index) {
            // Back to a block whose sum is known, or to a root; then forth again. Each block is summed up once,
            // and nothing recurses, however long the chain.
            let (mut sum, mut top) = (0, start);
            let mut at = Some(start);
            while let Some(number) = at {
                sum = total[number as usize];
                if sum > 0 {
                    top = root[number as usize];
                    break;
                }
                top = number;
                branch.push(number);
                at = index.by_hash.get(&index.entries[number as usize].previous).copied();
            }
            while let Some(number) = branch.pop() {
                sum = work(index.entries[number as usize].bits).saturating_add(sum);
                total[number as usize] = sum;
                root[number as usize] = top;
            }
        }
        Self { index, total, root }
    }

    /// The block with the most work behind it.
    pub(super) fn best(&self) -> Option<u32> {
        self.best_of(|_| true)
    }

    /// The best block of those that descend from a genesis block, which is known by having none before it.
    pub(super) fn best_from_genesis(&self) -> Option<u32> {
        self.best_of(|root| {
            entry(self.index, root).is_some_and(|root| root.previous == BlockHash::all_zeros())
        })
    }

    /// The roots of the other trees than that of `chosen`, those with the most work first.
    pub(super) fn other_roots(&self, chosen: u32) -> Vec<&'a Entry> {
        let own = self.root.get(chosen as usize).copied();
        let mut most = vec![0; self.total.len()];
        for (root, total) in self.root.iter().zip(&self.total) {
            let most: &mut u128 = &mut most[*root as usize];
            *most = (*most).max(*total);
        }
        let mut others: Vec<u32> = self.roots().filter(|root| Some(*root) != own).collect();
        others.sort_by_key(|root| std::cmp::Reverse(most[*root as usize]));
        others.truncate(MOST_OTHERS);
        others.into_iter().filter_map(|root| entry(self.index, root)).collect()
    }

    fn roots(&self) -> impl Iterator<Item = u32> {
        (0..).zip(&self.root).filter(|(number, root)| number == *root).map(|(number, _)| number)
    }

    /// Of several blocks with as much work the one found first, as a node prefers the one it saw first.
    fn best_of(&self, wanted: impl Fn(u32) -> bool) -> Option<u32> {
        let mut best = (0, None);
        for (number, (total, root)) in (0..).zip(self.total.iter().zip(&self.root)) {
            if *total > best.0 && wanted(*root) {
                best = (*total, Some(number));
            }
        }
        best.1
    }
}

/// From a block to the root of its branch. It ends, as no block can name one that names it: that would be a
/// cycle of SHA-256.
pub(super) fn walk_back(index: &Index, from: u32) -> impl Iterator<Item = &Entry> {
    std::iter::successors(entry(index, from), move |block| entry(index, *index.by_hash.get(&block.previous)?))
}

fn entry(index: &Index, number: u32) -> Option<&Entry> {
    index.entries.get(number as usize)
}

fn count(index: &Index) -> u32 {
    u32::try_from(index.entries.len()).unwrap_or(u32::MAX)
}

/// Expected number of hashes for a target. 128 bits are plenty: all of mainnet is below 2^97, and the scan
/// only lets pass headers whose work was really done.
fn work(bits: CompactTarget) -> u128 {
    let [high, low] = halves(Target::from_compact(bits).to_work().to_be_bytes());
    if high == 0 { low.max(1) } else { u128::MAX }
}

/// A 256-bit number as two of 128 bits, the higher first.
fn halves(bytes: [u8; 32]) -> [u128; 2] {
    let mut halves = [0; 2];
    for (half, chunk) in halves.iter_mut().zip(bytes.chunks_exact(16)) {
        *half = chunk.iter().fold(0, |sum, byte| sum << 8 | u128::from(*byte));
    }
    halves
}
