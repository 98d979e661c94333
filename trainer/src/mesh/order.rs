//! The order of the mesh axes: which of them changes slowest with the rank.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Axis, MeshError};

/// The order of the axes, from outer (slowest) to inner (fastest).
///
/// Tensor and context parallelism communicate most and stay innermost, on neighboring ranks. Only
/// the outermost axis is a choice. A checkpoint stores the order, since it decides which rank holds
/// which shard. In text `dp` stands for `dp_replicate,dp_shard`.
///
/// # References
/// The Llama 3 Herd of Models, arXiv 2407.21783, section 3.3.2: the order tp, cp, pp, dp from inner
/// to outer is [`MeshOrder::DpOutermost`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MeshOrder {
    /// `pp, dp_replicate, dp_shard, cp, tp`: stages are far apart, data-parallel ranks are closer.
    #[default]
    PpOutermost,
    /// `dp_replicate, dp_shard, pp, cp, tp`: each replica of the model is one block of ranks.
    DpOutermost,
}

impl MeshOrder {
    /// Returns all axes from outer to inner.
    pub const fn axes(self) -> [Axis; 5] {
        match self {
            Self::PpOutermost => Axis::ALL,
            Self::DpOutermost => [Axis::DpReplicate, Axis::DpShard, Axis::Pp, Axis::Cp, Axis::Tp],
        }
    }

    /// Returns the short spelling.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PpOutermost => "pp,dp,cp,tp",
            Self::DpOutermost => "dp,pp,cp,tp",
        }
    }

    fn from_names<'a>(names: impl Iterator<Item = &'a str>) -> Result<Self, MeshError> {
        let names: Vec<&str> = names.map(str::trim).collect();
        for name in names.iter().filter(|name| **name != "dp") {
            name.parse::<Axis>()?;
        }
        let given = names.join(",");
        match given.replace("dp_replicate,dp_shard", "dp").as_str() {
            "pp,dp,cp,tp" => Ok(Self::PpOutermost),
            "dp,pp,cp,tp" => Ok(Self::DpOutermost),
            _ => Err(MeshError::UnsupportedOrder { given }),
        }
    }
}

impl fmt::Display for MeshOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for MeshOrder {
    type Err = MeshError;

    fn from_str(text: &str) -> Result<Self, MeshError> {
        Self::from_names(text.split(','))
    }
}

impl TryFrom<&[String]> for MeshOrder {
    type Error = MeshError;

    fn try_from(names: &[String]) -> Result<Self, MeshError> {
        Self::from_names(names.iter().map(String::as_str))
    }
}

impl Serialize for MeshOrder {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for MeshOrder {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OrderVisitor)
    }
}

struct OrderVisitor;

impl<'de> Visitor<'de> for OrderVisitor {
    type Value = MeshOrder;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the mesh axes from outer to inner, such as \"pp,dp,cp,tp\" or a list of them")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<MeshOrder, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<MeshOrder, A::Error> {
        let mut names: Vec<String> = Vec::new();
        while let Some(name) = list.next_element()? {
            names.push(name);
        }
        MeshOrder::try_from(names.as_slice()).map_err(de::Error::custom)
    }
}

impl JsonSchema for MeshOrder {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "MeshOrder".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Mesh axes from outer to inner, as a comma string or a list.",
            "enum": [
                "pp,dp,cp,tp",
                "dp,pp,cp,tp",
                ["pp", "dp", "cp", "tp"],
                ["dp", "pp", "cp", "tp"],
            ],
        })
    }
}
