// Applies a block to the set of unspent outputs. Each output takes a constant number of reads and writes, however many
// outputs its script has. The list of a script consists of the slots 0..n. A new output takes slot n, and the slot of a
// removed output is filled with the last output.

import { Block, Output, Transaction } from "./block";
import { addressOf } from "./bytes";
import { Overlay } from "./overlay";
import {
  ScriptTotals,
  Stats,
  UnspentOutput,
  decodeOutpoint,
  headerKey,
  headerRecord,
  outpointOf,
  outputKey,
  scriptKey,
  slotKey,
  statsKey,
} from "./schema";
import { DIGEST_SIZE, sha256 } from "./sha256";

const OP_RETURN: u8 = 0x6a;
const NULL_INDEX: u32 = 0xffffffff;

export class Ledger {
  private overlay: Overlay;
  private stats: Stats;

  constructor(private height: u32) {
    const overlay = new Overlay();
    this.overlay = overlay;
    this.stats = Stats.decode(overlay.get(statsKey()));
  }

  /** Indexes the block at the height of this ledger. The host gets nothing before `flush`. */
  add(block: Block): void {
    const transactions = block.transactions;
    for (let i = 0; i < transactions.length; i++) {
      this.addTransaction(transactions[i]);
    }
    this.overlay.set(headerKey(this.height), headerRecord(block.header));
    this.stats.blocks++;
    this.stats.transactions += transactions.length;
    this.stats.lastHeight = this.height;
  }

  flush(): void {
    this.overlay.set(statsKey(), this.stats.encode());
    this.overlay.flush();
  }

  private addTransaction(transaction: Transaction): void {
    const spends = transaction.spends;
    for (let i = 0; i < spends.length; i++) this.spend(spends[i]);
    const outputs = transaction.outputs;
    for (let i = 0; i < outputs.length; i++) {
      this.create(outpointOf(transaction.id, i), outputs[i]);
    }
  }

  private spend(outpoint: usize): void {
    if (isNull(outpoint)) return;
    if (this.removeUnspent(outpoint)) this.stats.spent++;
    else this.stats.unknownInputs++;
  }

  private create(outpoint: ArrayBuffer, output: Output): void {
    if (isUnspendable(output)) {
      this.stats.opReturns++;
      return;
    }
    // Before BIP 30, a coinbase could repeat an earlier one with the same id. The earlier outputs can then never be spent.
    if (this.removeUnspent(addressOf(outpoint))) this.stats.replaced++;
    this.addUnspent(outpoint, output);
    this.stats.created++;
  }

  private addUnspent(outpoint: ArrayBuffer, output: Output): void {
    const scriptHash = addressOf(sha256(output.script, output.scriptLength));
    const totals = this.totalsOf(scriptHash);
    const slot = <u32>totals.outputs;
    const unspent = UnspentOutput.of(output.value, scriptHash, this.height, slot);
    this.overlay.set(outputKey(addressOf(outpoint)), unspent.encode());
    this.overlay.insert(slotKey(scriptHash, slot), outpoint);
    totals.balance += output.value;
    totals.outputs++;
    this.setTotals(scriptHash, totals);
    this.stats.unspent++;
    this.stats.unspentValue += output.value;
  }

  /** Returns whether the outpoint was unspent. */
  private removeUnspent(outpoint: usize): bool {
    const key = outputKey(outpoint);
    const record = this.overlay.get(key);
    if (record.byteLength == 0) return false;
    const unspent = UnspentOutput.decode(record);
    this.overlay.remove(key);
    const totals = this.totalsOf(unspent.scriptHash);
    totals.balance -= unspent.value;
    totals.outputs--;
    this.removeSlot(unspent.scriptHash, unspent.slot, <u32>totals.outputs);
    this.setTotals(unspent.scriptHash, totals);
    this.stats.unspent--;
    this.stats.unspentValue -= unspent.value;
    return true;
  }

  /** Fills the free slot in the list of a script with the last outpoint. */
  private removeSlot(scriptHash: usize, slot: u32, last: u32): void {
    const lastKey = slotKey(scriptHash, last);
    if (slot != last) {
      const moved = decodeOutpoint(this.overlay.get(lastKey));
      const movedKey = outputKey(addressOf(moved));
      this.overlay.set(slotKey(scriptHash, slot), moved);
      this.overlay.set(movedKey, UnspentOutput.decode(this.overlay.get(movedKey)).movedTo(slot).encode());
    }
    this.overlay.remove(lastKey);
  }

  private totalsOf(scriptHash: usize): ScriptTotals {
    return ScriptTotals.decode(this.overlay.get(scriptKey(scriptHash)));
  }

  private setTotals(scriptHash: usize, totals: ScriptTotals): void {
    const key = scriptKey(scriptHash);
    if (totals.outputs == 0) this.overlay.remove(key);
    else this.overlay.set(key, totals.encode());
  }
}

/** The outpoint in the input of a coinbase: no transaction, no index. */
function isNull(outpoint: usize): bool {
  if (load<u32>(outpoint + DIGEST_SIZE) != NULL_INDEX) return false;
  for (let offset: usize = 0; offset < <usize>DIGEST_SIZE; offset += 8) {
    if (load<u64>(outpoint + offset) != 0) return false;
  }
  return true;
}

function isUnspendable(output: Output): bool {
  return output.scriptLength > 0 && load<u8>(output.script) == OP_RETURN;
}
