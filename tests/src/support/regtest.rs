//! Chains of the tests' own: valid regtest blocks of any number, size and branch, without a node.

use bitcoin::block::Version;
use bitcoin::consensus::{deserialize, serialize};
use bitcoin::constants::genesis_block;
use bitcoin::script::{Builder, PushBytesBuf};
use bitcoin::{Amount, Block, Network, ScriptBuf, TxOut};

/// Most that one push into a script of these blocks has, in bytes.
const PUSH_BYTES: usize = 50_000;

/// The genesis block and `length - 1` blocks after it, serialised.
#[must_use]
pub fn chain(length: u32) -> Vec<Vec<u8>> {
    extend(&[serialize(&genesis_block(Network::Regtest))], length - 1, 0)
}

/// That chain with `count` more blocks. Extensions that differ in `branch` have no block in common.
#[must_use]
pub fn extend(chain: &[Vec<u8>], count: u32, branch: u32) -> Vec<Vec<u8>> {
    extend_with(chain, count, branch, 0)
}

/// The same, with blocks of about `bytes` bytes.
#[must_use]
pub fn extend_with(chain: &[Vec<u8>], count: u32, branch: u32, bytes: usize) -> Vec<Vec<u8>> {
    let mut chain = chain.to_vec();
    for _ in 0..count {
        let height = u32::try_from(chain.len()).expect("a short chain");
        let last = chain.last().expect("a chain has a genesis block");
        let previous: Block = deserialize(last).expect("a block of these tests");
        chain.push(serialize(&mine(&previous, height, branch, bytes)));
    }
    chain
}

/// That chain with `count` more blocks that have the transactions of `block`, all of them the same.
#[must_use]
pub fn extend_filled(chain: &[Vec<u8>], count: u32, block: &[u8]) -> Vec<Vec<u8>> {
    let filling: Block = deserialize(block).expect("a block");
    let merkle_root = filling.compute_merkle_root().expect("it has transactions");
    let mut chain = chain.to_vec();
    for _ in 0..count {
        let last = chain.last().expect("a chain has a genesis block");
        let previous: Block = deserialize(last).expect("a block of these tests");
        let mut next = genesis_block(Network::Regtest);
        next.txdata.clone_from(&filling.txdata);
        next.header.prev_blockhash = previous.block_hash();
        next.header.merkle_root = merkle_root;
        chain.push(serialize(&mined(next)));
    }
    chain
}

fn mine(previous: &Block, height: u32, branch: u32, bytes: usize) -> Block {
    let mut block = genesis_block(Network::Regtest);
    block.header.version = Version::from_consensus(4);
    block.header.prev_blockhash = previous.block_hash();
    block.header.time = branch;
    let coinbase = &mut block.txdata[0];
    coinbase.input[0].script_sig = Builder::new().push_int(height.into()).push_int(0).into_script();
    let mut left = bytes;
    while left > 0 {
        let size = left.min(PUSH_BYTES);
        let data = PushBytesBuf::try_from(vec![0x5a; size]).expect("a short push");
        coinbase.output.push(TxOut { value: Amount::ZERO, script_pubkey: ScriptBuf::new_op_return(data) });
        left -= size;
    }
    block.header.merkle_root = block.compute_merkle_root().expect("there is a transaction");
    mined(block)
}

/// Every other hash meets regtest's target.
fn mined(mut block: Block) -> Block {
    while !block.header.target().is_met_by(block.block_hash()) {
        block.header.nonce += 1;
    }
    block
}
