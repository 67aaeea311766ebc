//! Why a tunnel ended, whose doing it was, and what each side is told.
//!
//! Every tunnel ends in exactly one [`Ending`]. [`Reason::closes`] is the one map from reasons to
//! close codes.

use crate::ws::CloseCode;

/// One of the two peers of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client,
    Upstream,
}

impl Side {
    pub const BOTH: [Side; 2] = [Side::Client, Side::Upstream];

    pub fn other(self) -> Side {
        match self {
            Side::Client => Side::Upstream,
            Side::Upstream => Side::Client,
        }
    }
}

/// Whose doing an ending or a refusal was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Blame {
    Client,
    Upstream,
    Edge,
}

impl Blame {
    pub const ALL: [Blame; 3] = [Blame::Client, Blame::Upstream, Blame::Edge];

    /// The word in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Blame::Client => "client",
            Blame::Upstream => "upstream",
            Blame::Edge => "edge",
        }
    }
}

impl From<Side> for Blame {
    fn from(side: Side) -> Blame {
        match side {
            Side::Client => Blame::Client,
            Side::Upstream => Blame::Upstream,
        }
    }
}

/// Why a tunnel ended. A side in it is the one that did it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It sent Close.
    Closed(Side),
    /// Its connection broke without a Close.
    Lost(Side),
    ProtocolError(Side),
    /// A text or a close reason that is not UTF-8.
    NotUtf8(Side),
    FrameTooBig(Side),
    MessageTooBig(Side),
    RateLimited,
    HeartbeatTimeout(Side),
    FrameStalled(Side),
    SlowConsumer(Side),
    IdleTimeout,
    MaxAge,
    TokenExpired,
    /// The authorizer was asked again, and refused.
    AuthorizationRevoked,
    /// By an operator.
    Kicked,
    Drain,
    /// Its endpoint, or its route, was deleted from the configuration.
    EndpointRemoved,
    RouteRemoved,
}

/// The close codes that the two sides are told; `None`: no Close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closes {
    pub client: Option<CloseCode>,
    pub upstream: Option<CloseCode>,
}

impl Closes {
    pub fn to(self, side: Side) -> Option<CloseCode> {
        match side {
            Side::Client => self.client,
            Side::Upstream => self.upstream,
        }
    }
}

/// How an ending goes about: see `tunnel::closing`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// The edge's own wish: messages are finished, answers awaited.
    Orderly,
    /// The client may no longer be here: as orderly, but what it sends stops at once.
    Expelled,
    /// A side broke a rule: relaying stops at once.
    Violation(Side),
    /// A side is gone.
    Lost(Side),
    /// A side closed; its Close was relayed.
    Closed(Side),
}

impl Reason {
    /// Every reason there is.
    pub const ALL: [Reason; 27] = {
        use Side::{Client, Upstream};
        [
            Reason::Closed(Client),
            Reason::Closed(Upstream),
            Reason::Lost(Client),
            Reason::Lost(Upstream),
            Reason::ProtocolError(Client),
            Reason::ProtocolError(Upstream),
            Reason::NotUtf8(Client),
            Reason::NotUtf8(Upstream),
            Reason::FrameTooBig(Client),
            Reason::FrameTooBig(Upstream),
            Reason::MessageTooBig(Client),
            Reason::MessageTooBig(Upstream),
            Reason::RateLimited,
            Reason::HeartbeatTimeout(Client),
            Reason::HeartbeatTimeout(Upstream),
            Reason::FrameStalled(Client),
            Reason::FrameStalled(Upstream),
            Reason::SlowConsumer(Client),
            Reason::SlowConsumer(Upstream),
            Reason::IdleTimeout,
            Reason::MaxAge,
            Reason::TokenExpired,
            Reason::AuthorizationRevoked,
            Reason::Kicked,
            Reason::Drain,
            Reason::EndpointRemoved,
            Reason::RouteRemoved,
        ]
    };

    /// Every word that [`Reason::as_str`] can say.
    pub const WORDS: [&'static str; 20] = [
        "client_close",
        "upstream_close",
        "client_lost",
        "upstream_lost",
        "client_protocol_error",
        "upstream_protocol_error",
        "frame_too_big",
        "message_too_big",
        "rate_limited",
        "heartbeat_timeout",
        "frame_stalled",
        "slow_consumer",
        "idle_timeout",
        "max_age",
        "token_expired",
        "authorization_revoked",
        "kicked",
        "drain",
        "endpoint_removed",
        "route_removed",
    ];

