//! A run of a small model over the devices of a test, whose results are events.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use serde_json::Value;
use testbed::{Cluster, Devices, Lab};

use super::common::testbed;

/// How long a result may take to come: nodes are calibrated before the first one.
const RESULT_TIMEOUT: Duration = Duration::from_secs(120);

/// Without a result for so long, none comes any more.
const QUIET: Duration = Duration::from_secs(1);

/// Results on their way: none is kept back for long.
const WAITING_LINES: usize = 64;

/// More than a chain of two has in flight, and what is on its way to the test through a pipe; it takes two seconds to
/// come while nothing stands still.
const MOST_IN_FLIGHT: usize = 500;

/// `defer run` with one input over and over, so that all answers are alike. It is killed when dropped.
pub(crate) struct Chain {
    dispatcher: Child,
    lines: Receiver<String>,
    answer: Option<Value>,
}

impl Chain {
    /// Over both devices, in their order, with what travels as it is.
    pub(crate) fn start(lab: &Lab, devices: &Devices<'_>, cluster: &Cluster) -> Chain {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/resnet20_mnist.onnx");
        let mut command = Command::new(testbed().with_file_name("defer"));
        command.arg("run").arg(model).args(["--json", "--quiet", "--random", "1", "--repeat", "1000000"]);
        command.args(["--keep-order", "--cut", "functional_1/re_lu_8_1/Relu:0", "--codec", "raw"]);
        command
            .args(["--timeout", "30s", "--engine", "rten", "--cluster"])
            .arg(lab.cluster(cluster).unwrap());
        command.arg("--cache").arg(lab.folder().join("cache"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut dispatcher = devices.dispatch(&mut command).unwrap();
        let (sender, lines) = bounded(WAITING_LINES);
        let stdout = dispatcher.stdout.take().unwrap();
        std::thread::spawn(move || {
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            lines.map(|line| sender.send(line)).take_while(Result::is_ok).for_each(drop);
        });
        Chain { dispatcher, lines, answer: None }
    }

    /// Waits for so many results. Gives how long they took.
    pub(crate) fn results(&mut self, count: usize) -> Duration {
        let start = Instant::now();
        for _ in 0..count {
            match self.lines.recv_timeout(RESULT_TIMEOUT) {
                Ok(line) => self.hold_against_the_first(&line),
                Err(RecvTimeoutError::Timeout) => panic!("no result for {RESULT_TIMEOUT:?}"),
                Err(RecvTimeoutError::Disconnected) => panic!("the run ended: {}", self.said()),
            }
        }
        start.elapsed()
    }

    /// Takes what has come meanwhile, and waits for so many results after that.
    pub(crate) fn settles(&mut self, count: usize) {
        while let Ok(line) = self.lines.try_recv() {
            self.hold_against_the_first(&line);
        }
        self.results(count);
    }

    /// Waits until no results come any more, though the run goes on.
    pub(crate) fn stands_still(&mut self) {
        for _ in 0..MOST_IN_FLIGHT {
            match self.lines.recv_timeout(QUIET) {
                Ok(line) => self.hold_against_the_first(&line),
                Err(RecvTimeoutError::Timeout) => return,
                Err(RecvTimeoutError::Disconnected) => panic!("the run ended: {}", self.said()),
            }
        }
        panic!("{MOST_IN_FLIGHT} more results came");
    }

    /// Waits until the run ends by itself, which is an error. Gives what it said of it.
    pub(crate) fn fails(mut self) -> String {
        loop {
            match self.lines.recv_timeout(RESULT_TIMEOUT) {
                Ok(line) => self.hold_against_the_first(&line),
                Err(RecvTimeoutError::Timeout) => panic!("it has not failed for {RESULT_TIMEOUT:?}"),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let said = self.said();
        assert!(!self.dispatcher.wait().unwrap().success(), "it went through: {said}");
        said
    }

    /// No answer may be another one, whatever happens.
    fn hold_against_the_first(&mut self, line: &str) {
        let result: Value = serde_json::from_str(line).unwrap();
        let answer = &result["outputs"];
        assert!(answer.is_object(), "no result: {line}");
        let first = self.answer.get_or_insert_with(|| answer.clone());
        assert!(answer == first, "a wrong answer: {line}");
    }

    /// What it said until it ended.
    fn said(&mut self) -> String {
        let mut said = String::new();
        self.dispatcher.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        said
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.dispatcher.kill();
        let _ = self.dispatcher.wait();
    }
}
