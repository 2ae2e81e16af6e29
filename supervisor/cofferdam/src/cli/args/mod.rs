//! Arguments that several commands share: the module, the blocks, the limits of one block, the memory of a worker, the pool,
//! connections, and hexadecimal text. An argument has the same name and the same default in every command.

mod blocks;
mod connections;
mod hexadecimal;
mod limits;
mod memory;
mod module;
mod pool;

use std::sync::Arc;

pub(super) use self::blocks::BlockArgs;
pub(super) use self::connections::{ConnectionArgs, DrainArgs};
pub(super) use self::hexadecimal::{HexBytes, parse_hash};
pub(super) use self::limits::{LimitArgs, Policy};
pub(super) use self::memory::MemoryArgs;
pub(super) use self::module::{ModuleArgs, read_module};
pub(super) use self::pool::{CacheArgs, PoolArgs};
use cofferdam_pool::PoolBuilder;
use cofferdam_store::Store;

/// Makes the guests of a pool read `store`. This process writes the store.
pub(super) fn reading(builder: PoolBuilder, store: &Arc<Store>) -> PoolBuilder {
    let readers = Arc::clone(store);
    builder.state(store.path()).on_death(move |_| {
        // LMDB reuses no page that a reader may still read, and the slot of a dead reader counts as a reader until it is cleared.
        if let Err(error) = readers.clear_stale_readers() {
            tracing::warn!("{error}");
        }
    })
}