    /// The word in logs and metrics.
    pub fn as_str(self) -> &'static str {
        use Side::{Client, Upstream};
        match self {
            Reason::Closed(Client) => "client_close",
            Reason::Closed(Upstream) => "upstream_close",
            Reason::Lost(Client) => "client_lost",
            Reason::Lost(Upstream) => "upstream_lost",
            Reason::ProtocolError(Client) | Reason::NotUtf8(Client) => "client_protocol_error",
            Reason::ProtocolError(Upstream) | Reason::NotUtf8(Upstream) => {
                "upstream_protocol_error"
            }
            Reason::FrameTooBig(_) => "frame_too_big",
            Reason::MessageTooBig(_) => "message_too_big",
            Reason::RateLimited => "rate_limited",
            Reason::HeartbeatTimeout(_) => "heartbeat_timeout",
            Reason::FrameStalled(_) => "frame_stalled",
            Reason::SlowConsumer(_) => "slow_consumer",
            Reason::IdleTimeout => "idle_timeout",
            Reason::MaxAge => "max_age",
            Reason::TokenExpired => "token_expired",
            Reason::AuthorizationRevoked => "authorization_revoked",
            Reason::Kicked => "kicked",
            Reason::Drain => "drain",
            Reason::EndpointRemoved => "endpoint_removed",
            Reason::RouteRemoved => "route_removed",
        }
    }

    pub fn by(self) -> Blame {
        match self.manner() {
            Manner::Orderly | Manner::Expelled => Blame::Edge,
            Manner::Violation(side) | Manner::Lost(side) | Manner::Closed(side) => side.into(),
        }
    }

    pub fn manner(self) -> Manner {
        match self {
            Reason::Closed(side) => Manner::Closed(side),
            Reason::Lost(side) => Manner::Lost(side),
            Reason::ProtocolError(side)
            | Reason::NotUtf8(side)
            | Reason::FrameTooBig(side)
            | Reason::MessageTooBig(side)
            | Reason::HeartbeatTimeout(side)
            | Reason::FrameStalled(side)
            | Reason::SlowConsumer(side) => Manner::Violation(side),
            Reason::RateLimited => Manner::Violation(Side::Client),
            Reason::IdleTimeout
            | Reason::MaxAge
            | Reason::Drain
            | Reason::EndpointRemoved
            | Reason::RouteRemoved => Manner::Orderly,
            Reason::TokenExpired | Reason::AuthorizationRevoked | Reason::Kicked => {
                Manner::Expelled
            }
        }
    }

    /// What the edge tells each side, where it is the edge that tells. A Close that is relayed
    /// ([`Reason::Closed`]) keeps the code it came with.
    pub fn closes(self) -> Closes {
        use CloseCode::{Again, Away, Error, Invalid, Policy, Protocol, Restart, Size};
        use Side::{Client, Upstream};
        let (client, upstream) = match self {
            Reason::Closed(_) | Reason::Lost(Client) => (None, None),
            Reason::Lost(Upstream) => (Some(Restart), None),
            Reason::ProtocolError(Client) => (Some(Protocol), Some(Away)),
            Reason::NotUtf8(Client) => (Some(Invalid), Some(Away)),
            Reason::ProtocolError(Upstream) => (Some(Error), Some(Protocol)),
            Reason::NotUtf8(Upstream) => (Some(Error), Some(Invalid)),
            Reason::FrameTooBig(Client) | Reason::MessageTooBig(Client) => (Some(Size), Some(Away)),
            Reason::FrameTooBig(Upstream) | Reason::MessageTooBig(Upstream) => {
                (Some(Error), Some(Size))
            }
            Reason::RateLimited | Reason::Kicked => (Some(Policy), Some(Away)),
            Reason::HeartbeatTimeout(Client) => (Some(Away), Some(Away)),
            Reason::HeartbeatTimeout(Upstream) => (Some(Restart), Some(Away)),
            Reason::FrameStalled(Client) | Reason::SlowConsumer(Client) => {
                (Some(Again), Some(Away))
            }
            Reason::FrameStalled(Upstream) | Reason::SlowConsumer(Upstream) => {
                (Some(Restart), Some(Policy))
            }
            Reason::IdleTimeout | Reason::MaxAge => (Some(Away), Some(Away)),
            // The route's `unauthorized_code`, where it says another.
            Reason::TokenExpired | Reason::AuthorizationRevoked => {
                (Some(CloseCode::Library(4001)), Some(Away))
            }
            Reason::Drain | Reason::EndpointRemoved | Reason::RouteRemoved => {
                (Some(Restart), Some(Away))
            }
        };
        Closes { client, upstream }
    }
}

