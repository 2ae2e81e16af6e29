// Parses Bitcoin's block format. The whole block is parsed before anything is indexed, so a bad block leaves no writes.
//
// Nothing is copied out of the block. Outpoints and scripts stay where the host wrote them, and are named by address.
// The input buffer lives as long as the call. Consensus rules are not checked, because the node has checked them. A
// block is refused only if it does not parse.

import { addressOf } from "./bytes";
import { Cursor } from "./cursor";
import { DIGEST_SIZE, begin, finish, update } from "./sha256";

export const HEADER_SIZE: i32 = 80;
/** A transaction id and a u32 index. */
export const OUTPOINT_SIZE: i32 = 36;

const VERSION_SIZE: u64 = 4;
const SEQUENCE_SIZE: u64 = 4;
const LOCK_TIME_SIZE: u64 = 4;

export class Output {
  constructor(
    readonly value: u64,
    readonly script: usize,
    readonly scriptLength: usize,
  ) {}
}

export class Transaction {
  readonly id: ArrayBuffer = new ArrayBuffer(DIGEST_SIZE);
  /** The addresses of the outpoints that the inputs spend. */
  readonly spends: usize[] = [];
  readonly outputs: Output[] = [];
}

export class Block {
  readonly transactions: Transaction[] = [];

  constructor(readonly header: usize) {}
}

export function readBlock(source: usize, length: usize): Block {
  const cursor = new Cursor(source, length);
  const block = new Block(cursor.take(HEADER_SIZE, "block header"));
  const count = cursor.compactSize("transaction count");
  for (let i: u64 = 0; i < count; i++) {
    block.transactions.push(readTransaction(cursor));
  }
  if (cursor.remaining > 0) cursor.fail("bytes follow the last transaction");
  return block;
}

function readTransaction(cursor: Cursor): Transaction {
  const transaction = new Transaction();
  const version = cursor.take(VERSION_SIZE, "transaction version");
  const hasWitness = readWitnessMarker(cursor);
  const body = cursor.address;
  readInputs(cursor, transaction.spends);
  readOutputs(cursor, transaction.outputs);
  const bodyLength = cursor.address - body;
  if (hasWitness) skipWitnesses(cursor, transaction.spends.length);
  const lockTime = cursor.take(LOCK_TIME_SIZE, "lock time");

  begin();
  update(version, <usize>VERSION_SIZE);
  update(body, bodyLength);
  update(lockTime, <usize>LOCK_TIME_SIZE);
  finishDouble(addressOf(transaction.id));
  return transaction;
}

/** Bitcoin's double hash: SHA-256 of the digest so far. */
function finishDouble(destination: usize): void {
  finish(destination);
  begin();
  update(destination, DIGEST_SIZE);
  finish(destination);
}

/** BIP 144: a zero in place of the number of inputs, which is never zero, and then the flag 1. */
function readWitnessMarker(cursor: Cursor): bool {
  if (!cursor.isNext(0)) return false;
  cursor.take(1, "witness marker");
  const flag = load<u8>(cursor.take(1, "witness flag"));
  if (flag != 1) cursor.fail("a transaction has no inputs, or an unknown witness flag");
  return true;
}

function readInputs(cursor: Cursor, spends: usize[]): void {
  const count = cursor.compactSize("input count");
  if (count == 0) cursor.fail("a transaction has no inputs");
  for (let i: u64 = 0; i < count; i++) {
    spends.push(cursor.take(OUTPOINT_SIZE, "outpoint"));
    cursor.take(cursor.compactSize("input script length"), "input script");
    cursor.take(SEQUENCE_SIZE, "sequence number");
  }
}

function readOutputs(cursor: Cursor, outputs: Output[]): void {
  const count = cursor.compactSize("output count");
  for (let i: u64 = 0; i < count; i++) {
    const value = cursor.u64("output value");
    const scriptLength = cursor.compactSize("output script length");
    const script = cursor.take(scriptLength, "output script");
    outputs.push(new Output(value, script, <usize>scriptLength));
  }
}

function skipWitnesses(cursor: Cursor, inputCount: i32): void {
  let total: u64 = 0;
  for (let i = 0; i < inputCount; i++) {
    const items = cursor.compactSize("witness item count");
    for (let j: u64 = 0; j < items; j++) {
      cursor.take(cursor.compactSize("witness item length"), "witness item");
    }
    total += items;
  }
  // The same transaction without marker and witness would have the same id; Bitcoin Core accepts only that form.
  if (total == 0) cursor.fail("a transaction is marked as having a witness and has none");
}
