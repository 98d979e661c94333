//! Sums and maxima over the units of a cube.

use cubecl::prelude::*;

use super::Team;

/// An associative operation of numbers.
#[cube]
pub(crate) trait Combination: 'static + Send + Sync {
    /// Combines two numbers.
    fn pair(a: f32, b: f32) -> f32;

    /// Combines the numbers of a plane.
    fn plane(value: f32) -> f32;
}

/// Adds.
pub(crate) struct Sum;

#[cube]
impl Combination for Sum {
    fn pair(a: f32, b: f32) -> f32 {
        a + b
    }

    fn plane(value: f32) -> f32 {
        plane_sum(value)
    }
}

/// Takes the larger.
pub(crate) struct Highest;

#[cube]
impl Combination for Highest {
    fn pair(a: f32, b: f32) -> f32 {
        max(a, b)
    }

    fn plane(value: f32) -> f32 {
        plane_max(value)
    }
}

/// Combines one number of each unit of a cube, in an order that depends on the team alone; every unit gets the result.
///
/// All units of the cube must take part. The cube is synchronized before and after.
#[cube]
pub(crate) fn combine<C: Combination>(value: f32, #[comptime] team: Team) -> f32 {
    if comptime!(team.plane > 0) {
        by_planes::<C>(value, team)
    } else {
        by_halves::<C>(value, team)
    }
}

#[cube]
fn by_planes<C: Combination>(value: f32, #[comptime] team: Team) -> f32 {
    let plane = comptime!(team.plane);
    let planes = comptime!((team.units / team.plane) as usize);
    let mut shared = Shared::<[f32]>::new_slice(planes);
    let partial = C::plane(value);
    if UNIT_POS.is_multiple_of(plane) {
        shared[(UNIT_POS / plane) as usize] = partial;
    }
    sync_cube();
    let mut total = shared[0];
    #[unroll]
    for i in 1..planes {
        total = C::pair(total, shared[i]);
    }
    sync_cube();
    total
}

#[cube]
fn by_halves<C: Combination>(value: f32, #[comptime] team: Team) -> f32 {
    let units = comptime!(team.units);
    let mut shared = Shared::<[f32]>::new_slice(units as usize);
    shared[UNIT_POS as usize] = value;
    sync_cube();
    let mut half = (units / 2).runtime();
    while half > 0 {
        if UNIT_POS < half {
            let pair = C::pair(shared[UNIT_POS as usize], shared[(UNIT_POS + half) as usize]);
            shared[UNIT_POS as usize] = pair;
        }
        half /= 2;
        sync_cube();
    }
    let total = shared[0];
    sync_cube();
    total
}
