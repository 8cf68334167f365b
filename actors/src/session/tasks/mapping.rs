//! Tasks in the words of each era. Pure.
//!
//! 2025-11-25 has them in its core (basic/utilities/tasks): the client wants a task, and fetches its result with
//! `tasks/result`. 2026-07-28 has the extension `io.modelcontextprotocol/tasks`: the server makes a task of a call whose
//! client knows the extension, and `tasks/get` has result, error and what is asked of the client. Ids stay as they are.

use std::borrow::Cow;

use serde_json::Value;
use serde_json::value::RawValue;
use troupe_protocol::jsonrpc::RawReply;
use troupe_protocol::jsonrpc::edit::{self, ObjectEdits};
use troupe_protocol::mcp::ClientCapabilities;

/// The extension of the modern era.
pub(in crate::session) const EXTENSION: &str = "io.modelcontextprotocol/tasks";
/// The key of `_meta` that says to which task a legacy message belongs.
const RELATED_TASK: &str = "io.modelcontextprotocol/related-task";

/// Whether a tool's calls can be tasks at a legacy server (`execution.taskSupport`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Support {
    Forbidden,
    Optional,
    Required,
}

impl Support {
    pub fn of(tool: &RawValue) -> Self {
        let execution = edit::member(tool, "execution");
        let support = execution.and_then(|execution| edit::string_member(execution, "taskSupport"));
        match support.as_deref() {
            Some("required") => Self::Required,
            Some("optional") => Self::Optional,
            _ => Self::Forbidden,
        }
    }
}

/// Whether a legacy server makes tasks of tool calls.
pub(in crate::session) fn legacy_server_has(capabilities: &Value) -> bool {
    capabilities["tasks"]["requests"]["tools"]["call"].is_object()
}

/// Whether a modern server makes tasks of calls.
pub(in crate::session) fn modern_server_has(capabilities: &Value) -> bool {
    capabilities["extensions"][EXTENSION].is_object()
}

/// Whether a modern client says that it can deal with tasks.
pub(super) fn client_knows(capabilities: &ClientCapabilities) -> bool {
    let Ok(all) = serde_json::from_str::<&RawValue>(capabilities.as_str()) else {
        return false;
    };
    let extensions = edit::member(all, "extensions");
    extensions.is_some_and(|extensions| edit::member(extensions, EXTENSION).is_some())
}

/// The capabilities of a client with the extension among them.
pub(super) fn knowing(capabilities: &ClientCapabilities) -> Option<ClientCapabilities> {
    let all: &RawValue = serde_json::from_str(capabilities.as_str()).ok()?;
    let empty = raw("{}")?;
    let extensions = edit::member(all, "extensions").unwrap_or(&empty);
    let extensions = with(extensions, &[(EXTENSION, Cow::Borrowed("{}"))], &[])?;
    let all = with(all, &[("extensions", Cow::Borrowed(extensions.get()))], &[])?;
    Some(ClientCapabilities::new(all))
}

/// The capabilities of a client without the extension.
pub(super) fn unknowing(capabilities: &ClientCapabilities) -> Option<ClientCapabilities> {
    let all: &RawValue = serde_json::from_str(capabilities.as_str()).ok()?;
    let extensions = edit::member(all, "extensions")?;
    let extensions = with(extensions, &[], &[EXTENSION])?;
    let all = with(all, &[("extensions", Cow::Borrowed(extensions.get()))], &[])?;
    Some(ClientCapabilities::new(all))
}

/// The parameters of a legacy call that is to be a task, and of one that is not.
pub(super) fn as_task(params: &RawValue) -> Option<Box<RawValue>> {
    with(params, &[("task", Cow::Borrowed("{}"))], &[])
}

pub(super) fn without_task(params: &RawValue) -> Option<Box<RawValue>> {
    with(params, &[], &["task"])
}

