//! Where keys come from: a file, the environment, or an issuer that publishes them.
//!
//! A [`Ring`] is what a route's tokens are held against. One of a file never changes. One of a URL
//! is shared by all routes that name it and lives: it is fetched on the control side, at
//! start, every few minutes, and when a worker meets a token of a key that it does not know. The
//! last good set is kept through every failure.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use std::{fs, io};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use crate::config::{KeySource, Token};
use crate::metrics::Fetches;
use crate::net::client::Client;
use crate::policy::keys::{KeySet, KeysFault, LARGEST};

/// Between two fetches that nobody asked for.
const PERIOD: Duration = Duration::from_secs(300);
/// Between two fetches that tokens of unknown keys ask for.
const LEAST_PERIOD: Duration = Duration::from_secs(30);
/// After the first failure in a row, and at most.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);
/// For one fetch.
const FETCH: Duration = Duration::from_secs(10);
/// For a handshake that waits for one.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a route has no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeyringFault {
    #[error("cannot read {}: {error}", path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("{}: {fault}", path.display())]
    File { path: PathBuf, fault: KeysFault },
    #[error("the environment has no variable {0}")]
    NoVariable(String),
    #[error("the environment's {name}: {fault}")]
    Variable { name: String, fault: KeysFault },
}

impl KeyringFault {
    /// The file that is to blame, if one is.
    pub fn path(&self) -> Option<&Path> {
        match self {
            KeyringFault::Unreadable { path, .. } | KeyringFault::File { path, .. } => Some(path),
            KeyringFault::NoVariable(_) | KeyringFault::Variable { .. } => None,
        }
    }

    /// The environment variable that is to blame, if one is.
    pub fn variable(&self) -> Option<&str> {
        match self {
            KeyringFault::NoVariable(name) | KeyringFault::Variable { name, .. } => Some(name),
            KeyringFault::Unreadable { .. } | KeyringFault::File { .. } => None,
        }
    }
}

/// The keys of a route, as they are now.
#[derive(Debug)]
pub struct Ring {
    keys: ArcSwapOption<KeySet>,
    issuer: Option<Issuer>,
}

/// What a ring of a URL has beside its keys.
#[derive(Debug)]
struct Issuer {
    url: Uri,
    /// It is being fetched.
    fed: AtomicBool,
    demand: Mutex<Demand>,
    /// Grows when a fetch is asked for.
    asked: watch::Sender<u64>,
    /// The last fetch that has come to its end.
    ended: watch::Sender<u64>,
}

/// Fetches are counted from 1.
#[derive(Debug, Default)]
struct Demand {
    /// When a token of an unknown key last asked for one, and for which.
    last: Option<Instant>,
    wanted: u64,
    begun: u64,
}

/// Reads the keys that a file or the environment holds; `None` where an issuer publishes them.
pub fn read(token: &Token) -> Result<Option<KeySet>, KeyringFault> {
    let fits = |keys: Result<KeySet, KeysFault>| keys?.fits(&token.algorithms);
    let of_file = |path: &Path, parse: fn(&[u8]) -> Result<KeySet, KeysFault>| {
        let unreadable = |error| KeyringFault::Unreadable { path: path.to_owned(), error };
        let bytes = fs::read(path).map_err(unreadable)?;
        let faulty = |fault| KeyringFault::File { path: path.to_owned(), fault };
        fits(parse(&bytes)).map(Some).map_err(faulty)
    };
    match &token.keys {
        KeySource::JwksUrl(_) => Ok(None),
        KeySource::JwksFile(path) => of_file(path, KeySet::of_jwks),
        KeySource::PublicKeyFile(path) => of_file(path, KeySet::of_pem),
        KeySource::SecretFile(path) => of_file(path, KeySet::of_secret),
        KeySource::SecretEnv(name) => {
            let secret = std::env::var_os(name).ok_or(KeyringFault::NoVariable(name.clone()))?;
            let faulty = |fault| KeyringFault::Variable { name: name.clone(), fault };
            fits(KeySet::of_secret(secret.as_encoded_bytes())).map(Some).map_err(faulty)
        }
    }
}

/// The rings of a configuration that live: those of one URL are one.
#[derive(Debug, Default)]
pub struct Rings {
    living: Vec<Arc<Ring>>,
    fetches: Arc<Fetches>,
}

impl Rings {
    /// None yet, and counts that go on.
    pub fn beside(before: Option<&Rings>) -> Rings {
        let fetches = before.map(|before| before.fetches.clone());
        Rings { living: Vec::new(), fetches: fetches.unwrap_or_default() }
    }

