//! The firmware on an emulated board: the same bits as the host, exact counts, honest refusals.
//!
//! Needs `qemu-system-arm`; without it every test says that it is skipped. With
//! `GROUSE_REQUIRE_QEMU=1` a missing emulator is a failure.

use grouse::pack::sections;
use grouse_boards::runner::Progress;
use grouse_boards::{Board, Error, Firmware, FirstBoot, Options, Session, Tested, Variant};
use grouse_runtime::accelerator::Injected;
use grouse_runtime::format::{DataType, GroupDesc, LayerHeader};
use grouse_runtime::view::Model;
use grouse_runtime::wire::Crash;
use grouse_tests::boards::{Packed, bits, boot, host, quiet, start, texts};
use grouse_tests::packed::Aligned;
use grouse_tests::random_bert::Shape;

/// Most flash bytes of the firmware without a model.
const FLASH_LIMIT: u64 = 256 * 1024;
/// Numbers of the runtime's errors on the line.
const NOT_GROUSE: u16 = 1;
const TRUNCATED: u16 = 3;
const CHECKSUM: u16 = 4;
const INVALID_UTF8: u16 = 12;
const TOO_MANY_TOKENS: u16 = 9;

/// The board and its firmware, built once; `None` without an emulator.
fn setup() -> Option<(Board, &'static Firmware)> {
    setup_with(Variant::Shipped)
}

/// The same with the software model of an accelerator in the image.
fn setup_model() -> Option<(Board, &'static Firmware)> {
    setup_with(Variant::AcceleratorModel)
}

fn setup_with(variant: Variant) -> Option<(Board, &'static Firmware)> {
    let board = Board::by_id("mps3-an547").unwrap();
    let firmware = grouse_tests::boards::firmware(&board, variant)?;
    Some((board, firmware))
}

#[test]
fn embeddings_have_the_host_s_bits() {
    let Some((board, firmware)) = setup() else { return };
    // Widths that are no multiple of a vector, so that every tail of a kernel is met.
    let shape = Shape { hidden: 36, heads: 3, intermediate: 84, ..Shape::default() };
    for weights in [DataType::I8, DataType::I4, DataType::F16, DataType::F32] {
        let packed = Packed::new(weights, &shape);
        let path = packed.file("model.grouse", &packed.bytes);
        for backend in ["scalar", "wide", "helium"] {
            let options = Options { backend: Some(backend.into()), ..Options::default() };
            let mut session = Session::boot(&board, firmware, &path, &options, &quiet).unwrap();
            assert_eq!(session.info().backend, backend);
            let texts = texts();
            for (text, expected) in texts.iter().zip(host(&path, &texts)) {
                let answer = session.embed(text).unwrap();
                assert_eq!(answer.ids, expected.ids, "{weights:?} {backend} {text:?}");
                assert_eq!(answer.truncated, expected.truncated);
                assert_eq!(
                    bits(&answer.embedding),
                    bits(&expected.embedding),
                    "{weights:?} {backend} {text:?}"
                );
                assert_eq!(session.tokenize(text).unwrap().ids, expected.ids);
            }
        }
    }
}

#[test]
fn instructions_are_counted_exactly_and_repeatably() {
    let Some((board, firmware)) = setup() else { return };
    let packed = Packed::new(DataType::I8, &Shape::default());
    let path = packed.file("model.grouse", &packed.bytes);
    let counts = || {
        let mut session = boot(&board, firmware, &path);
        let overhead = session.count(1).unwrap() - 2;
        assert!(overhead < 32, "reading the counter takes {overhead} instructions");
        for loops in [2, 3, 10, 1_000, 1_234_567] {
            assert_eq!(session.count(loops).unwrap() - overhead, 2 * u64::from(loops));
        }
        let texts = texts();
        texts.map(|text| {
            let answer = session.embed(&text).unwrap();
            assert!(answer.tokenize_work < answer.work);
            answer.work
        })
    };
    let first = counts();
    assert_eq!(first, counts());
    assert!(first[0] < first[1] && first[1] < first[2], "{first:?}");
}

#[test]
fn memory_figures_are_within_bounds() {
    let Some((board, firmware)) = setup() else { return };
    let (flash, statics) = (firmware.flash_bytes(), firmware.static_bytes());
    println!("flash {flash} bytes, statics {statics} bytes");
    assert!(flash <= FLASH_LIMIT, "the firmware has grown to {flash} bytes");
    let regions = board.bare().unwrap();
    assert!(statics + board.stack_bytes <= regions.ram.length.into());
    let packed = Packed::new(DataType::I8, &Shape::default());
    let session = boot(&board, firmware, &packed.file("model.grouse", &packed.bytes));
    let info = session.info();
    assert_eq!(info.model_bytes, packed.bytes.len() as u64);
    assert_eq!(info.arena_available, u64::from(regions.arena.length));
    assert_eq!(info.flash_bytes, flash);
    assert_eq!(info.ram_bytes, statics + board.stack_bytes + info.arena_bytes);
}

