//! A graph of operations on four-dimensional tensors.
//!
//! Tensors are either in memory, numbers that are given when the plan runs, or *virtual*: what one operation hands to the
//! next, which is never written out. Everything is computed in `f32`, but what counts positions.

use super::descriptor::Descriptor;
use super::library::Library;
use super::names::{self, Attribute, CHOOSE, Element, Fold, POSITION, Pointwise};

/// The sizes of four dimensions, or their strides.
pub(crate) type Four = [i64; 4];

/// Alignment, in bytes, that all memory has.
pub(super) const ALIGNMENT: usize = 16;

/// The first number of tensors that are not named by the caller.
const FIRST_UID: i64 = 100;

/// A tensor of a graph.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tensor {
    index: usize,
    pub(crate) dims: Four,
    pub(crate) strides: Four,
}

/// A number that never changes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Constant {
    F32(f32),
    I32(i32),
}

/// Tensors and operations, in their order.
#[derive(Debug)]
pub(crate) struct Graph {
    pub(super) library: &'static Library,
    pub(super) operations: Vec<Descriptor>,
    /// Finished descriptors that operations refer to.
    pub(super) parts: Vec<Descriptor>,
    /// Numbers of the tensors that the caller gives memory or a value for.
    pub(super) given: Vec<i64>,
    pub(super) constants: Vec<(i64, Constant)>,
    last_uid: i64,
}

/// Returns the strides of elements in the order of their dimensions.
pub(crate) fn packed([_, b, c, d]: Four) -> Four {
    [b * c * d, c * d, d, 1]
}

impl Graph {
    pub(crate) fn new(library: &'static Library) -> Self {
        let (operations, parts, given, constants) = (vec![], vec![], vec![], vec![]);
        Self { library, operations, parts, given, constants, last_uid: FIRST_UID }
    }

    /// Adds a tensor in memory.
    pub(crate) fn tensor(
        &mut self,
        uid: i64,
        (dims, strides): (Four, Four),
        element: Element,
    ) -> Result<Tensor, String> {
        self.given.push(uid);
        self.add(uid, (dims, strides), element, None)
    }

    /// Adds an `f32` number that is given when the plan runs.
    pub(crate) fn number(&mut self, uid: i64) -> Result<Tensor, String> {
        self.given.push(uid);
        self.add(uid, ([1; 4], [1; 4]), Element::F32, Some(names::TENSOR_IS_VALUE))
    }

    /// Adds an `f32` number that is always the same.
    pub(crate) fn constant(&mut self, value: f32) -> Result<Tensor, String> {
        self.fixed(Constant::F32(value), Element::F32)
    }

    /// Adds a whole number that is always the same.
    pub(crate) fn integer(&mut self, value: i32) -> Result<Tensor, String> {
        self.fixed(Constant::I32(value), Element::I32)
    }

    fn fixed(&mut self, value: Constant, element: Element) -> Result<Tensor, String> {
        let uid = self.next_uid();
        self.constants.push((uid, value));
        self.add(uid, ([1; 4], [1; 4]), element, Some(names::TENSOR_IS_VALUE))
    }

    /// Adds a virtual tensor.
    pub(crate) fn passing(
        &mut self,
        (dims, strides): (Four, Four),
        element: Element,
    ) -> Result<Tensor, String> {
        let uid = self.next_uid();
        self.add(uid, (dims, strides), element, Some(names::TENSOR_IS_VIRTUAL))
    }

    fn next_uid(&mut self) -> i64 {
        self.last_uid += 1;
        self.last_uid
    }

    fn add(
        &mut self,
        uid: i64,
        (dims, strides): (Four, Four),
        element: Element,
        flag: Option<Attribute>,
    ) -> Result<Tensor, String> {
        let mut descriptor = Descriptor::new(self.library, names::TENSOR)?
            .with_mode(names::TENSOR_ELEMENT, element as i32)?
            .with_numbers(names::TENSOR_DIMENSIONS, &dims)?
            .with_numbers(names::TENSOR_STRIDES, &strides)?
            .with_numbers(names::TENSOR_UID, &[uid])?
            .with_numbers(names::TENSOR_ALIGNMENT, &[ALIGNMENT as i64])?;
        if let Some(flag) = flag {
            descriptor = descriptor.with_flag(flag)?;
        }
        Ok(Tensor { index: self.keep(descriptor.finished()?), dims, strides })
    }

    fn keep(&mut self, part: Descriptor) -> usize {
        self.parts.push(part);
        self.parts.len() - 1
    }

    fn part(&self, tensor: Tensor) -> [&Descriptor; 1] {
        [&self.parts[tensor.index]]
    }

    /// Adds `c = a b` over the last two dimensions.
    pub(crate) fn multiply(&mut self, a: Tensor, b: Tensor, c: Tensor) -> Result<(), String> {
        let kind = Descriptor::new(self.library, names::MATMUL)?
            .with_mode(names::MATMUL_COMPUTES_IN, Element::F32 as i32)?
            .finished()?;
        let kind = self.keep(kind);
        let operation = Descriptor::new(self.library, names::MATMUL_OPERATION)?
            .with(names::MATMUL_A, &self.part(a))?
            .with(names::MATMUL_B, &self.part(b))?
            .with(names::MATMUL_C, &self.part(c))?
            .with(names::MATMUL_DESCRIPTOR, &[&self.parts[kind]])?
            .finished()?;
        self.operations.push(operation);
        Ok(())
    }

