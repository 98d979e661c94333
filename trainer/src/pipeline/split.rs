//! How many layers each stage gets.

/// A model that cannot be cut as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SplitError {
    /// A first or last stage without room for what else it holds.
    #[error(
        "{stages} stages of {layers} layers leave {share} for stage {stage}, fewer than the {extra} that its other parts count as: take fewer stages or a smaller `{key}`"
    )]
    NoRoom {
        /// Number of stages.
        stages: usize,
        /// Number of layers.
        layers: usize,
        /// Layers' worth of the stage.
        share: usize,
        /// The stage.
        stage: usize,
        /// Layers' worth of its other parts.
        extra: usize,
        /// The setting of it.
        key: &'static str,
    },
    /// More stages than there is to cut.
    #[error("{layers} layers cannot be cut into {stages} stages: at most {most}")]
    TooManyStages {
        /// Number of layers.
        layers: usize,
        /// Number of stages.
        stages: usize,
        /// The largest number that works.
        most: usize,
    },
}

/// Cuts `layers` into `stages` consecutive parts of nearly equal cost and returns the layers of
/// each, in order.
///
/// The embedding counts as `first_extra` layers and the norm with the head as `last_extra`: the
/// first and the last stage get so many fewer. What does not divide goes to the earlier stages.
/// This is torchtitan's rule.
///
/// # Errors
///
/// More stages than layers with their extras; a share smaller than an extra.
pub fn split_layers(
    layers: usize,
    stages: usize,
    first_extra: usize,
    last_extra: usize,
) -> Result<Vec<usize>, SplitError> {
    let whole = layers + first_extra + last_extra;
    if stages == 0 || stages > whole {
        return Err(SplitError::TooManyStages { layers, stages, most: whole });
    }
    if stages == 1 {
        return Ok(vec![layers]);
    }
    let (share, more) = (whole / stages, whole % stages);
    let mut parts: Vec<usize> =
        (0..stages).map(|stage| share + usize::from(stage < more)).collect();
    let ends = [
        (0, first_extra, "first_stage_less_layers"),
        (stages - 1, last_extra, "last_stage_less_layers"),
    ];
    for (stage, extra, key) in ends {
        let share = parts[stage];
        parts[stage] = share.checked_sub(extra).ok_or(SplitError::NoRoom {
            stages,
            layers,
            share,
            stage,
            extra,
            key,
        })?;
    }
    Ok(parts)
}
