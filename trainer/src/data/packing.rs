//! Document boundaries inside packed sequences.
//!
//! Documents are laid end to end, each ended by its end-of-document id, and the stream is cut at
//! the sequence length. So a sequence holds parts of several documents, and the id tells them
//! apart. It belongs to the document it ends.

/// Label that adds no loss.
pub const IGNORED_LABEL: i32 = -100;

/// Ignores the labels that predict the first token of a new document: those at an end-of-document
/// id.
pub(crate) fn mask_boundaries(tokens: &[i32], labels: &mut [i32], eos_id: i32) {
    for (token, label) in tokens.iter().zip(labels) {
        if *token == eos_id {
            *label = IGNORED_LABEL;
        }
    }
}

/// Numbers the documents of a sequence from 0 and the tokens of each document from 0, or from its
/// cut at the start of the sequence.
pub(crate) fn number_documents(
    tokens: &[i32],
    eos_id: i32,
    documents: &mut [i32],
    positions: &mut [i32],
) {
    let (mut document, mut position) = (0, 0);
    for (i, token) in tokens.iter().enumerate() {
        documents[i] = document;
        positions[i] = position;
        position += 1;
        if *token == eos_id {
            document += 1;
            position = 0;
        }
    }
}
