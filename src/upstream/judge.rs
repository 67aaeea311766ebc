//! What a cluster learns of its endpoints, from clients' handshakes and from probes, and says in
//! the log.

use std::sync::PoisonError;
use std::time::Instant;

use tracing::{info, warn};

use super::health::{Failed, Thresholds, Verdict, can_be_spared};
use super::{Cluster, Endpoint};

impl Cluster {
    /// An endpoint answered a client's handshake, whatever it said.
    pub(super) fn succeeded(&self, endpoint: &Endpoint) {
        if endpoint.succeeded(Instant::now()) {
            info!(upstream = &*self.name, endpoint = &**endpoint.label(), "endpoint answers again");
        }
    }

    /// A client's handshake did not get as far as an answer, and that was the endpoint's doing.
    pub(super) fn failed(&self, endpoint: &Endpoint, reason: &str) {
        let now = Instant::now();
        let failed = endpoint.note(|health| health.failed(self.passive, now));
        if failed == Failed::EjectionDue {
            self.eject(endpoint, now, reason);
        }
    }

    /// Passes an endpoint over for a while, if enough others are left.
    fn eject(&self, endpoint: &Endpoint, now: Instant, reason: &str) {
        // Of two workers that would eject at once the second sees what the first did.
        let _alone = self.ejecting.lock().unwrap_or_else(PoisonError::into_inner);
        let all = self.endpoints();
        let ejected = all.iter().filter(|other| other.is_ejected(now)).count();
        if endpoint.is_ejected(now) || !can_be_spared(ejected, all.len()) {
            return;
        }
        let lasting = endpoint.note(|health| health.eject(self.passive, now));
        self.tally.ejections.add(1);
        let (upstream, endpoint) = (&*self.name, &**endpoint.label());
        warn!(upstream, endpoint, reason, for_s = lasting.as_secs_f64(), "endpoint ejected");
    }

    /// A probe passed, or failed for a reason.
    pub(super) fn probed(
        &self,
        endpoint: &Endpoint,
        thresholds: Thresholds,
        result: Result<(), String>,
    ) {
        let (passed, now) = (result.is_ok(), Instant::now());
        let verdict = endpoint.note(|health| health.probed(passed, thresholds, now));
        let (upstream, endpoint) = (&*self.name, &**endpoint.label());
        match (verdict, result) {
            (Some(Verdict::Up), _) => info!(upstream, endpoint, "endpoint is healthy"),
            (Some(Verdict::Down), Err(reason)) => {
                warn!(upstream, endpoint, reason, "endpoint is unhealthy");
            }
            _ => {}
        }
    }
}
