//! The matrix of all cells: whether memory made a difference, as a table and as text.

use std::collections::BTreeMap;

use cofferdam_protocol::exit::CommandExit;
use cofferdam_protocol::verdict::GuestVerdict;
use serde::Serialize;

use super::cell::{Cell, End};
use crate::cli::report::table;

/// The number of digits of a digest that the table shows.
const SHOWN_DIGITS: usize = 16;

/// All cells, and the conclusion from them.
#[derive(Debug, Serialize)]
pub(super) struct Matrix {
    profile: String,
    pub(super) cells: Vec<Cell>,
    /// Whether all cells were run.
    complete: bool,
    /// Whether every cell has the same result, or ended with 137 before its first block.
    agreed: bool,
    /// The digest that most cells have.
    pub(super) digest: Option<String>,
    /// The result that most cells have, with the verdicts.
    #[serde(skip)]
    result: Option<End>,
}

impl Matrix {
    pub(super) fn new(profile: String, cells: Vec<Cell>, complete: bool) -> Self {
        let result = most_common(&cells).cloned();
        let agrees = |cell: &Cell| cell.is_not_committed() || Some(&cell.end) == result.as_ref();
        let agreed = complete && result.is_some() && cells.iter().all(agrees);
        let digest = match &result {
            Some(End::Indexed { digest, .. }) => Some(digest.clone()),
            _ => None,
        };
        Self { profile, cells, complete, agreed, digest, result }
    }

    /// The exit code: 0 if memory made no difference; 1 if memory made a difference, if a cell was not run, or if no block
    /// completed; 137 if no cell could commit its memory.
    pub(super) fn exit(&self) -> CommandExit {
        match self.agreed {
            true if self.failed_blocks().is_some() => CommandExit::Failure,
            true => CommandExit::Success,
            false if self.complete && self.cells.iter().all(Cell::is_not_committed) => {
                CommandExit::NotCommitted
            }
            false => CommandExit::Failure,
        }
    }

    /// The matrix as text.
    pub(super) fn to_text(&self) -> String {
        let mut text = self.table();
        for (index, cell) in self.cells.iter().enumerate() {
            // If memory was not committed, the reason is printed once for each limit, because it is the same for all settings.
            let said = self.cells[..index].iter().any(|earlier| earlier.is_refused_like(cell));
            if let Some(reason) = cell.reason().filter(|_| !said) {
                text.push_str(&format!("\n{}, {}: {reason}", cell.host_memory_bytes, cell.pool));
            }
        }
        text.push_str(&format!("\nprofile {}\n{}", self.profile, self.conclusion()));
        text
    }

    /// A row for each limit, a column for each setting.
    fn table(&self) -> String {
        let mut columns: Vec<&str> = Vec::new();
        for cell in &self.cells {
            if !columns.contains(&cell.pool.as_str()) {
                columns.push(&cell.pool);
            }
        }
        // Each part of a long name has its own line.
        let header: Vec<String> = columns.iter().map(|name| name.replace(',', "\n")).collect();
        let mut header: Vec<&str> = header.iter().map(String::as_str).collect();
        header.insert(0, "host memory");
        let mut table = table(&header);
        for row in self.cells.chunks(columns.len().max(1)) {
            let host = row.first().map(|cell| cell.host_memory_bytes.to_string()).unwrap_or_default();
            table.add_row([host].into_iter().chain(row.iter().map(|cell| self.shown(cell))));
        }
        table.to_string()
    }

    /// The text of a cell in the table.
    fn shown(&self, cell: &Cell) -> String {
        match &cell.end {
            End::Indexed { verdicts, digest, .. } => {
                let other = if self.differs(cell) { "\nDIFFERS" } else { "" };
                let digest: String = digest.chars().take(SHOWN_DIGITS).collect();
                format!("{}\n{digest}{other}", shown_verdicts(verdicts))
            }
            End::NotCommitted { .. } => "137 at start".to_owned(),
            End::InBlock { height: Some(height), .. } => format!("DIED IN BLOCK {height}"),
            End::InBlock { height: None, .. } => "DIED AMONG THE BLOCKS".to_owned(),
            End::Failed { .. } => "FAILED".to_owned(),
        }
    }

    pub(super) fn conclusion(&self) -> String {
        let count = |is: fn(&End) -> bool| self.cells.iter().filter(|cell| is(&cell.end)).count();
        let (indexed, refused) = (
            count(|end| matches!(end, End::Indexed { .. })),
            count(|end| matches!(end, End::NotCommitted { .. })),
        );
        let rest = self.cells.len() - indexed - refused;
        let digest = self.digest.as_deref().unwrap_or("none");
        if !self.complete {
            return format!("interrupted: {} cells were run", self.cells.len());
        }
        if let Some(verdicts) = self.failed_blocks().filter(|_| self.agreed) {
            return format!(
                "NOT checked: no block completed in any cell ({verdicts}), so nothing is known about blocks that complete. \
                 Cells with digest {digest}: {indexed}; cells that ended with 137 before their first block: {refused}"
            );
        }
        if self.agreed {
            return format!(
                "agreed: memory makes no difference. Cells with digest {digest}: {indexed}; cells that ended with 137 before \
                 their first block: {refused}"
            );
        }
        if indexed + rest == 0 {
            return "nothing was checked: no cell could commit its memory".to_owned();
        }
        let differ = self.cells.iter().filter(|cell| self.differs(cell)).count();
        format!(
            "NOT agreed: memory makes a difference. Cells with digest {digest}: {}; cells with another result: {differ}; \
             cells that ended in a block or failed: {rest}; cells that ended with 137 before their first block: {refused}",
            indexed - differ
        )
    }

