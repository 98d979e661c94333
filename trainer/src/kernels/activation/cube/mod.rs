//! Activations on a `CubeCL` device: gated `SiLU` and exact GELU, and their gradients.
#![expect(unsafe_code, reason = "a launch without bounds checks answers for its indices itself")]
#![expect(
    clippy::used_underscore_binding,
    reason = "the macro of a kernel names its element types"
)]

#[cfg(test)]
mod tests;

use burn::backend::TensorMetadata;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use crate::kernels::cube::{self, contiguous, elem, vector_size};

/// Multiplies `up` by the `SiLU` of `gate`, over the buffer of `gate` where nobody else holds it.
///
/// # Shapes
///
/// All three tensors have one shape and one type.
///
/// # References
///
/// GLU Variants Improve Transformer, arXiv:2002.05202, equation 6.
pub(crate) fn swiglu(gate: CubeTensor, up: CubeTensor) -> CubeTensor {
    let (gate, up) = (contiguous(gate), contiguous(up));
    let len = gate.shape().num_elements();
    if len == 0 {
        return gate;
    }
    let client = gate.client.clone();
    let size = vector_size(len, &[gate.dtype]);
    let (count, dim) = cube::elementwise(&client, len / size);
    let (address, dtype) = (cube::address_type(&[&gate]), elem(gate.dtype));
    let (output, output_arg) = cube::over(&gate, 0);
    // SAFETY: units past the vectors return at once.
    unsafe {
        swiglu_kernel::launch_unchecked(
            &client,
            count,
            dim,
            address,
            size,
            gate.into_buffer_arg(),
            up.into_buffer_arg(),
            output_arg,
            len / size,
            dtype,
        );
    }
    output
}

/// Returns the gradients of gate and up, over the buffers of `gate` and `grad` where nobody else holds them.
///
/// # Shapes
///
/// All five tensors have one shape and one type.
pub(crate) fn swiglu_backward(
    gate: CubeTensor,
    up: CubeTensor,
    grad: CubeTensor,
) -> (CubeTensor, CubeTensor) {
    let [gate, up, grad] = [gate, up, grad].map(contiguous);
    let len = gate.shape().num_elements();
    if len == 0 {
        return (gate, grad);
    }
    let client = gate.client.clone();
    let size = vector_size(len, &[gate.dtype]);
    let (count, dim) = cube::elementwise(&client, len / size);
    let (address, dtype) = (cube::address_type(&[&gate]), elem(gate.dtype));
    let (dgate, dgate_arg) = cube::over(&gate, 0);
    let (dup, dup_arg) = cube::over(&grad, 2);
    // SAFETY: units past the vectors return at once.
    unsafe {
        swiglu_backward_kernel::launch_unchecked(
            &client,
            count,
            dim,
            address,
            size,
            gate.into_buffer_arg(),
            up.into_buffer_arg(),
            grad.into_buffer_arg(),
            dgate_arg,
            dup_arg,
            len / size,
            dtype,
        );
    }
    (dgate, dup)
}

/// Applies GELU in its exact form, over the buffer of `x` where nobody else holds it.
///
/// # References
///
/// Gaussian Error Linear Units, arXiv:1606.08415.
pub(crate) fn gelu(x: CubeTensor) -> CubeTensor {
    let x = contiguous(x);
    let len = x.shape().num_elements();
    if len == 0 {
        return x;
    }
    let client = x.client.clone();
    let size = vector_size(len, &[x.dtype]);
    let (count, dim) = cube::elementwise(&client, len / size);
    let (address, dtype) = (cube::address_type(&[&x]), elem(x.dtype));
    let (output, output_arg) = cube::over(&x, 0);
    let x = x.into_buffer_arg();
    // SAFETY: units past the vectors return at once.
    unsafe {
        gelu_kernel::launch_unchecked(
            &client,
            count,
            dim,
            address,
            size,
            x,
            output_arg,
            len / size,
            dtype,
        );
    }
    output
}

