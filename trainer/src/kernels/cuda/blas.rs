//! Matrix products by cuBLASLt, where it is found at run time.
//!
//! Matrices are row-major. The library's are column-major, in which a row-major matrix is its own transpose, so
//! `D = A B` is computed as `D^T = B^T A^T`. Sums are in `f32`; products of `f32` are not rounded to TF32.
//!
//! The library's first choice of an algorithm for a product is kept, so that a shape is computed in one way for the life
//! of the process.
#![expect(unsafe_code, reason = "calls to NVIDIA's libraries take handles and addresses")]

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{LazyLock, Mutex, PoisonError};

use burn::tensor::DType;
use cudarc::cublaslt::{result, sys};
use cudarc::driver;

use crate::backend::driver::{Span, told as driver_told};

/// Memory in which the library splits long sums.
const WORKSPACE: usize = 32 << 20;

/// Returns whether the library is there.
pub(crate) fn is_present() -> bool {
    static PRESENT: LazyLock<bool> = LazyLock::new(|| {
        // SAFETY: opens the library, if there is one, which runs its initialization.
        unsafe { sys::is_culib_present() }
    });
    *PRESENT
}

/// A product, `[m, k]` by `[k, n]`, and how its operands lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "each is a choice of its own")]
pub(crate) struct Product {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    /// Whether the first operand lies as `[k, m]`.
    pub(crate) a_transposed: bool,
    /// Whether the second operand lies as `[n, k]`.
    pub(crate) b_transposed: bool,
    /// Element type of both operands.
    pub(crate) dtype: DType,
    /// Element type of the result.
    pub(crate) output: DType,
    /// Whether the product is added to what the result holds.
    pub(crate) accumulates: bool,
    /// Whether a row of `n` numbers, of the result's type, is added to every row.
    pub(crate) has_bias: bool,
}

/// What the library needs for a product of one kind.
struct Plan {
    operation: sys::cublasLtMatmulDesc_t,
    layouts: [sys::cublasLtMatrixLayout_t; 3],
    algorithm: sys::cublasLtMatmulAlgo_t,
}

/// The library's state on one GPU.
struct Library {
    handle: sys::cublasLtHandle_t,
    plans: HashMap<Product, Plan>,
    /// By stream, because what runs at the same time must not share one.
    workspaces: HashMap<usize, u64>,
}

// SAFETY: handles of the library may be used by any thread, one at a time.
unsafe impl Send for Library {}

/// By GPU.
static LIBRARIES: Mutex<Option<HashMap<usize, Library>>> = Mutex::new(None);

fn told(error: result::CublasError) -> String {
    format!("cuBLASLt says {error:?}")
}

/// Names a type for the library.
fn kind(dtype: DType) -> Result<sys::cudaDataType, String> {
    match dtype {
        DType::F32 => Ok(sys::cudaDataType::CUDA_R_32F),
        DType::BF16 => Ok(sys::cudaDataType::CUDA_R_16BF),
        DType::F16 => Ok(sys::cudaDataType::CUDA_R_16F),
        other => Err(format!("cuBLASLt is not asked for products of {other:?}")),
    }
}

impl Product {
    /// Queues the product on a stream of the current GPU.
    ///
    /// # Errors
    ///
    /// What the library or the driver says.
    ///
    /// # Safety
    ///
    /// The addresses lie on the current GPU, hold as many elements as the product says, and stay valid until the stream
    /// is past it; the stream is live.
    pub(crate) unsafe fn queue(
        &self,
        [a, b, out]: [Span; 3],
        bias: Option<Span>,
        stream: driver::sys::CUstream,
    ) -> Result<(), String> {
        let context = driver::result::ctx::get_current().map_err(driver_told)?;
        let context = context.ok_or("no GPU is current")?;
        let mut libraries = LIBRARIES.lock().unwrap_or_else(PoisonError::into_inner);
        let libraries = libraries.get_or_insert_with(HashMap::new);
        let library = match libraries.entry(context.addr()) {
            std::collections::hash_map::Entry::Occupied(found) => found.into_mut(),
            std::collections::hash_map::Entry::Vacant(place) => {
                let handle = result::create_handle().map_err(told)?;
                let (plans, workspaces) = (HashMap::new(), HashMap::new());
                place.insert(Library { handle, plans, workspaces })
            }
        };
        // SAFETY: by the caller's word.
        unsafe { library.queue(self, [a, b, out], bias, stream) }
    }

