//! The real boards of the catalogue, which nobody here has: their images are taken apart without our
//! writer, and hold what boot ROMs look for.

use std::collections::BTreeMap;

use grouse_boards::Error;
use grouse_boards::catalogue::Regions;
use grouse_boards::runner::fit::Fit;
use grouse_boards::runner::flash::{self, Tool, What, Written};
use grouse_boards::runner::picture;
use grouse_boards::{Board, Firmware, Variant};
use grouse_runtime::format::DataType;
use grouse_runtime::view::Model;
use grouse_tests::boards::{Packed, firmware};
use grouse_tests::packed::Aligned;
use grouse_tests::random_bert::Shape;
use object::{Object, ObjectSymbol};

/// Bytes by their addresses.
type Memory = BTreeMap<u32, u8>;

/// A real board with its firmware and a small model.
struct Desk {
    board: Board,
    firmware: &'static Firmware,
    model: Packed,
    folder: tempfile::TempDir,
}

impl Desk {
    fn new(id: &str) -> Self {
        let board = Board::by_id(id).unwrap();
        let firmware = firmware(&board, Variant::Shipped).expect("no emulator is needed");
        let model = Packed::new(DataType::I4, &Shape::default());
        Self { board, firmware, model, folder: tempfile::tempdir().unwrap() }
    }

    fn regions(&self) -> &Regions {
        self.board.bare().unwrap()
    }

    fn write(&self, what: What) -> Result<Vec<Written>, Error> {
        let format = self.board.flash.as_ref().unwrap().format;
        let model = self.model.model();
        flash::write(&self.board, self.firmware, &model, what, format, self.folder.path())
    }

    /// The one file that holds firmware and model.
    fn image(&self) -> Vec<u8> {
        let files = self.write(What::Both).unwrap();
        let [file] = files.as_slice() else { panic!("{files:?}") };
        std::fs::read(&file.path).unwrap()
    }

    /// Firmware and model are where the layout has them, with nothing beside them; the vectors, so
    /// many bytes behind the image's start, lead into it.
    fn check(&self, memory: &Memory, header: u32) {
        let Regions { code, ram, model, arena } = *self.regions();
        let bytes = &self.model.bytes;
        assert!(bytes_at(memory, model.origin, bytes.len()) == *bytes, "another model");
        let flash = self.firmware.flash_bytes();
        assert!(flash <= code.length.into());
        let ends = [(code.origin, flash), (model.origin, bytes.len() as u64)];
        let planned = ends.iter().flat_map(|(start, n)| *start..*start + *n as u32);
        assert!(memory.keys().copied().eq(planned), "other addresses");
        let [stack, entry] = [0, 4].map(|at| word(memory, code.origin + header + at));
        assert_eq!(u64::from(stack), u64::from(ram.origin) + self.board.stack_bytes);
        let program = code.origin + header..code.origin + flash as u32;
        assert!(entry % 2 == 1 && program.contains(&entry), "{entry:#x}");
        assert!(arena.length % 16 == 0);
        self.check_figures();
    }

    /// The figures of `fit` are those of the linker, by its symbols and not by its segments.
    fn check_figures(&self) {
        let elf = object::File::parse(self.firmware.elf()).unwrap();
        let symbol = |name| elf.symbol_by_name(name).unwrap().address();
        let values = symbol("__edata") - symbol("__sdata");
        let end = symbol("__sidata") + values;
        let aligned = Aligned::new(&self.model.bytes);
        let model = Model::open(aligned.bytes()).unwrap();
        let fit = Fit::new(&self.board, self.firmware, &model, 64).unwrap();
        assert!(fit.fits, "{fit:?}");
        assert_eq!(fit.flash_bytes, end - symbol("_grouse_image_start"), "{}", self.board.id);
        assert_eq!(fit.static_bytes, symbol("__euninit") - symbol("_stack_start"));
        assert_eq!(fit.ram_bytes, fit.static_bytes + self.board.stack_bytes + fit.arena_bytes);
        assert_eq!(fit.model_bytes, self.model.bytes.len() as u64);
        assert!(fit.estimate.is_some_and(|estimate| estimate.milliseconds > 0.0));
        let svg = picture::svg(&self.board, &fit);
        let origin = format!("{:#010x}", self.regions().model.origin);
        assert!(svg.starts_with("<svg") && svg.contains(&origin) && svg.contains("fits"), "{svg}");
    }
}

fn bytes_at(memory: &Memory, start: u32, bytes: usize) -> Vec<u8> {
    memory.range(start..).map(|(_, byte)| *byte).take(bytes).collect()
}

fn word(memory: &Memory, at: u32) -> u32 {
    u32::from_le_bytes(bytes_at(memory, at, 4).try_into().expect("four bytes"))
}

