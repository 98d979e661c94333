//! The folder of a run: who may write into it, and the names under which earlier files are kept.
//!
//! A folder belongs to one run at a time. [`RunFolder::claim`] takes a lock of the operating system
//! before anything in the folder is written, and a second start learns who holds it. Nothing that
//! an earlier start wrote is erased: what a new start writes again is first given a numbered name.
//! `docs/run-folder.md` lists every file.

mod claim;
mod error;
mod holder;
mod lock;
mod numbered;

pub use claim::RunFolder;
pub(crate) use claim::in_full;
pub use error::RunFolderError;
pub use holder::Holder;
pub(crate) use lock::is_at;
pub(crate) use numbered::{keep, next_numbered, write_anew};
