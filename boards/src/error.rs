//! Errors of boards: each names its cause and its remedy.

/// Why a board was refused or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No board has this id.
    #[error("there is no board called {id:?}")]
    UnknownBoard {
        /// The name given.
        id: String,
        /// The known names.
        known: String,
    },
    /// An entry of the catalogue does not parse.
    #[error("catalogue entry {id}: {what}")]
    Catalogue {
        /// The board.
        id: String,
        /// The parser's words.
        what: String,
    },
    /// A file or a child process could not be used.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried.
        action: String,
        /// The system's word.
        source: std::io::Error,
    },
    /// Something that must be on this machine is not.
    #[error("{what}")]
    Missing {
        /// What is missing.
        what: String,
        /// How to get it.
        remedy: String,
    },
    /// The firmware did not build.
    #[error("the firmware for {board} does not build: {what}")]
    Build {
        /// The board.
        board: String,
        /// Cargo's words.
        what: String,
    },
    /// A file is not firmware for the board.
    #[error("{path} is not firmware for a board: {what}")]
    Elf {
        /// The file.
        path: String,
        /// What is wrong.
        what: String,
    },
    /// The serial port could not be used.
    #[error("cannot talk to {board} on {port}: {what}")]
    Port {
        /// The board.
        board: String,
        /// The port.
        port: String,
        /// The system's word.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// The board holds another model.
    #[error("{board} holds another model than {model}")]
    WrongModel {
        /// The board.
        board: String,
        /// The file.
        model: String,
    },
    /// The firmware is for another board.
    #[error("the firmware is for {found}, not for {board}")]
    WrongFirmware {
        /// The board.
        board: String,
        /// The board that it is for.
        found: String,
    },
    /// The model is longer than the board's model region.
    #[error(
        "the model does not fit {board}: {needed} bytes needed, {available} bytes in its model region"
    )]
    ModelTooLong {
        /// The board.
        board: String,
        /// Length of the model.
        needed: u64,
        /// Bytes of the region.
        available: u64,
    },
    /// The arena is too small for the length asked for.
    #[error(
        "{board} is too small for {tokens} tokens: {needed} arena bytes needed, {available} available"
    )]
    Arena {
        /// The board.
        board: String,
        /// Tokens asked for.
        tokens: u32,
        /// Arena bytes needed.
        needed: u32,
        /// Arena bytes there.
        available: u32,
        /// Most tokens that fit, 0 when none do.
        longest: u32,
    },
    /// A text is longer than the board's buffer.
    #[error("the text is too long for {board}: {needed} bytes, it takes {limit}")]
    TextTooLong {
        /// The board.
        board: String,
        /// Bytes of the text.
        needed: u64,
        /// Bytes of the buffer.
        limit: u32,
    },
    /// The board's firmware has no such backend.
    #[error("{board} has no backend called {name:?}")]
    UnknownBackend {
        /// The board.
        board: String,
        /// The name given.
        name: String,
        /// The names there are.
        known: String,
    },
    /// The board's firmware knows no such accelerator.
    #[error("{board} has no accelerator called {name:?}, and its model no such fault")]
    UnknownAccelerator {
        /// The board.
        board: String,
        /// The name given.
        name: String,
        /// The names there are.
        known: String,
    },
    /// The board's runtime refused the model or the text.
    #[error("{board}: {what}")]
    Refused {
        /// The board.
        board: String,
        /// The refusal in words.
        what: String,
        /// Number of the runtime's error, 0 for refusals of the firmware.
        code: u16,
    },
    /// The model in a board's flash cannot be used.
    #[error("{board} holds no model that it can use: {what}")]
    ModelOnBoard {
        /// The board.
        board: String,
        /// The refusal in words.
        what: String,
        /// Number of the runtime's error.
        code: u16,
        /// The file that it should hold.
        model: String,
    },
    /// Nothing that makes sense came from the port.
    #[error("no firmware of Grouse answers on the line to {board}: {what}")]
    Silent {
        /// The board.
        board: String,
        /// What came instead.
        what: String,
    },
    /// The firmware failed.
    #[error("the firmware on {board} failed: {what}")]
    Fault {
        /// The board.
        board: String,
        /// The report in words.
        what: String,
    },
    /// The board did not answer in time.
    #[error("{board} did not answer within {seconds} s{said}")]
    Timeout {
        /// The board.
        board: String,
        /// Time waited.
        seconds: u64,
        /// What the emulator said meanwhile.
        said: String,
    },
    /// The emulator ended.
    #[error("the emulator of {board} ended{said}")]
    Ended {
        /// The board.
        board: String,
        /// What it said.
        said: String,
    },
    /// The tool that writes to boards failed.
    #[error("{tool} could not flash {board}: {what}")]
    Flash {
        /// The board.
        board: String,
        /// The tool.
        tool: &'static str,
        /// Its words.
        what: String,
    },
    /// A frame did not come through.
    #[error("a frame to or from {board} was garbled: {what}")]
    Garbled {
        /// The board.
        board: String,
        /// The fault.
        what: String,
    },
    /// The firmware speaks another version of the protocol.
    #[error(
        "the firmware on {board} speaks version {found} of the protocol, this program {supported}"
    )]
    Version {
        /// The board.
        board: String,
        /// The firmware's.
        found: u8,
        /// This program's.
        supported: u8,
    },
    /// The line to the board broke.
    #[error("the line to {board} broke: {what}")]
    Lost {
        /// The board.
        board: String,
        /// The system's word.
        what: String,
    },
    /// The board said something that does not belong here.
    #[error("{board} gave an answer that makes no sense: {what}")]
    Protocol {
        /// The board.
        board: String,
        /// What is wrong.
        what: String,
    },
}