    /// How fetches came out, also before the last reload.
    pub fn fetches(&self) -> &Fetches {
        &self.fetches
    }

    /// The ring of a route's rule; one of a URL that was there before is the same. Reads what a
    /// file or the environment holds.
    pub fn of(&mut self, token: &Token, before: Option<&Rings>) -> Result<Arc<Ring>, KeyringFault> {
        let KeySource::JwksUrl(url) = &token.keys else {
            let keys = ArcSwapOption::new(read(token)?.map(Arc::new));
            return Ok(Arc::new(Ring { keys, issuer: None }));
        };
        let same = |ring: &&Arc<Ring>| ring.url() == Some(url);
        if let Some(shared) = self.living.iter().find(same) {
            return Ok(shared.clone());
        }
        let known = before.and_then(|before| before.living.iter().find(same).cloned());
        let ring = known.unwrap_or_else(|| Arc::new(Ring::living(url.clone())));
        self.living.push(ring.clone());
        Ok(ring)
    }

    /// Has the keys of those that are new fetched, for as long as somebody holds them. For the
    /// control thread.
    pub fn feed(&self) {
        for ring in &self.living {
            let issuer = ring.issuer.as_ref();
            if issuer.is_some_and(|issuer| !issuer.fed.swap(true, Ordering::Relaxed)) {
                tokio::spawn(feed(Arc::downgrade(ring), Client::new(), self.fetches.clone()));
            }
        }
    }
}

impl Ring {
    fn living(url: Uri) -> Ring {
        let issuer = Issuer {
            url,
            fed: AtomicBool::new(false),
            demand: Mutex::default(),
            asked: watch::Sender::new(0),
            ended: watch::Sender::new(0),
        };
        Ring { keys: ArcSwapOption::empty(), issuer: Some(issuer) }
    }

    fn url(&self) -> Option<&Uri> {
        self.issuer.as_ref().map(|issuer| &issuer.url)
    }

    /// The keys; `None` before the first fetch.
    pub fn keys(&self) -> Option<Arc<KeySet>> {
        self.keys.load_full()
    }

    /// The keys once more after a token named one that is not among them: fetched anew, if that
    /// has not been done for the like in the last 30 s. Who comes while that is going on waits
    /// for it too, though not for long.
    pub async fn look_again(&self) -> Option<Arc<KeySet>> {
        if let Some(issuer) = &self.issuer {
            let mut ended = issuer.ended.subscribe();
            let wanted = issuer.ask(Instant::now());
            let _ = timeout(PATIENCE, ended.wait_for(|ended| *ended >= wanted)).await;
        }
        self.keys()
    }
}

impl Issuer {
    /// Asks for a fetch that begins from now on, and says which one to wait for: within 30 s the
    /// one that was asked for before.
    fn ask(&self, now: Instant) -> u64 {
        let mut demand = self.demand();
        let soon = |last: Instant| now.saturating_duration_since(last) < LEAST_PERIOD;
        if !demand.last.is_some_and(soon) {
            demand.last = Some(now);
            demand.wanted = demand.begun + 1;
            self.asked.send_modify(|count| *count += 1);
        }
        demand.wanted
    }

    fn demand(&self) -> MutexGuard<'_, Demand> {
        self.demand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self) -> u64 {
        let mut demand = self.demand();
        demand.begun += 1;
        demand.begun
    }
}

/// Fetches the keys of a ring for as long as somebody holds it.
async fn feed(ring: Weak<Ring>, client: Client, tally: Arc<Fetches>) {
    let asked = |ring: Arc<Ring>| Some(ring.issuer.as_ref()?.asked.subscribe());
    let Some(mut asked) = ring.upgrade().and_then(asked) else { return };
    let (mut last, mut retry) = (Bytes::new(), FIRST_RETRY);
    while let Some(held) = ring.upgrade() {
        let done = held.fetch(&client, &mut last, &tally).await;
        drop(held);
        let jitter = rand::random_range(0.9..1.1);
        let pause = if done { PERIOD.mul_f64(jitter) } else { retry };
        retry = if done { FIRST_RETRY } else { LAST_RETRY.min(retry * 2) };
        tokio::select! {
            () = sleep(pause) => {}
            changed = asked.changed() => if changed.is_err() { return },
        }
    }
}

impl Ring {
    /// Fetches the keys once; `last` is what was fetched before. A failure changes nothing.
    async fn fetch(&self, client: &Client, last: &mut Bytes, tally: &Fetches) -> bool {
        let Some(issuer) = &self.issuer else { return false };
        let count = issuer.begin();
        let fetched = published(client, &issuer.url).await;
        let done = self.take(fetched, &shown(&issuer.url), last, tally);
        issuer.ended.send_replace(count);
        done
    }

