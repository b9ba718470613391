#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| defer_fuzz::run("weights", data));
