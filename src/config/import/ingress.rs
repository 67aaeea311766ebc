//! From Kubernetes Ingress objects with the annotations of ingress-nginx to a wsgate.toml.
//!
//! A Service becomes an [[upstream]] by its name in DNS, a rule's path a [[route]], a `tls` entry a
//! certificate that is to be mounted where the file says.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value as Json;
use serde_saphyr::Spanned;
use toml::Value;

use super::super::names::{Header, Network, PathPrefix, SentHost};
use super::super::urls::Url;
use super::super::{HostAndPort, SameSite};
use super::draft::{Draft, Table, inline, is};
use super::nginx::{cookie_name, hash_key};
use super::{ImportFault, Imported, Place, finished};
use crate::route::{HostPattern, PathPattern};

const PLAIN: &str = "0.0.0.0:8080";
const TLS: &str = "0.0.0.0:8443";
const MOST_ROUTES: usize = 5_000;
/// Lists in lists.
const DEEPEST: usize = 4;

const OURS: &str = "nginx.ingress.kubernetes.io/";

/// Annotations that say nothing about what wsgate does, or what it does anyway.
const WITHOUT_MEANING: &[&str] = &[
    "client-body-buffer-size",
    "proxy-buffering",
    "proxy-buffer-size",
    "proxy-buffers-number",
    "proxy-busy-buffers-size",
    "proxy-http-version",
    "proxy-max-temp-file-size",
    "proxy-next-upstream",
    "proxy-next-upstream-timeout",
    "proxy-next-upstream-tries",
    "proxy-request-buffering",
    "proxy-send-timeout",
    "proxy-body-size",
    "enable-access-log",
    "enable-rewrite-log",
    "service-upstream",
    "session-cookie-expires",
    "session-cookie-max-age",
    "session-cookie-path",
    "session-cookie-change-on-failure",
    "session-cookie-hash",
    "session-cookie-secure",
    "session-cookie-conditional-samesite-none",
    "affinity-mode",
    "preserve-trailing-slash",
    "proxy-ssl-protocols",
    "proxy-ssl-ciphers",
    "proxy-ssl-verify-depth",
    "ssl-ciphers",
    "ssl-prefer-server-ciphers",
    "limit-burst-multiplier",
    "use-regex",
    "auth-cache-duration",
    "websocket-services",
    "proxy-cookie-domain-off",
    "auth-method",
    "session-cookie-name",
    "session-cookie-samesite",
    "force-ssl-redirect",
    "proxy-ssl-name",
    "proxy-ssl-server-name",
    "proxy-ssl-verify",
    "auth-response-headers",
    "x-forwarded-prefix",
];

/// One object, or a list of them.
#[derive(Deserialize)]
struct Object {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    spec: Json,
    #[serde(default)]
    items: Vec<Object>,
}

