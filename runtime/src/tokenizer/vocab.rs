//! The `TOKN` section: its header, its vocabulary as a compact trie, and their validation.
//!
//! The pieces that start a word and those that continue one are two radix tries over bytes,
//! written in preorder. A node is a slice away from its parent and its next sibling, so the
//! longest piece at the start of a word is found in one walk down, in place, reading a few dozen
//! bytes per level; a table of 256 first bytes stands in for the roots, which have the most
//! children. `docs/tokenizer.md` specifies every byte.

use bytemuck::{Pod, Zeroable};

use crate::error::{Error, Result, SectionName};
use crate::format::SECTION_TOKENIZER;

/// `Header::kind` of a BERT WordPiece tokenizer.
pub const KIND_BERT_WORDPIECE: u32 = 1;
/// `Header::flags`: remove control characters, make white space plain.
pub const FLAG_CLEAN_TEXT: u32 = 1;
/// `Header::flags`: CJK ideographs are words of their own.
pub const FLAG_CHINESE: u32 = 2;
/// `Header::flags`: decompose (NFD) and remove non-spacing marks.
pub const FLAG_STRIP_ACCENTS: u32 = 4;
/// `Header::flags`: lower-case.
pub const FLAG_LOWERCASE: u32 = 8;
/// Largest `Header::max_word_chars`.
pub const MAX_WORD_CHARS: usize = 128;
/// Most bytes of a piece (without the prefix of continuations) or of an added token.
pub const MAX_PIECE_BYTES: usize = 128;
/// Most nodes between a root of the trie and a leaf.
pub const MAX_DEPTH: usize = 64;
/// Most bytes of the prefix of continuations.
pub const MAX_PREFIX_BYTES: usize = 16;
/// Largest vocabulary.
pub const MAX_VOCAB: u32 = 1 << 24;
/// Entries of a table of first bytes: where each of 256 starts, and the end.
pub const ROOTS: usize = 257;

/// `Node` head: an id follows the label.
pub const NODE_ID: u8 = 0x80;
/// `Node` head: children follow.
pub const NODE_CHILDREN: u8 = 0x40;
/// `Node` head: bytes of the label, less one.
pub const NODE_LABEL: u8 = 0x3F;

const ROOT_BYTES: usize = ROOTS * size_of::<u32>();

/// Start of section `TOKN`, 64 bytes.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Header {
    /// [`KIND_BERT_WORDPIECE`].
    pub kind: u32,
    /// Sum of the `FLAG_…` constants that apply.
    pub flags: u32,
    /// One more than the largest id, at most [`MAX_VOCAB`].
    pub vocab_size: u32,
    /// Id of a word that has no pieces.
    pub unk_id: u32,
    /// Id before the text.
    pub cls_id: u32,
    /// Id after the text.
    pub sep_id: u32,
    /// A word of more characters is unknown; at most [`MAX_WORD_CHARS`].
    pub max_word_chars: u32,
    /// Bytes of an id in a node: 2 when `vocab_size` ≤ 65,536, else 3.
    pub id_bytes: u32,
    /// Bytes of the prefix of continuations, at most [`MAX_PREFIX_BYTES`].
    pub prefix_bytes: u32,
    /// Bytes of the added tokens.
    pub added_bytes: u32,
    /// Bytes of the nodes of both tries.
    pub node_bytes: u32,
    /// Zero.
    pub reserved: [u32; 5],
}

const fn malformed(what: &'static str) -> Error {
    Error::Malformed { section: SectionName(SECTION_TOKENIZER), what }
}

/// Which pieces a place in a word can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Start,
    Continuation,
}

/// A validated `TOKN` section, borrowed.
#[derive(Clone, Copy)]
pub(super) struct Vocab<'a> {
    pub header: Header,
    pub prefix: &'a str,
    starts: &'a [u8],
    continuations: &'a [u8],
    added: &'a [u8],
    /// A bit for each byte that an added token can start with.
    added_first: [u32; 8],
    nodes: &'a [u8],
}

