//! The `whydrop` binary.

fn main() {}
