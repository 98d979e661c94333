//! What a recipe and a build can do, checked before anything starts.

use super::{
    device::{DeviceKind, FloatType},
    error::{ConfigError, ConfigErrorKind, ConfigErrors},
    layers::Loaded,
    plan::ResolvedConfig,
    resolve::{degree_key, device_key},
    typed::{brief, get},
};
use crate::{fsdp::ActivationCheckpointing, mesh::Axis};

/// Tells whether something can be used, and if not, who lacks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    /// It works.
    Available,
    /// The recipe lacks the setup trait.
    NoTrait,
    /// This build cannot, for the reason given.
    NotBuilt(&'static str),
}

/// Lists what the recipe and the build can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// Name of the recipe, for messages.
    pub recipe: String,
    /// Copies of the model on several ranks; setup trait `ApplyReplicate`.
    pub replicate: Availability,
    /// Sharded parameters; setup trait `ApplyFullyShard`.
    pub fully_shard: Availability,
    /// Shared weight matrices; setup trait `ApplyTensorParallel`.
    pub tensor_parallel: Availability,
    /// Communication that overlaps with tensor-parallel products.
    pub async_tensor_parallel: Availability,
    /// Shared sequences; setup trait `ApplyContextParallel`.
    pub context_parallel: Availability,
    /// Layers in stages; setup trait `ApplyPipelineParallel`.
    pub pipeline_parallel: Availability,
    /// Recomputed activations; setup trait `ApplyActivationCheckpointing`.
    pub activation_checkpointing: Availability,
    /// Units that compute in `bf16` or `f16`; setup trait `ApplyFullyShard`, of which a group of one
    /// rank takes the casts alone.
    pub half_precision: Availability,
    /// GPUs through WebGPU.
    pub wgpu: Availability,
    /// NVIDIA GPUs.
    pub cuda: Availability,
    /// State in host memory.
    pub cpu_offload: Availability,
    /// Fused kernels.
    pub compile: Availability,
}

impl Capabilities {
    /// Returns the capabilities of a recipe with every trait in a build with everything.
    pub fn all(recipe: impl Into<String>) -> Self {
        let yes = Availability::Available;
        Self {
            recipe: recipe.into(),
            replicate: yes,
            fully_shard: yes,
            tensor_parallel: yes,
            async_tensor_parallel: yes,
            context_parallel: yes,
            pipeline_parallel: yes,
            activation_checkpointing: yes,
            half_precision: yes,
            wgpu: yes,
            cuda: yes,
            cpu_offload: yes,
            compile: yes,
        }
    }
}

/// A setting in use, the trait it needs and whether that is there.
struct Need {
    is_used: bool,
    key: &'static str,
    trait_name: &'static str,
    availability: Availability,
}

impl Loaded {
    /// Checks that the recipe and the build can do everything that `resolved` uses.
    ///
    /// # Errors
    /// Returns each setting that needs something missing, with its place and who lacks it.
    pub fn require(
        &self,
        resolved: &ResolvedConfig,
        supported: &Capabilities,
    ) -> Result<(), ConfigErrors> {
        let needs =
            axis_needs(resolved, supported).into_iter().chain(switch_needs(resolved, supported));
        let errors = needs
            .filter(|need| need.is_used)
            .filter_map(|need| self.lacks(resolved, &need, &supported.recipe));
        ConfigErrors::or(errors.collect(), ())
    }

    fn lacks(&self, resolved: &ResolvedConfig, need: &Need, recipe: &str) -> Option<ConfigError> {
        let key = device_key(need.key);
        let setting = format!("{key} = {}", self.value_in_use(resolved, need.key));
        let kind = match need.availability {
            Availability::Available => return None,
            Availability::NoTrait => {
                let (trait_name, recipe) = (need.trait_name, recipe.to_owned());
                ConfigErrorKind::NeedsTrait { setting, trait_name, recipe }
            }
            Availability::NotBuilt(reason) => ConfigErrorKind::Unavailable { setting, reason },
        };
        let place = self.provenance.place(&key);
        // A degree may be the doing of the preset.
        Some(kind.at(place.or_else(|| self.provenance.place(&device_key("preset")))))
    }

    fn value_in_use(&self, resolved: &ResolvedConfig, key: &str) -> String {
        let axis = Axis::ALL.into_iter().find(|axis| degree_key(*axis) == key);
        match axis {
            Some(axis) => resolved.device.mesh.size(axis).to_string(),
            None => get(&self.values, device_key(key).segments()).map_or_else(String::new, brief),
        }
    }
}

fn axis_needs(resolved: &ResolvedConfig, supported: &Capabilities) -> [Need; 5] {
    Axis::ALL.map(|axis| {
        let (trait_name, availability) = match axis {
            Axis::Pp => ("ApplyPipelineParallel", supported.pipeline_parallel),
            Axis::DpReplicate => ("ApplyReplicate", supported.replicate),
            Axis::DpShard => ("ApplyFullyShard", supported.fully_shard),
            Axis::Cp => ("ApplyContextParallel", supported.context_parallel),
            Axis::Tp => ("ApplyTensorParallel", supported.tensor_parallel),
        };
        let is_used = resolved.device.mesh.size(axis) > 1;
        Need { is_used, key: degree_key(axis), trait_name, availability }
    })
}

fn switch_needs(resolved: &ResolvedConfig, supported: &Capabilities) -> Vec<Need> {
    let device = &resolved.device;
    let recomputes = device.activation_checkpointing != ActivationCheckpointing::None;
    let checkpointing = "ApplyActivationCheckpointing";
    let rows = [
        (device.kind == DeviceKind::Wgpu, "device", "", supported.wgpu),
        (device.kind == DeviceKind::Cuda, "device", "", supported.cuda),
        (
            device.param_dtype != FloatType::F32,
            "param_dtype",
            "ApplyFullyShard",
            supported.half_precision,
        ),
        (recomputes, "activation_checkpointing", checkpointing, supported.activation_checkpointing),
        (
            device.async_tensor_parallel,
            "async_tensor_parallel",
            "ApplyTensorParallel",
            supported.async_tensor_parallel,
        ),
        (device.cpu_offload, "cpu_offload", "ApplyFullyShard", supported.cpu_offload),
        (device.compile, "compile", "", supported.compile),
    ];
    rows.into_iter()
        .map(|(is_used, key, trait_name, availability)| Need {
            is_used,
            key,
            trait_name,
            availability,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DeviceParameters, schema};

    #[test]
    fn axes_are_declared_by_keys_that_exist() {
        let root = schema::schema_of::<DeviceParameters>();
        for axis in Axis::ALL {
            let key = [degree_key(axis).to_owned()];
            assert!(schema::find(&root, &root, &key).is_some(), "{axis}");
        }
    }
}
