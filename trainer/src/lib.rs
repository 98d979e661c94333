//! The framework of dream-train.
