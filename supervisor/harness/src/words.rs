//! Formats bytes, verdicts and logs for the output of a failed test.

use std::fmt;

use cofferdam_protocol::verdict::{GuestVerdict, HostVerdict, Verdict};

/// The most bytes of a key or a value that are shown.
pub(super) const SHOWN_BYTES: usize = 48;

/// Formats bytes for people: printable ASCII in quotes, all other bytes in hexadecimal. Of long bytes only the start is shown.
pub(super) struct Shown<'a>(pub(super) &'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (start, cut) = match self.0.get(..SHOWN_BYTES) {
            Some(start) if self.0.len() > SHOWN_BYTES => (start, true),
            _ => (self.0, false),
        };
        if start.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ') {
            write!(f, "\"{}\"", start.escape_ascii())?;
        } else {
            f.write_str("0x")?;
            start.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        }
        if cut { write!(f, "… ({} bytes)", self.0.len()) } else { Ok(()) }
    }
}

/// "1 pair", "2 pairs".
pub(super) fn counted(count: u64, thing: &str) -> String {
    if count == 1 { format!("1 {thing}") } else { format!("{count} {thing}s") }
}

/// What a verdict means, for a reader of a failed test who sees the verdict for the first time.
pub(super) const fn meaning(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Guest(verdict) => match verdict {
            GuestVerdict::Completed => "the call completed",
            GuestVerdict::Trap => "the guest trapped",
            GuestVerdict::Abort => "the guest called `abort`",
            GuestVerdict::Incomplete => "the guest returned without a flush",
            GuestVerdict::MemoryExhausted => "the guest was refused memory at its limit, and ended",
            GuestVerdict::FuelExhausted => "the guest used up its fuel",
            GuestVerdict::OutputTooLarge => "the guest produced more output than its limit",
            GuestVerdict::BadOutput => "the guest passed invalid bytes or an invalid pointer",
            GuestVerdict::NoSuchExport => "the module has no such export",
        },
        Verdict::Host(verdict) => match verdict {
            HostVerdict::OomKilled => "the kernel killed the worker because memory was short",
            HostVerdict::Killed => "a signal from outside killed the worker",
            HostVerdict::Crashed => "the worker crashed",
            HostVerdict::Exited => "the worker ended by itself",
            HostVerdict::Deadline => "the worker did not answer in time",
            HostVerdict::ProtocolViolation => "the worker's answer was invalid",
            HostVerdict::CommitFailed => "the worker could not commit its memory",
        },
    }
}

/// The start of a text that has more than `chars` characters; all of a shorter text.
pub(super) fn cut(text: &str, chars: usize) -> std::borrow::Cow<'_, str> {
    match text.char_indices().nth(chars) {
        None => text.into(),
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()).into(),
    }
}

/// The last `count` lines of a log, and the number of all its lines.
pub(super) fn last_lines(log: &str, count: usize) -> (impl Iterator<Item = &str>, usize) {
    let total = log.lines().count();
    (log.lines().skip(total.saturating_sub(count)), total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_is_cut_between_characters() {
        assert_eq!(cut("éé", 2), "éé");
        assert_eq!(cut("ééé", 2), "éé… (6 bytes)");
    }

    #[test]
    fn text_is_quoted_and_anything_else_is_hexadecimal() {
        assert_eq!(Shown(b"sum").to_string(), "\"sum\"");
        assert_eq!(Shown(b"a \"b\"").to_string(), r#""a \"b\"""#);
        assert_eq!(Shown(b"").to_string(), "\"\"");
        assert_eq!(Shown(b"a\0").to_string(), "0x6100");
        assert_eq!(Shown(&[b'x'; 48]).to_string(), format!("\"{}\"", "x".repeat(48)));
        assert_eq!(Shown(&[b'x'; 49]).to_string(), format!("\"{}\"… (49 bytes)", "x".repeat(48)));
    }

    #[test]
    fn the_end_of_a_log_is_shown() {
        let (lines, total) = last_lines("a\nb\nc\n", 2);
        assert_eq!((lines.collect::<Vec<_>>(), total), (vec!["b", "c"], 3));
        assert_eq!(last_lines("", 2).1, 0);
    }
}
