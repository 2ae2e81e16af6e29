//! Progress bars, drawn through [`stderr`](super::stderr). If the terminal is closed or stopped, there is no error, and no thread
//! of the command waits for it. If standard error is no terminal, nothing is drawn.

use std::io;
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use console::Term;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};

use super::stderr;
use super::terminal::is_capable_terminal;
use cofferdam_base::sync::lock;

/// The bars on the terminal; none if there is no terminal.
static BARS: LazyLock<Option<MultiProgress>> = LazyLock::new(|| {
    /// How many times a second the bars are drawn at most.
    const RATE: u8 = 20;
    let target = || ProgressDrawTarget::term_like_with_hz(Box::new(Screen::default()), RATE);
    is_capable_terminal().then(|| MultiProgress::with_draw_target(target()))
});

/// A bar on standard error, with a template of indicatif.
pub(in super::super) fn bar(total: Option<u64>, template: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden());
    let Some(bars) = &*BARS else { return bar };
    // Templates are constants of this program. If one is wrong, the default style is used.
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = bars.add(bar.with_style(style));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Calls `write`, which writes to standard error, while the bars are removed.
pub(super) fn above(write: impl FnOnce()) {
    match &*BARS {
        Some(bars) => bars.suspend(write),
        None => write(),
    }
}

/// The terminal behind standard error. Its methods never fail, because indicatif would panic.
#[derive(Debug, Default)]
struct Screen {
    /// The text drawn since the last flush.
    frame: Mutex<Vec<u8>>,
}

impl Screen {
    fn draw(&self, text: &str) -> io::Result<()> {
        lock(&self.frame).extend_from_slice(text.as_bytes());
        Ok(())
    }

    /// Moves the cursor. For a terminal, a distance of 0 means 1, so nothing is written then.
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
