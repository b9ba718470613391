//! Fetches the ONNX Runtime library into the user's cache through the Python package client.
//!
//! `defer engine install` calls it. pip does the network (its index, proxy and certificate settings
//! apply) and checks the pinned hash; nothing else of the package is used, so it neither needs nor touches an
//! installed one. It never runs anything it fetched.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::search::inspect;
use crate::{Refusal, Version};

/// The version of ONNX Runtime that [`install`] fetches.
pub const ONNXRUNTIME_VERSION: Version = Version { major: 1, minor: 32, patch: 0 };

/// The wheels of that version, by processor: pip's platform tag, and the SHA-256 of the file. The library in
/// a wheel is the same for all Python versions, so one wheel serves whatever Python the user has.
const WHEELS: &[(&str, &str, &str)] = &[
    ("x86_64", "manylinux_2_28_x86_64", "99e1074c4b2197accd5073052a465361be17b89c093b8ffb6e6bd8f986c52df8"),
    ("aarch64", "manylinux_2_28_aarch64", "e36c187006e7a7c8b8d6d57f1a209dd63f52430dca6c282b177718ad6b841054"),
];
const WHEEL_PYTHON: &str = "312";

/// Takes the library and the licence texts out of the wheel. Python is there anyway, so a zip library of
/// our own would only add weight; `python3 -m zipfile -e` would unpack twice as much as is needed.
const UNPACK: &str = r#"
import pathlib, shutil, sys, zipfile
wheel, folder = sys.argv[1], pathlib.Path(sys.argv[2])
notices = ("LICENSE", "ThirdPartyNotices.txt", "Privacy.md")
with zipfile.ZipFile(wheel) as archive:
    for member in archive.namelist():
        name = member.rsplit("/", 1)[-1]
        library = member.startswith("onnxruntime/capi/") and name.startswith("libonnxruntime.so.")
        if library or member in ["onnxruntime/" + notice for notice in notices]:
            with archive.open(member) as source, open(folder / name, "wb") as target:
                shutil.copyfileobj(source, target)
"#;

/// Lines of a failed command's output that an error repeats.
const LAST_LINES: usize = 6;

/// What an installation is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// pip fetches the wheel, some 25 MB.
    Downloading,
    /// The library is taken out of it.
    Unpacking,
}

/// An installed library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// The library file.
    pub path: PathBuf,
    /// Its version.
    pub version: Version,
    /// Whether this call fetched it; false when it was there.
    pub fetched: bool,
}

/// Why nothing was installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// There are no wheels for this machine.
    #[error(
        "there is no ONNX Runtime wheel for {0}: go on with the built-in engine, or build the library and name it"
    )]
    Machine(String),
    /// The Python interpreter cannot be started.
    #[error(
        "`{python}` cannot be started ({source}): install Python 3 with pip, or name another interpreter"
    )]
    NoPython {
        /// The interpreter asked for.
        python: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The interpreter has no pip.
    #[error("`{python}` has no pip: install it (`apt install python3-pip`, or `{python} -m ensurepip`)")]
    NoPip {
        /// The interpreter.
        python: PathBuf,
    },
    /// pip could not fetch the wheel.
    #[error(
        "pip could not fetch onnxruntime {ONNXRUNTIME_VERSION}: check the network and pip's index; pip says:\n{output}"
    )]
    Download {
        /// The last lines of pip's output.
        output: String,
    },
    /// The wheel could not be unpacked.
    #[error("the wheel could not be unpacked: {output}")]
    Unpack {
        /// The last lines of Python's output.
        output: String,
    },
    /// The wheel holds no usable library.
    #[error("the wheel's library `{path}` {refusal}")]
    Library {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        refusal: Refusal,
    },
    /// The cache cannot be written.
    #[error("cannot write to `{path}`: {source}")]
    Cache {
        /// The folder.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

/// Makes sure that the library lies in `cache`, fetching it with the interpreter `python` if it does not.
/// Two calls at once, from two processes as well, do no harm.
pub fn install(
    python: &Path,
    cache: &Path,
    progress: &mut dyn FnMut(Stage),
) -> Result<Installed, InstallError> {
    let machine = std::env::consts::ARCH;
    let &(_, platform, hash) = WHEELS
        .iter()
        .find(|(name, _, _)| *name == machine && cfg!(target_os = "linux"))
        .ok_or_else(|| InstallError::Machine(format!("{machine} {}", std::env::consts::OS)))?;
    let home = engines(cache).join(format!("onnxruntime-{ONNXRUNTIME_VERSION}"));
    let path = home.join(format!("libonnxruntime.so.{ONNXRUNTIME_VERSION}"));
    let installed = |fetched| Installed { path: path.clone(), version: ONNXRUNTIME_VERSION, fetched };
    if inspect(&path).is_ok() {
        return Ok(installed(false));
    }

    // Beside its place, so that it can be renamed there; removed when dropped.
    let unwritable = |source| InstallError::Cache { path: engines(cache), source };
    fs::create_dir_all(engines(cache)).map_err(unwritable)?;
    let work =
        tempfile::Builder::new().prefix(".installing-").tempdir_in(engines(cache)).map_err(unwritable)?;
    progress(Stage::Downloading);
    let wheel = download(python, work.path(), platform, hash)?;
    progress(Stage::Unpacking);
    let unpacked = work.path().join("unpacked");
    fs::create_dir(&unpacked).map_err(unwritable)?;
    unpack(python, &wheel, &unpacked)?;
    let library = unpacked.join(path.file_name().expect("joined above"));
    inspect(&library).map_err(|refusal| InstallError::Library { path: library, refusal })?;
    put(&unpacked, &home, &path).map_err(unwritable)?;
    Ok(installed(true))
}

/// The folders in which [`install`] leaves libraries, of all versions.
pub(crate) fn library_folders(cache: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(engines(cache)) else { return Vec::new() };
    let ours = |name: &str| name.starts_with("onnxruntime-");
    entries
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(ours))
        .map(|entry| entry.path())
        .collect()
}

