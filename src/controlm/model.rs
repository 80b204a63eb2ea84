//! The messages of the session service, under their names on the wire.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use crate::credentials::Credentials;

/// The request of `do_login`.
///
/// A password may be `Secret:<name>`, the name of a secret on the server. Values
/// are passed through as they are, never checked or rewritten.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LoginCredentials {
    /// The user's name.
    pub username: String,
    /// The user's password.
    #[serde(serialize_with = "expose")]
    pub password: SecretString,
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
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
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

/// The request of `update_my_password`.
#[derive(Clone, Debug, Serialize, Deserialize)]
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
