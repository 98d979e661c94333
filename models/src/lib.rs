//! Models of dream-train.
