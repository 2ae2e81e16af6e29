// Helpers over ArrayBuffer. Records here are a few dozen bytes and there are many of them, so they are read and
// written at their addresses instead of through typed-array views, each of which would be one more allocation.
// Bounds are the caller's business: use these on buffers whose size was chosen or checked just before.

/** Address of the byte at an offset. */
@inline
export function addressOf(bytes: ArrayBuffer, offset: usize = 0): usize {
  return changetype<usize>(bytes) + offset;
}

/** A buffer of its own holding a copy of the bytes at an address. */
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
