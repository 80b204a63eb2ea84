//! The small values of the format: times, spans and numbers, as they are written.

use std::fmt;
use std::time::Duration;

use serde::de::{Error, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

/// A moment since the start, or a length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Time(pub(crate) Duration);

/// A moment, or anything from one moment to another.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    from: Duration,
    to: Duration,
}

/// Some numbers out of 1, 2, 3 and so on.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Numbers(Vec<(u64, u64)>);

/// How many there are: from so many to so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Count {
    from: u64,
    to: u64,
}

/// What a request carries: one of these tokens, or none.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Carried {
    Nothing,
    OneOf(Numbers),
}

/// Something, or the word `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OrNone<T> {
    None,
    Some(T),
}

impl Span {
    pub(crate) fn contains(self, moment: Duration) -> bool {
        self.from <= moment && moment <= self.to
    }
}

impl Numbers {
    pub(crate) fn contains(&self, number: u64) -> bool {
        self.0
            .iter()
            .any(|(from, to)| (*from..=*to).contains(&number))
    }

    /// Whether each number lies in `bounds`.
    pub(crate) fn lie_within(&self, bounds: std::ops::RangeInclusive<u64>) -> bool {
        self.0
            .iter()
            .all(|(from, to)| bounds.contains(from) && bounds.contains(to))
    }
}

impl Carried {
    pub(crate) fn fits(&self, token: Option<u64>) -> bool {
        match (self, token) {
            (Carried::Nothing, None) => true,
            (Carried::Nothing, Some(_)) | (Carried::OneOf(_), None) => false,
            (Carried::OneOf(numbers), Some(token)) => numbers.contains(token),
        }
    }
}

impl<T: PartialEq> PartialEq<Option<T>> for OrNone<T> {
    fn eq(&self, other: &Option<T>) -> bool {
        match (self, other) {
            (OrNone::None, None) => true,
            (OrNone::None, Some(_)) | (OrNone::Some(_), None) => false,
            (OrNone::Some(ours), Some(theirs)) => ours == theirs,
        }
    }
}

/// `1s`, `250ms`, `1m30s`.
fn parse_time(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3600),
            _ => return None,
        };
        total = total.checked_add(unit.checked_mul(u32::try_from(number).ok()?)?)?;
        rest = &rest[letters..];
    }
    Some(total)
}

fn parse_span(text: &str) -> Option<Span> {
    let (from, to) = text.split_once("..").unwrap_or((text, text));
    let (from, to) = (parse_time(from)?, parse_time(to)?);
    (from <= to).then_some(Span { from, to })
}

fn parse_range(text: &str) -> Option<(u64, u64)> {
    let (from, to) = text.split_once("..")?;
    let from = match from {
        "" => 1,
        from => from.parse().ok()?,
    };
    let to = match to {
        "" => u64::MAX,
        to => to.parse().ok()?,
    };
    (1 <= from && from <= to).then_some((from, to))
}

/// A time as the format writes it.
pub(crate) fn show_time(time: Duration) -> String {
    let millis = time.as_millis();
    let (seconds, millis) = (millis / 1000, millis % 1000);
    let mut shown = match (seconds / 60, seconds % 60) {
        (0, 0) if millis > 0 => String::new(),
        (0, seconds) => format!("{seconds}s"),
        (minutes, 0) => format!("{minutes}m"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    };
    if millis > 0 {
        shown.push_str(&format!("{millis}ms"));
    }
    shown
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&show_time(self.from))?;
        if self.from != self.to {
            write!(f, "..{}", show_time(self.to))?;
        }
        Ok(())
    }
}

// A report shows expectations with `Debug`, and as they are written.

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (from, to) in &self.0 {
            f.write_str(separator)?;
            match (from, to) {
                (from, to) if from == to => write!(f, "{from}")?,
                (from, &u64::MAX) => write!(f, "{from}..")?,
                (from, to) => write!(f, "{from}..{to}")?,
            }
            separator = " or ";
        }
        Ok(())
    }
}

impl fmt::Debug for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Carried::Nothing => f.write_str("none"),
            Carried::OneOf(numbers) => numbers.fmt(f),
        }
    }
}

/// Reads a value that is written as one text.
struct Text<T> {
    expected: &'static str,
    parse: fn(&str) -> Option<T>,
}

impl<T> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }
}

const TIME: &str = "a time with its unit, such as \"250ms\", \"1s\" or \"1m30s\"";
const SPAN: &str = "a time such as \"1s\", or a span such as \"1s..2s\"";
const NUMBERS: &str = "a number from 1, a range such as \"2..4\", \"2..\" or \"..4\", or a list";

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_str(Text {
            expected: TIME,
            parse: parse_time,
        })
        .map(Time)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_str(Text {
            expected: SPAN,
            parse: parse_span,
        })
    }
}

