//! Names and types of the functions that a guest imports: the ABI of metashrew indexers.

/// The import module of the ABI.
pub const MODULE: &str = "env";

/// Number of i32 parameters and number of i32 results of the ABI function `name`; none if there is no such function.
pub fn signature(name: &str) -> Option<(usize, usize)> {
    Some(match name {
        "__host_len" => (0, 1),
        "__load_input" | "__flush" | "__log" => (1, 0),
        "__get_len" => (1, 1),
        "__get" => (2, 0),
        "abort" => (4, 0),
        _ => return None,
    })
}
