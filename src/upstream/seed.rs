//! The file that hashes and cookies are keyed with.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// More than anybody needs; a device that never ends is not read to its end.
const LARGEST: u64 = 64 << 10;

/// Why a seed file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum SeedFault {
    #[error("cannot read {}: {error}", path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("{} is empty; it must hold the same text on every replica", .0.display())]
    Empty(PathBuf),
    #[error("{} is larger than 64 KiB", .0.display())]
    TooLarge(PathBuf),
}

impl SeedFault {
    /// The file that is to blame.
    pub fn path(&self) -> &Path {
        match self {
            SeedFault::Unreadable { path, .. } => path,
            SeedFault::Empty(path) | SeedFault::TooLarge(path) => path,
        }
    }
}

/// What the file holds. White space at its end does not count: editors differ in it.
pub fn read(path: &Path) -> Result<Vec<u8>, SeedFault> {
    let mut seed = Vec::new();
    let file = File::open(path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut seed));
    file.map_err(|error| SeedFault::Unreadable { path: path.to_owned(), error })?;
    if seed.len() as u64 > LARGEST {
        return Err(SeedFault::TooLarge(path.to_owned()));
    }
    seed.truncate(seed.trim_ascii_end().len());
    if seed.is_empty() {
        return Err(SeedFault::Empty(path.to_owned()));
    }
    Ok(seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_at_the_end_does_not_count_and_alone_is_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let read = |content: &[u8]| {
            let path = folder.path().join("seed");
            std::fs::write(&path, content).expect("a file");
            read(&path)
                .map_err(|fault| fault.to_string().replace(&path.display().to_string(), "seed"))
        };
        assert_eq!(read(b" one\r\n\n"), Ok(b" one".to_vec()));
        let empty = "seed is empty; it must hold the same text on every replica";
        assert_eq!(read(b""), Err(empty.to_owned()));
        assert_eq!(read(b" \n"), Err(empty.to_owned()));
        assert_eq!(read(&[1; 65_537]), Err("seed is larger than 64 KiB".to_owned()));
    }
}
