//! How a tensor lies along one set of mesh axes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::MeshError;

/// How the partial values of a group combine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReduceKind {
    /// The sum over the ranks.
    Sum,
    /// The mean over the ranks.
    Avg,
    /// The largest value.
    Max,
    /// The smallest value.
    Min,
}

impl ReduceKind {
    const ALL: [Self; 4] = [Self::Sum, Self::Avg, Self::Max, Self::Min];

    const fn name(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Avg => "avg",
            Self::Max => "max",
            Self::Min => "min",
        }
    }
}

impl fmt::Display for ReduceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The layout of a tensor along one set of axes, written `S(dim)`, `R` or `P(sum)`.
///
/// Changing one placement into another is communication:
///
/// | from | to | operation |
/// | --- | --- | --- |
/// | `S(i)` | `R` | all-gather along dimension i |
/// | `P` | `R` | all-reduce |
/// | `P` | `S(i)` | reduce-scatter along dimension i |
/// | `R` | `S(i)` | local slice, no communication |
/// | `S(i)` | `S(j)` | all-to-all |
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Placement {
    /// Each rank holds a contiguous part of this tensor dimension.
    Shard(usize),
    /// Each rank holds the whole tensor.
    Replicate,
    /// Each rank holds a term of the global tensor, in its full shape.
    Partial(ReduceKind),
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shard(dim) => write!(f, "S({dim})"),
            Self::Replicate => f.write_str("R"),
            Self::Partial(kind) => write!(f, "P({kind})"),
        }
    }
}

impl FromStr for Placement {
    type Err = MeshError;

    fn from_str(text: &str) -> Result<Self, MeshError> {
        let argument = |prefix| text.strip_prefix(prefix)?.strip_suffix(')');
        let dim = argument("S(").and_then(|dim| dim.parse().ok());
        let kind = argument("P(")
            .and_then(|name| ReduceKind::ALL.into_iter().find(|kind| kind.name() == name));
        match (text, dim, kind) {
            ("R", ..) => Ok(Self::Replicate),
            (_, Some(dim), _) => Ok(Self::Shard(dim)),
            (_, _, Some(kind)) => Ok(Self::Partial(kind)),
            _ => Err(MeshError::InvalidPlacement { text: text.to_owned() }),
        }
    }
}

impl Serialize for Placement {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Placement {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}
