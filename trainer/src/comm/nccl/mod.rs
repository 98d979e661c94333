//! The engine for ranks that are processes with a GPU each.
//!
//! | file | holds |
//! | --- | --- |
//! | `library` | the calls to NCCL |
//! | `bootstrap` | where processes meet |
//! | `session` | joining the world and leaving it |
//! | `fabric` | communicators by split, and one member's [`Transport`](super::Transport) |
//! | `line` | a communicator with its stream, and the thread that watches what is under way |
//! | `watch` | which operation takes too long |
//! | `device`, `layout` | collectives of device tensors |
//! | `host`, `parcels`, `greeting` | collectives of host data, compared first |
//! | `mail` | tensors from member to member |
//!
//! # Device tensors
//!
//! A collective runs on the stream of its group. On the GPU it waits for what was queued before it, and
//! the stream that takes the result waits for it; the host waits for neither. What it reads and writes
//! stays pinned until that wait is queued, or until it has ended.
//!
//! # Host data
//!
//! Control numbers, texts and checkpoints are staged through memory of the GPU, on the same stream.
//! NCCL moves their bytes only: reductions happen on the host, in the order of the members. Members
//! compare each such call, and with it which calls of device tensors came before; to compare those one
//! by one would make the host wait.
//!
//! # Failures
//!
//! A thread behind the rank's looks at the first operation of every group, and at what NCCL says of its
//! communicators. An operation that takes too long, or a communicator that failed, makes its group fail:
//! the communicator is aborted and the next call or wait of the rank returns the error. NCCL tells
//! members nothing of each other, so they find out by the time limit, unless whoever started the
//! processes ends them first.

mod bootstrap;
#[cfg(feature = "cuda")]
mod device;
#[cfg(feature = "cuda")]
mod fabric;
mod greeting;
#[cfg(feature = "cuda")]
mod host;
mod layout;
#[cfg(feature = "cuda")]
mod library;
#[cfg(feature = "cuda")]
mod line;
#[cfg(feature = "cuda")]
mod mail;
mod parcels;
#[cfg(feature = "cuda")]
mod session;
mod watch;

pub(crate) use bootstrap::{OLDEST, SHARING_VERSION, dotted};
#[cfg(feature = "cuda")]
pub(super) use session::join;
