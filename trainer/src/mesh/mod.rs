//! The device mesh: which rank sits where, and which ranks form a group.
//!
//! A mesh arranges `world_size` ranks along five named axes, from outer to inner
//! `pp, dp_replicate, dp_shard, cp, tp`. All of it is integer arithmetic: no tensor, no socket, no
//! table, so the mesh of a cluster can be computed and checked on a laptop.
//!
//! | file | answers |
//! | --- | --- |
//! | `axis` | what an axis is, and which sets of axes act together ([`AxisSet::FSDP`]) |
//! | `order` | which axis varies slowest ([`MeshOrder`]) |
//! | `degree` | what a configuration declares, `"auto"` included, and what it resolves to |
//! | `device_mesh`, `coordinate` | rank to coordinate and back, group members |
//! | `neighbors` | groups of ranks next to each other along one axis |
//! | `nodes` | which groups leave a node |
//! | `shapes` | which shapes a world size allows |
//! | `placement`, `layout` | how a tensor lies on the mesh, and which block of it a rank holds |

mod axis;
mod coordinate;
mod degree;
mod device_mesh;
mod error;
mod layout;
mod neighbors;
mod nodes;
mod order;
mod placement;
mod shapes;

pub use axis::{Axis, AxisSet};
pub use coordinate::Coordinate;
pub use degree::{Degree, Degrees};
pub use device_mesh::DeviceMesh;
pub use error::MeshError;
pub use layout::{Block, exact_div, local_block, local_shape, shard_of, shard_range};
pub use neighbors::Neighbors;
pub use nodes::Nodes;
pub use order::MeshOrder;
pub use placement::{Placement, ReduceKind};
pub use shapes::{Shape, ShapeFilter, enumerate_shapes};
