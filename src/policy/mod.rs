//! Who may come in: networks, origins, rates, caps, tokens and authorizer of one route, in that
//! order.
//!
//! Pure: the time, the client, the fields of its request and what others say of it are handed in.
//! A request goes through the stages [`Policy::enter`], [`Entered::identify`] and
//! [`Identified::admit`]. What comes out is an [`Admission`], which only this module can make and
//! without which nothing dials.

pub mod authorize;
mod banned;
mod concurrency;
pub mod keys;
mod origin;
mod rate;
mod subject;
pub mod token;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ipnet::IpNet;

use self::authorize::{Approval, Refusal};
pub use self::banned::{Banned, TooManyBanned};
use self::concurrency::{Cap, Caps, Permit};
pub use self::origin::OriginRefused;
use self::rate::Handshakes;
pub use self::subject::Subject;
use self::subject::{Place, Subjects};
use self::token::{Refused, TokenRule, Verified};
use crate::config::{Admittance, Authorize, Networks};
use crate::rate::{SharedBucket, SharedRates};

/// The policy of one route, with what it counts.
#[derive(Debug)]
pub struct Policy {
    clients: Networks,
    origin: crate::config::Origin,
    handshakes: Arc<Handshakes>,
    connections: Arc<Caps>,
    /// Where something is counted by subject.
    subjects: Option<Arc<Subjects>>,
    token: Option<TokenRule>,
    authorize: Option<Authorize>,
}

/// What a request is judged by.
#[derive(Clone, Copy, Debug)]
pub struct Applicant<'a> {
    pub client: IpAddr,
    /// Every `Origin` of the request, as it came.
    pub origins: &'a [&'a [u8]],
    /// The host, with its port if it has one, that the client called.
    pub host: &'a [u8],
    /// It is plain HTTP with a safe method (RFC 9110 §9.2.1), of which browsers tell no origin.
    pub only_reads: bool,
}

/// A request that may come as far as its client is concerned; who it is has not been asked.
#[derive(Debug)]
pub struct Entered<'p> {
    policy: &'p Policy,
    permit: Permit,
}

/// A request of which is known who it is, as far as it says so itself.
#[derive(Debug)]
pub struct Identified<'p> {
    policy: &'p Policy,
    permit: Permit,
    subject: Option<Subject>,
    place: Option<Place>,
    token: Option<Box<Verified>>,
}

/// Who comes, by the word of one who may say so.
#[derive(Debug, Default)]
pub struct Identity {
    pub subject: Option<Subject>,
    /// The token that says it.
    pub token: Option<Box<Verified>>,
}

impl From<Verified> for Identity {
    fn from(token: Verified) -> Identity {
        Identity { subject: token.subject().cloned(), token: Some(Box::new(token)) }
    }
}

/// The proof that a request was admitted, and its places under the caps.
#[derive(Debug)]
pub struct Admission {
    _permit: Permit,
    subject: Option<Subject>,
    place: Option<Place>,
    /// Until the tunnel begins.
    token: Option<Box<Verified>>,
}

impl Admission {
    pub fn subject(&self) -> Option<&Subject> {
        self.subject.as_ref()
    }

    /// A claim of the token that is a text, a number or a truth value, as text.
    pub fn claim(&self, name: &str) -> Option<String> {
        self.token.as_ref()?.claim(name)
    }

    /// Forgets what only the handshake needs, and says when the connection has to end.
    pub fn settle(&mut self) -> Option<SystemTime> {
        self.token.take().map(|token| token.expires())
    }

    /// What the subject has used up of its rates, on all its connections.
    pub fn rates(&self) -> Option<Arc<SharedRates>> {
        self.place.as_ref().map(Place::rates)
    }
}

/// Why a request is not admitted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("the client's network may not come here")]
    Network,
    #[error("{0}")]
    Origin(OriginRefused),
    #[error("too many handshakes of this client")]
    ClientRate { wait: Duration },
    #[error("too many handshakes in all")]
    TotalRate { wait: Duration },
    #[error("too many connections of this client")]
    ClientCap,
    #[error("too many connections of this subject")]
    SubjectCap,
    /// The route has a rule for tokens, and none was verified.
    #[error("the request has no token")]
    NoToken,
    #[error("the request has a token twice, and which one is meant cannot be told")]
    TwoTokens,
    #[error("{0}")]
    Token(Refused),
    /// The route counts by subject, and who comes is nobody.
    #[error("nothing names the subject that this route counts by")]
    NoSubject,
    #[error("too many connections in all")]
    TotalCap,
    #[error("the authorizer answered {}", .0.status)]
    Unauthorized(Refusal),
    #[error("the authorizer gave no verdict: {0}")]
    NoVerdict(String),
}

