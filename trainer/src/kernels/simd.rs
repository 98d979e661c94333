//! Vector arithmetic: loops compiled for each instruction set and chosen at run time.
//!
//! The functions here are scalar code without branches. [`vectorized`] compiles its closure once per instruction set
//! (AVX-512, AVX2, NEON, none), so that the compiler turns such loops into vectors of the machine's width. Sums keep
//! [`LANES`] partial sums, which fixes their order whatever the width: every machine adds in the same order.

use pulp::{Simd, WithSimd};

use super::arch;

/// Number of partial sums of a reduction.
pub(crate) const LANES: usize = 16;

/// Runs an expression compiled for the calling thread's instruction set.
macro_rules! vectorized {
    ($body:expr) => {
        $crate::kernels::simd::run(
            #[inline(always)]
            || $body,
        )
    };
}
pub(crate) use vectorized;

/// Runs a closure, which must be marked `inline(always)`, compiled for the calling thread's instruction set.
pub(crate) fn run<R>(body: impl FnMut() -> R) -> R {
    /// `FnMut`, because calling a closure as `FnOnce` goes through a shim that is compiled without the instruction set.
    struct Body<F>(F);

    impl<R, F: FnMut() -> R> WithSimd for Body<F> {
        type Output = R;

        #[inline(always)]
        fn with_simd<S: Simd>(mut self, _: S) -> R {
            (self.0)()
        }
    }
    arch::current().dispatch(Body(body))
}

/// Approximates `e^x` to about one unit in the last place.
///
/// Arguments below -69 (results below `1e-30`) give zero, which keeps denormal numbers out of the products that follow:
/// they would slow them tenfold. Results saturate near `2.4e38` instead of reaching infinity; NaN stays NaN.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const LOW: f32 = -69.0;
    // The highest argument whose power of two is finite.
    const HIGH: f32 = 88.376_26;
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits of the mantissa.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts: the first has few bits, so that its product with a small integer is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let vanishes = x < LOW;
    let x = if vanishes { LOW } else { x };
    let x = if x > HIGH { HIGH } else { x };
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, x));
    // Taylor's series: on |r| <= ln(2) / 2 the first omitted term is below 6e-9.
    let mut p = 1.0 / 5040.0f32;
    p = p.mul_add(r, 1.0 / 720.0);
    p = p.mul_add(r, 1.0 / 120.0);
    p = p.mul_add(r, 1.0 / 24.0);
    p = p.mul_add(r, 1.0 / 6.0);
    p = p.mul_add(r, 0.5);
    p = p.mul_add(r, 1.0);
    p = p.mul_add(r, 1.0);
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    if vanishes { 0.0 } else { p * power }
}

/// Approximates the error function to about `1e-7`.
///
/// `erfc(z) e^(z^2)` is a polynomial in `t = 1 / (1 + 0.35 z)`, interpolated at Chebyshev nodes for `z` from 0 to 10.
#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    const COEFFICIENTS: [f32; 10] = [
        0.197_489_27,
        0.197_030_74,
        0.188_806_4,
        0.146_915_78,
        0.158_554_69,
        0.063_405_12,
        0.001_045_604_5,
        0.159_641_22,
        -0.149_543_54,
        0.036_654_73,
    ];
    let z = x.abs();
    let t = 1.0 / z.mul_add(0.35, 1.0);
    let mut p = COEFFICIENTS[9];
    let mut i = 9;
    while i > 0 {
        i -= 1;
        p = p.mul_add(t, COEFFICIENTS[i]);
    }
    let complement = t * p * exp(-z * z);
    (1.0 - complement).copysign(x)
}

/// Approximates `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Returns the sum of a slice.
#[inline(always)]
pub(crate) fn sum(values: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] += chunk[lane];
        }
    }
    for (value, lane) in rest.iter().zip(&mut lanes) {
        *lane += value;
    }
    total(lanes)
}

/// Returns the sum of `a b c` over three slices of one length.
#[inline(always)]
pub(crate) fn sum3(a: &[f32], b: &[f32], c: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    let (c_chunks, c_rest) = c.as_chunks::<LANES>();
    for ((a, b), c) in a_chunks.iter().zip(b_chunks).zip(c_chunks) {
        for lane in 0..LANES {
            lanes[lane] = (a[lane] * b[lane]).mul_add(c[lane], lanes[lane]);
        }
    }
    for (((a, b), c), lane) in a_rest.iter().zip(b_rest).zip(c_rest).zip(&mut lanes) {
        *lane = (a * b).mul_add(*c, *lane);
    }
    total(lanes)
}

