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
    let remedy = match error.kind() {
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
