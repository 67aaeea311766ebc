//! Values with a measure: durations, sizes, counts, rates, close codes.
//!
//! A number says its unit in the file (`"30s"`, `"64KiB"`, `"10/s"`), so nobody has to remember
//! one. A type here holds only what makes sense where it is used: a [`Lasting`] is never zero, a
//! [`CloseCode`] may be sent.

use std::num::NonZeroUsize;
use std::time::Duration;

use serde_json::{Value as Json, json};
use toml::de::DeValue;

use super::diagnostics::Diagnostic;
use super::reader::{Complaint, Faults, Node, Read, Text, wrong_type};
use crate::plan::Rate;

// ---- time ----

const MILLISECOND: u64 = 1;
const DURATION_UNITS: &[(&str, u64)] =
    &[("ms", MILLISECOND), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
/// Far beyond any sense, and far below what a clock overflows at.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);

impl Text for Duration {
    const NAME: &'static str = "a duration";
    const EXAMPLE: &'static str = "30s";

    fn parse(text: &str) -> Result<Duration, Complaint> {
        let help =
            "write a whole number and a unit (ms, s, m, h or d), such as \"500ms\" or \"30s\"";
        let (number, unit) = number_and_unit(text, help)?;
        let Some((_, scale)) = DURATION_UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(unknown_unit(unit, help));
        };
        match number.checked_mul(*scale).map(Duration::from_millis) {
            Some(duration) if duration <= LONGEST => Ok(duration),
            _ => Err(Complaint::unfit("is too long", "366d is the most", "write a shorter one")),
        }
    }

    fn schema() -> Json {
        json!({
            "type": "string",
            "pattern": "^[0-9]+(ms|s|m|h|d)$",
            "examples": [Self::EXAMPLE],
        })
    }
}

/// Reads a duration as a file writes it, such as `30s`; the error says what is wrong with it.
pub fn duration(text: &str) -> Result<Duration, String> {
    Duration::parse(text).map_err(|complaint| complaint.to_string())
}

/// As a file would write it.
pub(super) fn show_duration(duration: Duration) -> String {
    match duration.subsec_millis() {
        0 => format!("{}s", duration.as_secs()),
        _ => format!("{}ms", duration.as_millis()),
    }
}

/// A duration over zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lasting(pub Duration);

impl Text for Lasting {
    const NAME: &'static str = Duration::NAME;
    const EXAMPLE: &'static str = Duration::EXAMPLE;

    fn parse(text: &str) -> Result<Lasting, Complaint> {
        let duration = Duration::parse(text)?;
        if duration.is_zero() {
            let label = "nothing can be done in no time";
            return Err(Complaint::unfit("is too short", label, "write \"1ms\" or more"));
        }
        Ok(Lasting(duration))
    }

    fn schema() -> Json {
        json!({
            "type": "string",
            "pattern": "^0*[1-9][0-9]*(ms|s|m|h|d)$",
            "examples": [Self::EXAMPLE],
        })
    }
}

/// Splits `30s` behind its digits.
fn number_and_unit<'a>(text: &'a str, help: &str) -> Result<(u64, &'a str), Complaint> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(Complaint::malformed("it does not begin with a whole number", help));
    }
    if unit.is_empty() {
        return Err(Complaint::malformed("its unit is missing", help));
    }
    match number.parse() {
        Ok(number) => Ok((number, unit)),
        Err(_) => Err(Complaint::malformed("the number is too large", help)),
    }
}

fn unknown_unit(unit: &str, help: &str) -> Complaint {
    if unit.bytes().any(|byte| byte.is_ascii_digit()) {
        return Complaint::malformed("it is more than one whole number and one unit", help);
    }
    Complaint::malformed(format!("no such unit: {unit:?}"), help)
}

// ---- sizes and counts ----

const SIZE_UNITS: &[(&str, u64)] = &[
    ("B", 1),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];
const TEBIBYTE: u64 = 1 << 40;

/// Bytes, from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bytes<const MIN: u64 = 1, const MAX: u64 = TEBIBYTE>(pub u64);

