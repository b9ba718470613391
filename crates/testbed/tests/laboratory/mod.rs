//! The library of the testbed in tests: devices and networks of this process, of which there is one at a time.

use std::path::Path;

use testbed::{Cluster, Lab, Programs, Way};

use super::common;

/// A place for devices, with models by the built-in engine.
pub(crate) fn lab() -> Lab {
    let defer = common::testbed().with_file_name("defer");
    assert!(defer.exists(), "`cargo build --release -p cli` makes the command `defer`");
    let experiments = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../experiments");
    Lab::new(&experiments, "rten", &Programs::at(&defer), Way::Groups).unwrap()
}

/// Devices as an experiment describes them: so many with a third of a core each, and what else is said.
pub(crate) fn cluster(name: &str, devices: usize, rest: &str) -> Cluster {
    let devices =
        format!("devices = [{{ quota = 0.3, idle_watts = 1.0, busy_watts = 2.0, count = {devices} }}]");
    toml::from_str(&format!("name = '{name}'\n{devices}\n{rest}")).unwrap()
}
