//! The levels of a server's log messages (2025-11-25, server/utilities/logging; RFC 5424).

use strum::{EnumString, IntoStaticStr};

/// How severe a log message is, the least severe first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, EnumString, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum LogLevel {
    /// For developers.
    Debug,
    /// What happens.
    Info,
    /// What matters of it.
    Notice,
    /// What may be wrong.
    Warning,
    /// What is wrong.
    Error,
    /// A part does not work.
    Critical,
    /// Somebody must act.
    Alert,
    /// Nothing works.
    Emergency,
}

impl LogLevel {
    /// The level of this name; nothing if there is none.
    pub fn of(name: &str) -> Option<Self> {
        name.parse().ok()
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_have_names_and_an_order() {
        assert_eq!(LogLevel::of("warning"), Some(LogLevel::Warning));
        assert_eq!(LogLevel::of("loud"), None);
        assert_eq!(LogLevel::Emergency.as_str(), "emergency");
        assert!(LogLevel::Error > LogLevel::Info);
    }
}