impl<const MIN: u64, const MAX: u64> Bytes<MIN, MAX> {
    /// As a size in memory; a `MAX` is under every 64-bit machine's.
    pub fn in_memory(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl<const MIN: u64, const MAX: u64> Text for Bytes<MIN, MAX> {
    const NAME: &'static str = "a size";
    const EXAMPLE: &'static str = "64KiB";

    fn parse(text: &str) -> Result<Self, Complaint> {
        let help = "write a whole number and a unit (B, KB, MB, GB, KiB, MiB, GiB or TiB), \
                    such as \"64KiB\"";
        let (number, unit) = number_and_unit(text, help)?;
        let Some((_, scale)) = SIZE_UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(unknown_unit(unit, help));
        };
        match number.checked_mul(*scale) {
            Some(bytes) if bytes < MIN => {
                let least = show_bytes(MIN);
                let help = format!("write {least:?} or more");
                Err(Complaint::unfit("is too small", format!("{least} is the least"), help))
            }
            Some(bytes) if bytes <= MAX => Ok(Bytes(bytes)),
            _ => {
                let most = show_bytes(MAX);
                let help = format!("write {most:?} or less");
                Err(Complaint::unfit("is too large", format!("{most} is the most"), help))
            }
        }
    }

    fn schema() -> Json {
        json!({
            "type": "string",
            "pattern": "^0*[1-9][0-9]*([KMG]|[KMGT]i)?B$",
            "examples": [Self::EXAMPLE],
        })
    }
}

/// In the largest unit that divides it.
pub(super) fn show_bytes(bytes: u64) -> String {
    match bytes {
        whole if whole >= TEBIBYTE && whole.is_multiple_of(TEBIBYTE) => {
            format!("{}TiB", whole / TEBIBYTE)
        }
        whole if whole >= 1 << 30 && whole.is_multiple_of(1 << 30) => format!("{}GiB", whole >> 30),
        whole if whole >= 1 << 20 && whole.is_multiple_of(1 << 20) => format!("{}MiB", whole >> 20),
        whole if whole >= 1 << 10 && whole.is_multiple_of(1 << 10) => format!("{}KiB", whole >> 10),
        bytes => format!("{bytes}B"),
    }
}

/// A number of things, from 1 to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Count<const MAX: u32 = 10_000_000>(pub u32);

impl<const MAX: u32> Count<MAX> {
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    fn out_of(node: &Node<'_>, faults: &mut Faults) {
        let fault = wrong_type(node, &format!("a number from 1 to {MAX}"), "");
        let message = match node.get_ref() {
            DeValue::Integer(_) => format!("expected a number from 1 to {MAX}"),
            _ => fault.message,
        };
        let label = match node.get_ref() {
            DeValue::Integer(number) if number.as_str() == "0" => "there must be one at least",
            DeValue::Integer(_) => "out of bounds",
            _ => &fault.label,
        };
        let fault = Diagnostic::fault(node.span(), message).label(label);
        faults.push(fault.help("write a whole number, without quotes"));
    }
}

impl<const MAX: u32> Read for Count<MAX> {
    fn read(node: &Node<'_>, faults: &mut Faults) -> Option<Self> {
        match integer(node) {
            Some(number @ 1..) if number <= MAX => Some(Count(number)),
            _ => {
                Self::out_of(node, faults);
                None
            }
        }
    }

    fn schema() -> Json {
        json!({ "type": "integer", "minimum": 1, "maximum": MAX })
    }
}

fn integer(node: &Node<'_>) -> Option<u32> {
    match node.get_ref() {
        DeValue::Integer(number) => u32::from_str_radix(number.as_str(), number.radix()).ok(),
        _ => None,
    }
}

/// Threads: a number, or `"auto"` (`None`) for one a core.
#[derive(Clone, Copy, Debug)]
pub(super) struct Workers(pub Option<NonZeroUsize>);

impl Read for Workers {
    fn read(node: &Node<'_>, faults: &mut Faults) -> Option<Workers> {
        match node.get_ref() {
            DeValue::String(text) if text == "auto" => Some(Workers(None)),
            DeValue::Integer(_) => {
                let count = Count::<1024>::read(node, faults)?;
                let threads = usize::try_from(count.0).ok()?;
                Some(Workers(NonZeroUsize::new(threads)))
            }
            _ => {
                let help = "write \"auto\" for one thread a core, or a number without quotes";
                faults.push(
                    Diagnostic::fault(node.span(), "expected \"auto\" or a number")
                        .label("neither of these")
                        .help(help),
                );
                None
            }
        }
    }

    fn schema() -> Json {
        json!({ "anyOf": [{ "const": "auto" }, Count::<1024>::schema()] })
    }
}

/// A close code that may stand in a Close frame (RFC 6455 §7.4, and IANA's 1012 to 1014).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CloseCode(pub u16);

impl Read for CloseCode {
    fn read(node: &Node<'_>, faults: &mut Faults) -> Option<CloseCode> {
        let help = "write 1000 to 1003, 1007 to 1014, or a code of your own from 3000 to 4999";
        let DeValue::Integer(_) = node.get_ref() else {
            faults.push(wrong_type(node, "a close code", help));
            return None;
        };
        match integer(node).and_then(|code| u16::try_from(code).ok()) {
            Some(code @ (1000..=1003 | 1007..=1014 | 3000..=4999)) => Some(CloseCode(code)),
            code => {
                let label = match code {
                    Some(1004..=1006 | 1015) => "reserved: never sent in a frame",
                    _ => "no frame may carry it",
                };
                let fault = Diagnostic::fault(node.span(), "not a close code to send");
                faults.push(fault.label(label).help(help));
                None
            }
        }
    }

