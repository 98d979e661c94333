//! Configuration: TOML layers become typed tables, typed tables become a plan of concrete numbers.
//!
//! | file | does |
//! | --- | --- |
//! | `source`, `key` | the texts values come from, places in them, dotted keys |
//! | `not_toml` | recognizes YAML, JSON and words of Python where TOML was expected |
//! | `file`, `overrides` | TOML files, `DREAM_TRAIN_*` variables and `--set` arguments to values with places |
//! | `layers` | merges defaults, preset, files, variables and arguments ([`load`]) |
//! | `provenance` | tells where each value comes from |
//! | `deserialize`, `typed` | values to types; everything that does not fit becomes an error with a place |
//! | `device`, `model`, `tables` | the tables that belong to no component, and all of them together |
//! | `plan`, `resolve`, `batch`, `validate` | concrete numbers and checks ([`Loaded::resolve`]) |
//! | `effect` | keys that do nothing under the other keys |
//! | `capability` | what the recipe and the build can do ([`Loaded::require`]) |
//! | `error`, `advice`, `report` | what can be wrong, what to do about it, and how it is shown |
//! | `other_tools` | what names and values of other trainers are called here |
//! | `schema`, `docs`, `show` | JSON schema, reference page, and the plan as TOML with origins |
//!
//! Nothing here opens a socket, makes a tensor or reads the environment.

mod advice;
mod batch;
mod capability;
mod deserialize;
mod device;
mod docs;
mod effect;
mod error;
mod file;
mod key;
mod layers;
mod model;
mod not_toml;
mod other_tools;
mod overrides;
mod plan;
mod provenance;
mod report;
mod resolve;
pub(crate) mod schema;
mod show;
mod source;
mod tables;
mod typed;
mod validate;

pub use capability::{Availability, Capabilities};
pub use device::{
    ActivationCheckpointing, CommParameters, ContextMethod, ContextParameters, DeviceKind,
    DeviceParameters, FloatType, LoadBalance, PipelineParameters, PipelineSchedule, Preset,
    RankKind,
};
pub use docs::reference_page;
pub use error::{ConfigError, ConfigErrorKind, ConfigErrors};
pub use key::KeyPath;
pub use layers::{Loaded, Sources, load};
pub use model::ModelTable;
pub use plan::{ResolvedConfig, ResolvedDevice, ResolvedPipeline, ResolvedTraining};
pub use provenance::{Origin, Provenance};
pub use report::{ReportStyle, render};
pub use schema::{ModelSchemas, file_schema, model_schema};
pub use source::{Place, SourceKind, SourceText};
pub use tables::Config;
