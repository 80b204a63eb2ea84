//! The messages of the session service, under their names on the wire.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use crate::credentials::Credentials;

/// What `do_login` is sent.
///
/// A password may be `Secret:<name>`, which names a secret that the server
/// holds. Values are passed through as they are, never checked or rewritten.
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

/// What `do_login` answers.
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

/// What `update_my_password` is sent.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PasswordsObject {
    /// The user whose password changes; left out, it is the one logged in.
    ///
    /// The service's documentation hides this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The password in use.
    #[serde(serialize_with = "expose")]
    pub current_password: SecretString,
    /// The password to be used from now on.
    #[serde(serialize_with = "expose")]
    pub new_password: SecretString,
}

/// What an operation without a result answers.
///
/// The message of a logout quotes the token, so `Debug` does not show it.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct SuccessData {
    /// What the server says it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl fmt::Debug for SuccessData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SuccessData").finish_non_exhaustive()
    }
}

/// What a failed operation answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorList {
    /// What went wrong, most often one entry.
    #[serde(default)]
    pub errors: Vec<ErrorData>,
}

/// One entry of an [`ErrorList`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorData {
    /// The text for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The server's name for this kind of error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What the error is about.
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
