//! x
use cofferdam::pool::{Job, Pool};
use std::time::{Duration, Instant};
cofferdam::enable_test_support!();

#[test]
fn smoke() {
    let wat = r#"(module (import "env" "__flush" (func $f (param i32))) (memory (export "memory") 1) (func (export "_start") (call $f (i32.const 8))))"#;
    for (mem, size) in [(16u64 << 20, 100usize), (1 << 32, 100), (1 << 32, 1_000_000)] {
        let pool = Pool::builder(wat).memory(mem).workers(1).spares(0).build().unwrap();
        let job = Job::block(1, vec![7; size]);
        let mut t = vec![];
        let mut rs = vec![];
        for i in 0..5000 {
            let s = Instant::now();
            let r = pool.call(&job).unwrap();
            let e = s.elapsed();
            if r.worker.pid % 2 == 9 {
                std::thread::sleep(Duration::from_micros(1));
            }
            if i % 100 == 0 {
                rs.push(r.reset.wait(Duration::from_millis(10)).map(|r| r.nanoseconds));
            }
            t.push((e, r.overhead, r.exec));
            assert!(r.verdict.is_completed(), "{r:?}");
        }
        t.sort();
        rs.sort();
        println!("reset {:?}", rs[25]);
        println!("{mem} {size}: p50 {:?} p99 {:?} {:?}", t[2500], t[4950], pool.health().slots[0]);
        std::thread::sleep(Duration::from_millis(10));
    }
}
