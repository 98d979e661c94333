//! Batch arithmetic: how the sequences of one optimizer step are spread over ranks, passes and
//! pipeline microbatches.

use super::{error::ConfigErrorKind, key::KeyPath};

/// What is declared about the batch; every number is at least 1.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchRequest {
    pub(crate) global: usize,
    pub(crate) micro: Option<usize>,
    pub(crate) accumulation: Option<usize>,
    pub(crate) data_parallel: usize,
}

/// Sequences per forward pass of one data-parallel rank, and passes per step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Batch {
    pub(crate) micro: usize,
    pub(crate) accumulation: usize,
}

impl BatchRequest {
    /// Finds the numbers with `global = micro x accumulation x data_parallel`.
    pub(crate) fn resolve(self) -> Result<Batch, ConfigErrorKind> {
        let Self { global, data_parallel, .. } = self;
        match (self.micro, self.accumulation) {
            (Some(micro), Some(accumulation)) => {
                let product =
                    micro.checked_mul(accumulation).and_then(|n| n.checked_mul(data_parallel));
                if product == Some(global) {
                    return Ok(Batch { micro, accumulation });
                }
                Err(ConfigErrorKind::BatchMismatch { global, micro, accumulation, data_parallel })
            }
            (Some(micro), None) => {
                let accumulation = self.divide(micro, "micro_batch_size x data-parallel ranks")?;
                Ok(Batch { micro, accumulation })
            }
            (None, given) => {
                let words = match given {
                    Some(_) => "gradient_accumulation_steps x data-parallel ranks",
                    None => "data-parallel ranks",
                };
                let accumulation = given.unwrap_or(1);
                Ok(Batch { micro: self.divide(accumulation, words)?, accumulation })
            }
        }
    }

    fn divide(self, factor: usize, divisor: &str) -> Result<usize, ConfigErrorKind> {
        let by = factor.saturating_mul(self.data_parallel);
        divide("training_parameters.global_batch_size", self.global, divisor, by)
    }
}

/// Divides the value of `key`, exactly.
pub(crate) fn divide(
    key: &str,
    n: usize,
    divisor: &str,
    by: usize,
) -> Result<usize, ConfigErrorKind> {
    if by != 0 && n.is_multiple_of(by) {
        return Ok(n / by);
    }
    let (dividend, divisor) = (KeyPath::dotted(key), divisor.to_owned());
    Err(ConfigErrorKind::Indivisible { dividend, n, divisor, by: by.max(1) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derives_what_is_left_out_and_refuses_what_does_not_divide() {
        let rows = [
            (128, None, None, 4, Some((32, 1))),
            (128, Some(8), None, 4, Some((8, 4))),
            (128, None, Some(2), 4, Some((16, 2))),
            (128, Some(16), Some(2), 4, Some((16, 2))),
            (10, None, None, 4, None),
            (128, Some(48), None, 1, None),
            (128, Some(16), Some(3), 4, None),
            (8, Some(usize::MAX), None, 4, None),
            (8, Some(usize::MAX), Some(usize::MAX), usize::MAX, None),
        ];
        for (global, micro, accumulation, data_parallel, expected) in rows {
            let found = BatchRequest { global, micro, accumulation, data_parallel }.resolve();
            let found = found.ok().map(|batch| (batch.micro, batch.accumulation));
            assert_eq!(found, expected, "{global} {micro:?} {accumulation:?} {data_parallel}");
        }
    }
}
