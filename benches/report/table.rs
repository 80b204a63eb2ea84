//! What was found, as a table in Markdown.

use std::fmt::{self, Display};

/// One thing that was measured.
pub(crate) struct Line {
    what: String,
    to_reach: String,
    found: String,
    verdict: Verdict,
}

enum Verdict {
    Reached,
    Missed(&'static str),
    /// Not ours, or nothing to reach.
    ForScale,
}

impl Line {
    /// A line with a mark; if it is `missed`, then for what reason.
    pub(crate) fn marked(
        what: impl Into<String>,
        to_reach: impl Into<String>,
        found: impl Into<String>,
        reached: bool,
        limit: &'static str,
    ) -> Self {
        Self {
            what: what.into(),
            to_reach: to_reach.into(),
            found: found.into(),
            verdict: match reached {
                true => Verdict::Reached,
                false => Verdict::Missed(limit),
            },
        }
    }

    /// A line for comparison.
    pub(crate) fn for_scale(what: impl Into<String>, found: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            to_reach: String::new(),
            found: found.into(),
            verdict: Verdict::ForScale,
        }
    }

    pub(crate) fn is_missed(&self) -> bool {
        matches!(self.verdict, Verdict::Missed(_))
    }
}

impl Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            what,
            to_reach,
            found,
            verdict,
        } = self;
        let verdict = match verdict {
            Verdict::Reached => "reached".into(),
            Verdict::Missed("") => "**missed**".into(),
            Verdict::Missed(limit) => format!("**missed**: {limit}"),
            Verdict::ForScale => String::new(),
        };
        write!(f, "| {what} | {to_reach} | {found} | {verdict} |")
    }
}

/// The whole table.
pub(crate) fn markdown(lines: &[Line]) -> String {
    let mut table = String::from("| what | to reach | found | |\n|---|---|---|---|\n");
    for line in lines {
        table.push_str(&format!("{line}\n"));
    }
    table
}
