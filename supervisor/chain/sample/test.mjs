// Tests of sample.wasm as it is committed: the ABI it keeps, small blocks made for one case each, random blocks and
// damaged blocks against the oracle, and real blocks. `npm test`, or `node --test test.mjs`; needs no installation.
//
// Real blocks are read from $COFFERDAM_SHARED/blocks, mainnet block 702861 from cargo's registry.

import assert from "node:assert/strict";
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import test from "node:test";

import {
  MalformedBlock,
  NULL_OUTPOINT,
  block,
  hasMerkleRoot,
  outpoint,
  readBlock,
  readBlockFile,
  sha256,
  transaction,
  u32,
  u64,
} from "./test/bitcoin.mjs";
import { GuestAbort, Host } from "./test/host.mjs";
import { Oracle, assertAgree } from "./test/oracle.mjs";

const wasm = readFileSync(new URL("sample.wasm", import.meta.url));
const module = new WebAssembly.Module(wasm);

const ALICE = Buffer.from("alice");
const BOB = Buffer.from("bob");
const DATA = Buffer.from([0x6a, 1, 2, 3]);

/** A host and an oracle that are given the same blocks. */
class Pair {
  host = new Host(module);
  oracle = new Oracle();

  index(height, bytes) {
    this.oracle.index(height, bytes);
    return this.host.index(height, bytes);
  }

  assertAgree() {
    assertAgree(this.host, this.oracle);
  }
}

const balanceOf = (host, script) => {
  const answer = host.view("balance", sha256(script));
  return { balance: answer.readBigUInt64LE(0), outputs: answer.readBigUInt64LE(8) };
};

const assertRefused = (host, height, bytes, message) => {
  const before = new Map(host.state);
  assert.throws(
    () => host.index(height, bytes),
    (error) => error instanceof GuestAbort && message.test(error.message),
  );
  assert.deepEqual(host.state, before);
};

// ---- ABI

test("imports functions of env only, exports its memory and what the README lists", () => {
  const known = new Set(["__host_len", "__load_input", "__get_len", "__get", "__flush", "__log", "abort"]);
  for (const { module: from, name, kind } of WebAssembly.Module.imports(module)) {
    assert.ok(from === "env" && kind === "function" && known.has(name), `import ${from}.${name}`);
  }
  const names = WebAssembly.Module.exports(module).map(({ name }) => name);
  assert.deepEqual(names.sort(), ["_start", "balance", "header", "memory", "stats", "utxos"]);
});

/** An instance whose imports all answer 0: to them every input is empty. */
function inertInstance() {
  const names = WebAssembly.Module.imports(module).map(({ name }) => name);
  return new WebAssembly.Instance(module, { env: Object.fromEntries(names.map((name) => [name, () => 0])) });
}

test("declares no maximum below 65,536 pages, so the host's limit is the only one", () => {
  const { memory } = inertInstance().exports;
  const pages = memory.buffer.byteLength / 65_536;
  assert.equal(memory.grow(65_536 - pages), pages);
});

test("an input too short for a height traps, even if abort returns", () => {
  assert.throws(() => inertInstance().exports._start(), WebAssembly.RuntimeError);
});

test("the same block on the same state flushes the same bytes", () => {
  const bytes = block([transaction({ pays: [[5, ALICE], [6, BOB]] })]);
  assert.deepEqual(new Host(module).index(1, bytes), new Host(module).index(1, bytes));
});

// ---- The ledger, one case each

test("views answer before the first block", () => {
  const host = new Host(module);
  assert.deepEqual(host.view("stats"), Buffer.alloc(80));
  assert.deepEqual(host.view("balance", sha256(ALICE)), Buffer.alloc(16));
  assert.deepEqual(host.view("utxos", sha256(ALICE)), Buffer.alloc(4));
  assert.deepEqual(host.view("header", u32(0)), Buffer.alloc(0));
});

