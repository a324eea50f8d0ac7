//! The runtime for C: the same code, with memory that the caller gives (`docs/c.md`).
//!
//! No function allocates, blocks or keeps a pointer beyond its call, but for the model's view, which
//! points into the file. Every function checks its pointers for null and its file, text and lengths
//! for sense; that pointers point to as much memory as is said is up to the caller.

#![cfg_attr(target_os = "none", no_std)]

use core::ffi::{CStr, c_char, c_void};
use core::mem::{MaybeUninit, align_of, size_of};

use grouse_runtime::encoder::Encoder;
use grouse_runtime::kernels;
use grouse_runtime::plan::Plan;
use grouse_runtime::view::{Model, declared_length};
use grouse_runtime::wire::RuntimeError;
use grouse_runtime::{Error, format};

/// What a function returns: `GROUSE_OK` or why it refused. `grouse_status_text` has the words.
pub type GrouseStatus = i32;

/// All went well.
pub const GROUSE_OK: GrouseStatus = 0;
/// The bytes do not start as a Grouse file does.
pub const GROUSE_NOT_GROUSE: GrouseStatus = 1;
/// The file is of another version of the format.
pub const GROUSE_VERSION: GrouseStatus = 2;
/// The file ends before what it promises.
pub const GROUSE_TRUNCATED: GrouseStatus = 3;
/// A checksum does not match.
pub const GROUSE_CHECKSUM: GrouseStatus = 4;
/// The file's bytes are not what the format allows.
pub const GROUSE_MALFORMED: GrouseStatus = 5;
/// The file (16 bytes), the arena or the output (4 bytes) is not aligned.
pub const GROUSE_MISALIGNED: GrouseStatus = 6;
/// The file uses what this runtime does not know.
pub const GROUSE_UNSUPPORTED: GrouseStatus = 7;
/// The arena is too small; `grouse_arena_bytes` says what is needed.
pub const GROUSE_ARENA_TOO_SMALL: GrouseStatus = 8;
/// More tokens than the model takes.
pub const GROUSE_TOO_MANY_TOKENS: GrouseStatus = 9;
/// An id beyond the vocabulary.
pub const GROUSE_TOKEN_OUT_OF_RANGE: GrouseStatus = 10;
/// No ids were given.
pub const GROUSE_NO_TOKENS: GrouseStatus = 11;
/// The text is not UTF-8.
pub const GROUSE_INVALID_UTF8: GrouseStatus = 12;
/// A buffer has the wrong length: ids for less than two, or an output that is not of the dimension.
pub const GROUSE_OUTPUT_LENGTH: GrouseStatus = 13;
/// The embedding is not a finite number.
pub const GROUSE_NOT_FINITE: GrouseStatus = 14;
/// The file's self-test was made by another edition of the arithmetic.
pub const GROUSE_EDITION: GrouseStatus = 15;
/// A pointer is null, or a length beyond the address space.
pub const GROUSE_NULL: GrouseStatus = 100;
/// The file carries no self-test.
pub const GROUSE_NO_SELF_TEST: GrouseStatus = 101;
/// The self-test found other bits than those that were packed.
pub const GROUSE_SELF_TEST_FAILED: GrouseStatus = 102;

/// Words of a `GrouseModel`.
pub const GROUSE_MODEL_WORDS: usize = 64;

/// An open model: a view of the file, which must stay where it is. Filled by `grouse_open`; there is
/// nothing to close. Its content is Grouse's own.
#[repr(C)]
pub struct GrouseModel {
    /// Grouse's own.
    pub words: [usize; GROUSE_MODEL_WORDS],
}

/// What a `GrouseModel` really is.
#[repr(C)]
struct Stored<'a> {
    /// [`OPEN`], or anything else in a model that is not open.
    state: usize,
    model: MaybeUninit<Model<'a>>,
}

/// "GRSE": what zeroed and forgotten memory hardly holds.
const OPEN: usize = 0x4752_5345;

