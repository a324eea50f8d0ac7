//! The functions as C calls them, and bad calls.

use std::ffi::{CStr, c_void};
use std::ptr::{null, null_mut};

use grouse_c::*;
use grouse_runtime::encoder::Encoder;
use grouse_runtime::format::DataType;
use grouse_runtime::kernels;
use grouse_runtime::view::Model;
use grouse_tests::packed::{Aligned, pack};
use grouse_tests::random_bert::{self, Shape};

fn file() -> Aligned {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("model");
    random_bert::write(&dir, &Shape::default(), 21);
    let model = grouse::import::load_dir(&dir).unwrap();
    Aligned::new(&pack(&model, DataType::I8, &[vec![1, 2, 3, 4, 5]]))
}

fn closed() -> GrouseModel {
    GrouseModel { words: [0; GROUSE_MODEL_WORDS] }
}

fn opened_file(file: &Aligned) -> GrouseModel {
    let mut model = closed();
    let bytes = file.bytes();
    // SAFETY: the slice is the file.
    let status = unsafe { grouse_open(&mut model, bytes.as_ptr().cast(), bytes.len()) };
    assert_eq!(status, GROUSE_OK);
    model
}

#[test]
fn a_text_has_the_bits_of_the_rust_api() {
    let file = file();
    let model = opened_file(&file);
    let text = "The dog is in café 12!";
    // SAFETY: all pointers are to live values of the lengths given.
    unsafe {
        let dimension = grouse_dimension(&model);
        let (mut least, mut fast) = (0, 0);
        assert_eq!(grouse_arena_bytes(&model, 40, &mut least, &mut fast), GROUSE_OK);
        assert!(0 < least && least <= fast);
        let mut arena = vec![0_f32; least / 4];
        let (mut ids, mut out, mut tokens) = ([0; 40], vec![0.0; dimension], 0);
        let status = grouse_embed(
            &model,
            text.as_ptr().cast(),
            text.len(),
            ids.as_mut_ptr(),
            ids.len(),
            &mut tokens,
            arena.as_mut_ptr().cast(),
            least,
            out.as_mut_ptr(),
            dimension,
        );
        assert_eq!(status, GROUSE_OK);

        let rust = Model::open(file.bytes()).unwrap();
        let mut want_ids = [0; 40];
        let want = rust.tokenizer().encode(text, &mut want_ids).unwrap();
        assert_eq!(ids[..tokens], want_ids[..want.tokens]);
        let mut arena = vec![0_f32; fast / 4];
        let arena = bytemuck::cast_slice_mut(&mut arena);
        let mut encoder = Encoder::new(&rust, kernels::default(), arena, want.tokens).unwrap();
        let mut want = vec![0.0; dimension];
        encoder.embed(&ids[..tokens], &mut want).unwrap();
        assert_eq!(out, want);

        let mut result = GrouseSelfTest::default();
        let mut arena = vec![0_f32; fast / 4];
        let status = grouse_self_test(
            &model,
            ids.as_mut_ptr(),
            ids.len(),
            arena.as_mut_ptr().cast(),
            fast,
            out.as_mut_ptr(),
            dimension,
            &mut result,
        );
        assert_eq!(status, GROUSE_OK);
        assert_eq!(result.failed, 0);
        assert!(result.passed > 0);
        let mut length = 0;
        let header = file.bytes().as_ptr().cast();
        assert_eq!(grouse_file_length(header, 64, &mut length), GROUSE_OK);
        assert_eq!(length, file.bytes().len());
        assert!(grouse_max_tokens(&model) >= 40);
    }
}

