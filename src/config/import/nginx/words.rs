//! nginx's small languages: times, rates, keys, networks, and directives that need no carrying.

use super::super::super::balancing::CookieName;
use super::super::draft::is;
use crate::config::HashKey;

/// Directives that say nothing about what wsgate does, or what it does anyway.
pub(super) const WITHOUT_MEANING: &[&str] = &[
    "access_log",
    "aio",
    "charset",
    "client_body_buffer_size",
    "client_body_temp_path",
    "client_body_timeout",
    "client_header_buffer_size",
    "connection_pool_size",
    "default_type",
    "directio",
    "etag",
    "error_log",
    "geo",
    "gzip",
    "gzip_comp_level",
    "gzip_disable",
    "gzip_http_version",
    "gzip_min_length",
    "gzip_proxied",
    "gzip_types",
    "gzip_vary",
    "gzip_buffers",
    "gzip_static",
    "http2",
    "http2_max_concurrent_streams",
    "http3",
    "if_modified_since",
    "ignore_invalid_headers",
    "index",
    "keepalive_requests",
    "limit_conn_log_level",
    "limit_req_log_level",
    "limit_conn_zone",
    "limit_req_zone",
    "lingering_close",
    "lingering_time",
    "lingering_timeout",
    "log_format",
    "log_not_found",
    "log_subrequest",
    "map",
    "map_hash_bucket_size",
    "map_hash_max_size",
    "max_ranges",
    "merge_slashes",
    "msie_padding",
    "open_file_cache",
    "open_file_cache_errors",
    "open_file_cache_min_uses",
    "open_file_cache_valid",
    "output_buffers",
    "fastcgi_temp_path",
    "uwsgi_temp_path",
    "scgi_temp_path",
    "port_in_redirect",
    "proxy_buffer_size",
    "proxy_buffering",
    "proxy_buffers",
    "proxy_busy_buffers_size",
    "proxy_cache_bypass",
    "proxy_cache_path",
    "proxy_headers_hash_bucket_size",
    "proxy_headers_hash_max_size",
    "proxy_http_version",
    "proxy_ignore_client_abort",
    "proxy_max_temp_file_size",
    "proxy_no_cache",
    "proxy_request_buffering",
    "proxy_send_lowat",
    "proxy_send_timeout",
    "proxy_socket_keepalive",
    "proxy_ssl_ciphers",
    "proxy_ssl_protocols",
    "proxy_ssl_session_reuse",
    "proxy_ssl_verify_depth",
    "proxy_temp_file_write_size",
    "proxy_temp_path",
    "read_ahead",
    "reset_timedout_connection",
    "resolver",
    "resolver_timeout",
    "root",
    "send_timeout",
    "sendfile",
    "sendfile_max_chunk",
    "server_name_in_redirect",
    "server_names_hash_bucket_size",
    "server_names_hash_max_size",
    "server_tokens",
    "ssl_buffer_size",
    "ssl_ciphers",
    "ssl_conf_command",
    "ssl_dhparam",
    "ssl_early_data",
    "ssl_ecdh_curve",
    "ssl_prefer_server_ciphers",
    "ssl_session_cache",
    "ssl_session_ticket_key",
    "ssl_session_tickets",
    "ssl_session_timeout",
    "ssl_stapling",
    "ssl_stapling_verify",
    "ssl_trusted_certificate",
    "tcp_nodelay",
    "tcp_nopush",
    "types",
    "types_hash_bucket_size",
    "types_hash_max_size",
    "underscores_in_headers",
    "variables_hash_bucket_size",
    "variables_hash_max_size",
    "chunked_transfer_encoding",
    "client_body_in_file_only",
    "client_body_in_single_buffer",
    "proxy_redirect",
    "autoindex",
    "proxy_next_upstream",
    "proxy_next_upstream_tries",
    "proxy_next_upstream_timeout",
    "proxy_store",
    "proxy_force_ranges",
    "proxy_intercept_errors",
    "http2_push_preload",
    "real_ip_recursive",
    "stub_status",
];

