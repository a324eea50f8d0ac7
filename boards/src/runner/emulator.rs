//! The emulator: QEMU as a child process that dies with its handle.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::link::Line;
use crate::catalogue::{Board, Qemu};
use crate::error::{Error, Result};

/// What the firmware's `first_boot` takes for a record that holds the self-test back.
const HELD_BACK: u32 = 0x6865_6c64;

/// A running emulator.
pub(super) struct Emulator {
    child: Child,
    said: Arc<Mutex<String>>,
    listener: Option<JoinHandle<()>>,
}

impl Emulator {
    /// Boots `firmware` with `model` in the model region; the log line goes to the file `log`. At the
    /// address `held`, the firmware finds that it shall not test itself.
    pub(super) fn boot(
        board: &Board,
        firmware: &Path,
        model: &Path,
        log: &Path,
        held: Option<u64>,
    ) -> Result<(Self, Line)> {
        let qemu = board.qemu.as_ref().ok_or_else(|| Error::Missing {
            what: format!("{} is a real board, which no emulator here can boot", board.id),
            remedy: "put the image on it (`grouse flash`) and name its serial port (`--port`)"
                .into(),
        })?;
        check_version(board, qemu)?;
        let mut command = Command::new(&qemu.program);
        match &qemu.machine {
            Some(machine) => {
                let origin = board.bare()?.model.origin;
                let model =
                    with_path("loader,file=", model, &format!(",addr={origin:#x},force-raw=on"));
                command
                    .args(["-machine", machine, "-display", "none", "-monitor", "none"])
                    .args(&qemu.args)
                    .args([OsStr::new("-kernel"), firmware.as_os_str()])
                    .args([OsStr::new("-device"), &model])
                    // The first line is ours through pipes, the second is the log.
                    .args(["-chardev", "stdio,id=wire,signal=off", "-serial", "chardev:wire"])
                    .args([OsStr::new("-chardev"), &with_path("file,id=log,path=", log, "")])
                    .args(["-serial", "chardev:log"]);
                if let Some(held) = held {
                    let data = format!("loader,addr={held:#x},data={HELD_BACK:#x},data-len=4");
                    command.args(["-device", &data]);
                }
            }
            // A Linux program: its standard input and output are the line.
            None => {
                command.args(&qemu.args).args([firmware, model, log]);
            }
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(Error::io(format!("start {}", qemu.program)))?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let said = Arc::new(Mutex::new(String::new()));
        let mut emulator = Self { child, said: Arc::clone(&said), listener: None };
        let (Some(output), Some(input), Some(errors)) = pipes else {
            return Err(emulator.ended(board));
        };
        emulator.listener = Some(std::thread::spawn(move || {
            for line in BufReader::new(errors).lines().map_while(std::io::Result::ok) {
                if let Ok(mut said) = said.lock() {
                    said.push_str(&line);
                    said.push('\n');
                }
            }
        }));
        Ok((emulator, Line { output: Box::new(output), input: Box::new(input) }))
    }

    /// What the emulator wrote to its standard error, as the end of a sentence.
    pub(super) fn said(&self) -> String {
        match self.said.lock().as_deref().map(|said| said.trim()) {
            Ok("") | Err(_) => String::new(),
            Ok(said) => format!("; it said: {said}"),
        }
    }

    /// The error for an emulator that closed its line.
    pub(super) fn ended(&mut self, board: &Board) -> Error {
        self.stop();
        Error::Ended { board: board.id.clone(), said: self.said() }
    }

    fn stop(&mut self) {
        // An emulator that has ended by itself cannot be killed, which is just as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A QEMU option around a path, whose commas must be doubled.
fn with_path(before: &str, path: &Path, after: &str) -> OsString {
    let mut option = OsString::from(before);
    match path.to_str() {
        Some(text) => option.push(text.replace(',', ",,")),
        None => option.push(path),
    }
    option.push(after);
    option
}

fn check_version(board: &Board, qemu: &Qemu) -> Result<()> {
    let program = &qemu.program;
    let remedy = format!("run `sudo apt-get install {}`", qemu.package);
    let output = Command::new(program).arg("--version").output().map_err(|e| Error::Missing {
        what: format!("{program}, which emulates {}, cannot be started: {e}", board.id),
        remedy: remedy.clone(),
    })?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let needed = qemu.since;
    // Words that are no version are let through: the machine itself will tell.
    match version(&text) {
        Some(found) if found < needed => Err(Error::Missing {
            what: format!(
                "{program} is version {}.{}, {} needs {}.{}",
                found.0, found.1, board.id, needed.0, needed.1
            ),
            remedy: format!("{remedy} on a newer system, or build a newer QEMU"),
        }),
        _ => Ok(()),
    }
}

/// Major and minor version in the emulator's words.
fn version(text: &str) -> Option<(u32, u32)> {
    let (_, number) = text.split_once("version ")?;
    let mut parts = number.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(version("QEMU emulator version 7.2.22 (Debian 1:7.2)"), Some((7, 2)));
        assert_eq!(version("QEMU emulator version 10.0"), Some((10, 0)));
        assert_eq!(version("something else"), None);
    }

    #[test]
    fn commas_in_paths_are_doubled() {
        let option = with_path("file=", Path::new("/a,b/c"), ",addr=0");
        assert_eq!(option, "file=/a,,b/c,addr=0");
    }
}