    fn schema() -> Json {
        json!({ "type": "integer", "anyOf": [
            { "minimum": 1000, "maximum": 1003 },
            { "minimum": 1007, "maximum": 1014 },
            { "minimum": 3000, "maximum": 4999 },
        ] })
    }
}

/// `"10/s"`: so many in a second, minute, hour or day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PerTime {
    pub count: u32,
    pub period: Duration,
}

impl PerTime {
    /// The rate with a burst of so many times its number.
    pub fn with_burst(self, times: u64) -> Rate {
        let count = u64::from(self.count);
        Rate { count, period: self.period, burst: count.saturating_mul(times) }
    }

    /// The rate with so many at once; without a number, its own.
    pub fn at_once(self, burst: Option<Count>) -> Rate {
        let count = u64::from(self.count);
        let burst = burst.map_or(count, |burst| u64::from(burst.0));
        Rate { count, period: self.period, burst }
    }
}

const RATE_UNITS: &[(&str, u64)] =
    &[("s", 1), ("sec", 1), ("min", 60), ("m", 60), ("h", 3_600), ("d", 86_400)];

impl Text for PerTime {
    const NAME: &'static str = "a rate";
    const EXAMPLE: &'static str = "10/s";

    fn parse(text: &str) -> Result<PerTime, Complaint> {
        /// Keeps the time one of them costs at 100 ns or more.
        const MOST: u32 = 10_000_000;
        let help =
            "write a whole number, a slash and s, min, h or d, such as \"10/s\" or \"100/min\"";
        let Some((count, unit)) = text.split_once('/') else {
            return Err(Complaint::malformed("there is no slash in it", help));
        };
        let period = period(unit, help)?;
        if count.is_empty() || !count.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Complaint::malformed("it does not begin with a whole number", help));
        }
        match count.parse() {
            Ok(0) => Err(Complaint::unfit("is too few", "zero lets nothing pass", help)),
            Ok(count @ ..=MOST) => Ok(PerTime { count, period }),
            _ => Err(Complaint::unfit("is too many", format!("{MOST} is the most"), help)),
        }
    }

    fn schema() -> Json {
        json!({
            "type": "string",
            "pattern": "^0*[1-9][0-9]*/(s|sec|min|m|h|d)$",
            "examples": [Self::EXAMPLE],
        })
    }
}

fn period(unit: &str, help: &str) -> Result<Duration, Complaint> {
    match RATE_UNITS.iter().find(|(name, _)| *name == unit) {
        Some((_, seconds)) => Ok(Duration::from_secs(*seconds)),
        None => Err(unknown_unit(unit, help)),
    }
}

/// `"1MiB/s"`: so many bytes in a second, minute, hour or day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BytesPerTime {
    bytes: Bytes,
    period: Duration,
}

impl BytesPerTime {
    /// The rate with so many bytes at once; without a size, its own.
    pub fn at_once(self, burst: Option<Bytes>) -> Rate {
        let burst = burst.unwrap_or(self.bytes).0;
        Rate { count: self.bytes.0, period: self.period, burst }
    }
}

impl Text for BytesPerTime {
    const NAME: &'static str = "a rate of bytes";
    const EXAMPLE: &'static str = "1MiB/s";

    fn parse(text: &str) -> Result<BytesPerTime, Complaint> {
        let help = "write a size, a slash and s, min, h or d, such as \"1MiB/s\" or \"64KiB/min\"";
        let Some((size, unit)) = text.split_once('/') else {
            return Err(Complaint::malformed("there is no slash in it", help));
        };
        let period = period(unit, help)?;
        let bytes = Bytes::parse(size).map_err(|complaint| complaint.with_help(help))?;
        Ok(BytesPerTime { bytes, period })
    }

    fn schema() -> Json {
        json!({
            "type": "string",
            "pattern": "^0*[1-9][0-9]*([KMG]|[KMGT]i)?B/(s|sec|min|m|h|d)$",
            "examples": [Self::EXAMPLE],
        })
    }
}

/// `"off"` or a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OrOff<T> {
    Off,
    On(T),
}

impl<T: Copy> OrOff<T> {
    pub fn on(self) -> Option<T> {
        match self {
            OrOff::Off => None,
            OrOff::On(value) => Some(value),
        }
    }
}

