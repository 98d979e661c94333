//! Numbers of cuDNN's interface, of which only those that are used stand here.
//!
//! From the tables of the backend's enumerations, release 9; they do not change within it.

/// What a descriptor describes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    pub(super) number: i32,
    pub(super) name: &'static str,
}

/// What is set of a descriptor, and the number of the type of its values.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attribute {
    pub(super) number: i32,
    pub(super) kind: i32,
}

const fn kind(number: i32, name: &'static str) -> Kind {
    Kind { number, name }
}

const fn attribute(number: i32, kind: i32) -> Attribute {
    Attribute { number, kind }
}

pub(super) const POINTWISE: Kind = kind(0, "pointwise");
pub(super) const ENGINE: Kind = kind(2, "engine");
pub(super) const CONFIGURATION: Kind = kind(3, "engine configuration");
pub(super) const HEURISTICS: Kind = kind(4, "heuristics");
pub(super) const PLAN: Kind = kind(5, "plan");
pub(super) const POINTWISE_OPERATION: Kind = kind(13, "pointwise operation");
pub(super) const GRAPH: Kind = kind(15, "operation graph");
pub(super) const PACK: Kind = kind(16, "variant pack");
pub(super) const TENSOR: Kind = kind(17, "tensor");
pub(super) const MATMUL: Kind = kind(18, "matmul");
pub(super) const MATMUL_OPERATION: Kind = kind(19, "matmul operation");
pub(super) const REDUCTION: Kind = kind(21, "reduction");
pub(super) const REDUCTION_OPERATION: Kind = kind(22, "reduction operation");
pub(super) const RESHAPE_OPERATION: Kind = kind(31, "reshape operation");
#[cfg(test)]
pub(super) const DEVICE: Kind = kind(38, "device properties");

// Types of values.
const HANDLE: i32 = 0;
const ELEMENT: i32 = 1;
const BOOLEAN: i32 = 2;
const INT64: i32 = 3;
const POINTER: i32 = 6;
const HEURISTIC_MODE: i32 = 8;
const POINTWISE_MODE: i32 = 14;
const DESCRIPTOR: i32 = 15;
const REDUCTION_MODE: i32 = 18;

pub(super) const POINTWISE_KIND: Attribute = attribute(0, POINTWISE_MODE);
pub(super) const POINTWISE_COMPUTES_IN: Attribute = attribute(1, ELEMENT);
pub(super) const POINTWISE_AXIS: Attribute = attribute(9, INT64);
pub(super) const HEURISTICS_MODE: Attribute = attribute(200, HEURISTIC_MODE);
pub(super) const HEURISTICS_GRAPH: Attribute = attribute(201, DESCRIPTOR);
pub(super) const HEURISTICS_RESULTS: Attribute = attribute(202, DESCRIPTOR);
#[cfg(test)]
pub(super) const HEURISTICS_DEVICE: Attribute = attribute(204, DESCRIPTOR);
pub(super) const CONFIGURATION_ENGINE: Attribute = attribute(300, DESCRIPTOR);
pub(super) const PLAN_HANDLE: Attribute = attribute(400, HANDLE);
pub(super) const PLAN_CONFIGURATION: Attribute = attribute(401, DESCRIPTOR);
pub(super) const PLAN_WORKSPACE: Attribute = attribute(402, INT64);
#[cfg(test)]
pub(super) const PLAN_DEVICE: Attribute = attribute(407, DESCRIPTOR);
pub(super) const OPERATION_POINTWISE: Attribute = attribute(750, DESCRIPTOR);
pub(super) const OPERATION_X: Attribute = attribute(751, DESCRIPTOR);
pub(super) const OPERATION_B: Attribute = attribute(752, DESCRIPTOR);
pub(super) const OPERATION_Y: Attribute = attribute(753, DESCRIPTOR);
pub(super) const OPERATION_CHOOSER: Attribute = attribute(758, DESCRIPTOR);
pub(super) const GRAPH_HANDLE: Attribute = attribute(800, HANDLE);
pub(super) const GRAPH_OPERATIONS: Attribute = attribute(801, DESCRIPTOR);
pub(super) const TENSOR_ALIGNMENT: Attribute = attribute(900, INT64);
pub(super) const TENSOR_ELEMENT: Attribute = attribute(901, ELEMENT);
pub(super) const TENSOR_DIMENSIONS: Attribute = attribute(902, INT64);
pub(super) const TENSOR_STRIDES: Attribute = attribute(903, INT64);
pub(super) const TENSOR_UID: Attribute = attribute(906, INT64);
pub(super) const TENSOR_IS_VIRTUAL: Attribute = attribute(907, BOOLEAN);
pub(super) const TENSOR_IS_VALUE: Attribute = attribute(908, BOOLEAN);
pub(super) const PACK_UIDS: Attribute = attribute(1000, INT64);
pub(super) const PACK_POINTERS: Attribute = attribute(1001, POINTER);
pub(super) const PACK_WORKSPACE: Attribute = attribute(1003, POINTER);
pub(super) const ENGINE_NUMBER: Attribute = attribute(1301, INT64);
pub(super) const MATMUL_COMPUTES_IN: Attribute = attribute(1500, ELEMENT);
pub(super) const MATMUL_A: Attribute = attribute(1520, DESCRIPTOR);
pub(super) const MATMUL_B: Attribute = attribute(1521, DESCRIPTOR);
pub(super) const MATMUL_C: Attribute = attribute(1522, DESCRIPTOR);
pub(super) const MATMUL_DESCRIPTOR: Attribute = attribute(1523, DESCRIPTOR);
pub(super) const REDUCTION_KIND: Attribute = attribute(1600, REDUCTION_MODE);
pub(super) const REDUCTION_COMPUTES_IN: Attribute = attribute(1601, ELEMENT);
pub(super) const REDUCTION_X: Attribute = attribute(1610, DESCRIPTOR);
pub(super) const REDUCTION_Y: Attribute = attribute(1611, DESCRIPTOR);
pub(super) const REDUCTION_DESCRIPTOR: Attribute = attribute(1612, DESCRIPTOR);
pub(super) const RESHAPE_X: Attribute = attribute(2200, DESCRIPTOR);
pub(super) const RESHAPE_Y: Attribute = attribute(2201, DESCRIPTOR);
/// The properties of a GPU as text.
#[cfg(test)]
pub(super) const DEVICE_TEXT: Attribute = attribute(2702, 24);

/// Modes of the heuristics, the one to ask first in front: the accurate one, then whatever works at all.
pub(super) const MODES: [i32; 2] = [3, 2];

/// Element types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Element {
    F32 = 0,
    F16 = 2,
    I32 = 4,
    BF16 = 9,
    Bool = 11,
}

/// What a pointwise operation does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pointwise(pub(super) i32);

pub(crate) const ADD: Pointwise = Pointwise(0);
pub(crate) const MULTIPLY: Pointwise = Pointwise(1);
pub(crate) const DIVIDE: Pointwise = Pointwise(6);
pub(crate) const SUBTRACT: Pointwise = Pointwise(9);
pub(crate) const EXP: Pointwise = Pointwise(13);
pub(crate) const LOG: Pointwise = Pointwise(15);
pub(crate) const IDENTITY: Pointwise = Pointwise(21);
pub(crate) const COMPARE_GE: Pointwise = Pointwise(303);
/// Gives the position along an axis.
pub(super) const POSITION: Pointwise = Pointwise(501);
/// Chooses between two values by a third.
pub(super) const CHOOSE: Pointwise = Pointwise(601);

/// How a reduction folds.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fold {
    Sum = 0,
    Highest = 3,
}
