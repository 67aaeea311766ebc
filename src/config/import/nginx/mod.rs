//! From an nginx configuration to a wsgate.toml.
//!
//! `syntax` reads directives, `scope` knows which of them hold at a place, `words` and `paths` read
//! their small languages. `server` finds what listens and who is meant by which name, `location`
//! makes a route of each location that passes requests on, `balancer` an upstream of each group.

mod balancer;
mod gates;
mod headers;
mod location;
mod paths;
mod scope;
mod server;
pub(super) mod syntax;
mod words;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use self::scope::Scope;
use self::server::{Listener, Server};
use self::syntax::Directive;
pub(super) use self::words::{cookie_name, hash_key};
use super::draft::{Draft, Table};
use super::{Files, ImportFault, Imported, Place, finished};

/// Routes of one file; a file with more is not one that a person would read.
const MOST_ROUTES: usize = 5_000;

/// Reads an nginx configuration with its includes. `path` is best a whole one: relative names in
/// the file begin at its folder.
pub fn nginx(path: &Path, files: &mut dyn Files) -> Result<Imported, ImportFault> {
    let (directives, unread) = syntax::parse(path, files)?;
    let nothing = |fault: &str| ImportFault::NothingToImport {
        path: path.to_owned(),
        fault: fault.to_owned(),
    };
    let known = ["http", "server", "upstream", "events", "stream", "map", "location"];
    if !directives.iter().any(|line| known.contains(&line.name.as_str())) {
        return Err(nothing("this is no nginx configuration: it has neither http nor server"));
    }
    let place = Place { file: path.display().to_string().into(), line: 1 };
    let folder = path.parent().unwrap_or(Path::new("")).to_owned();
    let blocks: Vec<&[Directive]> = match directives.iter().any(|line| line.is("http")) {
        true => directives.iter().filter(|line| line.is("http")).map(Directive::inside).collect(),
        // A file of sites-enabled is what stands within http.
        false => vec![&directives],
    };
    let mut import = Import::new(folder, &blocks);
    import.draft.notes = unread;
    import.elsewhere(&directives);
    for http in &blocks {
        import.zones(http);
        import.strangers(http);
        for block in http.iter().filter(|line| line.is("server")) {
            import.servers.extend(Server::read(block, http, &mut import.draft));
        }
    }
    server::write(&mut import);
    if import.draft.count("[[route]]") == 0 {
        let notes: Vec<String> = import.draft.notes.iter().map(ToString::to_string).collect();
        let fault = "no server in it has a location that upgrades: one with proxy_pass and \
                     proxy_set_header Upgrade $http_upgrade";
        return Err(nothing(&[vec![fault.to_owned()], notes].concat().join("\n")));
    }
    import.only_redirects(&place);
    import.top();
    Ok(finished(import.draft, &place))
}

/// All that is known while it goes on.
pub(super) struct Import<'a> {
    pub draft: Draft,
    /// Where relative names of certificates begin.
    folder: PathBuf,
    groups: BTreeMap<&'a str, &'a Directive>,
    /// Zones of `limit_conn` and `limit_req`: their key, and a rate.
    zones: BTreeMap<String, Zone>,
    servers: Vec<Server<'a>>,
    listeners: Vec<Listener>,
    trusted: Vec<IpNet>,
    /// Where routes are: host, path and listeners.
    taken: Vec<(Option<String>, String, Vec<SocketAddr>)>,
}

#[derive(Clone, Debug)]
pub(super) struct Zone {
    key: String,
    rate: Option<String>,
}

