// The message that a flush consists of: `KeyValueFlush { repeated bytes list = 1 }`, keys and values in turn.
// One message with one field does not justify a protobuf library. It is measured first and then written into a
// buffer of exactly that size: the host takes the buffer's length for the message's.

import { addressOf } from "./bytes";

/** Field number 1, wire type 2 (length-delimited). */
const LIST_TAG: u8 = (1 << 3) | 2;

export function encodeKeyValueFlush(list: ArrayBuffer[]): ArrayBuffer {
  const message = new ArrayBuffer(messageSize(list));
  let at = addressOf(message);
  for (let i = 0; i < list.length; i++) {
    at = writeItem(at, list[i]);
  }
  return message;
}

function messageSize(list: ArrayBuffer[]): i32 {
  let size = 0;
  for (let i = 0; i < list.length; i++) {
    const length = list[i].byteLength;
    size += 1 + varintSize(length) + length;
  }
  return size;
}

/** Writes one element, an empty one too: it stands for a removal. Returns the address after it. */
function writeItem(at: usize, item: ArrayBuffer): usize {
  const length = item.byteLength;
  store<u8>(at, LIST_TAG);
  at = writeVarint(at + 1, length);
  memory.copy(at, addressOf(item), length);
  return at + length;
}

function varintSize(value: u32): i32 {
  let size = 1;
  for (; value >= 0x80; value >>= 7) size++;
  return size;
}

function writeVarint(at: usize, value: u32): usize {
  for (; value >= 0x80; value >>= 7) store<u8>(at++, <u8>(value | 0x80));
  store<u8>(at, <u8>value);
  return at + 1;
}
