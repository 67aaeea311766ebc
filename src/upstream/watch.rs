//! What goes on beside an upstream's connections, on the control thread: its name is looked up,
//! its endpoints are probed.
//!
//! The tasks end with their cluster, which they know only weakly.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{info, warn};

use super::health::{Health, Thresholds};
use super::resolve::{Change, Found};
use super::{Cluster, Endpoint, probe};
use crate::config;
use crate::metrics::Renewed;
use crate::net::resolve::{Answer, Name};

/// How long a look-up is waited for. One that takes longer goes on, and serves the next.
const LOOK_UP: Duration = Duration::from_secs(5);
/// How soon a look-up that failed is tried again; twice as long each time, up to `refresh`.
const FIRST_RETRY: Duration = Duration::from_millis(250);
/// The first probes come within this time, so that an endpoint that is down is found out soon.
const FIRST_PROBES: Duration = Duration::from_secs(1);
/// Addresses that one line of the log names.
const NAMED: usize = 8;

impl Cluster {
    /// Begins to look its name up and to probe its endpoints, on the runtime that this is called
    /// on, for as long as the cluster lives.
    pub fn watch(self: &Arc<Cluster>) {
        if let Some(resolve) = &self.resolve {
            let name = Name::new(&resolve.name.host, resolve.name.port);
            let found = Found::of(self.found());
            self.spawn(keep_resolved(Arc::downgrade(self), name, resolve.refresh, found));
        }
        match &self.health {
            Some(_) => self.probe_the_unprobed(),
            // Nobody else would ever take back what a probe said.
            None => self.endpoints().iter().for_each(|it| it.note(Health::forget_probes)),
        }
    }

