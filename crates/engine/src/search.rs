//! Where an ONNX Runtime library may lie, and whether it can be used.
//!
//! `defer engine list` shows what it finds, nodes and dispatchers load the first that is usable. It reads
//! the head of each file and never runs a library to look at it. The caller names all places.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::install::library_folders;
use crate::{Engine, LibraryError, OnnxRuntime, Rten};

/// The oldest ONNX Runtime that has the API this program is built for (`api-24` of the `ort` crate).
const OLDEST: Version = Version { major: 1, minor: 24, patch: 0 };

/// Places to look for an ONNX Runtime library, in the order of their precedence. The library never reads
/// the environment: the command line fills this in.
#[derive(Clone, Debug, Default)]
pub struct LibrarySearch {
    /// A file, or a folder that holds one, named on the command line.
    pub flag: Option<PathBuf>,
    /// The same from an environment variable.
    pub environment: Option<PathBuf>,
    /// The user's cache, where [`crate::install::install`] puts libraries.
    pub cache: Option<PathBuf>,
    /// Python `site-packages` folders, which may hold the `onnxruntime` package.
    pub site_packages: Vec<PathBuf>,
    /// The system's library folders.
    pub system: Vec<PathBuf>,
}

/// Which of the places a library was found in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// [`LibrarySearch::flag`].
    Flag,
    /// [`LibrarySearch::environment`].
    Environment,
    /// [`LibrarySearch::cache`].
    Cache,
    /// [`LibrarySearch::site_packages`].
    Python,
    /// [`LibrarySearch::system`].
    System,
}

/// A library file, usable or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The file; links are followed.
    pub path: PathBuf,
    /// The place that led to it.
    pub origin: Origin,
    /// Its version, or why it cannot be used.
    pub state: Result<Version, Refusal>,
}

/// The version of a library.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Major version.
    pub major: u32,
    /// Minor version.
    pub minor: u32,
    /// Patch.
    pub patch: u32,
}

/// Why a library cannot be used; a phrase that follows its path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The file cannot be read, or there is none.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// A folder without an ONNX Runtime library.
    #[error("is a folder without a libonnxruntime.so")]
    EmptyFolder,
    /// Not an ELF shared library.
    #[error("is no shared library of this system")]
    NotALibrary,
    /// A library for another processor.
    #[error("is built for {found}, this machine is {}", std::env::consts::ARCH)]
    Architecture {
        /// The processor it is built for.
        found: String,
    },
    /// A library, but not ONNX Runtime.
    #[error("is not ONNX Runtime: it does not say a version of it")]
    NotOnnxRuntime,
    /// A version without the API that this program uses.
    #[error("is ONNX Runtime {0}, too old: {OLDEST} or later is needed")]
    TooOld(Version),
}

/// All libraries in all places, in the order of precedence; each file once.
pub fn find_onnxruntime(search: &LibrarySearch) -> Vec<Candidate> {
    let named = |place: &Option<PathBuf>, origin| {
        place.iter().flat_map(move |path| named_place(path, origin)).collect::<Vec<Candidate>>()
    };
    let folders = |folders: Vec<PathBuf>, origin| {
        folders.into_iter().flat_map(move |folder| folder_libraries(&folder, origin))
    };
    let python = search.site_packages.iter().map(|folder| folder.join("onnxruntime/capi")).collect();
    let cache = search.cache.as_deref().map(library_folders).unwrap_or_default();

    let mut found: Vec<Candidate> = Vec::new();
    named(&search.flag, Origin::Flag)
        .into_iter()
        .chain(named(&search.environment, Origin::Environment))
        .chain(newest_first(folders(cache, Origin::Cache).collect()))
        .chain(folders(python, Origin::Python))
        .chain(folders(search.system.clone(), Origin::System))
        .for_each(|candidate| {
            if !found.iter().any(|c| c.path == candidate.path) {
                found.push(candidate);
            }
        });
    found
}

/// The faster engine of those at hand: ONNX Runtime when a usable library is found, rten otherwise.
///
/// # Errors
/// A library that was named (by flag or environment) cannot be used, or the one found cannot be loaded:
/// going on with another engine would hide a mistake that makes everything slower.
pub fn preferred(search: &LibrarySearch) -> Result<Box<dyn Engine>, LibraryError> {
    match OnnxRuntime::find(search) {
        Ok(engine) => Ok(Box::new(engine)),
        Err(LibraryError::NotFound { .. }) => Ok(Box::new(Rten)),
        Err(error) => Err(error),
    }
}

