//! Where credentials come from, and that none is lost on the way through a
//! password change.

use std::fs;
use std::future::poll_fn;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::Full;
use tower_reauth::controlm::ControlM;
use tower_reauth::controlm::emulator::{Emulator, EmulatorService, Fault, Operation};
use tower_reauth::credentials::{
    Chain, Env, File, FileStore, Memory, SourceErrorKind, Trying, Unresolved,
};
use tower_reauth::{
    CredentialSource, Credentials, ErrorKind, ExposeSecret, PasswordChange, Session, Source,
    SourceError,
};

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

#[tokio::test]
async fn a_changed_password_goes_to_the_one_of_a_chain_that_had_the_last() {
    let directory = Directory::new();
    let store = directory.store();
    let chain = Chain::new(Env::new("NO_SUCH_VARIABLE", "NOR_THIS"))
        .or(FileStore::new(&store))
        .or(Memory::new(Credentials::new("default", "default")));
    let old = chain.fetch().await.unwrap();
    chain.prepare(old.with_password("bad")).await.unwrap();
    chain.withdraw().await.unwrap();
    assert!(chain.unresolved().await.unwrap().is_none());
    chain.prepare(old.with_password("new")).await.unwrap();
    chain.trying(Some(Trying::New)).await.unwrap();
    assert_eq!(json(&store)["trying"], "new");
    assert!(chain.unresolved().await.unwrap().is_some());
    chain.promote().await.unwrap();
    assert_eq!(json(&store)["password"], "new");
}

#[tokio::test]
async fn memory_keeps_a_prepared_password_until_it_is_promoted_or_withdrawn() {
    let memory = Memory::new(Credentials::new("emuser", "old"));
    let prepared = || memory.prepare(Credentials::new("emuser", "new"));
    prepared().await.unwrap();
    memory.withdraw().await.unwrap();
    memory.promote().await.unwrap();
    assert_eq!(fetched(&memory).await, pair("emuser", "old"));
    prepared().await.unwrap();
    memory.promote().await.unwrap();
    assert_eq!(fetched(&memory).await, pair("emuser", "new"));
}

#[tokio::test]
async fn a_store_keeps_both_passwords_until_one_of_them_is_known_to_be_right() {
    let directory = Directory::new();
    let path = directory.store();
    let store = FileStore::new(&path);
    let old = store.fetch().await.unwrap();
    assert!(store.unresolved().await.unwrap().is_none());
    // There is no other one to try.
    let before = fs::read_to_string(&path).unwrap();
    store.trying(Some(Trying::New)).await.unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), before);

    store
        .prepare(old.with_password("n\u{e9}w\"\\\n"))
        .await
        .unwrap();
    store.trying(Some(Trying::OnlyNew)).await.unwrap();
    assert_eq!(
        json(&path),
        serde_json::json!({
            "username": "emuser",
            "password": "old",
            "new_password": "n\u{e9}w\"\\\n",
            "trying": "only_new",
        })
    );
    // As another process sees it.
    let other = FileStore::new(&path);
    assert_eq!(fetched(&other).await, pair("emuser", "old"));
    let unresolved = other.unresolved().await.unwrap();
    let shown = format!("{unresolved:?}");
    assert!(
        shown.contains("OnlyNew") && !shown.contains("old"),
        "{shown}"
    );

    other.promote().await.unwrap();
    let promoted = serde_json::json!({ "username": "emuser", "password": "n\u{e9}w\"\\\n" });
    assert_eq!(json(&path), promoted);
    // Once more, by a process that died in between, and with nothing prepared.
    for settled in [other.promote().await, other.withdraw().await] {
        settled.unwrap();
        assert_eq!(json(&path), promoted);
    }
    other.prepare(old.with_password("third")).await.unwrap();
    other.withdraw().await.unwrap();
    assert_eq!(json(&path), promoted);
}

