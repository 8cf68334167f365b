//! Figures and what they must be.

use serde::Serialize;

use crate::cli::output::Table;

/// A figure that is promised.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bar {
    pub what: String,
    pub measured: f64,
    pub is_at_most: bool,
    pub bar: f64,
    pub unit: &'static str,
    pub holds: bool,
}

impl Bar {
    /// It must not be more.
    pub fn at_most(what: impl Into<String>, measured: f64, bar: f64, unit: &'static str) -> Self {
        Self {
            what: what.into(),
            measured,
            is_at_most: true,
            bar,
            unit,
            holds: measured <= bar, // what was not measured holds nothing
        }
    }

    /// It must not be less.
    pub fn at_least(what: impl Into<String>, measured: f64, bar: f64, unit: &'static str) -> Self {
        Self {
            is_at_most: false,
            holds: measured >= bar,
            ..Self::at_most(what, measured, bar, unit)
        }
    }
}

/// For people.
pub fn in_words(bars: &[Bar]) -> String {
    let mut table = Table::new(&["what", "measured", "must be", "verdict"]);
    for bar in bars {
        let bound = if bar.is_at_most { "at most" } else { "at least" };
        table.row([
            bar.what.clone(),
            format!("{} {}", shortly(bar.measured), bar.unit),
            format!("{bound} {} {}", shortly(bar.bar), bar.unit),
            if bar.holds { "holds" } else { "DOES NOT HOLD" }.to_owned(),
        ]);
    }
    table.or("")
}

/// Three digits are enough, and all there are of a large number.
fn shortly(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_holds_on_its_side_and_never_without_a_measurement() {
        assert!(Bar::at_most("", 2.0, 2.0, "x").holds);
        assert!(!Bar::at_most("", 2.1, 2.0, "x").holds);
        assert!(Bar::at_least("", 2.0, 2.0, "x").holds);
        assert!(!Bar::at_least("", 1.9, 2.0, "x").holds);
        for bar in [
            Bar::at_most("", f64::NAN, 2.0, "x"),
            Bar::at_least("", f64::NAN, 2.0, "x"),
        ] {
            assert!(!bar.holds, "{bar:?}");
        }
    }

    #[test]
    fn it_is_told_in_a_line() {
        let text = in_words(&[Bar::at_least("a rate", 512.3, 60.0, "%")]);
        let line = text.lines().nth(1).unwrap_or_default();
        assert_eq!(line, "a rate  512 %     at least 60.0 %  holds");
    }
}
