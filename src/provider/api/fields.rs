//! A JSON object that is put together field by field, in memory that is wiped.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::value::RawValue;

use crate::secret;

/// The fields of an object, by name.
#[derive(Default)]
pub(super) struct Fields(BTreeMap<String, Field>);

enum Field {
    /// A value, as JSON.
    Value(Bytes),
    Object(Fields),
}

/// Why a field was not set.
pub(super) enum Refused {
    /// The pointer is not valid, or names the whole body.
    NoField,
    /// There is a value at a part of the pointer, or an object at its end.
    Taken,
    /// The value cannot be written as JSON.
    NotJson,
}

impl Fields {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sets the value at a JSON Pointer (RFC 6901), and creates the objects around it.
    pub(super) fn set(&mut self, pointer: &str, value: &impl Serialize) -> Result<(), Refused> {
        let path = pointer.strip_prefix('/').ok_or(Refused::NoField)?;
        let mut names: Vec<String> = path.split('/').map(unescaped).collect();
        let last = names.pop().ok_or(Refused::NoField)?;
        let mut object = self;
        for name in names {
            let inner = object.0.entry(name);
            object = match inner.or_insert_with(|| Field::Object(Self::default())) {
                Field::Object(inner) => inner,
                Field::Value(_) => return Err(Refused::Taken),
            };
        }
        let value = secret::json::write(value).map_err(|_| Refused::NotJson)?;
        match object.0.get(&last) {
            Some(Field::Object(_)) => Err(Refused::Taken),
            Some(Field::Value(_)) | None => {
                object.0.insert(last, Field::Value(value));
                Ok(())
            }
        }
    }

    /// Writes the object to a buffer that is wiped.
    pub(super) fn write(&self) -> serde_json::Result<Bytes> {
        secret::json::write(self)
    }
}

/// Returns one name of a JSON Pointer (RFC 6901, section 4).
pub(super) fn unescaped(name: &str) -> String {
    name.replace("~1", "/").replace("~0", "~")
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, field) in &self.0 {
            match field {
                Field::Object(inner) => map.serialize_entry(name, inner)?,
                Field::Value(value) => {
                    // Borrowed: nothing of it is copied but into the buffer.
                    let value: &RawValue =
                        serde_json::from_slice(value).map_err(serde::ser::Error::custom)?;
                    map.serialize_entry(name, value)?;
                }
            }
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(fields: &mut Fields, pointer: &str, value: impl Serialize) -> bool {
        fields.set(pointer, &value).is_ok()
    }

    #[test]
    fn fields_are_nested_by_their_pointers() {
        let mut fields = Fields::default();
        assert!(fields.is_empty());
        assert!(set(&mut fields, "/type", "m.login.password"));
        assert!(set(&mut fields, "/identifier/user", "a\"b"));
        assert!(set(&mut fields, "/identifier/type", "x"));
        assert!(set(&mut fields, "/identifier/type", "m.id.user"));
        assert!(set(&mut fields, "/a~1b~0c/", [1, 2]));
        assert!(set(&mut fields, "/mfa", None::<u8>));
        let expected = r#"{"a/b~c":{"":[1,2]},"identifier":{"type":"m.id.user","user":"a\"b"},"mfa":null,"type":"m.login.password"}"#;
        assert_eq!(fields.write().unwrap(), expected);
    }

    #[test]
    fn a_field_is_not_set_where_another_one_is() {
        let mut fields = Fields::default();
        assert!(!set(&mut fields, "", 1));
        assert!(!set(&mut fields, "a", 1));
        assert!(set(&mut fields, "/a/b", 1));
        assert!(!set(&mut fields, "/a", 1));
        assert!(!set(&mut fields, "/a/b/c", 1));
        assert_eq!(fields.write().unwrap(), r#"{"a":{"b":1}}"#);
    }
}
