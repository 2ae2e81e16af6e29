//! The message that a guest flushes: protobuf `KeyValueFlush { repeated bytes list = 1 }`, keys and values in turn.

use bytes::Bytes;
use prost::Message;

use super::GuestFault;

#[derive(Clone, PartialEq, Message)]
struct KeyValueFlush {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    list: Vec<Bytes>,
}

/// The fields of a flushed message, keys and values in turn; an even number.
///
/// The fields share the one copy that is made of `message`, so nothing is allocated by a length that the guest
/// claims.
pub(super) fn decode(message: &[u8]) -> Result<Vec<Bytes>, GuestFault> {
    let list = KeyValueFlush::decode(Bytes::copy_from_slice(message))
        .map_err(|error| GuestFault::BadFlush(format!("no valid KeyValueFlush: {error}")))?
        .list;
    if list.len() % 2 == 1 {
        return Err(GuestFault::BadFlush(format!("{} fields: the last key has no value", list.len())));
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_read() {
        assert_eq!(decode(b"\x0a\x01k\x0a\x02vv").unwrap(), ["k", "vv"]);
        assert!(decode(b"").unwrap().is_empty());
    }

    #[test]
    fn what_is_no_message_is_a_fault() {
        for bytes in [b"\x0a\x01k".as_slice(), b"\x0a\x05k", b"\x0a\xff\xff\xff\xff\x0f", b"\xff"] {
            assert!(matches!(decode(bytes), Err(GuestFault::BadFlush(_))), "{bytes:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = decode(&bytes);
        }
    }
}
