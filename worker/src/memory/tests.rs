//! The slab under a real engine: residency, exact bounds, growth, zero content.

use cofferdam_protocol::WASM_PAGE;
use cofferdam_protocol::message::{CommitStrategy, MemoryPlan, ResetStrategy};
use proptest::prelude::*;
use wasmtime::{Engine, Instance, Module, Store, Trap};

use super::*;

const LIMIT_PAGES: u64 = 64;
const LIMIT: u64 = LIMIT_PAGES * WASM_PAGE;

fn plan() -> MemoryPlan {
    MemoryPlan {
        bytes: LIMIT,
        strategy: CommitStrategy::Populate,
        huge_pages: true,
        lock: false,
        reset: ResetStrategy::Adaptive,
    }
}

struct Bench {
    memory: CommittedMemory,
    report: CommitReport,
    engine: Engine,
}

impl Bench {
    fn new(plan: &MemoryPlan) -> Self {
        let (memory, report) = CommittedMemory::commit(plan, &mut |_| {}).unwrap();
        let engine = crate::engine::build(false, Some(memory.creator())).unwrap();
        Self { memory, report, engine }
    }

    fn instance(&self, text: &str) -> (Store<()>, Instance) {
        let module = Module::new(&self.engine, wat::parse_str(text).unwrap()).unwrap();
        let mut store = Store::new(&self.engine, ());
        let instance = Instance::new(&mut store, &module, &[]).unwrap();
        (store, instance)
    }

    fn resident(&self) -> u64 {
        let limit = usize::try_from(LIMIT).unwrap();
        residency::resident_bytes(self.memory.slab.reservation(), 0..limit).unwrap()
    }
}

