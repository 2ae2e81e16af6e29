// The encodings of all keys and values of the state. No other file of the module knows them, and README.md describes
// them for other readers. Integers are little-endian, as in a block, so outpoints and headers are stored with the bytes
// that they have in the block.

import { HEADER_SIZE, OUTPOINT_SIZE } from "./block";
import { addressOf, copyFrom } from "./bytes";
import { DIGEST_SIZE } from "./sha256";

// Each prefix is two characters, read as one u16.
const HEADER_PREFIX: u16 = 0x2f68; // "h/"
const OUTPUT_PREFIX: u16 = 0x2f6f; // "o/"
const SCRIPT_PREFIX: u16 = 0x2f73; // "s/"
const SLOT_PREFIX: u16 = 0x2f75; // "u/"
const PREFIX_SIZE: i32 = 2;

/** `h/` height: the block header. */
export function headerKey(height: u32): ArrayBuffer {
  const key = prefixed(HEADER_PREFIX, sizeof<u32>());
  store<u32>(addressOf(key, PREFIX_SIZE), height);
  return key;
}

export function headerRecord(header: usize): ArrayBuffer {
  return copyFrom(header, HEADER_SIZE);
}

/** `o/` outpoint: an `UnspentOutput`. */
export function outputKey(outpoint: usize): ArrayBuffer {
  const key = prefixed(OUTPUT_PREFIX, OUTPOINT_SIZE);
  memory.copy(addressOf(key, PREFIX_SIZE), outpoint, OUTPOINT_SIZE);
  return key;
}

/** The outpoint of an output, with the bytes of an input that spends it. */
export function outpointOf(id: ArrayBuffer, index: u32): ArrayBuffer {
  const outpoint = new ArrayBuffer(OUTPOINT_SIZE);
  memory.copy(addressOf(outpoint), addressOf(id), DIGEST_SIZE);
  store<u32>(addressOf(outpoint, DIGEST_SIZE), index);
  return outpoint;
}

/** `s/` script hash: a `ScriptTotals`. */
export function scriptKey(scriptHash: usize): ArrayBuffer {
  const key = prefixed(SCRIPT_PREFIX, DIGEST_SIZE);
  memory.copy(addressOf(key, PREFIX_SIZE), scriptHash, DIGEST_SIZE);
  return key;
}

/** `u/` script hash, slot: the outpoint in that slot of the script's list. */
export function slotKey(scriptHash: usize, slot: u32): ArrayBuffer {
  const key = prefixed(SLOT_PREFIX, DIGEST_SIZE + sizeof<u32>());
  memory.copy(addressOf(key, PREFIX_SIZE), scriptHash, DIGEST_SIZE);
  store<u32>(addressOf(key, PREFIX_SIZE + DIGEST_SIZE), slot);
  return key;
}

export function decodeOutpoint(record: ArrayBuffer): ArrayBuffer {
  return ofSize(record, OUTPOINT_SIZE);
}

/** `stats`: a `Stats`. */
export function statsKey(): ArrayBuffer {
  return String.UTF8.encode("stats");
}

function prefixed(prefix: u16, size: i32): ArrayBuffer {
  const key = new ArrayBuffer(PREFIX_SIZE + size);
  store<u16>(addressOf(key), prefix);
  return key;
}

/**
 * An unspent output: value u64, script hash, height u32, slot u32. The slot is the place in the list of the script, so
 * that spending the output needs no search of the list.
 */
export class UnspentOutput {
  private static readonly SIZE: i32 = 48;

  private constructor(private readonly record: ArrayBuffer) {}

  static of(value: u64, scriptHash: usize, height: u32, slot: u32): UnspentOutput {
    const output = new UnspentOutput(new ArrayBuffer(UnspentOutput.SIZE));
    store<u64>(addressOf(output.record), value);
    memory.copy(output.scriptHash, scriptHash, DIGEST_SIZE);
    store<u32>(addressOf(output.record, 40), height);
    store<u32>(addressOf(output.record, 44), slot);
    return output;
  }

