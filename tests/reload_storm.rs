//! Sockets that echo without pause while their configuration is rewritten again and again, in
//! every way that files are rewritten: nobody is closed, nothing is lost, nothing is left behind.
//!
//! `WSGATE_STORM=2000x200` makes it as large as it is told in `docs/reload.md`.

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use support::{Config, Edge, Frame, Peer, Upgrade, accept_of, reloaded, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Sockets and rewrites.
fn size() -> (usize, usize) {
    let asked = std::env::var("WSGATE_STORM").ok();
    let asked = asked.as_deref().and_then(|text| text.split_once('x'));
    asked.map_or((200, 30), |(sockets, rewrites)| {
        (sockets.parse().expect("a number"), rewrites.parse().expect("a number"))
    })
}

#[tokio::test]
async fn a_storm_of_reloads_touches_nobody() {
    let (sockets, rewrites) = size();
    let echo = TcpListener::bind("127.0.0.1:0").await.expect("an echo server");
    let address = echo.local_addr().expect("its address").to_string();
    tokio::spawn(serve(echo));
    let config = Config::new(&address).workers(2);
    let edge = config.start().await;

    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for _ in 0..sockets {
        let mut client = edge.connect_plain().await;
        client.upgrade(Upgrade::to("/")).await;
        clients.spawn(chat(client, stop.clone()));
    }
    rewrite(&edge, &config, 0).await;
    let before = (edge.descriptors(), edge.threads());
    let (mut resident, began) = (Vec::new(), Instant::now());
    for number in 1..=rewrites {
        rewrite(&edge, &config, number).await;
        resident.push(edge.resident());
        // As many in a minute as the storm is told to have.
        let due = Duration::from_millis(300).mul_f64(number as f64);
        tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
    }
    assert_eq!((edge.descriptors(), edge.threads()), before);
    assert_eq!(edge.logged(support::ended).len(), 0);
    stop.store(true, Ordering::Relaxed);
    let rounds = within(Duration::from_secs(60), "all clients end", clients.join_all()).await;
    let (messages, slowest): (Vec<_>, Vec<_>) = rounds.into_iter().unzip();
    println!(
        "{sockets} sockets, {rewrites} reloads in {:?}: {} messages, the slowest took {:?}; \
         resident {} KiB after the first reload, {} KiB after the last",
        began.elapsed(),
        messages.iter().sum::<u64>(),
        slowest.iter().max().expect("there are clients"),
        resident[0] / 1024,
        resident[resident.len() - 1] / 1024,
    );
    assert!(messages.iter().all(|count| *count > 0));
    let grown = resident[resident.len() - 1].saturating_sub(resident[0]);
    assert!(grown < 8 << 20, "{grown} bytes more");
    assert_eq!(edge.logged(|line| line["level"] == "ERROR").len(), 0);
}

/// Sends numbers and expects each to come back in its turn; gives how many, and the slowest.
async fn chat(mut client: Peer, stop: Arc<AtomicBool>) -> (u64, Duration) {
    let (mut number, mut slowest) = (0_u64, Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let sent = Instant::now();
        client.send_frame(Frame::binary(number.to_be_bytes())).await;
        assert_eq!(client.frame().await.payload, number.to_be_bytes());
        slowest = slowest.max(sent.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    client.send_frame(Frame::close(1000, "")).await;
    assert_eq!(client.close().await.code, Some(1000));
    (number, slowest)
}

/// Puts another good configuration in the file's place, as an editor, a shell or Kubernetes does,
/// and waits until it is in use.
async fn rewrite(edge: &Edge, config: &Config, number: usize) {
    let text = config.clone().route(&format!("limits.backlog = \"{}KiB\"", 256 + number)).text();
    let (file, before) = (edge.file(), edge.logged(reloaded).len());
    match number % 3 {
        0 => edge.rewrite(&text),
        1 => write_in_place(&file, &text),
        _ => swap_data(file.parent().expect("it has a folder"), &text, number),
    }
    edge.wait_for_logs(before + 1, reloaded).await;
}

/// Truncates the file and writes it in two halves: what is read in between is half a file.
fn write_in_place(file: &Path, text: &str) {
    use std::io::Write;
    let (head, tail) = text.split_at(text.len() / 2);
    let mut file = fs::File::create(file).expect("the file opens");
    file.write_all(head.as_bytes()).expect("its first half");
    file.write_all(tail.as_bytes()).expect("its second half");
}

/// The swap of a mounted ConfigMap: the file is a link into `..data`, which is a link that is
/// turned to another folder.
fn swap_data(folder: &Path, text: &str, number: usize) {
    let version = folder.join(format!("..version{number}"));
    fs::create_dir(&version).expect("a folder for this version");
    fs::write(version.join("wsgate.toml"), text).expect("its file");
    let turned = folder.join("..data_tmp");
    symlink(&version, &turned).expect("a link to the version");
    fs::rename(&turned, folder.join("..data")).expect("the swap");
    let link = folder.join("link");
    symlink("..data/wsgate.toml", &link).expect("a link into ..data");
    fs::rename(&link, folder.join("wsgate.toml")).expect("the file is that link");
}

/// Echoes binary frames under 126 bytes, and a Close.
async fn serve(listener: TcpListener) {
    while let Ok((socket, _)) = listener.accept().await {
        tokio::spawn(async move { drop(echo(socket).await) });
    }
}

async fn echo(mut socket: TcpStream) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        read.push(socket.read_u8().await?);
    }
    let head = support::Message::parse(&read);
    let accept = accept_of(head.header("sec-websocket-key").unwrap_or_default());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    socket.write_all(answer.as_bytes()).await?;
    let mut wire = Vec::new();
    while socket.read_buf(&mut wire).await? > 0 {
        while let Some((frame, used)) = Frame::decode(&wire) {
            wire.drain(..used);
            let closes = frame.opcode == support::CLOSE;
            socket.write_all(&frame.masked(false).encode()).await?;
            if closes {
                return socket.shutdown().await;
            }
        }
    }
    Ok(())
}
