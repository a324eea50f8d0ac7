//! Damaged, foreign and hostile files: refused, or harmless, and never a panic.

use std::mem::offset_of;

use grouse::inspect::Inspection;
use grouse::pack::sections;
use grouse::self_test::SelfTest;
use grouse_runtime::encoder::Encoder;
use grouse_runtime::format::{DataType, GroupDesc, Header, LayerHeader, SectionEntry};
use grouse_runtime::kernels::{self, Backend, scalar::Scalar};
use grouse_runtime::plan::Plan;
use grouse_runtime::view::Model;
use grouse_runtime::{Error, Result};
use grouse_tests::packed::{Aligned, pack};
use grouse_tests::random_bert::{self, Shape};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// A small pruned file with int8 weights.
fn small() -> Aligned {
    small_in(DataType::I8)
}

fn small_in(weights: DataType) -> Aligned {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("model");
    let shape = Shape { layers: 1, ..Shape::default() };
    random_bert::write(&dir, &shape, 11);
    let mut model = grouse::import::load_dir(&dir).unwrap();
    for (_, linear) in model.layers.iter_mut().flat_map(|l| l.linears_mut()) {
        let cols = linear.weight.cols;
        for (i, w) in linear.weight.data.iter_mut().enumerate() {
            if (i / cols) % 2 != (i % cols) % 2 {
                *w = 0.0;
            }
        }
    }
    let sentences: Vec<Vec<u32>> = (0..40).map(|s| (0..8).map(|t| s + t).collect()).collect();
    Aligned::new(&pack(&model, weights, &sentences))
}

fn embed(file: &[u8], backend: &'static dyn Backend) -> Result<Vec<u32>> {
    let model = Model::open(file)?;
    let ids = [1, 2, 3, 4];
    let plan = Plan::new(&model, ids.len())?;
    let mut arena = vec![0.0_f32; plan.arena_bytes() / 4];
    let mut out = vec![0.0; model.arch().hidden_size as usize];
    let arena = bytemuck::cast_slice_mut(&mut arena);
    let mut encoder = Encoder::new(&model, backend, arena, ids.len())?;
    encoder.embed(&ids, &mut out)?;
    let embedding = out.clone();
    // Its texts may be anything, but it ends.
    model.self_test(&mut encoder, &mut [0; 4], &mut out, |_, _, _| {});
    let out = embedding;
    Ok(out.iter().map(|v| v.to_bits()).collect())
}

#[test]
fn every_changed_byte_of_header_and_table_is_refused() {
    let mut file = small();
    let table = size_of_val(Model::open(file.bytes()).unwrap().sections());
    for at in 0..size_of::<Header>() + table {
        for change in [0x01, 0x80, 0xff] {
            file.bytes_mut()[at] ^= change;
            assert!(Model::open(file.bytes()).is_err(), "byte {at} ^ {change}");
            file.bytes_mut()[at] ^= change;
        }
    }
}

#[test]
fn every_changed_byte_behind_is_refused() {
    let mut file = small();
    for at in 0..file.bytes().len() {
        file.bytes_mut()[at] ^= 0x10;
        assert!(Model::open(file.bytes()).is_err(), "byte {at}");
        file.bytes_mut()[at] ^= 0x10;
    }
}

#[test]
fn every_truncation_is_refused() {
    let file = small();
    for length in 0..file.bytes().len() {
        assert!(Model::open(&file.bytes()[..length]).is_err(), "{length} bytes");
    }
}

#[test]
fn foreign_future_and_overlong_files_are_named() {
    let file = small();
    assert_eq!(Model::open(Aligned::new(&[b'x'; 200]).bytes()).unwrap_err(), Error::NotGrouse);
    let mut future = file.clone();
    future.bytes_mut()[8] = 2;
    let error = Model::open(future.bytes()).unwrap_err();
    assert_eq!(error, Error::Version { found: 2, supported: 1 });
    let mut longer = file.bytes().to_vec();
    longer.push(0);
    let error = Model::open(Aligned::new(&longer).bytes()).unwrap_err();
    assert!(matches!(error, Error::Malformed { .. }), "{error}");
    let shifted = [&[0; 1], file.bytes()].concat();
    let shifted = Aligned::new(&shifted);
    assert!(matches!(Model::open(&shifted.bytes()[1..]), Err(Error::Misaligned { .. })));
}

/// Mends the checksums of section `which` and of the header, as an attacker would.
fn mend(file: &mut [u8], entries: &[SectionEntry], which: usize) {
    let entry = entries[which];
    let start = entry.offset as usize;
    let crc = crc32fast::hash(&file[start..start + entry.bytes as usize]);
    let table = size_of::<Header>();
    let field = table + which * size_of::<SectionEntry>() + offset_of!(SectionEntry, crc);
    file[field..field + 4].copy_from_slice(&crc.to_le_bytes());
    mend_header(file, entries.len());
}

