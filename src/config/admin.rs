//! `[admin]`: where it listens, by what name it is called, and its token.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use toml::Spanned;

use super::AdminAddress;
use super::diagnostics::Diagnostic;
use super::file::{Admin, File};
use super::names::{ListenAddress, is_host_name, socket_path};
use super::reader::{Complaint, Faults, Text};
use super::validate::all_listeners;

/// The shortest token that cannot be guessed by trying.
const SHORTEST: usize = 16;
/// A longer one is another file taken for it.
const LONGEST: usize = 4096;

impl Text for AdminAddress {
    const NAME: &'static str = "an address for operators";
    const EXAMPLE: &'static str = "127.0.0.1:9090";

    fn parse(text: &str) -> Result<AdminAddress, Complaint> {
        if let Some(path) = text.strip_prefix("unix:") {
            return socket_path(path).map(AdminAddress::Unix);
        }
        ListenAddress::parse(text).map(|address| AdminAddress::Tcp(address.0))
    }
}

/// Reads an address as it stands in a file.
pub fn admin_address(text: &str) -> Result<AdminAddress, String> {
    AdminAddress::parse(text).map_err(|complaint| complaint.to_string())
}

/// A name that the interface may be called by, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HostName(pub String);

impl Text for HostName {
    const NAME: &'static str = "a host name";
    const EXAMPLE: &'static str = "wsgate.internal";

    fn parse(text: &str) -> Result<HostName, Complaint> {
        if !is_host_name(text) {
            let help = "write the name alone, without a scheme, a port or a path";
            return Err(Complaint::malformed("more than letters, digits, dots and dashes", help));
        }
        Ok(HostName(text.trim_end_matches('.').to_ascii_lowercase()))
    }
}

pub(super) fn validate(file: &File, found: &mut Faults) {
    let Some(Some(admin)) = file.admin.get() else { return };
    let (Some(listen), Some(probes)) = (admin.listen.get(), admin.probes.get()) else { return };
    if listen.is_none() && probes.is_none() {
        let fault = Diagnostic::fault(file.admin.span.clone(), "[admin] listens nowhere")
            .label("neither `listen` nor `probes`")
            .help("add listen = \"127.0.0.1:9090\", or probes = \"0.0.0.0:9091\" for probes alone");
        found.push(fault);
    }
    if let Some(listen) = listen {
        require_token(admin, listen, found);
    }
    refuse_taken(file, listen.as_ref(), probes.as_ref(), found);
}

/// Whoever reaches the address could end every connection.
fn require_token(admin: &Admin, listen: &Spanned<AdminAddress>, found: &mut Faults) {
    let AdminAddress::Tcp(address) = listen.get_ref() else { return };
    if address.ip().to_canonical().is_loopback() || admin.token_file.get() != Some(&None) {
        return;
    }
    let message = format!("anybody who reaches {address} would be an operator");
    let fault = Diagnostic::fault(listen.span(), message)
        .label("no loopback address, and no `token_file`")
        .help(
            "add token_file = \"…\" with a secret in it, or listen on 127.0.0.1 or a unix: socket; \
             what probes and Prometheus need is on `probes`, without a token",
        );
    found.push(fault);
}

/// No two may want one place.
fn refuse_taken(
    file: &File,
    listen: Option<&Spanned<AdminAddress>>,
    probes: Option<&Spanned<AdminAddress>>,
    found: &mut Faults,
) {
    let listeners = all_listeners(file).iter().filter_map(|listener| {
        let address = AdminAddress::Tcp(listener.listen.get()?.0);
        Some((address, listener.listen.span.clone()))
    });
    let mut taken: Vec<_> = listeners.collect();
    for wanted in [listen, probes].into_iter().flatten() {
        let earlier = taken.iter().find(|(address, _)| collide(address, wanted.get_ref()));
        if let Some((_, earlier)) = earlier {
            let message = format!("two want {}", wanted.get_ref());
            let fault = Diagnostic::fault(wanted.span(), message).label("wanted again");
            found.push(
                fault
                    .related(earlier.clone(), "taken here")
                    .help("give each its own address or port"),
            );
        }
        taken.push((wanted.get_ref().clone(), wanted.span()));
    }
}

/// Port 0 is a new one each time; 0.0.0.0 and :: take their port on all addresses of the family.
fn collide(one: &AdminAddress, other: &AdminAddress) -> bool {
    let (AdminAddress::Tcp(left), AdminAddress::Tcp(right)) = (one, other) else {
        return one == other;
    };
    let covers = |it: &SocketAddr| it.ip().is_unspecified();
    let same_family = left.is_ipv4() == right.is_ipv4();
    left.port() != 0
        && left.port() == right.port()
        && (left == right || (same_family && (covers(left) || covers(right))))
}

/// Why a file is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenFault {
    #[error("cannot read {}: {error}", path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    #[error(
        "{} holds no token: write {SHORTEST} to {LONGEST} visible ASCII characters into it, such \
         as those of `openssl rand -hex 32`", .0.display()
    )]
    NoToken(PathBuf),
}

/// Reads the token in a file; the space around it does not count.
pub fn read_token(path: &Path) -> Result<String, TokenFault> {
    let unreadable = |error| TokenFault::Unreadable { path: path.to_owned(), error };
    let text = String::from_utf8(fs::read(path).map_err(unreadable)?).unwrap_or_default();
    let token = text.trim();
    let sound = token.bytes().all(|byte| byte.is_ascii_graphic());
    match sound && (SHORTEST..=LONGEST).contains(&token.len()) {
        true => Ok(token.to_owned()),
        false => Err(TokenFault::NoToken(path.to_owned())),
    }
}
