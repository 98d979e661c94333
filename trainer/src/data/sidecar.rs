//! The JSON file beside a token file that says what the ids are.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{DataError, Fingerprint, TokenWidth, aside::AsideFile, stream::TokenStream};
use crate::files::{MOST_TEXT_BYTES, read_regular};

/// Version of the sidecar format this program reads and writes.
const VERSION: u32 = 1;

/// Describes a token file; lies beside it under the same name with `.json` appended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sidecar {
    /// Version of this format.
    pub version: u32,
    /// Width of an id.
    pub width: TokenWidth,
    /// Ids in the file, end-of-document ids included.
    pub num_tokens: u64,
    /// Documents in the file.
    pub num_documents: u64,
    /// Documents left out because they hold no token.
    pub num_empty_documents: u64,
    /// Largest id in the file.
    pub max_id: Option<u32>,
    /// Id that ends a document.
    pub eos_id: Option<u32>,
    /// Number of ids of the tokenizer.
    pub vocab_size: usize,
    /// `byte` or the path of the tokenizer.
    pub tokenizer: String,
    /// Name of the tokenizer by content.
    pub tokenizer_fingerprint: Fingerprint,
    /// Name of the ids by content, from samples of them.
    pub fingerprint: Fingerprint,
}

/// Returns the path of a token file's sidecar.
pub fn sidecar_path(tokens: &Path) -> PathBuf {
    let mut path = tokens.as_os_str().to_owned();
    path.push(".json");
    path.into()
}

impl Sidecar {
    /// The version written by this program.
    pub(crate) const CURRENT_VERSION: u32 = VERSION;

    /// Reads the sidecar of a token file, if there is one.
    pub fn load(tokens: &Path) -> Result<Option<Self>, DataError> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let path = sidecar_path(tokens);
        let bytes = match read_regular(&path, MOST_TEXT_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(DataError::Read { path, source }),
        };
        let format = |source| DataError::SidecarFormat { path: path.clone(), source };
        // The version comes first: fields of a later one would only show as unknown.
        let Version { version } = serde_json::from_slice(&bytes).map_err(format)?;
        if version != VERSION {
            return Err(DataError::SidecarVersion { path, found: version, supported: VERSION });
        }
        serde_json::from_slice(&bytes).map(Some).map_err(format)
    }

    /// Writes the sidecar of a token file, whole or not at all.
    pub(crate) fn save(&self, tokens: &Path) -> Result<(), DataError> {
        let path = sidecar_path(tokens);
        let mut file = AsideFile::create(&path)?;
        let json = serde_json::to_string_pretty(self).expect("a sidecar has only string keys");
        writeln!(file, "{json}").map_err(|source| DataError::Write { path, source })?;
        file.commit()
    }

    /// Checks that the ids are those described.
    pub(crate) fn check(&self, tokens: &Path, stream: &TokenStream) -> Result<(), DataError> {
        let mismatch = |what, found: String, expected: String| {
            Err(DataError::SidecarMismatch { path: tokens.to_path_buf(), what, found, expected })
        };
        if stream.num_tokens() != self.num_tokens {
            let (found, expected) = (stream.num_tokens(), self.num_tokens);
            return mismatch("the number of tokens", found.to_string(), expected.to_string());
        }
        let fingerprint = stream.fingerprint()?;
        if fingerprint != self.fingerprint {
            let (found, expected) = (fingerprint, self.fingerprint);
            return mismatch("the fingerprint", format!("`{found}`"), format!("`{expected}`"));
        }
        Ok(())
    }
}
