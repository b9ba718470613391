//! Messages over TCP from one end of an emulated network to another, and when they were on the line. Called by
//! [`super::execute`].

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use plan::End;

use crate::network::{Network, address};

/// How long messages are sent for each figure at the rate that was asked for, and how many at least.
const TIME: Duration = Duration::from_secs(1);
const FEWEST: usize = 3;

/// How long a line is idle before a message that comes after a pause.
const PAUSE: Duration = Duration::from_millis(20);

/// Messages from one end to another.
#[derive(Clone, Copy)]
pub(super) struct Flow {
    pub(super) from: End,
    pub(super) to: End,
    pub(super) mbit_s: f64,
    pub(super) message_len: usize,
    /// Whether each message comes after a pause, instead of right after the one before.
    pub(super) pauses: bool,
}

/// The time of a message on the line.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub(super) began: Instant,
    pub(super) arrived: Instant,
}

/// When the messages of flows that go on at the same time were on the line.
pub(super) fn measure(network: &Network, flows: &[Flow]) -> Result<Vec<Vec<Span>>> {
    let ends = flows.iter().map(|flow| flow.connect(network)).collect::<Result<Vec<_>>>()?;
    let start = &Barrier::new(flows.len());
    std::thread::scope(|scope| {
        let run = |(flow, (sender, receiver)): (&Flow, (TcpStream, TcpStream))| {
            let flow = *flow;
            scope.spawn(move || {
                start.wait();
                flow.run(sender, receiver)
            })
        };
        let running: Vec<_> = flows.iter().zip(ends).map(run).collect();
        let spans = running.into_iter().map(|flow| flow.join().expect("a flow does not panic"));
        spans.collect::<io::Result<_>>().context("a connection over an emulated link broke")
    })
}

impl Span {
    pub(super) fn seconds(&self) -> f64 {
        (self.arrived - self.began).as_secs_f64()
    }

    /// How much of it lies between two moments, seconds.
    pub(super) fn within(&self, start: Instant, end: Instant) -> f64 {
        self.arrived.min(end).saturating_duration_since(self.began.max(start)).as_secs_f64()
    }
}

impl Flow {
    fn connect(&self, network: &Network) -> Result<(TcpStream, TcpStream)> {
        let connect = || -> Result<io::Result<_>> {
            let listener = network.enter(self.to, || TcpListener::bind((address(self.to), 0)))?;
            let listener = listener.context("cannot listen in an emulated network")?;
            let to = listener.local_addr().context("cannot listen in an emulated network")?;
            let sender = network.enter(self.from, || TcpStream::connect(to))?;
            Ok(sender.and_then(|sender| Ok((sender, listener.accept()?.0))))
        };
        let (sender, receiver) = connect()?.context("cannot connect over an emulated link")?;
        sender.set_nodelay(true).context("cannot set up a connection")?;
        Ok((sender, receiver))
    }

    /// Of a message.
    pub(super) fn bits(&self) -> f64 {
        self.message_len as f64 * 8.0
    }

    fn messages(&self) -> usize {
        let each = self.bits() * 1e-6 / self.mbit_s;
        FEWEST.max((TIME.as_secs_f64() / each) as usize)
    }

    /// Sends and receives.
    fn run(&self, sender: TcpStream, receiver: TcpStream) -> io::Result<Vec<Span>> {
        let (starts, arrivals) = std::thread::scope(|scope| {
            let receiving = scope.spawn(|| self.receive(receiver));
            let starts = self.send(sender);
            (starts, receiving.join().expect("a receiver does not panic"))
        });
        let (starts, arrivals) = (starts?, arrivals?);
        let began = if self.pauses { &starts[1..] } else { &arrivals[..] };
        // The first message finds a connection that does not know yet what the line can carry.
        let spans = arrivals[1..].iter().zip(began);
        Ok(spans.map(|(&arrived, &began)| Span { began, arrived }).collect())
    }

    /// Gives the times at which messages began.
    fn send(&self, mut sender: TcpStream) -> io::Result<Vec<Instant>> {
        let message = vec![1; self.message_len];
        let mut starts = Vec::new();
        for _ in 0..self.messages() {
            if self.pauses {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "a line that is idle for a while is what is measured"
                )]
                std::thread::sleep(PAUSE);
            }
            starts.push(Instant::now());
            sender.write_all(&message)?;
            if self.pauses {
                sender.read_exact(&mut [0])?;
            }
        }
        Ok(starts)
    }

    /// Gives the times at which messages had arrived.
    fn receive(&self, mut receiver: TcpStream) -> io::Result<Vec<Instant>> {
        let mut message = vec![0; self.message_len];
        let mut arrivals = Vec::new();
        for _ in 0..self.messages() {
            receiver.read_exact(&mut message)?;
            arrivals.push(Instant::now());
            if self.pauses {
                receiver.write_all(&[1])?;
            }
        }
        Ok(arrivals)
    }
}
