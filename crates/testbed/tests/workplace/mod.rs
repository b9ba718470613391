//! A folder in which tests run experiments, with the models of this repository beside it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::common::testbed;

pub(crate) struct Workplace {
    folder: TempDir,
    /// Of `defer-testbed run`.
    flags: &'static [&'static str],
}

impl Workplace {
    /// Where experiments are run with these flags.
    pub(crate) fn new(flags: &'static [&'static str]) -> Workplace {
        let defer = testbed().with_file_name("defer");
        assert!(defer.exists(), "`cargo build --release -p cli` makes the command `defer`");
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("experiments")).unwrap();
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
        symlink(&models, folder.path().join("models")).unwrap();
        Workplace { folder, flags }
    }

    /// A file of the experiment with this name.
    pub(crate) fn file(&self, name: &str, extension: &str) -> PathBuf {
        self.folder.path().join("experiments").join(name).with_extension(extension)
    }

    /// Starts an experiment; what it complains of is to be read.
    pub(crate) fn start(&self, name: &str, experiment: &str) -> Child {
        let file = self.file(name, "toml");
        fs::write(&file, experiment).unwrap();
        let mut command = Command::new(testbed());
        command.arg("run").args(self.flags).arg(&file);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// What its runs found.
    pub(crate) fn rows(&self, name: &str) -> Vec<Value> {
        let results = self.folder.path().join("experiments/results").join(name).with_extension("ndjson");
        let lines = fs::read_to_string(results).unwrap();
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}
