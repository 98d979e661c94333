//! What a start asks for beside going on, and whether that has been done.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::checkpoint::{Checkpoint, CheckpointConfig, ResetPart};

/// What a configuration asks of a start beside going on. Each checkpoint records the request of the
/// start that wrote it: a start whose request is that of the newest checkpoint is a restart, which
/// goes on instead of carrying the request out again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StartRequest {
    /// Step to resume from.
    pub(crate) resume_step: Option<u64>,
    /// Parts that begin anew, sorted.
    pub(crate) reset: Vec<ResetPart>,
    /// Name that tells this request from an equal one.
    branch: Option<String>,
}

impl StartRequest {
    /// Reads the request of a configuration.
    pub(crate) fn of(config: &CheckpointConfig) -> Self {
        let mut reset = config.reset.clone();
        reset.sort_unstable();
        reset.dedup();
        Self { resume_step: config.resume_step, reset, branch: config.branch.clone() }
    }

    /// Tells whether the start that wrote a checkpoint had asked for the same. What cannot be read is
    /// another request.
    pub(crate) fn is_done_in(&self, checkpoint: &Checkpoint) -> bool {
        let saved = checkpoint.manifest().run.state.get("request");
        saved.map_or(Ok(Self::default()), Self::deserialize).is_ok_and(|saved| saved == *self)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.resume_step.is_none() && self.reset.is_empty()
    }
}

impl fmt::Display for StartRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let step = self.resume_step.map(|step| format!("resume_step = {step}"));
        let parts = serde_json::to_string(&self.reset).map_err(|_| fmt::Error)?;
        let reset = (!self.reset.is_empty()).then(|| format!("reset = {parts}"));
        let branch = self.branch.as_ref().map(|name| format!("branch = \"{name}\""));
        let keys: Vec<String> = [step, reset, branch].into_iter().flatten().collect();
        f.write_str(&keys.join(", "))
    }
}
