//! The picture: figures, rates and connections laid out on whatever room there is. Pure.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row, Table, TableState};

use super::figures::{Connection, Figures, Order, Rates};

/// Less than this, and one panel is shown at a time.
const WIDE: u16 = 72;
const HIGH: u16 = 20;

/// What is known and what was chosen.
#[derive(Debug, Default)]
pub struct View {
    /// Where the figures are from, as the header says it.
    pub address: String,
    pub figures: Figures,
    pub rates: Rates,
    /// In their order.
    pub connections: Vec<Connection>,
    pub order: Order,
    pub selected: usize,
    pub panel: Panel,
    /// Whether this connection is to be ended.
    pub asking: Option<Connection>,
    /// What was last done.
    pub said: Option<String>,
    /// Why there is nothing newer.
    pub lost: Option<String>,
}

/// What is shown where there is no room for all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Panel {
    #[default]
    Routes,
    Outcomes,
    Endpoints,
    Connections,
}

impl Panel {
    pub fn next(self) -> Panel {
        match self {
            Panel::Routes => Panel::Outcomes,
            Panel::Outcomes => Panel::Endpoints,
            Panel::Endpoints => Panel::Connections,
            Panel::Connections => Panel::Routes,
        }
    }
}

impl View {
    /// Takes the connections in place of those before; whoever was selected stays so.
    pub fn list(&mut self, mut connections: Vec<Connection>) {
        let selected = self.selected().map(|connection| connection.id.clone());
        self.order.sort(&mut connections);
        let again = connections.iter().position(|one| Some(&one.id) == selected.as_ref());
        self.connections = connections;
        self.select(again.unwrap_or(self.selected));
    }

    pub fn sort(&mut self) {
        self.order = self.order.next();
        self.selected = 0;
        self.order.sort(&mut self.connections);
    }

    pub fn select(&mut self, index: usize) {
        self.selected = index.min(self.connections.len().saturating_sub(1));
    }

    pub fn selected(&self) -> Option<&Connection> {
        self.connections.get(self.selected)
    }

    pub fn draw(&self, frame: &mut Frame<'_>) {
        let area = frame.area();
        let [head, body, foot] =
            Layout::vertical([Constraint::Length(3), Constraint::Min(0), Constraint::Length(1)])
                .areas(area);
        frame.render_widget(Paragraph::new(self.head().to_vec()), head);
        match area.width >= WIDE && area.height >= HIGH {
            true => self.draw_all(frame, body),
            false => self.draw_panel(self.panel, frame, body),
        }
        frame.render_widget(Paragraph::new(self.foot()), foot);
    }

    fn draw_all(&self, frame: &mut Frame<'_>, area: Rect) {
        let short = area.height / 4;
        let rows = |count: usize| {
            let wanted = u16::try_from(count + 2).unwrap_or(u16::MAX);
            Constraint::Length(wanted.clamp(3, short.max(3)))
        };
        let outcomes = self.outcomes().len().max(self.endings().len());
        let [routes, middle, endpoints, connections] = Layout::vertical([
            rows(self.rates.routes.len()),
            rows(outcomes),
            rows(self.figures.endpoints.len()),
            Constraint::Min(3),
        ])
        .areas(area);
        self.draw_panel(Panel::Routes, frame, routes);
        self.draw_panel(Panel::Outcomes, frame, middle);
        self.draw_panel(Panel::Endpoints, frame, endpoints);
        self.draw_panel(Panel::Connections, frame, connections);
    }

    fn draw_panel(&self, panel: Panel, frame: &mut Frame<'_>, area: Rect) {
        match panel {
            Panel::Routes => self.draw_routes(frame, area),
            Panel::Outcomes => {
                let halves = [Constraint::Fill(1), Constraint::Fill(1)];
                let [left, right] = match area.width >= WIDE {
                    true => Layout::horizontal(halves).areas(area),
                    false => Layout::vertical(halves).areas(area),
                };
                draw_counts(frame, left, "handshake", self.outcomes());
                draw_counts(frame, right, "ending", self.endings());
            }
            Panel::Endpoints => self.draw_endpoints(frame, area),
            Panel::Connections => self.draw_connections(frame, area),
        }
    }

