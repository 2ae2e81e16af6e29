// The only file that talks to the host. It states the guest ABI (metashrew's) once, and gives the rest of the
// module plain functions: what is this call's input, what does the state hold, here are the writes.
//
// Every ArrayBuffer crosses as the address of its first byte. The host finds the length in the four bytes before
// that address, which is where AssemblyScript keeps the size of every object.

@external("env", "__host_len")
declare function hostLength(): i32;

@external("env", "__load_input")
declare function hostLoadInput(destination: ArrayBuffer): void;

@external("env", "__get_len")
declare function hostValueLength(key: ArrayBuffer): i32;

@external("env", "__get")
declare function hostLoadValue(key: ArrayBuffer, destination: ArrayBuffer): void;

@external("env", "__flush")
declare function hostFlush(message: ArrayBuffer): void;

/** The height comes first in every input, as a u32. */
const HEIGHT_SIZE: i32 = 4;

/** An absent value: what the state gives for an unknown key, and what is written to remove one. */
export const ABSENT: ArrayBuffer = new ArrayBuffer(0);

/** What a call was given: a height, and a payload (a block, or a view's arguments) left where the host put it. */
export class Input {
  constructor(private bytes: ArrayBuffer) {}

  get height(): u32 {
    return load<u32>(changetype<usize>(this.bytes));
  }

  get payload(): usize {
    return changetype<usize>(this.bytes) + HEIGHT_SIZE;
  }

  get payloadLength(): i32 {
    return this.bytes.byteLength - HEIGHT_SIZE;
  }
}

export function loadInput(): Input {
  const length = hostLength();
  if (length < HEIGHT_SIZE) throw new Error("the input is too short to hold a height");
  const bytes = new ArrayBuffer(length);
  hostLoadInput(bytes);
  return new Input(bytes);
}

/**
 * The value that the state holds for a key; empty if it holds none. Inside a block this is the state after the
 * block before, whatever this block wrote meanwhile.
 */
export function readState(key: ArrayBuffer): ArrayBuffer {
  const length = hostValueLength(key);
  // Many reads of a block ask for an output that does not exist yet; they need no second call.
  if (length == 0) return ABSENT;
  const value = new ArrayBuffer(length);
  hostLoadValue(key, value);
  return value;
}

/** Hands over a block's writes, as an encoded `KeyValueFlush`. A block is indexed when, and only when, it did this. */
export function flush(message: ArrayBuffer): void {
  hostFlush(message);
}
