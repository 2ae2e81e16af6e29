// A second, independent reading of Bitcoin blocks for the tests to compare the module with, and a writer of small
// blocks. It favours plainness over speed, and proves its own reading of real blocks by their merkle roots.

import { createHash } from "node:crypto";

export const sha256 = (...pieces) => {
  const hash = createHash("sha256");
  for (const piece of pieces) hash.update(piece);
  return hash.digest();
};

export const doubleSha256 = (...pieces) => sha256(sha256(...pieces));

export const u32 = (value) => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
};

export const u64 = (value) => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
};

export const compactSize = (value) => {
  if (value < 0xfd) return Buffer.from([value]);
  if (value <= 0xffff) return Buffer.from([0xfd, value & 0xff, value >> 8]);
  return Buffer.concat([Buffer.from([0xfe]), u32(value)]);
};

/** What the coinbase's input spends. */
export const NULL_OUTPOINT = Buffer.concat([Buffer.alloc(32), Buffer.alloc(4, 0xff)]);

export const outpoint = (id, index) => Buffer.concat([id, u32(index)]);

// ---- Reading

/** A block that does not parse. */
export class MalformedBlock extends Error {}

class Reader {
  at = 0;

  constructor(bytes) {
    this.bytes = bytes;
  }

  bytesOf(length) {
    const end = this.at + Number(length);
    if (end > this.bytes.length) throw new MalformedBlock("truncated");
    const piece = this.bytes.subarray(this.at, end);
    this.at = end;
    return piece;
  }

  size() {
    const first = this.bytesOf(1)[0];
    if (first < 0xfd) return first;
    const width = { 0xfd: 2, 0xfe: 4, 0xff: 8 }[first];
    const value = Buffer.concat([this.bytesOf(width), Buffer.alloc(8 - width)]).readBigUInt64LE();
    const least = { 2: 0xfdn, 4: 0x10000n, 8: 0x100000000n }[width];
    if (value < least) throw new MalformedBlock("not the shortest compact size");
    return Number(value);
  }

  sized() {
    return this.bytesOf(this.size());
  }

  list(readItem, count = this.size()) {
    const items = [];
    for (let i = 0; i < count; i++) items.push(readItem(this));
    return items;
  }
}

const readInput = (reader) => ({ spends: reader.bytesOf(36), script: reader.sized(), sequence: reader.bytesOf(4) });

const readOutput = (reader) => ({ value: reader.bytesOf(8).readBigUInt64LE(), script: reader.sized() });

function readTransaction(reader) {
  const version = reader.bytesOf(4);
  const hasWitness = reader.bytes[reader.at] === 0;
  if (hasWitness && reader.bytesOf(2)[1] !== 1) throw new MalformedBlock("unknown witness flag");
  const inputs = reader.list(readInput);
  if (inputs.length === 0) throw new MalformedBlock("no inputs");
  const outputs = reader.list(readOutput);
  const witnesses = hasWitness ? reader.list(() => reader.list(() => reader.sized()), inputs.length) : [];
  if (hasWitness && witnesses.every((items) => items.length === 0)) throw new MalformedBlock("empty witness");
  const lockTime = reader.bytesOf(4);
  return { id: transactionId({ version, inputs, outputs, lockTime }), inputs, outputs };
}

export function readBlock(bytes) {
  const reader = new Reader(bytes);
  const header = reader.bytesOf(80);
  const transactions = reader.list(readTransaction);
  if (reader.at !== bytes.length) throw new MalformedBlock("trailing bytes");
  return { header, transactions };
}

export function hasMerkleRoot(block) {
  let level = block.transactions.map((transaction) => transaction.id);
  while (level.length > 1) {
    if (level.length % 2 === 1) level.push(level.at(-1));
    level = Array.from({ length: level.length / 2 }, (_, i) => doubleSha256(level[2 * i], level[2 * i + 1]));
  }
  return level[0].equals(block.header.subarray(36, 68));
}

/** The blocks of a `blk*.dat` file: magic, length, block; again. */
export function readBlockFile(bytes) {
  const reader = new Reader(bytes);
  const blocks = [];
  while (reader.at < bytes.length) {
    reader.bytesOf(4);
    blocks.push(reader.bytesOf(reader.bytesOf(4).readUInt32LE()));
  }
  return blocks;
}

// ---- Writing

const list = (items) => [compactSize(items.length), ...items];

const sized = (bytes) => Buffer.concat([compactSize(bytes.length), bytes]);

const writeInput = ({ spends, script, sequence }) => Buffer.concat([spends, sized(script), sequence]);

const writeOutput = ({ value, script }) => Buffer.concat([u64(value), sized(script)]);

const writeBody = ({ inputs, outputs }) => [...list(inputs.map(writeInput)), ...list(outputs.map(writeOutput))];

function transactionId({ version, inputs, outputs, lockTime }) {
  return doubleSha256(Buffer.concat([version, ...writeBody({ inputs, outputs }), lockTime]));
}

/**
 * A transaction that spends outpoints, pays `[value, script]` outputs, and has one witness (a list of items) per
 * input if any are given.
 */
export function transaction({ spends = [NULL_OUTPOINT], pays = [], witnesses = [], lockTime = 0 }) {
  const parts = {
    version: u32(2),
    inputs: spends.map((spent) => ({ spends: spent, script: Buffer.from([0x51]), sequence: u32(0xffffffff) })),
    outputs: pays.map(([value, script]) => ({ value, script })),
    lockTime: u32(lockTime),
  };
  const marker = witnesses.length > 0 ? [Buffer.from([0, 1])] : [];
  const witnessBytes = witnesses.flatMap((items) => list(items.map(sized)));
  const bytes = Buffer.concat([parts.version, ...marker, ...writeBody(parts), ...witnessBytes, parts.lockTime]);
  return { id: transactionId(parts), bytes };
}

export function block(transactions, header = Buffer.alloc(80, 7)) {
  return Buffer.concat([header, ...list(transactions.map(({ bytes }) => bytes))]);
}
