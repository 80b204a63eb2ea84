//! Files of credentials, whatever stands in them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tower_reauth::credentials::{File, FileStore, Record, SourceErrorKind, Version};
use tower_reauth::{
    CredentialProvider, CredentialSource, CredentialStore, Error, ErrorKind, ExposeSecret,
    LoginContext, PasswordChange, PasswordContext, Profile, ProviderError, Session, Source,
    SourceError, Token,
};

/// A folder of a test's own, removed with it.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let name = format!("tower-reauth-fuzz-{name}-{}", std::process::id());
        // In memory if possible: a store syncs each of its writes to the disk.
        let memory = Some(PathBuf::from("/dev/shm")).filter(|path| path.is_dir());
        let path = memory.unwrap_or_else(std::env::temp_dir).join(name);
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

// A slower reading of a record.

/// What a record is, if each name stands once in each of its objects.
fn is_record(text: &[u8]) -> Option<bool> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let Ok(value) = serde_json::from_slice::<Value>(text) else {
        return Some(false);
    };
    // Without colons in texts, each is a field.
    let names = text.iter().filter(|byte| **byte == b':').count();
    (names == fields(&value)).then(|| holds_record(&value))
}

fn fields(value: &Value) -> usize {
    match value {
        Value::Object(object) => object.len() + object.values().map(fields).sum::<usize>(),
        Value::Array(values) => values.iter().map(fields).sum(),
        _ => 0,
    }
}

fn holds_record(value: &Value) -> bool {
    let is_text = |value: &Value| value.is_string();
    let is_name = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
    let is_optional = |value: &Value| value.is_null() || value.is_string();
    let is_list = |value: &Value, is: &dyn Fn(&Value) -> bool| {
        value.as_array().is_some_and(|values| values.iter().all(is))
    };
    let is_other = |value: &Value| {
        let open = one_of(&["lost", "no", "closed"]);
        has(
            value,
            &[
                ("password", &is_name),
                ("sent_at", &Value::is_u64),
                ("open", &open),
            ],
        )
    };
    let is_try = |value: &Value| {
        let verdict = one_of(&["refused", "no_verdict"]);
        has(
            value,
            &[
                ("password", &is_text),
                ("at", &Value::is_u64),
                ("verdict", &verdict),
            ],
        )
    };
    let is_change = |value: &Value| {
        let change: [Field<'_>; 3] = [
            ("id", &is_number),
            ("owner", &is_number),
            ("until", &Value::is_u64),
        ];
        value.is_null() || has(value, &change)
    };
    let is_claim = |value: &Value| {
        let claim: [Field<'_>; 4] = [
            ("id", &is_number),
            ("password", &is_text),
            ("owner", &is_number),
            ("until", &Value::is_u64),
        ];
        value.is_null() || has(value, &claim)
    };
    let is_trying = one_of(&["new", "old", "only_new", "only_old"]);
    let Some(object) = value.as_object() else {
        return false;
    };
    let is_whole = ["username", "password"]
        .iter()
        .all(|name| object.contains_key(*name));
    // Otherwise it is one of the passwords.
    let is_new = |new: &Value| new.as_str() != Some("");
    is_whole
        && object.iter().all(|(name, value)| match name.as_str() {
            "username" | "password" => is_name(value),
            "written" => is_optional(value),
            "accepted" => value.is_boolean(),
            "others" => is_list(value, &is_other),
            "change" => is_change(value),
            "login" => is_claim(value),
            "tries" => is_list(value, &is_try),
            "new_password" => is_optional(value) && is_new(value),
            "trying" => value.is_null() || is_trying(value),
            _ => false,
        })
}

/// A field, and what it must be.
type Field<'a> = (&'a str, &'a dyn Fn(&Value) -> bool);

/// Whether `value` has these fields and no others.
fn has(value: &Value, expected: &[Field<'_>]) -> bool {
    value.as_object().is_some_and(|object| {
        object.len() == expected.len()
            && expected
                .iter()
                .all(|(name, is)| object.get(*name).is_some_and(is))
    })
}

fn one_of(names: &'static [&'static str]) -> impl Fn(&Value) -> bool {
    |value| value.as_str().is_some_and(|name| names.contains(&name))
}

fn is_number(value: &Value) -> bool {
    let text = value.as_str();
    text.is_some_and(|text| u64::from_str_radix(text, 16).is_ok())
}

/// All passwords that may work: the current one and the others.
fn passwords(record: &Record) -> BTreeSet<String> {
    let record: Value = serde_json::from_str(record.to_json().expose_secret()).unwrap();
    let others = record["others"].as_array().into_iter().flatten();
    let all = std::iter::once(&record).chain(others);
    let text = |fields: &Value| fields["password"].as_str().unwrap().to_owned();
    all.map(text).collect()
}

