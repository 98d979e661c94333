//! Matrix products of cuBLASLt: any layout, with accumulation and the epilogue of a bias. Sums are in `f64`, so that a
//! product is rounded once, to the type of its result.

use std::ffi::{c_int, c_void};
use std::ptr::{with_exposed_provenance, with_exposed_provenance_mut};

use half::{bf16, f16};

use crate::memory;
use crate::stream::Stream;

const SUCCESS: c_int = 0;
const INVALID_VALUE: c_int = 7;
const NOT_SUPPORTED: c_int = 15;

/// Element types of `cudaDataType`.
const F32: c_int = 0;
const F16: c_int = 2;
const BF16: c_int = 14;

/// Attributes of a product.
const TRANSPOSE_A: c_int = 3;
const TRANSPOSE_B: c_int = 4;
const EPILOGUE: c_int = 7;
const BIAS: c_int = 8;

const WITH_BIAS: c_int = 4;

/// How a matrix lies in memory, column by column.
#[derive(Debug, Clone, Copy)]
struct Layout {
    kind: c_int,
    rows: usize,
    columns: usize,
    /// Elements from one column to the next.
    stride: usize,
}

/// What a product is to do.
#[derive(Debug, Clone, Copy, Default)]
struct Operation {
    transposed: [bool; 2],
    has_bias: bool,
    bias: u64,
}

/// The first words of `cublasLtMatmulHeuristicResult_t`; an algorithm has eight words.
#[repr(C)]
pub struct Heuristic {
    algorithm: [u64; 8],
    workspace: usize,
    state: c_int,
    waves: f32,
    reserved: [c_int; 4],
}

impl Layout {
    fn size(&self) -> usize {
        if self.kind == F32 { 4 } else { 2 }
    }

    fn bytes(&self) -> usize {
        match self.columns {
            0 => 0,
            columns => ((columns - 1) * self.stride + self.rows) * self.size(),
        }
    }

    unsafe fn read(&self, address: u64, row: usize, column: usize) -> f64 {
        let place = address as usize + (row + column * self.stride) * self.size();
        unsafe {
            match self.kind {
                F32 => f64::from(with_exposed_provenance::<f32>(place).read()),
                F16 => f64::from(with_exposed_provenance::<f16>(place).read()),
                _ => f64::from(with_exposed_provenance::<bf16>(place).read()),
            }
        }
    }

    unsafe fn write(&self, address: u64, row: usize, column: usize, value: f64) {
        let place = address as usize + (row + column * self.stride) * self.size();
        unsafe {
            match self.kind {
                F32 => with_exposed_provenance_mut::<f32>(place).write(value as f32),
                F16 => with_exposed_provenance_mut::<f16>(place).write(f16::from_f64(value)),
                _ => with_exposed_provenance_mut::<bf16>(place).write(bf16::from_f64(value)),
            }
        }
    }
}

unsafe fn make<T>(place: *mut *mut c_void, value: T) -> c_int {
    unsafe { *place = Box::into_raw(Box::new(value)).cast() };
    SUCCESS
}

