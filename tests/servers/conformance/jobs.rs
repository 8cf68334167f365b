//! Tools that become tasks where the client knows the extension `io.modelcontextprotocol/tasks`.

use std::time::Duration;

use rmcp::ErrorData;
use rmcp::model::{
    CallToolResponse, CallToolResult, ClientCapabilities, ContentBlock, CreateTaskResult, InputRequests,
    InputRequiredResult,
};
use rmcp::task_manager::{TaskContext, TaskExit, TaskManager, TaskOptions};
use serde_json::{Value, json};

use super::rounds::{self, Known};

/// How long jobs that take no time of their own work, so that they can be seen at it.
const WORK: Duration = Duration::from_millis(300);

/// The answer of a tool of this kind; nothing if it is of another.
pub async fn call(
    tool: &str,
    known: &Known<'_>,
    tasks: &TaskManager,
) -> Option<Result<CallToolResponse, ErrorData>> {
    let knows_tasks = known.capabilities.supports_tasks();
    let needs_task = matches!(
        tool,
        "failing_job" | "confirm_delete" | "multi_input" | "test_tool_with_task"
    );
    if needs_task && !knows_tasks {
        let required = ClientCapabilities::builder().enable_tasks().build();
        return Some(Err(ErrorData::missing_required_client_capability(required)));
    }
    match tool {
        "slow_compute" => {
            let seconds = known
                .arguments
                .get("seconds")
                .and_then(Value::as_f64)
                .unwrap_or(1.0);
            let duration = Duration::from_secs_f64(seconds);
            if knows_tasks {
                return start(tasks, move |context| compute(context, duration));
            }
            // Legacy clients never get a task here, so nobody need wait to see one.
            let duration = if known.is_modern { duration } else { WORK };
            tokio::time::sleep(duration).await;
            Some(Ok(said("computed").into()))
        }
        "protocol_error_job" if !knows_tasks => Some(Err(broken())),
        "protocol_error_job" => start(tasks, |_| async {
            tokio::time::sleep(WORK).await;
            Err(TaskExit::Error(broken()))
        }),
        "failing_job" => start(tasks, |_| async {
            tokio::time::sleep(WORK).await;
            Ok(CallToolResult::error(vec![ContentBlock::text("the job failed")]))
        }),
        "confirm_delete" => {
            let file = known.arguments.get("filename").and_then(Value::as_str);
            let question = format!("Delete {}?", file.unwrap_or("the file"));
            start(tasks, move |context| confirm(context, question))
        }
        "multi_input" => start(tasks, two_inputs),
        "test_tool_with_task" => {
            let Some(given) = rounds::given(known, "user_name") else {
                let form = rounds::form("What is your name?", &json!({ "name": { "type": "string" } }));
                let wanted = InputRequests::from([("user_name".to_owned(), form)]);
                return Some(Ok(InputRequiredResult::new(Some(wanted), None).into()));
            };
            let greeting = format!("Hello, {}!", rounds::field(given, "name"));
            start(tasks, move |_| async move {
                tokio::time::sleep(WORK).await;
                Ok(said(&greeting))
            })
        }
        _ => None,
    }
}

/// Starts a task; the answer is its handle.
fn start<Work>(
    tasks: &TaskManager,
    job: impl FnOnce(TaskContext) -> Work,
) -> Option<Result<CallToolResponse, ErrorData>>
where
    Work: Future<Output = Result<CallToolResult, TaskExit>> + Send + 'static,
{
    let task = tasks.spawn(TaskOptions::default(), |context| Box::pin(job(context)));
    Some(Ok(CreateTaskResult::new(task).into()))
}

async fn compute(context: TaskContext, duration: Duration) -> Result<CallToolResult, TaskExit> {
    tokio::select! {
        () = context.cancelled() => Err(TaskExit::Cancelled),
        () = tokio::time::sleep(duration) => Ok(said("computed")),
    }
}

async fn confirm(context: TaskContext, question: String) -> Result<CallToolResult, TaskExit> {
    let form = rounds::form(&question, &json!({ "confirm": { "type": "boolean" } }));
    let given = context.request_input("confirm", form).await?;
    let is_confirmed = given["content"]["confirm"] == true;
    Ok(said(if is_confirmed { "deleted" } else { "kept" }))
}

async fn two_inputs(context: TaskContext) -> Result<CallToolResult, TaskExit> {
    let form = |which: &str| rounds::form(which, &json!({ "value": { "type": "string" } }));
    let (first, second) = tokio::try_join!(
        context.request_input("first", form("The first value?")),
        context.request_input("second", form("The second value?")),
    )?;
    let (first, second) = (rounds::field(&first, "value"), rounds::field(&second, "value"));
    Ok(said(&format!("{first} and {second}")))
}

fn broken() -> ErrorData {
    ErrorData::internal_error("the job broke", None)
}

fn said(text: &str) -> CallToolResult {
    CallToolResult::success(vec![ContentBlock::text(text)])
}