/// By the UF2 page (github.com/microsoft/uf2).
fn uf2(file: &[u8]) -> BTreeMap<u32, Vec<u8>> {
    let mut pages = BTreeMap::new();
    for block in file.chunks(512) {
        let word = |at: usize| u32::from_le_bytes(block[at..at + 4].try_into().unwrap());
        assert_eq!([word(0), word(4), word(508)], [0x0A32_4655, 0x9E5D_5157, 0x0AB1_6F30]);
        assert_eq!([word(8), word(16), word(28)], [0x2000, 256, 0xE48B_FF59]);
        assert_eq!(word(24) as usize, file.len() / 512);
        assert!(pages.insert(word(12), block[32..288].to_vec()).is_none(), "twice");
    }
    pages
}

/// By Intel's specification of 1988.
fn hex(file: &[u8]) -> Memory {
    let (mut memory, mut upper) = (Memory::new(), 0);
    for line in str::from_utf8(file).unwrap().lines() {
        let digits = line.strip_prefix(':').unwrap().as_bytes();
        let pairs = digits.chunks(2).map(|pair| str::from_utf8(pair).unwrap());
        let bytes: Vec<u8> = pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect();
        assert_eq!(bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)), 0);
        let [length, high, low, kind, data @ .., _] = bytes.as_slice() else { panic!("{line}") };
        assert_eq!(usize::from(*length), data.len());
        match (kind, data) {
            (0, _) => {
                let start = upper << 16 | u32::from(*high) << 8 | u32::from(*low);
                for (address, byte) in (start..).zip(data) {
                    assert!(memory.insert(address, *byte).is_none(), "{address:#x} twice");
                }
            }
            (4, [high, low]) => upper = u32::from(*high) << 8 | u32::from(*low),
            (1, []) => {}
            _ => panic!("{line}"),
        }
    }
    memory
}

/// By the UF2 format and rp235x-hal's image definition.
#[test]
fn the_pico_2_image_is_one_that_its_boot_rom_takes() {
    let desk = Desk::new("pico2");
    let pages = uf2(&desk.image());
    let Regions { code, arena, model, .. } = *desk.regions();
    // The blocks cover exactly firmware and model; what fills the last one is as erased.
    let span = |start: u32, bytes: u64| start..start + bytes as u32;
    let bytes = desk.model.bytes.len() as u64;
    let spans = [span(code.origin, desk.firmware.flash_bytes()), span(model.origin, bytes)];
    assert!(pages.keys().copied().eq(spans.clone().into_iter().flat_map(|s| s.step_by(256))));
    let all = pages.iter().flat_map(|(start, page)| (*start..).zip(page.iter().copied()));
    let within = |at: &u32| spans.iter().any(|span| span.contains(at));
    let (memory, rest): (Memory, Memory) = all.partition(|(at, _)| within(at));
    assert!(rest.values().all(|byte| *byte == 0xFF));
    desk.check(&memory, 0);
    assert!(model.end() <= 0x1000_0000 + 4 * 1024 * 1024);
    assert!(arena.end() <= 0x2000_0000 + 520 * 1024);
    // A block in the first 4 KiB: markers, an IMAGE_TYPE item (executable, secure, Arm, RP2350),
    // the last item, and a link to itself.
    let word = |at: u32| word(&memory, code.origin + at);
    let at = (0..4096 - 20).step_by(4).find(|at| word(*at) == 0xFFFF_DED3).expect("no block");
    assert_eq!(word(at + 4) & 0xFFFF, 0x0142, "{:#x}", word(at + 4));
    assert_eq!(word(at + 4) >> 16, 0x1021, "{:#x}", word(at + 4));
    assert_eq!(word(at + 8), 0x0000_01FF);
    assert_eq!([word(at + 12), word(at + 16)], [0, 0xAB12_3579]);
    // Firmware and model apart, so that an unchanged model stays.
    let first = |what| desk.write(what).unwrap()[0].pieces[0];
    assert_eq!(first(What::Firmware).1, code.origin);
    assert_eq!(first(What::Model), ("model", model.origin, bytes));
}

