//! Undo lists. The undo list of a block names the stored keys that the block wrote, so that a rollback can delete exactly these
//! keys. The list is written in the block's own transaction.

use std::ops::Bound;

use cofferdam_protocol::state::{self, VersionKey};
use cofferdam_worker::state::Table;
use heed::RwTxn;

/// The most bytes in one entry of a list. With a higher limit, one entry needs more contiguous pages. With a lower limit, a list
/// needs more entries.
const MAX_ENTRY_BYTES: usize = 60 << 10;

/// The list of one block while the block is being written.
#[derive(Debug)]
pub(crate) struct UndoList {
    height: u32,
    chunk: u32,
    bytes: Vec<u8>,
}

impl UndoList {
    pub(crate) fn new(height: u32) -> Self {
        Self { height, chunk: 0, bytes: Vec::new() }
    }

    pub(crate) fn push(
        &mut self,
        table: Table,
        txn: &mut RwTxn<'_>,
        key: &VersionKey<'_>,
    ) -> heed::Result<()> {
        let key = key.as_bytes();
        if self.bytes.len() + 2 + key.len() > MAX_ENTRY_BYTES {
            self.write(table, txn)?;
        }
        // A key has at most 511 bytes: state::KEY_LIMIT.
        let length = u16::try_from(key.len()).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(key);
        Ok(())
    }

    /// Writes the last entry. It is written even if it is empty, so that a block that wrote no value has a list too.
    pub(crate) fn finish(mut self, table: Table, txn: &mut RwTxn<'_>) -> heed::Result<()> {
        self.write(table, txn)
    }

    fn write(&mut self, table: Table, txn: &mut RwTxn<'_>) -> heed::Result<()> {
        table.put(txn, &state::undo_key(self.height, self.chunk), &self.bytes)?;
        self.bytes.clear();
        self.chunk += 1;
        Ok(())
    }
}

/// Deletes every value in the list of the block at `height`. Returns whether there is a complete list.
pub(crate) fn delete_listed(
    undo: Table,
    values: Table,
    txn: &mut RwTxn<'_>,
    height: u32,
) -> heed::Result<bool> {
    for chunk in 0.. {
        let entry = undo.get(txn, &state::undo_key(height, chunk))?.map(<[u8]>::to_vec);
        let Some(entry) = entry else { return Ok(chunk > 0) };
        let mut bytes = entry.as_slice();
        while let Some((length, rest)) = bytes.split_first_chunk() {
            let Some((key, rest)) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length))) else {
                // This crate writes only complete keys, so the entry was damaged. The caller has to look at every value.
                return Ok(false);
            };
            values.delete(txn, key)?;
            bytes = rest;
        }
    }
    Ok(true)
}

/// Deletes the lists of all blocks at or above `lowest`.
pub(crate) fn delete_from(undo: Table, txn: &mut RwTxn<'_>, lowest: u32) -> heed::Result<()> {
    let from = state::undo_key(lowest, 0);
    let range: (Bound<&[u8]>, Bound<&[u8]>) = (Bound::Included(&from), Bound::Unbounded);
    undo.delete_range(txn, &range).map(drop)
}

/// Deletes the lists of all but the newest `depth` blocks, now that `tip` is the newest block.
pub(crate) fn prune(undo: Table, txn: &mut RwTxn<'_>, tip: u32, depth: u32) -> heed::Result<()> {
    let Some(kept_from) = tip.checked_sub(depth.saturating_sub(1)) else { return Ok(()) };
    let end = state::undo_key(kept_from, 0);
    let range: (Bound<&[u8]>, Bound<&[u8]>) = (Bound::Unbounded, Bound::Excluded(&end));
    undo.delete_range(txn, &range).map(drop)
}
