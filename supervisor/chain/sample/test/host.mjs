// A host in miniature: the guest ABI as the module may rely on it, over a state that is a Map. Strict where the real
// host could be lenient, so that the module's tests fail first: lengths are taken from the guest's memory and
// checked, a block must flush exactly once, a message must be well-formed protobuf, and a failed call changes nothing.

/** Thrown through the guest by `env.abort`, with the guest's own words. */
export class GuestAbort extends Error {}

/** Thrown when the module breaks the ABI. */
export class AbiViolation extends Error {}

const HEIGHT_SIZE = 4;
const LIST_TAG = 0x0a;

export class Host {
  /** Hex of the key → Buffer of the value. */
  state = new Map();
  /** What the last call cost. */
  cost = { milliseconds: 0, reads: 0, pairs: 0, memoryBytes: 0 };

  constructor(module) {
    this.module = module;
  }

  /** Runs `_start` on a block, and applies what it flushed. */
  index(height, block) {
    const call = new Call(this, height, block);
    call.run("_start");
    if (call.flushed.length !== 1) throw new AbiViolation(`_start flushed ${call.flushed.length} times`);
    const pairs = decodePairs(call.flushed[0]);
    this.cost = { ...call.cost, pairs: pairs.length };
    for (const [key, value] of pairs) this.#apply(key, value);
    return pairs;
  }

  /** Runs a view and returns its answer. */
  view(name, input = Buffer.alloc(0), height = 0) {
    const call = new Call(this, height, input);
    const pointer = call.run(name);
    if (call.flushed.length !== 0) throw new AbiViolation(`the view ${name} flushed`);
    return Buffer.from(call.bytesAt(pointer));
  }

  #apply(key, value) {
    const name = key.toString("hex");
    if (value.length === 0) this.state.delete(name);
    else this.state.set(name, value);
  }
}

/** One call, in an instance of its own. */
class Call {
  flushed = [];
  cost = { milliseconds: 0, reads: 0, memoryBytes: 0 };
  /** Imports answer only while the call runs: the start section must not need them. */
  #isRunning = false;

  constructor(host, height, payload) {
    this.host = host;
    this.input = Buffer.alloc(HEIGHT_SIZE + payload.length);
    this.input.writeUInt32LE(height);
    payload.copy(this.input, HEIGHT_SIZE);
    this.instance = new WebAssembly.Instance(host.module, { env: this.#imports() });
  }

  run(name) {
    this.#isRunning = true;
    const started = performance.now();
    const result = this.instance.exports[name]();
    this.cost.milliseconds = performance.now() - started;
    this.cost.memoryBytes = this.#memory.byteLength;
    return result;
  }

  /** The ArrayBuffer at a pointer, as a view into guest memory. */
  bytesAt(pointer) {
    const address = pointer >>> 0;
    if (address < 4) throw new AbiViolation(`pointer ${address} has no room for a length before it`);
    const length = new DataView(this.#memory).getUint32(address - 4, true);
    return this.#span(address, length);
  }

  get #memory() {
    return this.instance.exports.memory.buffer;
  }

  /** A span of guest memory that belongs to the ArrayBuffer at the pointer. */
  #span(address, length) {
    if (address + length > this.#memory.byteLength) throw new AbiViolation("a buffer ends outside memory");
    return Buffer.from(this.#memory, address, length);
  }

  #destination(pointer, length) {
    const bytes = this.bytesAt(pointer);
    if (bytes.length !== length) throw new AbiViolation(`a buffer of ${bytes.length} bytes was given for ${length}`);
    return bytes;
  }

  #read(key) {
    this.cost.reads++;
    return this.host.state.get(this.bytesAt(key).toString("hex")) ?? Buffer.alloc(0);
  }

  #imports() {
    const functions = {
      __host_len: () => this.input.length,
      __load_input: (pointer) => void this.input.copy(this.#destination(pointer, this.input.length)),
      __get_len: (key) => this.#read(key).length,
      __get: (key, pointer) => {
        const value = this.#read(key);
        value.copy(this.#destination(pointer, value.length));
      },
      __flush: (pointer) => void this.flushed.push(Buffer.from(this.bytesAt(pointer))),
      __log: (pointer) => console.log(this.bytesAt(pointer).toString("utf8")),
      abort: (message) => {
        throw new GuestAbort(this.bytesAt(message).toString("utf16le"));
      },
    };
    return Object.fromEntries(Object.entries(functions).map(([name, body]) => [name, this.#guarded(name, body)]));
  }

  #guarded(name, body) {
    return (...parameters) => {
      if (!this.#isRunning) throw new AbiViolation(`the start section called ${name}`);
      return body(...parameters);
    };
  }
}

/** Decodes `KeyValueFlush { repeated bytes list = 1 }` into pairs. */
function decodePairs(message) {
  const list = [];
  for (let at = 0; at < message.length; ) {
    if (message[at] !== LIST_TAG) throw new AbiViolation(`tag ${message[at]} at byte ${at} of the flush`);
    const [length, start] = decodeVarint(message, at + 1);
    at = start + length;
    if (at > message.length) throw new AbiViolation("an element ends outside the flush");
    list.push(message.subarray(start, at));
  }
  if (list.length % 2 !== 0) throw new AbiViolation("a key without a value was flushed");
  return Array.from({ length: list.length / 2 }, (_, i) => [list[2 * i], list[2 * i + 1]]);
}

function decodeVarint(bytes, at) {
  let value = 0;
  for (let shift = 0; shift < 32; shift += 7) {
    const byte = bytes[at++];
    if (byte === undefined) throw new AbiViolation("a varint ends outside the flush");
    value += (byte & 0x7f) * 2 ** shift;
    if (byte < 0x80) return [value, at];
  }
  throw new AbiViolation("a varint of more than 32 bits in the flush");
}