#[tokio::test]
async fn a_store_keeps_the_permissions_of_its_file_and_leaves_nothing_beside_it() {
    let directory = Directory::new();
    let path = directory.store();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    // Left by a process that died; a link, to make it worse.
    let elsewhere = directory.file("elsewhere", "untouched");
    symlink(&elsewhere, directory.0.join(".c.json.new")).unwrap();

    let store = FileStore::new(&path);
    let old = store.fetch().await.unwrap();
    store.prepare(old.with_password("new")).await.unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o640);
    assert_eq!(fs::read_to_string(elsewhere).unwrap(), "untouched");
    assert_eq!(fs::read_dir(&directory.0).unwrap().count(), 2);

    let made = directory.0.join("made.json");
    let store = FileStore::new(&made).or_start_with(old.clone());
    assert_eq!(fetched(&store).await, pair("emuser", "old"));
    assert!(!made.exists());
    store.prepare(old.with_password("new")).await.unwrap();
    assert_eq!(mode(&made), 0o600);
}

#[tokio::test]
async fn a_store_may_be_in_the_current_directory() {
    let directory = Directory::new();
    let path = directory.store();
    // All other paths here are absolute.
    let before = std::env::current_dir().unwrap();
    std::env::set_current_dir(&directory.0).unwrap();
    let store = FileStore::new("c.json");
    store
        .prepare(Credentials::new("emuser", "new"))
        .await
        .unwrap();
    assert_eq!(json(&path)["new_password"], "new");
    std::env::set_current_dir(before).unwrap();
}

#[tokio::test]
async fn a_store_that_cannot_be_looked_for_is_not_taken_for_one_that_is_not_there() {
    let directory = Directory::new();
    let path = directory.file("file", "").join("c.json");
    let store = FileStore::new(path).or_start_with(Credentials::new("emuser", "old"));
    fails(&store, SourceErrorKind::Unavailable).await;
}

#[tokio::test]
async fn a_store_refuses_links_and_what_is_no_file() {
    let directory = Directory::new();
    let link = directory.0.join("link.json");
    symlink(directory.store(), &link).unwrap();
    for path in [link, directory.0.clone()] {
        let store = FileStore::new(path);
        fails(&store, SourceErrorKind::Invalid).await;
        let new = Credentials::new("emuser", "s3cret");
        let refused = store.prepare(new).await.unwrap_err();
        assert_eq!(refused.kind(), SourceErrorKind::Invalid);
    }
    assert_eq!(json(&directory.0.join("c.json"))["password"], "old");
}

