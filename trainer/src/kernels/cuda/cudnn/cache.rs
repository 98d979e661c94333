//! Plans by GPU and problem. What cuDNN refused is remembered, too.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Arc, Mutex, Once, PoisonError};

use burn_cubecl::CubeDevice;

use super::graph::Graph;
use super::handle::with_handle;
use super::library::library;
use super::plan::{Place, Plan};
use crate::backend::driver::Runner;

/// Plans that are kept: each holds its compiled kernels. A model in training needs a handful.
const MOST: usize = 256;

type Plans<K> = HashMap<(CubeDevice, K), Option<Arc<Plan>>>;

/// Plans of problems that a key describes in full.
pub(crate) struct Cache<K> {
    plans: Mutex<Option<Plans<K>>>,
    full: Once,
}

impl<K: Copy + Debug + Eq + Hash + Send + 'static> Cache<K> {
    pub(crate) const fn new() -> Self {
        Self { plans: Mutex::new(None), full: Once::new() }
    }

    /// Returns the plan of a problem on a GPU, making it the first time, for which this waits: tens of milliseconds, up
    /// to a second. Returns nothing where cuDNN has no plan, or where too many are kept; the log says why, once.
    ///
    /// `describe` runs with the GPU current.
    pub(crate) fn plan(
        &self,
        device: &CubeDevice,
        key: K,
        describe: fn(K, &mut Graph) -> Result<(), String>,
    ) -> Option<Arc<Plan>> {
        let place = (device.clone(), key);
        let found = self.with(|plans| match plans.get(&place) {
            Some(found) => Found::Plan(found.clone()),
            None if plans.len() >= MOST => Found::Full,
            None => Found::New,
        });
        match found {
            Found::Plan(plan) => return plan,
            Found::Full => {
                self.full.call_once(|| {
                    tracing::debug!(
                        MOST,
                        "no more plans of cuDNN are kept; other kernels are used"
                    );
                });
                return None;
            }
            Found::New => {}
        }
        let plan = match build(device, key, describe) {
            Ok(plan) => Some(Arc::new(plan)),
            Err(reason) => {
                tracing::debug!(?key, reason, "no plan of cuDNN; other kernels are used");
                None
            }
        };
        // Another thread may have made one meanwhile: all use the first.
        self.with(|plans| plans.entry(place).or_insert(plan).clone())
    }

    fn with<T>(&self, work: impl FnOnce(&mut Plans<K>) -> T) -> T {
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        work(plans.get_or_insert_with(HashMap::new))
    }
}

/// What is known of a problem.
enum Found {
    Plan(Option<Arc<Plan>>),
    New,
    Full,
}

/// Makes a plan on the thread that feeds the GPU, where the GPU is current.
fn build<K: Copy + Send + 'static>(
    device: &CubeDevice,
    key: K,
    describe: fn(K, &mut Graph) -> Result<(), String>,
) -> Result<Plan, String> {
    let library = library()?;
    Runner::at(device).call(move || {
        let mut graph = Graph::new(library);
        describe(key, &mut graph)?;
        with_handle(library, |handle| Plan::build(graph, &Place::Handle(handle)))
    })
}
