//! Boards behind a serial line: a pseudo terminal with an emulated board at its other end, undisturbed
//! and with frames that are garbled.
//!
//! Needs `qemu-system-arm`. `GROUSE_SOAK=1000` sets the number of requests.

#![cfg(unix)]

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use grouse_boards::runner::Line;
use grouse_boards::{Board, Error, Options, Session, Variant};
use grouse_runtime::format::DataType;
use grouse_tests::boards::{Packed, bits, firmware, host, quiet};
use grouse_tests::random_bert::Shape;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// An emulated board whose line is a pseudo terminal; it ends with its handle.
struct Desk {
    child: Child,
    /// The terminal's name, as `/dev/ttyACM0` would be.
    port: String,
    board: Board,
    model: Packed,
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Desk {
    /// A board with a small model; `None` without an emulator.
    fn new() -> Option<Self> {
        Self::with(|model| model.model())
    }

    /// A board whose flash holds the file that is made of its model.
    fn with(flash: impl FnOnce(&Packed) -> PathBuf) -> Option<Self> {
        let board = Board::by_id("mps2-an505").unwrap();
        let firmware = firmware(&board, Variant::Shipped)?;
        let model = Packed::new(DataType::I8, &Shape::default());
        let file = flash(&model);
        let qemu = board.qemu.as_ref().unwrap();
        let origin = board.regions.as_ref().unwrap().model.origin;
        let mut child = Command::new(&qemu.program)
            .args(["-machine", qemu.machine.as_ref().unwrap(), "-display", "none"])
            .args(["-monitor", "none", "-kernel"])
            .arg(firmware.path())
            .arg("-device")
            .arg(format!("loader,file={},addr={origin:#x},force-raw=on", file.display()))
            .args(["-chardev", "pty,id=wire", "-serial", "chardev:wire", "-serial", "null"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // "char device redirected to /dev/pts/3 (label wire)", on one of the two.
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let said = lines.next().unwrap().unwrap();
        let port = said.split_whitespace().find(|word| word.starts_with("/dev/")).expect(&said);
        let port = port.to_owned();
        Some(Self { child, port, board, model })
    }

    /// Its line as a file; [`Session::connect`] has set the terminal up before.
    fn line(&self) -> Line {
        let open = || OpenOptions::new().read(true).write(true).open(&self.port).unwrap();
        Line { output: Box::new(open()), input: Box::new(open()) }
    }
}

fn options() -> Options {
    Options { timeout: Duration::from_secs(20), ..Options::default() }
}

#[test]
fn a_board_on_a_port_answers_as_an_emulated_one() {
    let Some(desk) = Desk::new() else { return };
    let path = desk.model.model();
    let mut session = Session::connect(&desk.board, &desk.port, &path, &options(), &quiet).unwrap();
    let texts = ["a small bird".to_string(), String::new(), "x ".repeat(3000)];
    for (text, expected) in texts.iter().zip(host(&path, &texts)) {
        let answer = session.embed(text).unwrap();
        assert_eq!((&answer.ids, answer.truncated), (&expected.ids, expected.truncated));
        assert_eq!(bits(&answer.embedding), bits(&expected.embedding));
    }
    assert!(session.bench("a small bird").unwrap().stages.unwrap().attention > 0);
    drop(session);

    // Another model than the board holds.
    let shape = Shape { layers: 1, ..Shape::default() };
    let small = Packed::new(DataType::I8, &shape);
    let connect = |board: &Board, port: &str, path: &std::path::Path| {
        Session::connect(board, port, path, &options(), &quiet).err().unwrap()
    };
    let error = connect(&desk.board, &desk.port, &small.model());
    assert!(matches!(error, Error::WrongModel { .. }), "{error}");
    assert!(error.remedy().contains("grouse flash"), "{}", error.remedy());
    // Another board than is there.
    let error = connect(&Board::by_id("pico2").unwrap(), &desk.port, &path);
    assert!(
        matches!(&error, Error::WrongFirmware { found, .. } if found == "mps2-an505"),
        "{error}"
    );
    // No such port, and one that is none.
    let error = connect(&desk.board, "/dev/no-such-port", &path);
    assert!(matches!(error, Error::Port { .. }), "{error}");
    assert!(!error.remedy().contains("close other programs"), "{}", error.remedy());
    let error = connect(&desk.board, "/dev/null", &path);
    assert!(matches!(error, Error::Port { .. }), "{error}");
}

/// Power was lost while the model was written, the flash was erased, or the model is another version's:
/// the board answers all the same, and each message says what to do.
#[test]
fn a_board_without_a_usable_model_says_so() {
    type Change = fn(&mut Vec<u8>);
    let cases: [(Change, &str); 3] = [
        (|bytes| bytes.truncate(bytes.len() / 2), "cut short"),
        (|bytes| bytes.fill(0xFF), "erased"),
        (|bytes| bytes[8] = 99, "different versions"),
    ];
    for (change, why) in cases {
        let flash = |model: &Packed| {
            let mut bytes = model.bytes.clone();
            change(&mut bytes);
            model.file("flash", &bytes)
        };
        let Some(desk) = Desk::with(flash) else { return };
        let path = desk.model.model();
        let error = Session::connect(&desk.board, &desk.port, &path, &options(), &quiet);
        let error = error.err().unwrap();
        assert!(matches!(error, Error::ModelOnBoard { .. }), "{error}");
        let remedy = error.remedy();
        assert!(remedy.contains(why) && remedy.contains("grouse flash"), "{error}: {remedy}");
    }
}

/// A line whose other end is `peer`, which gets what the host sends.
fn answered(peer: impl FnOnce(UnixStream) + Send + 'static) -> Line {
    let (host, board) = UnixStream::pair().unwrap();
    std::thread::spawn(move || peer(board));
    Line { output: Box::new(host.try_clone().unwrap()), input: Box::new(host) }
}

#[test]
fn what_is_no_firmware_of_this_version_is_named() {
    let board = Board::by_id("pico2").unwrap();
    let model = Packed::new(DataType::I8, &Shape::default());
    let path = model.model();
    let options = Options { timeout: Duration::from_secs(2), ..Options::default() };
    let attach = |line| {
        let error = Session::attach(&board, line, &path, &options, &quiet).err().unwrap();
        (error.to_string(), error.remedy())
    };
    // The wrong port, or no power: nothing.
    let (error, remedy) = attach(answered(|mut board| {
        let _ = std::io::copy(&mut board, &mut std::io::sink());
    }));
    assert!(
        error.contains("no firmware of Grouse answers") && error.contains("nothing"),
        "{error}"
    );
    assert!(remedy.contains("grouse flash FILE --board pico2"), "{remedy}");
    // Another device, which talks all the time.
    let (error, remedy) = attach(answered(|mut board| {
        while board.write_all(b"$GPGGA,,,,,,0,00,99.99,,,,,,*48\r\n\0").is_ok() {
            std::thread::sleep(Duration::from_millis(50));
        }
    }));
    assert!(error.contains("no frame") && remedy.contains("the board's port"), "{error}: {remedy}");
    // A firmware of another protocol: a right frame of version 9, by COBS as its paper has it.
    let (error, remedy) = attach(answered(|mut board| {
        let mut frame = vec![9, 1, 1, 1, 5];
        frame.extend(crc32fast::hash(&frame).to_le_bytes());
        assert!(!frame.contains(&0));
        let coded = [&[frame.len() as u8 + 1], frame.as_slice(), &[0]].concat();
        let mut request = [0; 16];
        while board.read(&mut request).is_ok_and(|bytes| bytes > 0) {
            let _ = board.write_all(&coded);
        }
    }));
    assert!(error.contains("version 9 of the protocol"), "{error}");
    assert!(remedy.contains("--firmware-only"), "{remedy}");
}

/// Garbles one frame in twenty: changes, loses, adds or zeroes a byte.
#[derive(Clone)]
struct Noise(Arc<Mutex<(StdRng, u32)>>);

impl Noise {
    fn garble(&self, frame: &mut Vec<u8>) {
        let mut state = self.0.lock().unwrap();
        let (random, count) = &mut *state;
        if frame.len() < 2 || !random.random_bool(0.05) {
            return;
        }
        *count += 1;
        let at = random.random_range(0..frame.len());
        match random.random_range(0..4) {
            0 => frame[at] ^= random.random_range(1..=255_u8),
            1 => drop(frame.remove(at)),
            2 => frame.insert(at, random.random()),
            _ => frame[at] = 0,
        }
    }
}

struct NoisyOutput(Box<dyn Write + Send>, Noise, Vec<u8>);

impl Write for NoisyOutput {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.2.extend(bytes);
        Ok(bytes.len())
    }

    /// The host flushes after each frame.
    fn flush(&mut self) -> std::io::Result<()> {
        let mut frame = std::mem::take(&mut self.2);
        self.1.garble(&mut frame);
        self.0.write_all(&frame)?;
        self.0.flush()
    }
}

struct NoisyInput(Box<dyn Read + Send>, Noise, Vec<u8>);

impl Read for NoisyInput {
    /// A frame at a time.
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.2.is_empty() {
            let mut byte = [0];
            while self.2.last() != Some(&0) {
                if self.0.read(&mut byte)? == 0 {
                    return Ok(0);
                }
                self.2.extend(byte);
            }
            self.1.garble(&mut self.2);
        }
        let length = buffer.len().min(self.2.len());
        buffer[..length].copy_from_slice(&self.2[..length]);
        self.2.drain(..length);
        // Nothing left of it is no end of the line.
        if length == 0 { self.read(buffer) } else { Ok(length) }
    }
}

#[test]
fn no_request_is_lost_on_a_disturbed_line() {
    let Some(desk) = Desk::new() else { return };
    let path = desk.model.model();
    let requests = std::env::var("GROUSE_SOAK").map_or(100, |number| number.parse().unwrap());
    let texts: Vec<String> =
        (0..10).map(|n| format!("text {n} {}", "and more ".repeat(n))).collect();
    let expected = host(&path, &texts);
    // Sets the terminal up: no echo, no change of bytes.
    drop(Session::connect(&desk.board, &desk.port, &path, &options(), &quiet).unwrap());
    let noise = Noise(Arc::new(Mutex::new((StdRng::seed_from_u64(5), 0))));
    let Line { output, input } = desk.line();
    let line = Line {
        output: Box::new(NoisyOutput(output, noise.clone(), Vec::new())),
        input: Box::new(NoisyInput(input, noise.clone(), Vec::new())),
    };
    // A lost frame is noticed by its time.
    let options = Options { timeout: Duration::from_secs(2), ..Options::default() };
    let mut session = Session::attach(&desk.board, line, &path, &options, &quiet).unwrap();
    for number in 0..requests {
        let number = number % texts.len();
        let answer = session.embed(&texts[number]).unwrap();
        assert_eq!(answer.ids, expected[number].ids);
        assert_eq!(bits(&answer.embedding), bits(&expected[number].embedding));
    }
    let garbled = noise.0.lock().unwrap().1;
    println!("{requests} requests answered, {garbled} frames garbled");
    assert!(garbled as usize > requests / 20, "{garbled} frames");
}
