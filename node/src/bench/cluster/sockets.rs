//! What each process has sent over its TCP connections so far, as the kernel counts it and `ss` (iproute2) prints it.

use std::collections::HashMap;

/// Ethernet, IPv4, and TCP with time stamps: what loopback adds to each packet, as any Ethernet does.
const HEADER_BYTES: u64 = 14 + 20 + 32;

/// What went out over connections that are open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    /// Without headers.
    pub bytes: u64,
    /// Packets, those that only acknowledge included.
    pub packets: u64,
    /// Packets with something in them.
    pub messages: u64,
}

impl Sent {
    /// With headers.
    pub fn wire_bytes(&self) -> u64 {
        self.bytes + self.packets * HEADER_BYTES
    }

    /// What was sent since then.
    pub fn since(self, before: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_sub(before.bytes),
            packets: self.packets.saturating_sub(before.packets),
            messages: self.messages.saturating_sub(before.messages),
        }
    }
}

/// By process. Nothing where there is no `ss`.
pub async fn sent() -> HashMap<u32, Sent> {
    let printed = tokio::process::Command::new("ss").arg("-tinpHO").output().await;
    printed.map_or_else(
        |_| HashMap::new(),
        |printed| of(&String::from_utf8_lossy(&printed.stdout)),
    )
}

fn of(printed: &str) -> HashMap<u32, Sent> {
    let mut processes: HashMap<u32, Sent> = HashMap::new();
    for line in printed.lines() {
        let Some(pid) = number_behind(line, "pid=") else {
            continue;
        };
        let count = |name| number_behind(line, name).unwrap_or_default();
        let sent = processes
            .entry(u32::try_from(pid).unwrap_or_default())
            .or_default();
        sent.bytes += count(" bytes_sent:");
        sent.packets += count(" segs_out:");
        sent.messages += count(" data_segs_out:");
    }
    processes
}

fn number_behind(line: &str, name: &str) -> Option<u64> {
    let (_, rest) = line.split_once(name)?;
    let end = rest
        .find(|character: char| !character.is_ascii_digit())
        .unwrap_or(rest.len());
    rest[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_connections_of_a_process_are_added_up() {
        let printed = "ESTAB 0 0 127.0.0.1:1 127.0.0.1:2 users:((\"troupe\",pid=7,fd=9)) cubic bytes_sent:100 \
                       bytes_acked:101 segs_out:5 segs_in:4 data_segs_out:3\n\
                       ESTAB 0 0 127.0.0.1:1 127.0.0.1:3 users:((\"troupe\",pid=7,fd=8)) cubic bytes_sent:10 segs_out:2\n\
                       ESTAB 0 0 127.0.0.1:1 127.0.0.1:4 cubic bytes_sent:1000\n";
        let sent = Sent {
            bytes: 110,
            packets: 7,
            messages: 3,
        };
        assert_eq!(of(printed), HashMap::from([(7, sent)]));
        assert_eq!(sent.wire_bytes(), 110 + 7 * 66);
    }
}
