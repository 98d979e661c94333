//! The framework of dream-train: meshes, collectives, parallelisms and the training loop.
//!
//! Modules stand in reading order; each imports only those above it.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`world`] | who this process or thread is; the only reader of the environment |
//! | [`mesh`] | ranks and coordinates, placements, shards: arithmetic without tensors |
//! | [`backend`] | Burn's internals: tensors of any rank, queues of devices, the GPU's driver |
//! | [`comm`] | process groups and collectives |
//! | [`kernels`] | fused training operations |
//! | [`nn`] | layers, initialization that does not depend on the mesh |
//! | [`tensor_parallel`] | styles, plans, vocab-parallel loss |
//! | [`fsdp`] | sharded units, activation checkpointing |
//! | [`pipeline`] | schedules of pipeline stages as data: made, checked, drawn |
//! | [`data`] | sources, tokenizers, packing, resumable batches |
//! | [`optim`] | optimizers, schedules, clipping |
//! | [`run_folder`] | whose a run's folder is, and names for what earlier starts left |
//! | [`checkpoint`] | sharded checkpoints, Hugging Face directories |
//! | [`metrics`] | the numbers a run reports and where they go |
//! | [`callbacks`] | events of a run and who listens |
//! | [`train`] | setup traits, lifecycle, loop |
//! | [`config`] | layers, typed tables, resolution, errors with places |
//! | [`recipe`] | trainers by name |
//! | [`cli`] | the command line |

mod allocator;

mod files;

pub mod world;

pub mod mesh;

pub mod backend;

pub mod comm;

pub mod kernels;

pub mod nn;

pub mod tensor_parallel;

pub mod fsdp;

pub mod pipeline;

pub mod data;

pub mod optim;

pub mod run_folder;

pub mod checkpoint;

pub mod metrics;

pub mod callbacks;

pub mod train;

pub mod config;

pub mod recipe;

pub mod cli;

pub use allocator::{Allocator, keep_freed_memory};
