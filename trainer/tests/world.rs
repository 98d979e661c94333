//! Who a rank is: every launcher's environment, and ranks as threads.

use dream_trainer::world::env::{External, Variables, alone_in_allocation, configuring, detect};
use dream_trainer::world::{
    Fault, Launcher, Outcomes, StartError, World, WorldError, run_rank_threads, threads_per_rank,
};

fn variables(text: &str) -> Variables {
    let pairs = text.split_whitespace().filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn world(
    launcher: Launcher,
    rank: usize,
    world_size: usize,
    local_rank: usize,
    local_world_size: usize,
) -> World {
    World { rank, world_size, local_rank, local_world_size, launcher }
}

#[test]
fn launchers_are_recognized() {
    let rows = [
        (
            "RANK=5 WORLD_SIZE=8 LOCAL_RANK=1 LOCAL_WORLD_SIZE=4 MASTER_ADDR=node0 MASTER_PORT=29500",
            world(Launcher::Torchrun, 5, 8, 1, 4),
        ),
        (
            "SLURM_PROCID=9 SLURM_NTASKS=12 SLURM_LOCALID=1 SLURM_NTASKS_PER_NODE=4",
            world(Launcher::Slurm, 9, 12, 1, 4),
        ),
        (
            "SLURM_PROCID=9 SLURM_NTASKS=11 SLURM_LOCAL_ID=1 SLURM_NODEID=2 SLURM_TASKS_PER_NODE=4(x2),3",
            world(Launcher::Slurm, 9, 11, 1, 3),
        ),
        (
            "OMPI_COMM_WORLD_RANK=3 OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_LOCAL_RANK=1 OMPI_COMM_WORLD_LOCAL_SIZE=2",
            world(Launcher::OpenMpi, 3, 4, 1, 2),
        ),
        (
            "PMI_RANK=2 PMI_SIZE=4 MPI_LOCALRANKID=2 MPI_LOCALNRANKS=4",
            world(Launcher::Pmi, 2, 4, 2, 4),
        ),
        (
            "PALS_RANKID=13 PMI_SIZE=24 PALS_LOCAL_RANKID=1 PALS_LOCAL_SIZE=12",
            world(Launcher::Pmi, 13, 24, 1, 12),
        ),
        // A step of SLURM, its rank 0 too.
        (
            "SLURM_PROCID=0 SLURM_NTASKS=2 SLURM_STEP_ID=3 SLURM_LOCALID=0 SLURM_NTASKS_PER_NODE=2",
            world(Launcher::Slurm, 0, 2, 0, 2),
        ),
        // `torchrun` inside SLURM, once a node: what it says of its own processes holds.
        (
            "TORCHELASTIC_RUN_ID=1 RANK=5 WORLD_SIZE=8 LOCAL_RANK=1 LOCAL_WORLD_SIZE=4 \
             SLURM_PROCID=1 SLURM_NTASKS=2 SLURM_STEP_ID=0 SLURM_LOCALID=0 SLURM_NTASKS_PER_NODE=1",
            world(Launcher::Torchrun, 5, 8, 1, 4),
        ),
        // `torchrun` in the script of `sbatch`, which has the variables of a task without a step.
        (
            "RANK=3 WORLD_SIZE=4 LOCAL_RANK=3 LOCAL_WORLD_SIZE=4 SLURM_PROCID=0 SLURM_NTASKS=1 SLURM_LOCALID=0",
            world(Launcher::Torchrun, 3, 4, 3, 4),
        ),
        // One process needs no local numbers.
        ("RANK=0 WORLD_SIZE=1", world(Launcher::Torchrun, 0, 1, 0, 1)),
        // Sources that agree complete each other; the first of the ladder gives the name.
        (
            "SLURM_PROCID=1 SLURM_NTASKS=2 SLURM_LOCALID=1 PMI_RANK=1 PMI_SIZE=2 PMI_LOCAL_SIZE=2",
            world(Launcher::Slurm, 1, 2, 1, 2),
        ),
        // Sources that disagree are settled by name.
        (
            "DREAM_TRAIN_LAUNCHER=torchrun RANK=5 WORLD_SIZE=8 LOCAL_RANK=1 LOCAL_WORLD_SIZE=4 \
             SLURM_PROCID=1 SLURM_NTASKS=2 SLURM_LOCALID=0 SLURM_NTASKS_PER_NODE=1",
            world(Launcher::Torchrun, 5, 8, 1, 4),
        ),
    ];
    for (text, expected) in rows {
        let found = detect(&variables(text)).expect(text).expect(text);
        assert_eq!(found.world, expected, "{text}");
    }
}

#[test]
fn the_address_of_the_main_rank_is_kept() {
    let text = "RANK=0 WORLD_SIZE=1 MASTER_ADDR=node0 MASTER_PORT=29500";
    let External { main_address, main_port, .. } =
        detect(&variables(text)).expect(text).expect(text);
    assert_eq!((main_address.as_deref(), main_port), (Some("node0"), Some(29500)));
}

#[test]
fn without_a_launcher_there_is_no_outside_world() {
    for text in [
        "",
        "HOME=/root",
        // An allocation in which no task was started: a login shell, the script of `sbatch`, the
        // shell of `salloc`.
        "SLURM_NTASKS=8",
        "SLURM_NTASKS=8 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_JOB_ID=1 ENVIRONMENT=BATCH",
        "SLURM_NTASKS=8 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_STEP_ID=4294967290",
        "RANK= WORLD_SIZE=",
        // A world of one.
        "WORLD_SIZE=1",
        "OMPI_COMM_WORLD_SIZE=1",
        "DREAM_TRAIN_LAUNCHER=none RANK=0",
    ] {
        assert_eq!(detect(&variables(text)), Ok(None), "{text}");
    }
}

#[test]
fn who_is_alone_in_an_allocation_is_told() {
    let rows = [
        ("SLURM_NTASKS=8", true),
        ("SLURM_NTASKS=8 SLURM_PROCID=0 SLURM_LOCALID=0", true),
        ("SLURM_NTASKS=1 SLURM_PROCID=0", false),
        ("SLURM_NTASKS=8 DREAM_TRAIN_LAUNCHER=none", false),
        ("SLURM_PROCID=1 SLURM_NTASKS=2 SLURM_LOCALID=1 SLURM_NTASKS_PER_NODE=2", false),
        ("", false),
    ];
    for (text, is_alone) in rows {
        let note = alone_in_allocation(&variables(text));
        assert_eq!(note.is_some(), is_alone, "{text}");
        assert!(
            note.is_none_or(|note| note.starts_with("`SLURM_NTASKS` is 8, but `srun` did not"))
        );
    }
}

#[test]
fn variables_of_the_process_are_no_configuration_keys() {
    let all = variables(
        "DREAM_TRAIN_RUN__SEED=1 DREAM_TRAIN_LAUNCHER=none DREAM_TRAIN_LOG=debug DREAM_TRAIN_ATTENTION=own PATH=x",
    );
    assert_eq!(configuring(all), variables("DREAM_TRAIN_RUN__SEED=1"));
}

#[test]
fn contradictions_name_the_variables() {
    let rows = [
        ("RANK=x WORLD_SIZE=2", "`RANK` is `x` but must be a whole number"),
        ("RANK=-1 WORLD_SIZE=2", "`RANK` is `-1` but must be a whole number"),
        (
            "RANK=2 WORLD_SIZE=2 LOCAL_RANK=0",
            "`RANK` is 2 but must be below `WORLD_SIZE` = 2; ranks count from 0",
        ),
        (
            "PMI_RANK=0 PMI_SIZE=4 PMI_LOCAL_RANK=2 PMI_LOCAL_SIZE=2",
            "`PMI_LOCAL_RANK` is 2 but must be below `PMI_LOCAL_SIZE` = 2; ranks count from 0",
        ),
        (
            "RANK=0 WORLD_SIZE=4 LOCAL_RANK=0 LOCAL_WORLD_SIZE=4 OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=4",
            "`RANK` is 0 but `OMPI_COMM_WORLD_RANK` is 1, so two launchers claim this process; take away \
             the one that is left over (`env -u OMPI_COMM_WORLD_RANK ..`), or name the launcher to \
             believe in `DREAM_TRAIN_LAUNCHER`",
        ),
        (
            "SLURM_PROCID=0 SLURM_NTASKS=4 SLURM_STEP_ID=0 SLURM_LOCALID=0 SLURM_LOCAL_ID=1",
            "`SLURM_LOCALID` is 0 but `SLURM_LOCAL_ID` is 1, so two launchers claim this process; take \
             away the one that is left over (`env -u SLURM_LOCAL_ID ..`), or name the launcher to \
             believe in `DREAM_TRAIN_LAUNCHER`",
        ),
        (
            "RANK=1",
            "`RANK` is 1, as if torchrun had started this process, but `WORLD_SIZE` is not set; set it, \
             or take away what is left over: `env -u RANK ..`, or `DREAM_TRAIN_LAUNCHER=none` for ranks \
             that are threads",
        ),
        (
            "WORLD_SIZE=4",
            "`WORLD_SIZE` is 4, as if torchrun had started this process, but `RANK` is not set; set it, \
             or take away what is left over: `env -u WORLD_SIZE ..`, or `DREAM_TRAIN_LAUNCHER=none` for \
             ranks that are threads",
        ),
        (
            "PALS_RANKID=1",
            "`PALS_RANKID` is 1, as if pmi had started this process, but `PMI_SIZE` or `PALS_SIZE` is \
             not set; set it, or take away what is left over: `env -u PALS_RANKID ..`, or \
             `DREAM_TRAIN_LAUNCHER=none` for ranks that are threads",
        ),
        (
            "RANK=1 WORLD_SIZE=2 LOCAL_WORLD_SIZE=2",
            "`RANK` is 1, as if torchrun had started this process, but `LOCAL_RANK` is not set; set it, \
             or take away what is left over: `env -u RANK -u WORLD_SIZE -u LOCAL_WORLD_SIZE ..`, or \
             `DREAM_TRAIN_LAUNCHER=none` for ranks that are threads",
        ),
        (
            "OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_LOCAL_SIZE=4",
            "`OMPI_COMM_WORLD_SIZE` is 4, as if openmpi had started this process, but \
             `OMPI_COMM_WORLD_RANK` is not set; set it, or take away what is left over: `env -u \
             OMPI_COMM_WORLD_SIZE -u OMPI_COMM_WORLD_LOCAL_SIZE ..`, or `DREAM_TRAIN_LAUNCHER=none` for \
             ranks that are threads",
        ),
        (
            "RANK=0 WORLD_SIZE=1 MASTER_PORT=70000",
            "`MASTER_PORT` is `70000` but must be a port, below 65536",
        ),
        (
            "DREAM_TRAIN_LAUNCHER=srun",
            "`DREAM_TRAIN_LAUNCHER` is `srun` but must be one of `dream-train`, `torchrun`, `slurm`, `openmpi`, `pmi`, `none`",
        ),
        (
            "DREAM_TRAIN_LAUNCHER=slurm RANK=0 WORLD_SIZE=1",
            "`DREAM_TRAIN_LAUNCHER` is `slurm` but its rank variables are not set",
        ),
    ];
    for (text, expected) in rows {
        let error: WorldError = detect(&variables(text)).expect_err(text);
        assert_eq!(error.to_string(), expected, "{text}");
    }
}

#[test]
fn each_rank_has_a_named_thread_and_its_share_of_the_cores() {
    let Outcomes { results, failures } = run_rank_threads(
        3,
        |world| {
            let name = std::thread::current().name().map(str::to_owned);
            Ok::<_, String>((world, name, rayon::current_num_threads()))
        },
        |_, _| (),
    )
    .expect("a machine has three threads");
    assert!(failures.is_empty());
    for (rank, result) in results.into_iter().enumerate() {
        let (world, name, threads) = result.expect("no rank fails");
        assert_eq!(world, World::thread(rank, 3));
        assert_eq!(name, Some(format!("rank {rank}")));
        assert_eq!(threads, threads_per_rank(3));
    }
    assert_eq!(threads_per_rank(usize::MAX), 1);
}

#[test]
fn failures_come_in_the_order_of_time_and_the_ends_are_announced() {
    let ended = std::sync::Mutex::new(Vec::new());
    let gate = std::sync::Barrier::new(2);
    let body = |world: World| match world.rank {
        0 => {
            gate.wait();
            Err("second".to_owned())
        }
        1 => panic!("first"),
        _ => Ok(()),
    };
    let outcomes = run_rank_threads(3, body, |rank, result| {
        ended.lock().expect("no panic inside").push((rank, result.is_ok()));
        // Rank 0 goes on when the panic of rank 1 has been announced.
        if rank == 1 {
            gate.wait();
        }
    })
    .expect("a machine has three threads");
    assert_eq!(outcomes.failures, [1, 0]);
    let mut ended = ended.into_inner().expect("no panic inside");
    ended.sort_unstable();
    assert_eq!(ended, [(0, false), (1, false), (2, true)]);
    let [Err(Fault::Error(error)), Err(Fault::Panic(panic)), Ok(())] = outcomes.results.as_slice()
    else {
        panic!("{:?}", outcomes.results)
    };
    assert_eq!(error, "second");
    assert!(panic.message().starts_with("first (at "), "{}", panic.message());
}

#[test]
fn more_ranks_than_threads_are_refused_before_they_are_listed() {
    let body = |_| Ok::<(), String>(());
    let error = run_rank_threads(1_000_000_000, body, |_, _| ()).expect_err("no machine has them");
    assert!(matches!(error, StartError::TooMany { num_ranks: 1_000_000_000, .. }), "{error}");
}
