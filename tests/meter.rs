//! Every rule of the meter, broken by raw bytes from each side. The offender and the other side
//! hear the codes of DESIGN §5, and not one byte of the offending frame passes.

mod support;

use futures_util::future::join_all;
use support::{
    BINARY, Backend, CLOSE, CONTINUATION, Config, Edge, End, Event, Frame, Head, Length, Line,
    PING, PONG, Peer, TEXT, Upgrade, open, open_as,
};

/// Who sends the offending bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sender {
    Client,
    Upstream,
}

use Sender::{Client, Upstream};

/// What breaks a rule, after frames that do not.
struct Offence {
    what: &'static str,
    before: Vec<Frame>,
    bytes: Vec<u8>,
    code: u16,
}

/// What the offence must lead to.
struct Verdict {
    /// The code that the other side is told.
    other: u16,
    reason: &'static str,
    by: &'static str,
    level: &'static str,
}

/// How the bytes are cut into writes.
#[derive(Clone, Copy, Debug)]
enum Pace {
    AtOnce,
    ByteByByte,
}

#[tokio::test]
async fn a_client_that_breaks_the_protocol_is_closed() {
    break_every_rule(Client, Pace::AtOnce).await;
}

#[tokio::test]
async fn an_upstream_that_breaks_the_protocol_is_closed() {
    break_every_rule(Upstream, Pace::AtOnce).await;
}

#[tokio::test]
async fn the_verdict_on_a_client_is_the_same_byte_by_byte() {
    break_every_rule(Client, Pace::ByteByByte).await;
}

#[tokio::test]
async fn the_verdict_on_an_upstream_is_the_same_byte_by_byte() {
    break_every_rule(Upstream, Pace::ByteByByte).await;
}

async fn break_every_rule(sender: Sender, pace: Pace) {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).start().await;
    let mut trials = Vec::new();
    for offence in protocol_offences(sender) {
        let tunnel = Tunnel::open(&edge, &backend, Upgrade::to("/"), "").await;
        trials.push(judge(&edge, tunnel, sender, pace, offence, protocol_error(sender)));
    }
    join_all(trials).await;
}

#[tokio::test]
async fn rsv1_is_judged_by_what_was_negotiated() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).start().await;
    let mut trials = Vec::new();
    for sender in [Client, Upstream] {
        let masked = sender == Client;
        let compressed = Frame::text("zip").with_rsv(4).masked(masked);
        let offences = [
            ("RSV1 on a continuation", vec![compressed.clone().not_final()], {
                Frame::new(CONTINUATION, "zip").with_rsv(4)
            }),
            ("RSV1 on a control frame", vec![compressed.clone()], {
                Frame::new(PING, "zip").with_rsv(4)
            }),
            ("RSV2 beside RSV1", vec![compressed], Frame::text("zip").with_rsv(6)),
        ];
        for (what, before, frame) in offences {
            let request = Upgrade::to("/").add("Sec-WebSocket-Extensions", "permessage-deflate");
            let answer = "Sec-WebSocket-Extensions: permessage-deflate\r\n";
            let tunnel = Tunnel::open(&edge, &backend, request, answer).await;
            let bytes = frame.masked(masked).encode();
            let offence = Offence { what, before, bytes, code: 1002 };
            let verdict = protocol_error(sender);
            trials.push(judge(&edge, tunnel, sender, Pace::AtOnce, offence, verdict));
        }
    }
    join_all(trials).await;
}

