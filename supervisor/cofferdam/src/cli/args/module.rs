//! The module: its argument, which has the same name in every command, and the file that the argument names.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use cofferdam_worker::module::{self, MAX_MODULE_BYTES};

use super::super::error::CliError;
use cofferdam_chain::sample;

/// The largest linear memory of a 32-bit module, in bytes. Whether the memory fits the limit of a pool is checked by the pool.
const MAX_MEMORY_BYTES: u64 = 4 << 30;

/// Which module to run.
#[derive(Clone, Debug, Args)]
pub(in crate::cli) struct ModuleArgs {
    /// The module, as .wasm or .wat. Write it before an option that takes several values, such as --blocks [default: the
    /// bundled sample indexer].
    #[arg(value_name = "MODULE", env = "COFFERDAM_MODULE")]
    module: Option<PathBuf>,

    /// The module, as an option instead of the first argument.
    #[arg(long = "module", value_name = "FILE", visible_alias = "indexer", conflicts_with = "module")]
    module_option: Option<PathBuf>,
}

impl ModuleArgs {
    /// The module that is given as the first argument.
    pub(in crate::cli) fn first_argument(&self) -> Option<&Path> {
        self.module.as_deref()
    }

    /// The file of the module; none for the sample indexer.
    pub(in crate::cli) fn path(&self) -> Option<&Path> {
        self.module.as_deref().or(self.module_option.as_deref())
    }

    /// Reads the module; see [`read_module`].
    ///
    /// # Errors
    /// As [`read_module`].
    pub(in crate::cli) fn read(&self) -> Result<Vec<u8>, CliError> {
        read_module(self.path())
    }

    /// The name of the module in reports; see [`module_name`].
    pub(in crate::cli) fn name(&self) -> String {
        module_name(self.path())
    }
}

/// Reads the module at `path`, or the sample indexer if `path` is none. The declarations of the module are checked here. The
/// compiler checks its functions later.
///
/// # Errors
/// [`CliError::Module`] if the file cannot be read; [`CliError::NotAModule`] if it is no module, or is a module that cannot run
/// here.
pub(in crate::cli) fn read_module(path: Option<&Path>) -> Result<Vec<u8>, CliError> {
    let Some(path) = path else { return Ok(sample::MODULE.to_vec()) };
    let mut bytes = Vec::new();
    // One byte more than the limit is read, so that a longer file is refused because of its length.
    let read = File::open(path).and_then(|file| file.take(MAX_MODULE_BYTES + 1).read_to_end(&mut bytes));
    read.map_err(|source| CliError::Module { path: path.to_owned(), source })?;
    let checked = module::to_binary(&bytes).and_then(|binary| module::inspect(&binary, MAX_MEMORY_BYTES));
    checked.map_err(|source| CliError::NotAModule { path: path.to_owned(), source })?;
    Ok(bytes)
}

/// The name of a module in reports: the name of its file.
fn module_name(path: Option<&Path>) -> String {
    let name = path.and_then(Path::file_name);
    name.map_or_else(|| "sample.wasm".to_owned(), |name| name.to_string_lossy().into_owned())
}