test("an output created and spent in one block leaves nothing but totals", () => {
  const pair = new Pair();
  const coinbase = transaction({ pays: [[50, ALICE]] });
  const spend = transaction({ spends: [outpoint(coinbase.id, 0)], pays: [[50, BOB]] });
  const pairs = pair.index(1, block([coinbase, spend]));
  pair.assertAgree();
  assert.deepEqual(balanceOf(pair.host, ALICE), { balance: 0n, outputs: 0n });
  assert.deepEqual(balanceOf(pair.host, BOB), { balance: 50n, outputs: 1n });
  assert.ok(pairs.every(([, value]) => value.length > 0), "nothing absent is removed");
});

test("an output of an earlier block is spent, and its script with nothing left is removed", () => {
  const pair = new Pair();
  const coinbase = transaction({ pays: [[50, ALICE], [1, BOB]] });
  pair.index(1, block([coinbase]));
  pair.index(2, block([transaction({ spends: [outpoint(coinbase.id, 0)], pays: [[49, BOB]] })]));
  pair.assertAgree();
  assert.deepEqual(balanceOf(pair.host, BOB), { balance: 50n, outputs: 2n });
});

for (const spent of [0, 1, 2]) {
  test(`slot ${spent} of three is removed, across blocks and within one`, () => {
    const fund = transaction({ pays: [[1, ALICE], [2, ALICE], [4, ALICE]] });
    const spend = transaction({ spends: [outpoint(fund.id, spent)], pays: [[8, ALICE]] });
    const apart = new Pair();
    apart.index(1, block([fund]));
    apart.index(2, block([spend]));
    apart.assertAgree();
    const together = new Pair();
    together.index(1, block([fund, spend]));
    together.assertAgree();
  });
}

test("a second spend of one output is an unknown input", () => {
  const pair = new Pair();
  const fund = transaction({ pays: [[1, ALICE]] });
  const spends = [outpoint(fund.id, 0), outpoint(fund.id, 0)];
  pair.index(1, block([fund, transaction({ spends })]));
  pair.assertAgree();
  assert.equal(pair.oracle.stats.unknownInputs, 1);
});

test("inputs of blocks never seen are counted and ignored, the coinbase's is neither", () => {
  const pair = new Pair();
  const unknown = outpoint(Buffer.alloc(32, 9), 3);
  const zeroIdOnly = outpoint(Buffer.alloc(32), 0);
  pair.index(1, block([transaction({ pays: [[1, ALICE]] }), transaction({ spends: [unknown, zeroIdOnly] })]));
  pair.assertAgree();
  assert.equal(pair.oracle.stats.unknownInputs, 2);
});

test("OP_RETURN outputs are counted only", () => {
  const pair = new Pair();
  pair.index(1, block([transaction({ pays: [[0, DATA], [7, ALICE], [9, Buffer.from([0x6a])]] })]));
  pair.assertAgree();
  assert.equal(pair.oracle.stats.opReturns, 2);
  assert.equal(pair.oracle.stats.created, 1);
});

test("a repeated coinbase replaces the earlier one, across blocks and within one", () => {
  const coinbase = transaction({ pays: [[50, ALICE], [1, BOB]] });
  const other = transaction({ pays: [[3, ALICE]], lockTime: 1 });
  const pair = new Pair();
  pair.index(1, block([coinbase, other]));
  pair.index(2, block([coinbase]));
  pair.assertAgree();
  pair.index(3, block([coinbase, coinbase]));
  pair.assertAgree();
  assert.equal(pair.oracle.stats.replaced, 6);
  assert.deepEqual(balanceOf(pair.host, ALICE), { balance: 53n, outputs: 2n });
});

test("scripts of every length up to four hash chunks, and one of 70,000 bytes", () => {
  const pair = new Pair();
  const scripts = Array.from({ length: 257 }, (_, length) => Buffer.alloc(length, length));
  scripts.push(Buffer.alloc(70_000, 1));
  pair.index(1, block([transaction({ pays: scripts.map((script, i) => [i + 1, script]) })]));
  pair.assertAgree();
  assert.equal(balanceOf(pair.host, scripts.at(-1)).balance, 258n);
});

