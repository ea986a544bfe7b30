//! What the demo shows: text that scrolls, and on a terminal a live table below it.

use std::io::{IsTerminal, Write};

/// DECAWM off: what is beyond the last column is written over what stands there...
const NO_WRAP: &str = "\x1b[?7l";
/// ... EL: and is erased with it,
const ERASE_REST: &str = "\x1b[K";
/// DECAWM on, as it is by default.
const WRAP: &str = "\x1b[?7h";

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
        Self::write(&self.table(lines));
    }

    /// The terminal cuts the lines at its width, whatever that is by now: a line that wraps takes more rows than the
    /// cursor goes up afterwards.
    fn table(&mut self, lines: &[String]) -> String {
        let mut text = self.clear();
        text.push_str(NO_WRAP);
        for line in lines {
            text.push_str(line);
            text.push_str(ERASE_REST);
            text.push('\n');
        }
        text.push_str(WRAP);
        self.drawn = lines.len();
        text
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_table_takes_one_row_however_narrow_the_terminal_is() {
        let mut screen = Screen { terminal: true, drawn: 0 };
        let lines = ["a".repeat(200), "b".to_owned()];
        let drawn = format!("\x1b[?7l{}\x1b[K\nb\x1b[K\n\x1b[?7h", lines[0]);
        assert_eq!(screen.table(&lines), drawn);
        // As many rows as that go away, and text that stays wraps.
        assert_eq!(screen.table(&lines), format!("\x1b[2A\x1b[J{drawn}"));
        assert_eq!(screen.clear(), "\x1b[2A\x1b[J");
    }
}
