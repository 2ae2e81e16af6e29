//! Readers for a stream that cannot be read twice: one counts the bytes for messages, and one keeps the bytes that a decoder
//! consumed.

use std::io::{self, BufReader, Read};

/// The length of the read buffer, in bytes. A pipe on Linux holds 64 KiB, so a larger buffer is never filled.
pub(super) const BUFFER_BYTES: usize = 64 << 10;

/// Counts the bytes that were read.
#[derive(Debug)]
pub(super) struct CountingReader<R: Read> {
    inner: BufReader<R>,
    position: u64,
    ended: bool,
}

impl<R: Read> CountingReader<R> {
    /// Starts at 0.
    pub(super) fn new(inner: R) -> Self {
        Self { inner: BufReader::with_capacity(BUFFER_BYTES, inner), position: 0, ended: false }
    }

    /// How many bytes were read.
    pub(super) fn position(&self) -> u64 {
        self.position
    }
}

impl<R: Read> Read for CountingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // A terminal can deliver more bytes after its end of file. Here the end is final.
        let got = if self.ended { 0 } else { self.inner.read(buffer)? };
        self.ended |= got == 0 && !buffer.is_empty();
        self.position += got as u64;
        Ok(got)
    }
}

/// Why a [`RecordingReader`] delivered no more bytes. The error of the decoder does not distinguish these reasons.
#[derive(Debug)]
pub(super) enum StopReason {
    /// The limit was reached.
    Limit,
    /// The stream ended.
    End,
    /// The operating system returned an error.
    Failed(io::Error),
}

/// Keeps the bytes that a decoder reads, because a block is delivered as the bytes that it was read from.
pub(super) struct RecordingReader<'a, R: Read> {
    head: &'a [u8],
    input: &'a mut CountingReader<R>,
    bytes: Vec<u8>,
    limit: usize,
    stop: Option<StopReason>,
}

impl<'a, R: Read> RecordingReader<'a, R> {
    /// Delivers `head`, then the bytes of `input`, and at most `limit` bytes in total.
    pub(super) fn new(head: &'a [u8], input: &'a mut CountingReader<R>, limit: usize) -> Self {
        Self { head, input, bytes: Vec::new(), limit, stop: None }
    }

    /// Returns all bytes that were read. If the decoder asked for more bytes than there were, this also returns why there were no
    /// more bytes.
    pub(super) fn finish(self) -> (Vec<u8>, Option<StopReason>) {
        (self.bytes, self.stop)
    }

    fn read_within_limit(&mut self, buffer: &mut [u8]) -> Result<usize, StopReason> {
        let room = self.limit.saturating_sub(self.bytes.len()).min(buffer.len());
        let buffer = &mut buffer[..room];
        loop {
            match (&mut self.head).chain(&mut *self.input).read(buffer) {
                Ok(0) if room == 0 => return Err(StopReason::Limit),
                Ok(0) => return Err(StopReason::End),
                Ok(got) => {
                    self.bytes.extend_from_slice(&buffer[..got]);
                    return Ok(got);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(StopReason::Failed(error)),
            }
        }
    }
}

impl<R: Read> bitcoin::io::Read for RecordingReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> bitcoin::io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        self.read_within_limit(buffer).map_err(|stop| {
            self.stop = Some(stop);
            bitcoin::io::ErrorKind::UnexpectedEof.into()
        })
    }
}
