//! Files of credentials, whatever stands in them.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tower_reauth::credentials::{File, FileStore, SourceErrorKind, Trying};
use tower_reauth::{CredentialSource, Credentials, ExposeSecret, SourceError};

/// A folder of a test's own, removed with it.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let name = format!("tower-reauth-fuzz-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn read(source: &impl CredentialSource) -> Option<(String, String)> {
    match super::run(source.fetch()) {
        Ok(credentials) => {
            let password = credentials.password().expose_secret().to_owned();
            Some((credentials.username().to_owned(), password))
        }
        Err(error) => {
            is_sound(&error);
            None
        }
    }
}

fn is_sound(error: &SourceError) {
    assert_eq!(error.kind(), SourceErrorKind::Invalid);
    let shown = format!("{error} {error:?}");
    assert!(!shown.contains("canary"), "{shown}");
}

/// What a file is that is nothing but one text.
fn line(text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(text).ok()?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    (!text.is_empty()).then(|| text.to_owned())
}

/// The texts of a JSON object, if each of its names stands there once.
fn texts(json: &[u8]) -> Option<Vec<(String, Option<String>)>> {
    let json = json.strip_prefix(b"\xef\xbb\xbf").unwrap_or(json);
    let Ok(Value::Object(object)) = serde_json::from_slice(json) else {
        return None;
    };
    let names = json.iter().filter(|byte| **byte == b':').count();
    let texts = |(name, value): (String, Value)| (name, value.as_str().map(str::to_owned));
    // Without colons in texts, each is a field.
    (names == object.len()).then(|| object.into_iter().map(texts).collect())
}

fn text(texts: &[(String, Option<String>)], name: &str) -> Option<String> {
    let mut fields = texts.iter().filter(|(other, _)| other == name);
    fields.next()?.1.clone()
}

impl Folder {
    /// An input is the file, and both files of a Kubernetes secret.
    pub(crate) fn file(&self, input: &[u8]) {
        let path = self.0.join("file");
        let mounted = self.0.join("mounted");
        fs::create_dir_all(&mounted).unwrap();
        fs::write(&path, input).unwrap();
        let plain = read(&File::plain("emuser", &path));
        assert_eq!(
            plain,
            line(input).map(|password| ("emuser".to_owned(), password))
        );

        let json = read(&File::json(&path));
        let expected =
            texts(input).map(|texts| text(&texts, "username").zip(text(&texts, "password")));
        if let Some(expected) = expected {
            let is_whole =
                |(name, password): &(String, String)| !name.is_empty() && !password.is_empty();
            assert_eq!(json, expected.filter(is_whole));
        }

        let middle = input.len() / 2;
        fs::write(mounted.join("username"), &input[..middle]).unwrap();
        fs::write(mounted.join("password"), &input[middle..]).unwrap();
        let expected = line(&input[..middle]).zip(line(&input[middle..]));
        assert_eq!(read(&File::kubernetes(&mounted)), expected);
    }
}

/// What a store holds, as far as anybody may ask.
#[derive(Clone, Debug, PartialEq)]
struct Held {
    username: String,
    password: String,
    new: Option<String>,
    trying: Option<Trying>,
}

async fn held(path: &Path) -> Result<Held, SourceError> {
    // A process that starts anew.
    let store = FileStore::new(path);
    let credentials = store.fetch().await?;
    let is_unresolved = store.unresolved().await?.is_some();
    // What is kept of a change, a `Session` reads; here the file says it.
    let file: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let new = file["new_password"].as_str().map(str::to_owned);
    assert_eq!(is_unresolved, new.is_some());
    let trying = file["trying"].as_str().filter(|_| is_unresolved);
    Ok(Held {
        username: credentials.username().to_owned(),
        password: credentials.password().expose_secret().to_owned(),
        new,
        trying: trying.map(|trying| trying.parse().unwrap()),
    })
}

impl Folder {
    /// An input is what is done to the store, by letters, a line break, and
    /// what its file holds at first.
    pub(crate) fn store(&self, input: &[u8]) {
        let path = self.0.join("store.json");
        let mut parts = input.splitn(2, |byte| *byte == b'\n');
        let steps = parts.next().unwrap();
        let file = parts.next().unwrap_or_default();
        fs::write(&path, file).unwrap();
        super::run(async {
            let store = FileStore::new(&path);
            let mut expected = match held(&path).await {
                Ok(held) => Some(held),
                Err(error) => {
                    is_sound(&error);
                    None
                }
            };
            for step in steps.iter().take(8) {
                let done = apply(&store, *step, expected.as_mut()).await;
                match (&expected, done) {
                    (Some(expected), done) => {
                        done.unwrap();
                        assert_eq!(held(&path).await.unwrap(), *expected);
                    }
                    // What nobody can read stays as it is.
                    (None, done) => {
                        if let Err(error) = done {
                            is_sound(&error);
                        }
                        assert_eq!(fs::read(&path).unwrap(), file);
                    }
                }
            }
        });
    }
}

async fn apply(store: &FileStore, step: u8, held: Option<&mut Held>) -> Result<(), SourceError> {
    let mut nothing = Held {
        username: "emuser".to_owned(),
        password: String::new(),
        new: None,
        trying: None,
    };
    let held = held.unwrap_or(&mut nothing);
    match step {
        b'p' => {
            let new = format!("canary \"{step}\" \u{e9}");
            held.new = Some(new.clone());
            held.trying = None;
            store
                .prepare(Credentials::new(held.username.clone(), new))
                .await
        }
        b'o' => {
            if let Some(new) = held.new.take() {
                held.password = new;
            }
            held.trying = None;
            store.promote().await
        }
        b'w' => {
            held.new = None;
            held.trying = None;
            store.withdraw().await
        }
        other => {
            let which = match other {
                b'1' => Some(Trying::Old),
                b'2' => Some(Trying::New),
                _ => None,
            };
            held.trying = which.filter(|_| held.new.is_some());
            store.trying(which).await
        }
    }
}
