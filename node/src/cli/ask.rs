//! `troupe ask`

use std::{fmt::Write, process::ExitCode};

use clap::Args;
use serde_json::json;
use troupe_protocol::{
    conversation::{AskAnswer, TurnStatus},
    id::ConversationId,
};

use super::{client::Client, error::CliError, output::Output};

#[derive(Debug, Args)]
pub struct AskArgs {
    /// The question.
    #[arg(required = true)]
    text: Vec<String>,
    /// The conversation it belongs to; absent: a new one.
    #[arg(long, value_name = "ID")]
    conversation: Option<ConversationId>,
}

pub async fn run(client: &Client, args: AskArgs, output: Output) -> Result<ExitCode, CliError> {
    let mut body = json!({ "text": args.text.join(" ") });
    if let Some(conversation) = args.conversation {
        body["conversation_id"] = json!(conversation);
    }
    let answer = client.post(&["ask"], &body).await?;
    let failed = answer["status"] == "failed";
    output.show(answer, |answer: AskAnswer| in_words(&answer))?;
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// The answer, and below it the way it came.
fn in_words(answer: &AskAnswer) -> String {
    let turn = &answer.turn;
    let mut text = format!("{}\n\n", turn.answer.trim_end());
    if let Some(route) = &turn.route {
        let verb = if turn.status == TurnStatus::Answered {
            "by"
        } else {
            "route:"
        };
        let _ = writeln!(
            text,
            "{verb} {} / {} {} (confidence {:.2}; {})",
            route.server, route.tool, route.arguments, route.confidence, route.why
        );
    }
    if let Some(ms) = turn.duration_ms {
        let _ = write!(text, "{} in {ms} ms; ", turn.status);
    }
    let _ = writeln!(text, "trace {}", turn.correlation_id);
    text
}
