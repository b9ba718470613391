//! Messages of the control plane, and the greeting of every data connection.
//!
//! Requests go from a dispatcher to a node as queries and each has one reply. They are small: weights and
//! tensors never travel here. Encoding: one version byte, then postcard.

mod figures;
mod paths;
mod trace;

use std::net::SocketAddr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tensor::{DType, Dim, TensorSpec};

use crate::{Codec, CodecList};

pub use figures::{CodecTime, LinkFigures, Machine, StageFigures, StageTime, is_stopped, sustained_seconds};
pub use paths::{Crossing, MAX_REPLICAS};
pub use trace::{LATEST_NANOS, MAX_SPANS, Span, Spans, Step};

/// First byte of every message. Nodes and dispatchers of another version refuse each other with a message.
pub const VERSION: u8 = 4;

/// The largest greeting of a data connection, bytes.
pub const MAX_HELLO_LEN: usize = 4096;

/// Identity of a deployment, made by the dispatcher: no other has the same.
pub type DeploymentId = u128;

/// BLAKE3 hash of a weight's bytes.
pub type WeightHash = [u8; 32];

/// What a dispatcher asks of a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Who are you, what do you have, what do you run?
    Describe,
    /// Take on a stage: check that it fits, look up its weights.
    Prepare(Box<StageOrder>),
    /// All weights are there: build the session.
    Load(DeploymentId),
    /// Open the connection to the next stage.
    Connect(DeploymentId),
    /// How far are you, what did it cost?
    Measure(DeploymentId),
    /// Give the stage up and forget the deployment.
    Release(DeploymentId),
    /// Run the loaded stage on arbitrary values, before it is connected: what does it cost?
    Time(Box<TimeOrder>),
    /// Connect to another node and see what the link between you is like.
    Probe(ProbeOrder),
    /// Encode what leaves the stage in another way, from the next item on.
    Recode(RecodeOrder),
    /// How long do these codecs take there?
    TimeCodecs(Vec<[u8; Codec::CODE_LEN]>),
    /// Keep from now on when each step of an item begins and ends.
    Trace(DeploymentId),
    /// What was kept? It is then forgotten.
    Spans(DeploymentId),
    /// What does the clock show by which steps are timed?
    Clock,
}

/// Which stage to time, and on what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimeOrder {
    /// The deployment whose stage is loaded.
    pub deployment: DeploymentId,
    /// Sizes of each of the stage's inputs, in the order of [`StageOrder::inputs`].
    pub shapes: Vec<Vec<u64>>,
}

/// How results of a stage travel from now on. Frames name their codec, so the receiver need not be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecodeOrder {
    /// The deployment whose stage it is.
    pub deployment: DeploymentId,
    /// Raw, or one of [`StageOrder::codecs_out`].
    pub codec: [u8; Codec::CODE_LEN],
}

/// Which link to probe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeOrder {
    /// Where the other node accepts connections.
    pub to: Vec<SocketAddr>,
}

/// What a node answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Response {
    /// To [`Request::Describe`].
    Description(NodeDescription),
    /// To [`Request::Prepare`]: the weights that the node does not hold.
    Prepared {
        /// Hashes to ship.
        missing: Vec<WeightHash>,
    },
    /// To [`Request::Load`].
    Loaded {
        /// Engine and version that run the stage.
        engine: String,
    },
    /// To [`Request::Connect`].
    Connected,
    /// To [`Request::Measure`].
    Measured(StageFigures),
    /// To [`Request::Release`].
    Released,
    /// The request cannot be met; why, and what to do.
    Refused(String),
    /// To [`Request::Time`].
    Timed(StageTime),
    /// To [`Request::Probe`].
    Probed(LinkFigures),
    /// To [`Request::Recode`].
    Recoded,
    /// To [`Request::TimeCodecs`]: one for each, in the same order.
    CodecsTimed(Vec<CodecTime>),
    /// To [`Request::Trace`].
    Tracing,
    /// To [`Request::Spans`].
    Spans(Spans),
    /// To [`Request::Clock`]: nanoseconds since some moment before the node's first answer.
    Clock(u64),
}

