//! A program that embeds the pool, rightly or wrongly: by the name that it is started under, because a program that is started
//! again as a worker has neither its arguments nor its environment. For `tests/embedding.rs`.

use std::process::ExitCode;

use cofferdam::pool::Pool;

/// How deep processes of this program may start each other, before it is called a fork bomb and ended.
const DEEPEST: usize = 3;

/// Said by the process that would have gone on for ever.
const BOMB: &str = "FORK BOMB";

fn main() -> ExitCode {
    let this = std::env::current_exe().expect("/proc is there");
    if depth(&this) > DEEPEST {
        eprintln!("{BOMB}");
        return ExitCode::from(99);
    }
    match this.file_name().and_then(|name| name.to_str()) {
        Some("without-init") => build(),
        Some("with-init") => {
            cofferdam::init();
            build()
        }
        Some("late-init") => in_a_runtime(|| {
            cofferdam::init();
            build()
        }),
        // As without `init` in the supervisor, but with it in what it starts: nobody writes this.
        name => panic!("started as {name:?}"),
    }
}

/// What `#[tokio::main]` makes of a `main`.
fn in_a_runtime(main: fn() -> ExitCode) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime starts").block_on(async { main() })
}

fn build() -> ExitCode {
    let module = "(module (memory (export \"memory\") 1) (func (export \"_start\")))";
    match Pool::builder(module).memory(1 << 20).spares(0).cache(None).build() {
        Ok(pool) => {
            println!("ready {}", pool.health().ready());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("refused: {error}");
            ExitCode::FAILURE
        }
    }
}

/// How many processes of this program there are above this one, in a row.
fn depth(this: &std::path::Path) -> usize {
    let parent_of = |pid: u32| -> Option<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
    };
    let is_this = |pid: &u32| std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == this);
    let above = std::iter::successors(parent_of(std::process::id()), |pid| parent_of(*pid));
    above.take_while(is_this).count()
}
