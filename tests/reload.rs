//! A configuration changed under live sockets: who is told, who is not, and what a fault does.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::{
    Backend, Config, Edge, Frame, Peer, Upgrade, not_reloaded, open, open_as, relay, soon, stalled,
};
use tokio::task::JoinSet;

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
    open_as(edge, backend, Upgrade::to("/two"), "").await
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
    let line = edge.wait_for_log(not_reloaded).await;
    let fault = line["fault"].as_str().expect("a text");
    assert!(fault.contains("max_message_size") && fault.contains("wsgate.toml:"), "{fault}");
    relay(&mut client, &mut upstream, "still here").await;
    // It is told once, and again to whoever asks.
    edge.signal(Signal::HUP);
    edge.wait_for_logs(2, not_reloaded).await;
    edge.reconfigure(&config.route("limits.max_message_size = \"1KiB\"")).await;
    client.send_frame(Frame::text(&"x".repeat(1025))).await;
    client.closes(1009).await;
}

// ---- what binds a live socket ----

#[tokio::test]
async fn an_idle_time_binds_who_is_idle_already() {
    let backend = Backend::tcp().await;
    let config = Config::new(&backend.address);
    let edge = config.start().await;
    let (mut client, _upstream) = open(&edge, &backend).await;
    edge.reconfigure(&config.route("timeouts.idle = \"300ms\"")).await;
    client.closes(1001).await;
    edge.assert_ended("idle_timeout", "edge").await;
}

#[tokio::test]
async fn a_lowered_age_ends_those_who_are_too_old_one_after_the_other() {
    let backend = Backend::tcp().await;
    let config = Config::new(&backend.address);
    let edge = config.clone().route("timeouts.max_age = \"1h\"").start().await;
    let mut ending = JoinSet::new();
    for _ in 0..20 {
        let (mut client, upstream) = open(&edge, &backend).await;
        ending.spawn(async move {
            let _upstream = upstream;
            assert_eq!(client.close().await.code, Some(1001));
            Instant::now()
        });
    }
    edge.reconfigure(&config.route("timeouts.max_age = \"4s\"")).await;
    let ends = ending.join_all().await;
    let [first, last] = [ends.iter().min(), ends.iter().max()].map(|end| *end.expect("an end"));
    assert!(last - first > Duration::from_millis(100), "{:?}", last - first);
    edge.assert_ended("max_age", "edge").await;
}

#[tokio::test]
async fn a_frame_that_stalls_already_has_the_new_patience() {
    let backend = Backend::tcp().await;
    let config = Config::new(&backend.address);
    let edge = config.start().await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    let frame = Frame::binary([0; 1000]).masked(true).encode();
    client.send(&frame[..100]).await;
    upstream.reader.next_bytes().await;
    edge.reconfigure(&config.route("limits.frame_stall = \"300ms\"")).await;
    assert_eq!(client.close().await.code, Some(1013));
    edge.assert_ended("frame_stalled", "client").await;
}

/// Has an upstream send without end; the count is of what was sent.
fn flood(mut upstream: Peer) -> Arc<AtomicU64> {
    let sent = Arc::<AtomicU64>::default();
    let count = sent.clone();
    tokio::spawn(async move {
        let frame = Frame::binary([7; 16 << 10]).encode();
        while upstream.writer.try_send(&frame).await.is_ok() {
            count.fetch_add(frame.len() as u64, Ordering::Relaxed);
        }
    });
    sent
}

