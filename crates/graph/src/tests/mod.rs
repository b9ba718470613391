//! Tests that reach over several modules.

mod caveats;
mod cut;
mod hostile;
mod read_write;
mod simplify;
mod stages;
mod types;