fn mend_header(file: &mut [u8], sections: usize) {
    let table = size_of::<Header>();
    let mut head = crc32fast::Hasher::new();
    head.update(&file[..table - 4]);
    head.update(&file[table..table + sections * size_of::<SectionEntry>()]);
    file[table - 4..table].copy_from_slice(&head.finalize().to_le_bytes());
}

/// No panic, and whatever opens runs to the same bits, or to an error, on the scalar and the default backend.
fn harmless(file: &[u8]) -> bool {
    let result = embed(file, kernels::default());
    assert_eq!(result, embed(file, &Scalar));
    result.is_ok()
}

/// What kernels rely on in an int4 block: each fault is named.
#[test]
fn damaged_int4_blocks_are_named() {
    let file = small_in(DataType::I4);
    let entries: Vec<SectionEntry> = Model::open(file.bytes()).unwrap().sections().to_vec();
    let which = entries.iter().position(|e| e.kind == *b"LAYR").unwrap();
    // The first matrix's first block: multipliers, then codes. Its 16 inputs fill a tile.
    let block = first_block(&file, &entries);
    for (at, byte, named) in [
        (block, 0x70, "int4 multiplier"),
        (block + 3, 0x0f, "int4 multiplier"),
        (block + 4, file.bytes()[block + 4] ^ 1, "sum of a row"),
        (block + 35, file.bytes()[block + 35] ^ 0x10, "sum of a row"),
    ] {
        let mut bad = file.clone();
        bad.bytes_mut()[at] = byte;
        mend(bad.bytes_mut(), &entries, which);
        let error = Model::open(bad.bytes()).unwrap_err().to_string();
        assert!(error.contains(named), "{at}: {error}");
    }
}

/// With right checksums over wrong bytes only the deep checks are left: no panic, whatever comes.
#[test]
fn hostile_sections_do_not_panic() {
    // Counts and offsets that tempt arithmetic to overflow or to land just outside.
    const EXTREMES: [u32; 9] =
        [0, 1, 0xffff, 0x4000, 0x4001, 0x7fff_ffff, 0x8000_0000, 0xffff_fff1, u32::MAX];
    let mut random = StdRng::seed_from_u64(5);
    for weights in [DataType::I8, DataType::I4, DataType::F16, DataType::F32] {
        let file = small_in(weights);
        let entries: Vec<SectionEntry> = Model::open(file.bytes()).unwrap().sections().to_vec();
        let mut opened = 0;
        for case in 0..3000 {
            let mut bad = file.clone();
            let which = random.random_range(0..entries.len());
            let start = entries[which].offset as usize;
            let size = entries[which].bytes as usize;
            // Mostly in the first bytes, where descriptors and offsets are.
            let reach = if random.random_bool(0.7) { size.min(400) } else { size };
            for _ in 0..random.random_range(1..4) {
                let at = start + random.random_range(0..reach);
                if case % 2 == 0 {
                    bad.bytes_mut()[at] = random.random();
                } else if let Some(word) = bad.bytes_mut().get_mut(at & !3..(at & !3) + 4) {
                    let value = EXTREMES[random.random_range(0..EXTREMES.len())];
                    word.copy_from_slice(&value.to_le_bytes());
                }
            }
            mend(bad.bytes_mut(), &entries, which);
            opened += u32::from(harmless(bad.bytes()));
        }
        assert!(opened > 100, "only {opened} files opened: the checksums are not mended");
    }
}

/// Header and table with a right checksum over wrong figures.
#[test]
fn hostile_headers_do_not_panic() {
    let file = small();
    let model = Model::open(file.bytes()).unwrap();
    let sections = model.sections().len();
    let end = size_of::<Header>() + size_of_val(model.sections());
    let mut random = StdRng::seed_from_u64(6);
    for at in 0..end {
        for change in [0x01, 0x80, 0xff, random.random()] {
            let mut bad = file.clone();
            bad.bytes_mut()[at] ^= change;
            mend_header(bad.bytes_mut(), sections);
            harmless(bad.bytes());
        }
    }
}

#[test]
fn the_parts_add_up_to_the_file() {
    let file = small();
    let inspection = Inspection::of(&Model::open(file.bytes()).unwrap()).unwrap();
    let sum: u64 = inspection.sections.iter().map(|s| s.bytes + s.padding).sum();
    assert_eq!(sum, file.bytes().len() as u64);
    assert!((inspection.density - 0.5).abs() < 0.01, "{}", inspection.density);
}

