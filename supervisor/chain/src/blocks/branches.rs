//! Chooses a branch among the blocks of an index.
//!
//! Bitcoind also stores stale blocks. And if a file is missing or damaged, the blocks in the other files may have no ancestors.
//! So the blocks form several trees, and the trees have several branches.

use bitcoin::hashes::Hash;
use bitcoin::{BlockHash, CompactTarget, Target};

use super::scan::{Entry, Index};

/// The most trees that [`Branches::other_roots`] returns. The directory of a node in its initial download may hold a thousand
/// trees.
const MOST_OTHER_ROOTS: usize = 64;

/// All blocks of an index as trees. The parent of the root of a tree is not in the index.
#[derive(Debug)]
pub(super) struct Branches<'a> {
    index: &'a Index,
    /// For each block, the work of the block and of all its ancestors.
    total_work: Vec<u128>,
    /// For each block, the root of its tree.
    root: Vec<u32>,
}

impl<'a> Branches<'a> {
    /// Sums up the work of all blocks. Each block is visited once, and nothing recurses, however long the chain is.
    pub(super) fn of(index: &'a Index) -> Self {
        // Zero means "not summed up yet", because every block has some work.
        let mut total_work = vec![0u128; index.entries.len()];
        let mut root = vec![0; index.entries.len()];
        let mut branch = Vec::new();
        for start in 0..count(index) {
            // Go from each block to its parent, up to a block whose sum is known, or to a root. Then return over the same blocks
            // and sum up.
            let (mut sum, mut top) = (0, start);
            let mut at = Some(start);
            while let Some(number) = at {
                sum = total_work[number as usize];
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
                total_work[number as usize] = sum;
                root[number as usize] = top;
            }
        }
        Self { index, total_work, root }
    }

    /// The last block of the branch with the most work.
    pub(super) fn best(&self) -> Option<u32> {
        self.best_of(|_| true)
    }

    /// The last block of the branch with the most work among those that begin with a genesis block. A genesis block has no
    /// previous block.
    pub(super) fn best_from_genesis(&self) -> Option<u32> {
        self.best_of(|root| {
            entry(self.index, root).is_some_and(|root| root.previous == BlockHash::all_zeros())
        })
    }

    /// The roots of all trees except the tree of `chosen`. The tree with the most work comes first.
    pub(super) fn other_roots(&self, chosen: u32) -> Vec<&'a Entry> {
        let own = self.root.get(chosen as usize).copied();
        let mut most = vec![0; self.total_work.len()];
        for (root, total) in self.root.iter().zip(&self.total_work) {
            let most: &mut u128 = &mut most[*root as usize];
            *most = (*most).max(*total);
        }
        let mut others: Vec<u32> = self.roots().filter(|root| Some(*root) != own).collect();
        others.sort_by_key(|root| std::cmp::Reverse(most[*root as usize]));
        others.truncate(MOST_OTHER_ROOTS);
        others.into_iter().filter_map(|root| entry(self.index, root)).collect()
    }

    fn roots(&self) -> impl Iterator<Item = u32> {
        (0..).zip(&self.root).filter(|(number, root)| number == *root).map(|(number, _)| number)
    }

    /// The last block of the branch with the most work, among branches whose root is wanted. Of branches with the same work, the
    /// branch that was found first wins: a node, too, prefers the branch that it saw first.
    fn best_of(&self, wanted: impl Fn(u32) -> bool) -> Option<u32> {
        let mut best = (0, None);
        for (number, (total, root)) in (0..).zip(self.total_work.iter().zip(&self.root)) {
            if *total > best.0 && wanted(*root) {
                best = (*total, Some(number));
            }
        }
        best.1
    }
}

/// The blocks from `from` back to the root of its branch. The iteration ends: blocks cannot form a cycle, because each block
/// holds the SHA-256 hash of its parent.
pub(super) fn walk_back(index: &Index, from: u32) -> impl Iterator<Item = &Entry> {
    std::iter::successors(entry(index, from), move |block| entry(index, *index.by_hash.get(&block.previous)?))
}

fn entry(index: &Index, number: u32) -> Option<&Entry> {
    index.entries.get(number as usize)
}

fn count(index: &Index) -> u32 {
    u32::try_from(index.entries.len()).unwrap_or(u32::MAX)
}

/// The expected number of hashes to meet a target. 128 bits are enough: all of mainnet has a work below 2^97, and the scan
/// accepts only headers that meet their target.
fn work(bits: CompactTarget) -> u128 {
    let [high, low] = halves(Target::from_compact(bits).to_work().to_be_bytes());
    if high == 0 { low.max(1) } else { u128::MAX }
}

/// A 256-bit big-endian number as two numbers of 128 bits. The higher one comes first.
fn halves(bytes: [u8; 32]) -> [u128; 2] {
    let mut halves = [0; 2];
    for (half, chunk) in halves.iter_mut().zip(bytes.chunks_exact(16)) {
        *half = chunk.iter().fold(0, |sum, byte| sum << 8 | u128::from(*byte));
    }
    halves
}