impl<'a> Vocab<'a> {
    pub fn open(section: &'a [u8]) -> Result<Self> {
        const CUT: Error = malformed("it ends before what its header promises");
        let (head, rest) = section.split_at_checked(size_of::<Header>()).ok_or(CUT)?;
        let header: Header =
            bytemuck::try_pod_read_unaligned(head).map_err(|_| malformed("its header"))?;
        check_header(&header)?;

        let (starts, rest) = rest.split_at_checked(ROOT_BYTES).ok_or(CUT)?;
        let (continuations, rest) = rest.split_at_checked(ROOT_BYTES).ok_or(CUT)?;
        let (prefix, rest) = rest.split_at_checked(header.prefix_bytes as usize).ok_or(CUT)?;
        let (added, rest) = rest.split_at_checked(header.added_bytes as usize).ok_or(CUT)?;
        let (nodes, rest) = rest.split_at_checked(header.node_bytes as usize).ok_or(CUT)?;
        if !rest.is_empty() {
            return Err(malformed("it is longer than its header says"));
        }
        let prefix = core::str::from_utf8(prefix).map_err(|_| malformed("its prefix"))?;
        let mut vocab =
            Self { header, prefix, starts, continuations, added, added_first: [0; 8], nodes };
        vocab.check_added()?;
        vocab.check_nodes()?;
        Ok(vocab)
    }

    /// The longest piece that `word` starts with: its length in bytes and its id.
    pub fn longest(&self, place: Place, word: &[u8]) -> Option<(usize, u32)> {
        let mut best = None;
        let mut rest = word;
        let mut siblings = self.root(place, *rest.first()?)?;
        while let Some(wanted) = rest.first() {
            // Siblings ascend and differ in their first byte: at most one can match.
            let node = loop {
                let Some((node, after)) = Node::split(siblings, self.header.id_bytes) else {
                    return best;
                };
                match node.label.first() {
                    Some(first) if first == wanted => break node,
                    Some(first) if first < wanted => siblings = after,
                    _ => return best,
                }
            };
            let Some(tail) = rest.strip_prefix(node.label) else { return best };
            rest = tail;
            if let Some(id) = node.id {
                best = Some((word.len() - rest.len(), id));
            }
            siblings = node.children;
        }
        best
    }

    /// The longest added token that `text` starts with: its length in bytes and its id.
    pub fn added(&self, text: &[u8]) -> Option<(usize, u32)> {
        let first = *text.first()?;
        if self.added_first.get(usize::from(first >> 5))? >> (first & 31) & 1 == 0 {
            return None;
        }
        self.added_tokens()
            .filter(|(content, _)| text.starts_with(content))
            .map(|(content, id)| (content.len(), id))
            .max_by_key(|(len, _)| *len)
    }

    /// The added tokens with their ids.
    pub fn added_tokens(&self) -> impl Iterator<Item = Added<'a>> + use<'a> {
        let mut rest = self.added;
        core::iter::from_fn(move || {
            let (token, after) = split_added(rest)?;
            rest = after;
            Some(token)
        })
    }