/// A node as it presents itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeDescription {
    /// The name people gave it.
    pub name: String,
    /// The program's version.
    pub version: String,
    /// Processor cores of the machine.
    pub cores: u32,
    /// Threads an operator may use.
    pub threads: u32,
    /// The limit it keeps, bytes.
    pub memory_limit: u64,
    /// Promised to deployments, bytes.
    pub memory_used: u64,
    /// The engine it runs stages with.
    pub engine: String,
    /// Where it accepts data connections.
    pub data_addresses: Vec<SocketAddr>,
    /// The machine it runs on.
    pub machine: Machine,
    /// What it runs.
    pub stages: Vec<RunningStage>,
}

impl NodeDescription {
    /// All that its speed depends on as far as it says: two nodes of which any part differs have no figures in
    /// common.
    pub fn fingerprint(&self) -> String {
        let Machine { processor, memory, system, .. } = &self.machine;
        let (cores, threads, engine) = (self.cores, self.threads, &self.engine);
        format!("{processor}; {cores} cores, {threads} threads; {memory} bytes; {system}; {engine}")
    }
}

/// One line of what a node runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunningStage {
    /// The model's name.
    pub model: String,
    /// Position in the chain, from 0.
    pub stage: u32,
    /// Stages in the chain.
    pub stages: u32,
    /// Items done so far.
    pub items: u64,
}

/// One stage for one node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageOrder {
    /// The deployment.
    pub deployment: DeploymentId,
    /// Who ordered it: when this dispatcher leaves, the stage is given up.
    pub dispatcher: String,
    /// Generation of the plan.
    pub epoch: u32,
    /// The model's name, for people.
    pub model: String,
    /// Position in the chain, from 0.
    pub stage: u32,
    /// Stages in the chain.
    pub stages: u32,
    /// Which replica of the stage this is, and which items come by it.
    pub crossing: Crossing,
    /// The stage as ONNX, its weights as external data named by hash.
    #[serde(with = "serde_bytes_vec")]
    pub skeleton: Vec<u8>,
    /// The weights it needs.
    pub weights: Vec<WeightEntry>,
    /// Tensors of an arriving frame.
    pub inputs: Vec<Spec>,
    /// Tensors of a leaving frame.
    pub outputs: Vec<Spec>,
    /// Engine input *i* is `inputs[feeds[i]]`.
    pub feeds: Vec<u32>,
    /// Where each output comes from.
    pub routes: Vec<Route>,
    /// Codecs in which tensors may arrive, besides raw.
    pub codecs_in: Vec<[u8; Codec::CODE_LEN]>,
    /// Codec with which the leaving link begins: raw, or one of `codecs_out`.
    pub codec_out: [u8; Codec::CODE_LEN],
    /// Codecs to which the leaving link may be switched, besides raw.
    pub codecs_out: Vec<[u8; Codec::CODE_LEN]>,
    /// Where each replica of the next stage accepts connections; empty when the dispatcher fetches the results.
    pub next: Vec<Vec<SocketAddr>>,
    /// The largest tensor that may arrive, bytes: bounds sizes that the model leaves open.
    pub max_tensor_len: u64,
    /// Memory the plan expects the stage to take, bytes: weights, activations, queues.
    pub memory: u64,
}

/// How tensors may travel on the two links of a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageCodecs {
    /// In what may arrive.
    pub arriving: CodecList,
    /// In what results leave at first.
    pub begin: Codec,
    /// In what they may leave later.
    pub leaving: CodecList,
}

/// One weight of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct WeightEntry {
    /// Hash of its bytes.
    pub hash: WeightHash,
    /// Their number.
    pub len: u64,
}

/// Where an output of a stage comes from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Route {
    /// The engine's output at this position.
    Computed(u32),
    /// The input at this position, passed on unused.
    Passed(u32),
}

/// A [`TensorSpec`] on the wire.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    name: String,
    dtype: u8,
    dims: Option<Vec<SpecDim>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum SpecDim {
    Fixed(u64),
    Symbol(String),
    Unknown,
}

/// The greeting on a new data connection, sent by whoever opened it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// The deployment it belongs to.
    pub deployment: DeploymentId,
    /// Generation of the plan.
    pub epoch: u32,
    /// The stage that is meant: an address may lead to another node than it was announced by.
    pub stage: u32,
    /// The replica of it that is meant, from 0.
    pub replica: u32,
    /// Which replica of the stage before connects, from 0; 0 for the dispatcher.
    pub from: u32,
    /// What the connection is for.
    pub purpose: Purpose,
}