struct ReadNumbers {
    expected: &'static str,
}

impl<'de> Visitor<'de> for ReadNumbers {
    type Value = Carried;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Carried, E> {
        match number {
            0 => Err(E::invalid_value(Unexpected::Unsigned(0), &self)),
            number => Ok(Carried::OneOf(Numbers(vec![(number, number)]))),
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Carried, E> {
        match (text, parse_range(text)) {
            ("none", _) if self.expected != NUMBERS => Ok(Carried::Nothing),
            (_, Some(range)) => Ok(Carried::OneOf(Numbers(vec![range]))),
            (_, None) => Err(E::invalid_value(Unexpected::Str(text), &self)),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Carried, A::Error> {
        let mut numbers = Vec::new();
        while let Some(number) = list.next_element()? {
            if number == 0 {
                return Err(A::Error::invalid_value(Unexpected::Unsigned(0), &self));
            }
            numbers.push((number, number));
        }
        Ok(Carried::OneOf(Numbers(numbers)))
    }
}

impl Count {
    pub(crate) fn exactly(count: u64) -> Self {
        Self {
            from: count,
            to: count,
        }
    }

    /// Reads `"2..4"`, `"2.."` or `"..4"`.
    pub(crate) fn parse(range: &str) -> Option<Self> {
        let (from, to) = range.split_once("..")?;
        let bound = |text: &str, open| match text {
            "" => Some(open),
            text => text.parse().ok(),
        };
        let (from, to) = (bound(from, 0)?, bound(to, u64::MAX)?);
        (from <= to).then_some(Self { from, to })
    }

    pub(crate) fn contains(self, count: usize) -> bool {
        (self.from..=self.to).contains(&(count as u64))
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.from, self.to) {
            (from, to) if from == to => write!(f, "{from}"),
            (from, u64::MAX) => write!(f, "{from} or more"),
            (from, to) => write!(f, "{from} to {to}"),
        }
    }
}

struct ReadCount;

impl Visitor<'_> for ReadCount {
    type Value = Count;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, or a range such as \"2..4\" or \"..4\"")
    }

    fn visit_u64<E: Error>(self, count: u64) -> Result<Count, E> {
        Ok(Count::exactly(count))
    }

    fn visit_str<E: Error>(self, range: &str) -> Result<Count, E> {
        Count::parse(range).ok_or_else(|| E::invalid_value(Unexpected::Str(range), &self))
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(ReadCount)
    }
}

impl<'de> Deserialize<'de> for Numbers {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match from.deserialize_any(ReadNumbers { expected: NUMBERS })? {
            Carried::OneOf(numbers) => Ok(numbers),
            Carried::Nothing => unreachable!("read for `Carried` only"),
        }
    }
}

impl<'de> Deserialize<'de> for Carried {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(ReadNumbers {
            expected: "\"none\", a token's number, a range such as \"..2\", or a list",
        })
    }
}

/// A value that may be the word `none` needs to know how else it is written.
pub(crate) trait Named: Sized {
    const EXPECTED: &'static str;
    fn parse(text: &str) -> Option<Self>;
    fn count(number: u64) -> Option<Self>;
}

impl Named for u64 {
    const EXPECTED: &'static str = "a number, or \"none\"";

    fn parse(_: &str) -> Option<Self> {
        None
    }

    fn count(number: u64) -> Option<Self> {
        Some(number)
    }
}

impl Named for Span {
    const EXPECTED: &'static str = "a time such as \"1s\", a span such as \"1s..2s\", or \"none\"";

    fn parse(text: &str) -> Option<Self> {
        parse_span(text)
    }

    fn count(_: u64) -> Option<Self> {
        None
    }
}

struct ReadOrNone<T>(std::marker::PhantomData<T>);

impl<T: Named> Visitor<'_> for ReadOrNone<T> {
    type Value = OrNone<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<OrNone<T>, E> {
        T::count(number)
            .map(OrNone::Some)
            .ok_or_else(|| E::invalid_type(Unexpected::Unsigned(number), &self))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<OrNone<T>, E> {
        match text {
            "none" => Ok(OrNone::None),
            text => T::parse(text)
                .map(OrNone::Some)
                .ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self)),
        }
    }
}

impl<'de, T: Named> Deserialize<'de> for OrNone<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(ReadOrNone(std::marker::PhantomData))
    }
}