impl Error {
    /// The runtime's number for more tokens than the model knows.
    const TOO_MANY_TOKENS: u16 = 9;
    /// Those for bytes that are no model, or none for this firmware; the first of them says that
    /// there are only other bytes, the second is a version's.
    const BAD_MODEL: std::ops::RangeInclusive<u16> = 1..=7;
    const NO_MODEL: u16 = 1;
    const MODEL_VERSION: u16 = 2;

    /// What to do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::UnknownBoard { known, .. } => format!("the known boards are: {known}"),
            Self::Catalogue { .. } => "correct the file in boards/catalogue".into(),
            Self::Io { .. } => "see the system's message".into(),
            Self::Missing { remedy, .. } => remedy.clone(),
            Self::Build { .. } => "see cargo's messages above".into(),
            Self::Elf { .. } => "build it in the firmware folder, or leave out --firmware".into(),
            Self::Port { remedy, .. } => remedy.clone(),
            Self::WrongModel { board, model } => {
                format!("run `grouse flash {model} --board {board}`, or name the file it holds")
            }
            Self::WrongFirmware { board, found } => {
                format!("say `--board {found}`, or flash the firmware of {board} (`grouse flash`)")
            }
            Self::ModelTooLong { .. } => {
                "prune to a lower density, pack with smaller weights or embeddings, or choose a \
                 larger board (`grouse boards`)"
                    .into()
            }
            Self::Arena { longest: 0, .. } => {
                "no length fits; choose a smaller model or a larger board (`grouse boards`)".into()
            }
            Self::Arena { longest, .. } => {
                format!("at most {longest} tokens fit: add `--tokens {longest}`")
            }
            Self::TextTooLong { .. } => "split the text".into(),
            Self::UnknownBackend { known, .. } | Self::UnknownAccelerator { known, .. } => {
                format!("it has: {known}")
            }
            Self::Refused { code: Self::TOO_MANY_TOKENS, .. } => {
                "ask for fewer tokens (--tokens), or leave that to the model".into()
            }
            Self::Refused { code, .. } if Self::BAD_MODEL.contains(code) => {
                "the file is damaged or of another version: pack the model again (`grouse pack`)"
                    .into()
            }
            Self::Refused { .. } => "the message says what to do".into(),
            Self::ModelOnBoard { board, model, code, .. } => {
                let why = match *code {
                    Self::NO_MODEL => "its flash was erased, or never written",
                    Self::MODEL_VERSION => {
                        "model and firmware are of different versions; pack the model by this program"
                    }
                    _ => "writing it was cut short, or it is of another version",
                };
                format!("{why}: write both with `grouse flash {model} --board {board}`")
            }
            Self::Silent { board, .. } => format!(
                "check that this is the board's port, that its lines are not swapped, that it has \
                 power, and that the firmware is on it (`grouse flash FILE --board {board}`)"
            ),
            Self::Fault { .. } => {
                "this is a defect of the firmware; run again with --log and report it".into()
            }
            Self::Timeout { .. } => {
                "give it more time (--timeout), or run again with --log to see how far it got"
                    .into()
            }
            Self::Flash { tool: "picotool", .. } => {
                "hold BOOTSEL while plugging the board in, so that its boot ROM answers".into()
            }
            Self::Flash { tool: "teensy_loader_cli", .. } => {
                "plug the board in by a cable that carries data, and press its button".into()
            }
            Self::Flash { tool: "STM32_Programmer_CLI", .. } => {
                "check the probe and its cable (`STM32_Programmer_CLI -l`), and that the loader of \
                 the external flash lies in its folder ExternalLoader"
                    .into()
            }
            Self::Flash { .. } => "check the probe and its cable (`probe-rs list`)".into(),
            Self::Garbled { .. } => {
                "check the cable and its length, and that nothing else uses the port".into()
            }
            Self::Version { board, .. } => format!(
                "flash the firmware of this version (`grouse flash FILE --board {board} \
                 --firmware-only`)"
            ),
            Self::Lost { .. } => "check the cable, plug the board in again and repeat".into(),
            Self::Ended { .. } => "see what it said; run again with --log".into(),
            Self::Protocol { .. } => {
                "host and firmware are of different versions; build both from one source".into()
            }
        }
    }

    /// The same for a board whose flash should hold `model`.
    #[cfg(feature = "runner")]
    pub(crate) fn on_board(self, model: &std::path::Path) -> Self {
        match self {
            Self::Refused { board, what, code } if Self::BAD_MODEL.contains(&code) => {
                Self::ModelOnBoard { board, what, code, model: model.display().to_string() }
            }
            error => error,
        }
    }

    /// For `map_err` on a file or process operation.
    #[cfg(feature = "runner")]
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }
}

/// Result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;
