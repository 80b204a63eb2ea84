//! The knowledge that the sessions of this process share about an account.
//!
//! [`SharedAccount`] belongs to a source. A job opens it as [`OpenAccount`], which
//! fulfils the contract of [`Account`](super::account::Account): it loads the record,
//! decides, stores the new record if the stored one is still the same, and only then
//! lets the job send.
//!
//! | file | contents |
//! |---|---|
//! | `shared` | what is kept beside the record, and how a job waits for another |
//! | `open` | loads and stores the record |
//! | `login` | claims a login and stores its verdict |
//! | `change` | claims a password change and stores its answer |

mod change;
mod login;
mod open;
mod shared;

pub(crate) use change::ChangeStep;
pub(crate) use login::LoginStep;
pub(super) use open::InMemory;
pub(crate) use open::{CurrentCredentials, OpenAccount};
pub(super) use shared::SharedAccount;
