//! HTTP/1.1 by hand: the upgrade a client sends, and heads and bodies as they came.

use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// The key that every upgrade of the tests carries, unless it says otherwise.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

pub fn accept_of(key: &str) -> String {
    derive_accept_key(key.as_bytes())
}

/// An upgrade, every line of it free to be wrong.
#[derive(Clone, Debug)]
pub struct Upgrade {
    start: String,
    headers: Vec<(String, String)>,
}

impl Upgrade {
    pub fn to(target: &str) -> Upgrade {
        Upgrade { start: format!("GET {target} HTTP/1.1"), headers: Vec::new() }
            .add("Host", "localhost")
            .add("Connection", "Upgrade")
            .add("Upgrade", "websocket")
            .add("Sec-WebSocket-Version", "13")
            .add("Sec-WebSocket-Key", KEY)
    }

    pub fn start(self, start: &str) -> Upgrade {
        Upgrade { start: start.to_owned(), ..self }
    }

    pub fn add(mut self, name: &str, value: &str) -> Upgrade {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn without(mut self, name: &str) -> Upgrade {
        self.headers.retain(|(own, _)| !own.eq_ignore_ascii_case(name));
        self
    }

    pub fn set(self, name: &str, value: &str) -> Upgrade {
        self.without(name).add(name, value)
    }

    pub fn bytes(&self) -> Vec<u8> {
        let lines = self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
        format!("{}\r\n{}\r\n", self.start, lines.collect::<String>()).into_bytes()
    }
}

/// A request or an answer as it came.
#[derive(Clone, Debug)]
pub struct Message {
    pub start: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Message {
    /// A head without its blank line.
    pub fn parse(head: &[u8]) -> Message {
        let text = String::from_utf8_lossy(head);
        let mut lines = text.split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        let headers = lines.filter(|line| !line.is_empty()).map(|line| {
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("no header: {line}"));
            (name.to_ascii_lowercase(), value.trim().to_owned())
        });
        Message { start, headers: headers.collect(), body: Vec::new() }
    }

    pub fn status(&self) -> u16 {
        let status = self.start.split(' ').nth(1).and_then(|status| status.parse().ok());
        status.unwrap_or_else(|| panic!("no status line: {:?}", self.start))
    }

    /// What a request asks for.
    pub fn target(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or_else(|| panic!("no request line: {}", self.start))
    }

    pub fn all(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|(own, _)| own.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }

    /// The only header of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "{name} came {} times: {all:?}", all.len());
        all.first().copied()
    }

    /// The body as a JSON object.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| {
            panic!("no JSON ({error}): {:?}", String::from_utf8_lossy(&self.body))
        })
    }
}
