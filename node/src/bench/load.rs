//! Callers that call again as soon as they are answered.

use std::time::{Duration, Instant};

use futures::future::try_join_all;

use super::{
    peer::{Caller, Peer},
    usage::{cpu_time, cpu_time_of},
};
use crate::cli::error::CliError;

/// Whose CPU time is counted.
#[derive(Debug, Clone)]
pub struct Pids {
    pub client: u32,
    /// What stands between client and server; nothing on the direct way.
    pub gateway: Vec<u32>,
    pub upstream: u32,
}

/// What some rounds have cost.
#[derive(Debug, Clone, Default)]
pub struct Cost {
    pub wall: Duration,
    pub client: Duration,
    pub gateway: Duration,
    pub upstream: Duration,
    /// One for each call, in microseconds.
    pub latencies_us: Vec<u32>,
}

impl Cost {
    /// Adds another round.
    pub fn add(&mut self, round: Self) {
        self.wall += round.wall;
        self.client += round.client;
        self.gateway += round.gateway;
        self.upstream += round.upstream;
        self.latencies_us.extend(round.latencies_us);
    }
}

/// Calls for so long with so many callers at once.
pub async fn round(peer: &Peer, callers: usize, time: Duration, pids: &Pids) -> Result<Cost, CliError> {
    let cpu = || -> Result<[Duration; 3], CliError> {
        Ok([
            cpu_time(pids.client)?,
            cpu_time_of(&pids.gateway)?,
            cpu_time(pids.upstream)?,
        ])
    };
    let callers = try_join_all((0..callers).map(|_| peer.caller())).await?;
    let before = cpu()?;
    let began = Instant::now();
    let until = began + time;
    let latencies = try_join_all(callers.into_iter().map(|caller| call_until(caller, until))).await?;
    let wall = began.elapsed();
    let after = cpu()?;
    let [client, gateway, upstream] = std::array::from_fn(|index| after[index].saturating_sub(before[index]));
    Ok(Cost {
        wall,
        client,
        gateway,
        upstream,
        latencies_us: latencies.concat(),
    })
}

async fn call_until(mut caller: Caller<'_>, until: Instant) -> Result<Vec<u32>, CliError> {
    let mut latencies = Vec::with_capacity(16 * 1024);
    loop {
        let began = Instant::now();
        if began >= until {
            return Ok(latencies);
        }
        caller.call().await?;
        latencies.push(u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
}
