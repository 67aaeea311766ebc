//! A load: opens connections from an address of its own, and keeps still but for an echo on each of
//! them when it is told to.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::client::{Message, Target};
use crate::frame::broken;
use crate::link::Link;
use crate::tls::Certificate;

/// How many handshakes are under way at once.
const OPENING: usize = 32;

#[derive(Args, Debug)]
pub struct Load {
    /// Where the edges listen
    #[arg(long)]
    pub address: SocketAddr,
    /// The local address to connect from
    #[arg(long)]
    pub source: Ipv4Addr,
    #[arg(long)]
    pub connections: usize,
    /// PEM file of the certificate to trust; plain without it
    #[arg(long)]
    pub chain: Option<PathBuf>,
}

impl Load {
    /// Says "open" when all are, "echoed" when all have, "lost" for each that ends.
    pub async fn run(self) -> anyhow::Result<()> {
        // Before the first word: a signal without a handler would end this process.
        let mut asked = signal(SignalKind::user_defined1())?;
        let (round, rounds) = watch::channel(0);
        let (tell, mut news) = mpsc::unbounded_channel();
        for link in self.open().await? {
            let (rounds, tell) = (rounds.clone(), tell.clone());
            tokio::spawn(async move {
                let end = keep(link, rounds, &tell).await;
                let _ = tell.send(News::Lost(end));
            });
        }
        println!("open");
        let mut echoed = 0;
        loop {
            tokio::select! {
                _ = asked.recv() => round.send_modify(|round| *round += 1),
                Some(news) = news.recv() => match news {
                    News::Lost(error) => println!("lost: {error}"),
                    News::Echoed => {
                        echoed += 1;
                        if echoed % self.connections == 0 {
                            println!("echoed");
                        }
                    }
                },
            }
        }
    }

    async fn open(&self) -> anyhow::Result<Vec<Link>> {
        let chain = self.chain.clone();
        let tls = chain.map(|chain| Certificate { key: PathBuf::new(), chain }.connector());
        let tls = tls.transpose()?;
        let target = Target { address: self.address, source: Some(self.source), tls, token: None };
        let mut opening = JoinSet::new();
        let mut links = Vec::with_capacity(self.connections);
        for _ in 0..self.connections {
            if opening.len() == OPENING {
                links.extend(opening.join_next().await.transpose()?.transpose()?);
            }
            let target = target.clone();
            opening.spawn(async move { target.connect().await });
        }
        while let Some(opened) = opening.join_next().await {
            links.push(opened??);
        }
        Ok(links)
    }
}

/// What a connection tells its load.
enum News {
    Echoed,
    Lost(io::Error),
}

/// Keeps still, answering pings, and echoes a message each round; gives the connection's end.
async fn keep(
    mut link: Link,
    mut rounds: watch::Receiver<u64>,
    tell: &mpsc::UnboundedSender<News>,
) -> io::Error {
    loop {
        let round = tokio::select! {
            head = link.next() => {
                return head.err().unwrap_or_else(|| broken("a frame came unasked"));
            }
            Ok(()) = rounds.changed() => *rounds.borrow_and_update(),
        };
        if let Err(error) = echo(&mut link, round).await {
            return error;
        }
        let _ = tell.send(News::Echoed);
    }
}

async fn echo(link: &mut Link, number: u64) -> io::Result<()> {
    let mut message = Message::new(64);
    link.send(message.stamped(number)).await?;
    let head = link.next().await?;
    if message.number(link.bytes(head))? != number {
        return Err(broken("another echo than was due"));
    }
    link.consume(head);
    Ok(())
}