const _: () = assert!(
    size_of::<Stored<'static>>() <= size_of::<GrouseModel>()
        && align_of::<Stored<'static>>() <= align_of::<GrouseModel>()
);

/// What `grouse_self_test` counted.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GrouseSelfTest {
    /// Texts with the bits that they should have.
    pub passed: u32,
    /// Texts with others, or refused.
    pub failed: u32,
    /// Texts with more tokens than the arena or the ids have room for.
    pub skipped: u32,
}

type Result<T> = core::result::Result<T, GrouseStatus>;

fn status(error: Error) -> GrouseStatus {
    GrouseStatus::from(RuntimeError::new(&error).code)
}

fn finish(result: Result<()>) -> GrouseStatus {
    result.err().unwrap_or(GROUSE_OK)
}

/// `count` values at `pointer` to read.
///
/// # Safety
/// `pointer` is null, or `count` values stay readable and unchanged there for `'a`.
unsafe fn slice<'a, T>(pointer: *const T, count: usize) -> Result<&'a [T]> {
    check(pointer, count)?;
    // SAFETY: not null, aligned, within the address space; the rest is the caller's promise.
    Ok(unsafe { core::slice::from_raw_parts(pointer, count) })
}

/// `count` values at `pointer` to write.
///
/// # Safety
/// `pointer` is null, or `count` initialized values there are nobody else's for `'a`.
unsafe fn slice_mut<'a, T>(pointer: *mut T, count: usize) -> Result<&'a mut [T]> {
    check(pointer, count)?;
    // SAFETY: not null, aligned, within the address space; the rest is the caller's promise.
    Ok(unsafe { core::slice::from_raw_parts_mut(pointer, count) })
}

fn check<T>(pointer: *const T, count: usize) -> Result<()> {
    let bytes = count.checked_mul(size_of::<T>()).ok_or(GROUSE_NULL)?;
    if pointer.is_null() || bytes > isize::MAX as usize {
        return Err(GROUSE_NULL);
    }
    if pointer.is_aligned() { Ok(()) } else { Err(GROUSE_MISALIGNED) }
}

/// Writes `value` to `out`, unless that is null.
///
/// # Safety
/// `out` is null or may be written.
unsafe fn put<T>(out: *mut T, value: T) {
    if !out.is_null() && out.is_aligned() {
        // SAFETY: not null, aligned; the rest is the caller's promise.
        unsafe { out.write(value) };
    }
}

/// The model that `grouse_open` wrote.
///
/// # Safety
/// `model` is null or was zeroed or filled by `grouse_open`, and its file is where it was.
unsafe fn opened<'a>(model: *const GrouseModel) -> Result<Model<'a>> {
    check(model, 1)?;
    // SAFETY: not null, aligned, and large enough by the assertion above; any bits are a valid
    // `Stored`.
    let stored = unsafe { &*model.cast::<Stored<'a>>() };
    if stored.state != OPEN {
        return Err(GROUSE_NULL);
    }
    // SAFETY: `grouse_open` wrote the model before it wrote the state.
    Ok(unsafe { stored.model.assume_init() })
}

/// Writes the length of the packed file at `file` to `length`, as its header claims: for a model in
/// flash. `available` is how many bytes can be read there, 64 at least.
///
/// # Safety
/// `available` bytes are readable at `file`; `length` can be written or is null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn grouse_file_length(
    file: *const c_void,
    available: usize,
    length: *mut usize,
) -> GrouseStatus {
    let run = || {
        // SAFETY: the caller's promise; the header is all that is looked at.
        let bytes = unsafe { slice(file.cast::<u8>(), available) }?;
        let claimed = declared_length(bytes).map_err(status)?;
        let claimed = usize::try_from(claimed).map_err(|_| GROUSE_TRUNCATED)?;
        // SAFETY: the caller's promise.
        unsafe { put(length, claimed) };
        Ok(())
    };
    finish(run())
}

