//! The other role of this executable: compiling one module, in a process of its own under limits of its own.
//!
//! Compiling runs a large program over bytes that somebody else wrote. Here it can use up no more than it was given,
//! and take nobody with it.
#![allow(unsafe_code, reason = "loads artifacts")]

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use cofferdam_protocol::PROTOCOL_VERSION;
use cofferdam_protocol::descriptors;
use cofferdam_protocol::exit::WorkerExit;
use cofferdam_protocol::frame::{self, FrameReader};
use cofferdam_protocol::message::{CompileReply, CompileRequest, capped};
use nix::sys::resource::{Resource, setrlimit};
use wasmtime::{Engine, Module};

use crate::complaint::complain;
use crate::pipes::inherited_file;
use crate::{engine, harden, module};

/// Compiles what the supervisor handed over, and says how that ended.
pub(crate) fn run() -> WorkerExit {
    std::panic::set_hook(Box::new(|panic| {
        complain!("cofferdam-compiler: internal error: {panic}");
        std::process::exit(WorkerExit::Internal.code());
    }));
    let hardened = harden::close_other_descriptors().and_then(|()| harden::apply("cofferdam-compiler"));
    let (Some(mut requests), Some(mut replies)) =
        (inherited_file(descriptors::REQUESTS), inherited_file(descriptors::REPLIES))
    else {
        complain!(
            "cofferdam-compiler: started without its pipes: compilers are started by a supervisor only"
        );
        return WorkerExit::Usage;
    };
    if let Err(error) = hardened {
        // If the supervisor is gone, nobody is left to hear it.
        let _ = frame::send(&mut replies, &CompileReply::Refused { reason: capped(error.to_string()) });
        return WorkerExit::NotHardened;
    }
    let Ok(request) = FrameReader::new().receive::<CompileRequest>(&mut requests) else {
        return WorkerExit::ProtocolViolated;
    };
    if request.version != PROTOCOL_VERSION {
        return WorkerExit::ProtocolViolated;
    }
    let (exit, reply) = match limit(&request) {
        Err(errno) => {
            let reason = format!("the compiler's limits could not be set (prlimit64): {errno}");
            (WorkerExit::NotHardened, CompileReply::Refused { reason })
        }
        Ok(()) => match compile(&request) {
            Ok(bytes) => (WorkerExit::Stopped, CompileReply::Compiled { bytes }),
            Err(reason) => (WorkerExit::ArtifactRefused, CompileReply::Refused { reason: capped(reason) }),
        },
    };
    match frame::send(&mut replies, &reply) {
        Ok(()) => exit,
        Err(_) => WorkerExit::Internal,
    }
}

fn compile(request: &CompileRequest) -> Result<u64, String> {
    let source = inherited_file(descriptors::INPUT).ok_or("the module's descriptor is missing")?;
    let target = inherited_file(descriptors::OUTPUT).ok_or("the artifact's descriptor is missing")?;
    let mut binary = Vec::new();
    source
        .take(module::MAX_MODULE_BYTES)
        .read_to_end(&mut binary)
        .map_err(|error| format!("the module could not be read: {error}"))?;
    let engine = engine::build(request.fuel, None).map_err(|error| error.to_string())?;
    let artifact = engine.precompile_module(&binary).map_err(|error| format!("{error:#}"))?;
    target
        .write_all_at(&artifact, 0)
        .map_err(|error| format!("the artifact could not be written: {error}"))?;
    Ok(artifact.len() as u64)
}

fn limit(request: &CompileRequest) -> nix::Result<()> {
    setrlimit(Resource::RLIMIT_DATA, request.memory_bytes, request.memory_bytes)?;
    setrlimit(Resource::RLIMIT_CPU, request.cpu_seconds, request.cpu_seconds)
}

/// Loads an artifact that a compiler process made.
///
/// # Safety
/// The file must hold what `precompile_module` returned, and nobody may be able to change it: its bytes are run as they are.
///
/// # Errors
/// If it was made by another version of the engine, or for a processor with more instruction sets than this one.
pub unsafe fn load(engine: &Engine, artifact: OwnedFd) -> Result<Module, String> {
    // SAFETY: as the caller says.
    unsafe { Module::deserialize_open_file(engine, File::from(artifact)) }
        .map_err(|error| format!("{error:#}"))
}

/// Loads the artifact that a worker was started with.
pub(crate) fn load_inherited(engine: &Engine, artifact: OwnedFd) -> Result<Module, String> {
    // SAFETY: the supervisor hands over only what a compiler process wrote, by way of a cache whose entries it checks by
    // hash, in a memfd that it has sealed against writing.
    unsafe { load(engine, artifact) }
}
