//! The rotary position embedding on a `CubeCL` device, as a step of the tape.

use burn::tensor::Tensor;
use burn_cubecl::tensor::CubeTensor;

use super::cube::{Direction, Positions, rotate};
use super::{RopePositions, RopeTable};
use crate::backend::Erased;
use crate::kernels::cube::{closed, opened, opened_integers};
use crate::kernels::fused::{Kernel, apply};

/// Rotates as [`rope`](super::rope) says.
pub(super) fn rope(x: Tensor<4>, table: &RopeTable, positions: &RopePositions) -> Tensor<4> {
    let flat = |table: &Tensor<2>| opened(Erased::new(table.clone()));
    let table = [flat(&table.cos), flat(&table.sin)];
    let positions = match positions {
        RopePositions::Offset(offset) => Positions::Offset(*offset),
        RopePositions::PerToken(ids) => Positions::PerToken(opened_integers(ids.clone())),
    };
    apply([Erased::new(x)], DeviceRope { table, positions })
}

#[derive(Debug, Clone)]
struct DeviceRope {
    table: [CubeTensor; 2],
    positions: Positions,
}

impl DeviceRope {
    fn turn(&self, x: Erased, direction: Direction) -> Erased {
        closed(rotate(opened(x), self.table.clone(), &self.positions, direction))
    }
}

impl Kernel<1, Erased> for DeviceRope {
    type Saved = ();

    fn reads(&self, _needs: [bool; 1]) -> [bool; 1] {
        [false]
    }

    fn forward(&self, [x]: [Erased; 1], _needs: [bool; 1]) -> (Erased, ()) {
        (self.turn(x, Direction::Forward), ())
    }

    fn backward(
        &self,
        _inputs: [Option<Erased>; 1],
        (): (),
        grad: Erased,
        _needs: [bool; 1],
    ) -> [Option<Erased>; 1] {
        [Some(self.turn(grad, Direction::Backward))]
    }
}