/// The library to load: the first usable one, unless one that was named cannot be used.
pub(crate) fn choose(search: &LibrarySearch) -> Result<PathBuf, LibraryError> {
    let mut refused = Vec::new();
    for candidate in find_onnxruntime(search) {
        match candidate.state {
            Ok(_) => return Ok(candidate.path),
            Err(refusal) if matches!(candidate.origin, Origin::Flag | Origin::Environment) => {
                return Err(LibraryError::Refused { path: candidate.path, refusal });
            }
            Err(refusal) => refused.push((candidate.path, refusal)),
        }
    }
    Err(LibraryError::NotFound { refused })
}

/// The version of the library at `path`, or why it cannot be used.
pub(crate) fn inspect(path: &Path) -> Result<Version, Refusal> {
    let unreadable = |error: io::Error| Refusal::Unreadable(error.to_string());
    // Linkers put the header and the names near the start; tools that patch libraries may move the names.
    const HEAD: u64 = 1 << 18;
    let mut file = File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    (&mut file).take(HEAD).read_to_end(&mut bytes).map_err(unreadable)?;
    check_machine(&bytes)?;
    let version = match version_mark(&bytes) {
        Some(version) => version,
        None => {
            file.read_to_end(&mut bytes).map_err(unreadable)?;
            version_mark(&bytes).ok_or(Refusal::NotOnnxRuntime)?
        }
    };
    if version < OLDEST {
        return Err(Refusal::TooOld(version));
    }
    Ok(version)
}

/// Checks the ELF header: a 64-bit little-endian shared object for this processor.
fn check_machine(bytes: &[u8]) -> Result<(), Refusal> {
    const SHARED_OBJECT: u16 = 3;
    let half = |at: usize| Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    if !bytes.starts_with(b"\x7fELF") || half(16) != Some(SHARED_OBJECT) {
        return Err(Refusal::NotALibrary);
    }
    let machine = half(18).ok_or(Refusal::NotALibrary)?;
    let found = match machine {
        62 => "x86_64".to_owned(),
        183 => "aarch64".to_owned(),
        40 => "arm".to_owned(),
        3 => "x86".to_owned(),
        243 => "riscv64".to_owned(),
        other => format!("machine type {other}"),
    };
    if found != std::env::consts::ARCH {
        return Err(Refusal::Architecture { found });
    }
    Ok(())
}

/// The version under which the library exports its one symbol: `VERS_1.32.0`, ended by a zero byte.
fn version_mark(bytes: &[u8]) -> Option<Version> {
    const MARK: &[u8] = b"\0VERS_";
    let start = bytes.windows(MARK.len()).position(|window| window == MARK)? + MARK.len();
    let end = start + bytes[start..].iter().position(|&b| b == 0)?;
    let mut parts = std::str::from_utf8(&bytes[start..end]).ok()?.split('.').map(str::parse);
    let mut part = || parts.next()?.ok();
    Some(Version { major: part()?, minor: part()?, patch: part().unwrap_or(0) })
}

fn named_place(path: &Path, origin: Origin) -> Vec<Candidate> {
    if !path.is_dir() {
        return vec![candidate(path, origin)];
    }
    let found = folder_libraries(path, origin);
    if found.is_empty() {
        return vec![Candidate { path: path.to_owned(), origin, state: Err(Refusal::EmptyFolder) }];
    }
    found
}

/// The ONNX Runtime libraries in a folder, newest first; nothing when the folder cannot be read.
fn folder_libraries(folder: &Path, origin: Origin) -> Vec<Candidate> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let names = |name: &str| name.starts_with("libonnxruntime.so");
    let libraries = entries
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(names))
        .map(|entry| candidate(&entry.path(), origin));
    newest_first(libraries.collect())
}

fn candidate(path: &Path, origin: Origin) -> Candidate {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let state = inspect(&path);
    Candidate { path, origin, state }
}

fn newest_first(mut candidates: Vec<Candidate>) -> Vec<Candidate> {
    candidates.sort_by(|a, b| {
        let version = |c: &Candidate| c.state.as_ref().ok().copied();
        version(b).cmp(&version(a)).then_with(|| a.path.cmp(&b.path))
    });
    candidates
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Origin::Flag => "command line",
            Origin::Environment => "environment",
            Origin::Cache => "cache",
            Origin::Python => "Python",
            Origin::System => "system",
        })
    }
}

#[cfg(test)]
#[path = "search_tests.rs"]
mod tests;
