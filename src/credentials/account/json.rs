//! A record as JSON text.
//!
//! ```json
//! {
//!   "username": "emuser",
//!   "password": "the current one",
//!   "written": "the current one",
//!   "accepted": true,
//!   "others": [{ "password": "..", "sent_at": 1767225600000, "open": "lost" }],
//!   "change": { "id": "00000000000000a1", "owner": "..", "until": 1767225630000 },
//!   "login": { "id": "..", "password": "..", "owner": "..", "until": 1767225630000 },
//!   "tries": [{ "password": "..", "at": 1767225600000, "verdict": "refused" }]
//! }
//! ```
//!
//! - `username` and `password` are required, and a person may write a file with
//!   these two alone. To change the password by hand, a person changes
//!   `password` and leaves the rest. For another user, a person writes these two
//!   fields alone.
//! - `open` is `lost`, `no` or `closed`; `verdict` is `refused` or `no_verdict`.
//! - Times are milliseconds since the Unix epoch. An `id` or an `owner` is 16
//!   hexadecimal digits.
//! - A field that is empty or false is left out. Unknown fields are an error,
//!   since the next write would lose them.
//!
//! Earlier versions wrote `{"username", "password", "new_password", "trying"}`.
//! That form is read too: the new password becomes an open one, and `trying`
//! becomes the tries that it stands for.

use std::fmt;

use bytes::Bytes;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::record::{Change, Claim, Id, Open, Other, Owner, Password, Record, Try, TryVerdict};
use super::time::WallTime;
use crate::secret::json;

/// The text is not a record. It does not quote the text, which holds passwords.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InvalidRecord {
    what: &'static str,
    /// The line and column, counted from 1.
    place: Option<(usize, usize)>,
}

impl Record<Password> {
    /// Returns the record as JSON text, in a buffer that is wiped.
    pub(crate) fn to_json(&self) -> Bytes {
        let text = Text {
            username: &self.username,
            password: &self.current,
            written: self.written.as_ref(),
            accepted: self.accepted,
            others: &self.others,
            change: self.change.as_ref(),
            login: self.login.as_ref(),
            tries: &self.tries,
        };
        json::write(&text).expect("strings, numbers and lists are JSON")
    }

    /// Reads a record from JSON text. `now` is when an unresolved change of the
    /// old form counts as sent.
    ///
    /// # Errors
    ///
    /// If the text is not JSON, a field is missing, unknown or of another type,
    /// or the username or a password is empty.
    pub(crate) fn from_json(text: &[u8], now: WallTime) -> Result<Self, InvalidRecord> {
        let stored: Stored = json::object(text)?;
        stored.into_record(now)
    }
}

/// What is written.
#[derive(Serialize)]
struct Text<'a> {
    username: &'a str,
    #[serde(serialize_with = "exposed")]
    password: &'a Password,
    #[serde(
        serialize_with = "exposed_if_any",
        skip_serializing_if = "Option::is_none"
    )]
    written: Option<&'a Password>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    accepted: bool,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    others: &'a [Other],
    #[serde(skip_serializing_if = "Option::is_none")]
    change: Option<&'a Change>,
    #[serde(skip_serializing_if = "Option::is_none")]
    login: Option<&'a Claim>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    tries: &'a [Try],
}