    /// Takes what was fetched for its own, if it is good.
    fn take(
        &self,
        fetched: Result<Bytes, String>,
        url: &str,
        last: &mut Bytes,
        tally: &Fetches,
    ) -> bool {
        if fetched.as_ref().is_ok_and(|body| body == last) {
            tally.unchanged.add(1);
            debug!(url, "keys unchanged");
            return true;
        }
        let parsed = fetched.and_then(|body| match KeySet::of_jwks(&body) {
            Ok(keys) => Ok((body, Arc::new(keys))),
            Err(fault) => Err(fault.to_string()),
        });
        match parsed {
            Ok((body, keys)) => {
                *last = body;
                self.keys.store(Some(keys.clone()));
                tally.ok.add(1);
                let (left_out, why) = keys.left_out().cloned().unzip();
                info!(url, keys = keys.len(), left_out, why, "keys fetched");
                true
            }
            Err(error) => {
                tally.failed.add(1);
                let kept = self.keys().map_or(0, |keys| keys.len());
                warn!(url, error, kept, "keys not fetched");
                false
            }
        }
    }
}

/// What the issuer of a rule publishes now, fit to verify by.
pub async fn fetch_once(token: &Token) -> Result<KeySet, String> {
    let KeySource::JwksUrl(url) = &token.keys else { return Err("no URL".to_owned()) };
    let body = published(&Client::new(), url).await;
    let body = body.map_err(|error| format!("{}: {error}", shown(url)))?;
    KeySet::of_jwks(&body).map_err(|fault| format!("{}: {fault}", shown(url)))
}

/// What an issuer publishes now.
async fn published(client: &Client, url: &Uri) -> Result<Bytes, String> {
    let request =
        Request::get(url).header(header::ACCEPT, "application/jwk-set+json, application/json");
    let request = request.body(()).map_err(|error| error.to_string())?;
    let answer = client.fetch(request, LARGEST, FETCH).await.map_err(|fault| fault.to_string())?;
    match answer.status() {
        StatusCode::OK => Ok(answer.into_body()),
        status if status.is_redirection() => {
            Err(format!("it answered {status}, and redirects are not followed"))
        }
        status => Err(format!("it answered {status}")),
    }
}

/// A URL as a log may have it: without its query, which may hold a key of another kind.
fn shown(url: &Uri) -> String {
    let authority = url.authority().map_or("", |authority| authority.as_str());
    format!("{}://{authority}{}", url.scheme_str().unwrap_or_default(), url.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_waits_for_a_fetch_that_begins_later_and_all_for_one() {
        let ring = Ring::living(Uri::from_static("http://127.0.0.1/"));
        let issuer = ring.issuer.as_ref().expect("it has a URL");
        let asked = issuer.asked.subscribe();
        let now = Instant::now();
        issuer.begin();
        assert_eq!(issuer.ask(now), 2, "the one that is going on may bring old keys");
        assert_eq!(issuer.ask(now + LEAST_PERIOD / 2), 2);
        issuer.begin();
        assert_eq!(issuer.ask(now + LEAST_PERIOD / 2), 2);
        assert_eq!(*asked.borrow(), 1);
        assert_eq!(issuer.ask(now + LEAST_PERIOD), 3);
        assert_eq!(*asked.borrow(), 2);
    }

    #[test]
    fn rings_of_one_url_are_one_and_outlive_a_reload() {
        let token = |keys| Token {
            from: Vec::new(),
            algorithms: Vec::new(),
            keys,
            issuer: None,
            audience: Vec::new(),
            required: Vec::new(),
            leeway: Duration::ZERO,
            forward: Vec::new(),
            strip: true,
        };
        let url = |url| token(KeySource::JwksUrl(Uri::from_static(url)));
        let mut rings = Rings::beside(None);
        let one = rings.of(&url("http://127.0.0.1/a"), None).expect("a ring");
        let same = rings.of(&url("http://127.0.0.1/a"), None).expect("a ring");
        let other = rings.of(&url("http://127.0.0.1/b"), None).expect("a ring");
        assert!(Arc::ptr_eq(&one, &same) && !Arc::ptr_eq(&one, &other));
        let mut next = Rings::beside(Some(&rings));
        let kept = next.of(&url("http://127.0.0.1/a"), Some(&rings)).expect("a ring");
        assert!(Arc::ptr_eq(&one, &kept));
    }

    #[test]
    fn a_log_has_no_query() {
        let url = Uri::from_static("https://issuer.example.com:444/keys?secret=1");
        assert_eq!(shown(&url), "https://issuer.example.com:444/keys");
    }
}
