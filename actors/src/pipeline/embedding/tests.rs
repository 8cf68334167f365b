#![allow(clippy::unwrap_used)]

use super::*;

async fn settled(embedder: &Embedder) -> ModelState {
    let mut state = embedder.watch_state();
    *state
        .wait_for(|state| *state != ModelState::Loading)
        .await
        .unwrap()
}

#[tokio::test]
async fn without_files_it_says_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let embedder = Embedder::start(vec![folder.path().to_path_buf()]);
    assert_eq!(settled(&embedder).await, ModelState::Missing);
    let status = embedder.status();
    assert!(
        status.detail.contains("libonnxruntime.so") && status.detail.contains("TROUPE_MODELS"),
        "{status:?}"
    );
    let error = embedder
        .embed_question("hello", Duration::from_secs(1))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::ModelMissing);
}

#[tokio::test]
async fn a_broken_library_is_a_status_and_no_panic() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("libonnxruntime.so"), b"not a library").unwrap();
    let model_folder = folder.path().join("minilm-l6-v2");
    std::fs::create_dir(&model_folder).unwrap();
    for name in [
        "model.onnx",
        "tokenizer.json",
        "config.json",
        "special_tokens_map.json",
        "tokenizer_config.json",
    ] {
        std::fs::write(model_folder.join(name), b"{}").unwrap();
    }
    // In a process that has the real runtime loaded already the model is what cannot be loaded.
    let embedder = Embedder::start(vec![folder.path().to_path_buf()]);
    assert_eq!(settled(&embedder).await, ModelState::Failed);
    assert!(
        embedder
            .status()
            .detail
            .contains(&folder.path().display().to_string()),
        "{:?}",
        embedder.status()
    );
}

/// The real model. Needs `TROUPE_MODELS`; `make test` sets it, and CI fails when the files are not there.
#[tokio::test]
#[ignore = "needs the model files; run with TROUPE_MODELS=DIR and --ignored"]
async fn the_real_model_knows_what_is_alike() {
    let folder = std::env::var_os("TROUPE_MODELS").map(PathBuf::from).unwrap();
    let embedder = Embedder::start(vec![folder]);
    assert_eq!(
        settled(&embedder).await,
        ModelState::Ready,
        "{:?}",
        embedder.status()
    );
    let texts = ["a cat", "a kitten", "quarterly revenue"]
        .map(str::to_owned)
        .to_vec();
    let vectors = embedder.embed_batch(texts).await.unwrap();
    let cosine = |a: &Vector, b: &Vector| a.iter().zip(b.iter()).map(|(x, y)| x * y).sum::<f32>();
    assert_eq!(vectors[0].len(), 384);
    assert!((cosine(&vectors[0], &vectors[0]) - 1.0).abs() < 1e-3);
    assert!(cosine(&vectors[0], &vectors[1]) > cosine(&vectors[0], &vectors[2]) + 0.3);
}
