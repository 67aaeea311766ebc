//! `wsgate diff OLD NEW`: what a reload would do, in words.

use std::path::Path;
use std::process::ExitCode;

use super::{fail, paint, print};
use crate::config::{Change, Config, Effect, LoadError, Loaded, changes};

/// The effects, from the harmless to the one that must be planned for.
const ORDER: [(Effect, &str); 5] = [
    (Effect::NextHandshake, "For new connections; live sockets go on as they are:"),
    (Effect::AtOnce, "At once, for live sockets too, at their next frame or timer:"),
    (Effect::Keeps, "Removed; live sockets go on:"),
    (Effect::Closes, "Removed; live sockets close with 1012, spread over the drain's window:"),
    (Effect::Restart, "Only by a restart:"),
];

/// Exit 0 both are good, 1 one has faults, 2 one could not be read.
pub fn diff(old: &Path, new: &Path) -> ExitCode {
    let (old, new) = match (load(old, old), load(new, old)) {
        (Ok(old), Ok(new)) => (old, new),
        (Err(code), _) | (_, Err(code)) => return code,
    };
    match print(told(&changes(&old.config, &new.config))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// Loads a file as if it were in this place.
fn load(file: &Path, place: &Path) -> Result<Loaded, ExitCode> {
    Config::load_for(file, place).map_err(|error| match error {
        LoadError::Faulty(report) => {
            eprint!("{}", report.render(paint()));
            ExitCode::from(1)
        }
        LoadError::Unreadable { .. } => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    })
}

fn told(changes: &[Change]) -> String {
    if changes.is_empty() {
        return "Nothing would change.\n".to_owned();
    }
    let mut text = String::new();
    for (effect, heading) in ORDER {
        let of_effect = changes.iter().filter(|change| change.effect == effect);
        let lines: Vec<String> = of_effect.map(|change| format!("  {}\n", change.what())).collect();
        if !lines.is_empty() {
            text += &format!("{heading}\n{}", lines.concat());
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = r#"
[[listener]]
listen = "127.0.0.1:8080"
[[upstream]]
name = "app"
endpoints = ["127.0.0.1:9001", "127.0.0.1:9002"]
[[route]]
name = "app"
upstream = "app"
[[route]]
name = "chat"
path = "/chat"
upstream = "app"
"#;

    fn config(text: &str) -> Config {
        Config::parse(text, Path::new("wsgate.toml")).expect("a good file").config
    }

    #[test]
    fn nothing_is_said_to_be_nothing() {
        let same = config(BEFORE);
        assert_eq!(told(&changes(&same, &same)), "Nothing would change.\n");
    }

    #[test]
    fn each_change_is_told_with_what_it_does_to_whom() {
        let after = BEFORE
            .replace("\"127.0.0.1:9001\", ", "")
            .replace("name = \"chat\"", "name = \"talk\"")
            .replace(
                "name = \"app\"\nupstream",
                "name = \"app\"\nlimits.messages.rate = \"1/s\"\nupstream",
            )
            + "origin = \"any\"\n[server]\nworkers = 3\n[[listener]]\nlisten = \"127.0.0.1:8081\"\n";
        let expected = "\
For new connections; live sockets go on as they are:
  route \"talk\": added
At once, for live sockets too, at their next frame or timer:
  listener 127.0.0.1:8081: added
  route \"app\": limits.messages
Removed; live sockets close with 1012, spread over the drain's window:
  upstream \"app\", endpoint 127.0.0.1:9001: removed
  route \"chat\": removed
Only by a restart:
  server: workers
";
        assert_eq!(told(&changes(&config(BEFORE), &config(&after))), expected);
    }
}
