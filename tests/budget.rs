//! No rank ever holds more than its share: every byte of the heap is counted for the rank that
//! allocated it.
#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]
#![allow(unsafe_code, reason = "an allocator that counts wraps another one")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use dream_trainer::callbacks::CallbackSet;
use dream_trainer::comm::Ranks;
use dream_trainer::config::{self, Sources};
use dream_trainer::nn::ParameterEntry;
use dream_trainer::recipe::find;
use dream_trainer::train::Interrupt;

/// Counts what each rank allocated and was not freed yet, by whichever thread.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const RANKS: usize = 8;

/// Where the bytes of threads that are no rank go.
const OTHERS: usize = RANKS;

/// The matrix product's scratch memory, 64 MiB per thread whatever the model. All parameters in one
/// buffer would be less and are counted.
const SCRATCH: usize = 32 << 20;

static LIVE: [AtomicIsize; RANKS + 1] = [const { AtomicIsize::new(0) }; RANKS + 1];
static PEAK: [AtomicIsize; RANKS + 1] = [const { AtomicIsize::new(0) }; RANKS + 1];

thread_local! {
    static RANK: Cell<usize> = const { Cell::new(OTHERS) };
}

/// One test counts at a time.
static COUNTING: Mutex<()> = Mutex::new(());

fn counting() -> MutexGuard<'static, ()> {
    COUNTING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the layout of an allocation with room in front for the number of its owner.
fn with_owner(layout: Layout) -> Option<(Layout, usize)> {
    let offset = layout.align();
    Layout::from_size_align(layout.size() + offset, layout.align())
        .ok()
        .map(|layout| (layout, offset))
}

// SAFETY: memory comes from the system's allocator with a layout that holds the owner's number and,
// behind it, aligned, what was asked for; it goes back with the same layout.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some((whole, offset)) = with_owner(layout) else { return std::ptr::null_mut() };
        let rank = RANK.try_with(Cell::get).unwrap_or(OTHERS);
        let owner = if layout.size() < SCRATCH { rank } else { OTHERS };
        // SAFETY: the size is not zero, and the owner's number, a byte, fits before the offset.
        let start = unsafe { System.alloc(whole) };
        if start.is_null() {
            return start;
        }
        let live = LIVE[owner].fetch_add(layout.size() as isize, Ordering::Relaxed);
        PEAK[owner].fetch_max(live + layout.size() as isize, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe {
            start.write(owner as u8);
            start.add(offset)
        }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        let Some((whole, offset)) = with_owner(layout) else { return };
        // SAFETY: the memory came from `alloc` with the same layout.
        unsafe {
            let start = memory.sub(offset);
            let owner = usize::from(start.read());
            LIVE[owner].fetch_sub(layout.size() as isize, Ordering::Relaxed);
            System.dealloc(start, whole);
        }
    }
}

const BLOCKS: usize = 96;

/// Parameters of a block: four attention matrices, three of the feed-forward layer, two norms.
const BLOCK: usize = 96 * 96 * 2 + 96 * 48 * 2 + 3 * 96 * 288 + 2 * 96;

/// Bytes of one unit's parameters, and of all of them.
const UNIT: usize = BLOCK * size_of::<f32>();
const PARAMETERS: usize = BLOCKS * UNIT;

/// Parameters, gradients and two moments.
const STATE: usize = 4 * PARAMETERS;

/// What a rank holds besides its part of the state: units that are gathered, ahead, or travel in
/// either direction, where the first rank to come makes the messages of all; activations of one
/// short sequence; and the names and shapes of a thousand parameters.
const IN_FLIGHT: usize = 32 * UNIT;

const MODEL: &str = r#"
[model]
name = "llama3"
dim = 96
num_layers = 96
num_heads = 4
num_kv_heads = 2
ffn_dim = 288
vocab_size = 96
[training_parameters]
steps = 2
global_batch_size = 8
sequence_length = 16
[device_parameters]
activation_checkpointing = "full"
[data]
source = "synthetic"
vocab_size = 96
num_sequences = 32
[metrics]
jsonl = false
"#;