#[tokio::test]
async fn sizes_are_judged_from_the_head() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address)
        .route("limits.max_frame_size = \"1KiB\"")
        .route("limits.max_message_size = \"4KiB\"")
        .route("limits.upstream = { max_frame_size = \"1KiB\", max_message_size = \"4KiB\" }")
        .start()
        .await;
    let mut trials = Vec::new();
    for sender in [Client, Upstream] {
        let masked = sender == Client;
        let head = |opcode, length| Head { fin: true, rsv: 0, opcode, masked, length };
        let part = |opcode| Frame::new(opcode, vec![7; 1024]).not_final().masked(masked);
        let full = vec![part(BINARY), part(CONTINUATION), part(CONTINUATION), part(CONTINUATION)];
        let whole = Frame::binary(vec![7; 1024]).masked(masked);
        let too_big =
            |what, before, head: Head| Offence { what, before, bytes: head.encode(), code: 1009 };
        let offences = [
            ("frame_too_big", {
                too_big("1 KiB and a byte", vec![whole], head(BINARY, Length::Minimal(1025)))
            }),
            ("frame_too_big", {
                too_big("2^62 bytes", vec![], head(BINARY, Length::Minimal(1 << 62)))
            }),
            ("message_too_big", {
                too_big("4 KiB and a byte", full, head(CONTINUATION, Length::Minimal(1)))
            }),
            (
                "protocol",
                Offence {
                    what: "2^63 bytes: no length at all",
                    before: vec![],
                    bytes: head(BINARY, Length::Minimal(1 << 63)).encode(),
                    code: 1002,
                },
            ),
        ];
        for (reason, offence) in offences {
            let tunnel = Tunnel::open(&edge, &backend, Upgrade::to("/"), "").await;
            let verdict = match reason {
                "protocol" => protocol_error(sender),
                reason => Verdict { reason, ..protocol_error(sender) },
            };
            trials.push(judge(&edge, tunnel, sender, Pace::AtOnce, offence, verdict));
        }
    }
    join_all(trials).await;
}

#[tokio::test]
async fn whole_messages_up_to_their_limit_pass() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address)
        .route("limits.max_frame_size = \"1KiB\"")
        .route("limits.max_message_size = \"2KiB\"")
        .start()
        .await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    for _ in 0..3 {
        let frames = [
            Frame::binary(vec![1; 1024]).not_final(),
            Frame::new(CONTINUATION, vec![2; 1024]).not_final(),
            Frame::new(CONTINUATION, vec![]),
        ];
        for frame in frames {
            client.send_frame(frame.clone()).await;
            assert_eq!(upstream.frame().await, frame.masked(true));
        }
    }
    let large = Frame::binary(vec![3; 1 << 20]);
    upstream.send_frame(large.clone()).await;
    assert!(client.frame().await == large, "the upstream's sizes are off by default");
}

#[tokio::test]
async fn a_client_may_not_flood_with_control_frames() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).route("limits.control_frames = \"1/s\"").start().await;
    for (count, opcode) in [PING, PONG].into_iter().enumerate() {
        let (mut client, mut upstream) = open(&edge, &backend).await;
        for number in 0..10 {
            client.send_frame(Frame::new(opcode, [number])).await;
            if opcode == PING {
                assert_eq!(client.frame().await, Frame::new(PONG, [number]), "a burst of ten");
            }
        }
        client.send(&Frame::new(opcode, "x").masked(true).encode().repeat(20)).await;
        let close = loop {
            let frame = client.frame().await;
            if frame.opcode != PONG {
                break frame;
            }
        };
        assert_eq!(close.closing().code, Some(1008));
        client.writer.answer(close).await;
        assert_eq!(client.end().await, End::CloseNotify);
        drop(client);
        assert_eq!(upstream.closes(1001).await, End::Fin);
        let line = edge.wait_for_logs(count + 1, support::ended).await.remove(count);
        assert_eq!((&line["reason"], &line["by"]), (&"rate_limited".into(), &"client".into()));
    }
}

#[tokio::test]
async fn an_upstreams_control_frames_are_not_counted() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).route("limits.control_frames = \"1/s\"").start().await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    let pings: Vec<u8> = (0..100).flat_map(|number| Frame::new(PING, [number]).encode()).collect();
    upstream.send(&pings).await;
    // RFC 6455 §5.5.3: of several pings the last alone may be answered.
    while upstream.frame().await != Frame::new(PONG, [99]).masked(true) {}
    upstream.send_frame(Frame::text("still here")).await;
    assert_eq!(client.frame().await, Frame::text("still here"));
}

