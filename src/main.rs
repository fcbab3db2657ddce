//! The binary: wires the real world to the library and ends with its exit code.

fn main() {}