impl<T: Text> Text for OrOff<T> {
    const NAME: &'static str = T::NAME;
    const EXAMPLE: &'static str = T::EXAMPLE;

    fn parse(text: &str) -> Result<OrOff<T>, Complaint> {
        if text == "off" {
            return Ok(OrOff::Off);
        }
        T::parse(text).map(OrOff::On).map_err(|complaint| complaint.or("off"))
    }

    fn schema() -> Json {
        json!({ "anyOf": [{ "const": "off" }, <T as Text>::schema()] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let millis = |text| <Duration as Text>::parse(text).ok().map(|it| it.as_millis());
        assert_eq!(millis("500ms"), Some(500));
        assert_eq!(millis("30s"), Some(30_000));
        assert_eq!(millis("5m"), Some(300_000));
        assert_eq!(millis("1h"), Some(3_600_000));
        assert_eq!(millis("1d"), Some(86_400_000));
        assert_eq!(millis("0s"), Some(0));
        assert_eq!(millis("366d"), Some(366 * 86_400_000));
        for bad in ["", "s", "5", "1m30s", "1.5s", "-1s", "+1s", "5 s", "5S", "367d", "off"] {
            assert_eq!(millis(bad), None, "{bad:?}");
        }
        assert_eq!(millis("99999999999999999999s"), None);
        assert_eq!(millis("18446744073709551615d"), None);
        assert!(Lasting::parse("0ms").is_err());
    }

    #[test]
    fn sizes() {
        let bytes = |text| Bytes::<1>::parse(text).ok().map(|size| size.0);
        assert_eq!(bytes("512B"), Some(512));
        assert_eq!(bytes("64KB"), Some(64_000));
        assert_eq!(bytes("64KiB"), Some(65_536));
        assert_eq!(bytes("1MB"), Some(1_000_000));
        assert_eq!(bytes("1MiB"), Some(1 << 20));
        assert_eq!(bytes("2GiB"), Some(2 << 30));
        assert_eq!(bytes("1TiB"), Some(TEBIBYTE));
        for bad in ["", "0B", "1", "1K", "1kb", "1.5MiB", "2TiB", "18446744073709551615GiB"] {
            assert_eq!(bytes(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_size_shown_is_the_size_read() {
        for text in ["1B", "1023B", "8KiB", "1MiB", "3GiB", "1TiB"] {
            let size = Bytes::<1>::parse(text).map(|size| show_bytes(size.0));
            assert_eq!(size.as_deref(), Ok(text));
        }
    }

    #[test]
    fn rates() {
        let rate = |text| PerTime::parse(text).ok().map(|rate| rate.with_burst(10));
        let of = |count, seconds| {
            Some(Rate { count, period: Duration::from_secs(seconds), burst: 10 * count })
        };
        assert_eq!(rate("10/s"), of(10, 1));
        assert_eq!(rate("100/min"), of(100, 60));
        assert_eq!(rate("1000/h"), of(1000, 3600));
        assert_eq!(rate("10000000/s"), of(10_000_000, 1));
        for bad in ["", "10", "/s", "0/s", "10/", "10/x", "-1/s", "+1/s", "1.5/s", "10000001/s"] {
            assert_eq!(rate(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn rates_of_bytes() {
        let rate = |text| BytesPerTime::parse(text).ok().map(|rate| rate.at_once(None));
        let of = |count, seconds| {
            Some(Rate { count, period: Duration::from_secs(seconds), burst: count })
        };
        assert_eq!(rate("1MiB/s"), of(1 << 20, 1));
        assert_eq!(rate("64KB/min"), of(64_000, 60));
        assert_eq!(rate("1B/d"), of(1, 86_400));
        for bad in ["", "1MiB", "/s", "0B/s", "1/s", "1MiB/", "1MiB/x", "2TiB/s", "1MiB/s/s"] {
            assert_eq!(rate(bad), None, "{bad:?}");
        }
        let burst = BytesPerTime::parse("1MiB/s").map(|rate| rate.at_once(Some(Bytes(7))).burst);
        assert_eq!(burst, Ok(7));
    }

    #[test]
    fn close_codes_that_may_be_sent() {
        let read = |code: u32| {
            let text = code.to_string();
            let value = DeValue::parse(&text).expect("an integer");
            CloseCode::read(&value, &mut Faults::new()).is_some()
        };
        let sendable: Vec<u32> = (0..6000).filter(|code| read(*code)).collect();
        let wanted: Vec<u32> = (1000..=1003).chain(1007..=1014).chain(3000..=4999).collect();
        assert_eq!(sendable, wanted);
    }
}
