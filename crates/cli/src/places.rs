//! Where things lie on the user's machine: the cache, ONNX Runtime libraries; and the log's filter.
//!
//! The only module of the whole workspace that reads the environment and the home folder.
#![allow(clippy::disallowed_methods)] // std::env::var_os: see above

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use engine::LibrarySearch;
use etcetera::{BaseStrategy, choose_base_strategy};

use crate::failure::Hint;

/// Names the cache folder.
const CACHE_VARIABLE: &str = "DEFER_CACHE";

/// Names an ONNX Runtime library, or a folder with one.
const LIBRARY_VARIABLE: &str = "DEFER_ONNXRUNTIME";

/// Replaces the log level that `--verbose` sets, in the syntax of `tracing_subscriber::EnvFilter`.
const LOG_VARIABLE: &str = "DEFER_LOG";

/// Keeps ONNX Runtime from reporting on this machine, and from the files it keeps in the user's cache for that. Only
/// this variable does: its API ends events after the first ones are on their way.
///
/// To be called first of all in `main`.
pub(crate) fn forbid_telemetry() {
    // SAFETY: nothing ran before this in `main`, so this is the only thread, and none can read the environment.
    unsafe { env::set_var("ORT_DISABLE_TELEMETRY", "1") };
}

/// What shall be logged, if the user says so in `DEFER_LOG`.
pub(crate) fn log_filter() -> Option<String> {
    env::var(LOG_VARIABLE).ok().filter(|filter| !filter.is_empty())
}

/// The cache folder: the flag, else `DEFER_CACHE`, else `defer` in the user's cache folder (XDG).
pub(crate) fn cache(flag: Option<&Path>) -> Result<PathBuf> {
    let named = flag.map(Path::to_owned).or_else(|| variable(CACHE_VARIABLE));
    if let Some(path) = named {
        // Other processes get this path too: it must not hang on the current folder.
        return Ok(std::path::absolute(path)?);
    }
    let users = choose_base_strategy().ok().map(|s| s.cache_dir()).filter(|p| p.is_absolute());
    users
        .map(|folder| folder.join("defer"))
        .ok_or_else(|| anyhow!("there is no home folder, so no place for the cache is known"))
        .hint(format!("give --cache FOLDER, or set HOME or {CACHE_VARIABLE}"))
}

/// The places in which an ONNX Runtime library is looked for. A cache that does not exist is no place.
pub(crate) fn libraries(flag: Option<&Path>, cache_flag: Option<&Path>) -> LibrarySearch {
    LibrarySearch {
        flag: flag.map(Path::to_owned),
        environment: variable(LIBRARY_VARIABLE),
        cache: cache(cache_flag).ok(),
        site_packages: site_packages(),
        system: system_folders(),
    }
}

/// A variable that is set to something.
fn variable(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The `site-packages` of an active virtual environment, then those of the user and of the system.
fn site_packages() -> Vec<PathBuf> {
    let home = env::home_dir().filter(|p| p.is_absolute()).map(|home| home.join(".local"));
    let roots = variable("VIRTUAL_ENV").into_iter().chain(home);
    let roots = roots.chain(["/usr/local", "/usr"].map(PathBuf::from));
    let mut found = Vec::new();
    for root in roots {
        let Ok(entries) = std::fs::read_dir(root.join("lib")) else { continue };
        let mut versions: Vec<PathBuf> = entries
            .flatten()
            .filter(|e| e.file_name().to_str().is_some_and(|name| name.starts_with("python3")))
            .flat_map(|e| ["site-packages", "dist-packages"].map(|folder| e.path().join(folder)))
            .filter(|folder| folder.is_dir())
            .collect();
        versions.sort();
        found.extend(versions);
    }
    found
}

fn system_folders() -> Vec<PathBuf> {
    let multiarch = format!("/usr/lib/{}-linux-gnu", env::consts::ARCH);
    let folders = ["/usr/local/lib", multiarch.as_str(), "/usr/lib64", "/usr/lib"];
    folders.map(PathBuf::from).into_iter().filter(|folder| folder.is_dir()).collect()
}