#[tokio::test]
async fn a_store_that_is_replaced_by_a_link_all_the_time_is_never_read_through_it() {
    let directory = Directory::new();
    let path = directory.store();
    let elsewhere = directory.file("elsewhere", r#"{"username":"emuser","password":"other"}"#);
    let store = FileStore::new(&path);
    let (link, file) = (directory.0.join("link"), directory.0.join("file"));
    let turning = std::thread::spawn(move || {
        for _ in 0..1000 {
            symlink(&elsewhere, &link).unwrap();
            fs::rename(&link, &path).unwrap();
            fs::write(&file, r#"{"username":"emuser","password":"old"}"#).unwrap();
            fs::rename(&file, &path).unwrap();
        }
    });
    while !turning.is_finished() {
        match store.fetch().await {
            Ok(credentials) => assert_eq!(shown(&credentials), ("emuser", "old")),
            Err(error) => assert!(matches!(
                error.kind(),
                SourceErrorKind::Invalid | SourceErrorKind::Unavailable
            )),
        }
    }
    turning.join().unwrap();
    assert_eq!(fetched(&store).await, pair("emuser", "old"));
}

#[tokio::test]
async fn a_store_that_holds_more_than_it_knows_is_not_written() {
    let directory = Directory::new();
    let text = r#"{"username":"emuser","password":"s3cret","realm":"x"}"#;
    let path = directory.file("c.json", text);
    let store = FileStore::new(&path);
    let told = fails(&store, SourceErrorKind::Invalid).await;
    assert!(told.contains("line 1"), "{told}");
    assert!(
        store
            .prepare(Credentials::new("emuser", "new"))
            .await
            .is_err()
    );
    assert_eq!(fs::read_to_string(path).unwrap(), text);
}

#[test]
fn what_is_tried_can_be_kept_as_text() {
    for trying in [Trying::New, Trying::Old, Trying::OnlyNew, Trying::OnlyOld] {
        assert_eq!(trying.as_str().parse::<Trying>().unwrap(), trying);
        let json = serde_json::to_string(&trying).unwrap();
        assert_eq!(json, format!("\"{}\"", trying.as_str()));
    }
    assert!("both".parse::<Trying>().is_err());
}

/// A Control-M, and a session whose credentials are in a file.
struct World {
    directory: Directory,
    emulator: Emulator,
}

impl World {
    fn new() -> Self {
        let emulator = Emulator::builder()
            .user("emuser", "old")
            .lock_after(2)
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

    /// Makes writing fail, as a full disk does.
    fn fill(&self) {
        fs::create_dir(self.directory.0.join(".c.json.new")).unwrap();
    }

    fn free(&self) {
        fs::remove_dir(self.directory.0.join(".c.json.new")).unwrap();
    }

    fn changes(&self) -> u64 {
        let account = self.emulator.account();
        account.requests_to(Operation::UpdatePassword)
    }

    /// The server changes the password to `new`, and its answer never comes.
    async fn changed_and_lost_the_answer(&self, session: &Session) {
        let lost = Fault::close().after_execution();
        self.emulator.fault(Operation::UpdatePassword, lost);
        assert_eq!(change(session, "new").await, Err(ErrorKind::Uncertain));
    }

    /// Nothing was changed, so that the new password is wrong.
    async fn lost_the_change(&self, session: &Session) {
        let lost = Fault::close();
        self.emulator.fault(Operation::UpdatePassword, lost);
        assert_eq!(change(session, "new").await, Err(ErrorKind::Uncertain));
    }

    /// What the next start finds, once it has logged in.
    async fn comes_back_with(&self, password: &str) {
        self.session().login().await.unwrap();
        let text = json(&self.path());
        assert_eq!(
            text,
            serde_json::json!({ "username": "emuser", "password": password })
        );
    }
}

async fn change(session: &Session, to: &str) -> Result<(), ErrorKind> {
    let changed = session.change_password(PasswordChange::to(to)).await;
    changed.map(drop).map_err(|error| error.kind())
}

#[tokio::test]
async fn a_changed_password_is_in_the_file() {
    let world = World::new();
    change(&world.session(), "new").await.unwrap();
    assert_eq!(json(&world.path())["password"], "new");
    world.comes_back_with("new").await;
}

#[tokio::test]
async fn a_change_that_the_server_denies_leaves_the_file_as_it_was() {
    for denied in [
        PasswordChange::to("new").current("not the current one"),
        PasswordChange::to("no"),
    ] {
        let world = World::new();
        let session = world.session();
        let error = session.change_password(denied).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        // Nothing latches: the session goes on.
        session.renew().await.unwrap();
        change(&session, "new").await.unwrap();
        world.comes_back_with("new").await;
    }
}

#[tokio::test]
async fn a_change_to_the_same_password_is_the_servers_to_judge_and_harms_nothing() {
    let world = World::new();
    let denied = change(&world.session(), "old").await;
    assert_eq!(denied, Err(ErrorKind::Refused), "by this one");
    world.comes_back_with("old").await;

    world
        .emulator
        .fault(Operation::UpdatePassword, Fault::close().after_execution());
    let session = world.session();
    assert_eq!(change(&session, "old").await, Err(ErrorKind::Uncertain));
    session.renew().await.unwrap();
    world.comes_back_with("old").await;
    assert_eq!(world.emulator.account().failed_logins, 0);
}

#[tokio::test]
async fn a_logged_out_session_changes_nothing() {
    let world = World::new();
    let session = world.session();
    session.login().await.unwrap();
    session.logout().await.unwrap();
    assert_eq!(change(&session, "new").await, Err(ErrorKind::LoggedOut));
    assert_eq!(world.changes(), 0);
    world.comes_back_with("old").await;
}

#[tokio::test]
async fn a_change_with_a_dead_token_is_made_with_a_new_one() {
    let world = World::new();
    let session = world.session();
    session.login().await.unwrap();
    world.emulator.expire_all();
    change(&session, "new").await.unwrap();
    assert_eq!(world.changes(), 2);
    assert_eq!(session.stats().rejections, 1);
    world.comes_back_with("new").await;
}

#[tokio::test]
async fn two_changes_at_once_are_made_one_after_the_other() {
    let world = World::new();
    let session = world.session();
    let (one, two) = tokio::join!(change(&session, "one"), change(&session, "two"));
    one.unwrap();
    two.unwrap();
    let password = json(&world.path())["password"].as_str().unwrap().to_owned();
    assert_eq!(world.emulator.account().password_changes, 2);
    world.comes_back_with(&password).await;
}

#[tokio::test]
async fn a_source_that_cannot_be_written_keeps_the_server_from_being_asked() {
    let world = World::new();
    let session = world.session_of(File::json(world.path()));
    assert_eq!(change(&session, "new").await, Err(ErrorKind::Unsupported));
    assert_eq!(world.changes(), 0);

    let unstored = PasswordChange::to("new").allow_unstored();
    session.change_password(unstored).await.unwrap();
    session.renew().await.unwrap();
    assert_eq!(json(&world.path())["password"], "old");
    // Somebody puts it there.
    world
        .directory
        .file("c.json", r#"{"username":"emuser","password":"new"}"#);
    world.comes_back_with("new").await;
}

#[tokio::test]
async fn a_full_disk_keeps_the_server_from_being_asked() {
    let world = World::new();
    let session = world.session();
    session.login().await.unwrap();
    world.fill();
    assert_eq!(change(&session, "new").await, Err(ErrorKind::Unavailable));
    assert_eq!(world.changes(), 0);
    // Logging in writes nothing, so it goes on.
    session.renew().await.unwrap();
    world.free();
    change(&session, "new").await.unwrap();
    world.comes_back_with("new").await;
}

/// A store whose disk is full from some moment on.
struct FillsUp {
    store: FileStore,
    beside: PathBuf,
    when: Mutex<Option<&'static str>>,
}

impl FillsUp {
    fn at(&self, moment: &'static str) {
        if *self.when.lock().unwrap() == Some(moment) {
            fs::create_dir(&self.beside).unwrap();
            *self.when.lock().unwrap() = None;
        }
    }
}

impl CredentialSource for FillsUp {
    async fn fetch(&self) -> Result<Credentials, SourceError> {
        self.store.fetch().await
    }

    async fn prepare(&self, new: Credentials) -> Result<(), SourceError> {
        self.store.prepare(new).await
    }

    async fn promote(&self) -> Result<(), SourceError> {
        self.at("promote");
        self.store.promote().await
    }

    async fn withdraw(&self) -> Result<(), SourceError> {
        self.at("withdraw");
        self.store.withdraw().await
    }

    async fn unresolved(&self) -> Result<Option<Unresolved>, SourceError> {
        self.store.unresolved().await
    }

    async fn trying(&self, which: Option<Trying>) -> Result<(), SourceError> {
        self.at("trying");
        self.store.trying(which).await
    }
}

#[tokio::test]
async fn a_disk_that_is_full_after_the_change_is_made_up_for_later() {
    for (denied, when, left) in [(false, "promote", "new"), (true, "withdraw", "old")] {
        let world = World::new();
        let session = world.session_of(FillsUp {
            store: FileStore::new(world.path()),
            beside: world.directory.0.join(".c.json.new"),
            when: Mutex::new(Some(when)),
        });
        if denied {
            let status = StatusCode::FORBIDDEN;
            world
                .emulator
                .fault(Operation::UpdatePassword, Fault::status(status));
        }
        assert_eq!(change(&session, "new").await.is_err(), denied);
        assert_eq!(json(&world.path())["new_password"], "new", "both are there");
        // This session knows, and sends no wrong password.
        let failed = world.emulator.account().failed_logins;
        if !denied {
            session.renew().await.unwrap();
            assert_eq!(world.emulator.account().failed_logins, failed);
        }
        // The next start finds out, though it can note nothing, and tidies up
        // once it can.
        world.session().login().await.unwrap();
        world.free();
        world.comes_back_with(left).await;
    }
}

#[tokio::test]
async fn an_answer_that_was_lost_is_found_out_by_the_next_start() {
    for executed in [true, false] {
        let world = World::new();
        let fault = match executed {
            true => Fault::close().after_execution(),
            false => Fault::close(),
        };
        world.emulator.fault(Operation::UpdatePassword, fault);
        let session = world.session();
        assert_eq!(change(&session, "new").await, Err(ErrorKind::Uncertain));
        drop(session);
        world
            .comes_back_with(if executed { "new" } else { "old" })
            .await;
        let failed = world.emulator.account().failed_logins;
        assert_eq!(failed, u64::from(!executed));
    }
}

#[tokio::test]
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
}

#[tokio::test]
async fn a_login_system_that_is_down_says_nothing_of_the_passwords() {
    let world = World::new();
    let session = world.session();
    world.changed_and_lost_the_answer(&session).await;
    let busy = Fault::status(StatusCode::SERVICE_UNAVAILABLE);
    world.emulator.fault(Operation::Login, busy);
    session.login().await.unwrap_err();
    session.login().await.unwrap();
    assert_eq!(world.emulator.account().failed_logins, 0);
    world.comes_back_with("new").await;
}

/// The server may have counted it.
#[tokio::test]
async fn a_password_that_was_sent_and_not_answered_is_not_sent_twice_in_a_row() {
    let world = World::new();
    let session = world.session();
    world.lost_the_change(&session).await;
    let lost = Fault::close().after_execution();
    world.emulator.fault(Operation::Login, lost);
    let error = session.login().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(world.emulator.account().failed_logins, 1);
    session.login().await.unwrap();
    assert_eq!(world.emulator.account().failed_logins, 1);
    drop(session);
    world.comes_back_with("old").await;
}

#[tokio::test]
async fn a_login_system_that_is_down_makes_no_lost_answer_undone_for_the_next_start() {
    let world = World::new();
    let session = world.session();
    world.lost_the_change(&session).await;
    let lost = Fault::close().after_execution();
    world.emulator.fault(Operation::Login, lost);
    session.login().await.unwrap_err();
    // The old password is sent now, and not looked at.
    let busy = Fault::status(StatusCode::SERVICE_UNAVAILABLE);
    world.emulator.fault(Operation::Login, busy);
    session.login().await.unwrap_err();
    drop(session);
    world.comes_back_with("old").await;
    assert_eq!(world.emulator.account().failed_logins, 1);
}

#[tokio::test]
async fn a_password_that_a_gateway_gave_up_on_is_not_sent_twice_in_a_row() {
    for status in [
        StatusCode::GATEWAY_TIMEOUT,
        StatusCode::BAD_GATEWAY,
        StatusCode::INTERNAL_SERVER_ERROR,
        StatusCode::REQUEST_TIMEOUT,
    ] {
        let world = World::new();
        let session = world.session();
        world.lost_the_change(&session).await;
        let lost = Fault::status(status).after_execution();
        world.emulator.fault(Operation::Login, lost);
        session.login().await.unwrap_err();
        assert_eq!(world.emulator.account().failed_logins, 1, "{status}");
        session.login().await.unwrap();
        assert_eq!(world.emulator.account().failed_logins, 1, "{status}");
    }
}

/// Some login pages say with a success that the password was wrong.
#[tokio::test]
async fn a_password_whose_answer_cannot_be_read_is_not_sent_twice_in_a_row() {
    for unreadable in [
        Fault::html(StatusCode::OK),
        Fault::garbage(),
        Fault::status(StatusCode::BAD_REQUEST),
    ] {
        let world = World::new();
        let session = world.session();
        world.lost_the_change(&session).await;
        let unreadable = unreadable.after_execution();
        world.emulator.fault(Operation::Login, unreadable);
        let error = session.login().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol);
        assert_eq!(world.emulator.account().failed_logins, 1);
        let again = session.login().await;
        assert!(again.is_ok(), "{again:?}");
        assert_eq!(world.emulator.account().failed_logins, 1);
    }
}

#[tokio::test]
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
    world.comes_back_with("third").await;
    assert_eq!(world.emulator.account().failed_logins, 0);
}

#[tokio::test]
async fn a_locked_account_makes_neither_password_forgotten() {
    let world = World::new();
    world.changed_and_lost_the_answer(&world.session()).await;
    world.emulator.lock("emuser");
    let error = world.session().login().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    world.emulator.unlock("emuser");
    world.comes_back_with("new").await;
}

#[tokio::test]
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
        assert_eq!(world.emulator.account().failed_logins, 0);
        if finished {
            assert_eq!(kept, "new");
            assert!(polls > 1);
            return;
        }
    }
}

