// The only file that calls the host. It declares the guest ABI (metashrew's), and gives the other files plain
// functions: read the input of this call, read the state, pass on the writes.
//
// An ArrayBuffer is passed as the address of its first byte. The host finds the length in the four bytes before that
// address, because AssemblyScript keeps the size of each object there.

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

/** Each input begins with the height, as a u32. */
const HEIGHT_SIZE: i32 = 4;

/** An absent value: the state returns it for an unknown key, and a write of it removes a key. */
export const ABSENT: ArrayBuffer = new ArrayBuffer(0);

/** The input of a call: a height, and a payload (a block, or the arguments of a view) where the host wrote it. */
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
 * The value that the state holds for a key; empty if there is none. In a block, this is the state after the
 * previous block, whatever this block has written.
 */
export function readState(key: ArrayBuffer): ArrayBuffer {
  const length = hostValueLength(key);
  // Many reads of a block ask for an output that does not exist yet. Such a read needs no second call.
  if (length == 0) return ABSENT;
  const value = new ArrayBuffer(length);
  hostLoadValue(key, value);
  return value;
}

/** Passes on the writes of a block, as an encoded `KeyValueFlush`. A block is indexed exactly if it does this. */
export function flush(message: ArrayBuffer): void {
  hostFlush(message);
}
