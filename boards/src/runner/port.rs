//! A serial port: the line to a board on the desk.

use std::io::ErrorKind;
use std::time::Duration;

use super::link::Line;
use crate::catalogue::Board;
use crate::error::{Error, Result};

/// Baud rate of all boards' lines.
const BAUD: u32 = 115_200;
/// A reader that would wait for ever could not be ended; after this long it looks whether it should.
const POLL: Duration = Duration::from_millis(100);

/// Opens the port called `name` (`/dev/ttyACM0`, `COM3`).
pub(super) fn open(board: &Board, name: &str) -> Result<Line> {
    let port = serialport::new(name, BAUD).timeout(POLL).open();
    let port = port.map_err(|error| refused(board, name, &error))?;
    let reader = port.try_clone().map_err(|error| refused(board, name, &error))?;
    Ok(Line { output: Box::new(port), input: Box::new(reader) })
}

fn refused(board: &Board, name: &str, error: &serialport::Error) -> Error {
    let known: Vec<String> = serialport::available_ports()
        .unwrap_or_default()
        .into_iter()
        .map(|port| port.port_name)
        .collect();
    let there = std::path::Path::new(name).exists();
    let remedy = match error.kind() {
        // What the library calls a port that another program has locked.
        serialport::ErrorKind::NoDevice if there => {
            "another program uses it: close serial monitors; ModemManager lets go after a while"
                .into()
        }
        serialport::ErrorKind::Unknown | serialport::ErrorKind::InvalidInput if there => {
            "it is no serial port: give the one that the board or its adapter has".into()
        }
        serialport::ErrorKind::Io(ErrorKind::PermissionDenied) => format!(
            "you may not use it: run `sudo usermod -a -G dialout $USER`, log in again, and check \
             with `ls -l {name}`"
        ),
        serialport::ErrorKind::NoDevice | serialport::ErrorKind::Io(ErrorKind::NotFound)
            if known.is_empty() =>
        {
            "no serial port is there: plug the board in, by a cable that carries data".into()
        }
        serialport::ErrorKind::NoDevice | serialport::ErrorKind::Io(ErrorKind::NotFound) => {
            format!("the ports here are: {}", known.join(", "))
        }
        _ => "close other programs that use it, or unplug the board and plug it in again".into(),
    };
    Error::Port { board: board.id.clone(), port: name.into(), what: error.to_string(), remedy }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remedy(name: &str, kind: serialport::ErrorKind) -> String {
        let board = Board::by_id("pico2").expect("known");
        refused(&board, name, &serialport::Error::new(kind, "the system's words")).remedy()
    }

    #[test]
    fn each_refusal_says_what_to_do() {
        use serialport::ErrorKind as Kind;
        let (no_port, there) = ("/dev/no-such-port", env!("CARGO_MANIFEST_DIR"));
        assert!(remedy(there, Kind::Io(ErrorKind::PermissionDenied)).contains("dialout"));
        assert!(remedy(there, Kind::NoDevice).contains("another program"));
        assert!(remedy(there, Kind::Unknown).contains("no serial port"));
        for kind in [Kind::NoDevice, Kind::Io(ErrorKind::NotFound)] {
            let words = remedy(no_port, kind);
            assert!(words.contains("plug the board in") || words.contains("ports here"), "{words}");
        }
    }
}
