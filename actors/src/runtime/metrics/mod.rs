//! What is counted of an actor. Writing costs a few atomic additions a message and takes no lock that is contended.

pub(super) mod record;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use troupe_protocol::observe::{HistogramBar, Latency};

/// Sub-buckets per power of two: a bucket's bounds are at most 25 % apart.
const STEPS: usize = 4;
/// Powers of two covered above the first bucket: up to 2^31 µs, about 36 minutes; longer times fall into the last.
const OCTAVES: usize = 30;
const BUCKETS: usize = STEPS * OCTAVES;

/// Times in microseconds, counted in buckets that grow with the time.
#[derive(Debug)]
pub struct Histogram {
    buckets: [AtomicU32; BUCKETS],
    max_us: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: [const { AtomicU32::new(0) }; BUCKETS],
            max_us: AtomicU64::new(0),
        }
    }
}

impl Histogram {
    /// Counts one time.
    pub fn record(&self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.buckets[bucket_of(us)].fetch_add(1, Relaxed);
        if us > self.max_us.load(Relaxed) {
            self.max_us.fetch_max(us, Relaxed);
        }
    }

    /// The usual percentiles.
    pub fn latency(&self) -> Latency {
        let counts: Vec<u64> = self
            .buckets
            .iter()
            .map(|bucket| u64::from(bucket.load(Relaxed)))
            .collect();
        let count: u64 = counts.iter().sum();
        let max_us = self.max_us.load(Relaxed);
        let percentile = |hundredths: u64| {
            let wanted = (count * hundredths).div_ceil(100).max(1);
            let mut seen = 0;
            for (bucket, in_bucket) in counts.iter().enumerate() {
                seen += in_bucket;
                if seen >= wanted {
                    return upper_bound_us(bucket).min(max_us);
                }
            }
            0
        };
        Latency {
            count,
            p50_us: percentile(50),
            p95_us: percentile(95),
            p99_us: percentile(99),
            max_us,
        }
    }

    /// The buckets that are not empty.
    pub fn bars(&self) -> Vec<HistogramBar> {
        let bars = self
            .buckets
            .iter()
            .enumerate()
            .map(|(bucket, count)| HistogramBar {
                up_to_us: upper_bound_us(bucket),
                count: u64::from(count.load(Relaxed)),
            });
        bars.filter(|bar| bar.count > 0).collect()
    }
}

/// Buckets 0 to 3 hold 0 to 3 µs; above, each power of two is cut into [`STEPS`].
fn bucket_of(us: u64) -> usize {
    if us < STEPS as u64 {
        return us as usize;
    }
    let octave = us.ilog2() as usize; // at least 2
    let step = (us >> (octave - 2)) as usize & (STEPS - 1);
    ((octave - 1) * STEPS + step).min(BUCKETS - 1)
}

fn upper_bound_us(bucket: usize) -> u64 {
    if bucket < STEPS {
        return bucket as u64;
    }
    let octave = bucket / STEPS + 1;
    let step = (bucket % STEPS) as u64;
    ((STEPS as u64 + step + 1) << (octave - 2)) - 1
}

/// What is counted of one actor over all its lives.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Messages handled.
    pub handled: AtomicU64,
    /// Messages refused because the mailbox was full.
    pub overloaded: AtomicU64,
    /// Handlers that ended in an error or a panic.
    pub failed: AtomicU64,
    /// Lives after the first.
    pub restarts: AtomicU32,
    /// Time in the mailbox.
    pub waiting: Histogram,
    /// Time in the handler.
    pub handling: Histogram,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_falls_into_the_bucket_whose_bounds_enclose_it() {
        for us in (0..10_000).chain([1 << 20, (1 << 20) - 1, (1 << 31) - 1]) {
            let bucket = bucket_of(us);
            assert!(us <= upper_bound_us(bucket), "{us} is above bucket {bucket}");
            assert!(
                bucket == 0 || us > upper_bound_us(bucket - 1),
                "{us} is below bucket {bucket}"
            );
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_are_within_a_quarter() {
        let histogram = Histogram::default();
        (1..=1000).for_each(|us| histogram.record(Duration::from_micros(us)));
        let latency = histogram.latency();
        assert_eq!((latency.count, latency.max_us), (1000, 1000));
        assert!((500..=625).contains(&latency.p50_us), "{latency:?}");
        assert!((990..=1000).contains(&latency.p99_us), "{latency:?}");
    }

    #[test]
    fn an_empty_histogram_says_zero() {
        assert_eq!(Histogram::default().latency(), Latency::default());
    }
}