    /// Every node of one trie.
    pub fn walk(&self, place: Place) -> Walk<'a> {
        let boundary = self.boundary().min(self.nodes.len());
        let (starts, continuations) = self.nodes.split_at_checked(boundary).unwrap_or_default();
        Walk::new(
            match place {
                Place::Start => starts,
                Place::Continuation => continuations,
            },
            self.header.id_bytes,
        )
    }

    /// Where the nodes of continuations begin.
    fn boundary(&self) -> usize {
        root_entry(self.continuations, 0).unwrap_or_default()
    }

    /// The root node whose label starts with `byte`, or nothing.
    fn root(&self, place: Place, byte: u8) -> Option<&'a [u8]> {
        let table = match place {
            Place::Start => self.starts,
            Place::Continuation => self.continuations,
        };
        let start = root_entry(table, usize::from(byte))?;
        let end = root_entry(table, usize::from(byte) + 1)?;
        self.nodes.get(start..end)
    }

    fn check_added(&mut self) -> Result<()> {
        const BAD: Error = malformed("an added token");
        let mut rest = self.added;
        let mut last: &[u8] = &[];
        while !rest.is_empty() {
            let ((content, id), after) = split_added(rest).ok_or(BAD)?;
            if content <= last
                || content.len() > MAX_PIECE_BYTES
                || core::str::from_utf8(content).is_err()
                || id >= self.header.vocab_size
            {
                return Err(BAD);
            }
            let first = content.first().copied().unwrap_or_default();
            if let Some(bits) = self.added_first.get_mut(usize::from(first >> 5)) {
                *bits |= 1 << (first & 31);
            }
            last = content;
            rest = after;
        }
        Ok(())
    }

    fn check_nodes(&self) -> Result<()> {
        const ROOT: Error = malformed("a table of first bytes");
        let ends = [
            root_entry(self.starts, 0) == Some(0),
            root_entry(self.starts, ROOTS - 1) == root_entry(self.continuations, 0),
            root_entry(self.continuations, ROOTS - 1) == Some(self.nodes.len()),
        ];
        if ends.contains(&false) {
            return Err(ROOT);
        }
        for place in [Place::Start, Place::Continuation] {
            // One root node per table entry that is not empty, so all of them are walked below.
            for byte in 0..=u8::MAX {
                let root = self.root(place, byte).ok_or(ROOT)?;
                if root.is_empty() {
                    continue;
                }
                let (node, after) = Node::split(root, self.header.id_bytes).ok_or(ROOT)?;
                if node.label.first() != Some(&byte) || !after.is_empty() {
                    return Err(ROOT);
                }
            }
            let mut walk = self.walk(place);
            while let Some(id) = walk.next_node().map_err(malformed)? {
                let Some(id) = id else { continue };
                if id >= self.header.vocab_size {
                    return Err(malformed("a piece's id is outside the vocabulary"));
                }
                if core::str::from_utf8(walk.path()).is_err() {
                    return Err(malformed("a piece is not UTF-8"));
                }
            }
        }
        Ok(())
    }
}

fn check_header(header: &Header) -> Result<()> {
    const FLAGS: u32 = FLAG_CLEAN_TEXT | FLAG_CHINESE | FLAG_STRIP_ACCENTS | FLAG_LOWERCASE;
    if header.kind != KIND_BERT_WORDPIECE {
        return Err(Error::Unsupported { what: "this kind of tokenizer" });
    }
    if header.flags & !FLAGS != 0 {
        return Err(Error::Unsupported { what: "a flag of the tokenizer" });
    }
    if header.vocab_size > MAX_VOCAB {
        return Err(malformed("its vocabulary is too large"));
    }
    if [header.unk_id, header.cls_id, header.sep_id].iter().any(|id| *id >= header.vocab_size) {
        return Err(malformed("a special id is outside the vocabulary"));
    }
    if header.max_word_chars as usize > MAX_WORD_CHARS {
        return Err(malformed("its longest word is too long"));
    }
    if header.id_bytes != id_bytes(header.vocab_size) {
        return Err(malformed("its ids have the wrong width"));
    }
    if header.prefix_bytes as usize > MAX_PREFIX_BYTES || header.reserved != [0; 5] {
        return Err(malformed("its header"));
    }
    Ok(())
}

/// Bytes of an id in a node, for a vocabulary of this size.
pub const fn id_bytes(vocab_size: u32) -> u32 {
    if vocab_size <= 1 << 16 { 2 } else { 3 }
}

fn root_entry(table: &[u8], index: usize) -> Option<usize> {
    let (bytes, _) = table.get(index * size_of::<u32>()..)?.split_first_chunk()?;
    Some(u32::from_le_bytes(*bytes) as usize)
}

/// Content and id of an added token.
type Added<'a> = (&'a [u8], u32);

