//! [`Unit`]: the seam in a model where parameters are gathered and activations are made again.

use std::sync::Arc;

use burn::module::{
    Content, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor,
};
use burn::tensor::Device;

use super::schedule::Schedule;
use super::sharing::Sharing;
use super::{FloatTensors, erased, inline, params, recompute};

/// Wraps a module that is computed as one: a transformer block, an embedding, a head.
///
/// Out of the box it is transparent: [`Unit::forward`] calls the body on the module, and the unit
/// adds nothing to parameter paths. A [`FullyShard`](super::FullyShard) makes it hold only this
/// rank's shards, of which the whole parameters are gathered around each forward and backward pass;
/// an [`ActivationCheckpointing`](super::ActivationCheckpointing) makes backward compute the
/// activations again.
///
/// # Examples
///
/// ```
/// use burn::module::Module;
/// use burn::tensor::Tensor;
/// use dream_trainer::fsdp::Unit;
/// use dream_trainer::nn::Linear;
///
/// #[derive(Module, Debug)]
/// struct Stack {
///     layers: Vec<Unit<Linear>>,
/// }
///
/// impl Stack {
///     fn forward(&self, x: Tensor<2>) -> Tensor<2> {
///         self.layers.iter().fold(x, |x, layer| layer.forward(x, |layer, x| layer.forward(x)))
///     }
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Unit<M> {
    module: M,
    recompute: bool,
    sharing: Option<Arc<Sharing>>,
}

impl<M> From<M> for Unit<M> {
    fn from(module: M) -> Self {
        Self::new(module)
    }
}

impl<M> Unit<M> {
    /// Wraps a module.
    pub fn new(module: M) -> Self {
        Self { module, recompute: false, sharing: None }
    }

    /// Returns the module. In a sharded unit its parameters are this rank's shards, which no
    /// forward pass can use.
    pub fn module(&self) -> &M {
        &self.module
    }

    /// Tells whether the parameters are shards.
    pub fn is_sharded(&self) -> bool {
        self.sharing.is_some()
    }

    /// Tells whether backward computes the activations again.
    pub fn recomputes(&self) -> bool {
        self.recompute
    }

    /// Chooses whether backward computes the activations again.
    #[must_use]
    pub fn with_recompute(mut self, recompute: bool) -> Self {
        self.recompute = recompute;
        self
    }
}

impl<M: Module + 'static> Unit<M> {
    /// Runs `body` on the module with whole parameters.
    ///
    /// All tensors that take gradients have to come in through `inputs` and leave through the
    /// result: a body that is run again cannot reach others on the tape. What else it needs, such
    /// as positions or masks, it captures. It must not depend on anything that changes between the
    /// forward and the backward pass, such as a global random generator.
    ///
    /// # Communication
    ///
    /// Of a sharded unit, over its shard group: one all-gather of the parameters before the body;
    /// another in the backward pass unless they are kept; one reduce-scatter of the gradients at
    /// the end of the unit's backward pass. A failure in any of them is a panic with the
    /// [`CommError`](crate::comm::CommError) as its payload, since a backward pass cannot return
    /// errors.
    pub fn forward<I, O, F>(&self, inputs: I, body: F) -> O
    where
        I: FloatTensors,
        O: FloatTensors,
        F: Fn(&M, I) -> O + Send + 'static,
    {
        match &self.sharing {
            None if !self.recompute => body(&self.module, inputs),
            None => recompute::run(None, &self.module, inputs, body),
            Some(sharing) => {
                let inputs = erased::cast(inputs, sharing.input_dtype);
                let outputs = if self.recompute {
                    recompute::run(Some(sharing), &self.module, inputs, body)
                } else {
                    inline::run(sharing, &self.module, inputs, body)
                };
                erased::cast(outputs, sharing.output_dtype)
            }
        }
    }

    /// Replaces the module by one with shards and says how they are shared.
    pub(crate) fn with_sharing<E>(
        self,
        shard: impl FnOnce(M) -> Result<M, E>,
        sharing: Sharing,
    ) -> Result<Self, E> {
        let module = shard(self.module)?;
        Ok(Self { module, recompute: self.recompute, sharing: None }.shared(Some(sharing)))
    }

    /// Makes the unit known to its schedule.
    fn shared(mut self, sharing: Option<Sharing>) -> Self {
        self.sharing = sharing.map(|sharing| {
            let sharing = Arc::new(sharing);
            let (module, weak) = (self.module.clone(), Arc::downgrade(&sharing));
            let prefetch = move || match weak.upgrade() {
                Some(sharing) => sharing.weights.issue(&params::plain(&module)),
                None => Ok(()),
            };
            sharing.schedule.set_prefetch(sharing.unit, Box::new(prefetch));
            sharing
        });
        self
    }

    /// Changes the module. What was gathered of it is forgotten, and nothing but the module holds
    /// its values meanwhile.
    fn change(self, change: impl FnOnce(M) -> M) -> Self {
        let Self { module, recompute, sharing } = self;
        let renewed = sharing.map(|sharing| {
            sharing.schedule.forget(sharing.unit);
            sharing.renewed(Arc::clone(&sharing.schedule))
        });
        Self { module: change(module), recompute, sharing: None }.shared(renewed)
    }
}

/// Delegates to the module without a path of its own, so that parameters keep their names.
impl<M: Module + 'static> Module for Unit<M> {
    fn collect_devices(&self, devices: Vec<Device>) -> Vec<Device> {
        self.module.collect_devices(devices)
    }

    fn fork(self, device: &Device) -> Self {
        self.change(|module| module.fork(device))
    }

    fn to_device(self, device: &Device) -> Self {
        self.change(|module| module.to_device(device))
    }

    fn train(self) -> Self {
        self.change(Module::train)
    }

    fn valid(&self) -> Self {
        // Beside the training model, so it must not disturb the order that one's units learn.
        let renewed = |sharing: &Arc<Sharing>| {
            Arc::new(sharing.renewed(Arc::new(Schedule::beside(&sharing.schedule))))
        };
        Self {
            module: self.module.valid(),
            recompute: self.recompute,
            sharing: self.sharing.as_ref().map(renewed),
        }
    }

    fn materialize(self) -> Self {
        self.change(Module::materialize)
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        self.module.visit(visitor);
    }

    fn map<V: ModuleMapper>(self, mapper: &mut V) -> Self {
        self.change(|module| module.map(mapper))
    }
}

impl<M: ModuleDisplay + 'static> ModuleDisplayDefault for Unit<M> {
    fn content(&self, content: Content) -> Option<Content> {
        content.add_single(&self.module).optional()
    }
}

impl<M: ModuleDisplay + 'static> ModuleDisplay for Unit<M> {}