/// A source whose notes can be seen.
#[derive(Default)]
struct Noted {
    kept: Mutex<Vec<String>>,
    unresolved: Option<Trying>,
}

impl Noted {
    fn note(&self, what: impl Into<String>) {
        self.kept.lock().unwrap().push(what.into());
    }
}

struct SharedNotes(std::sync::Arc<Noted>);

impl CredentialSource for SharedNotes {
    async fn fetch(&self) -> Result<Credentials, SourceError> {
        Ok(Credentials::new("emuser", "old"))
    }

    async fn promote(&self) -> Result<(), SourceError> {
        self.0.note("promote");
        Ok(())
    }

    async fn withdraw(&self) -> Result<(), SourceError> {
        self.0.note("withdraw");
        Ok(())
    }

    async fn unresolved(&self) -> Result<Option<Unresolved>, SourceError> {
        let unresolved = Unresolved::new(Credentials::new("emuser", "new"));
        Ok(Some(match self.0.unresolved {
            Some(trying) => unresolved.trying(trying),
            None => unresolved,
        }))
    }

    async fn trying(&self, which: Option<Trying>) -> Result<(), SourceError> {
        self.0.note(which.map_or("nothing", Trying::as_str));
        Ok(())
    }
}

#[tokio::test]
async fn after_a_crash_the_passwords_are_tried_in_the_order_that_sends_no_wrong_one_twice() {
    for (left, right, notes) in [
        (None, "new", vec!["new", "promote"]),
        (None, "old", vec!["new", "only_old", "withdraw"]),
        (Some(Trying::Old), "new", vec!["new", "promote"]),
        (Some(Trying::New), "old", vec!["old", "withdraw"]),
        (Some(Trying::New), "new", vec!["old", "only_new", "promote"]),
        (Some(Trying::OnlyNew), "new", vec!["only_new", "promote"]),
        (Some(Trying::OnlyOld), "old", vec!["only_old", "withdraw"]),
        (None, "neither", vec!["new", "only_old", "nothing"]),
        (Some(Trying::OnlyOld), "new", vec!["only_old", "nothing"]),
        (Some(Trying::OnlyNew), "old", vec!["only_new", "nothing"]),
    ] {
        let emulator = Emulator::builder().user("emuser", right).build();
        let world = World {
            emulator,
            directory: Directory::new(),
        };
        let source = std::sync::Arc::new(Noted {
            unresolved: left,
            ..Noted::default()
        });
        let session = world.session_of(SharedNotes(source.clone()));
        let token = session.token().await;
        let resolved = notes.last() != Some(&"nothing");
        assert_eq!(token.is_ok(), resolved, "{left:?}, {right}");
        assert_eq!(*source.kept.lock().unwrap(), notes, "{left:?}, {right}");
    }
}