    fn head(&self) -> [Line<'static>; 3] {
        let (figures, all) = (&self.figures, self.rates.total());
        let state = match (&self.lost, figures.draining) {
            (Some(_), _) => "LOST",
            (None, true) => "draining",
            (None, false) => "serving",
        };
        let address = printable(&self.address);
        let generation = figures.generation;
        let first = format!("wsgate {address}  {state}  generation {generation:.0}");
        let [up, down] = all.messages.map(count);
        let second =
            format!("{} connections  msg/s {up} up {down} down", count(figures.connections()));
        let [up, down] = all.bytes.map(bytes);
        let round_trip = figures.round_trip(0.5).map_or("-".to_owned(), within);
        let cpu = self.rates.processor * 100.0;
        let third = format!("B/s {up} up {down} down  rtt {round_trip}  cpu {cpu:.0}%");
        let bold = Style::new().add_modifier(Modifier::BOLD);
        [Line::styled(first, bold), Line::raw(second), Line::raw(third)]
    }

    fn foot(&self) -> Line<'static> {
        let loud = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
        if let Some(asking) = &self.asking {
            let who = asking.subject.as_deref().unwrap_or(&asking.client);
            return Line::styled(format!("end {} of {}? y/n", asking.id, printable(who)), loud);
        }
        match (&self.lost, &self.said) {
            (Some(why), _) => Line::styled(format!("connection lost, trying again: {why}"), loud),
            (None, Some(said)) => Line::raw(said.clone()),
            (None, None) => Line::raw("q quit  Tab panel  s sort  \u{2191}\u{2193} choose  x end"),
        }
    }

    fn draw_routes(&self, frame: &mut Frame<'_>, area: Rect) {
        let rows = self.rates.routes.iter().map(|(name, route)| {
            let [messages_up, messages_down] = route.messages.map(count);
            let [bytes_up, bytes_down] = route.bytes.map(bytes);
            let connections = count(route.connections);
            let name = printable(name);
            Row::new([name, connections, messages_up, messages_down, bytes_up, bytes_down])
        });
        let head =
            ["route", "conns", "msg/s\u{2191}", "msg/s\u{2193}", "B/s\u{2191}", "B/s\u{2193}"];
        let widths = [Constraint::Fill(1)].into_iter().chain([Constraint::Length(6); 5]);
        frame.render_widget(table(head, rows, widths), area);
    }

    fn draw_endpoints(&self, frame: &mut Frame<'_>, area: Rect) {
        let rows = self.figures.endpoints.iter().map(|((upstream, address), endpoint)| {
            let (health, colour) = match endpoint.healthy {
                true => ("healthy", Color::Green),
                false => ("ill", Color::Red),
            };
            Row::new([
                Cell::from(printable(upstream)),
                Cell::from(printable(address)),
                Cell::from(health).style(Style::new().fg(colour)),
                Cell::from(count(endpoint.connections)),
            ])
        });
        let widths = [
            Constraint::Fill(1),
            Constraint::Fill(2),
            Constraint::Length(7),
            Constraint::Length(6),
        ];
        let head = ["upstream", "endpoint", "health", "conns"];
        frame.render_widget(table(head, rows, widths), area);
    }

    fn draw_connections(&self, frame: &mut Frame<'_>, area: Rect) {
        let rows = self.connections.iter().map(|connection| {
            let subject = connection.subject.as_deref().unwrap_or("-");
            let fields = [subject, &connection.client, &connection.route, &connection.endpoint];
            let [subject, client, route, endpoint] = fields.map(printable);
            Row::new([age(connection.age_s), subject, client, route, endpoint])
        });
        let subject = format!("subject ({})", self.order.as_str());
        let widths = [
            Constraint::Length(5),
            Constraint::Fill(2),
            Constraint::Fill(2),
            Constraint::Fill(1),
            Constraint::Fill(2),
        ];
        let head = ["age", &*subject, "client", "route", "endpoint"];
        let table = table(head, rows, widths)
            .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
        let selected = Some(self.selected).filter(|_| !self.connections.is_empty());
        frame.render_stateful_widget(table, area, &mut TableState::new().with_selected(selected));
    }

    /// How handshakes ended, the most frequent first: in all, and a second.
    fn outcomes(&self) -> Vec<(String, f64, f64)> {
        let rate = |outcome: &String| self.rates.handshakes.get(outcome).copied();
        let all = self.figures.handshakes.iter();
        most(all.map(|(outcome, all)| (outcome.clone(), *all, rate(outcome).unwrap_or_default())))
    }

    fn endings(&self) -> Vec<(String, f64, f64)> {
        most(self.figures.endings.iter().map(|(ending, all)| {
            let rate = self.rates.endings.get(ending).copied().unwrap_or_default();
            let (reason, by) = ending;
            (format!("{reason} ({by})"), *all, rate)
        }))
    }

    /// The same as lines of text, for who reads no terminal.
    pub fn plain(&self) -> String {
        let mut text: String = self.head().iter().map(|line| format!("{line}\n")).collect();
        for (name, route) in &self.rates.routes {
            let [messages_up, messages_down] = route.messages.map(count);
            let [bytes_up, bytes_down] = route.bytes.map(bytes);
            let (name, connections) = (printable(name), count(route.connections));
            text += &format!(
                "route {name}: {connections} connections, msg/s {messages_up} up \
                 {messages_down} down, B/s {bytes_up} up {bytes_down} down\n"
            );
        }
        for (what, counts) in [("handshakes", self.outcomes()), ("endings", self.endings())] {
            for (name, all, rate) in counts {
                text += &format!("{what} {}: {all:.0}, {}/s\n", printable(&name), count(rate));
            }
        }
        for ((upstream, address), endpoint) in &self.figures.endpoints {
            let health = if endpoint.healthy { "healthy" } else { "ill" };
            let (upstream, address) = (printable(upstream), printable(address));
            let connections = count(endpoint.connections);
            text +=
                &format!("endpoint {upstream} {address}: {health}, {connections} connections\n");
        }
        for connection in &self.connections {
            let subject = connection.subject.as_deref().unwrap_or("-");
            let Connection { id, client, route, endpoint, .. } = connection;
            let fields = [id, client, subject, route, endpoint].map(printable);
            text += &format!("connection {} for {}\n", fields.join(" "), age(connection.age_s));
        }
        text
    }
}

