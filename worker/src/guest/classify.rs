//! From the error of a call to a verdict, and a description that is the same on every host.

use cofferdam_protocol::verdict::GuestVerdict;
use wasmtime::{Trap, WasmBacktrace};

use super::fault::GuestFault;

/// The verdict on a failed call, and its description; none if the failure is the host's.
pub(super) fn classify(error: &wasmtime::Error, grow_refused: bool) -> Option<(GuestVerdict, String)> {
    if let Some(fault) = error.downcast_ref::<GuestFault>() {
        let verdict = fault_verdict(fault)?;
        return Some((after_refusal(verdict, grow_refused), fault.to_string()));
    }
    let trap = error.downcast_ref::<Trap>()?;
    let verdict = match trap {
        Trap::OutOfFuel => GuestVerdict::FuelExhausted,
        _ => after_refusal(GuestVerdict::Trap, grow_refused),
    };
    Some((verdict, format!("{trap}{}", place(error))))
}

/// Whether an instance that could not be prepared ahead of its job is to be made again when the job arrives. True if the guest
/// failed, or if its start function needs the job.
pub(super) fn may_be_retried_with_job(error: &wasmtime::Error) -> bool {
    matches!(error.downcast_ref::<GuestFault>(), Some(GuestFault::NoJobYet))
        || classify(error, false).is_some()
}

fn fault_verdict(fault: &GuestFault) -> Option<GuestVerdict> {
    Some(match fault {
        GuestFault::Abort(_) => GuestVerdict::Abort,
        GuestFault::BadPointer { .. } | GuestFault::BadFlush(_) => GuestVerdict::BadOutput,
        GuestFault::OutputTooLarge { .. } => GuestVerdict::OutputTooLarge,
        GuestFault::AbsentImport { .. } | GuestFault::HostImport { .. } => GuestVerdict::Trap,
        GuestFault::NoJobYet | GuestFault::State(_) => return None,
    })
}

/// A trap or an abort after a refused `memory.grow` means that the guest ran out of memory.
fn after_refusal(verdict: GuestVerdict, grow_refused: bool) -> GuestVerdict {
    match verdict {
        GuestVerdict::Trap | GuestVerdict::Abort if grow_refused => GuestVerdict::MemoryExhausted,
        other => other,
    }
}

/// Where in the module the trap happened: function and byte offset in the binary.
fn place(error: &wasmtime::Error) -> String {
    let Some(frame) = error.downcast_ref::<WasmBacktrace>().and_then(|trace| trace.frames().first()) else {
        return String::new();
    };
    let name =
        frame.func_name().map_or_else(|| format!("#{}", frame.func_index()), |name| format!("`{name}`"));
    let offset =
        frame.module_offset().map_or_else(String::new, |offset| format!(", module offset {offset:#x}"));
    format!(" in function {name}{offset}")
}
