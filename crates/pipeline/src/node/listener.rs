//! Accepts data connections and reads who they are.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::driver::Incoming;
use crate::transport::{GREETING_TIMEOUT, welcome};

/// Connections that may be saying hello at once; more are closed unheard.
const MAX_GREETINGS: usize = 64;

/// How long to wait after a connection could not be accepted.
const FAILED_ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// A thread that accepts until this is dropped.
pub(super) struct Listener {
    address: SocketAddr,
    /// Dropped to stop.
    running: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    pub(super) fn start(listener: TcpListener, events: Sender<Incoming>) -> io::Result<Listener> {
        let address = listener.local_addr()?;
        let (running, stopped) = bounded(1); // nothing is ever sent: it closes
        let run = move || accept(&listener, &events, &stopped);
        let thread = std::thread::Builder::new().name("listener".to_owned()).spawn(run)?;
        Ok(Listener { address, running: Some(running), thread: Some(thread) })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        drop(self.running.take());
        // Wakes the thread out of accept.
        let mut address = self.address;
        if address.ip().is_unspecified() {
            address.set_ip([127, 0, 0, 1].into());
        }
        let woken = TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok();
        if let Some(thread) = self.thread.take()
            && woken
            && thread.join().is_err()
        {
            tracing::error!("the listener panicked");
        }
    }
}

fn accept(listener: &TcpListener, events: &Sender<Incoming>, stopped: &Receiver<()>) {
    let greetings = Arc::new(AtomicUsize::new(0));
    for connection in listener.incoming() {
        let pause = match &connection {
            Ok(_) => Duration::ZERO,
            // Out of descriptors, most likely: trying again at once would only fail again.
            Err(_) => FAILED_ACCEPT_PAUSE,
        };
        if stopped.recv_timeout(pause) == Err(RecvTimeoutError::Disconnected) {
            return;
        }
        match connection {
            Ok(stream) => receive_greeting(stream, events, &greetings),
            Err(e) => tracing::warn!("a data connection could not be accepted: {e}"),
        }
    }
}

fn receive_greeting(mut stream: TcpStream, events: &Sender<Incoming>, greetings: &Arc<AtomicUsize>) {
    if greetings.fetch_add(1, SeqCst) >= MAX_GREETINGS {
        greetings.fetch_sub(1, SeqCst);
        tracing::warn!("more than {MAX_GREETINGS} connections wait to say hello; one was closed");
        return;
    }
    let (events, count) = (events.clone(), greetings.clone());
    let run = move || {
        match welcome(&mut stream) {
            // The receiver is gone when the node stops.
            Ok(hello) => drop(events.send(Incoming::Greeted(stream, hello))),
            Err(e) => {
                let seconds = GREETING_TIMEOUT.as_secs();
                let peer =
                    stream.peer_addr().map_or("an unknown address".to_owned(), |peer| peer.to_string());
                tracing::warn!("a connection from {peer} did not say who it is within {seconds} s: {e}");
            }
        }
        count.fetch_sub(1, SeqCst);
    };
    if let Err(e) = std::thread::Builder::new().name("greeting".to_owned()).spawn(run) {
        greetings.fetch_sub(1, SeqCst);
        tracing::warn!("a data connection was closed: cannot start a thread: {e}");
    }
}