#[derive(Default, Deserialize)]
struct Metadata {
    name: Option<Spanned<String>>,
    namespace: Option<String>,
    annotations: Option<BTreeMap<String, Spanned<Json>>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    tls: Vec<Tls>,
    rules: Vec<Rule>,
    default_backend: Option<Backend>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Tls {
    hosts: Vec<String>,
    secret_name: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Rule {
    host: Option<String>,
    http: Http,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Http {
    paths: Vec<HttpPath>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct HttpPath {
    path: Option<String>,
    path_type: String,
    backend: Backend,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Backend {
    service: Option<Service>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Service {
    name: String,
    port: Port,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Port {
    name: Option<String>,
    number: Option<u16>,
}

/// Reads the text of one or more YAML documents; `path` is its name.
pub fn ingress(path: &Path, text: &[u8]) -> Result<Imported, ImportFault> {
    let file: Arc<str> = path.display().to_string().into();
    let nothing = |fault: String| ImportFault::NothingToImport { path: path.to_owned(), fault };
    let text = std::str::from_utf8(text).map_err(|_| nothing("it is not UTF-8".to_owned()))?;
    let objects: Vec<Object> = serde_saphyr::from_multiple(text)
        .map_err(|error| nothing(format!("this is not the YAML of Kubernetes: {error}")))?;
    let mut import = Import { file: file.clone(), draft: Draft::default(), secrets: Vec::new() };
    let mut found = 0;
    for object in &objects {
        found += import.object(object, 0);
    }
    if found == 0 {
        return Err(nothing("there is no Ingress in it".to_owned()));
    }
    let place = Place { file, line: 1 };
    if import.draft.count("[[route]]") == 0 {
        let notes: Vec<String> = import.draft.notes.iter().map(ToString::to_string).collect();
        return Err(nothing(format!("no Ingress in it has a rule to carry\n{}", notes.join("\n"))));
    }
    import.top();
    Ok(finished(import.draft, &place))
}

struct Import {
    file: Arc<str>,
    draft: Draft,
    secrets: Vec<String>,
}

impl Import {
    /// How many Ingresses were in it.
    fn object(&mut self, object: &Object, depth: usize) -> usize {
        if depth >= DEEPEST {
            return 0;
        }
        let mut found: usize = object.items.iter().map(|item| self.object(item, depth + 1)).sum();
        if object.kind == "Ingress" {
            found += 1;
            let place = self.place_of(&object.metadata);
            match serde_json::from_value::<Spec>(object.spec.clone()) {
                Ok(spec) => Ingress::new(&object.metadata, &spec, place).write(self),
                Err(error) => {
                    let instead = "write it as networking.k8s.io/v1 has it";
                    self.draft.note(&place, format!("an Ingress that is none ({error})"), instead);
                }
            }
        }
        found
    }

    fn place_of(&self, metadata: &Metadata) -> Place {
        let line = metadata.name.as_ref().map_or(1, |name| line_of(&name.referenced));
        Place { file: self.file.clone(), line }
    }

    fn top(&mut self) {
        let mut tables = vec![Table::new("[[listener]]")];
        tables[0].set("listen", PLAIN);
        if !self.secrets.is_empty() {
            let mut table = Table::new("[[listener]]");
            table.say("Mount each Secret of these in a folder of its namespace and name, beside this file.");
            table.set("listen", TLS);
            let pair = |secret: &String| {
                inline([
                    ("chain", format!("tls/{secret}/tls.crt").into()),
                    ("key", format!("tls/{secret}/tls.key").into()),
                ])
            };
            let pairs: Vec<Value> = self.secrets.iter().map(pair).collect();
            table.set("tls.certificates", pairs);
            tables.push(table);
        }
        tables.append(&mut self.draft.tables);
        self.draft.tables = tables;
        self.draft.head = vec![
            "Made by `wsgate import ingress`. It does what ingress-nginx did: a comment says where \
             the two differ, `any` and `off` where that sets no bound."
                .to_owned(),
            "A Service is found by its name in DNS: make it headless (clusterIP: None), so that \
             every pod is an endpoint; ingress-nginx asks Kubernetes for them."
                .to_owned(),
            "To every upstream wsgate sends X-Forwarded-For, -Proto, -Host and -Port, X-Real-IP and \
             X-Request-Id of its own. A request over a rate or a cap gets 429 (ingress-nginx: 503)."
                .to_owned(),
            "Behind a balancer, name its networks: [server] trusted_proxies = [\"10.0.0.0/8\"].".to_owned(),
        ];
    }
}

fn line_of(location: &serde_saphyr::Location) -> usize {
    usize::try_from(location.line()).unwrap_or(1)
}

/// One Ingress, and what it says of all its paths.
struct Ingress<'a> {
    name: String,
    namespace: String,
    annotations: BTreeMap<&'a str, (String, usize)>,
    /// Those that no annotation of ours is.
    foreign: Vec<(&'a str, usize)>,
    spec: &'a Spec,
    place: Place,
}

/// A place where an Ingress has a backend.
struct Spot<'a> {
    host: Option<&'a str>,
    path: &'a str,
    exact: bool,
    backend: &'a Backend,
}

impl<'a> Ingress<'a> {
    fn new(metadata: &'a Metadata, spec: &'a Spec, place: Place) -> Ingress<'a> {
        let mut annotations = BTreeMap::new();
        let mut foreign = Vec::new();
        for (name, value) in metadata.annotations.iter().flatten() {
            let line = line_of(&value.referenced);
            let text = value.value.as_str().map_or(value.value.to_string(), str::to_owned);
            match name.strip_prefix(OURS).or_else(|| name.strip_prefix("nginx.org/")) {
                Some(short) => {
                    annotations.insert(short, (text, line));
                }
                None if name.contains("ingress.") && name.contains("nginx") => {
                    foreign.push((name.as_str(), line));
                }
                None => {}
            }
        }
        let name = metadata.name.as_ref().map_or("ingress".to_owned(), |name| name.value.clone());
        let namespace = metadata.namespace.clone().unwrap_or("default".to_owned());
        Ingress { name, namespace, annotations, foreign, spec, place }
    }

    fn word(&self, name: &str) -> Option<&str> {
        self.annotations.get(name).map(|(text, _)| text.trim()).filter(|text| !text.is_empty())
    }

    fn at(&self, name: &str) -> Place {
        let line = self.annotations.get(name).map_or(self.place.line, |(_, line)| *line);
        Place { file: self.place.file.clone(), line }
    }

    fn is(&self, name: &str, value: &str) -> bool {
        self.word(name).is_some_and(|word| word.eq_ignore_ascii_case(value))
    }

    fn seconds(&self, name: &str, default: u64) -> String {
        let word = self.word(name).map(|word| word.trim_end_matches('s'));
        let seconds = word.and_then(|word| word.parse().ok()).filter(|time| *time > 0);
        format!("{}s", seconds.unwrap_or(default).min(366 * 86_400))
    }

    fn write(&self, import: &mut Import) {
        self.strangers(import);
        if self.is("canary", "true") {
            let instead = "give the endpoints of one [[upstream]] weights";
            import.draft.note(&self.at("canary"), format!("the canary {}", self.name), instead);
            return;
        }
        for tls in &self.spec.tls {
            let is_name = |name: &str| {
                name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte))
            };
            let secret = tls.secret_name.as_ref();
            match secret.filter(|secret| is_name(secret) && is_name(&self.namespace)) {
                Some(secret) => {
                    let secret = format!("{}/{secret}", self.namespace);
                    if !import.secrets.contains(&secret) {
                        import.secrets.push(secret);
                    }
                }
                None => {
                    let what = format!("tls without a secretName, of {}", self.name);
                    let instead = "add its certificate to `certificates` of the [[listener]]";
                    import.draft.note(&self.place, what, instead);
                }
            }
        }
        for spot in self.spots() {
            self.route(&spot, import);
        }
        self.redirects(import);
    }

    /// Names what nothing here reads.
    fn strangers(&self, import: &mut Import) {
        const READ: &[&str] = &[
            "affinity",
            "proxy-read-timeout",
            "proxy-connect-timeout",
            "auth-url",
            "whitelist-source-range",
            "allowlist-source-range",
            "denylist-source-range",
            "limit-connections",
            "limit-rps",
            "limit-rpm",
            "ssl-redirect",
            "backend-protocol",
            "rewrite-target",
            "upstream-hash-by",
            "load-balance",
            "upstream-vhost",
            "canary",
            "proxy-ssl-secret",
        ];
        for (name, (text, line)) in &self.annotations {
            if READ.contains(name) || WITHOUT_MEANING.contains(name) {
                continue;
            }
            let place = Place { file: self.place.file.clone(), line: *line };
            let short: String = text.chars().take(60).collect();
            import.draft.note(&place, format!("{name}: {short}"), instead_of(name));
        }
        for (name, line) in &self.foreign {
            let place = Place { file: self.place.file.clone(), line: *line };
            import.draft.note(&place, (*name).to_owned(), "wsgate has nothing like it");
        }
    }

    fn spots(&self) -> Vec<Spot<'_>> {
        let mut spots = Vec::new();
        for rule in &self.spec.rules {
            let host = rule.host.as_deref().filter(|host| !host.is_empty());
            spots.extend(rule.http.paths.iter().map(|path| Spot {
                host,
                path: path.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/"),
                exact: path.path_type == "Exact",
                backend: &path.backend,
            }));
        }
        if let Some(backend) = &self.spec.default_backend {
            spots.push(Spot { host: None, path: "/", exact: false, backend });
        }
        spots
    }

    fn route(&self, spot: &Spot<'_>, import: &mut Import) {
        let Some(found) = self.path(spot, import) else { return };
        if spot.host.is_some_and(|host| !is::<HostPattern>(host)) {
            let what = format!("the host {}", spot.host.unwrap_or_default());
            import.draft.note(&self.place, what, "write it as a name, or *. and a name");
            return;
        }
        let Some(upstream) = self.upstream(spot, import) else { return };
        let mut table = Table::new("[[route]]");
        table.say(format!("From Ingress {}, {}", self.name, self.place));
        found.about.iter().for_each(|words| table.say(words.as_str()));
        let wanted = format!("{}{}", spot.host.unwrap_or(""), found.path);
        table.set("name", import.draft.free_name("[[route]]", &wanted));
        if let Some(host) = spot.host {
            table.set("host", host);
        }
        table.set("path", found.path.as_str());
        if self.redirects_host(spot.host) {
            table.set("listeners", vec![TLS.to_owned()]);
        }
        table.set("upstream", upstream);
        if !found.rewrite.is_empty() {
            table.set("rewrite", Value::Table(found.rewrite));
        }
        self.policy(&mut table, import);
        let same = |other: &Table| {
            let place = |table: &Table| {
                table
                    .lines
                    .iter()
                    .filter(|line| line.is("host") || line.is("path"))
                    .cloned()
                    .collect::<Vec<_>>()
            };
            other.header == "[[route]]" && place(other) == place(&table)
        };
        if import.draft.tables.iter().any(same) {
            let what = format!("a second rule for {wanted}");
            import.draft.note(&self.place, what, "ingress-nginx takes the older; keep one");
        } else if import.draft.count("[[route]]") < MOST_ROUTES {
            import.draft.tables.push(table);
        } else {
            let what = format!("the rule for {wanted}");
            let instead =
                "there are 5,000 routes before it, the most that an import makes: split it";
            import.draft.note(&self.place, what, instead);
        }
    }

    /// The path of a rule and what happens to it.
    fn path(&self, spot: &Spot<'_>, import: &mut Import) -> Option<Found> {
        let target = self.word("rewrite-target");
        let mut found = Found { path: String::new(), rewrite: toml::Table::new(), about: vec![] };
        let tails = [
            ("(/|$)(.*)", "$2"),
            ("/(.*)", "$1"),
            ("/?(.*)", "$1"),
            ("(/.*)", "$1"),
            ("(.*)", "$1"),
        ];
        let tail = tails
            .iter()
            .find_map(|(tail, group)| spot.path.strip_suffix(tail).map(|front| (front, *group)));
        let bare = match tail {
            Some(("", _)) => "/",
            Some((front, _)) => front,
            None => spot.path,
        };
        found.path = match spot.exact {
            true => format!("={bare}"),
            false if bare == "/" => bare.to_owned(),
            false => bare.trim_end_matches('/').to_owned(),
        };
        let odd = bare.contains(['(', ')', '[', '|', '^', '$', '*', '?']);
        if odd || !is::<PathPattern>(&found.path) {
            let instead = "write a [[route]] for each path that it stands for";
            import.draft.note(&self.place, format!("the path {}", spot.path), instead);
            return None;
        }
        let Some(target) = target else { return Some(found) };
        let base = match tail {
            Some((_, group)) => target.strip_suffix(group),
            None => Some(target),
        };
        let Some(base) =
            base.filter(|base| !base.contains('$')).map(|base| base.trim_end_matches('/'))
        else {
            let instead = "write rewrite = { strip_prefix = \"/…\", add_prefix = \"/…\" }";
            import.draft.note(
                &self.at("rewrite-target"),
                format!("rewrite-target: {target}"),
                instead,
            );
            return Some(found);
        };
        if tail.is_none() && !spot.exact {
            found.about.push(format!(
                "ingress-nginx makes {target} of every path here; wsgate keeps what follows {bare}."
            ));
        }
        for (key, part) in [("strip_prefix", bare), ("add_prefix", base)] {
            if part != "/" && !part.is_empty() && is::<PathPrefix>(part) {
                found.rewrite.insert(key.to_owned(), part.into());
            }
        }
        Some(found)
    }

    fn upstream(&self, spot: &Spot<'_>, import: &mut Import) -> Option<String> {
        let Some(service) = &spot.backend.service else {
            import.draft.note(&self.place, "a backend that is no Service", "write an [[upstream]]");
            return None;
        };
        let Some(port) = service.port.number.filter(|port| *port > 0) else {
            let port = service.port.name.as_deref().unwrap_or("none");
            let what = format!("the port {port} of Service {}", service.name);
            import.draft.note(&self.place, what, "write its number in place of its name");
            return None;
        };
        let name = format!("{}.{}.svc:{port}", service.name, self.namespace);
        if !is::<HostAndPort>(&name) {
            import.draft.note(&self.place, format!("the Service {name}"), "write an [[upstream]]");
            return None;
        }
        let mut table = Table::new("[[upstream]]");
        table.set("resolve", inline([("name", name.into())]));
        self.balance(&mut table, import);
        table.set("connect_timeout", self.seconds("proxy-connect-timeout", 5));
        table.set("handshake_timeout", self.seconds("proxy-read-timeout", 60));
        if let Some(host) = self.word("upstream-vhost") {
            match is::<SentHost>(host) && host != "pass" {
                true => table.set("host", host),
                false => {
                    let what = format!("upstream-vhost: {host}");
                    import.draft.note(&self.at("upstream-vhost"), what, "write host = \"…\"");
                }
            }
        }
        self.protocol(&mut table, import);
        Some(import.draft.shared(table, &service.name))
    }

    fn balance(&self, table: &mut Table, import: &mut Import) {
        match self.word("upstream-hash-by").map(|key| (key, hash_key(key))) {
            Some((_, Some((key, differs)))) => {
                table.set_since("hash_key", vec![key], differs);
                return self.affinity(table, import);
            }
            Some((key, None)) => {
                let what = format!("upstream-hash-by: {key}");
                let instead = "write hash_key = [\"cookie:NAME\", \"client-ip\"]";
                import.draft.note(&self.at("upstream-hash-by"), what, instead);
            }
            None => {}
        }
        match self.word("load-balance") {
            Some("ewma") => table.set_since(
                "balance",
                "least-connections",
                "ewma goes by how fast servers answer, which says nothing of WebSockets.",
            ),
            _ => table.set("balance", "round-robin"),
        }
        self.affinity(table, import);
    }

    fn affinity(&self, table: &mut Table, import: &mut Import) {
        let Some(kind) = self.word("affinity") else { return };
        let name = cookie_name(self.word("session-cookie-name").unwrap_or("INGRESSCOOKIE"));
        let (true, Some(name)) = (kind == "cookie", name) else {
            let instead = "write affinity_cookie = { name = \"…\" }";
            import.draft.note(&self.at("affinity"), format!("affinity: {kind}"), instead);
            return;
        };
        let same_site = self.word("session-cookie-samesite").unwrap_or("lax").to_ascii_lowercase();
        let cross = same_site == "none" && self.spec.tls.is_empty();
        let same_site = match is::<SameSite>(&same_site) && !cross {
            true => same_site,
            false => "lax".to_owned(),
        };
        table.set_since(
            "affinity_cookie",
            inline([("name", name.into()), ("same_site", same_site.into())]),
            "A cookie of the session; its age is not carried, and its old values are replaced.",
        );
    }

    fn protocol(&self, table: &mut Table, import: &mut Import) {
        let place = self.at("backend-protocol");
        match self.word("backend-protocol").unwrap_or("HTTP").to_ascii_uppercase().as_str() {
            "HTTP" | "AUTO_HTTP" => {}
            "HTTPS" => {
                let name = self.word("proxy-ssl-name").filter(|name| is::<SentHost>(name));
                let named = |name: &str| inline([("server_name", name.into())]);
                table.set("tls", name.map_or(Value::Table(toml::Table::new()), named));
                table.explain(
                    "ingress-nginx did not verify the server's certificate unless proxy-ssl-verify \
                     says so; wsgate always does: add ca and server_name.",
                );
            }
            other => {
                let instead = "wsgate speaks HTTP/1.1 to servers, plain or by TLS";
                import.draft.note(&place, format!("backend-protocol: {other}"), instead);
            }
        }
        if let Some(secret) = self.word("proxy-ssl-secret") {
            let what = format!("proxy-ssl-secret: {secret}");
            let instead = "mount it, and write ca and certificate into `tls` of the [[upstream]]";
            import.draft.note(&self.at("proxy-ssl-secret"), what, instead);
        }
    }

    fn policy(&self, table: &mut Table, import: &mut Import) {
        table.set("plain_http", "proxy");
        self.clients(table, import);
        table.set_since(
            "origin",
            "any",
            "ingress-nginx asks for none. A page of any site may connect with its visitors' cookies: \
             write origin = { allow = [\"https://…\"] } with your own.",
        );
        self.authorize(table, import);
        self.limits(table, import);
        table.set_since(
            "limits.max_frame_size",
            "off",
            "ingress-nginx bounds none of these. Without these lines wsgate has its own bounds, and \
             finds dead connections by a ping every 30 s.",
        );
        table.set("limits.max_message_size", "off");
        table.set("limits.control_frames", "1000000/s");
        table.set("limits.frame_stall", "off");
        table.set("limits.slow_consumer", "off");
        let off = || Value::from("off");
        table.set(
            "heartbeat",
            inline([
                ("interval", off()),
                ("timeout", off()),
                ("upstream", inline([("interval", off())])),
                ("forward", true.into()),
            ]),
        );
        let time = self.seconds("proxy-read-timeout", 60);
        table.set("timeouts.response", time.as_str());
        table.set_since(
            "timeouts.idle",
            time,
            "proxy-read-timeout: so long without a byte of the server there, without a message of \
             either side here; pings do not count. \"off\", and no `heartbeat` line, does better.",
        );
        if let Some(prefix) =
            self.word("x-forwarded-prefix").filter(|prefix| is::<PathPrefix>(prefix))
        {
            table.set("request_headers.set", inline([("x-forwarded-prefix", prefix.into())]));
        }
    }

    fn clients(&self, table: &mut Table, import: &mut Import) {
        let lists = [
            ("clients.allow", &["whitelist-source-range", "allowlist-source-range"][..]),
            ("clients.deny", &["denylist-source-range"][..]),
        ];
        for (key, names) in lists {
            let mut networks: Vec<String> = Vec::new();
            for name in names {
                for network in self.word(name).into_iter().flat_map(|list| list.split(',')) {
                    let network = network.trim();
                    match is::<Network>(network) {
                        true => networks.push(network.to_owned()),
                        false => {
                            let what = format!("{network} in {name}");
                            import.draft.note(&self.at(name), what, "write a network");
                        }
                    }
                }
            }
            let meant = names.iter().any(|name| self.word(name).is_some());
            if meant && (!networks.is_empty() || key == "clients.allow") {
                // A list of which nothing is left must not let everybody in.
                let nobody = || vec!["255.255.255.255/32".to_owned()];
                table.set(key, if networks.is_empty() { nobody() } else { networks });
            }
        }
    }

    fn authorize(&self, table: &mut Table, import: &mut Import) {
        let Some(url) = self.word("auth-url") else { return };
        if self.word("auth-method").is_some_and(|method| !method.eq_ignore_ascii_case("GET")) {
            import.draft.note(&self.at("auth-method"), "auth-method", "wsgate asks by GET");
        }
        if !is::<Url>(url) || url.contains('$') {
            table.set_since(
                "clients.deny",
                vec!["0.0.0.0/0".to_owned(), "::/0".to_owned()],
                "The authorizer could not be carried, so nobody comes in until it is written here.",
            );
            let instead = "write authorize.url with a fixed address, and take clients.deny out";
            import.draft.note(&self.at("auth-url"), format!("auth-url: {url}"), instead);
            return;
        }
        table.set("authorize.url", url);
        let names = self.word("auth-response-headers").unwrap_or_default();
        let mut copied: Vec<String> =
            names.split(',').map(|name| name.trim().to_ascii_lowercase()).collect();
        copied.retain(|name| is::<Header>(name));
        copied.sort();
        copied.dedup();
        if !copied.is_empty() {
            table.set("authorize.copy_headers", copied);
        }
    }

    fn limits(&self, table: &mut Table, import: &mut Import) {
        let number = |name: &str| self.word(name)?.parse::<u32>().ok().filter(|number| *number > 0);
        if let Some(most) = number("limit-connections") {
            table.set("limits.connections.per_client", i64::from(most.min(1_000_000)));
        }
        let times = number("limit-burst-multiplier").unwrap_or(5);
        let rate = match (number("limit-rps"), number("limit-rpm")) {
            (Some(rate), _) => Some((rate, "s")),
            (None, Some(rate)) => Some((rate, "min")),
            (None, None) => None,
        };
        if let Some((rate, unit)) = rate {
            let rate = rate.min(1_000_000);
            let burst = i64::from(rate.saturating_mul(times).min(1_000_000)).into();
            let value = inline([("per_client", format!("{rate}/{unit}").into()), ("burst", burst)]);
            table.set_since("limits.handshakes", value, "A plain request counts as a handshake.");
        }
        if number("limit-rps").is_some() && number("limit-rpm").is_some() {
            let instead = "limit-rps is carried: wsgate has one rate a client";
            import.draft.note(&self.at("limit-rpm"), "limit-rpm beside limit-rps", instead);
        }
    }

    fn has_tls(&self, host: Option<&str>) -> bool {
        let covers = |tls: &Tls| {
            tls.hosts.is_empty()
                || host.is_some_and(|host| tls.hosts.iter().any(|other| other == host))
        };
        self.spec.tls.iter().any(covers)
    }

    fn redirects_host(&self, host: Option<&str>) -> bool {
        let tls = self.has_tls(host) && self.spec.tls.iter().any(|tls| tls.secret_name.is_some());
        tls && (!self.is("ssl-redirect", "false") || self.is("force-ssl-redirect", "true"))
    }

    /// Plain requests for a host with TLS are sent to https.
    fn redirects(&self, import: &mut Import) {
        let mut hosts: Vec<Option<&str>> = self.spots().iter().map(|spot| spot.host).collect();
        hosts.sort_unstable();
        hosts.dedup();
        hosts.retain(|host| self.redirects_host(*host) && host.is_none_or(is::<HostPattern>));
        for host in hosts {
            let mut table = Table::new("[[route]]");
            table.say("ssl-redirect: ingress-nginx's own status is 308.");
            let wanted = format!("{} to https", host.unwrap_or("any host"));
            if import.draft.tables.iter().any(|other| other.is_called(&wanted)) {
                continue;
            }
            table.set("name", wanted);
            if let Some(host) = host {
                table.set("host", host);
            }
            table.set("listeners", vec![PLAIN.to_owned()]);
            table.set("redirect", "https");
            import.draft.tables.push(table);
        }
    }
}

struct Found {
    path: String,
    rewrite: toml::Table,
    about: Vec<String>,
}

fn instead_of(name: &str) -> &'static str {
    match name {
        "configuration-snippet" | "server-snippet" | "auth-snippet" | "stream-snippet" => {
            "run `wsgate import nginx` on the snippet, or write what it does by hand"
        }
        "auth-type" | "auth-secret" | "auth-realm" => {
            "ask a service by [route.authorize], or tokens by [route.token]"
        }
        "auth-signin" => {
            "send the browser to sign in from your page: a WebSocket follows no redirect"
        }
        "auth-tls-secret" | "auth-tls-verify-client" => "write tls.client_ca of the [[listener]]",
        "enable-cors" | "cors-allow-origin" => "write origin = { allow = [\"https://…\"] }",
        "server-alias" => "write a [[route]] with that host",
        _ => "wsgate has nothing like it; let the server behind it do it",
    }
}
