//! What the sample indexer should have found, computed another way: by the `bitcoin` crate and ordinary maps, from the
//! description in `supervisor/chain/sample/README.md` and none of its code.

use std::collections::{BTreeMap, BTreeSet};

use bitcoin::consensus::{deserialize, serialize};
use bitcoin::{Block, OutPoint, Transaction, TxOut};
use sha2::{Digest, Sha256};

/// SHA-256 of a `scriptPubKey`: what a script is known by.
pub type ScriptHash = [u8; 32];

/// An unspent output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unspent {
    /// Its value in satoshis.
    pub value: u64,
    /// Whom it belongs to.
    pub script: ScriptHash,
    /// The height that created it.
    pub height: u32,
}

/// The totals, in the order of the view `stats`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Blocks indexed.
    pub blocks: u64,
    /// Transactions in them.
    pub transactions: u64,
    /// Outputs that entered the set.
    pub created: u64,
    /// Outputs that left it by being spent.
    pub spent: u64,
    /// Outputs that a repeated transaction replaced.
    pub replaced: u64,
    /// Outputs that can never be spent.
    pub op_return: u64,
    /// Inputs that spend an output never seen.
    pub unknown: u64,
    /// Outputs in the set.
    pub unspent: u64,
    /// Their value.
    pub value: u64,
    /// The newest height.
    pub last: u64,
}

impl Stats {
    /// As the view gives them.
    pub fn encode(&self) -> Vec<u8> {
        let Self { blocks, transactions, created, spent, replaced, op_return, unknown, unspent, value, last } =
            *self;
        let all = [blocks, transactions, created, spent, replaced, op_return, unknown, unspent, value, last];
        all.iter().flat_map(|number| number.to_le_bytes()).collect()
    }
}

/// The state after some blocks.
#[derive(Clone, Debug, Default)]
pub struct Oracle {
    unspent: BTreeMap<OutPoint, Unspent>,
    headers: BTreeMap<u32, Vec<u8>>,
    scripts: BTreeSet<ScriptHash>,
    gone: BTreeSet<OutPoint>,
    stats: Stats,
}

impl Oracle {
    /// The state before the first block.
    pub fn new() -> Self {
        Self::default()
    }

    /// Indexes a block.
    ///
    /// # Panics
    /// If the bytes are no block.
    pub fn index(&mut self, height: u32, bytes: &[u8]) {
        let block: Block = deserialize(bytes).expect("a block");
        for transaction in &block.txdata {
            self.spend(transaction);
            self.create(height, transaction);
        }
        self.headers.insert(height, serialize(&block.header));
        self.stats.blocks += 1;
        self.stats.last = height.into();
    }

    fn spend(&mut self, transaction: &Transaction) {
        self.stats.transactions += 1;
        if transaction.is_coinbase() {
            return;
        }
        for input in &transaction.input {
            match self.unspent.remove(&input.previous_output) {
                Some(_) => self.stats.spent += 1,
                None => self.stats.unknown += 1,
            }
            self.gone.insert(input.previous_output);
        }
    }

    fn create(&mut self, height: u32, transaction: &Transaction) {
        let txid = transaction.compute_txid();
        for (vout, TxOut { value, script_pubkey }) in (0..).zip(&transaction.output) {
            if script_pubkey.is_op_return() {
                self.stats.op_return += 1;
                continue;
            }
            let script = Sha256::digest(script_pubkey.as_bytes()).into();
            let output = Unspent { value: value.to_sat(), script, height };
            self.scripts.insert(script);
            self.stats.created += 1;
            if self.unspent.insert(OutPoint { txid, vout }, output).is_some() {
                self.stats.replaced += 1;
            }
        }
    }

    /// The totals.
    pub fn stats(&self) -> Stats {
        let value = self.unspent.values().fold(0, |sum: u64, output| sum.wrapping_add(output.value));
        Stats { unspent: self.unspent.len() as u64, value, ..self.stats }
    }

    /// Every header, by height.
    pub fn headers(&self) -> &BTreeMap<u32, Vec<u8>> {
        &self.headers
    }

    /// Every unspent output.
    pub fn unspent(&self) -> &BTreeMap<OutPoint, Unspent> {
        &self.unspent
    }

    /// Outputs that were seen to be spent and are not there.
    pub fn gone(&self) -> impl Iterator<Item = &OutPoint> {
        self.gone.iter().filter(|outpoint| !self.unspent.contains_key(outpoint))
    }

    /// What every script owns that ever owned anything: perhaps nothing now.
    pub fn by_script(&self) -> BTreeMap<ScriptHash, BTreeMap<OutPoint, Unspent>> {
        let mut owned: BTreeMap<_, BTreeMap<_, _>> =
            self.scripts.iter().map(|script| (*script, BTreeMap::new())).collect();
        for (outpoint, output) in &self.unspent {
            owned.entry(output.script).or_default().insert(*outpoint, *output);
        }
        owned
    }
}

/// An outpoint as it stands in a transaction.
pub fn outpoint_bytes(outpoint: &OutPoint) -> Vec<u8> {
    serialize(outpoint)
}
