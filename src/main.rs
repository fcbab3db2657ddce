//! The binary: wires the real world to the library and ends with its exit code.

use std::process::ExitCode;

use authorized_keys_agent::cli;

fn main() -> ExitCode {
    cli::main()
}
