//! A program of the host's, asked a question: by an absolute path, without a shell, with little environment, within
//! bounds of time and output.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::host::Threads;

/// A program.
#[derive(Clone, Debug)]
pub struct Program(PathBuf);

/// What it had to say.
#[derive(Clone, Debug)]
pub struct Said {
    /// What it printed.
    pub text: String,
    /// What it complained of.
    pub complaint: String,
    /// It ended well, or was ended as it had said enough.
    pub is_well: bool,
}

/// Why it gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It could not be run.
    #[error("cannot run `{}`", .path.display())]
    Start {
        /// Which.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// It did not end in time.
    #[error("`{}` did not end within {} s", .0.display(), .1.as_secs())]
    Late(PathBuf, Duration),
    /// It refused, and said this last.
    #[error("`{}` failed: {}", .path.display(), .said.as_deref().unwrap_or("it did not say why"))]
    Failed {
        /// Which.
        path: PathBuf,
        /// The last line of its complaint.
        said: Option<String>,
    },
}

/// What an answer may cost.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Until its end.
    pub time: Duration,
    /// What is read of its output; the rest is not waited for.
    pub bytes: u64,
}

/// What is kept of a complaint. The last line says why, after warnings of any number.
const COMPLAINT: u64 = 64 << 10;

impl Program {
    /// The first of `places` that is a file. Never by `PATH`: root runs it.
    pub fn find(places: &[&str]) -> Option<Self> {
        places
            .iter()
            .map(Path::new)
            .find(|path| path.is_file())
            .map(|path| Self(path.to_owned()))
    }

    /// The one at `path`.
    pub fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Runs it and returns what it printed. Blocks.
    pub fn ask<'a>(
        &self,
        arguments: impl IntoIterator<Item = &'a str>,
        bounds: Bounds,
    ) -> Result<String, ProgramError> {
        let Said {
            text,
            complaint,
            is_well,
        } = self.hear(arguments, bounds)?;
        if is_well {
            return Ok(text);
        }
        let said = complaint.lines().last().map(|line| line.trim().to_owned());
        Err(ProgramError::Failed {
            path: self.0.clone(),
            said,
        })
    }

    /// Runs it and returns all that it said, however it ended. Blocks.
    pub fn hear<'a>(
        &self,
        arguments: impl IntoIterator<Item = &'a str>,
        bounds: Bounds,
    ) -> Result<Said, ProgramError> {
        let start = |source| ProgramError::Start {
            path: self.0.clone(),
            source,
        };
        let mut child = Command::new(&self.0)
            .args(arguments)
            .env_clear()
            // Dates and words as they are read here.
            .envs([("LC_ALL", "C"), ("TZ", "UTC")])
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(start)?;
        let begun = Instant::now();
        let complained = collect(child.stderr.take(), COMPLAINT);
        let said = collect(child.stdout.take(), bounds.bytes);
        let (complained, said) = match (complained, said) {
            (Ok(complained), Ok(said)) => (complained, said),
            (Err(error), _) | (_, Err(error)) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(start(error));
            }
        };
        let Ok((text, whole)) = said.recv_timeout(bounds.time) else {
            let _ = child.kill();
            let _ = child.wait();
            return Err(ProgramError::Late(self.0.clone(), bounds.time));
        };
        if !whole {
            // Enough was said.
            let _ = child.kill();
            let _ = child.wait();
            return Ok(Said {
                text,
                complaint: String::new(),
                is_well: true,
            });
        }
        let left = bounds.time.saturating_sub(begun.elapsed());
        let Ok((complaint, _)) = complained.recv_timeout(left) else {
            let _ = child.kill();
            let _ = child.wait();
            return Err(ProgramError::Late(self.0.clone(), bounds.time));
        };
        let is_well = end(&mut child).map_err(start)?.success();
        Ok(Said {
            text,
            complaint,
            is_well,
        })
    }
}

/// Waits for a child that has closed its output, and so is about to end; one that does not is ended.
fn end(child: &mut Child) -> io::Result<ExitStatus> {
    const PAUSE: Duration = Duration::from_millis(5);
    for _ in 0..200 {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        std::thread::sleep(PAUSE);
    }
    child.kill()?;
    child.wait()
}

/// Reads a pipe on a thread of its own, so that a full pipe never blocks the child; whether that was all of it.
fn collect(
    pipe: Option<impl Read + Send + 'static>,
    limit: u64,
) -> io::Result<mpsc::Receiver<(String, bool)>> {
    let (sender, receiver) = mpsc::channel();
    Threads::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(pipe) = pipe {
            // What was read before an error is all there is.
            let _ = pipe.take(limit).read_to_end(&mut bytes);
        }
        let whole = u64::try_from(bytes.len()).is_ok_and(|length| length < limit);
        let _ = sender.send((String::from_utf8_lossy(&bytes).into_owned(), whole));
    })?;
    Ok(receiver)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        time: Duration::from_secs(10),
        bytes: 1000,
    };

    fn sh(script: &str, bounds: Bounds) -> Result<String, ProgramError> {
        Program::find(&["/nowhere/sh", "/bin/sh"])
            .unwrap()
            .ask(["-c", script], bounds)
    }

    #[test]
    fn an_answer_is_what_was_printed_within_the_bounds() {
        assert_eq!(
            sh("echo $TZ $HOME$SHLVL_; pwd", BOUNDS).unwrap(),
            "UTC\n/\n"
        );
        let most = sh("while :; do echo 0123456789; done", BOUNDS).unwrap();
        assert_eq!(most.len(), 1000, "and what goes on for ever is ended");
        let short = Bounds {
            time: Duration::from_millis(100),
            ..BOUNDS
        };
        assert!(matches!(
            sh("exec sleep 1000", short),
            Err(ProgramError::Late(..))
        ));
        assert!(matches!(
            sh("exec >&-; exec sleep 1000", short),
            Err(ProgramError::Late(..))
        ));
    }

    #[test]
    fn a_program_that_closes_its_output_and_goes_on_is_ended() {
        let begun = Instant::now();
        let said = Program::at(Path::new("/bin/sh"))
            .hear(
                ["-c", "echo x; echo y >&2; exec >&- 2>&-; exec sleep 1000"],
                BOUNDS,
            )
            .unwrap();
        assert_eq!(
            (said.text.as_str(), said.complaint.as_str(), said.is_well),
            ("x\n", "y\n", false)
        );
        assert!(begun.elapsed() < BOUNDS.time);
    }

    #[test]
    fn a_failure_says_what_was_said_last() {
        let error = sh("echo x; echo why >&2; exit 3", BOUNDS).unwrap_err();
        assert_eq!(error.to_string(), "`/bin/sh` failed: why");
        let many = sh(
            "for n in $(seq 500); do echo a warning of some length $n >&2; done; echo why >&2; exit 3",
            BOUNDS,
        );
        assert_eq!(many.unwrap_err().to_string(), "`/bin/sh` failed: why");
        assert!(matches!(
            sh("exit 1", BOUNDS),
            Err(ProgramError::Failed { said: None, .. })
        ));
        assert!(Program::find(&["/nowhere/sh", "/"]).is_none());
    }
}
