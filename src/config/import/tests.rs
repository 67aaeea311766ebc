//! Whole configurations stand in `tests/import.rs`, beside nginx itself; here is what holds of any
//! input.

use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::{Config, Files, ImportFault, Imported, fits, ingress, nginx};

/// Files in memory: one, by any name.
struct Memory(Vec<u8>);

impl Files for Memory {
    fn read(&mut self, path: &Path) -> Result<Vec<u8>, String> {
        match path.ends_with("nginx.conf") {
            true => Ok(self.0.clone()),
            false => Err("no such file".to_owned()),
        }
    }

    fn matching(&mut self, _: &Path) -> Vec<PathBuf> {
        Vec::new()
    }
}

fn of_nginx(text: &[u8]) -> Result<Imported, ImportFault> {
    nginx(Path::new("/etc/nginx/nginx.conf"), &mut Memory(text.to_vec()))
}

/// It passes the check, or the notes say that it does not.
fn is_honest(imported: &Imported) -> bool {
    Config::parse(&imported.text, Path::new("wsgate.toml")).is_ok() || !imported.notes.is_empty()
}

#[test]
fn patterns_of_includes() {
    for (pattern, name) in [("*.conf", "a.conf"), ("*", ""), ("a?c", "abc"), ("[a-c]*", "bx")] {
        assert!(fits(pattern, name), "{pattern} {name}");
    }
    for (pattern, name) in [("*.conf", "a.config"), ("[!a]", "a"), ("[", "["), ("a*b", "ac")] {
        assert!(!fits(pattern, name), "{pattern} {name}");
    }
}

#[test]
fn quotes_escapes_and_comments_are_read_as_nginx_does() {
    let text = "# a\nserver { # b\n listen 80; location /a {\n proxy_pass http://127.0.0.1:1;\n\
        proxy_set_header Upgrade \"${http_upgrade}\"; proxy_set_header X-A 'a \\'b\\' # ; {';\n}}";
    let imported = of_nginx(text.as_bytes()).expect("an import");
    assert!(imported.notes.is_empty(), "{:?}", imported.notes);
    assert!(imported.text.contains(r#"x-a = "a 'b' # ; {""#), "{}", imported.text);
    assert!(is_honest(&imported));
}

#[test]
fn an_authorizer_that_cannot_be_carried_keeps_everybody_out() {
    let text = "server { location /ws { deny 10.0.0.1; auth_request /x; proxy_pass http://127.0.0.1:1; \
        proxy_set_header Upgrade $http_upgrade; } }";
    let imported = of_nginx(text.as_bytes()).expect("an import");
    assert!(imported.text.contains("clients.deny"), "{}", imported.text);
    assert_eq!(imported.notes.len(), 1, "{:?}", imported.notes);
    assert!(Config::parse(&imported.text, Path::new("a")).is_ok(), "{}", imported.text);
}

const INGRESS: &str = "
apiVersion: v1
kind: List
items:
- kind: Ingress
  metadata:
    name: chat
    annotations:
      nginx.ingress.kubernetes.io/limit-rps: \"5\"
      nginx.ingress.kubernetes.io/auth-type: basic
  spec:
    rules:
    - host: chat.example.com
      http:
        paths:
        - { path: /ws, pathType: Prefix, backend: { service: { name: chat, port: { number: 80 } } } }
";

#[test]
fn an_ingress_in_a_list_is_carried_and_its_line_named() {
    let imported = ingress(Path::new("i.yaml"), INGRESS.as_bytes()).expect("an import");
    let notes: Vec<String> = imported.notes.iter().map(ToString::to_string).collect();
    assert!(matches!(notes.as_slice(), [only] if only.starts_with("i.yaml:10: ")), "{notes:?}");
    assert!(imported.text.contains(r#"limits.handshakes = { burst = 25, per_client = "5/s" }"#));
    assert!(Config::parse(&imported.text, Path::new("a")).is_ok(), "{}", imported.text);
}

/// Directives in any order, some of them nonsense.
fn directives() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        Just("proxy_pass http://127.0.0.1:1;"),
        Just("proxy_set_header Upgrade $http_upgrade;"),
        Just("location /a/ {"),
        Just("location ~ ^/(a|b)$ {"),
        Just("}"),
        Just("server {"),
        Just("http {"),
        Just("listen 127.0.0.1:80 ssl;"),
        Just("listen *:80;"),
        Just("ip_hash;"),
        Just("server_name .a.b *.c ~x;"),
        Just("return 301 https://$host$request_uri;"),
        Just("upstream u {"),
        Just("server 127.0.0.1:2 weight=0 backup;"),
        Just("proxy_pass https://u/x;"),
        Just("deny all;"),
        Just("allow 10.0.0.0/8;"),
        Just("proxy_read_timeout 0;"),
        Just("\"a"),
        Just("set $a b;"),
        Just("auth_request /a/;"),
        Just("proxy_set_header \u{1} $a;"),
        Just("limit_conn a 1;"),
        Just("rewrite ^/a/(.*)$ /$1 break;"),
        Just("ssl_certificate a;"),
        Just("ssl_certificate_key a;"),
        Just("set_real_ip_from ::/0;"),
        Just("include b;"),
    ];
    prop::collection::vec(word, 0..40).prop_map(|words| words.join("\n"))
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(text in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = of_nginx(&text);
        let _ = ingress(Path::new("i.yaml"), &text);
    }

    #[test]
    fn what_is_printed_passes_the_check_or_is_told(body in directives()) {
        let front = "server { location / { proxy_set_header Upgrade $http_upgrade; \
                     proxy_pass http://127.0.0.1:9; } ";
        for text in [format!("{front}{body} }}"), format!("{front} }} {body}"), body.clone()] {
            if let Ok(imported) = of_nginx(text.as_bytes()) {
                prop_assert!(is_honest(&imported), "{text}\n{}", imported.text);
            }
        }
    }
}
