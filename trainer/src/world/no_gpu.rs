//! What a build without CUDA sees of GPUs.

/// Returns the number of GPUs this process can use: none, because this build cannot.
pub fn visible_gpus() -> usize {
    0
}

/// Returns the version of NCCL this process can use: none, because this build cannot.
pub fn nccl_version() -> Option<u32> {
    None
}
