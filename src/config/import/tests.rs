//! See `tests/import.rs` for whole configurations beside nginx itself.
