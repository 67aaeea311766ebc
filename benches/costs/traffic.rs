//! Traffic that is the same each time: one message under way at a time, over a few connections.
//!
//! How much a wake-up of the edge brings depends on nothing but the edge then, not on the machine's
//! speed nor on who else runs.

use std::io;

use crate::client::{Message, Target, close};
use crate::frame::broken;

/// Connections that take turns.
const CONNECTIONS: usize = 4;

/// How much of each is done.
#[derive(Clone, Copy, Debug)]
pub struct Traffic {
    pub small: u64,
    pub large: u64,
    pub handshakes: u64,
}

impl Traffic {
    /// Opens, echoes messages of 64 B and of 4 KiB, closes, and then shakes hands and closes.
    pub async fn run(self, target: &Target) -> io::Result<()> {
        let mut links = Vec::new();
        for _ in 0..CONNECTIONS {
            links.push(target.connect().await?);
        }
        for (bytes, count) in [(64, self.small), (4 << 10, self.large)] {
            let mut message = Message::new(bytes);
            for number in 0..count {
                let link = &mut links[number as usize % CONNECTIONS];
                link.send(message.stamped(number)).await?;
                let head = link.next().await?;
                if message.number(link.bytes(head))? != number {
                    return Err(broken("another echo than was due"));
                }
                link.consume(head);
            }
        }
        for link in links {
            close(link).await?;
        }
        for _ in 0..self.handshakes {
            close(target.connect().await?).await?;
        }
        Ok(())
    }
}
