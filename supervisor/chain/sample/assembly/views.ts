// The views. A view reads the state and never writes it. The host gives the view the state at the height that the
// caller asked for. Arguments and answers are raw little-endian bytes. Arguments of a wrong length end the call,
// because no answer to them would be right.

import { OUTPOINT_SIZE } from "./block";
import { addressOf } from "./bytes";
import { Input, loadInput, readState } from "./host";
import {
  ScriptTotals,
  Stats,
  UnspentOutput,
  decodeOutpoint,
  headerKey,
  outputKey,
  scriptKey,
  slotKey,
  statsKey,
} from "./schema";
import { DIGEST_SIZE } from "./sha256";

const COUNT_SIZE: i32 = 4;
/** Outpoint, value u64, height u32. */
const LISTED_OUTPUT_SIZE: i32 = OUTPOINT_SIZE + 12;
const PAGE_SIZE: i32 = 8;
/** The most outputs in one answer: 48 MB. The size of a list must fit an i32, and the list must fit in memory. */
const MAX_LISTED: u32 = 1_000_000;

/** Script hash → balance u64, number of unspent outputs u64. */
export function balance(): ArrayBuffer {
  const input = loadInput();
  if (input.payloadLength != DIGEST_SIZE) throw new Error("balance: the input must be a script hash, 32 bytes");
  return totalsOf(input.payload).encode();
}

/** Script hash, and optionally offset u32 and limit u32 → count u32, and that many of its unspent outputs. */
export function utxos(): ArrayBuffer {
  const input = loadInput();
  if (input.payloadLength != DIGEST_SIZE && input.payloadLength != DIGEST_SIZE + PAGE_SIZE) {
    throw new Error("utxos: the input must be a script hash, 32 bytes, or that and offset u32 and limit u32, 40 bytes");
  }
  const total = totalsOf(input.payload).outputs;
  const first = min(total, <u64>offsetOf(input));
  const count = <u32>min(total - first, <u64>limitOf(input));
  if (count > MAX_LISTED) throw new Error("utxos: more than a million outputs in one answer; ask for a page");
  return listOutputs(input.payload, <u32>first, count);
}

/** Height u32 → the block header, 80 bytes; nothing if that height was not indexed. */
export function header(): ArrayBuffer {
  const input = loadInput();
  if (input.payloadLength != sizeof<u32>()) throw new Error("header: the input must be a height, 4 bytes");
  return readState(headerKey(load<u32>(input.payload)));
}

/** Nothing → the record of `Stats`; zeros before the first block. */
export function stats(): ArrayBuffer {
  if (loadInput().payloadLength != 0) throw new Error("stats: the input must be empty");
  return Stats.decode(readState(statsKey())).encode();
}

function totalsOf(scriptHash: usize): ScriptTotals {
  return ScriptTotals.decode(readState(scriptKey(scriptHash)));
}

function offsetOf(input: Input): u32 {
  return hasPage(input) ? load<u32>(input.payload + DIGEST_SIZE) : 0;
}

function limitOf(input: Input): u32 {
  return hasPage(input) ? load<u32>(input.payload + DIGEST_SIZE + 4) : u32.MAX_VALUE;
}

function hasPage(input: Input): bool {
  return input.payloadLength == DIGEST_SIZE + PAGE_SIZE;
}

function listOutputs(scriptHash: usize, first: u32, count: u32): ArrayBuffer {
  const list = new ArrayBuffer(COUNT_SIZE + count * LISTED_OUTPUT_SIZE);
  store<u32>(addressOf(list), count);
  for (let i: u32 = 0; i < count; i++) {
    const outpoint = decodeOutpoint(readState(slotKey(scriptHash, first + i)));
    listOutput(addressOf(list, COUNT_SIZE + i * LISTED_OUTPUT_SIZE), outpoint);
  }
  return list;
}

function listOutput(destination: usize, outpoint: ArrayBuffer): void {
  const output = UnspentOutput.decode(readState(outputKey(addressOf(outpoint))));
  memory.copy(destination, addressOf(outpoint), OUTPOINT_SIZE);
  store<u64>(destination + OUTPOINT_SIZE, output.value);
  store<u32>(destination + OUTPOINT_SIZE + 8, output.height);
}