/// Those that were counted at all, the most frequent first.
fn most(counts: impl Iterator<Item = (String, f64, f64)>) -> Vec<(String, f64, f64)> {
    let mut counts: Vec<_> = counts.filter(|(_, all, _)| *all > 0.0).collect();
    counts.sort_by(|one, other| other.1.total_cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
    counts
}

fn draw_counts(frame: &mut Frame<'_>, area: Rect, what: &str, counts: Vec<(String, f64, f64)>) {
    let rows = counts.into_iter();
    let rows = rows.map(|(name, all, rate)| Row::new([printable(&name), count(all), count(rate)]));
    let widths = [Constraint::Fill(1), Constraint::Length(6), Constraint::Length(5)];
    frame.render_widget(table([what, "all", "/s"], rows, widths), area);
}

fn table<'t, const N: usize>(
    head: [&str; N],
    rows: impl IntoIterator<Item = Row<'t>>,
    widths: impl IntoIterator<Item = Constraint>,
) -> Table<'t> {
    let head = Row::new(head.map(str::to_owned)).style(Style::new().add_modifier(Modifier::DIM));
    let block = Block::new().borders(Borders::TOP);
    Table::new(rows, widths).header(head).block(block)
}

/// Text of strangers as a terminal may have it: nothing that moves its cursor or turns its lines.
pub fn printable(text: impl AsRef<str>) -> String {
    let turns = |it: char| matches!(it, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut printable = String::new();
    for character in text.as_ref().chars() {
        match character.is_control() || turns(character) {
            true => printable.extend(character.escape_default()),
            false => printable.push(character),
        }
    }
    printable
}

/// In four or five characters, whatever it is.
fn count(value: f64) -> String {
    scaled(value, 1000.0, ["", "k", "M", "G", "T"])
}

fn bytes(value: f64) -> String {
    scaled(value, 1024.0, ["", "Ki", "Mi", "Gi", "Ti"])
}

fn scaled(mut value: f64, step: f64, units: [&str; 5]) -> String {
    let mut unit = 0;
    while value >= step && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    let digits = usize::from(value < 10.0 && value.fract() >= 0.05);
    format!("{value:.digits$}{}", units[unit])
}

/// The bound of a histogram's bucket.
fn within(seconds: f64) -> String {
    match seconds {
        seconds if seconds.is_infinite() => "over 10s".to_owned(),
        seconds if seconds < 1.0 => format!("\u{2264} {}ms", seconds * 1000.0),
        seconds => format!("\u{2264} {seconds}s"),
    }
}

fn age(seconds: f64) -> String {
    match seconds {
        seconds if seconds < 60.0 => format!("{seconds:.0}s"),
        seconds if seconds < 3600.0 => format!("{:.0}m", seconds / 60.0),
        seconds if seconds < 86_400.0 => format!("{:.0}h", seconds / 3600.0),
        seconds => format!("{:.0}d", seconds / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    fn view() -> View {
        let before = "wsgate_connections{route=\"chat\",upstream=\"app\"} 2\n\
            wsgate_messages_total{route=\"chat\",direction=\"upstream\"} 0\n\
            wsgate_handshakes_total{route=\"chat\",outcome=\"ok\"} 7\n\
            wsgate_endings_total{route=\"chat\",reason=\"drain\",by=\"edge\"} 5\n\
            wsgate_endpoint_connections{upstream=\"app\",endpoint=\"127.0.0.1:9001\"} 2\n\
            wsgate_endpoint_healthy{upstream=\"app\",endpoint=\"127.0.0.1:9001\"} 0\n\
            wsgate_heartbeat_rtt_seconds_bucket{le=\"0.005\"} 3\n\
            wsgate_config_generation 4\n";
        let after = before.replace("\"upstream\"} 0", "\"upstream\"} 4200");
        let (before, after) = (Figures::read(before), Figures::read(&after));
        let rates = Rates::between(&before, &after, Duration::from_secs(1)).expect("rates");
        let mut view = View { figures: after, rates, ..View::default() };
        "127.0.0.1:9090".clone_into(&mut view.address);
        view.list(["eve\u{1b}[2J\u{202e}", "bob"].map(connection).into());
        view
    }

    fn connection(subject: &str) -> Connection {
        let text = |text: &str| text.to_owned();
        let (id, client) = (format!("0-{}-1", subject.len()), text("10.0.0.1"));
        let (route, endpoint) = (text("chat"), text("127.0.0.1:9001"));
        let subject = Some(text(subject));
        Connection { id, client, subject, route, endpoint, age_s: 90.0 }
    }

    fn drawn(view: &View, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
        terminal.draw(|frame| view.draw(frame)).expect("a picture");
        terminal.backend().to_string()
    }

    #[test]
    fn all_of_it_fits_a_common_terminal() {
        let picture = drawn(&view(), 80, 24);
        for wanted in [
            "2 connections",
            "msg/s 4.2k up 0 down",
            "rtt \u{2264} 5ms",
            "generation 4",
            "ok ",
            "drain (edge)",
            "127.0.0.1:9001",
            "ill",
            "bob",
            "q quit",
        ] {
            assert!(picture.contains(wanted), "no {wanted:?} in\n{picture}");
        }
    }

    #[test]
    fn a_small_terminal_shows_one_panel_after_the_other() {
        let mut view = view();
        for wanted in ["route", "drain (edge)", "ill", "bob"] {
            let picture = drawn(&view, 40, 12);
            assert!(picture.contains(wanted), "no {wanted:?} in\n{picture}");
            assert!(picture.contains("2 connections"), "{picture}");
            view.panel = view.panel.next();
        }
        for (width, height) in [(1, 1), (5, 3), (72, 20), (300, 100)] {
            drawn(&view, width, height);
        }
    }

    #[test]
    fn a_subject_moves_no_cursor_and_turns_no_line() {
        let view = view();
        let plain = view.plain();
        assert!(plain.contains("eve\\u{1b}[2J\\u{202e}"), "{plain}");
        assert!(!plain.contains('\u{1b}') && !plain.contains('\u{202e}'));
        let picture = drawn(&view, 200, 24);
        assert!(picture.contains("eve\\u{1b}[2J\\u{202e}"), "{picture}");
    }

    #[test]
    fn what_is_lost_or_asked_is_said_in_the_last_line() {
        let mut view = view();
        view.lost = Some("refused".into());
        let picture = drawn(&view, 80, 24);
        assert!(picture.contains("connection lost, trying again: refused"), "{picture}");
        assert!(picture.contains("LOST"), "{picture}");
        view.asking = view.selected().cloned();
        assert!(drawn(&view, 80, 24).contains("end 0-10-1 of eve\\u{1b}[2J\\u{202e}? y/n"));
    }

    #[test]
    fn who_was_chosen_stays_chosen_when_others_come_and_go() {
        let mut view = view();
        let chosen = view.connections[1].clone();
        view.select(1);
        let (one, two) = (connection("a"), connection("ab"));
        view.list(vec![chosen.clone(), one, two]);
        assert_eq!(view.selected(), Some(&chosen));
        view.list(vec![connection("a")]);
        assert_eq!(view.selected(), Some(&connection("a")));
        view.list(Vec::new());
        assert_eq!(view.selected(), None);
        view.select(7);
        assert_eq!(view.selected(), None);
    }

    #[test]
    fn figures_are_short() {
        let counts = [0.0, 0.04, 4.25, 12.5, 999.0, 1000.0, 4200.0, 1.5e6, 1e18].map(count);
        assert_eq!(counts, ["0", "0", "4.2", "12", "999", "1k", "4.2k", "1.5M", "1000000T"]);
        assert_eq!([512.0, 2048.0].map(bytes), ["512", "2Ki"]);
        assert_eq!([3.0, 90.0, 7200.0, 172_800.0].map(age), ["3s", "2m", "2h", "2d"]);
    }
}