/// Returns the inner product of two slices of one length.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..LANES {
            lanes[lane] = a[lane].mul_add(b[lane], lanes[lane]);
        }
    }
    for ((a, b), lane) in a_rest.iter().zip(b_rest).zip(&mut lanes) {
        *lane = a.mul_add(*b, *lane);
    }
    total(lanes)
}

/// Returns the sum of `e^(x - shift)` over a slice.
#[inline(always)]
pub(crate) fn sum_exp(values: &[f32], shift: f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] += exp(chunk[lane] - shift);
        }
    }
    for (value, lane) in rest.iter().zip(&mut lanes) {
        *lane += exp(value - shift);
    }
    total(lanes)
}

/// Replaces each element by `e^(x - shift)` and returns their sum.
#[inline(always)]
pub(crate) fn exp_in_place(values: &mut [f32], shift: f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (chunks, rest) = values.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            chunk[lane] = exp(chunk[lane] - shift);
            lanes[lane] += chunk[lane];
        }
    }
    for (value, lane) in rest.iter_mut().zip(&mut lanes) {
        *value = exp(*value - shift);
        *lane += *value;
    }
    total(lanes)
}

/// Returns the largest element, or negative infinity of none; NaN wins.
#[inline(always)]
pub(crate) fn max(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] = larger(chunk[lane], lanes[lane]);
        }
    }
    for (value, lane) in rest.iter().zip(&mut lanes) {
        *lane = larger(*value, *lane);
    }
    lanes.into_iter().fold(f32::NEG_INFINITY, |a, b| larger(b, a))
}

/// Returns the larger of two numbers; a NaN on either side wins, because a loss must show it.
#[inline(always)]
pub(crate) fn larger(a: f32, b: f32) -> f32 {
    if a > b || a.is_nan() { a } else { b }
}

#[inline(always)]
fn total(lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    let mut lanes = lanes;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the largest relative error of `approximate` over evenly spaced arguments.
    fn largest_error(
        [low, high]: [f32; 2],
        approximate: fn(f32) -> f32,
        exact: fn(f64) -> f64,
    ) -> f64 {
        let points = 200_000;
        (0..=points)
            .map(|i| low + (high - low) * i as f32 / points as f32)
            .map(|x| (f64::from(approximate(x)) / exact(f64::from(x)) - 1.0).abs())
            .fold(0.0, f64::max)
    }

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        let error = largest_error([-68.9, 88.3], exp, f64::exp);
        assert!(error < 2.0 * f64::from(f32::EPSILON), "{error:e}");
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn exp_vanishes_saturates_and_keeps_not_a_number() {
        assert_eq!([exp(-70.0), exp(f32::NEG_INFINITY)], [0.0; 2]);
        assert!(exp(1000.0) > 2e38 && exp(f32::INFINITY).is_finite());
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn erf_is_close_at_known_points() {
        let known =
            [(0.0, 0.0), (0.5, 0.520_499_9), (1.0, 0.842_700_8), (2.0, 0.995_322_3), (9.0, 1.0)];
        for (x, expected) in known {
            assert!((erf(x) - expected).abs() < 2e-7, "erf({x}) = {}", erf(x));
            assert!((erf(-x) + expected).abs() < 2e-7, "erf(-{x}) = {}", erf(-x));
        }
    }

    #[test]
    fn reductions_cover_every_element_and_show_not_a_number() {
        for len in [0usize, 1, 15, 16, 17, 100] {
            let values: Vec<f32> = (0..len).map(|i| i as f32).collect();
            let expected = (len * len.saturating_sub(1) / 2) as f32;
            assert_eq!(sum(&values), expected);
            assert_eq!(dot(&values, &vec![1.0; len]), expected);
            assert_eq!(max(&values), values.last().copied().unwrap_or(f32::NEG_INFINITY));
            for position in 0..len {
                let mut values = values.clone();
                values[position] = f32::NAN;
                assert!(max(&values).is_nan());
            }
        }
    }
}
