//! Token files and their sidecars: the first two bytes divide an input into sidecar and tokens.
#![no_main]

use std::fs;

use dream_train_fuzz::{file, halves};
use dream_trainer::data::{DataPlan, Dataset, SourcePlan, ValidationPlan, sidecar_path};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let (description, tokens) = halves(data);
    let path = file("tokens.bin", tokens);
    let sidecar = sidecar_path(&path);
    if description.is_empty() {
        let _ = fs::remove_file(&sidecar);
    } else {
        fs::write(&sidecar, description).expect("the folder is writable");
    }
    let plan = DataPlan {
        source: SourcePlan::Tokens {
            files: vec![path.display().to_string()],
            width: None,
            eos_id: None,
        },
        shuffle: true,
        mask_document_boundaries: false,
        validation: ValidationPlan::Fraction(0.25),
    };
    let Ok(splits) = Dataset::open(&plan, 8, 7) else { return };
    if splits.check_vocab(257).is_err() {
        return;
    }
    let dataset = splits.train;
    for index in 0..dataset.num_sequences().min(64) {
        let (mut tokens, mut labels) = ([0; 8], [0; 8]);
        dataset.sequence(index, &mut tokens, &mut labels);
        assert!(tokens.iter().all(|id| (0..257).contains(id)), "an id beyond the vocabulary");
    }
});
