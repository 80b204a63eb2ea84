//! What was found, as a table in Markdown.

use std::fmt::{self, Display};

/// One thing that was measured.
pub(crate) struct Line([String; 4]);

impl Line {
    /// A line with a mark; if it is missed, `limit` says why.
    pub(crate) fn marked(
        what: impl Into<String>,
        to_reach: impl Into<String>,
        found: impl Into<String>,
        reached: bool,
        limit: &str,
    ) -> Self {
        let verdict = match (reached, limit) {
            (true, _) => "reached".into(),
            (false, "") => "**missed**".into(),
            (false, limit) => format!("**missed**: {limit}"),
        };
        Self([what.into(), to_reach.into(), found.into(), verdict])
    }

    /// A line for comparison.
    pub(crate) fn for_scale(what: impl Into<String>, found: impl Into<String>) -> Self {
        Self([what.into(), String::new(), found.into(), String::new()])
    }

    /// A line that another bench has printed.
    pub(crate) fn read(row: &str) -> Option<Self> {
        let row = row.strip_prefix("| ")?.strip_suffix(" |")?;
        let cells: Vec<String> = row.split(" | ").map(Into::into).collect();
        cells.try_into().ok().map(Self)
    }
}

impl Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "| {} |", self.0.join(" | "))
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
