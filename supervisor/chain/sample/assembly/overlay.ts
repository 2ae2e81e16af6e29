// The state as one block sees it: the state of the host, and over it the writes of this block so far. During a block the
// host returns the state before the block. So an output that is created and spent in the same block, and a script that
// is paid twice, exist only here until the flush.
//
// This is a hash table with open addressing and keys of bytes. AssemblyScript's Map compares ArrayBuffers by identity,
// and strings would cost an allocation and a conversion for each lookup. Entries are flushed in the order in which they
// were first touched, so the same block always produces the same bytes.

import { addressOf, isEqual } from "./bytes";
import { ABSENT, flush, readState } from "./host";
import { encodeKeyValueFlush } from "./protobuf";

/** A power of two, so that a mask can replace the division. */
const INITIAL_BUCKETS: i32 = 8192;

class Entry {
  /** Whether the state of the host may hold a value that a removal must remove. True until the host has no value. */
  isStored: bool = true;
  isWritten: bool = false;
  value: ArrayBuffer = ABSENT;

  constructor(
    readonly key: ArrayBuffer,
    readonly hash: u32,
  ) {}

  get isChange(): bool {
    return this.isWritten && (this.isStored || this.value.byteLength > 0);
  }
}

/** Callers share values, so a buffer that was passed in or out is never changed in place. */
export class Overlay {
  private entries: Entry[] = [];
  /** The index of an entry plus one; zero is an empty bucket. Entries are never removed. */
  private buckets: StaticArray<i32> = new StaticArray<i32>(INITIAL_BUCKETS);

  /** The value of a key; empty if there is none. */
  get(key: ArrayBuffer): ArrayBuffer {
    const hash = hashOf(key);
    const known = this.find(key, hash);
    if (known) return known.value;
    const entry = this.add(key, hash);
    entry.value = readState(key);
    entry.isStored = entry.value.byteLength > 0;
    return entry.value;
  }

  set(key: ArrayBuffer, value: ArrayBuffer): void {
    const hash = hashOf(key);
    let entry = this.find(key, hash);
    if (!entry) entry = this.add(key, hash);
    entry.value = value;
    entry.isWritten = true;
  }

  /** `set` for a key that the caller knows to be absent. If the key is removed again, nothing has to be written. */
  insert(key: ArrayBuffer, value: ArrayBuffer): void {
    const hash = hashOf(key);
    let entry = this.find(key, hash);
    if (!entry) {
      entry = this.add(key, hash);
      entry.isStored = false;
    }
    entry.value = value;
    entry.isWritten = true;
  }

  remove(key: ArrayBuffer): void {
    this.set(key, ABSENT);
  }

  /** Passes all changes to the host. */
  flush(): void {
    const list: ArrayBuffer[] = [];
    for (let i = 0; i < this.entries.length; i++) {
      const entry = this.entries[i];
      if (!entry.isChange) continue;
      list.push(entry.key);
      list.push(entry.value);
    }
    flush(encodeKeyValueFlush(list));
  }

  private find(key: ArrayBuffer, hash: u32): Entry | null {
    const mask = this.buckets.length - 1;
    let bucket = hash & mask;
    let number = this.buckets[bucket];
    while (number != 0) {
      const entry = this.entries[number - 1];
      if (entry.hash == hash && isEqual(entry.key, key)) return entry;
      bucket = (bucket + 1) & mask;
      number = this.buckets[bucket];
    }
    return null;
  }

  private add(key: ArrayBuffer, hash: u32): Entry {
    const entry = new Entry(key, hash);
    this.entries.push(entry);
    // The table is at most half full, so that runs of linear probing stay short.
    if (this.entries.length * 2 > this.buckets.length) this.grow();
    else this.link(hash, this.entries.length);
    return entry;
  }

  private grow(): void {
    this.buckets = new StaticArray<i32>(this.buckets.length * 2);
    for (let i = 0; i < this.entries.length; i++) {
      this.link(this.entries[i].hash, i + 1);
    }
  }

  private link(hash: u32, number: i32): void {
    const mask = this.buckets.length - 1;
    let bucket = hash & mask;
    while (this.buckets[bucket] != 0) bucket = (bucket + 1) & mask;
    this.buckets[bucket] = number;
  }
}

/**
 * FNV-1a over eight bytes at a time. Each step folds the hash, because a multiplication only carries upwards. The whole
 * key is hashed, because outputs of one transaction differ only in their last bytes.
 */
function hashOf(key: ArrayBuffer): u32 {
  let hash: u64 = 0xcbf29ce484222325;
  let address = addressOf(key);
  const end = address + <usize>key.byteLength;
  for (; address + 8 <= end; address += 8) hash = mix(hash, load<u64>(address));
  for (; address < end; address++) hash = mix(hash, load<u8>(address));
  return <u32>hash;
}

@inline
function mix(hash: u64, word: u64): u64 {
  const product = (hash ^ word) * 0x9e3779b97f4a7c15;
  return product ^ (product >> 32);
}