    /// Ends that: another cluster has taken its place, and tunnels may keep this one for long.
    pub fn unwatch(&self) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }

    fn probe_the_unprobed(self: &Arc<Cluster>) {
        let Some(health) = &self.health else { return };
        for endpoint in self.endpoints().iter().filter(|endpoint| endpoint.begin_probing()) {
            self.spawn(keep_probed(Arc::downgrade(self), endpoint.clone(), health.clone()));
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    fn still_has(&self, endpoint: &Arc<Endpoint>) -> bool {
        self.endpoints().iter().any(|present| Arc::ptr_eq(present, endpoint))
    }

    /// Puts what an answer brought beside the endpoints that are listed.
    fn take_answer(self: &Arc<Cluster>, host: &Arc<str>, answer: &[SocketAddr], found: &mut Found) {
        let listed = |address: &_| self.listed.iter().any(|endpoint| endpoint.is_at(*address));
        let news = answer.iter().copied().filter(|address| !listed(address));
        let change = found.update(news, |address| self.endpoint_of_name(host, address, &[]));
        let Some(change) = change else {
            return self.tally.resolved(Renewed::Unchanged).add(1);
        };
        self.tally.resolved(Renewed::Ok).add(1);
        self.replace(self.listed.iter().chain(found.endpoints()).cloned().collect());
        self.probe_the_unprobed();
        let Change { added, removed } = &change;
        info!(
            upstream = &*self.name,
            name = &**host,
            endpoints = self.endpoints().len(),
            added = some_of(added),
            removed = some_of(removed),
            "addresses changed"
        );
    }
}

fn some_of(addresses: &[SocketAddr]) -> String {
    let named: Vec<String> = addresses.iter().take(NAMED).map(ToString::to_string).collect();
    match addresses.len().saturating_sub(NAMED) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

/// The tasks of one cluster; they end when it is dropped.
pub(super) type Tasks = JoinSet<()>;

/// Looks a name up again and again. What fails changes nothing.
async fn keep_resolved(cluster: Weak<Cluster>, name: Name, refresh: Duration, mut found: Found) {
    let host: Arc<str> = name.host().into();
    let mut failures = 0;
    loop {
        let answer = look_up(&name).await;
        let Some(cluster) = cluster.upgrade() else { return };
        let upstream = &*cluster.name;
        let pause = match answer {
            Ok(addresses) => {
                if std::mem::take(&mut failures) > 0 {
                    info!(upstream, name = &*host, "the name can be resolved again");
                }
                cluster.take_answer(&host, &addresses, &mut found);
                refresh
            }
            Err(reason) => {
                cluster.tally.resolved(Renewed::Failed).add(1);
                if failures == 0 {
                    let endpoints = cluster.endpoints().len();
                    warn!(
                        upstream,
                        name = &*host,
                        reason = &*reason,
                        endpoints,
                        "the name cannot be resolved; endpoints stay as they are"
                    );
                }
                let pause = FIRST_RETRY.saturating_mul(1 << failures.min(20));
                failures += 1;
                pause.min(refresh)
            }
        };
        drop(cluster);
        sleep(jittered(pause)).await;
    }
}

/// An answer without an address is none.
async fn look_up(name: &Name) -> Answer {
    match timeout(LOOK_UP, name.addresses()).await {
        Ok(Ok(addresses)) if addresses.is_empty() => Err("the name has no address".into()),
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {LOOK_UP:?}").into()),
    }
}

/// Probes an endpoint again and again, for as long as its cluster has it.
async fn keep_probed(cluster: Weak<Cluster>, endpoint: Arc<Endpoint>, health: config::Health) {
    let config::Health { interval, unhealthy_after, healthy_after, .. } = health;
    let thresholds = Thresholds { unhealthy_after, healthy_after };
    sleep(interval.min(FIRST_PROBES).mul_f64(rand::random())).await;
    loop {
        let next = Instant::now() + jittered(interval);
        let Some(cluster) = cluster.upgrade() else { return };
        if !cluster.still_has(&endpoint) {
            endpoint.end_probing();
            return;
        }
        let result = probe::probe(&cluster, &endpoint, &health).await;
        cluster.probed(&endpoint, thresholds, result);
        drop(cluster);
        sleep_until(next).await;
    }
}

/// From nine tenths to eleven tenths, so that many replicas do not do the same at once.
fn jittered(time: Duration) -> Duration {
    time.mul_f64(0.9 + 0.2 * rand::random::<f64>())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio::net::TcpListener;
    use tokio::runtime::Handle;

    use super::*;
    use crate::config::Config;

    fn cluster(lines: &str) -> Arc<Cluster> {
        let text = format!(
            "[[listener]]\nlisten = \"127.0.0.1:0\"\n[[upstream]]\nname = \"app\"\n{lines}\n\
             [[route]]\nname = \"app\"\nupstream = \"app\"\n"
        );
        let parsed = Config::parse(&text, Path::new("wsgate.toml")).expect("a good file");
        match Cluster::new(&parsed.config.upstreams[0], None) {
            Ok(cluster) => Arc::new(cluster),
            Err(fault) => panic!("{fault}"),
        }
    }

    fn addresses(cluster: &Cluster) -> Vec<String> {
        cluster.endpoints().iter().map(|endpoint| endpoint.label().to_string()).collect()
    }

    #[tokio::test]
    async fn what_goes_on_beside_a_cluster_ends_with_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let cluster = cluster(&format!(
            "endpoints = [\"{address}\"]\nhealth = {{ interval = \"1h\" }}\n\
             resolve = {{ name = \"localhost:9\", refresh = \"1h\" }}"
        ));
        cluster.watch();
        listener.accept().await.expect("a probe");
        let alive = || Handle::current().metrics().num_alive_tasks();
        assert!(alive() >= 2);
        drop(cluster);
        timeout(Duration::from_secs(20), async {
            while alive() > 0 {
                sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .expect("no task is left");
    }

    #[tokio::test]
    async fn an_answer_stands_beside_what_is_listed_and_each_endpoint_is_probed_once() {
        let cluster = cluster(
            "endpoints = [\"10.0.0.1:9001\", \"unix:/run/a.sock\"]\n\
             health = { interval = \"1h\" }\nresolve = { name = \"chat:9001\" }",
        );
        cluster.probe_the_unprobed();
        let (host, mut found) = ("chat".into(), Found::default());
        let tasks = || cluster.tasks.lock().expect("the tasks").len();
        let mut take = |last: &[u8]| {
            let answer: Vec<SocketAddr> =
                last.iter().map(|last| ([10, 0, 0, *last], 9001).into()).collect();
            cluster.take_answer(&host, &answer, &mut found);
            (addresses(&cluster).split_off(2), tasks())
        };
        assert_eq!(take(&[1, 2]), (vec!["10.0.0.2:9001".to_owned()], 3));
        assert_eq!(take(&[2]).1, 3);
        let both = vec!["10.0.0.2:9001".to_owned(), "10.0.0.3:9001".to_owned()];
        assert_eq!(take(&[3, 2]), (both, 4));
        assert_eq!(addresses(&cluster)[..2], ["10.0.0.1:9001", "unix:/run/a.sock"]);
        assert_eq!(take(&[1]).0, Vec::<String>::new(), "that one is listed");
    }
}
