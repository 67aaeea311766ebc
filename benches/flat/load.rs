//! Many connections, few of them busy at once.

use std::io;

use anyhow::ensure;
use tokio::task::JoinSet;

use crate::client::{Message, Target, close};
use crate::frame::broken;
use crate::link::Link;

/// How many handshakes are under way at once.
const SHAKING: usize = 32;
/// How many messages are under way at once, however many connections there are: what one wake-up
/// brings is then alike, and only the number of connections differs.
const IN_FLIGHT: usize = 100;

/// Opens so many connections.
pub async fn open(target: &Target, count: usize) -> anyhow::Result<Vec<Link>> {
    let mut links = Vec::with_capacity(count);
    let mut opening = JoinSet::new();
    for _ in 0..count {
        if opening.len() == SHAKING {
            links.extend(one(&mut opening).await?);
        }
        let target = target.clone();
        opening.spawn(async move { target.connect().await });
    }
    while let Some(link) = one(&mut opening).await? {
        links.push(link);
    }
    ensure!(links.len() == count, "{} of {count} connections opened", links.len());
    Ok(links)
}

/// Closes them all in order.
pub async fn close_all(links: Vec<Link>) -> anyhow::Result<()> {
    let mut closing = JoinSet::new();
    for link in links {
        if closing.len() == SHAKING {
            one(&mut closing).await?;
        }
        closing.spawn(close(link));
    }
    while one(&mut closing).await?.is_some() {}
    Ok(())
}

/// Echoes `each` messages of `bytes` bytes on every connection, in turns.
pub async fn echo(links: Vec<Link>, bytes: usize, each: u64) -> anyhow::Result<Vec<Link>> {
    let share = links.len().div_ceil(IN_FLIGHT);
    let (mut playing, mut links) = (JoinSet::new(), links.into_iter());
    loop {
        let mut group: Vec<_> = links.by_ref().take(share).collect();
        if group.is_empty() {
            break;
        }
        let mut message = Message::new(bytes);
        playing.spawn(async move {
            for number in 0..each {
                for link in &mut group {
                    echo_one(link, &mut message, number).await?;
                }
            }
            Ok(group)
        });
    }
    let mut played = Vec::new();
    while let Some(group) = one(&mut playing).await? {
        played.extend(group);
    }
    Ok(played)
}

async fn echo_one(link: &mut Link, message: &mut Message, number: u64) -> io::Result<()> {
    link.send(message.stamped(number)).await?;
    let head = link.next().await?;
    let echoed = message.number(link.bytes(head))?;
    link.consume(head);
    if echoed == number { Ok(()) } else { Err(broken("another echo than was due")) }
}

/// Connections that keep still and answer pings.
pub struct Still(JoinSet<io::Result<()>>);

impl Still {
    pub fn new(links: Vec<Link>) -> Still {
        let mut still = JoinSet::new();
        for mut link in links {
            still.spawn(async move {
                let head = link.next().await?;
                let (opcode, payload) = (head.opcode, &*link.payload(head));
                let told = format!("an idle connection was sent opcode {opcode}: {payload:?}");
                Err(broken(&told))
            });
        }
        Still(still)
    }

    /// Fails where one of them has ended.
    pub fn all_live(&mut self) -> anyhow::Result<()> {
        self.0.try_join_next().transpose()?.transpose()?;
        Ok(())
    }
}

async fn one<T: 'static>(tasks: &mut JoinSet<io::Result<T>>) -> anyhow::Result<Option<T>> {
    Ok(tasks.join_next().await.transpose()?.transpose()?)
}