/// Panics take flash, and no host would hear of the cause; see `firmware/src/fault.rs`.
#[test]
fn the_firmware_holds_no_panic() {
    use object::{Object, ObjectSymbol};
    let Some((_, firmware)) = setup() else { return };
    let file = object::File::parse(firmware.elf()).unwrap();
    let names: Vec<&str> = file.symbols().filter_map(|symbol| symbol.name().ok()).collect();
    // The image is not stripped, so that what is in it has a name.
    for known in ["encoder6linear", "HardFault", "Tokenizer"] {
        let mut found = names.iter().filter(|name| name.contains(known));
        assert!(found.next().is_some(), "no {known}: are the symbols there?");
    }
    let panics =
        ["panic", "slice_index", "unwrap_failed", "expect_failed", "len_mismatch", "core3fmt"];
    // Names of log strings are no code.
    let code = names.iter().filter(|name| !name.starts_with('{'));
    let found: Vec<&&str> = code.filter(|name| panics.iter().any(|p| name.contains(p))).collect();
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn the_stack_stays_within_its_bound() {
    let Some((board, firmware)) = setup_model() else { return };
    let text = "one text that is far longer than the model takes, again and ".repeat(60);
    let mut deepest = 0;
    for weights in [DataType::I8, DataType::F16, DataType::F32] {
        // Heads as large as any model's, and groups deeper than a tile.
        let shape = Shape { hidden: 128, heads: 1, intermediate: 256, ..Shape::default() };
        let packed = Packed::new(weights, &shape);
        let path = packed.file("model.grouse", &packed.bytes);
        for backend in ["scalar", "wide", "helium"] {
            for accelerator in [None, Some("model".to_string()), Some("flipped-sum".to_string())] {
                let name = format!("{weights:?}, {backend}, {accelerator:?}");
                let options =
                    Options { backend: Some(backend.into()), accelerator, ..Options::default() };
                let mut session = Session::boot(&board, firmware, &path, &options, &quiet).unwrap();
                let long = session.embed(&text).unwrap().stack_bytes;
                let short = session.embed("").unwrap().stack_bytes;
                println!("{name}: {long} and {short} bytes of stack");
                // Painted anew for each text, and never nothing.
                assert!((256..=long).contains(&short), "{name}: {short} after {long}");
                deepest = long.max(deepest);
            }
        }
    }
    println!("deepest: {deepest}");
    assert!(u64::from(deepest) <= board.stack_bound, "{deepest} bytes of stack");
    // A bound that is far from the truth would hide growth.
    assert!(u64::from(deepest) * 2 > board.stack_bound, "lower the bound: {deepest} bytes");
}

#[test]
fn an_accelerator_on_the_board_has_the_host_s_bits() {
    let Some((board, firmware)) = setup_model() else { return };
    let shape = Shape { hidden: 48, heads: 3, intermediate: 84, ..Shape::default() };
    let packed = Packed::new(DataType::I8, &shape);
    let path = packed.file("model.grouse", &packed.bytes);
    let text = "The quick, brown fox; jumps over 13 lazy dogs!".to_string();
    let expected = &host(&path, std::slice::from_ref(&text))[0].embedding;
    let names = Injected::NAMED.map(|(name, _)| name);
    for (number, name) in ["model"].into_iter().chain(names).enumerate() {
        let backend = Some(["helium", "scalar", "wide"][number % 3].to_string());
        let options = Options { backend, accelerator: Some(name.into()), ..Options::default() };
        let mut session = Session::boot(&board, firmware, &path, &options, &quiet).unwrap();
        let answer = session.embed(&text).unwrap();
        assert_eq!(bits(&answer.embedding), bits(expected), "{name}");
        let report = answer.offloaded.unwrap();
        println!("{name}: {report:?}");
        let all = report.on_device + report.on_cpu;
        assert!(all >= 8 && report.too_small == 0 && report.refused == 0, "{name}: {report:?}");
        let (on_device, faults) = match name {
            "model" => (all, 0),
            // The driver does not accept it.
            "another-device" | "another-version" | "no-capability" => (0, 0),
            // It was cut off.
            "deaf" | "vanished" => (4, 1),
            _ => (4, 3),
        };
        let found = (report.on_device, report.faults, report.switched_off);
        assert_eq!(found, (on_device, faults, faults > 0), "{name}: {report:?}");
        assert_eq!(report.last.is_empty(), faults == 0, "{name}: {report:?}");
    }
    // Without one, nothing is reported.
    let mut session = boot(&board, firmware, &path);
    assert!(session.embed(&text).unwrap().offloaded.is_none());
    let options = Options { accelerator: Some("abacus".into()), ..Options::default() };
    let error = session.prepare(&options).unwrap_err();
    assert!(error.to_string().contains("abacus"), "{error}");
    assert!(error.remedy().contains("model another-device"), "{}", error.remedy());
}

#[test]
fn garbled_frames_are_refused_and_the_board_goes_on() {
    let Some((board, firmware)) = setup() else { return };
    let packed = Packed::new(DataType::I8, &Shape::default());
    let mut session = boot(&board, firmware, &packed.file("model.grouse", &packed.bytes));
    let expected = session.embed("before and after").unwrap();
    let long = [&[7; 10_000][..], &[0]].concat();
    for (bytes, reason) in [
        (&b"\x10no frame at all\0"[..], "checksum"),
        (&b"\xfftoo short a run\0"[..], "stuffing"),
        (&b"\x02a\0"[..], "short"),
        (&long, "longer"),
    ] {
        let error = session.send_raw(bytes).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
        session.ping().unwrap();
    }
    assert_eq!(session.embed("before and after").unwrap(), expected);
}

/// Every backend passes the file's own self-test; weights and ids that changed under right checksums
/// do not, and every other request goes on.
#[test]
fn the_self_test_runs_on_the_board() {
    let Some((board, firmware)) = setup() else { return };
    let shape = Shape { hidden: 128, heads: 1, intermediate: 256, ..Shape::default() };
    let packed = Packed::new(DataType::I8, &shape);
    let counts = |tested: &Tested| (tested.passed, tested.failed, tested.skipped);
    let mut session = boot(&board, firmware, &packed.model());
    let all = session.self_tests(&Options::default()).unwrap();
    let names: Vec<&str> = all.iter().map(|tested| tested.backend.as_str()).collect();
    assert_eq!(names, ["scalar", "wide", "helium"]);
    for tested in &all {
        assert!(counts(tested) == (4, 0, 0) && tested.first.is_none(), "{tested:?}");
        let deepest = u64::from(tested.stack_bytes);
        assert!(deepest * 8 > board.stack_bound && deepest <= board.stack_bound, "{tested:?}");
    }
    // Two tokens are room for the empty text only.
    let options = Options { max_tokens: Some(2), ..Options::default() };
    session.prepare(&options).unwrap();
    assert_eq!(counts(&session.self_test().unwrap()), (1, 0, 3));

    // Two weights of a row, one more and one less: its sum is right, and so are the checksums.
    let changed = reseal(&packed.bytes, *b"LAYR", |layer| {
        let head: &LayerHeader = bytemuck::from_bytes(&layer[..size_of::<LayerHeader>()]);
        let group = &layer[head.matrices[0].groups as usize..][..size_of::<GroupDesc>()];
        let block = bytemuck::from_bytes::<GroupDesc>(group).block as usize;
        let weights: &mut [i8] = bytemuck::cast_slice_mut(&mut layer[block..block + 16]);
        let a = (0..16).find(|i| weights[*i] < 80).unwrap();
        let b = (0..16).find(|i| *i != a && weights[*i] > -80).unwrap();
        weights[a] += 40;
        weights[b] -= 40;
    });
    let mut session = boot(&board, firmware, &packed.file("changed", &changed));
    for tested in session.self_tests(&Options::default()).unwrap() {
        let first = tested.first.as_ref().unwrap();
        assert!(tested.failed > 0 && tested.passed + tested.failed == 4, "{tested:?}");
        assert!(first.what.contains("another embedding"), "{tested:?}");
    }
    session.embed("goes on").unwrap();
    // At first boot it says by whom; the record of a failure outlives a restart, too.
    let options = Options { first_boot: true, ..Options::default() };
    let path = packed.file("changed", &changed);
    let mut session = Session::boot(&board, firmware, &path, &options, &quiet).unwrap();
    for now in [true, false] {
        let FirstBoot::Ran { now: found, failed, .. } = session.first_boot().unwrap() else {
            panic!("not run")
        };
        assert!(found == now && failed == names, "{failed:?}");
        session.restart(&options).unwrap();
    }

    // The longest word, 100 characters, becomes shorter than some word of the texts.
    let changed = reseal(&packed.bytes, *b"TOKN", |tokenizer| tokenizer[24] = 3);
    let tested = boot(&board, firmware, &packed.file("changed", &changed)).self_test().unwrap();
    let first = tested.first.as_ref().unwrap();
    assert!(first.text > 0 && first.what.contains("other ids"), "{tested:?}");

    // Packed by a program of another edition of the arithmetic: nothing is broken.
    let changed = reseal(&packed.bytes, *b"TEST", |section| {
        // The edition, and the first text's embedding.
        section[4] = 1;
        section[16 + 16] ^= 1;
    });
    let tested = boot(&board, firmware, &packed.file("changed", &changed)).self_test().unwrap();
    let first = tested.first.as_ref().unwrap();
    assert!(first.text == 0 && first.what.contains("pack the model again"), "{tested:?}");

    // A file of before there were self-tests.
    let aligned = Aligned::new(&packed.bytes);
    let model = Model::open(aligned.bytes()).unwrap();
    let old = sections::file(&parts(&model, |part| part.0 != *b"TEST"));
    let mut session = boot(&board, firmware, &packed.file("old", &old));
    let error = session.self_test().unwrap_err();
    assert!(error.to_string().contains("no self-test"), "{error}");
    session.embed("goes on").unwrap();
}

/// The file with `change` made to the first section of this kind, and right checksums.
fn reseal(bytes: &[u8], kind: [u8; 4], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let aligned = Aligned::new(bytes);
    let mut parts = parts(&Model::open(aligned.bytes()).unwrap(), |_| true);
    let part = parts.iter_mut().find(|part| part.0 == kind).unwrap();
    let mut contents = Aligned::new(&part.2);
    change(contents.bytes_mut());
    part.2 = contents.bytes().to_vec();
    sections::file(&parts)
}

/// Kind, index and contents of the sections that are wanted.
fn parts(
    model: &Model<'_>,
    wanted: impl Fn(&([u8; 4], u32, Vec<u8>)) -> bool,
) -> Vec<([u8; 4], u32, Vec<u8>)> {
    let parts = model.sections().iter().map(|entry| {
        let start = entry.offset as usize;
        (entry.kind, entry.index, model.bytes()[start..start + entry.bytes as usize].to_vec())
    });
    parts.filter(wanted).collect()
}

#[test]
fn a_bad_text_costs_only_itself() {
    let Some((board, firmware)) = setup() else { return };
    let packed = Packed::new(DataType::I8, &Shape::default());
    let mut session = boot(&board, firmware, &packed.file("model.grouse", &packed.bytes));
    let error = session.run(b"caf\xe9", true).unwrap_err();
    assert!(matches!(error, Error::Refused { code: INVALID_UTF8, .. }), "{error}");
    let limit = session.info().text_limit;
    let error = session.embed(&"x".repeat(limit as usize + 1)).unwrap_err();
    assert!(matches!(error, Error::TextTooLong { limit: l, .. } if l == limit), "{error}");
    assert!(session.embed(&"x ".repeat(limit as usize / 2)).unwrap().truncated);
}

#[test]
fn a_damaged_model_is_refused_with_the_runtime_s_error() {
    let Some((board, firmware)) = setup() else { return };
    let packed = Packed::new(DataType::I8, &Shape::default());
    let whole = &packed.bytes;
    let refusal = |name: &str, bytes: &[u8]| {
        let path = packed.file(name, bytes);
        let mut session = start(&board, firmware, &path);
        let error = session.prepare(&Options::default()).unwrap_err();
        // The board is still there, and has nothing to run.
        session.ping().unwrap();
        let not_ready = session.embed("text").unwrap_err();
        assert!(not_ready.to_string().contains("no model is ready"), "{not_ready}");
        match error {
            Error::Refused { code, what, .. } => (code, what),
            error => panic!("{error}"),
        }
    };
    assert_eq!(refusal("empty", &[]).0, NOT_GROUSE);
    assert_eq!(refusal("text", b"this is no model").0, NOT_GROUSE);
    assert_eq!(refusal("cut", &whole[..whole.len() / 2]).0, CHECKSUM);
    for at in [9, 45, 64, 500, whole.len() / 2, whole.len() - 70] {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        let host = grouse_runtime_error(&bytes);
        let (_, what) = refusal("flipped", &bytes);
        assert_eq!(what, host, "byte {at}");
    }
    // A header that asks for more than the board has never gets as far as its checksum.
    let mut bytes = whole.clone();
    bytes[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
    let mut session = start(&board, firmware, &packed.file("huge", &bytes));
    let error = session.prepare(&Options::default()).unwrap_err();
    assert!(matches!(error, Error::Refused { code: TRUNCATED, .. }), "{error}");
}

/// What the host says of the same bytes.
fn grouse_runtime_error(bytes: &[u8]) -> String {
    let mut aligned = vec![0_u64; bytes.len().div_ceil(8) + 1];
    let place: &mut [u8] = bytemuck::cast_slice_mut(&mut aligned);
    let start = place.as_ptr().align_offset(16);
    let place = &mut place[start..start + bytes.len()];
    place.copy_from_slice(bytes);
    Model::open(place).unwrap_err().to_string()
}

#[test]
fn a_board_that_is_too_small_says_by_how_much() {
    let Some((mut board, firmware)) = setup() else { return };
    // 512 tokens of 640 need 5 MiB for the residual stream and Q, K and V alone; the arena has 4.
    let shape = Shape {
        hidden: 640,
        heads: 10,
        layers: 1,
        intermediate: 64,
        max_positions: 512,
        ..Shape::default()
    };
    let packed = Packed::new(DataType::I8, &shape);
    let path = packed.file("model.grouse", &packed.bytes);
    let mut session = start(&board, firmware, &path);
    let error = session.prepare(&Options::default()).unwrap_err();
    let Error::Arena { tokens: 512, needed, available, longest, .. } = error else {
        panic!("{error}")
    };
    assert!(needed > available && (2..512).contains(&longest), "{error}");
    assert!(error.remedy().contains(&format!("--tokens {longest}")));
    let options = |tokens| Options { max_tokens: Some(tokens), ..Options::default() };
    assert!(matches!(session.prepare(&options(longest + 1)), Err(Error::Arena { .. })));
    session.prepare(&options(longest)).unwrap();
    assert_eq!(session.info().max_tokens, longest);
    assert_eq!(session.embed("still works").unwrap().embedding.len(), shape.hidden);
    // Fewer tokens take less memory, more than the model has are refused.
    session.prepare(&options(8)).unwrap();
    assert!(session.info().arena_bytes < u64::from(needed) / 4);
    assert_eq!(session.embed(&"word ".repeat(50)).unwrap().ids.len(), 8);
    let error = session.prepare(&options(513)).unwrap_err();
    assert!(matches!(error, Error::Refused { code: TOO_MANY_TOKENS, .. }), "{error}");

    board.regions.as_mut().unwrap().model.length = packed.bytes.len() as u32 - 64;
    let error = Session::boot(&board, firmware, &path, &options(8), &quiet).err().unwrap();
    let available = packed.bytes.len() as u64 - 64;
    assert!(matches!(error, Error::ModelTooLong { available: a, .. } if a == available), "{error}");
}

#[test]
fn an_unknown_backend_lists_the_known_ones() {
    let Some((board, firmware)) = setup() else { return };
    let packed = Packed::new(DataType::I8, &Shape::default());
    let path = packed.file("model.grouse", &packed.bytes);
    let options = Options { backend: Some("abacus".into()), ..Options::default() };
    let error = Session::boot(&board, firmware, &path, &options, &quiet).err().unwrap();
    assert!(error.to_string().contains("abacus"), "{error}");
    assert!(error.remedy().contains("scalar wide helium"), "{}", error.remedy());
}

#[test]
fn a_failing_firmware_reports_before_it_stops() {
    let Some((board, firmware)) = setup() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nothing, really");
    std::fs::write(&path, b"").unwrap();
    for (how, words) in [
        (Crash::Undefined, "fault status 0x00010000"),
        (Crash::BusFault, "address 0xf8000000"),
        (Crash::StackOverflow, "stack overflow"),
    ] {
        let mut session = start(&board, firmware, &path);
        session.ping().unwrap();
        let error = session.crash(how).unwrap_err();
        assert!(matches!(error, Error::Fault { .. }), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn the_log_is_decoded() {
    let Some((board, firmware)) = setup() else { return };
    let lines = std::cell::RefCell::new(Vec::new());
    let listener = |progress: Progress<'_>| {
        if let Progress::Log(line) = progress {
            lines.borrow_mut().push(line.to_owned());
        }
    };
    let packed = Packed::new(DataType::I8, &Shape::default());
    let path = packed.file("model.grouse", &packed.bytes);
    let mut session =
        Session::boot(&board, firmware, &path, &Options::default(), &listener).unwrap();
    session.embed("hello").unwrap();
    drop(session);
    let lines = lines.into_inner();
    for part in ["on mps3-an547", "is sound", "ready: helium", "tokens, "] {
        assert!(lines.iter().any(|line| line.contains(part)), "{part} not in {lines:?}");
    }
}
