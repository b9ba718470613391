//! The engines under test.
#![allow(clippy::disallowed_methods, reason = "`make test` says by environment where the library lies")]

use std::env;
use std::path::Path;
use std::sync::Arc;

use engine::{Engine, OnnxRuntime, Rten};

pub fn rten() -> Arc<dyn Engine> {
    Arc::new(Rten)
}

/// ONNX Runtime, when `DEFER_ONNXRUNTIME` names its library.
pub fn onnxruntime() -> Option<Arc<dyn Engine>> {
    let path = env::var_os("DEFER_ONNXRUNTIME")?;
    Some(Arc::new(OnnxRuntime::load(Path::new(&path)).expect("DEFER_ONNXRUNTIME names a usable library")))
}

/// rten, and ONNX Runtime when it is there.
pub fn engines() -> Vec<Arc<dyn Engine>> {
    std::iter::once(rten()).chain(onnxruntime()).collect()
}

/// Fails when the half of the tests that needs ONNX Runtime would be left out unnoticed.
pub fn assert_onnxruntime_is_present() {
    let without = env::var_os("DEFER_TEST_WITHOUT_ONNXRUNTIME").is_some_and(|v| v == "1");
    assert!(
        without || onnxruntime().is_some(),
        "the ONNX Runtime half of these tests did not run: run `make test`, which installs the library; or set \
         DEFER_ONNXRUNTIME to the path of one; or set DEFER_TEST_WITHOUT_ONNXRUNTIME=1 to test without it"
    );
}
