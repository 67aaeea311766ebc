//! `wsgate top`: a running process seen live in a terminal, over its admin interface.
//!
//! One thread asks once a second; the main one draws and reads keys. Where stdout is no terminal
//! it is one plain snapshot.

mod figures;
mod view;

use std::io::{self, IsTerminal};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Context;
use http::{Method, StatusCode};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc as orders;
use tokio::time::{MissedTickBehavior, interval, sleep};

use self::figures::{Connection, Figures, Rates, connections};
use self::view::{View, printable};
use super::asking::{Door, Whom};

/// Between two questions.
const PERIOD: Duration = Duration::from_secs(1);
/// How long a key may wait for what else there is.
const TICK: Duration = Duration::from_millis(100);
/// Connections that are shown.
const LISTED: &str = "/api/v1/connections?limit=1000";
/// Orders that wait to be carried out.
const ORDERS: usize = 16;

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    whom: Whom,
    /// Print one snapshot and end, as where stdout is no terminal
    #[arg(long)]
    once: bool,
}

/// What the asking thread has to say.
enum News {
    Answer(Box<Answer>),
    /// Why there is none.
    Lost(String),
    Said(String),
    /// A signal wants us to end.
    Over,
}

struct Answer {
    at: Instant,
    figures: Figures,
    connections: Vec<Connection>,
}

pub fn top(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { whom, once } = arguments;
    let door = Door::of(whom)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if once || !io::stdout().is_terminal() {
        let view = runtime.block_on(snapshot(&door))?;
        return super::print(view.plain());
    }
    let view = View { address: door.address.to_string(), ..View::default() };
    let (news, incoming) = mpsc::channel();
    let (order, ordered) = orders::channel(ORDERS);
    std::thread::spawn(move || runtime.block_on(keep_asking(door, news, ordered)));
    // It also has a panic give the terminal back.
    let restored = Restored;
    let terminal = ratatui::try_init().context("the terminal cannot be had")?;
    let shown = Screen { terminal, view, last: None, incoming, order }.show();
    drop(restored);
    shown
}

/// Gives the terminal back when it is dropped, whatever the way out.
struct Restored;

impl Drop for Restored {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Two answers, a second apart.
async fn snapshot(door: &Door) -> anyhow::Result<View> {
    let before = ask(door).await?;
    sleep(PERIOD).await;
    let mut view = View { address: door.address.to_string(), ..View::default() };
    let mut last = Some((before.at, before.figures));
    take(&mut view, &mut last, ask(door).await?);
    Ok(view)
}

async fn ask(door: &Door) -> anyhow::Result<Answer> {
    let text = door.ask(Method::GET, "/metrics", StatusCode::OK).await?;
    let at = Instant::now();
    let figures = Figures::read(&String::from_utf8_lossy(&text));
    let listed = door.ask(Method::GET, LISTED, StatusCode::OK).await?;
    let connections = connections(&listed)
        .with_context(|| format!("{} does not list connections as wsgate does", door.address))?;
    Ok(Answer { at, figures, connections })
}

/// Puts an answer into the picture, and what has grown since the last one.
fn take(view: &mut View, last: &mut Option<(Instant, Figures)>, answer: Answer) {
    let Answer { at, figures, connections } = answer;
    let rates = last
        .as_ref()
        .and_then(|(before, old)| Rates::between(old, &figures, at.duration_since(*before)));
    // Without a last one: all as it is, and nothing a second.
    view.rates = rates.unwrap_or_else(|| Rates::standing(&figures));
    view.figures = figures.clone();
    view.lost = None;
    view.list(connections);
    *last = Some((at, figures));
}

/// Asks once a second and carries out orders, until nobody wants to know.
async fn keep_asking(
    door: Door,
    news: mpsc::Sender<News>,
    mut ordered: orders::Receiver<Connection>,
) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut over = std::pin::pin!(signalled());
    loop {
        let asked = async {
            tokio::select! {
                _ = ticks.tick() => match ask(&door).await {
                    Ok(answer) => Some(News::Answer(Box::new(answer))),
                    Err(fault) => Some(News::Lost(printable(format!("{fault:#}")))),
                },
                order = ordered.recv() => Some(News::Said(end(&door, order?).await)),
            }
        };
        let next = tokio::select! {
            () = &mut over => Some(News::Over),
            next = asked => next,
        };
        let Some(next) = next else { return };
        if news.send(next).is_err() {
            return;
        }
    }
}

/// Ends a connection; gives what came of it.
async fn end(door: &Door, connection: Connection) -> String {
    let target = format!("/api/v1/connections/{}", connection.id);
    match door.ask(Method::DELETE, &target, StatusCode::OK).await {
        Ok(_) => format!("{} was ended", printable(connection.id)),
        Err(fault) => printable(format!("{fault:#}")),
    }
}

/// SIGTERM, SIGINT or SIGHUP. In raw mode Ctrl-C is a key, but others may send the signal.
async fn signalled() {
    let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
    let [term, int, hup] = kinds.map(signal);
    let (Ok(mut term), Ok(mut int), Ok(mut hup)) = (term, int, hup) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
        _ = hup.recv() => {}
    }
}

/// Whether to go on.
#[derive(PartialEq, Eq)]
enum Next {
    On,
    Quit,
}

struct Screen {
    terminal: DefaultTerminal,
    view: View,
    last: Option<(Instant, Figures)>,
    incoming: mpsc::Receiver<News>,
    order: orders::Sender<Connection>,
}

impl Screen {
    fn show(mut self) -> anyhow::Result<()> {
        loop {
            self.terminal.draw(|frame| self.view.draw(frame))?;
            if self.read_keys()? == Next::Quit || self.hear() == Next::Quit {
                return Ok(());
            }
        }
    }

    /// Waits a moment for a key, and takes all that there are.
    fn read_keys(&mut self) -> anyhow::Result<Next> {
        let mut patience = TICK;
        while event::poll(patience)? {
            patience = Duration::ZERO;
            let Event::Key(key) = event::read()? else { continue };
            if key.kind != KeyEventKind::Release && self.pressed(key) == Next::Quit {
                return Ok(Next::Quit);
            }
        }
        Ok(Next::On)
    }

    fn hear(&mut self) -> Next {
        loop {
            match self.incoming.try_recv() {
                Ok(News::Answer(answer)) => take(&mut self.view, &mut self.last, *answer),
                Ok(News::Lost(why)) => self.view.lost = Some(why),
                Ok(News::Said(said)) => self.view.said = Some(said),
                Ok(News::Over) | Err(mpsc::TryRecvError::Disconnected) => return Next::Quit,
                Err(mpsc::TryRecvError::Empty) => return Next::On,
            }
        }
    }

    fn pressed(&mut self, key: KeyEvent) -> Next {
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return Next::Quit;
        }
        if let Some(asked) = self.view.asking.take() {
            if key.code == KeyCode::Char('y') && self.order.try_send(asked).is_err() {
                self.view.said = Some("too much is being ended already".to_owned());
            }
            return Next::On;
        }
        self.view.said = None;
        let view = &mut self.view;
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Next::Quit,
            KeyCode::Char('s') => view.sort(),
            KeyCode::Char('x') | KeyCode::Delete => view.asking = view.selected().cloned(),
            KeyCode::Tab => view.panel = view.panel.next(),
            KeyCode::Up | KeyCode::Char('k') => view.select(view.selected.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => view.select(view.selected + 1),
            KeyCode::Home => view.select(0),
            KeyCode::End => view.select(usize::MAX),
            _ => {}
        }
        Next::On
    }
}
