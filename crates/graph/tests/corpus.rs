//! Everything that fuzzing keeps of models, seeds and findings, on the same function, without a fuzzer.

mod fuzzed;

use std::path::Path;

#[test]
fn what_was_kept_is_met_as_it_should_be() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/onnx");
    let mut count = 0;
    for file in std::fs::read_dir(corpus).expect("fuzz/corpus/onnx") {
        let path = file.unwrap().path();
        // The name of the file tells which input a panic is about.
        #[expect(clippy::print_stdout, reason = "shown when the test fails")]
        {
            println!("{}", path.display());
        }
        fuzzed::onnx(&std::fs::read(&path).unwrap());
        count += 1;
    }
    assert!(count > 0, "fuzz/corpus/onnx is empty");
}
