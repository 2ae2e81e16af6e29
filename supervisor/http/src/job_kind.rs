//! The two kinds of jobs. Each kind waits in its own queue and has its own label in metrics and logs.

/// What a request asks the pool to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JobKind {
    /// `POST /v1/blocks/{height}`: a block is indexed.
    Block,
    /// `POST /v1/views/{export}`: a view function is called.
    View,
}

impl JobKind {
    /// The name in metrics, logs and JSON.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::View => "view",
        }
    }
}
