//! The commands that a person types.
//!
//! Exit codes: 0 all went well; 1 it did not, and stderr says why; 2 the arguments are wrong, or
//! a file cannot be read.

#![expect(clippy::print_stderr, reason = "commands speak to a terminal")]

mod asking;
mod check;
mod demo;
mod diff;
mod drain;
mod import;
mod logging;
mod run;
mod schema;
mod token;
mod top;

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};

use crate::config::Paint;

#[derive(Parser)]
#[command(name = "wsgate", version, about, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve a configuration until SIGTERM or SIGINT
    Run {
        /// The configuration, in TOML
        #[arg(long, short, value_name = "FILE")]
        config: PathBuf,
        /// The time a supervisor leaves for stopping, at least 9s: sets delay, window and
        /// timeout of the drain
        #[arg(long, value_name = "TIME", value_parser = run::grace)]
        grace: Option<Duration>,
    },
    /// Say what is wrong with a configuration: exit 0 good, 1 faults, 2 could not read it
    Check {
        /// The configuration, in TOML
        file: PathBuf,
    },
    /// Say what a reload of one configuration by another would do: exit 0 both are good
    Diff {
        /// The configuration that runs
        old: PathBuf,
        /// The one in its place
        new: PathBuf,
    },
    /// Have a running process drain: Close to every client, no new ones; it lives on until SIGTERM
    Drain(drain::Arguments),
    /// Make a configuration from one of nginx, or from Kubernetes Ingress objects
    #[command(subcommand)]
    Import(import::Import),
    /// See a running process live in a terminal, and end connections
    Top(top::Arguments),
    /// Print the JSON Schema of the configuration
    Schema,
    /// Show wsgate at work, with a certificate, two echo servers and a page of its own
    Demo {
        /// Make the development certificate in ./certs and nothing else
        #[arg(long)]
        certificate_only: bool,
    },
    /// Make or read a token; for development
    #[command(subcommand)]
    Token(token::Token),
    /// Print the completions of a shell
    Completions { shell: clap_complete::Shell },
    /// Print the man page
    Man,
}

/// Does what the arguments say.
pub fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Run { config, grace } => return run::run(&config, grace),
        Command::Check { file } => return checked(&file),
        Command::Diff { old, new } => return diff::diff(&old, &new),
        Command::Demo { certificate_only: true } => demo::make_certificate(),
        Command::Demo { certificate_only: false } => demo::demo(),
        Command::Token(command) => {
            return token::token(command).unwrap_or_else(|error| fail(&error));
        }
        Command::Import(command) => return import::import(&command),
        Command::Drain(arguments) => drain::drain(arguments),
        Command::Top(arguments) => top::top(arguments),
        Command::Schema => print(schema::schema()),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "wsgate", &mut script);
            print(script)
        }
        Command::Man => man(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn checked(file: &Path) -> ExitCode {
    match check::check(file, paint(), &mut io::stdout(), &mut io::stderr()) {
        Ok(verdict) => verdict.into(),
        Err(error) => fail(&error.into()),
    }
}

fn paint() -> Paint {
    if is_for_a_person() { Paint::Coloured } else { Paint::Plain }
}

/// Whether a person reads stderr, and has not asked for no colours.
fn is_for_a_person() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

fn man() -> anyhow::Result<()> {
    let mut page = Vec::new();
    clap_mangen::Man::new(Arguments::command()).render(&mut page)?;
    print(page)
}

/// Writes to stdout; a reader that has enough is no error.
fn print(text: impl AsRef<[u8]>) -> anyhow::Result<()> {
    match io::stdout().write_all(text.as_ref()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("wsgate: {error:#}");
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_well_formed() {
        Arguments::command().debug_assert();
    }
}
