//! From the configuration to what each family of actors wants to know.

use std::time::Duration;

use troupe_actors::{
    cluster::{
        ClusterSettings, lease::LeaseTiming, link::LinkSettings, log::LogSettings,
        membership::DetectionTiming,
    },
    health::HealthSettings,
    runtime::Intensity,
    session::{GatewayLimits, SessionLimits},
    upstream::UpstreamSettings,
    vault::{ClusterKey, KeySource},
};

use crate::config::{ClusterConfig, Config, ConfigError, read_secret_file};

/// How often children of the root may be restarted.
pub fn intensity(config: &Config) -> Intensity {
    Intensity {
        restarts_max: u32::try_from(config.runtime.restarts_max.get()).unwrap_or(u32::MAX),
        within: config.runtime.restart_window_ms.millis(),
    }
}

/// Links, log, leases, detection. What is not a setting follows from what is.
pub fn cluster(config: &ClusterConfig) -> ClusterSettings {
    let lease = config.lease_ms.millis();
    let detection = config.detection_ms.millis();
    ClusterSettings {
        link: LinkSettings {
            silence_ms_max: config.link_silence_ms.get(),
            window_bytes: u32::try_from(config.link_window_bytes.get()).unwrap_or(u32::MAX),
            redial_ms_max: config.backoff_ms_max.get(),
            ..LinkSettings::default()
        },
        log: LogSettings {
            heartbeat_ms: config.heartbeat_ms.get(),
            election_min_ms: config.election_timeout_ms.get(),
            election_max_ms: 2 * config.election_timeout_ms.get(),
            voters_max: config.voters_max.count(),
            replace_voter_after: config.voter_replace_ms.millis(),
            snapshot_every_entries: config.snapshot_entries.get(),
            ..LogSettings::default()
        },
        lease: LeaseTiming {
            lasts: lease,
            renew_every: lease * 2 / 9,
            round_serves: lease / 28,
            // voters keep to the leader they hear of for as long as the longest wait for an election
            silence_before_election: 2 * config.election_timeout_ms.millis(),
            ..LeaseTiming::default()
        },
        detection: DetectionTiming {
            silent_after: detection,
            silent_after_link_end: detection.min(DetectionTiming::default().silent_after_link_end),
            deaf_after: detection + Duration::from_millis(700),
            ..DetectionTiming::default()
        },
    }
}

/// Connections to servers.
pub fn upstreams(config: &Config) -> UpstreamSettings {
    let settings = &config.upstream;
    UpstreamSettings {
        message_bytes_max: settings.message_bytes_max.count(),
        calls_in_flight_max: settings.calls_in_flight_max.count(),
        start_timeout_ms: settings.start_timeout_ms.get(),
        probe_timeout_ms: settings.probe_timeout_ms.get(),
        stop_timeout_ms: settings.stop_timeout_ms.get(),
        restart_wait_ms_max: settings.restart_wait_ms_max.get(),
        backoff_ms_max: settings.backoff_ms_max.get(),
        list_age_ms_max: settings.list_age_ms_max.get(),
    }
}

/// Probing of servers.
pub fn health(config: &Config) -> HealthSettings {
    HealthSettings {
        probe_interval: config.health.probe_interval_ms.millis(),
        probe_timeout: config.health.probe_timeout_ms.millis(),
        slow_from: config.health.slow_from_ms.millis(),
    }
}

/// MCP clients' calls.
pub fn gateway(config: &Config) -> GatewayLimits {
    GatewayLimits {
        call_time_max: config.upstream.call_timeout_ms.millis(),
        ..GatewayLimits::default()
    }
}

/// Legacy MCP clients' sessions.
pub fn sessions(config: &Config) -> SessionLimits {
    SessionLimits {
        sessions_max: config.mcp.sessions_max.count(),
        idle_ms_max: config.mcp.session_idle_timeout_ms.get(),
        ..SessionLimits::default()
    }
}

/// Where the vault's key comes from.
pub fn vault_key(config: &Config, cluster_key: &[u8; 32]) -> Result<KeySource, ConfigError> {
    let file = config.vault.passphrase_file.as_str();
    if file.is_empty() {
        return Ok(KeySource::Cluster(ClusterKey::new(*cluster_key)));
    }
    Ok(KeySource::Passphrase(read_secret_file(
        "vault.passphrase_file",
        file,
    )?))
}
