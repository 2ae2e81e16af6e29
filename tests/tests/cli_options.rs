//! Options are the same in every command: the module has one name, every option is a variable and a key of a TOML file, and
//! hexadecimal text may begin with 0x.

use cofferdam_tests::support::command::{Cofferdam, EARLY_RECORDS, Files, cut_records, guest};

/// A run of `cli_sums.wat` over two files that are no Bitcoin blocks.
fn blocks(files: &Files) -> String {
    files.add("in/0.bin", [0; 8]);
    files.add("in/1.bin", [0; 8]);
    files.at("in").display().to_string()
}

#[test]
fn a_module_is_named_first_by_an_option_or_by_a_variable() {
    let files = Files::new();
    let (module, sums, traps) = (guest("cli_sums.wat"), guest("cli_sums.wat"), guest("no_exports.wat"));
    let input = blocks(&files);
    let run = |command: Cofferdam<'static>| {
        command.with("--json --memory 16MiB --spares 0 --opaque --blocks").arg(input.as_str()).output()
    };
    let expected = run(Cofferdam::new(["run"]).arg(&module)).expect_code(0).digest();
    for command in [
        Cofferdam::new(["run"]).path("--module", &module),
        Cofferdam::new(["run"]).path("--indexer", &module),
        Cofferdam::new(["run"]).variable("COFFERDAM_MODULE", &sums),
        Cofferdam::new(["run"]).variable("COFFERDAM_INDEXER", &sums),
        // The command line counts for more than a variable, whichever name it has there.
        Cofferdam::new(["run"]).arg(&module).variable("COFFERDAM_MODULE", &traps),
        Cofferdam::new(["run"]).path("--module", &module).variable("COFFERDAM_MODULE", &traps),
        Cofferdam::new(["run"]).path("--indexer", &module).variable("COFFERDAM_INDEXER", &traps),
    ] {
        assert_eq!(run(command).expect_code(0).digest(), expected);
    }
    let twice = run(Cofferdam::new(["run"]).arg(&module).path("--module", &module)).expect_code(2);
    assert!(twice.stderr.contains("cannot be used with"), "{twice}");
}

#[test]
fn every_command_reads_variables_and_a_file() {
    let files = Files::new();
    let probe = || Cofferdam::new(["probe", "--json"]);
    let of = |command: Cofferdam<'static>| command.output().expect_code(0).object()["memory_bytes"].clone();
    let config = files.add("probe.toml", "memory = \"32MiB\"\nlog = \"warn\"\n");
    assert_eq!(of(probe().variable("COFFERDAM_MEMORY", "16MiB")), 16 << 20);
    assert_eq!(of(probe().path("--config", &config)), 32 << 20);
    assert_eq!(of(probe().variable("COFFERDAM_CONFIG", &config)), 32 << 20);
    assert_eq!(of(probe().variable("COFFERDAM_MEMORY", "16MiB").path("--config", &config)), 16 << 20);
    assert_eq!(of(probe().with("--memory 24MiB").path("--config", &config)), 24 << 20);
    // A global option can stand before the command.
    let before = Cofferdam::new(["--config"]).arg(&config).with("probe --json");
    assert_eq!(of(before), 32 << 20);

    // A nested command, and an option that is required.
    let (db, to) = (files.at("db"), files.at("snapshots"));
    let early: Vec<u8> = cut_records(EARLY_RECORDS)[0].clone();
    let first = files.add("0.bin", early);
    Cofferdam::new(["run", "--memory", "64MiB", "--spares", "0"])
        .path("--blocks", &first)
        .path("--db-path", &db)
        .output()
        .expect_code(0);
    let text = format!("db-path = {:?}\nto = {:?}\n", db.display().to_string(), to.display().to_string());
    let take = files.add("take.toml", text);
    let taken = Cofferdam::new(["snapshot", "take"]).path("--config", &take).output().expect_code(0);
    assert!(taken.stdout().contains(": taken"), "{taken}");
    let again = Cofferdam::new(["snapshot", "take"]).variable("COFFERDAM_DB_PATH", &db);
    again.variable("COFFERDAM_TO", &to).output().expect_code(0);
}

