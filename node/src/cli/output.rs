//! Answers for people (aligned, short) or for machines (the API's JSON).

use std::{
    fmt::Write as _,
    io::{self, Write as _},
};

use serde::de::DeserializeOwned;
use serde_json::Value;
use troupe_protocol::time::Timestamp;

use super::error::CliError;

/// How answers are written.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    /// JSON instead of words.
    pub json: bool,
}

impl Output {
    /// Writes an answer: as it is, or in the words that `human` finds for it.
    pub fn show<T: DeserializeOwned>(
        self,
        answer: Value,
        human: impl FnOnce(T) -> String,
    ) -> Result<(), CliError> {
        if self.json {
            write_line(&format!("{answer:#}"));
            return Ok(());
        }
        let answer = T::deserialize_answer(answer)?;
        write_line(&human(answer));
        Ok(())
    }

    /// Writes something on the side, for people only.
    pub fn note(self, text: &str) {
        if !self.json {
            let _ = writeln!(io::stderr().lock(), "{text}");
        }
    }

    /// Writes why a command failed: one line on standard error, or the problem document.
    pub fn error(self, error: &CliError) {
        let text = match error {
            CliError::Problem(problem) if self.json => {
                serde_json::to_string_pretty(problem).unwrap_or_else(|_| error.to_string())
            }
            _ if self.json => serde_json::json!({ "error": error.to_string() }).to_string(),
            _ => format!("troupe: {error}"),
        };
        let _ = writeln!(io::stderr().lock(), "{text}");
    }
}

/// A closed pipe (`troupe … | head`) is no error.
fn write_line(text: &str) {
    let mut stdout = io::stdout().lock();
    let newline = if text.is_empty() || text.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    let _ = write!(stdout, "{text}{newline}");
}

trait Answer: Sized {
    fn deserialize_answer(answer: Value) -> Result<Self, CliError>;
}

impl<T: DeserializeOwned> Answer for T {
    fn deserialize_answer(answer: Value) -> Result<Self, CliError> {
        serde_json::from_value(answer).map_err(|error| {
            CliError::Failed(format!(
                "the node's answer is of another version ({error}); --json shows it as it is"
            ))
        })
    }
}

/// Text in columns, each as wide as its widest cell.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    pub fn new(headings: &[&str]) -> Self {
        Self {
            rows: vec![headings.iter().map(|heading| heading.to_uppercase()).collect()],
        }
    }

    /// Adds a row with as many cells as there are headings.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The table, or `otherwise` when it has no rows.
    pub fn or(self, otherwise: &str) -> String {
        if self.rows.len() == 1 {
            otherwise.to_owned()
        } else {
            self.to_string()
        }
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let columns = self.rows.first().map_or(0, Vec::len);
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                self.rows
                    .iter()
                    .filter_map(|row| row.get(column))
                    .map(|cell| width(cell))
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width_max) in row.iter().zip(&widths) {
                let padding = width_max - width(cell) + 2;
                let _ = write!(line, "{cell}{:padding$}", "");
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

fn width(cell: &str) -> usize {
    cell.chars().count()
}

/// The value, or a dash.
pub fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// `3 s ago`.
pub fn ago(at: Timestamp) -> String {
    let elapsed_ms = jiff::Timestamp::now().as_millisecond() - at.unix_ms();
    format!("{} ago", duration(u64::try_from(elapsed_ms).unwrap_or(0)))
}

/// Milliseconds in the largest unit that fits.
pub fn duration(ms: u64) -> String {
    const SECOND: u64 = 1_000;
    const MINUTE: u64 = 60 * SECOND;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    match ms {
        0..SECOND => format!("{ms} ms"),
        SECOND..MINUTE => format!("{} s", ms / SECOND),
        MINUTE..HOUR => format!("{} min", ms / MINUTE),
        HOUR..DAY => format!("{} h", ms / HOUR),
        _ => format!("{} d", ms / DAY),
    }
}

/// The first line, cut to `chars_max` characters.
pub fn shortened(text: &str, chars_max: usize) -> String {
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() <= chars_max {
        return line.to_owned();
    }
    let kept: String = line.chars().take(chars_max.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["name", "status"]);
        table.row(["time".to_owned(), "online".to_owned()]);
        table.row(["everything".to_owned(), "off".to_owned()]);
        assert_eq!(
            table.to_string(),
            "NAME        STATUS\ntime        online\neverything  off\n"
        );
    }

    #[test]
    fn durations_read_in_their_largest_unit() {
        assert_eq!(
            [duration(5), duration(61_000), duration(90_000_000)],
            ["5 ms", "1 min", "1 d"]
        );
    }
}
