//! The engine for ranks that are processes of an MPI world.
//!
//! | file | holds |
//! | --- | --- |
//! | `library` | the calls into MPI, each with buffers it owns; the only `unsafe` |
//! | `operation` | the operations and what their buffers hold |
//! | `session` | joining the world, this node's share of it, leaving it |
//! | `fabric` | communicators by split, the registry of groups, the thread that keeps things moving |
//! | `state` | what all groups of a rank have under way |
//! | `group` | the calls of one group, compared before they move anything |
//! | `exchange` | a collective as MPI operations with local work between them |
//! | `mail` | tensors from member to member |
//! | `control` | notices of failures, and the question who is missing |
//! | `endpoint` | one member's [`Transport`](super::Transport) |
//!
//! # Threads
//!
//! MPI is used from two threads, one at a time: the rank's, while it issues or waits, and one that
//! advances operations while the rank computes, so that a prefetched gather really moves. That needs
//! `MPI_THREAD_SERIALIZED` only, which every library has, where `MPI_THREAD_MULTIPLE` is optional and
//! slower in some. Nothing ever blocks inside MPI: operations are started and tested, and a wait is
//! a loop of tests with a time limit.
//!
//! # Order
//!
//! A group has two communicators. On the first, each call starts with an all-gather of its header;
//! only calls that agree move data, on the second, where operations start in the order of the calls.
//! So MPI never sees members disagree, which it would answer with anything from an error to wrong
//! numbers.

mod control;
mod endpoint;
mod exchange;
mod fabric;
mod group;
mod library;
mod mail;
mod operation;
mod session;
mod state;

pub(super) use session::{describe, join};