unsafe fn unmake<T>(handle: *mut c_void) -> c_int {
    drop(unsafe { Box::from_raw(handle.cast::<T>()) });
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtCreate(handle: *mut *mut c_void) -> c_int {
    unsafe { make(handle, 0_u8) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatrixLayoutCreate(
    layout: *mut *mut c_void,
    kind: c_int,
    rows: u64,
    columns: u64,
    stride: i64,
) -> c_int {
    if ![F32, F16, BF16].contains(&kind) || (stride as u64) < rows {
        return INVALID_VALUE;
    }
    let (rows, columns, stride) = (rows as usize, columns as usize, stride as usize);
    unsafe { make(layout, Layout { kind, rows, columns, stride }) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulDescCreate(
    operation: *mut *mut c_void,
    _compute: c_int,
    _scale: c_int,
) -> c_int {
    unsafe { make(operation, Operation::default()) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulDescSetAttribute(
    operation: *mut c_void,
    attribute: c_int,
    value: *const c_void,
    size: usize,
) -> c_int {
    let operation = unsafe { &mut *operation.cast::<Operation>() };
    match (attribute, size) {
        (TRANSPOSE_A | TRANSPOSE_B, 4) => {
            let flag = unsafe { value.cast::<c_int>().read_unaligned() };
            operation.transposed[(attribute - TRANSPOSE_A) as usize] = flag != 0;
        }
        (EPILOGUE, 4) => {
            let epilogue = unsafe { value.cast::<c_int>().read_unaligned() };
            operation.has_bias = epilogue == WITH_BIAS;
        }
        (BIAS, 8) => operation.bias = unsafe { value.cast::<u64>().read_unaligned() },
        _ => return INVALID_VALUE,
    }
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulPreferenceCreate(preference: *mut *mut c_void) -> c_int {
    unsafe { make(preference, 0_u64) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulPreferenceSetAttribute(
    _preference: *mut c_void,
    _attribute: c_int,
    _value: *const c_void,
    _size: usize,
) -> c_int {
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulPreferenceDestroy(preference: *mut c_void) -> c_int {
    unsafe { unmake::<u64>(preference) }
}

/// Finds the one algorithm there is, where the matrices fit together.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulAlgoGetHeuristic(
    _handle: *mut c_void,
    operation: *mut c_void,
    a: *mut c_void,
    b: *mut c_void,
    c: *mut c_void,
    d: *mut c_void,
    _preference: *mut c_void,
    _asked: c_int,
    results: *mut Heuristic,
    count: *mut c_int,
) -> c_int {
    let (operation, [a, b, c, d]) =
        unsafe { (*operation.cast::<Operation>(), [a, b, c, d].map(|x| *x.cast::<Layout>())) };
    if inner(&operation, &[a, b, d]).is_none() || a.kind != b.kind || c.kind != d.kind {
        unsafe { *count = 0 };
        return NOT_SUPPORTED;
    }
    unsafe {
        results.write_bytes(0, 1);
        *count = 1;
    }
    SUCCESS
}

/// Returns the inner dimension, if the matrices have one and the result has their outer ones.
fn inner(operation: &Operation, [a, b, d]: &[Layout; 3]) -> Option<usize> {
    let sizes = |layout: &Layout, transposed| {
        if transposed { (layout.columns, layout.rows) } else { (layout.rows, layout.columns) }
    };
    let (rows, depth) = sizes(a, operation.transposed[0]);
    let (other, columns) = sizes(b, operation.transposed[1]);
    (depth == other && (rows, columns) == (d.rows, d.columns)).then_some(depth)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmul(
    _handle: *mut c_void,
    operation: *mut c_void,
    alpha: *const f32,
    a: u64,
    a_layout: *mut c_void,
    b: u64,
    b_layout: *mut c_void,
    beta: *const f32,
    c: u64,
    c_layout: *mut c_void,
    d: u64,
    d_layout: *mut c_void,
    _algorithm: *const c_void,
    _workspace: *mut c_void,
    _workspace_size: usize,
    stream: *mut c_void,
) -> c_int {
    // The descriptors and factors are read now, the matrices when the stream comes to them.
    let (operation, alpha, beta) =
        unsafe { (*operation.cast::<Operation>(), f64::from(*alpha), f64::from(*beta)) };
    let layouts = [a_layout, b_layout, c_layout, d_layout];
    let [of_a, of_b, of_c, of_d] = layouts.map(|layout| unsafe { *layout.cast::<Layout>() });
    let Some(depth) = inner(&operation, &[of_a, of_b, of_d]) else { return INVALID_VALUE };
    unsafe { Stream::of(stream) }.queue(move || {
        for (address, layout) in [(a, of_a), (b, of_b), (c, of_c), (d, of_d)] {
            memory::check(address, layout.bytes(), "a matrix product");
        }
        let element = |layout: &Layout, address, transposed, row, column| unsafe {
            if transposed {
                layout.read(address, column, row)
            } else {
                layout.read(address, row, column)
            }
        };
        let [a_transposed, b_transposed] = operation.transposed;
        for column in 0..of_d.columns {
            for row in 0..of_d.rows {
                let terms = (0..depth).map(|i| {
                    element(&of_a, a, a_transposed, row, i)
                        * element(&of_b, b, b_transposed, i, column)
                });
                let mut sum = alpha * terms.sum::<f64>();
                if beta != 0.0 {
                    sum += beta * unsafe { of_c.read(c, row, column) };
                }
                if operation.has_bias {
                    sum += unsafe { of_d.read(operation.bias, row, 0) };
                }
                unsafe { of_d.write(d, row, column, sum) };
            }
        }
    });
    SUCCESS
}
