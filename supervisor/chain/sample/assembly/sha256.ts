// SHA-256 (FIPS 180-4), the hash of scripts and transactions. The ABI offers no hash, so the module brings its own.
//
// The input is hashed in place and in pieces. A transaction id leaves out the witness, which is in the middle of the
// serialised transaction, and copying around the witness would copy each block once more.
// All buffers are in fixed memory, because one call hashes tens of thousands of times and nothing is ever freed.
// So there is one hash at a time: begin, update..., finish.

export const DIGEST_SIZE: i32 = 32;

const CHUNK_SIZE: usize = 64;
/** The last eight bytes of the last chunk are the length of the message in bits. */
const LENGTH_OFFSET: usize = CHUNK_SIZE - 8;

const INITIAL_STATE: usize = memory.data<u32>([
  0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
]);

const ROUND_CONSTANTS: usize = memory.data<u32>([
  0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
  0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
  0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
  0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
  0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
  0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
  0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
  0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
]);

const STATE: usize = memory.data(32, 4);
const SCHEDULE: usize = memory.data(256, 4);
/** The chunk that is being filled, while the input so far ends in the middle of a chunk. */
const PENDING: usize = memory.data(64, 8);

let pendingLength: usize = 0;
let totalLength: u64 = 0;

export function begin(): void {
  memory.copy(STATE, INITIAL_STATE, DIGEST_SIZE);
  pendingLength = 0;
  totalLength = 0;
}

export function update(source: usize, length: usize): void {
  totalLength += length;
  if (pendingLength > 0) {
    const taken = fillPending(source, length);
    source += taken;
    length -= taken;
  }
  for (; length >= CHUNK_SIZE; length -= CHUNK_SIZE) {
    compress(source);
    source += CHUNK_SIZE;
  }
  if (length > 0) fillPending(source, length);
}

/** Writes the digest of the input since `begin` to an address. */
export function finish(destination: usize): void {
  pad();
  for (let offset: usize = 0; offset < <usize>DIGEST_SIZE; offset += 4) {
    store<u32>(destination + offset, bswap(load<u32>(STATE + offset)));
  }
}

/** The SHA-256 of one piece, in a new buffer. */
export function sha256(source: usize, length: usize): ArrayBuffer {
  const digest = new ArrayBuffer(DIGEST_SIZE);
  begin();
  update(source, length);
  finish(changetype<usize>(digest));
  return digest;
}

/** Moves input into the pending chunk, and compresses it when it is full. Returns how many bytes it took. */
function fillPending(source: usize, length: usize): usize {
  const taken = min(length, CHUNK_SIZE - pendingLength);
  memory.copy(PENDING + pendingLength, source, taken);
  pendingLength += taken;
  if (pendingLength == CHUNK_SIZE) {
    compress(PENDING);
    pendingLength = 0;
  }
  return taken;
}

/** Appends a one bit, zeros, and the length in bits; in another chunk if the pending one has no room for the length. */
function pad(): void {
  store<u8>(PENDING + pendingLength, 0x80);
  pendingLength++;
  if (pendingLength > LENGTH_OFFSET) {
    memory.fill(PENDING + pendingLength, 0, CHUNK_SIZE - pendingLength);
    compress(PENDING);
    pendingLength = 0;
  }
  memory.fill(PENDING + pendingLength, 0, LENGTH_OFFSET - pendingLength);
  store<u64>(PENDING + LENGTH_OFFSET, bswap(totalLength << 3));
  compress(PENDING);
}

/** Fills the message schedule, which is W in the standard. */
function expand(chunk: usize): void {
  for (let offset: usize = 0; offset < CHUNK_SIZE; offset += 4) {
    store<u32>(SCHEDULE + offset, bswap(load<u32>(chunk + offset)));
  }
  for (let word = SCHEDULE + CHUNK_SIZE; word < SCHEDULE + 256; word += 4) {
    const w15 = load<u32>(word - 15 * 4);
    const w2 = load<u32>(word - 2 * 4);
    const s0 = rotr(w15, 7) ^ rotr(w15, 18) ^ (w15 >> 3);
    const s1 = rotr(w2, 17) ^ rotr(w2, 19) ^ (w2 >> 10);
    store<u32>(word, load<u32>(word - 16 * 4) + s0 + load<u32>(word - 7 * 4) + s1);
  }
}

/** The compression function. The names of one letter are those in the standard. */
function compress(chunk: usize): void {
  expand(chunk);
  let a = load<u32>(STATE, 0);
  let b = load<u32>(STATE, 4);
  let c = load<u32>(STATE, 8);
  let d = load<u32>(STATE, 12);
  let e = load<u32>(STATE, 16);
  let f = load<u32>(STATE, 20);
  let g = load<u32>(STATE, 24);
  let h = load<u32>(STATE, 28);
  for (let offset: usize = 0; offset < 256; offset += 4) {
    const choice = (e & f) ^ (~e & g);
    const majority = (a & b) ^ (a & c) ^ (b & c);
    const sum1 = rotr(e, 6) ^ rotr(e, 11) ^ rotr(e, 25);
    const sum0 = rotr(a, 2) ^ rotr(a, 13) ^ rotr(a, 22);
    const t1 = h + sum1 + choice + load<u32>(ROUND_CONSTANTS + offset) + load<u32>(SCHEDULE + offset);
    h = g;
    g = f;
    f = e;
    e = d + t1;
    d = c;
    c = b;
    b = a;
    a = t1 + sum0 + majority;
  }
  addToState(0, a);
  addToState(4, b);
  addToState(8, c);
  addToState(12, d);
  addToState(16, e);
  addToState(20, f);
  addToState(24, g);
  addToState(28, h);
}

@inline
function addToState(offset: usize, word: u32): void {
  store<u32>(STATE + offset, load<u32>(STATE + offset) + word);
}