    /// The verdicts of the result that most cells have, if no block completed in it.
    fn failed_blocks(&self) -> Option<String> {
        let Some(End::Indexed { blocks, verdicts, .. }) = &self.result else { return None };
        let completed = GuestVerdict::Completed.name();
        let failed = *blocks > 0 && !verdicts.contains_key(completed);
        failed.then(|| shown_verdicts(verdicts))
    }

    /// Whether a cell has a result that differs from the result of most cells.
    pub(super) fn differs(&self, cell: &Cell) -> bool {
        matches!(cell.end, End::Indexed { .. }) && Some(&cell.end) != self.result.as_ref()
    }
}

impl Cell {
    fn is_not_committed(&self) -> bool {
        matches!(self.end, End::NotCommitted { .. })
    }

    fn is_refused_like(&self, other: &Self) -> bool {
        let same_host = self.host_memory_bytes == other.host_memory_bytes;
        same_host && self.is_not_committed() && other.is_not_committed()
    }

    /// Why the cell has no result; none if it has one.
    pub(super) fn reason(&self) -> Option<&str> {
        match &self.end {
            End::Indexed { .. } => None,
            End::NotCommitted { reason } | End::InBlock { reason, .. } | End::Failed { reason } => {
                Some(reason)
            }
        }
    }
}

fn shown_verdicts(verdicts: &BTreeMap<String, u64>) -> String {
    let each: Vec<String> = verdicts.iter().map(|(name, count)| format!("{count} {name}")).collect();
    each.join(", ")
}

/// The result that most cells have. If several results are equally frequent, the one that more cells with committed memory have;
/// if these numbers are equal, too, the first one.
fn most_common(cells: &[Cell]) -> Option<&End> {
    let results = cells.iter().filter(|cell| matches!(cell.end, End::Indexed { .. }));
    let votes = |end: &End| {
        let same = cells.iter().filter(|cell| cell.end == *end);
        (same.clone().count(), same.filter(|cell| cell.committed).count())
    };
    // `max_by_key` returns the last of equal elements, so the order is reversed.
    results.rev().map(|cell| &cell.end).max_by_key(|end| votes(end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cofferdam_base::size::Bytes;

    fn cell(end: End) -> Cell {
        let host_memory_bytes = Bytes::gib(1);
        Cell { host_memory_bytes, pool: "x".into(), committed: true, end, seconds: 0.0, oom_kills: None }
    }

    fn indexed(digest: &str) -> Cell {
        cell(End::Indexed { blocks: 1, verdicts: [("completed".into(), 1)].into(), digest: digest.into() })
    }

    fn refused() -> Cell {
        cell(End::NotCommitted { reason: "too small".into() })
    }

    fn died() -> Cell {
        cell(End::InBlock { height: Some(7), reason: "killed".into() })
    }

    fn matrix(cells: Vec<Cell>) -> Matrix {
        Matrix::new("p".into(), cells, true)
    }

    #[test]
    fn only_one_result_and_deaths_at_start_agree() {
        let exit = |cells| matrix(cells).exit();
        assert_eq!(exit(vec![indexed("a"), refused(), indexed("a")]), CommandExit::Success);
        assert_eq!(exit(vec![indexed("a"), indexed("b")]), CommandExit::Failure);
        assert_eq!(exit(vec![indexed("a"), died()]), CommandExit::Failure);
        assert_eq!(exit(vec![died(), died()]), CommandExit::Failure);
        assert_eq!(exit(vec![cell(End::Failed { reason: "?".into() })]), CommandExit::Failure);
        assert_eq!(exit(vec![refused(), refused()]), CommandExit::NotCommitted);
        assert_eq!(Matrix::new("p".into(), vec![indexed("a")], false).exit(), CommandExit::Failure);
    }

    #[test]
    fn blocks_that_all_fail_check_nothing() {
        let failed = |verdicts: &[(&str, u64)]| {
            let verdicts = verdicts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
            cell(End::Indexed { blocks: 3, verdicts, digest: "a".into() })
        };
        let all = matrix(vec![failed(&[("trap", 3)]), refused(), failed(&[("trap", 3)])]);
        assert_eq!(all.exit(), CommandExit::Failure);
        let text = all.to_text();
        assert!(text.contains("NOT checked") && text.contains("(3 trap)"), "{text}");
        let some = matrix(vec![failed(&[("completed", 1), ("trap", 2)])]);
        assert_eq!(some.exit(), CommandExit::Success);
    }

    #[test]
    fn other_verdicts_differ_even_where_digests_do_not() {
        let other =
            End::Indexed { blocks: 2, verdicts: [("completed".into(), 2)].into(), digest: "a".into() };
        assert_eq!(matrix(vec![indexed("a"), cell(other)]).exit(), CommandExit::Failure);
    }

    #[test]
    fn the_text_says_what_differs() {
        let text =
            matrix(vec![indexed("aaaa"), indexed("aaaa"), indexed("bbbb"), died(), refused()]).to_text();
        for part in
            ["bbbb", "DIFFERS", "DIED IN BLOCK 7", "137 at start", "too small", "NOT agreed", "digest aaaa"]
        {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
        let text = matrix(vec![indexed("aaaa"), refused()]).to_text();
        assert!(text.contains("agreed: memory makes no difference. Cells with digest aaaa: 1;"), "{text}");
    }
}