const SHARDED: [&str; 2] = ["device_parameters.preset=fsdp", "device_parameters.world_size=8"];

/// Runs the model and returns the most bytes that one rank held.
fn peak(folder: &Path, sets: &[&str]) -> usize {
    let file = folder.join("run.toml");
    std::fs::write(&file, MODEL).unwrap();
    let mut sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
    sets.push(format!("run.output_dir='{}'", folder.join("outputs").display()));
    let loaded = config::load(&Sources { files: vec![file], sets, ..Sources::default() }).unwrap();
    let resolved = loaded.resolve(None).unwrap();
    let recipes = dream_models::recipes();
    let prepared = find(&recipes, &resolved.model).unwrap().prepare(&loaded, &resolved).unwrap();
    for (peak, live) in PEAK.iter().zip(&LIVE) {
        peak.store(live.load(Ordering::Relaxed), Ordering::Relaxed);
    }
    let before: Vec<isize> = LIVE.iter().map(|live| live.load(Ordering::Relaxed)).collect();
    // Each rank asks for its callbacks on its own thread, before anything else.
    let callbacks = |rank| {
        RANK.set(rank);
        CallbackSet::new(rank)
    };
    let ranks = Ranks::Threads(prepared.plan().mesh.world_size());
    prepared.fit(&ranks, &Interrupt::default(), &callbacks).unwrap();
    let held = |rank: usize| PEAK[rank].load(Ordering::Relaxed) - before[rank];
    (0..RANKS).map(held).max().unwrap() as usize
}

#[test]
fn a_model_of_eight_budgets_trains_on_eight_ranks() {
    let _counting = counting();
    let budget = STATE / RANKS + IN_FLIGHT;
    assert!(budget < PARAMETERS, "a rank that ever made all parameters would not fit its budget");
    let folder = tempfile::tempdir().unwrap();
    let sharded = peak(folder.path(), &SHARDED);
    assert!(sharded <= budget, "{sharded} bytes of a budget of {budget}");
    let alone = peak(folder.path(), &["training_parameters.steps=1"]);
    // The count sees it: gradients are there before the first moments, and go as those come.
    assert!(alone > 2 * PARAMETERS, "one rank alone holds {alone} bytes");
}

#[test]
fn saving_and_loading_hold_shards_only() {
    let _counting = counting();
    // Host copies of parameters and moments while they are written.
    let copies = 3 * PARAMETERS / RANKS;
    let budget = STATE / RANKS + copies + IN_FLIGHT;
    let folder = tempfile::tempdir().unwrap();
    let save = ["checkpoint.enable=true", "checkpoint.every_n_steps=1"];
    let sets = [&SHARDED[..], &save].concat();
    let saving = peak(folder.path(), &sets);
    assert!(saving <= budget, "{saving} bytes of a budget of {budget} while saving");
    let more = [&sets[..], &["training_parameters.steps=3", "checkpoint.resume=must"]].concat();
    let loading = peak(folder.path(), &more);
    assert!(loading <= budget, "{loading} bytes of a budget of {budget} after loading");
}

#[test]
fn a_plan_of_seventy_billion_parameters_makes_none() {
    let _counting = counting();
    RANK.set(0);
    let before = LIVE[0].load(Ordering::Relaxed);
    PEAK[0].store(before, Ordering::Relaxed);
    let sources = Sources { files: vec!["configs/llama3_70b.toml".into()], ..Sources::default() };
    let loaded = config::load(&sources).unwrap();
    let resolved = loaded.resolve(None).unwrap();
    let recipes = dream_models::recipes();
    let recipe = find(&recipes, &resolved.model).unwrap();
    let prepared = recipe.prepare(&loaded, &resolved).unwrap();
    let parameters = prepared.parameters().unwrap();
    let count: usize = parameters.iter().map(ParameterEntry::num_elements).sum();
    let peak = PEAK[0].load(Ordering::Relaxed) - before;
    RANK.set(OTHERS);
    assert!(count > 70_000_000_000, "{count} parameters");
    assert!(peak < 16 << 20, "planning took {peak} bytes");
}