/// As [`passwords`], with the one that a person has just replaced by hand.
fn all_passwords(record: &Record) -> BTreeSet<String> {
    let json: Value = serde_json::from_str(record.to_json().expose_secret()).unwrap();
    let mut all = passwords(record);
    all.extend(json["written"].as_str().map(str::to_owned));
    all
}

/// Reads a record, which is what a slower reading finds.
fn record(text: &[u8]) -> Option<Record> {
    let expected = is_record(text);
    match Record::from_json(text) {
        Ok(record) => {
            assert_ne!(expected, Some(false), "{}", text.escape_ascii());
            let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
            let value: Value = serde_json::from_slice(text).unwrap();
            assert_eq!(record.username(), value["username"].as_str().unwrap());
            let password = value["password"].as_str().unwrap();
            assert_eq!(record.password().expose_secret(), password);
            // No password is lost on the way, whatever the form.
            let mut all: BTreeSet<_> = [password].into();
            all.extend(value["new_password"].as_str());
            let others = value["others"].as_array().into_iter().flatten();
            all.extend(others.map(|other| other["password"].as_str().unwrap()));
            let read = passwords(&record);
            assert_eq!(
                read.iter().map(String::as_str).collect::<BTreeSet<_>>(),
                all
            );
            // It is the same once more, though not always byte for byte.
            let again = record.to_json();
            let again = Record::from_json(again.expose_secret()).unwrap();
            assert!(again == record, "{}", text.escape_ascii());
            let shown = format!("{record:?}").replace(record.username(), "");
            assert!(!shown.contains("canary"), "{shown}");
            Some(record)
        }
        Err(error) => {
            assert_ne!(expected, Some(true), "{}", text.escape_ascii());
            is_sound(&error);
            None
        }
    }
}

/// A login system of one user.
struct Server {
    source: Source,
    state: Arc<Mutex<State>>,
}

struct State {
    password: String,
    /// What becomes of the next password change.
    change: Change,
    /// Whether the answers to logins are lost.
    loses_logins: bool,
    logins: u64,
    /// The logins that failed since the last one that did not.
    failed_in_a_row: u64,
}

#[derive(Clone, Copy)]
enum Change {
    Done,
    Denied,
    DoneAndLost,
    Lost,
}

impl Server {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl CredentialProvider for Server {
    fn profile(&self) -> Profile {
        Profile::at("https://api.test".parse().unwrap())
    }

    fn source(&self) -> Option<&Source> {
        Some(&self.source)
    }

    async fn login(&self, login: LoginContext) -> Result<Token, ProviderError> {
        let password = login.credentials()?.password().expose_secret();
        let mut state = self.state();
        state.logins += 1;
        let is_right = *password == state.password;
        state.failed_in_a_row = match is_right {
            true => 0,
            false => state.failed_in_a_row + 1,
        };
        match (state.loses_logins, is_right) {
            (true, _) => Err(ProviderError::uncertain("no answer")),
            (false, true) => Ok(Token::bearer("token")?),
            (false, false) => Err(ProviderError::refused("wrong user or password")),
        }
    }

