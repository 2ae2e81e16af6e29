//! Whether processes may reserve the addresses that workers and the store map (RLIMIT_AS, `ulimit -v`).

use cofferdam_protocol::state::MAP_BYTES;
use cofferdam_worker::memory::address_space::{WORKER_ADDRESS_BYTES, limit};

use super::report::{Finding, Level};
use cofferdam_base::address_limit::too_low;
use cofferdam_base::size::Bytes;

/// The limit on addresses.
pub(super) fn addresses() -> Finding {
    of(limit())
}

fn of(limit: Option<u64>) -> Finding {
    let topic = "address-space";
    let Some(limit) = limit else {
        let meaning = "workers and the store can reserve the addresses that they map";
        return Finding::new(topic, Level::Good, "unlimited", meaning);
    };
    let store = MAP_BYTES as u64;
    let value = format!("limited to {} (RLIMIT_AS)", Bytes(limit));
    if limit < WORKER_ADDRESS_BYTES {
        return Finding::new(topic, Level::Bad, value, too_low("a worker", WORKER_ADDRESS_BYTES, limit));
    }
    if limit < store + WORKER_ADDRESS_BYTES {
        let meaning = format!("the store cannot be opened: {}", too_low("it", store, limit));
        return Finding::new(topic, Level::Bad, value, meaning);
    }
    Finding::new(topic, Level::Good, value, "that is enough for the worker and the store")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_compared_with_what_is_mapped() {
        let of = |limit| of(Some(limit));
        assert_eq!(super::of(None).level, Level::Good);
        for (limit, level, part) in [
            (1 << 30, Level::Bad, "a worker reserves"),
            (16 << 30, Level::Bad, "store cannot be opened"),
            (2 << 40, Level::Good, "enough"),
        ] {
            let finding = of(limit);
            assert_eq!(finding.level, level, "{finding:?}");
            assert!(finding.meaning.contains(part), "{finding:?}");
        }
    }
}
