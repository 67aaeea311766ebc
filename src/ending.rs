//! Whose doing an ending or a refusal was.

/// The side that closed, vanished, broke a rule or stayed silent; the edge for its own orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Blame {
    Client,
    Upstream,
    Edge,
}

impl Blame {
    pub fn as_str(self) -> &'static str {
        match self {
            Blame::Client => "client",
            Blame::Upstream => "upstream",
            Blame::Edge => "edge",
        }
    }
}
