//! Changing a message without touching the bytes that need no change.

use std::borrow::Cow;
use std::ops::Range;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{Message, string_of};

/// Changes to members of one object. Everything else in the object stays as it is written.
#[derive(Debug, Clone, Default)]
pub struct ObjectEdits<'a> {
    /// Members to set: the key, and the value as JSON text. A key that exists keeps its place.
    pub set: Vec<(&'a str, Cow<'a, str>)>,
    /// Members to take away.
    pub remove: Vec<&'a str>,
}

impl ObjectEdits<'_> {
    fn is_empty(&self) -> bool {
        self.set.is_empty() && self.remove.is_empty()
    }
}

/// A member of an object, and where it lies in the object's text.
struct Member<'a> {
    key: Cow<'a, str>,
    value: &'a RawValue,
    value_span: Range<usize>,
    /// Everything between the commas (or braces) around it.
    piece: Range<usize>,
}

/// The value of a member of an object; nothing if the value is not an object or has no such member.
///
/// Of several members with the same key the last one counts, as for most JSON readers.
pub fn member<'a>(object: &'a RawValue, key: &str) -> Option<&'a RawValue> {
    let [found] = find(object, [key]);
    found
}

/// The values of several members of an object, for which it is read once.
///
/// Of several members with the same key the last one counts, as for [`member`].
pub fn find<'a, const N: usize>(object: &'a RawValue, keys: [&str; N]) -> [Option<&'a RawValue>; N] {
    let text = object.get();
    if !text.starts_with('{') {
        return [None; N];
    }
    serde_json::Deserializer::from_str(text)
        .deserialize_map(Wanted(keys))
        .unwrap_or([None; N])
}

/// Keeps the members with these keys and passes over the others.
struct Wanted<'k, const N: usize>([&'k str; N]);

impl<'de, const N: usize> Visitor<'de> for Wanted<'_, N> {
    type Value = [Option<&'de RawValue>; N];

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = [None; N];
        while let Some(place) = map.next_key_seed(PlaceOf(&self.0))? {
            match place.and_then(|place| found.get_mut(place)) {
                Some(found) => *found = Some(map.next_value()?),
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(found)
    }
}

/// Reads a key as its place among those that are wanted.
struct PlaceOf<'k>(&'k [&'k str]);

impl<'de> DeserializeSeed<'de> for PlaceOf<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for PlaceOf<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|wanted| *wanted == key))
    }
}

/// The string value of a member of an object.
pub fn string_member<'a>(object: &'a RawValue, key: &str) -> Option<Cow<'a, str>> {
    member(object, key).and_then(string_of)
}

