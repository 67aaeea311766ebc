//! What is answered to whom.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use http::header::{ACCEPT, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, Request, StatusCode, request};
use hyper::body::Incoming;
use serde::Serialize;
use serde_json::{Value as Json, json};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::info;

use super::answer::{Answer, json, problem, text};
use super::exposition::{Exposition, Form};
use super::guard::{Deed, Guard, Reach};
use super::route::{Asked, Farewell, Page, Unasked, asked};
use super::{Process, Token};
use crate::control::{Command, ConnId, Kick, Listed, Listing, Whom};
use crate::control::{Request as Ask, Running};
use crate::ending::{Ending, Reason};
use crate::policy::Subject;
use crate::upstream::Standing;

/// How long the workers and the control thread are waited for; a reload may wait for files.
const PATIENCE: Duration = Duration::from_secs(30);

/// What all sockets answer by.
pub(super) struct Api {
    pub(super) process: Process,
    pub(super) exposition: Exposition,
    pub(super) token: Token,
}

/// Whom was asked did not answer.
struct Silent;

impl From<Silent> for Answer {
    fn from(_: Silent) -> Answer {
        problem(StatusCode::SERVICE_UNAVAILABLE, "the process does not answer; it may be ending")
    }
}

impl Api {
    pub(super) async fn answer(&self, guard: &Guard, request: Request<Incoming>) -> Answer {
        self.judged(guard, request.into_parts().0).await.unwrap_or_else(|refused| refused)
    }

    async fn judged(&self, guard: &Guard, head: request::Parts) -> Result<Answer, Answer> {
        let request::Parts { method, uri, headers, .. } = &head;
        let asked = asked(method, uri.path(), uri.query().unwrap_or_default());
        let is_probe = asked.as_ref().is_ok_and(Asked::is_probe);
        if guard.reach == Reach::Probes && !is_probe {
            return Err(Unasked::NotFound.into());
        }
        guard.judge(Deed::of(method), headers, || self.token.now())?;
        if has_body(headers) {
            let words = "nothing here takes a body: parameters stand in the query";
            return Err(problem(StatusCode::PAYLOAD_TOO_LARGE, words));
        }
        self.done(asked?, headers).await
    }

    async fn done(&self, asked: Asked, headers: &HeaderMap) -> Result<Answer, Answer> {
        Ok(match asked {
            Asked::Alive => text(StatusCode::OK, "text/plain", "alive\n".into()),
            Asked::Ready => self.readiness(),
            Asked::Metrics => {
                let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
                let form = Form::wanted(accept.unwrap_or_default());
                text(StatusCode::OK, form.content_type(), self.exposition.write(form))
            }
            Asked::Connections(page) => self.connections(page).await?,
            Asked::Disconnect { id, farewell } => self.disconnect(id, farewell).await?,
            Asked::Kick { subject, ban, farewell } => self.kick(subject, ban, farewell).await?,
            Asked::Upstreams => json(StatusCode::OK, &self.upstreams()),
            Asked::DrainEndpoint { upstream, endpoint, drained } => {
                self.drain_endpoint(&upstream, &endpoint, drained)
            }
            Asked::Config => json(StatusCode::OK, &shown(&self.ask(Ask::Show).await?)),
            Asked::Reload => self.reload().await?,
            Asked::Drain => {
                // Who waits for its end asks again and again.
                if !self.is_draining() {
                    info!("admin: drain");
                }
                let state = self.ask(Ask::Drain).await?;
                let connections = state.connections;
                json(StatusCode::ACCEPTED, &json!({ "draining": true, "connections": connections }))
            }
        })
    }

    /// Configuration is loaded and listeners are bound before anything is answered.
    fn readiness(&self) -> Answer {
        match self.is_draining() {
            true => text(StatusCode::SERVICE_UNAVAILABLE, "text/plain", "draining\n".into()),
            false => text(StatusCode::OK, "text/plain", "ready\n".into()),
        }
    }

    fn is_draining(&self) -> bool {
        self.process.tallies.draining.load(Ordering::Acquire)
    }

