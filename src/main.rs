//! The `dream-train` program.

fn main() {}
