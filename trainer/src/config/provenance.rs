//! Where each value of the merged configuration comes from.

use std::{collections::BTreeMap, fmt, sync::Arc};

use super::{
    device::Preset,
    key::KeyPath,
    source::{Place, SourceKind},
};

/// Tells where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The default of its field.
    Default,
    /// The preset of `device_parameters`.
    Preset(Preset),
    /// Something the user wrote: a file, an environment variable or `--set`.
    Written(Place),
    /// Worked out from other values, named here.
    Derived(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Preset(preset) => write!(f, "preset {preset}"),
            Self::Written(place) => f.write_str(&place.brief()),
            Self::Derived(from) => write!(f, "derived from {from}"),
        }
    }
}

/// Answers where values come from, for tables and values alike.
#[derive(Debug, Clone, Default)]
pub struct Provenance {
    /// Origins by path, one map for each layer, the strongest last.
    layers: Arc<Vec<BTreeMap<KeyPath, Origin>>>,
}

impl Provenance {
    pub(crate) fn new(layers: Vec<BTreeMap<KeyPath, Origin>>) -> Self {
        Self { layers: Arc::new(layers) }
    }

    /// Returns the origin of the value at `key`: that of the strongest layer that has it.
    pub fn origin(&self, key: &KeyPath) -> Origin {
        let found = self.layers.iter().rev().find_map(|layer| layer.get(key));
        found.cloned().unwrap_or(Origin::Default)
    }

    /// Returns where the user wrote `key`, or, when it was left to a default, nothing.
    pub fn place(&self, key: &KeyPath) -> Option<Place> {
        match self.origin(key) {
            Origin::Written(place) => Some(place),
            _ => None,
        }
    }

    /// Returns where the user wrote `key` or else the closest table around it.
    pub fn nearest_place(&self, key: &KeyPath) -> Option<Place> {
        let mut key = key.clone();
        loop {
            if let Some(place) = self.place(&key) {
                return Some(place);
            }
            key = key.split_last()?.0;
        }
    }

    /// Returns how strong the layer is in which the user wrote `key`, for a comparison with another
    /// key's: a later file is stronger, then come all variables, then all `--set` arguments.
    pub(crate) fn strength(&self, key: &KeyPath) -> Option<usize> {
        let mut layers = self.layers.iter().enumerate().rev();
        let (layer, origin) = layers.find_map(|(layer, keys)| Some((layer, keys.get(key)?)))?;
        let Origin::Written(place) = origin else { return None };
        Some(match place.source.kind {
            SourceKind::File => layer,
            SourceKind::Environment => usize::MAX - 1,
            SourceKind::Set => usize::MAX,
        })
    }

    /// Returns whether the user wrote `key` rather than leaving it to a default or preset.
    pub fn is_written(&self, key: &KeyPath) -> bool {
        self.place(key).is_some()
    }
}
