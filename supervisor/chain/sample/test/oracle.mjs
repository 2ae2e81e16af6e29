// What the state must be, computed the naive way, and the comparison with what it is. The oracle keeps one Map of
// unspent outputs and derives all else from it; it knows nothing of slots or of reads and writes.

import assert from "node:assert/strict";

import { NULL_OUTPOINT, outpoint, readBlock, sha256, u32, u64 } from "./bitcoin.mjs";

const OP_RETURN = 0x6a;

export class Oracle {
  headers = new Map();
  /** Hex of the outpoint → { value, scriptHash (hex), height }. */
  unspent = new Map();
  stats = { blocks: 0, transactions: 0, created: 0, spent: 0, replaced: 0, opReturns: 0, unknownInputs: 0, height: 0 };

  /** Throws `MalformedBlock`, having changed nothing, if the block does not parse. */
  index(height, bytes) {
    const { header, transactions } = readBlock(bytes);
    for (const transaction of transactions) this.#addTransaction(height, transaction);
    this.headers.set(height, header);
    this.stats.blocks++;
    this.stats.transactions += transactions.length;
    this.stats.height = height;
  }

  #addTransaction(height, { id, inputs, outputs }) {
    for (const { spends } of inputs) {
      if (spends.equals(NULL_OUTPOINT)) continue;
      if (this.unspent.delete(spends.toString("hex"))) this.stats.spent++;
      else this.stats.unknownInputs++;
    }
    outputs.forEach(({ value, script }, index) => {
      if (script[0] === OP_RETURN) return void this.stats.opReturns++;
      const key = outpoint(id, index).toString("hex");
      if (this.unspent.delete(key)) this.stats.replaced++;
      this.unspent.set(key, { value, scriptHash: sha256(script).toString("hex"), height });
      this.stats.created++;
    });
  }

  /** Hex of a script hash → its outputs, each as the `utxos` view lists it. */
  outputsByScript() {
    const scripts = new Map();
    for (const [key, { value, scriptHash, height }] of this.unspent) {
      if (!scripts.has(scriptHash)) scripts.set(scriptHash, []);
      scripts.get(scriptHash).push({ value, listed: key + u64(value).toString("hex") + u32(height).toString("hex") });
    }
    return scripts;
  }

  statsRecord() {
    const { blocks, transactions, created, spent, replaced, opReturns, unknownInputs, height } = this.stats;
    const unspentValue = sum([...this.unspent.values()]);
    const head = [blocks, transactions, created, spent, replaced, opReturns, unknownInputs];
    return Buffer.concat([...head, this.unspent.size, unspentValue, height].map(u64));
  }
}

const sum = (outputs) => outputs.reduce((total, { value }) => BigInt.asUintN(64, total + value), 0n);

const totalsRecord = (outputs) => Buffer.concat([u64(sum(outputs)), u64(outputs.length)]);

/** Checks every key and value of the state, and the views on at most `scriptLimit` scripts. */
export function assertAgree(host, oracle, scriptLimit = 500) {
  const scripts = oracle.outputsByScript();
  assertState(host.state, oracle, scripts);
  assert.deepEqual(host.view("stats"), oracle.statsRecord(), "stats view");
  for (const [height, header] of oracle.headers) assert.deepEqual(host.view("header", u32(height)), header);
  for (const [scriptHash, outputs] of [...scripts].slice(0, scriptLimit)) assertViews(host, scriptHash, outputs);
}

function assertState(state, oracle, scripts) {
  const expected = new Map([[hexOf("stats"), oracle.statsRecord().toString("hex")]]);
  for (const [height, header] of oracle.headers) {
    expected.set(hexOf("h/") + u32(height).toString("hex"), header.toString("hex"));
  }
  for (const [scriptHash, outputs] of scripts) {
    expected.set(hexOf("s/") + scriptHash, totalsRecord(outputs).toString("hex"));
    for (let slot = 0; slot < outputs.length; slot++) expectSlot(expected, state, oracle, scriptHash, slot);
  }
  assert.equal(state.size, expected.size, "number of keys");
  for (const [key, value] of expected) {
    assert.equal(state.get(key)?.toString("hex"), value, `value of the key ${key}`);
  }
}

/**
 * Which outpoint is in which slot follows from the order of removals, and is the module's business: take it from the
 * state, and expect that the output it names is unspent, of this script, and says the same slot.
 */
function expectSlot(expected, state, oracle, scriptHash, slot) {
  const slotKey = hexOf("u/") + scriptHash + u32(slot).toString("hex");
  const name = state.get(slotKey)?.toString("hex");
  const output = oracle.unspent.get(name);
  assert.equal(output?.scriptHash, scriptHash, `slot ${slot} of ${scriptHash} names ${name}`);
  expected.set(slotKey, name);
  const record = u64(output.value).toString("hex") + scriptHash + u32(output.height).toString("hex");
  expected.set(hexOf("o/") + name, record + u32(slot).toString("hex"));
}

function assertViews(host, scriptHash, outputs) {
  const input = Buffer.from(scriptHash, "hex");
  assert.deepEqual(host.view("balance", input), totalsRecord(outputs), "balance view");
  const answer = host.view("utxos", input);
  assert.equal(answer.readUInt32LE(), outputs.length, "count of the utxos view");
  assert.equal(answer.length, 4 + 48 * outputs.length);
  const listed = outputs.map((_, i) => answer.subarray(4 + 48 * i, 4 + 48 * (i + 1)).toString("hex"));
  assert.deepEqual(listed.sort(), outputs.map((output) => output.listed).sort());
}

const hexOf = (text) => Buffer.from(text).toString("hex");
