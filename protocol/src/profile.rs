//! The profile: everything that a result depends on, apart from the block and the state before the block.

use std::fmt;

use bincode::{Decode, Encode};
use sha2::{Digest, Sha256};

use crate::frame;

/// A SHA-256 hash. It is displayed in lower-case hexadecimal.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// SHA-256 of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The first twelve hexadecimal digits, enough to distinguish profiles in a message for people.
    pub fn short(&self) -> String {
        self.to_string().chars().take(12).collect()
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// What a result depends on. Two nodes with equal profiles compute equal verdicts and writes for equal chains of blocks.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Profile {
    /// SHA-256 of the module in its binary form.
    pub module: Hash,
    /// The memory limit in bytes: `memory.grow` succeeds up to it and fails beyond.
    pub memory_bytes: u64,
    /// Fuel limit of each job; none if fuel is not metered.
    pub fuel: Option<u64>,
    /// The most bytes that one job may flush or return.
    pub output_bytes: u64,
    /// The engine, its version, and every setting of the engine that can affect a result.
    pub engine: String,
}

impl Profile {
    /// The hash that identifies the profile, and that a chain of digests starts from.
    ///
    /// It is SHA-256 over the tag `cofferdam profile 1\n`, the module's hash, the memory limit, one byte (1 with a fuel
    /// limit, 0 without), the fuel limit (0 without one), the output limit, and the engine's description. Integers are
    /// encoded as u64 little-endian.
    pub fn hash(&self) -> Hash {
        let mut hasher = Sha256::new();
        hasher.update(b"cofferdam profile 1\n");
        hasher.update(self.module.0);
        hasher.update(self.memory_bytes.to_le_bytes());
        hasher.update([u8::from(self.fuel.is_some())]);
        hasher.update(self.fuel.unwrap_or(0).to_le_bytes());
        hasher.update(self.output_bytes.to_le_bytes());
        hasher.update(self.engine.as_bytes());
        Hash(hasher.finalize().into())
    }

    /// The profile as bytes, to be kept beside its hash.
    pub fn encode(&self) -> Vec<u8> {
        // Encoding plain fields into memory cannot fail. If it did fail, `decode` would refuse the empty result.
        frame::to_stored_bytes(self)
    }

    /// Decodes the bytes of [`Profile::encode`]; none if `encode` did not make these bytes.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        frame::from_stored_bytes(bytes)
    }

    /// One sentence for each part in which this profile differs from `stored`, the profile of a store.
    pub fn differences(&self, stored: &Self) -> Vec<String> {
        let fuel = |fuel: Option<u64>| fuel.map_or("not metered".to_owned(), |fuel| fuel.to_string());
        let parts = [
            ("the module (SHA-256)", stored.module.to_string(), self.module.to_string()),
            ("the memory limit (bytes)", stored.memory_bytes.to_string(), self.memory_bytes.to_string()),
            ("the fuel limit", fuel(stored.fuel), fuel(self.fuel)),
            ("the output limit (bytes)", stored.output_bytes.to_string(), self.output_bytes.to_string()),
            ("the engine", stored.engine.clone(), self.engine.clone()),
        ];
        let differ = parts.into_iter().filter(|(_, stored, own)| stored != own);
        differ.map(|(part, stored, own)| format!("{part} was {stored} and is now {own}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_part_of_the_name() {
        let base = Profile {
            module: Hash::of(b"module"),
            memory_bytes: 1 << 32,
            fuel: None,
            output_bytes: 1 << 20,
            engine: "engine 1".to_owned(),
        };
        let others = [
            Profile { module: Hash::of(b"other"), ..base.clone() },
            Profile { memory_bytes: 1 << 31, ..base.clone() },
            Profile { fuel: Some(0), ..base.clone() },
            Profile { output_bytes: 1 << 21, ..base.clone() },
            Profile { engine: "engine 2".to_owned(), ..base.clone() },
        ];
        for other in &others {
            assert_ne!(other.hash(), base.hash(), "{other:?}");
        }
        assert_eq!(base.hash(), base.clone().hash());
        for other in &others {
            assert_eq!(other.differences(&base).len(), 1, "{other:?}");
            assert_eq!(Profile::decode(&other.encode()).as_ref(), Some(other));
        }
        let told = others[1].differences(&base);
        assert_eq!(told, ["the memory limit (bytes) was 4294967296 and is now 2147483648"]);
        assert!(base.differences(&base).is_empty());
        let longer = [&base.encode()[..], &[0]].concat();
        assert!(Profile::decode(&[]).is_none() && Profile::decode(&longer).is_none());
    }

    #[test]
    fn hashes_are_shown_as_hexadecimal() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Hash::of(b"").to_string(), empty);
        assert_eq!(Hash::of(b"").short(), empty[..12]);
    }
}
