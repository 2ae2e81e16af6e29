//! `Debug` of errors.

/// Implements [`Debug`](std::fmt::Debug) for error types by their [`Display`](std::fmt::Display).
///
/// `unwrap`, `expect` and a `main` that returns a `Result` print an error by its `Debug`. The sentences of an error say what
/// failed, on what, why, and what to do; the fields of a variant do not. So `Debug` and `Display` both print the sentences.
///
/// ```
/// #[derive(thiserror::Error)]
/// #[error("the file {path} is empty; give one that holds a block")]
/// pub struct EmptyFile {
///     path: String,
/// }
/// cofferdam_protocol::debug_as_display!(EmptyFile);
///
/// let error = EmptyFile { path: "a.blk".to_owned() };
/// assert_eq!(format!("{error:?}"), "the file a.blk is empty; give one that holds a block");
/// ```
#[macro_export]
macro_rules! debug_as_display {
    ($error:ty) => {
        impl ::std::fmt::Debug for $error {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                ::std::fmt::Display::fmt(self, f)
            }
        }
    };
}