fn engines(cache: &Path) -> PathBuf {
    cache.join("engines")
}

/// Fetches the wheel into `folder`; gives its path.
fn download(python: &Path, folder: &Path, platform: &str, hash: &str) -> Result<PathBuf, InstallError> {
    let unwritable = |source| InstallError::Cache { path: folder.to_owned(), source };
    let requirements = folder.join("requirements.txt");
    fs::write(&requirements, format!("onnxruntime=={ONNXRUNTIME_VERSION} --hash=sha256:{hash}\n"))
        .map_err(unwritable)?;
    let mut pip = Command::new(python);
    pip.args(["-m", "pip", "--no-input", "--disable-pip-version-check", "download", "--no-deps"])
        .args(["--only-binary=:all:", "--require-hashes", "--progress-bar=off", "--retries=2"])
        .args(["--implementation=cp", "--python-version", WHEEL_PYTHON, "--abi"])
        .arg(format!("cp{WHEEL_PYTHON}"))
        .args(["--platform", platform, "--dest"])
        .arg(folder)
        .arg("-r")
        .arg(&requirements);
    let output = run(python, &mut pip)?;
    let text = last_lines(&output);
    if !output.status.success() {
        if text.contains("No module named pip") {
            return Err(InstallError::NoPip { python: python.to_owned() });
        }
        return Err(InstallError::Download { output: text });
    }
    let is_wheel = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "whl");
    let mut files = fs::read_dir(folder).map_err(unwritable)?.flatten().map(|entry| entry.path());
    files.find(is_wheel).ok_or(InstallError::Download { output: text })
}

fn unpack(python: &Path, wheel: &Path, folder: &Path) -> Result<(), InstallError> {
    let output = run(python, Command::new(python).args(["-c", UNPACK]).arg(wheel).arg(folder))?;
    if !output.status.success() {
        return Err(InstallError::Unpack { output: last_lines(&output) });
    }
    Ok(())
}

fn run(python: &Path, command: &mut Command) -> Result<Output, InstallError> {
    command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| InstallError::NoPython { python: python.to_owned(), source })
}

/// Moves the unpacked folder to its place. When it is taken, another process was faster, or an old attempt
/// left something unusable: then only the library is put in, over whatever was there.
fn put(unpacked: &Path, home: &Path, path: &Path) -> io::Result<()> {
    if fs::rename(unpacked, home).is_ok() || inspect(path).is_ok() {
        return Ok(());
    }
    fs::rename(unpacked.join(path.file_name().expect("a library has a name")), path)
}

/// The end of what a command said, complaints last.
fn last_lines(output: &Output) -> String {
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> =
        stdout.lines().chain(stderr.lines()).map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let mut text = String::new();
    for line in &lines[lines.len().saturating_sub(LAST_LINES)..] {
        let _ = writeln!(text, "{line}");
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
#[path = "install_tests.rs"]
mod tests;