/// A legacy server's answer to a call that became a task, as a modern one gives it; nothing if it is an ordinary one.
pub(super) fn created_for_modern(result: &RawValue) -> Option<Box<RawValue>> {
    let task = modern(edit::member(result, "task")?, &[])?;
    let mut set = vec![("resultType", Cow::Borrowed("\"task\""))];
    let meta = edit::member(result, "_meta").and_then(unrelated);
    if let Some(meta) = &meta {
        set.push(("_meta", Cow::Borrowed(meta.get())));
    }
    with(&task, &set, &[])
}

/// A modern server's answer to a call that became a task, as a legacy one gives it; nothing if it is an ordinary one.
pub(super) fn created_for_legacy(result: &RawValue) -> Option<Box<RawValue>> {
    if edit::string_member(result, "resultType").is_none_or(|kind| kind != "task") {
        return None;
    }
    let task = legacy(result)?;
    with(&raw("{}")?, &[("task", Cow::Borrowed(task.get()))], &[])
}

/// A legacy task as a modern one, with these members besides.
pub(super) fn modern(task: &RawValue, more: &[(&str, &RawValue)]) -> Option<Box<RawValue>> {
    let (ttl, interval) = (edit::member(task, "ttl"), edit::member(task, "pollInterval"));
    let mut set = vec![("ttlMs", Cow::Borrowed(ttl.map_or("null", RawValue::get)))];
    if let Some(interval) = interval {
        set.push(("pollIntervalMs", Cow::Borrowed(interval.get())));
    }
    set.extend(more.iter().map(|(key, value)| (*key, Cow::Borrowed(value.get()))));
    with(task, &set, &["ttl", "pollInterval"])
}

/// A modern task as a legacy one.
pub(super) fn legacy(task: &RawValue) -> Option<Box<RawValue>> {
    const MODERN_MEMBERS: [&str; 7] = [
        "ttlMs",
        "pollIntervalMs",
        "resultType",
        "result",
        "error",
        "inputRequests",
        "cacheScope",
    ];
    let (ttl, interval) = (edit::member(task, "ttlMs"), edit::member(task, "pollIntervalMs"));
    let mut set = vec![("ttl", Cow::Borrowed(ttl.map_or("null", RawValue::get)))];
    if let Some(interval) = interval {
        set.push(("pollInterval", Cow::Borrowed(interval.get())));
    }
    with(task, &set, &MODERN_MEMBERS)
}

/// What `tasks/result` of a legacy server gave, as members of a modern task: a result is one however the tool fared.
pub(super) fn ended_for_modern(task: &RawValue, outcome: &RawReply) -> Option<Box<RawValue>> {
    let (completed, failed) = (raw("\"completed\"")?, raw("\"failed\"")?);
    match outcome {
        RawReply::Result(result) => {
            let result = without_related(result);
            modern(task, &[("status", &completed), ("result", &result)])
        }
        RawReply::Error(error) => modern(task, &[("status", &failed), ("error", error)]),
    }
}

/// What a modern task that has ended came to, as `tasks/result` gives it; nothing if it has not ended.
pub(super) fn outcome_for_legacy(task: &RawValue, id: &str) -> Option<RawReply> {
    match status(task)?.as_ref() {
        "completed" => {
            let result = edit::member(task, "result")?;
            related(result, id).map(RawReply::Result)
        }
        "failed" => edit::member(task, "error").map(|error| RawReply::Error(error.to_owned())),
        "cancelled" => {
            let error = edit::error_object(-32_000, "the task was cancelled", None);
            raw(&error).map(RawReply::Error)
        }
        _ => None,
    }
}

pub(super) fn status(task: &RawValue) -> Option<Cow<'_, str>> {
    edit::string_member(task, "status")
}

pub(super) fn id_of(params: &RawValue) -> Option<Cow<'_, str>> {
    edit::string_member(params, "taskId")
}

/// The id of the task that a call's result tells of, in the words of either era; nothing if the call became none.
pub(super) fn created_id(result: &RawValue) -> Option<Cow<'_, str>> {
    match edit::member(result, "task") {
        Some(task) => id_of(task),
        None => {
            let kind = edit::string_member(result, "resultType")?;
            (kind == "task").then(|| id_of(result)).flatten()
        }
    }
}

