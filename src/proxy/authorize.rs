//! Asking the authorizer whether a client may come, and again whether it may stay.
//!
//! It is asked as nginx's auth_request asks. At the handshake nothing but its word lets a client
//! in; afterwards nothing but its word sends one away: what goes wrong with the asking changes
//! neither.

use std::future::pending;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::Worker;
use crate::config::Authorize;
use crate::control::{Mailbox, Order};
use crate::ending::{Ending, Reason};
use crate::net::client::Client;
use crate::plan::Plan;
use crate::policy::Denied;
use crate::policy::authorize::{Approval, judge};
use crate::snapshot::Route;

/// Sockets of one worker for which the authorizer is asked again at the same time.
const RECHECKS: usize = 32;

/// Behind a fault it is asked sooner, but not at once.
const RETRY: Duration = Duration::from_secs(1);

/// What a worker asks with.
pub(super) struct Asking {
    client: Client,
    rechecks: Semaphore,
}

impl Default for Asking {
    fn default() -> Asking {
        Asking { client: Client::new(), rechecks: Semaphore::new(RECHECKS) }
    }
}

/// What the authorizer is asked, kept to be asked again: the fields in one piece of memory, since
/// those of a request are parts of a far larger one.
pub(super) struct Question(Box<[u8]>);

impl Question {
    pub(super) fn new(fields: &HeaderMap) -> Question {
        let mut kept = Vec::new();
        for (name, value) in fields {
            kept.extend_from_slice(name.as_str().as_bytes());
            kept.push(b':');
            kept.extend_from_slice(value.as_bytes());
            kept.push(b'\n'); // No value has one.
        }
        Question(kept.into())
    }

    fn fields(&self) -> HeaderMap {
        let lines = self.0.split(|byte| *byte == b'\n');
        let field = |line: &[u8]| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            let name = HeaderName::from_bytes(&line[..colon]).ok()?;
            Some((name, HeaderValue::from_bytes(&line[colon + 1..]).ok()?))
        };
        let mut fields = HeaderMap::new();
        for (name, value) in lines.filter_map(field) {
            fields.append(name, value);
        }
        fields
    }
}

/// Asks once.
pub(super) async fn ask(
    worker: &Worker,
    route: &Route,
    rules: &Authorize,
    fields: HeaderMap,
) -> Result<Approval, Denied> {
    let mut request = Request::new(());
    *request.uri_mut() = rules.url.clone();
    *request.headers_mut() = fields;
    let verdict = match worker.asking.client.ask(request, rules.timeout).await {
        Ok(answer) => judge(rules, &answer),
        Err(fault) => Err(Denied::NoVerdict(fault.to_string())),
    };
    let fault = match &verdict {
        Err(Denied::NoVerdict(fault)) => Some(&**fault),
        _ => None,
    };
    note(worker, route, rules, fault);
    verdict
}

/// Counts an answer or its fault; the log has a line when the one follows the other.
fn note(worker: &Worker, route: &Route, rules: &Authorize, fault: Option<&str>) {
    let tally = worker.tally.route(&route.name);
    let count = if fault.is_none() { &tally.verdicts } else { &tally.no_verdicts };
    count.add(1);
    let failed = route.authorizer_fails.swap(fault.is_some(), Ordering::Relaxed);
    let (route, authorizer) = (&*route.name, rules.url.authority().map(Authority::as_str));
    match fault {
        Some(fault) if !failed => warn!(route, authorizer, fault, "the authorizer fails"),
        None if failed => info!(route, authorizer, "the authorizer answers again"),
        _ => {}
    }
}

/// A live socket that the authorizer is asked about again.
pub(super) struct Recheck {
    pub(super) worker: Rc<Worker>,
    pub(super) route: Arc<Route>,
    pub(super) question: Question,
    pub(super) mailbox: Rc<Mailbox>,
}

/// Keeps a recheck going, by the newest plan; it ends when this is dropped.
pub(super) struct Rechecking(watch::Sender<Arc<Plan>>);

impl Rechecking {
    /// Goes on by this plan.
    #[inline]
    pub(super) fn follow(&self, plan: &Arc<Plan>) {
        let is_new = !Arc::ptr_eq(&self.0.borrow(), plan);
        if is_new {
            self.0.send_replace(plan.clone());
        }
    }
}

