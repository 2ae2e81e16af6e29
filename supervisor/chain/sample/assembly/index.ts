// The exports: `_start` for a block, and the views. Each call runs in a fresh instance. So nothing is kept between
// calls, and nothing is freed during a call (the runtime is AssemblyScript's `stub`, a bump allocator).

import { readBlock } from "./block";
import { loadInput } from "./host";
import { Ledger } from "./ledger";

export { balance, header, stats, utxos } from "./views";

/** Indexes one block. It flushes once, at the end, when nothing can fail anymore. */
export function _start(): void {
  const input = loadInput();
  const block = readBlock(input.payload, input.payloadLength);
  const ledger = new Ledger(input.height);
  ledger.add(block);
  ledger.flush();
}
