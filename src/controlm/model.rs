//! The messages of the session service, under their names on the wire.

use std::fmt;
use std::marker::PhantomData;

use secrecy::{ExposeSecret, SecretString};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::credentials::Credentials;

/// The request of `do_login`.
///
/// A password may be `Secret:<name>`, the name of a secret on the server. Values
/// are passed through as they are, never checked or rewritten.
///
/// The error of a value that is not such a request quotes nothing of it.
#[derive(Clone, Debug, Serialize)]
pub struct LoginCredentials {
    /// The user's name.
    pub username: String,
    /// The user's password.
    #[serde(serialize_with = "expose")]
    pub password: SecretString,
}

impl<'de> Deserialize<'de> for LoginCredentials {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Fields {
            username: Text,
            password: Text,
        }
        let fields: Fields = object(from)?;
        Ok(Self {
            username: fields.username.into_string(),
            password: fields.password.0,
        })
    }
}

impl From<&Credentials> for LoginCredentials {
    fn from(credentials: &Credentials) -> Self {
        Self {
            username: credentials.username().to_owned(),
            password: credentials.password().clone(),
        }
    }
}

/// The answer of `do_login`.
///
/// Every field is optional on the wire. An answer without a token is an error
/// of the provider, not of this model.
///
/// The error of a value that is not such an answer quotes nothing of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LoginResult {
    /// The user that is logged in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The session token.
    #[serde(
        default,
        serialize_with = "expose_option",
        skip_serializing_if = "Option::is_none"
    )]
    pub token: Option<SecretString>,
    /// The server's version, such as `9.19.120`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

impl<'de> Deserialize<'de> for LoginResult {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Fields {
            username: Option<Text>,
            token: Option<Text>,
            version: Option<Text>,
        }
        let fields: Fields = object(from)?;
        Ok(Self {
            username: fields.username.map(Text::into_string),
            token: fields.token.map(|token| token.0),
            version: fields.version.map(Text::into_string),
        })
    }
}

/// The request of `update_my_password`.
///
/// The error of a value that is not such a request quotes nothing of it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PasswordsObject {
    /// The user whose password changes. Without it, the user that is logged in.
    ///
    /// The service's documentation hides this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The current password.
    #[serde(serialize_with = "expose")]
    pub current_password: SecretString,
    /// The new password.
    #[serde(serialize_with = "expose")]
    pub new_password: SecretString,
}

impl<'de> Deserialize<'de> for PasswordsObject {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Fields {
            user: Option<Text>,
            current_password: Text,
            new_password: Text,
        }
        let fields: Fields = object(from)?;
        Ok(Self {
            user: fields.user.map(Text::into_string),
            current_password: fields.current_password.0,
            new_password: fields.new_password.0,
        })
    }
}

/// The answer of an operation without a result.
///
/// The message of a logout quotes the token, so `Debug` does not show it.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct SuccessData {
    /// The server's message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl fmt::Debug for SuccessData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SuccessData").finish_non_exhaustive()
    }
}

/// The answer of a failed operation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorList {
    /// The errors, most often one.
    #[serde(default)]
    pub errors: Vec<ErrorData>,
}

/// One entry of an [`ErrorList`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorData {
    /// The message for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The server's name for this kind of error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The item that the error is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<String>,
    /// The file of a deployment that the error is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The line in that file, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<i64>,
    /// The column in that line, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub col: Option<i64>,
}

fn expose<S: serde::Serializer>(secret: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.expose_secret())
}

fn expose_option<S: serde::Serializer>(
    secret: &Option<SecretString>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match secret {
        Some(secret) => expose(secret, serializer),
        None => serializer.serialize_none(),
    }
}

/// A string. The error of another value does not quote it, as serde's own does: a
/// password may be a number to whoever writes it.
struct Text(SecretString);

impl Text {
    fn into_string(self) -> String {
        self.0.expose_secret().to_owned()
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(TextVisitor)
    }
}

struct TextVisitor;

/// Methods of a visitor for the values whose errors would quote them.
macro_rules! unquoted {
    ($expected:literal: $($method:ident($of:ty)),+) => {
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str($expected)
        }

        $(fn $method<E: de::Error>(self, _: $of) -> Result<Self::Value, E> {
            Err(E::custom(concat!("expected ", $expected)))
        })+
    };
}

impl Visitor<'_> for TextVisitor {
    type Value = Text;

    unquoted!("a string": visit_bool(bool), visit_i64(i64), visit_u64(u64), visit_f64(f64));

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Text, E> {
        Ok(Text(text.into()))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Text, E> {
        Ok(Text(text.into()))
    }
}

/// Deserializes the fields of an object. The error of another value does not quote it:
/// `serde_json` asks the visitor only if any value is allowed.
fn object<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    from.deserialize_any(ObjectVisitor(PhantomData))
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = T;

    unquoted!(
        "an object": visit_bool(bool), visit_i64(i64), visit_u64(u64), visit_f64(f64),
        visit_str(&str)
    );

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error<T: de::DeserializeOwned>(json: &str) -> String {
        let Err(error) = serde_json::from_str::<T>(json) else {
            panic!("{json} is one");
        };
        let Err(of_value) = serde_json::from_str(json).and_then(serde_json::from_value::<T>) else {
            panic!("{json} is one");
        };
        format!("{error} {of_value} {error:?}")
    }

    #[test]
    fn an_error_about_secrets_quotes_none() {
        for secret in [
            "48151623",
            "-48151623",
            "481.51623",
            "true",
            r#""4815 1623""#,
        ] {
            let quoted = secret.trim_matches(['"', '-']);
            let field = |name: &str| format!(r#"{{"username":"u","{name}":{secret}}}"#);
            let mut errors = vec![
                error::<LoginCredentials>(secret),
                error::<LoginResult>(secret),
                error::<PasswordsObject>(secret),
            ];
            if !secret.starts_with('"') {
                errors.push(error::<LoginCredentials>(&field("password")));
                errors.push(error::<LoginResult>(&field("token")));
                errors.push(error::<PasswordsObject>(&field("currentPassword")));
                errors.push(error::<PasswordsObject>(&field("newPassword")));
            }
            for error in errors {
                assert!(error.contains("expected"), "{error}");
                assert!(!error.contains(quoted), "{error}");
            }
        }
    }

    #[test]
    fn the_messages_are_read_as_they_are_written() {
        let login = r#"{"username":"u","password":"p\n"}"#;
        let read: LoginCredentials = serde_json::from_str(login).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), login);
        for result in ["{}", r#"{"username":"u","token":"t","version":"9.19"}"#] {
            let read: LoginResult = serde_json::from_str(result).unwrap();
            assert_eq!(serde_json::to_string(&read).unwrap(), result);
        }
        let passwords = r#"{"user":"u","currentPassword":"a","newPassword":"b"}"#;
        let read: PasswordsObject = serde_json::from_str(passwords).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), passwords);
        let null = r#"{"username":null,"token":null,"version":null,"more":1}"#;
        assert!(
            serde_json::from_str::<LoginResult>(null)
                .unwrap()
                .token
                .is_none()
        );
    }
}
