//! The message that a guest flushes: protobuf `KeyValueFlush { repeated bytes list = 1 }`, keys and values in turn.
//!
//! The message is decoded in place, in the guest's memory, and nothing is allocated. A message may be as large as that memory,
//! and a worker has no other committed memory of that size. With a decoder that copies, a large flush would succeed on a large
//! host and kill the worker on a small one.

use cofferdam_protocol::writes;

use super::fault::GuestFault;

/// Number of the only field of the message.
const LIST: u32 = 1;

/// Size in bytes of the pairs of `message` in the encoding of [`cofferdam_protocol::writes`].
///
/// # Errors
/// [`GuestFault::BadFlush`] if it is not a valid message, or the last key has no value.
pub(super) fn measure(message: &[u8]) -> Result<u64, GuestFault> {
    let (mut fields, mut bytes) = (0u64, 0u64);
    for field in Fields(message) {
        fields += 1;
        bytes += writes::encoded_field_len(field?);
    }
    if fields % 2 == 1 {
        return Err(GuestFault::BadFlush(format!("{fields} fields: the last key has no value")));
    }
    Ok(bytes)
}

/// The fields of a message that [`measure`] has accepted, keys and values in turn.
pub(super) fn fields(message: &[u8]) -> impl Iterator<Item = &[u8]> {
    Fields(message).filter_map(Result::ok)
}

/// Iterates over the fields of a message. It skips fields with other numbers, as a protobuf reader must.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<&'a [u8], GuestFault>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.0.is_empty() {
            match next_field(&mut self.0) {
                Some((LIST, Some(bytes))) => return Some(Ok(bytes)),
                Some((LIST, None)) => return self.fail("field 1 has another wire type than bytes"),
                Some(_) => {}
                None => return self.fail("it is truncated, or not protobuf"),
            }
        }
        None
    }
}

impl Fields<'_> {
    fn fail<T>(&mut self, reason: &str) -> Option<Result<T, GuestFault>> {
        self.0 = &[];
        Some(Err(GuestFault::BadFlush(format!("no valid KeyValueFlush: {reason}"))))
    }
}

/// Removes one field from the front. Returns its number, and its bytes if its wire type is bytes. None if there is no valid field.
///
/// Wire types: <https://protobuf.dev/programming-guides/encoding/#structure>. Groups are refused: they have been
/// deprecated since before protobuf was published.
fn next_field<'a>(rest: &mut &'a [u8]) -> Option<(u32, Option<&'a [u8]>)> {
    let key = u32::try_from(varint(rest)?).ok()?;
    let number = key >> 3;
    let bytes = match key & 7 {
        0 => {
            varint(rest)?;
            None
        }
        1 => {
            take(rest, 8)?;
            None
        }
        2 => {
            let length = usize::try_from(varint(rest)?).ok()?;
            Some(take(rest, length)?)
        }
        5 => {
            take(rest, 4)?;
            None
        }
        _ => return None,
    };
    (number > 0).then_some((number, bytes))
}

/// Removes a varint from the front. It has seven bits in each byte, lowest first, and at most ten bytes and 64 bits.
fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, behind) = rest.split_first()?;
        *rest = behind;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return None;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, behind) = rest.split_at_checked(length)?;
    *rest = behind;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use prost::Message;

    /// The same message for another decoder.
    #[derive(Clone, PartialEq, Message)]
    struct KeyValueFlush {
        #[prost(bytes = "vec", repeated, tag = "1")]
        list: Vec<Vec<u8>>,
    }

    fn read(message: &[u8]) -> Result<Vec<Vec<u8>>, GuestFault> {
        let bytes = measure(message)?;
        let list: Vec<Vec<u8>> = fields(message).map(<[u8]>::to_vec).collect();
        assert_eq!(bytes, list.iter().map(|field| 4 + field.len() as u64).sum::<u64>());
        Ok(list)
    }

    #[test]
    fn pairs_are_read() {
        assert_eq!(read(b"\x0a\x01k\x0a\x02vv").unwrap(), [b"k".to_vec(), b"vv".to_vec()]);
        assert!(read(b"").unwrap().is_empty());
        assert_eq!(read(b"\x10\x05\x0a\x01k\x0a\x00").unwrap(), [b"k".to_vec(), vec![]], "an unknown field");
    }

    #[test]
    fn bytes_that_are_not_a_message_are_a_fault() {
        for bytes in
            [b"\x0a\x01k".as_slice(), b"\x0a\x05k", b"\x0a\xff\xff\xff\xff\x0f", b"\xff", b"\x08\x01"]
        {
            assert!(matches!(read(bytes), Err(GuestFault::BadFlush(_))), "{bytes:?}");
        }
    }

    fn any_field() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            prop::collection::vec(any::<u8>(), 0..20).prop_map(|bytes| {
                let mut field = vec![0x0a, u8::try_from(bytes.len()).unwrap()];
                field.extend(bytes);
                field
            }),
            prop::collection::vec(any::<u8>(), 0..12),
        ];
        prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn another_decoder_reads_the_same(message in any_field()) {
            let theirs = KeyValueFlush::decode(message.as_slice()).map(|message| message.list);
            match (read(&message), theirs) {
                (Ok(ours), theirs) => prop_assert_eq!(Ok(ours), theirs),
                (Err(_), Ok(list)) => {
                    let has_group = message.iter().any(|byte| byte & 7 == 3);
                    prop_assert!(list.len() % 2 == 1 || has_group, "only half a pair, or a group, is refused");
                }
                (Err(_), Err(_)) => {}
            }
        }
    }
}