    async fn change_password(&self, change: PasswordContext) -> Result<(), ProviderError> {
        let mut state = self.state();
        let is_done = matches!(state.change, Change::Done | Change::DoneAndLost);
        let current = change.current_password().unwrap().expose_secret();
        if current != state.password {
            return Err(ProviderError::refused("not the current password"));
        }
        if is_done {
            state.password = change.new_password().expose_secret().to_owned();
        }
        match state.change {
            Change::Done => Ok(()),
            Change::Denied => Err(ProviderError::refused("too short")),
            Change::DoneAndLost | Change::Lost => Err(ProviderError::uncertain("no answer")),
        }
    }
}

/// A store of a file, and the server that it has the password of.
struct Story {
    path: PathBuf,
    state: Arc<Mutex<State>>,
    username: String,
    /// How many passwords were made up.
    made_up: usize,
}

impl Folder {
    /// An input is what is done to the store first, by bytes, a line break, and what its
    /// file holds at first. Of a file that cannot be read, nothing becomes of it, and the
    /// same is done to one that can.
    pub(crate) fn store(&self, input: &[u8]) {
        let path = self.0.join("store.json");
        let mut parts = input.splitn(2, |byte| *byte == b'\n');
        let mut steps = parts.next().unwrap().to_vec();
        steps.truncate(2);
        steps.extend(&digest(input).to_le_bytes()[..4]);
        let mut file = parts.next().unwrap_or_default();
        fs::write(&path, file).unwrap();
        super::run(async {
            if record(file).is_none() {
                stays_as_it_is(&path, file).await;
                file = br#"{"username":"emuser","password":"canary-old"}"#;
                fs::write(&path, file).unwrap();
            }
            let first = record(file).unwrap();
            Story::new(path, &first, &steps).run(&steps).await;
        });
        // What was written is as good a start as any.
        let written = fs::read(self.0.join("store.json")).unwrap();
        for place in 0..16 {
            let _ = record(&garbled(&written, input, place));
        }
    }
}

/// A number for each input, the same each time (FNV-1a).
fn digest(input: &[u8]) -> u64 {
    let start = 0xcbf2_9ce4_8422_2325;
    let next = |digest: u64, byte: &u8| (digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    input.iter().fold(start, next)
}

/// `text` with a byte or a piece of `input` in it.
fn garbled(text: &[u8], input: &[u8], place: usize) -> Vec<u8> {
    let mut garbled = text.to_vec();
    if input.is_empty() || text.is_empty() {
        return garbled;
    }
    let from = (place * 7 + input.len()) % input.len();
    let to = (usize::from(input[from]) * 31 + place * 17) % text.len();
    let length = usize::from(input[from] % 4);
    let piece = &input[from..(from + length).min(input.len())];
    garbled.splice(to..(to + place % 4).min(text.len()), piece.iter().copied());
    garbled
}

/// Nobody sends or writes anything because of a file that cannot be read.
async fn stays_as_it_is(path: &Path, file: &[u8]) {
    let store = FileStore::new(path);
    is_sound(&store.load().await.unwrap_err());
    let refused = store.store(Record::new("emuser", "x"), Version::new("absent"));
    is_sound(&refused.await.unwrap_err());
    let state = Arc::new(Mutex::new(State::new(String::new())));
    let session = Session::new(Server {
        source: Source::new(FileStore::new(path)),
        state: state.clone(),
    });
    is_told(&session.login().await.unwrap_err(), ErrorKind::Unavailable);
    assert_eq!(state.lock().unwrap().logins, 0);
    assert_eq!(fs::read(path).unwrap(), file);
}

fn is_told(error: &Error, kind: ErrorKind) {
    assert_eq!(error.kind(), kind, "{error:?}");
    let mut shown = format!("{error:?}");
    let mut next: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = next {
        shown.push_str(&error.to_string());
        next = error.source();
    }
    assert!(!shown.contains("canary"), "{shown}");
}

impl State {
    fn new(password: String) -> Self {
        Self {
            password,
            change: Change::Done,
            loses_logins: false,
            logins: 0,
            failed_in_a_row: 0,
        }
    }
}

impl Story {
    /// Any of the passwords of the file is the server's.
    fn new(path: PathBuf, first: &Record, steps: &[u8]) -> Self {
        let passwords: Vec<_> = passwords(first).into_iter().collect();
        let chosen = steps.iter().map(|step| usize::from(*step)).sum::<usize>();
        let password = passwords[chosen % passwords.len()].clone();
        Self {
            path,
            state: Arc::new(Mutex::new(State::new(password))),
            username: first.username().to_owned(),
            made_up: 0,
        }
    }

    fn server(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// A process that starts anew.
    fn session(&self) -> Session {
        Session::new(Server {
            source: Source::new(FileStore::new(&self.path)),
            state: self.state.clone(),
        })
    }

    fn make_up(&mut self) -> String {
        self.made_up += 1;
        format!("canary \"{}\" \u{e9}", self.made_up)
    }

    fn json(&self) -> Value {
        let text = fs::read(&self.path).unwrap();
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&text);
        serde_json::from_slice(text).unwrap()
    }

    async fn run(mut self, steps: &[u8]) {
        // Another process may be logging in: it is waited for.
        let until = self.json()["login"]["until"].as_u64();
        if until.is_some_and(|until| until >= now()) {
            return;
        }
        for step in steps {
            let step = self.step(*step);
            let done = tokio::time::timeout(Duration::from_secs(60), step).await;
            done.expect("nothing waits");
            self.check();
        }
    }

    /// The password is not lost, and no account is locked.
    fn check(&self) {
        let text = fs::read(&self.path).unwrap();
        let record = record(&text).expect("what is written can be read");
        assert_eq!(record.username(), self.username);
        let server = self.server();
        let passwords = all_passwords(&record);
        assert!(passwords.contains(&server.password), "{passwords:?}");
        assert!(server.failed_in_a_row <= 2, "{}", server.failed_in_a_row);
    }

    async fn step(&mut self, step: u8) {
        match step % 11 {
            0 | 1 => self.login(false).await,
            2 => {
                self.server().loses_logins = true;
                self.login(false).await;
                self.server().loses_logins = false;
            }
            3 => {
                // One more may fail for each that an operator asks for.
                self.server().failed_in_a_row = 0;
                self.login(true).await;
            }
            4 => self.change(Change::Done).await,
            5 => self.change(Change::Denied).await,
            6 => self.change(Change::DoneAndLost).await,
            7 => self.change(Change::Lost).await,
            8 => {
                let new = self.make_up();
                // Half of the people have changed it at the server, too. A password that
                // nobody has read yet is lost by a wrong one.
                let json = self.json();
                let is_read = json["written"] == json["password"];
                if step < 128 || !is_read {
                    self.server().password.clone_from(&new);
                }
                self.edit(&new);
                self.server().failed_in_a_row = 0;
            }
            9 => self.conflict().await,
            _ => {
                self.a_day_passes();
                self.server().failed_in_a_row = 0;
            }
        }
    }

    async fn login(&self, is_forced: bool) {
        let logins = self.server().logins;
        let session = self.session();
        let login = match is_forced {
            true => session.login().await,
            false => session.token().await.map(drop),
        };
        match login {
            Ok(()) => {
                let json = self.json();
                assert_eq!(json["password"], self.server().password.as_str());
                assert_eq!(json["written"], json["password"]);
                for resolved in ["login", "tries", "new_password", "trying"] {
                    assert_eq!(json.get(resolved), None, "{json}");
                }
            }
            Err(error) => {
                let kind = error.kind();
                let kinds = [
                    ErrorKind::Refused,
                    ErrorKind::Unavailable,
                    ErrorKind::Uncertain,
                ];
                assert!(kinds.contains(&kind), "{error:?}");
                is_told(&error, kind);
            }
        }
        assert!(self.server().logins <= logins + 2);
    }

    async fn change(&mut self, what: Change) {
        self.server().change = what;
        let new = self.make_up();
        let before = self.server().password.clone();
        let session = self.session();
        match session
            .change_password(PasswordChange::to(new.as_str()))
            .await
        {
            Ok(()) => {
                assert_eq!(self.server().password, new);
                assert_eq!(self.json()["password"], new.as_str());
            }
            Err(error) => {
                is_told(&error, error.kind());
                let is_same = self.server().password == before;
                // Also an earlier one, which is asked for first.
                assert!(is_same || matches!(what, Change::Done | Change::DoneAndLost));
            }
        }
    }

    /// A person who leaves the rest.
    fn edit(&self, password: &str) {
        let mut json = self.json();
        json["password"] = password.into();
        fs::write(&self.path, serde_json::to_string_pretty(&json).unwrap()).unwrap();
    }

    /// Another process was faster.
    async fn conflict(&self) {
        let (one, other) = (FileStore::new(&self.path), FileStore::new(&self.path));
        let (record, version) = one.load().await.unwrap();
        let (same, same_version) = other.load().await.unwrap();
        assert_eq!(version, same_version);
        // Of the old form, the time of the change is that of the reading.
        let is_old_form = self.json().get("new_password").is_some();
        assert!(record == same || is_old_form);
        // A text that differs, unless this is what the crate writes.
        let before = fs::read(&self.path).unwrap();
        one.store(record.clone(), version).await.unwrap();
        let after = fs::read(&self.path).unwrap();
        assert!(all_passwords(&record).contains(&self.server().password));
        let mut changed = record;
        changed.set_password("canary of a process that is late");
        let stored = other.store(changed, same_version).await;
        match before == after {
            // Nothing has changed, so it is not late.
            true => {
                stored.unwrap();
                fs::write(&self.path, after).unwrap();
            }
            false => {
                assert_eq!(stored.unwrap_err().kind(), SourceErrorKind::Conflict);
                assert_eq!(fs::read(&self.path).unwrap(), after);
            }
        }
    }

    /// Each time in the file is longer ago.
    fn a_day_passes(&self) {
        fn earlier(value: &mut Value) {
            match value {
                Value::Object(object) => object.values_mut().for_each(earlier),
                Value::Array(values) => values.iter_mut().for_each(earlier),
                Value::Number(_) => {
                    let day = 25 * 3600 * 1000;
                    *value = value.as_u64().unwrap().saturating_sub(day).into();
                }
                _ => {}
            }
        }
        let mut json = self.json();
        earlier(&mut json);
        fs::write(&self.path, json.to_string()).unwrap();
    }
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap()
}
