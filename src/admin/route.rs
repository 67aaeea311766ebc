//! What a request asks for, by its method, path and query. Pure.

use std::sync::Arc;
use std::time::Duration;

use http::Method;

use crate::control::ConnId;
use crate::policy::Subject;
use crate::ws::{CloseCode, may_be_sent};

/// The longest time for which a subject is kept out.
const LONGEST_BAN: Duration = Duration::from_secs(30 * 86_400);
/// Connections of one page, unless fewer are asked for.
const PAGE: usize = 1000;

#[derive(Clone, Debug, PartialEq)]
pub enum Asked {
    Dashboard(Part),
    /// What the dashboard shows, as it happens.
    Events,
    Alive,
    Ready,
    Metrics,
    Connections(Page),
    Disconnect {
        id: ConnId,
        farewell: Farewell,
    },
    Kick {
        subject: Subject,
        ban: Option<Duration>,
        farewell: Farewell,
    },
    Upstreams,
    DrainEndpoint {
        upstream: String,
        endpoint: String,
        drained: bool,
    },
    Config,
    Reload,
    Drain,
}

impl Asked {
    /// Whether a socket for probes alone has it.
    pub fn is_probe(&self) -> bool {
        matches!(self, Asked::Alive | Asked::Ready | Asked::Metrics)
    }
}

/// A file of the dashboard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Page,
    Style,
    Script,
}

/// Which connections to show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    pub after: Option<ConnId>,
    pub limit: usize,
    pub route: Option<Arc<str>>,
    pub subject: Option<Arc<str>>,
    pub endpoint: Option<Arc<str>>,
}

/// What a client that is sent away is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Farewell {
    pub code: CloseCode,
    pub reason: Arc<str>,
}

/// Why nothing is asked for that there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unasked {
    NotFound,
    /// The methods that there are.
    Method(&'static str),
    /// What is wrong with a value.
    Value(String),
}

pub fn asked(method: &Method, path: &str, query: &str) -> Result<Asked, Unasked> {
    let segments: Vec<&str> = path.strip_prefix('/').unwrap_or(path).split('/').collect();
    match *segments {
        [""] => read(method, Asked::Dashboard(Part::Page)),
        ["dashboard.css"] => read(method, Asked::Dashboard(Part::Style)),
        ["dashboard.js"] => read(method, Asked::Dashboard(Part::Script)),
        ["api", "v1", "events"] => read(method, Asked::Events),
        ["healthz"] => read(method, Asked::Alive),
        ["readyz"] => read(method, Asked::Ready),
        ["metrics"] => read(method, Asked::Metrics),
        ["api", "v1", "connections"] => {
            only(method, &Method::GET, "GET, HEAD")?;
            page(&mut Query::parse(query)?)
        }
        ["api", "v1", "connections", id] => {
            only(method, &Method::DELETE, "DELETE")?;
            let mut query = Query::parse(query)?;
            let id = id.parse().map_err(|fault| Unasked::Value(format!("{fault}")))?;
            let farewell = farewell(&mut query)?;
            query.end(Asked::Disconnect { id, farewell })
        }
        ["api", "v1", "kick"] => {
            only(method, &Method::POST, "POST")?;
            kick(&mut Query::parse(query)?)
        }
        ["api", "v1", "upstreams"] => read(method, Asked::Upstreams),
        [
            "api",
            "v1",
            "upstreams",
            upstream,
            "endpoints",
            endpoint,
            verb @ ("drain" | "undrain"),
        ] => {
            only(method, &Method::POST, "POST")?;
            let (upstream, endpoint) = (decoded(upstream)?, decoded(endpoint)?);
            Ok(Asked::DrainEndpoint { upstream, endpoint, drained: verb == "drain" })
        }
        ["api", "v1", "config"] => read(method, Asked::Config),
        ["api", "v1", "reload"] => only(method, &Method::POST, "POST").map(|()| Asked::Reload),
        ["api", "v1", "drain"] => only(method, &Method::POST, "POST").map(|()| Asked::Drain),
        _ => Err(Unasked::NotFound),
    }
}

fn read(method: &Method, asked: Asked) -> Result<Asked, Unasked> {
    only(method, &Method::GET, "GET, HEAD").map(|()| asked)
}

fn only(method: &Method, wanted: &Method, allowed: &'static str) -> Result<(), Unasked> {
    let fits = method == wanted || (method == Method::HEAD && wanted == Method::GET);
    if fits { Ok(()) } else { Err(Unasked::Method(allowed)) }
}

fn page(query: &mut Query) -> Result<Asked, Unasked> {
    let number = |text: String| match text.parse() {
        Ok(limit) if (1..=PAGE).contains(&limit) => Ok(limit),
        _ => Err(Unasked::Value(format!("limit is a number from 1 to {PAGE}"))),
    };
    let id = |text: String| {
        text.parse::<ConnId>().map_err(|fault| Unasked::Value(format!("after: {fault}")))
    };
    let page = Page {
        after: query.take("after").map(id).transpose()?,
        limit: query.take("limit").map(number).transpose()?.unwrap_or(PAGE),
        route: query.take("route").map(Arc::from),
        subject: query.take("subject").map(Arc::from),
        endpoint: query.take("endpoint").map(Arc::from),
    };
    query.end(Asked::Connections(page))
}

fn kick(query: &mut Query) -> Result<Asked, Unasked> {
    let subject = query.take("subject").and_then(|name| Subject::new(&name));
    let subject = subject.ok_or_else(|| {
        Unasked::Value("subject is the name of whom to send away, of 1 to 256 bytes".to_owned())
    })?;
    let time = |text: String| match crate::config::duration(&text) {
        Ok(time) if time <= LONGEST_BAN => Ok(time),
        _ => Err(Unasked::Value("for is a time of up to 30d, such as 10m".to_owned())),
    };
    let ban = query.take("for").map(time).transpose()?;
    let farewell = farewell(query)?;
    query.end(Asked::Kick { subject, ban, farewell })
}