/// Whom rates and caps count as one: an IPv4 address, or the /64 that one IPv6 customer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct ClientKey(IpAddr);

impl From<IpAddr> for ClientKey {
    fn from(addr: IpAddr) -> ClientKey {
        ClientKey(match addr.to_canonical() {
            IpAddr::V4(addr) => addr.into(),
            IpAddr::V6(addr) => (addr.to_bits() >> 64 << 64).to_be_bytes().into(),
        })
    }
}

impl Policy {
    /// `before` is the policy of the same route that runs: what it counts is carried over, and a
    /// limiter whose rates have not changed too.
    pub fn new(admittance: &Admittance, before: Option<&Policy>) -> Policy {
        let handshakes =
            Handshakes::new(admittance.handshakes_per_client, admittance.handshakes_total);
        let unchanged = before.map(|before| &before.handshakes);
        let unchanged = unchanged.filter(|before| before.has_rates_of(&handshakes)).cloned();
        let subjects = before.and_then(|before| before.subjects.as_deref());
        Policy {
            clients: admittance.clients.clone(),
            origin: admittance.origin.clone(),
            handshakes: unchanged.unwrap_or_else(|| Arc::new(handshakes)),
            connections: Caps::new(
                admittance.connections_total,
                admittance.connections_per_client,
                before.map(|before| &*before.connections),
            ),
            subjects: admittance
                .counts_subjects()
                .then(|| Subjects::new(admittance.connections_per_subject, subjects)),
            token: admittance.token.as_ref().map(TokenRule::new),
            authorize: admittance.authorize.clone(),
        }
    }

    /// Who is asked about each request.
    pub fn authorizer(&self) -> Option<&Authorize> {
        self.authorize.as_ref()
    }

    /// Judges a request by its client: networks, origin, rates, caps. The first rule that it
    /// breaks is the one that is told.
    pub fn enter(&self, applicant: Applicant<'_>, now: Instant) -> Result<Entered<'_>, Denied> {
        if !admits_network(&self.clients, applicant.client) {
            return Err(Denied::Network);
        }
        let needs_none = applicant.only_reads && applicant.origins.is_empty();
        if !needs_none {
            origin::judge(&self.origin, applicant.origins, applicant.host)
                .map_err(Denied::Origin)?;
        }
        let key = ClientKey::from(applicant.client);
        self.handshakes.take(key, now)?;
        let permit = self.connections.take(key).map_err(|cap| match cap {
            Cap::Client => Denied::ClientCap,
            Cap::Total => Denied::TotalCap,
        })?;
        Ok(Entered { policy: self, permit })
    }

    /// Has what subjects have used up of a rate forgotten, since the rate is another.
    pub fn renew(&self, rate: impl Fn(&SharedRates) -> &SharedBucket) {
        if let Some(subjects) = &self.subjects {
            subjects.renew(rate);
        }
    }

    /// Connections that were admitted and live.
    pub fn connections(&self) -> usize {
        self.connections.live()
    }

    /// Clients and subjects that its limiters know at the moment.
    pub fn keys(&self) -> usize {
        let subjects = self.subjects.as_ref().map_or(0, |subjects| subjects.keys());
        self.handshakes.keys() + self.connections.keys() + subjects
    }

    fn place(&self, subject: Option<&Subject>, now: Instant) -> Result<Option<Place>, Denied> {
        let Some(subjects) = &self.subjects else { return Ok(None) };
        let subject = subject.ok_or(Denied::NoSubject)?;
        subjects.take(subject, now).map(Some).ok_or(Denied::SubjectCap)
    }
}

impl<'p> Entered<'p> {
    /// What its token must be, where the route asks for one.
    pub fn token_rule(&self) -> Option<&'p TokenRule> {
        self.policy.token.as_ref()
    }