    fn plan(&self, handle: sys::cublasLtHandle_t) -> Result<Plan, String> {
        let (inner, outer) = (kind(self.dtype)?, kind(self.output)?);
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let scale = sys::cudaDataType::CUDA_R_32F;
        let operation = result::create_matmul_desc(compute, scale).map_err(told)?;
        let flags = [
            (sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA, self.b_transposed),
            (sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSB, self.a_transposed),
        ];
        for (attribute, transposed) in flags {
            set(operation, attribute, &i32::from(transposed))?;
        }
        if self.has_bias {
            let epilogue = sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS;
            let attribute = sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_EPILOGUE;
            set(operation, attribute, &epilogue)?;
        }
        // Rows and columns as the library sees them: those of the transposes.
        let layout = |kind, rows: usize, columns: usize| {
            result::create_matrix_layout(kind, columns as u64, rows as u64, columns as i64)
                .map_err(told)
        };
        let Self { m, n, k, .. } = *self;
        let layouts = [
            if self.b_transposed { layout(inner, n, k)? } else { layout(inner, k, n)? },
            if self.a_transposed { layout(inner, k, m)? } else { layout(inner, m, k)? },
            layout(outer, m, n)?,
        ];
        let preference = result::create_matmul_pref().map_err(told)?;
        let most =
            sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        // SAFETY: all were created above, and the value outlives the call.
        let found = unsafe {
            let bytes = std::ptr::from_ref(&WORKSPACE).cast::<c_void>();
            result::set_matmul_pref_attribute(preference, most, bytes, size_of::<usize>())
                .map_err(told)?;
            let [b, a, out] = layouts;
            let found =
                result::get_matmul_algo_heuristic(handle, operation, b, a, out, out, preference);
            let _ = result::destroy_matmul_pref(preference);
            found.map_err(|error| format!("{} for {self:?}", told(error)))?
        };
        Ok(Plan { operation, layouts, algorithm: found.algo })
    }
}

fn set<T>(
    operation: sys::cublasLtMatmulDesc_t,
    attribute: sys::cublasLtMatmulDescAttributes_t,
    value: &T,
) -> Result<(), String> {
    let bytes = std::ptr::from_ref(value).cast::<c_void>();
    // SAFETY: the descriptor is live, and the value is read during the call.
    unsafe { result::set_matmul_desc_attribute(operation, attribute, bytes, size_of::<T>()) }
        .map_err(told)
}

impl Library {
    /// # Safety
    ///
    /// As for [`Product::queue`].
    unsafe fn queue(
        &mut self,
        product: &Product,
        [a, b, out]: [Span; 3],
        bias: Option<Span>,
        stream: driver::sys::CUstream,
    ) -> Result<(), String> {
        let workspace = match self.workspaces.entry(stream.addr()) {
            std::collections::hash_map::Entry::Occupied(found) => *found.get(),
            std::collections::hash_map::Entry::Vacant(place) => {
                // SAFETY: the memory is the library's scratch, never read by us, and never freed.
                *place
                    .insert(unsafe { driver::result::malloc_sync(WORKSPACE) }.map_err(driver_told)?)
            }
        };
        if !self.plans.contains_key(product) {
            self.plans.insert(*product, product.plan(self.handle)?);
        }
        let plan = &self.plans[product];
        if let Some(bias) = bias {
            let attribute = sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER;
            set(plan.operation, attribute, &bias.address)?;
        }
        let (one, beta) = (1.0_f32, if product.accumulates { 1.0_f32 } else { 0.0 });
        let pointer = |address: u64| address as *mut c_void;
        let [of_b, of_a, of_out] = plan.layouts;
        // SAFETY: descriptors are live; the memory is by the caller's word.
        unsafe {
            result::matmul(
                self.handle,
                plan.operation,
                std::ptr::from_ref(&one).cast(),
                std::ptr::from_ref(&beta).cast(),
                pointer(b.address),
                of_b,
                pointer(a.address),
                of_a,
                pointer(out.address),
                of_out,
                pointer(out.address),
                of_out,
                &raw const plan.algorithm,
                pointer(workspace),
                WORKSPACE,
                stream.cast(),
            )
        }
        .map_err(|error| format!("{} for {product:?}", told(error)))
    }
}