test("100,000 outputs of one script fit, and can all be spent in one block", (t) => {
  const pair = new Pair();
  const count = 100_000;
  const fund = transaction({ pays: Array.from({ length: count }, () => [3, Buffer.alloc(0)]) });
  pair.index(1, block([fund]));
  pair.assertAgree();
  pair.index(2, block([transaction({ spends: Array.from({ length: count }, (_, i) => outpoint(fund.id, i)) })]));
  t.diagnostic(`${(pair.host.cost.memoryBytes / 2 ** 20).toFixed(1)} MiB of memory`);
  pair.assertAgree();
});

test("values up to 2^64 - 1 are kept, and sums are taken modulo 2^64", () => {
  const pair = new Pair();
  const fund = transaction({ pays: [[2n ** 64n - 1n, ALICE], [5, ALICE]] });
  pair.index(1, block([fund]));
  pair.assertAgree();
  pair.index(2, block([transaction({ spends: [outpoint(fund.id, 0)] })]));
  pair.assertAgree();
  assert.equal(balanceOf(pair.host, ALICE).balance, 5n);
});

test("the witness is no part of a transaction's id", () => {
  const pair = new Pair();
  const fund = transaction({ pays: [[1, ALICE]] });
  const witnesses = [[Buffer.alloc(72, 1), Buffer.alloc(0), Buffer.alloc(300, 2)], []];
  const spends = [outpoint(fund.id, 0), NULL_OUTPOINT];
  const segwit = transaction({ spends, pays: [[1, BOB]], witnesses });
  pair.index(1, block([fund, segwit]));
  pair.index(2, block([transaction({ spends: [outpoint(segwit.id, 0)] })]));
  pair.assertAgree();
  assert.equal(pair.oracle.stats.spent, 2);
});

test("a header is kept for every height, up to the last", () => {
  const host = new Host(module);
  for (const height of [0, 1, 0xffffffff]) {
    const header = Buffer.alloc(80, height & 0xff);
    host.index(height, block([transaction({})], header));
    assert.deepEqual(host.view("header", u32(height)), header);
  }
  assert.deepEqual(host.view("header", u32(2)), Buffer.alloc(0));
});

// ---- Views

test("utxos gives pages", () => {
  const host = new Host(module);
  host.index(7, block([transaction({ pays: [[1, ALICE], [2, ALICE], [3, ALICE]] })]));
  const page = (offset, limit) => host.view("utxos", Buffer.concat([sha256(ALICE), u32(offset), u32(limit)]));
  const all = host.view("utxos", sha256(ALICE));
  assert.deepEqual(page(0, 0xffffffff), all);
  assert.deepEqual(page(1, 1), Buffer.concat([u32(1), all.subarray(4 + 48, 4 + 96)]));
  assert.deepEqual(page(2, 9), Buffer.concat([u32(1), all.subarray(4 + 96)]));
  for (const [offset, limit] of [[0, 0], [3, 1], [0xffffffff, 0xffffffff]]) {
    assert.deepEqual(page(offset, limit), u32(0));
  }
});

test("utxos does not try to list more than a million outputs at once", () => {
  const host = new Host(module);
  const key = Buffer.concat([Buffer.from("s/"), sha256(ALICE)]).toString("hex");
  host.state.set(key, Buffer.concat([u64(1), u64(1_000_001)]));
  assert.throws(() => host.view("utxos", sha256(ALICE)), { message: /ask for a page/ });
});

test("views refuse arguments of any other length", () => {
  const host = new Host(module);
  const allowed = { balance: [32], utxos: [32, 40], header: [4], stats: [0] };
  for (const [name, lengths] of Object.entries(allowed)) {
    for (let length = 0; length <= 48; length++) {
      if (lengths.includes(length)) continue;
      const message = new RegExp(`^${name}: the input must be`);
      assert.throws(() => host.view(name, Buffer.alloc(length)), { message }, `${name} of ${length} bytes`);
    }
  }
});

test("a state that is not of this module's making ends the call", () => {
  const host = new Host(module);
  host.state.set(Buffer.from("stats").toString("hex"), Buffer.alloc(79));
  assert.throws(() => host.view("stats"), /malformed record/);
  assertRefused(host, 1, block([transaction({})]), /malformed record/);
});

