//! The nearest orthogonal matrix, nearly: what Muon makes of momentum.

use burn::tensor::Tensor;

use crate::kernels::{linear, sum_of_squares};

/// Coefficients of the odd quintic that drives singular values towards 1: chosen for the steepest
/// rise at 0, so that small ones arrive in few steps; large ones then stay between 0.68 and 1.13.
const QUINTIC: [f64; 3] = [3.4445, -4.7750, 2.0315];

/// Keeps a matrix of zeros from being divided by zero.
const EPSILON: f64 = 1e-7;

/// Moves all singular values of a matrix near 1 and keeps its singular vectors.
///
/// The products run in the element type of the matrix. A matrix of zeros stays one.
///
/// # Shapes
///
/// `[m, n]` to the same.
///
/// # References
///
/// Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024,
/// `newtonschulz5`; Higham, "Functions of Matrices", 2008, chapter 8.
pub fn orthogonalize(matrix: Tensor<2>, steps: usize) -> Tensor<2> {
    let [rows, columns] = matrix.dims();
    // The Gram matrix is formed on the short side.
    let is_tall = rows > columns;
    let matrix = if is_tall { matrix.transpose() } else { matrix };
    let norm = sum_of_squares(&matrix.clone().reshape([rows * columns])).sqrt();
    let mut x = matrix / (norm + EPSILON);
    let [a, b, c] = QUINTIC;
    for _ in 0..steps {
        let gram = linear(x.clone(), x.clone().transpose(), None);
        let square = linear(gram.clone(), gram.clone(), None);
        let polynomial = gram * b + square * c;
        x = linear(polynomial, x.clone(), None) + x * a;
    }
    if is_tall { x.transpose() } else { x }
}
