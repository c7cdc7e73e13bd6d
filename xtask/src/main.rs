//! cargo xtask JOB.

fn main() {}
