//! The matrix as JUnit XML, for the test reporters of CI systems.

use std::time::Duration;

use cofferdam_protocol::exit::CommandExit;
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use super::cell::{Cell, End};
use super::matrix::Matrix;

/// The report, with a test case for each cell and one for the whole matrix. The test case of a cell succeeds if the cell has the
/// result of most cells, or if it ended with 137 before its first block.
pub(super) fn report(matrix: &Matrix) -> String {
    let mut suite = TestSuite::new("cofferdam check");
    suite.set_system_out(matrix.conclusion());
    for cell in &matrix.cells {
        suite.add_test_case(case(matrix, cell));
    }
    suite.add_test_case(agreement(matrix));
    let mut report = Report::new("cofferdam check");
    report.add_test_suite(suite);
    // Only the writer can fail, and writing to memory does not fail.
    report.to_string().unwrap_or_default()
}

fn case(matrix: &Matrix, cell: &Cell) -> TestCase {
    let status = match &cell.end {
        End::Indexed { digest, .. } if matrix.differs(cell) => {
            let other = matrix.digest.as_deref().unwrap_or("none");
            failure("differs", format!("the digest is {digest}, and the digest of most cells is {other}"))
        }
        End::Indexed { .. } | End::NotCommitted { .. } => TestCaseStatus::success(),
        End::InBlock { height, reason } => {
            let block = height.map_or_else(String::new, |height| format!(" {height}"));
            failure("died in a block", format!("died in the middle of block{block}: {reason}"))
        }
        End::Failed { reason } => failure("failed", reason.clone()),
    };
    let mut case = TestCase::new(format!("{}, {}", cell.host_memory_bytes, cell.pool), status);
    case.set_classname("cofferdam.check")
        .set_time(Duration::try_from_secs_f64(cell.seconds).unwrap_or_default());
    match &cell.end {
        End::Indexed { digest, .. } => case.set_system_out(format!("digest {digest}")),
        End::NotCommitted { reason } => case.set_system_out(format!("137 at start: {reason}")),
        _ => &mut case,
    };
    case
}

/// The test case of the whole matrix. It fails if the command fails, even if the test case of every cell succeeds.
fn agreement(matrix: &Matrix) -> TestCase {
    let status = match matrix.exit() {
        CommandExit::Success => TestCaseStatus::success(),
        _ => failure("not agreed", matrix.conclusion()),
    };
    let mut case = TestCase::new("agreement", status);
    case.set_classname("cofferdam.check");
    case
}

fn failure(kind: &str, message: String) -> TestCaseStatus {
    let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
    status.set_type(kind).set_message(message);
    status
}