/// By what imxrt-boot-gen writes, not by NXP's manual.
#[test]
fn the_teensy_image_is_one_that_its_boot_rom_takes() {
    let desk = Desk::new("teensy41");
    let memory = hex(&desk.image());
    desk.check(&memory, 0x2000);
    let Regions { code, arena, model, .. } = *desk.regions();
    assert_eq!(code.origin, 0x6000_0000);
    assert!(model.end() <= 0x6000_0000 + (8 * 1024 - 256) * 1024);
    assert!(arena.end() <= 0x2028_0000 + 256 * 1024);
    let word = |at: u32| word(&memory, 0x6000_0000 + at);
    // The flash's configuration: tag, version 1.0, serial NOR on four lines, 8 MiB, pages, sectors.
    assert_eq!([word(0x000), word(0x004)], [0x4246_4346, 0x5601_0000]);
    assert_eq!(word(0x044) & 0xFFFF, 0x0401);
    assert_eq!(word(0x050), 8 * 1024 * 1024);
    assert_eq!([word(0x1C0), word(0x1C4)], [256, 4096]);
    // Reading, the first sequence: command 0xEB by one line, 24 bits of address, 6 dummies and data
    // by four.
    assert_eq!([word(0x080), word(0x084)], [0x0A18_04EB, 0x2604_3206]);
    // The image vector table: tag, length, version; vectors; boot data; itself.
    assert_eq!(word(0x1000), 0x4020_00D1);
    assert_eq!([word(0x1004), word(0x1014)], [0x6000_2000, 0x6000_1000]);
    assert_eq!([word(0x1008), word(0x100C), word(0x1018), word(0x101C)], [0; 4]);
    assert_eq!(word(0x1010), 0x6000_1020);
    let length = desk.firmware.flash_bytes() as u32;
    assert_eq!([word(0x1020), word(0x1024), word(0x1028)], [0x6000_0000, length, 0]);
    // Its loader erases everything first.
    for what in [What::Firmware, What::Model] {
        let error = desk.write(what).unwrap_err();
        assert!(error.to_string().contains("erases") && error.remedy().contains("together"));
    }
}

#[test]
fn the_h743_image_fills_the_flash_inside_and_outside() {
    let desk = Desk::new("weact-h743");
    let memory = hex(&desk.image());
    desk.check(&memory, 0);
    let Regions { code, arena, model, .. } = *desk.regions();
    assert!((code.origin, code.end()) == (0x0800_0000, 0x0820_0000));
    assert!((model.origin, model.end()) == (0x9000_0000, 0x9080_0000));
    assert!(arena.origin == 0x2400_0000 && arena.end() <= 0x2408_0000);
    // A debug probe knows the flash inside only.
    let tools = |what| Tool::of(&desk.board, &desk.write(what).unwrap());
    assert_eq!(tools(What::Both), [Tool::CubeProgrammer]);
    assert_eq!(tools(What::Firmware), [Tool::CubeProgrammer, Tool::ProbeRs]);
}

/// By users' reports, not by ST's manual: the boot ROM copies what follows a header of 1 KiB to 0x3418_0400, up to 511 KiB.
#[test]
fn the_n6_image_is_two_files_of_which_one_is_to_be_signed() {
    let desk = Desk::new("stm32n6570-dk");
    let files = desk.write(What::Both).unwrap();
    let [program, model] = files.as_slice() else { panic!("{files:?}") };
    assert_eq!(program.pieces, [("firmware", 0x7000_0000, desk.firmware.flash_bytes())]);
    assert!(program.path.ends_with("firmware.bin") && model.path.ends_with("model.hex"));
    let Regions { code, arena, model: region, .. } = *desk.regions();
    assert!(u64::from(code.length) <= 511 * 1024 && code.origin == 0x3418_0400);
    assert!(arena.origin >= 0x3406_4000 && arena.end() <= 0x3420_0000);
    // Room for the firmware and its header before the model.
    assert!(0x7000_0000 + 0x400 + code.length <= region.origin);
    let program = std::fs::read(&program.path).unwrap();
    let mut memory: Memory = (code.origin..).zip(program).collect();
    memory.extend(hex(&std::fs::read(&model.path).unwrap()));
    desk.check(&memory, 0);
    // The signature stands between the firmware and any tool.
    assert_eq!(Tool::of(&desk.board, &files), []);
    assert_eq!(Tool::of(&desk.board, &desk.write(What::Model).unwrap()), [Tool::CubeProgrammer]);
    assert!(desk.board.flash.unwrap().by_hand.contains("STM32_SigningTool_CLI"));
}

/// What a board adds to the firmware is short; the rest is its HAL's, or a driver that others use.
#[test]
fn no_board_has_more_than_150_lines_of_its_own() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../firmware/src/board");
    let boards: [&[&str]; 4] =
        [&["rp235x", "pico"], &["teensy41"], &["weact_h743"], &["stm32n6570"]];
    for files in boards {
        let lines = |file: &&str| {
            std::fs::read_to_string(format!("{folder}/{file}.rs")).unwrap().lines().count()
        };
        let lines: usize = files.iter().map(lines).sum();
        assert!(lines > 50 && lines <= 150, "{files:?}: {lines} lines");
    }
}
