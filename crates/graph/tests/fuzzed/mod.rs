//! What the fuzz target `onnx` does with an input, and what must hold then.

use graph::Model;

/// Bytes that may be a model: an error, or a model of which everything can be asked that is asked of one.
pub(crate) fn onnx(data: &[u8]) {
    let Ok(mut model) = Model::from_bytes(data.to_vec()) else { return };
    model.hash();
    model.caveats();
    let cuts = model.cuts(4);
    for cut in cuts.iter().take(4) {
        for range in [0..cut.position, cut.position..model.operators().len()] {
            // What a node is sent.
            if let Ok(Ok(bytes)) = model.stage(range).map(|stage| stage.to_bytes()) {
                Model::from_bytes(bytes).map(drop).unwrap_or_else(|e| panic!("a stage is no model: {e}"));
            }
        }
    }
    let _ = model.stage(0..model.operators().len());
    let _ = model.simplify(&mut |_| Err("no engine".to_owned()));
    let bytes = model.to_bytes().expect("it was in memory");
    Model::from_bytes(bytes)
        .map(drop)
        .unwrap_or_else(|e| panic!("a model that was read and written is none: {e}"));
}