/// A request or notification as one line.
///
/// `meta` is applied to `params._meta`, which is made if it does not exist and must not be empty. Parameters that are
/// no object are passed as they are: the receiver will refuse them with better words than ours.
pub fn call(id: Option<&str>, method: &str, params: Option<&RawValue>, meta: &ObjectEdits<'_>) -> String {
    let params_bytes = params.map_or(0, |params| params.get().len());
    let meta_bytes: usize = meta
        .set
        .iter()
        .map(|(key, value)| key.len() + value.len() + 4)
        .sum();
    let mut out = String::with_capacity(64 + method.len() + params_bytes + meta_bytes);
    out.push_str(r#"{"jsonrpc":"2.0","#);
    if let Some(id) = id {
        out.push_str(r#""id":"#);
        out.push_str(id);
        out.push(',');
    }
    out.push_str(r#""method":"#);
    push_string(&mut out, method);
    push_params(&mut out, params, meta);
    out.push('}');
    out
}

/// A response as one line; `member` is `result` or `error`, `value` and `id` are JSON texts.
pub fn response(id: &str, member: &str, value: &str) -> String {
    let mut out = String::with_capacity(32 + id.len() + member.len() + value.len());
    out.push_str(r#"{"jsonrpc":"2.0","id":"#);
    out.push_str(id);
    out.push_str(",\"");
    out.push_str(member);
    out.push_str("\":");
    out.push_str(value);
    out.push('}');
    out
}

/// An error response as one line. `data` is JSON text.
pub fn error_response(id: Option<&RawValue>, code: i64, message: &str, data: Option<&str>) -> String {
    response(
        id.map_or("null", RawValue::get),
        "error",
        &error_object(code, message, data),
    )
}

/// An error object as JSON text. `data` is JSON text.
pub fn error_object(code: i64, message: &str, data: Option<&str>) -> String {
    let mut error = format!(r#"{{"code":{code},"message":"#);
    push_string(&mut error, message);
    if let Some(data) = data {
        error.push_str(r#","data":"#);
        error.push_str(data);
    }
    error.push('}');
    error
}

/// The message with another id (JSON text); nothing else is touched. A message without an id stays as it is.
pub fn with_id(message: &Message<'_>, id: &str) -> String {
    let Some(old) = message.id else {
        return message.text.to_owned();
    };
    splice(message.text, span_in(message.text, old), id)
}

/// The message with another value (JSON text) in `params.KEY`; nothing where it has no such member.
///
/// For notifications whose parameter names a request: `progressToken`, `requestId`.
pub fn with_param(message: &Message<'_>, key: &str, value: &str) -> Option<String> {
    let old = member(message.params?, key)?;
    Some(splice(message.text, span_in(message.text, old), value))
}

/// The object with these members set or taken away; nothing if the value is not an object.
pub fn with_members(object: &RawValue, edits: &ObjectEdits<'_>) -> Option<String> {
    let members = members(object)?;
    let mut out = String::with_capacity(object.get().len() + 64);
    push_object(&mut out, object.get(), &members, edits);
    Some(out)
}

/// Writes a string as JSON.
pub fn push_string(out: &mut String, text: &str) {
    let plain = |byte: u8| byte >= 0x20 && byte != b'"' && byte != b'\\';
    if text.bytes().all(plain) {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        // Displaying a value prints compact JSON and cannot fail.
        out.push_str(&serde_json::Value::from(text).to_string());
    }
}

/// A string as JSON.
pub fn json_string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    push_string(&mut out, text);
    out
}

fn push_params(out: &mut String, params: Option<&RawValue>, meta: &ObjectEdits<'_>) {
    let Some(params) = params else {
        if !meta.set.is_empty() {
            out.push_str(r#","params":{"_meta":"#);
            push_object(out, "{}", &[], meta);
            out.push('}');
        }
        return;
    };
    out.push_str(r#","params":"#);
    if meta.is_empty() {
        out.push_str(params.get());
        return;
    }
    let Some(members) = members(params) else {
        out.push_str(params.get());
        return;
    };
    let existing = members
        .iter()
        .rfind(|member| member.key == "_meta")
        .map(|member| member.value);
    let mut new_meta = String::new();
    match existing.and_then(|existing| Some((existing, self::members(existing)?))) {
        Some((existing, meta_members)) => push_object(&mut new_meta, existing.get(), &meta_members, meta),
        None if meta.set.is_empty() => {
            out.push_str(params.get());
            return;
        }
        None => push_object(&mut new_meta, "{}", &[], meta),
    }
    let edits = ObjectEdits {
        set: vec![("_meta", Cow::Owned(new_meta))],
        remove: Vec::new(),
    };
    push_object(out, params.get(), &members, &edits);
}

/// Writes the object with the edits applied; `text` is the object's own text and `members` lie in it.
fn push_object(out: &mut String, text: &str, members: &[Member<'_>], edits: &ObjectEdits<'_>) {
    out.push('{');
    let mut is_first = true;
    let mut separate = |out: &mut String| {
        if !std::mem::take(&mut is_first) {
            out.push(',');
        }
    };
    for member in members
        .iter()
        .filter(|member| !edits.remove.contains(&member.key.as_ref()))
    {
        separate(out);
        let replacement = edits.set.iter().find(|(key, _)| *key == member.key);
        out.push_str(&text[member.piece.start..member.value_span.start]);
        out.push_str(replacement.map_or(member.value.get(), |(_, value)| value));
        out.push_str(&text[member.value_span.end..member.piece.end]);
    }
    for (key, value) in &edits.set {
        if members.iter().any(|member| member.key == *key) {
            continue;
        }
        separate(out);
        push_string(out, key);
        out.push(':');
        out.push_str(value);
    }
    out.push('}');
}

fn splice(text: &str, span: Range<usize>, replacement: &str) -> String {
    let mut out = String::with_capacity(text.len() - span.len() + replacement.len());
    out.push_str(&text[..span.start]);
    out.push_str(replacement);
    out.push_str(&text[span.end..]);
    out
}

/// Where a borrowed part lies in the text it was borrowed from.
fn span_in(text: &str, part: &RawValue) -> Range<usize> {
    let start = part.get().as_ptr() as usize - text.as_ptr() as usize;
    start..start + part.get().len()
}

fn members(object: &RawValue) -> Option<Vec<Member<'_>>> {
    let text = object.get();
    if !text.starts_with('{') {
        return None;
    }
    let entries = serde_json::Deserializer::from_str(text)
        .deserialize_map(Entries)
        .ok()?;
    let mut members: Vec<Member<'_>> = Vec::with_capacity(entries.len());
    for (Key(key), value) in entries {
        let value_span = span_in(text, value);
        let mut piece = 1..text.len() - 1;
        if let Some(previous) = members.last_mut() {
            // Between two members there is white space and exactly one comma.
            let comma = previous.value_span.end + text[previous.value_span.end..].find(',')?;
            previous.piece.end = comma;
            piece.start = comma + 1;
        }
        members.push(Member {
            key,
            value,
            value_span,
            piece,
        });
    }
    Some(members)
}

/// Reads all members of an object in their order.
struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = Vec<(Key<'de>, &'de RawValue)>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::with_capacity(8);
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(entries)
    }
}

/// A member's name, copied only if it is written with escapes.
#[derive(serde::Deserialize)]
#[serde(transparent)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);