/// A legacy server's list of tasks with those alone that are to be shown.
pub(super) fn tasks_shown(result: &RawValue, is_shown: impl Fn(&str) -> bool) -> Option<Box<RawValue>> {
    let tasks: Vec<&RawValue> = serde_json::from_str(edit::member(result, "tasks")?.get()).ok()?;
    let shown = tasks
        .into_iter()
        .filter(|task| id_of(task).is_some_and(|id| is_shown(&id)));
    let shown: Vec<&str> = shown.map(RawValue::get).collect();
    let list = format!("[{}]", shown.join(","));
    with(result, &[("tasks", Cow::Owned(list))], &[])
}

/// How long a modern server wants a client to wait between two looks, in milliseconds.
pub(super) fn interval_ms(task: &RawValue) -> Option<u64> {
    edit::member(task, "pollIntervalMs")?.get().parse().ok()
}

/// The tools that a modern server with tasks lists, as those of a legacy one: any of them may become a task.
pub(in crate::session) fn tools_for_legacy(result: &RawValue) -> Option<Box<RawValue>> {
    let tools: Vec<&RawValue> = serde_json::from_str(edit::member(result, "tools")?.get()).ok()?;
    let mut list = "[".to_owned();
    for tool in tools {
        if list.len() > 1 {
            list.push(',');
        }
        let execution = r#"{"taskSupport":"optional"}"#;
        match with(tool, &[("execution", Cow::Borrowed(execution))], &[]) {
            Some(changed) if edit::member(tool, "execution").is_none() => list.push_str(changed.get()),
            _ => list.push_str(tool.get()),
        }
    }
    list.push(']');
    with(result, &[("tools", Cow::Owned(list))], &[])
}

/// An object with the mark that it belongs to a task.
pub(super) fn related(object: &RawValue, id: &str) -> Option<Box<RawValue>> {
    let mut task = String::from("{\"taskId\":");
    edit::push_string(&mut task, id);
    task.push('}');
    let empty = raw("{}")?;
    let meta = edit::member(object, "_meta").unwrap_or(&empty);
    let meta = with(meta, &[(RELATED_TASK, Cow::Owned(task))], &[])?;
    with(object, &[("_meta", Cow::Borrowed(meta.get()))], &[])
}

/// The same without the mark.
fn without_related(result: &RawValue) -> Box<RawValue> {
    let stripped = edit::member(result, "_meta").and_then(|meta| {
        edit::member(meta, RELATED_TASK)?;
        match unrelated(meta) {
            Some(meta) => with(result, &[("_meta", Cow::Borrowed(meta.get()))], &[]),
            None => with(result, &[], &["_meta"]),
        }
    });
    stripped.unwrap_or_else(|| result.to_owned())
}

/// `_meta` without the mark; nothing if nothing is left.
fn unrelated(meta: &RawValue) -> Option<Box<RawValue>> {
    with(meta, &[], &[RELATED_TASK]).filter(|meta| meta.get() != "{}")
}

pub(super) fn raw(text: &str) -> Option<Box<RawValue>> {
    RawValue::from_string(text.to_owned()).ok()
}

