//! Every tolerance of the tests, relative. `docs/numerics.md` says what each is for; `tests/numerics.rs` holds the two equal.
//!
//! None is loosened to make a test pass.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of the table")]

macro_rules! tolerances {
    ($($(#[$doc:meta])+ $name:ident = $value:literal;)+) => {
        $($(#[$doc])+ pub const $name: f64 = $value;)+

        /// Names and values, for the page.
        pub const TABLE: &[(&str, &str)] = &[$((stringify!($name), stringify!($value))),+];
    };
}

tolerances! {
    /// A fused operation in `f32` and its gradients, against `f64`: of the largest element.
    OPERATION = 1e-6;
    /// The same operation in `f64`, against a reference in `f64`.
    OPERATION_F64 = 1e-12;
    /// Attention in `f32` put together from blocks: two rounded results instead of one.
    BLOCKS = 2e-6;
    /// Adjoint pairs and single layers on several ranks: sums of a few dozen terms in another order.
    PAIR = 1e-6;
    /// Gradients, logits and parameters of whole models: the differences of their layers add up.
    MODEL = 1e-5;
    /// Gradients of whole models whose parameters are sharded: of the largest element.
    SHARDED_GRADIENT = 2e-6;
    /// Loss and gradient norm of the first step on another mesh: one pass from equal weights.
    FIRST_STEP = 1e-6;
    /// Loss and gradient norm of later steps, where matrices or parameters are split.
    LATER_STEP = 1e-5;
    /// Loss and gradient norm of every step, where only batches are split.
    REPLICAS = 1e-6;
    /// An operation in `bf16`: half the distance between neighbors, which is one rounding.
    ROUND_BF16 = 0.003_906_25;
    /// The same in `f16`.
    ROUND_F16 = 0.000_488_281_25;
    /// Losses of a run in `bf16` against those in `f32`: two roundings of a number, which the mean
    /// over the tokens of a batch evens out.
    CURVE_BF16 = 0.007_812_5;
    /// The same in `f16`.
    CURVE_F16 = 0.000_976_562_5;
    /// A shader against the same operation in `f64` on the CPU, and the first step of a run on a GPU
    /// against one on the CPU: a shader's exponentials and roots are exact to a few units in the
    /// last place.
    SHADER = 1e-5;
    /// Later steps of a run on a GPU against one on the CPU.
    SHADER_LATER = 1e-4;
}
