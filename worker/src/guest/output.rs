//! What a guest gives back: pairs or a view's result, and its log, in the output arena.

use cofferdam_protocol::arena::{OutputSink, Span, SpanWriter};
use cofferdam_protocol::message::MAX_LOG_BYTES;
use cofferdam_protocol::writes;

use super::fault::GuestFault;
use super::flush;

/// The output arena, and how much of it the job has filled.
///
/// The output grows from the start of the arena up to the limit. The log begins at the limit, and has at most [`MAX_LOG_BYTES`].
#[derive(Debug)]
pub struct OutputBuffer {
    sink: OutputSink,
    limit: u64,
    used: u64,
    log_used: u64,
    log_cut: bool,
    flushed: bool,
}

impl OutputBuffer {
    /// An empty output of at most `limit` bytes. The arena of `sink` must have `limit` + [`MAX_LOG_BYTES`] bytes.
    pub fn new(sink: OutputSink, limit: u64) -> Self {
        Self { sink, limit, used: 0, log_used: 0, log_cut: false, flushed: false }
    }

    /// Removes what an earlier job has written.
    pub fn clear(&mut self) {
        (self.used, self.log_used) = (0, 0);
        (self.log_cut, self.flushed) = (false, false);
    }

    /// Where the output is in the arena.
    pub fn span(&self) -> Span {
        Span { offset: 0, length: self.used }
    }

    /// Where the log is in the arena.
    pub fn log_span(&self) -> Span {
        Span { offset: self.limit, length: self.log_used }
    }

    /// Whether the guest has flushed. A flush may have no pairs.
    pub(super) fn flushed(&self) -> bool {
        self.flushed
    }

    /// Adds the pairs of a `KeyValueFlush`.
    pub(super) fn add_pairs(&mut self, message: &[u8]) -> Result<(), GuestFault> {
        let added = flush::measure(message)?;
        self.flushed = true;
        let mut target = self.claim(added)?;
        for field in flush::fields(message) {
            let header = writes::field_header(field);
            // `claim` made room for exactly these fields, and a guest's field is shorter than 4 GiB.
            if !header.is_some_and(|header| target.put(&header) && target.put(field)) {
                return Err(GuestFault::BadFlush("a field of 4 GiB or more".to_owned()));
            }
        }
        Ok(())
    }

    /// Adds the result of a view.
    pub(super) fn add_result(&mut self, result: &[u8]) -> Result<(), GuestFault> {
        let (bytes, limit) = (self.used.saturating_add(result.len() as u64), self.limit);
        match self.claim(result.len() as u64)?.put(result) {
            true => Ok(()),
            false => Err(GuestFault::OutputTooLarge { bytes, limit }),
        }
    }

    /// Adds a line to the log. A mark replaces the first line that does not fit, and later lines are dropped.
    pub(super) fn add_log(&mut self, line: &[u8]) {
        const CUT: &[u8] = b"[log cut here]";
        if self.log_cut {
            return;
        }
        self.log_cut = self.log_used + (line.len() + CUT.len() + 2) as u64 > MAX_LOG_BYTES;
        let text = if self.log_cut { CUT } else { line };
        let span = Span { offset: self.limit + self.log_used, length: text.len() as u64 + 1 };
        if self.sink.writer(span).is_ok_and(|mut target| target.put(text) && target.put(b"\n")) {
            self.log_used += span.length;
        }
    }

    /// The next `added` bytes of the output, to be filled.
    fn claim(&mut self, added: u64) -> Result<SpanWriter<'_>, GuestFault> {
        let too_large =
            GuestFault::OutputTooLarge { bytes: self.used.saturating_add(added), limit: self.limit };
        if self.used.saturating_add(added) > self.limit {
            return Err(too_large);
        }
        let span = Span { offset: self.used, length: added };
        self.used += added;
        self.sink.writer(span).map_err(|_| too_large)
    }
}
