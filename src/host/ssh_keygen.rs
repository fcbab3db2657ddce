//! Signing by `ssh-keygen`, which knows keys in files, in an agent and on tokens, and asks a person for what they need.

use std::io::{self, ErrorKind, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

/// Why there is no signature.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    #[error("there is no `ssh-keygen` here")]
    Missing,
    #[error("cannot run `ssh-keygen`")]
    Run(#[source] io::Error),
    /// It said why where a person sees it.
    #[error("`ssh-keygen` did not sign")]
    Refused,
}

/// An armoured signature of `text` for `namespace` by the key in the file `key`, or by the private half of that one. Blocks.
///
/// It has this process's terminal for its questions, unless `asks_in_terminal` is false: then a program may ask.
pub fn sign(
    key: &Path,
    namespace: &str,
    text: &str,
    asks_in_terminal: bool,
) -> Result<String, SignError> {
    let mut command = Command::new("ssh-keygen");
    command
        .args(["-Y", "sign", "-n", namespace, "-f"])
        .arg(key)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    if asks_in_terminal {
        // As the text comes on stdin, it would else take a terminal for missing wherever there is a display.
        command.env("SSH_ASKPASS_REQUIRE", "never");
    }
    let mut child = match command.spawn() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(SignError::Missing),
        spawned => spawned.map_err(SignError::Run)?,
    };
    if let Some(mut stdin) = child.stdin.take() {
        // Where it cannot sign it reads nothing.
        let _ = stdin.write_all(text.as_bytes());
    }
    let done = child.wait_with_output().map_err(SignError::Run)?;
    match String::from_utf8(done.stdout) {
        Ok(signature) if done.status.success() => Ok(signature),
        _ => Err(SignError::Refused),
    }
}