#[test]
fn bad_calls_have_their_status() {
    let file = file();
    let good = opened_file(&file);
    let mut model = closed();
    let bytes = file.bytes();
    let start: *const c_void = bytes.as_ptr().cast();
    let (mut ids, mut out, mut arena) = ([0_u32; 16], [0_f32; 64], [0_f32; 16]);
    // SAFETY: pointers are null, or to live values of at least the lengths given.
    unsafe {
        assert_eq!(grouse_open(null_mut(), start, bytes.len()), GROUSE_NULL);
        assert_eq!(grouse_open(&mut model, null(), 64), GROUSE_NULL);
        assert_eq!(grouse_open(&mut model, start, usize::MAX), GROUSE_NULL);
        assert_eq!(grouse_open(&mut model, start, bytes.len() - 64), GROUSE_TRUNCATED);
        assert_eq!(
            grouse_open(&mut model, start.cast::<u8>().add(16).cast(), 64),
            GROUSE_NOT_GROUSE
        );
        assert_eq!(
            grouse_open(&mut model, start.cast::<u8>().add(1).cast(), 64),
            GROUSE_MISALIGNED
        );
        // What was refused is not open.
        assert_eq!(grouse_dimension(&model), 0);
        assert_eq!(grouse_max_tokens(&closed()), 0);
        assert_eq!(grouse_arena_bytes(&model, 4, null_mut(), null_mut()), GROUSE_NULL);
        assert_eq!(grouse_arena_bytes(&good, 4, null_mut(), null_mut()), GROUSE_OK);
        let too_many = grouse_max_tokens(&good) + 1;
        assert_eq!(
            grouse_arena_bytes(&good, too_many, null_mut(), null_mut()),
            GROUSE_TOO_MANY_TOKENS
        );

        let mut tokenize = |text: &[u8], capacity: usize| {
            grouse_tokenize(
                &good,
                text.as_ptr().cast(),
                text.len(),
                ids.as_mut_ptr(),
                capacity,
                null_mut(),
                null_mut(),
            )
        };
        assert_eq!(tokenize(b"a", 16), GROUSE_OK);
        assert_eq!(tokenize(b"", 2), GROUSE_OK);
        assert_eq!(tokenize(b"a", 1), GROUSE_OUTPUT_LENGTH);
        assert_eq!(tokenize(b"\xff", 16), GROUSE_INVALID_UTF8);
        let no_text =
            grouse_tokenize(&good, null(), 3, ids.as_mut_ptr(), 16, null_mut(), null_mut());
        assert_eq!(no_text, GROUSE_NULL);

        let mut embed = |ids: &[u32], arena_bytes: usize, dimension: usize| {
            grouse_embed_ids(
                &good,
                ids.as_ptr(),
                ids.len(),
                arena.as_mut_ptr().cast(),
                arena_bytes,
                out.as_mut_ptr(),
                dimension,
            )
        };
        assert_eq!(embed(&[1, 2], 64, 64), GROUSE_ARENA_TOO_SMALL);
        let mut large = vec![0_f32; 1 << 18];
        let mut embed = |ids: &[u32], dimension: usize| {
            grouse_embed_ids(
                &good,
                ids.as_ptr(),
                ids.len(),
                large.as_mut_ptr().cast(),
                large.len() * 4,
                out.as_mut_ptr(),
                dimension,
            )
        };
        let dimension = grouse_dimension(&good);
        assert_eq!(embed(&[1, 2], dimension), GROUSE_OK);
        assert_eq!(embed(&[], dimension), GROUSE_NO_TOKENS);
        assert_eq!(embed(&[u32::MAX], dimension), GROUSE_TOKEN_OUT_OF_RANGE);
        assert_eq!(embed(&[1, 2], dimension - 1), GROUSE_OUTPUT_LENGTH);
    }
}

#[test]
fn every_status_has_words() {
    let mut seen = std::collections::BTreeSet::new();
    for status in (0..=14).chain(100..=102) {
        // SAFETY: a C string of this library.
        let words = unsafe { CStr::from_ptr(grouse_status_text(status)) };
        assert!(seen.insert(words.to_str().unwrap().to_string()));
    }
    // SAFETY: as before.
    let unknown = unsafe { CStr::from_ptr(grouse_status_text(-1)) };
    assert_eq!(unknown, c"unknown status");
    for backend in kernels::available() {
        // A new backend wants its name in `grouse_backend`.
        assert!(include_str!("../src/lib.rs").contains(&format!("c\"{}\"", backend.name())));
    }
    assert_ne!(grouse_format_version(), 0);
    // SAFETY: as before.
    assert_ne!(unsafe { CStr::from_ptr(grouse_backend()) }, c"other");
}
