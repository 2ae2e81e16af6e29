//! One instance for one job. The instance is prepared before the job arrives, unless the guest's start function calls an import
//! or fails.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cofferdam_protocol::message::Call;
use cofferdam_protocol::verdict::GuestVerdict;
use thiserror::Error;
use wasmtime::{
    Engine, ExternType, FuncType, Instance, InstancePre, Linker, Memory, MemoryType, Module, Store,
};

use super::context::Context;
use super::input::JobInput;
use super::output::OutputBuffer;
use super::{classify, functions, memory_access};

/// A failure of the host. It says nothing about the guest, and this process should not run another job.
#[derive(Error)]
pub enum GuestError {
    /// The module cannot be linked.
    #[error("the module cannot be linked: {0}")]
    Link(String),
    /// The guest could not be run, for a reason of the host.
    #[error("the guest could not be run: {0}")]
    Host(String),
}

cofferdam_protocol::debug_as_display!(GuestError);

/// A loaded module, ready to be instantiated any number of times.
pub struct Guest {
    engine: Engine,
    linker: Linker<Context>,
    module: Module,
    /// The module with its imports resolved; none if the module imports its memory, which belongs to one store.
    resolved: Option<InstancePre<Context>>,
    imported_memory: Option<(String, String, MemoryType)>,
    /// The name under which the module exports its memory.
    exported_memory: Option<Arc<str>>,
    fuel: Option<u64>,
    memory_limit: Option<usize>,
    /// Whether instances are made before their job arrives.
    ahead: bool,
}

/// An instance that waits for its job, or the store of an instance that is made when its job arrives.
pub struct PreparedInstance {
    store: Store<Context>,
    instance: Option<Instance>,
}

/// The result of a job.
#[derive(Debug)]
pub struct GuestResult {
    /// The verdict.
    pub verdict: GuestVerdict,
    /// The verdict in words.
    pub detail: String,
    /// The output. Its spans say where the output and the log are.
    pub output: OutputBuffer,
    /// Time that the guest ran, including host functions.
    pub exec: Duration,
    /// Size of the guest's memory at the end, in bytes.
    pub memory_bytes: u64,
    /// Fuel used; none if fuel is not metered.
    pub fuel_used: Option<u64>,
}

impl std::fmt::Debug for Guest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guest").field("fuel", &self.fuel).field("ahead", &self.ahead).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for PreparedInstance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PreparedInstance").field("instance", &self.instance.is_some()).finish_non_exhaustive()
    }
}

impl Guest {
    /// Links `module`, which must belong to `engine`.
    ///
    /// # Errors
    /// [`GuestError::Link`] if an import cannot be provided.
    pub fn link(engine: &Engine, module: &Module, fuel: Option<u64>) -> Result<Self, GuestError> {
        let link = |error: wasmtime::Error| GuestError::Link(format!("{error:#}"));
        let mut linker = Linker::new(engine);
        functions::link(&mut linker, module).map_err(link)?;
        let imported_memory = module.imports().find_map(|import| match import.ty() {
            ExternType::Memory(ty) => Some((import.module().to_owned(), import.name().to_owned(), ty)),
            _ => None,
        });
        let resolved = match imported_memory {
            None => Some(linker.instantiate_pre(module).map_err(link)?),
            Some(_) => None,
        };
        let exported_memory = exported_memory(module);
        let (engine, module) = (engine.clone(), module.clone());
        Ok(Self {
            engine,
            linker,
            module,
            resolved,
            imported_memory,
            exported_memory,
            fuel,
            memory_limit: None,
            ahead: true,
        })
    }

    /// Limits the memory to `bytes`. Use this for an engine without committed memory: committed memory has a limit of its own.
    #[must_use]
    pub fn with_memory_limit(self, bytes: usize) -> Self {
        Self { memory_limit: Some(bytes), ..self }
    }

    /// Prepares the instance for the next job, and runs its start function.
    ///
    /// If the start function calls an import or fails, the instance is made when its job arrives: what the start function does is
    /// then part of the job. One try decides this for all jobs. The start function can depend on nothing but the module, so it
    /// always does the same.
    ///
    /// # Errors
    /// [`GuestError::Host`] if the host fails.
    pub fn prepare(&mut self) -> Result<PreparedInstance, GuestError> {
        if self.ahead {
            let mut store = self.store()?;
            match self.instantiate(&mut store) {
                Ok(instance) => return Ok(PreparedInstance { store, instance: Some(instance) }),
                Err(error) if classify::may_be_retried_with_job(&error) => self.ahead = false,
                Err(error) => return Err(GuestError::Host(format!("{error:#}"))),
            }
        }
        Ok(PreparedInstance { store: self.store()?, instance: None })
    }

    /// Runs one job. The instance stays in `prepared`. Drop it after the reply is sent: that resets the memory, which takes time.
    /// `input` is dropped before this returns.
    ///
    /// # Errors
    /// [`GuestError::Host`] if the host fails, for example if the state cannot be read.
    pub fn run(
        &self,
        prepared: &mut PreparedInstance,
        call: &Call,
        input: JobInput,
        output: OutputBuffer,
    ) -> Result<GuestResult, GuestError> {
        let store = &mut prepared.store;
        store.data_mut().job = Some((input, output));
        let started = Instant::now();
        let result = match prepared.instance {
            Some(instance) => Ok(instance),
            None => self.instantiate(store),
        };
        let result = result.and_then(|instance| call_export(store, instance, call));
        let exec = started.elapsed();
        let job = store.data_mut().job.take();
        let (verdict, detail) = match result {
            Ok(answer) => (answer.0, answer.1),
            Err(error) => classify::classify(&error, store.data().grow_refused)
                .ok_or_else(|| GuestError::Host(format!("{error:#}")))?,
        };
        let memory_bytes = store.data().memory.map_or(0, |memory| memory.data_size(&*store) as u64);
        let fuel_used = self.fuel.map(|limit| limit.saturating_sub(store.get_fuel().unwrap_or(0)));
        let (_, output) = job.ok_or_else(|| GuestError::Host("the store has lost its job".to_owned()))?;
        Ok(GuestResult { verdict, detail, output, exec, memory_bytes, fuel_used })
    }

