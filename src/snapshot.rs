//! What a configuration comes to while it runs: routes ready to be matched, clusters ready to be
//! dialled.
//!
//! A Snapshot never changes; a reload makes the next one, of a [`Config`] and the Snapshot before
//! it, from which limiters, counts and the health of endpoints are carried over by name.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;

use crate::config::{
    self, Admittance, Compression, Config, HeaderEdits, OnRemoved, PlainHttp, Reject, Rewrite,
    Token, TokenSource, Utf8,
};
use crate::control::About;
use crate::ending::Reason;
use crate::keyring::{KeyringFault, Ring, Rings};
use crate::plan::Plan;
use crate::policy::Policy;
use crate::route::{Place, Table};
use crate::upstream::{Cluster, ClusterFault};

pub struct Snapshot {
    /// How manieth it is; the first is 1.
    pub generation: u64,
    pub routes: Table<Served>,
    named: HashMap<Arc<str>, Arc<Route>>,
    clusters: HashMap<Arc<str>, Arc<Cluster>>,
    pub trusted_proxies: Vec<IpNet>,
    /// The keys of tokens that issuers publish.
    pub rings: Rings,
    /// A page for plain HTTP where no route serves; the demo has one.
    pub page: Option<&'static str>,
}

/// What is at one place.
#[derive(Clone)]
pub enum Served {
    Route(Arc<Route>),
    /// Nothing but the way to the same place by https; the route's name.
    Redirect(Arc<str>),
}

/// An upstream that cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("upstream {upstream}: {fault}")]
pub struct UpstreamFault {
    upstream: Arc<str>,
    fault: ClusterFault,
}

/// One route, and the upstream behind it.
pub struct Route {
    pub name: Arc<str>,
    pub cluster: Arc<Cluster>,
    pub policy: Policy,
    pub token: Option<TokenAsked>,
    /// The last question to the authorizer was not answered.
    pub authorizer_fails: AtomicBool,
    /// Every field by which the upstream is told what others say of a client.
    pub claimed: Vec<HeaderName>,
    /// A refusal is told by a Close, for browsers, which cannot see a status.
    pub rejects_by_close: bool,
    pub rewrite: Rewrite,
    pub plain_http: PlainHttp,
    pub response_timeout: Duration,
    pub subprotocols: Option<Vec<String>>,
    pub compression: Compression,
    pub check_utf8: bool,
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
    pub plan: Arc<Plan>,
    pub on_removed: OnRemoved,
}

/// What a new Snapshot means to a tunnel that lives.
#[derive(Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes on by this plan.
    Adopts(Arc<Plan>),
    /// It goes on as it is: what it belonged to is gone, and said that it may.
    Stays,
    Ends(Reason),
}

/// Where a route's tokens are, and what they are verified by.
pub struct TokenAsked {
    pub from: Vec<TokenSource>,
    pub strip: bool,
    pub keys: Arc<Ring>,
    /// Every field by which its claims are told.
    pub forwarded: Vec<HeaderName>,
}

impl TokenAsked {
    fn new(
        token: &Token,
        rings: &mut Rings,
        before: Option<&Rings>,
    ) -> Result<TokenAsked, KeyringFault> {
        let keys = rings.of(token, before)?;
        let forwarded = token.forward.iter().map(|(_, header)| header.clone()).collect();
        Ok(TokenAsked { from: token.from.clone(), strip: token.strip, keys, forwarded })
    }
}