/// Checks the packed file of `length` bytes at `file`, from end to end, and fills `model` with a view
/// of it. `file` must lie at a multiple of 16 bytes and stay as it is while the model is used.
///
/// # Safety
/// `length` bytes are readable at `file`; `model` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn grouse_open(
    model: *mut GrouseModel,
    file: *const c_void,
    length: usize,
) -> GrouseStatus {
    let run = || {
        check(model, 1)?;
        let place = model.cast::<Stored<'static>>();
        // SAFETY: not null, aligned, and large enough by the assertion above.
        unsafe { place.write(Stored { state: 0, model: MaybeUninit::uninit() }) };
        // SAFETY: the caller's promise, for as long as the model is used.
        let file = unsafe { slice(file.cast::<u8>(), length) }?;
        let opened = Model::open(file).map_err(status)?;
        // SAFETY: as before.
        unsafe { place.write(Stored { state: OPEN, model: MaybeUninit::new(opened) }) };
        Ok(())
    };
    finish(run())
}

/// Values of an embedding; 0 for a model that is not open.
///
/// # Safety
/// `model` is null or was filled by `grouse_open`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn grouse_dimension(model: *const GrouseModel) -> usize {
    // SAFETY: the caller's promise.
    unsafe { opened(model) }.map_or(0, |model| model.arch().hidden_size as usize)
}

/// Most tokens of one text, `[CLS]` and `[SEP]` included; 0 for a model that is not open.
///
/// # Safety
/// `model` is null or was filled by `grouse_open`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn grouse_max_tokens(model: *const GrouseModel) -> usize {
    // SAFETY: the caller's promise.
    unsafe { opened(model) }.map_or(0, |model| model.arch().max_tokens as usize)
}

/// Writes the bytes of arena that texts of up to `tokens` tokens need: `least` with which they run,
/// and `fast` with which each weight is read half as often. Either may be null.
///
/// # Safety
/// `model` is null or was filled by `grouse_open`; `least` and `fast` can be written or are null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn grouse_arena_bytes(
    model: *const GrouseModel,
    tokens: usize,
    least: *mut usize,
    fast: *mut usize,
) -> GrouseStatus {
    let run = || {
        // SAFETY: the caller's promise.
        let model = unsafe { opened(model) }?;
        let compact = Plan::compact(&model, tokens).map_err(status)?;
        let full = Plan::new(&model, tokens).map_err(status)?;
        // SAFETY: the caller's promise.
        unsafe { put(least, compact.arena_bytes()) };
        // SAFETY: the caller's promise.
        unsafe { put(fast, full.arena_bytes()) };
        Ok(())
    };
    finish(run())
}

/// Writes the ids of `text` (UTF-8 of `length` bytes; no NUL is needed) to `ids`, which has room for
/// `capacity`, and their number to `tokens`. A longer text is cut, and `truncated` set; both may be
/// null.
///
/// # Safety
/// `model` is null or was filled by `grouse_open`; `length` bytes are readable at `text`, `capacity`
/// ids can be written at `ids`; `tokens` and `truncated` can be written or are null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn grouse_tokenize(
    model: *const GrouseModel,
    text: *const c_char,
    length: usize,
    ids: *mut u32,
    capacity: usize,
    tokens: *mut usize,
    truncated: *mut bool,
) -> GrouseStatus {
    let run = || {
        // SAFETY: the caller's promise.
        let model = unsafe { opened(model) }?;
        // SAFETY: the caller's promise.
        let text = unsafe { slice(text.cast::<u8>(), length) }?;
        // SAFETY: the caller's promise.
        let ids = unsafe { slice_mut(ids, capacity) }?;
        let encoded = encode(&model, text, ids)?;
        // SAFETY: the caller's promise.
        unsafe { put(tokens, encoded.tokens) };
        // SAFETY: the caller's promise.
        unsafe { put(truncated, encoded.truncated) };
        Ok(())
    };
    finish(run())
}