#[tokio::test]
async fn text_is_validated_where_it_is_asked_for() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address)
        .route("utf8 = \"check\"\ncompression = \"strip\"")
        .start()
        .await;
    let mut trials = Vec::new();
    for sender in [Client, Upstream] {
        for texts in bad_texts() {
            let tunnel = Tunnel::open(&edge, &backend, Upgrade::to("/"), "").await;
            trials.push(judge_text(&edge, tunnel, sender, texts));
        }
    }
    join_all(trials).await;
}

#[tokio::test]
async fn text_passes_in_pieces_that_cut_its_characters() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address)
        .route("utf8 = \"check\"\ncompression = \"strip\"")
        .start()
        .await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    let bytes = "zł € 𝄞 \u{10FFFF}".as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        let opcode = if at == 0 { TEXT } else { CONTINUATION };
        let frame = Frame { fin: at + 1 == bytes.len(), ..Frame::new(opcode, [*byte]) };
        client.send_frame(frame.clone()).await;
        upstream.send_frame(frame).await;
    }
    for peer in [&mut client, &mut upstream] {
        let mut text = Vec::new();
        while text.len() < bytes.len() {
            text.extend(peer.frame().await.payload);
        }
        assert_eq!(text, bytes);
    }
    let not_text = Frame::binary([0xFF, 0xFE]);
    client.send_frame(not_text.clone()).await;
    assert_eq!(upstream.frame().await, not_text.masked(true));
}

#[tokio::test]
async fn without_the_check_text_is_not_looked_at() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).start().await;
    let (mut client, mut upstream) = open(&edge, &backend).await;
    let frame = Frame::new(TEXT, [0xFF, 0xC0]);
    client.send_frame(frame.clone()).await;
    assert_eq!(upstream.frame().await, frame.clone().masked(true));
    upstream.send_frame(frame.clone()).await;
    assert_eq!(client.frame().await, frame);
}

#[tokio::test]
async fn every_code_that_may_be_sent_is_relayed() {
    let backend = Backend::tcp().await;
    let edge = Config::new(&backend.address).start().await;
    let codes = (1000..=1003).chain(1007..=1014).chain([3000, 3999, 4000, 4999]);
    for code in codes {
        for sender in [Client, Upstream] {
            let (mut client, mut upstream) = open(&edge, &backend).await;
            let (from, to) = match sender {
                Client => (&mut client, &mut upstream),
                Upstream => (&mut upstream, &mut client),
            };
            let close = Frame::close(code, "grüße");
            from.send_frame(close.clone()).await;
            let got = to.frame().await;
            assert_eq!(got.payload, close.payload, "{code} from {sender:?}");
            to.writer.answer(got).await;
            assert_eq!(from.frame().await.payload, close.payload, "{code} from {sender:?}");
        }
    }
}

/// Both ends of a tunnel, and the name that the log has for it.
struct Tunnel {
    client: Peer,
    upstream: Peer,
    id: Line,
}

impl Tunnel {
    /// Nobody else may be opening one.
    async fn open(edge: &Edge, backend: &Backend, request: Upgrade, answer: &str) -> Tunnel {
        let opened = |line: &Line| line["message"] == "tunnel opened";
        let before = edge.logged(opened).len();
        let (client, upstream) = open_as(edge, backend, request, answer).await;
        let mut line = edge.wait_for_logs(before + 1, opened).await.remove(before);
        Tunnel { client, upstream, id: line["id"].take() }
    }
}

