//! What tests of boards share: small packed models, firmware that is built once, the host's answers.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use grouse::engine::{self, Answer};
use grouse::{calibrate, import, pack};
use grouse_boards::runner::Progress;
use grouse_boards::{Board, Firmware, Options, Session, Variant};
use grouse_runtime::format::DataType;

use crate::random_bert::{self, Shape};

/// A small packed model with random weights.
#[derive(Debug)]
pub struct Packed {
    folder: tempfile::TempDir,
    /// The packed file.
    pub bytes: Vec<u8>,
}

impl Packed {
    /// A model of this shape with these weights; embeddings alike, but f16 beside f32.
    ///
    /// # Panics
    /// When the packer refuses.
    pub fn new(weights: DataType, shape: &Shape) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("source");
        random_bert::write(&dir, shape, 7);
        let model = import::load_dir(&dir).unwrap();
        let sentences = calibrate::sentences(&model, None, 20).unwrap();
        let stats = calibrate::collect(&model, &sentences).unwrap();
        let options = pack::Options {
            weights,
            exceptions: Vec::new(),
            embeddings: if weights == DataType::F32 { DataType::F16 } else { weights },
            max_tokens: None,
            calibration: String::new(),
            vocabulary: None,
            measure: false,
        };
        let bytes = pack::pack(&model, Some(&stats), &options).unwrap().bytes;
        Self { folder, bytes }
    }

    /// A file of these bytes.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// A file of the model.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn model(&self) -> PathBuf {
        self.file("model.grouse", &self.bytes)
    }
}

/// What the host makes of texts, by its default backend.
///
/// # Panics
/// When it refuses one.
pub fn host(model: &Path, texts: &[String]) -> Vec<Answer> {
    let file = engine::PackedFile::open(model).unwrap();
    let backend = engine::backend(None).unwrap();
    let host = engine::Engine::new(file.model().unwrap(), backend, Some(1)).unwrap();
    host.embed(texts, || ()).unwrap()
}

/// The bits of numbers.
pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Texts that are empty, plain, long, strange and longer than a model takes.
pub fn texts() -> [String; 5] {
    [
        String::new(),
        "a small bird".into(),
        "The quick, brown fox; jumps over 13 lazy dogs!".into(),
        "Ünïcödé — 你好 \u{1F426} \u{0} tab\tnewline\n".into(),
        "one text that is far longer than the model takes, again and ".repeat(60),
    ]
}

/// Hears of progress and says nothing.
pub fn quiet(_: Progress<'_>) {}

/// The board's firmware, built once in this process; `None`, saying so, when its emulator is not
/// installed. With `GROUSE_REQUIRE_QEMU=1` that is a failure.
///
/// # Panics
/// When the firmware does not build.
pub fn firmware(board: &Board, variant: Variant) -> Option<&'static Firmware> {
    static BUILT: LazyLock<Mutex<HashMap<(String, Variant), &'static Firmware>>> =
        LazyLock::new(Mutex::default);
    let emulator = board.qemu.as_ref().map(|qemu| &qemu.program);
    for program in emulator.into_iter().chain(board.linker.as_ref().map(|l| &l.program)) {
        if Command::new(program).arg("--version").output().is_err() {
            assert!(std::env::var_os("GROUSE_REQUIRE_QEMU").is_none(), "no {program}");
            eprintln!("skipped: {program} is not installed");
            return None;
        }
    }
    let mut built = BUILT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let build = || &*Box::leak(Box::new(Firmware::build_with(board, variant, &quiet).unwrap()));
    Some(*built.entry((board.id.clone(), variant)).or_insert_with(build))
}

/// The boards that an emulator here can boot and that are wanted, with their firmware.
///
/// # Panics
/// As [`firmware`].
pub fn emulated(wanted: impl Fn(&Board) -> bool) -> Vec<(Board, &'static Firmware)> {
    let boards = Board::all().unwrap().into_iter();
    let boards = boards.filter(|board| board.qemu.is_some() && wanted(board));
    boards.filter_map(|board| firmware(&board, Variant::Shipped).map(|f| (board, f))).collect()
}

/// Boots a board and prepares the model by its defaults.
///
/// # Panics
/// When that fails.
pub fn boot(board: &Board, firmware: &Firmware, model: &Path) -> Session<'static> {
    Session::boot(board, firmware, model, &Options::default(), &quiet).unwrap()
}

/// Boots a board and leaves the model alone.
///
/// # Panics
/// When that fails.
pub fn start(board: &Board, firmware: &Firmware, model: &Path) -> Session<'static> {
    let options = Options { timeout: Duration::from_secs(60), ..Options::default() };
    Session::start(board, firmware, model, &options, &quiet).unwrap()
}
