//! WordPiece on the device: text to ids without allocation, equal to Hugging Face `tokenizers`.
