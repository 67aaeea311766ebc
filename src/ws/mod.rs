//! The WebSocket protocol without its sockets: handshakes, frame heads,
//! control frames, close codes.
//!
//! tungstenite's types are the vocabulary; what they do not check is checked by `tunnel::meter`.

mod control;
pub mod extensions;
mod fields;
pub mod handshake;
pub mod head;

pub use control::{CloseFault, ClosePayload, ControlFrame};
pub use fields::{elements, is_token_byte};
pub use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
pub use tokio_tungstenite::tungstenite::protocol::frame::coding::{
    CloseCode, Control, Data, OpCode,
};

/// Whether a Close frame may carry this code: those of RFC 6455 §7.4.1 and of IANA's registry
/// that are not reserved for endpoints to themselves, and the private ranges of §7.4.2.
pub fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

#[cfg(test)]
mod tests {
    use super::may_be_sent;

    #[test]
    fn codes_that_only_an_endpoint_tells_itself_may_not_be_sent() {
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, u16::MAX] {
            assert!(!may_be_sent(code), "{code}");
        }
        for code in [1000, 1003, 1007, 1012, 1013, 1014, 3000, 4001, 4999] {
            assert!(may_be_sent(code), "{code}");
        }
    }
}
