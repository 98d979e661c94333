//! Arithmetic of reductions on slices, in loops the compiler turns into SIMD.

use std::mem::MaybeUninit;

use burn::tensor::{bf16, f16};

use super::super::ReduceOp;

/// A value that reductions accumulate in.
pub(crate) trait Accumulator: Copy + Default {
    fn add(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn larger(self, other: Self) -> Self;
    fn smaller(self, other: Self) -> Self;
    fn divide(self, count: usize) -> Self;
}

/// An element type of tensors, and the type its reductions run in.
pub(crate) trait Lane: Copy {
    type Wide: Accumulator;
    fn widen(self) -> Self::Wide;
    fn narrow(wide: Self::Wide) -> Self;
}

macro_rules! float_accumulator {
    ($type:ty) => {
        impl Accumulator for $type {
            #[inline]
            fn add(self, other: Self) -> Self {
                self + other
            }
            #[inline]
            fn mul(self, other: Self) -> Self {
                self * other
            }
            // A NaN in either operand stays: it fails every comparison, so it is asked for by name.
            #[inline]
            fn larger(self, other: Self) -> Self {
                if other > self || other.is_nan() { other } else { self }
            }
            #[inline]
            fn smaller(self, other: Self) -> Self {
                if other < self || other.is_nan() { other } else { self }
            }
            #[inline]
            fn divide(self, count: usize) -> Self {
                self / count as $type
            }
        }
    };
}

macro_rules! integer_accumulator {
    ($type:ty) => {
        impl Accumulator for $type {
            #[inline]
            fn add(self, other: Self) -> Self {
                self.wrapping_add(other)
            }
            #[inline]
            fn mul(self, other: Self) -> Self {
                self.wrapping_mul(other)
            }
            #[inline]
            fn larger(self, other: Self) -> Self {
                self.max(other)
            }
            #[inline]
            fn smaller(self, other: Self) -> Self {
                self.min(other)
            }
            fn divide(self, _: usize) -> Self {
                unreachable!("the average of integers is refused before it comes here")
            }
        }
    };
}

macro_rules! exact_lane {
    ($type:ty) => {
        impl Lane for $type {
            type Wide = Self;
            #[inline]
            fn widen(self) -> Self {
                self
            }
            #[inline]
            fn narrow(wide: Self) -> Self {
                wide
            }
        }
    };
}

float_accumulator!(f32);
float_accumulator!(f64);
integer_accumulator!(i32);
integer_accumulator!(i64);
exact_lane!(f32);
exact_lane!(f64);
exact_lane!(i32);
exact_lane!(i64);

impl Lane for bf16 {
    type Wide = f32;
    #[inline]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    /// Rounds to nearest, ties to even, without a branch in the loop.
    #[inline]
    fn narrow(wide: f32) -> Self {
        let bits = wide.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        let quiet = (bits >> 16) | 0x40;
        Self::from_bits(if wide.is_nan() { quiet } else { rounded } as u16)
    }
}

impl Lane for f16 {
    type Wide = f32;
    #[inline]
    fn widen(self) -> f32 {
        self.to_f32()
    }
    #[inline]
    fn narrow(wide: f32) -> Self {
        Self::from_f32(wide)
    }
}

/// Starts an accumulation with the first input.
pub(crate) fn start<L: Lane>(acc: &mut [L::Wide], input: &[L]) {
    for (acc, x) in acc.iter_mut().zip(input) {
        *acc = x.widen();
    }
}

/// Takes one more input into an accumulation.
pub(crate) fn fold<L: Lane>(acc: &mut [L::Wide], input: &[L], op: ReduceOp) {
    fn each<L: Lane>(acc: &mut [L::Wide], input: &[L], f: impl Fn(L::Wide, L::Wide) -> L::Wide) {
        for (acc, x) in acc.iter_mut().zip(input) {
            *acc = f(*acc, x.widen());
        }
    }
    match op {
        ReduceOp::Sum | ReduceOp::Avg => each(acc, input, Accumulator::add),
        ReduceOp::Prod => each(acc, input, Accumulator::mul),
        ReduceOp::Max => each(acc, input, Accumulator::larger),
        ReduceOp::Min => each(acc, input, Accumulator::smaller),
    }
}

/// Ends an accumulation over `count` inputs.
pub(crate) fn finish<A: Accumulator>(acc: &mut [A], count: usize, op: ReduceOp) {
    if op == ReduceOp::Avg {
        for acc in acc {
            *acc = acc.divide(count);
        }
    }
}

/// Writes an accumulation to a result that may not hold anything yet.
pub(crate) fn store<L: Lane>(acc: &[L::Wide], result: &mut [MaybeUninit<L>]) {
    for (result, acc) in result.iter_mut().zip(acc) {
        result.write(L::narrow(*acc));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_rounds_like_the_half_crate() {
        let values = [0.0, -0.0, 1.0, 1.003_906_2, 1.011_718_8, -3.1, 1e-40, f32::MAX, f32::MIN];
        for x in values.into_iter().chain([f32::INFINITY, f32::NEG_INFINITY]) {
            assert_eq!(<bf16 as Lane>::narrow(x), bf16::from_f32(x), "{x}");
        }
        assert!(<bf16 as Lane>::narrow(f32::NAN).is_nan());
        assert!(<bf16 as Lane>::narrow(f32::from_bits(0x7f80_0001)).is_nan());
    }
}
