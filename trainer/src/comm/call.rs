//! What a rank asks of its group: the collectives, their arguments, and the rules a single call
//! must satisfy.

use std::fmt;
use std::panic::Location;

use burn::tensor::{DType, TensorData};

use super::CallProblem;

/// Names how values of several ranks become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReduceOp {
    /// Sum, in the order of the members; integers wrap around.
    Sum,
    /// Sum divided by the number of members; floating point only.
    Avg,
    /// Largest value; a NaN on any member wins.
    Max,
    /// Smallest value; a NaN on any member wins.
    Min,
    /// Product, in the order of the members; integers wrap around.
    Prod,
}

impl ReduceOp {
    /// Every reduction.
    pub const ALL: [Self; 5] = [Self::Sum, Self::Avg, Self::Max, Self::Min, Self::Prod];
}

impl fmt::Display for ReduceOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sum => "sum",
            Self::Avg => "avg",
            Self::Max => "max",
            Self::Min => "min",
            Self::Prod => "prod",
        })
    }
}

/// Names a collective and its arguments; ranks are indices in the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Collective {
    /// Every member gets the reduction of all inputs.
    AllReduce {
        /// The reduction.
        op: ReduceOp,
    },
    /// Every member gets all inputs, concatenated along `dim`.
    AllGather {
        /// The dimension.
        dim: usize,
    },
    /// Member i gets the i-th equal part along `dim` of the reduction of all inputs.
    ReduceScatter {
        /// The dimension.
        dim: usize,
        /// The reduction.
        op: ReduceOp,
    },
    /// Member i gets the i-th equal part along `split_dim` of every input, concatenated along
    /// `concat_dim`.
    AllToAll {
        /// The dimension that is cut.
        split_dim: usize,
        /// The dimension along which the parts are put together.
        concat_dim: usize,
    },
    /// Every member gets the input of `root`.
    Broadcast {
        /// The member that has the value.
        root: usize,
    },
    /// Member i gets the i-th equal part along dimension 0 of the input of `root`.
    Scatter {
        /// The member that has the value.
        root: usize,
    },
    /// `root` gets all inputs, concatenated along dimension 0.
    Gather {
        /// The member that receives.
        root: usize,
    },
    /// `root` gets the reduction of all inputs.
    Reduce {
        /// The member that receives.
        root: usize,
        /// The reduction.
        op: ReduceOp,
    },
    /// No member goes on before all have come.
    Barrier,
}

impl Collective {
    /// The names of all operations a group counts, in the order of [`Self::index`], then `send` and
    /// `recv`.
    pub const NAMES: [&'static str; 11] = [
        "all_reduce",
        "all_gather",
        "reduce_scatter",
        "all_to_all",
        "broadcast",
        "scatter",
        "gather",
        "reduce",
        "barrier",
        "send",
        "recv",
    ];

    /// Returns the position of the operation in [`Self::NAMES`].
    pub fn index(&self) -> usize {
        match self {
            Self::AllReduce { .. } => 0,
            Self::AllGather { .. } => 1,
            Self::ReduceScatter { .. } => 2,
            Self::AllToAll { .. } => 3,
            Self::Broadcast { .. } => 4,
            Self::Scatter { .. } => 5,
            Self::Gather { .. } => 6,
            Self::Reduce { .. } => 7,
            Self::Barrier => 8,
        }
    }

    /// Returns the name of the operation.
    pub fn name(&self) -> &'static str {
        Self::NAMES[self.index()]
    }

    /// Returns the reduction, if the operation reduces.
    pub fn reduce_op(&self) -> Option<ReduceOp> {
        match *self {
            Self::AllReduce { op } | Self::ReduceScatter { op, .. } | Self::Reduce { op, .. } => {
                Some(op)
            }
            _ => None,
        }
    }

    /// Returns the member that gives or receives, if one stands out.
    pub fn root(&self) -> Option<usize> {
        match *self {
            Self::Broadcast { root }
            | Self::Scatter { root }
            | Self::Gather { root }
            | Self::Reduce { root, .. } => Some(root),
            _ => None,
        }
    }

    /// Returns the dimension that is cut into equal parts, if any.
    pub fn split_dim(&self) -> Option<usize> {
        match *self {
            Self::ReduceScatter { dim, .. } => Some(dim),
            Self::AllToAll { split_dim, .. } => Some(split_dim),
            Self::Scatter { .. } => Some(0),
            _ => None,
        }
    }

    /// Returns the dimension along which parts are put together, if any.
    pub fn concat_dim(&self) -> Option<usize> {
        match *self {
            Self::AllGather { dim } => Some(dim),
            Self::AllToAll { concat_dim, .. } => Some(concat_dim),
            Self::Gather { .. } => Some(0),
            _ => None,
        }
    }
}

