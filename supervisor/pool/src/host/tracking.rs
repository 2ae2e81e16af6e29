//! Whether the kernel can tell which pages a block wrote.

use super::probe::setting;
use super::report::{Finding, Level};

/// Whether writes can be tracked. Tried by tracking some.
pub(super) fn tracking() -> Finding {
    finding(cofferdam_worker::memory::probe_tracking().map_err(|error| error.to_string()))
}

fn finding(tracked: Result<(), String>) -> Finding {
    let sysctl = setting("/proc/sys/vm/unprivileged_userfaultfd").unwrap_or_else(|| "missing".into());
    let (value, meaning) = match tracked {
        Ok(()) => (
            "userfaultfd and PAGEMAP_SCAN work".to_owned(),
            "the reset after a block takes time only for the pages that the block wrote",
        ),
        Err(error) => (
            format!("{error} (vm.unprivileged_userfaultfd={sysctl})"),
            "the reset after a block zeroes all memory of the block: this is as correct, and slower only for a module with far \
             more memory than it writes. Tracking needs Linux 6.7 and a container that allows userfaultfd",
        ),
    };
    Finding::new("write-tracking", Level::Info, value, meaning)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_tracked_is_said_with_its_price() {
        let refused = finding(Err("userfaultfd is refused (EPERM)".to_owned()));
        assert!(
            refused.value.contains("EPERM") && refused.meaning.contains("zeroes all memory"),
            "{refused:?}"
        );
        assert!(finding(Ok(())).meaning.contains("that the block wrote"));
    }
}