// ---- Blocks that do not parse

const SMALL_BLOCK = block([
  transaction({ pays: [[50, ALICE], [0, DATA]] }),
  transaction({ spends: [outpoint(Buffer.alloc(32, 1), 0)], pays: [[1, BOB]], witnesses: [[ALICE, BOB]] }),
]);

test("a block cut short anywhere is refused, and nothing is flushed", () => {
  const host = new Host(module);
  for (let length = 0; length < SMALL_BLOCK.length; length++) {
    assertRefused(host, 1, SMALL_BLOCK.subarray(0, length), /^the input ends inside the .+, at byte \d+$/);
  }
});

test("bytes after the last transaction are refused", () => {
  const host = new Host(module);
  assertRefused(host, 1, Buffer.concat([SMALL_BLOCK, Buffer.from([0])]), /^bytes follow the last transaction/);
});

test("counts and lengths are believed only as far as there are bytes", () => {
  const host = new Host(module);
  const header = Buffer.alloc(80);
  const huge = [0xfe, 0xff, 0xff, 0xff, 0xff];
  const beyond32Bits = [0xff, 1, 0, 0, 0, 1, 0, 0, 0];
  const start = [1, 2, 0, 0, 0];
  const input = [1, ...Buffer.alloc(36)];
  for (const size of [huge, beyond32Bits]) {
    assertRefused(host, 1, Buffer.from([...header, ...size]), /inside the transaction version/);
    assertRefused(host, 1, Buffer.from([...header, ...start, ...size]), /inside the outpoint/);
    assertRefused(host, 1, Buffer.from([...header, ...start, ...input, ...size, 0]), /inside the input script/);
  }
});

test("a compact size that is longer than it need be is refused", () => {
  const host = new Host(module);
  for (const size of [[0xfd, 0xfc, 0], [0xfe, 0xff, 0xff, 0, 0], [0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]]) {
    assertRefused(host, 1, Buffer.from([...Buffer.alloc(80), ...size]), /longer than it need be/);
  }
});

test("no inputs, unknown witness flags and empty witnesses are refused", () => {
  const host = new Host(module);
  const start = [...Buffer.alloc(80), 1, 2, 0, 0, 0];
  assertRefused(host, 1, Buffer.from([...start, 0, 0, 0, 0, 0, 0]), /no inputs/);
  assertRefused(host, 1, Buffer.from([...start, 0, 2, 0, 0, 0, 0]), /unknown witness flag/);
  assertRefused(host, 1, Buffer.from([...start, 0, 1, 0, 0, 0, 0]), /no inputs/);
  assertRefused(host, 1, block([transaction({ witnesses: [[]] })]), /has none/);
});

// ---- Against the oracle, at random. A fixed seed: a failure can be had again.

/** Mulberry32. */
const randomNumbers = (seed) => () => {
  seed = (seed + 0x6d2b79f5) | 0;
  let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
};

function randomBlock(random, known) {
  const below = (limit) => Math.floor(random() * limit);
  const spendable = () => (known.length > 0 ? known[below(known.length)] : outpoint(Buffer.alloc(32, 5), 0));
  const output = () => [below(1000), random() < 0.1 ? DATA : Buffer.from([0x51, below(6)])];
  const transactions = Array.from({ length: 1 + below(12) }, (_, i) => {
    const spends = i === 0 ? [NULL_OUTPOINT] : Array.from({ length: 1 + below(3) }, spendable);
    const pays = Array.from({ length: below(5) }, output);
    const witnesses = random() < 0.5 ? spends.map(() => [ALICE]) : [];
    // Few lock times: ids repeat now and then, as coinbases once did.
    const made = transaction({ spends, pays, witnesses, lockTime: below(3) });
    pays.forEach((_, index) => known.push(outpoint(made.id, index)));
    return made;
  });
  return block(transactions);
}

