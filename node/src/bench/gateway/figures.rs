//! The figures of one way to call.

use std::time::Duration;

use serde::Serialize;

use crate::bench::load::Cost;

/// What calls over one way have cost.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    pub calls: usize,
    pub calls_per_s: f64,
    pub latency_p50_us: u32,
    pub latency_p99_us: u32,
    pub latency_p999_us: u32,
    /// CPU time per call: of the caller, of what stands between, and of the server.
    pub cpu_client_us: f64,
    pub cpu_gateway_us: f64,
    pub cpu_server_us: f64,
}

impl Figures {
    pub fn of(cost: &mut Cost) -> Self {
        cost.latencies_us.sort_unstable();
        let calls = cost.latencies_us.len();
        let at = |per_mille: usize| {
            let index = (calls * per_mille / 1_000).min(calls.saturating_sub(1));
            cost.latencies_us.get(index).copied().unwrap_or_default()
        };
        let per_call = |time: Duration| time.as_secs_f64() * 1e6 / calls.max(1) as f64;
        Self {
            calls,
            calls_per_s: calls as f64 / cost.wall.as_secs_f64(),
            latency_p50_us: at(500),
            latency_p99_us: at(990),
            latency_p999_us: at(999),
            cpu_client_us: per_call(cost.client),
            cpu_gateway_us: per_call(cost.gateway),
            cpu_server_us: per_call(cost.upstream),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_and_costs_are_per_call() {
        let ms = Duration::from_millis;
        let mut cost = Cost {
            wall: ms(500),
            client: ms(50),
            gateway: ms(100),
            upstream: ms(10),
            latencies_us: (1..=2000).rev().collect(),
        };
        let figures = Figures::of(&mut cost);
        assert_eq!(
            (
                figures.latency_p50_us,
                figures.latency_p99_us,
                figures.latency_p999_us
            ),
            (1001, 1981, 1999)
        );
        assert!((figures.cpu_gateway_us - 50.0).abs() < 0.01, "{figures:?}");
        assert!((figures.calls_per_s - 4000.0).abs() < 0.01, "{figures:?}");
    }
}