fn farewell(query: &mut Query) -> Result<Farewell, Unasked> {
    const LONGEST: usize = 123;
    let code = |text: String| match text.parse::<u16>() {
        Ok(code) if may_be_sent(code) => Ok(CloseCode::from(code)),
        _ => Err(Unasked::Value(
            "code is a close code: 1000 to 1003, 1007 to 1014, or 3000 to 4999".to_owned(),
        )),
    };
    let code = query.take("code").map(code).transpose()?.unwrap_or(CloseCode::Policy);
    let reason = query.take("reason").unwrap_or_default();
    // RFC 6455 §5.5: a control frame has at most 125 bytes, two of them the code.
    if reason.len() > LONGEST {
        return Err(Unasked::Value(format!("reason has at most {LONGEST} bytes")));
    }
    Ok(Farewell { code, reason: reason.into() })
}

/// The parameters of a query. One that nobody takes is a fault: a filter with a slip in its name
/// would be one that lets everything through.
struct Query(Vec<(String, String)>);

impl Query {
    fn parse(text: &str) -> Result<Query, Unasked> {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decoded(&name.replace('+', " "))?, decoded(&value.replace('+', " "))?))
        };
        pairs.map(pair).collect::<Result<_, _>>().map(Query)
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let index = self.0.iter().position(|(own, _)| own == name)?;
        Some(self.0.swap_remove(index).1)
    }

    fn end(&self, asked: Asked) -> Result<Asked, Unasked> {
        match self.0.first() {
            None => Ok(asked),
            Some((name, _)) => Err(Unasked::Value(format!(
                "{:?} is no parameter of this, or stands twice",
                name.chars().take(64).collect::<String>()
            ))),
        }
    }
}

/// Percent-decoded text (RFC 3986 §2.1).
fn decoded(text: &str) -> Result<String, Unasked> {
    let fault = || Unasked::Value("a value is not well percent-encoded".to_owned());
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = rest.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let digits =
            digits.and_then(|digits| std::str::from_utf8(digits).ok()).ok_or_else(fault)?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| fault())?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).map_err(|_| fault())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(path: &str, query: &str) -> Result<Asked, Unasked> {
        asked(&Method::GET, path, query)
    }

    fn post(path: &str, query: &str) -> Result<Asked, Unasked> {
        asked(&Method::POST, path, query)
    }

    #[test]
    fn paths_and_methods() {
        assert_eq!(get("/", ""), Ok(Asked::Dashboard(Part::Page)));
        assert_eq!(get("/api/v1/events", ""), Ok(Asked::Events));
        assert_eq!(get("/healthz", ""), Ok(Asked::Alive));
        assert_eq!(asked(&Method::HEAD, "/readyz", ""), Ok(Asked::Ready));
        assert_eq!(get("/api/v1/upstreams", ""), Ok(Asked::Upstreams));
        assert_eq!(post("/api/v1/drain", ""), Ok(Asked::Drain));
        assert_eq!(get("/api/v1/drain", ""), Err(Unasked::Method("POST")));
        assert_eq!(post("/metrics", ""), Err(Unasked::Method("GET, HEAD")));
        for path in [
            "//",
            "/dashboard",
            "/metrics/",
            "//metrics",
            "/api/v1",
            "/api/v1/upstreams/a/endpoints/b",
        ] {
            assert_eq!(get(path, ""), Err(Unasked::NotFound), "{path}");
        }
    }

    #[test]
    fn an_endpoint_is_named_by_its_encoded_address() {
        let drain = post("/api/v1/upstreams/my%20app/endpoints/unix:%2Frun%2Fa.sock/undrain", "");
        let (upstream, endpoint) = ("my app".to_owned(), "unix:/run/a.sock".to_owned());
        assert_eq!(drain, Ok(Asked::DrainEndpoint { upstream, endpoint, drained: false }));
    }

    #[test]
    fn a_kick_has_a_subject_a_time_and_words() {
        let kick = post("/api/v1/kick", "subject=ada%40example+1&for=10m&code=4000&reason=go");
        assert_eq!(
            kick,
            Ok(Asked::Kick {
                subject: Subject::new("ada@example 1").unwrap(),
                ban: Some(Duration::from_secs(600)),
                farewell: Farewell { code: CloseCode::from(4000), reason: "go".into() },
            })
        );
        let long = format!("subject=a&reason={}", "x".repeat(124));
        for query in [
            "",
            "subject=",
            "subject=a&for=31d",
            "subject=a&for=x",
            "subject=a&code=1005",
            "subject=%zz",
            "subject=a&subject=b",
            "subject=%ff",
            "subject=a&fro=10m",
            &long,
        ] {
            assert!(matches!(post("/api/v1/kick", query), Err(Unasked::Value(_))), "{query}");
        }
    }

    #[test]
    fn a_page_has_filters() {
        let page = get("/api/v1/connections", "after=0-17-42&limit=5&route=chat");
        let after = Some(ConnId { worker: 0, slot: 17, serial: 42 });
        let wanted = Page { after, limit: 5, route: Some("chat".into()), ..Page::default() };
        assert_eq!(page, Ok(Asked::Connections(wanted)));
        for query in
            ["limit=0", "limit=1001", "after=1", "after=1-2-x", "after=+1-2-3", "rout=chat"]
        {
            let page = get("/api/v1/connections", query);
            assert!(matches!(page, Err(Unasked::Value(_))), "{query}");
        }
    }
}