test("60 chains of random blocks", () => {
  for (let seed = 0; seed < 60; seed++) {
    const random = randomNumbers(seed);
    const pair = new Pair();
    const known = [];
    for (let height = 0; height < 12; height++) {
      pair.index(height, randomBlock(random, known));
      pair.assertAgree();
    }
  }
});

test("5,000 damaged blocks are read as the oracle reads them, or refused by both", () => {
  const random = randomNumbers(1);
  const outcomes = { read: 0, refused: 0 };
  for (let i = 0; i < 5_000; i++) {
    const bytes = Buffer.from(SMALL_BLOCK);
    const at = 80 + Math.floor(random() * (bytes.length - 80));
    bytes[at] = random() < 0.3 ? [0, 1, 0xfd, 0xff][Math.floor(random() * 4)] : Math.floor(random() * 256);
    outcomes[compareReading(bytes)]++;
  }
  assert.ok(outcomes.read > 100 && outcomes.refused > 100, JSON.stringify(outcomes));
});

function compareReading(bytes) {
  const pair = new Pair();
  try {
    pair.oracle.index(1, bytes);
  } catch (error) {
    assert.ok(error instanceof MalformedBlock, error);
    assertRefused(pair.host, 1, bytes, /./);
    return "refused";
  }
  pair.host.index(1, bytes);
  pair.assertAgree();
  return "read";
}

// ---- Real blocks

const shared = process.env.COFFERDAM_SHARED;
const blocks = shared ? join(shared, "blocks") : undefined;
const hasBlocks = blocks !== undefined && existsSync(blocks);
const skip = hasBlocks ? false : "NO REAL BLOCKS: set COFFERDAM_SHARED to the folder that has blocks/";
if (skip) console.warn(`\n*** Skipping every test on real blocks. ${skip} ***\n`);

const readChain = (name) => readBlockFile(readFileSync(join(blocks, name)));

const CHAINS = {
  "mainnet-chain.blk": 439,
  "testnet3-chain.blk": 401,
  "regtest-branch-a.blk": 202,
  "regtest-branch-b.blk": 203,
};

for (const [name, length] of Object.entries(CHAINS)) {
  test(`chain ${name}`, { skip }, () => {
    const pair = new Pair();
    const chain = readChain(name);
    assert.equal(chain.length, length);
    chain.forEach((bytes, height) => {
      assert.ok(hasMerkleRoot(readBlock(bytes)));
      pair.index(height, bytes);
    });
    pair.assertAgree();
    assert.equal(pair.oracle.stats.unknownInputs, 0);
  });
}

/** Paths of the single mainnet blocks that this machine has, by height. */
function mainnetBlocks() {
  const cargo = process.env.CARGO_HOME ?? join(homedir(), ".cargo");
  const inCrate = "bitcoin-test-data-0.2.0/test_data/mainnet_block_702861.raw";
  const sources = join(cargo, "registry/src");
  const registries = existsSync(sources) ? readdirSync(sources) : [];
  const crate = registries.map((registry) => join(sources, registry, inCrate)).find(existsSync);
  if (!crate) console.warn("\n*** Mainnet block 702861 is not in cargo's registry: it is skipped. ***\n");
  const single = [83636, 413567, 840243, 892614].map((height) => [height, join(blocks, `mainnet-${height}.bin`)]);
  return [...single, ...(crate ? [[702861, crate]] : [])].sort(([left], [right]) => left - right);
}

test("mainnet heights 0-438, then single blocks up to 892614", { skip }, (t) => {
  const pair = new Pair();
  readChain("mainnet-chain.blk").forEach((bytes, height) => pair.index(height, bytes));
  for (const [height, path] of mainnetBlocks()) {
    const bytes = readFileSync(path);
    assert.ok(hasMerkleRoot(readBlock(bytes)));
    pair.index(height, bytes);
    pair.assertAgree();
    const { milliseconds, reads, pairs, memoryBytes } = pair.host.cost;
    const memory = (memoryBytes / 2 ** 20).toFixed(1);
    t.diagnostic(`${height}: ${milliseconds.toFixed(0)} ms, ${reads} reads, ${pairs} pairs, ${memory} MiB of memory`);
  }
});