  static decode(record: ArrayBuffer): UnspentOutput {
    return new UnspentOutput(ofSize(record, UnspentOutput.SIZE));
  }

  encode(): ArrayBuffer {
    return this.record;
  }

  /** The same output in another slot. */
  movedTo(slot: u32): UnspentOutput {
    return UnspentOutput.of(this.value, this.scriptHash, this.height, slot);
  }

  get value(): u64 {
    return load<u64>(addressOf(this.record));
  }

  /** The address of the script hash. */
  get scriptHash(): usize {
    return addressOf(this.record, 8);
  }

  get height(): u32 {
    return load<u32>(addressOf(this.record, 40));
  }

  get slot(): u32 {
    return load<u32>(addressOf(this.record, 44));
  }
}

/** What a script owns: balance u64, number of unspent outputs u64. A script that owns nothing has no record. */
export class ScriptTotals {
  private static readonly SIZE: i32 = 16;

  balance: u64 = 0;
  outputs: u64 = 0;

  static decode(record: ArrayBuffer): ScriptTotals {
    const totals = new ScriptTotals();
    if (record.byteLength == 0) return totals;
    ofSize(record, ScriptTotals.SIZE);
    totals.balance = load<u64>(addressOf(record));
    totals.outputs = load<u64>(addressOf(record, 8));
    return totals;
  }

  /** All sixteen bytes, whatever they hold. The state keeps the record only while the script has outputs. */
  encode(): ArrayBuffer {
    const record = new ArrayBuffer(ScriptTotals.SIZE);
    store<u64>(addressOf(record), this.balance);
    store<u64>(addressOf(record, 8), this.outputs);
    return record;
  }
}

/** The totals over all indexed blocks: ten u64, in this order. */
export class Stats {
  private static readonly SIZE: i32 = 80;

  blocks: u64 = 0;
  transactions: u64 = 0;
  /** Outputs that entered the set of unspent outputs. Each was spent, was replaced, or is unspent. */
  created: u64 = 0;
  spent: u64 = 0;
  replaced: u64 = 0;
  opReturns: u64 = 0;
  unknownInputs: u64 = 0;
  unspent: u64 = 0;
  unspentValue: u64 = 0;
  lastHeight: u64 = 0;

  static decode(record: ArrayBuffer): Stats {
    const stats = new Stats();
    if (record.byteLength == 0) return stats;
    ofSize(record, Stats.SIZE);
    stats.blocks = load<u64>(addressOf(record));
    stats.transactions = load<u64>(addressOf(record, 8));
    stats.created = load<u64>(addressOf(record, 16));
    stats.spent = load<u64>(addressOf(record, 24));
    stats.replaced = load<u64>(addressOf(record, 32));
    stats.opReturns = load<u64>(addressOf(record, 40));
    stats.unknownInputs = load<u64>(addressOf(record, 48));
    stats.unspent = load<u64>(addressOf(record, 56));
    stats.unspentValue = load<u64>(addressOf(record, 64));
    stats.lastHeight = load<u64>(addressOf(record, 72));
    return stats;
  }

  encode(): ArrayBuffer {
    const record = new ArrayBuffer(Stats.SIZE);
    store<u64>(addressOf(record), this.blocks);
    store<u64>(addressOf(record, 8), this.transactions);
    store<u64>(addressOf(record, 16), this.created);
    store<u64>(addressOf(record, 24), this.spent);
    store<u64>(addressOf(record, 32), this.replaced);
    store<u64>(addressOf(record, 40), this.opReturns);
    store<u64>(addressOf(record, 48), this.unknownInputs);
    store<u64>(addressOf(record, 56), this.unspent);
    store<u64>(addressOf(record, 64), this.unspentValue);
    store<u64>(addressOf(record, 72), this.lastHeight);
    return record;
  }
}

/** A record of another size was not written by this module. Its numbers would be meaningless, so the call ends. */
function ofSize(record: ArrayBuffer, size: i32): ArrayBuffer {
  if (record.byteLength != size) throw new Error("the state holds a missing or malformed record");
  return record;
}
