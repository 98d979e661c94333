//! Tensor files of a Hugging Face folder: refused, or tensors of the shape they name.
#![no_main]

use dream_train_fuzz::file;
use dream_trainer::checkpoint::hf::HfDirectory;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let path = file("hf/model.safetensors", data);
    file("hf/config.json", b"{\"model_type\": \"llama\"}");
    let Some(folder) = path.parent() else { return };
    let Ok(folder) = HfDirectory::open(folder) else { return };
    for name in folder.tensor_names() {
        let Ok(shape) = folder.shape(name) else { continue };
        if let Ok(tensor) = folder.tensor(name) {
            assert_eq!(tensor.shape().as_slice(), shape);
        }
    }
});
