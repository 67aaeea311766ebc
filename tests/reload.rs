//! A configuration changed under live sockets: who is told, who is not, and what a fault does.

mod support;

use std::time::Duration;

use rustix::process::Signal;
use support::{Backend, Config, Edge, Frame, Peer, Upgrade, open, soon};

/// Sends a text through the tunnel and takes it out on the other side.
async fn relay(client: &mut Peer, upstream: &mut Peer, text: &str) {
    client.send_frame(Frame::text(text)).await;
    assert_eq!(upstream.frame().await.payload, text.as_bytes());
    upstream.send_frame(Frame::text(text)).await;
    assert_eq!(client.frame().await.payload, text.as_bytes());
}

#[tokio::test]
async fn a_limit_binds_a_live_socket_at_its_next_message() {
    let backend = Backend::tcp().await;
    let config = Config::new(&backend.address).workers(2);
    let limit = |size: &str| config.clone().route(&format!("limits.max_message_size = {size:?}"));
    let edge = limit("1KiB").start().await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    relay(&mut client, &mut upstream, "small").await;
    edge.reconfigure(&limit("2KiB")).await;
    relay(&mut client, &mut upstream, &"x".repeat(1500)).await;
    edge.reconfigure(&limit("100B")).await;
    relay(&mut client, &mut upstream, &"x".repeat(100)).await;
    client.send_frame(Frame::text(&"x".repeat(101))).await;
    client.closes(1009).await;
    edge.assert_ended("message_too_big", "client").await;
}

#[tokio::test]
async fn a_heartbeat_that_is_switched_on_beats() {
    let backend = Backend::tcp().await;
    let config = Config::new(&backend.address);
    let edge = config.start().await;
    let (mut client, _upstream) = open(&edge, &backend).await;
    edge.reconfigure(&config.clone().heartbeat("heartbeat.interval = \"200ms\"")).await;
    let ping = soon("a ping", client.frame()).await;
    assert_eq!(ping.opcode, support::PING);
}

/// Two routes to two upstreams, and what else is written.
fn two(one: &Backend, two: &Backend, more: &str) -> Config {
    Config::new(&one.address)
        .server("drain = { window = \"200ms\" }")
        .more(&format!("[[upstream]]\nname = \"two\"\nendpoints = [{:?}]\n{more}", two.address))
}

const ROUTE_TWO: &str = "[[route]]\nname = \"two\"\npath = \"/two\"\nupstream = \"two\"\n\
    heartbeat.interval = \"off\"\nheartbeat.upstream.interval = \"off\"\ntimeouts.close = \"1s\"\n";

async fn open_two(edge: &Edge, backend: &Backend) -> (Peer, Peer) {
    support::open_as(edge, backend, Upgrade::to("/two"), "").await
}

#[tokio::test]
async fn a_deleted_route_closes_its_own_sockets_and_no_others() {
    let (first, second) = (Backend::tcp().await, Backend::tcp().await);
    let edge = two(&first, &second, ROUTE_TWO).start().await;
    let (mut client, mut upstream) = open(&edge, &first).await;
    let (mut gone, mut gone_upstream) = open_two(&edge, &second).await;
    edge.reconfigure(&two(&first, &second, "")).await;
    assert_eq!(gone.close().await.code, Some(1012));
    gone.send_frame(Frame::close(1012, "")).await;
    assert_eq!(gone_upstream.close().await.code, Some(1001));
    gone_upstream.send_frame(Frame::close(1001, "")).await;
    edge.assert_ended("route_removed", "edge").await;
    relay(&mut client, &mut upstream, "still here").await;
    let told = edge.logged(|line| line["sockets"] == 1);
    assert_eq!(told[0]["message"], "route two is gone: its sockets close");
}

#[tokio::test]
async fn a_deleted_route_that_says_so_keeps_its_sockets() {
    let (first, second) = (Backend::tcp().await, Backend::tcp().await);
    let keeping = format!("{ROUTE_TWO}on_removed = \"keep\"\n");
    let edge = two(&first, &second, &keeping).start().await;
    let (mut client, mut upstream) = open_two(&edge, &second).await;
    edge.reconfigure(&two(&first, &second, "")).await;
    relay(&mut client, &mut upstream, "still here").await;
    // Nor does a later reload know anything of it.
    edge.reconfigure(&two(&first, &second, "").route("limits.backlog = \"1MiB\"")).await;
    relay(&mut client, &mut upstream, "and still").await;
}

#[tokio::test]
async fn a_deleted_endpoint_closes_its_own_sockets_and_no_others() {
    let (first, second) = (Backend::tcp().await, Backend::tcp().await);
    let config = |endpoints: &[&Backend]| {
        let endpoints: Vec<_> = endpoints.iter().map(|one| format!("{:?}", one.address)).collect();
        Config::new("")
            .endpoints(&format!("[{}]", endpoints.join(", ")))
            .server("drain = { window = \"100ms\" }")
    };
    let edge = config(&[&first]).start().await;
    let (mut old, _old_upstream) = open(&edge, &first).await;
    edge.reconfigure(&config(&[&second, &first])).await;
    edge.reconfigure(&config(&[&second])).await;
    assert_eq!(old.close().await.code, Some(1012));
    old.send_frame(Frame::close(1012, "")).await;
    edge.assert_ended("endpoint_removed", "edge").await;
    let (mut client, mut upstream) = open(&edge, &second).await;
    relay(&mut client, &mut upstream, "here").await;
}

#[tokio::test]
async fn a_fault_keeps_what_runs_and_says_what_check_says() {
    let backend = Backend::tcp().await;
    let config = Config::new(&backend.address);
    let edge = config.start().await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    edge.rewrite(&config.clone().route("limits.max_message_sise = \"1KiB\"").text());
    edge.signal(Signal::HUP);
    let kept =
        |line: &support::Line| line["message"] == "configuration not reloaded: what runs goes on";
    let line = edge.wait_for_log(kept).await;
    let fault = line["fault"].as_str().expect("a text");
    assert!(fault.contains("max_message_size") && fault.contains("wsgate.toml:"), "{fault}");
    relay(&mut client, &mut upstream, "still here").await;
    // It is told once, and again to whoever asks.
    edge.signal(Signal::HUP);
    edge.wait_for_logs(2, kept).await;
    edge.reconfigure(&config.route("limits.max_message_size = \"1KiB\"")).await;
    client.send_frame(Frame::text(&"x".repeat(1025))).await;
    client.closes(1009).await;
}

#[tokio::test]
async fn a_listener_comes_and_goes() {
    let backend = Backend::tcp().await;
    let config = Config::new(&backend.address);
    let edge = config.start().await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    edge.reconfigure(&config.clone().more("[[listener]]\nlisten = \"127.0.0.3:0\"")).await;
    let line = edge
        .wait_for_log(|line| {
            line["message"] == "listening"
                && line["address"].as_str().is_some_and(|at| at.starts_with("127.0.0.3"))
        })
        .await;
    let address = line["address"].as_str().expect("an address").to_owned();
    let connect = || tokio::net::TcpStream::connect(address.clone());
    let mut third = Peer::client(connect().await.expect("a third listener"));
    let (answer, mut over_there) = tokio::join!(third.ask(Upgrade::to("/")), async {
        backend.accept().await.upgrade("").await
    });
    assert_eq!(answer.status(), 101);
    edge.reconfigure(&config).await;
    soon("the third listener is closed", async {
        while connect().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    relay(&mut third, &mut over_there, "stays").await;
    relay(&mut client, &mut upstream, "stays too").await;
}
