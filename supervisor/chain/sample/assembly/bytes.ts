// Helpers for ArrayBuffers. Records have a few dozen bytes, and there are many of them. So they are read and written at
// their addresses: a typed-array view for each record would be one more allocation.
// Bounds are not checked here. Use these helpers on buffers whose size was chosen or checked just before.

/** The address of the byte at an offset. */
@inline
export function addressOf(bytes: ArrayBuffer, offset: usize = 0): usize {
  return changetype<usize>(bytes) + offset;
}

/** Copies the bytes at an address into a new buffer. */
export function copyFrom(source: usize, length: i32): ArrayBuffer {
  const bytes = new ArrayBuffer(length);
  memory.copy(addressOf(bytes), source, length);
  return bytes;
}

export function isEqual(left: ArrayBuffer, right: ArrayBuffer): bool {
  const length = left.byteLength;
  if (length != right.byteLength) return false;
  return memory.compare(addressOf(left), addressOf(right), length) == 0;
}
