//! `troupe bench routing`: how well and how fast tools are found, on files with known answers.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use troupe_actors::{
    pipeline::embedding::{
        files::{ModelFiles, folders_to_search},
        model::EmbeddingModel,
    },
    router::bench::{self, CatalogLine, Embed, QueryLine, RoutingReport},
};

use crate::cli::{error::CliError, output::Output};

#[derive(Debug, Args)]
pub struct RoutingArgs {
    /// Tools as JSON lines: server, tool, description, inputSchema, server_description.
    #[arg(long, value_name = "FILE")]
    catalog: PathBuf,
    /// Queries as JSON lines: id, query, and the right server, tool or both.
    #[arg(long, value_name = "FILE")]
    queries: PathBuf,
    /// More tools that no query wants, in the form of the catalog.
    #[arg(long, value_name = "FILE")]
    distractors: Option<PathBuf>,
    /// Folder with the embedding model; else TROUPE_MODELS, or beside the binary.
    #[arg(long, value_name = "DIR")]
    models: Option<PathBuf>,
    /// By words alone, without the embedding model.
    #[arg(long)]
    lexical: bool,
    /// How many of the misses to print.
    #[arg(long, default_value_t = 0, value_name = "N")]
    misses: usize,
}

/// Measures and prints.
pub async fn run(args: RoutingArgs, output: Output) -> Result<ExitCode, CliError> {
    let shown_misses = args.misses;
    // The model and the ranking keep a core busy: not on the runtime's threads.
    let measured = tokio::task::spawn_blocking(move || measure(&args)).await;
    let mut report = measured.map_err(|panic| CliError::Failed(panic.to_string()))??;
    report.misses.truncate(shown_misses);
    let answer = serde_json::to_value(&report).map_err(|error| CliError::Failed(error.to_string()))?;
    output.show(answer, |_: serde_json::Value| in_words(&report))?;
    Ok(ExitCode::SUCCESS)
}

fn measure(args: &RoutingArgs) -> Result<RoutingReport, CliError> {
    let mut catalog: Vec<CatalogLine> = lines(&args.catalog)?;
    let queries: Vec<QueryLine> = lines(&args.queries)?;
    if let Some(distractors) = &args.distractors {
        catalog.extend(lines(distractors)?);
    }
    let mut model = if args.lexical {
        None
    } else {
        Some(model(args.models.as_deref())?)
    };
    let embed = model.as_mut().map(|model| model as &mut dyn Embed);
    bench::run(catalog, &queries, embed).map_err(|error| CliError::Failed(error.to_string()))
}

fn model(folder: Option<&Path>) -> Result<EmbeddingModel, CliError> {
    let folders = folders_to_search(folder, Path::new("."));
    let files = ModelFiles::find(&folders)
        .map_err(|missing| CliError::Failed(format!("{missing}; or measure with --lexical")))?;
    EmbeddingModel::load(&files).map_err(|error| CliError::Failed(error.to_string()))
}

fn lines<Line: for<'de> serde::Deserialize<'de>>(path: &Path) -> Result<Vec<Line>, CliError> {
    let named = |reason: String| CliError::Failed(format!("{}: {reason}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| named(error.to_string()))?;
    bench::parse_lines(&text).map_err(|error| named(error.to_string()))
}

fn in_words(report: &RoutingReport) -> String {
    let RoutingReport {
        tools,
        queries,
        unanswerable,
        ..
    } = report;
    let how = if report.with_model {
        "words and meaning"
    } else {
        "words alone"
    };
    let mut text = format!(
        "{queries} queries on {tools} tools, by {how} ({unanswerable} cannot be answered)\n\
         hit@1 {:.3}   hit@3 {:.3}   hit@5 {:.3}   MRR {:.3}   nDCG@10 {:.3}\n\
         would be called: {:.3}, of these right: {:.3}\n\
         index {:.0} ms, vectors of the catalog {:.0} ms, rank p50 {:.0} µs, p99 {:.0} µs, vector of a query p50 {:.0} µs",
        report.hit_at_1,
        report.hit_at_3,
        report.hit_at_5,
        report.mean_reciprocal_rank,
        report.ndcg_at_10,
        report.called,
        report.called_right,
        report.build_ms,
        report.embed_catalog_ms,
        report.rank_us_p50,
        report.rank_us_p99,
        report.embed_query_us_p50,
    );
    for miss in &report.misses {
        let place = miss
            .rank
            .map_or("not found".to_owned(), |rank| format!("place {rank}"));
        text.push_str(&format!(
            "\n{}: wanted {}, found {} ({place})",
            miss.id, miss.wanted, miss.found
        ));
    }
    text
}