    /// Judges it by who it is, and gives it a place under the cap of its subject, unless the
    /// authorizer may name another. Where the route asks for a token, nobody comes without one.
    pub fn identify(self, identity: Identity, now: Instant) -> Result<Identified<'p>, Denied> {
        let Entered { policy, permit } = self;
        let Identity { subject, token } = identity;
        if policy.token.is_some() && token.is_none() {
            return Err(Denied::NoToken);
        }
        let named_later = policy.authorize.as_ref().is_some_and(|rules| rules.subject.is_some());
        let place = if named_later { None } else { policy.place(subject.as_ref(), now)? };
        Ok(Identified { policy, permit, subject, place, token })
    }

    /// Admits it without asking who it is: a CORS preflight, which cannot say.
    pub fn anonymous(self) -> Admission {
        Admission { _permit: self.permit, subject: None, place: None, token: None }
    }
}

impl<'p> Identified<'p> {
    /// Who is to be asked before it is admitted.
    pub fn authorizer(&self) -> Option<&'p Authorize> {
        self.policy.authorizer()
    }

    /// Lets it in, with the approval of the authorizer where there is one.
    pub fn admit(self, approval: Option<Approval>, now: Instant) -> Result<Admission, Denied> {
        let Identified { policy, permit, subject, place, token } = self;
        if policy.authorize.is_some() && approval.is_none() {
            return Err(Denied::NoVerdict("it was not asked".to_owned()));
        }
        let subject = approval.and_then(|approval| approval.subject).or(subject);
        let place = match place {
            Some(place) => Some(place),
            None => policy.place(subject.as_ref(), now)?,
        };
        Ok(Admission { _permit: permit, subject, place, token })
    }
}

