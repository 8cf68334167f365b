//! What came out, as a table or as JSON.

use std::time::Duration;

use serde::Serialize;

use super::load::Cost;

/// What a proxied call may cost over a direct one, in microseconds of CPU time.
pub const BUDGET_US: f64 = 150.0;

/// The figures of one way to call.
#[derive(Debug, Serialize)]
pub struct Figures {
    pub calls: usize,
    pub calls_per_s: f64,
    pub latency_p50_us: u32,
    pub latency_p99_us: u32,
    /// CPU time per call: of the caller, the node, and the server.
    pub cpu_client_us: f64,
    pub cpu_node_us: f64,
    pub cpu_upstream_us: f64,
}

impl Figures {
    pub fn of(cost: &mut Cost) -> Self {
        cost.latencies_us.sort_unstable();
        let calls = cost.latencies_us.len();
        let percentile = |percent: usize| {
            let index = (calls * percent / 100).min(calls.saturating_sub(1));
            cost.latencies_us.get(index).copied().unwrap_or_default()
        };
        let per_call = |time: Duration| time.as_secs_f64() * 1e6 / calls.max(1) as f64;
        Self {
            calls,
            calls_per_s: calls as f64 / cost.wall.as_secs_f64(),
            latency_p50_us: percentile(50),
            latency_p99_us: percentile(99),
            cpu_client_us: per_call(cost.client),
            cpu_node_us: per_call(cost.node),
            cpu_upstream_us: per_call(cost.upstream),
        }
    }

    fn cpu_us(&self) -> f64 {
        self.cpu_client_us + self.cpu_node_us + self.cpu_upstream_us
    }
}

/// One case: direct and proxied, measured in turn.
#[derive(Debug, Serialize)]
pub struct Row {
    pub case: String,
    pub callers: usize,
    pub direct: Figures,
    pub proxied: Figures,
    /// CPU time of all processes per proxied call, less that of a direct one over the same wire. For stdio servers,
    /// which are called directly over a pipe, the CPU time of the node alone.
    pub over_direct_us: f64,
    pub holds: bool,
}

impl Row {
    pub fn new(case: String, callers: usize, over_pipe: bool, direct: Figures, proxied: Figures) -> Self {
        let over_direct_us = if over_pipe {
            proxied.cpu_node_us
        } else {
            proxied.cpu_us() - direct.cpu_us()
        };
        Self {
            case,
            callers,
            direct,
            proxied,
            over_direct_us,
            holds: over_direct_us <= BUDGET_US,
        }
    }
}

/// Everything.
#[derive(Debug, Serialize)]
pub struct Report {
    pub budget_us: f64,
    pub holds: bool,
    pub debug_build: bool,
    pub rows: Vec<Row>,
}

impl Report {
    pub fn new(rows: Vec<Row>) -> Self {
        let holds = rows.iter().all(|row| row.holds);
        Self {
            budget_us: BUDGET_US,
            holds,
            debug_build: cfg!(debug_assertions),
            rows,
        }
    }

    /// For people.
    pub fn in_words(&self) -> String {
        let mut text = format!(
            "{:<14}{:>8}{:>8}{:>9}{:>9}{:>10}{:>9}{:>8}{:>10}{:>10}\n",
            "server", "callers", "", "calls/s", "p50 µs", "p99 µs", "client", "node", "server", "CPU µs"
        );
        for row in &self.rows {
            for (way, figures) in [("direct", &row.direct), ("proxied", &row.proxied)] {
                let (case, callers) = if way == "direct" {
                    (row.case.as_str(), row.callers.to_string())
                } else {
                    ("", String::new())
                };
                text.push_str(&format!(
                    "{case:<14}{callers:>8}{way:>8}{:>9.0}{:>9}{:>10}{:>9.1}{:>8.1}{:>10.1}{:>10.1}\n",
                    figures.calls_per_s,
                    figures.latency_p50_us,
                    figures.latency_p99_us,
                    figures.cpu_client_us,
                    figures.cpu_node_us,
                    figures.cpu_upstream_us,
                    figures.cpu_us(),
                ));
            }
            let verdict = if row.holds { "holds" } else { "does not hold" };
            text.push_str(&format!(
                "{:>30} {:.1} µs: {verdict}\n",
                "over direct", row.over_direct_us
            ));
        }
        let verdict = if self.holds { "holds" } else { "DOES NOT HOLD" };
        text.push_str(&format!(
            "budget of {BUDGET_US} µs of CPU per proxied call over the direct one: {verdict}\n"
        ));
        if self.debug_build {
            text.push_str("this is a debug build: the figures say nothing about a release\n");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(client_ms: u64, node_ms: u64) -> Cost {
        let ms = Duration::from_millis;
        let latencies_us = (1..=1000).rev().collect();
        Cost {
            wall: ms(500),
            client: ms(client_ms),
            node: ms(node_ms),
            upstream: ms(10),
            latencies_us,
        }
    }

    #[test]
    fn the_cost_over_a_direct_call_is_that_of_all_processes() {
        let (direct, proxied) = (Figures::of(&mut cost(50, 0)), Figures::of(&mut cost(60, 100)));
        assert_eq!((direct.latency_p50_us, direct.latency_p99_us), (501, 991));
        let row = Row::new("http".to_owned(), 1, false, direct, proxied);
        assert!(
            (row.over_direct_us - 110.0).abs() < 0.01,
            "{}",
            row.over_direct_us
        );
        assert!(row.holds && Report::new(vec![row]).in_words().contains("holds"));
    }
}