#[tokio::test]
async fn a_login_that_somebody_asks_for_tries_the_refused_one_of_the_two_as_well() {
    for (left, right, notes) in [
        (Trying::OnlyOld, "new", ["only_old", "only_new", "promote"]),
        (Trying::OnlyNew, "old", ["only_new", "only_old", "withdraw"]),
        (Trying::New, "new", ["old", "only_new", "promote"]),
    ] {
        let emulator = Emulator::builder().user("emuser", right).build();
        let world = World {
            emulator,
            directory: Directory::new(),
        };
        let source = std::sync::Arc::new(Noted {
            unresolved: Some(left),
            ..Noted::default()
        });
        let session = world.session_of(SharedNotes(source.clone()));
        session.login().await.unwrap();
        assert_eq!(*source.kept.lock().unwrap(), notes);
    }
}

/// A source that keeps what it is given, and loses its answer.
struct Unsure(std::sync::Arc<Noted>);

impl CredentialSource for Unsure {
    async fn fetch(&self) -> Result<Credentials, SourceError> {
        Ok(Credentials::new("emuser", "old"))
    }

    async fn prepare(&self, _: Credentials) -> Result<(), SourceError> {
        self.0.note("prepare");
        Err(SourceError::unavailable("no answer"))
    }

    async fn withdraw(&self) -> Result<(), SourceError> {
        self.0.note("withdraw");
        Ok(())
    }
}

#[tokio::test]
async fn what_a_source_may_have_kept_of_a_change_that_was_not_made_is_withdrawn() {
    let world = World::new();
    let source = std::sync::Arc::new(Noted::default());
    let session = world.session_of(Unsure(source.clone()));
    assert_eq!(change(&session, "new").await, Err(ErrorKind::Unavailable));
    assert_eq!(*source.kept.lock().unwrap(), ["prepare", "withdraw"]);
    assert_eq!(world.changes(), 0);
}
