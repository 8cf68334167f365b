//! Callers that call again as soon as they are answered.

use std::time::{Duration, Instant};

use futures::future::try_join_all;

use super::{peer::Peer, process::cpu_time};
use crate::cli::error::CliError;

/// Whose CPU time is counted.
#[derive(Debug, Clone, Copy)]
pub struct Pids {
    pub client: u32,
    pub node: u32,
    pub upstream: u32,
}

/// What some rounds have cost.
#[derive(Debug, Clone, Default)]
pub struct Cost {
    pub wall: Duration,
    pub client: Duration,
    pub node: Duration,
    pub upstream: Duration,
    /// One for each call, in microseconds.
    pub latencies_us: Vec<u32>,
}

impl Cost {
    /// Adds another round.
    pub fn add(&mut self, round: Self) {
        self.wall += round.wall;
        self.client += round.client;
        self.node += round.node;
        self.upstream += round.upstream;
        self.latencies_us.extend(round.latencies_us);
    }
}

/// Calls for so long with so many callers at once.
pub async fn round(peer: &Peer, callers: usize, time: Duration, pids: Pids) -> Result<Cost, CliError> {
    let cpu_of = |pids: Pids| -> Result<[Duration; 3], CliError> {
        Ok([
            cpu_time(pids.client)?,
            cpu_time(pids.node)?,
            cpu_time(pids.upstream)?,
        ])
    };
    let before = cpu_of(pids)?;
    let began = Instant::now();
    let until = began + time;
    let latencies = try_join_all((0..callers).map(|_| call_until(peer, until))).await?;
    let wall = began.elapsed();
    let after = cpu_of(pids)?;
    let [client, node, upstream] = std::array::from_fn(|index| after[index].saturating_sub(before[index]));
    Ok(Cost {
        wall,
        client,
        node,
        upstream,
        latencies_us: latencies.concat(),
    })
}

async fn call_until(peer: &Peer, until: Instant) -> Result<Vec<u32>, CliError> {
    let mut latencies = Vec::with_capacity(16 * 1024);
    loop {
        let began = Instant::now();
        if began >= until {
            return Ok(latencies);
        }
        peer.call().await?;
        latencies.push(u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
}
