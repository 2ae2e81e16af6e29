//! Progress bars, drawn by way of [`stderr`](super::stderr): a terminal that is gone or stopped holds nobody up, and is no
//! error. Where standard error is no terminal nothing is drawn.

use std::io;
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use console::Term;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};

use super::{is_capable_terminal, stderr};
use cofferdam_base::sync::lock;

/// The bars that are on the terminal; none without one.
static BARS: LazyLock<Option<MultiProgress>> = LazyLock::new(|| {
    /// How often they are drawn, at most, a second.
    const RATE: u8 = 20;
    let target = || ProgressDrawTarget::term_like_with_hz(Box::new(Screen::default()), RATE);
    is_capable_terminal().then(|| MultiProgress::with_draw_target(target()))
});

/// A bar on standard error; `template` as indicatif's.
pub(in super::super) fn bar(total: Option<u64>, template: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden());
    let Some(bars) = &*BARS else { return bar };
    // A template is a constant of ours; should one be wrong, the default style serves.
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = bars.add(bar.with_style(style));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Has `write` write to standard error, with the bars out of its way.
pub(super) fn above(write: impl FnOnce()) {
    match &*BARS {
        Some(bars) => bars.suspend(write),
        None => write(),
    }
}

/// The terminal behind standard error. None of its methods fails: indicatif would panic.
#[derive(Debug, Default)]
struct Screen {
    /// What was drawn since the last flush.
    frame: Mutex<Vec<u8>>,
}

impl Screen {
    fn draw(&self, text: &str) -> io::Result<()> {
        lock(&self.frame).extend_from_slice(text.as_bytes());
        Ok(())
    }

    /// Moves the cursor, which a distance of 0 would do, too.
    fn move_by(&self, cells: usize, direction: char) -> io::Result<()> {
        if cells == 0 { Ok(()) } else { self.draw(&format!("\x1b[{cells}{direction}")) }
    }
}

impl TermLike for Screen {
    fn width(&self) -> u16 {
        Term::stderr().size().1
    }

    fn height(&self) -> u16 {
        Term::stderr().size().0
    }

    fn move_cursor_up(&self, lines: usize) -> io::Result<()> {
        self.move_by(lines, 'A')
    }

    fn move_cursor_down(&self, lines: usize) -> io::Result<()> {
        self.move_by(lines, 'B')
    }

    fn move_cursor_right(&self, cells: usize) -> io::Result<()> {
        self.move_by(cells, 'C')
    }

    fn move_cursor_left(&self, cells: usize) -> io::Result<()> {
        self.move_by(cells, 'D')
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.draw(text)?;
        self.draw("\n")
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.draw(text)
    }

    fn clear_line(&self) -> io::Result<()> {
        self.draw("\r\x1b[2K")
    }

    fn flush(&self) -> io::Result<()> {
        stderr::draw(std::mem::take(&mut *lock(&self.frame)));
        Ok(())
    }
}
