//! Shards that rest in host memory train like those on the device.

use burn::tensor::Device;
use dream_trainer::fsdp::{ActivationCheckpointing, FullyShardConfig, Reshard};
use dream_trainer::mesh::{Degree, Degrees};
use dream_trainer::optim::OptimizerName;

use crate::parity::{check, fsdp};
use crate::place::device;
use crate::world::Case;

#[test]
fn offloaded_shards_equal_one_rank_on_the_device() {
    let hsdp = Degrees { dp_replicate: Degree::Fixed(2), ..fsdp(2) };
    for (degrees, reshard, checkpointing) in [
        (fsdp(1), Reshard::Parameters, ActivationCheckpointing::None),
        (fsdp(2), Reshard::Parameters, ActivationCheckpointing::None),
        (fsdp(2), Reshard::Parameters, ActivationCheckpointing::Full),
        (fsdp(2), Reshard::Optimizer, ActivationCheckpointing::Selective),
        (hsdp, Reshard::Gradients, ActivationCheckpointing::None),
    ] {
        let config = FullyShardConfig { reshard, cpu_offload: true, ..FullyShardConfig::default() };
        let case = Case {
            degrees,
            config,
            checkpointing,
            optimizer: OptimizerName::Adamw,
            steps: 4,
            microbatches: 2,
            ..Case::default()
        };
        for seen in check(&case) {
            for (path, place) in &seen.devices {
                // The norm is in no unit.
                let expected = if path == "norm.weight" { device() } else { Device::flex() };
                assert_eq!(*place, expected, "{path}");
            }
        }
    }
}