/// The end of a tunnel: why, and with which codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    pub reason: Reason,
    pub closes: Closes,
}

impl Ending {
    /// The same, but a client is told `code`: a drain's own, for instance.
    pub fn telling_client(mut self, code: CloseCode) -> Ending {
        self.closes.client = self.closes.client.map(|_| code);
        self
    }
}

impl From<Reason> for Ending {
    fn from(reason: Reason) -> Ending {
        Ending { reason, closes: reason.closes() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Side::{Client, Upstream};

    #[test]
    fn each_reason_tells_each_side_its_code() {
        let table = [
            (Reason::Closed(Client), "client_close", Blame::Client, 0, 0),
            (Reason::Closed(Upstream), "upstream_close", Blame::Upstream, 0, 0),
            (Reason::Lost(Client), "client_lost", Blame::Client, 0, 0),
            (Reason::Lost(Upstream), "upstream_lost", Blame::Upstream, 1012, 0),
            (Reason::ProtocolError(Client), "client_protocol_error", Blame::Client, 1002, 1001),
            (Reason::NotUtf8(Client), "client_protocol_error", Blame::Client, 1007, 1001),
            (
                Reason::ProtocolError(Upstream),
                "upstream_protocol_error",
                Blame::Upstream,
                1011,
                1002,
            ),
            (Reason::NotUtf8(Upstream), "upstream_protocol_error", Blame::Upstream, 1011, 1007),
            (Reason::FrameTooBig(Client), "frame_too_big", Blame::Client, 1009, 1001),
            (Reason::FrameTooBig(Upstream), "frame_too_big", Blame::Upstream, 1011, 1009),
            (Reason::MessageTooBig(Client), "message_too_big", Blame::Client, 1009, 1001),
            (Reason::MessageTooBig(Upstream), "message_too_big", Blame::Upstream, 1011, 1009),
            (Reason::RateLimited, "rate_limited", Blame::Client, 1008, 1001),
            (Reason::HeartbeatTimeout(Client), "heartbeat_timeout", Blame::Client, 1001, 1001),
            (Reason::HeartbeatTimeout(Upstream), "heartbeat_timeout", Blame::Upstream, 1012, 1001),
            (Reason::FrameStalled(Client), "frame_stalled", Blame::Client, 1013, 1001),
            (Reason::FrameStalled(Upstream), "frame_stalled", Blame::Upstream, 1012, 1008),
            (Reason::SlowConsumer(Client), "slow_consumer", Blame::Client, 1013, 1001),
            (Reason::SlowConsumer(Upstream), "slow_consumer", Blame::Upstream, 1012, 1008),
            (Reason::IdleTimeout, "idle_timeout", Blame::Edge, 1001, 1001),
            (Reason::MaxAge, "max_age", Blame::Edge, 1001, 1001),
            (Reason::TokenExpired, "token_expired", Blame::Edge, 4001, 1001),
            (Reason::AuthorizationRevoked, "authorization_revoked", Blame::Edge, 4001, 1001),
            (Reason::Kicked, "kicked", Blame::Edge, 1008, 1001),
            (Reason::Drain, "drain", Blame::Edge, 1012, 1001),
            (Reason::EndpointRemoved, "endpoint_removed", Blame::Edge, 1012, 1001),
            (Reason::RouteRemoved, "route_removed", Blame::Edge, 1012, 1001),
        ];
        for (reason, word, by, client, upstream) in table {
            let closes = reason.closes();
            assert_eq!(reason.as_str(), word);
            assert!(Reason::WORDS.contains(&word), "{word} is not counted");
            assert!(Reason::ALL.contains(&reason), "{word} is not shown");
            assert_eq!(reason.by(), by, "{word}");
            assert_eq!(closes.client.map_or(0, u16::from), client, "{word} to the client");
            assert_eq!(closes.upstream.map_or(0, u16::from), upstream, "{word} to the upstream");
        }
    }
}
