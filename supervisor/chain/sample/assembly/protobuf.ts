// Encodes the message of a flush: `KeyValueFlush { repeated bytes list = 1 }`, with a key and its value in turn.
// One message with one field does not justify a protobuf library. The message is measured first and then written to a
// buffer of exactly that size, because the host takes the length of the buffer as the length of the message.

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

/** Writes one element. An empty one is written, too: it is a removal. Returns the address behind it. */
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
