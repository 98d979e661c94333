//! What can be tested without a GPU: which problems are served and, where a cuDNN is installed, that it has plans for them.

use super::*;
use crate::kernels::cuda::cudnn::{Place, library};

fn options(causal: bool, query_offset: usize, key_offset: usize) -> AttentionOptions {
    AttentionOptions { causal, query_offset, key_offset, ..AttentionOptions::default() }
}

#[test]
fn masks_are_told_apart() {
    let rows = [
        (options(false, 0, 0), 64, 100, Some(MaskKind::Full)),
        (options(false, 7, 3), 100, 64, Some(MaskKind::Full)),
        (options(true, 0, 0), 100, 100, Some(MaskKind::TopLeft)),
        (options(true, 64, 64), 100, 100, Some(MaskKind::TopLeft)),
        (options(true, 0, 0), 64, 100, Some(MaskKind::TopLeft)),
        (options(true, 36, 0), 64, 100, Some(MaskKind::BottomRight)),
        // All keys lie before the first query, as in the blocks of context parallelism.
        (options(true, 100, 0), 100, 100, Some(MaskKind::Full)),
        (options(true, 99, 0), 100, 100, Some(MaskKind::Full)),
        // Every other place of the diagonal, and queries that see no key.
        (options(true, 98, 0), 100, 100, None),
        (options(true, 35, 0), 64, 100, None),
        (options(true, 0, 100), 100, 100, None),
        (options(true, 0, 0), 100, 64, None),
        (AttentionOptions { window: Some(8), ..options(true, 0, 0) }, 100, 100, None),
    ];
    for (row, (options, queries, keys, expected)) in rows.into_iter().enumerate() {
        assert_eq!(MaskKind::of(&options, queries, keys), expected, "row {row}");
    }
}

#[test]
fn sizes_and_types_decide() {
    let options = options(true, 0, 0);
    let is_served = |dtypes, length, head_dim| {
        let geometry = Geometry::new([2, length, 8, head_dim], [2, length, 2, head_dim], 1.0);
        Problem::new(dtypes, &geometry, &options).is_some()
    };
    for dtype in [DType::BF16, DType::F16] {
        for head_dim in [8, 64, 72, 128, 256] {
            assert!(is_served([dtype; 3], 100, head_dim), "{dtype:?} {head_dim}");
        }
        for (length, head_dim) in [(100, 100), (100, 264), (LEAST_QUERIES - 1, 64), (0, 64)] {
            assert!(!is_served([dtype; 3], length, head_dim), "{dtype:?} {length} {head_dim}");
        }
    }
    assert!(!is_served([DType::F32; 3], 100, 64));
    assert!(!is_served([DType::BF16, DType::BF16, DType::F16], 100, 64));
}

/// The properties of a GPU of capability 9.0, as cuDNN writes them.
const PROPERTIES: &str = r#"{"maxGridSize":[2147483647,65535,65535],"maxBlockSize":[1024,1024,64],"regsPerBlock":65536,
"multiProcessorCount":132,"warpSize":32,"maxSharedMemoryPerBlock":49152,"maxSharedMemoryPerBlockOptin":232448,
"reservedSharedMemoryPerBlock":1024,"maxRegistersPerSM":65536,"maxCtasPerSM":32,"maxThreadsPerBlock":1024,
"maxThreadsPerSM":2048,"pciDeviceId":9008,"isTccDriver":0,"supportCoopLaunch":1,"totalGlobalMem":85000000000,
"smClockRateKHz":1980000,"memClockRateKHz":2619000,"l2CacheSize":52428800,"cudaDeviceId":0,"deviceVer":900,
"driverVer":13000,"deviceName":"NVIDIA H100 80GB HBM3"}"#;

#[test]
fn cudnn_has_plans_for_what_is_served() {
    let library = match library() {
        Ok(library) => library,
        Err(reason) => {
            println!("skipped: {reason}");
            return;
        }
    };
    let place = Place::describe(library, PROPERTIES).unwrap();
    let rows = [
        (Element::BF16, [2, 8, 8, 300, 300, 64], MaskKind::Full),
        (Element::BF16, [1, 32, 8, 1024, 1024, 64], MaskKind::TopLeft),
        (Element::F16, [2, 8, 2, 300, 300, 128], MaskKind::TopLeft),
        (Element::BF16, [2, 8, 8, 200, 413, 128], MaskKind::TopLeft),
        (Element::BF16, [2, 8, 2, 200, 328, 72], MaskKind::BottomRight),
        (Element::BF16, [1, 4, 4, 64, 64, 256], MaskKind::BottomRight),
    ];
    for (element, [batch, heads, kv_heads, queries, keys, head_dim], mask) in rows {
        let problem = Problem { element, batch, heads, kv_heads, queries, keys, head_dim, mask };
        for (pass, describe) in [
            ("forward", graph::forward as fn(&Problem, &mut Graph) -> Result<(), String>),
            ("backward", graph::backward),
        ] {
            let mut graph = Graph::new(library);
            let plan = describe(&problem, &mut graph).and_then(|()| Plan::build(graph, &place));
            let plan = plan.unwrap_or_else(|error| panic!("{pass} of {problem:?}: {error}"));
            println!("{pass} of {problem:?}: workspace {}", plan.workspace());
        }
    }
}
