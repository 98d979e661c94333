//! Blocks of members along any dimension, for a library that knows the first only.

use super::super::Erased;

/// Cuts a dimension into `members` equal parts and puts the index of the part first.
///
/// # Shapes
///
/// `[.., n d, ..]` to `[n, .., d, ..]`.
pub(super) fn lead(tensor: Erased, dim: usize, members: usize) -> Erased {
    let mut shape = tensor.shape();
    shape[dim] /= members;
    shape.insert(dim, members);
    let mut axes: Vec<usize> = (0..shape.len()).collect();
    axes.remove(dim);
    axes.insert(0, dim);
    let cut = tensor.reshape(shape);
    if dim == 0 { cut } else { cut.permute(&axes) }
}

/// Puts parts together along a dimension: what [`lead`] undoes.
///
/// # Shapes
///
/// `[n, .., d, ..]` to `[.., n d, ..]`.
pub(super) fn join(parts: Erased, dim: usize) -> Erased {
    let mut shape = parts.shape();
    let mut axes: Vec<usize> = (1..shape.len()).collect();
    axes.insert(dim, 0);
    let members = shape.remove(0);
    shape[dim] *= members;
    let placed = if dim == 0 { parts } else { parts.permute(&axes) };
    placed.reshape(shape)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

    #[test]
    fn parts_of_any_dimension_come_first_and_go_back() {
        let values: Vec<f32> = (0..2 * 6 * 4).map(|i| i as f32).collect();
        let data = TensorData::new(values, [2, 6, 4]);
        for (dim, members) in [(0, 2), (1, 3), (1, 2), (2, 4)] {
            let whole = Erased::from_data(data.clone(), &Device::flex());
            let parts = lead(whole.clone(), dim, members);
            let len = [2, 6, 4][dim] / members;
            assert_eq!(parts.shape()[0], members);
            for member in 0..members {
                let part = whole.clone().narrow(dim, member * len, len);
                let led = parts.clone().narrow(0, member, 1).reshape(part.shape());
                assert_eq!(led.into_data(), part.into_data(), "{dim} {member}");
            }
            assert_eq!(join(parts, dim).into_data(), data, "{dim}");
        }
    }
}
