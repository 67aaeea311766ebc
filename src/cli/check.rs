//! `wsgate check FILE`: every fault of a configuration at once, before it is put to use.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use crate::config::{Config, LoadError, Loaded, Paint, Report};
use crate::server::source::{expired, unusable};

/// What a check found; its exit code is 0, 1 or 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Good,
    Faulty,
    Unreadable,
}

impl From<Verdict> for ExitCode {
    fn from(verdict: Verdict) -> ExitCode {
        match verdict {
            Verdict::Good => ExitCode::SUCCESS,
            Verdict::Faulty => ExitCode::from(1),
            Verdict::Unreadable => ExitCode::from(2),
        }
    }
}

/// Checks a file and the files it names. The verdict of a good one goes to `out`, all else to
/// `err`. Fails only where these two cannot be written.
pub fn check(
    path: &Path,
    paint: Paint,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<Verdict> {
    judge(path, &Config::load(path), paint, out, err)
}

/// The same for a file that has been read.
pub fn judge(
    path: &Path,
    loaded: &Result<Loaded, LoadError>,
    paint: Paint,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<Verdict> {
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(LoadError::Faulty(report)) => return refuse(path, report, paint, err),
        Err(error @ LoadError::Unreadable { .. }) => {
            writeln!(err, "error: {error}")?;
            return Ok(Verdict::Unreadable);
        }
    };
    let mut warnings = loaded.warnings.clone();
    warnings.diagnostics.extend(expired(loaded));
    let mut files = unusable(loaded);
    if !files.is_empty() {
        files.diagnostics.extend(warnings.diagnostics);
        let report = Report::new(&files.origin, &files.text, files.diagnostics);
        return refuse(path, &report, paint, err);
    }
    err.write_all(warnings.render(paint).as_bytes())?;
    writeln!(out, "{}: good: {}", path.display(), summary(&loaded.config, &warnings))?;
    Ok(Verdict::Good)
}

fn refuse(path: &Path, report: &Report, paint: Paint, err: &mut dyn Write) -> io::Result<Verdict> {
    err.write_all(report.render(paint).as_bytes())?;
    writeln!(err, "{}: {}", path.display(), count(report.faults(), "fault"))?;
    Ok(Verdict::Faulty)
}

fn summary(config: &Config, warnings: &Report) -> String {
    let mut counts = vec![
        count(config.listeners.len(), "listener"),
        count(config.upstreams.len(), "upstream"),
        count(config.routes.len() + config.redirects.len(), "route"),
    ];
    if !warnings.is_empty() {
        counts.push(count(warnings.diagnostics.len(), "warning"));
    }
    counts.join(", ")
}

fn count(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        number => format!("{number} {what}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
[[listener]]
listen = "127.0.0.1:8080"
[[upstream]]
name = "app"
endpoints = ["127.0.0.1:9001"]
[[route]]
name = "app"
upstream = "app"
"#;

    /// The verdict on a text, and what went to either output.
    fn checked(text: &str) -> (Verdict, String, String) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("wsgate.toml");
        std::fs::write(&path, text).expect("a file");
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let verdict = check(&path, Paint::Plain, &mut out, &mut err).expect("memory is writable");
        let name = path.display().to_string();
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8").replace(&name, "wsgate.toml");
        (verdict, text(out), text(err))
    }

    #[test]
    fn a_good_file_is_one_line() {
        let line = "wsgate.toml: good: 1 listener, 1 upstream, 1 route\n";
        assert_eq!(checked(GOOD), (Verdict::Good, line.to_owned(), String::new()));
    }

    #[test]
    fn warnings_are_shown_and_the_file_is_good() {
        let (verdict, out, err) = checked(&format!("{GOOD}limits.max_frame_size = \"1KiB\""));
        assert_eq!(verdict, Verdict::Good);
        assert_eq!(out, "wsgate.toml: good: 1 listener, 1 upstream, 1 route, 1 warning\n");
        assert!(err.starts_with("warning: "), "{err}");
    }

    #[test]
    fn faults_are_shown_and_counted() {
        let (verdict, out, err) = checked(&format!("{GOOD}pathh = 1\nhots = 2\n"));
        assert_eq!((verdict, out.as_str()), (Verdict::Faulty, ""));
        assert!(err.ends_with("wsgate.toml: 2 faults\n"), "{err}");
    }

    #[test]
    fn a_missing_certificate_is_a_fault() {
        let tls = "tls = { certificates = [{ chain = \"a.pem\", key = \"a.key\" }] }\n[[upstream]]";
        let (verdict, _, err) = checked(&GOOD.replace("[[upstream]]", tls));
        assert_eq!(verdict, Verdict::Faulty);
        assert!(err.contains("error: cannot read the certificate chain: "), "{err}");
        assert!(err.ends_with("wsgate.toml: 2 faults\n"), "{err}");
    }

    #[test]
    fn a_file_that_is_not_there_is_unreadable() {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let path = Path::new("no such folder/wsgate.toml");
        let verdict = check(path, Paint::Plain, &mut out, &mut err).expect("memory is writable");
        assert_eq!(verdict, Verdict::Unreadable);
        assert!(String::from_utf8_lossy(&err).starts_with("error: cannot read no such folder"));
    }
}