/// What a data connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// Frames for the node's stage will follow.
    Inputs,
    /// The node's stage shall send its results here.
    Results,
    /// Weights will follow.
    Weights,
    /// Of no deployment: a probe of the link to the node will follow.
    ProbeTo,
    /// Of no deployment: the node shall probe the link from it.
    ProbeFrom,
}

/// The answer to a [`Hello`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Welcome {
    /// Go on.
    Accepted,
    /// Not this connection; why.
    Refused(String),
}

/// A message that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// Another version of the protocol.
    #[error(
        "the peer speaks version {found} of the control protocol, this program version {VERSION}: \
         install the same release of defer on both"
    )]
    Version {
        /// The peer's version.
        found: u8,
    },
    /// Not a message.
    #[error("a control message is malformed: {0}")]
    Malformed(String),
}

/// Encodes a message.
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    postcard::to_extend(message, vec![VERSION]).expect("our own messages always encode into memory")
}

/// Decodes a message; all bytes must be used.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ControlError> {
    let malformed = |e: &dyn std::fmt::Display| ControlError::Malformed(e.to_string());
    match bytes.split_first() {
        Some((&VERSION, body)) => match postcard::take_from_bytes(body) {
            Ok((message, [])) => Ok(message),
            Ok((_, rest)) => Err(malformed(&format_args!("{} bytes too many", rest.len()))),
            Err(e) => Err(malformed(&e)),
        },
        Some((&found, _)) => Err(ControlError::Version { found }),
        None => Err(malformed(&"it is empty")),
    }
}

impl StageOrder {
    /// How tensors may travel on the arriving and on the leaving link.
    ///
    /// # Errors
    /// When a list is too long, or has a codec that this program does not know; when the leaving link would begin
    /// with a codec that is not on its list.
    pub fn codecs(&self) -> Result<StageCodecs, String> {
        let list = |codes: &[_]| CodecList::from_codes(codes).map_err(|e| e.to_string());
        let (arriving, leaving) = (list(&self.codecs_in)?, list(&self.codecs_out)?);
        match Codec::from_code(self.codec_out).filter(|&codec| leaving.contains(codec)) {
            Some(begin) => Ok(StageCodecs { arriving, begin, leaving }),
            None => Err("the leaving link would begin with a codec that is not on its list".to_owned()),
        }
    }

    /// Whether positions refer to what exists and limits are kept: what a node checks before it believes
    /// an order.
    pub fn check(&self) -> Result<(), String> {
        use crate::frame::MAX_TENSORS;
        let within = |position: &u32, len: usize| (*position as usize) < len;
        if self.inputs.len() > MAX_TENSORS || self.outputs.len() > MAX_TENSORS {
            return Err(format!("a cut with more than {MAX_TENSORS} tensors"));
        }
        self.codecs()?;
        self.crossing.check(self.next.len())?;
        if self.stage >= self.stages || self.routes.len() != self.outputs.len() {
            return Err("a stage order that contradicts itself".to_owned());
        }
        let feeds = self.feeds.iter().all(|i| within(i, self.inputs.len()));
        let passed = |route: &Route| match route {
            Route::Passed(i) => within(i, self.inputs.len()),
            Route::Computed(_) => true,
        };
        // The engine's outputs are numbered without gaps.
        let mut computed: Vec<u32> = self.routes.iter().filter_map(Route::computed).collect();
        computed.sort_unstable();
        computed.dedup();
        let without_gaps = computed.iter().enumerate().all(|(n, &i)| n == i as usize);
        let routes = without_gaps && self.routes.iter().all(passed);
        if !feeds || !routes {
            return Err("a stage order that refers to a tensor that is not there".to_owned());
        }
        Ok(())
    }
}

impl Hello {
    /// Of no deployment.
    pub fn for_probe(purpose: Purpose) -> Hello {
        Hello { deployment: 0, epoch: 0, stage: 0, replica: 0, from: 0, purpose }
    }
}

impl Route {
    fn computed(&self) -> Option<u32> {
        match self {
            Route::Computed(i) => Some(*i),
            Route::Passed(_) => None,
        }
    }
}