/// The file's texts pass with every backend; a weight that changed under right checksums does not.
#[test]
fn the_self_test_finds_a_changed_weight() {
    for weights in [DataType::I8, DataType::I4, DataType::F16, DataType::F32] {
        let file = small_in(weights);
        let model = Model::open(file.bytes()).unwrap();
        assert_eq!(model.tests().len(), 4);
        let result = SelfTest::run(&model, kernels::available()).unwrap();
        assert!(result.passed && result.verdict().is_none(), "{result}");
        assert!(result.backends.iter().all(|b| b.texts.iter().all(|text| text.passed)));
        if weights.is_integer() {
            // Their rows have sums, which the next test changes with them.
            continue;
        }
        let entries: Vec<SectionEntry> = model.sections().to_vec();
        let which = entries.iter().position(|e| e.kind == *b"LAYR").unwrap();
        let mut bad = file.clone();
        // The high byte of a weight of the first block: half or twice as much.
        let bytes = if weights == DataType::F16 { 2 } else { 4 };
        bad.bytes_mut()[first_block(&file, &entries) + bytes - 1] ^= 4;
        mend(bad.bytes_mut(), &entries, which);
        fails(&bad);
    }
}

/// Two int8 weights of a row, one more and one less: the sum is right, the checksums are.
#[test]
fn the_self_test_finds_changed_integers() {
    let file = small_in(DataType::I8);
    let entries: Vec<SectionEntry> = Model::open(file.bytes()).unwrap().sections().to_vec();
    let which = entries.iter().position(|e| e.kind == *b"LAYR").unwrap();
    let block = first_block(&file, &entries);
    let mut bad = file.clone();
    let weights: &mut [i8] = bytemuck::cast_slice_mut(&mut bad.bytes_mut()[block..block + 16]);
    let (up, down) = (i8::MIN + 1..i8::MAX - 40, i8::MIN + 41..i8::MAX);
    let a = (0..16).find(|i| up.contains(&weights[*i])).unwrap();
    let b = (0..16).find(|i| *i != a && down.contains(&weights[*i])).unwrap();
    weights[a] += 40;
    weights[b] -= 40;
    mend(bad.bytes_mut(), &entries, which);
    fails(&bad);
}

/// An embedding row that changed: the ids are right, what they stand for is not.
#[test]
fn the_self_test_is_about_ids_as_well() {
    let file = small();
    let entries: Vec<SectionEntry> = Model::open(file.bytes()).unwrap().sections().to_vec();
    let which = entries.iter().position(|e| e.kind == *b"TOKN").unwrap();
    // The longest word, 100 characters, becomes shorter than some word of the texts.
    let mut bad = file.clone();
    bad.bytes_mut()[entries[which].offset as usize + 24] = 3;
    mend(bad.bytes_mut(), &entries, which);
    let model = Model::open(bad.bytes()).unwrap();
    let result = SelfTest::run(&model, kernels::available()).unwrap();
    assert!(result.to_string().contains("other ids"), "{result}");
    assert!(result.verdict().unwrap().to_string().contains("every backend"));

    // A plan of two tokens has room for the empty text only.
    let model = Model::open(file.bytes()).unwrap();
    let plan = Plan::new(&model, 2).unwrap();
    let mut arena = vec![0.0_f32; plan.arena_bytes() / 4];
    let arena = bytemuck::cast_slice_mut(&mut arena);
    let mut encoder = Encoder::with_plan(&model, kernels::default(), arena, plan).unwrap();
    let mut values = vec![0.0; model.arch().hidden_size as usize];
    let summary = model.self_test(&mut encoder, &mut [0; 2], &mut values, |_, _, _| {});
    assert_eq!((summary.passed, summary.failed, summary.skipped), (1, 0, 3));
}

/// A file as packers before the self-test wrote it.
#[test]
fn files_without_a_self_test_open() {
    let file = small();
    let model = Model::open(file.bytes()).unwrap();
    let sections = model.sections().iter().filter(|e| e.kind != *b"TEST").map(|e| {
        let start = e.offset as usize;
        (e.kind, e.index, file.bytes()[start..start + e.bytes as usize].to_vec())
    });
    let old = Aligned::new(&sections::file(&sections.collect::<Vec<_>>()));
    let old = Model::open(old.bytes()).unwrap();
    assert!(old.tests().is_empty());
    let error = SelfTest::run(&old, kernels::available()).unwrap_err();
    assert!(error.to_string().contains("no self-test"));
}

/// Start of the first matrix's first block in the file.
fn first_block(file: &Aligned, entries: &[SectionEntry]) -> usize {
    let layer = entries.iter().find(|e| e.kind == *b"LAYR").unwrap();
    let start = layer.offset as usize;
    let head: &LayerHeader =
        bytemuck::from_bytes(&file.bytes()[start..][..size_of::<LayerHeader>()]);
    let groups = start + head.matrices[0].groups as usize;
    let group: &GroupDesc = bytemuck::from_bytes(&file.bytes()[groups..][..size_of::<GroupDesc>()]);
    start + group.block as usize
}

#[track_caller]
fn fails(file: &Aligned) {
    let model = Model::open(file.bytes()).unwrap();
    let result = SelfTest::run(&model, kernels::available()).unwrap();
    assert!(!result.passed);
    assert!(result.to_string().contains("another embedding"), "{result}");
    assert!(result.verdict().unwrap().to_string().contains("every backend"));
}
