//! What the fuzz targets run: the same functions as the tests `corpus` of the crates, which keep what was found.

#[allow(dead_code)] // Tests use all of it, targets a part.
#[path = "../../crates/wire/tests/suite/codecs.rs"]
mod codecs;
#[allow(dead_code)]
#[path = "../../crates/wire/tests/suite/frames.rs"]
mod frames;
#[path = "../../crates/wire/tests/suite/fuzzed.rs"]
mod fuzzed;
#[path = "../../crates/graph/tests/fuzzed/mod.rs"]
mod models;

/// Tries an input on the target of a name, which is also that of its folder in `corpus/`.
///
/// # Panics
/// On a finding, or where there is no such target.
pub fn run(target: &str, data: &[u8]) {
    let mut targets = fuzzed::TARGETS.into_iter().chain([("onnx", models::onnx as fuzzed::Target)]);
    let (_, target) = targets.find(|&(name, _)| name == target).expect("a target of this name");
    target(data);
}