impl From<&TensorSpec> for Spec {
    fn from(spec: &TensorSpec) -> Spec {
        let dims = spec.dims.as_ref().map(|dims| {
            let dim = |dim: &Dim| match dim {
                Dim::Fixed(n) => SpecDim::Fixed(*n as u64),
                Dim::Symbol(name) => SpecDim::Symbol(name.clone()),
                Dim::Unknown => SpecDim::Unknown,
            };
            dims.iter().map(dim).collect()
        });
        Spec { name: spec.name.clone(), dtype: spec.dtype.code(), dims }
    }
}

impl TryFrom<&Spec> for TensorSpec {
    type Error = ControlError;

    fn try_from(spec: &Spec) -> Result<TensorSpec, ControlError> {
        let malformed = |what: &str| ControlError::Malformed(format!("tensor `{}`: {what}", spec.name));
        let dtype = DType::from_code(spec.dtype.into()).ok_or_else(|| malformed("unknown element type"))?;
        let dim = |dim: &SpecDim| {
            Ok(match dim {
                SpecDim::Fixed(n) => Dim::Fixed(usize::try_from(*n).map_err(|_| malformed("too large"))?),
                SpecDim::Symbol(name) => Dim::Symbol(name.clone()),
                SpecDim::Unknown => Dim::Unknown,
            })
        };
        let dims = spec.dims.as_ref().map(|dims| dims.iter().map(dim).collect()).transpose()?;
        Ok(TensorSpec { name: spec.name.clone(), dtype, dims })
    }
}

/// Bytes as one run, not as a sequence of numbers.
mod serde_bytes_vec {
    use serde::de::{Error, Visitor};
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Vec<u8>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
        }
        d.deserialize_bytes(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tensor::Shape;

    fn order() -> StageOrder {
        StageOrder {
            deployment: 7,
            dispatcher: "d".into(),
            epoch: 1,
            model: "m".into(),
            stage: 0,
            stages: 2,
            crossing: Crossing::ONLY,
            skeleton: vec![1, 2, 3],
            weights: vec![WeightEntry { hash: [9; 32], len: 4096 }],
            inputs: vec![Spec::from(&TensorSpec::fixed("x", DType::F32, Shape::from([1, 2])))],
            outputs: vec![Spec::from(&TensorSpec { name: "y".into(), dtype: DType::I64, dims: None })],
            feeds: vec![0],
            routes: vec![Route::Computed(0)],
            codecs_in: vec![Codec::LZ4.code()],
            codec_out: Codec::LZ4.code(),
            codecs_out: vec![Codec::LZ4.code()],
            next: vec![vec!["127.0.0.1:1".parse().unwrap()]],
            max_tensor_len: 1 << 20,
            memory: 5,
        }
    }

    #[test]
    fn round_trip_and_truncation() {
        let request = Request::Prepare(Box::new(order()));
        let bytes = encode(&request);
        assert_eq!(decode::<Request>(&bytes), Ok(request));
        for cut in 0..bytes.len() {
            assert!(decode::<Request>(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(decode::<Request>(&longer).is_err());
    }

    #[test]
    fn another_version_is_named() {
        let mut bytes = encode(&Request::Describe);
        bytes[0] = VERSION + 1;
        assert_eq!(decode::<Request>(&bytes), Err(ControlError::Version { found: VERSION + 1 }));
    }

    #[test]
    fn specs_round_trip() {
        let spec = TensorSpec {
            name: "x".into(),
            dtype: DType::F16,
            dims: Some(vec![Dim::Symbol("n".into()), Dim::Unknown, Dim::Fixed(3)]),
        };
        assert_eq!(TensorSpec::try_from(&Spec::from(&spec)), Ok(spec));
    }

    #[test]
    fn contradictory_orders_are_refused() {
        type Break = fn(&mut StageOrder);
        let breaks: [Break; 10] = [
            |o| o.feeds = vec![1],
            |o| o.routes = vec![Route::Computed(1)],
            |o| o.routes = vec![Route::Passed(1)],
            |o| o.routes = vec![],
            |o| o.codec_out = [99, 0, 0, 0],
            |o| o.codecs_in = vec![[99, 0, 0, 0]],
            |o| o.codecs_out = vec![],
            |o| o.codecs_in = vec![Codec::LZ4.code(); 17],
            |o| o.stage = 2,
            |o| o.crossing.replica = 1,
        ];
        assert_eq!(order().check(), Ok(()));
        for (i, spoil) in breaks.into_iter().enumerate() {
            let mut order = order();
            spoil(&mut order);
            assert!(order.check().is_err(), "case {i}");
        }
    }
}