/// Splits off an added token: one byte of length, three bytes of id, the content.
fn split_added(bytes: &[u8]) -> Option<(Added<'_>, &[u8])> {
    let ([len, low, middle, high], rest) = bytes.split_first_chunk()?;
    let (content, rest) = rest.split_at_checked(usize::from(*len))?;
    Some(((content, u32::from_le_bytes([*low, *middle, *high, 0])), rest))
}

/// A node of the trie: head, label, id when there is one, length and bytes of its children.
struct Node<'a> {
    label: &'a [u8],
    id: Option<u32>,
    children: &'a [u8],
}

impl<'a> Node<'a> {
    /// The first node of a list of siblings, and the list after it.
    #[inline]
    fn split(siblings: &'a [u8], id_bytes: u32) -> Option<(Self, &'a [u8])> {
        let (head, rest) = siblings.split_first()?;
        let (label, rest) = rest.split_at_checked(usize::from(head & NODE_LABEL) + 1)?;
        let (id, rest) = if head & NODE_ID == 0 {
            (None, rest)
        } else if id_bytes == 2 {
            let (id, rest) = rest.split_first_chunk()?;
            (Some(u32::from(u16::from_le_bytes(*id))), rest)
        } else {
            let ([low, middle, high], rest) = rest.split_first_chunk()?;
            (Some(u32::from_le_bytes([*low, *middle, *high, 0])), rest)
        };
        let (children, rest) = if head & NODE_CHILDREN == 0 {
            (Default::default(), rest)
        } else {
            let (len, rest) = split_length(rest)?;
            rest.split_at_checked(len)?
        };
        Some((Self { label, id, children }, rest))
    }
}

/// A length in LEB128: seven bits a byte from the lowest, bit 7 on all but the last of up to four.
#[inline]
fn split_length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0;
    let mut rest = bytes;
    for shift in [0, 7, 14, 21] {
        let (byte, after) = rest.split_first()?;
        rest = after;
        value |= usize::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some((value, rest));
        }
    }
    None
}

/// Visits the nodes of a trie in order, checking what the layout promises.
pub(super) struct Walk<'a> {
    /// Siblings yet to come on each level, the length of their parent's path, and the last first
    /// byte.
    levels: heapless::Vec<(&'a [u8], u8, Option<u8>), MAX_DEPTH>,
    path: heapless::Vec<u8, MAX_PIECE_BYTES>,
    id_bytes: u32,
}

impl<'a> Walk<'a> {
    fn new(nodes: &'a [u8], id_bytes: u32) -> Self {
        let mut levels = heapless::Vec::new();
        // There is room for the first.
        let _ = levels.push((nodes, 0, None));
        Self { levels, path: heapless::Vec::new(), id_bytes }
    }

    /// The bytes from the root to the node last visited.
    pub fn path(&self) -> &[u8] {
        &self.path
    }

    /// The next node's id if it ends a piece (`Some(Some(id))`), or the end (`None`).
    pub fn next_node(&mut self) -> core::result::Result<Option<Option<u32>>, &'static str> {
        while let Some((siblings, parent, last)) = self.levels.last_mut() {
            if siblings.is_empty() {
                self.levels.pop();
                continue;
            }
            let (node, after) = Node::split(siblings, self.id_bytes)
                .ok_or("a node of the vocabulary is cut short")?;
            let first = node.label.first().copied();
            if first <= *last {
                return Err("the vocabulary is not in order");
            }
            if node.id.is_none() && node.children.is_empty() {
                return Err("a node of the vocabulary leads nowhere");
            }
            *siblings = after;
            *last = first;
            self.path.truncate(usize::from(*parent));
            self.path.extend_from_slice(node.label).map_err(|_| "a piece is too long")?;
            if !node.children.is_empty() {
                let parent = u8::try_from(self.path.len()).map_err(|_| "a piece is too long")?;
                self.levels
                    .push((node.children, parent, None))
                    .map_err(|_| "the vocabulary is nested too deeply")?;
            }
            return Ok(Some(node.id));
        }
        Ok(None)
    }
}
