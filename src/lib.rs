//! wsgate is a WebSocket edge: it terminates TLS and the WebSocket handshake, enforces limits,
//! relays frames to upstreams, answers heartbeats itself, and ends every socket with a Close that
//! says why. This page is the map of its house.
//!
//! # One connection, in a straight line
//!
//! A [`server`] accepts it, does TLS and has hyper read a request. [`proxy::call`] finds the
//! route in the [`snapshot`], reads the upgrade, asks the route's [`policy`], takes a seat in the worker's registry
//! ([`control`]), and has [`upstream`] dial an endpoint and shake hands with it. Every failure up
//! to here is an HTTP status ([`proxy::rejection`]). Then comes the commit: the drain flag is read
//! again, the 101 is answered, and with nothing awaited in between the [`tunnel`] begins, a task
//! of its own. It relays frames as they came until it has one [`ending`], which goes to the log
//! and the counters. A plain request, where its route takes any, is admitted alike and goes to the
//! same endpoints, on connections that the worker keeps.
//!
//! # Layers
//!
//! A file imports its own folder and what stands below it, nothing above and nothing beside;
//! `tests/layers.rs` holds that true.
//!
//! | layer | what lives there |
//! | --- | --- |
//! | `main.rs` | allocator, arguments, exit code |
//! | [`cli`] | the commands a person types; the only place for anyhow |
//! | [`admin`] | metrics, probes, and what operators see and do: sends commands, calls nothing above |
//! | [`server`] | listeners, PROXY headers, TLS, HTTP/1.1 and HTTP/2 on them, workers, the control thread, the drain |
//! | [`proxy`] | one request: route, upgrade, dial, commit; headers; the one map to a status |
//! | [`snapshot`] | what a configuration comes to while it runs |
//! | [`keyring`] | the keys of tokens: files, and issuers that are asked now and then |
//! | [`upstream`] | clusters, endpoints, their health, the choice of one, dialling, the handshake |
//! | [`policy`] | who may come in: networks, origins, rates, caps, authorizers → `Admission`; pure |
//! | [`tunnel`] | two pumps and one closing; `meter`, `closing`, `deadlines` are pure |
//! | [`control`] | connection ids, registry, mailboxes, commands |
//! | [`net`] | legs (TCP, unix, TLS, a stream of HTTP/2), the worker's scratch, PROXY headers, a small HTTP client; `tls`, the one module that names the TLS library |
//! | [`config`] | file → diagnostics → validated `Config`; schema; the import of nginx's |
//! | [`route`] | host and path → route; precedence by `Ord` |
//! | [`metrics`] | counters with one writer each |
//! | [`ending`] | reasons, blame, and the one map to close codes |
//! | [`plan`] | what a live tunnel may be told anew |
//! | [`rate`] | rates, and the bucket that holds one |
//! | [`ws`] | RFC 6455, 7692 and 8441: heads, control frames, handshake fields, extensions |
//!
//! # Threads
//!
//! A worker is one thread with one runtime and owns its connections for life: its tasks are
//! `!Send`, and per frame there is no lock and no shared atomic. A listener's accept loop is a
//! task on a worker; sockets that are not for itself travel to the worker with the fewest. The
//! main thread is the control thread: it looks names up, probes endpoints, and reaches workers by
//! [`control::Command`]s; a worker reaches a tunnel by its mailbox. Nothing lower calls upwards.

#![deny(unsafe_code)]
// What the network or a file says is not taken on trust.
#![warn(clippy::unwrap_used, clippy::cast_possible_wrap, clippy::cast_sign_loss)]
// Only the command line talks to a terminal.
#![warn(clippy::print_stdout, clippy::print_stderr)]
// The future of a connection's task lives as long as the connection.
#![warn(clippy::large_futures, clippy::unused_async)]
// A new variant of a closed enum asks everywhere what is to be done with it.
#![warn(clippy::match_wildcard_for_single_variants)]

pub mod admin;
pub mod cli;
pub mod config;
pub mod control;
pub mod ending;
pub mod keyring;
pub mod metrics;
pub mod net;
pub mod plan;
pub mod policy;
pub mod proxy;
pub mod rate;
pub mod route;
pub mod server;
pub mod snapshot;
pub mod tunnel;
pub mod upstream;
pub mod ws;
