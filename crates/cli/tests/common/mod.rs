//! The real `defer` binary in a place of its own: started, watched, signalled; whatever outlives a test fails it.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

pub const FAILED: i32 = 1;
pub const USAGE: i32 = 2;
pub const INTERRUPTED: i32 = 130;

/// Longer than anything here takes, even on a busy machine: whoever waits so long waits for ever.
const HUNG: Duration = Duration::from_secs(60);

/// Lines that wait to be read; a command that prints more is held up, as by any slow reader.
const MAX_LINES: usize = 64;

pub const RESNET: &str = "resnet20_mnist.onnx";

/// A folder with a cache in it, and a group that no other test uses. When it goes, nothing that was started from
/// it may be left.
pub struct Place {
    folder: TempDir,
    group: String,
    started: AtomicUsize,
}

impl Place {
    pub fn new() -> Place {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let group = format!("test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Place { folder: tempfile::tempdir().unwrap(), group, started: AtomicUsize::new(0) }
    }

    pub fn group(&self) -> &str {
        &self.group
    }

    pub fn path(&self, name: &str) -> String {
        text(self.folder.path().join(name))
    }

    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }

    pub fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    /// The home folder of what is started here; nothing is in it.
    pub fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    /// `program` with the environment of this place.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("DEFER_CACHE", self.cache()).env("HOME", self.home());
        for variable in
            ["XDG_CACHE_HOME", "ORT_DISABLE_TELEMETRY", "DEFER_LOG", "DEFER_ONNXRUNTIME", "RUST_BACKTRACE"]
        {
            command.env_remove(variable);
        }
        command
    }

    /// Starts `defer`.
    pub fn start(&self, args: &[impl AsRef<OsStr>]) -> Running {
        let mut command = self.command(env!("CARGO_BIN_EXE_defer"));
        command.args(args);
        self.spawn(command)
    }

    /// Starts a command that [`Place::command`] made.
    pub fn spawn(&self, mut command: Command) -> Running {
        let stderr = self.path(&format!("stderr-{}", self.started.fetch_add(1, Ordering::Relaxed)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&stderr).unwrap());
        Running::start(command, stderr)
    }

    /// Runs `defer` to its end.
    pub fn defer(&self, args: &[impl AsRef<OsStr>]) -> Ended {
        self.start(args).end()
    }

    /// `defer run` with the built-in engine, which is there on every machine, over what `args` say.
    pub fn run(&self, args: &[&str]) -> Ended {
        self.defer(&[&["run", "--engine", "rten", "--json"], args].concat())
    }

    /// Starts a node of this place's group with the built-in engine, and waits until it is ready.
    pub fn node(&self, name: &str, args: &[&str]) -> Node {
        let always = ["node", "--json", "--engine", "rten", "--name", name, "--group", self.group()];
        Node::ready(self.start(&[&always, args].concat()))
    }

    /// The nodes that `defer nodes` finds.
    pub fn nodes(&self) -> Vec<Value> {
        self.defer(&["nodes", "--json", "--group", self.group()]).succeeded().json()
    }

    /// The command fails with `code`, prints no result, and stderr holds every one of `parts`.
    pub fn fails(&self, args: &[impl AsRef<OsStr>], code: i32, parts: &[&str]) {
        self.defer(args).failed(code, parts);
    }

    /// The command prints a result, which is given back.
    pub fn prints(&self, args: &[impl AsRef<OsStr>]) -> String {
        self.defer(args).succeeded().lines.join("\n")
    }

    /// The processes that were started from this place and run, children of children too, with their arguments.
    pub fn processes(&self) -> Vec<(Pid, String)> {
        let mark = format!("DEFER_CACHE={}", self.cache().display());
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|e| Pid::from_raw(e.file_name().to_str()?.parse().ok()?));
        // A process that ends meanwhile, and one that nobody has waited for yet, has no environment.
        let read = |pid: Pid, file: &str| {
            fs::read(format!("/proc/{}/{file}", pid.as_raw_nonzero())).unwrap_or_default()
        };
        let ours = |pid: &Pid| read(*pid, "environ").split(|&b| b == 0).any(|entry| entry == mark.as_bytes());
        let arguments = |pid| String::from_utf8_lossy(&read(pid, "cmdline")).replace('\0', " ");
        pids.filter(ours).map(|pid| (pid, arguments(pid))).collect()
    }

    /// The one process whose arguments hold `part`.
    pub fn process(&self, part: &str) -> Pid {
        let mut found = self.processes();
        found.retain(|(_, arguments)| arguments.contains(part));
        assert_eq!(found.len(), 1, "`{part}`: {found:?}");
        found[0].0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let left = self.processes();
        for (pid, _) in &left {
            let _ = kill_process(*pid, Signal::KILL);
        }
        assert!(left.is_empty() || std::thread::panicking(), "left behind: {left:?}");
    }
}