    /// Adds `y = f(x, b)`, element by element.
    pub(crate) fn pointwise_to(
        &mut self,
        mode: Pointwise,
        x: Tensor,
        b: Option<Tensor>,
        y: Tensor,
    ) -> Result<(), String> {
        self.push_pointwise((mode, Element::F32, None), x, b, None, y)
    }

    /// Adds a pointwise operation whose result is a virtual tensor like `x`, in `f32`.
    pub(crate) fn pointwise(
        &mut self,
        mode: Pointwise,
        x: Tensor,
        b: Option<Tensor>,
    ) -> Result<Tensor, String> {
        let y = self.passing((x.dims, x.strides), Element::F32)?;
        self.pointwise_to(mode, x, b, y)?;
        Ok(y)
    }

    /// Adds an operation on whole numbers, which gives whole numbers, or truth where it compares.
    pub(crate) fn whole(
        &mut self,
        mode: Pointwise,
        x: Tensor,
        b: Tensor,
        output: Element,
    ) -> Result<Tensor, String> {
        let y = self.passing((x.dims, x.strides), output)?;
        self.push_pointwise((mode, output, None), x, Some(b), None, y)?;
        Ok(y)
    }

    /// Adds the position of each element of a tensor along an axis.
    pub(crate) fn position(&mut self, like: Tensor, axis: i64) -> Result<Tensor, String> {
        let y = self.passing((like.dims, like.strides), Element::I32)?;
        self.push_pointwise((POSITION, Element::F32, Some(axis)), like, None, None, y)?;
        Ok(y)
    }

    /// Adds the choice of `x` where `keep` is true, and of `other` elsewhere.
    pub(crate) fn choose(
        &mut self,
        keep: Tensor,
        x: Tensor,
        other: Tensor,
    ) -> Result<Tensor, String> {
        let y = self.passing((x.dims, x.strides), Element::F32)?;
        self.push_pointwise((CHOOSE, Element::F32, None), x, Some(other), Some(keep), y)?;
        Ok(y)
    }

    fn push_pointwise(
        &mut self,
        (mode, inner, axis): (Pointwise, Element, Option<i64>),
        x: Tensor,
        b: Option<Tensor>,
        chooser: Option<Tensor>,
        y: Tensor,
    ) -> Result<(), String> {
        let mut kind = Descriptor::new(self.library, names::POINTWISE)?
            .with_mode(names::POINTWISE_KIND, mode.0)?
            .with_mode(names::POINTWISE_COMPUTES_IN, inner as i32)?;
        if let Some(axis) = axis {
            kind = kind.with_numbers(names::POINTWISE_AXIS, &[axis])?;
        }
        let kind = self.keep(kind.finished()?);
        let mut operation = Descriptor::new(self.library, names::POINTWISE_OPERATION)?
            .with(names::OPERATION_POINTWISE, &[&self.parts[kind]])?
            .with(names::OPERATION_X, &self.part(x))?;
        for (attribute, tensor) in [(names::OPERATION_B, b), (names::OPERATION_CHOOSER, chooser)] {
            if let Some(tensor) = tensor {
                operation = operation.with(attribute, &self.part(tensor))?;
            }
        }
        let operation = operation.with(names::OPERATION_Y, &self.part(y))?.finished()?;
        self.operations.push(operation);
        Ok(())
    }

    /// Adds `y`, in which the dimensions of `x` that have size one in `y` are folded.
    pub(crate) fn fold(&mut self, fold: Fold, x: Tensor, y: Tensor) -> Result<(), String> {
        let kind = Descriptor::new(self.library, names::REDUCTION)?
            .with_mode(names::REDUCTION_COMPUTES_IN, Element::F32 as i32)?
            .with_mode(names::REDUCTION_KIND, fold as i32)?
            .finished()?;
        let kind = self.keep(kind);
        let operation = Descriptor::new(self.library, names::REDUCTION_OPERATION)?
            .with(names::REDUCTION_DESCRIPTOR, &[&self.parts[kind]])?
            .with(names::REDUCTION_X, &self.part(x))?
            .with(names::REDUCTION_Y, &self.part(y))?
            .finished()?;
        self.operations.push(operation);
        Ok(())
    }

    /// Adds `x` seen with other sizes and strides, those of `y`.
    pub(crate) fn view(&mut self, x: Tensor, y: Tensor) -> Result<(), String> {
        let operation = Descriptor::new(self.library, names::RESHAPE_OPERATION)?
            .with(names::RESHAPE_X, &self.part(x))?
            .with(names::RESHAPE_Y, &self.part(y))?
            .finished()?;
        self.operations.push(operation);
        Ok(())
    }
}