/// Sends an offence and compares all that follows with its verdict.
async fn judge(
    edge: &Edge,
    tunnel: Tunnel,
    sender: Sender,
    pace: Pace,
    offence: Offence,
    verdict: Verdict,
) {
    let Offence { what, before, bytes, code } = offence;
    let Tunnel { mut client, mut upstream, id } = tunnel;
    let (from, to) = match sender {
        Client => (&mut client, &mut upstream),
        Upstream => (&mut upstream, &mut client),
    };
    for frame in &before {
        from.send(&frame.encode()).await;
    }
    match pace {
        Pace::AtOnce => from.send(&bytes).await,
        Pace::ByteByByte => {
            for byte in bytes {
                // The verdict may come before the last byte, and the connection's end with it.
                let _ = from.writer.try_send(&[byte]).await;
            }
        }
    }
    for frame in before {
        assert_eq!(to.frame().await, frame, "{what}: what came before it passes");
    }
    assert_eq!(to.closes(verdict.other).await, close_of(other(sender)), "{what}");
    assert_eq!(from.closes(code).await, close_of(sender), "{what}");
    let line = edge.wait_for_log(|line| support::ended(line) && line["id"] == id).await;
    assert_eq!(line["reason"], verdict.reason, "{what}: {line}");
    assert_eq!(line["by"], verdict.by, "{what}: {line}");
    assert_eq!(line["level"], verdict.level, "{what}: {line}");
    assert_eq!(line["close_sent"], "both", "{what}: {line}");
    let told_client = if sender == Client { code } else { verdict.other };
    assert_eq!(line["code"], told_client, "{what}: {line}");
}

/// How the connection to a side ends when its Close was answered.
fn close_of(side: Sender) -> End {
    match side {
        Client => End::CloseNotify,
        Upstream => End::Fin,
    }
}

fn other(sender: Sender) -> Sender {
    match sender {
        Client => Upstream,
        Upstream => Client,
    }
}

fn protocol_error(sender: Sender) -> Verdict {
    match sender {
        Client => {
            Verdict { other: 1001, reason: "client_protocol_error", by: "client", level: "INFO" }
        }
        Upstream => Verdict {
            other: 1011,
            reason: "upstream_protocol_error",
            by: "upstream",
            level: "WARN",
        },
    }
}

fn protocol_offences(sender: Sender) -> Vec<Offence> {
    let masked = sender == Client;
    let good = || Frame::text("good").masked(masked);
    let part = || good().not_final();
    let of =
        |what, before, frame: Frame| Offence { what, before, bytes: frame.encode(), code: 1002 };
    let plain = |opcode, payload: &[u8]| Frame::new(opcode, payload).masked(masked);
    let head = |what, opcode, length| Offence {
        what,
        before: vec![],
        bytes: Head { fin: true, rsv: 0, opcode, masked, length }.encode(),
        code: 1002,
    };
    let mut offences = vec![
        of("the mask of the other direction", vec![good()], good().masked(!masked)),
        of("a ping with the mask of the other direction", vec![], plain(PING, b"").masked(!masked)),
        of("RSV1 that nobody negotiated", vec![good()], good().with_rsv(4)),
        of("RSV2", vec![], good().with_rsv(2)),
        of("RSV3", vec![], good().with_rsv(1)),
        of("RSV1 on a ping", vec![], plain(PING, b"x").with_rsv(4)),
        of("RSV1 on a Close", vec![], Frame::close(1000, "").masked(masked).with_rsv(4)),
        of("a ping of 126 bytes", vec![], plain(PING, &[0; 126])),
        of("a pong of 126 bytes", vec![], plain(PONG, &[0; 126])),
        of("a Close of 126 bytes", vec![], Frame::close(1000, &"x".repeat(124)).masked(masked)),
        of("a ping in parts", vec![], plain(PING, b"x").not_final()),
        of("a pong in parts", vec![], plain(PONG, b"x").not_final()),
        of("a Close in parts", vec![], Frame::close(1000, "").masked(masked).not_final()),
        of("a continuation of nothing", vec![good()], plain(CONTINUATION, b"more")),
        of("an empty continuation of nothing", vec![], plain(CONTINUATION, b"")),
        of("text within a message", vec![part()], good()),
        of("binary within a message", vec![part()], plain(BINARY, b"x")),
        of("a continuation after the last", vec![part(), plain(CONTINUATION, b"end")], {
            plain(CONTINUATION, b"more")
        }),
        of("a Close of one byte", vec![good()], plain(CLOSE, &[3])),
        head("5 bytes written in 16 bits", TEXT, Length::In16Bits(5)),
        head("125 bytes written in 16 bits", TEXT, Length::In16Bits(125)),
        head("5 bytes written in 64 bits", BINARY, Length::In64Bits(5)),
        head("65,535 bytes written in 64 bits", BINARY, Length::In64Bits(65_535)),
        head("a ping's length in 16 bits", PING, Length::In16Bits(1)),
        head("a ping's length in 64 bits", PING, Length::In64Bits(1)),
        head("the top bit of the length", BINARY, Length::In64Bits(1 << 63)),
        head("all bits of the length", BINARY, Length::In64Bits(u64::MAX)),
        Offence {
            code: 1007,
            ..of("a Close's reason that is not UTF-8", vec![], {
                plain(CLOSE, &[0x03, 0xE8, b'o', b'k', 0xC3])
            })
        },
    ];
    for opcode in (0x3..=0x7).chain(0xB..=0xF) {
        offences.push(of("an opcode that nobody defined", vec![], plain(opcode, b"x")));
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1999, 2000, 2999, 5000, 65_535] {
        offences.push(of("a code that may not be sent", vec![], {
            Frame::close(code, "").masked(masked)
        }));
    }
    offences
}