/// Why a configuration comes to nothing.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotFault {
    #[error(transparent)]
    Upstream(#[from] Box<UpstreamFault>),
    #[error("keys of tokens: {0}")]
    Keys(#[from] KeyringFault),
}

impl Snapshot {
    /// What `config` comes to beside what ran before. Reads the files that upstreams need, and the
    /// keys of tokens that files and the environment hold.
    pub fn new(
        config: &Config,
        before: Option<&Snapshot>,
        page: Option<&'static str>,
    ) -> Result<Snapshot, SnapshotFault> {
        let cluster = |upstream: &config::Upstream| {
            let before = before.and_then(|before| before.cluster(&upstream.name));
            let cluster = Cluster::new(upstream, before.map(|before| &**before)).map(Arc::new);
            let named = |fault| Box::new(UpstreamFault { upstream: upstream.name.clone(), fault });
            cluster.map_err(named)
        };
        let clusters: Vec<Arc<Cluster>> =
            config.upstreams.iter().map(cluster).collect::<Result<_, _>>()?;
        let rings_before = before.map(|before| &before.rings);
        let mut rings = Rings::beside(rings_before);
        let mut routes: Vec<(Place, Arc<Route>)> = Vec::with_capacity(config.routes.len());
        for route in &config.routes {
            let before = before.and_then(|before| before.route(&route.name));
            let cluster = clusters[route.upstream].clone();
            let token = route.admittance.token.as_ref();
            let token = token.map(|token| TokenAsked::new(token, &mut rings, rings_before));
            let token = token.transpose()?;
            let place = Place {
                host: route.host.clone(),
                path: route.path.clone(),
                listeners: route.listeners.clone(),
            };
            let route = Route::new(route, cluster, token, before.map(|before| &**before));
            routes.push((place, Arc::new(route)));
        }
        let served = |(place, route)| (place, Served::Route(route));
        let redirects = config.redirects.iter().map(redirect);
        Ok(Snapshot {
            generation: before.map_or(1, |before| before.generation + 1),
            named: routes.iter().map(|(_, route)| (route.name.clone(), route.clone())).collect(),
            clusters: clusters.into_iter().map(|one| (one.name().clone(), one)).collect(),
            routes: Table::new(routes.into_iter().map(served).chain(redirects)),
            trusted_proxies: config.server.trusted_proxies.clone(),
            rings,
            page,
        })
    }

    /// Begins what goes on beside connections: names are looked up, endpoints probed, keys
    /// fetched. On the control thread.
    pub fn begin(&self) {
        self.clusters().for_each(Cluster::watch);
        self.rings.feed();
    }

    /// Takes the place of `before`, whose state it has; what has to do with both is done now.
    pub fn replace(&self, before: &Snapshot) {
        before.clusters().for_each(|cluster| cluster.unwatch());
        self.begin();
        for route in self.named_routes() {
            if let Some(before) = before.route(&route.name) {
                route.renew_rates(&before.plan);
            }
        }
    }

    /// Whether this peer speaks for its clients.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.trusted_proxies.iter().any(|network| network.contains(&peer))
    }

    pub fn route(&self, name: &str) -> Option<&Arc<Route>> {
        self.named.get(name)
    }

    pub fn cluster(&self, name: &str) -> Option<&Arc<Cluster>> {
        self.clusters.get(name)
    }

    pub fn clusters(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.clusters.values()
    }

    pub fn named_routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.named.values()
    }

    /// What this means to a tunnel that has lived by `before`.
    pub fn fate(&self, about: &About, before: &Snapshot) -> Fate {
        if let Some(cluster) = before.cluster(&about.upstream)
            && cluster.on_removed() == OnRemoved::Close
            && self.removes_endpoint(cluster, &about.endpoint)
        {
            return Fate::Ends(Reason::EndpointRemoved);
        }
        match (self.route(&about.route), before.route(&about.route)) {
            (Some(route), _) => Fate::Adopts(route.plan.clone()),
            (None, Some(route)) if route.on_removed == OnRemoved::Close => {
                Fate::Ends(Reason::RouteRemoved)
            }
            (None, _) => Fate::Stays,
        }
    }

    /// Whether an endpoint that `cluster` had is no longer in the file.
    pub fn removes_endpoint(&self, cluster: &Cluster, identity: &str) -> bool {
        cluster.loses(identity, self.cluster(cluster.name()).map(|after| &**after))
    }
}

impl Route {
    fn new(
        route: &config::Route,
        cluster: Arc<Cluster>,
        token: Option<TokenAsked>,
        before: Option<&Route>,
    ) -> Route {
        Route {
            name: route.name.clone(),
            cluster,
            policy: Policy::new(&route.admittance, before.map(|before| &before.policy)),
            on_removed: route.on_removed,
            authorizer_fails: AtomicBool::new(false),
            claimed: claimed(token.as_ref(), &route.admittance),
            token,
            rejects_by_close: route.admittance.reject == Reject::Close,
            rewrite: route.rewrite.clone(),
            plain_http: route.plain_http,
            response_timeout: route.response_timeout,
            subprotocols: route.subprotocols.clone(),
            compression: route.compression,
            check_utf8: route.utf8 == Utf8::Check,
            request_headers: route.request_headers.clone(),
            response_headers: route.response_headers.clone(),
            plan: route.plan.clone(),
        }
    }

    /// What subjects have used up of rates that are others now is forgotten.
    fn renew_rates(&self, before: &Plan) {
        let [messages, bytes] = self.plan.quotas_differ(before);
        if messages {
            self.policy.renew(|rates| &rates.messages);
        }
        if bytes {
            self.policy.renew(|rates| &rates.bytes);
        }
    }
}

fn redirect(redirect: &config::Redirect) -> (Place, Served) {
    let place = Place {
        host: redirect.host.clone(),
        path: redirect.path.clone(),
        listeners: redirect.listeners.clone(),
    };
    (place, Served::Redirect(redirect.name.clone()))
}

fn claimed(token: Option<&TokenAsked>, admittance: &Admittance) -> Vec<HeaderName> {
    let forwarded = token.into_iter().flat_map(|token| &token.forwarded);
    let copied = admittance.authorize.iter().flat_map(|authorize| &authorize.copy_headers);
    forwarded.chain(copied).cloned().collect()
}
