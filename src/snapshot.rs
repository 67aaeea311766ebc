//! What a configuration comes to while it runs: routes ready to be matched, clusters ready to be
//! dialled.

use std::sync::Arc;

use ipnet::IpNet;

use crate::config::{self, Compression, Config, HeaderEdits, Reject, Rewrite, Utf8};
use crate::plan::Plan;
use crate::policy::Policy;
use crate::route::{Place, Table};
use crate::upstream::{Cluster, ClusterFault};

pub struct Snapshot {
    pub routes: Table<Arc<Route>>,
    pub clusters: Vec<Arc<Cluster>>,
    pub trusted_proxies: Vec<IpNet>,
    /// A page for plain HTTP where no route serves; the demo has one.
    pub page: Option<&'static str>,
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
    /// A refusal is told by a Close, for browsers, which cannot see a status.
    pub rejects_by_close: bool,
    pub rewrite: Rewrite,
    pub subprotocols: Option<Vec<String>>,
    pub compression: Compression,
    pub check_utf8: bool,
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
    pub plan: Arc<Plan>,
}

impl Snapshot {
    /// Reads the files that upstreams need.
    pub fn new(
        config: &Config,
        page: Option<&'static str>,
    ) -> Result<Snapshot, Box<UpstreamFault>> {
        let clusters = config.upstreams.iter().map(cluster).collect::<Result<Vec<_>, _>>()?;
        let routes = config.routes.iter().map(|route| {
            let place = Place {
                host: route.host.clone(),
                path: route.path.clone(),
                listeners: route.listeners.clone(),
            };
            (place, Arc::new(Route::new(route, clusters[route.upstream].clone())))
        });
        Ok(Snapshot {
            routes: Table::new(routes),
            clusters,
            trusted_proxies: config.server.trusted_proxies.clone(),
            page,
        })
    }
}

fn cluster(upstream: &config::Upstream) -> Result<Arc<Cluster>, Box<UpstreamFault>> {
    let named = |fault| Box::new(UpstreamFault { upstream: upstream.name.clone(), fault });
    Cluster::new(upstream).map(Arc::new).map_err(named)
}

impl Route {
    fn new(route: &config::Route, cluster: Arc<Cluster>) -> Route {
        Route {
            name: route.name.clone(),
            cluster,
            policy: Policy::new(&route.admittance),
            rejects_by_close: route.admittance.reject == Reject::Close,
            rewrite: route.rewrite.clone(),
            subprotocols: route.subprotocols.clone(),
            compression: route.compression,
            check_utf8: route.utf8 == Utf8::Check,
            request_headers: route.request_headers.clone(),
            response_headers: route.response_headers.clone(),
            plan: route.plan.clone(),
        }
    }
}
