//! Declared degrees and their resolution against a world size.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Axis, AxisSet, DeviceMesh, MeshError, MeshOrder};

const EXPECTED: &str = "an integer of at least 1 or \"auto\"";

/// The configured size of one axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Degree {
    /// Whatever the other degrees leave of the world size.
    Auto,
    /// This many ranks; 1 turns the axis off.
    Fixed(usize),
}

impl Default for Degree {
    fn default() -> Self {
        Self::Fixed(1)
    }
}

impl From<usize> for Degree {
    fn from(degree: usize) -> Self {
        Self::Fixed(degree)
    }
}

impl fmt::Display for Degree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.pad("auto"),
            Self::Fixed(degree) => fmt::Display::fmt(degree, f),
        }
    }
}

impl FromStr for Degree {
    type Err = MeshError;

    fn from_str(text: &str) -> Result<Self, MeshError> {
        match (text, text.parse()) {
            ("auto", _) => Ok(Self::Auto),
            (_, Ok(degree)) if degree > 0 => Ok(Self::Fixed(degree)),
            _ => Err(MeshError::InvalidDegree { text: text.to_owned() }),
        }
    }
}

impl Serialize for Degree {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Fixed(degree) => serializer.serialize_u64(*degree as u64),
        }
    }
}

impl<'de> Deserialize<'de> for Degree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DegreeVisitor)
    }
}

struct DegreeVisitor;

impl Visitor<'_> for DegreeVisitor {
    type Value = Degree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED)
    }

    fn visit_u64<E: de::Error>(self, degree: u64) -> Result<Degree, E> {
        match usize::try_from(degree) {
            Ok(degree) if degree > 0 => Ok(Degree::Fixed(degree)),
            _ => Err(E::invalid_value(Unexpected::Unsigned(degree), &self)),
        }
    }

    fn visit_i64<E: de::Error>(self, degree: i64) -> Result<Degree, E> {
        match u64::try_from(degree) {
            Ok(degree) => self.visit_u64(degree),
            Err(_) => Err(E::invalid_value(Unexpected::Signed(degree), &self)),
        }
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Degree, E> {
        match text {
            "auto" => Ok(Degree::Auto),
            _ => Err(E::invalid_value(Unexpected::Str(text), &self)),
        }
    }
}

impl JsonSchema for Degree {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Degree".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Ranks along one mesh axis: a number, or what the other axes leave.",
            "anyOf": [{ "type": "integer", "minimum": 1 }, { "const": "auto" }],
        })
    }
}

/// The declared degree of every axis.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Degrees {
    /// Pipeline stages.
    pub pp: Degree,
    /// Whole copies of the model.
    pub dp_replicate: Degree,
    /// Shards of one copy.
    pub dp_shard: Degree,
    /// Parts of the sequence.
    pub cp: Degree,
    /// Parts of each weight matrix.
    pub tp: Degree,
}

impl Degrees {
    /// Returns the degree of one axis.
    pub const fn get(&self, axis: Axis) -> Degree {
        match axis {
            Axis::Pp => self.pp,
            Axis::DpReplicate => self.dp_replicate,
            Axis::DpShard => self.dp_shard,
            Axis::Cp => self.cp,
            Axis::Tp => self.tp,
        }
    }

    /// Resolves the degrees to the mesh of `world_size` ranks.
    ///
    /// # Errors
    /// Returns an error that carries the numbers if a degree or the world size is zero, more than
    /// one degree is `auto`, or the product does not make up the world size exactly.
    pub fn resolve(&self, world_size: usize, order: MeshOrder) -> Result<DeviceMesh, MeshError> {
        if world_size == 0 {
            return Err(MeshError::ZeroWorld);
        }
        let product = self.product()?;
        let auto = self.auto_axis()?;
        let (degrees, rest) = (*self, world_size / product);
        match auto {
            None if product != world_size => {
                Err(MeshError::ProductMismatch { degrees, product, world_size })
            }
            Some(axis) if !world_size.is_multiple_of(product) => {
                Err(MeshError::IndivisibleWorld { degrees, product, world_size, axis })
            }
            _ => Ok(DeviceMesh::from_sizes(
                Axis::ALL.map(|axis| match self.get(axis) {
                    Degree::Auto => rest,
                    Degree::Fixed(degree) => degree,
                }),
                order,
            )),
        }
    }

    /// Lists, axis by axis, the nearest degree that would fit the world with the others unchanged.
    pub(crate) fn nearest_valid(&self, world_size: usize) -> Option<String> {
        let product = self.product().ok()?;
        let is_exact = self.auto_axis().ok()?.is_none();
        let mut choices = Vec::new();
        for axis in Axis::ALL {
            let Degree::Fixed(degree) = self.get(axis) else {
                continue;
            };
            let others = product / degree;
            // An axis that is off stays off, except the one that takes what is left.
            let is_choice = degree > 1 || (is_exact && axis == Axis::DpShard);
            if is_choice && world_size.is_multiple_of(others) {
                let free = world_size / others;
                let nearest = if is_exact { free } else { nearest_divisor(free, degree) };
                choices.push(format!("`{axis}` = {nearest}"));
            }
        }
        let below = world_size / product * product;
        let worlds = if is_exact {
            [Some(product), None]
        } else {
            [Some(below), below.checked_add(product)]
        };
        let worlds = worlds.into_iter().flatten().filter(|size| *size > 0);
        choices.extend(worlds.map(|size| format!("world size {size}")));
        Some(format!("nearest that fit, one at a time: {}", choices.join(", ")))
    }

    /// Returns the product of the fixed degrees.
    pub(crate) fn product(&self) -> Result<usize, MeshError> {
        Axis::ALL.into_iter().try_fold(1_usize, |product, axis| match self.get(axis) {
            Degree::Auto => Ok(product),
            Degree::Fixed(0) => Err(MeshError::ZeroDegree { axis }),
            Degree::Fixed(degree) => {
                product.checked_mul(degree).ok_or(MeshError::ProductOverflow { degrees: *self })
            }
        })
    }

    fn auto_axis(&self) -> Result<Option<Axis>, MeshError> {
        let mut autos = Axis::ALL.into_iter().filter(|axis| self.get(*axis) == Degree::Auto);
        let first = autos.next();
        let axes = autos.fold(AxisSet::EMPTY, |set, axis| set | axis);
        match first {
            Some(first) if !axes.is_empty() => Err(MeshError::SeveralAuto { axes: axes | first }),
            _ => Ok(first),
        }
    }
}

/// Writes the fixed degrees other than 1 as a product, outer to inner: `pp 2 x tp 4`.
impl fmt::Display for Degrees {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let factors: Vec<String> = Axis::ALL
            .into_iter()
            .filter(|axis| !matches!(self.get(*axis), Degree::Auto | Degree::Fixed(1)))
            .map(|axis| format!("{axis} {}", self.get(axis)))
            .collect();
        f.pad(&if factors.is_empty() { "degrees of 1".to_owned() } else { factors.join(" x ") })
    }
}

fn nearest_divisor(n: usize, to: usize) -> usize {
    // Enough for any real degree, and a bound on the time a hint may take.
    const SEARCHED: usize = 1 << 16;
    let divides = |d: &usize| n.is_multiple_of(*d);
    let below = (1..=to.min(n)).rev().take(SEARCHED).find(divides).unwrap_or(1);
    // A divisor above is only nearer within the distance of the one below.
    (to..to.saturating_add(to - below)).take(SEARCHED).find(divides).unwrap_or(below)
}
