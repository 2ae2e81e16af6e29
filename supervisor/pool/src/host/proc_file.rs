//! Parsers for the files of /proc that are read here. Each takes the one field that is asked for and ignores the rest.
//!
//! Crate `procfs` parses whole files into structs, and fails on a file that lacks any field that it considers mandatory. The
//! files of sandboxes (gVisor, lxcfs) lack some. Its parser of mountinfo leaves `\040` in paths.

use std::str::FromStr;

use nix::sys::signal::Signal;

/// The value of a field in a file of lines such as `Name:  value`.
pub(crate) fn field<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// The value of a field in kB, in bytes. The unit is always written "kB" and always means 1024 bytes.
pub(crate) fn bytes(text: &str, name: &str) -> Option<u64> {
    field(text, name)?.strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Whether `signal` is in the mask that is the value of a field of /proc/PID/status.
pub(crate) fn has_signal(text: &str, name: &str, signal: Signal) -> Option<bool> {
    let mask = u64::from_str_radix(field(text, name)?, 16).ok()?;
    Some(mask >> (signal as i32 - 1) & 1 == 1)
}

/// The line of a /proc/PID/stat (proc_pid_stat(5)).
#[derive(Debug)]
pub(crate) struct Stat<'t> {
    /// The fields from the third one on.
    fields: Vec<&'t str>,
}

impl<'t> Stat<'t> {
    /// Splits the line into its fields. The second field is the name of the process, which can contain blanks and brackets; the
    /// last bracket ends it.
    pub(crate) fn parse(line: &'t str) -> Option<Self> {
        Some(Self { fields: line.rsplit_once(')')?.1.split_ascii_whitespace().collect() })
    }

    /// The field with this number in the manual page, at least 3. None if the line is too short, or if the field does not parse
    /// as `T`.
    pub(crate) fn field<T: FromStr>(&self, number: usize) -> Option<T> {
        self.fields.get(number.checked_sub(3)?)?.parse().ok()
    }

    /// The number of the last field.
    #[cfg(test)]
    pub(crate) fn last(&self) -> usize {
        self.fields.len() + 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_whole_names() {
        let text = "MemAvailableX: 1 kB\nMemAvailable:    2048 kB\nHugePages_Total: 3\n";
        assert_eq!(bytes(text, "MemAvailable"), Some(2 << 20));
        assert_eq!((field(text, "HugePages_Total"), bytes(text, "HugePages_Total")), (Some("3"), None));
        assert_eq!(field(text, "MemAvail"), None);
    }

    #[test]
    fn a_signal_is_looked_up_in_a_mask() {
        let text = "Name:\tx\nSigPnd:\t0000000000000100\nShdPnd:\t0000000000004000\n";
        assert_eq!(has_signal(text, "SigPnd", Signal::SIGKILL), Some(true));
        assert_eq!(has_signal(text, "ShdPnd", Signal::SIGKILL), Some(false));
        assert_eq!(has_signal(text, "SigIgn", Signal::SIGKILL), None);
    }

    #[test]
    fn the_name_of_a_process_does_not_confuse_its_fields() {
        let stat = Stat::parse("7 (a) Z 1) b) S 1 7").unwrap();
        assert_eq!((stat.field::<char>(3), stat.field::<i32>(4)), (Some('S'), Some(1)));
        assert_eq!((stat.field::<i32>(6), stat.field::<i32>(1)), (None, None));
        assert!(Stat::parse("").is_none());
    }
}
