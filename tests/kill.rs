//! Processes that change the password in a file, and are killed: whenever that is,
//! the next one logs in, and the account is not locked.
//!
//! The environment variable `SEED` varies them, and `KILLS` is how many processes
//! are killed.

mod chance;
#[path = "kill/process.rs"]
mod process;
#[path = "kill/server.rs"]
mod server;

use std::env;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chance::chance;
use process::{CHANGED, DONE, FAILED, LATER, LOGGED_IN, Process, RETENTION, STEP};
use server::SlowServer;

fn kills() -> usize {
    env::var("KILLS").map_or(1000, |kills| kills.parse().unwrap())
}

#[test]
fn as_a_process_of_its_own() {
    process::run();
}

struct World {
    server: SlowServer,
    directory: PathBuf,
    logged_in: AtomicUsize,
    changed: AtomicUsize,
    later: AtomicUsize,
}

impl World {
    fn new(name: &str, lock_after: u32, latest: usize) -> Self {
        let mut chance = chance();
        let server = SlowServer::start(lock_after, latest, chance.fork());
        let directory = env::temp_dir().join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let world = Self {
            server,
            directory,
            logged_in: AtomicUsize::new(0),
            changed: AtomicUsize::new(0),
            later: AtomicUsize::new(0),
        };
        world.begin_anew();
        world
    }

    fn store(&self) -> PathBuf {
        self.directory.join("credentials.json")
    }

    /// Puts the file and the account back to the start.
    fn begin_anew(&self) {
        let text = r#"{ "username": "emuser", "password": "first" }"#;
        fs::write(self.store(), text).unwrap();
        self.server.emulator.set_password("emuser", "first");
        self.server.emulator.unlock("emuser");
    }

    fn process(&self, changes: u64, dies_at: Option<usize>) -> Process {
        Process::start(&self.store(), &self.server.url, changes, dies_at)
    }

    fn record(&self, how: &str) -> serde_json::Value {
        let text = fs::read_to_string(self.store()).unwrap();
        let record = serde_json::from_str(&text);
        record.unwrap_or_else(|error| panic!("{how}: the file is torn: {error}: {text}"))
    }

    /// Checks what must be true whenever a process has died.
    fn check(&self, said: &[u8], how: &str) {
        assert!(!said.contains(&FAILED), "{how}: {}", self.record(how));
        assert!(self.record(how)["password"].is_string(), "{how}");
        let row = self.server.longest_row();
        assert!(row <= 2, "{how}: {row} failed logins in a row");
        let count = |what: u8| said.iter().filter(|said| **said == what).count();
        for (counter, what) in [
            (&self.logged_in, LOGGED_IN),
            (&self.changed, CHANGED),
            (&self.later, LATER),
        ] {
            counter.fetch_add(count(what), Ordering::Relaxed);
        }
    }

    /// Moves the times in the record into the past. No process may be running.
    fn time_passes(&self, time: Duration) {
        fn move_back(value: &mut serde_json::Value, by: u64) {
            match value {
                serde_json::Value::Object(fields) => {
                    for (name, value) in fields {
                        match (name.as_str(), value.as_u64()) {
                            ("at" | "sent_at" | "until", Some(time)) => *value = (time - by).into(),
                            _ => move_back(value, by),
                        }
                    }
                }
                serde_json::Value::Array(values) => {
                    values.iter_mut().for_each(|value| move_back(value, by));
                }
                _ => {}
            }
        }
        let mut record = self.record("time passes");
        move_back(&mut record, time.as_millis().try_into().unwrap());
        fs::write(self.store(), record.to_string()).unwrap();
    }

    /// All late changes are executed, an hour passes, and the next start logs in. Of two
    /// open passwords a dead process may have sent the right one, so the wrong one may be
    /// sent first, and then there is a delay.
    fn comes_back(&self, how: &str) {
        self.server.release_all();
        let mut said = Vec::new();
        for _ in 0..3 {
            self.time_passes(Duration::from_secs(3600));
            said = self.process(0, None).until(usize::MAX);
            self.check(&said, how);
            if !said.contains(&LATER) {
                break;
            }
        }
        assert!(
            said.contains(&LOGGED_IN) && said.contains(&DONE),
            "{how}: {:?}, {}",
            String::from_utf8_lossy(&said),
            self.record(how)
        );
        let left: Vec<_> = fs::read_dir(&self.directory)
            .unwrap()
            .map(|file| file.unwrap().file_name())
            .collect();
        // The file and its two locks.
        assert!(left.len() <= 3, "{how}: {left:?}");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// One process at a time, and a server that executes a change up to three logins
/// late.
#[test]
fn a_process_killed_a_thousand_times_always_comes_back() {
    let mut chance = chance();
    let world = World::new("killed", 3, 3);
    for round in 0..kills() {
        let steps = 1 + chance.usize(..60);
        let how = format!("round {round}, killed after {steps} steps");
        let said = world.process(2, None).until(steps);
        world.check(&said, &how);
        // Otherwise the next process waits for the claim of this one.
        if chance.bool() || said.contains(&LATER) {
            world.server.time_passes();
            world.time_passes(RETENTION * 2 / 3);
        }
        if round % 50 == 49 {
            world.comes_back(&how);
        }
    }
    world.comes_back("at last");
    // Otherwise nothing was tried.
    let counted = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    let (logged_in, changed) = (counted(&world.logged_in), counted(&world.changed));
    let rounds = kills();
    assert!(
        logged_in > rounds / 3 && changed > rounds / 10,
        "{logged_in} logins, {changed} changes, {} delays",
        counted(&world.later)
    );
}

#[test]
fn processes_on_one_file_killed_a_thousand_times_lose_no_password() {
    const PROCESSES: usize = 3;
    const KILLS_EACH: usize = 7;
    let chance = Mutex::new(chance());
    let world = World::new("several", 3, 3);
    let epochs = kills() / (PROCESSES * KILLS_EACH) + 1;
    for epoch in 0..epochs {
        let how = format!("epoch {epoch}");
        std::thread::scope(|threads| {
            for _ in 0..PROCESSES {
                threads.spawn(|| {
                    for _ in 0..KILLS_EACH {
                        let steps = 1 + chance.lock().unwrap().usize(..60);
                        let said = world.process(1, None).until(steps);
                        world.check(&said, &how);
                    }
                });
            }
        });
        world.comes_back(&how);
    }
    let counted = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    let (logged_in, changed) = (counted(&world.logged_in), counted(&world.changed));
    assert!(
        logged_in > 5 * epochs && changed > epochs / 2,
        "{epochs} epochs: {logged_in} logins, {changed} changes, {} delays",
        counted(&world.later)
    );
}

#[test]
fn a_process_that_dies_at_any_step_and_again_at_any_step_comes_back() {
    let world = World::new("dies", 2, 0);
    let whole = world.process(1, None).until(usize::MAX);
    assert_eq!(whole.last(), Some(&DONE));
    let steps = whole.iter().filter(|what| **what == STEP).count();
    assert!(steps > 15, "{steps} steps");
    for first in 1..=steps {
        for second in (1..=steps).step_by(3) {
            world.begin_anew();
            let how = format!("dies at {first}, and then at {second}");
            for at in [first, second] {
                let said = world.process(1, Some(at)).until(usize::MAX);
                world.check(&said, &how);
                world.time_passes(RETENTION / 2);
            }
            world.comes_back(&how);
        }
    }
}