#[tokio::test]
async fn a_backlog_grows_and_a_slow_consumer_has_the_new_patience() {
    let backend = Backend::tcp().await;
    let config = Config::new(&backend.address);
    let edge = config.clone().route("limits.backlog = \"64KiB\"").start().await;
    let (_client, upstream) = open(&edge, &backend).await;
    let sent = flood(upstream);
    stalled(&sent).await;
    let before = sent.load(Ordering::Relaxed);
    edge.reconfigure(&config.clone().route("limits.backlog = \"8MiB\"")).await;
    soon("the upstream may send more", async {
        while sent.load(Ordering::Relaxed) < before + (6 << 20) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let both = "limits.backlog = \"8MiB\"\nlimits.slow_consumer = \"300ms\"";
    edge.reconfigure(&config.route(both)).await;
    edge.assert_ended("slow_consumer", "client").await;
}

fn messages(config: &Config, rate: &str, action: &str) -> Config {
    config.clone().route(&format!(
        "compression = \"strip\"\nlimits.messages = {{ rate = {rate:?}, burst = 1, action = {action:?} }}"
    ))
}

#[tokio::test]
async fn who_is_throttled_goes_on_by_a_raised_rate() {
    let backend = Backend::tcp().await;
    let config = Config::new(&backend.address);
    let edge = messages(&config, "1/h", "throttle").start().await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    for text in ["one", "two", "three"] {
        client.send_frame(Frame::text(text)).await;
    }
    assert_eq!(upstream.frame().await.payload, b"one");
    edge.reconfigure(&messages(&config, "1000/s", "throttle")).await;
    assert_eq!(upstream.frame().await.payload, b"two");
    assert_eq!(upstream.frame().await.payload, b"three");
}

#[tokio::test]
async fn an_action_is_changed_for_live_sockets() {
    let backend = Backend::tcp().await;
    let config = Config::new(&backend.address);
    let edge = messages(&config, "1/h", "drop").start().await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    for text in ["one", "dropped"] {
        client.send_frame(Frame::text(text)).await;
    }
    assert_eq!(upstream.frame().await.payload, b"one");
    client.send_frame(Frame::new(support::PING, "")).await;
    assert_eq!(client.frame().await.opcode, support::PONG);
    // What is used up of a rate that is the same stays so.
    edge.reconfigure(&messages(&config, "1/h", "close")).await;
    client.send_frame(Frame::text("closed")).await;
    client.closes(1008).await;
    upstream.closes(1001).await;
    edge.assert_ended("rate_limited", "client").await;
}

#[tokio::test]
async fn to_drop_is_to_close_where_deflate_was_negotiated() {
    let backend = Backend::tcp().await;
    let config = Config::new(&backend.address);
    let edge = config.start().await;
    let deflate = Upgrade::to("/").add("Sec-WebSocket-Extensions", "permessage-deflate");
    let answer = "Sec-WebSocket-Extensions: permessage-deflate\r\n";
    let (mut client, mut upstream) = open_as(&edge, &backend, deflate, answer).await;
    relay(&mut client, &mut upstream, "deflate was negotiated").await;
    edge.reconfigure(&messages(&config, "1/h", "drop")).await;
    client.send_frame(Frame::text("one")).await;
    assert_eq!(upstream.frame().await.payload, b"one");
    client.send_frame(Frame::text("two")).await;
    client.closes(1008).await;
    edge.assert_ended("rate_limited", "client").await;
}

// ---- what is deleted, renamed or moved ----

#[tokio::test]
async fn the_sockets_of_a_deleted_route_end_spread_over_the_window() {
    let (first, second) = (Backend::tcp().await, Backend::tcp().await);
    let window = |config: Config| config.workers(2).server("drain.window = \"3s\"");
    let config = |more| window(Config::new(&first.address)).more(&upstream_two(&second, more));
    let edge = config(ROUTE_TWO).start().await;
    let (mut client, mut upstream) = open(&edge, &first).await;
    let mut ending = JoinSet::new();
    for _ in 0..200 {
        let mut gone = edge.connect_plain().await;
        let (_, upstream) = tokio::join!(gone.upgrade(Upgrade::to("/two")), async {
            second.accept().await.upgrade("").await
        });
        ending.spawn(async move {
            let _upstream = upstream;
            gone.closes(1012).await;
            Instant::now()
        });
    }
    edge.reconfigure(&config("")).await;
    let began = Instant::now();
    let told = edge.logged(|line| line["sockets"] == 200);
    assert_eq!(told[0]["message"], "route two is gone: its sockets close");
    let mut thirds = [0; 3];
    for end in ending.join_all().await {
        let share = end.saturating_duration_since(began).as_secs_f64();
        thirds[(share as usize).min(2)] += 1;
    }
    assert!(thirds.iter().all(|third| (30..110).contains(third)), "{thirds:?}");
    relay(&mut client, &mut upstream, "still here").await;
    let reasons = edge.logged(support::ended);
    assert!(reasons.iter().all(|line| line["reason"] == "route_removed"));
}

fn upstream_two(backend: &Backend, more: &str) -> String {
    format!("[[upstream]]\nname = \"two\"\nendpoints = [{:?}]\n{more}", backend.address)
}

#[tokio::test]
async fn a_rename_is_a_removal() {
    let backend = Backend::tcp().await;
    let config = Config::new(&backend.address).server("drain.window = \"100ms\"");
    let edge = config.start().await;
    let (mut client, _upstream) = open(&edge, &backend).await;
    let route =
        |text: &str| text.replace("[[route]]\nname = \"app\"", "[[route]]\nname = \"renamed\"");
    edge.reconfigure_by(&route(&config.text())).await;
    client.closes(1012).await;
    edge.assert_ended("route_removed", "edge").await;
    let (mut client, _upstream) = open(&edge, &backend).await;
    let all = |text: &str| route(text).replace("\"app\"", "\"other\"");
    edge.reconfigure_by(&all(&config.text())).await;
    client.closes(1012).await;
    edge.wait_for_log(|line| line["reason"] == "endpoint_removed").await;
}

#[tokio::test]
async fn an_upstream_goes_as_a_whole_and_a_route_that_moved_away_does_not_save_its_sockets() {
    let (first, second) = (Backend::tcp().await, Backend::tcp().await);
    for (on_removed, closes) in [("close", true), ("keep", false)] {
        let config = two(&first, &second, "").upstream(&format!("on_removed = {on_removed:?}"));
        let edge = config.start().await;
        let (mut client, mut upstream) = open(&edge, &first).await;
        let moved = config.text().replace("upstream = \"app\"", "upstream = \"two\"");
        edge.reconfigure_by(&moved).await;
        relay(&mut client, &mut upstream, "bound at the handshake").await;
        let (mut other, mut over_there) = open(&edge, &second).await;
        let from = moved.find("[[upstream]]\nname = \"app\"").expect("its table");
        let to = moved.find("[[route]]").expect("the route's table");
        edge.reconfigure_by(&[&moved[..from], &moved[to..]].concat()).await;
        if closes {
            client.closes(1012).await;
            edge.assert_ended("endpoint_removed", "edge").await;
        } else {
            relay(&mut client, &mut upstream, "kept").await;
        }
        relay(&mut other, &mut over_there, "here").await;
    }
}

#[tokio::test]
async fn an_endpoint_that_moves_to_another_upstream_is_gone_from_the_first() {
    let (first, second) = (Backend::tcp().await, Backend::tcp().await);
    let config = |here: &str, there: &str| {
        let there = format!("[[upstream]]\nname = \"two\"\nendpoints = [{there}]\n{ROUTE_TWO}");
        Config::new("").endpoints(here).server("drain.window = \"100ms\"").more(&there)
    };
    let [one, other] = [&first, &second].map(|backend| format!("{:?}", backend.address));
    let edge = config(&format!("[{one}]"), &other).start().await;
    let (mut client, _upstream) = open(&edge, &first).await;
    let (mut stays, mut upstream_stays) = open_two(&edge, &second).await;
    edge.reconfigure(&config(&format!("[{other}]"), &format!("{one}, {other}"))).await;
    client.closes(1012).await;
    edge.assert_ended("endpoint_removed", "edge").await;
    relay(&mut stays, &mut upstream_stays, "still here").await;
}

/// A client whose upstream has been asked and has not answered yet.
async fn dialling(edge: &Edge, backend: &Backend, target: &str) -> (Peer, support::Request) {
    let mut client = edge.connect().await;
    client.send(&Upgrade::to(target).bytes()).await;
    (client, backend.accept().await)
}

#[tokio::test]
async fn a_dial_in_flight_does_not_outlive_its_route_or_endpoint() {
    let (first, second) = (Backend::tcp().await, Backend::tcp().await);
    let with =
        two(&first, &second, &format!("on_removed = \"keep\"\n{ROUTE_TWO}on_removed = \"keep\"\n"));
    let edge = with.start().await;
    let without = two(&first, &second, "");
    let replaced = with.text().replace(&second.address, &Backend::nobody().await);
    for text in [without.text(), replaced] {
        let (mut client, asked) = dialling(&edge, &second, "/two").await;
        edge.reconfigure_by(&text).await;
        let mut upstream = asked.upgrade("").await;
        let answer = client.reader.answer().await;
        assert_eq!(answer.status(), 503, "{answer:?}");
        assert!(answer.header("retry-after").is_some());
        upstream.end().await;
        edge.reconfigure(&with).await;
    }
}

#[tokio::test]
async fn a_dial_in_flight_comes_out_with_the_newest_plan() {
    let backend = Backend::tcp().await;
    let config = Config::new(&backend.address);
    let edge = config.start().await;
    let (mut client, asked) = dialling(&edge, &backend, "/").await;
    edge.reconfigure(&config.route("limits.max_message_size = \"10B\"")).await;
    let _upstream = asked.upgrade("").await;
    assert_eq!(client.reader.head().await.status(), 101);
    client.send_frame(Frame::text("eleven byte")).await;
    client.closes(1009).await;
}
