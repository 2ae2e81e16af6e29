//! Limits that are the same for every guest on every host, and part of the profile.

/// Bytes of stack that a guest may use, including host functions.
///
/// The count begins at the host's frame that enters the guest. So the depth that a recursion reaches can differ by about one frame
/// between builds of this crate by different compilers. It does not differ between hosts that run the same executable. The profile
/// names the kind of build. To compare digests even of a stack overflow, run the same executable.
pub const STACK_BYTES: usize = 1 << 20;

/// The most elements that all tables of a guest may have together. Tables are not in the linear memory, so they need a limit of
/// their own. Compilers make one table with as many elements as there are targets of indirect calls, a few thousand.
pub const TABLE_ELEMENTS: usize = 1 << 20;
