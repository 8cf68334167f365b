//! Where the model's files are.

use std::path::{Path, PathBuf};

/// The folder of the model within a model folder.
const MODEL_FOLDER: &str = "minilm-l6-v2";
/// The model and its tokenizer, as sentence-transformers names them.
const MODEL_FILES: [&str; 5] = [
    "model.onnx",
    "tokenizer.json",
    "config.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
];
/// How the library of ONNX Runtime begins on each system.
const RUNTIME_PREFIXES: [&str; 3] = ["libonnxruntime.so", "libonnxruntime.dylib", "onnxruntime.dll"];

/// The files that were found, all in one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFiles {
    /// The shared library of ONNX Runtime.
    pub runtime: PathBuf,
    /// The folder with the model and its tokenizer.
    pub model_folder: PathBuf,
}

/// No folder has all files.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{missing} not found in {}; put the files there, or name their folder in TROUPE_MODELS", listed(.searched))]
pub struct FilesMissing {
    /// The folders that were looked at.
    pub searched: Vec<PathBuf>,
    /// What the most promising folder lacks.
    pub missing: String,
}

impl ModelFiles {
    /// Looks in these folders, first come first served. Library and model may be in different ones.
    pub fn find(folders: &[PathBuf]) -> Result<Self, FilesMissing> {
        let runtime = folders.iter().find_map(|folder| runtime_in(folder));
        let model_folder = folders
            .iter()
            .map(|folder| folder.join(MODEL_FOLDER))
            .find(|folder| is_complete(folder));
        match (runtime, model_folder) {
            (Some(runtime), Some(model_folder)) => Ok(Self {
                runtime,
                model_folder,
            }),
            (runtime, model_folder) => {
                let mut missing = Vec::new();
                if runtime.is_none() {
                    missing.push("the ONNX Runtime library (libonnxruntime.so, 1.24 or newer)".to_owned());
                }
                if model_folder.is_none() {
                    missing.push(format!("{MODEL_FOLDER}/{{{}}}", MODEL_FILES.join(",")));
                }
                Err(FilesMissing {
                    searched: folders.to_vec(),
                    missing: missing.join(" and "),
                })
            }
        }
    }

    /// The path of one of the model's files.
    pub fn model_file(&self, name: &str) -> PathBuf {
        self.model_folder.join(name)
    }
}

/// The folders to look in: the setting, the environment's `TROUPE_MODELS`, beside the binary, the data folder.
pub fn folders_to_search(setting: Option<&Path>, data_folder: &Path) -> Vec<PathBuf> {
    let from_environment = std::env::var_os("TROUPE_MODELS")
        .filter(|value| !value.is_empty())
        .map(PathBuf::from);
    let beside_binary = std::env::current_exe()
        .ok()
        .and_then(|path| Some(path.parent()?.join("models")));
    let mut folders: Vec<PathBuf> = Vec::new();
    let candidates = [
        setting.map(Path::to_path_buf),
        from_environment,
        beside_binary,
        Some(data_folder.join("models")),
    ];
    for folder in candidates.into_iter().flatten() {
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    folders
}

fn is_complete(folder: &Path) -> bool {
    MODEL_FILES.iter().all(|name| folder.join(name).is_file())
}

fn runtime_in(folder: &Path) -> Option<PathBuf> {
    let mut libraries: Vec<PathBuf> = std::fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            RUNTIME_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) && path.is_file()
        })
        .collect();
    libraries.sort();
    libraries.pop()
}

fn listed(folders: &[PathBuf]) -> String {
    folders
        .iter()
        .map(|folder| folder.display().to_string())
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn says_what_is_missing_and_where_it_was_looked_for() {
        let folder = tempfile::tempdir().unwrap();
        let error = ModelFiles::find(&[folder.path().to_path_buf()])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("libonnxruntime.so") && error.contains("minilm-l6-v2/{model.onnx"),
            "{error}"
        );
        assert!(error.contains(&folder.path().display().to_string()), "{error}");
    }

    #[test]
    fn finds_library_and_model_in_different_folders() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(first.path().join("libonnxruntime.so.1.31.1"), b"").unwrap();
        let model_folder = second.path().join(MODEL_FOLDER);
        std::fs::create_dir(&model_folder).unwrap();
        for name in MODEL_FILES {
            std::fs::write(model_folder.join(name), b"").unwrap();
        }
        let found = ModelFiles::find(&[first.path().to_path_buf(), second.path().to_path_buf()]).unwrap();
        assert_eq!(found.model_folder, model_folder);
        assert!(found.runtime.ends_with("libonnxruntime.so.1.31.1"));
    }
}
