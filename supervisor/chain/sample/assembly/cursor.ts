// Reads untrusted bytes. The lengths in a block come from whoever made the block, and this file checks each of them. A
// read beyond the end, or a number that is not in its shortest form, ends the call with an error that names the offset
// and the field.

export class Cursor {
  private position: usize;
  private end: usize;

  constructor(private start: usize, length: usize) {
    this.position = start;
    this.end = start + length;
  }

  /** The address of the next byte. */
  get address(): usize {
    return this.position;
  }

  get remaining(): usize {
    return this.end - this.position;
  }

  /**
   * Steps over a field and returns its address. The length is 64 bits wide because a compact size is: narrowed
   * before the comparison, 2^32 + 1 would pass for 1.
   */
  take(length: u64, field: string): usize {
    if (length > <u64>this.remaining) this.fail("the input ends inside the " + field);
    const address = this.position;
    this.position += <usize>length;
    return address;
  }

  u64(field: string): u64 {
    return load<u64>(this.take(8, field));
  }

  /** Whether the next byte is this one. The byte stays unread. */
  isNext(byte: u8): bool {
    return this.remaining > 0 && load<u8>(this.position) == byte;
  }

  /** Bitcoin's compact size, in its shortest form only. Bitcoin Core accepts no other form. */
  compactSize(field: string): u64 {
    const first = <u64>load<u8>(this.take(1, field));
    if (first < 0xfd) return first;
    if (first == 0xfd) return this.atLeast(0xfd, load<u16>(this.take(2, field)), field);
    if (first == 0xfe) return this.atLeast(0x10000, load<u32>(this.take(4, field)), field);
    return this.atLeast(0x100000000, load<u64>(this.take(8, field)), field);
  }

  /** Ends the call, and says where reading stopped. The compiler passes on only the message of a `throw new Error`. */
  fail(problem: string): void {
    throw new Error(problem + ", at byte " + (this.position - this.start).toString());
  }

  private atLeast(least: u64, value: u64, field: string): u64 {
    if (value < least) this.fail("a compact size longer than it need be in the " + field);
    return value;
  }
}
