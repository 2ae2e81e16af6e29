//! What a caller states about a store when the caller opens the store.

use cofferdam_protocol::profile::Hash;

/// What the results in a store depend on. A store never mixes the results of two identities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Hash of the profile that the results depend on.
    pub profile: Hash,
    /// Name of the network that the blocks come from, once the name is known; see [`crate::Store::set_network`].
    pub network: Option<String>,
}

/// What a finished commit survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// A loss of power: every commit is synced to disk before it returns.
    Block,
    /// The end of every process, but not of the machine. After the machine fails, the store may be corrupt. So this value is for
    /// a directory that is created for one run and removed afterwards.
    None,
}
