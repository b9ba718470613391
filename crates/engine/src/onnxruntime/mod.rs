//! ONNX Runtime, loaded from a shared library at run time.
//!
//! The library is Microsoft's, found by [`crate::find_onnxruntime`]; a process holds one. Its messages go to
//! `tracing`, never to the terminal. Its telemetry is off as far as its API goes; it still keeps files in the user's
//! cache folder unless `ORT_DISABLE_TELEMETRY=1` is set before the process starts threads, as `defer` does.

mod session;
mod value;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ort::environment::{Environment, EnvironmentBuilder};
use ort::logging::LogLevel;
use tensor::TensorSpec;

use crate::search::{choose, inspect};
use crate::{Engine, LibraryError, LibrarySearch, LoadError, ModelSource, Session, SessionOptions, Version};

pub(crate) const NAME: &str = "onnxruntime";

/// The library of this process and what came of it. `ort` keeps the first that loads for good, even when its
/// environment then fails to start; so must we.
static LOADED: Mutex<Option<(PathBuf, Result<OnnxRuntime, LibraryError>)>> = Mutex::new(None);

/// The ONNX Runtime engine.
#[derive(Clone, Debug)]
pub struct OnnxRuntime {
    path: PathBuf,
    version: Version,
    version_text: String,
    environment: Environment,
}

impl OnnxRuntime {
    /// Loads the library at `path`, or gives the one in use when it is the same file.
    ///
    /// # Errors
    /// The file cannot be used, fails to load, or the process already uses another one.
    pub fn load(path: &Path) -> Result<OnnxRuntime, LibraryError> {
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        match &*loaded {
            Some((held, engine)) if *held == path => return engine.clone(),
            Some((held, _)) => {
                return Err(LibraryError::SecondLibrary { loaded: held.clone(), asked: path });
            }
            None => {}
        }
        let version =
            inspect(&path).map_err(|refusal| LibraryError::Refused { path: path.clone(), refusal })?;
        let failed = |message: String| LibraryError::Load { path: path.clone(), version, message };
        let builder = ort::init_from(&path).map_err(|error| failed(error.to_string()))?;
        let engine = start(builder).map_err(|error| failed(error.to_string())).map(|environment| {
            OnnxRuntime { path: path.clone(), version, version_text: version.to_string(), environment }
        });
        loaded.insert((path, engine)).1.clone()
    }

    /// Loads the first usable library of all places.
    ///
    /// # Errors
    /// [`LibraryError::NotFound`] when there is none, and those of [`OnnxRuntime::load`].
    pub fn find(search: &LibrarySearch) -> Result<OnnxRuntime, LibraryError> {
        OnnxRuntime::load(&choose(search)?)
    }

    /// The library file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The library's version.
    pub fn library_version(&self) -> Version {
        self.version
    }
}

fn start(builder: EnvironmentBuilder) -> ort::Result<Environment> {
    let environment = builder.with_name("defer").with_telemetry(false).with_logger(Arc::new(log)).build()?;
    // With a logger of our own, ort starts the environment at the most verbose level.
    environment.set_log_level(LogLevel::Warning);
    Ok(environment)
}

fn log(level: LogLevel, category: &str, _id: &str, place: &str, message: &str) {
    match level {
        LogLevel::Verbose | LogLevel::Info => tracing::trace!(category, place, "{message}"),
        LogLevel::Warning => tracing::debug!(category, place, "{message}"),
        LogLevel::Error | LogLevel::Fatal => tracing::warn!(category, place, "{message}"),
    }
}

impl Engine for OnnxRuntime {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> &str {
        &self.version_text
    }

    fn load(
        &self,
        model: ModelSource<'_>,
        inputs: &[TensorSpec],
        outputs: &[TensorSpec],
        options: &SessionOptions,
    ) -> Result<Box<dyn Session>, LoadError> {
        Ok(Box::new(session::load(&self.environment, model, inputs, outputs, options)?))
    }
}
