//! Numbers that know their limits, so that a wrong one is refused where it stands in the file.

use serde::{Deserialize, Deserializer, Serialize, de};

/// A whole number between `MIN` and `MAX`, both included. The unit is in the setting's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Bounded<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> Bounded<MIN, MAX> {
    /// A default written in the program. Does not compile when it is out of range in a `const`.
    pub const fn new(number: u64) -> Self {
        assert!(MIN <= number && number <= MAX, "default out of range");
        Self(number)
    }

    /// The number as it is.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number as a length or count; saturates on 32-bit machines.
    pub fn count(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    /// The number read as milliseconds.
    pub const fn millis(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0)
    }
}

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Bounded<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(deserializer)?;
        match u64::try_from(number) {
            Ok(number) if (MIN..=MAX).contains(&number) => Ok(Self(number)),
            _ => Err(de::Error::custom(format!(
                "{number} is out of range; allowed: {MIN} to {MAX}"
            ))),
        }
    }
}
