//! `[cluster]`: how nodes find, trust and watch each other.

use std::net::SocketAddr;

use serde::{Deserialize, Deserializer, Serialize, de};

use super::{Bounded, HOUR_MS, KIB, MIB, MINUTE_MS, SECOND_MS};

/// Where nodes listen for each other when no setting says otherwise.
pub const CLUSTER_LISTEN_DEFAULT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 7501);

/// `[cluster]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterConfig {
    /// Address and port for other nodes.
    pub listen: ListenChoice,
    /// Where other nodes reach this one, as `host:port`; empty: the address it listens on.
    pub advertise: HostPort,
    /// Most voters; an odd number.
    pub voters_max: Bounded<1, 5>,
    /// How long a node may act for placed actors after a majority last confirmed it.
    pub lease_ms: Bounded<200, MINUTE_MS>,
    /// Between two words of the log's leader to its followers, at least; it takes up to half as long again.
    pub heartbeat_ms: Bounded<20, { 10 * SECOND_MS }>,
    /// The shortest silence of the leader after which another is elected; the longest is twice that.
    pub election_timeout_ms: Bounded<100, MINUTE_MS>,
    /// The silence after which a node counts as down.
    pub detection_ms: Bounded<200, MINUTE_MS>,
    /// A voter that is down for this long is replaced by a learner that is up.
    pub voter_replace_ms: Bounded<SECOND_MS, { 24 * HOUR_MS }>,
    /// The silence of a node of which an answer is expected after which its link is cut and made anew.
    pub link_silence_ms: Bounded<100, MINUTE_MS>,
    /// Longest pause between attempts to reach a node.
    pub backoff_ms_max: Bounded<100, MINUTE_MS>,
    /// Bytes on their way to one node that it has not yet taken.
    pub link_window_bytes: Bounded<{ 256 * KIB }, { 64 * MIB }>,
    /// Log entries after which a snapshot is made.
    pub snapshot_entries: Bounded<100, 1_000_000>,
    /// Longest time a stopping node takes to hand over what it runs.
    pub drain_timeout_ms: Bounded<0, HOUR_MS>,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            listen: ListenChoice::default(),
            advertise: HostPort::default(),
            voters_max: const { Bounded::new(5) },
            lease_ms: const { Bounded::new(1_100) },
            heartbeat_ms: const { Bounded::new(130) },
            election_timeout_ms: const { Bounded::new(300) },
            detection_ms: const { Bounded::new(900) },
            voter_replace_ms: const { Bounded::new(30 * SECOND_MS) },
            link_silence_ms: const { Bounded::new(500) },
            backoff_ms_max: const { Bounded::new(2 * SECOND_MS) },
            link_window_bytes: const { Bounded::new(MIB) },
            snapshot_entries: const { Bounded::new(5_000) },
            drain_timeout_ms: const { Bounded::new(10 * SECOND_MS) },
        }
    }
}

/// An address to listen on, or the default one with the liberty to take a free port instead while it is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ListenChoice(Option<SocketAddr>);

impl ListenChoice {
    /// This address and no other.
    pub fn exactly(address: SocketAddr) -> Self {
        Self(Some(address))
    }

    /// The address that was set, if one was.
    pub fn chosen(self) -> Option<SocketAddr> {
        self.0
    }
}

impl Serialize for ListenChoice {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(address) => serializer.collect_str(&address),
            None => serializer.serialize_str(""),
        }
    }
}

impl<'de> Deserialize<'de> for ListenChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() {
            return Ok(Self(None));
        }
        let address = text.parse().map_err(|_| {
            de::Error::custom(format!(
                "{text:?} is no socket address; allowed: an IP address and a port such as 127.0.0.1:7501, or nothing"
            ))
        })?;
        Ok(Self::exactly(address))
    }
}

/// A host and a port, or nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(transparent)]
pub struct HostPort(String);

impl HostPort {
    /// Host and port, unless the setting is empty.
    pub fn get(&self) -> Option<&str> {
        (!self.0.is_empty()).then_some(self.0.as_str())
    }

    fn is_well_formed(text: &str) -> bool {
        let Some((host, port)) = text.rsplit_once(':') else {
            return false;
        };
        let is_port = port.parse::<u16>().is_ok_and(|port| port > 0);
        let is_host = match url::Host::parse(host) {
            Ok(url::Host::Ipv4(address)) => !address.is_unspecified(),
            Ok(url::Host::Ipv6(address)) => !address.is_unspecified(),
            Ok(url::Host::Domain(_)) => true,
            Err(_) => false,
        };
        is_port && is_host
    }
}

impl<'de> Deserialize<'de> for HostPort {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() || Self::is_well_formed(&text) {
            return Ok(Self(text));
        }
        Err(de::Error::custom(format!(
            "{text:?} says not where to reach this node; allowed: host:port such as 192.0.2.7:7501, or nothing"
        )))
    }
}
