//! Guests that read a store.

use super::*;

#[test]
fn guests_read_the_store_that_a_run_has_written_and_goes_on_writing() {
    let files = Files::new();
    let (db, module) = (files.at("db"), guest("cli_sums.wat"));
    let blocks = sums_blocks(20, 0);
    let index = |count: usize| {
        let records: Vec<u8> = blocks[..count].iter().flat_map(|block| record(block)).collect();
        let run =
            Cofferdam::run().with("--opaque --blocks -").path("--module", &module).path("--db-path", &db);
        run.stdin(records).output().expect_code(0)
    };
    let first = index(10);
    let server = Server::ready(serve(&module).path("--db-path", &db));
    let check = |output: &Output| {
        for line in output.blocks() {
            let height = number(&line, "height");
            let block = &blocks[usize::try_from(height).expect("a few")];
            let response = server.post(&format!("/v1/blocks/{height}"), &[], block).expect(200);
            assert_eq!(hex::encode(Sha256::digest(&response.body)), text(&line, "writes_sha256"), "{line}");
        }
    };
    check(&first);
    let second = index(20);
    assert_eq!(second.heights(), (10..20).collect::<Vec<_>>());
    check(&second);
    check(&first);
    server.end();
}

#[test]
fn a_store_is_read_by_its_own_module_and_up_to_its_newest_block() {
    let files = Files::new();
    let (db, module) = (files.at("db"), guest("chain.wat"));
    let missing = serve(&module).path("--db-path", &db).output().expect_code(1);
    assert!(missing.stderr.contains("there is no store in"), "{missing}");
    let blocks = files.add("early.blk", EARLY_RECORDS);
    let run = Cofferdam::run().path("--module", &module).path("--blocks", &blocks).path("--db-path", &db);
    run.output().expect_code(0);
    let other = serve(&guest("cli_sums.wat")).path("--db-path", &db);
    let larger = serve(&module).with("--memory 32MiB").path("--db-path", &db);
    let parts =
        ["the module (SHA-256) was ", "the memory limit (bytes) was 16777216 and is now 33554432. Results"];
    for (refused, part) in [other, larger].into_iter().zip(parts) {
        let refused = refused.output().expect_code(1);
        assert!(refused.stderr.contains("was made with another profile"), "{refused}");
        assert!(refused.stderr.contains(part), "{refused}");
    }

    let server = Server::ready(serve(&module).path("--db-path", &db));
    let newest = server.post("/v1/views/sum", &[], b"").expect(200).body;
    assert_eq!(server.post("/v1/views/sum?height=438", &[], b"").expect(200).body, newest);
    assert_ne!(server.post("/v1/views/sum?height=437", &[], b"").expect(200).body, newest);
    for path in ["/v1/views/sum?height=439", "/v1/views/sum?height=99999", "/v1/blocks/440"] {
        let problem = server.post(path, &[], b"x").problem(404, "urn:cofferdam:problem:above-tip");
        assert!(
            problem["detail"].as_str().is_some_and(|detail| detail.contains("newest block is 438")),
            "{problem}"
        );
    }
    // The next block runs on the newest state.
    server.post("/v1/blocks/439", &[], b"x").expect(200);
    let swap = Client::connect(server.admin).post(
        "/admin/swap",
        &[],
        &fs::read(guest("cli_sums.wat")).expect("it is there"),
    );
    assert_ne!(swap.status, 200);
    assert!(swap.text().contains("was made with another profile"), "{}", swap.text());
    assert_eq!(server.post("/v1/views/sum", &[], b"").expect(200).body, newest);
    server.end();
}