    /// Asks the control thread.
    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, Silent> {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.process.requests.send(ask(reply)).await.map_err(|_| Silent)?;
            answer.await.map_err(|_| Silent)
        };
        timeout(PATIENCE, asked).await.unwrap_or(Err(Silent))
    }

    /// Asks one worker; `None` where there is none of that number.
    async fn ask_worker<T>(
        &self,
        worker: usize,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<Option<T>, Silent> {
        let (reply, answer) = oneshot::channel();
        if !self.process.workers.tell(worker, command(reply)) {
            return Ok(None);
        }
        let answer = timeout(PATIENCE, answer).await.map_err(|_| Silent)?;
        answer.map(Some).map_err(|_| Silent)
    }

    async fn connections(&self, page: Page) -> Result<Answer, Silent> {
        let Page { after, limit, route, subject, endpoint } = page;
        let mut listing = Listing { from: 0, limit, route, subject, endpoint };
        let first = after.map_or(0, |after| usize::from(after.worker));
        listing.from = after.map_or(0, |after| after.slot as usize + 1);
        let mut listed: Vec<Listed> = Vec::new();
        for worker in first..self.process.workers.len() {
            let ask = |reply| Command::List(listing.clone(), reply);
            listed.extend(self.ask_worker(worker, ask).await?.unwrap_or_default());
            listing = Listing { from: 0, limit: limit - listed.len(), ..listing };
            if listing.limit == 0 {
                break;
            }
        }
        // A full page may have another behind it.
        let next = listed.last().filter(|_| listed.len() == limit).map(|last| last.id.to_string());
        let listed: Vec<Connection<'_>> = listed.iter().map(Connection::from).collect();
        Ok(json(StatusCode::OK, &json!({ "connections": listed, "next": next })))
    }

    async fn disconnect(&self, id: ConnId, farewell: Farewell) -> Result<Answer, Silent> {
        info!(%id, code = u16::from(farewell.code), reason = &*farewell.reason, "admin: kick");
        let kick = kick(Whom::Connection(id), farewell);
        let ask = |reply| Command::Kick(kick, reply);
        let kicked = self.ask_worker(usize::from(id.worker), ask).await?.unwrap_or_default();
        Ok(match kicked {
            0 => problem(StatusCode::NOT_FOUND, "there is no connection of this id"),
            kicked => json(StatusCode::OK, &json!({ "kicked": kicked })),
        })
    }

    /// Keeps the subject out first, so that it cannot come back between the walks.
    async fn kick(
        &self,
        subject: Subject,
        ban: Option<Duration>,
        farewell: Farewell,
    ) -> Result<Answer, Silent> {
        let ban_s = ban.map(|ban| ban.as_secs_f64());
        let (code, reason) = (u16::from(farewell.code), farewell.reason.clone());
        info!(subject = subject.as_str(), for_s = ban_s, code, reason = &*reason, "admin: kick");
        if let Some(ban) = ban {
            let now = Instant::now();
            if let Err(full) = self.process.banned.keep_out(subject.clone(), now + ban, now) {
                return Ok(problem(StatusCode::INSUFFICIENT_STORAGE, &full.to_string()));
            }
        }
        let kick = kick(Whom::Subject(subject.as_str().into()), farewell);
        let mut kicked = 0;
        for worker in 0..self.process.workers.len() {
            let ask = |reply| Command::Kick(kick.clone(), reply);
            kicked += self.ask_worker(worker, ask).await?.unwrap_or_default();
        }
        Ok(json(StatusCode::OK, &json!({ "kicked": kicked, "for_s": ban_s })))
    }

    fn upstreams(&self) -> Json {
        let now = Instant::now();
        let snapshot = self.process.published.load();
        let mut clusters: Vec<_> = snapshot.clusters().collect();
        clusters.sort_by_key(|cluster| cluster.name().clone());
        let clusters = clusters.into_iter().map(|cluster| {
            let endpoints = cluster.endpoints();
            let endpoints = endpoints.iter().map(|endpoint| {
                let standing = match endpoint.standing(now) {
                    Standing::Usable => "usable",
                    Standing::Unhealthy => "unhealthy",
                    Standing::Drained => "drained",
                };
                json!({
                    "address": &**endpoint.label(),
                    "id": &**endpoint.identity(),
                    "standing": standing,
                    "connections": endpoint.connections(),
                    "full": endpoint.is_full(),
                    "backup": endpoint.is_backup(),
                })
            });
            json!({ "name": &**cluster.name(), "endpoints": endpoints.collect::<Vec<_>>() })
        });
        json!({ "upstreams": clusters.collect::<Vec<_>>() })
    }

    fn drain_endpoint(&self, upstream: &str, named: &str, drained: bool) -> Answer {
        let snapshot = self.process.published.load();
        let Some(cluster) = snapshot.cluster(upstream) else {
            return problem(StatusCode::NOT_FOUND, "there is no such upstream");
        };
        let endpoints = cluster.endpoints();
        let is_meant = |label: &str, identity: &str| [label, identity].contains(&named);
        let mut meant = endpoints.iter().filter(|one| is_meant(one.label(), one.identity()));
        let Some(endpoint) = meant.next() else {
            return problem(StatusCode::NOT_FOUND, "the upstream has no such endpoint");
        };
        info!(upstream, endpoint = &**endpoint.label(), drained, "admin: drain of an endpoint");
        match drained {
            true => endpoint.drain(),
            false => endpoint.undrain(),
        }
        let connections = endpoint.connections();
        json(StatusCode::OK, &json!({ "drained": drained, "connections": connections }))
    }

    async fn reload(&self) -> Result<Answer, Silent> {
        info!("admin: reload");
        Ok(match self.ask(Ask::Reload).await? {
            Ok(generation) => {
                let (number, changed) = (generation.number, generation.changed);
                json(StatusCode::OK, &json!({ "generation": number, "changed": changed }))
            }
            Err(fault) => problem(StatusCode::UNPROCESSABLE_ENTITY, &fault),
        })
    }
}