    /// A wasmtime store with all limits set. The limits are set before any code of the guest runs, and so before its start
    /// function runs.
    fn store(&self) -> Result<Store<Context>, GuestError> {
        let mut store =
            Store::new(&self.engine, Context::new(self.exported_memory.clone(), self.memory_limit));
        store.limiter(|context| context);
        if let Some(fuel) = self.fuel {
            store.set_fuel(fuel).map_err(|error| GuestError::Host(format!("{error:#}")))?;
        }
        Ok(store)
    }

    fn instantiate(&self, store: &mut Store<Context>) -> wasmtime::Result<Instance> {
        let instance = match (&self.resolved, &self.imported_memory) {
            (Some(resolved), _) => resolved.instantiate(&mut *store)?,
            (None, Some((module, name, ty))) => {
                let memory = Memory::new(&mut *store, ty.clone())?;
                store.data_mut().memory = Some(memory);
                let mut linker = self.linker.clone();
                linker.define(&mut *store, module, name, memory)?;
                linker.instantiate(&mut *store, &self.module)?
            }
            (None, None) => self.linker.instantiate(&mut *store, &self.module)?,
        };
        if let Some(name) = &self.exported_memory
            && store.data().memory.is_none()
        {
            store.data_mut().memory = instance.get_memory(&mut *store, name);
        }
        Ok(instance)
    }
}

/// The name under which the module exports its memory: `memory` if that is an exported memory, or the first other name.
fn exported_memory(module: &Module) -> Option<Arc<str>> {
    let names =
        || module.exports().filter(|export| export.ty().memory().is_some()).map(|export| export.name());
    names().find(|name| *name == "memory").or_else(|| names().next()).map(Arc::from)
}

fn call_export(
    store: &mut Store<Context>,
    instance: Instance,
    call: &Call,
) -> wasmtime::Result<(GuestVerdict, String)> {
    match call {
        Call::Block => index_block(store, instance),
        Call::View { export } => view(store, instance, export),
    }
}

fn index_block(store: &mut Store<Context>, instance: Instance) -> wasmtime::Result<(GuestVerdict, String)> {
    let function = instance.get_func(&mut *store, "_start");
    let Some(Ok(function)) = function.map(|function| function.typed::<(), ()>(&*store)) else {
        return Ok(no_export(instance.module(&*store), "_start", "()"));
    };
    function.call(&mut *store, ())?;
    let (_, output) = store.data_mut().job()?;
    Ok(match output.flushed() {
        true => (GuestVerdict::Completed, String::new()),
        false => (GuestVerdict::Incomplete, "`_start` returned without a flush".to_owned()),
    })
}

fn view(
    store: &mut Store<Context>,
    instance: Instance,
    export: &str,
) -> wasmtime::Result<(GuestVerdict, String)> {
    let function = instance.get_func(&mut *store, export);
    let Some(Ok(function)) = function.map(|function| function.typed::<(), i32>(&*store)) else {
        return Ok(no_export(instance.module(&*store), export, "() -> i32"));
    };
    let pointer = memory_access::address(function.call(&mut *store, ())?);
    let (memory, context) = match store.data().memory {
        Some(memory) => memory.data_and_store_mut(&mut *store),
        None => (&mut [][..], store.data_mut()),
    };
    let result = memory_access::array_buffer(memory, "the result", pointer)?;
    let (_, output) = context.job()?;
    output.add_result(result)?;
    Ok((GuestVerdict::Completed, String::new()))
}

/// The verdict for a function that the module does not export, with the functions that it does export.
fn no_export(module: &Module, name: &str, ty: &str) -> (GuestVerdict, String) {
    /// The most functions that are listed, and the most characters of a name.
    const LISTED: usize = 40;
    const NAME_CHARS: usize = 60;
    let functions: Vec<_> = module
        .exports()
        .filter_map(|export| export.ty().func().map(|ty| (export.name().to_owned(), signature(ty))))
        .collect();
    let shown = |(name, ty): &(String, String)| {
        format!("`{}` {ty}", name.chars().take(NAME_CHARS).collect::<String>().escape_debug())
    };
    let listed: Vec<_> = functions.iter().take(LISTED).map(shown).collect();
    let others = match (functions.len(), functions.len().saturating_sub(LISTED)) {
        (0, _) => "it exports no function at all".to_owned(),
        (_, 0) => format!("it exports {}", listed.join(", ")),
        (_, more) => format!("it exports {} and {more} more", listed.join(", ")),
    };
    (GuestVerdict::NoSuchExport, format!("the module exports no function `{name}` of type {ty}; {others}"))
}

/// The type of a function, as WebAssembly text has it: `(i32, i32) -> i32`.
fn signature(ty: &FuncType) -> String {
    let list = |types: Vec<String>| types.join(", ");
    let parameters = list(ty.params().map(|ty| ty.to_string()).collect());
    match list(ty.results().map(|ty| ty.to_string()).collect()).as_str() {
        "" => format!("({parameters})"),
        results => format!("({parameters}) -> {results}"),
    }
}
