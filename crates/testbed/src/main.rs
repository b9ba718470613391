//! The `defer-testbed` command; what it does is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    testbed::main()
}
