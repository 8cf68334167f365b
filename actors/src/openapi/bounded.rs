//! Reading YAML into a value that is bounded: a text of some kilobytes can stand for gigabytes, since aliases repeat what
//! they name. Pure.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// The most values of a document, each repetition counted.
const VALUES_MAX: usize = 1_000_000;
/// The most bytes of its texts, each repetition counted.
const TEXT_BYTES_MAX: usize = 32 * 1024 * 1024;

/// What may still be read.
struct Bounds {
    values: usize,
    text_bytes: usize,
}

impl Bounds {
    fn text<E: Error>(&mut self, text: &str) -> Result<(), E> {
        let left = self.text_bytes.checked_sub(text.len());
        self.text_bytes = left.ok_or_else(|| {
            E::custom(format_args!(
                "its texts, aliases followed, have more than {TEXT_BYTES_MAX} bytes"
            ))
        })?;
        Ok(())
    }
}

/// Reads a text as YAML.
///
/// # Errors
/// In words, when it is not YAML, or too much of it.
pub(super) fn value_of_yaml(text: &str) -> Result<Value, String> {
    let mut bounds = Bounds {
        values: VALUES_MAX,
        text_bytes: TEXT_BYTES_MAX,
    };
    let reader = yaml_serde::Deserializer::from_str(text);
    Within(&mut bounds)
        .deserialize(reader)
        .map_err(|error| error.to_string())
}

struct Within<'b>(&'b mut Bounds);

impl<'de> DeserializeSeed<'de> for Within<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let left = self.0.values.checked_sub(1);
        self.0.values = left.ok_or_else(|| {
            D::Error::custom(format_args!(
                "it has, aliases followed, more than {VALUES_MAX} values"
            ))
        })?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Within<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that JSON has")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        self.0.text(text)?;
        Ok(Value::String(text.to_owned()))
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Within(self.0))? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            self.0.text(&name)?;
            map.insert(name, members.next_value_seed(Within(self.0))?);
        }
        Ok(Value::Object(map))
    }
}