/// A process whose output is read as it comes; killed when dropped.
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    stderr: String,
}

impl Running {
    fn start(mut command: Command, stderr: String) -> Running {
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = bounded(MAX_LINES);
        std::thread::spawn(move || {
            for line in stdout.lines() {
                if sender.send(line.unwrap()).is_err() {
                    return; // the test needs no more of them
                }
            }
        });
        Running { child, lines, stderr }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// The next line of output; `None` at its end.
    pub fn line(&mut self) -> Option<String> {
        match self.lines.recv_timeout(HUNG) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("it hangs:\n{}", self.stderr()),
        }
    }

    /// What it printed to stderr so far.
    pub fn stderr(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap()
    }

    /// Whether it is still there.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Reads no more of its output, as `| head` does.
    pub fn close_stdout(&mut self) {
        self.lines = bounded(0).1;
    }

    /// Reads what is left of its output and waits for its end.
    pub fn end(mut self) -> Ended {
        let lines = std::iter::from_fn(|| self.line()).collect();
        eventually("the process ends", || !self.runs());
        let code = self.child.wait().unwrap().code();
        Ended { code, lines, stderr: self.stderr() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended, and been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A compute node that is ready.
pub struct Node {
    pub process: Running,
    /// What it printed when it was: `name`, `id`, `engine`, `listen`, `data`.
    pub started: Value,
}

impl Node {
    /// Waits until the process that was started is ready.
    pub fn ready(mut process: Running) -> Node {
        let line = process.line().unwrap_or_else(|| panic!("the node ended:\n{}", process.stderr()));
        Node { process, started: serde_json::from_str(&line).unwrap() }
    }

    /// Asks it to end, which it does in order.
    pub fn stop(self) {
        self.process.signal(Signal::TERM);
        self.process.end().succeeded();
    }
}

/// A command that has ended.
#[derive(Debug)]
pub struct Ended {
    /// `None` after a signal.
    pub code: Option<i32>,
    pub lines: Vec<String>,
    pub stderr: String,
}

impl Ended {
    #[track_caller]
    pub fn succeeded(self) -> Ended {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self
    }

    /// It failed as it should: the code, every one of `parts` on stderr, advice, no panic and no result.
    #[track_caller]
    pub fn failed(&self, code: i32, parts: &[&str]) {
        let stderr = &self.stderr;
        assert_eq!(self.code, Some(code), "{stderr}");
        for part in parts {
            assert!(stderr.contains(part), "`{part}` is not in\n{stderr}");
        }
        assert!(!stderr.contains("panicked"), "{stderr}");
        assert!(self.lines.is_empty(), "a failure printed a result: {:?}", self.lines);
    }

    /// Every line of output.
    #[track_caller]
    pub fn json(&self) -> Vec<Value> {
        let parse = |line: &String| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        self.lines.iter().map(parse).collect()
    }

    /// The items of a run, and its report.
    #[track_caller]
    pub fn results(&self) -> (Vec<Value>, Value) {
        let mut items = self.json();
        let report = items.pop().and_then(|last| last.get("report").cloned());
        (items, report.unwrap_or_else(|| panic!("no report: {self:?}")))
    }
}

/// Looks until `holds` does, and fails after a minute.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + HUNG;
    while !holds() {
        assert!(Instant::now() < deadline, "waited for a minute: {what}");
        #[expect(clippy::disallowed_methods, reason = "other processes can only be looked at")]
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Says something that is to be read although the test passes, when `eprintln` is not shown.
pub fn announce(text: &str) {
    // Without stderr there is nobody to tell.
    let _ = writeln!(io::stderr(), "{text}");
}

/// A file of `models/`.
pub fn vendored(name: &str) -> String {
    text(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models").join(name))
}

/// A model of the engines' conformance tests.
pub fn conformance(name: &str) -> String {
    text(Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/tests/models").join(name))
}

fn text(path: PathBuf) -> String {
    path.into_os_string().into_string().unwrap()
}

/// Checks that item `k` of a run over the ten digits, repeated, is named `k`.
#[track_caller]
pub fn check_digits(items: &[Value], count: usize) {
    assert_eq!(items.len(), count);
    for (i, item) in items.iter().enumerate() {
        assert_eq!(item["item"], i, "{item}");
        assert_eq!(item["class"], i % 10, "{item}");
    }
}

/// An `.npy` file of `f32` values.
pub fn npy(shape: &str, values: &[f32]) -> Vec<u8> {
    npy_of("<f4", shape, &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())
}

/// An `.npy` file.
pub fn npy_of(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend((header.len() as u16).to_le_bytes());
    file.extend(header.bytes());
    file.extend(data);
    file
}
