//! Distributions of times.

use std::time::Duration;

use serde::Serialize;

/// How a number of times are spread, in milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Distribution {
    pub count: usize,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

impl Distribution {
    /// Of these times; nothing but zeros of none.
    pub fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |percent: usize| {
            let index = (times.len() * percent / 100).min(times.len().saturating_sub(1));
            let time = times.get(index).copied().unwrap_or_default();
            time.as_secs_f64() * 1e3
        };
        Self {
            count: times.len(),
            p50_ms: at(50),
            p99_ms: at(99),
            max_ms: at(100),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_sorted_times() {
        let times = (1..=200).rev().map(Duration::from_millis).collect();
        let distribution = Distribution::of(times);
        assert_eq!(distribution.count, 200);
        assert!((distribution.p50_ms - 101.0).abs() < 1e-9, "{distribution:?}");
        assert!((distribution.p99_ms - 199.0).abs() < 1e-9, "{distribution:?}");
        assert!((distribution.max_ms - 200.0).abs() < 1e-9, "{distribution:?}");
        assert_eq!(Distribution::of(Vec::new()).count, 0);
    }
}
