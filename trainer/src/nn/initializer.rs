//! Counter-based initial values.

use std::ops::Range;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rayon::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

/// Distribution of a parameter's initial values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Initializer {
    /// Every element is this value.
    Constant(f32),
    /// Normal with mean 0.
    Normal {
        /// Standard deviation.
        std: f64,
    },
    /// Normal with mean 0, drawn again from within the cut until it fits: the tails carry no mass.
    TruncatedNormal {
        /// Standard deviation before truncation.
        std: f64,
        /// Largest magnitude, in standard deviations.
        cut: f64,
    },
    /// Uniform in `[-bound, bound)`.
    Uniform {
        /// Half width.
        bound: f64,
    },
}

/// Elements made by one task; a multiple of the generator's block.
const CHUNK: usize = 1 << 14;

impl Initializer {
    /// Fills `out` with elements `start..start + out.len()` of the parameter called `path`.
    ///
    /// Element `i` takes words `2i` and `2i + 1` of a `ChaCha8` stream keyed by the seed and the
    /// path, mapped through the inverse distribution function, so the values do not depend on how a
    /// parameter is cut into slices or on the number of threads.
    pub fn fill(&self, seed: u64, path: &str, start: usize, out: &mut [f32]) {
        if let Self::Constant(value) = self {
            out.fill(*value);
            return;
        }
        let stream = xxh3_64(path.as_bytes());
        out.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, out)| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(stream);
            rng.set_word_pos(2 * (start + chunk * CHUNK) as u128);
            for x in out {
                // Centered in its cell, so neither 0 nor 1 occurs.
                let u = ((rng.next_u64() >> 11) as f64 + 0.5) * (1.0 / (1u64 << 53) as f64);
                *x = self.quantile(u) as f32;
            }
        });
    }

    /// Makes the block of rows and columns `ranges` of a parameter with the given global shape, in
    /// row-major order.
    ///
    /// # Panics
    ///
    /// If `ranges` does not have one range per dimension within the shape.
    pub fn block(
        &self,
        seed: u64,
        path: &str,
        shape: &[usize],
        ranges: &[Range<usize>],
    ) -> Vec<f32> {
        assert_eq!(shape.len(), ranges.len(), "one range per dimension");
        assert!(
            ranges.iter().zip(shape).all(|(range, len)| range.end <= *len),
            "ranges lie within the shape"
        );
        let mut out = vec![0.0; ranges.iter().map(ExactSizeIterator::len).product()];
        // Trailing dimensions taken whole make contiguous runs.
        let whole =
            ranges.iter().zip(shape).rev().take_while(|(range, len)| range.len() == **len).count();
        let split = shape.len().saturating_sub(whole + 1);
        let inner: usize = shape.iter().skip(split + 1).product();
        let run = ranges.get(split).map_or(1, |range| range.len() * inner);
        if run == 0 {
            return out;
        }
        let mut index: Vec<usize> = ranges[..split].iter().map(|range| range.start).collect();
        for out in out.chunks_mut(run) {
            let row = index.iter().zip(shape).fold(0, |acc, (i, len)| acc * len + i);
            let start =
                ranges.get(split).map_or(0, |range| (row * shape[split] + range.start) * inner);
            self.fill(seed, path, start, out);
            for dim in (0..split).rev() {
                index[dim] += 1;
                if index[dim] < ranges[dim].end {
                    break;
                }
                index[dim] = ranges[dim].start;
            }
        }
        out
    }

    fn quantile(&self, u: f64) -> f64 {
        match *self {
            Self::Constant(value) => f64::from(value),
            Self::Normal { std } => std * normal_quantile(u),
            Self::TruncatedNormal { std, cut } => {
                let low = normal_cdf(-cut);
                let z = normal_quantile(low + u * (1.0 - 2.0 * low));
                std * z.clamp(-cut, cut)
            }
            Self::Uniform { bound } => bound * (2.0 * u - 1.0),
        }
    }
}

