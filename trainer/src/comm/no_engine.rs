//! What a build without an engine for processes says.

use std::sync::Arc;

use super::{JoinError, ProcessWorld};
use crate::world::env::External;

pub(super) fn join(external: &External) -> Result<Arc<dyn ProcessWorld>, JoinError> {
    let world = external.world;
    Err(JoinError::NotBuilt { launcher: world.launcher, world_size: world.world_size })
}

pub(super) fn describe() -> Option<String> {
    None
}
