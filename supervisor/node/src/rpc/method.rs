//! The names of the methods, and how long each may take.

use std::time::Duration;

use super::settings::RpcSettings;

/// A method of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    View,
    Preview,
    Height,
    BlockHash,
    StateRoot,
    Snapshot,
    Digest,
    Proof,
    Info,
}

impl Method {
    const ALL: [Self; 9] = [
        Self::View,
        Self::Preview,
        Self::Height,
        Self::BlockHash,
        Self::StateRoot,
        Self::Snapshot,
        Self::Digest,
        Self::Proof,
        Self::Info,
    ];

    /// The method with this name, if there is one.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.name() == name)
    }

    /// The name that clients send.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::View => "metashrew_view",
            Self::Preview => "metashrew_preview",
            Self::Height => "metashrew_height",
            Self::BlockHash => "metashrew_getblockhash",
            Self::StateRoot => "metashrew_stateroot",
            Self::Snapshot => "metashrew_snapshot",
            Self::Digest => "cofferdam_digest",
            Self::Proof => "cofferdam_proof",
            Self::Info => "cofferdam_info",
        }
    }

    /// The words for what the method runs, as in the messages of the replaced node.
    pub(super) fn runs(self) -> &'static str {
        if self == Self::Preview { "Preview function" } else { "View function" }
    }

    /// How long a call of the method may take.
    pub(super) fn timeout(self, settings: &RpcSettings) -> Duration {
        match self {
            Self::View => settings.view_timeout,
            Self::Preview => settings.preview_timeout,
            _ => settings.read_timeout,
        }
    }
}
