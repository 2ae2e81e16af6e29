//! A stream of which the last bytes can be looked at again: whoever finds that a record is none goes on one byte behind its
//! start.

use std::io::{self, Read};

use super::recorder::{BUFFER_BYTES, Counted};

/// Most that is allocated, in bytes, before bytes really come.
const STEP_BYTES: usize = 1 << 20;

/// A stream, and what was read of it ahead.
#[derive(Debug)]
pub(super) struct Window<R: Read> {
    input: Counted<R>,
    held: Vec<u8>,
    /// How many of the held bytes were taken.
    taken: usize,
}

impl<R: Read> Window<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input: Counted::new(input), held: Vec::new(), taken: 0 }
    }

    /// How many bytes were taken.
    pub(super) fn position(&self) -> u64 {
        self.input.position() - self.ahead().len() as u64
    }

    /// How many bytes were read, taken or not.
    pub(super) fn end(&self) -> u64 {
        self.input.position()
    }

    /// What was read and not taken.
    pub(super) fn ahead(&self) -> &[u8] {
        self.held.get(self.taken..).unwrap_or_default()
    }

    /// The next bytes: at least `least` of them, unless the stream ends before. Waits for no byte more than these.
    pub(super) fn look(&mut self, least: usize) -> io::Result<&[u8]> {
        let mut missing = least.saturating_sub(self.ahead().len());
        while missing > 0 {
            let step = missing.min(STEP_BYTES);
            let before = self.held.len();
            (&mut self.input).take(step as u64).read_to_end(&mut self.held)?;
            let got = self.held.len() - before;
            if got < step {
                break;
            }
            missing -= got;
        }
        Ok(self.ahead())
    }

    /// Reads on, as far as bytes are there already, and waits for some if none are. Returns how many came.
    pub(super) fn more(&mut self) -> io::Result<usize> {
        let before = self.held.len();
        self.held.resize(before + BUFFER_BYTES, 0);
        let got = loop {
            match self.input.read(&mut self.held[before..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                got => break got,
            }
        };
        self.held.truncate(before + got.as_ref().map_or(0, |got| *got));
        got
    }

    /// Takes up to so many of the bytes that were read.
    pub(super) fn skip(&mut self, bytes: usize) {
        self.taken = self.taken.saturating_add(bytes).min(self.held.len());
        // Moving what is left costs no more than it cost to read what goes.
        if self.taken >= self.held.len() - self.taken {
            self.held.drain(..self.taken);
            self.taken = 0;
        }
    }

    /// What is left of the stream: for a reader that needs no second look. Nothing must have been read ahead.
    pub(super) fn rest(&mut self) -> &mut Counted<R> {
        &mut self.input
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_looked_at_can_be_looked_at_again() {
        let bytes: Vec<u8> = (0..=99).collect();
        let mut window = Window::new(bytes.as_slice());
        assert_eq!(window.look(10).unwrap(), &bytes[..10]);
        window.skip(1);
        assert_eq!(window.look(3).unwrap(), &bytes[1..10]);
        assert_eq!((window.position(), window.end()), (1, 10));
        assert_eq!(window.look(20).unwrap(), &bytes[1..21]);
        for _ in 0..20 {
            window.skip(1);
        }
        assert_eq!((window.ahead(), window.position()), (&[][..], 21));
        assert_eq!(window.look(500).unwrap(), &bytes[21..]);
        window.skip(500);
        assert_eq!((window.look(1).unwrap().len(), window.position()), (0, 100));
    }

    #[test]
    fn a_long_look_allocates_what_comes() {
        let mut window = Window::new(&b"few bytes"[..]);
        assert_eq!(window.look(usize::MAX).unwrap().len(), 9);
        assert!(window.held.capacity() <= 2 * STEP_BYTES);
    }
}
