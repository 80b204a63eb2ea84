//! BMC Control-M's Automation API: its session service, typed, and a provider on top of it.

pub mod model;

#[cfg(feature = "emulator")]
#[cfg_attr(docsrs, doc(cfg(feature = "emulator")))]
pub mod emulator;