/// Standard normal distribution function, by integrating its density with the midpoint rule from
/// the center.
///
/// Called once per truncated parameter slice element's cut, at moderate arguments only; absolute
/// error is below 1e-12 there.
fn normal_cdf(z: f64) -> f64 {
    const CELLS: usize = 64;
    // Gauss-Legendre with three nodes per cell.
    const NODES: [(f64, f64); 3] = [
        (-0.774_596_669_241_483_4, 5.0 / 9.0),
        (0.0, 8.0 / 9.0),
        (0.774_596_669_241_483_4, 5.0 / 9.0),
    ];
    let half = z / (2 * CELLS) as f64;
    let integral: f64 = (0..CELLS)
        .flat_map(|cell| {
            NODES.map(|(node, weight)| (half * ((2 * cell + 1) as f64 + node), weight))
        })
        .map(|(x, weight)| weight * half * (-0.5 * x * x).exp())
        .sum();
    0.5 + integral / std::f64::consts::TAU.sqrt()
}

/// Inverse of the standard normal distribution function, relative error about 1e-16.
///
/// # References
///
/// Wichura, "Algorithm AS 241: The percentage points of the normal distribution", Applied
/// Statistics 37 (1988), PPND16.
fn normal_quantile(p: f64) -> f64 {
    let q = p - 0.5;
    if q.abs() <= 0.425 {
        let r = 0.180_625 - q * q;
        return q * ratio(&CENTRAL, r);
    }
    let tail = if q < 0.0 { p } else { 1.0 - p };
    let r = (-tail.ln()).sqrt();
    let z = if r <= 5.0 { ratio(&MIDDLE, r - 1.6) } else { ratio(&FAR, r - 5.0) };
    z.copysign(q)
}

/// Numerator and denominator of a rational approximation, lowest power first.
type Rational = ([f64; 8], [f64; 8]);

fn ratio((numerator, denominator): &Rational, x: f64) -> f64 {
    let horner =
        |coefficients: &[f64; 8]| coefficients.iter().rev().fold(0.0, |acc, c| acc * x + c);
    horner(numerator) / horner(denominator)
}

const CENTRAL: Rational = (
    [
        3.387_132_872_796_366_5,
        133.141_667_891_784_38,
        1_971.590_950_306_551_3,
        13_731.693_765_509_46,
        45_921.953_931_549_87,
        67_265.770_927_008_7,
        33_430.575_583_588_13,
        2_509.080_928_730_122_7,
    ],
    [
        1.0,
        42.313_330_701_600_91,
        687.187_007_492_057_9,
        5_394.196_021_424_751,
        21_213.794_301_586_597,
        39_307.895_800_092_71,
        28_729.085_735_721_943,
        5_226.495_278_852_545,
    ],
);

const MIDDLE: Rational = (
    [
        1.423_437_110_749_683_5,
        4.630_337_846_156_546,
        5.769_497_221_460_691,
        3.647_848_324_763_204_5,
        1.270_458_252_452_368_4,
        0.241_780_725_177_450_6,
        0.022_723_844_989_269_184,
        0.000_774_545_014_278_341_4,
    ],
    [
        1.0,
        2.053_191_626_637_759,
        1.676_384_830_183_803_8,
        0.689_767_334_985_1,
        0.148_103_976_427_480_08,
        0.015_198_666_563_616_457,
        0.000_547_593_808_499_534_5,
        0.000_000_001_050_750_071_644_416_9,
    ],
);

const FAR: Rational = (
    [
        6.657_904_643_501_103,
        5.463_784_911_164_114,
        1.784_826_539_917_291_3,
        0.296_560_571_828_504_87,
        0.026_532_189_526_576_124,
        0.001_242_660_947_388_078_4,
        0.000_027_115_555_687_434_876,
        0.000_000_201_033_439_929_228_8,
    ],
    [
        1.0,
        0.599_832_206_555_888,
        0.136_929_880_922_735_8,
        0.014_875_361_290_850_615,
        0.000_786_869_131_145_613_3,
        0.000_018_463_183_175_100_547,
        0.000_000_142_151_175_831_644_6,
        0.000_000_000_000_002_044_263_103_389_939_8,
    ],
);

#[cfg(test)]
mod tests {
    use super::{normal_cdf, normal_quantile};

    #[test]
    fn quantile_inverts_the_distribution_function() {
        for z in [-6.0, -3.0, -1.0, -0.3, 0.0, 0.2, 1.5, 2.0, 4.0] {
            let back = normal_quantile(normal_cdf(z));
            assert!((back - z).abs() <= 1e-7 * (1.0 + f64::abs(z)), "{z} came back as {back}");
        }
        assert!((normal_quantile(0.975) - 1.959_963_984_540_054).abs() < 1e-12);
        assert!((normal_quantile(1e-9) + 5.997_807_015_007_686).abs() < 1e-9);
    }
}