fn module(minimum: u64, maximum: &str) -> String {
    format!(
        "(module (memory (export \"memory\") {minimum} {maximum})
           (data (i32.const 8) \"data\")
           (global $count (mut i32) (i32.const 7))
           (func (export \"load\") (param i32) (result i32) (i32.load8_u (local.get 0)))
           (func (export \"load64\") (param i32) (result i64) (i64.load (local.get 0)))
           (func (export \"store\") (param i32 i32) (i32.store8 (local.get 0) (local.get 1)))
           (func (export \"grow\") (param i32) (result i32) (memory.grow (local.get 0)))
           (func (export \"fill\") (param i32 i32 i32)
             (memory.fill (local.get 0) (local.get 1) (local.get 2)))
           (func (export \"count\") (result i32)
             (global.set $count (i32.add (global.get $count) (i32.const 1))) (global.get $count)))"
    )
}

fn call1(store: &mut Store<()>, instance: Instance, name: &str, argument: u64) -> Result<i32, Trap> {
    let argument = u32::try_from(argument).unwrap().cast_signed();
    let function = instance.get_typed_func::<i32, i32>(&mut *store, name).unwrap();
    function.call(store, argument).map_err(|error| *error.downcast_ref::<Trap>().unwrap())
}

fn fill(store: &mut Store<()>, instance: Instance, at: u64, length: u64) {
    let function = instance.get_typed_func::<(i32, i32, i32), ()>(&mut *store, "fill").unwrap();
    let number = |value: u64| u32::try_from(value).unwrap().cast_signed();
    function.call(store, (number(at), 0xaa, number(length))).unwrap();
}

#[test]
fn every_commit_strategy_makes_every_page_resident() {
    for strategy in [CommitStrategy::Populate, CommitStrategy::Touch] {
        for huge_pages in [true, false] {
            let bench = Bench::new(&MemoryPlan { strategy, huge_pages, ..plan() });
            assert_eq!(bench.report.resident_bytes, LIMIT, "{strategy:?} {huge_pages}");
            assert!(huge_pages || bench.report.huge_bytes == 0, "{:?}", bench.report);
            let (mut store, instance) = bench.instance(&module(LIMIT_PAGES, ""));
            for page in 0..LIMIT_PAGES {
                let expected = if page == 0 { i32::from(b'd') } else { 0 };
                assert_eq!(call1(&mut store, instance, "load", page * WASM_PAGE + 8), Ok(expected));
            }
        }
    }
}

#[test]
fn impossible_memory_limits_are_refused() {
    for bytes in [0, 1, WASM_PAGE + 1, (1 << 32) + WASM_PAGE] {
        let result = CommittedMemory::commit(&MemoryPlan { bytes, ..plan() }, &mut |_| {});
        assert!(matches!(result, Err(CommitError::BadLimit { .. })), "{bytes}");
    }
}

#[test]
fn an_access_at_the_current_size_traps_at_every_size() {
    let bench = Bench::new(&plan());
    let (mut store, instance) = bench.instance(&module(1, ""));
    for pages in 1..=LIMIT_PAGES {
        let size = pages * WASM_PAGE;
        assert_eq!(call1(&mut store, instance, "load", size - 1), Ok(0), "{pages} pages");
        assert_eq!(call1(&mut store, instance, "load", size), Err(Trap::MemoryOutOfBounds), "{pages} pages");
        let load64 = instance.get_typed_func::<i32, i64>(&mut store, "load64").unwrap();
        let edge = i32::try_from(size - 7).unwrap();
        assert!(load64.call(&mut store, edge).is_err(), "one byte beyond {pages} pages");
        let grown = call1(&mut store, instance, "grow", 1).unwrap();
        assert_eq!(grown, if pages < LIMIT_PAGES { i32::try_from(pages).unwrap() } else { -1 });
    }
    assert_eq!(call1(&mut store, instance, "load", (1 << 32) - 1), Err(Trap::MemoryOutOfBounds));
}

#[test]
fn growth_is_granted_up_to_the_limit_and_refused_exactly_beyond() {
    let bench = Bench::new(&plan());
    let (mut store, instance) = bench.instance(&module(1, ""));
    assert_eq!(call1(&mut store, instance, "grow", LIMIT_PAGES), Ok(-1));
    assert_eq!(call1(&mut store, instance, "grow", LIMIT_PAGES - 1), Ok(1));
    assert_eq!(call1(&mut store, instance, "grow", 0), Ok(i32::try_from(LIMIT_PAGES).unwrap()));
    assert_eq!(call1(&mut store, instance, "grow", 1), Ok(-1));
    drop(store);
    let (mut store, instance) = bench.instance(&module(1, "3"));
    assert_eq!(call1(&mut store, instance, "grow", 2), Ok(1), "up to the module's maximum");
    assert_eq!(call1(&mut store, instance, "grow", 1), Ok(-1), "and not beyond");
}

#[test]
fn every_instance_begins_with_the_memory_that_the_module_defines() {
    let bench = Bench::new(&plan());
    for _ in 0..3 {
        let (mut store, instance) = bench.instance(&module(1, ""));
        assert_eq!(call1(&mut store, instance, "load", 8), Ok(i32::from(b'd')), "data segments");
        let count = instance.get_typed_func::<(), i32>(&mut store, "count").unwrap();
        assert_eq!(count.call(&mut store, ()).unwrap(), 8, "globals");
        call1(&mut store, instance, "grow", LIMIT_PAGES - 1).unwrap();
        assert_eq!(call1(&mut store, instance, "load", LIMIT - 1), Ok(0), "the part that was added");
        fill(&mut store, instance, 0, LIMIT);
        drop(store);
        assert_eq!(bench.memory.last_reset_bytes(), LIMIT);
        assert_eq!(bench.resident(), LIMIT, "still committed");
    }
}

#[test]
fn the_slab_has_one_user_at_a_time() {
    let bench = Bench::new(&plan());
    let module = Module::new(&bench.engine, wat::parse_str(module(1, "")).unwrap()).unwrap();
    let mut first = Store::new(&bench.engine, ());
    Instance::new(&mut first, &module, &[]).unwrap();
    let mut second = Store::new(&bench.engine, ());
    let error = Instance::new(&mut second, &module, &[]).unwrap_err();
    assert!(format!("{error:#}").contains("in use"), "{error:#}");
    drop(first);
    Instance::new(&mut second, &module, &[]).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn no_instance_sees_what_another_one_wrote(
        steps in prop::collection::vec((0..LIMIT_PAGES / 8, 0..LIMIT, 0..3 * WASM_PAGE), 1..12),
        minimum in 1..LIMIT_PAGES,
    ) {
        let bench = Bench::new(&plan());
        let (mut store, instance) = bench.instance(&module(1, ""));
        for (grow, at, length) in steps {
            let _ = call1(&mut store, instance, "grow", grow);
            let size = instance.get_memory(&mut store, "memory").unwrap().data_size(&store) as u64;
            let at = at.min(size);
            fill(&mut store, instance, at, length.min(size - at));
        }
        drop(store);
        let text = format!("(module (memory (export \"memory\") {minimum}))");
        let (mut store, instance) = bench.instance(&text);
        let memory = instance.get_memory(&mut store, "memory").unwrap();
        memory.grow(&mut store, LIMIT_PAGES - minimum).unwrap();
        prop_assert_eq!(memory.data_size(&store) as u64, LIMIT);
        prop_assert!(memory.data(&store).iter().all(|byte| *byte == 0));
    }
}

#[test]
fn a_table_of_references_does_not_take_the_slab() {
    let bench = Bench::new(&plan());
    let text = "(module (memory (export \"memory\") 1) (table (export \"t\") 4 externref)
        (func (export \"grow\") (param i32) (result i32) (memory.grow (local.get 0)))
        (func (export \"set\") (table.set (i32.const 1) (ref.null extern))))";
    for _ in 0..2 {
        let (mut store, instance) = bench.instance(text);
        instance.get_typed_func::<(), ()>(&mut store, "set").unwrap().call(&mut store, ()).unwrap();
        assert_eq!(call1(&mut store, instance, "grow", LIMIT_PAGES - 1), Ok(1));
    }
}
