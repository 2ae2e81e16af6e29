//! The module on the page about the guest ABI (`worker/ABI.md`) does what the page says.

use std::path::Path;

use cofferdam::harness::Harness;
use cofferdam::verdict::GuestVerdict;

cofferdam::enable_test_support!();

/// The module in the page's block of code.
fn module_on_the_page() -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../worker/ABI.md");
    let page = std::fs::read_to_string(page).expect("the page is there");
    let (_, code) = page.split_once("```wat\n").expect("a block of code");
    code.split_once("```").expect("its end").0.to_owned()
}

#[test]
fn the_module_on_the_page_runs() {
    let mut session = Harness::new(module_on_the_page()).memory(1 << 20).start().unwrap();
    session.block("a block").assert_completed().assert_writes(&[(b"height", &[0, 0, 0, 0])]);
    // Longer than the memory that the module starts with.
    session.block(vec![7; 200_000]).assert_completed().assert_writes(&[(b"height", &[1, 0, 0, 0])]);
    session.view("echo", "what was asked").assert_result(b"what was asked");
    // Longer than its limit.
    session.block(vec![7; 2 << 20]).assert_verdict(GuestVerdict::MemoryExhausted);
}