/// What the pause before a question follows.
#[derive(Clone, Copy)]
enum Since {
    Admitted,
    Answered,
    Failed,
}

impl Recheck {
    pub(super) fn begin(self) -> Rechecking {
        let (plan, plans) = watch::channel(self.route.plan.clone());
        let mut dropped = plans.clone();
        tokio::task::spawn_local(async move {
            tokio::select! {
                () = self.run(plans) => {}
                () = async { while dropped.changed().await.is_ok() {} } => {}
            }
        });
        Rechecking(plan)
    }

    /// Asks again and again, until it is refused.
    async fn run(self, mut plans: watch::Receiver<Arc<Plan>>) {
        let mut since = Since::Admitted;
        loop {
            wait(since, &mut plans).await;
            // Only a question that is being asked takes its memory.
            since = match Box::pin(self.ask()).await {
                Ok(_) => Since::Answered,
                Err(Denied::Unauthorized(_)) => break,
                Err(_) => Since::Failed,
            };
        }
        let ending = Ending::from(Reason::AuthorizationRevoked);
        let code = plans.borrow().unauthorized_code;
        self.mailbox.post(Order::End(ending.telling_client(code)));
    }

    async fn ask(&self) -> Result<Approval, Denied> {
        let Recheck { worker, route, question, .. } = self;
        let rules = route.policy.authorizer().expect("only an authorizer's question is kept");
        let _turn = worker.asking.rechecks.acquire().await;
        ask(worker, route, rules, question.fields()).await
    }
}

/// Waits for the next question's time; a new plan moves it.
async fn wait(since: Since, plans: &mut watch::Receiver<Arc<Plan>>) {
    let (begin, random) = (Instant::now(), rand::random());
    loop {
        let interval = plans.borrow_and_update().recheck;
        let due = interval.map(|interval| begin + pause(interval, since, random));
        let due = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = due => return,
            Ok(()) = plans.changed() => {}
        }
    }
}

/// Never over the interval, and for no two sockets the same. The first comes at any time within
/// it, since many sockets may have come at once. `random` is in 0..1.
fn pause(interval: Duration, since: Since, random: f64) -> Duration {
    let shortened = |whole: Duration| whole.mul_f64(1.0 - random / 5.0);
    match since {
        Since::Admitted => interval.mul_f64(random),
        Since::Answered => shortened(interval),
        Since::Failed => shortened((interval / 10).max(RETRY).min(interval)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_kept_as_it_was() {
        let mut fields = HeaderMap::new();
        for (name, value) in [("cookie", "a=1: b"), ("cookie", ""), ("x-user", "J\u{fc}rgen")] {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            fields.append(HeaderName::from_static(name), value);
        }
        assert_eq!(Question::new(&fields).fields(), fields);
        assert_eq!(Question::new(&HeaderMap::new()).fields(), HeaderMap::new());
    }

    #[tokio::test]
    async fn a_new_plan_moves_a_question_that_is_waited_for() {
        let every = |recheck| Arc::new(Plan { recheck, ..Plan::default() });
        let (plan, mut plans) = watch::channel(every(None));
        let rechecking = Rechecking(plan);
        let waiting = wait(Since::Answered, &mut plans);
        let moving = async {
            for recheck in [Some(Duration::from_secs(3600)), None, Some(Duration::from_millis(1))] {
                tokio::task::yield_now().await;
                rechecking.follow(&every(recheck));
            }
        };
        let both = async { tokio::join!(waiting, moving) };
        tokio::time::timeout(Duration::from_secs(20), both).await.expect("it comes");
    }

    #[test]
    fn a_pause_is_never_over_its_interval_and_shorter_behind_a_fault() {
        let seconds = Duration::from_secs;
        for random in [0.0, 0.3, 0.999] {
            assert!(pause(seconds(60), Since::Admitted, random) <= seconds(60));
            let answered = pause(seconds(60), Since::Answered, random);
            assert!((seconds(48)..=seconds(60)).contains(&answered));
            let failed = pause(seconds(60), Since::Failed, random);
            assert!((seconds(4)..=seconds(6)).contains(&failed));
            assert!(pause(seconds(3), Since::Failed, random) <= seconds(1));
            let short = Duration::from_millis(100);
            assert!(pause(short, Since::Failed, random) <= short);
        }
    }
}
