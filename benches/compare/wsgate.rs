//! wsgate as every bench runs it.

use std::net::SocketAddr;

use crate::tls::Certificate;

/// Nothing below a warning said; every policy of a route by its defaults.
pub fn configuration(
    workers: usize,
    listen: SocketAddr,
    certificate: Option<&Certificate>,
    upstream: SocketAddr,
) -> String {
    let tls = certificate.map_or(String::new(), |Certificate { chain, key }| {
        format!("[listener.tls]\ncertificates = [{{ chain = {chain:?}, key = {key:?} }}]\n")
    });
    format!(
        r#"[server]
workers = {workers}
log = {{ level = "warn" }}

[[listener]]
listen = "{listen}"
{tls}
[[upstream]]
name = "echo"
endpoints = ["{upstream}"]

[[route]]
name = "all"
path = "/"
upstream = "echo"
"#
    )
}