/// Messages that are not UTF-8, in each way a validator may overlook.
fn bad_texts() -> Vec<Vec<Frame>> {
    vec![
        vec![Frame::new(TEXT, [b'a', 0xFF])],
        vec![Frame::new(TEXT, [0xC0, 0x80])],
        vec![Frame::new(TEXT, [0xED, 0xA0, 0x80])],
        vec![Frame::new(TEXT, [0xF4, 0x90, 0x80, 0x80])],
        // Whole frames, but the message ends within a character.
        vec![Frame::new(TEXT, [b'a', 0xE2, 0x82])],
        vec![Frame::new(TEXT, [0xE2]).not_final(), Frame::new(CONTINUATION, [0x82])],
        vec![Frame::new(TEXT, [0xE2]).not_final(), Frame::new(CONTINUATION, [b'x'])],
        vec![
            Frame::new(TEXT, "good").not_final(),
            Frame::new(PONG, [0xFF]),
            Frame::new(CONTINUATION, [0x80]),
        ],
    ]
}

/// Sends frames of a text that is not UTF-8.
async fn judge_text(edge: &Edge, tunnel: Tunnel, sender: Sender, texts: Vec<Frame>) {
    let Tunnel { mut client, mut upstream, id } = tunnel;
    let (from, to) = match sender {
        Client => (&mut client, &mut upstream),
        Upstream => (&mut upstream, &mut client),
    };
    for frame in &texts {
        from.send_frame(frame.clone()).await;
    }
    assert_eq!(from.closes(1007).await, close_of(sender), "{texts:?}");
    assert_text_stayed_valid(to, sender).await;
    let line = edge.wait_for_log(|line| support::ended(line) && line["id"] == id).await;
    assert_eq!(line["reason"], protocol_error(sender).reason, "{line}");
}

/// The other side of a message that is not UTF-8 never has the whole of it: a Close or a cut.
async fn assert_text_stayed_valid(to: &mut Peer, sender: Sender) {
    let mut text = Vec::new();
    loop {
        match to.reader.event().await {
            Event::Frame(frame) if frame.opcode == CLOSE => {
                assert_eq!(frame.closing().code, Some(protocol_error(sender).other));
                to.writer.answer(frame).await;
                return;
            }
            Event::Frame(frame) => {
                text.extend(&frame.payload);
                let whole = frame.fin && std::str::from_utf8(&text).is_err();
                assert!(!whole, "a message that is not UTF-8 has passed: {text:?}");
            }
            Event::End { .. } => return,
        }
    }
}
