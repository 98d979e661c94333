//! Element types: the names and sizes shared by host tensors, safetensors files and manifests.

use burn::tensor::{BoolStore, DType};
use safetensors::Dtype;

/// Host and file types that mean the same; the name is what manifests hold.
const TABLE: [(DType, Dtype, &str); 13] = [
    (DType::F64, Dtype::F64, "f64"),
    (DType::F32, Dtype::F32, "f32"),
    (DType::F16, Dtype::F16, "f16"),
    (DType::BF16, Dtype::BF16, "bf16"),
    (DType::I64, Dtype::I64, "i64"),
    (DType::I32, Dtype::I32, "i32"),
    (DType::I16, Dtype::I16, "i16"),
    (DType::I8, Dtype::I8, "i8"),
    (DType::U64, Dtype::U64, "u64"),
    (DType::U32, Dtype::U32, "u32"),
    (DType::U16, Dtype::U16, "u16"),
    (DType::U8, Dtype::U8, "u8"),
    (DType::Bool(BoolStore::Native), Dtype::BOOL, "bool"),
];

/// Returns the file type of a host type; quantized types and wide booleans have none.
pub(crate) fn to_file(dtype: DType) -> Option<Dtype> {
    // A boolean stored as a byte has the same bytes as a native one.
    let dtype =
        if dtype == DType::Bool(BoolStore::U8) { DType::Bool(BoolStore::Native) } else { dtype };
    TABLE.iter().find(|row| row.0 == dtype).map(|row| row.1)
}

/// Returns the host type of a file type; eight-bit and smaller floats have none.
pub(crate) fn to_host(dtype: Dtype) -> Option<DType> {
    TABLE.iter().find(|row| row.1 == dtype).map(|row| row.0)
}

/// Returns the name that manifests use for a file type.
pub(crate) fn name(dtype: Dtype) -> Option<&'static str> {
    TABLE.iter().find(|row| row.1 == dtype).map(|row| row.2)
}

/// Returns the file type that manifests call `name`.
pub(crate) fn from_name(name: &str) -> Option<Dtype> {
    TABLE.iter().find(|row| row.2 == name).map(|row| row.1)
}