/// Tokenizes up to what `ids` and the model have room for.
fn encode(
    model: &Model<'_>,
    text: &[u8],
    ids: &mut [u32],
) -> Result<grouse_runtime::tokenizer::Encoded> {
    let text = core::str::from_utf8(text)
        .map_err(|e| status(Error::InvalidUtf8 { offset: e.valid_up_to() }))?;
    let most = ids.len().min(model.arch().max_tokens as usize);
    let ids = ids.get_mut(..most).ok_or(GROUSE_OUTPUT_LENGTH)?;
    model.tokenizer().encode(text, ids).map_err(status)
}

/// Writes the embedding of `tokens` ids to `out`, `dimension` floats, with `arena` as working memory:
/// `arena_bytes` at a multiple of 4, 16 for speed.
///
/// # Safety
/// `model` is null or was filled by `grouse_open`; `tokens` ids are readable at `ids`; `arena` and
/// `out` can be written, do not overlap, and are nobody else's during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn grouse_embed_ids(
    model: *const GrouseModel,
    ids: *const u32,
    tokens: usize,
    arena: *mut c_void,
    arena_bytes: usize,
    out: *mut f32,
    dimension: usize,
) -> GrouseStatus {
    let run = || {
        // SAFETY: the caller's promise.
        let model = unsafe { opened(model) }?;
        // SAFETY: the caller's promise.
        let ids = unsafe { slice(ids, tokens) }?;
        // SAFETY: the caller's promise; any byte is a valid u8.
        let arena = unsafe { slice_mut(arena.cast::<u8>(), arena_bytes) }?;
        // SAFETY: the caller's promise; any bits are a valid f32.
        let out = unsafe { slice_mut(out, dimension) }?;
        let backend = kernels::default();
        let mut encoder = Encoder::new(&model, backend, arena, tokens).map_err(status)?;
        encoder.embed(ids, out).map_err(status)
    };
    finish(run())
}

/// `grouse_tokenize` and `grouse_embed_ids` in one: the embedding of `text`. The ids stay in `ids`,
/// their number is written to `tokens`, unless that is null.
///
/// # Safety
/// As for the two.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn grouse_embed(
    model: *const GrouseModel,
    text: *const c_char,
    length: usize,
    ids: *mut u32,
    capacity: usize,
    tokens: *mut usize,
    arena: *mut c_void,
    arena_bytes: usize,
    out: *mut f32,
    dimension: usize,
) -> GrouseStatus {
    let mut count = 0;
    // SAFETY: the caller's promise.
    let tokenized = unsafe {
        grouse_tokenize(model, text, length, ids, capacity, &mut count, core::ptr::null_mut())
    };
    if tokenized != GROUSE_OK {
        return tokenized;
    }
    // SAFETY: the caller's promise.
    unsafe { put(tokens, count) };
    // SAFETY: the caller's promise; `count` ids were just written.
    unsafe { grouse_embed_ids(model, ids, count, arena, arena_bytes, out, dimension) }
}

/// Runs the texts that the file carries and compares hashes: `GROUSE_OK`, or
/// `GROUSE_SELF_TEST_FAILED` when one differs. Texts of more than `capacity` tokens, or too long for
/// the arena, are skipped. `result` may be null.
///
/// # Safety
/// `model` is null or was filled by `grouse_open`; `arena`, `ids` and `out` can be written, do not
/// overlap, and are nobody else's during the call; `result` can be written or is null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn grouse_self_test(
    model: *const GrouseModel,
    ids: *mut u32,
    capacity: usize,
    arena: *mut c_void,
    arena_bytes: usize,
    out: *mut f32,
    dimension: usize,
    result: *mut GrouseSelfTest,
) -> GrouseStatus {
    let run = || {
        // SAFETY: the caller's promise.
        let model = unsafe { opened(model) }?;
        // SAFETY: the caller's promise.
        let ids = unsafe { slice_mut(ids, capacity) }?;
        // SAFETY: the caller's promise; any byte is a valid u8.
        let arena = unsafe { slice_mut(arena.cast::<u8>(), arena_bytes) }?;
        // SAFETY: the caller's promise; any bits are a valid f32.
        let out = unsafe { slice_mut(out, dimension) }?;
        if model.tests().is_empty() {
            return Err(GROUSE_NO_SELF_TEST);
        }
        if dimension != model.arch().hidden_size as usize {
            return Err(GROUSE_OUTPUT_LENGTH);
        }
        let longest = Plan::longest(&model, arena.len()).map_err(status)?;
        let tokens = longest.ok_or(GROUSE_ARENA_TOO_SMALL)?.tokens.min(capacity.max(2));
        let mut encoder =
            Encoder::new(&model, kernels::default(), arena, tokens).map_err(status)?;
        let summary = model.self_test(&mut encoder, ids, out, |_, _, _| {});
        let counted = GrouseSelfTest {
            passed: summary.passed,
            failed: summary.failed,
            skipped: summary.skipped,
        };
        // SAFETY: the caller's promise.
        unsafe { put(result, counted) };
        if summary.failed > 0 { Err(GROUSE_SELF_TEST_FAILED) } else { Ok(()) }
    };
    finish(run())
}

