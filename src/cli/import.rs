//! `wsgate import nginx FILE`, `wsgate import ingress FILE`: a wsgate.toml from what is there.
//!
//! Exit 0: all was carried; 1: something was not, and stderr names it; 2: the file cannot be read
//! or is none of this kind, and nothing is printed.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;

use super::{fail, print};
use crate::config::import::{self, Files, ImportFault, Imported};

/// The largest file that is read.
const LARGEST: u64 = 16 << 20;

#[derive(Subcommand)]
pub enum Import {
    /// From an nginx configuration with its includes: exit 0 all was carried, 1 not all, 2 unreadable
    Nginx {
        /// nginx.conf, or a file of sites-enabled
        file: PathBuf,
    },
    /// From Kubernetes Ingress objects with nginx annotations: exit codes as of nginx
    Ingress {
        /// YAML, with one or more documents; "-" is stdin
        file: PathBuf,
    },
}

pub fn import(command: &Import) -> ExitCode {
    match command {
        Import::Nginx { file } => {
            // Names in the result begin at its own folder, which need not be this one.
            let path = std::path::absolute(file).unwrap_or_else(|_| file.clone());
            told(import::nginx(&path, &mut Disk))
        }
        Import::Ingress { file } => {
            let text = if file == Path::new("-") { stdin() } else { Disk.read(file) };
            let unreadable = |reason| ImportFault::Unreadable { path: file.clone(), reason };
            told(text.map_err(unreadable).and_then(|text| import::ingress(file, &text)))
        }
    }
}

fn told(result: Result<Imported, ImportFault>) -> ExitCode {
    let imported = match result {
        Ok(imported) => imported,
        Err(fault) => {
            eprintln!("error: {}", printable(&fault.to_string()));
            return ExitCode::from(2);
        }
    };
    if let Err(error) = print(&imported.text) {
        return fail(&error);
    }
    for note in &imported.notes {
        eprintln!("{}", printable(&note.to_string()));
    }
    match imported.notes.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(1),
    }
}

/// Text of a file as a terminal may have it.
fn printable(text: &str) -> String {
    let harmless = |it: char| if it.is_control() && it != '\n' { ' ' } else { it };
    text.chars().map(harmless).collect()
}

fn stdin() -> Result<Vec<u8>, String> {
    limited(std::io::stdin().lock())
}

fn limited(from: impl std::io::Read) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut from = std::io::Read::take(from, LARGEST + 1);
    std::io::Read::read_to_end(&mut from, &mut bytes).map_err(|error| error.to_string())?;
    match u64::try_from(bytes.len()) {
        Ok(size) if size <= LARGEST => Ok(bytes),
        _ => Err(format!("it has more than {} MiB", LARGEST >> 20)),
    }
}

/// The files of this machine.
struct Disk;

impl Files for Disk {
    fn read(&mut self, path: &Path) -> Result<Vec<u8>, String> {
        limited(std::fs::File::open(path).map_err(|error| error.to_string())?)
    }

    fn matching(&mut self, pattern: &Path) -> Vec<PathBuf> {
        let mut found = vec![PathBuf::new()];
        for part in pattern.components() {
            let part = part.as_os_str();
            let text = part.to_string_lossy();
            found = match text.contains(['*', '?', '[']) {
                false => found.into_iter().map(|path| path.join(part)).collect(),
                true => found.iter().flat_map(|folder| entries(folder, &text)).collect(),
            };
        }
        found.retain(|path| path.is_file());
        found.sort();
        found
    }
}

/// What of a folder fits a pattern; a dot at the front must be written.
fn entries(folder: &Path, pattern: &str) -> Vec<PathBuf> {
    let fits = |entry: &std::fs::DirEntry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with('.') == pattern.starts_with('.') && import::fits(pattern, &name)
    };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(fits).map(|entry| entry.path()).collect()
}
