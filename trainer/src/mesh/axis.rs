//! Named axes of the mesh and the sets of axes that act as one.

use std::fmt;
use std::ops::BitOr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::MeshError;

/// A dimension of the device mesh, listed from outer to inner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Axis {
    /// Pipeline parallelism: each index holds a part of the layers.
    Pp,
    /// Data parallelism with whole parameters: gradients are reduced across it.
    DpReplicate,
    /// Data parallelism with sharded parameters, gradients and optimizer state.
    DpShard,
    /// Context parallelism: each index holds a part of the sequence.
    Cp,
    /// Tensor parallelism: each index holds a part of each weight matrix.
    Tp,
}

impl Axis {
    /// Every axis, from outer to inner in the default order.
    pub const ALL: [Self; 5] = [Self::Pp, Self::DpReplicate, Self::DpShard, Self::Cp, Self::Tp];

    /// Returns the name used in configurations, messages and manifests.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pp => "pp",
            Self::DpReplicate => "dp_replicate",
            Self::DpShard => "dp_shard",
            Self::Cp => "cp",
            Self::Tp => "tp",
        }
    }
}

impl fmt::Display for Axis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Axis {
    type Err = MeshError;

    fn from_str(name: &str) -> Result<Self, MeshError> {
        Self::ALL
            .into_iter()
            .find(|axis| axis.name() == name)
            .ok_or_else(|| MeshError::UnknownAxis { name: name.to_owned() })
    }
}

/// A set of axes whose ranks communicate as one group.
///
/// The constants are the views the trainer uses; any other set is built with `|` or from an array.
/// In text a set is the name of its view (`fsdp`) or its axes joined by `+` (`dp_shard+tp`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AxisSet(u8);

impl AxisSet {
    /// No axis: every rank is alone.
    pub const EMPTY: Self = Self(0);
    /// All axes: every rank of the run.
    pub const WORLD: Self = Self::of(&Axis::ALL);
    /// `dp_replicate` x `dp_shard`: the ranks that read different samples.
    pub const DP: Self = Self::of(&[Axis::DpReplicate, Axis::DpShard]);
    /// `dp_shard` x `cp`: the ranks that share one copy of the parameters.
    ///
    /// Context-parallel ranks hold the same parameters and different tokens, so they shard too.
    pub const FSDP: Self = Self::of(&[Axis::DpShard, Axis::Cp]);
    /// `dp_replicate` x `dp_shard` x `cp`: the ranks whose token losses add up to the global loss.
    pub const LOSS: Self = Self::of(&[Axis::DpReplicate, Axis::DpShard, Axis::Cp]);

    const VIEWS: [(&'static str, Self); 5] = [
        ("none", Self::EMPTY),
        ("world", Self::WORLD),
        ("dp", Self::DP),
        ("fsdp", Self::FSDP),
        ("loss", Self::LOSS),
    ];

    /// Builds the set of the given axes.
    pub const fn of(axes: &[Axis]) -> Self {
        let mut bits = 0;
        let mut i = 0;
        // A `for` loop is not allowed in a constant.
        while i < axes.len() {
            bits |= 1 << axes[i] as u8;
            i += 1;
        }
        Self(bits)
    }

    /// Tells whether `axis` is in the set.
    pub const fn contains(self, axis: Axis) -> bool {
        self.0 & (1 << axis as u8) != 0
    }

    /// Tells whether the set has no axis.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns the axes that are in both sets.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Returns the axes that are not in the set.
    #[must_use]
    pub const fn complement(self) -> Self {
        Self(Self::WORLD.0 & !self.0)
    }

    /// Iterates over the axes of the set, in the order of [`Axis::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Axis> {
        Axis::ALL.into_iter().filter(move |axis| self.contains(*axis))
    }
}

impl From<Axis> for AxisSet {
    fn from(axis: Axis) -> Self {
        Self::of(&[axis])
    }
}

impl<const N: usize> From<[Axis; N]> for AxisSet {
    fn from(axes: [Axis; N]) -> Self {
        Self::of(&axes)
    }
}

impl<T: Into<Self>> BitOr<T> for AxisSet {
    type Output = Self;

    fn bitor(self, other: T) -> Self {
        Self(self.0 | other.into().0)
    }
}

impl fmt::Display for AxisSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((name, _)) = Self::VIEWS.iter().find(|(_, set)| set == self) {
            return f.pad(name);
        }
        f.pad(&self.iter().map(Axis::name).collect::<Vec<_>>().join("+"))
    }
}

impl FromStr for AxisSet {
    type Err = MeshError;

    fn from_str(text: &str) -> Result<Self, MeshError> {
        if let Some((_, set)) = Self::VIEWS.iter().find(|(name, _)| *name == text) {
            return Ok(*set);
        }
        text.split('+').try_fold(Self::EMPTY, |set, name| Ok(set | name.parse::<Axis>()?))
    }
}

impl Serialize for AxisSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for AxisSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // An owned string: readers that decode from a stream or a map cannot lend one.
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}
