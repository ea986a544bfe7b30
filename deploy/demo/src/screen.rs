//! What the demo shows: text that scrolls, and on a terminal a live table below it.

use std::io::{IsTerminal, Write};

/// Standard output. Nothing fails because nobody reads it.
#[derive(Debug)]
pub(crate) struct Screen {
    terminal: bool,
    /// How many lines of the table stand at the bottom.
    drawn: usize,
}

impl Screen {
    pub(crate) fn new() -> Self {
        Self { terminal: std::io::stdout().is_terminal(), drawn: 0 }
    }

    /// Whether a table can be drawn over.
    pub(crate) fn is_live(&self) -> bool {
        self.terminal
    }

    /// Prints text, which stays.
    pub(crate) fn say(&mut self, text: &str) {
        let clear = self.clear();
        Self::write(&format!("{clear}{text}\n"));
    }

    /// Draws the table in place of the one before; without a terminal, nothing.
    pub(crate) fn draw(&mut self, lines: &[String]) {
        if !self.terminal {
            return;
        }
        let mut text = self.clear();
        for line in lines {
            text.push_str(line);
            text.push('\n');
        }
        Self::write(&text);
        self.drawn = lines.len();
    }

    /// Takes the table away: cursor up, and erase all below.
    fn clear(&mut self) -> String {
        match std::mem::take(&mut self.drawn) {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\x1b[J"),
        }
    }

    fn write(text: &str) {
        let mut out = std::io::stdout().lock();
        // Standard output may be closed: the demo goes on, its exit code still counts.
        _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}