#[test]
fn what_excludes_an_option_on_the_command_line_counts_for_more_than_a_variable_or_a_file() {
    let files = Files::new();
    let input = blocks(&files);
    let run = || {
        let run = Cofferdam::new(["run", "--json", "--memory", "16MiB", "--opaque", "--uncommitted"]);
        run.path("--module", &guest("cli_sums.wat")).arg("--blocks").arg(input.as_str())
    };
    run().variable("COFFERDAM_WORKERS", "2").variable("COFFERDAM_MLOCK", "yes").output().expect_code(0);
    let config = files.add("run.toml", "workers = 2\n");
    run().path("--config", &config).output().expect_code(0);
    run().with("--workers 2").output().expect_code(2);
    let both = files.add("both.toml", "uncommitted = true\nworkers = 2\n");
    let refused = Cofferdam::new(["run"]).path("--config", &both).output().expect_code(2);
    assert!(
        refused.reason().contains("both.toml") && refused.reason().contains("exclude each other"),
        "{refused}"
    );
}

#[test]
fn a_wrong_name_or_value_is_told_with_its_file_or_variable() {
    let files = Files::new();
    for (text, told) in [
        (
            "worker = 2",
            "options.toml: `worker` is not an option that a file can set; did you mean `workers`?",
        ),
        ("workers = \"many\"", "options.toml: `workers`: invalid value 'many' for '--workers <N>'"),
        ("mlock = 7", "options.toml: `mlock`: expected true or false"),
        ("commit = \"populat\"", "[possible values: populate, touch]"),
    ] {
        let config = files.add("options.toml", text);
        let refused = Cofferdam::new(["run"]).path("--config", &config).output().expect_code(2);
        assert!(refused.stderr.contains(told), "{refused}");
    }
    let refused = Cofferdam::new(["snapshot", "take", "--db-path", "/x", "--to", "/x"]);
    let refused = refused.variable("COFFERDAM_KEEP", "none").output().expect_code(2);
    assert!(refused.stderr.contains("The value comes from the variable COFFERDAM_KEEP"), "{refused}");

    let node =
        Cofferdam::new(["node", "--db-path", "/dev/null/db", "--daemon-rpc-url", "http://127.0.0.1:1"]);
    let both = node.variable("COFFERDAM_AUTH", "a:b").variable("COFFERDAM_COOKIE_FILE", "c");
    let both = both.output().expect_code(2);
    for variable in ["COFFERDAM_AUTH", "COFFERDAM_COOKIE_FILE"] {
        assert!(both.stderr.contains(&format!("comes from the variable {variable}")), "{both}");
    }

    let warned = Cofferdam::new(["probe", "--memory", "16MiB"]).variable("COFFERDAM_MEMROY", "32MiB");
    let warned = warned.variable("COFFERDAM_SERVICE_HOST", "10.0.0.1").output().expect_code(0);
    let told = "the variable COFFERDAM_MEMROY has no effect, because no option has that name; did you mean \
                COFFERDAM_MEMORY?";
    assert!(warned.stderr.contains(told) && !warned.stderr.contains("SERVICE_HOST"), "{warned}");
    let config = files.add("other.toml", "memory = \"16MiB\"\nlisten = \"127.0.0.1:1\"\n");
    let warned = Cofferdam::new(["probe"]).path("--config", &config).output().expect_code(0);
    assert!(warned.stderr.contains("`listen` not used: `cofferdam probe` has no such option"), "{warned}");
}

#[test]
fn hexadecimal_text_may_begin_with_0x() {
    let digits = "0f".repeat(32);
    for digits in [digits.clone(), format!("0x{digits}")] {
        for option in ["--digest", "--sha256", "--content"] {
            let restore = Cofferdam::new(["snapshot", "restore", "/nowhere", "--db-path", "/nowhere"]);
            let restore = restore.arg(option).arg(digits.as_str()).output().expect_code(1);
            assert!(restore.reason().contains("/nowhere"), "{restore}");
        }
    }
    let short = Cofferdam::new(["snapshot", "restore", "/nowhere", "--db-path", "/x", "--digest", "0x0f"]);
    let short = short.output().expect_code(2);
    assert!(short.stderr.contains("a hash has 64 hexadecimal digits, and this one has 2"), "{short}");
}
