//! Section `TEST`: a few texts with the hash of what the scalar backend makes of them.

use bytemuck::Zeroable;
use grouse_runtime::encoder::Encoder;
use grouse_runtime::format::{BASE_ALIGN, TestEntry, TestHeader};
use grouse_runtime::kernels::scalar::Scalar;
use grouse_runtime::math::EDITION;
use grouse_runtime::plan::Plan;
use grouse_runtime::self_test::{embedding_crc, ids_crc};
use grouse_runtime::view::Model;

use crate::{Error, Result};

/// The texts: nothing at all, one tile of tokens, awkward characters, and three tiles, so that every
/// path of the kernels is taken.
const TEXTS: [&str; 4] = [
    "",
    "The quick brown fox jumps over the lazy dog.",
    "Na\u{ef}ve caf\u{e9}s, 3.14 \u{2192} \u{4e2d}\u{6587} [MASK] unbelievably!",
    "A man with a hat is playing a guitar on a stage in front of a large crowd, while two women \
     in red dresses dance beside him and somebody at the back of the hall shouts that the music \
     is far too loud for a quiet evening.",
];

/// The section for the packed file `without` it.
///
/// Texts whose embedding is not finite are left out.
///
/// # Errors
/// When the file is not valid.
pub fn section(without: &[u8]) -> Result<Vec<u8>> {
    let refused = || Error::runtime("working out the self-test of the packed model");
    let mut words = vec![0_u128; without.len().div_ceil(BASE_ALIGN)];
    let file: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
    file[..without.len()].copy_from_slice(without);
    let model = Model::open(&file[..without.len()]).map_err(refused())?;
    let tokens = model.arch().max_tokens as usize;
    let mut values = vec![0.0_f32; model.arch().hidden_size as usize];
    let mut entries = Vec::new();
    let mut texts = Vec::new();
    for text in TEXTS {
        let mut ids = vec![0_u32; tokens];
        let encoded = model.tokenizer().encode(text, &mut ids).map_err(refused())?;
        ids.truncate(encoded.tokens);
        let plan = Plan::new(&model, ids.len()).map_err(refused())?;
        let mut arena = vec![0_u128; plan.arena_bytes().div_ceil(size_of::<u128>())];
        let arena = bytemuck::cast_slice_mut(&mut arena);
        let mut encoder = Encoder::with_plan(&model, &Scalar, arena, plan).map_err(refused())?;
        match encoder.embed(&ids, &mut values) {
            Err(grouse_runtime::Error::NotFinite) => continue,
            result => result.map_err(refused())?,
        }
        entries.push(TestEntry {
            text: texts.len() as u32,
            bytes: text.len() as u32,
            tokens: ids.len() as u32,
            ids_crc: ids_crc(&ids),
            embedding_crc: embedding_crc(&values),
            ..TestEntry::zeroed()
        });
        texts.extend_from_slice(text.as_bytes());
    }
    let start = size_of::<TestHeader>() + entries.len() * size_of::<TestEntry>();
    entries.iter_mut().for_each(|entry| entry.text += start as u32);
    let head = TestHeader { count: entries.len() as u32, edition: EDITION, ..TestHeader::zeroed() };
    Ok([bytemuck::bytes_of(&head), bytemuck::cast_slice(&entries), &texts].concat())
}
