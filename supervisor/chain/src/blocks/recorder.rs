//! Reading from something that cannot be read twice: counting for messages, and keeping what a decoder
//! consumed.

use std::io::{self, BufReader, Read};

/// Pipes on Linux hold 64 KiB, so a larger buffer is never filled.
pub(super) const BUFFER_BYTES: usize = 64 << 10;

/// Counts what was read, for messages.
#[derive(Debug)]
pub(super) struct Counted<R: Read> {
    inner: BufReader<R>,
    at: u64,
    ended: bool,
}

impl<R: Read> Counted<R> {
    /// Counts from here on.
    pub(super) fn new(inner: R) -> Self {
        Self { inner: BufReader::with_capacity(BUFFER_BYTES, inner), at: 0, ended: false }
    }

    /// How many bytes were taken.
    pub(super) fn position(&self) -> u64 {
        self.at
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // A terminal can be read on after its end, but the stream is over.
        let got = if self.ended { 0 } else { self.inner.read(buffer)? };
        self.ended |= got == 0 && !buffer.is_empty();
        self.at += got as u64;
        Ok(got)
    }
}

/// Why a [`Recorder`] gave no more bytes. The decoder's own error does not tell these apart.
#[derive(Debug)]
pub(super) enum Stop {
    /// More than the limit.
    Limit,
    /// The stream ended.
    End,
    /// The system said no.
    Failed(io::Error),
}

/// Keeps what the decoder reads, since the block is handed on as the bytes it came in.
pub(super) struct Recorder<'a, R: Read> {
    head: &'a [u8],
    input: &'a mut Counted<R>,
    bytes: Vec<u8>,
    limit: usize,
    stop: Option<Stop>,
}

impl<'a, R: Read> Recorder<'a, R> {
    /// Gives `head`, then what follows in `input`, and no more than `limit` bytes of both.
    pub(super) fn new(head: &'a [u8], input: &'a mut Counted<R>, limit: usize) -> Self {
        Self { head, input, bytes: Vec::new(), limit, stop: None }
    }

    /// All that was read, and why there was no more, if the reader asked for it.
    pub(super) fn finish(self) -> (Vec<u8>, Option<Stop>) {
        (self.bytes, self.stop)
    }

    fn read_within_limit(&mut self, buffer: &mut [u8]) -> Result<usize, Stop> {
        let room = self.limit.saturating_sub(self.bytes.len()).min(buffer.len());
        let buffer = &mut buffer[..room];
        loop {
            match (&mut self.head).chain(&mut *self.input).read(buffer) {
                Ok(0) if room == 0 => return Err(Stop::Limit),
                Ok(0) => return Err(Stop::End),
                Ok(got) => {
                    self.bytes.extend_from_slice(&buffer[..got]);
                    return Ok(got);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Stop::Failed(error)),
            }
        }
    }
}

impl<R: Read> bitcoin::io::Read for Recorder<'_, R> {
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
