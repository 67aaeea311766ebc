//! What docs/ promises to be complete about is complete: a new word in the code wants a line there.

use std::path::Path;

use wsgate::ending::Reason;
use wsgate::metrics::OUTCOMES;

/// The rows of the table under a heading of docs/operate.md, as the text of their first cells.
fn first_cells(heading: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operate.md");
    let page = std::fs::read_to_string(path).expect("docs/operate.md");
    let (_, section) = page.split_once(&format!("## {heading}\n")).expect("the heading");
    let (section, _) = section.split_once("\n## ").expect("another heading");
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| Some(format!("`{}", row.split_once(" |")?.0))).collect()
}

/// Each word is explained once, and nothing is that there is not.
fn explains(heading: &str, words: &[&str]) {
    let cells = first_cells(heading);
    let mut explained: Vec<&str> =
        cells.iter().flat_map(|cell| cell.split(", ")).map(|word| word.trim_matches('`')).collect();
    let mut words = words.to_vec();
    explained.sort_unstable();
    words.sort_unstable();
    assert_eq!(explained, words, "docs/operate.md: {heading}");
}

#[test]
fn the_operators_page_explains_every_ending() {
    explains("Why a connection ended", &Reason::WORDS);
}

#[test]
fn the_operators_page_explains_every_refusal() {
    explains("Why a handshake was refused", &OUTCOMES);
}