/// Directives that the import reads, each where it has a meaning.
pub(super) const CARRIED: &[&str] = &[
    "add_header",
    "allow",
    "auth_request",
    "auth_request_set",
    "client_header_timeout",
    "deny",
    "include",
    "internal",
    "keepalive_timeout",
    "large_client_header_buffers",
    "limit_conn",
    "limit_conn_status",
    "limit_req",
    "limit_req_status",
    "listen",
    "location",
    "proxy_bind",
    "proxy_connect_timeout",
    "proxy_hide_header",
    "proxy_pass",
    "proxy_read_timeout",
    "proxy_set_header",
    "proxy_ssl_certificate",
    "proxy_ssl_certificate_key",
    "proxy_ssl_name",
    "proxy_ssl_server_name",
    "proxy_ssl_trusted_certificate",
    "proxy_ssl_verify",
    "real_ip_header",
    "return",
    "rewrite",
    "server",
    "server_name",
    "set",
    "set_real_ip_from",
    "ssl",
    "ssl_certificate",
    "ssl_certificate_key",
    "ssl_client_certificate",
    "ssl_verify_client",
    "ssl_verify_depth",
    "try_files",
    "upstream",
    "if",
    "client_max_body_size",
    "error_page",
];

/// `60`, `60s`, `1m30s`, `500ms` in milliseconds.
pub(super) fn time(text: &str) -> Option<u64> {
    let mut rest = text.trim();
    let mut total = 0u64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let units: [(&str, u64); 8] = [
            ("ms", 1),
            ("s", 1_000),
            ("m", 60_000),
            ("h", 3_600_000),
            ("d", 86_400_000),
            ("w", 604_800_000),
            ("M", 2_592_000_000),
            ("y", 31_536_000_000),
        ];
        let unit = units.iter().find(|(name, _)| rest.starts_with(name));
        let (name, scale) = match unit {
            Some((name, scale)) => (*name, *scale),
            None if rest.is_empty() => ("", 1_000),
            None => return None,
        };
        rest = rest[name.len()..].trim_start();
        total = total.checked_add(number.checked_mul(scale)?)?;
    }
    Some(total)
}

/// As wsgate writes it, within what it takes.
pub(super) fn duration(milliseconds: u64) -> String {
    const LONGEST: u64 = 366 * 86_400_000;
    match milliseconds.clamp(1, LONGEST) {
        whole if whole % 1_000 == 0 => format!("{}s", whole / 1_000),
        parts => format!("{parts}ms"),
    }
}

/// `10r/s` as `10/s`.
pub(super) fn rate(text: &str) -> Option<String> {
    let (number, unit) = text.split_once("r/")?;
    let number: u32 = number.parse().ok().filter(|number| (1..=1_000_000).contains(number))?;
    match unit {
        "s" => Some(format!("{number}/s")),
        "m" => Some(format!("{number}/min")),
        _ => None,
    }
}

/// A network as wsgate writes it; `None` for names and `unix:`.
pub(super) fn network(text: &str) -> Option<ipnet::IpNet> {
    let network = text.parse::<ipnet::IpNet>();
    let network = network.or_else(|_| text.parse::<std::net::IpAddr>().map(ipnet::IpNet::from));
    network.ok().map(|network| network.trunc())
}

/// What nginx hashes, as one of wsgate's keys.
pub fn hash_key(variable: &str) -> Option<(String, &'static str)> {
    let name = variable.strip_prefix('$')?;
    let name = name.strip_prefix('{').and_then(|name| name.strip_suffix('}')).unwrap_or(name);
    let missing = "without it nginx sends everybody to one server; wsgate to the least loaded";
    let key = match name {
        "remote_addr" | "binary_remote_addr" => return Some(("client-ip".to_owned(), "")),
        "uri" | "document_uri" => ("path".to_owned(), ""),
        "request_uri" => ("path".to_owned(), "nginx hashes the query too, wsgate the path alone"),
        _ => match name.split_once('_')? {
            ("arg", arg) => (format!("query:{arg}"), missing),
            ("cookie", cookie) => (format!("cookie:{cookie}"), missing),
            ("http", header) => (format!("header:{}", header.replace('_', "-")), missing),
            _ => return None,
        },
    };
    Some(key).filter(|(key, _)| is::<HashKey>(key))
}

/// A cookie's name, if it is one that wsgate may set.
pub fn cookie_name(text: &str) -> Option<String> {
    is::<CookieName>(text).then(|| text.to_owned())
}