fn has_body(headers: &HeaderMap) -> bool {
    let empty = |length: &http::HeaderValue| length.as_bytes() == b"0";
    headers.contains_key(TRANSFER_ENCODING)
        || headers.get(CONTENT_LENGTH).is_some_and(|length| !empty(length))
}

fn kick(whom: Whom, farewell: Farewell) -> Kick {
    let ending = Ending::from(Reason::Kicked).telling_client(farewell.code);
    Kick { whom, ending, words: farewell.reason }
}

/// A connection as it is shown.
#[derive(Serialize)]
struct Connection<'a> {
    id: String,
    client: String,
    subject: Option<&'a str>,
    route: &'a str,
    upstream: &'a str,
    endpoint: &'a str,
    age_s: f64,
}

impl<'a> From<&'a Listed> for Connection<'a> {
    fn from(listed: &'a Listed) -> Connection<'a> {
        Connection {
            id: listed.id.to_string(),
            client: listed.client.to_string(),
            subject: listed.subject.as_deref(),
            route: &listed.route,
            upstream: &listed.upstream,
            endpoint: &listed.endpoint,
            age_s: listed.began.elapsed().as_secs_f64(),
        }
    }
}

/// The configuration, without what may be secret.
fn shown(running: &Running) -> Json {
    let text = running.text.as_deref();
    let mut config = text.and_then(|text| toml::from_str::<Json>(text).ok()).unwrap_or_default();
    redact(&mut config);
    let failed: Option<Arc<str>> = running.failed.clone();
    json!({ "generation": running.generation, "config": config, "failed": failed.as_deref() })
}

/// Fields that are set to a value may be credentials, and so may the query of a URL.
fn redact(value: &mut Json) {
    match value {
        Json::Object(table) => {
            for (key, value) in table {
                match (key.as_str(), value) {
                    ("set", Json::Object(fields)) => {
                        fields.values_mut().for_each(|value| *value = "(redacted)".into());
                    }
                    ("url" | "jwks_url", Json::String(url)) => {
                        if let Some(query) = url.find('?') {
                            url.replace_range(query.., "?(redacted)");
                        }
                    }
                    (_, value) => redact(value),
                }
            }
        }
        Json::Array(values) => values.iter_mut().for_each(redact),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_secret_is_not_shown() {
        let text = r#"
[[route]]
name = "chat"
request_headers.set = { authorization = "Basic c2VjcmV0" }
authorize = { url = "http://127.0.0.1/auth?key=secret" }
"#;
        let running = Running { generation: 3, text: Some(text.into()), failed: None };
        let shown = shown(&running);
        assert_eq!(shown["generation"], 3);
        let route = &shown["config"]["route"][0];
        assert_eq!(route["name"], "chat");
        assert_eq!(route["request_headers"]["set"]["authorization"], "(redacted)");
        assert_eq!(route["authorize"]["url"], "http://127.0.0.1/auth?(redacted)");
    }
}
