//! Where credentials come from, and that none is lost on the way through a
//! password change.

use std::collections::BTreeSet;
use std::fs;
use std::future::poll_fn;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::StatusCode;
use http_body_util::Full;
use tokio::time::{advance, sleep};
use tower_reauth::controlm::ControlM;
use tower_reauth::controlm::emulator::{Emulator, EmulatorService, Fault, Operation};
use tower_reauth::credentials::{
    Chain, Env, File, FileStore, Memory, Record, SourceErrorKind, Version,
};
use tower_reauth::testing::{Answer, Gate, ScriptedProvider};
use tower_reauth::{
    CredentialProvider, CredentialSource, CredentialStore, Credentials, ErrorKind, ExposeSecret,
    LoginContext, PasswordChange, PasswordContext, Profile, ProviderError, Session, Source,
    SourceError, Token, provider_fn,
};

/// How long a replaced password is kept.
const RETENTION: Duration = Duration::from_secs(24 * 3600);

/// Longer than a session waits after one failed login.
const BACK_OFF: Duration = Duration::from_secs(1);

/// A directory of a test's own, which is gone after it.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let number = MADE.fetch_add(1, Ordering::SeqCst);
        let name = format!("credentials-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn store(&self) -> PathBuf {
        self.file("c.json", r#"{"username":"emuser","password":"old"}"#)
    }

    fn names(&self) -> BTreeSet<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
        entries
            .map(|entry| name(entry).into_string().unwrap())
            .collect()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn shown(credentials: &Credentials) -> (&str, &str) {
    let password = credentials.password().expose_secret();
    (credentials.username(), password)
}

async fn fetched(source: &impl CredentialSource) -> (String, String) {
    let credentials = source.fetch().await.unwrap();
    let (username, password) = shown(&credentials);
    (username.to_owned(), password.to_owned())
}

fn pair(username: &str, password: &str) -> (String, String) {
    (username.to_owned(), password.to_owned())
}

/// An error's whole text, which quotes no secret.
fn told(error: &SourceError) -> String {
    let mut text = format!("{error}: {error:?}");
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    assert!(!text.contains("s3cret"), "{text}");
    text
}

async fn fails(source: &impl CredentialSource, kind: SourceErrorKind) -> String {
    let error = source.fetch().await.unwrap_err();
    assert_eq!(error.kind(), kind, "{error:?}");
    told(&error)
}

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// The other passwords of a record, and whether a change to each may still come.
fn others(record: &serde_json::Value) -> Vec<(&str, &str)> {
    let others = record["others"].as_array().into_iter().flatten();
    others
        .map(|other| {
            let text = |field: &str| other[field].as_str().unwrap();
            (text("password"), text("open"))
        })
        .collect()
}

/// All passwords that stand in a record, wherever they stand.
fn passwords(value: &serde_json::Value) -> BTreeSet<&str> {
    match value {
        serde_json::Value::Object(fields) => fields
            .iter()
            .flat_map(|(name, value)| match value.as_str() {
                Some(text) if name.ends_with("password") || name == "written" => [text].into(),
                Some(_) | None => passwords(value),
            })
            .collect(),
        serde_json::Value::Array(values) => values.iter().flat_map(passwords).collect(),
        _ => BTreeSet::new(),
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// Stores the record with this password, as another process.
async fn set_password(path: &Path, password: &str) -> Result<(), SourceError> {
    let store = FileStore::new(path);
    let (mut record, version) = store.load().await?;
    record.set_password(password);
    store.store(record, version).await
}

#[tokio::test]
async fn variables_are_read_and_one_that_is_not_set_is_named() {
    // Set for every process by cargo, so that nothing needs to be set here.
    let source = Env::new("CARGO_PKG_NAME", "CARGO_PKG_NAME");
    assert_eq!(fetched(&source).await, pair("tower-reauth", "tower-reauth"));
    let source = Env::new("CARGO_PKG_NAME", "NO_SUCH_VARIABLE");
    let text = fails(&source, SourceErrorKind::Missing).await;
    assert!(text.contains("NO_SUCH_VARIABLE"), "{text}");
    // This version is no preview of another.
    let source = Env::new("CARGO_PKG_NAME", "CARGO_PKG_VERSION_PRE");
    fails(&source, SourceErrorKind::Missing).await;
}

/// Not a test of its own: [`a_variable_is_read_without_its_last_line_break`] runs it as
/// a process with variables of its own.
#[tokio::test]
#[ignore = "run by another"]
async fn with_line_breaks_in_the_environment() {
    for (variable, password) in [
        ("ONE_BREAK", "s3cret"),
        ("WINDOWS_BREAK", "s3cret"),
        ("TWO_BREAKS", " s3cret \n"),
        ("NO_BREAK", "s3\ncret"),
    ] {
        let source = Env::new("USERNAME_AND_BREAK", variable);
        assert_eq!(fetched(&source).await, pair("emuser", password));
    }
    let source = Env::new("USERNAME_AND_BREAK", "ONLY_A_BREAK");
    fails(&source, SourceErrorKind::Missing).await;
}

#[test]
fn a_variable_is_read_without_its_last_line_break() {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "with_line_breaks_in_the_environment",
            "--ignored",
        ])
        .env("USERNAME_AND_BREAK", "emuser\n")
        .env("ONE_BREAK", "s3cret\n")
        .env("WINDOWS_BREAK", "s3cret\r\n")
        .env("TWO_BREAKS", " s3cret \n\n")
        .env("NO_BREAK", "s3\ncret")
        .env("ONLY_A_BREAK", "\n")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
}

#[tokio::test]
async fn a_plain_file_is_the_password_without_its_last_line_break() {
    let directory = Directory::new();
    for (text, password) in [
        ("s3cret", "s3cret"),
        ("s3cret\n", "s3cret"),
        ("s3cret\r\n", "s3cret"),
        (" s3cret \n\n", " s3cret \n"),
        // As some editors mark UTF-8; within, it is a character like any other.
        ("\u{feff}s3cret\n", "s3cret"),
        ("s3cret\u{feff}", "s3cret\u{feff}"),
    ] {
        let source = File::plain("emuser", directory.file("p", text));
        assert_eq!(fetched(&source).await, pair("emuser", password));
    }
}

#[tokio::test]
async fn a_file_is_read_anew_each_time() {
    let directory = Directory::new();
    let path = directory.file("p", "one");
    let source = File::plain("emuser", &path);
    assert_eq!(fetched(&source).await, pair("emuser", "one"));
    fs::write(&path, "two").unwrap();
    assert_eq!(fetched(&source).await, pair("emuser", "two"));
}

#[tokio::test]
async fn a_file_that_holds_no_password_is_named_and_not_quoted() {
    let directory = Directory::new();
    for (text, kind) in [
        (b"".to_vec(), SourceErrorKind::Invalid),
        (b"\n".to_vec(), SourceErrorKind::Invalid),
        (b"\xef\xbb\xbf\n".to_vec(), SourceErrorKind::Invalid),
        (b"s3cret\xff".to_vec(), SourceErrorKind::Invalid),
        (b"s3cret".repeat(20_000), SourceErrorKind::Invalid),
    ] {
        let path = directory.file("p", text);
        let text = fails(&File::plain("emuser", &path), kind).await;
        assert!(text.contains(path.to_str().unwrap()), "{text}");
    }
    let missing = File::plain("emuser", directory.0.join("no-such-file"));
    let error = missing.fetch().await.unwrap_err();
    assert_eq!(error.kind(), SourceErrorKind::Missing);
    let cause = std::error::Error::source(&error).unwrap();
    assert!(cause.to_string().contains("no-such-file"), "{cause}");
    assert!(cause.source().unwrap().is::<std::io::Error>());
    fails(
        &File::plain("emuser", &directory.0),
        SourceErrorKind::Invalid,
    )
    .await;
}

/// To open a pipe waits for whoever writes to it.
#[tokio::test]
async fn a_pipe_that_nobody_writes_to_holds_no_password_and_nobody_up() {
    let directory = Directory::new();
    let pipe = directory.0.join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let source = File::plain("emuser", pipe);
    let text = fails(&source, SourceErrorKind::Invalid).await;
    assert!(text.contains("is not a file"), "{text}");
}

#[tokio::test]
async fn a_file_of_64_kib_is_not_too_long() {
    let directory = Directory::new();
    let longest = "x".repeat(64 * 1024);
    let source = File::plain("emuser", directory.file("p", &longest));
    assert_eq!(fetched(&source).await, pair("emuser", &longest));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_file_that_cannot_be_read_to_its_end_is_no_password() {
    for path in [
        // Longer than it says, as one that is written meanwhile.
        "/proc/self/comm",
        // Fails when it is read, and not before.
        "/proc/self/mem",
    ] {
        let source = File::plain("emuser", path);
        fails(&source, SourceErrorKind::Unavailable).await;
    }
}

#[tokio::test]
async fn a_json_file_holds_both_and_what_is_wrong_with_it_is_not_quoted() {
    let directory = Directory::new();
    let text = r#"{"username": "emuser", "password": "s\u00e9cret\n", "note": 7}"#;
    let source = File::json(directory.file("c.json", text));
    assert_eq!(fetched(&source).await, pair("emuser", "s\u{e9}cret\n"));
    let marked = format!("\u{feff}{text}");
    let source = File::json(directory.file("c.json", marked));
    assert_eq!(fetched(&source).await, pair("emuser", "s\u{e9}cret\n"));
    for text in [
        r#"{"username": "emuser", "password": {"s3cret": 1}}"#,
        r#"{"username": "emuser", "s3cret": "x"}"#,
        r#"{"username": "emuser", "password": "s3cret"#,
        r#""s3cret""#,
        // Not an object, though its values are in the order of the fields.
        r#"["emuser", "s3cret"]"#,
    ] {
        let source = File::json(directory.file("c.json", text));
        let text = fails(&source, SourceErrorKind::Invalid).await;
        assert!(text.contains("line 1"), "{text}");
    }
    for text in [
        r#"{"username": "emuser", "password": ""}"#,
        r#"{"username": "", "password": "s3cret"}"#,
    ] {
        let source = File::json(directory.file("c.json", text));
        let text = fails(&source, SourceErrorKind::Invalid).await;
        assert!(text.contains("empty"), "{text}");
    }
}

/// A directory as Kubernetes mounts a secret.
fn mount(directory: &Directory, generation: &str) {
    let data = directory.0.join(generation);
    fs::create_dir(&data).unwrap();
    fs::write(data.join("username"), format!("user-{generation}")).unwrap();
    fs::write(data.join("password"), format!("pass-{generation}")).unwrap();
    let link = directory.0.join("..data_tmp");
    symlink(generation, &link).unwrap();
    fs::rename(link, directory.0.join("..data")).unwrap();
    for key in ["username", "password"] {
        let _ = symlink(format!("..data/{key}"), directory.0.join(key));
    }
}

#[tokio::test]
async fn a_mounted_secret_is_read_as_one() {
    let directory = Directory::new();
    mount(&directory, "..1");
    let source = File::kubernetes(&directory.0);
    assert_eq!(fetched(&source).await, pair("user-..1", "pass-..1"));
    mount(&directory, "..2");
    // Not of the old pair, though it is still there.
    assert_eq!(fetched(&source).await, pair("user-..2", "pass-..2"));
    fs::remove_dir_all(directory.0.join("..1")).unwrap();
    assert_eq!(fetched(&source).await, pair("user-..2", "pass-..2"));
}

#[tokio::test]
async fn a_mounted_secret_that_is_turned_all_the_time_never_yields_a_mixed_pair() {
    let directory = Directory::new();
    mount(&directory, "..0");
    let source = File::kubernetes(&directory.0);
    let path = directory.0.clone();
    let turning = std::thread::spawn(move || {
        let directory = Directory(path);
        for generation in 1..300 {
            mount(&directory, &format!("..{generation}"));
            fs::remove_dir_all(directory.0.join(format!("..{}", generation - 1))).unwrap();
        }
        std::mem::forget(directory);
    });
    let mut read = 0;
    while !turning.is_finished() {
        match source.fetch().await {
            Ok(credentials) => {
                let (username, password) = shown(&credentials);
                assert_eq!(username.replace("user", "pass"), password);
                read += 1;
            }
            // One that was turned away five times in a row says so.
            Err(error) => assert_eq!(error.kind(), SourceErrorKind::Unavailable),
        }
    }
    turning.join().unwrap();
    assert!(read > 0);
}

#[tokio::test]
async fn a_mounted_secret_that_lacks_something_is_missing() {
    let directory = Directory::new();
    mount(&directory, "..1");
    fs::remove_file(directory.0.join("..1/password")).unwrap();
    let source = File::kubernetes(&directory.0);
    let text = fails(&source, SourceErrorKind::Missing).await;
    assert!(text.contains("password"), "{text}");
    fs::remove_dir_all(directory.0.join("..1")).unwrap();
    let text = fails(&source, SourceErrorKind::Missing).await;
    assert!(text.contains("..data"), "{text}");
}

#[tokio::test]
async fn a_plain_directory_and_other_keys_do_as_well() {
    let directory = Directory::new();
    directory.file("login", "emuser\n");
    directory.file("secret", "s3cret\n");
    let source = File::kubernetes_keys(&directory.0, "login", "secret");
    assert_eq!(fetched(&source).await, pair("emuser", "s3cret"));
}

#[tokio::test]
async fn a_chain_takes_the_first_that_has_any() {
    let directory = Directory::new();
    let path = directory.0.join("p");
    let chain = Chain::new(Env::new("NO_SUCH_VARIABLE", "NOR_THIS"))
        .or(File::plain("emuser", &path))
        .or(Memory::new(Credentials::new("default", "default")));
    assert_eq!(fetched(&chain).await, pair("default", "default"));
    fs::write(&path, "s3cret").unwrap();
    assert_eq!(fetched(&chain).await, pair("emuser", "s3cret"));
    // One that is broken is not passed over.
    fs::write(&path, "").unwrap();
    fails(&chain, SourceErrorKind::Invalid).await;
}

#[tokio::test]
async fn a_chain_of_nothing_says_what_was_looked_for() {
    let directory = Directory::new();
    let chain = Chain::new(Env::new("NO_SUCH_VARIABLE", "NOR_THIS"))
        .or(File::plain("emuser", directory.0.join("no-such-file")));
    let text = fails(&chain, SourceErrorKind::Missing).await;
    assert!(
        text.contains("NO_SUCH_VARIABLE") && text.contains("no-such-file"),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_changed_password_goes_to_the_source_of_a_chain_that_has_credentials() {
    let directory = Directory::new();
    let path = directory.store();
    let chain = Chain::new(Env::new("NO_SUCH_VARIABLE", "NOR_THIS"))
        .or(FileStore::new(&path))
        .or(Memory::new(Credentials::new("default", "default")));
    let (provider, session) = scripted(chain);
    provider.on_change_password(ProviderError::refused("too short"));
    assert_eq!(change(&session, "bad").await, Err(ErrorKind::Refused));
    assert_eq!(json(&path)["password"], "old");
    assert_eq!(others(&json(&path)), [("bad", "no")]);

    session.renew().await.unwrap();
    change(&session, "new").await.unwrap();
    assert_eq!(json(&path)["password"], "new");
    session.renew().await.unwrap();
    assert_eq!(sent(&provider), ["old", "old", "new"]);

    // The next source that has any, and what is known there.
    fs::remove_file(&path).unwrap();
    change(&session, "newer").await.unwrap();
    session.renew().await.unwrap();
    assert_eq!(sent(&provider).last().unwrap(), "newer");
    assert!(!path.exists());
}

#[tokio::test(start_paused = true)]
async fn a_chain_with_a_broken_store_changes_no_password() {
    let directory = Directory::new();
    let path = directory.store();
    let chain =
        Chain::new(FileStore::new(&path)).or(Memory::new(Credentials::new("default", "default")));
    let (provider, session) = scripted(chain);
    session.login().await.unwrap();
    fs::write(&path, "{").unwrap();
    assert_eq!(change(&session, "new").await, Err(ErrorKind::Unavailable));
    assert_eq!(provider.password_changes(), 0);
    assert_eq!(fs::read_to_string(&path).unwrap(), "{");
}

#[tokio::test(start_paused = true)]
async fn a_password_changed_in_memory_lives_in_the_source_for_all_its_sessions() {
    let memory = Memory::new(Credentials::new("emuser", "old"));
    let source = Source::new(memory.clone());
    let (provider, session) = scripted(source.clone());
    let (other_provider, other) = scripted(source);
    provider.on_change_password(ProviderError::refused("too short"));
    assert_eq!(change(&session, "bad").await, Err(ErrorKind::Refused));
    other.login().await.unwrap();
    change(&session, "new").await.unwrap();
    other.login().await.unwrap();
    session.login().await.unwrap();
    assert_eq!(sent(&other_provider), ["old", "new"]);
    assert_eq!(sent(&provider).last().unwrap(), "new");
    // Another source of the same credentials knows nothing of it.
    let (provider, session) = scripted(memory);
    session.login().await.unwrap();
    assert_eq!(sent(&provider), ["old"]);
}

// What is in the file of a store.

#[tokio::test(start_paused = true)]
async fn a_store_keeps_both_passwords_while_the_server_is_asked_to_change_them() {
    let new = "n\u{e9}w\"\\\n";
    let directory = Directory::new();
    let path = directory.store();
    let (provider, session) = scripted(FileStore::new(&path));
    session.login().await.unwrap();
    let gate = Gate::closed();
    provider.on_change_password(Answer::usual().held_at(&gate));
    let changes = tokio::spawn({
        let session = session.clone();
        async move { change(&session, new).await }
    });
    gate.reached(1).await;

    let during = json(&path);
    assert_eq!(during["password"], "old");
    assert_eq!(others(&during), [(new, "lost")]);
    assert!(during["change"].is_object(), "{during}");
    // As another process sees it.
    let other = FileStore::new(&path);
    assert_eq!(fetched(&other).await, pair("emuser", "old"));
    let (record, version) = other.load().await.unwrap();
    let shown = format!("{record:?} {version:?}");
    for password in ["old", "w\\\""] {
        assert!(!shown.contains(password), "{shown}");
    }

    gate.open();
    changes.await.unwrap().unwrap();
    let after = json(&path);
    assert_eq!(
        (&after["password"], &after["written"]),
        (&new.into(), &new.into())
    );
    assert_eq!(others(&after), [("old", "closed")]);
    assert_eq!(after.get("change"), None);
    assert_eq!(fetched(&other).await, pair("emuser", new));
}

#[tokio::test(start_paused = true)]
async fn a_version_conflict_stores_nothing() {
    let directory = Directory::new();
    let path = directory.store();
    let store = FileStore::new(&path);
    let (record, version) = store.load().await.unwrap();
    set_password(&path, "of another process").await.unwrap();
    let before = fs::read(&path).unwrap();
    // Whichever process loaded it, whatever it stores, and also the same.
    for store in [&store, &FileStore::new(&path)] {
        let mut changed = record.clone();
        changed.set_password("mine");
        for record in [record.clone(), changed] {
            for version in [version.clone(), Version::new("absent"), Version::new("")] {
                let conflict = store.store(record.clone(), version).await.unwrap_err();
                assert_eq!(conflict.kind(), SourceErrorKind::Conflict);
            }
        }
    }
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_eq!(
        directory.names(),
        [".c.json.lock", "c.json"].map(str::to_owned).into()
    );
    // A hand edit is another version too.
    let (record, version) = store.load().await.unwrap();
    let edited = fs::read_to_string(&path)
        .unwrap()
        .replace("another", "a third");
    fs::write(&path, &edited).unwrap();
    let conflict = store.store(record, version).await.unwrap_err();
    assert_eq!(conflict.kind(), SourceErrorKind::Conflict);
    assert_eq!(fs::read_to_string(&path).unwrap(), edited);
}

/// A store whose file appears or disappears after it was loaded.
#[tokio::test]
async fn a_file_that_comes_or_goes_is_a_conflict() {
    let directory = Directory::new();
    let path = directory.0.join("c.json");
    let store = FileStore::new(&path).or_start_with(Credentials::new("emuser", "first"));
    let (record, absent) = store.load().await.unwrap();
    directory.store();
    let conflict = store.store(record, absent).await.unwrap_err();
    assert_eq!(conflict.kind(), SourceErrorKind::Conflict);
    let (record, version) = store.load().await.unwrap();
    assert_eq!(json(&path)["password"], "old");
    fs::remove_file(&path).unwrap();
    let conflict = store.store(record.clone(), version).await.unwrap_err();
    assert_eq!(conflict.kind(), SourceErrorKind::Conflict);
    assert!(!path.exists());
    // Without credentials to start with, there is no version to replace.
    let store = FileStore::new(&path);
    let missing = store
        .store(record, Version::new("absent"))
        .await
        .unwrap_err();
    assert_eq!(missing.kind(), SourceErrorKind::Missing);
    assert!(!path.exists());
}

/// Each writer appends its own letter, and none is lost.
#[tokio::test(flavor = "multi_thread")]
async fn of_writes_at_the_same_time_none_is_lost() {
    let directory = Directory::new();
    let path = directory.file("c.json", r#"{"username":"emuser","password":"-"}"#);
    let writers = ('a'..='h').map(|letter| {
        let store = FileStore::new(&path);
        tokio::spawn(async move {
            for _ in 0..5 {
                loop {
                    let (mut record, version) = store.load().await.unwrap();
                    let longer = format!("{}{letter}", record.password().expose_secret());
                    record.set_password(longer);
                    match store.store(record, version).await {
                        Ok(()) => break,
                        Err(error) => assert_eq!(error.kind(), SourceErrorKind::Conflict),
                    }
                }
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let (_, written) = fetched(&FileStore::new(&path)).await;
    assert_eq!(written.len(), 1 + 8 * 5);
    for letter in 'a'..='h' {
        assert_eq!(written.matches(letter).count(), 5, "{written}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_keeps_the_permissions_of_its_file_and_the_lock_files_are_the_owners_alone() {
    let directory = Directory::new();
    let path = directory.store();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let (_, session) = scripted(FileStore::new(&path));
    session.login().await.unwrap();
    let lock = directory.0.join(".c.json.lock");
    assert_eq!((mode(&path), mode(&lock)), (0o640, 0o600));
    assert_eq!(
        directory.names(),
        [".c.json.lock", "c.json"].map(str::to_owned).into()
    );

    change(&session, "new").await.unwrap();
    let change_lock = directory.0.join(".c.json.change");
    assert_eq!(mode(&change_lock), 0o600);
    let all = [".c.json.change", ".c.json.lock", "c.json"].map(str::to_owned);
    assert_eq!(directory.names(), all.clone().into());
    // They hold no secret, and stay: a process that opened one must lock the same file
    // as the next process.
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
    let before = [&lock, &change_lock].map(|path| inode(path));
    session.login().await.unwrap();
    change(&session, "newer").await.unwrap();
    drop(session);
    assert_eq!([&lock, &change_lock].map(|path| inode(path)), before);
    assert_eq!(fs::read(lock).unwrap(), b"");
    let number = fs::read_to_string(change_lock).unwrap();
    assert!(u64::from_str_radix(&number, 16).is_ok(), "{number}");
    assert_eq!(directory.names(), all.into());
    assert_eq!(mode(&path), 0o640);
}

#[tokio::test]
async fn temporary_files_of_dead_processes_are_removed_at_the_next_write() {
    let directory = Directory::new();
    let path = directory.store();
    let elsewhere = directory.file("elsewhere", "untouched");
    let dead = [
        ".c.json.7.0123456789abcdef",
        ".c.json.4294967295.00000000000000aa",
        // As earlier versions wrote it.
        ".c.json.new",
    ];
    for name in dead {
        // Links, to make it worse.
        symlink(&elsewhere, directory.0.join(name)).unwrap();
    }
    directory.file(".c.json.8.0123456789abcdef", "s3cret");
    let kept = [
        ".c.json.backup",
        ".c.json.7.0123456789abcdef.orig",
        ".c.json.7.0123456789abcde",
        ".c.json.x.0123456789abcdef",
        ".d.json.7.0123456789abcdef",
        ".d.json.new",
        "c.json.7.0123456789abcdef",
        ".c.json.lock",
        ".c.json.change",
    ];
    for name in kept {
        directory.file(name, "");
    }
    // A read removes nothing: another process may be writing.
    let before = directory.names();
    let store = FileStore::new(&path);
    let (record, version) = store.load().await.unwrap();
    assert_eq!(directory.names(), before);
    store.store(record, version).await.unwrap();
    let expected = kept.into_iter().chain(["c.json", "elsewhere"]);
    assert_eq!(directory.names(), expected.map(str::to_owned).collect());
    assert_eq!(fs::read_to_string(elsewhere).unwrap(), "untouched");
}

#[tokio::test(start_paused = true)]
async fn a_store_starts_with_the_first_credentials_and_its_file_is_the_owners_alone() {
    let directory = Directory::new();
    let path = directory.0.join("made.json");
    let first = || FileStore::new(&path).or_start_with(Credentials::new("emuser", "first"));
    assert_eq!(fetched(&first()).await, pair("emuser", "first"));
    assert_eq!(directory.names(), BTreeSet::new(), "a read creates nothing");
    let (provider, session) = scripted(first());
    session.token().await.unwrap();
    assert_eq!(mode(&path), 0o600);
    assert_eq!(
        json(&path),
        serde_json::json!({
            "username": "emuser",
            "password": "first",
            "written": "first",
            "accepted": true,
        })
    );
    change(&session, "new").await.unwrap();
    // The file counts from then on.
    let (provider_of_next, next) = scripted(first());
    next.token().await.unwrap();
    assert_eq!(sent(&provider), ["first"]);
    assert_eq!(sent(&provider_of_next), ["new"]);
}

/// The first login is remembered before it is sent.
#[tokio::test(start_paused = true)]
async fn a_store_without_a_file_remembers_that_its_first_credentials_were_refused() {
    let directory = Directory::new();
    let path = directory.0.join("made.json");
    for logins in [1, 0] {
        let store = FileStore::new(&path).or_start_with(Credentials::new("emuser", "wrong"));
        let (provider, session) = scripted(store);
        provider.on_login(ProviderError::refused("wrong user or password"));
        let error = session.token().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert_eq!(provider.logins(), logins);
    }
}

#[tokio::test]
async fn a_store_may_be_in_the_current_directory() {
    let directory = Directory::new();
    let path = directory.store();
    // All other paths here are absolute.
    let before = std::env::current_dir().unwrap();
    std::env::set_current_dir(&directory.0).unwrap();
    set_password(Path::new("c.json"), "new").await.unwrap();
    std::env::set_current_dir(before).unwrap();
    assert_eq!(json(&path)["password"], "new");
    assert_eq!(
        directory.names(),
        [".c.json.lock", "c.json"].map(str::to_owned).into()
    );
}

#[tokio::test]
async fn a_store_that_cannot_be_looked_for_is_not_taken_for_one_that_is_not_there() {
    let directory = Directory::new();
    let path = directory.file("file", "").join("c.json");
    let store = FileStore::new(path).or_start_with(Credentials::new("emuser", "old"));
    fails(&store, SourceErrorKind::Unavailable).await;
    let record = Record::new("emuser", "s3cret");
    let error = store
        .store(record, Version::new("absent"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), SourceErrorKind::Unavailable);
    told(&error);
}

/// A chain must not skip a store because its directory is missing.
#[tokio::test]
async fn a_store_whose_directory_is_missing_cannot_be_written() {
    let directory = Directory::new();
    let path = directory.0.join("no-such-directory").join("c.json");
    let store = FileStore::new(path).or_start_with(Credentials::new("emuser", "old"));
    let (record, version) = store.load().await.unwrap();
    let error = store.store(record, version).await.unwrap_err();
    assert_eq!(error.kind(), SourceErrorKind::Unavailable);
    assert!(told(&error).contains("no-such-directory"));
}

#[tokio::test]
async fn a_store_refuses_links_and_what_is_not_a_file() {
    let directory = Directory::new();
    let link = directory.0.join("link.json");
    symlink(directory.store(), &link).unwrap();
    let dangling = directory.0.join("dangling.json");
    symlink("no-such-file", &dangling).unwrap();
    let text = fs::read(directory.0.join("c.json")).unwrap();
    let (_, version) = FileStore::new(directory.0.join("c.json"))
        .load()
        .await
        .unwrap();
    for path in [link, dangling, directory.0.clone()] {
        let store = FileStore::new(&path).or_start_with(Credentials::new("emuser", "s3cret"));
        fails(&store, SourceErrorKind::Invalid).await;
        for version in [version.clone(), Version::new("absent")] {
            let record = Record::new("emuser", "s3cret");
            let refused = store.store(record, version).await.unwrap_err();
            assert_eq!(refused.kind(), SourceErrorKind::Invalid);
            told(&refused);
        }
    }
    assert_eq!(fs::read(directory.0.join("c.json")).unwrap(), text);
    assert!(!directory.0.join("no-such-file").exists());
}

#[tokio::test]
async fn a_store_that_is_replaced_by_a_link_all_the_time_is_never_read_or_written_through_it() {
    let directory = Directory::new();
    let path = directory.store();
    let other = r#"{"username":"emuser","password":"other"}"#;
    let elsewhere = directory.file("elsewhere", other);
    let store = FileStore::new(&path);
    let (link, file) = (directory.0.join("link"), directory.0.join("file"));
    let turning = std::thread::spawn({
        let (path, elsewhere) = (path.clone(), elsewhere.clone());
        move || {
            for _ in 0..1000 {
                symlink(&elsewhere, &link).unwrap();
                fs::rename(&link, &path).unwrap();
                fs::write(&file, r#"{"username":"emuser","password":"old"}"#).unwrap();
                fs::rename(&file, &path).unwrap();
            }
        }
    });
    let is_sound = |error: SourceError| {
        assert!(matches!(
            error.kind(),
            SourceErrorKind::Invalid | SourceErrorKind::Unavailable | SourceErrorKind::Conflict
        ));
    };
    while !turning.is_finished() {
        match store.load().await {
            Ok((record, version)) => {
                assert_eq!(record.password().expose_secret(), "old");
                let stored = store.store(record, version).await;
                let _ = stored.map_err(is_sound);
            }
            Err(error) => is_sound(error),
        }
    }
    turning.join().unwrap();
    assert_eq!(fs::read_to_string(elsewhere).unwrap(), other);
    assert_eq!(fetched(&store).await, pair("emuser", "old"));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_holds_more_than_it_knows_is_not_written() {
    let directory = Directory::new();
    for text in [
        r#"{"username":"emuser","password":"s3cret","realm":"x"}"#,
        r#"{"username":"emuser","password":"s3cret","others":[{"password":"x","sent_at":1,"open":"no","by":"me"}]}"#,
        r#"{"username":"emuser","password":"s3cret","change":{"id":"1","owner":"2","until":3,"by":"me"}}"#,
        r#"{"username":"emuser","password":"s3cret","tries":[{"password":"x","at":1,"verdict":"other"}]}"#,
        // Torn, though no crash of ours tears a file.
        r#"{"username":"emuser","password":"s3cret""#,
        r#"{"username":"emuser","password":"s3cret"}}"#,
        r#"{"username":"emuser"}"#,
        r#"{"username":"emuser","password":"s3cret","password":"s3cret2"}"#,
        r#"{"username":"","password":"s3cret"}"#,
        r#"{"username":"emuser","password":""}"#,
        r#"{"username":"s3cret","password":"x","others":[{"password":"","sent_at":1,"open":"no"}]}"#,
    ] {
        let path = directory.file("c.json", text);
        let store = FileStore::new(&path);
        let told = fails(&store, SourceErrorKind::Invalid).await;
        assert!(told.contains("line 1") || told.contains("empty"), "{told}");
        let record = Record::new("emuser", "new");
        let refused = store
            .store(record, Version::new("absent"))
            .await
            .unwrap_err();
        assert_eq!(refused.kind(), SourceErrorKind::Invalid);
        let (provider, session) = scripted(FileStore::new(&path));
        assert_eq!(change(&session, "new").await, Err(ErrorKind::Unavailable));
        assert!(provider.calls().is_empty());
        assert_eq!(fs::read_to_string(path).unwrap(), text);
    }
}

#[tokio::test]
async fn a_store_reads_a_file_that_starts_with_a_byte_order_mark() {
    let directory = Directory::new();
    let text = "\u{feff}{\"username\": \"emuser\", \"password\": \"old\"}\r\n";
    let path = directory.file("c.json", text);
    assert_eq!(fetched(&FileStore::new(&path)).await, pair("emuser", "old"));
    set_password(&path, "new").await.unwrap();
    assert_eq!(json(&path)["password"], "new");
    assert_eq!(json(&path)["username"], "emuser");
}

/// The limit on the size of a file stands for the size of the disk: a file can be
/// created, and nothing can be written to it. It holds for a whole process.
#[tokio::test]
async fn a_full_disk_leaves_the_old_file_and_no_temporary_one() {
    const NAME: &str = "a_full_disk_leaves_the_old_file_and_no_temporary_one";
    const PATH: &str = "STORE_ON_A_FULL_DISK";
    if let Some(path) = std::env::var_os(PATH) {
        let error = set_password(Path::new(&path), "s3cret").await.unwrap_err();
        assert_eq!(error.kind(), SourceErrorKind::Unavailable);
        let text = told(&error);
        assert!(text.contains(".c.json."), "{text}");
        return;
    }
    let directory = Directory::new();
    let path = directory.store();
    let before = fs::read(&path).unwrap();
    let output = std::process::Command::new("sh")
        .args(["-c", r#"trap '' XFSZ; ulimit -f 0; exec "$0" "$@""#])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", NAME])
        .env(PATH, &path)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}");
    assert!(told.contains("1 passed"), "{told}");
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_eq!(
        directory.names(),
        [".c.json.lock", "c.json"].map(str::to_owned).into()
    );
}

// Edits by hand, and files of earlier versions.

#[tokio::test(start_paused = true)]
async fn a_password_that_is_edited_by_hand_is_used_at_the_next_login_and_the_rest_survives() {
    let directory = Directory::new();
    let path = directory.store();
    let (provider, session) = scripted(FileStore::new(&path));
    change(&session, "changed").await.unwrap();
    session.renew().await.unwrap();
    let before = json(&path);
    assert_eq!(others(&before), [("old", "closed")]);

    let mut edited = before.clone();
    edited["password"] = "by hand".into();
    // As people and their editors write it.
    fs::write(&path, serde_json::to_string_pretty(&edited).unwrap()).unwrap();
    session.renew().await.unwrap();
    assert_eq!(sent(&provider), ["old", "changed", "by hand"]);
    let after = json(&path);
    assert_eq!(after["password"], "by hand");
    assert_eq!(after["written"], "by hand");
    assert_eq!(after["accepted"], true);
    assert_eq!(others(&after), [("changed", "closed"), ("old", "closed")]);
    assert_eq!(after["others"][1], before["others"][0]);

    // The former passwords are tried if the person was wrong.
    let mut edited = after.clone();
    edited["password"] = "a typo".into();
    fs::write(&path, edited.to_string()).unwrap();
    provider.on_login(ProviderError::refused("wrong"));
    session.renew().await.unwrap();
    assert_eq!(sent(&provider)[3..], ["a typo", "by hand"]);
    assert_eq!(json(&path)["password"], "by hand");
}

#[tokio::test(start_paused = true)]
async fn a_password_that_is_edited_by_hand_ends_a_refusal() {
    let directory = Directory::new();
    let path = directory.store();
    let (provider, session) = scripted(FileStore::new(&path));
    provider.on_login(ProviderError::refused("wrong"));
    session.token().await.unwrap_err();
    let (provider, session) = scripted(FileStore::new(&path));
    assert_eq!(
        session.token().await.unwrap_err().kind(),
        ErrorKind::Refused
    );
    assert_eq!(provider.logins(), 0);
    let mut edited = json(&path);
    edited["password"] = "right".into();
    fs::write(&path, edited.to_string()).unwrap();
    // The source is asked again at most every 10 s.
    advance(Duration::from_secs(11)).await;
    let _ = session.token().await;
    sleep(Duration::from_secs(1)).await;
    session.token().await.unwrap();
    assert_eq!(sent(&provider), ["right"]);
    assert_eq!(json(&path).get("tries"), None);
}

#[tokio::test]
async fn files_of_the_old_form_are_read_and_no_password_of_them_is_lost() {
    let directory = Directory::new();
    for trying in ["", r#","trying":"new""#, r#","trying":"only_old""#] {
        let text =
            format!(r#"{{"username":"emuser","password":"old","new_password":"n\"ew"{trying}}}"#);
        let path = directory.file("c.json", text);
        let store = FileStore::new(&path);
        let (record, version) = store.load().await.unwrap();
        assert_eq!(record.username(), "emuser");
        assert_eq!(record.password().expose_secret(), "old");
        store.store(record, version).await.unwrap();
        let now = json(&path);
        assert_eq!(now["password"], "old");
        assert_eq!(others(&now), [("n\"ew", "lost")]);
        assert_eq!(now.get("new_password"), None);
        assert_eq!(now.get("trying"), None);
    }
    // Of a change that was resolved.
    for rest in [
        r#","new_password":null"#,
        r#","trying":"old""#,
        r#","new_password":"old""#,
    ] {
        let text = format!(r#"{{"username":"emuser","password":"old"{rest}}}"#);
        let path = directory.file("c.json", text);
        set_password(&path, "new").await.unwrap();
        assert_eq!(json(&path)["password"], "new");
        assert_eq!(passwords(&json(&path)), ["new"].into());
    }
}

#[test]
fn a_record_is_the_same_after_it_was_text() {
    let text = serde_json::json!({
        "username": "em\"user",
        "password": "\u{e9}\\\n",
        "written": "w",
        "accepted": true,
        "others": [
            { "password": "a", "sent_at": 1_767_225_600_000_u64, "open": "lost" },
            { "password": "b", "sent_at": 2, "open": "no" },
            { "password": "c", "sent_at": 3, "open": "closed" },
        ],
        "change": { "id": "00000000000000a1", "owner": "ffffffffffffffff", "until": 4 },
        "login": { "id": "00000000000000a2", "password": "d", "owner": "0000000000000001", "until": 5 },
        "tries": [
            { "password": "e", "at": 6, "verdict": "refused" },
            { "password": "f", "at": 7, "verdict": "no_verdict" },
        ],
    });
    let record = Record::from_json(text.to_string()).unwrap();
    let again = record.to_json();
    let again: serde_json::Value = serde_json::from_str(again.expose_secret()).unwrap();
    assert_eq!(again, text);
    assert!(Record::from_json(again.to_string()).unwrap() == record);
    let small = Record::new("emuser", "old");
    assert_eq!(
        small.to_json().expose_secret(),
        r#"{"username":"emuser","password":"old"}"#
    );
    assert!(Record::from(Credentials::new("emuser", "old")) == small);
}

#[test]
fn a_version_is_the_text_or_the_number_that_it_was_made_of() {
    assert_eq!(Version::from(7), Version::new("7"));
    assert_eq!(Version::from(u64::MAX).as_u64(), Some(u64::MAX));
    assert_eq!(Version::new("\"etag\"").as_str(), "\"etag\"");
    assert_eq!(Version::new("\"etag\"").as_u64(), None);
    assert_ne!(Version::new("07"), Version::from(7));
}

// Password changes of other processes on one file.

/// The file of a process that changes the password, and may be alive.
fn during_a_change(directory: &Directory) -> PathBuf {
    let until = since_the_epoch() + Duration::from_secs(30);
    let text = serde_json::json!({
        "username": "emuser",
        "password": "old",
        "written": "old",
        "others": [{ "password": "new", "sent_at": millis(since_the_epoch()), "open": "lost" }],
        "change": { "id": "00000000000000a1", "owner": "00000000000000b1", "until": millis(until) },
    });
    directory.file("c.json", text.to_string())
}

/// The time on tokio's clock, which a test may have moved ahead.
fn since_the_epoch() -> Duration {
    let now = tokio::time::Instant::now().into_std();
    let ahead = now.saturating_duration_since(Instant::now());
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + ahead
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_change_of_a_process_that_is_alive_keeps_others_from_changing_the_password() {
    let directory = Directory::new();
    let path = during_a_change(&directory);
    let lock = fs::File::create(directory.0.join(".c.json.change")).unwrap();
    lock.lock().unwrap();
    let (provider, session) = scripted(FileStore::new(&path));
    // A login goes on meanwhile.
    session.login().await.unwrap();
    let error = session.change_password(PasswordChange::to("mine")).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let delay = error.retry_after().unwrap();
    // The clocks differ by a rounded millisecond.
    assert!(delay <= Duration::from_millis(30_010), "{delay:?}");
    assert_eq!(provider.password_changes(), 0);
    assert!(json(&path)["change"].is_object());
    // It is over after that time, whoever holds the lock.
    advance(Duration::from_secs(31)).await;
    drop(lock);
    change(&session, "mine").await.unwrap();
    assert_eq!(json(&path)["password"], "mine");
}

/// A stopped process kept the lock of its earlier change, and has died since.
#[tokio::test(start_paused = true)]
async fn a_lock_that_names_another_change_does_not_show_that_a_process_died() {
    let directory = Directory::new();
    let path = during_a_change(&directory);
    let lock = directory.file(".c.json.change", "00000000000000a0");
    let (provider, session) = scripted(FileStore::new(&path));
    let error = session.change_password(PasswordChange::to("mine")).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(json(&path)["change"].is_object());
    assert_eq!(provider.password_changes(), 0);
    // Its own lock does.
    fs::write(&lock, "00000000000000a1").unwrap();
    change(&session, "mine").await.unwrap();
    assert_eq!(changed_to(&provider), ["new", "mine"]);
    // The lock names the last change.
    let name = fs::read_to_string(&lock).unwrap();
    assert_eq!(name.len(), 16);
    assert_ne!(name, "00000000000000a1");
}

#[tokio::test(start_paused = true)]
async fn a_change_of_a_process_that_died_holds_up_nobody_and_keeps_its_password() {
    let directory = Directory::new();
    let path = during_a_change(&directory);
    // The system has freed the lock.
    directory.file(".c.json.change", "");
    let (provider, session) = scripted(FileStore::new(&path));
    session.login().await.unwrap();
    assert_eq!(json(&path).get("change"), None);
    assert_eq!(others(&json(&path)), [("new", "lost")]);
    // The server may execute the open change at any time, so it is asked for first.
    change(&session, "mine").await.unwrap();
    assert_eq!(changed_to(&provider), ["new", "mine"]);
    assert_eq!(json(&path)["password"], "mine");
}

/// A Control-M, and a session whose credentials are in a file.
struct World {
    directory: Directory,
    emulator: Emulator,
}

impl World {
    fn new() -> Self {
        // As many as the documentation of a store leaves for people.
        let emulator = Emulator::builder()
            .user("emuser", "old")
            .lock_after(3)
            .min_password_length(3)
            .build();
        let directory = Directory::new();
        directory.store();
        Self {
            directory,
            emulator,
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.0.join("c.json")
    }

    fn session(&self) -> Session {
        self.session_of(FileStore::new(self.path()))
    }

    fn session_of(&self, source: impl CredentialSource) -> Session {
        let base = "https://ctm.test/automation-api".parse().unwrap();
        let provider: ControlM<EmulatorService, Full<Bytes>> =
            ControlM::new(self.emulator.service(), base, Source::new(source)).unwrap();
        Session::new(provider)
    }

    /// Makes each write fail, as a full disk does.
    fn fill(&self) {
        let lock = self.directory.0.join(".c.json.lock");
        let _ = fs::remove_file(&lock);
        fs::create_dir(lock).unwrap();
    }

    fn free(&self) {
        fs::remove_dir(self.directory.0.join(".c.json.lock")).unwrap();
    }

    fn changes(&self) -> u64 {
        let account = self.emulator.account();
        account.requests_to(Operation::UpdatePassword)
    }

    fn logins(&self) -> u64 {
        self.emulator.account().requests_to(Operation::Login)
    }

    fn failed_logins(&self) -> u64 {
        self.emulator.account().failed_logins
    }

    /// The server changes the password to `new`, and its answer never comes.
    async fn changed_and_lost_the_answer(&self, session: &Session) {
        let lost = Fault::close().after_execution();
        self.emulator.fault(Operation::UpdatePassword, lost);
        assert_eq!(change(session, "new").await, Err(ErrorKind::Uncertain));
        assert_eq!(json(&self.path())["password"], "old");
        assert_eq!(others(&json(&self.path())), [("new", "lost")]);
    }

    /// Nothing was changed, so that the new password is wrong.
    async fn lost_the_change(&self, session: &Session) {
        let lost = Fault::close();
        self.emulator.fault(Operation::UpdatePassword, lost);
        assert_eq!(change(session, "new").await, Err(ErrorKind::Uncertain));
    }

    /// The next start logs in by itself and finds out that this password is the right
    /// one. A day later nothing else is kept.
    async fn comes_back_with(&self, password: &str) {
        let session = self.session();
        session.token().await.unwrap();
        let text = json(&self.path());
        let known = (&text["password"], &text["written"], &text["accepted"]);
        assert_eq!(known, (&password.into(), &password.into(), &true.into()));
        for resolved in ["change", "login", "tries"] {
            assert_eq!(text.get(resolved), None, "{text}");
        }
        advance(RETENTION + Duration::from_secs(1)).await;
        session.renew().await.unwrap();
        assert_eq!(
            json(&self.path()),
            serde_json::json!({
                "username": "emuser",
                "password": password,
                "written": password,
                "accepted": true,
            })
        );
    }
}

async fn change(session: &Session, to: &str) -> Result<(), ErrorKind> {
    let changed = session.change_password(PasswordChange::to(to)).await;
    changed.map(drop).map_err(|error| error.kind())
}

/// A scripted provider that sends the password: without it, a login says nothing
/// about the password.
struct Sending(ScriptedProvider);

impl CredentialProvider for Sending {
    fn profile(&self) -> Profile {
        self.0.profile()
    }

    fn source(&self) -> Option<&Source> {
        self.0.source()
    }

    async fn login(&self, login: LoginContext) -> Result<Token, ProviderError> {
        login.credentials()?;
        self.0.login(login).await
    }

    async fn change_password(&self, change: PasswordContext) -> Result<(), ProviderError> {
        self.0.change_password(change).await
    }
}

/// A session whose provider takes each password unless its script says otherwise.
fn scripted(source: impl CredentialSource) -> (ScriptedProvider, Session) {
    let provider = ScriptedProvider::at("https://api.test".parse().unwrap());
    let provider = provider.with_source(Source::new(source));
    (provider.clone(), Session::new(Sending(provider)))
}

/// The passwords of all logins of a scripted provider.
fn sent(provider: &ScriptedProvider) -> Vec<String> {
    let password = |call| match call {
        tower_reauth::testing::Call::Login(login) => {
            let credentials = login.credentials().unwrap();
            Some(credentials.password().expose_secret().to_owned())
        }
        _ => None,
    };
    provider.calls().into_iter().filter_map(password).collect()
}

/// The passwords that the server was asked to change to.
fn changed_to(provider: &ScriptedProvider) -> Vec<String> {
    let password = |call| match call {
        tower_reauth::testing::Call::ChangePassword(change) => {
            Some(change.new_password().expose_secret().to_owned())
        }
        _ => None,
    };
    provider.calls().into_iter().filter_map(password).collect()
}

#[tokio::test(start_paused = true)]
async fn a_changed_password_is_in_the_file() {
    let world = World::new();
    change(&world.session(), "new").await.unwrap();
    assert_eq!(json(&world.path())["password"], "new");
    world.comes_back_with("new").await;
    assert_eq!(world.failed_logins(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_change_that_the_server_denies_leaves_the_old_password_in_use() {
    for (denied, to) in [
        (
            PasswordChange::to("new").current("not the current one"),
            "new",
        ),
        (PasswordChange::to("no"), "no"),
    ] {
        let world = World::new();
        let session = world.session();
        let error = session.change_password(denied).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        // A proxy may have denied what the server does later.
        let after = json(&world.path());
        assert_eq!(after["password"], "old");
        assert_eq!(others(&after), [(to, "no")]);
        assert_eq!(after.get("change"), None);
        // Nothing latches: the session goes on.
        session.renew().await.unwrap();
        assert_eq!(others(&json(&world.path())), [(to, "closed")]);
        change(&session, "new").await.unwrap();
        world.comes_back_with("new").await;
        assert_eq!(world.failed_logins(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_to_the_current_password_asks_no_server_and_succeeds() {
    let world = World::new();
    change(&world.session(), "old").await.unwrap();
    assert_eq!(world.changes(), 0);
    world.comes_back_with("old").await;
    assert_eq!(world.failed_logins(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_change_whose_answer_was_lost_may_be_called_again() {
    for executed in [true, false] {
        let world = World::new();
        let session = world.session();
        match executed {
            true => world.changed_and_lost_the_answer(&session).await,
            false => world.lost_the_change(&session).await,
        }
        change(&session, "new").await.unwrap();
        assert_eq!(world.changes(), if executed { 1 } else { 2 });
        assert_eq!(world.emulator.account().password_changes, 1);
        drop(session);
        world.comes_back_with("new").await;
        assert_eq!(world.failed_logins(), u64::from(executed));
    }
}

#[tokio::test(start_paused = true)]
async fn a_logged_out_session_changes_nothing() {
    let world = World::new();
    let session = world.session();
    session.login().await.unwrap();
    session.logout().await.unwrap();
    let before = fs::read(world.path()).unwrap();
    assert_eq!(change(&session, "new").await, Err(ErrorKind::LoggedOut));
    assert_eq!(world.changes(), 0);
    assert_eq!(fs::read(world.path()).unwrap(), before);
    world.comes_back_with("old").await;
}

#[tokio::test(start_paused = true)]
async fn a_change_with_a_dead_token_is_made_with_a_new_one() {
    let world = World::new();
    let session = world.session();
    session.login().await.unwrap();
    world.emulator.expire_all();
    change(&session, "new").await.unwrap();
    assert_eq!(world.changes(), 2);
    assert_eq!(session.stats().rejections, 1);
    world.comes_back_with("new").await;
    assert_eq!(world.failed_logins(), 0);
}

#[tokio::test(start_paused = true)]
async fn two_changes_at_once_are_made_one_after_the_other() {
    let world = World::new();
    let session = world.session();
    let (one, two) = tokio::join!(change(&session, "one"), change(&session, "two"));
    one.unwrap();
    two.unwrap();
    let password = json(&world.path())["password"].as_str().unwrap().to_owned();
    assert_eq!(world.emulator.account().password_changes, 2);
    world.comes_back_with(&password).await;
    assert_eq!(world.failed_logins(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_fourth_change_within_the_retention_is_refused_and_not_sent() {
    let world = World::new();
    let session = world.session();
    for password in ["one", "two", "three"] {
        change(&session, password).await.unwrap();
    }
    let before = json(&world.path());
    assert_eq!(others(&before).len(), 3);
    assert_eq!(change(&session, "four").await, Err(ErrorKind::Unavailable));
    assert_eq!(world.changes(), 3);
    assert_eq!(passwords(&json(&world.path())), passwords(&before));
    advance(RETENTION + Duration::from_secs(1)).await;
    session.renew().await.unwrap();
    change(&session, "four").await.unwrap();
    world.comes_back_with("four").await;
    assert_eq!(world.failed_logins(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_cannot_be_written_keeps_the_server_from_being_asked() {
    let world = World::new();
    let session = world.session_of(File::json(world.path()));
    assert_eq!(change(&session, "new").await, Err(ErrorKind::Unsupported));
    assert_eq!(world.changes(), 0);

    let unstored = PasswordChange::to("new").allow_unstored();
    session.change_password(unstored).await.unwrap();
    session.renew().await.unwrap();
    assert_eq!(json(&world.path())["password"], "old");
    assert_eq!(world.directory.names(), ["c.json".to_owned()].into());
    // Somebody puts it there.
    world
        .directory
        .file("c.json", r#"{"username":"emuser","password":"new"}"#);
    session.renew().await.unwrap();
    world.comes_back_with("new").await;
    assert_eq!(world.failed_logins(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_cannot_be_written_keeps_the_server_from_being_asked() {
    let world = World::new();
    let session = world.session();
    session.login().await.unwrap();
    world.fill();
    assert_eq!(change(&session, "new").await, Err(ErrorKind::Unavailable));
    assert_eq!(world.changes(), 0);
    // A password that was accepted before goes on, also at the next start.
    session.renew().await.unwrap();
    session.renew().await.unwrap();
    world.session().token().await.unwrap();
    assert_eq!(others(&json(&world.path())), []);
    world.free();
    change(&session, "new").await.unwrap();
    world.comes_back_with("new").await;
    assert_eq!(world.failed_logins(), 0);
}

/// Its failure could not be remembered.
#[tokio::test(start_paused = true)]
async fn a_password_that_was_not_accepted_before_is_not_sent_while_the_store_cannot_be_written() {
    let world = World::new();
    world.fill();
    let session = world.session();
    for _ in 0..3 {
        let error = session.login().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
    }
    assert_eq!(world.logins(), 0);
    world.free();
    session.login().await.unwrap();
    world.comes_back_with("old").await;
}

#[tokio::test(start_paused = true)]
async fn a_password_that_was_accepted_before_is_sent_once_while_the_store_cannot_be_written() {
    let world = World::new();
    let session = world.session();
    session.login().await.unwrap();
    world.fill();
    // Somebody has changed it at the server.
    world.emulator.set_password("emuser", "other");
    for _ in 0..3 {
        session.login().await.unwrap_err();
    }
    assert_eq!(world.failed_logins(), 1);
    world.free();
    let mut edited = json(&world.path());
    edited["password"] = "other".into();
    fs::write(world.path(), edited.to_string()).unwrap();
    session.login().await.unwrap();
    world.comes_back_with("other").await;
    assert_eq!(world.failed_logins(), 1);
}

/// A store that fails at some writes, and may have done them nevertheless.
struct Failing {
    store: FileStore,
    fails: Arc<Mutex<Fails>>,
}

type Fails = Box<dyn FnMut(&serde_json::Value) -> Option<Done> + Send>;

/// Whether a write that reports an error was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    Yes,
    No,
}

impl Failing {
    fn new(
        world: &World,
        fails: impl FnMut(&serde_json::Value) -> Option<Done> + Send + 'static,
    ) -> Self {
        Self {
            store: FileStore::new(world.path()),
            fails: Arc::new(Mutex::new(Box::new(fails))),
        }
    }
}

impl CredentialStore for Failing {
    async fn load(&self) -> Result<(Record, Version), SourceError> {
        self.store.load().await
    }

    async fn store(&self, record: Record, expected: Version) -> Result<(), SourceError> {
        let text = serde_json::from_str(record.to_json().expose_secret()).unwrap();
        let fails = (self.fails.lock().unwrap())(&text);
        if fails != Some(Done::No) {
            self.store.store(record, expected).await?;
        }
        match fails {
            Some(_) => Err(SourceError::unavailable("no answer")),
            None => Ok(()),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_cannot_be_stored_is_made_up_for_later() {
    for done in [Done::No, Done::Yes] {
        for (denied, right) in [(false, "new"), (true, "old")] {
            let world = World::new();
            let works_again = Arc::new(AtomicBool::new(false));
            let mut is_broken = false;
            let session = world.session_of(Failing::new(&world, {
                let works_again = works_again.clone();
                move |record| {
                    let is_answer = !others(record).is_empty() && record.get("change").is_none();
                    is_broken |= is_answer;
                    (is_broken && !works_again.load(Ordering::SeqCst)).then_some(done)
                }
            }));
            if denied {
                let status = StatusCode::FORBIDDEN;
                let fault = Fault::status(status);
                world.emulator.fault(Operation::UpdatePassword, fault);
            }
            assert_eq!(change(&session, "new").await.is_err(), denied);
            let kept = json(&world.path());
            assert_eq!(passwords(&kept), ["old", "new"].into(), "both are there");
            // A password that no login has proven is not sent without a record.
            let logins = world.logins();
            let error = session.renew().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            assert_eq!(world.logins(), logins);
            // It stores what it knows once it can, and sends no wrong password.
            works_again.store(true, Ordering::SeqCst);
            advance(BACK_OFF).await;
            session.renew().await.unwrap();
            let kept = json(&world.path());
            assert_eq!(kept["password"], right, "{kept}");
            assert_eq!(world.failed_logins(), 0);
            world.comes_back_with(right).await;
            assert_eq!(world.failed_logins(), 0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_died_with_its_process_is_found_out_by_the_next_start() {
    for (denied, right) in [(false, "new"), (true, "old")] {
        let world = World::new();
        let session = world.session_of(Failing::new(&world, |record| {
            let is_answer = !others(record).is_empty() && record.get("change").is_none();
            is_answer.then_some(Done::No)
        }));
        if denied {
            let status = StatusCode::FORBIDDEN;
            let fault = Fault::status(status);
            world.emulator.fault(Operation::UpdatePassword, fault);
        }
        assert_eq!(change(&session, "new").await.is_err(), denied);
        assert!(json(&world.path())["change"].is_object());
        drop(session);
        world.comes_back_with(right).await;
        assert_eq!(world.failed_logins(), u64::from(!denied));
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_store_may_have_kept_of_a_change_that_was_not_made_is_withdrawn() {
    for done in [Done::No, Done::Yes] {
        let world = World::new();
        let mut has_failed = false;
        let session = world.session_of(Failing::new(&world, move |record| {
            let fails = record.get("change").is_some() && !has_failed;
            has_failed |= fails;
            fails.then_some(done)
        }));
        assert_eq!(change(&session, "new").await, Err(ErrorKind::Unavailable));
        assert_eq!(world.changes(), 0);
        let kept = others(&json(&world.path())).len();
        assert_eq!(kept, usize::from(done == Done::Yes));
        // With the next record: nothing that could work is lost by that.
        session.renew().await.unwrap();
        assert_eq!(others(&json(&world.path())), [], "{done:?}");
        change(&session, "other").await.unwrap();
        world.comes_back_with("other").await;
        assert_eq!(world.failed_logins(), 0);
    }
}

/// A claim that may be stored counts as a login that was sent, until it is known not to
/// have been.
#[tokio::test(start_paused = true)]
async fn a_login_whose_claim_may_be_stored_and_was_not_sent_holds_up_nobody() {
    for done in [Done::No, Done::Yes] {
        let world = World::new();
        let mut has_failed = false;
        let session = world.session_of(Failing::new(&world, move |_| {
            let fails = !has_failed;
            has_failed = true;
            fails.then_some(done)
        }));
        let error = session.login().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert_eq!(world.logins(), 0);
        let before = tokio::time::Instant::now();
        session.login().await.unwrap();
        assert!(
            before.elapsed() < Duration::from_secs(1),
            "{:?}",
            before.elapsed()
        );
        world.comes_back_with("old").await;
        assert_eq!(world.logins(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_was_lost_is_found_out_by_the_next_start() {
    for executed in [true, false] {
        let world = World::new();
        let session = world.session();
        match executed {
            true => world.changed_and_lost_the_answer(&session).await,
            false => world.lost_the_change(&session).await,
        }
        drop(session);
        world
            .comes_back_with(if executed { "new" } else { "old" })
            .await;
        // The old one is tried first: only its refusal shows which one works.
        assert_eq!(world.failed_logins(), u64::from(executed));
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_restarts_meanwhile_changes_nothing_about_that() {
    let world = World::new();
    let session = world.session();
    world.changed_and_lost_the_answer(&session).await;
    world.emulator.restart();
    let busy = Fault::status(StatusCode::SERVICE_UNAVAILABLE);
    world.emulator.fault(Operation::Login, busy);
    let error = session.login().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    drop(session);
    // The last attempt may have been counted, so the other is tried first.
    world.comes_back_with("new").await;
    assert_eq!(world.failed_logins(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_login_system_that_is_down_says_nothing_of_the_passwords() {
    let world = World::new();
    let session = world.session();
    world.changed_and_lost_the_answer(&session).await;
    let busy = Fault::status(StatusCode::SERVICE_UNAVAILABLE);
    world.emulator.fault(Operation::Login, busy);
    session.login().await.unwrap_err();
    // An operator's login begins from the front.
    session.login().await.unwrap();
    assert_eq!(world.failed_logins(), 1);
    drop(session);
    world.comes_back_with("new").await;
    assert_eq!(world.failed_logins(), 1);
}

/// The server may have counted it.
#[tokio::test(start_paused = true)]
async fn a_password_that_was_sent_and_not_answered_is_not_sent_twice_in_a_row() {
    let world = World::new();
    let session = world.session();
    world.changed_and_lost_the_answer(&session).await;
    let lost = Fault::close().after_execution();
    world.emulator.fault(Operation::Login, lost);
    let error = session.renew().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(world.failed_logins(), 1);
    advance(BACK_OFF).await;
    session.renew().await.unwrap();
    assert_eq!(world.failed_logins(), 1);
    drop(session);
    world.comes_back_with("new").await;
    assert_eq!(world.failed_logins(), 1);
}

#[tokio::test(start_paused = true)]
async fn after_two_logins_without_a_verdict_the_next_start_waits_a_minute() {
    let world = World::new();
    let session = world.session();
    world.changed_and_lost_the_answer(&session).await;
    let lost = Fault::close().after_execution();
    world.emulator.fault(Operation::Login, lost);
    session.renew().await.unwrap_err();
    advance(BACK_OFF).await;
    // The new password is sent now, and not looked at.
    let busy = Fault::status(StatusCode::SERVICE_UNAVAILABLE);
    world.emulator.fault(Operation::Login, busy);
    session.renew().await.unwrap_err();
    drop(session);
    let logins = world.logins();
    let error = world.session().token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    // Somebody may correct the file before that.
    assert_eq!(error.retry_after(), Some(Duration::from_secs(10)));
    assert!(format!("{error:?}").contains("60s"), "{error:?}");
    assert_eq!(world.logins(), logins, "nothing was sent");
    assert_eq!(passwords(&json(&world.path())), ["new", "old"].into());
    advance(Duration::from_secs(50)).await;
    world.session().token().await.unwrap_err();
    assert_eq!(world.logins(), logins, "nothing was sent");
    advance(Duration::from_secs(10)).await;
    // The one that was sent longest ago. The delay doubles.
    let error = world.session().token().await.unwrap_err();
    assert_eq!(world.failed_logins(), 2);
    assert!(format!("{error:?}").contains("120s"), "{error:?}");
    advance(Duration::from_secs(120)).await;
    world.comes_back_with("new").await;
    assert_eq!(world.failed_logins(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_password_that_a_gateway_gave_up_on_is_not_sent_twice_in_a_row() {
    for status in [
        StatusCode::GATEWAY_TIMEOUT,
        StatusCode::BAD_GATEWAY,
        StatusCode::INTERNAL_SERVER_ERROR,
        StatusCode::REQUEST_TIMEOUT,
    ] {
        let world = World::new();
        let session = world.session();
        world.changed_and_lost_the_answer(&session).await;
        let lost = Fault::status(status).after_execution();
        world.emulator.fault(Operation::Login, lost);
        session.renew().await.unwrap_err();
        assert_eq!(world.failed_logins(), 1, "{status}");
        advance(BACK_OFF).await;
        session.renew().await.unwrap();
        assert_eq!(world.failed_logins(), 1, "{status}");
        drop(session);
        world.comes_back_with("new").await;
    }
}

/// Some login pages say with a success that the password was wrong.
#[tokio::test(start_paused = true)]
async fn a_password_whose_answer_cannot_be_read_is_not_sent_twice_in_a_row() {
    for unreadable in [
        Fault::html(StatusCode::OK),
        Fault::garbage(),
        Fault::status(StatusCode::BAD_REQUEST),
    ] {
        let world = World::new();
        let session = world.session();
        world.changed_and_lost_the_answer(&session).await;
        let unreadable = unreadable.after_execution();
        world.emulator.fault(Operation::Login, unreadable);
        let error = session.renew().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol);
        assert_eq!(world.failed_logins(), 1);
        advance(error.retry_after().unwrap()).await;
        let again = session.renew().await;
        assert!(again.is_ok(), "{again:?}");
        assert_eq!(world.failed_logins(), 1);
        drop(session);
        world.comes_back_with("new").await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_run_left_open_is_resolved_before_another_change() {
    let world = World::new();
    world.changed_and_lost_the_answer(&world.session()).await;
    // A process that begins with a token logs nobody in by itself.
    let token = {
        let other = world.session_of(Memory::new(Credentials::new("emuser", "new")));
        other.token().await.unwrap()
    };
    let base = "https://ctm.test/automation-api".parse().unwrap();
    let source = Source::new(FileStore::new(world.path()));
    let provider: ControlM<EmulatorService, Full<Bytes>> =
        ControlM::new(world.emulator.service(), base, source).unwrap();
    let session = Session::builder(provider).initial_token(token).build();
    change(&session, "third").await.unwrap();
    drop(session);
    world.comes_back_with("third").await;
    assert_eq!(world.failed_logins(), 1, "the old one, once");
}

#[tokio::test(start_paused = true)]
async fn a_locked_account_makes_neither_password_forgotten() {
    let world = World::new();
    world.changed_and_lost_the_answer(&world.session()).await;
    world.emulator.lock("emuser");
    let error = world.session().login().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert_eq!(passwords(&json(&world.path())), ["new", "old"].into());
    // Both are refused as far as is known: no start sends them by itself.
    let logins = world.logins();
    let session = world.session();
    let error = session.token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert_eq!(world.logins(), logins);
    world.emulator.unlock("emuser");
    session.login().await.unwrap();
    drop(session);
    world.comes_back_with("new").await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_vanishes_at_any_point_leaves_a_password_that_works() {
    for polls in 0.. {
        let world = World::new();
        let session = world.session();
        session.login().await.unwrap();
        let mut left = polls;
        let mut change = Box::pin(change(&session, "new"));
        let finished = poll_fn(|context| {
            if left == 0 {
                return Poll::Ready(false);
            }
            left -= 1;
            change.as_mut().poll(context).map(|changed| {
                changed.unwrap();
                true
            })
        })
        .await;
        drop(change);
        // Whatever is under way ends without its caller.
        session.renew().await.unwrap();
        let kept = json(&world.path())["password"].as_str().unwrap().to_owned();
        world.comes_back_with(&kept).await;
        assert_eq!(world.failed_logins(), 0);
        if finished {
            assert_eq!(kept, "new");
            assert!(polls > 1);
            return;
        }
    }
}

// In which order passwords are tried.

/// A store in memory, with the record in it.
struct Kept(Mutex<(Record, u64)>);

impl Kept {
    fn new(json: &serde_json::Value) -> Arc<Self> {
        let record = Record::from_json(json.to_string()).unwrap();
        Arc::new(Self(Mutex::new((record, 0))))
    }

    fn json(&self) -> serde_json::Value {
        let text = self.0.lock().unwrap().0.to_json();
        serde_json::from_str(text.expose_secret()).unwrap()
    }
}

struct InMemory(Arc<Kept>);

impl CredentialStore for InMemory {
    async fn load(&self) -> Result<(Record, Version), SourceError> {
        let kept = self.0.0.lock().unwrap();
        Ok((kept.0.clone(), Version::from(kept.1)))
    }

    async fn store(&self, record: Record, expected: Version) -> Result<(), SourceError> {
        let mut kept = self.0.0.lock().unwrap();
        if Version::from(kept.1) != expected {
            return Err(SourceError::conflict());
        }
        *kept = (record, kept.1 + 1);
        Ok(())
    }
}

/// A session of a server that takes this password, and the passwords that it is sent.
fn taking(right: &'static str, kept: &Arc<Kept>) -> (Session, Arc<Mutex<Vec<String>>>) {
    let sent = Arc::new(Mutex::new(Vec::new()));
    let log = sent.clone();
    let profile = Profile::at("https://api.test".parse().unwrap());
    let provider = provider_fn(profile, move |login: LoginContext| {
        let log = log.clone();
        async move {
            let password = login.credentials()?.password().expose_secret().to_owned();
            log.lock().unwrap().push(password.clone());
            match password == right {
                true => Ok(Token::bearer("token")?),
                false => Err(ProviderError::refused("wrong")),
            }
        }
    });
    let source = Source::new(InMemory(kept.clone()));
    (Session::new(provider.with_source(source)), sent)
}

/// A record of the old form.
fn old_form(trying: &str) -> serde_json::Value {
    let mut record = serde_json::json!({
        "username": "emuser",
        "password": "old",
        "new_password": "new",
    });
    if !trying.is_empty() {
        record["trying"] = trying.into();
    }
    record
}

/// A record with these other passwords.
fn with_others(others: &[(&str, &str)]) -> serde_json::Value {
    let other = |(password, open): &(&str, &str)| {
        let sent_at = millis(since_the_epoch());
        serde_json::json!({ "password": password, "sent_at": sent_at, "open": open })
    };
    serde_json::json!({
        "username": "emuser",
        "password": "old",
        "written": "old",
        "others": others.iter().map(other).collect::<Vec<_>>(),
    })
}

#[tokio::test(start_paused = true)]
async fn after_a_crash_the_passwords_are_tried_in_the_order_that_sends_no_wrong_one_twice() {
    let open = |open| with_others(&[("new", open)]);
    let three = || with_others(&[("c", "closed"), ("b", "no"), ("a", "lost")]);
    for (left, right, at_once, later) in [
        (open("lost"), "new", &["old", "new"][..], &[][..]),
        (open("lost"), "old", &["old"], &[]),
        (open("lost"), "neither", &["old", "new"], &[]),
        (open("no"), "new", &["old", "new"], &[]),
        (open("no"), "old", &["old"], &[]),
        (open("closed"), "new", &["old", "new"], &[]),
        (open("closed"), "old", &["old"], &[]),
        // Open ones before closed ones, newest first, and no more than two.
        (three(), "b", &["old", "b"], &[]),
        (three(), "a", &["old", "b"], &[]),
        (three(), "c", &["old", "b"], &[]),
        // Of the old form, in which the new password was tried first. A login that was
        // sent may have been counted, so after two the next one is a minute later.
        (old_form(""), "new", &["old", "new"], &[]),
        (old_form(""), "old", &["old"], &[]),
        (old_form(""), "neither", &["old", "new"], &[]),
        (old_form("old"), "new", &["new"], &[]),
        (old_form("old"), "old", &["new"], &["old"]),
        (old_form("new"), "old", &["old"], &[]),
        (old_form("new"), "new", &["old"], &["new"]),
        (old_form("only_new"), "new", &[], &["new"]),
        (old_form("only_new"), "old", &[], &["new"]),
        (old_form("only_old"), "new", &[], &["new"]),
        (old_form("only_old"), "neither", &[], &["new"]),
    ] {
        let kept = Kept::new(&left);
        let (session, sent) = taking(right, &kept);
        let mut token = session.token().await;
        assert_eq!(
            std::mem::take(&mut *sent.lock().unwrap()),
            *at_once,
            "{left}, {right}"
        );
        if !later.is_empty() {
            let error = token.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{left}, {right}");
            assert_eq!(error.retry_after(), Some(Duration::from_secs(10)));
            advance(Duration::from_secs(60)).await;
            token = session.token().await;
            assert_eq!(
                std::mem::take(&mut *sent.lock().unwrap()),
                *later,
                "{left}, {right}"
            );
        }
        let is_found = at_once.iter().chain(later).next_back() == Some(&right);
        assert_eq!(token.is_ok(), is_found, "{left}, {right}");
        let after = kept.json();
        assert!(passwords(&after).is_superset(&passwords(&left)), "{after}");
        assert_eq!(after.get("login"), None);
        let kind = token.map_err(|error| error.kind());
        // It is remembered: the next start sends nothing twice.
        let (session, sent) = taking(right, &kept);
        let again = session.token().await;
        match kind {
            Ok(_) => {
                assert_eq!(after["password"], right);
                assert_eq!(after.get("tries"), None);
                assert_eq!(*sent.lock().unwrap(), [right]);
            }
            Err(kind) => {
                assert_eq!(after["password"], "old");
                assert_eq!(again.unwrap_err().kind(), kind, "{left}, {right}");
                assert_eq!(*sent.lock().unwrap(), [""; 0], "{left}, {right}");
                // No password is left only if two are refused for certain.
                let tries = after["tries"].as_array().unwrap();
                let refused = tries.iter().filter(|tried| tried["verdict"] == "refused");
                let stopped = match refused.count() {
                    2 => ErrorKind::Refused,
                    _ => ErrorKind::Unavailable,
                };
                assert_eq!(kind, stopped, "{left}, {right}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_login_that_somebody_asks_for_tries_the_refused_passwords_too() {
    for (left, right, expected) in [
        (old_form("only_old"), "new", &[&["old", "new"][..]][..]),
        (old_form("only_old"), "old", &[&["old"]]),
        (old_form("new"), "new", &[&["old", "new"]]),
        (old_form("only_new"), "new", &[&["new"]]),
        // The one that was not refused first; then each from the front.
        (old_form("only_new"), "old", &[&["new"], &["old"]]),
        (old_form(""), "neither", &[&["old", "new"], &["old", "new"]]),
        (
            with_others(&[("c", "closed"), ("b", "no"), ("a", "lost")]),
            "c",
            &[&["old", "b"], &["a"], &["c"]],
        ),
    ] {
        let kept = Kept::new(&left);
        let (session, sent) = taking(right, &kept);
        for passwords in expected {
            let login = session.login().await;
            assert_eq!(
                std::mem::take(&mut *sent.lock().unwrap()),
                *passwords,
                "{left}"
            );
            let is_found = passwords.last() == Some(&right);
            assert_eq!(login.is_ok(), is_found, "{left}, {right}");
            assert!(passwords.len() <= 2);
        }
    }
}

/// The server may work on it for as long as the login timeout.
#[tokio::test(start_paused = true)]
async fn a_login_of_a_process_that_died_is_waited_for_and_its_password_not_sent_next() {
    for (others, expected) in [(&[][..], ["old"]), (&[("new", "lost")], ["new"])] {
        let mut left = with_others(others);
        let until = since_the_epoch() + Duration::from_secs(30);
        left["login"] = serde_json::json!({
            "id": "a", "owner": "b", "password": "old", "until": millis(until),
        });
        let kept = Kept::new(&left);
        let (session, sent) = taking(expected[0], &kept);
        let before = tokio::time::Instant::now();
        session.token().await.unwrap();
        let waited = before.elapsed();
        assert!((29..=31).contains(&waited.as_secs()), "{waited:?}");
        assert_eq!(*sent.lock().unwrap(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn after_two_logins_without_a_verdict_the_password_sent_longest_ago_is_next() {
    // In the old form the new one was tried first, and then the old one.
    let kept = Kept::new(&old_form("only_old"));
    let (session, sent) = taking("old", &kept);
    for (delay, expected) in [(60, &["new"][..]), (120, &["new", "old"])] {
        let error = session.token().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert_eq!(error.retry_after(), Some(Duration::from_secs(10)));
        advance(Duration::from_secs(delay)).await;
        let _ = session.token().await;
        assert_eq!(*sent.lock().unwrap(), expected);
    }
    assert_eq!(kept.json()["password"], "old");
    assert_eq!(kept.json().get("tries"), None);
}