/// Returns the gradient of [`gelu`], over the buffer of `grad` where nobody else holds it.
///
/// # Shapes
///
/// All three tensors have one shape and one type.
pub(crate) fn gelu_backward(x: CubeTensor, grad: CubeTensor) -> CubeTensor {
    let (x, grad) = (contiguous(x), contiguous(grad));
    let len = x.shape().num_elements();
    if len == 0 {
        return grad;
    }
    let client = x.client.clone();
    let size = vector_size(len, &[x.dtype]);
    let (count, dim) = cube::elementwise(&client, len / size);
    let (address, dtype) = (cube::address_type(&[&x]), elem(x.dtype));
    let (output, output_arg) = cube::over(&grad, 1);
    let (x, grad) = (x.into_buffer_arg(), grad.into_buffer_arg());
    // SAFETY: units past the vectors return at once.
    unsafe {
        gelu_backward_kernel::launch_unchecked(
            &client,
            count,
            dim,
            address,
            size,
            x,
            grad,
            output_arg,
            len / size,
            dtype,
        );
    }
    output
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn swiglu_kernel<F: Float, N: Size>(
    gate: &[Vector<F, N>],
    up: &[Vector<F, N>],
    output: &mut [Vector<F, N>],
    len: usize,
    #[define(F)] _dtype: ElemType,
) {
    let i = ABSOLUTE_POS;
    if i >= len {
        terminate!();
    }
    let x = Vector::<f32, N>::cast_from(gate[i]);
    let up = Vector::<f32, N>::cast_from(up[i]);
    output[i] = Vector::cast_from(x * sigmoid::<N>(x) * up);
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn swiglu_backward_kernel<F: Float, N: Size>(
    gate: &[Vector<F, N>],
    up: &[Vector<F, N>],
    grad: &[Vector<F, N>],
    dgate: &mut [Vector<F, N>],
    dup: &mut [Vector<F, N>],
    len: usize,
    #[define(F)] _dtype: ElemType,
) {
    let i = ABSOLUTE_POS;
    if i >= len {
        terminate!();
    }
    let one = Vector::<f32, N>::new(1.0);
    let x = Vector::<f32, N>::cast_from(gate[i]);
    let up = Vector::<f32, N>::cast_from(up[i]);
    let gradient = Vector::<f32, N>::cast_from(grad[i]);
    let share = sigmoid::<N>(x);
    let slope = share * (x * (one - share) + one);
    dgate[i] = Vector::cast_from(gradient * up * slope);
    dup[i] = Vector::cast_from(gradient * x * share);
}

#[cube]
fn sigmoid<N: Size>(x: Vector<f32, N>) -> Vector<f32, N> {
    let one = Vector::<f32, N>::new(1.0);
    one / (one + (-x).exp())
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn gelu_kernel<F: Float, N: Size>(
    x: &[Vector<F, N>],
    output: &mut [Vector<F, N>],
    len: usize,
    #[define(F)] _dtype: ElemType,
) {
    let i = ABSOLUTE_POS;
    if i >= len {
        terminate!();
    }
    let x = Vector::<f32, N>::cast_from(x[i]);
    output[i] = Vector::cast_from(x * cumulative::<N>(x));
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn gelu_backward_kernel<F: Float, N: Size>(
    x: &[Vector<F, N>],
    grad: &[Vector<F, N>],
    output: &mut [Vector<F, N>],
    len: usize,
    #[define(F)] _dtype: ElemType,
) {
    let i = ABSOLUTE_POS;
    if i >= len {
        terminate!();
    }
    let x = Vector::<f32, N>::cast_from(x[i]);
    let gradient = Vector::<f32, N>::cast_from(grad[i]);
    // The normal distribution's density.
    let density = (x * x * Vector::new(-0.5)).exp() * Vector::new(0.398_942_3);
    output[i] = Vector::cast_from(gradient * (cumulative::<N>(x) + x * density));
}

/// The normal distribution's cumulative function.
#[cube]
fn cumulative<N: Size>(x: Vector<f32, N>) -> Vector<f32, N> {
    let one = Vector::<f32, N>::new(1.0);
    (one + (x * Vector::new(0.707_106_77)).erf()) * Vector::new(0.5)
}
