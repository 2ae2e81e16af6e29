//! Compiling a module, in a process of its own with limits of its own; and loading the compiled artifact.
//!
//! The compiler is a large program, and its input is bytes that somebody else wrote. In a process of its own, the compiler can
//! use no more memory and time than its limits allow. When the compiler's process ends, no other process ends with it.
#![allow(unsafe_code, reason = "loads artifacts")]

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use cofferdam_protocol::PROTOCOL_VERSION;
use cofferdam_protocol::arena::check_sealed;
use cofferdam_protocol::descriptors::{INPUT, OUTPUT, REPLIES, REQUESTS, Role};
use cofferdam_protocol::exit::WorkerExit;
use cofferdam_protocol::frame::{self, FrameReader};
use cofferdam_protocol::message::{CompileReply, CompileRequest, truncate_text};
use nix::sys::resource::{Resource, setrlimit};
use wasmtime::{Engine, Module};

use crate::process::harden::{self, HardenError};
use crate::process::inherited::Inherited;
use crate::process::stderr::log_stderr;
use crate::{engine, module};

/// Compiles the module that the supervisor sent, and returns the exit code of this process. `closed` says whether the other
/// descriptors could be closed.
pub(crate) fn run(mut inherited: Inherited, closed: io::Result<()>) -> WorkerExit {
    let name = Role::Compiler.process_name();
    let hardened = closed.map_err(HardenError::descriptors).and_then(|()| harden::apply(name));
    let (Some(mut requests), Some(mut replies)) =
        (inherited.take_file(REQUESTS), inherited.take_file(REPLIES))
    else {
        log_stderr!("{name}: started without its pipes: compilers are started by a supervisor only");
        return WorkerExit::Usage;
    };
    if let Err(error) = hardened {
        // If the supervisor is gone, nobody needs the reason.
        let _ =
            frame::send(&mut replies, &CompileReply::Refused { reason: truncate_text(error.to_string()) });
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
        Ok(()) => match compile(&request, &mut inherited) {
            Ok(bytes) => (WorkerExit::Stopped, CompileReply::Compiled { bytes }),
            Err(reason) => {
                (WorkerExit::ArtifactRefused, CompileReply::Refused { reason: truncate_text(reason) })
            }
        },
    };
    match frame::send(&mut replies, &reply) {
        Ok(()) => exit,
        Err(_) => WorkerExit::Internal,
    }
}

fn compile(request: &CompileRequest, inherited: &mut Inherited) -> Result<u64, String> {
    let source = inherited.take_file(INPUT).ok_or("the module's descriptor is missing")?;
    let target = inherited.take_file(OUTPUT).ok_or("the artifact's descriptor is missing")?;
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
/// # Errors
/// If the file is not sealed against every change, if the artifact was made by another version of the engine, or if it was made for a
/// processor with more instruction sets than this one.
///
/// # Safety
/// The content of the file must be the unchanged return value of `Engine::precompile_module`. It is machine code, and it is run.
pub unsafe fn load(engine: &Engine, artifact: OwnedFd) -> Result<Module, String> {
    let artifact = check_sealed("artifact", artifact).map_err(|error| error.to_string())?;
    // SAFETY: the caller vouches for the content, and the seals for the absence of later changes.
    unsafe { Module::deserialize_open_file(engine, File::from(artifact)) }
        .map_err(|error| format!("{error:#}"))
}

#[cfg(test)]
mod tests {
    use cofferdam_protocol::arena::{sealed_memfd, unsealed_memfd};

    use super::*;

    #[test]
    fn an_artifact_that_could_still_be_changed_is_refused() {
        let engine = engine::build(false, None).unwrap();
        let artifact = engine.precompile_module(b"\0asm\x01\0\0\0").unwrap();
        let unsealed = File::from(unsealed_memfd("test").unwrap());
        unsealed.write_all_at(&artifact, 0).unwrap();
        // SAFETY: both files have what the engine has just compiled.
        let refused = unsafe { load(&engine, unsealed.into()) }.unwrap_err();
        assert!(refused.contains("seals"), "{refused}");
        // SAFETY: as above.
        unsafe { load(&engine, sealed_memfd("test", &artifact).unwrap()) }.unwrap();
    }
}
