//! Reports how far a scan is, in steps that a terminal can show.

/// The fewest bytes between two reports, except for the report at the end of a file.
const STEP_BYTES: u64 = 16 << 20;

/// Reports the progress of a scan to the caller.
pub(super) struct Progress<'a> {
    report: &'a mut dyn FnMut(u64, u64),
    total: u64,
    files_done: u64,
    reported: u64,
}

impl<'a> Progress<'a> {
    /// `total` is the length of all files that will be scanned, in bytes. `report` gets the bytes scanned and the total.
    pub(super) fn new(total: u64, report: &'a mut dyn FnMut(u64, u64)) -> Self {
        Self { report, total, files_done: 0, reported: 0 }
    }

    /// Records that the scan has reached this offset of the current file, in bytes.
    pub(super) fn at(&mut self, offset: u64) {
        if self.files_done + offset >= self.reported + STEP_BYTES {
            self.tell(self.files_done + offset);
        }
    }

    /// Records that the current file, of `len` bytes, was scanned.
    pub(super) fn file_done(&mut self, len: u64) {
        self.files_done += len;
        self.tell(self.files_done);
    }

    fn tell(&mut self, bytes: u64) {
        self.reported = bytes;
        (self.report)(bytes, self.total);
    }
}