impl fmt::Display for Collective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::AllReduce { op } => write!(f, "({op})"),
            Self::AllGather { dim } => write!(f, "(dim {dim})"),
            Self::ReduceScatter { dim, op } => write!(f, "(dim {dim}, {op})"),
            Self::AllToAll { split_dim, concat_dim } => {
                write!(f, "(split {split_dim}, concat {concat_dim})")
            }
            Self::Broadcast { root } | Self::Scatter { root } | Self::Gather { root } => {
                write!(f, "(root {root})")
            }
            Self::Reduce { root, op } => write!(f, "(root {root}, {op})"),
            Self::Barrier => Ok(()),
        }
    }
}

/// Describes one call of one rank, as its peers compare it.
#[derive(Debug, Clone)]
pub struct Call {
    /// The operation and its arguments.
    pub collective: Collective,
    /// Shape and element type of the input; absent on members that give none.
    pub input: Option<(Vec<usize>, DType)>,
    /// Where the input lies and the result is wanted.
    pub memory: Memory,
    /// The line that made the call.
    pub site: &'static Location<'static>,
}

/// Names the memory in which the tensors of a call lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Memory {
    /// That of the host.
    #[default]
    Host,
    /// That of a device.
    Device,
}

impl Call {
    /// Describes a call with the given input.
    pub fn new(
        collective: Collective,
        input: Option<&TensorData>,
        site: &'static Location<'static>,
    ) -> Self {
        Self::of(collective, input.map(|data| (data.shape().to_vec(), data.dtype())), site)
    }

    /// Describes a call with an input of the given shape and element type.
    pub(crate) fn of(
        collective: Collective,
        input: Option<(Vec<usize>, DType)>,
        site: &'static Location<'static>,
    ) -> Self {
        Self { collective, input, memory: Memory::Host, site }
    }

    /// Describes the same call of device tensors.
    pub(crate) fn on_device(self) -> Self {
        Self { memory: Memory::Device, ..self }
    }

    /// Returns true if two members may take part in one operation with these calls.
    pub fn matches(&self, other: &Self) -> bool {
        let same_input = match (&self.input, &other.input) {
            (Some(ours), Some(theirs)) => ours == theirs,
            _ => true,
        };
        self.collective == other.collective && same_input && self.memory == other.memory
    }

    /// Returns the number of elements of the input.
    pub fn num_elements(&self) -> usize {
        self.input.as_ref().map_or(0, |(shape, _)| shape.iter().product())
    }

    /// Returns the number of bytes of the input.
    pub fn num_bytes(&self) -> usize {
        self.input.as_ref().map_or(0, |(_, dtype)| self.num_elements() * dtype.size())
    }

    /// Checks everything that can be said without asking another rank.
    ///
    /// # Errors
    ///
    /// See [`CallProblem`].
    pub fn validate(&self, member: usize, size: usize) -> Result<(), CallProblem> {
        if let Some(root) = self.collective.root()
            && root >= size
        {
            return Err(CallProblem::NoSuchMember { member: root, size });
        }
        if let Collective::Scatter { root } = self.collective
            && self.input.is_some() != (root == member)
        {
            return Err(CallProblem::ScatterInput);
        }
        let Some((shape, dtype)) = &self.input else {
            return Ok(());
        };
        if matches!(dtype, DType::QFloat(_)) {
            return Err(CallProblem::Quantized);
        }
        for dim in [self.collective.split_dim(), self.collective.concat_dim()] {
            if let Some(dim) = dim.filter(|dim| *dim >= shape.len()) {
                return Err(CallProblem::NoSuchDim { dim, rank: shape.len() });
            }
        }
        if let Some(dim) = self.collective.split_dim()
            && !shape[dim].is_multiple_of(size)
        {
            let padded = shape[dim].next_multiple_of(size);
            return Err(CallProblem::Indivisible { dim, size: shape[dim], parts: size, padded });
        }
        self.collective.reduce_op().map_or(Ok(()), |op| reducible(*dtype, op))
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.collective)?;
        if let Some((shape, dtype)) = &self.input {
            write!(f, " of {}{shape:?}", dtype.name())?;
        }
        if self.memory == Memory::Device {
            f.write_str(" on a device")?;
        }
        write!(f, " at {}:{}", self.site.file(), self.site.line())
    }
}

fn reducible(dtype: DType, op: ReduceOp) -> Result<(), CallProblem> {
    let name = dtype.name();
    match dtype {
        DType::I64 | DType::I32 if op == ReduceOp::Avg => {
            Err(CallProblem::IntegerAverage { dtype: name })
        }
        DType::F64 | DType::F32 | DType::F16 | DType::BF16 | DType::I64 | DType::I32 => Ok(()),
        _ => Err(CallProblem::NotReducible { dtype: name }),
    }
}
