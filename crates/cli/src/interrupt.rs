//! Ctrl-C and SIGTERM: while items are on their way the first asks a command to wind down, the second ends it at
//! once; before that there is nothing to wind down, and nodes started here end with this process.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::failure::INTERRUPTED;

/// What the signals have asked for, and how the next is taken.
#[derive(Clone, Debug)]
pub(crate) struct Interrupt {
    asked: Arc<AtomicBool>,
    at_once: Arc<AtomicBool>,
}

impl Interrupt {
    /// Listens for the signals, once in a process; until [`Interrupt::hold`], they end it at once.
    pub(crate) fn listen() -> io::Result<Interrupt> {
        let (asked, at_once) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(true)));
        for signal in [SIGINT, SIGTERM] {
            flag::register_conditional_shutdown(signal, INTERRUPTED.into(), Arc::clone(&at_once))?;
            // In this order: the shutdown sees what the signals before this one have set.
            flag::register_conditional_shutdown(signal, INTERRUPTED.into(), Arc::clone(&asked))?;
            flag::register(signal, Arc::clone(&asked))?;
        }
        Ok(Interrupt { asked, at_once })
    }

    /// From here on the first signal only sets what [`Interrupt::asked`] tells.
    pub(crate) fn hold(&self) {
        self.at_once.store(false, Ordering::SeqCst);
    }

    /// Whether the command should end.
    pub(crate) fn asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }
}
