//! What can be wrong with one call before any other rank is asked.

/// Describes what is wrong with one call, before any other rank is asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallProblem {
    /// A dimension does not exist.
    #[error("dimension {dim} does not exist in a tensor of {rank} dimensions")]
    NoSuchDim {
        /// The dimension.
        dim: usize,
        /// The number of dimensions.
        rank: usize,
    },
    /// A dimension does not divide into equal parts.
    #[error(
        "dimension {dim} of size {size} does not divide into {parts} equal parts; pad it to {padded}"
    )]
    Indivisible {
        /// The dimension.
        dim: usize,
        /// Its size.
        size: usize,
        /// The number of members.
        parts: usize,
        /// The next size that divides.
        padded: usize,
    },
    /// The group has no such member.
    #[error("member {member} does not exist in a group of {size}")]
    NoSuchMember {
        /// The index.
        member: usize,
        /// The size of the group.
        size: usize,
    },
    /// The element type cannot be reduced.
    #[error("{dtype} cannot be reduced; f64, f32, f16, bf16, i64 and i32 can")]
    NotReducible {
        /// The element type.
        dtype: &'static str,
    },
    /// The average of integers is not an integer.
    #[error("the average of {dtype} is not {dtype}; sum and divide, or convert first")]
    IntegerAverage {
        /// The element type.
        dtype: &'static str,
    },
    /// Quantized data has no fixed layout per element.
    #[error("quantized tensors cannot be sent; dequantize first")]
    Quantized,
    /// Only the root of a scatter has a value to give.
    #[error("the root of a scatter gives a tensor and no other member does")]
    ScatterInput,
}