fn with(object: &RawValue, set: &[(&str, Cow<'_, str>)], remove: &[&'static str]) -> Option<Box<RawValue>> {
    let edits = ObjectEdits {
        set: set.to_vec(),
        remove: remove.to_vec(),
    };
    RawValue::from_string(edit::with_members(object, &edits)?).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn value(raw: &RawValue) -> Value {
        serde_json::from_str(raw.get()).unwrap()
    }

    const LEGACY_TASK: &str = r#"{"taskId":"t","status":"working","createdAt":"2026-01-01T00:00:00Z","lastUpdatedAt":"2026-01-01T00:00:00Z","ttl":60000,"pollInterval":100}"#;

    #[test]
    fn a_task_has_the_same_id_and_times_in_both_eras() {
        let legacy_task = raw(LEGACY_TASK).unwrap();
        let created = raw(&format!(r#"{{"task":{LEGACY_TASK}}}"#)).unwrap();
        let modern_result = created_for_modern(&created).unwrap();
        let seen = value(&modern_result);
        assert_eq!(seen["resultType"], "task");
        assert_eq!((&seen["taskId"], &seen["ttlMs"]), (&json!("t"), &json!(60000)));
        assert_eq!(seen["pollIntervalMs"], 100);
        assert!(seen.get("ttl").is_none() && seen.get("task").is_none());
        let back = created_for_legacy(&modern_result).unwrap();
        assert_eq!(value(&back)["task"], value(&legacy_task));
        assert!(created_for_modern(&raw(r#"{"content":[]}"#).unwrap()).is_none());
        assert!(created_for_legacy(&raw(r#"{"resultType":"complete"}"#).unwrap()).is_none());
        assert!(
            created_id(&raw(r#"{"taskId":"t"}"#).unwrap()).is_none(),
            "a word of the tool's"
        );
        let listed = raw(&format!(r#"{{"tasks":[{LEGACY_TASK}],"nextCursor":"c"}}"#)).unwrap();
        assert_eq!(tasks_shown(&listed, |id| id == "t").unwrap().get(), listed.get());
        assert_eq!(
            tasks_shown(&listed, |_| false).unwrap().get(),
            r#"{"tasks":[],"nextCursor":"c"}"#
        );
        assert_eq!(created_id(&created).unwrap(), "t");
        assert_eq!(created_id(&modern_result).unwrap(), "t");
    }

    #[test]
    fn a_tool_that_failed_has_completed_and_a_protocol_error_has_not() {
        let task = raw(LEGACY_TASK).unwrap();
        let result = r#"{"content":[],"isError":true,"_meta":{"io.modelcontextprotocol/related-task":{"taskId":"t"}}}"#;
        let ended = ended_for_modern(&task, &RawReply::Result(raw(result).unwrap())).unwrap();
        let seen = value(&ended);
        assert_eq!(seen["status"], "completed");
        assert_eq!(seen["result"], json!({ "content": [], "isError": true }));
        let error = RawReply::Error(raw(r#"{"code":-32603,"message":"broken"}"#).unwrap());
        let seen = value(&ended_for_modern(&task, &error).unwrap());
        assert_eq!(
            (&seen["status"], &seen["error"]["code"]),
            (&json!("failed"), &json!(-32603))
        );

        let Some(RawReply::Result(outcome)) = outcome_for_legacy(&ended, "t") else {
            panic!("a result")
        };
        assert_eq!(value(&outcome), serde_json::from_str::<Value>(result).unwrap());
        assert!(outcome_for_legacy(&task, "t").is_none(), "it works");
    }

    #[test]
    fn who_knows_tasks_says_so() {
        let of = |text: &str| ClientCapabilities::new(raw(text).unwrap());
        let plain = of(r#"{"elicitation":{},"extensions":{"x/y":{}}}"#);
        assert!(!client_knows(&plain));
        let knowing = knowing(&plain).unwrap();
        assert!(client_knows(&knowing));
        assert!(knowing.as_str().contains("x/y") && knowing.as_str().contains("elicitation"));
        let server = json!({ "tasks": { "requests": { "tools": { "call": {} } } } });
        assert!(legacy_server_has(&server) && !modern_server_has(&server));
        let tool = |execution: &str| Support::of(&raw(&format!(r#"{{"name":"t"{execution}}}"#)).unwrap());
        assert_eq!(tool(""), Support::Forbidden);
        assert_eq!(
            tool(r#","execution":{"taskSupport":"required"}"#),
            Support::Required
        );
    }

    #[test]
    fn the_tools_of_a_modern_server_may_become_tasks() {
        let tools =
            raw(r#"{"tools":[{"name":"a","n":1e400},{"name":"b","execution":{}}],"ttlMs":1}"#).unwrap();
        assert_eq!(
            tools_for_legacy(&tools).unwrap().get(),
            r#"{"tools":[{"name":"a","n":1e400,"execution":{"taskSupport":"optional"}},{"name":"b","execution":{}}],"ttlMs":1}"#
        );
    }
}