impl<'a> Import<'a> {
    fn new(folder: PathBuf, blocks: &[&'a [Directive]]) -> Import<'a> {
        let groups = blocks.iter().copied().flatten().filter(|line| line.is("upstream"));
        Import {
            draft: Draft::default(),
            folder,
            groups: groups.map(|group| (group.argument(0), group)).collect(),
            zones: BTreeMap::new(),
            servers: Vec::new(),
            listeners: Vec::new(),
            trusted: Vec::new(),
            taken: Vec::new(),
        }
    }

    fn zones(&mut self, http: &[Directive]) {
        for line in http {
            if !line.is("limit_conn_zone") && !line.is("limit_req_zone") {
                continue;
            }
            let named = |front: &str| {
                line.arguments.iter().find_map(|word| word.strip_prefix(front).map(str::to_owned))
            };
            let Some(zone) = named("zone=") else { continue };
            let name = zone.split(':').next().unwrap_or_default().to_owned();
            let rate = named("rate=").and_then(|rate| words::rate(&rate));
            self.zones.insert(name, Zone { key: line.argument(0).to_owned(), rate });
        }
    }

    /// What stands outside of http.
    fn elsewhere(&mut self, directives: &[Directive]) {
        for line in directives.iter().filter(|line| line.is("stream") || line.is("mail")) {
            let what = format!("the {} block", line.name);
            self.draft.note(&line.place, what, "leave it to nginx: wsgate speaks HTTP alone");
        }
    }

    /// Names what nothing here reads.
    pub fn strangers(&mut self, block: &[Directive]) {
        let known = |line: &&Directive| {
            let name = line.name.as_str();
            let switched_off =
                line.argument(0) == "off" && !name.starts_with("proxy_pass_request_");
            switched_off
                || (name == "ssl_protocols" && line.arguments.iter().any(|it| it == "TLSv1.2"))
                || words::CARRIED.contains(&name)
                || words::WITHOUT_MEANING.contains(&name)
        };
        let outside = [
            "events",
            "http",
            "stream",
            "mail",
            "user",
            "pid",
            "daemon",
            "worker_processes",
            "worker_rlimit_nofile",
            "load_module",
            "pcre_jit",
            "thread_pool",
            "timer_resolution",
            "worker_cpu_affinity",
            "worker_priority",
            "worker_shutdown_timeout",
            "env",
            "lock_file",
        ];
        for line in block.iter().filter(|line| !known(line)) {
            if outside.contains(&line.name.as_str()) {
                continue;
            }
            self.draft.note(&line.place, shown(line), instead_of(&line.name));
        }
    }

    /// A certificate's file or the like, from where the file begins.
    pub fn file(&self, name: &str) -> String {
        self.folder.join(name).to_string_lossy().into_owned()
    }

    /// wsgate wants an upstream in every file.
    fn only_redirects(&mut self, place: &Place) {
        if self.draft.count("[[upstream]]") > 0 {
            return;
        }
        let mut table = Table::new("[[upstream]]");
        table.say("No route goes here: a file must have an upstream.");
        table.set("endpoints", vec!["127.0.0.1:9".to_owned()]);
        self.draft.shared(table, "nobody");
        self.draft.note(place, "a file of redirects alone", "add the servers behind the edge");
    }

    /// The head of the file and its first tables.
    fn top(&mut self) {
        let mut tables = Vec::new();
        if !self.trusted.is_empty() {
            let mut table = Table::new("[server]");
            let networks: Vec<String> = self.trusted.iter().map(ToString::to_string).collect();
            table.set_since(
                "trusted_proxies",
                networks,
                "From set_real_ip_from; it holds for the whole process here, and the client is the \
                 rightmost hop that is none of these (nginx: real_ip_recursive on). X-Forwarded-For grows \
                 by the proxy's address; nginx adds the client's once more.",
            );
            tables.push(table);
        }
        tables.extend(self.listeners.iter().map(Listener::table));
        tables.append(&mut self.draft.tables);
        self.draft.tables = tables;
        let mut head = vec![
            "Made by `wsgate import nginx`. It does what nginx did: a comment says where the two \
             differ, `any` and `off` where nginx sets no bound."
                .to_owned(),
            "To every upstream wsgate sends X-Forwarded-For, -Proto, -Host and -Port, X-Real-IP and \
             X-Request-Id of its own, whatever nginx set; what clients say there is not believed, \
             but for trusted_proxies. Keep in mind that a path with . or .. in it is refused (400)."
                .to_owned(),
            "A request over a rate or a cap gets 429 (nginx: 503). Errors of the edge have a body \
             of application/problem+json."
                .to_owned(),
        ];
        head.append(&mut self.draft.head);
        self.draft.head = head;
    }
}

fn shown(line: &Directive) -> String {
    let words = line.arguments.join(" ");
    let end = if line.block.is_some() { " { … }" } else { "" };
    format!("{} {words}", line.name).trim().chars().take(120).collect::<String>() + end
}

fn instead_of(name: &str) -> &'static str {
    match name {
        "auth_basic" | "auth_basic_user_file" => {
            "ask a service by [route.authorize], or tokens by [route.token]"
        }
        "auth_jwt" | "auth_jwt_key_file" => "write a [route.token]",
        "satisfy" => "all of clients, token and authorize must agree in wsgate; loosen one of them",
        "sub_filter" | "proxy_cache" | "proxy_cookie_path" | "proxy_cookie_domain" => {
            "wsgate does not change bodies or cookies and keeps no cache; let the server do it"
        }
        "ssl_protocols" => "wsgate takes TLS 1.2 and 1.3, and has no key for it",
        "ssl_crl" | "ssl_ocsp" => {
            "wsgate does not look at revocation lists; issue short certificates"
        }
        "health_check" => "write health = { probe = \"http:/…\" } in the [[upstream]]",
        _ => "wsgate has nothing like it; let the server behind it do it, or keep nginx for it",
    }
}

/// The levels of a server: http around it.
fn scope_of<'a>(server: &'a Directive, http: &'a [Directive]) -> Scope<'a> {
    Scope::of(http).within(server.inside())
}