/// What is read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    username: String,
    #[serde(deserialize_with = "json::secret")]
    password: SecretString,
    #[serde(default, deserialize_with = "json::optional")]
    written: Option<SecretString>,
    #[serde(default)]
    accepted: bool,
    #[serde(default)]
    others: Vec<StoredOther>,
    change: Option<Change>,
    login: Option<StoredClaim>,
    #[serde(default)]
    tries: Vec<StoredTry>,
    // The old form.
    #[serde(default, deserialize_with = "json::optional")]
    new_password: Option<SecretString>,
    trying: Option<Trying>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredOther {
    #[serde(deserialize_with = "json::secret")]
    password: SecretString,
    sent_at: WallTime,
    open: Open,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredClaim {
    id: Id,
    #[serde(deserialize_with = "json::secret")]
    password: SecretString,
    owner: Owner,
    until: WallTime,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredTry {
    #[serde(deserialize_with = "json::secret")]
    password: SecretString,
    at: WallTime,
    verdict: TryVerdict,
}

/// Which password of an unresolved change a login was sending, in the old form.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Trying {
    New,
    Old,
    /// The new one, after the server had refused the old one.
    OnlyNew,
    /// The old one, after the server had refused the new one.
    OnlyOld,
}

impl Stored {
    fn into_record(self, now: WallTime) -> Result<Record, InvalidRecord> {
        let others = self.others.into_iter().map(|other| Other {
            password: other.password.into(),
            sent_at: other.sent_at,
            open: other.open,
        });
        let tries = self.tries.into_iter().map(|tried| Try {
            password: tried.password.into(),
            at: tried.at,
            verdict: tried.verdict,
        });
        let mut record = Record {
            username: self.username,
            current: self.password.into(),
            written: self.written.map(Password::from),
            accepted: self.accepted,
            others: others.collect(),
            change: self.change,
            login: self.login.map(|claim| Claim {
                id: claim.id,
                password: claim.password.into(),
                owner: claim.owner,
                until: claim.until,
            }),
            tries: tries.collect(),
        };
        if let Some(new) = self.new_password.map(Password::from) {
            record.recall(new, self.trying, now);
        }
        let mut passwords = record.order();
        if record.username.is_empty() || passwords.any(Password::is_empty) {
            return Err(InvalidRecord {
                what: "the username or a password is empty",
                place: None,
            });
        }
        drop(passwords);
        Ok(record)
    }
}

impl Record {
    /// Recalls an unresolved change of the old form.
    fn recall(&mut self, new: Password, trying: Option<Trying>, now: WallTime) {
        if new == self.current {
            return;
        }
        let old = self.current.clone();
        self.put_first(new.clone(), Open::Lost, now);
        // The new one was tried first then, so its refusal proves nothing.
        let tries = match trying {
            None => vec![],
            Some(Trying::New) => vec![(new, TryVerdict::NoVerdict)],
            Some(Trying::Old) => vec![(old, TryVerdict::NoVerdict)],
            Some(Trying::OnlyNew) => {
                vec![(old, TryVerdict::Refused), (new, TryVerdict::NoVerdict)]
            }
            Some(Trying::OnlyOld) => {
                vec![(new, TryVerdict::NoVerdict), (old, TryVerdict::NoVerdict)]
            }
        };
        for (password, verdict) in tries {
            self.add_try(password, now, verdict);
        }
    }
}

impl Password {
    fn is_empty(&self) -> bool {
        self.secret().expose_secret().is_empty()
    }
}

impl Serialize for Other {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Text<'a> {
            #[serde(serialize_with = "exposed")]
            password: &'a Password,
            sent_at: WallTime,
            open: Open,
        }
        let text = Text {
            password: &self.password,
            sent_at: self.sent_at,
            open: self.open,
        };
        text.serialize(to)
    }
}

impl Serialize for Claim {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Text<'a> {
            id: Id,
            #[serde(serialize_with = "exposed")]
            password: &'a Password,
            owner: Owner,
            until: WallTime,
        }
        let text = Text {
            id: self.id,
            password: &self.password,
            owner: self.owner,
            until: self.until,
        };
        text.serialize(to)
    }
}

impl Serialize for Try {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Text<'a> {
            #[serde(serialize_with = "exposed")]
            password: &'a Password,
            at: WallTime,
            verdict: TryVerdict,
        }
        let text = Text {
            password: &self.password,
            at: self.at,
            verdict: self.verdict,
        };
        text.serialize(to)
    }
}

fn exposed<S: Serializer>(password: &&Password, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(password.secret().expose_secret())
}

fn exposed_if_any<S: Serializer>(password: &Option<&Password>, to: S) -> Result<S::Ok, S::Error> {
    match password {
        Some(password) => exposed(password, to),
        None => to.serialize_none(),
    }
}

/// Writes and reads a number as 16 hexadecimal digits: many JSON tools round
/// numbers over 2^53.
macro_rules! as_hexadecimal {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(&format_args!("{:016x}", self.0))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = String::deserialize(from)?;
                let number = u64::from_str_radix(&text, 16);
                let number = number.map_err(|_| serde::de::Error::custom("not hexadecimal"))?;
                Ok(Self(number))
            }
        }
    };
}

as_hexadecimal!(Id);
as_hexadecimal!(Owner);

impl From<serde_json::Error> for InvalidRecord {
    /// Drops the message: it may quote a password.
    fn from(error: serde_json::Error) -> Self {
        let what = match error.classify() {
            serde_json::error::Category::Data => "a field is missing, unknown or wrong",
            serde_json::error::Category::Io
            | serde_json::error::Category::Syntax
            | serde_json::error::Category::Eof => "the text is not JSON",
        };
        Self {
            what,
            place: Some((error.line(), error.column())),
        }
    }
}

impl fmt::Display for InvalidRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)?;
        match self.place {
            Some((line, column)) => write!(f, " (line {line}, column {column})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for InvalidRecord {}