/// What a status means and what to do, in English; never null.
#[unsafe(no_mangle)]
pub extern "C" fn grouse_status_text(status: GrouseStatus) -> *const c_char {
    words(status).as_ptr()
}

fn words(status: GrouseStatus) -> &'static CStr {
    match status {
        GROUSE_OK => c"ok",
        GROUSE_NOT_GROUSE => c"not a Grouse file: flash one made by `grouse pack` to this address",
        GROUSE_VERSION => {
            c"the file has another version of the format: pack the model again, or update Grouse"
        }
        GROUSE_TRUNCATED => c"the file is cut short: flash it again, whole",
        GROUSE_CHECKSUM => c"a checksum does not match: flash the file again",
        GROUSE_MALFORMED => c"the file is malformed: pack the model again",
        GROUSE_MISALIGNED => c"not aligned: the file needs 16 bytes, arena, ids and output need 4",
        GROUSE_UNSUPPORTED => c"the file uses what this runtime does not know: update Grouse",
        GROUSE_ARENA_TOO_SMALL => c"the arena is too small: grouse_arena_bytes says what is needed",
        GROUSE_TOO_MANY_TOKENS => c"more tokens than the model takes: shorten the text",
        GROUSE_TOKEN_OUT_OF_RANGE => c"an id beyond the vocabulary: tokenize with the same file",
        GROUSE_NO_TOKENS => c"no ids: even an empty text has two",
        GROUSE_INVALID_UTF8 => c"the text is not UTF-8",
        GROUSE_OUTPUT_LENGTH => {
            c"a buffer's length: ids need room for 2, the output for grouse_dimension floats"
        }
        GROUSE_EDITION => {
            c"the file's self-test is of another edition of the arithmetic: pack it again"
        }
        GROUSE_NOT_FINITE => c"the embedding is not finite: the model's weights overflow",
        GROUSE_NULL => c"a null pointer, a length that cannot be, or a model that is not open",
        GROUSE_NO_SELF_TEST => c"the file carries no self-test: pack the model again",
        GROUSE_SELF_TEST_FAILED => {
            c"the self-test gave other bits: the file, the build or the processor is at fault"
        }
        _ => c"unknown status",
    }
}

/// Name of the kernels that this build uses on this processor.
#[unsafe(no_mangle)]
pub extern "C" fn grouse_backend() -> *const c_char {
    let name = kernels::default().name();
    let known = [
        c"scalar",
        c"wide",
        c"dsp",
        c"helium",
        c"neon",
        c"neon-dot",
        c"neon-i8mm",
        c"avx2",
        c"avx-vnni",
        c"avx512-vnni",
    ];
    let found = known.into_iter().find(|known| known.to_bytes() == name.as_bytes());
    found.unwrap_or(c"other").as_ptr()
}

/// The format's version that this library reads.
#[unsafe(no_mangle)]
pub extern "C" fn grouse_format_version() -> u32 {
    u32::from(format::VERSION)
}

/// No function of this library panics for any input; should one all the same, it stops here, where
/// a debugger or a watchdog finds it.
#[cfg(target_os = "none")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}
