//! Figures of all rounds, their medians, and the table made of them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;

use crate::Setting;
use crate::proxies::Proxy;
use crate::rows::{Bound, Row, Unit};

/// What was measured, by row and proxy, one figure a round; or why it could not be.
#[derive(Default)]
pub struct Figures {
    rounds: BTreeMap<(&'static str, Proxy), Vec<f64>>,
    faults: BTreeMap<(&'static str, Proxy), String>,
}

impl Figures {
    pub fn record(&mut self, row: &'static str, proxy: Proxy, figure: anyhow::Result<f64>) {
        match figure {
            Ok(figure) => self.rounds.entry((row, proxy)).or_default().push(figure),
            Err(error) => drop(self.faults.insert((row, proxy), format!("{error:#}"))),
        }
    }

    pub fn is_whole(&self) -> bool {
        self.faults.is_empty()
    }

    /// The median over the rounds; of a proxy that failed in any of them, none.
    fn median(&self, row: &Row, proxy: Proxy) -> Option<f64> {
        if self.faults.contains_key(&(row.name, proxy)) {
            return None;
        }
        let mut sorted = self.rounds.get(&(row.name, proxy))?.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.len() % 2 {
            1 => Some(sorted[middle]),
            _ => Some((sorted.get(middle.checked_sub(1)?)? + sorted[middle]) / 2.0),
        }
    }

    fn ratio(&self, row: &Row, to: Proxy) -> Option<f64> {
        Some(self.median(row, Proxy::Wsgate)? / self.median(row, to)?)
    }

    /// Median, and lowest to highest of the rounds where there are several.
    fn cell(&self, row: &Row, proxy: Proxy) -> String {
        if self.faults.contains_key(&(row.name, proxy)) {
            return "failed".to_owned();
        }
        let (Some(median), Some(rounds)) =
            (self.median(row, proxy), self.rounds.get(&(row.name, proxy)))
        else {
            return "–".to_owned();
        };
        if rounds.len() == 1 {
            return number(median);
        }
        let (low, high) = rounds
            .iter()
            .fold((f64::MAX, f64::MIN), |(low, high), &figure| (low.min(figure), high.max(figure)));
        format!("{} ({}–{})", number(median), number(low), number(high))
    }

    fn judged(&self, row: &Row, bounds: &[Bound]) -> String {
        let ours = self.median(row, Proxy::Wsgate);
        let judged = bounds.iter().map(|bound| {
            let most = bound.allows(|proxy| self.median(row, proxy));
            match ours.zip(most) {
                None => bound.to_string(),
                Some((ours, most)) if ours <= most => format!("{bound} ✓"),
                Some(_) => format!("{bound} ✗"),
            }
        });
        judged.collect::<Vec<_>>().join(", ")
    }
}

/// The table in Markdown, with the circumstances above it and the faults below.
pub fn table(figures: &Figures, rows: &[&Row], setting: &Setting) -> String {
    let mut out = circumstances(setting);
    out.push_str("| what | unit |");
    out.extend(Proxy::ALL.map(|proxy| format!(" {proxy} |")));
    out.extend(Proxy::OTHERS.map(|proxy| format!(" ÷ {proxy} |")));
    out.push_str(" first budget | budget |\n|");
    out.push_str(&" --- |".repeat(4 + Proxy::ALL.len() + Proxy::OTHERS.len()));
    out.push('\n');
    for row in rows {
        let cells = Proxy::ALL.map(|proxy| figures.cell(row, proxy)).join(" | ");
        let ratios = Proxy::OTHERS
            .map(|to| {
                figures.ratio(row, to).map_or("–".to_owned(), |ratio| format!("{ratio:.2}"))
            })
            .join(" | ");
        let (first, budget) = (figures.judged(row, row.first), figures.judged(row, row.budget));
        let Row { what, unit, .. } = row;
        push(
            &mut out,
            format_args!("| {what} | {unit} | {cells} | {ratios} | {first} | {budget} |"),
        );
    }
    out.push_str(&costs(figures, rows));
    for ((row, proxy), fault) in &figures.faults {
        push(&mut out, format_args!("\n- {proxy}, {row}: failed: {fault}"));
    }
    out
}

/// What each variant comes to beside wsgate itself.
fn costs(figures: &Figures, rows: &[&Row]) -> String {
    let mut out = String::new();
    for row in rows {
        for variant in Proxy::VARIANTS {
            let Some(median) = figures.median(row, variant) else { continue };
            let ours = figures.median(row, Proxy::Wsgate);
            let ratio = ours.map_or("–".to_owned(), |ours| format!("{:.3}", median / ours));
            let (what, cell) = (row.what, figures.cell(row, variant));
            push(&mut out, format_args!("\n- {what}: {variant} {cell}, {ratio} × wsgate"));
        }
    }
    out
}

/// One figure as progress shows it.
pub fn figure(figure: f64, unit: Unit) -> String {
    format!("{} {unit}", number(figure))
}

fn circumstances(setting: &Setting) -> String {
    let mut out = String::new();
    let Setting { rounds, scale, proxies, load_average, .. } = setting;
    push(
        &mut out,
        format_args!("- Machine: {}; load average at the start {load_average}", machine()),
    );
    for proxy in proxies {
        let version = proxy.version().unwrap_or(format!("{proxy}, version unknown"));
        push(&mut out, format_args!("- {version}"));
    }
    push(
        &mut out,
        format_args!(
            "- Load: {} connections busy, {} pairs idle; {rounds} rounds, median (lowest–highest)\n",
            scale.connections, scale.pairs
        ),
    );
    out
}

fn machine() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let models: Vec<&str> = cpus
        .lines()
        .filter(|line| line.starts_with("model name"))
        .filter_map(|line| line.split_once(": ").map(|(_, model)| model))
        .collect();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let model = models.first().copied().unwrap_or("CPU unknown");
    format!("{} × {model}, Linux {}", models.len(), kernel.trim())
}

fn push(out: &mut String, line: std::fmt::Arguments) {
    writeln!(out, "{line}").expect("a String takes all");
}

/// How many tasks wanted a core in the last minute: above a few tenths, others disturb the figures.
pub fn load_average() -> String {
    let averages = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    averages.split(' ').next().unwrap_or_default().to_owned()
}

/// Three digits that mean something.
fn number(figure: f64) -> String {
    match figure {
        small if small < 10.0 => format!("{small:.2}"),
        middle if middle < 100.0 => format!("{middle:.1}"),
        large => format!("{large:.0}"),
    }
}