fn admits_network(networks: &Networks, client: IpAddr) -> bool {
    let client = client.to_canonical();
    let holds = |list: &[IpNet]| list.iter().any(|network| network.contains(&client));
    !holds(&networks.deny) && (networks.allow.is_empty() || holds(&networks.allow))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applicant(client: &str) -> Applicant<'static> {
        Applicant {
            client: client.parse().unwrap(),
            origins: &[],
            host: b"example.com",
            only_reads: false,
        }
    }

    fn networks(allow: &[&str], deny: &[&str]) -> Policy {
        let parse = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect();
        let clients = Networks { allow: parse(allow), deny: parse(deny) };
        Policy::new(&Admittance { clients, ..Admittance::default() }, None)
    }

    #[test]
    fn deny_goes_before_allow_and_no_allow_allows_all() {
        let now = Instant::now();
        let table = [
            (networks(&[], &[]), "192.0.2.1", true),
            (networks(&[], &["192.0.2.0/24"]), "192.0.2.1", false),
            (networks(&[], &["192.0.2.0/24"]), "::ffff:192.0.2.1", false),
            (networks(&["10.0.0.0/8"], &[]), "192.0.2.1", false),
            (networks(&["10.0.0.0/8"], &["10.1.0.0/16"]), "10.0.0.1", true),
            (networks(&["10.0.0.0/8"], &["10.1.0.0/16"]), "10.1.0.1", false),
            (networks(&["2001:db8::/32"], &[]), "2001:db8::1", true),
        ];
        for (policy, client, admitted) in table {
            let denied = policy.enter(applicant(client), now).err();
            assert_eq!(denied, (!admitted).then_some(Denied::Network), "{client}");
        }
    }

    #[test]
    fn a_missing_origin_concerns_no_request_that_only_reads() {
        let listed = crate::config::Origin::Listed { allow: Vec::new(), missing_allowed: false };
        let policy = Policy::new(&Admittance { origin: listed, ..Admittance::default() }, None);
        let now = Instant::now();
        let table: [(bool, &[&[u8]], bool); 4] = [
            (false, &[], false),
            (true, &[], true),
            (true, &[b"https://example.com"], false),
            (true, &[b"https://a.example", b"https://b.example"], false),
        ];
        for (only_reads, origins, admitted) in table {
            let applicant = Applicant { only_reads, origins, ..applicant("192.0.2.1") };
            assert_eq!(policy.enter(applicant, now).is_ok(), admitted, "{applicant:?}");
        }
    }

    #[test]
    fn a_preflight_need_not_say_who_it_is() {
        let admittance = Admittance { connections_per_subject: Some(1), ..Admittance::default() };
        let (policy, now) = (Policy::new(&admittance, None), Instant::now());
        let enter = || policy.enter(applicant("192.0.2.1"), now).unwrap();
        assert_eq!(enter().identify(Identity::default(), now).err(), Some(Denied::NoSubject));
        assert_eq!(enter().anonymous().subject(), None);
    }

    #[test]
    fn an_ipv6_customer_is_one_client() {
        let key = |addr: &str| ClientKey::from(addr.parse::<IpAddr>().unwrap());
        assert_eq!(key("2001:db8:1:2:3::4"), key("2001:db8:1:2:ffff::"));
        assert_ne!(key("2001:db8:1:2::"), key("2001:db8:1:3::"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
    }

    fn answered(policy: &Policy, user: Option<&str>, now: Instant) -> Result<Admission, Denied> {
        let identity = Identity { subject: Subject::new("of the token"), token: None };
        let entered = policy.enter(applicant("192.0.2.1"), now)?;
        let identified = entered.identify(identity, now)?;
        let mut answer = http::Response::builder().status(200);
        if let Some(user) = user {
            answer = answer.header("x-user", user);
        }
        let answer = answer.body(()).unwrap().into_parts().0;
        let rules = identified.authorizer().unwrap();
        identified.admit(Some(authorize::judge(rules, &answer)?), now)
    }

    #[test]
    fn whom_the_authorizer_names_is_the_subject_that_is_counted() {
        let now = Instant::now();
        let policy = Policy::new(
            &Admittance {
                connections_per_subject: Some(1),
                authorize: Some(Authorize {
                    url: http::Uri::from_static("http://127.0.0.1:7000/"),
                    timeout: Duration::from_secs(5),
                    copy_headers: Vec::new(),
                    subject: Some(http::HeaderName::from_static("x-user")),
                }),
                ..Admittance::default()
            },
            None,
        );
        let ada = answered(&policy, Some("ada"), now).unwrap();
        assert_eq!(ada.subject().map(Subject::as_str), Some("ada"));
        assert_eq!(answered(&policy, Some("ada"), now).err(), Some(Denied::SubjectCap));
        let other = answered(&policy, None, now).unwrap();
        assert_eq!(other.subject().map(Subject::as_str), Some("of the token"));
        let entered = policy.enter(applicant("192.0.2.1"), now).unwrap();
        let unasked = entered.identify(Identity::default(), now).unwrap().admit(None, now);
        assert!(matches!(unasked, Err(Denied::NoVerdict(_))));
    }

    #[test]
    fn where_a_token_is_asked_for_nobody_comes_without_one() {
        let now = Instant::now();
        let policy = Policy::new(
            &Admittance {
                token: Some(crate::config::Token {
                    from: Vec::new(),
                    algorithms: Vec::new(),
                    keys: crate::config::KeySource::SecretEnv("SECRET".to_owned()),
                    issuer: None,
                    audience: Vec::new(),
                    required: Vec::new(),
                    leeway: Duration::ZERO,
                    forward: Vec::new(),
                    strip: true,
                }),
                ..Admittance::default()
            },
            None,
        );
        let entered = policy.enter(applicant("192.0.2.1"), now).unwrap();
        let forged = Identity { subject: Subject::new("ada"), token: None };
        assert_eq!(entered.identify(forged, now).err(), Some(Denied::NoToken));
    }

    #[test]
    fn a_place_under_a_cap_is_free_again_when_the_admission_ends() {
        let now = Instant::now();
        let policy = Policy::new(
            &Admittance {
                connections_total: Some(2),
                connections_per_client: Some(1),
                ..Admittance::default()
            },
            None,
        );
        let first = policy.enter(applicant("192.0.2.1"), now).unwrap();
        assert_eq!(policy.enter(applicant("192.0.2.1"), now).err(), Some(Denied::ClientCap));
        let _second = policy.enter(applicant("192.0.2.2"), now).unwrap();
        assert_eq!(policy.enter(applicant("192.0.2.3"), now).err(), Some(Denied::TotalCap));
        drop(first);
        assert!(policy.enter(applicant("192.0.2.1"), now).is_ok());
    }
}
