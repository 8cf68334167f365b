//! What is known of all servers: written by their probers, read by everyone.
//!
//! A report changes with each probe, which for thousands of servers is often; the view of all is made only when
//! somebody looks.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::broadcast;
use troupe_protocol::health::{HealthEvent, HealthHistory, HealthReport, HealthStatus};
use troupe_protocol::server::ServerName;
use troupe_protocol::time::Timestamp;

use super::history::History;
use super::placed::HealthNews;
use crate::cluster::bulletin::Bulletin;
use crate::registry::Health;

/// How many events a slow subscriber may be behind before it has to read the view again.
const EVENTS_MAX: usize = 1_024;

#[derive(Debug, Default)]
struct Known {
    report: Arc<HealthReport>,
    history: History,
}

/// Who says how a server fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Here,
    /// It knows since when, and how it was before this node looked.
    OtherNode,
}

/// How all servers fare.
#[derive(Debug)]
pub(crate) struct Board {
    known: Mutex<HashMap<ServerName, Known>>,
    view: ArcSwap<Health>,
    is_stale: AtomicBool,
    events: broadcast::Sender<HealthEvent>,
    now: fn() -> Timestamp,
    /// What the other nodes are let know.
    pub news: Arc<Bulletin>,
}

impl Board {
    pub fn new(now: fn() -> Timestamp) -> Self {
        Self {
            news: Arc::default(),
            known: Mutex::default(),
            view: ArcSwap::default(),
            is_stale: AtomicBool::new(false),
            events: broadcast::Sender::new(EVENTS_MAX),
            now,
        }
    }

    pub fn now(&self) -> Timestamp {
        (self.now)()
    }

    pub fn subscribe(&self) -> broadcast::Receiver<HealthEvent> {
        self.events.subscribe()
    }

    /// The reports of all servers.
    pub fn view(&self) -> Arc<Health> {
        if self.is_stale.swap(false, Ordering::AcqRel) {
            let known = self.known.lock();
            let view: Health = known
                .iter()
                .map(|(name, known)| (name.clone(), Arc::clone(&known.report)))
                .collect();
            // Stored under the lock, so that an older view never replaces a newer one.
            self.view.store(Arc::new(view));
        }
        self.view.load_full()
    }

    pub fn report(&self, name: &ServerName) -> Option<Arc<HealthReport>> {
        self.known.lock().get(name).map(|known| Arc::clone(&known.report))
    }

    pub fn history(&self, name: &ServerName) -> HealthHistory {
        let now = self.now();
        self.known
            .lock()
            .get_mut(name)
            .map(|known| known.history.report(now))
            .unwrap_or_default()
    }

    /// Changes the report of a server that this node probes, and lets the other nodes know.
    pub fn update(
        &self,
        name: &ServerName,
        probe: Option<Option<f64>>,
        change: impl FnOnce(&mut HealthReport),
    ) -> Arc<HealthReport> {
        let before = self.report(name).unwrap_or_default();
        let report = self.change(name, probe, Source::Here, change);
        let (key, news) = HealthNews::of(name, &before, &report);
        self.news.publish_json(key, &(name, news));
        report
    }

    /// Takes over what another node let know.
    pub fn hear(&self, name: &ServerName, news: HealthNews) {
        let before = self.report(name).unwrap_or_default();
        let mut now = HealthReport::clone(&before);
        news.apply(&mut now);
        let has_answered = now.failures_in_a_row == 0 && now.last_probe == now.last_active;
        let probe = (now.last_probe != before.last_probe && now.last_probe.is_some())
            .then_some(now.latency_ms.filter(|_| has_answered));
        self.change(name, probe, Source::OtherNode, |report| *report = now);
    }

    /// Changes the report of a server, and tells of it when its status changed or `probe` says how a probe ended.
    fn change(
        &self,
        name: &ServerName,
        probe: Option<Option<f64>>,
        source: Source,
        change: impl FnOnce(&mut HealthReport),
    ) -> Arc<HealthReport> {
        let now = self.now();
        let mut known = self.known.lock();
        let known = known.entry(name.clone()).or_default();
        let mut report = HealthReport::clone(&known.report);
        let before = report.status;
        change(&mut report);
        let is_told = source == Source::OtherNode;
        if report.since.is_none() || (report.status != before && !is_told) {
            report.since = Some(now);
        }
        known.history.status_is(report.status, now);
        if let Some(latency_ms) = probe {
            known.history.probed(latency_ms, now);
        }
        let observed_here = known.history.uptime(now);
        if !is_told || report.uptime_24h.is_none() {
            report.uptime_24h = observed_here;
        }
        known.report = Arc::new(report);
        self.is_stale.store(true, Ordering::Release);
        let report = Arc::clone(&known.report);
        let has_changed = report.status != before || probe.is_some();
        if has_changed && self.events.receiver_count() > 0 {
            let now = Some(HealthReport::clone(&report));
            let _ = self.events.send(HealthEvent {
                name: name.clone(),
                before,
                now,
            });
        }
        report
    }

    /// Forgets a server that is no longer registered.
    pub fn remove(&self, name: &ServerName) {
        let Some(known) = self.known.lock().remove(name) else {
            return;
        };
        self.is_stale.store(true, Ordering::Release);
        let before = known.report.status;
        let _ = self.events.send(HealthEvent {
            name: name.clone(),
            before,
            now: None,
        });
    }

    /// The servers with a report.
    pub fn names(&self) -> Vec<ServerName> {
        self.known.lock().keys().cloned().collect()
    }

    /// A server is enabled and another node probes it: nothing is known of it until that tells.
    pub fn expect(&self, name: &ServerName) {
        let status = self.report(name).map(|report| report.status);
        if status.is_none_or(|status| status == HealthStatus::Disabled) {
            self.change(name, None, Source::Here, |report| {
                report.status = HealthStatus::Testing
            });
        }
    }

    /// A server is disabled: what is known of it stays, but for its status.
    pub fn disable(&self, name: &ServerName) {
        self.change(name, None, Source::Here, |report| {
            report.status = HealthStatus::Disabled;
            report.failures_in_a_row = 0;
        });
    }
}
