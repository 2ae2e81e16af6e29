// Reading of untrusted bytes. Every length in a block is the claim of whoever made the block; this is the one place
// that believes none of them. A read that does not fit, or a count not written in its shortest form, ends the call
// with the offset and the name of the field.

export class Cursor {
  private position: usize;
  private end: usize;

  constructor(private start: usize, length: usize) {
    this.position = start;
    this.end = start + length;
  }

  /** Address of the next byte. */
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

  /** Is the next byte this one? It stays unread. */
  isNext(byte: u8): bool {
    return this.remaining > 0 && load<u8>(this.position) == byte;
  }

  /** Bitcoin's compact size, in its shortest form only: that is all that Bitcoin Core accepts. */
  compactSize(field: string): u64 {
    const first = <u64>load<u8>(this.take(1, field));
    if (first < 0xfd) return first;
    if (first == 0xfd) return this.atLeast(0xfd, load<u16>(this.take(2, field)), field);
    if (first == 0xfe) return this.atLeast(0x10000, load<u32>(this.take(4, field)), field);
    return this.atLeast(0x100000000, load<u64>(this.take(8, field)), field);
  }

  /** Ends the call, and says where reading stopped. The compiler passes on the words of a `throw new Error` only. */
  fail(problem: string): void {
    throw new Error(problem + ", at byte " + (this.position - this.start).toString());
  }

  private atLeast(least: u64, value: u64, field: string): u64 {
    if (value < least) this.fail("a compact size longer than it need be in the " + field);
    return value;
  }
}
